//! Who supplies machines. The two traits here are the whole line between a bake and the world it happens in: no type
//! of an SDK, of QEMU or of SSH crosses it, and nothing above it asks which provider it has.

pub mod aws;
pub mod local;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::bake::{Reporter, RunId, Undo};
use crate::catalog::Entry;
use crate::error::Result;
use crate::plan::{BaseImage, Image, Plan};
use crate::recipe::{ProviderKind, Recipe};
use crate::release::{Arch, Artifact};

/// Something a run made that must not outlive it. Written to the journal before it is made, removed by
/// [`Provider::remove`]; serialised so that a later process can remove what a killed one left.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "resource", rename_all = "snake_case")]
pub enum Resource {
    /// A file or folder of ours, removed with all it holds.
    Path {
        /// Absolute path.
        path: PathBuf,
    },
    /// A process we started. `started` tells it from a later process with the same number.
    Process {
        /// Process id.
        pid: u32,
        /// Start time in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)).
        started: u64,
    },
    /// Whatever bears a run's tag in a region: armed before the call that makes it, for the moment in which a resource
    /// may exist whose id nobody has heard yet.
    Tagged {
        /// Region.
        region: String,
        /// The run.
        run: RunId,
    },
    /// An EC2 instance.
    Instance {
        /// Region.
        region: String,
        /// `i-…`
        id: String,
    },
    /// A security group.
    SecurityGroup {
        /// Region.
        region: String,
        /// `sg-…`
        id: String,
    },
    /// An AMI, removed with its snapshots. It is complete once the cloud has made it, whatever became of the process
    /// that asked for it: a sweep leaves it for the next build to use.
    Ami {
        /// Region.
        region: String,
        /// `ami-…`
        id: String,
    },
    /// A command that runs on an instance; removed by cancelling it.
    Command {
        /// Region.
        region: String,
        /// The command's id, a UUID.
        id: String,
        /// `i-…`
        instance: String,
    },
    /// An object that was put into a bucket of the user's.
    Object {
        /// Region of the bucket's client.
        region: String,
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
    },
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Resource::Path { path } => write!(f, "{}", path.display()),
            Resource::Process { pid, .. } => write!(f, "process {pid}"),
            Resource::Tagged { region, run } => write!(f, "everything tagged amibake:run={run} in {region}"),
            Resource::Instance { region, id } => write!(f, "instance {id} in {region}"),
            Resource::SecurityGroup { region, id } => write!(f, "security group {id} in {region}"),
            Resource::Ami { region, id } => write!(f, "image {id} in {region}"),
            Resource::Command { region, id, instance } => write!(f, "command {id} on {instance} in {region}"),
            Resource::Object { bucket, key, .. } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The bake would fail: it is not started.
    Refuse,
    /// The bake goes on; the user should know.
    Warn,
}

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Whether it stops the bake.
    pub severity: Severity,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What a machine boots from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A copy of the plan's base, with the artifact at hand: for a bake. Scripts find the artifact at
    /// `$AMIBAKE_ARTIFACT` (a readable file or block device whose first `$AMIBAKE_ARTIFACT_SIZE` bytes are it).
    Base(&'a Artifact),
    /// A copy of a finished image: for `verify`. The image itself is not changed. `network` joins the machine to its
    /// peers.
    Image(&'a Image, Network<'a>),
}

/// A private network of one run: its members reach each other; it leads nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// Folder of the run that all members share: exists, is absolute.
    pub run_dir: &'a Path,
    /// Which member this machine is: 0, 1, …
    pub member: u8,
    /// How many there are.
    pub members: u8,
}

/// What a machine is launched for. Data volumes are the plan's, blank.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// The plan it carries out.
    pub plan: &'a Plan,
    /// The run it belongs to: what is made bears its name.
    pub run: &'a RunId,
    /// What it boots from.
    pub source: Source<'a>,
    /// Folder for this machine's own files: exists, is absolute, belongs to this machine alone, and is removed by the
    /// executor unless the machine is kept.
    pub machine_dir: &'a Path,
    /// Whether the machine must be able to outlive this process (`--keep`).
    pub outlive: bool,
    /// Where progress goes.
    pub reporter: &'a Reporter,
    /// Cancelled when the user interrupts.
    pub cancel: &'a CancellationToken,
}

/// Where a captured image goes.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Folder that exists, is absolute and armed for removal: the image's files are written here.
    pub staging: &'a Path,
    /// What the executor renames it to once manifest and log are in it: [`Image::location`] is below this path.
    pub published: &'a Path,
}

