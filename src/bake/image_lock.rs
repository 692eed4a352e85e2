//! One bake of an image at a time: a lock file beside the image, held with flock and removed without a race.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::RunId;
use crate::error::{Context as _, Error, Result};
use crate::plan::ImageName;

/// The right to publish one image, until it is dropped.
#[derive(Debug)]
pub(super) struct ImageLock {
    path: PathBuf,
    _file: File,
}

impl ImageLock {
    /// Where the lock of `image` lies.
    pub(super) fn path(dist_dir: &Path, image: &ImageName) -> PathBuf {
        dist_dir.join(format!(".{image}.lock"))
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// Exit 4 with the other's process and run when another bake holds it, or when the folder cannot be written.
    pub(super) fn acquire(path: &Path, image: &ImageName, run: &RunId) -> Result<Self> {
        match Self::try_acquire(path, &format!("process {}, run {run}\n", std::process::id()))? {
            Ok(lock) => Ok(lock),
            Err(holder) => Err(Error::host(format!("another bake of {image} is running: {holder}"))
                .with_hint("wait for it to end, or interrupt it")),
        }
    }

    /// Removes the lock file that `run`, which was killed, left; one that another holds by now stays, and so does any
    /// other file (the path comes from a journal).
    pub(super) fn remove_stale(path: &Path, run: &str) -> Result<()> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.starts_with("process ") && text.ends_with(&format!(", run {run}\n")) {
            drop(Self::try_acquire(path, &text)?);
        }
        Ok(())
    }

    /// The lock, or who holds it.
    fn try_acquire(path: &Path, text: &str) -> Result<Result<Self, String>> {
        let context = || format!("cannot lock {}", path.display());
        loop {
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).create(true).truncate(false).open(path).or_host(context);
            let mut file = opened.map_err(|error| {
                error.with_hint("the folder of finished images must be writable; `--dist` names another")
            })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    // It may be between taking the lock and saying so; then there is nothing to tell.
                    let _ = file.take(1024).read_to_string(&mut holder);
                    return Ok(Err(if holder.is_empty() {
                        "it has just begun".to_owned()
                    } else {
                        holder.trim().into()
                    }));
                }
                Err(error) => return Err(error).or_host(context),
            }
            // The holder before us removed the file after we opened it: our lock is on a file without a name, and
            // another process may hold the one that has it.
            let named = std::fs::metadata(path).map(|named| (named.dev(), named.ino())).ok();
            let ours = file.metadata().or_host(context)?;
            if named != Some((ours.dev(), ours.ino())) {
                continue;
            }
            file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).or_host(context)?;
            return Ok(Ok(Self { path: path.to_owned(), _file: file }));
        }
    }
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        // While it is still held: nobody else can have taken the name in between.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_second_is_told_who_is_first_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageName("builder-x".into());
        let path = ImageLock::path(dir.path(), &image);
        let lock = ImageLock::acquire(&path, &image, &RunId("one".into())).unwrap();
        let error = ImageLock::acquire(&path, &image, &RunId("two".into())).unwrap_err();
        assert_eq!(error.exit(), crate::Exit::Host);
        let expected = format!("another bake of builder-x is running: process {}, run one", std::process::id());
        assert_eq!(error.to_string(), expected);
        ImageLock::remove_stale(&path, "one").unwrap();
        assert!(path.exists(), "a held lock is not stale");
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_lock_is_taken_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageName("builder-x".into());
        let path = ImageLock::path(dir.path(), &image);
        std::fs::write(&path, "process 1, run long-dead, and more words than the next will write\n").unwrap();
        let _lock = ImageLock::acquire(&path, &image, &RunId("two".into())).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("process {}, run two\n", std::process::id()));
        drop(_lock);
        std::fs::write(&path, "process 1, run dead\n").unwrap();
        ImageLock::remove_stale(&path, "other").unwrap();
        assert!(path.exists(), "not the lock of that run");
        ImageLock::remove_stale(&path, "dead").unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn removal_never_lets_two_in() {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageName("i".into());
        let path = ImageLock::path(dir.path(), &image);
        let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(lock) = ImageLock::acquire(&path, &image, &RunId("r".into())) {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            entered.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(entered.load(Ordering::SeqCst) > 0);
        assert!(!path.exists());
    }
}
