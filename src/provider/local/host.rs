//! What this host offers: the accelerator that works, programs, memory, disk space. Looks and tries; changes nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::Settings;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::provider::{Finding, Severity};
use crate::release::Arch;

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Linux's KVM.
    Kvm,
    /// macOS's Hypervisor.framework.
    Hvf,
    /// Emulation.
    Tcg,
}

/// Memory left to the host beside the machines.
const RESERVE: u64 = 512 << 20;

/// Disk space below which a guest's write may fail.
const FULL: u64 = 32 << 20;

/// The program `name` on PATH, or in the folders for system programs that a user's PATH may lack.
#[must_use]
pub(super) fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The system emulator for `arch` on PATH.
///
/// # Errors
/// Exit 4 with what to install.
pub fn emulator(arch: Arch) -> Result<PathBuf> {
    let name = format!("qemu-system-{}", arch.uname());
    program(&name).ok_or_else(|| {
        let package = match arch {
            Arch::Amd64 => "qemu-system-x86",
            Arch::Arm64 => "qemu-system-arm",
        };
        Error::host(format!("there is no {name} on PATH"))
            .with_hint(format!("install it: apt-get install {package} qemu-utils (macOS: brew install qemu)"))
    })
}

/// UEFI firmware where machines have no BIOS.
///
/// # Errors
/// Exit 4 when it is needed and missing.
pub(super) fn firmware(arch: Arch) -> Result<Option<PathBuf>> {
    if arch == Arch::Amd64 {
        return Ok(None);
    }
    let known = [
        "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
        "/usr/share/edk2/aarch64/QEMU_EFI.fd",
        "/usr/share/AAVMF/AAVMF_CODE.fd",
        "/opt/homebrew/share/qemu/edk2-aarch64-code.fd",
    ];
    let found = known.iter().map(PathBuf::from).find(|file| file.is_file());
    found.map(Some).ok_or_else(|| {
        Error::host("there is no UEFI firmware for arm64 machines")
            .with_hint("install it: apt-get install qemu-efi-aarch64")
    })
}

/// The fastest accelerator that works for `arch` here: tried by starting a machine with it, not guessed. The first
/// answer is kept for the life of the process.
///
/// # Errors
/// As [`emulator`].
pub async fn accelerator(arch: Arch) -> Result<Accelerator> {
    static TRIED: OnceCell<Accelerator> = OnceCell::const_new();
    let program = emulator(arch)?;
    if Arch::host() != Some(arch) {
        return Ok(Accelerator::Tcg);
    }
    let best = if cfg!(target_os = "macos") { Accelerator::Hvf } else { Accelerator::Kvm };
    let tried = TRIED.get_or_init(|| async { if works(&program, arch, best).await { best } else { Accelerator::Tcg } });
    Ok(*tried.await)
}

