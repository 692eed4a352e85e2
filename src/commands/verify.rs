//! `amibake verify`.

use super::prepare::{Prepared, names, prepare, until_cancelled};
use super::signals::cancel_on_signal;
use crate::bake::{self, Checked, Group, RunId};
use crate::cli::{Settings, VerifyArgs};
use crate::error::{Error, Exit, Result};
use crate::plan::{Image, Plan};
use crate::report;

pub(crate) fn run(settings: &Settings, args: &VerifyArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let names = names(settings, &args.recipes)?;
        let prepared = until_cancelled(&cancel, prepare(settings, &args.planning, &names)).await?;
        let swept = bake::sweep(&settings.runs, &*prepared.provider, &prepared.general()).await?;
        let run = RunId::generate();
        let group = Group {
            members: images(&prepared).await?,
            run_dir: settings.runs.join(&run.0),
            run,
            restart: !args.no_restart,
            keep: args.keep,
        };
        let verified = bake::verify(&group, &*prepared.provider, &prepared.general(), &cancel).await?;
        let failed = verified.checks.iter().any(|check| check.result == "failed");
        if args.planning.json {
            report::print_json(&verified);
        } else {
            report::print(&table(&verified.checks));
        }
        for leftover in swept.iter().chain(&verified.leftovers) {
            prepared.general().warn(format!("still there: {} ({})", leftover.resource, leftover.reason));
        }
        Ok(match (failed, verified.leftovers.is_empty() && swept.is_empty()) {
            (true, _) => Exit::Failed,
            (false, false) => Exit::Leftovers,
            (false, true) => Exit::Done,
        })
    })
}

/// The baked image of every plan.
async fn images(prepared: &Prepared) -> Result<Vec<(Plan, Image)>> {
    let (mut members, mut missing) = (Vec::new(), Vec::new());
    for plan in &prepared.plans {
        let found = prepared.provider.find(plan).await?;
        match found {
            Some(image) => members.push((plan.clone(), image)),
            None => missing.push(plan),
        }
    }
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|plan| plan.image.name.0.as_str()).collect();
        let recipes: Vec<&str> = missing.iter().map(|plan| plan.recipe.as_str()).collect();
        return Err(Error::failed(format!("there is no image as it is planned now: {}", names.join(", ")))
            .with_hint(format!("bake it with the options of this command: amibake build {} …", recipes.join(" "))));
    }
    Ok(members)
}

/// One line a check; the output of a failed one below it.
fn table(checks: &[Checked]) -> String {
    let width = checks.iter().map(|check| check.recipe.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let reason = check.reason.as_deref().unwrap_or_default();
        let (short, long) = match check.result {
            "failed" => (String::new(), reason.lines().map(|line| format!("           {line}\n")).collect()),
            _ if reason.is_empty() => (String::new(), String::new()),
            _ => (format!(" ({reason})"), String::new()),
        };
        text.push_str(&format!("{:<8}  {:<width$}  {}{short}\n{long}", check.result, check.recipe, check.check));
    }
    text
}
