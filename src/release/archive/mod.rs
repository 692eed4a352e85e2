//! Reads a release tarball and refuses what no release holds. Streams: memory does not depend on the archive's size.
//! Unpacks nothing by itself but one member that the caller names, into a file that the caller gives.
//!
//! Policy. Real releases hold the folder `bin/` and regular files. Accepted are folders, regular files, and links that
//! stay in the tree; PAX and GNU long names, up to a bound. Everything else is refused, and so is whatever two tar programs
//! could read differently: the machine unpacks with another tar than the one that checked.

mod gzip;
mod header;
mod name;
mod tree;

use std::fs::File;
use std::io::{self, Read, Write as _};

use gzip::Inflated;
use header::{Extended, Kind};
use tree::Tree;

/// What an archive may cost. Numbers are far above real releases (90 MB, 200 MB unpacked, 20 members).
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Members.
    pub(super) members: usize,
    /// Bytes after inflating.
    pub(super) unpacked: u64,
    /// Bytes after inflating per byte before; counts from [`FREE`](Self::FREE) on.
    pub(super) ratio: u64,
}

impl Bounds {
    /// What any archive may inflate to, however well it is compressed.
    const FREE: u64 = 16 << 20;
}

impl Default for Bounds {
    fn default() -> Self {
        Self { members: 1000, unpacked: 4 << 30, ratio: 100 }
    }
}

/// A name, or the headers that give one, may have this many bytes. PATH_MAX.
const NAME: u64 = 4096;

/// Zeros after the end marker: GNU tar fills up to its record size, 10 KiB unless told otherwise.
const TRAILER: u64 = 1 << 20;

const BLOCK: usize = 512;

/// Why an archive is not used.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not as it must be.
    Content {
        /// The member it is about, as it may be printed.
        member: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be read, or the member cannot be written: says nothing about the archive.
    Io(io::Error),
}

impl Refusal {
    fn archive(reason: impl Into<String>) -> Self {
        Refusal::Content { member: None, reason: reason.into() }
    }

    fn member(name: &[u8], reason: impl Into<String>) -> Self {
        Refusal::Content { member: Some(name::printable(name)), reason: reason.into() }
    }
}

/// A member to write out while reading.
pub(super) struct Wanted<'a> {
    pub(super) member: &'a str,
    pub(super) file: &'a File,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// Its regular files, in their order, without a leading `./`.
    pub(super) members: Vec<String>,
    /// Permission bits of the member that was written out.
    pub(super) wanted_mode: Option<u32>,
}

/// Reads all of the gzip-compressed tar archive `source`.
///
/// # Errors
/// [`Refusal::Content`] when it is not what a release may be, [`Refusal::Io`] when it cannot be read to its end.
pub(super) fn inspect(
    source: impl Read,
    bounds: Bounds,
    wanted: Option<&Wanted<'_>>,
) -> std::result::Result<Contents, Refusal> {
    let mut inflated = Inflated::new(source, bounds);
    let read = read(&mut inflated, bounds, wanted);
    // A source that fails looks like a broken archive to everything above it.
    match inflated.take_fault() {
        Some(fault) => Err(Refusal::Io(fault)),
        None => read,
    }
}

fn read(
    inflated: &mut Inflated<impl Read>,
    bounds: Bounds,
    wanted: Option<&Wanted<'_>>,
) -> std::result::Result<Contents, Refusal> {
    let mut tree = Tree::default();
    let mut extended = Extended::default();
    let mut wanted_mode = None;
    let mut headers = 0;
    while let Some(block) = next_header(inflated)? {
        // Extensions count too: a million of them would be no members and yet a day's work.
        headers += 1;
        if headers > 3 * bounds.members || tree.len() == bounds.members {
            return Err(Refusal::archive(format!("it holds more than {} members", bounds.members)));
        }
        let header = header::read(&block)?;
        if header.kind.extends() {
            let data = extension(inflated, &header)?;
            extended.add(&header, &data)?;
            continue;
        }
        let entry = std::mem::take(&mut extended).apply(header)?;
        let name = tree.add(&entry)?;
        match wanted {
            Some(wanted) if entry.kind == Kind::File && name == wanted.member => {
                body(inflated, &entry, |data| { wanted.file }.write_all(data))?;
                wanted_mode = Some(entry.mode);
            }
            _ => body(inflated, &entry, |_| Ok(()))?,
        }
    }
    if !extended.is_empty() {
        return Err(Refusal::archive("an extended header has no member after it"));
    }
    rest(inflated)?;
    let members = tree.into_files();
    if members.is_empty() {
        return Err(Refusal::archive("it holds no files"));
    }
    Ok(Contents { members, wanted_mode })
}

/// The next header, or nothing at the end marker: two blocks of zeros.
fn next_header(inflated: &mut Inflated<impl Read>) -> std::result::Result<Option<[u8; BLOCK]>, Refusal> {
    let mut block = [0; BLOCK];
    inflated.fill(&mut block)?;
    if block != [0; BLOCK] {
        return Ok(Some(block));
    }
    inflated.fill(&mut block)?;
    if block != [0; BLOCK] {
        return Err(Refusal::archive("a single block of zeros stands between members"));
    }
    Ok(None)
}

/// The data of a header that describes the next one.
fn extension(inflated: &mut Inflated<impl Read>, header: &header::Header) -> std::result::Result<Vec<u8>, Refusal> {
    if header.size > NAME {
        let reason = format!("an extended header of {} bytes, more than {NAME}", header.size);
        return Err(Refusal::member(&header.name, reason));
    }
    let padded = header.size.next_multiple_of(BLOCK as u64);
    let mut data = vec![0; usize::try_from(padded).unwrap_or(0)];
    inflated.fill(&mut data)?;
    data.truncate(usize::try_from(header.size).unwrap_or(0));
    Ok(data)
}

/// Reads over the data of a member, handing it to `take`.
fn body(
    inflated: &mut Inflated<impl Read>,
    entry: &header::Header,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> std::result::Result<(), Refusal> {
    let mut left = entry.size;
    while left > 0 {
        let data = inflated.some(left)?;
        left -= data.len() as u64;
        take(data).map_err(Refusal::Io)?;
    }
    let padding = entry.size.next_multiple_of(BLOCK as u64) - entry.size;
    inflated.fill(&mut [0; BLOCK][..usize::try_from(padding).unwrap_or(0)])
}

/// Nothing but zeros may follow the end marker, and nothing at all the compressed stream.
fn rest(inflated: &mut Inflated<impl Read>) -> std::result::Result<(), Refusal> {
    let mut zeros = 0;
    loop {
        let data = inflated.some_or_end(TRAILER)?;
        if data.is_empty() {
            break;
        }
        zeros += data.len() as u64;
        if data.iter().any(|&byte| byte != 0) {
            return Err(Refusal::archive("data follows its end marker"));
        }
        if zeros > TRAILER {
            return Err(Refusal::archive(format!("more than {TRAILER} zeros follow its end marker")));
        }
    }
    inflated.end()
}

#[cfg(test)]
mod tests;