/// Whether a machine runs a second with this accelerator. /dev/kvm may be there, and open, and still not run one.
async fn works(program: &Path, arch: Arch, accelerator: Accelerator) -> bool {
    if accelerator == Accelerator::Kvm && std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let (name, machine) = match (accelerator, arch) {
        (Accelerator::Hvf, Arch::Arm64) => ("hvf", "virt"),
        (Accelerator::Hvf, Arch::Amd64) => ("hvf", "q35"),
        (_, Arch::Arm64) => ("kvm", "virt"),
        (_, Arch::Amd64) => ("kvm", "q35"),
    };
    let mut command = tokio::process::Command::new(program);
    command.args(["-accel", name, "-machine", machine, "-cpu", "host", "-m", "64M", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none"]).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    // One that cannot run ends at once; one that runs has nothing to boot and stays.
    tokio::time::timeout(Duration::from_millis(700), child.wait()).await.is_err()
}

/// What would fail later, all of it at once.
pub async fn preflight(settings: &Settings, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |severity, message: String, hint: Option<&str>| {
        findings.push(Finding { severity, message, hint: hint.map(str::to_owned) });
    };
    match accelerator(plan.arch).await {
        Err(error) => find(Severity::Refuse, error.to_string(), error.hint()),
        Ok(Accelerator::Tcg) if Arch::host() != Some(plan.arch) => {
            find(Severity::Warn, format!("{} is emulated on this machine: expect a slow bake", plan.arch), None)
        }
        Ok(Accelerator::Tcg) => find(
            Severity::Warn,
            "no working hardware acceleration (KVM): the machine is emulated, which is slow".to_owned(),
            None,
        ),
        Ok(_) => {}
    }
    if let Err(error) = firmware(plan.arch) {
        find(Severity::Refuse, error.to_string(), error.hint());
    }
    if program("qemu-img").is_none() {
        find(
            Severity::Refuse,
            "there is no qemu-img on PATH".to_owned(),
            Some("install it: apt-get install qemu-utils"),
        );
    }
    if !Path::new(&plan.base.location).is_file() {
        find(Severity::Refuse, format!("the base {} is gone", plan.base.location), Some("amibake base create"));
    }
    let available = available_memory();
    if plan.machine.memory_bytes > available {
        let message = format!(
            "the machine wants {} MiB of memory, {} MiB are available",
            plan.machine.memory_bytes >> 20,
            available >> 20
        );
        find(Severity::Refuse, message, Some("--set machine.memory=… or free some"));
    }
    disk(settings, plan, &mut find);
    findings
}

/// Space for the machine's writes and the finished image. A bake writes about as much as the base holds, and then once
/// more as the image.
fn disk(settings: &Settings, plan: &Plan, find: &mut dyn FnMut(Severity, String, Option<&str>)) {
    use std::os::unix::fs::MetadataExt as _;
    let folder = existing(&settings.dist_dir);
    let base = std::fs::metadata(&plan.base.location).map_or(0, |about| about.blocks() * 512);
    let wanted = base * 2 + (1 << 30);
    match free_space(&folder) {
        Some(free) if free < wanted => find(
            Severity::Refuse,
            format!("{} has {} MiB free, a bake needs about {} MiB", folder.display(), free >> 20, wanted >> 20),
            Some("free some space, or name another folder with --dist"),
        ),
        _ => {}
    }
    if rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).is_err() {
        find(
            Severity::Refuse,
            format!("{} cannot be written to", folder.display()),
            Some("name another folder with --dist"),
        );
    }
}

/// `path`, or the nearest folder above it that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Bytes that this user may still write to the file system of `path`.
pub(super) fn free_space(path: &Path) -> Option<u64> {
    rustix::fs::statvfs(path).ok().map(|about| about.f_bavail * about.f_frsize)
}

/// Bytes that this user may still write to the file system of `path`, or of the nearest folder above it that exists.
///
/// # Errors
/// Exit 4 when it cannot be told.
pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    free_space(&existing(path)).ok_or_else(|| Error::host(format!("cannot tell the free space of {}", path.display())))
}

/// PATH with the folders for system programs, which a user's may lack.
pub(super) fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::join_paths(std::env::split_paths(&path).chain(system)).unwrap_or(path)
}

/// Whether writes to the file system of `path` fail, or are about to.
pub(super) fn is_full(path: &Path) -> bool {
    free_space(path).is_some_and(|free| free < FULL)
}

/// Bytes of memory that can be had without swapping, within the limit of this process's control group.
fn available_memory() -> u64 {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text, "MemAvailable"));
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let used = std::fs::read_to_string("/sys/fs/cgroup/memory.current").ok().and_then(|text| text.trim().parse().ok());
    let group = limit.map(|limit: u64| limit.saturating_sub(used.unwrap_or(0)));
    // Where neither is told (macOS), QEMU itself will.
    available.unwrap_or(u64::MAX).min(group.unwrap_or(u64::MAX))
}

/// A field of /proc/meminfo (proc(5)) in bytes; the file counts in KiB.
fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Memory that machines may take now, in bytes: what is available less a reserve for the host.
#[must_use]
pub fn memory_for_machines() -> u64 {
    available_memory().saturating_sub(RESERVE)
}

#[cfg(test)]
mod tests {
    #[test]
    fn meminfo_counts_in_kib() {
        assert_eq!(super::meminfo("MemTotal: 8 kB\nMemAvailable:    1024 kB\n", "MemAvailable"), Some(1 << 20));
        assert_eq!(super::meminfo("MemTotal: 8 kB\n", "MemAvailable"), None);
    }
}
