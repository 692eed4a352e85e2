//! Tar headers: POSIX ustar and GNU, PAX records and GNU long names.

use super::{BLOCK, Refusal};
use crate::release::archive::name;

/// What a header stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Symlink,
    Hardlink,
    /// PAX records for the next member.
    Pax,
    /// PAX records for all members after it.
    PaxGlobal,
    /// GNU: the next member's name.
    LongName,
    /// GNU: the next member's link target.
    LongLink,
}

impl Kind {
    /// Describes another header instead of being a member.
    pub(super) fn extends(self) -> bool {
        matches!(self, Kind::Pax | Kind::PaxGlobal | Kind::LongName | Kind::LongLink)
    }
}

/// The fields that matter.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// As it stands there.
    pub(super) name: Vec<u8>,
    /// Target of a link.
    pub(super) link: Vec<u8>,
    /// Bytes of data that follow.
    pub(super) size: u64,
    /// Permission bits.
    pub(super) mode: u32,
}

/// Reads one block.
pub(super) fn read(block: &[u8; BLOCK]) -> Result<Header, Refusal> {
    let header = tar::Header::from_byte_slice(block);
    let old = header.as_old();
    // First of all: a block whose sum is wrong has no name worth printing.
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    let own: u64 = old.cksum.iter().map(|&byte| u64::from(byte)).sum();
    if octal(&old.cksum) != Some(sum - own + 8 * u64::from(b' ')) {
        return Err(Refusal::archive("a header's checksum is wrong"));
    }
    let name = header.path_bytes().into_owned();
    let refuse = |reason: &str| Refusal::member(&name, reason);
    if header.as_ustar().is_none() && header.as_gnu().is_none() {
        return Err(refuse("its header is neither ustar nor GNU tar"));
    }
    let kind = match old.linkflag[0] {
        b'0' | 0 => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'5' => Kind::Folder,
        b'x' => Kind::Pax,
        b'g' => Kind::PaxGlobal,
        b'L' => Kind::LongName,
        b'K' => Kind::LongLink,
        b'3' => return Err(refuse("it is a character device")),
        b'4' => return Err(refuse("it is a block device")),
        b'6' => return Err(refuse("it is a named pipe")),
        b'S' => return Err(refuse("it is a sparse file")),
        other => return Err(refuse(&format!("it is of an unknown kind (`{}`)", name::printable(&[other])))),
    };
    let size = octal(&old.size).ok_or_else(|| refuse("its size is not an octal number"))?;
    let mode = octal(&old.mode).ok_or_else(|| refuse("its mode is not an octal number"))?;
    let mode = u32::try_from(mode).unwrap_or(u32::MAX);
    let link = header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
    if matches!(kind, Kind::Folder | Kind::Symlink | Kind::Hardlink) && size != 0 {
        return Err(refuse("it has data and is no file"));
    }
    // A symbolic link has no permissions of its own; whatever is written there means nothing.
    if !kind.extends() && kind != Kind::Symlink {
        if mode & 0o7000 != 0 {
            return Err(refuse(&format!("it is setuid, setgid or sticky (mode {mode:04o})")));
        }
        if mode & 0o002 != 0 {
            return Err(refuse(&format!("everyone may write to it (mode {mode:04o})")));
        }
    }
    Ok(Header { kind, name, link, size, mode })
}

/// Digits, ended by a space or NUL or the field's end; spaces may stand before them, nothing but NULs and spaces after.
/// The binary form, for numbers of 8 GiB and more, is not read: no release has such.
fn octal(field: &[u8]) -> Option<u64> {
    let text = field.trim_ascii_start();
    let digits = text.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, after) = text.split_at(digits);
    if digits.is_empty() || after.iter().any(|&byte| byte != 0 && byte != b' ') {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number << 3 | u64::from(digit - b'0')))
}

/// What the headers before a member say about it.
#[derive(Debug, Default)]
pub(super) struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    seen: Vec<Kind>,
}

