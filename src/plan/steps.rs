//! From a recipe's steps and checks to whole scripts.
//!
//! The fixed part of a step kind's script is a file below `assets/step/`; what is put in front of it here are variables,
//! each value quoted, so that a script reads as one and nothing of a recipe is ever taken for shell.

use std::collections::BTreeSet;
use std::time::Duration;

use super::content::{self, Source};
use super::preamble::{Script, Surroundings};
use super::quote::sh;
use super::template::Templates;
use super::{Check, Facts, Step, VolumePlan};
use crate::error::{Context as _, Error, Result};
use crate::recipe::{CheckSpec, Members, ProviderKind, StepSpec, When, parse_duration};
use crate::release::Sha256;

const PACKAGES: &str = include_str!("../../assets/step/packages.sh");
const BUILDKIT: &str = include_str!("../../assets/step/buildkit.sh");
const FILE: &str = include_str!("../../assets/step/file.sh");
const UNIT: &str = include_str!("../../assets/step/unit.sh");
const SEAL: &str = include_str!("../../assets/seal.sh");

// How long things may take where the recipe does not say: an emulated processor is twenty times slower than a real one.
const PACKAGES_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const BUILDKIT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const FILE_TIMEOUT: Duration = Duration::from_secs(2 * 60);
const UNIT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// A start may take as long as its unit lets it; systemd's own limit ends it first.
const UNIT_START_TIMEOUT: Duration = Duration::from_secs(20 * 60);
const RUN_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const SEAL_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// A derived name longer than this is cut: names stand in one line of a terminal.
const LONGEST_NAME: usize = 60;

/// What steps are made from.
pub(super) struct Maker<'a> {
    pub(super) surroundings: Surroundings<'a>,
    pub(super) facts: &'a Facts,
    pub(super) templates: &'a Templates,
    /// Digest of the artifact.
    pub(super) sha256: Sha256,
}

impl Maker<'_> {
    /// Every step, in order.
    ///
    /// # Errors
    /// Exit 2: content that cannot be had, a timeout that is none, a unit template that cannot be enabled.
    pub(super) fn steps(&self, specs: &[StepSpec]) -> Result<Vec<Step>> {
        let given = specs.iter().filter_map(given_name).map(str::to_owned).collect();
        let mut names = Names(given);
        specs
            .iter()
            .map(|spec| {
                let name = match given_name(spec) {
                    Some(name) => name.to_owned(),
                    None => names.unique(derived_name(spec)),
                };
                self.step(spec, name)
            })
            .collect()
    }

    fn step(&self, spec: &StepSpec, name: String) -> Result<Step> {
        let (kind, body, timeout) = match spec {
            StepSpec::Packages { apt, dnf, timeout, .. } => {
                ("packages", packages(apt, dnf), duration(&name, timeout.as_deref(), PACKAGES_TIMEOUT)?)
            }
            StepSpec::Buildkit { members, prefix, timeout, .. } => {
                ("buildkit", self.buildkit(members, prefix), duration(&name, timeout.as_deref(), BUILDKIT_TIMEOUT)?)
            }
            StepSpec::File { path, content, asset, template, owner, mode, .. } => {
                let bytes = self.content(&name, content.as_deref(), asset.as_deref(), *template)?;
                ("file", file(path, owner, mode, &bytes), FILE_TIMEOUT)
            }
            StepSpec::Unit { unit, content, asset, template, enable, start, .. } => {
                let bytes = self.content(&name, content.as_deref(), asset.as_deref(), *template)?;
                check_unit(&name, unit, &bytes, *enable, *start)?;
                (
                    "unit",
                    unit_body(unit, &bytes, *enable, *start),
                    if *start { UNIT_START_TIMEOUT } else { UNIT_TIMEOUT },
                )
            }
            StepSpec::Run { script, timeout, .. } => {
                ("run", script.clone(), duration(&name, timeout.as_deref(), RUN_TIMEOUT)?)
            }
        };
        let Script { text: script, preamble_lines } = self.surroundings.step(&body);
        Ok(Step { name, kind, script, preamble_lines, timeout })
    }

    fn content(&self, step: &str, content: Option<&str>, asset: Option<&str>, template: bool) -> Result<Vec<u8>> {
        Source { step, content, asset, template }.resolve(self.facts, self.templates)
    }

    fn buildkit(&self, members: &Members, prefix: &str) -> String {
        let members: &[String] = match members {
            Members::All(_) => &[],
            Members::Named(names) => names,
        };
        format!(
            "# No members: all of them.\nmembers={}\nprefix={}\nversion={}\nsha256={}\n{BUILDKIT}",
            array(members),
            sh(prefix),
            self.surroundings.version,
            self.sha256
        )
    }

    /// The step that comes last. `volumes` are left alone.
    pub(super) fn seal(&self, volumes: &[VolumePlan]) -> Step {
        let mounts: Vec<String> = volumes.iter().map(|volume| volume.mount.clone()).collect();
        let body = format!("data_mounts={}\n{SEAL}", array(&mounts));
        let Script { text: script, preamble_lines } = self.surroundings.step(&body);
        Step { name: "seal".to_owned(), kind: "seal", script, preamble_lines, timeout: SEAL_TIMEOUT }
    }

    /// Every check, in order, as it applies on `provider`.
    ///
    /// # Errors
    /// Exit 2: a timeout that is none.
    pub(super) fn checks(&self, specs: &[CheckSpec], provider: ProviderKind) -> Result<Vec<Check>> {
        let mut names = Names(BTreeSet::new());
        specs
            .iter()
            .map(|spec| {
                let name = names.unique(spec.name.clone());
                let timeout = duration(&name, spec.timeout.as_deref(), CHECK_TIMEOUT)?;
                let Script { text: script, preamble_lines } = self.surroundings.check(&spec.script);
                Ok(Check {
                    name,
                    script,
                    preamble_lines,
                    timeout,
                    // A peer is only there once both images boot.
                    at_bake: spec.peer.is_none() && spec.when != When::Boot,
                    at_boot: spec.peer.is_some() || spec.when != When::Bake,
                    peer: spec.peer.clone(),
                    skipped: skipped(spec, provider),
                })
            })
            .collect()
    }
}

