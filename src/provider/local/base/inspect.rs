//! What a disk image is, read from its own header: raw or qcow2, its size, and why it is not usable otherwise.
//!
//! The header is read here and not by `qemu-img info`, which opens what the header names: an image from elsewhere could
//! make it read any file of this host (CVE-2024-4467). An image that names other files is refused before any program
//! of QEMU sees it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{Context as _, Error, Result};
use crate::plan::ImageFormat;

/// A disk image that may be a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// `Raw` or `Qcow2`: to be named to QEMU, which must never guess it.
    pub format: ImageFormat,
    /// Size of the disk that the guest sees, in bytes.
    pub virtual_bytes: u64,
}

/// Reads the header of the image at `path`.
///
/// # Errors
/// Exit 4: not there, not a regular file, not readable, neither raw nor qcow2, or a qcow2 that depends on other files.
pub fn inspect(path: &Path) -> Result<Disk> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let message = if missing { format!("the base {shown} does not exist") } else { format!("cannot read {shown}") };
        let failure = Error::host(message).with_source(error);
        if missing { failure.with_hint("`amibake base create` makes one; `--base` names another") } else { failure }
    })?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::host(format!("the base {shown} is {what}, not a disk image")));
    }
    if metadata.len() == 0 {
        return Err(Error::host(format!("the base {shown} is empty")));
    }
    let file = File::open(path).or_host(|| format!("cannot read the base {shown}"))?;
    let mut head = [0; 512];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => return Err(error).or_host(|| format!("cannot read the base {shown}")),
        }
    }
    classify(&head, metadata.len()).map_err(|fault| {
        let failure = Error::host(format!("the base {shown} {}", fault.what));
        match fault.hint {
            Some(hint) => failure.with_hint(hint.replace("{}", &shown.to_string())),
            None => failure,
        }
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    what: &'static str,
    /// `{}` stands for the path.
    hint: Option<&'static str>,
}

fn fault(what: &'static str, hint: Option<&'static str>) -> Fault {
    Fault { what, hint }
}

fn classify(head: &[u8; 512], length: u64) -> Result<Disk, Fault> {
    const UNPACK: Option<&str> = Some("unpack it first, and name the disk image");
    const CONVERT: Option<&str> = Some("convert it: `qemu-img convert -O qcow2 {} base.qcow2`");
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"QFI\xfb") {
        return qcow2(head, length);
    }
    for magic in [&b"\x1f\x8b"[..], b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04", b"7z\xbc\xaf"] {
        if starts(magic) {
            return Err(fault("is compressed", UNPACK));
        }
    }
    // The magic of POSIX tar, pax and GNU tar stands at 257.
    if head[257..].starts_with(b"ustar") {
        return Err(fault("is a tar archive", UNPACK));
    }
    if starts(b"KDMV") || starts(b"# Disk DescriptorFile") {
        return Err(fault("is a VMDK image, not raw or qcow2", CONVERT));
    }
    if starts(b"vhdxfile") || starts(b"conectix") || head[64..].starts_with(&[0x7f, 0x10, 0xda, 0xbe]) {
        return Err(fault("is a VHD or VDI image, not raw or qcow2", CONVERT));
    }
    // MBR and GPT disks both end their first sector like this (UEFI 2.10, 5.2); what boots has it.
    if head[510..] != [0x55, 0xaa] {
        return Err(fault("has no partition table: it is not a disk image", Some("raw and qcow2 images are accepted")));
    }
    if !length.is_multiple_of(512) {
        return Err(fault("is cut off: it does not end at a sector", Some("fetch it again")));
    }
    Ok(Disk { format: ImageFormat::Raw, virtual_bytes: length })
}

