//! The images that exist: `dist/<image>/manifest.json`. Reads the few fields it needs and trusts none of them: a folder
//! may hold anything.

use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use crate::bake::Reporter;
use crate::error::{Context as _, Result};
use crate::plan::{Fingerprint, Image, ImageFormat, ImageName};
use crate::release::Sha256;
use crate::report::{BOOTED, MANIFEST};

/// A manifest is a few kilobytes; what is larger is none.
const MOST_BYTES: u64 = 4 << 20;

/// The version of the format that is understood.
const SCHEMA: u32 = 1;

#[derive(Debug, Deserialize)]
struct Manifest {
    schema: u32,
    fingerprint: Sha256,
    image: Described,
    #[serde(default)]
    checks: Vec<Check>,
    #[serde(default)]
    finished: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Described {
    name: String,
    location: PathBuf,
    format: ImageFormat,
    size_bytes: u64,
    sha256: Option<Sha256>,
}

/// The image below `dist` with this fingerprint in this format, if there is one that is whole; why not, as a note.
///
/// # Errors
/// Exit 4 when `dist` cannot be read; that it does not exist is no error.
pub(super) fn find(
    dist: &Path,
    fingerprint: &Fingerprint,
    format: ImageFormat,
    reporter: &Reporter,
) -> Result<Option<Image>> {
    let context = || format!("cannot read {}", dist.display());
    let entries = match std::fs::read_dir(dist) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).or_host(context),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.or_host(context)?;
        // A dot in front: a run is still writing it, or was killed.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            folders.push(entry.path());
        }
    }
    // The order of a folder's entries is nobody's promise; the answer must not depend on it.
    folders.sort();
    let mut newest: Option<Image> = None;
    for folder in folders {
        let Some(manifest) = read(&folder.join(MANIFEST)) else { continue };
        if manifest.schema != SCHEMA || manifest.fingerprint != fingerprint.0 || manifest.image.format != format {
            continue;
        }
        let verified = manifest.checks.iter().any(|check| check.name.ends_with(BOOTED));
        let created = manifest.finished;
        match whole(&folder, manifest.image).map(|image| Image { verified, created, ..image }) {
            // Baked anew, one plan has several: the newest is what a build would look at.
            Ok(image) if newest.as_ref().is_none_or(|newest| newest.created < image.created) => newest = Some(image),
            Ok(_) => {}
            Err(reason) => reporter.note(format!("{} is not used: {reason}", folder.display())),
        }
    }
    Ok(newest)
}

