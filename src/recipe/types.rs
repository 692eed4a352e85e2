//! The shape of a recipe. These types are what a recipe file is decoded into *and* what the JSON Schema is generated
//! from, so doc comments here are what an editor shows. Validity beyond the shape (names, sizes, paths, references) is
//! `validate`'s business; code outside this module only ever sees a [`Recipe`] that passed it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aws::{AwsMachine, Delivery, Distribute, Logs};
use super::format;
use crate::release::Arch;

/// One image: what it starts from, what is done to it, and how it is checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the recipe and prefix of its images: lower-case letters, digits and hyphens, at most 32.
    #[schemars(with = "format::RecipeName")]
    pub name: String,
    /// What the image is for, in a sentence.
    #[serde(default)]
    pub description: String,
    /// Folder that `asset` names are relative to, itself relative to the recipe file.
    #[serde(default = "default_assets")]
    #[schemars(with = "format::AssetsFolder")]
    pub assets: String,
    /// What the bake starts from, per provider.
    #[serde(default)]
    pub base: Base,
    /// The temporary machine the bake runs on. Nothing here is part of the image, but for `disk`.
    #[serde(default)]
    pub machine: MachineSpec,
    /// How files reach a machine on AWS.
    #[serde(default)]
    pub delivery: Delivery,
    /// Where the output of scripts on AWS is kept.
    #[serde(default)]
    pub logs: Logs,
    /// Where a finished AMI goes, and who may use it: what `amibake distribute` does. Not part of the image.
    #[serde(default)]
    pub distribute: Distribute,
    /// Data volumes the image expects beside its root disk.
    #[serde(default, rename = "volume")]
    pub volumes: Vec<VolumeSpec>,
    /// Settings of the BuildKit daemon, for templates; only for an image that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buildkitd: Option<Buildkitd>,
    /// What is done, in order.
    #[serde(default, rename = "step")]
    pub steps: Vec<StepSpec>,
    /// What must hold afterwards: run at the end of the bake and again on a booted image.
    #[serde(default, rename = "check")]
    pub checks: Vec<CheckSpec>,
    /// Tags of the image, beside amibake's own. Not part of the fingerprint.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, format::TagValue>", extend("propertyNames" = { "$ref": "#/$defs/TagKey" }))]
    pub tags: BTreeMap<String, String>,
}

pub(super) fn default_assets() -> String {
    "../assets".to_owned()
}

/// A value for every architecture, or one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
#[schemars(rename = "PerArch{T}")]
pub enum PerArch<T> {
    /// The same everywhere.
    Same(T),
    /// One for each architecture.
    #[schemars(extend("minProperties" = 1))]
    Each {
        /// For x86_64.
        #[serde(skip_serializing_if = "Option::is_none")]
        amd64: Option<T>,
        /// For aarch64.
        #[serde(skip_serializing_if = "Option::is_none")]
        arm64: Option<T>,
    },
}

impl<T> PerArch<T> {
    /// The value for `arch`, if there is one.
    pub fn get(&self, arch: Arch) -> Option<&T> {
        match (self, arch) {
            (PerArch::Same(value), _) => Some(value),
            (PerArch::Each { amd64, .. }, Arch::Amd64) => amd64.as_ref(),
            (PerArch::Each { arm64, .. }, Arch::Arm64) => arm64.as_ref(),
        }
    }
}

/// What the bake starts from, per provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// On AWS: exactly one of its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsBase>,
    /// Locally. Left out: the base that `amibake base create` made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalBase>,
}

/// An AMI, named in one of four ways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsBase {
    /// Name of a public SSM parameter that holds the AMI's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PerArch<format::ParameterName>")]
    pub ssm_parameter: Option<PerArch<String>>,
    /// Id of the AMI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PerArch<format::AmiId>")]
    pub ami: Option<PerArch<String>>,
    /// Newest AMI of an owner whose name matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<AmiFilter>,
    /// The AMI of a version of the Elastic CI Stack for AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic_ci_stack: Option<ElasticCiStack>,
}

