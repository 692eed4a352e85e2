//! One process at a time for one file: an advisory lock on `<file>.lock`. The kernel drops it when its holder dies, so a
//! killed process leaves nothing to clean up but an empty file, and the next holder takes that away.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use crate::bake::Reporter;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::{Context, Error, Exit, Result};

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    path: PathBuf,
    file: File,
}

impl FileLock {
    /// Waits, at most `longest`, until no other process holds the lock of `guarded`, and takes it.
    ///
    /// # Errors
    /// Exit 4 when the lock file cannot be made or time runs out; interrupted when cancelled.
    pub(crate) async fn acquire(
        guarded: &Path,
        longest: Duration,
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let mut path = guarded.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut told = false;
        let schedule =
            Schedule { first: Duration::from_millis(20), most: Duration::from_millis(500), deadline: longest };
        let what = format!("waiting for the process that holds {}", path.display());
        let waited = wait::until(&what, schedule, cancel, || {
            let taken = Self::try_take(&path);
            if matches!(taken, Ok(None)) && !told {
                told = true;
                reporter.note("another amibake fetches the same file: waiting for it");
            }
            async { Ok(taken?.map_or_else(|| Probe::NotYet("it is still at work".into()), Probe::Ready)) }
        });
        waited.await.map_err(|error| match error.exit() {
            // A lock that nobody gives back is the host's trouble, not the bake's.
            Exit::Failed => Error::host(error.to_string()),
            _ => error,
        })
    }

    fn try_take(path: &Path) -> Result<Option<Self>> {
        let why = || format!("cannot lock {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(path).or_host(why)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).or_host(why),
        }
        // The holder before us removed the file: what we locked may no longer be the one others open.
        let ours = file.metadata().or_host(why)?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Some(Self { path: path.to_path_buf(), file }))
            }
            _ => Ok(None),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // While the lock is still held, so that nobody else's file is removed.
        let _ = fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_until_the_first_is_done_and_nothing_remains() {
        let folder = tempfile::tempdir().unwrap();
        let guarded = folder.path().join("file");
        let (reporter, cancel) = (Reporter::silent(), CancellationToken::new());
        let second = Duration::from_secs(5);
        let first = FileLock::acquire(&guarded, second, &reporter, &cancel).await.unwrap();
        let none = FileLock::acquire(&guarded, Duration::from_millis(50), &reporter, &cancel).await.unwrap_err();
        assert_eq!(none.exit(), Exit::Host);
        let (next, ()) = tokio::join!(FileLock::acquire(&guarded, second, &reporter, &cancel), async { drop(first) });
        drop(next.unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn waiting_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let guarded = folder.path().join("file");
        let cancel = CancellationToken::new();
        let _held = FileLock::acquire(&guarded, Duration::from_secs(1), &Reporter::silent(), &cancel).await.unwrap();
        cancel.cancel();
        let error =
            FileLock::acquire(&guarded, Duration::from_secs(60), &Reporter::silent(), &cancel).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Interrupted);
    }
}
