//! A verified release tarball.

use std::path::{Path, PathBuf};

use super::{Arch, Sha256, Version};

/// A release tarball whose bytes hash to what the lock pins and whose members are what a recipe may unpack. Only
/// verification makes one.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub(super) version: Version,
    pub(super) arch: Arch,
    pub(super) path: PathBuf,
    pub(super) sha256: Sha256,
    pub(super) size: u64,
    pub(super) members: Vec<String>,
    pub(super) stand_in: bool,
    pub(super) cached: bool,
}

impl Artifact {
    /// Version of BuildKit.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Architecture of its programs.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The tarball, in the cache.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Digest of the tarball.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// Size of the tarball in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its regular files, by their names in the tarball: `bin/buildctl`.
    #[must_use]
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// True for the stand-in release that tests make.
    #[must_use]
    pub fn stand_in(&self) -> bool {
        self.stand_in
    }

    /// True when the cache had it: the place where it is published was asked for nothing.
    #[must_use]
    pub fn cached(&self) -> bool {
        self.cached
    }
}

/// What tests of other modules hold instead of a verified tarball: it stands for one and names no file.
#[cfg(test)]
pub(crate) fn unverified_for_tests() -> Artifact {
    Artifact {
        version: Version::new(0, 31, 2),
        arch: Arch::Amd64,
        path: PathBuf::from("/nowhere/buildkit.tar.gz"),
        sha256: Sha256::of(b"buildkit"),
        size: 8,
        members: vec!["bin/buildctl".to_owned()],
        stand_in: true,
        cached: false,
    }
}
