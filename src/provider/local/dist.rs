//! The catalog of local images: the folders below `dist` that have a manifest. Reads what it needs of each and trusts none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;

use crate::catalog::{Base, Entry, Snapshot, State};
use crate::error::{Context as _, Error, Result};
use crate::provider::Catalog;
use crate::release::evidence::Level;
use crate::release::{Arch, Version};
use crate::report::MANIFEST;

/// Images below a folder.
#[derive(Debug)]
pub struct Dist {
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Manifest {
    run: String,
    recipe: String,
    provider: String,
    arch: Arch,
    fingerprint: String,
    image: Described,
    base: Made,
    artifact: Artifact,
    finished: Timestamp,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    location: PathBuf,
    size_bytes: u64,
}

#[derive(Deserialize)]
struct Made {
    identity: String,
}

#[derive(Deserialize)]
struct Artifact {
    version: Version,
    stand_in: bool,
    #[serde(default)]
    evidence: Option<Level>,
}

impl Dist {
    /// Of this folder, which need not exist.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The image in `folder`, if there is one.
    fn entry(folder: &Path) -> Option<Entry> {
        let name = folder.file_name()?.to_str()?.to_owned();
        // A dot in front: a run is still writing it, or was killed.
        if name.starts_with('.') || folder.is_symlink() {
            return None;
        }
        let manifest: Manifest = serde_json::from_slice(&std::fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        if manifest.provider != "local" || manifest.image.name.is_empty() {
            return None;
        }
        let file = folder.join(&manifest.image.location);
        Some(Entry {
            id: folder.display().to_string(),
            name,
            region: None,
            recipe: manifest.recipe,
            buildkit: manifest.artifact.version,
            stand_in: manifest.artifact.stand_in,
            evidence: manifest.artifact.evidence,
            arch: manifest.arch,
            fingerprint: manifest.fingerprint,
            run: manifest.run,
            created: manifest.finished,
            base: Base { id: manifest.base.identity, created: None },
            state: if file.is_file() { State::Finished } else { State::Unusable },
            verified: None,
            source: None,
            snapshots: vec![Snapshot { id: file.display().to_string(), bytes: manifest.image.size_bytes }],
            protected: false,
            promoted: BTreeSet::new(),
            promoted_before: BTreeSet::new(),
            uses: BTreeSet::new(),
        })
    }
}

#[async_trait]
impl Catalog for Dist {
    fn region(&self) -> Option<&str> {
        None
    }

    async fn images(&self) -> Result<Vec<Entry>> {
        let context = || format!("cannot read {}", self.folder.display());
        let found = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found.or_host(context)?,
        };
        let mut entries = Vec::new();
        for one in found {
            entries.extend(Self::entry(&one.or_host(context)?.path()));
        }
        Ok(entries)
    }

    async fn delete(&self, entry: &Entry) -> Result<()> {
        let folder = Path::new(&entry.id);
        // What was chosen is what is there: never a folder that is no image's.
        if folder.parent() != Some(self.folder.as_path()) || Self::entry(folder).is_none_or(|now| now.run != entry.run)
        {
            return match folder.symlink_metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(Error::host(format!("{} is not the image any more that was looked at", folder.display()))),
            };
        }
        // Out of sight first: nobody finds half an image.
        let hidden = self.folder.join(format!(".{}.removed", entry.name));
        let context = || format!("cannot remove {}", folder.display());
        std::fs::rename(folder, &hidden).or_host(context)?;
        std::fs::remove_dir_all(&hidden).or_host(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dist: &Path, name: &str, provider: &str) -> PathBuf {
        let folder = dist.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = serde_json::json!({
            "schema": 1, "run": "20261124t145112-3fa9c1", "recipe": "builder", "provider": provider, "arch": "amd64",
            "fingerprint": "ab", "image": { "name": name, "location": "disk.qcow2", "size_bytes": 5 },
            "base": { "name": "debian", "identity": "sha256:00" },
            "artifact": { "version": "v0.31.2", "stand_in": true }, "finished": "2026-11-24T14:51:12Z",
        });
        std::fs::write(folder.join(MANIFEST), manifest.to_string()).unwrap();
        std::fs::write(folder.join("disk.qcow2"), "image").unwrap();
        folder
    }

    #[tokio::test]
    async fn lists_and_removes_only_what_it_baked() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Dist::new(dir.path().join("dist"));
        assert_eq!(catalog.images().await.unwrap(), []);
        let one = image(&dir.path().join("dist"), "builder-1", "local");
        image(&dir.path().join("dist"), "ami", "aws");
        image(&dir.path().join("dist"), ".half", "local");
        std::fs::create_dir(dir.path().join("dist/other")).unwrap();
        let images = catalog.images().await.unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!((images[0].bytes(), images[0].state), (5, State::Finished));
        // Somebody put another image there since.
        let mut other = images[0].clone();
        other.run = "another".to_owned();
        assert!(catalog.delete(&other).await.is_err());
        other.id = dir.path().display().to_string();
        assert!(catalog.delete(&other).await.is_err());
        catalog.delete(&images[0]).await.unwrap();
        assert!(!one.exists() && dir.path().join("dist/other").exists());
        catalog.delete(&images[0]).await.unwrap();
    }
}
