//! How the values of a recipe go together: what no single value can tell.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::tree::Node;
use super::{Recipe, StepSpec, When, parse_duration};

/// Every fault of `recipe`, placed on `tree`.
pub fn check(recipe: &Recipe, tree: &Node) -> Vec<Fault> {
    let mut rules = Rules { recipe, tree, faults: Vec::new() };
    rules.base();
    rules.volumes();
    rules.buildkitd();
    rules.steps();
    rules.checks();
    rules.tags();
    rules.faults
}

struct Rules<'r> {
    recipe: &'r Recipe,
    tree: &'r Node,
    faults: Vec<Fault>,
}

impl Rules<'_> {
    fn fault(&mut self, path: &[&str], message: impl Into<String>) -> &mut Fault {
        self.faults.push(Fault::new(&self.tree.locate(path), message));
        let last = self.faults.len() - 1;
        &mut self.faults[last]
    }

    /// Each of `values` (with its path) may stand but once.
    fn unique<'v>(&mut self, what: &str, values: impl IntoIterator<Item = (Vec<String>, &'v str)>) {
        let mut seen = BTreeMap::new();
        for (path, value) in values {
            if seen.insert(value.to_owned(), ()).is_some() {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                self.fault(&path, format!("{what} `{value}` is there twice"));
            }
        }
    }

    fn base(&mut self) {
        if let Some(aws) = &self.recipe.base.aws {
            let given =
                [aws.ssm_parameter.is_some(), aws.ami.is_some(), aws.filter.is_some(), aws.elastic_ci_stack.is_some()];
            let count = given.iter().filter(|given| **given).count();
            if count != 1 {
                self.fault(&["base", "aws"], format!("base.aws names its image in {count} ways"))
                    .notes
                    .push("expected exactly one of: ssm_parameter, ami, filter, elastic_ci_stack".to_owned());
            }
        }
        if let Some(local) = &self.recipe.base.local
            && local.digest.is_none()
            && crate::release::Arch::ALL
                .iter()
                .any(|arch| local.image.get(*arch).is_some_and(|image| image.contains("://")))
        {
            self.fault(&["base", "local", "image"], "a base that is downloaded needs its digest")
                .notes
                .push("expected `digest = \"sha256:…\"` or `\"sha512:…\"` beside it".to_owned());
        }
    }

    fn volumes(&mut self) {
        let volumes = &self.recipe.volumes;
        let path = |at: usize, key: &str| vec!["volume".to_owned(), at.to_string(), key.to_owned()];
        self.unique("volume", volumes.iter().enumerate().map(|(at, volume)| (path(at, "name"), volume.name.as_str())));
        self.unique("mount", volumes.iter().enumerate().map(|(at, volume)| (path(at, "mount"), volume.mount.as_str())));
        for (at, volume) in volumes.iter().enumerate() {
            if ["/", "/boot", "/etc", "/usr", "/var", "/proc", "/sys", "/dev", "/run", "/tmp"]
                .contains(&volume.mount.as_str())
            {
                self.fault(&["volume", &at.to_string(), "mount"], format!("`{}` is the system's own", volume.mount))
                    .notes
                    .push("expected a folder of its own, for example `/var/lib/buildkit`".to_owned());
            }
        }
    }

    fn buildkitd(&mut self) {
        let Some(daemon) = &self.recipe.buildkitd else { return };
        let root = std::path::Path::new(&daemon.root);
        let volumes = &self.recipe.volumes;
        if !volumes.is_empty() && !volumes.iter().any(|volume| root.starts_with(&volume.mount)) {
            let mounts: Vec<&str> = volumes.iter().map(|volume| volume.mount.as_str()).collect();
            let note = format!("expected it on one of: {}", mounts.join(", "));
            self.fault(&["buildkitd", "root"], format!("`{}` is on none of the recipe's volumes", daemon.root))
                .notes
                .push(note);
        }
        let gc = &daemon.gc;
        if gc.reserved_percent > gc.max_used_percent {
            let message = format!(
                "reserved_percent ({}) is more than max_used_percent ({})",
                gc.reserved_percent, gc.max_used_percent
            );
            self.fault(&["buildkitd", "gc", "reserved_percent"], message);
        }
        if gc.enabled && u16::from(gc.max_used_percent) + u16::from(gc.min_free_percent) > 100 {
            let message = format!(
                "max_used_percent ({}) and min_free_percent ({}) are more than the whole volume",
                gc.max_used_percent, gc.min_free_percent
            );
            self.fault(&["buildkitd", "gc", "max_used_percent"], message);
        }
        let hosts: Vec<String> = daemon.registry.keys().cloned().collect();
        for host in hosts {
            if let Some(kind) = super::kinds::kind("registry")
                && (kind.check)(&host).is_err()
            {
                self.fault(&["buildkitd", "registry", &host], format!("`{host}` is not a registry's host name"));
            }
        }
    }

    fn steps(&mut self) {
        let recipe = self.recipe;
        let names = recipe.steps.iter().enumerate().filter_map(|(at, step)| {
            let name = step_name(step)?;
            Some((vec!["step".to_owned(), at.to_string(), "name".to_owned()], name))
        });
        self.unique("step", names);
        for (at, step) in recipe.steps.iter().enumerate() {
            let at = at.to_string();
            match step {
                StepSpec::Packages { apt, dnf, .. } => {
                    if apt.is_empty() && dnf.is_empty() {
                        self.fault(&["step", &at], "a step of packages names none")
                            .notes
                            .push("expected `apt = […]`, `dnf = […]` or both".to_owned());
                    }
                }
                StepSpec::Buildkit { members: super::Members::Named(names), .. } => {
                    if names.is_empty() {
                        self.fault(&["step", &at, "members"], "no members are named");
                    }
                    let path = |nth: usize| vec!["step".to_owned(), at.clone(), "members".to_owned(), nth.to_string()];
                    self.unique("member", names.iter().enumerate().map(|(nth, name)| (path(nth), name.as_str())));
                    if let Some(nth) = names.iter().position(|name| name == "all") {
                        self.fault(
                            &["step", &at, "members", &nth.to_string()],
                            "`all` stands by itself: `members = \"all\"`",
                        );
                    }
                }
                StepSpec::File { content, asset, .. } | StepSpec::Unit { content, asset, .. } => {
                    if content.is_some() == asset.is_some() {
                        let found = if content.is_some() { "both" } else { "neither" };
                        self.fault(&["step", &at], format!("{found} of `content` and `asset` is given"))
                            .notes
                            .push("expected exactly one of them".to_owned());
                    }
                }
                StepSpec::Buildkit { .. } | StepSpec::Run { .. } => {}
            }
            if let StepSpec::Unit { unit, enable: true, .. } = step
                && unit.contains("@.")
            {
                self.fault(&["step", &at, "unit"], format!("`{unit}` is a template and cannot be enabled"))
                    .notes
                    .push("set `enable = false`".to_owned());
            }
        }
    }

    fn checks(&mut self) {
        let recipe = self.recipe;
        let path = |at: usize, key: &str| vec!["check".to_owned(), at.to_string(), key.to_owned()];
        self.unique(
            "check",
            recipe.checks.iter().enumerate().map(|(at, check)| (path(at, "name"), check.name.as_str())),
        );
        for (at, check) in recipe.checks.iter().enumerate() {
            let at = at.to_string();
            if let Some(peer) = &check.peer {
                if *peer == recipe.name {
                    self.fault(&["check", &at, "peer"], "an image cannot be its own peer");
                }
                if check.when == When::Bake {
                    self.fault(&["check", &at, "when"], "a check with a peer runs on booted images only")
                        .notes
                        .push("expected `when = \"boot\"`, or none".to_owned());
                }
            }
            if check.providers.as_ref().is_some_and(Vec::is_empty) {
                self.fault(&["check", &at, "providers"], "a check for no provider never runs");
            }
        }
        let whole = parse_duration(&recipe.machine.timeout);
        let longest = recipe.steps.iter().enumerate().filter_map(|(at, step)| Some((at, step_timeout(step)?)));
        for (at, timeout) in longest {
            if let (Ok(whole), Ok(step)) = (&whole, parse_duration(timeout))
                && step > *whole
            {
                let message =
                    format!("this step may take longer ({timeout}) than the whole bake ({})", recipe.machine.timeout);
                self.fault(&["step", &at.to_string(), "timeout"], message);
            }
        }
    }

    /// Tags as EC2 takes them: keys of at most 127 characters, values of at most 255 (Amazon EC2 User Guide, "Tag
    /// restrictions"), no key of amibake's or AWS's own.
    fn tags(&mut self) {
        for (key, value) in &self.recipe.tags {
            let problem = if key.starts_with("aws:") || key.starts_with("amibake:") {
                "its prefix is reserved"
            } else if key.is_empty() || key.chars().count() > 127 {
                "its key is empty or longer than 127 characters"
            } else if value.chars().count() > 255 {
                "its value is longer than 255 characters"
            } else {
                continue;
            };
            self.fault(&["tags", key], format!("tag `{key}` cannot be set: {problem}"));
        }
    }
}

fn step_name(step: &StepSpec) -> Option<&str> {
    match step {
        StepSpec::Packages { name, .. }
        | StepSpec::Buildkit { name, .. }
        | StepSpec::File { name, .. }
        | StepSpec::Unit { name, .. } => name.as_deref(),
        StepSpec::Run { name, .. } => Some(name),
    }
}

fn step_timeout(step: &StepSpec) -> Option<&str> {
    match step {
        StepSpec::Packages { timeout, .. } | StepSpec::Buildkit { timeout, .. } | StepSpec::Run { timeout, .. } => {
            timeout.as_deref()
        }
        StepSpec::File { .. } | StepSpec::Unit { .. } => None,
    }
}
