//! The journal of a run: JSON lines, one record each, on disk before what it says matters.
//!
//! Each record is synced, not only written: after a SIGKILL the page cache would do, but after a power cut an instance
//! in a cloud runs on, and a bake writes a dozen records in all. A record that was not wholly written is cut off
//! again; what a crash tears can only be the last line, and that record had not taken effect yet.
//! The file is locked (flock) for as long as its run lives, so that another process, in another container even, can
//! tell without believing a process number.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::owner::Owner;
use crate::error::{Context as _, Error, Result};
use crate::provider::Resource;

/// Version of the journal's format.
const SCHEMA: u32 = 1;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(super) enum Record {
    /// The first line.
    Opened { schema: u32, owner: Owner },
    /// It exists or is about to: remove it.
    Armed { resource: Resource },
    /// It stays: an image.
    Kept { resource: Resource },
    /// Left for inspection: goes once the machine it belongs to has ended.
    Left { resource: Resource },
    /// It is gone.
    Removed { resource: Resource },
    /// It could not be removed; it is still armed.
    Failed { resource: Resource, reason: String },
    /// A lock file that this run holds; stale once the run is dead.
    Locked { path: std::path::PathBuf },
    /// Nothing is armed any more.
    Done,
}

/// A journal that is being written.
pub(super) struct Journal {
    out: Box<dyn Write + Send>,
}

impl Journal {
    /// A new journal of this process.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let context = || format!("cannot write the journal {}", path.display());
        let file = OpenOptions::new().append(true).create_new(true).open(path).or_host(context)?;
        // Waits only for a sweep that looks at the empty file this moment. A file system that knows no locks leaves the
        // process number as the only sign of life.
        let _ = flock(&file, FlockOperation::LockExclusive);
        let mut journal = Self::over(Box::new(Synced { file, good: 0 }));
        journal.append(&Record::Opened { schema: SCHEMA, owner: Owner::current() })?;
        // The name must be on disk too, or the records are nowhere.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).or_host(context)?;
        Ok(journal)
    }

    /// Goes on with the journal of a run whose process is gone, or returns none when it is not gone.
    pub(super) fn take_over(path: &Path) -> Result<Option<(Self, Vec<u8>)>> {
        let context = || format!("cannot read the journal {}", path.display());
        let file = OpenOptions::new().read(true).append(true).open(path).or_host(context)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            return Ok(None);
        }
        let bytes = std::fs::read(path).or_host(context)?;
        // A torn last line is cut off, or the next record would be appended to it.
        let good = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        Ok(Some((Self::over(Box::new(Synced { file, good })), bytes)))
    }

    /// A journal that writes to `out`, whose `flush` makes it durable.
    pub(super) fn over(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }

    /// Writes one record; it is on disk when this returns.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let write = |out: &mut dyn Write| -> io::Result<()> {
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            out.write_all(&line)?;
            out.flush()
        };
        write(&mut *self.out).map_err(|source| {
            Error::host("cannot write the run's journal")
                .with_source(source)
                .with_hint("free space on the disk that holds the run's folder")
        })
    }
}

/// A file of whole lines.
struct Synced {
    file: File,
    /// Bytes of it that are whole records.
    good: u64,
}

impl Write for Synced {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.file.set_len(self.good).and_then(|()| self.file.write_all(line));
        if let Err(error) = written {
            // A full disk takes part of a line; the next record must not be glued to it.
            let _ = self.file.set_len(self.good);
            return Err(error);
        }
        self.good += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// What a journal says is so.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Whose it is; none in a journal that its process never came to write to.
    pub(super) owner: Option<Owner>,
    /// What must be removed, in the order it was armed.
    pub(super) armed: Vec<Resource>,
    /// What was left for inspection.
    pub(super) left: Vec<Resource>,
    /// Lock files the run held.
    pub(super) locks: Vec<std::path::PathBuf>,
    /// Whether the run said it is done.
    pub(super) done: bool,
}

