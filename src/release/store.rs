//! The content-addressed cache of verified tarballs: `<cache>/releases/sha256/<digest>.tar.gz`, beside each a record of
//! what reading it found. A file gets its name only after it was hashed and read; it is hashed again before every use,
//! and read again when there is no record of this policy for it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Sha256;
use crate::error::{Context, Result};

/// Counts the versions of what `archive` refuses: a record by another is not believed.
const POLICY: u32 = 1;

/// The places of one tarball.
pub(super) struct Store {
    folder: PathBuf,
    digest: Sha256,
}

/// What reading a tarball found: a function of its bytes, so the digest that names the tarball vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    policy: u32,
    sha256: Sha256,
    /// The tarball's regular files.
    pub(super) members: Vec<String>,
}

impl Store {
    /// The places for the tarball with this digest.
    pub(super) fn new(cache_dir: &Path, digest: Sha256) -> Self {
        Self { folder: cache_dir.join("releases").join("sha256"), digest }
    }

    /// Where the verified tarball lies.
    pub(super) fn tarball(&self) -> PathBuf {
        self.folder.join(format!("{}.tar.gz", self.digest))
    }

    /// Where it lies after it was hashed and before it was read.
    pub(super) fn unread(&self) -> PathBuf {
        self.folder.join(format!("{}.unread", self.digest))
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.digest))
    }

    /// Makes the folder.
    pub(super) fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).or_host(|| format!("cannot make the cache folder {}", self.folder.display()))
    }

    /// The record of an earlier reading, if there is one that can be believed.
    pub(super) fn record(&self) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.record_path()).ok()?).ok()?;
        (record.policy == POLICY && record.sha256 == self.digest).then_some(record)
    }

    /// Takes over the tarball that was hashed and read.
    pub(super) fn accept(&self, members: &[String]) -> Result<()> {
        let accept = || -> io::Result<()> {
            let record = Record { policy: POLICY, sha256: self.digest, members: members.to_vec() };
            let mut new = tempfile::NamedTempFile::new_in(&self.folder)?;
            serde_json::to_writer(&mut new, &record)?;
            new.flush()?;
            new.persist(self.record_path())?;
            // Not forced to the disk: what a crash leaves of it, the next hash finds out.
            fs::rename(self.unread(), self.tarball())
        };
        accept().or_host(|| format!("cannot write to the cache folder {}", self.folder.display()))
    }

    /// Removes all of a tarball that is damaged or refused.
    pub(super) fn remove(&self) -> Result<()> {
        for path in [self.tarball(), self.unread(), self.record_path()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).or_host(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Keeps a release's SBOM in the cache, under its digest: `<cache>/releases/sbom/<digest>.json`.
///
/// # Errors
/// Exit 4 when the cache cannot be written.
pub(super) fn keep_sbom(cache_dir: &Path, sbom: &[u8]) -> Result<()> {
    let folder = cache_dir.join("releases").join("sbom");
    let keep = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        let mut new = tempfile::NamedTempFile::new_in(&folder)?;
        new.write_all(sbom)?;
        new.persist(folder.join(format!("{}.json", Sha256::of(sbom))))?;
        Ok(())
    };
    keep().or_host(|| format!("cannot write to the cache folder {}", folder.display()))
}

/// Tarballs in the cache that `lock` does not pin, with their sizes in bytes. Another project may pin them: all that is lost
/// with one is the time to fetch it.
///
/// # Errors
/// Exit 4 when the cache cannot be read.
pub fn unpinned(cache_dir: &Path, lock: Option<&super::Lock>) -> Result<Vec<(Sha256, u64)>> {
    let folder = cache_dir.join("releases").join("sha256");
    let context = || format!("cannot read the cache folder {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.or_host(context)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.or_host(context)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(Ok(digest)) = name.strip_suffix(".tar.gz").map(str::parse::<Sha256>) else { continue };
        let pinned = lock.is_some_and(|lock| lock.artifacts.values().any(|artifact| artifact.sha256 == digest));
        if !pinned {
            found.push((digest, entry.metadata().or_host(context)?.len()));
        }
    }
    found.sort_by_key(|(digest, _)| digest.to_string());
    Ok(found)
}

/// Removes a tarball from the cache, with what was noted of it.
///
/// # Errors
/// Exit 4.
pub fn forget(cache_dir: &Path, digest: Sha256) -> Result<()> {
    Store::new(cache_dir, digest).remove()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_lock_pins_is_found_and_forgotten() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(unpinned(cache.path(), None).unwrap(), []);
        let digest = Sha256::of(b"tarball");
        let store = Store::new(cache.path(), digest);
        store.create().unwrap();
        fs::write(store.unread(), "tarball").unwrap();
        store.accept(&[]).unwrap();
        fs::write(cache.path().join("releases/sha256/readme"), "").unwrap();
        assert_eq!(unpinned(cache.path(), None).unwrap(), [(digest, 7)]);
        let artifact = crate::release::LockedArtifact::pinned(String::new(), digest);
        let platform = crate::release::Platform(crate::release::Arch::Amd64);
        let lock = crate::release::Lock {
            version: crate::release::Version::new(0, 31, 2),
            stand_in: true,
            artifacts: [(platform, artifact)].into(),
        };
        assert_eq!(unpinned(cache.path(), Some(&lock)).unwrap(), []);
        forget(cache.path(), digest).unwrap();
        assert_eq!(unpinned(cache.path(), None).unwrap(), []);
        assert!(!store.record_path().exists());
    }

    #[test]
    fn only_a_record_of_this_policy_for_this_tarball_is_believed() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path(), Sha256::of(b"tarball"));
        store.create().unwrap();
        fs::write(store.unread(), "tarball").unwrap();
        store.accept(&["bin/a".into()]).unwrap();
        assert!(store.tarball().exists() && !store.unread().exists());
        assert_eq!(store.record().unwrap().members, ["bin/a"]);
        let good = fs::read_to_string(store.record_path()).unwrap();
        let other = Sha256::of(b"other").to_string();
        for bad in [
            good.replace("\"policy\":1", "\"policy\":0"),
            good.replace(&store.digest.to_string(), &other),
            good.replace("members", "memberz"),
            good[..good.len() / 2].to_owned(),
        ] {
            fs::write(store.record_path(), &bad).unwrap();
            assert_eq!(store.record(), None, "{bad}");
        }
        store.remove().unwrap();
        assert_eq!(fs::read_dir(store.folder).unwrap().count(), 0);
    }
}