/// The qcow2 header: docs/interop/qcow2.txt of QEMU; all numbers big-endian.
fn qcow2(head: &[u8; 512], length: u64) -> Result<Disk, Fault> {
    const CUT_OFF: Fault = Fault { what: "is cut off", hint: Some("fetch it again") };
    const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
    const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
    let half = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let whole = |at: usize| u64::from(half(at)) << 32 | u64::from(half(at + 4));
    let version = half(4);
    if !matches!(version, 2 | 3) {
        return Err(fault("is a qcow image of an unknown version", None));
    }
    if whole(8) != 0 {
        let hint = "make it stand on its own, if you trust it: `qemu-img convert -O qcow2 {} base.qcow2`";
        return Err(fault("has a backing file: it would read another file of this host", Some(hint)));
    }
    let incompatible = if version == 3 { whole(72) } else { 0 };
    if incompatible & INCOMPATIBLE_DATA_FILE != 0 {
        return Err(fault("keeps its data in another file: it would read any file of this host", None));
    }
    if incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(fault("is marked as corrupt", Some("repair it: `qemu-img check -r all {}`")));
    }
    if half(32) != 0 {
        return Err(fault("is encrypted", None));
    }
    let virtual_bytes = whole(24);
    if virtual_bytes == 0 || !virtual_bytes.is_multiple_of(512) {
        return Err(fault("is not a usable qcow2 image: its size is not whole sectors", None));
    }
    let (table, entries) = (whole(40), u64::from(half(36)));
    if table.checked_add(entries * 8).is_none_or(|end| end > length) || whole(48) >= length {
        return Err(CUT_OFF);
    }
    Ok(Disk { format: ImageFormat::Qcow2, virtual_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn qcow2_head() -> [u8; 512] {
        let mut head = [0; 512];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[24..32].copy_from_slice(&GIB.to_be_bytes());
        head[36..40].copy_from_slice(&2u32.to_be_bytes());
        head[40..48].copy_from_slice(&0x3_0000u64.to_be_bytes());
        head[48..56].copy_from_slice(&0x1_0000u64.to_be_bytes());
        head
    }

    fn raw_head() -> [u8; 512] {
        let mut head = [0; 512];
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        head
    }

    #[test]
    fn raw_and_qcow2_are_told_apart_with_their_sizes() {
        assert_eq!(classify(&raw_head(), GIB), Ok(Disk { format: ImageFormat::Raw, virtual_bytes: GIB }));
        let qcow2 = Disk { format: ImageFormat::Qcow2, virtual_bytes: GIB };
        assert_eq!(classify(&qcow2_head(), 0x4_0000), Ok(qcow2));
    }

    #[test]
    fn a_qcow2_that_names_other_files_is_refused() {
        let mut backing = qcow2_head();
        backing[15] = 0x90;
        assert!(classify(&backing, GIB).unwrap_err().what.contains("backing file"));
        let mut data_file = qcow2_head();
        data_file[79] = 4;
        assert!(classify(&data_file, GIB).unwrap_err().what.contains("data in another file"));
    }

    #[test]
    fn what_cannot_be_a_base_is_named() {
        let with = |at: usize, bytes: &[u8]| {
            let mut head = raw_head();
            head[at..at + bytes.len()].copy_from_slice(bytes);
            classify(&head, GIB).unwrap_err().what
        };
        assert_eq!(with(0, b"\x1f\x8b\x08"), "is compressed");
        assert_eq!(with(257, b"ustar\0"), "is a tar archive");
        assert!(with(0, b"KDMV").contains("VMDK"));
        assert!(with(0, b"vhdxfile").contains("VHD"));
        assert!(with(510, b"\0\0").contains("no partition table"));
        assert!(classify(&raw_head(), GIB + 1).unwrap_err().what.contains("cut off"));
        assert!(classify(&qcow2_head(), 0x3_0008).unwrap_err().what.contains("cut off"));
        let mut encrypted = qcow2_head();
        encrypted[35] = 2;
        assert_eq!(classify(&encrypted, GIB).unwrap_err().what, "is encrypted");
    }

    #[test]
    fn missing_folder_and_empty_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let missing = inspect(&folder.path().join("none.qcow2")).unwrap_err();
        assert!(missing.to_string().ends_with("none.qcow2 does not exist"), "{missing}");
        assert!(missing.hint().unwrap().contains("amibake base create"));
        assert!(inspect(folder.path()).unwrap_err().to_string().contains("is a folder"));
        let empty = folder.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(inspect(&empty).unwrap_err().to_string().ends_with("is empty"));
        let page = folder.path().join("page.img");
        std::fs::write(&page, b"<html>not found</html>").unwrap();
        assert!(inspect(&page).unwrap_err().to_string().contains("no partition table"));
    }
}