/// Newest AMI of an owner whose name matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AmiFilter {
    /// Account id or alias (`amazon`, `self`).
    #[schemars(with = "format::AmiOwner")]
    pub owner: String,
    /// Name with `*` and `?`.
    #[schemars(with = "PerArch<format::NamePattern>")]
    pub name: PerArch<String>,
}

/// The AMI of a version of the Elastic CI Stack for AWS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ElasticCiStack {
    /// `latest` or a version such as `v6.40.0`.
    #[schemars(with = "format::StackVersion")]
    pub version: String,
    /// Which of the stack's images.
    #[serde(default)]
    pub variant: StackVariant,
}

/// Which of the stack's Linux images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StackVariant {
    /// Amazon Linux 2023.
    #[default]
    Linux,
    /// Ubuntu 24.04.
    Ubuntu2404,
}

/// A disk image with systemd 252 or newer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalBase {
    /// Path (relative to the recipe file) or http(s) URL of a raw or qcow2 image.
    #[schemars(with = "PerArch<format::ImageLocation>")]
    pub image: PerArch<String>,
    /// Its digest, `sha256:…` or `sha512:…`. Required for a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PerArch<format::Digest>")]
    pub digest: Option<PerArch<String>>,
}

/// The temporary machine the bake runs on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MachineSpec {
    /// Virtual CPUs of a local machine.
    #[schemars(range(min = 1, max = 256))]
    pub cpus: u32,
    /// Memory of a local machine: `2GiB`.
    #[schemars(with = "format::Size")]
    pub memory: String,
    /// Size of the image's root disk, at least the base's: `10GiB`. Left out: the base's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::Size")]
    pub disk: Option<String>,
    /// The whole bake's deadline, without the making of the image: `90m`.
    #[schemars(with = "format::Timeout")]
    pub timeout: String,
    /// How long a machine may take from its launch until it takes scripts: `10m`.
    #[schemars(with = "format::Timeout")]
    pub start_timeout: String,
    /// How long the making of the image may take: `60m`.
    #[schemars(with = "format::Timeout")]
    pub image_timeout: String,
    /// The instance on AWS.
    pub aws: AwsMachine,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: "2GiB".to_owned(),
            disk: None,
            timeout: "90m".to_owned(),
            start_timeout: "10m".to_owned(),
            image_timeout: "60m".to_owned(),
            aws: AwsMachine::default(),
        }
    }
}

/// A data volume of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name: lower-case letters, digits and hyphens, at most 11 (a file system label holds 16 characters, less the
    /// `bake-` in front). The file system's label is `bake-<name>`, a local disk's serial `amibake-<name>`.
    #[schemars(with = "format::VolumeName")]
    pub name: String,
    /// Where the image mounts it.
    #[schemars(with = "format::StatePath")]
    pub mount: String,
    /// Size: `100GiB`.
    #[serde(default = "default_volume_size")]
    #[schemars(with = "format::Size")]
    pub size: String,
    /// EBS volume type.
    #[serde(default = "default_volume_type", rename = "type")]
    #[schemars(extend("enum" = ["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"]))]
    pub volume_type: String,
    /// File system it is formatted with on first boot.
    #[serde(default)]
    pub filesystem: Filesystem,
}

pub(super) fn default_volume_size() -> String {
    "100GiB".to_owned()
}

fn default_volume_type() -> String {
    "gp3".to_owned()
}

/// A file system for a data volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
}

impl Filesystem {
    /// The name that `mkfs` and `mount` know it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
        }
    }
}

