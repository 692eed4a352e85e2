//! The second net: what runs that no longer live left behind, removed by their journals.
//!
//! A journal is a list of things to delete, found in a folder that may have come with somebody's repository. So it is
//! believed only as far as a run of ours could have written it: a path must lie in the run's own folder or carry the
//! run's name, and a process must be the very one (its start time is checked by the provider).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::image_lock::ImageLock;
use super::journal::{Account, Journal, Record, account, read};
use super::owner::Owner;
use super::undo::reason;
use super::{JOURNAL, Leftover, Reporter, RunId, Undo};
use crate::error::{Context as _, Result};
use crate::provider::{Provider, Resource};

/// Folders of runs that are kept for their logs.
const KEPT_RUNS: usize = 20;

/// Removes what runs that no longer live left behind: every journal below `runs_dir` whose process is gone. What was
/// left for inspection goes when its machine has ended; what was kept stays. A journal that makes no sense is reported
/// and left alone.
///
/// # Errors
/// Exit 4 when the folder cannot be read.
pub async fn sweep(runs_dir: &Path, provider: &dyn Provider, reporter: &Reporter) -> Result<Vec<Leftover>> {
    let runs = runs(runs_dir)?;
    let mut leftovers = Vec::new();
    for run_dir in &runs {
        match sweep_run(run_dir, provider, reporter).await {
            Ok(left) => leftovers.extend(left),
            Err(error) => reporter.warn(format!(
                "{} is left alone: {}; remove its folder once nothing it names is there any more",
                run_dir.join(JOURNAL).display(),
                reason(&error)
            )),
        }
    }
    prune(runs, reporter);
    Ok(leftovers)
}

/// Removes the folders of runs of which nothing is left but their logs, all but the newest few. An image's own log lies
/// beside the image.
fn prune(mut runs: Vec<PathBuf>, reporter: &Reporter) {
    runs.retain(|run_dir| is_over(run_dir));
    runs.truncate(runs.len().saturating_sub(KEPT_RUNS));
    for run_dir in runs {
        if let Err(error) = std::fs::remove_dir_all(&run_dir) {
            reporter.warn(format!("cannot remove {}: {error}", run_dir.display()));
        }
    }
}

/// Runs whose journals lie below `runs_dir` and whose processes live: nothing of theirs is left behind, whatever its tags
/// say. A journal that cannot be read is no proof of a life.
///
/// # Errors
/// Exit 4 when the folder cannot be read.
pub fn living(runs_dir: &Path) -> Result<BTreeSet<RunId>> {
    let alive = |run_dir: &PathBuf| {
        let journal = std::fs::read(run_dir.join(JOURNAL)).ok().and_then(|bytes| read(&bytes).ok());
        journal.map(account).is_some_and(|account| !account.done && account.owner.is_some_and(Owner::alive))
    };
    Ok(runs(runs_dir)?.iter().filter(|run_dir| alive(run_dir)).map(|run_dir| RunId(name_of(run_dir))).collect())
}

/// Runs whose processes are gone, with what they armed and nobody removed: what [`sweep`] removes, but for images that the
/// next build takes up.
///
/// # Errors
/// Exit 4 when the folder cannot be read.
pub fn dead(runs_dir: &Path) -> Result<Vec<(RunId, Vec<Resource>)>> {
    let mut dead = Vec::new();
    for run_dir in runs(runs_dir)? {
        let journal = std::fs::read(run_dir.join(JOURNAL)).ok().and_then(|bytes| read(&bytes).ok());
        let Some(Account { owner, mut armed, .. }) = journal.map(account) else { continue };
        armed.retain(|resource| !matches!(resource, Resource::Ami { .. }));
        if !armed.is_empty() && !owner.is_some_and(Owner::alive) {
            dead.push((RunId(name_of(&run_dir)), armed));
        }
    }
    Ok(dead)
}

/// Folders of runs, oldest first.
fn runs(runs_dir: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", runs_dir.display());
    let entries = match std::fs::read_dir(runs_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).or_host(context),
    };
    let mut runs = Vec::new();
    for entry in entries {
        let entry = entry.or_host(context)?;
        if entry.file_name().to_str().is_some_and(RunId::is_valid) {
            runs.push(entry.path());
        }
    }
    // Their names begin with their time.
    runs.sort();
    Ok(runs)
}

