//! The plan as a value. `amibake plan --json` prints it as it stands here; a field is only ever added.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::recipe::{Filesystem, ProviderKind};
use crate::release::evidence::Level;
use crate::release::{Arch, Sha256, Version};

/// Digest over all that shapes the image's content, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Fingerprint(pub Sha256);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of an image: `<recipe>-<buildkit version>-<arch>-<first 12 digits of the fingerprint>`; with `-standin` behind the
/// version for the release that tests make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ImageName(pub String);

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything a bake will do, resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Version of this format.
    pub schema: u32,
    /// Name of the recipe.
    pub recipe: String,
    /// Who supplies the machine.
    pub provider: ProviderKind,
    /// Architecture of the image.
    pub arch: Arch,
    /// Digest over all that shapes the image's content.
    pub fingerprint: Fingerprint,
    /// The image that comes out.
    pub image: ImagePlan,
    /// What the bake starts from.
    pub base: BaseImage,
    /// The BuildKit release it installs.
    pub artifact: ArtifactPlan,
    /// The temporary machine.
    pub machine: MachinePlan,
    /// What the machine is on AWS; only there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsPlan>,
    /// TCP port that the image's BuildKit daemon answers on, if it runs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether that daemon lets in only clients with a certificate. A bake and a test boot get certificates that are made
    /// for them alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Data volumes.
    pub volumes: Vec<VolumePlan>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What must hold afterwards.
    pub checks: Vec<Check>,
    /// Removes identity, logs, keys and caches, last.
    pub seal: Step,
    /// `key=value` as given with `--set`.
    pub overrides: Vec<String>,
}

/// The image that comes out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImagePlan {
    /// Its name.
    pub name: ImageName,
    /// How it is stored.
    pub format: ImageFormat,
    /// Whether a local image stands on its own (no backing file).
    pub standalone: bool,
    /// Its tags; the same words on every provider.
    pub tags: BTreeMap<String, String>,
}

/// How a local image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's own, sparse.
    Qcow2,
    /// Byte for byte the disk.
    Raw,
    /// VMware's.
    Vmdk,
    /// An AMI and its snapshots: what the aws provider makes.
    #[value(skip)]
    Ami,
}

impl ImageFormat {
    /// File extension and the name qemu-img knows it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Raw => "raw",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Ami => "ami",
        }
    }
}

/// What the bake starts from, resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BaseImage {
    /// What a person calls it: `debian-12`, a path, an AMI's name.
    pub name: String,
    /// What identifies its content: `sha256:…` of a disk image, the id of an AMI.
    pub identity: String,
    /// Where the provider finds it: a path, an AMI's id.
    pub location: String,
    /// Its architecture.
    pub arch: Arch,
    /// Size of its root disk in bytes.
    pub disk_bytes: u64,
    /// What else is known of an AMI; only on AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ami: Option<BaseAmi>,
}

/// What is known of a base that is an AMI.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BaseAmi {
    /// Region it is in.
    pub region: String,
    /// Name of its root device: `/dev/xvda`. Any other name in a mapping would make a second disk.
    pub root_device: String,
    /// Devices of its own beside the root one, which the bake's instance must do without.
    pub other_devices: Vec<String>,
    /// Version of the Elastic CI Stack whose image it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
}

/// The temporary instance on AWS, as the recipe wants it for the plan's architecture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AwsPlan {
    /// Region.
    pub region: String,
    /// Name of the root device.
    pub root_device: String,
    /// Devices of the base that the instance does without.
    pub other_devices: Vec<String>,
    /// Instance types, in the order they are tried; at least one.
    pub instance_types: Vec<String>,
    /// Spot capacity first.
    pub spot: bool,
    /// Subnet to launch in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Tags of subnets to launch in.
    pub subnet_tags: BTreeMap<String, String>,
    /// Security group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_group: Option<String>,
    /// Instance profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_profile: Option<String>,
    /// Give it a public address.
    pub public_address: bool,
    /// Key that encrypts its volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// Bucket that the tarball travels through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_bucket: Option<String>,
    /// Bucket that the output of scripts goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bucket: Option<String>,
}

