//! `amibake.lock`: the pinned release, one for both images.

use std::collections::BTreeMap;

use super::{Arch, Platform, Sha256, Version};

/// The pinned release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Version of BuildKit.
    pub version: Version,
    /// True for the stand-in release that tests make; a file called `amibake.lock` may not say so.
    pub stand_in: bool,
    /// One tarball for each platform.
    pub artifacts: BTreeMap<Platform, LockedArtifact>,
}

/// One tarball of the pinned release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedArtifact {
    /// Where it is published.
    pub url: String,
    /// What its bytes hash to.
    pub sha256: Sha256,
}

impl Lock {
    /// The tarball for `arch`, if the lock has it.
    #[must_use]
    pub fn artifact(&self, arch: Arch) -> Option<&LockedArtifact> {
        self.artifacts.get(&Platform(arch))
    }
}