/// How a person or another machine reaches a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// A command for a person's shell.
    pub command: String,
    /// Its address on its private network, if it is on one.
    pub address: Option<String>,
    /// How a person ends it and removes what is left.
    pub end: String,
}

/// Supplies machines and remembers images.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Resolves what a recipe starts from: row 4 of the flow.
    ///
    /// # Errors
    /// Exit 4 with a hint when there is none, or it is not usable.
    async fn base(&self, recipe: &Recipe, recipe_dir: &Path, arch: Arch) -> Result<BaseImage>;

    /// The finished image of this plan, if there is one that is whole: same fingerprint, stored the same way. One that a
    /// cloud is still making for an earlier run is waited for.
    ///
    /// # Errors
    /// Exit 4 when the catalog cannot be read.
    async fn find(&self, plan: &Plan) -> Result<Option<Image>>;

    /// Memory of this host that all machines at once may take, in bytes; none if machines are elsewhere.
    fn memory(&self) -> Option<u64>;

    /// What would fail later, said before anything is spent: all of it at once.
    async fn preflight(&self, plan: &Plan) -> Vec<Finding>;

    /// Starts a machine and returns as soon as it is started; it is not ready yet. Everything it makes is armed on
    /// `undo` at the moment it exists.
    ///
    /// # Errors
    /// Exit 4 when the machine does not start.
    async fn launch(&self, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>>;

    /// Remembers, where others see it, that an image passed its boot checks on a machine of its own.
    ///
    /// # Errors
    /// Exit 4 when that cannot be remembered.
    async fn vouch(&self, _image: &Image) -> Result<()> {
        Ok(())
    }

    /// Removes what [`Undo`] holds. Removing what is already gone is a success.
    ///
    /// # Errors
    /// When it is still there afterwards.
    async fn remove(&self, resource: &Resource) -> Result<()>;
}

/// Knows the images that were baked, and removes them.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Where its images are; none on this machine.
    fn region(&self) -> Option<&str>;

    /// Every image of ours, in no order.
    ///
    /// # Errors
    /// Exit 4 when it cannot be read whole.
    async fn images(&self) -> Result<Vec<Entry>>;

    /// Removes an image for good. One that is gone already is removed; one that somebody began to use since it was listed
    /// is not.
    ///
    /// # Errors
    /// When it is still there afterwards.
    async fn delete(&self, entry: &Entry) -> Result<()>;
}

/// How a script on a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptEnd {
    /// Its exit status.
    Exited(i32),
    /// Ended by a signal, by its name or number.
    Signalled,
}

impl ScriptEnd {
    /// Whether it exited 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == ScriptEnd::Exited(0)
    }
}

/// A temporary machine. Dropping it must leave nothing that [`Undo`] does not know of.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Waits until scripts can run.
    ///
    /// # Errors
    /// With the reason the provider knows (the machine died, never answered; the tail of its console).
    async fn ready(&mut self) -> Result<()>;

    /// Runs a script as root with bash, calling `output` with what it prints (both streams, as they come, any bytes,
    /// any amount). The future may be dropped to give up on it. A `peer` reaches the script as `$AMIBAKE_PEER`.
    ///
    /// # Errors
    /// When the channel breaks, not when the script fails.
    async fn run(
        &self,
        script: &str,
        peer: Option<&str>,
        output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send),
    ) -> Result<ScriptEnd>;

    /// Powers the machine off cleanly and waits until it is off.
    ///
    /// # Errors
    /// When it is not off by a deadline.
    async fn stop(&mut self) -> Result<()>;

    /// Restarts it from within, as an operator would (`reboot`), and waits until scripts can run again.
    ///
    /// # Errors
    /// When it does not come back by a deadline.
    async fn restart(&mut self) -> Result<()>;

    /// Makes the image from the stopped machine. What it makes outside `destination` is armed on `undo` until the
    /// caller keeps it; the image is complete when this returns. Has its own deadline, the plan's `image_timeout`: an
    /// image that a cloud is still making then is kept, the error says its id, and [`Provider::find`] takes it up.
    ///
    /// # Errors
    /// When it could not be made; nothing else of it remains after the undo.
    async fn capture(&mut self, destination: Destination<'_>, undo: &Undo) -> Result<Image>;

    /// How it is reached.
    fn reach(&self) -> Reach;
}

/// The provider's kind as users spell it.
impl std::fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ProviderKind::Aws => "aws",
            ProviderKind::Local => "local",
        })
    }
}
