//! Why a tarball is believed: what its release offers beside it, what of that holds, and which level it comes to. PURE:
//! bytes and digests come in, a verdict goes out; `gather` fetches them. Nothing here makes an `Artifact`.

mod bundle;
mod known;
mod statement;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Platform, Sha256, Version};
use crate::config::FILE;
use crate::error::{Error, Result};

pub use bundle::{Signed, TrustedRoot};
pub use known::{known_digests, recorded};

/// The first version whose releases are signed (from BuildKit's release workflow and its releases).
pub const FIRST_SIGNED: Version = Version::new(0, 27, 0);

/// What to do about a refusal that has no other cause than the release.
const DO_NOT_USE: &str = "do not use this release: ask its publisher, or choose another version";

/// How well a digest is vouched for, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// By nobody: it was believed because it was the first to come.
    FirstUse,
    /// By a second public record.
    Recorded,
    /// By a Sigstore signature of BuildKit's release workflow.
    Signature,
}

impl Level {
    /// All of them, weakest first.
    pub const ALL: [Level; 3] = [Level::FirstUse, Level::Recorded, Level::Signature];

    /// The word for it, the same in the lock, tags, flags and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::FirstUse => "first-use",
            Level::Recorded => "recorded",
            Level::Signature => "signature",
        }
    }

    /// The strongest level that releases like `version` offer: what is demanded where nobody says anything else.
    #[must_use]
    pub fn of_era(version: Version) -> Self {
        if version.is_signed_era() { Level::Signature } else { Level::Recorded }
    }

    /// Whether it proves nothing about who made the tarball.
    #[must_use]
    pub fn is_unauthenticated(self) -> bool {
        self == Level::FirstUse
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = Level::ALL.into_iter().find(|level| level.as_str() == text);
        known.ok_or_else(|| format!("unknown level `{text}`, expected `signature`, `recorded` or `first-use`"))
    }
}

/// What the lock keeps of the evidence for one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// How well the digest is vouched for.
    pub level: Level,
    /// What the signature says; only at the level `signature`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    /// Who else publishes the same digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,
    /// SHA-256 of the release's SBOM, which lies in the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sbom_sha256: Option<Sha256>,
}

/// What the index says of an asset's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stated {
    /// This one.
    Digest(Sha256),
    /// The index has the asset and says nothing: GitHub's does since about v0.23.
    Nothing,
    /// The index was not read, or does not list the release.
    Unknown,
}

/// What a release has for one platform.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which release.
    pub version: Version,
    /// Which platform.
    pub platform: Platform,
    /// `….sigstore.json`.
    pub bundle: Option<Vec<u8>>,
    /// `….provenance.json`.
    pub provenance: Option<Vec<u8>>,
    /// `….sbom.json`.
    pub sbom: Option<Vec<u8>>,
    /// The asset's digest in the index.
    pub stated: Stated,
    /// What the lock pins already. It wins over everything: a release whose bytes have changed is refused.
    pub pinned: Option<Sha256>,
}

/// How one look at the evidence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds, and it is proof.
    Holds,
    /// It holds, and proves nothing by itself.
    Agrees,
    /// There is nothing to look at.
    Absent,
    /// It does not hold.
    Refused,
}

/// One look at the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `identity`.
    pub what: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found; for a refusal, also what was expected.
    pub found: String,
    /// What to do about it, where that is not the same for every refusal.
    #[serde(skip)]
    hint: Option<String>,
}

impl Check {
    /// One with these words.
    #[must_use]
    pub fn new(what: &'static str, outcome: Outcome, found: impl Into<String>) -> Self {
        Self { what, outcome, found: found.into(), hint: None }
    }
}

/// All that was looked at for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which release.
    pub version: Version,
    /// Which platform.
    pub platform: Platform,
    /// In the order in which it was looked at, strongest first.
    pub checks: Vec<Check>,
    /// The tarball's digest, by the strongest that says one. None when nothing does.
    pub digest: Option<Sha256>,
    /// What the lock keeps.
    pub evidence: Evidence,
}

