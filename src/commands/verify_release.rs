//! `amibake verify-release`.

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::prepare::until_cancelled;
use super::releases::{ReleasePlace, Trusting, lock_if_any, platforms, reporter};
use super::signals::cancel_on_signal;
use super::update::least;
use crate::bake::Reporter;
use crate::cli::Settings;
use crate::error::{Error, Exit, Result, in_a_line};
use crate::release::evidence::{Check, Evidence, Level, Outcome, TrustedRoot, Verdict};
use crate::release::{Arch, Gather, Gathered, Platform, Seen, Version};
use crate::report;

/// `amibake verify-release`.
#[derive(Debug, Args)]
pub struct VerifyReleaseArgs {
    /// The version [default: the lock's]
    #[arg(value_name = "VERSION")]
    release: Option<Version>,
    #[command(flatten)]
    place: ReleasePlace,
    #[command(flatten)]
    trusting: Trusting,
    /// Architectures [default: those that the lock pins, or all]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(settings: &Settings, args: &VerifyReleaseArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = reporter(settings);
        let lock = lock_if_any(settings)?;
        let Some(version) = args.release.or_else(|| lock.as_ref().map(|lock| lock.version)) else {
            return Err(Error::usage("there is no lock, and no version is named")
                .with_hint("name one: `amibake verify-release v0.31.2`"));
        };
        let root = args.trusting.root(settings)?;
        let platforms = platforms(&args.arch, lock.as_ref());
        let index = match until_cancelled(&cancel, args.place.index(settings, &reporter)).await {
            Err(error) if error.exit() == Exit::Host => {
                reporter.note(format!("without the list of releases: {}", in_a_line(&error)));
                None
            }
            index => Some(index?),
        };
        let least = least(settings, version, false)?;
        let gather = args.place.gather(settings, version, index.as_ref(), &root, lock.as_ref());
        let mut looked = look(&gather, &platforms, least, &reporter, &cancel).await?;
        let mut failures: Vec<Error> = looked.iter_mut().filter_map(|one| one.failure.take()).collect();
        // What is refused weighs more than what could not be had.
        failures.sort_by_key(|error| error.exit() != Exit::Refused);
        let failure = failures.into_iter().next();
        if args.json {
            report::print_json(&json(version, least, &root, &looked, failure.as_ref()));
        } else {
            report::print(&looked.iter().map(|one| one.table(version)).collect::<Vec<_>>().join("\n\n"));
        }
        Ok(failure.map_or(Exit::Done, |error| {
            settings.talk.error(&error);
            error.exit()
        }))
    })
}

