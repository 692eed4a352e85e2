//! `amibake gc`.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::prepare::{given, until_cancelled};
use super::signals::cancel_on_signal;
use crate::bake::{self, Reporter, RunId};
use crate::cli::Settings;
use crate::error::{Error, Exit, Result, in_a_line};
use crate::provider::aws::{Aws, Found, LeftBehind, Runs};
use crate::provider::local::{self, Local};
use crate::recipe::{self, ProviderKind};
use crate::release::{self, Lock};
use crate::report;

/// `amibake gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Who supplied the machines
    #[arg(long, value_name = "PROVIDER", default_value = "aws", env = "AMIBAKE_PROVIDER")]
    pub provider: ProviderKind,
    /// All of this run, even if it still lives, instead of what is past its time
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Look into this bucket for tarballs too, beside those that this project's recipes deliver by; may be repeated
    #[arg(long, value_name = "NAME")]
    pub bucket: Vec<String>,
    /// Remove it, and not only say so
    #[arg(long)]
    pub yes: bool,
    /// AWS region [default: the environment's, else that of amibake.toml, else the profile's]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

pub(crate) fn run(settings: &Settings, args: &GcArgs) -> Result<Exit> {
    if args.provider == ProviderKind::Local {
        return local(settings, args);
    }
    let named = args.run.as_deref().map(|run| match RunId::is_valid(run) {
        true => Ok(RunId(run.to_owned())),
        false => Err(Error::usage(format!("`{run}` is not the name of a run"))
            .with_hint("a run is called like 20261124t145112-3fa9c1: it is the tag amibake:run")),
    });
    let named = named.transpose()?;
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let account = settings.account(args.region.clone(), args.profile.clone());
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let aws = until_cancelled(&cancel, Aws::connect(&account, None, reporter.clone())).await?;
        let dead = bake::dead(&settings.runs)?.into_iter().map(|(run, _)| run).collect();
        let runs = Runs { named, living: bake::living(&settings.runs)?, dead };
        let buckets = buckets(settings, args, &reporter);
        let LeftBehind { due: found, later } = until_cancelled(&cancel, aws.left_behind(&runs, &buckets)).await?;
        let removing = async { Ok(if args.yes { aws.clear(&found).await } else { Vec::new() }) };
        let remain = until_cancelled(&cancel, removing).await?;
        for (one, reason) in &remain {
            reporter.warn(format!("still there: {} {} ({reason})", one.kind, one.id));
        }
        if args.json {
            let remain: Vec<_> = remain.iter().map(|(one, reason)| json!({ "id": one.id, "reason": reason })).collect();
            report::print_json(&json!({ "found": found, "removed": args.yes, "remain": remain, "later": later }));
        } else if found.is_empty() {
            reporter.note(if later.is_empty() { "nothing is left behind" } else { "nothing is past its time" });
        } else {
            report::print(&table(&found));
            if !args.yes {
                reporter.note("nothing was removed: --yes does it");
            }
        }
        tell_later(&later, &reporter);
        let left = if args.yes { !remain.is_empty() } else { !found.is_empty() };
        Ok(if left { Exit::Leftovers } else { Exit::Done })
    })
}

/// What may yet be a bake's at work, a line for each run.
fn tell_later(later: &[Found], reporter: &Reporter) {
    let runs: BTreeSet<&str> = later.iter().map(|one| one.run.as_str()).collect();
    for run in runs {
        let of_run = later.iter().filter(|one| one.run == run);
        let things: Vec<String> = of_run.clone().map(|one| format!("{} {}", one.kind, one.id)).collect();
        let until = of_run.filter_map(|one| one.expires).max().map(|at| at.strftime("%Y-%m-%d %H:%M UTC").to_string());
        reporter.note(format!(
            "not past its time ({}), of run {run}: {}; if that run is dead: `amibake gc --run {run} --yes`",
            until.unwrap_or_default(),
            things.join(", ")
        ));
    }
}

