//! Plans: recipe + lock + facts → everything a bake will do, with nothing left to decide.
//!
//! PURE: time, randomness, environment, network and disk come in as [`Facts`]. What `amibake plan` prints is what
//! `amibake build` executes, to the byte.
//!
//! Scripts find the tarball at `$AMIBAKE_ARTIFACT` (its first `$AMIBAKE_ARTIFACT_SIZE` bytes). Checks see
//! `AMIBAKE_RECIPE`, `AMIBAKE_ARCH`, `AMIBAKE_BUILDKIT_VERSION`, `AMIBAKE_BUILDKIT_STAND_IN` (0 or 1) and, with a peer,
//! `AMIBAKE_PEER`.

mod fingerprint;
mod quote;
mod script;
mod template;
mod text;
mod types;

use std::collections::BTreeSet;
use std::time::Duration;

pub use script::failed_line;
pub use text::render_text;
pub use types::*;

use crate::error::{Error, Result};
use crate::recipe::{BuildNetwork, CheckSpec, Members, Recipe, StepSpec, VolumeSpec, When, parse_duration, parse_size};
use crate::release::{Lock, Version};
use fingerprint::Content;
use script::Script;
use template::Templates;

/// How long steps and checks may take where the recipe does not say.
const PACKAGES_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const RUN_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const STEP_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// The first release with the CNI plugins that a bridge needs.
const BRIDGE_SINCE: Version = Version::new(0, 13, 0);

/// Names of the assets that `recipe`'s steps refer to: what [`Facts::assets`] must hold.
#[must_use]
pub fn wanted_assets(recipe: &Recipe) -> BTreeSet<String> {
    let asset = |step: &StepSpec| match step {
        StepSpec::File { asset, .. } | StepSpec::Unit { asset, .. } => asset.clone(),
        _ => None,
    };
    recipe.steps.iter().filter_map(asset).collect()
}

/// Decides everything.
///
/// # Errors
/// Exit 2: a template that does not render, a lock without the architecture, a value with nothing for it, a disk
/// smaller than the base's.
pub fn plan(recipe: &Recipe, lock: &Lock, facts: &Facts, options: &Options) -> Result<Plan> {
    let locked = lock.artifact(options.arch).ok_or_else(|| {
        Error::usage(format!("the lock pins no BuildKit {} for {}", lock.version, options.arch))
            .with_hint("add the platform to the lock, or choose another --arch")
    })?;
    if let Some(daemon) = &recipe.buildkitd
        && daemon.network == BuildNetwork::Bridge
        && lock.version < BRIDGE_SINCE
    {
        return Err(Error::usage(format!("BuildKit {} cannot put builds on a bridge of their own", lock.version))
            .with_hint("the plugins for it ship from v0.13.0 on; or set buildkitd.network = \"host\""));
    }
    if facts.base.arch != options.arch {
        return Err(Error::usage(format!(
            "the base {} is for {}, not {}",
            facts.base.name, facts.base.arch, options.arch
        )));
    }
    let volumes = recipe.volumes.iter().map(volume).collect::<Result<Vec<_>>>()?;
    let templates = Templates::new(recipe, options.arch, lock.version, &volumes)?;
    let planner = Planner { lock, facts, templates: &templates, sha256: locked.sha256 };
    let mut names = BTreeSet::new();
    let steps = recipe.steps.iter().map(|spec| planner.step(spec, &mut names)).collect::<Result<Vec<_>>>()?;
    let checks = recipe.checks.iter().map(|spec| check(spec, recipe, lock, options)).collect::<Result<Vec<_>>>()?;
    let seal =
        step("remove identity, keys, logs and caches", "seal", script::with_preamble(&[], script::SEAL), STEP_TIMEOUT);
    let machine = machine(recipe, facts)?;
    let fingerprint = fingerprint::fingerprint(&Content {
        base: &facts.base.identity,
        arch: options.arch,
        artifact: locked.sha256,
        steps: &steps,
        seal: &seal,
        volumes: &volumes,
        disk_bytes: machine.disk_bytes,
    });
    let image = image(recipe, lock, facts, options, fingerprint);
    Ok(Plan {
        schema: 1,
        recipe: recipe.name.clone(),
        provider: options.provider,
        arch: options.arch,
        fingerprint,
        image,
        base: facts.base.clone(),
        artifact: ArtifactPlan {
            version: lock.version,
            url: locked.url.clone(),
            sha256: locked.sha256,
            stand_in: lock.stand_in,
            members: members(recipe),
        },
        machine,
        volumes,
        steps,
        checks,
        seal,
        overrides: options.overrides.clone(),
    })
}