/// Reads a journal. The last line may be torn; any other that is not a record makes the whole untrustworthy, because
/// it might have been the one that says an image stays.
///
/// # Errors
/// Exit 4 with the line's number.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let last = lines.peek().is_none();
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) if last => {}
            Err(source) => {
                return Err(Error::host(format!("line {} is not a record", number + 1)).with_source(source));
            }
        }
    }
    if let Some(Record::Opened { schema, .. }) = records.first()
        && *schema != SCHEMA
    {
        return Err(Error::host(format!("it is of format {schema}, this amibake knows {SCHEMA}")));
    }
    Ok(records)
}

/// What `records` add up to.
pub(super) fn account(records: Vec<Record>) -> Account {
    let mut account = Account::default();
    for record in records {
        match record {
            Record::Opened { owner, .. } => account.owner = Some(owner),
            Record::Armed { resource } => {
                account.done = false;
                account.armed.push(resource);
            }
            Record::Kept { resource } => account.armed.retain(|armed| *armed != resource),
            Record::Left { resource } => {
                account.armed.retain(|armed| *armed != resource);
                account.left.push(resource);
            }
            Record::Removed { resource } => {
                account.armed.retain(|armed| *armed != resource);
                account.left.retain(|left| *left != resource);
            }
            Record::Failed { .. } => account.done = false,
            Record::Locked { path } => account.locks.push(path),
            Record::Done => account.done = true,
        }
    }
    account
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resource() -> impl Strategy<Value = Resource> {
        prop_oneof![
            "[a-z/\\\\\"\n ]{1,12}".prop_map(|path| Resource::Path { path: path.into() }),
            (any::<u32>(), any::<u64>()).prop_map(|(pid, started)| Resource::Process { pid, started }),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            resource().prop_map(|resource| Record::Armed { resource }),
            resource().prop_map(|resource| Record::Kept { resource }),
            resource().prop_map(|resource| Record::Left { resource }),
            resource().prop_map(|resource| Record::Removed { resource }),
            (resource(), ".{0,12}").prop_map(|(resource, reason)| Record::Failed { resource, reason }),
            "[a-z/]{1,9}".prop_map(|path| Record::Locked { path: path.into() }),
            Just(Record::Done),
        ]
    }

    proptest! {
        #[test]
        fn a_journal_torn_anywhere_reads_as_what_was_whole(
            records in proptest::collection::vec(record(), 0..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for record in &records {
                bytes.extend(serde_json::to_vec(record).unwrap());
                // Whole without its line end, too: the record is all there.
                ends.push(bytes.len());
                bytes.push(b'\n');
            }
            let cut = cut.index(bytes.len() + 1);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            prop_assert_eq!(read(&bytes[..cut]).unwrap(), &records[..whole]);
        }

        #[test]
        fn garbage_is_an_error_or_nothing_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(records) = read(&bytes) {
                account(records);
            }
        }

        #[test]
        fn what_is_kept_is_never_armed(records in proptest::collection::vec(record(), 0..12), kept in resource()) {
            let mut records = records;
            records.push(Record::Armed { resource: kept.clone() });
            records.push(Record::Kept { resource: kept.clone() });
            prop_assert!(!account(records).armed.contains(&kept));
        }
    }

    #[test]
    fn garbage_in_the_middle_makes_the_whole_untrustworthy() {
        let error = read(b"{\"record\":\"done\"}\nrubbish\n{\"record\":\"done\"}\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2 is not a record");
    }

    #[test]
    fn a_partly_written_record_is_cut_off_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        drop(Journal::create(&path).unwrap());
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"record\":\"arm").unwrap();
        let (mut journal, _) = Journal::take_over(&path).unwrap().unwrap();
        journal.append(&Record::Done).unwrap();
        let records = read(&std::fs::read(&path).unwrap()).unwrap();
        assert!(matches!(records[..], [Record::Opened { .. }, Record::Done]), "{records:?}");
    }

    #[test]
    fn a_living_runs_journal_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let journal = Journal::create(&path).unwrap();
        assert!(Journal::take_over(&path).unwrap().is_none());
        drop(journal);
        assert!(Journal::take_over(&path).unwrap().is_some());
    }
}