/// Looks at evidence and tarballs, side by side, each platform for itself: what is wrong with one says nothing of the other.
async fn look(
    gather: &Gather<'_>,
    platforms: &[Platform],
    least: Level,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Vec<Looked>> {
    let each = join_all(platforms.iter().map(|platform| gather.look_at(*platform, reporter)));
    let (mut gathered, mut unread) = (Vec::new(), Vec::new());
    for (platform, result) in platforms.iter().zip(until_cancelled(cancel, async { Ok(each.await) }).await?) {
        match result {
            Ok(one) => gathered.push(one),
            Err(error) => unread.push((*platform, error)),
        }
    }
    if gathered.is_empty()
        && let Some((_, error)) = unread.pop()
    {
        return Err(error);
    }
    if gathered.iter().all(|one| one.missing) {
        gather.demand_there(&gathered)?;
    }
    let tarballs = gathered.iter().map(|one| tarball(gather, one, reporter, cancel));
    let mut looked = Vec::new();
    for (one, seen) in gathered.iter().zip(join_all(tarballs).await) {
        if let Some(Err(error)) = &seen
            && error.exit() == Exit::Interrupted
        {
            return Err(Error::interrupted());
        }
        looked.push(if one.missing {
            Looked::without(one.verdict.platform, "release", gather.demand_there(&gathered).err())
        } else {
            Looked::at(&one.verdict, seen, least)
        });
    }
    looked.extend(unread.into_iter().map(|(platform, error)| Looked::without(platform, "evidence", Some(error))));
    looked.sort_by_key(|one| one.platform);
    Ok(looked)
}

/// What the evidence is about: the tarball itself. One whose evidence is refused is not fetched.
async fn tarball(
    gather: &Gather<'_>,
    one: &Gathered,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Option<Result<Seen>> {
    if one.missing || one.verdict.refusals().next().is_some() {
        return None;
    }
    Some(gather.tarball(one, reporter, cancel).await)
}

/// All that was looked at for one platform.
struct Looked {
    platform: Platform,
    checks: Vec<Check>,
    /// What it comes to; none when something is refused, or nothing was seen.
    evidence: Option<Evidence>,
    tarball: Option<Seen>,
    /// Why it is not accepted.
    failure: Option<Error>,
    accepted: bool,
}

impl Looked {
    /// Nothing could be looked at: it is not there, or cannot be read.
    fn without(platform: Platform, what: &'static str, failure: Option<Error>) -> Self {
        let told = failure.as_ref().map(|error| in_a_line(error)).unwrap_or_default();
        let checks = vec![Check::new(what, Outcome::Absent, told)];
        Self { platform, checks, evidence: None, tarball: None, failure, accepted: false }
    }

    /// The verdict, with the tarball as its last row: none when it was not looked at.
    fn at(verdict: &Verdict, seen: Option<Result<Seen>>, least: Level) -> Self {
        let (check, tarball, failed) = match seen {
            None => (Check::new("tarball", Outcome::Absent, "not looked at: its evidence is refused"), None, None),
            Some(Ok(seen)) => (tarball_check(verdict, &seen), Some(seen), None),
            Some(Err(error)) => {
                // Anything but a refusal has told us nothing of the tarball.
                let refused = error.exit() == Exit::Refused;
                let outcome = if refused { Outcome::Refused } else { Outcome::Absent };
                // The two digests, if that is it: with the file's name before them the row would be cut short.
                let told = match error.detail() {
                    Some(detail) => {
                        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
                        detail.lines().map(words).collect::<Vec<_>>().join(", ")
                    }
                    None => in_a_line(&error),
                };
                (Check::new("tarball", outcome, told), None, Some(error))
            }
        };
        let failure = verdict.demand(Level::FirstUse).err().or(failed).or_else(|| verdict.demand(least).err());
        let checks: Vec<Check> = verdict.checks.iter().cloned().chain([check]).collect();
        let refused = checks.iter().any(|check| check.outcome == Outcome::Refused);
        let evidence = (!refused).then(|| verdict.evidence.clone());
        Self { platform: verdict.platform, checks, evidence, tarball, accepted: failure.is_none(), failure }
    }

    fn is_refused(&self) -> bool {
        self.checks.iter().any(|check| check.outcome == Outcome::Refused)
    }

    /// What the release comes to here; nothing without a tarball.
    fn level(&self) -> Option<Level> {
        self.tarball.as_ref().and(self.evidence.as_ref()).map(|evidence| evidence.level)
    }

    fn json(&self) -> Value {
        let tarball = self.tarball.as_ref().map(|Seen { artifact, published }| {
            json!({ "size_bytes": artifact.size(), "sha256": artifact.sha256(), "from_cache": !published })
        });
        json!({
            "platform": self.platform, "accepted": self.accepted, "level": self.level(), "evidence": self.evidence,
            "checks": self.checks, "tarball": tarball,
        })
    }

    fn table(&self, version: Version) -> String {
        let mark = |outcome| match outcome {
            Outcome::Holds => '✓',
            Outcome::Agrees => '~',
            Outcome::Absent => '-',
            Outcome::Refused => '✗',
        };
        let comes_to = match (self.is_refused(), self.level(), &self.evidence) {
            (true, _, _) => "REFUSED".to_owned(),
            (false, Some(Level::FirstUse), _) => "first-use: UNAUTHENTICATED".to_owned(),
            (false, Some(level), _) => level.to_string(),
            (false, None, Some(evidence)) => format!("UNKNOWN: evidence `{}`, and no tarball", evidence.level),
            (false, None, None) => "UNKNOWN: nothing to look at".to_owned(),
        };
        let width = self.checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
        let head = format!("BuildKit {version} ({}): {comes_to}", self.platform);
        let lines = self
            .checks
            .iter()
            .map(|check| format!("{} {:width$}  {}", mark(check.outcome), check.what, report::clean(&check.found)));
        std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

/// A tarball that is what it should be proves as much as what says so.
fn tarball_check(verdict: &Verdict, seen: &Seen) -> Check {
    let size = report::human_bytes(seen.artifact.size());
    let cached = if seen.published { "" } else { "; from the cache: what is published now was not looked at" };
    let (outcome, told) = match (verdict.digest, verdict.evidence.level) {
        (None, _) => (Outcome::Agrees, "whatever came"),
        (_, Level::FirstUse) => (Outcome::Agrees, "as said above, for which nobody vouches"),
        (_, Level::Recorded | Level::Signature) => (Outcome::Holds, "as all of the above says"),
    };
    Check::new("tarball", outcome, format!("{size}, {told}{cached}"))
}

fn json(version: Version, least: Level, root: &TrustedRoot, looked: &[Looked], failure: Option<&Error>) -> Value {
    json!({
        "version": version, "demanded": least, "accepted": failure.is_none(),
        "platforms": looked.iter().map(Looked::json).collect::<Vec<_>>(),
        "trusted_root": { "name": root.name(), "newest": root.newest() },
        "error": failure.map(report::error_json),
    })
}
