//! A bootable disk from its parts, without root, loop devices or GRUB on the host: partition table by sfdisk, boot
//! code by offset.
//!
//! Layout: GPT; partition 1, 1 MiB, BIOS boot, at 1 MiB, holds GRUB's core image; partition 2, root, at 2 MiB, to the
//! end but for the last MiB, which the second partition table needs.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use crate::error::{Context as _, Error, Result};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// Size of the root file system.
pub(super) const ROOT_BYTES: u64 = 4 << 30;
/// Size of the whole disk.
pub(super) const DISK_BYTES: u64 = 2 * MIB + ROOT_BYTES + MIB;
/// Where the core image is.
const CORE_LBA: u64 = MIB / SECTOR;

/// Types of the Discoverable Partitions Specification and of GRUB; systemd-repart knows root by its type.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const ROOT_X86_64: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// Makes `disk`, which has the root file system in its place, bootable by BIOS.
pub(super) async fn make_bootable(sfdisk: &Path, disk: &Path, boot: &[u8]) -> Result<()> {
    let (first, core) = boot_code(boot)?;
    let table = format!(
        "label: gpt\nstart={CORE_LBA}, size={}, type={BIOS_BOOT}\nstart={}, size={}, type={ROOT_X86_64}, name=root\n",
        MIB / SECTOR,
        2 * MIB / SECTOR,
        ROOT_BYTES / SECTOR,
    );
    let mut child = tokio::process::Command::new(sfdisk)
        .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .or_host(|| "cannot start sfdisk".to_owned())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(table.as_bytes()).await.or_host(|| "sfdisk did not read the partition table".to_owned())?;
    }
    let ended = child.wait_with_output().await.or_host(|| "sfdisk did not end".to_owned())?;
    if !ended.status.success() {
        return Err(Error::host("sfdisk could not write the partition table")
            .with_detail(String::from_utf8_lossy(&ended.stderr).into_owned()));
    }
    let write = || {
        let file = File::options().write(true).open(disk)?;
        file.write_all_at(&first, 0)?;
        file.write_all_at(&core, CORE_LBA * SECTOR)?;
        file.sync_data()
    };
    write().or_host(|| format!("cannot write {}", disk.display()))
}

/// GRUB's boot.img and core.img made to fit the layout: what goes before the partition table, and what goes to
/// [`CORE_LBA`]. Offsets: include/grub/offsets.h and grub-core/boot/i386/pc/{boot,diskboot}.S of GRUB 2.
fn boot_code(parts: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    /// Where the boot code ends and the disk signature and partition table begin.
    const CODE_END: usize = 440;
    /// GRUB_BOOT_MACHINE_KERNEL_SECTOR: first sector of the core image.
    const KERNEL_SECTOR: usize = 0x5c;
    /// GRUB_BOOT_MACHINE_DRIVE_CHECK: a jump over a check of the drive's number; two NOPs let it run, as grub-setup does.
    const DRIVE_CHECK: usize = 0x66;
    /// The one block list of diskboot.img: start (8 bytes), sectors (2), segment (2), at the end of its sector.
    const BLOCK_LIST: usize = SECTOR as usize - 12;
    /// GRUB_BOOT_MACHINE_KERNEL_SEG + one sector: where the rest of the core image is loaded.
    const SEGMENT: u16 = 0x820;
    let unusable = || Error::host("the base's GRUB is of an unknown kind: it cannot be made to boot");
    let (boot, core) = parts.split_at_checked(SECTOR as usize).ok_or_else(unusable)?;
    let sectors = core.len().div_ceil(SECTOR as usize);
    if boot[510..] != [0x55, 0xaa] || sectors < 2 || core.len() as u64 > MIB {
        return Err(unusable());
    }
    let mut first = boot[..CODE_END].to_vec();
    first[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&CORE_LBA.to_le_bytes());
    first[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let mut core = core.to_vec();
    let rest = u16::try_from(sectors - 1).map_err(|_| unusable())?;
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(CORE_LBA + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&SEGMENT.to_le_bytes());
    Ok((first, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_code_points_to_the_core_image() {
        let mut parts = vec![0xee; 512 + 1300];
        parts[510..512].copy_from_slice(&[0x55, 0xaa]);
        let (first, core) = boot_code(&parts).unwrap();
        assert_eq!(first.len(), 440);
        assert_eq!(first[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(first[0x66..0x68], [0x90, 0x90]);
        // 1300 bytes are three sectors; two follow the first.
        assert_eq!(core[500..512], [0x01, 0x08, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
        assert_eq!(core.len(), 1300);
    }

    #[test]
    fn what_is_not_grub_is_refused() {
        assert!(boot_code(&[]).is_err());
        assert!(boot_code(&[0; 2048]).is_err());
        let mut large = vec![0; 512 + MIB as usize + 1];
        large[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(boot_code(&large).is_err());
    }
}
