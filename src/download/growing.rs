//! A file that is read while it is written: one writer appends, any number of readers follow. What the readers see is
//! what lies in the file, so a hash made by a reader is the hash of the file and not of what was meant to be in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The file and how far it has come. Clones share it.
#[derive(Clone)]
pub(crate) struct Growing(Arc<Inner>);

struct Inner {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy)]
struct State {
    /// Bytes that may be read.
    len: u64,
    /// Counts how often the content was thrown away: what a reader has seen of an older one is worthless.
    generation: u64,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Complete,
    Abandoned,
}

impl Growing {
    /// A file whose first `len` bytes are there and to which more will be appended.
    pub(super) fn new(file: File, len: u64) -> Self {
        let state = Mutex::new(State { len, generation: 0, end: End::Open });
        Self(Arc::new(Inner { file, state, changed: Condvar::new() }))
    }

    /// A file that is all there.
    pub(crate) fn complete(file: File) -> io::Result<Self> {
        let growing = Self::new(file.try_clone()?, file.metadata()?.len());
        growing.end(End::Complete);
        Ok(growing)
    }

    /// A reader from the first byte.
    pub(crate) fn reader(&self) -> Reader {
        let generation = self.state().generation;
        Reader { growing: self.clone(), position: 0, generation }
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.state().len
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.0.file
    }

    /// Appends `data`. Only one thread may do so.
    pub(super) fn append(&self, data: &[u8]) -> io::Result<()> {
        let at = self.len();
        self.0.file.write_all_at(data, at)?;
        self.change(|state| state.len = at + data.len() as u64);
        Ok(())
    }

    /// Throws the content away: readers of it fail with an error for which [`Reader::is_stale`] is true.
    pub(super) fn restart(&self) -> io::Result<()> {
        // First the readers, then the bytes: none may take a cut file for its end.
        self.change(|state| {
            state.len = 0;
            state.generation += 1;
        });
        self.0.file.set_len(0)
    }

    /// Everything is written: readers come to an end.
    pub(super) fn finish(&self) {
        self.end(End::Complete);
    }

    /// Unless it is complete, no more will come: readers that wait fail.
    pub(crate) fn abandon(&self) {
        self.end(End::Abandoned);
    }

    /// Nobody wants the rest.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state().end == End::Abandoned
    }

    fn end(&self, end: End) {
        self.change(|state| {
            if state.end == End::Open {
                state.end = end;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it holds the lock, and a half-made change does not exist.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows a [`Growing`] file; blocks while it waits for more.
pub(crate) struct Reader {
    growing: Growing,
    position: u64,
    generation: u64,
}

impl Reader {
    /// True when the content this reader saw was thrown away; a new reader sees the new one.
    pub(crate) fn is_stale(&self) -> bool {
        self.growing.state().generation != self.generation
    }

    /// Waits until nothing more can happen to what this reader saw: the file ended, or its content was thrown away. A
    /// verdict that is reached before the last byte is only good after this, and only if the reader is not stale.
    pub(crate) fn settle(&self) {
        let mut state = self.growing.state();
        while state.generation == self.generation && state.end == End::Open {
            state = self.growing.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = &*self.growing.0;
        let mut state = self.growing.state();
        while state.generation == self.generation && state.len <= self.position && state.end == End::Open {
            state = inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let State { len, generation, end } = *state;
        drop(state);
        if generation != self.generation {
            return Err(io::Error::other("the download began anew"));
        }
        // What was written before the end may be read, however it ended, but only complete content has an end.
        if len <= self.position {
            return match end {
                End::Complete => Ok(0),
                _ => Err(io::Error::other("the download was given up")),
            };
        }
        let most = usize::try_from(len - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let read = inner.file.read_at(&mut buffer[..most], self.position)?;
        if self.is_stale() {
            return Err(io::Error::other("the download began anew"));
        }
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut while it was read"));
        }
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growing() -> Growing {
        Growing::new(tempfile::tempfile().unwrap(), 0)
    }

    fn follow(growing: &Growing) -> std::thread::JoinHandle<io::Result<Vec<u8>>> {
        let mut reader = growing.reader();
        std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        })
    }

    #[test]
    fn readers_see_all_that_is_written_and_end_with_it() {
        let growing = growing();
        let readers = [follow(&growing), follow(&growing)];
        let mut expected = Vec::new();
        for piece in 0..200_u8 {
            let data = vec![piece; 1 + usize::from(piece) * 37];
            growing.append(&data).unwrap();
            expected.extend(data);
        }
        growing.finish();
        for reader in readers {
            assert_eq!(reader.join().unwrap().unwrap(), expected);
        }
    }

    #[test]
    fn a_restart_fails_old_readers_and_new_ones_see_only_what_is_new() {
        let growing = growing();
        growing.append(b"old").unwrap();
        let mut old = growing.reader();
        let mut byte = [0; 1];
        assert_eq!(old.read(&mut byte).unwrap(), 1);
        growing.restart().unwrap();
        growing.append(b"new and longer").unwrap();
        growing.finish();
        assert!(old.read(&mut byte).is_err() && old.is_stale());
        assert_eq!(follow(&growing).join().unwrap().unwrap(), b"new and longer");
    }

    #[test]
    fn giving_up_wakes_readers_with_an_error_and_never_with_an_end() {
        let growing = growing();
        growing.append(b"half").unwrap();
        let reader = follow(&growing);
        growing.abandon();
        assert!(reader.join().unwrap().is_err());
        growing.finish();
        assert!(follow(&growing).join().unwrap().is_err());
    }

    #[test]
    fn a_verdict_waits_for_a_restart_that_comes_after_it() {
        let growing = growing();
        growing.append(b"old").unwrap();
        let reader = growing.reader();
        let settled = std::thread::spawn(move || {
            reader.settle();
            reader.is_stale()
        });
        growing.restart().unwrap();
        assert!(settled.join().unwrap());
        let reader = growing.reader();
        growing.finish();
        reader.settle();
        assert!(!reader.is_stale());
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(Growing::new(full, 0).append(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
