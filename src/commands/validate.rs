//! `amibake validate`.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use super::prepare::{Read, assets, load, names_or_all};
use crate::cli::{Settings, ValidateArgs};
use crate::error::{Context as _, Error, Exit, Result};
use crate::plan::{self, BaseImage, Facts, ImageFormat, Options};
use crate::recipe::ProviderKind;
use crate::release::Lock;
use crate::report;

pub(crate) fn run(settings: &Settings, args: &ValidateArgs) -> Result<Exit> {
    let loaded = load(settings, &names_or_all(settings, &args.names)?, &args.set)?;
    if settings.lock.exists() {
        let lock = Lock::load(&settings.lock)?;
        rehearse_all(&loaded, &lock)?;
    } else if !settings.talk.quiet {
        let lock = settings.lock.display();
        report::say(&format!("note: templates and scripts are not looked at without a lock: there is no {lock}"));
    }
    let shown = |path: &std::path::Path| path.strip_prefix(&settings.project).unwrap_or(path).display().to_string();
    let loaded = loaded.iter().map(|read| &read.loaded);
    if args.json {
        let recipes: Vec<_> =
            loaded.map(|one| json!({ "recipe": one.recipe.name, "path": shown(&one.path) })).collect();
        report::print_json(&json!({ "recipes": recipes }));
    } else {
        for one in loaded {
            report::print(&format!("{}: fine", shown(&one.path)));
        }
    }
    Ok(Exit::Done)
}

/// Plans every recipe for every platform of the lock as far as that goes without a base, and lets bash read the scripts.
fn rehearse_all(loaded: &[Read], lock: &Lock) -> Result<()> {
    let failed: Vec<String> =
        loaded.iter().filter_map(|read| rehearse(read, lock).err().map(|error| crate::error::render(&error))).collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::usage("the recipes cannot be planned").with_detail(failed.concat()))
    }
}

fn rehearse(read: &Read, lock: &Lock) -> Result<()> {
    let recipe = &read.loaded.recipe;
    let assets = assets(&read.loaded)?;
    for platform in lock.artifacts.keys() {
        let arch = platform.0;
        let base = BaseImage {
            name: "any base".to_owned(),
            identity: String::new(),
            location: String::new(),
            arch,
            disk_bytes: 0,
            ami: None,
        };
        let options = Options {
            provider: ProviderKind::Local,
            arch,
            format: ImageFormat::Qcow2,
            standalone: true,
            overrides: Vec::new(),
        };
        let plan = plan::plan(recipe, lock, &Facts { base, assets: assets.clone() }, &options)?;
        let steps = plan.steps.iter().map(|step| (&step.name, &step.script, step.preamble_lines));
        let checks = plan.checks.iter().map(|check| (&check.name, &check.script, check.preamble_lines));
        let faults: Vec<String> = steps
            .chain(checks)
            .filter_map(|(name, script, preamble)| Some((name, syntax(script, preamble)?)))
            .map(|(name, fault)| format!("  `{name}`: {fault}\n"))
            .collect();
        if !faults.is_empty() {
            return Err(Error::usage(format!("bash cannot read scripts of recipe `{}`", recipe.name))
                .with_detail(faults.concat()));
        }
    }
    Ok(())
}

/// What bash says against a script, if there is a bash here and it says anything: lines are the user's own.
fn syntax(script: &str, preamble_lines: u32) -> Option<String> {
    let read = || {
        let mut bash = std::process::Command::new("bash")
            .args(["-n", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // bash that stops at a fault does not read on.
        let _ = bash.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
        bash.wait_with_output()
    };
    let output = read().or_failed(|| "cannot run bash".to_owned()).ok()?;
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap_or_default();
    let told = line.strip_prefix("bash: line ").and_then(|rest| rest.split_once(": ")).and_then(|(number, words)| {
        let number: u32 = number.parse().ok()?;
        Some(format!("line {} of the script: {words}", number.saturating_sub(preamble_lines)))
    });
    Some(crate::report::clean(&told.unwrap_or_else(|| line.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_says_the_users_line() {
        assert_eq!(syntax("set -e\necho fine\n", 1), None);
        let fault = syntax("set -e\necho one\nif true; then\nfi\n", 1).unwrap();
        assert!(fault.starts_with("line 3 of the script: "), "{fault}");
    }
}