/// Whether the run is known to have ended and to have left nothing.
fn is_over(run_dir: &Path) -> bool {
    let is_folder = std::fs::symlink_metadata(run_dir).is_ok_and(|meta| meta.is_dir());
    let journal = std::fs::read(run_dir.join(JOURNAL)).ok().and_then(|bytes| read(&bytes).ok());
    let Some(Account { owner, armed, left, done, .. }) = journal.map(account) else { return false };
    is_folder && done && armed.is_empty() && left.is_empty() && !owner.is_some_and(Owner::alive)
}

/// What a journal armed and nobody removed yet, newest first: for a message, when there is no time to remove it.
///
/// # Errors
/// Exit 4 when it cannot be read.
pub fn outstanding(run_dir: &Path) -> Result<Vec<Resource>> {
    let path = run_dir.join(JOURNAL);
    let bytes = std::fs::read(&path).or_host(|| format!("cannot read the journal {}", path.display()))?;
    let Account { mut armed, .. } = account(read(&bytes)?);
    armed.reverse();
    Ok(armed)
}

async fn sweep_run(run_dir: &Path, provider: &dyn Provider, reporter: &Reporter) -> Result<Vec<Leftover>> {
    let path = run_dir.join(JOURNAL);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    // Held until the sweep is over: two of them do not sweep one run.
    let Some((journal, bytes)) = Journal::take_over(&path)? else { return Ok(Vec::new()) };
    let Account { owner, armed, left, locks, done } = account(read(&bytes)?);
    if owner.is_some_and(Owner::alive) {
        return Ok(Vec::new());
    }
    for lock in locks {
        ImageLock::remove_stale(&lock, &name_of(run_dir))?;
    }
    let ended = machine_ended(&left);
    if done && (left.is_empty() || !ended) {
        return Ok(Vec::new());
    }
    let mut doomed = if ended { left } else { Vec::new() };
    doomed.extend(armed);
    // Asked for only after every check had passed: the next build of the same plan takes it up, `gc` removes it.
    let (images, doomed): (Vec<_>, Vec<_>) =
        doomed.into_iter().partition(|resource| matches!(resource, Resource::Ami { .. }));
    let (ours, foreign): (Vec<_>, Vec<_>) = doomed.into_iter().partition(|resource| is_of_run(resource, run_dir));
    if !ours.is_empty() {
        reporter.note(format!("removing what run {} left behind", name_of(run_dir)));
    }
    let undo = Undo::resume(journal, ours).reporting(reporter);
    for resource in images {
        reporter.note(format!("{resource}, of run {}, stays for the next build to take up", name_of(run_dir)));
        undo.record(&Record::Kept { resource })?;
    }
    let mut leftovers = undo.unwind(provider).await;
    for resource in foreign {
        let reason = format!("run {} names it, but it is not where that run's things are", name_of(run_dir));
        undo.record(&Record::Failed { resource: resource.clone(), reason: reason.clone() })?;
        leftovers.push(Leftover { resource, reason });
    }
    Ok(leftovers)
}

/// Whether there is a machine in `left` and it does not run. One that cannot be looked at from here (in a cloud) is not
/// known to have ended.
pub(super) fn machine_ended(left: &[Resource]) -> bool {
    let mut processes = left.iter().filter_map(|resource| match resource {
        Resource::Process { pid, started } => Some(Owner { pid: *pid, started: Some(*started) }),
        _ => None,
    });
    let first = processes.next();
    first.is_some_and(|first| !first.alive()) && processes.all(|process| !process.alive())
}

/// Whether the run in `run_dir` can have made `resource`.
fn is_of_run(resource: &Resource, run_dir: &Path) -> bool {
    let Resource::Path { path } = resource else { return true };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
    if name.to_string_lossy().contains(&name_of(run_dir)) {
        return true;
    }
    // The folder it is in, with no link on the way, must be the run's; what is gone with its folder needs no removal.
    match (real(parent), real(run_dir)) {
        (Some(parent), Some(run_dir)) => parent.starts_with(run_dir),
        (None, _) => true,
        (_, None) => false,
    }
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

fn name_of(run_dir: &Path) -> String {
    run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