/// Settings of the BuildKit daemon; templates see them as `buildkitd`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Buildkitd {
    /// TCP port it listens on.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Address it listens on.
    #[schemars(with = "format::Address")]
    pub address: String,
    /// Whether only clients with a certificate are let in (mTLS). The daemon then has a certificate of its own, which it
    /// waits for at boot, and does not start without it.
    pub tls: bool,
    /// Where the daemon's certificate and key are, as `amibake certs` keeps them: `server/ca`, `server/cert` and
    /// `server/key` below a prefix of SSM parameters (`/builder/tls`) or in a bucket (`s3://secrets/builder/tls`).
    #[schemars(with = "format::TlsPlace")]
    pub tls_from: String,
    /// Folder of cache and state.
    #[schemars(with = "format::StatePath")]
    pub root: String,
    /// Builds that may run steps at once; left out: one for each CPU, decided at boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_parallelism: Option<u32>,
    /// How long a stop waits for running builds: `15m`.
    #[schemars(with = "format::Timeout")]
    pub drain_timeout: String,
    /// What network build steps run in.
    pub network: BuildNetwork,
    /// Garbage collection of the cache.
    pub gc: Gc,
    /// How long and how many finished builds are remembered.
    pub history: History,
    /// Registries by host name: mirrors, plain http.
    #[schemars(extend("propertyNames" = { "$ref": "#/$defs/RegistryHost" }))]
    pub registry: BTreeMap<String, Registry>,
    /// More flags for the daemon, each its own string.
    #[schemars(with = "Vec<format::Flag>")]
    pub extra_flags: Vec<String>,
}

impl Default for Buildkitd {
    fn default() -> Self {
        Self {
            port: 1234,
            address: "0.0.0.0".to_owned(),
            tls: false,
            tls_from: "/builder/tls".to_owned(),
            root: "/var/lib/buildkit".to_owned(),
            max_parallelism: None,
            drain_timeout: "15m".to_owned(),
            network: BuildNetwork::Bridge,
            gc: Gc::default(),
            history: History::default(),
            registry: BTreeMap::new(),
            extra_flags: Vec::new(),
        }
    }
}

/// What network build steps run in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BuildNetwork {
    /// A bridge of their own (BuildKit v0.13 and newer).
    #[default]
    Bridge,
    /// The host's: builds reach the daemon and, on EC2, the instance's credentials.
    Host,
}

/// Garbage collection of the cache, in whole percent of the volume found at boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// Whether the daemon collects garbage.
    pub enabled: bool,
    /// What a collection leaves in any case.
    #[schemars(range(min = 0, max = 100))]
    pub reserved_percent: u8,
    /// What the cache may grow to; what buildkitd counts is less than what it uses, so leave room.
    #[schemars(range(min = 1, max = 100))]
    pub max_used_percent: u8,
    /// What must stay free on the volume.
    #[schemars(range(min = 0, max = 100))]
    pub min_free_percent: u8,
}

impl Default for Gc {
    fn default() -> Self {
        Self { enabled: true, reserved_percent: 20, max_used_percent: 80, min_free_percent: 10 }
    }
}

/// How long and how many finished builds are remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// `48h`.
    #[schemars(with = "format::Age")]
    pub max_age: String,
    /// Number of records.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_entries: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { max_age: "48h".to_owned(), max_entries: 50 }
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// Mirrors, tried in order: `mirror.example.com` or with a path.
    #[schemars(with = "Vec<format::Mirror>")]
    pub mirrors: Vec<String>,
    /// Speak plain http.
    pub http: bool,
    /// Accept any certificate.
    pub insecure: bool,
}

