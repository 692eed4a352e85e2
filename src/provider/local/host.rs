//! What this host offers: the accelerator that works, programs, memory, disk space; and what would fail for want of it.
//!
//! Only looks. The one thing it starts is an empty machine that never runs, to try an accelerator.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::{Settings, base};
use crate::error::{Context as _, Error, Result};
use crate::plan::Plan;
use crate::provider::{Finding, Severity};
use crate::release::Arch;

const GIB: u64 = 1 << 30;
/// Left to the host when machines take the rest.
const MEMORY_RESERVE: u64 = GIB / 2;
/// What QEMU needs beside the guest's memory: code, device state and the buffer of translated code (tcg).
const MEMORY_PER_MACHINE: u64 = GIB / 4;
/// What packages and the release add to a base, before the guest's file system gives anything back.
const BAKE_GROWTH: u64 = 2 * GIB;

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

impl Accelerator {
    /// QEMU's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Hvf => "hvf",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// PATH, with the folders where distributions keep an administrator's programs and an ordinary user's PATH has not.
#[must_use]
pub fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::join_paths(std::env::split_paths(&path).chain(more)).unwrap_or(path)
}

/// Where the program called `name` is on [`search_path`].
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs =
        |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&search_path())
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(runs)
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
        Error::host(format!("{name} is not installed")).with_hint(format!(
            "install QEMU: `apt-get install {package} qemu-utils`, `dnf install qemu-kvm qemu-img` or `brew install qemu`"
        ))
    })
}

/// The UEFI firmware for an arm64 machine: its code, read-only, to be loaded as the first flash.
///
/// # Errors
/// Exit 4 with what to install.
pub fn arm64_firmware() -> Result<PathBuf> {
    const PLACES: [&str; 6] = [
        "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd",
        "/usr/share/AAVMF/AAVMF_CODE.fd",
        "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
        "/usr/share/qemu/edk2-aarch64-code.fd",
        "/opt/homebrew/share/qemu/edk2-aarch64-code.fd",
        "/usr/local/share/qemu/edk2-aarch64-code.fd",
    ];
    PLACES.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or_else(|| {
        Error::host("there is no UEFI firmware for arm64 machines")
            .with_hint("install it: `apt-get install qemu-efi-aarch64` or `dnf install edk2-aarch64`")
    })
}

/// The fastest accelerator that works for `arch` here: tried by starting a machine with it, not guessed. The first
/// answer is kept for the life of the process.
///
/// # Errors
/// As [`emulator`].
pub async fn accelerator(arch: Arch) -> Result<Accelerator> {
    static KNOWN: Mutex<[Option<Accelerator>; 2]> = Mutex::new([None; 2]);
    let index = usize::from(arch == Arch::Arm64);
    let known = |set: Option<Accelerator>| {
        // A panic elsewhere cannot leave two plain values half written.
        let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known[index] = set.or(known[index]);
        known[index]
    };
    if let Some(accelerator) = known(None) {
        return Ok(accelerator);
    }
    let emulator = emulator(arch)?;
    let mut found = Accelerator::Tcg;
    for candidate in candidates(arch) {
        if works(&emulator, arch, candidate).await {
            found = candidate;
            break;
        }
    }
    known(Some(found));
    Ok(found)
}

/// What is worth trying: no accelerator runs another architecture's instructions.
fn candidates(arch: Arch) -> Vec<Accelerator> {
    match (Arch::host() == Some(arch), cfg!(target_os = "macos")) {
        (false, _) => Vec::new(),
        (true, true) => vec![Accelerator::Hvf],
        (true, false) if Path::new("/dev/kvm").exists() => vec![Accelerator::Kvm],
        (true, false) => Vec::new(),
    }
}