/// Members that the recipe's steps name; none when one of them wants all.
fn members(recipe: &Recipe) -> Vec<String> {
    let mut named = BTreeSet::new();
    for step in &recipe.steps {
        match step {
            StepSpec::Buildkit { members: Members::All(_), .. } => return Vec::new(),
            StepSpec::Buildkit { members: Members::Named(names), .. } => named.extend(names.iter().cloned()),
            _ => {}
        }
    }
    named.into_iter().collect()
}

fn volume(spec: &VolumeSpec) -> Result<VolumePlan> {
    Ok(VolumePlan {
        name: spec.name.clone(),
        mount: spec.mount.clone(),
        size_bytes: bytes(&spec.size)?,
        volume_type: spec.volume_type.clone(),
        filesystem: spec.filesystem,
    })
}

/// A size of a valid recipe.
fn bytes(text: &str) -> Result<u64> {
    parse_size(text).map_err(|why| Error::usage(format!("`{text}` is not a size: {why}")))
}

/// A duration of a valid recipe, or the default.
fn duration(text: Option<&str>, default: Duration) -> Result<Duration> {
    let parse = |text| parse_duration(text).map_err(|why| Error::usage(format!("`{text}` is not a duration: {why}")));
    text.map_or(Ok(default), parse)
}

fn machine(recipe: &Recipe, facts: &Facts) -> Result<MachinePlan> {
    let base = facts.base.disk_bytes;
    let disk_bytes = recipe.machine.disk.as_deref().map_or(Ok(base), bytes)?;
    if disk_bytes < base {
        return Err(Error::usage(format!(
            "machine.disk is {disk_bytes} bytes, less than the base's {base} bytes ({})",
            facts.base.name
        ))
        .with_hint("leave machine.disk out, or make it larger"));
    }
    Ok(MachinePlan {
        cpus: recipe.machine.cpus,
        memory_bytes: bytes(&recipe.machine.memory)?,
        disk_bytes,
        timeout: duration(Some(&recipe.machine.timeout), RUN_TIMEOUT)?,
    })
}

fn image(recipe: &Recipe, lock: &Lock, facts: &Facts, options: &Options, fingerprint: Fingerprint) -> ImagePlan {
    let stand_in = if lock.stand_in { "-standin" } else { "" };
    let name = format!("{}-{}{stand_in}-{}-{}", recipe.name, lock.version, options.arch, fingerprint.0.short(12));
    let mut tags = recipe.tags.clone();
    // EC2 takes at most 255 characters (Amazon EC2 User Guide, "Tag restrictions").
    let mut tag = |key: &str, value: String| {
        tags.insert(format!("amibake:{key}"), value.chars().take(255).collect());
    };
    tag("recipe", recipe.name.clone());
    tag("fingerprint", fingerprint.to_string());
    tag("buildkit", lock.version.to_string());
    tag("arch", options.arch.to_string());
    tag("base", facts.base.name.clone());
    if lock.stand_in {
        tag("stand-in", "true".to_owned());
    }
    ImagePlan { name: ImageName(name), format: options.format, standalone: options.standalone, tags }
}

fn step(name: &str, kind: &'static str, script: Script, timeout: Duration) -> Step {
    Step { name: name.to_owned(), kind, script: script.text, preamble_lines: script.preamble_lines, timeout }
}

fn check(spec: &CheckSpec, recipe: &Recipe, lock: &Lock, options: &Options) -> Result<Check> {
    let version = lock.version.to_string();
    let exports = [
        ("AMIBAKE_RECIPE", recipe.name.as_str()),
        ("AMIBAKE_ARCH", options.arch.as_str()),
        ("AMIBAKE_BUILDKIT_VERSION", version.as_str()),
        ("AMIBAKE_BUILDKIT_STAND_IN", if lock.stand_in { "1" } else { "0" }),
    ];
    let script = script::with_preamble(&exports, &spec.script);
    let skipped = spec.providers.as_ref().filter(|providers| !providers.contains(&options.provider)).map(|providers| {
        let names: Vec<String> = providers.iter().map(ToString::to_string).collect();
        format!("only on {}", names.join(", "))
    });
    Ok(Check {
        name: spec.name.clone(),
        script: script.text,
        preamble_lines: script.preamble_lines,
        timeout: duration(spec.timeout.as_deref(), CHECK_TIMEOUT)?,
        at_bake: spec.when != When::Boot && spec.peer.is_none(),
        at_boot: spec.when != When::Bake,
        peer: spec.peer.clone(),
        skipped,
    })
}