/// The manifest, if it is one.
fn read(path: &Path) -> Option<Manifest> {
    let meta = path.metadata().ok()?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The image as its manifest describes it, if its file is what the manifest says, as far as a look at it tells.
fn whole(folder: &Path, described: Described) -> Result<Image, String> {
    let Described { name, location, format, size_bytes, sha256 } = described;
    let inside = location.strip_prefix(folder).unwrap_or(&location);
    if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("its manifest names {}, which is not in it", location.display()));
    }
    let path = folder.join(inside);
    let meta = path.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
    if !meta.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    if meta.len() != size_bytes {
        return Err(format!("{} has {} bytes, its manifest says {size_bytes}", path.display(), meta.len()));
    }
    Ok(Image {
        name: ImageName(name),
        location: path,
        format,
        size_bytes,
        sha256,
        region: None,
        verified: false,
        created: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;
    use crate::bake::{Event, Sink};

    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Sink for Notes {
        fn event(&self, _scope: &str, event: &Event) {
            if let Event::Note { text } = event {
                self.0.lock().unwrap().push(text.clone());
            }
        }
    }

    struct Dist {
        dir: tempfile::TempDir,
        notes: Arc<Notes>,
    }

    impl Dist {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), notes: Arc::default() }
        }

        fn image(&self, name: &str, fingerprint: &[u8], location: &str, size_bytes: u64) -> PathBuf {
            let folder = self.dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("disk.qcow2"), "image").unwrap();
            let manifest = json!({
                "schema": 1,
                "fingerprint": Sha256::of(fingerprint),
                "more": "than is read",
                "image": {
                    "name": name, "location": location, "format": "qcow2",
                    "size_bytes": size_bytes, "sha256": Sha256::of(b"image"),
                },
            });
            std::fs::write(folder.join(MANIFEST), manifest.to_string()).unwrap();
            folder
        }

        fn find(&self, fingerprint: &[u8], format: ImageFormat) -> Option<Image> {
            let reporter = Reporter::new("", vec![self.notes.clone()]);
            find(self.dir.path(), &Fingerprint(Sha256::of(fingerprint)), format, &reporter).unwrap()
        }

        fn notes(&self) -> Vec<String> {
            std::mem::take(&mut *self.notes.0.lock().unwrap())
        }
    }

    #[test]
    fn finds_the_whole_one_among_junk() {
        let dist = Dist::new();
        assert!(dist.find(b"a", ImageFormat::Qcow2).is_none());
        std::fs::write(dist.dir.path().join("a-file"), "x").unwrap();
        std::fs::create_dir(dist.dir.path().join("empty")).unwrap();
        for (name, text) in [("foreign", "{\"schema\": \"https://x\"}"), ("broken", "{"), ("list", "[1]")] {
            std::fs::create_dir(dist.dir.path().join(name)).unwrap();
            std::fs::write(dist.dir.path().join(name).join(MANIFEST), text).unwrap();
        }
        std::fs::create_dir_all(dist.dir.path().join("odd").join(MANIFEST)).unwrap();
        dist.image("other", b"b", "disk.qcow2", 5);
        let folder = dist.image("wanted", b"a", "disk.qcow2", 5);
        let image = dist.find(b"a", ImageFormat::Qcow2).unwrap();
        assert_eq!(image.location, folder.join("disk.qcow2"));
        assert_eq!((image.name.0.as_str(), image.sha256), ("wanted", Some(Sha256::of(b"image"))));
        assert!(dist.find(b"a", ImageFormat::Raw).is_none());
        assert_eq!(dist.notes(), Vec::<String>::new());
    }

    #[test]
    fn half_an_image_is_none() {
        let dist = Dist::new();
        dist.image("short", b"a", "disk.qcow2", 6);
        dist.image("missing", b"a", "gone.qcow2", 5);
        dist.image("outside", b"a", "../short/disk.qcow2", 5);
        dist.image("root", b"a", "/proc/version", 0);
        dist.image(".wanted.20261124t145112-3fa9c1", b"a", "disk.qcow2", 5);
        assert!(dist.find(b"a", ImageFormat::Qcow2).is_none());
        let notes = dist.notes();
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(notes[3].ends_with("has 5 bytes, its manifest says 6"), "{notes:?}");
    }

    #[test]
    fn no_dist_is_no_image_and_an_absolute_place_inside_is_fine() {
        let dist = Dist::new();
        let folder = dist.dir.path().join("wanted");
        dist.image("wanted", b"a", folder.join("disk.qcow2").to_str().unwrap(), 5);
        assert!(dist.find(b"a", ImageFormat::Qcow2).is_some());
        let gone = dist.dir.path().join("gone");
        let fingerprint = Fingerprint(Sha256::of(b"a"));
        assert_eq!(find(&gone, &fingerprint, ImageFormat::Qcow2, &Reporter::silent()).unwrap(), None);
        find(&folder.join("disk.qcow2"), &fingerprint, ImageFormat::Qcow2, &Reporter::silent()).unwrap_err();
    }
    #[test]
    fn of_several_the_newest_is_found() {
        let dist = Dist::new();
        for (name, finished) in [("a", "2026-11-03"), ("b", "2026-11-05"), ("c", "2026-11-04")] {
            let path = dist.image(name, b"one", "disk.qcow2", 5).join(MANIFEST);
            let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            manifest["finished"] = format!("{finished}T14:51:12Z").into();
            std::fs::write(&path, manifest.to_string()).unwrap();
        }
        let found = dist.find(b"one", ImageFormat::Qcow2).unwrap();
        assert_eq!((found.name.0.as_str(), found.created.unwrap().to_string().as_str()), ("b", "2026-11-05T14:51:12Z"));
    }
}
