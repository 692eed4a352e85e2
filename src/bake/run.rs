//! The executor of a bake.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Leftover, Reporter, RunId};
use crate::error::{Error, Result};
use crate::plan::{Image, Plan};
use crate::provider::{Provider, Reach};
use crate::release::Artifact;

/// One bake, decided.
pub struct Job {
    /// What is done.
    pub plan: Plan,
    /// The verified tarball.
    pub artifact: Artifact,
    /// Names this execution.
    pub run: RunId,
    /// The run's folder, absolute: journal, log, machine's files. Made if missing.
    pub run_dir: PathBuf,
    /// Absolute folder finished images are published in.
    pub dist_dir: PathBuf,
    /// Leave the machine running for inspection, whether or not the bake succeeds.
    pub keep: bool,
}

/// What came of a bake.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// An image with the plan's fingerprint existed.
    Existing {
        /// It.
        image: Image,
    },
    /// A new image.
    Baked {
        /// It.
        image: Image,
        /// Its manifest.
        manifest: PathBuf,
        /// What could not be removed.
        leftovers: Vec<Leftover>,
        /// The machine that was left running on purpose.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept: Option<Reach>,
    },
}

/// Carries out `job`: rows 7 to 12 of the flow. On every path everything but the image is undone.
///
/// # Errors
/// What failed first; what could not be undone after a failure is reported as a warning with its id, and the journal
/// keeps it.
pub async fn bake(
    job: &Job,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let _ = (job, provider, reporter, cancel);
    Err(Error::failed("not written yet"))
}

/// Removes what runs that no longer live left behind: every journal below `runs_dir` whose process is gone.
///
/// # Errors
/// Exit 4 when the folder cannot be read.
pub async fn sweep(runs_dir: &Path, provider: &dyn Provider, reporter: &Reporter) -> Result<Vec<Leftover>> {
    let _ = (runs_dir, provider, reporter);
    Ok(Vec::new())
}
