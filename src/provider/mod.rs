//! Who supplies machines. The two traits here are the whole line between a bake and the world it happens in: no type
//! of an SDK, of QEMU or of SSH crosses it, and nothing above it asks which provider it has.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::bake::{Reporter, Undo};
use crate::error::Result;
use crate::plan::{BaseImage, Fingerprint, Image, ImageFormat, Plan};
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
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Resource::Path { path } => write!(f, "{}", path.display()),
            Resource::Process { pid, .. } => write!(f, "process {pid}"),
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

/// What a machine is launched for.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// The plan it carries out.
    pub plan: &'a Plan,
    /// The verified artifact it receives; the guest finds it at `$AMIBAKE_ARTIFACT`, `$AMIBAKE_ARTIFACT_SIZE` bytes.
    pub artifact: &'a Artifact,
    /// The run's folder: exists, is absolute, belongs to this run alone.
    pub run_dir: &'a Path,
    /// Whether the machine must be able to outlive this process (`--keep`).
    pub outlive: bool,
    /// Where progress goes.
    pub reporter: &'a Reporter,
    /// Cancelled when the user interrupts.
    pub cancel: &'a CancellationToken,
}

/// Supplies machines and remembers images.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Resolves what a recipe starts from: row 4 of the flow.
    ///
    /// # Errors
    /// Exit 4 with a hint when there is none, or it is not usable.
    async fn base(&self, recipe: &Recipe, recipe_dir: &Path, arch: Arch) -> Result<BaseImage>;

    /// The finished image with this fingerprint stored in this format, if there is one.
    ///
    /// # Errors
    /// Exit 4 when the catalog cannot be read.
    async fn find(&self, fingerprint: &Fingerprint, format: ImageFormat) -> Result<Option<Image>>;

    /// What would fail later, said before anything is spent: all of it at once.
    async fn preflight(&self, plan: &Plan) -> Vec<Finding>;

    /// Starts a machine and returns as soon as it is started; it is not ready yet. Everything it makes is armed on
    /// `undo` at the moment it exists.
    ///
    /// # Errors
    /// Exit 4 when the machine does not start.
    async fn launch(&self, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>>;

    /// Removes what [`Undo`] holds. Removing what is already gone is a success.
    ///
    /// # Errors
    /// When it is still there afterwards.
    async fn remove(&self, resource: &Resource) -> Result<()>;
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

/// A temporary machine.
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

    /// Makes the image from the stopped machine. What it makes is armed on `undo` until the caller keeps it; it is
    /// complete, under its final name but for [`Provider::find`], when this returns.
    ///
    /// # Errors
    /// When it could not be made; nothing of it remains after the undo.
    async fn capture(&mut self, undo: &Undo) -> Result<Image>;

    /// How a person reaches the running machine (`--keep`).
    fn reach(&self) -> String;
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
