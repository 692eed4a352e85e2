//! `amibake update`.

use clap::Args;
use serde_json::json;

use super::prepare::until_cancelled;
use super::releases::{ReleasePlace, Trusting, lock_if_any, platforms, reporter};
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::cli::Settings;
use crate::config::FILE;
use crate::error::{Error, Exit, Result, in_a_line};
use crate::release::evidence::Level;
use crate::release::{Arch, Channel, Index, Lock, Platform, Version};
use crate::report;

/// `amibake update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// To this version [default: the newest of the channel]
    #[arg(long, value_name = "VERSION")]
    to: Option<Version>,
    #[command(flatten)]
    place: ReleasePlace,
    #[command(flatten)]
    trusting: Trusting,
    /// Which versions count
    #[arg(long, value_name = "CHANNEL", default_value = "stable", conflicts_with = "to")]
    channel: Channel,
    /// Architectures to pin [default: those that the lock pins, or all]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Believe a release from before v0.27.0 that nobody vouches for; it is shown as unauthenticated from then on
    #[arg(long)]
    trust_on_first_use: bool,
    /// Look at everything, and leave the lock as it is
    #[arg(long)]
    dry_run: bool,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// The least that must vouch for `version`.
pub(super) fn least(settings: &Settings, version: Version, first_use: bool) -> Result<Level> {
    match (settings.config.trust.require, first_use) {
        (Some(require), true) if require > Level::FirstUse => {
            Err(Error::usage(format!("{FILE} demands `{require}`, which --trust-on-first-use would undo"))
                .with_hint(format!("leave the flag out, or change `[trust] require` in {FILE}")))
        }
        (_, true) => Ok(Level::FirstUse),
        (Some(require), false) => Ok(require),
        (None, false) => Ok(Level::of_era(version)),
    }
}

pub(crate) fn run(settings: &Settings, args: &UpdateArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = reporter(settings);
        let lock = lock_if_any(settings)?;
        let root = args.trusting.root(settings)?;
        let platforms = platforms(&args.arch, lock.as_ref());
        let index = until_cancelled(&cancel, index(settings, args, &reporter)).await?;
        let version = target(args, index.as_ref(), lock.as_ref(), &platforms)?;
        let least = least(settings, version, args.trust_on_first_use)?;
        if args.to.is_none() && lock.as_ref().is_some_and(|lock| is_there(lock, version, least, &platforms)) {
            tell(settings, args, lock.as_ref(), lock.as_ref());
            return Ok(Exit::Done);
        }
        let gather = args.place.gather(settings, version, index.as_ref(), &root, lock.as_ref());
        let looked = until_cancelled(&cancel, gather.look(&platforms, &reporter)).await?;
        let renewed = gather.renew(looked, least, &reporter, &cancel).await?;
        if !args.dry_run && lock.as_ref() != Some(&renewed.lock) {
            renewed.lock.save(&settings.lock)?;
        }
        tell(settings, args, lock.as_ref(), Some(&renewed.lock));
        Ok(Exit::Done)
    })
}

/// The index; a version that is named can do without.
async fn index(settings: &Settings, args: &UpdateArgs, reporter: &Reporter) -> Result<Option<Index>> {
    match (args.place.index(settings, reporter).await, args.to) {
        (Ok(index), _) => Ok(Some(index)),
        (Err(error), Some(version)) if error.exit() == Exit::Host => {
            reporter.note(format!("{version} is fetched without the list of releases: {}", in_a_line(&error)));
            Ok(None)
        }
        (Err(error), _) => Err(error),
    }
}

/// The version to move to. Never back by itself: a lock that is ahead of the channel stays.
fn target(args: &UpdateArgs, index: Option<&Index>, lock: Option<&Lock>, platforms: &[Platform]) -> Result<Version> {
    if let Some(version) = args.to {
        return Ok(version);
    }
    let newest = index.and_then(|index| index.newest(args.channel, platforms)).map(|listed| listed.version);
    let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    let newest = newest.ok_or_else(|| {
        Error::host(format!("the list of releases has none with a tarball for {}", names.join(" and ")))
            .with_hint("`amibake releases` shows what it has")
    })?;
    Ok(lock.map_or(newest, |lock| lock.version.max(newest)))
}

/// Whether the lock says all that an update would find out.
fn is_there(lock: &Lock, version: Version, least: Level, platforms: &[Platform]) -> bool {
    let pinned = platforms.iter().all(|platform| lock.artifacts.contains_key(platform));
    lock.version == version && pinned && lock.demand(least).is_ok()
}

fn tell(settings: &Settings, args: &UpdateArgs, before: Option<&Lock>, after: Option<&Lock>) {
    let Some(after) = after else { return };
    let changed = before != Some(after);
    if args.json {
        let artifacts: Vec<_> = after
            .artifacts
            .iter()
            .map(|(platform, artifact)| {
                json!({
                    "platform": platform, "url": artifact.url, "sha256": artifact.sha256, "size_bytes": artifact.size,
                    "evidence": artifact.evidence,
                })
            })
            .collect();
        report::print_json(&json!({
            "lock": settings.lock, "from": before.map(|lock| lock.version), "to": after.version, "changed": changed,
            "written": changed && !args.dry_run, "stand_in": after.stand_in, "artifacts": artifacts,
        }));
        return;
    }
    let from = before.map_or_else(|| "no lock".to_owned(), |lock| lock.version.to_string());
    let head = match (changed, args.dry_run) {
        (false, _) => format!("{} stays, the lock says all there is to say", after.version),
        (true, dry) => {
            let dry = if dry { " (dry run: the lock stays as it is)" } else { "" };
            format!("{from} -> {}{dry}", after.version)
        }
    };
    let rows = after.artifacts.iter().map(|(platform, artifact)| {
        let vouched = match &artifact.evidence {
            None => "nothing said".to_owned(),
            Some(evidence) => match &evidence.signed {
                Some(signed) => format!("{}: {}", evidence.level, signed.identity),
                None if evidence.level.is_unauthenticated() => format!("{}: UNAUTHENTICATED", evidence.level),
                None => format!("{}: {}", evidence.level, evidence.recorded.as_deref().unwrap_or_default()),
            },
        };
        format!("  {platform}  sha256:{}  {vouched}", artifact.sha256)
    });
    report::print(&std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n"));
}
