//! A plan as a person reads it.

use std::fmt::Write as _;
use std::time::Duration;

use super::Plan;

/// What `amibake plan` prints: everything that would happen, with every script whole.
#[must_use]
pub fn render_text(plan: &Plan) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        let _ = writeln!(out, "{label:<12} {text}");
    };
    line("image", plan.image.name.to_string());
    line("fingerprint", plan.fingerprint.to_string());
    line("recipe", format!("{} ({}, {})", plan.recipe, plan.arch, plan.provider));
    line("base", format!("{} ({})", plan.base.name, plan.base.identity));
    let note = if plan.artifact.stand_in { ", a stand-in release: not BuildKit" } else { "" };
    line("buildkit", format!("{}{note}", plan.artifact.version));
    line("", plan.artifact.url.clone());
    line("", format!("sha256:{}", plan.artifact.sha256));
    let machine = &plan.machine;
    line(
        "machine",
        format!(
            "{} CPUs, {} memory, {} disk, at most {}",
            machine.cpus,
            size(machine.memory_bytes),
            size(machine.disk_bytes),
            time(machine.timeout)
        ),
    );
    for volume in &plan.volumes {
        line(
            "volume",
            format!(
                "{} {} {} on {} ({})",
                volume.name,
                size(volume.size_bytes),
                volume.volume_type,
                volume.mount,
                volume.filesystem.as_str()
            ),
        );
    }
    let format = plan.image.format.as_str();
    line("stored as", if plan.image.standalone { format.to_owned() } else { format!("{format} on the base") });
    for (key, value) in &plan.image.tags {
        line("tag", format!("{key} = {value}"));
    }
    for given in &plan.overrides {
        line("set", given.clone());
    }
    let total = plan.steps.len();
    for (number, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(
            out,
            "\nstep {}/{total} [{}] {} (at most {})",
            number + 1,
            step.kind,
            step.name,
            time(step.timeout)
        );
        script(&mut out, &step.script);
    }
    for check in &plan.checks {
        let mut when = Vec::new();
        when.extend(check.at_bake.then_some("at the end of the bake"));
        when.extend(check.at_boot.then_some("on the booted image"));
        let mut when = when.join(" and ");
        if let Some(peer) = &check.peer {
            let _ = write!(when, ", beside {peer}");
        }
        if let Some(reason) = &check.skipped {
            let _ = write!(when, "; skipped here: {reason}");
        }
        let _ = writeln!(out, "\ncheck {} ({when})", check.name);
        script(&mut out, &check.script);
    }
    let _ = writeln!(out, "\nseal {}", plan.seal.name);
    script(&mut out, &plan.seal.script);
    out
}

fn script(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "{}", format!("    {line}").trim_end());
    }
}

/// Bytes in the largest unit that divides them.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        seconds if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}
