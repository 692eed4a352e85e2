//! A plan as a person reads it: all of it, with every script whole.

use std::fmt::Write as _;
use std::time::Duration;

use super::{ArtifactPlan, Check, Plan, Step};
use crate::release::evidence::Level;

/// The plan as text, for `amibake plan`: what `amibake build` does, in its order. Ends with a newline.
#[must_use]
pub fn render_text(plan: &Plan) -> String {
    let mut text = Text(String::new());
    text.head(plan);
    text.section("Steps", &format!("{}, in this order", plan.steps.len()));
    for (index, step) in plan.steps.iter().enumerate() {
        text.step(&format!("{}. {}", index + 1, step.name), step);
    }
    text.section("Checks", &plan.checks.len().to_string());
    for (index, check) in plan.checks.iter().enumerate() {
        text.check(index + 1, check);
    }
    text.section("Seal", "last");
    text.step(&plan.seal.name, &plan.seal);
    text.0
}

/// A size as recipes spell it, in the largest unit that says it exactly.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// A duration as recipes spell it.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (number, unit) in [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')] {
        if number > 0 {
            let _ = write!(text, "{number}{unit}");
        }
    }
    text
}

struct Text(String);

impl Text {
    fn artifact(&mut self, artifact: &ArtifactPlan) {
        let what = if artifact.stand_in { " (STAND-IN of the tests, not a real BuildKit)" } else { "" };
        self.row("buildkit", &format!("{}{what}", artifact.version));
        self.row("", &format!("sha256:{}", artifact.sha256));
        self.row("", &vouched(artifact));
        self.row("", &artifact.url);
        if !artifact.members.is_empty() {
            self.row("", &format!("needs {}", artifact.members.join(", ")));
        }
    }

    fn head(&mut self, plan: &Plan) {
        self.row("image", &plan.image.name.to_string());
        let alone = if plan.image.standalone { "standing on its own" } else { "on top of its base" };
        self.row("format", &format!("{}, {alone}", plan.image.format.as_str()));
        self.row("fingerprint", &plan.fingerprint.to_string());
        self.row("recipe", &plan.recipe);
        for (index, set) in plan.overrides.iter().enumerate() {
            self.row(if index == 0 { "set" } else { "" }, set);
        }
        self.row("provider", &format!("{} ({})", plan.provider, plan.arch));
        self.row("base", &format!("{}, {}", plan.base.name, bytes(plan.base.disk_bytes)));
        self.row("", &plan.base.identity);
        self.row("", &plan.base.location);
        self.artifact(&plan.artifact);
        let machine = &plan.machine;
        let (memory, disk, most) = (bytes(machine.memory_bytes), bytes(machine.disk_bytes), duration(machine.timeout));
        match &plan.aws {
            None => {
                self.row("machine", &format!("{} CPUs, {memory} memory, {disk} disk, at most {most}", machine.cpus));
            }
            Some(aws) => {
                let market = if aws.spot { "spot first, " } else { "" };
                let types = aws.instance_types.join(", ");
                self.row("machine", &format!("{market}{types} in {}, {disk} disk, at most {most}", aws.region));
                let subnet = aws.subnet.clone().unwrap_or_else(|| match aws.subnet_tags.len() {
                    0 => "of the default VPC".to_owned(),
                    _ => aws
                        .subnet_tags
                        .iter()
                        .map(|(key, value)| format!("{key}={value}"))
                        .collect::<Vec<_>>()
                        .join(", "),
                });
                let address = if aws.public_address { ", public address" } else { "" };
                self.row("subnet", &format!("{subnet}{address}"));
                self.row("profile", aws.instance_profile.as_deref().unwrap_or("none: Default Host Management"));
            }
        }
        for (index, volume) in plan.volumes.iter().enumerate() {
            let filesystem = format!("{:?}", volume.filesystem).to_lowercase();
            let text = format!(
                "{} at {}: {} {filesystem} ({}), label {}",
                volume.name,
                volume.mount,
                bytes(volume.size_bytes),
                volume.volume_type,
                volume.label()
            );
            self.row(if index == 0 { "volumes" } else { "" }, &text);
        }
        for (index, (key, value)) in plan.image.tags.iter().enumerate() {
            self.row(if index == 0 { "tags" } else { "" }, &format!("{key} = {value}"));
        }
    }

    fn row(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key:<13}{value}");
    }

    fn section(&mut self, title: &str, what: &str) {
        let _ = writeln!(self.0, "\n{title} ({what})");
    }

    fn step(&mut self, title: &str, step: &Step) {
        self.script(title, &format!("{}, at most {}", step.kind, duration(step.timeout)), &step.script);
    }

    fn check(&mut self, number: usize, check: &Check) {
        let mut when = match (check.at_bake, check.at_boot) {
            (true, true) => "at the end of the bake and on a booted image".to_owned(),
            (true, false) => "at the end of the bake".to_owned(),
            (false, _) => "on a booted image".to_owned(),
        };
        if let Some(peer) = &check.peer {
            let _ = write!(when, " beside `{peer}`");
        }
        if let Some(reason) = &check.skipped {
            when = format!("skipped here: {reason}");
        }
        let what = format!("{when}, at most {}", duration(check.timeout));
        self.script(&format!("{number}. {}", check.name), &what, &check.script);
    }

    fn script(&mut self, title: &str, what: &str, script: &str) {
        let _ = writeln!(self.0, "\n{title} ({what})");
        for line in script.lines() {
            let indented = format!("    {line}");
            let _ = writeln!(self.0, "{}", if line.is_empty() { "" } else { &indented });
        }
    }
}

/// How well the release is vouched for, in words.
fn vouched(artifact: &ArtifactPlan) -> String {
    match artifact.evidence {
        None => "vouched for by nothing that the lock says (`amibake verify-release` looks)".to_owned(),
        Some(Level::FirstUse) => "UNAUTHENTICATED: believed because it came first (first-use)".to_owned(),
        Some(level) => {
            let era = Level::of_era(artifact.version);
            let weaker = if level < era { format!("; releases like it have a {era}") } else { String::new() };
            format!("vouched for: {level}{weaker}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_spelt_as_in_recipes() {
        for (number, text) in
            [(2 << 30, "2GiB"), (1536 << 20, "1536MiB"), (1, "1 bytes"), (5 << 40, "5TiB"), (0, "0 bytes")]
        {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in [(5400, "1h30m"), (90, "1m30s"), (7200, "2h"), (3601, "1h1s")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
