//! `amibake build`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::prepare::{Prepared, names, prepare, until_cancelled};
use super::signals::cancel_on_signal;
use crate::bake::{self, Job, Outcome, RunId};
use crate::cli::{BuildArgs, Settings};
use crate::error::{Context as _, Error, Exit, Result, in_a_line};
use crate::plan::{Image, Plan};
use crate::release::{self, Arch, Artifact};
use crate::report::{self, human_bytes, human_time};

/// What came of one recipe.
struct Built<'p> {
    plan: &'p Plan,
    result: Result<Outcome>,
}

pub(crate) fn run(settings: &Settings, args: &BuildArgs) -> Result<Exit> {
    super::block_on(async {
        let started = Instant::now();
        let cancel = cancel_on_signal(&settings.runs)?;
        let names = names(settings, &args.recipes)?;
        let prepared = until_cancelled(&cancel, prepare(settings, &args.planning, &names)).await?;
        let swept = bake::sweep(&settings.runs, &*prepared.provider, &prepared.general()).await?;
        for leftover in &swept {
            prepared.general().warn(format!("still there: {} ({})", leftover.resource, leftover.reason));
        }
        let built = build_all(settings, args, &prepared, &cancel).await?;
        let before = if swept.is_empty() { Exit::Done } else { Exit::Leftovers };
        let exit = built.iter().map(exit_of).fold(before, worse);
        if args.planning.json {
            let results: Vec<_> = built.iter().map(as_json).collect();
            report::print_json(&json!({ "results": results, "exit": exit.code() }));
        }
        note_results(args, &built)?;
        tell(settings, &built, started);
        if !args.planning.json {
            for one in &built {
                if let Ok(outcome) = &one.result {
                    report::print(&image_of(outcome).location.display().to_string());
                }
            }
        }
        Ok(exit)
    })
}

async fn build_all<'p>(
    settings: &Settings,
    args: &BuildArgs,
    prepared: &'p Prepared,
    cancel: &CancellationToken,
) -> Result<Vec<Built<'p>>> {
    let found = prepared
        .plans
        .iter()
        .map(|plan| async { if args.force { Ok(None) } else { prepared.provider.find(plan).await } });
    // A cloud may still be making one of them.
    let existing = until_cancelled(cancel, try_join_all(found)).await?;
    let existing: Vec<Option<Image>> =
        existing.into_iter().map(|image| image.filter(|image| young(image, args.max_age, Timestamp::now()))).collect();
    let wanted = prepared.plans.iter().zip(&existing).filter(|(_, existing)| existing.is_none());
    let wanted: BTreeSet<Arch> = wanted.map(|(plan, _)| plan.arch).collect();
    let fetched = wanted.into_iter().map(|arch| async move {
        fetch(settings, args, prepared, arch, cancel).await.map(|artifact| (arch, artifact))
    });
    let artifacts: BTreeMap<Arch, Artifact> = try_join_all(fetched).await?.into_iter().collect();
    let jobs = prepared.plans.iter().zip(existing).map(|(plan, existing)| {
        let artifact = artifacts.get(&plan.arch).cloned();
        let memory = if existing.is_some() { 0 } else { plan.machine.memory_bytes };
        let work = async move {
            let result = match (existing, artifact) {
                (Some(image), _) if args.verify && !image.verified => {
                    let (provider, reporter) = (&*prepared.provider, prepared.reporter(plan));
                    bake::verify_existing(plan, image, &settings.runs, provider, &reporter, cancel).await
                }
                (Some(image), _) => Ok(Outcome::Existing { image, leftovers: Vec::new() }),
                (None, Some(artifact)) => bake_one(settings, args, prepared, plan, artifact, cancel).await,
                (None, None) => Err(Error::failed("there is no tarball to bake from")),
            };
            Built { plan, result }
        };
        (memory, work)
    });
    Ok(bake::side_by_side(jobs.collect(), prepared.provider.memory()).await)
}

/// Whether an image is not too old to be taken for a new one.
fn young(image: &Image, max_age: Option<u64>, now: Timestamp) -> bool {
    match (max_age, image.created) {
        (Some(most), Some(created)) => now.as_second() - created.as_second() <= i64::try_from(most).unwrap_or(i64::MAX),
        _ => true,
    }
}

/// The tarball, with every member that any of the recipes needs.
async fn fetch(
    settings: &Settings,
    args: &BuildArgs,
    prepared: &Prepared,
    arch: Arch,
    cancel: &CancellationToken,
) -> Result<Artifact> {
    let members: Vec<String> =
        prepared.plans.iter().filter(|plan| plan.arch == arch).flat_map(|plan| plan.artifact.members.clone()).collect();
    let mirror = args.planning.release_mirror.as_ref();
    let reporter = prepared.general();
    release::fetch(&prepared.lock, arch, &members, mirror, &settings.cache, &reporter, cancel).await
}

async fn bake_one(
    settings: &Settings,
    args: &BuildArgs,
    prepared: &Prepared,
    plan: &Plan,
    artifact: Artifact,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let run = RunId::generate();
    let job = Job {
        plan: plan.clone(),
        artifact,
        run_dir: settings.runs.join(&run.0),
        run,
        dist_dir: settings.dist(&args.planning)?,
        keep: args.keep,
        test_boot: args.verify,
    };
    bake::bake(&job, &*prepared.provider, &prepared.reporter(plan), cancel).await
}