impl Extended {
    /// Nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Takes in the data of an extension.
    pub(super) fn add(&mut self, header: &Header, data: &[u8]) -> Result<(), Refusal> {
        let refuse = |reason: String| Refusal::member(&header.name, reason);
        // Which of two names wins is for each tar program to decide.
        if self.seen.contains(&header.kind) || (self.seen.contains(&Kind::Pax) && header.kind != Kind::PaxGlobal) {
            return Err(refuse("two extended headers describe one member".into()));
        }
        match header.kind {
            Kind::Pax => {
                if !self.seen.is_empty() {
                    return Err(refuse("PAX and GNU headers describe one member".into()));
                }
                for (key, value) in records(data).map_err(refuse)? {
                    self.record(key, value).map_err(refuse)?;
                }
            }
            Kind::PaxGlobal => {
                for (key, _) in records(data).map_err(refuse)? {
                    if !harmless(key) {
                        return Err(refuse(format!("a global header sets `{}`", name::printable(key))));
                    }
                }
                // Says nothing about the next member.
                return Ok(());
            }
            Kind::LongName => self.name = Some(long(data).map_err(refuse)?),
            Kind::LongLink => self.link = Some(long(data).map_err(refuse)?),
            _ => return Err(refuse("not an extended header".into())),
        }
        self.seen.push(header.kind);
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let twice = match key {
            b"path" => self.name.replace(value.to_vec()).is_some(),
            b"linkpath" => self.link.replace(value.to_vec()).is_some(),
            b"size" => {
                let digits = value.iter().all(u8::is_ascii_digit);
                let size = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
                let size = size.ok_or_else(|| "its PAX size is not a number".to_owned())?;
                self.size.replace(size).is_some()
            }
            key if harmless(key) => false,
            // Sparse maps, capabilities, access lists, security labels: all change what a file is or may do.
            key => return Err(format!("its PAX header sets `{}`", name::printable(key))),
        };
        if twice { Err(format!("its PAX header sets `{}` twice", name::printable(key))) } else { Ok(()) }
    }

    /// The member as the headers together describe it.
    pub(super) fn apply(self, mut header: Header) -> Result<Header, Refusal> {
        if let Some(size) = self.size.filter(|&size| size != header.size) {
            // A file of 8 GiB or more needs this, and is not a release's.
            let reason = format!("its headers give two sizes, {} and {size}", header.size);
            return Err(Refusal::member(&header.name, reason));
        }
        if let Some(name) = self.name {
            header.name = name;
        }
        if let Some(link) = self.link {
            header.link = link;
        }
        Ok(header)
    }
}

/// Records that change nothing of what is unpacked where.
fn harmless(key: &[u8]) -> bool {
    matches!(key, b"mtime" | b"atime" | b"ctime" | b"uid" | b"gid" | b"uname" | b"gname" | b"comment")
}

/// A GNU long name: ends with one NUL.
fn long(data: &[u8]) -> Result<Vec<u8>, String> {
    match data.strip_suffix(b"\0") {
        Some(name) if !name.contains(&0) => Ok(name.to_vec()),
        _ => Err("a GNU long name does not end with one NUL".into()),
    }
}

/// Key and value of a PAX record.
type Record<'a> = (&'a [u8], &'a [u8]);

/// PAX records: `LENGTH KEY=VALUE\n`, the length counting itself.
fn records(mut data: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let bad = || "its PAX header is malformed".to_owned();
    let mut all = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|&byte| byte == b' ').ok_or_else(bad)?;
        let digits = std::str::from_utf8(&data[..space]).map_err(|_| bad())?;
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(bad());
        }
        let length: usize = digits.parse().map_err(|_| bad())?;
        if length <= space + 1 || length > data.len() {
            return Err(bad());
        }
        let (record, rest) = data.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
        all.push((&record[..equals], &record[equals + 1..]));
        data = rest;
    }
    Ok(all)
}