/// What steps are made from.
struct Planner<'p> {
    lock: &'p Lock,
    facts: &'p Facts,
    templates: &'p Templates,
    sha256: crate::release::Sha256,
}

impl Planner<'_> {
    fn step(&self, spec: &StepSpec, names: &mut BTreeSet<String>) -> Result<Step> {
        let (given, derived, kind, body, timeout) = match spec {
            StepSpec::Packages { name, apt, dnf, timeout } => {
                let listed = if apt.is_empty() { dnf } else { apt };
                let timeout = duration(timeout.as_deref(), PACKAGES_TIMEOUT)?;
                (
                    name.as_deref(),
                    format!("packages: {}", listed.join(", ")),
                    "packages",
                    script::packages(apt, dnf),
                    timeout,
                )
            }
            StepSpec::Buildkit { name, members, prefix, timeout } => {
                let (named, what) = match members {
                    Members::All(_) => (&[][..], "all of it".to_owned()),
                    Members::Named(names) => (names.as_slice(), names.join(", ")),
                };
                let body = script::buildkit(self.sha256, self.lock.version, prefix, named);
                let timeout = duration(timeout.as_deref(), STEP_TIMEOUT)?;
                (name.as_deref(), format!("BuildKit {}: {what}", self.lock.version), "buildkit", body, timeout)
            }
            StepSpec::File { name, path, content, asset, template, owner, mode } => {
                let bytes = self.content(path, content.as_deref(), asset.as_deref(), *template)?;
                (name.as_deref(), format!("file {path}"), "file", script::file(path, &bytes, owner, mode), STEP_TIMEOUT)
            }
            StepSpec::Unit { name, unit, content, asset, template, enable, start } => {
                let bytes = self.content(unit, content.as_deref(), asset.as_deref(), *template)?;
                (
                    name.as_deref(),
                    format!("unit {unit}"),
                    "unit",
                    script::unit(unit, &bytes, *enable, *start),
                    STEP_TIMEOUT,
                )
            }
            StepSpec::Run { name, script, timeout } => {
                let timeout = duration(timeout.as_deref(), RUN_TIMEOUT)?;
                (Some(name.as_str()), String::new(), "run", script.clone(), timeout)
            }
        };
        let name = unique(names, given.unwrap_or(&derived));
        let mut script = script::with_preamble(&[], &body);
        if kind != "run" {
            // The user wrote no line of it.
            script.preamble_lines = u32::try_from(script.text.lines().count()).unwrap_or(u32::MAX);
        }
        Ok(step(&name, kind, script, timeout))
    }

    /// The bytes of a file or unit: `content` or `asset`, rendered if it is a template.
    fn content(&self, what: &str, content: Option<&str>, asset: Option<&str>, template: bool) -> Result<Vec<u8>> {
        let (name, bytes) = match (content, asset) {
            (Some(content), _) => (what, content.as_bytes()),
            (None, Some(asset)) => {
                let bytes = self.facts.assets.get(asset);
                (asset, bytes.ok_or_else(|| Error::usage(format!("there is no asset `{asset}`")))?.as_slice())
            }
            (None, None) => return Err(Error::usage(format!("{what} has neither `content` nor `asset`"))),
        };
        if !template {
            return Ok(bytes.to_vec());
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| Error::usage(format!("template {name} is not UTF-8 text")))?;
        self.templates.render(name, text).map(String::into_bytes)
    }
}

/// `name`, with a number behind it if it is taken.
fn unique(taken: &mut BTreeSet<String>, name: &str) -> String {
    let numbered = (2..).map(|number| format!("{name} ({number})"));
    let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| taken.insert(name.clone()));
    free.unwrap_or_else(|| name.to_owned())
}