fn image_of(outcome: &Outcome) -> &crate::plan::Image {
    match outcome {
        Outcome::Existing { image, .. } | Outcome::Baked { image, .. } => image,
    }
}

fn exit_of(built: &Built<'_>) -> Exit {
    match &built.result {
        Ok(Outcome::Baked { leftovers, .. } | Outcome::Existing { leftovers, .. }) if !leftovers.is_empty() => {
            Exit::Leftovers
        }
        Ok(_) => Exit::Done,
        Err(error) => error.exit(),
    }
}

/// Of two ways to end, the one that is told: an interruption before a failure, a refused artifact before a failed bake, any
/// failure before leftovers.
fn worse(one: Exit, other: Exit) -> Exit {
    let order = |exit| match exit {
        Exit::Done => 0,
        Exit::OutOfDate => 1,
        Exit::Leftovers => 2,
        Exit::Failed => 3,
        Exit::Host => 4,
        Exit::Usage => 5,
        Exit::Refused => 6,
        Exit::Interrupted => 7,
    };
    if order(other) > order(one) { other } else { one }
}

/// What `--summary` and `--ids` ask for. The images are made: that it cannot be written is told at the end of all.
fn note_results(args: &BuildArgs, built: &[Built<'_>]) -> Result<()> {
    if let Some(path) = &args.summary {
        let rows: Vec<report::Row> = built.iter().map(row).collect();
        let append = || -> std::io::Result<()> {
            let mut file = std::fs::File::options().append(true).create(true).open(path)?;
            std::io::Write::write_all(&mut file, report::summary(&rows).as_bytes())
        };
        append().or_host(|| format!("cannot write the summary {}", path.display()))?;
    }
    if let Some(path) = &args.ids {
        let line = |one: &Built<'_>| {
            let image = image_of(one.result.as_ref().ok()?);
            Some(format!("{} {} {}\n", one.plan.recipe, one.plan.arch, image.location.display()))
        };
        let text: String = built.iter().filter_map(line).collect();
        std::fs::write(path, text).or_host(|| format!("cannot write the ids {}", path.display()))?;
    }
    Ok(())
}

fn row(one: &Built<'_>) -> report::Row {
    let artifact = &one.plan.artifact;
    let level = artifact.evidence.map_or("nobody says".to_owned(), |level| level.to_string());
    report::Row {
        recipe: one.plan.recipe.clone(),
        arch: one.plan.arch.to_string(),
        buildkit: format!("{} ({level})", artifact.version),
        image: one.result.as_ref().ok().map(|outcome| image_of(outcome).location.display().to_string()),
        result: match &one.result {
            Ok(Outcome::Existing { .. }) => "exists".to_owned(),
            Ok(_) => "baked".to_owned(),
            Err(error) => in_a_line(error),
        },
    }
}

fn as_json(built: &Built<'_>) -> serde_json::Value {
    let plan = built.plan;
    let mut value = match &built.result {
        Ok(outcome) => serde_json::to_value(outcome).unwrap_or_default(),
        Err(error) => json!({ "outcome": "failed", "error": report::error_json(error) }),
    };
    // The same fields whatever came of it.
    for (field, none) in [("image", json!(null)), ("manifest", json!(null)), ("leftovers", json!([]))] {
        if value.get(field).is_none() {
            value[field] = none;
        }
    }
    value["recipe"] = plan.recipe.clone().into();
    value["arch"] = plan.arch.as_str().into();
    value["fingerprint"] = plan.fingerprint.to_string().into();
    value["buildkit"] = plan.artifact.version.to_string().into();
    value["stand_in"] = plan.artifact.stand_in.into();
    value["evidence"] = json!(plan.artifact.evidence);
    value
}

/// The summary, and every failure in full.
fn tell(settings: &Settings, built: &[Built<'_>], started: Instant) {
    for one in built {
        match &one.result {
            Err(error) => {
                if built.len() > 1 {
                    report::say(&format!("\n{} ({}):", one.plan.recipe, one.plan.arch));
                }
                settings.talk.error(error);
            }
            Ok(outcome) if !settings.talk.quiet => {
                let image = image_of(outcome);
                let how = if matches!(outcome, Outcome::Existing { .. }) { "exists" } else { "baked" };
                let digest = image.sha256.map(|sha256| format!("  sha256:{}", sha256.short(12))).unwrap_or_default();
                let artifact = &one.plan.artifact;
                let vouched = match artifact.evidence {
                    Some(level) if level.is_unauthenticated() => "  BuildKit UNAUTHENTICATED (first-use)".to_owned(),
                    Some(level) => format!("  BuildKit {} ({level})", artifact.version),
                    None => format!("  BuildKit {} (the lock does not say who vouches for it)", artifact.version),
                };
                report::say(&format!("{how}  {}  {}{digest}{vouched}", image.name, human_bytes(image.size_bytes)));
            }
            Ok(_) => {}
        }
    }
    if !settings.talk.quiet {
        report::say(&format!("in {}", human_time(started.elapsed())));
    }
}