/// One thing done to the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum StepSpec {
    /// Install packages of the distribution, with dnf or apt, whichever the machine has.
    Packages {
        /// Shown while it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Title")]
        name: Option<String>,
        /// Names on Debian and Ubuntu.
        #[serde(default)]
        #[schemars(with = "Vec<format::PackageName>")]
        apt: Vec<String>,
        /// Names on Amazon Linux and Fedora.
        #[serde(default)]
        #[schemars(with = "Vec<format::PackageName>")]
        dnf: Vec<String>,
        /// `15m`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Timeout")]
        timeout: Option<String>,
    },
    /// Unpack members of the locked BuildKit tarball.
    Buildkit {
        /// Shown while it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Title")]
        name: Option<String>,
        /// `"all"`, or names as in the tarball: `["bin/buildctl"]`.
        members: Members,
        /// Folder they are unpacked under.
        #[serde(default = "default_prefix")]
        #[schemars(with = "format::AbsolutePath")]
        prefix: String,
        /// `5m`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Timeout")]
        timeout: Option<String>,
    },
    /// Write a file.
    File {
        /// Shown while it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Title")]
        name: Option<String>,
        /// Where: an absolute path. Missing folders are made, root's, mode 0755.
        #[schemars(with = "format::FilePath")]
        path: String,
        /// What: inline. Exactly one of `content` and `asset`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// What: a file of the assets folder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::AssetName")]
        asset: Option<String>,
        /// Whether it is a template (MiniJinja).
        #[serde(default)]
        template: bool,
        /// `user:group`.
        #[serde(default = "default_owner")]
        #[schemars(with = "format::Owner")]
        owner: String,
        /// Octal mode.
        #[serde(default = "default_mode")]
        #[schemars(with = "format::Mode")]
        mode: String,
    },
    /// Install a systemd unit into /etc/systemd/system, verify it, and enable it.
    Unit {
        /// Shown while it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Title")]
        name: Option<String>,
        /// File name of the unit: `buildkitd.service`.
        #[schemars(with = "format::UnitName")]
        unit: String,
        /// What: inline. Exactly one of `content` and `asset`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// What: a file of the assets folder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::AssetName")]
        asset: Option<String>,
        /// Whether it is a template (MiniJinja).
        #[serde(default)]
        template: bool,
        /// Whether it starts at boot.
        #[serde(default = "default_true")]
        enable: bool,
        /// Whether it is started during the bake too, so that checks can see it run.
        #[serde(default)]
        start: bool,
    },
    /// Run a shell script (bash, `set -Eeuo pipefail`, as root).
    Run {
        /// Shown while it runs.
        #[schemars(with = "format::Title")]
        name: String,
        /// The script.
        #[schemars(with = "format::Script")]
        script: String,
        /// `10m`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "format::Timeout")]
        timeout: Option<String>,
    },
}

fn default_prefix() -> String {
    "/usr/local".to_owned()
}

fn default_owner() -> String {
    "root:root".to_owned()
}

fn default_mode() -> String {
    "0644".to_owned()
}

fn default_true() -> bool {
    true
}

/// Members of the tarball.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Members {
    /// `"all"`.
    All(AllMembers),
    /// The named ones.
    #[schemars(extend("minItems" = 1, "uniqueItems" = true))]
    Named(#[schemars(with = "Vec<format::MemberName>")] Vec<String>),
}

/// The word `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllMembers {
    /// The whole tarball.
    All,
}

/// A script that changes nothing and says yes (exit 0) or no, with its reason as output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// What must hold, as a person would say it.
    #[schemars(with = "format::Title")]
    pub name: String,
    /// The script (bash, `set -Eeuo pipefail`, as root).
    #[schemars(with = "format::Script")]
    pub script: String,
    /// When it runs.
    #[serde(default)]
    pub when: When,
    /// Only on these providers; elsewhere it is skipped, by name. Left out: on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub providers: Option<Vec<ProviderKind>>,
    /// Name of the recipe whose booted image it needs beside its own; the script finds it at `$AMIBAKE_PEER`, its daemon at `$AMIBAKE_PEER_PORT`
    /// (host name or address). Implies `when = "boot"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::RecipeName")]
    pub peer: Option<String>,
    /// `2m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::Timeout")]
    pub timeout: Option<String>,
}

/// When a check runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// At the end of the bake and on a booted image.
    #[default]
    Always,
    /// At the end of the bake only.
    Bake,
    /// On a booted image only.
    Boot,
}

/// Who supplies machines.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// EC2 and SSM.
    Aws,
    /// QEMU on this machine.
    Local,
}