/// Looks at everything that is offered.
#[must_use]
pub fn judge(offer: &Offer, root: &TrustedRoot) -> Verdict {
    let (version, platform) = (offer.version, offer.platform);
    let file = super::lock::file_name(version, platform);
    let mut checks = Vec::new();
    let signed = match &offer.bundle {
        Some(bundle) => bundle::check(bundle, version, &file, root, &mut checks),
        None if version.is_signed_era() => {
            let told = format!("the release has none, and every release since {FIRST_SIGNED} must");
            checks.push(Check::new("sigstore bundle", Outcome::Refused, told));
            None
        }
        None => {
            let told = format!("none: releases are signed since {FIRST_SIGNED}");
            checks.push(Check::new("sigstore bundle", Outcome::Absent, told));
            None
        }
    };
    let mut digest = signed.as_ref().map(|(digest, _)| *digest);
    let mut recorded = None;
    match known::recorded(version, platform) {
        None => checks.push(Check::new("second record", Outcome::Absent, "none is known to this amibake")),
        Some(record) => {
            let agrees = compare("second record", record.sha256, &mut digest, record.source, Outcome::Holds);
            recorded = (agrees.outcome == Outcome::Holds).then(|| record.source.to_owned());
            checks.push(agrees);
        }
    }
    checks.push(match &offer.provenance {
        None => Check::new("provenance", Outcome::Absent, "the release has none"),
        Some(bytes) => match statement::provenance_digest(bytes, &file) {
            Ok(stated) => compare("provenance", stated, &mut digest, "unsigned: no proof", Outcome::Agrees),
            Err(reason) => unreadable("provenance", bytes, reason),
        },
    });
    checks.push(match &offer.stated {
        Stated::Digest(stated) => {
            compare("index's digest", *stated, &mut digest, "by the release server: no proof", Outcome::Agrees)
        }
        Stated::Nothing => Check::new("index's digest", Outcome::Absent, "the index states none"),
        Stated::Unknown => {
            Check::new("index's digest", Outcome::Absent, "the index was not read, or lists no such file")
        }
    });
    if let Some(pinned) = offer.pinned {
        checks.push(compare("lock", pinned, &mut digest, "pinned there", Outcome::Agrees));
    }
    let level = match (&signed, &recorded) {
        (Some(_), _) => Level::Signature,
        (None, Some(_)) => Level::Recorded,
        (None, None) => Level::FirstUse,
    };
    let sbom_sha256 = offer.sbom.as_deref().map(Sha256::of);
    let evidence = Evidence { level, signed: signed.map(|(_, signed)| signed), recorded, sbom_sha256 };
    Verdict { version, platform, checks, digest, evidence }
}

/// A file that says nothing which could be believed. A web page in its place is no attack, and should not read like one; it is
/// refused all the same.
fn unreadable(what: &'static str, bytes: &[u8], reason: String) -> Check {
    if bytes.trim_ascii_start().first() != Some(&b'<') {
        return Check::new(what, Outcome::Refused, reason);
    }
    let hint = Some("the server sent a web page: is there a login or a proxy in between?".to_owned());
    Check { hint, ..Check::new(what, Outcome::Refused, format!("is a web page ({reason})")) }
}

/// Whether `stated` is what stronger evidence says; where there is none, it is what weaker evidence must equal.
fn compare(what: &'static str, stated: Sha256, digest: &mut Option<Sha256>, source: &str, if_equal: Outcome) -> Check {
    let known = *digest.get_or_insert(stated);
    if known == stated {
        Check::new(what, if_equal, format!("sha256:{stated} ({source})"))
    } else {
        Check::new(what, Outcome::Refused, format!("says sha256:{stated}, expected sha256:{known} ({source})"))
    }
}

impl Verdict {
    /// What does not hold.
    pub fn refusals(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Refused)
    }

    /// Demands that nothing was refused and that the level is reached. A level that no one may have to state: without a
    /// signature no release of the signed era passes, whatever is demanded.
    ///
    /// # Errors
    /// Exit 3, naming every refusal.
    pub fn demand(&self, least: Level) -> Result<()> {
        let (version, platform) = (self.version, self.platform);
        let refusals: Vec<String> =
            self.refusals().map(|check| format!("  {}: {}\n", check.what, check.found)).collect();
        if !refusals.is_empty() {
            return Err(Error::refused(format!("the evidence for BuildKit {version} ({platform}) is refused"))
                .with_detail(refusals.concat().trim_end().to_owned())
                .with_hint(self.refusals().find_map(|check| check.hint.as_deref()).unwrap_or(DO_NOT_USE)));
        }
        let reached = self.evidence.level;
        if reached < least {
            let message =
                format!("BuildKit {version} ({platform}) is vouched for by `{reached}`, and `{least}` is demanded");
            let hint = if least == Level::Signature {
                format!("releases are signed since {FIRST_SIGNED}: choose one of those, or set another `require`")
            } else {
                format!(
                    "to believe what comes first, and to be shown it as unauthenticated from then on: `amibake update \
                     --to {version} --trust-on-first-use`, or `[trust] require = \"first-use\"` in {FILE}"
                )
            };
            return Err(Error::refused(message).with_hint(hint));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
