//! Digests that others publish: a second public record of what BuildKit's releases are.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::release::{Platform, Sha256, Version};

/// A digest that somebody else publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The tarball's digest.
    pub sha256: Sha256,
    /// Who publishes it, and where.
    pub source: &'static str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    sources: BTreeMap<String, String>,
    digest: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    version: Version,
    platform: Platform,
    sha256: Sha256,
    source: String,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // A test reads it: what ships is well-formed.
    toml::from_str(include_str!("../../../assets/known-digests.toml"))
        .unwrap_or_else(|_| Table { sources: BTreeMap::new(), digest: Vec::new() })
});

/// The record of the tarball of `version` for `platform`, if there is one.
#[must_use]
pub fn recorded(version: Version, platform: Platform) -> Option<Recorded> {
    let row = TABLE.digest.iter().find(|row| row.version == version && row.platform == platform)?;
    let source = TABLE.sources.get(&row.source)?;
    Some(Recorded { sha256: row.sha256, source })
}

/// How many digests are known, and of which newest version.
#[must_use]
pub fn known_digests() -> (usize, Option<Version>) {
    (TABLE.digest.len(), TABLE.digest.iter().map(|row| row.version).max())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::release::Arch;

    #[test]
    fn every_row_can_be_found_and_no_tarball_has_two() {
        let table: Table = toml::from_str(include_str!("../../../assets/known-digests.toml")).unwrap();
        assert_eq!(table.digest.len(), 100);
        let keys: BTreeSet<_> = table.digest.iter().map(|row| (row.version, row.platform)).collect();
        let digests: BTreeSet<_> = table.digest.iter().map(|row| row.sha256).collect();
        assert_eq!((keys.len(), digests.len()), (100, 100));
        for row in &table.digest {
            assert_eq!(recorded(row.version, row.platform).unwrap().sha256, row.sha256);
        }
    }

    #[test]
    fn the_release_of_the_shipped_lock_and_one_before_signatures() {
        let digest = |version: &str, arch| recorded(version.parse().unwrap(), Platform(arch)).map(|row| row.sha256);
        let lock = crate::release::Lock::parse(include_str!("../../../amibake.lock"), "amibake.lock".as_ref()).unwrap();
        assert_eq!(digest("v0.31.2", Arch::Arm64), Some(lock.artifact(Arch::Arm64).unwrap().sha256));
        assert!(digest("v0.13.2", Arch::Amd64).is_some());
        assert_eq!(digest("v0.8.2", Arch::Arm64), None);
    }
}
