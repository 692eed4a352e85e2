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
use crate::release::{Arch, Channel, Index, Lock, LockedArtifact, Platform, Version};
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
    /// Architectures to pin, and no others [default: those that the lock pins, or all]
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
        let newest = newest(args, index.as_ref(), &platforms)?;
        // Never back by itself: a lock that is ahead of the channel stays.
        let ahead = newest.map(|newest| lock.as_ref().map_or(newest, |lock| lock.version.max(newest)));
        let Some(version) = args.to.or(ahead) else { return Err(Error::usage("there is no version to move to")) };
        let passed_over = passed_over(args, index.as_ref(), &platforms, version);
        let least = least(settings, version, args.trust_on_first_use)?;
        let told = Told { settings, args, before: lock.as_ref(), newest, passed_over };
        if args.to.is_none()
            && let Some(lock) = &lock
            && is_there(lock, version, least, &platforms)
        {
            told.tell(lock);
            return Ok(Exit::Done);
        }
        let gather = args.place.gather(settings, version, index.as_ref(), &root, lock.as_ref());
        let looked = until_cancelled(&cancel, gather.look(&platforms, &reporter)).await?;
        let renewed = gather.renew(looked, least, &reporter, &cancel).await?;
        if !args.dry_run && lock.as_ref() != Some(&renewed.lock) {
            renewed.lock.save(&settings.lock)?;
        }
        told.tell(&renewed.lock);
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

/// The newest version of the channel; none when a version is named.
fn newest(args: &UpdateArgs, index: Option<&Index>, platforms: &[Platform]) -> Result<Option<Version>> {
    if args.to.is_some() {
        return Ok(None);
    }
    let newest = index.and_then(|index| index.newest(args.channel, platforms)).map(|listed| listed.version);
    newest.map(Some).ok_or_else(|| {
        Error::host(format!("the list of releases has none with a tarball for {}", joined(platforms)))
            .with_hint("`amibake releases` shows what it has")
    })
}

/// Newer releases that are not moved to, each with why.
fn passed_over(
    args: &UpdateArgs,
    index: Option<&Index>,
    platforms: &[Platform],
    version: Version,
) -> Vec<(Version, Vec<Platform>)> {
    let Some(index) = index.filter(|_| args.to.is_none()) else { return Vec::new() };
    let over = index.passed_over(args.channel, platforms, version);
    over.map(|listed| (listed.version, listed.lacking(platforms))).collect()
}

/// Whether the lock says all that an update would find out, and pins nothing else.
fn is_there(lock: &Lock, version: Version, least: Level, platforms: &[Platform]) -> bool {
    lock.version == version && lock.artifacts.keys().eq(platforms) && lock.demand(least).is_ok()
}

fn joined(platforms: &[Platform]) -> String {
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(" and ")
}

/// What the user is told at the end.
struct Told<'a> {
    settings: &'a Settings,
    args: &'a UpdateArgs,
    before: Option<&'a Lock>,
    newest: Option<Version>,
    passed_over: Vec<(Version, Vec<Platform>)>,
}

impl Told<'_> {
    fn tell(&self, after: &Lock) {
        let changed = self.before != Some(after);
        let before = self.before.map(|lock| &lock.artifacts);
        let dropped: Vec<&Platform> =
            before.into_iter().flat_map(|all| all.keys()).filter(|key| !after.artifacts.contains_key(key)).collect();
        if self.args.json {
            let artifacts: Vec<_> = after
                .artifacts
                .iter()
                .map(|(platform, artifact)| {
                    json!({
                        "platform": platform, "url": artifact.url, "sha256": artifact.sha256,
                        "size_bytes": artifact.size, "evidence": artifact.evidence,
                    })
                })
                .collect();
            let over: Vec<_> = self
                .passed_over
                .iter()
                .map(|(version, lacking)| json!({ "version": version, "lacks": lacking }))
                .collect();
            report::print_json(&json!({
                "lock": self.settings.lock, "from": self.before.map(|lock| lock.version), "to": after.version,
                "changed": changed, "written": changed && !self.args.dry_run, "stand_in": after.stand_in,
                "artifacts": artifacts, "dropped": dropped, "passed_over": over,
            }));
            return;
        }
        let dropped = dropped.iter().map(|platform| format!("  {platform}  is no longer pinned"));
        let over = self.passed_over.iter().map(|(version, lacking)| {
            format!("  {version} is passed over: it has no tarball for {} (yet)", joined(lacking))
        });
        let rows = after.artifacts.iter().map(|(platform, artifact)| row(*platform, artifact));
        let lines = std::iter::once(self.head(after)).chain(rows).chain(dropped).chain(over);
        report::print(&lines.collect::<Vec<_>>().join("\n"));
    }

    fn head(&self, after: &Lock) -> String {
        let version = after.version;
        if self.before == Some(after) {
            return match self.newest {
                None => format!("{version} is what the lock pins, and all of it holds: nothing to change"),
                Some(newest) if newest < version => {
                    format!("{version} is ahead of {newest}, the newest of the channel: nothing to change")
                }
                Some(_) => format!("{version} is the newest: nothing to change"),
            };
        }
        let dry = if self.args.dry_run { " (dry run: the lock stays as it is)" } else { "" };
        match self.before {
            Some(before) if before.version == version => format!("{version} stays, its pins change{dry}"),
            Some(before) => format!("{} -> {version}{dry}", before.version),
            None => format!("no lock -> {version}{dry}"),
        }
    }
}

fn row(platform: Platform, artifact: &LockedArtifact) -> String {
    let vouched = match &artifact.evidence {
        None => "nothing said".to_owned(),
        Some(evidence) => match &evidence.signed {
            Some(signed) => format!("{}: {}", evidence.level, signed.identity),
            None if evidence.level.is_unauthenticated() => format!("{}: UNAUTHENTICATED", evidence.level),
            None => format!("{}: {}", evidence.level, evidence.recorded.as_deref().unwrap_or_default()),
        },
    };
    format!("  {platform}  sha256:{}  {vouched}", artifact.sha256)
}