/// What killed local bakes of this project left (their journals say), and tarballs in the cache that its lock does not pin.
fn local(settings: &Settings, args: &GcArgs) -> Result<Exit> {
    if args.run.is_some() || !args.bucket.is_empty() {
        return Err(Error::usage("--run and --bucket are for --provider aws"));
    }
    super::block_on(async {
        let lock = if settings.lock.exists() { Some(Lock::load(&settings.lock)?) } else { None };
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let (dead, tarballs) = (bake::dead(&settings.runs)?, release::unpinned(&settings.cache, lock.as_ref())?);
        let mut remain = Vec::new();
        if args.yes {
            let provider = Local::new(local::Settings {
                cache_dir: settings.cache.clone(),
                dist_dir: settings.project.join("dist"),
                runs_dir: settings.runs.clone(),
                base: None,
                reporter: reporter.clone(),
            });
            let swept = bake::sweep(&settings.runs, &provider, &reporter).await?;
            remain.extend(swept.into_iter().map(|left| (left.resource.to_string(), left.reason)));
            for (digest, _) in &tarballs {
                if let Err(error) = release::forget(&settings.cache, *digest) {
                    remain.push((digest.to_string(), in_a_line(&error)));
                }
            }
        }
        for (what, reason) in &remain {
            reporter.warn(format!("still there: {what} ({reason})"));
        }
        let found =
            dead.iter().flat_map(|(run, armed)| armed.iter().map(move |one| (run.to_string(), one.to_string())));
        let found: Vec<(String, String)> = found.collect();
        if args.json {
            let left: Vec<_> = found.iter().map(|(run, what)| json!({ "run": run, "what": what })).collect();
            let cached = tarballs.iter().map(|(digest, bytes)| json!({ "sha256": digest.to_string(), "bytes": bytes }));
            let cached: Vec<_> = cached.collect();
            let remain: Vec<_> =
                remain.iter().map(|(what, reason)| json!({ "what": what, "reason": reason })).collect();
            report::print_json(&json!({ "found": left, "tarballs": cached, "removed": args.yes, "remain": remain }));
        } else {
            for (run, what) in &found {
                report::print(&format!("{what}, of run {run}"));
            }
            for (digest, bytes) in &tarballs {
                report::print(&format!(
                    "tarball {digest}, {}: not in this project's lock",
                    report::human_bytes(*bytes)
                ));
            }
            match (found.is_empty() && tarballs.is_empty(), args.yes) {
                (true, _) => reporter.note("nothing is left behind"),
                (false, false) => reporter.note("nothing was removed: --yes does it"),
                (false, true) => {}
            }
        }
        // A tarball is no leftover: it only takes room.
        let left = if args.yes { !remain.is_empty() } else { !found.is_empty() };
        Ok(if left { Exit::Leftovers } else { Exit::Done })
    })
}

/// Buckets that tarballs travel through: those that are named, and those of this project's recipes, if it has any. A
/// recipe that cannot be read must not keep anybody from cleaning up.
fn buckets(settings: &Settings, args: &GcArgs, reporter: &Reporter) -> BTreeSet<String> {
    let mut buckets: BTreeSet<String> = args.bucket.iter().cloned().collect();
    // Leftovers are looked for from any folder.
    for name in recipe::all(&settings.project).unwrap_or_default() {
        match given(settings, &name) {
            Ok(loaded) => buckets.extend(loaded.recipe.delivery.bucket),
            Err(error) => reporter.warn(format!("the recipe {name} is not asked for its bucket: {error}")),
        }
    }
    buckets
}

/// One line each, under a heading.
fn table(found: &[Found]) -> String {
    let rows = found.iter().map(|one| {
        let expires = one.expires.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string());
        let recipe = one.recipe.clone().unwrap_or_else(|| "-".to_owned());
        [one.kind.to_string(), one.id.clone(), one.state.clone(), one.run.clone(), recipe, expires]
    });
    let heading = ["WHAT", "ID", "STATE", "RUN", "RECIPE", "EXPIRED"].map(str::to_owned);
    report::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}
