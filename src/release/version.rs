//! A BuildKit version: a stable release tag `vMAJOR.MINOR.PATCH`.

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
}

impl Version {
    /// `v<major>.<minor>.<patch>`.
    #[must_use]
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
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
        if !parsed.pre.is_empty() || !parsed.build.is_empty() {
            return Err(bad());
        }
        Ok(Self::new(parsed.major, parsed.minor, parsed.patch))
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

    #[test]
    fn only_stable_tags_are_versions_and_they_order_by_number() {
        assert!("v0.9.3".parse::<Version>().unwrap() < "v0.31.2".parse::<Version>().unwrap());
        for bad in ["0.31.2", "v0.31", "v0.31.2-rc1", "dockerfile/1.4.0", "v0.31.2+x", "v00.1.2", ""] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
