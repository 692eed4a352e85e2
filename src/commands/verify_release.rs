//! `amibake verify-release`.

use clap::Args;
use serde_json::{Value, json};

use super::prepare::until_cancelled;
use super::releases::{ReleasePlace, Trusting, lock_if_any, platforms, reporter};
use super::signals::cancel_on_signal;
use super::update::least;
use crate::cli::Settings;
use crate::error::{Error, Exit, Result, in_a_line};
use crate::release::evidence::{Level, Outcome, TrustedRoot, Verdict};
use crate::release::{Arch, Artifact, Version};
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
        let gather = args.place.gather(settings, version, index.as_ref(), &root, lock.as_ref());
        let looked = until_cancelled(&cancel, gather.look(&platforms, &reporter)).await?;
        let verdicts: Vec<Verdict> = looked.iter().map(|one| one.verdict.clone()).collect();
        let least = least(settings, version, false)?;
        // What the evidence is about: the tarball itself. One whose evidence is refused is not fetched.
        let demanded = verdicts.iter().try_for_each(|verdict| verdict.demand(Level::FirstUse));
        let fetched = match demanded {
            Err(error) => Err(error),
            Ok(()) => gather.renew(looked, Level::FirstUse, &reporter, &cancel).await,
        };
        let (tarballs, failure) = match fetched {
            Ok(renewed) => (renewed.artifacts, None),
            // Refused: the table says what of it. Anything else has told us nothing.
            Err(error) if error.exit() == Exit::Refused => (Vec::new(), Some(error)),
            Err(error) => return Err(error),
        };
        let reached = verdicts.iter().try_for_each(|verdict| verdict.demand(least)).err();
        let refusal = failure.or(reached);
        let shown = Shown { version, least, root: &root, verdicts: &verdicts, tarballs: &tarballs, refusal: &refusal };
        if args.json {
            report::print_json(&shown.json());
        } else {
            let tables = verdicts.iter().map(|verdict| table(verdict, shown.tarball(verdict)));
            report::print(&tables.collect::<Vec<_>>().join("\n\n"));
        }
        Ok(match refusal {
            None => Exit::Done,
            Some(error) => {
                settings.talk.error(&error);
                Exit::Refused
            }
        })
    })
}

/// All that is shown.
struct Shown<'a> {
    version: Version,
    least: Level,
    root: &'a TrustedRoot,
    verdicts: &'a [Verdict],
    tarballs: &'a [Artifact],
    refusal: &'a Option<Error>,
}

impl<'a> Shown<'a> {
    fn tarball(&self, verdict: &Verdict) -> Option<&'a Artifact> {
        self.tarballs.iter().find(|artifact| artifact.arch() == verdict.platform.0)
    }

    fn json(&self) -> Value {
        let platforms: Vec<Value> = self
            .verdicts
            .iter()
            .map(|verdict| {
                let tarball = self.tarball(verdict);
                let tarball =
                    tarball.map(|artifact| json!({ "size_bytes": artifact.size(), "sha256": artifact.sha256() }));
                json!({
                    "platform": verdict.platform, "level": verdict.evidence.level, "evidence": verdict.evidence,
                    "checks": verdict.checks, "tarball": tarball,
                })
            })
            .collect();
        json!({
            "version": self.version, "demanded": self.least, "accepted": self.refusal.is_none(), "platforms": platforms,
            "trusted_root": { "name": self.root.name(), "newest": self.root.newest() },
            "error": self.refusal.as_ref().map(report::error_json),
        })
    }
}

fn table(verdict: &Verdict, tarball: Option<&Artifact>) -> String {
    let mark = |outcome| match outcome {
        Outcome::Holds => '✓',
        Outcome::Agrees => '~',
        Outcome::Absent => '-',
        Outcome::Refused => '✗',
    };
    let mut rows: Vec<(char, &str, String)> =
        verdict.checks.iter().map(|check| (mark(check.outcome), check.what, report::clean(&check.found))).collect();
    let refused = verdict.refusals().next().is_some();
    rows.push(match tarball {
        Some(artifact) => {
            let size = report::human_bytes(artifact.size());
            let said = if verdict.digest.is_some() { "as all of the above says" } else { "whatever came" };
            (if verdict.digest.is_some() { '✓' } else { '~' }, "tarball", format!("{size}, {said}"))
        }
        None => ('-', "tarball", "not fetched, or not what it should be".to_owned()),
    });
    let width = rows.iter().map(|(_, what, _)| what.len()).max().unwrap_or(0);
    let level = match (refused, verdict.evidence.level) {
        (true, _) => "REFUSED".to_owned(),
        (false, Level::FirstUse) => "first-use: UNAUTHENTICATED".to_owned(),
        (false, level) => level.to_string(),
    };
    let head = format!("BuildKit {} ({}): {level}", verdict.version, verdict.platform);
    let lines = rows.iter().map(|(mark, what, found)| format!("{mark} {what:width$}  {found}"));
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}
