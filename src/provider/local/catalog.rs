//! The finished images in `dist/`, by their manifests.

use std::path::Path;

use serde::Deserialize;

use crate::error::Result;
use crate::plan::{Fingerprint, Image, ImageFormat, ImageName};
use crate::release::Sha256;

/// What is read of a manifest; `report::Manifest` is what writes it.
#[derive(Deserialize)]
struct Entry {
    fingerprint: Sha256,
    image: Stored,
}

#[derive(Deserialize)]
struct Stored {
    name: String,
    location: String,
    format: ImageFormat,
    size_bytes: u64,
    sha256: Option<Sha256>,
}

/// The whole image with this fingerprint in this format below `dist`, if there is one. A folder may have been moved: the
/// disk is looked for beside its manifest. What is no manifest, or whose disk is not of the size it says, is passed over.
pub(super) fn find(dist: &Path, fingerprint: &Fingerprint, format: ImageFormat) -> Result<Option<Image>> {
    let Ok(folders) = std::fs::read_dir(dist) else { return Ok(None) };
    for folder in folders.flatten() {
        // A name with a dot in front is an image that is being made.
        if folder.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let Ok(text) = std::fs::read(folder.path().join("manifest.json")) else { continue };
        let Ok(entry) = serde_json::from_slice::<Entry>(&text) else { continue };
        if entry.fingerprint != fingerprint.0 || entry.image.format != format {
            continue;
        }
        let Some(file) = Path::new(&entry.image.location).file_name() else { continue };
        let location = folder.path().join(file);
        if std::fs::metadata(&location).is_ok_and(|about| about.is_file() && about.len() == entry.image.size_bytes) {
            return Ok(Some(Image {
                name: ImageName(entry.image.name),
                location,
                format,
                size_bytes: entry.image.size_bytes,
                sha256: entry.image.sha256,
            }));
        }
    }
    Ok(None)
}
