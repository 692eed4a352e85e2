//! `manifest.json`: what an image is made of and how it came to be, in words that do not depend on the provider. A
//! field is only ever added; `docs/manifest.md` explains each.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::bake::RunId;
use crate::error::{Context as _, Result};
use crate::plan::{ArtifactPlan, BaseImage, Fingerprint, Image, ImageFormat, ImageName, Plan, VolumePlan};
use crate::recipe::ProviderKind;
use crate::release::evidence::Level;
use crate::release::{Arch, Sha256, Version};

/// Name of the manifest's file in an image's folder.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest's format.
const SCHEMA: u32 = 1;

/// How the name of a check ends that passed on the booted image; one that failed makes no image.
pub const BOOTED: &str = " (booted)";

/// What stands beside a stand-in release, so that nobody takes its image for a real one.
const UNAUTHENTICATED: &str = "UNAUTHENTICATED: nobody vouched for this release, it was believed because it came first";
const STAND_IN: &str = "STAND-IN release made by amibake's tests: this image holds no real BuildKit";

/// When a bake began and ended (RFC 3339, UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Times {
    /// When it began.
    pub started: Timestamp,
    /// When the image was complete.
    pub finished: Timestamp,
}

/// How long one step took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// How one check of the bake ended. A failed one makes no image, so there are two ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckRecord {
    /// Its name.
    pub name: String,
    /// `passed` or `skipped`.
    pub result: &'static str,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// What an image is made of and how it came to be.
#[derive(Debug, Serialize)]
pub struct Manifest<'a> {
    schema: u32,
    amibake: &'static str,
    run: &'a RunId,
    recipe: &'a str,
    provider: ProviderKind,
    arch: Arch,
    fingerprint: Fingerprint,
    image: ImageRecord<'a>,
    base: BaseRecord<'a>,
    artifact: ArtifactRecord<'a>,
    overrides: &'a [String],
    started: Timestamp,
    finished: Timestamp,
    steps: &'a [StepRecord],
    checks: &'a [CheckRecord],
    volumes: &'a [VolumePlan],
    tags: &'a std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct ImageRecord<'a> {
    name: &'a ImageName,
    location: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    format: ImageFormat,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
}

#[derive(Debug, Serialize)]
struct BaseRecord<'a> {
    name: &'a str,
    identity: &'a str,
}

#[derive(Debug, Serialize)]
struct ArtifactRecord<'a> {
    version: Version,
    url: &'a str,
    sha256: Sha256,
    stand_in: bool,
    evidence: Option<Level>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

impl<'a> Manifest<'a> {
    /// The manifest of `image`, which `plan` made in `run`. A location below `folder` (where the manifest will lie) is
    /// written relative to it, so that the folder can be moved.
    #[must_use]
    pub fn new(
        run: &'a RunId,
        plan: &'a Plan,
        image: &'a Image,
        folder: &Path,
        times: Times,
        steps: &'a [StepRecord],
        checks: &'a [CheckRecord],
    ) -> Self {
        let BaseImage { name, identity, .. } = &plan.base;
        let ArtifactPlan { version, url, sha256, stand_in, evidence, .. } = &plan.artifact;
        let location = image.location.strip_prefix(folder).unwrap_or(&image.location).to_owned();
        Self {
            schema: SCHEMA,
            amibake: env!("CARGO_PKG_VERSION"),
            run,
            recipe: &plan.recipe,
            provider: plan.provider,
            arch: plan.arch,
            fingerprint: plan.fingerprint,
            image: ImageRecord {
                name: &image.name,
                location,
                region: image.region.as_deref(),
                format: image.format,
                size_bytes: image.size_bytes,
                sha256: image.sha256,
            },
            base: BaseRecord { name, identity },
            artifact: ArtifactRecord {
                version: *version,
                url,
                sha256: *sha256,
                stand_in: *stand_in,
                evidence: *evidence,
                note: match evidence {
                    _ if *stand_in => Some(STAND_IN),
                    Some(Level::FirstUse) => Some(UNAUTHENTICATED),
                    _ => None,
                },
            },
            overrides: &plan.overrides,
            started: times.started,
            finished: times.finished,
            steps,
            checks,
            volumes: &plan.volumes,
            tags: &plan.image.tags,
        }
    }

    /// Writes it into `folder`, whole or not at all; it is on disk when this returns.
    ///
    /// # Errors
    /// Exit 4 when it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let context = || format!("cannot write {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(folder).or_host(context)?;
        let mut text = serde_json::to_vec_pretty(self).or_host(context)?;
        text.push(b'\n');
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).or_host(context)?;
        // A temporary file is its owner's alone; an image's description is for whoever may read the image.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode).or_host(context)?;
        file.persist(&path).or_host(context)?;
        Ok(())
    }
}

/// A duration as manifests and reports give it.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
