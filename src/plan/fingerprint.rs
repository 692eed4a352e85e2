//! The fingerprint: a digest over all that shapes an image's content, and nothing else.
//!
//! In: the base's identity, the architecture, each step's kind and script, the seal, the tarball's digest, the volumes,
//! the root disk's size. Out: names, comments, tags, checks, time-outs, the machine's size, where things are fetched
//! from, who supplies the machine and how the image is stored.

use sha2::{Digest as _, Sha256 as Hasher};

use super::{Fingerprint, Step, VolumePlan};
use crate::release::{Arch, Sha256};

/// Changed whenever what is digested changes, so that two versions of amibake never mean two things by one fingerprint.
const DOMAIN: &str = "amibake image 1";

/// What shapes an image's content.
pub(super) struct Content<'p> {
    pub(super) base: &'p str,
    pub(super) arch: Arch,
    pub(super) artifact: Sha256,
    pub(super) steps: &'p [Step],
    pub(super) seal: &'p Step,
    pub(super) volumes: &'p [VolumePlan],
    pub(super) disk_bytes: u64,
}

pub(super) fn fingerprint(content: &Content<'_>) -> Fingerprint {
    let mut hasher = Hasher::new();
    // Each field with its length before it: no two contents run together into the same bytes.
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    field(DOMAIN.as_bytes());
    field(content.base.as_bytes());
    field(content.arch.as_str().as_bytes());
    field(content.artifact.to_string().as_bytes());
    field(&content.disk_bytes.to_be_bytes());
    field(&(content.steps.len() as u64).to_be_bytes());
    for step in content.steps.iter().chain([content.seal]) {
        field(step.kind.as_bytes());
        field(step.script.as_bytes());
    }
    field(&(content.volumes.len() as u64).to_be_bytes());
    for volume in content.volumes {
        field(volume.name.as_bytes());
        field(volume.mount.as_bytes());
        field(&volume.size_bytes.to_be_bytes());
        field(volume.volume_type.as_bytes());
        field(volume.filesystem.as_str().as_bytes());
    }
    Fingerprint(Sha256::from_bytes(hasher.finalize().into()))
}