fn skipped(spec: &CheckSpec, provider: ProviderKind) -> Option<String> {
    let providers = spec.providers.as_ref().filter(|providers| !providers.contains(&provider))?;
    let names: Vec<String> = providers.iter().map(ToString::to_string).collect();
    Some(format!("only on {}", names.join(" and ")))
}

fn duration(name: &str, text: Option<&str>, otherwise: Duration) -> Result<Duration> {
    let Some(text) = text else { return Ok(otherwise) };
    parse_duration(text).or_usage(|| format!("`{name}` has a timeout that is none"))
}

fn array(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| sh(word)).collect();
    format!("({})", words.join(" "))
}

fn packages(apt: &[String], dnf: &[String]) -> String {
    format!("apt={}\ndnf={}\n{PACKAGES}", array(apt), array(dnf))
}

fn file(path: &str, owner: &str, mode: &str, bytes: &[u8]) -> String {
    format!("path={}\nowner={}\nmode={}\n{}{FILE}", sh(path), sh(owner), sh(mode), content::function(bytes))
}

fn unit_body(unit: &str, bytes: &[u8], enable: bool, start: bool) -> String {
    let yes = |wanted| if wanted { "yes" } else { "no" };
    format!(
        "unit={}\nenable={}\nstart={}\n{}{UNIT}",
        sh(unit),
        yes(enable),
        yes(start),
        file(&format!("/etc/systemd/system/{unit}"), "root:root", "0644", bytes)
    )
}

/// A unit template (`name@.service`) is nothing to start, and to enable only with an instance of its own choice.
fn check_unit(name: &str, unit: &str, bytes: &[u8], enable: bool, start: bool) -> Result<()> {
    let Some((stem, _)) = unit.split_once("@.") else { return Ok(()) };
    let instance =
        format!("{stem}@NAME{}", unit.rsplit_once('.').map_or(String::new(), |(_, kind)| format!(".{kind}")));
    if start {
        return Err(Error::usage(format!("step `{name}`: `{unit}` is a template: only an instance can be started"))
            .with_hint(format!("say `start = false`, and start `{instance}` in a step of kind \"run\"")));
    }
    let default = bytes.split(|byte| *byte == b'\n').any(|line| line.trim_ascii().starts_with(b"DefaultInstance="));
    if enable && !default {
        return Err(Error::usage(format!("step `{name}`: `{unit}` is a template: only an instance can be enabled"))
            .with_hint(format!("say `enable = false`, or give it a `DefaultInstance=` (else enable `{instance}` in a step of kind \"run\")")));
    }
    Ok(())
}

fn given_name(spec: &StepSpec) -> Option<&str> {
    match spec {
        StepSpec::Run { name, .. } => Some(name),
        StepSpec::Packages { name, .. }
        | StepSpec::Buildkit { name, .. }
        | StepSpec::File { name, .. }
        | StepSpec::Unit { name, .. } => name.as_deref(),
    }
}

fn derived_name(spec: &StepSpec) -> String {
    match spec {
        StepSpec::Packages { apt, dnf, .. } => listing("packages", if apt.is_empty() { dnf } else { apt }),
        StepSpec::Buildkit { members: Members::All(_), .. } => "buildkit: all of it".to_owned(),
        StepSpec::Buildkit { members: Members::Named(members), .. } => listing("buildkit", members),
        StepSpec::File { path, .. } => format!("file {path}"),
        StepSpec::Unit { unit, .. } => format!("unit {unit}"),
        StepSpec::Run { name, .. } => name.clone(),
    }
}

/// `packages: git, iptables`, with as many as fit.
fn listing(kind: &str, words: &[String]) -> String {
    let mut name = format!("{kind}:");
    for (index, word) in words.iter().enumerate() {
        if index > 0 && name.chars().count() + word.chars().count() + 2 > LONGEST_NAME {
            return format!("{name} and {} more", words.len() - index);
        }
        name.push_str(if index > 0 { ", " } else { " " });
        name.push_str(word);
    }
    name
}

/// Names that are taken.
struct Names(BTreeSet<String>);

impl Names {
    /// `name`, or `name (2)` and so on if it is taken.
    fn unique(&mut self, name: String) -> String {
        let mut unique = name.clone();
        let mut number = 2_u32;
        while !self.0.insert(unique.clone()) {
            unique = format!("{name} ({number})");
            number += 1;
        }
        unique
    }
}