/// The BuildKit release an image installs, as the lock pins it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArtifactPlan {
    /// Version of BuildKit.
    pub version: Version,
    /// Where it is fetched from.
    pub url: String,
    /// What its bytes must hash to.
    pub sha256: Sha256,
    /// True for the stand-in release that tests make: never a real BuildKit.
    pub stand_in: bool,
    /// How well that digest was vouched for when it was pinned; none if the lock does not say.
    pub evidence: Option<Level>,
    /// Members the recipe needs: names as in the tarball; empty for all of them.
    pub members: Vec<String>,
}

/// The temporary machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachinePlan {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Size of the root disk in bytes.
    pub disk_bytes: u64,
    /// The whole bake's deadline, without the making of the image.
    #[serde(serialize_with = "seconds", rename = "timeout_seconds")]
    pub timeout: Duration,
    /// How long a machine may take from its launch until it takes scripts.
    #[serde(serialize_with = "seconds", rename = "start_timeout_seconds")]
    pub start_timeout: Duration,
    /// How long the making of the image may take.
    #[serde(serialize_with = "seconds", rename = "image_timeout_seconds")]
    pub image_timeout: Duration,
}

/// A data volume.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumePlan {
    /// Its name; the file system's label is `bake-<name>`, a local disk's serial `amibake-<name>`.
    pub name: String,
    /// Where the image mounts it.
    pub mount: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// EBS volume type.
    #[serde(rename = "type")]
    pub volume_type: String,
    /// File system.
    pub filesystem: Filesystem,
}

impl VolumePlan {
    /// Label of its file system, by which an image finds it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("bake-{}", self.name)
    }

    /// Serial number of the local disk that stands for it.
    #[must_use]
    pub fn serial(&self) -> String {
        format!("amibake-{}", self.name)
    }
}

/// One script run on the machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Shown while it runs; unique in a plan.
    pub name: String,
    /// `packages`, `buildkit`, `file`, `unit`, `run` or `seal`.
    pub kind: &'static str,
    /// The whole script: run by bash as root, to the byte.
    pub script: String,
    /// Lines of `script` before the first line a user wrote; a failure's line number is told without them.
    pub preamble_lines: u32,
    /// How long it may take.
    #[serde(serialize_with = "seconds", rename = "timeout_seconds")]
    pub timeout: Duration,
}

/// A script that changes nothing and says yes or no.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What must hold.
    pub name: String,
    /// The whole script.
    pub script: String,
    /// Lines of `script` before the first line a user wrote.
    pub preamble_lines: u32,
    /// How long it may take.
    #[serde(serialize_with = "seconds", rename = "timeout_seconds")]
    pub timeout: Duration,
    /// At the end of the bake.
    pub at_bake: bool,
    /// On a booted image.
    pub at_boot: bool,
    /// Recipe of the image it needs beside its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Why it is skipped on this provider, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

/// What the outside world contributes to a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The base as the provider resolved it.
    pub base: BaseImage,
    /// The recipe's assets by their name: everything any step refers to.
    pub assets: BTreeMap<String, Vec<u8>>,
}

/// What a user may ask of a plan beyond the recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Who supplies the machine.
    pub provider: ProviderKind,
    /// Architecture of the image.
    pub arch: Arch,
    /// How a local image is stored.
    pub format: ImageFormat,
    /// Whether a local image stands on its own.
    pub standalone: bool,
    /// `key=value` as given with `--set`, already applied to the recipe.
    pub overrides: Vec<String>,
}

/// An image that exists.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// Where it is: the path of the disk image, or an AMI's id.
    pub location: PathBuf,
    /// How it is stored.
    pub format: ImageFormat,
    /// Bytes it takes where it is stored.
    pub size_bytes: u64,
    /// Digest of the stored file.
    pub sha256: Option<Sha256>,
    /// Region of an AMI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether it was seen to boot and pass its checks.
    #[serde(skip)]
    pub verified: bool,
    /// When it was made, of one that was found.
    #[serde(skip)]
    pub created: Option<Timestamp>,
}
