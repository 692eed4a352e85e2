//! The fingerprint: a digest over all that shapes an image's content, and nothing else.
//!
//! In: base, architecture, size of the root disk, the artifact's digest, data volumes (an AMI carries them), the kind and
//! script of every step, the seal. Out: names, tags, timeouts, checks, the machine's processors and memory, the provider,
//! how the image is stored, where the artifact is fetched from. A step's content, owner, mode and so on are in its script.

use sha2::Digest as _;

use super::{Fingerprint, Step, VolumePlan};
use crate::recipe::Filesystem;
use crate::release::{Arch, Sha256};

/// Changes when what is hashed, or how, does: then no old image is taken for a new one.
const DOMAIN: &str = "amibake image content, 1";

/// What shapes an image.
pub(super) struct Shape<'a> {
    pub(super) base_identity: &'a str,
    pub(super) arch: Arch,
    pub(super) disk_bytes: u64,
    pub(super) artifact: &'a Sha256,
    pub(super) volumes: &'a [VolumePlan],
    pub(super) steps: &'a [Step],
    pub(super) seal: &'a Step,
}

impl Shape<'_> {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Hash(sha2::Sha256::new());
        hash.text(DOMAIN);
        hash.text(self.base_identity);
        hash.text(self.arch.as_str());
        hash.number(self.disk_bytes);
        hash.text(&self.artifact.to_string());
        hash.number(self.volumes.len() as u64);
        for volume in self.volumes {
            hash.text(&volume.name);
            hash.text(&volume.mount);
            hash.number(volume.size_bytes);
            hash.text(&volume.volume_type);
            hash.text(match volume.filesystem {
                Filesystem::Ext4 => "ext4",
                Filesystem::Xfs => "xfs",
            });
        }
        hash.number(self.steps.len() as u64);
        for step in self.steps {
            hash.text(step.kind);
            hash.text(&step.script);
        }
        hash.text(&self.seal.script);
        Fingerprint(Sha256::from_bytes(hash.0.finalize().into()))
    }
}

/// Every value with its length in front, and lists with their number: no two shapes have one serialisation.
struct Hash(sha2::Sha256);

impl Hash {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }
}
