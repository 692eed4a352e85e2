//! Boots finished images as a group and runs every boot check, with peers.

use std::path::PathBuf;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Leftover, Reporter, RunId};
use crate::error::{Error, Result};
use crate::plan::{Image, Plan};
use crate::provider::Provider;

/// Images to verify together.
pub struct Group {
    /// Each image with the plan it was baked by.
    pub members: Vec<(Plan, Image)>,
    /// Names this execution.
    pub run: RunId,
    /// The run's folder, absolute. Made if missing.
    pub run_dir: PathBuf,
    /// Reboot members with data volumes and check that what they hold stays.
    pub restart: bool,
    /// Leave the machines running.
    pub keep: bool,
}

/// How one check of one image ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// Recipe of the image.
    pub recipe: String,
    /// Name of the check.
    pub check: String,
    /// `passed`, `failed` or `skipped`.
    pub result: &'static str,
    /// Why it was skipped, or the last lines of a failed check's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    /// Every check.
    pub checks: Vec<Checked>,
    /// What could not be removed.
    pub leftovers: Vec<Leftover>,
}

/// Boots every member from a fresh copy on one private network and runs its boot checks; then restarts those with data
/// volumes and runs them again. All checks run; a failed one does not hide the next.
///
/// # Errors
/// When a machine cannot be started; a failed check is in the result, not an error.
pub async fn verify(
    group: &Group,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Verified> {
    let _ = (group, provider, reporter, cancel);
    Err(Error::failed("not written yet"))
}
