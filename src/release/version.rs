//! A BuildKit version: a release tag `vMAJOR.MINOR.PATCH`, or one on the way to it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A published BuildKit version, ordered by semver precedence. Spelt with its `v`, as the tags are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major.
    pub major: u64,
    /// Minor.
    pub minor: u64,
    /// Patch.
    pub patch: u64,
    /// How far it is.
    pub stage: Stage,
}

/// How far a version is; what is not stable comes before what is. Spelt `-rc1` behind the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// `-alpha1`.
    Alpha(u32),
    /// `-beta3`.
    Beta(u32),
    /// `-rc2`.
    Candidate(u32),
    /// A release.
    Stable,
}

impl Version {
    /// `v<major>.<minor>.<patch>`.
    #[must_use]
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self { major, minor, patch, stage: Stage::Stable }
    }

    /// Whether it is a release, and not on the way to one.
    #[must_use]
    pub fn is_stable(self) -> bool {
        self.stage == Stage::Stable
    }

    /// Whether releases like it are signed: from v0.27.0 on, its candidates included.
    #[must_use]
    pub fn is_signed_era(self) -> bool {
        (self.major, self.minor) >= (0, 27)
    }

    /// Whether it is of v0.27, the first that were signed, in part by another workflow.
    #[must_use]
    pub fn is_first_signed(self) -> bool {
        (self.major, self.minor) == (0, 27)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch, stage } = self;
        let stage = match stage {
            Stage::Alpha(number) => format!("-alpha{number}"),
            Stage::Beta(number) => format!("-beta{number}"),
            Stage::Candidate(number) => format!("-rc{number}"),
            Stage::Stable => String::new(),
        };
        f.pad(&format!("v{major}.{minor}.{patch}{stage}"))
    }
}

/// `vX.Y.Z` was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a BuildKit version, expected the form `v0.31.2`")]
pub struct BadVersion(String);

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadVersion(text.to_owned());
        let parsed = semver::Version::parse(text.strip_prefix('v').ok_or_else(bad)?).map_err(|_| bad())?;
        if !parsed.build.is_empty() {
            return Err(bad());
        }
        let pre = parsed.pre.as_str();
        let number = |name: &str| pre.strip_prefix(name)?.parse::<u32>().ok();
        let stage = if pre.is_empty() {
            Some(Stage::Stable)
        } else {
            let early = || number("alpha").map(Stage::Alpha).or_else(|| number("beta").map(Stage::Beta));
            number("rc").map(Stage::Candidate).or_else(early)
        };
        let version = Self { stage: stage.ok_or_else(bad)?, ..Self::new(parsed.major, parsed.minor, parsed.patch) };
        // Only the one spelling: `-rc01` would be another tag.
        if version.to_string() == text { Ok(version) } else { Err(bad()) }
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_order_by_number_and_then_by_stage() {
        let ordered = ["v0.9.3", "v0.13.0-beta2", "v0.13.0-beta10", "v0.13.0-rc1", "v0.13.0", "v0.31.2", "v1.0.0"];
        assert!(ordered.map(version).is_sorted());
        assert_eq!(ordered.map(|text| version(text).to_string()), ordered);
        assert!(!version("v0.13.0-rc1").is_stable());
    }

    #[test]
    fn what_is_no_version_of_buildkit() {
        for bad in [
            "0.31.2",
            "v0.31",
            "dockerfile/1.4.0",
            "v0.31.2+x",
            "v00.1.2",
            "",
            "v0.31.2-rc",
            "v0.31.2-rc01",
            "v0.31.2-rc.1",
            "v0.31.2-labs1",
            "v0.31.2-rc1 ",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_signed_era_begins_with_its_candidates() {
        assert!(version("v0.27.0-rc1").is_signed_era() && version("v0.27.0").is_signed_era());
        assert!(version("v1.0.0").is_signed_era() && !version("v0.26.9").is_signed_era());
        assert!(version("v0.27.3").is_first_signed() && !version("v0.28.0").is_first_signed());
    }
}
