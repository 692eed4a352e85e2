//! `amibake.lock`: the pinned release, one for both images.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Arch, Platform, Sha256, Version};
use crate::error::{Error, Result};

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
    /// Reads the lock at `path`.
    ///
    /// # Errors
    /// Exit 2 with line and column when it is not a lock, exit 2 with a hint when there is none.
    pub fn load(path: &Path) -> Result<Self> {
        Err(Error::usage(format!("cannot read {}", path.display())))
    }

    /// The tarball for `arch`, if the lock has it.
    #[must_use]
    pub fn artifact(&self, arch: Arch) -> Option<&LockedArtifact> {
        self.artifacts.get(&Platform(arch))
    }
}