/// Starts an empty, paused machine and tells it to quit: an accelerator that does not work makes QEMU fail before.
async fn works(emulator: &Path, arch: Arch, accelerator: Accelerator) -> bool {
    const PATIENCE: Duration = Duration::from_secs(3);
    let machine = if arch == Arch::Arm64 { "virt" } else { "q35" };
    let started = tokio::process::Command::new(emulator)
        .args(["-accel", accelerator.as_str(), "-machine", machine, "-cpu", "host", "-m", "64"])
        .args(["-S", "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = started else { return false };
    let quit = async {
        if let Some(mut monitor) = child.stdin.take() {
            // QEMU that has failed already does not read; its exit status tells.
            let _ = monitor.write_all(b"quit\n").await;
            return child.wait().await.is_ok_and(|status| status.success());
        }
        false
    };
    tokio::time::timeout(PATIENCE, quit).await.unwrap_or(false)
}

/// Bytes that a file in the folder at `path`, or in the nearest one above that exists, may take.
///
/// # Errors
/// Exit 4 when the file system does not say.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let place = existing(path);
    let found = rustix::fs::statvfs(place).or_host(|| format!("cannot ask for free space in {}", place.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn existing(path: &Path) -> &Path {
    path.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"))
}

/// What would fail later.
pub async fn preflight(settings: &Settings, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_programs(plan.arch, &mut findings).await;
    check_base(plan, &mut findings);
    let writable = check_folder("cache", &settings.cache_dir, "XDG_CACHE_HOME names another place", &mut findings)
        & check_folder("runs", &settings.runs_dir, "make it writable", &mut findings)
        & check_folder("output", &settings.dist_dir, "make it writable, or choose another one", &mut findings);
    if writable {
        check_space(settings, plan, &mut findings);
    }
    check_memory(plan.machine.memory_bytes, memory_for_machines(), &mut findings);
    findings
}

fn refuse(findings: &mut Vec<Finding>, message: impl Into<String>, hint: impl Into<String>) {
    findings.push(Finding { severity: Severity::Refuse, message: message.into(), hint: Some(hint.into()) });
}

fn warn(findings: &mut Vec<Finding>, message: impl Into<String>, hint: impl Into<String>) {
    findings.push(Finding { severity: Severity::Warn, message: message.into(), hint: Some(hint.into()) });
}

fn refuse_error(findings: &mut Vec<Finding>, error: &Error) {
    let hint = error.hint().map(str::to_owned);
    findings.push(Finding { severity: Severity::Refuse, message: error.to_string(), hint });
}

async fn check_programs(arch: Arch, findings: &mut Vec<Finding>) {
    if program("qemu-img").is_none() {
        refuse(
            findings,
            "qemu-img is not installed",
            "install it: `apt-get install qemu-utils` or `dnf install qemu-img`",
        );
    }
    if arch == Arch::Arm64
        && let Err(error) = arm64_firmware()
    {
        refuse_error(findings, &error);
    }
    match accelerator(arch).await {
        Err(error) => refuse_error(findings, &error),
        Ok(Accelerator::Kvm | Accelerator::Hvf) => {}
        Ok(Accelerator::Tcg) if Arch::host() != Some(arch) => {
            let message = format!("an {arch} machine is emulated on this host: it is many times slower");
            warn(findings, message, format!("bake {arch} images on a host of that architecture"));
        }
        Ok(Accelerator::Tcg) if Path::new("/dev/kvm").exists() => {
            let readable = rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK);
            let hint = match readable {
                Err(_) => "let this user use /dev/kvm: join the group `kvm`, and log in again",
                Ok(()) => "on a virtual machine, turn on nested virtualisation; else look at `dmesg | grep kvm`",
            };
            warn(findings, "/dev/kvm is there but does not work: the machine is emulated, which is slow", hint);
        }
        Ok(Accelerator::Tcg) => {
            let hint = "turn on virtualisation in the firmware, or use a host that has it";
            warn(findings, "this host has no hardware virtualisation: the machine is emulated, which is slow", hint);
        }
    }
}

fn check_base(plan: &Plan, findings: &mut Vec<Finding>) {
    match base::inspect(Path::new(&plan.base.location)) {
        Err(error) => refuse_error(findings, &error),
        Ok(disk) if disk.virtual_bytes > plan.machine.disk_bytes => refuse(
            findings,
            format!(
                "the root disk of {} is smaller than the base's {}",
                show(plan.machine.disk_bytes),
                show(disk.virtual_bytes)
            ),
            "raise `disk` in `[machine]`, or leave it out",
        ),
        Ok(_) => {}
    }
}

/// Whether the folder can be made and written to.
fn check_folder(what: &str, folder: &Path, hint: &str, findings: &mut Vec<Finding>) -> bool {
    let place = existing(folder);
    if !place.is_dir() {
        refuse(
            findings,
            format!("the {what} folder {} cannot be made: {} is a file", folder.display(), place.display()),
            hint,
        );
        return false;
    }
    // By making a file: access(2) says yes to root even where the disk says no.
    match tempfile::Builder::new().prefix(".amibake-").tempfile_in(place) {
        Ok(_) => true,
        Err(error) => {
            refuse(findings, format!("cannot write to the {what} folder {}: {}", folder.display(), error.kind()), hint);
            false
        }
    }
}

fn check_space(settings: &Settings, plan: &Plan, findings: &mut Vec<Finding>) {
    use std::os::unix::fs::MetadataExt as _;
    let base = std::fs::metadata(&plan.base.location).map_or(0, |file| file.blocks() * 512);
    let need = space(plan, base);
    let Ok(dist_free) = free_bytes(&settings.dist_dir) else { return };
    let Ok(run_free) = free_bytes(&settings.runs_dir) else { return };
    let device = |path: &Path| std::fs::metadata(existing(path)).map(|folder| folder.dev()).ok();
    let together = device(&settings.dist_dir) == device(&settings.runs_dir);
    let places = if together {
        vec![(&settings.dist_dir, need.run + need.image, dist_free)]
    } else {
        vec![(&settings.dist_dir, need.image, dist_free), (&settings.runs_dir, need.run, run_free)]
    };
    for (folder, need, free) in places.into_iter().filter(|(_, need, free)| need > free) {
        let message =
            format!("about {} of disk are needed in {}, {} are free", show(need), folder.display(), show(free));
        refuse(findings, message, "make room there, or choose a folder on another disk");
    }
}

/// Bytes of disk a bake takes: an estimate that errs on the high side.
#[derive(Debug, PartialEq, Eq)]
struct Space {
    /// The machine's overlay and data volumes, until the run ends.
    run: u64,
    /// The finished image.
    image: u64,
}

fn space(plan: &Plan, base_bytes: u64) -> Space {
    let growth = BAKE_GROWTH.min(plan.machine.disk_bytes);
    // A blank volume is a sparse file and zeroes are not stored, so what the file system's tables take is far below the
    // 1.6 % that ext4 sets aside for them.
    let volumes: u64 = plan.volumes.iter().map(|volume| volume.size_bytes / 500).sum();
    let content = (base_bytes + growth).min(plan.machine.disk_bytes);
    let image = if plan.image.standalone { content } else { growth };
    Space { run: growth + volumes, image }
}

fn check_memory(wanted: u64, available: u64, findings: &mut Vec<Finding>) {
    if wanted.saturating_add(MEMORY_PER_MACHINE) > available {
        let message = format!("the machine wants {} of memory, {} are available", show(wanted), show(available));
        refuse(findings, message, "end other programs, or lower `memory` in `[machine]` (`--set machine.memory=1GiB`)");
    }
}

fn show(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / GIB;
    if tenths >= 10 { format!("{}.{} GiB", tenths / 10, tenths % 10) } else { format!("{} MiB", bytes >> 20) }
}

/// Memory that machines may take now, in bytes: what is available less a reserve for the host. Other systems than Linux
/// do not say: there it is as if there were plenty.
#[must_use]
pub fn memory_for_machines() -> u64 {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available(&text));
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = unified_path(&text)?.to_owned();
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().find_map(|root| cgroup_room(Path::new(root), &path))
    });
    let room = available.unwrap_or(u64::MAX).min(cgroup.unwrap_or(u64::MAX));
    room.saturating_sub(MEMORY_RESERVE)
}

/// `MemAvailable` of proc(5)'s meminfo, in bytes.
fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The path of this process in the unified hierarchy (cgroups(7)).
fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// The least that is left below a limit, of the group at `path` and all above it; nothing when there is no limit.
fn cgroup_room(root: &Path, path: &str) -> Option<u64> {
    let number = |folder: &Path, name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group = root.join(path);
    let groups = group.ancestors().take_while(|folder| folder.starts_with(root));
    groups
        .filter_map(|folder| {
            // The page cache counts as used and is given back on demand.
            let cached = std::fs::read_to_string(folder.join("memory.stat")).ok().and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse::<u64>().ok()
            });
            let used = number(folder, "memory.current")?.saturating_sub(cached.unwrap_or(0));
            Some(number(folder, "memory.max")?.saturating_sub(used))
        })
        .min()
}

#[cfg(test)]
mod tests;
