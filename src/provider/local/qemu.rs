//! QEMU's command line as a value, and the process that runs it. Knows disks and network cards; knows nothing of what the
//! guest does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tokio::sync::watch;

use super::host::Accelerator;
use crate::error::{Context as _, Error, Result};
use crate::release::Arch;

/// A disk of the guest.
pub(super) struct Disk {
    pub(super) file: PathBuf,
    /// `qcow2` or `raw`: never probed, since a guest could write another format's header into a raw disk.
    pub(super) format: &'static str,
    /// What the guest finds it by: `/dev/disk/by-id/virtio-<serial>`. At most 20 characters (virtio 1.2, 5.2.6.4).
    pub(super) serial: Option<String>,
    pub(super) read_only: bool,
}

/// The machine's second network card, on a link between the members of one run.
pub(super) struct Link {
    /// Folder of the run: the emulator's working folder, since a socket's path may not exceed 107 bytes (unix(7)).
    pub(super) run_dir: PathBuf,
    pub(super) member: u8,
    pub(super) peer: u8,
    pub(super) mac: String,
}

/// Everything a machine is started with.
pub(super) struct Qemu {
    pub(super) program: PathBuf,
    pub(super) arch: Arch,
    pub(super) accelerator: Accelerator,
    pub(super) cpus: u32,
    pub(super) memory_bytes: u64,
    /// The first one is booted from.
    pub(super) disks: Vec<Disk>,
    /// Files of SMBIOS type 11 strings.
    pub(super) credentials: Vec<PathBuf>,
    pub(super) ssh_port: u16,
    pub(super) link: Option<Link>,
    pub(super) console: PathBuf,
    /// UEFI firmware, for machines without BIOS.
    pub(super) firmware: Option<PathBuf>,
}

impl Qemu {
    /// The arguments. Paths are doubled commas' worth of careful: QEMU ends an option's value at a comma.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut word = |text: &str| words.push(text.into());
        let machine = match self.arch {
            Arch::Amd64 => "q35,hpet=off",
            Arch::Arm64 => "virt,gic-version=max",
        };
        for text in ["-name", "amibake", "-nodefaults", "-no-user-config", "-display", "none", "-machine", machine] {
            word(text);
        }
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Hvf => ("hvf", "host"),
            Accelerator::Tcg => ("tcg,thread=multi", "max"),
        };
        for text in ["-accel", accelerator, "-cpu", cpu, "-smp", &self.cpus.to_string()] {
            word(text);
        }
        word("-m");
        word(&format!("{}M", self.memory_bytes >> 20));
        if let Some(firmware) = &self.firmware {
            word("-bios");
            word(&firmware.to_string_lossy());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            word("-drive");
            // cache=unsafe: a machine that outlives a crash of its host is of no use here, and it halves the time of apt.
            // werror=report: a full disk on the host must fail the step, not stop the machine for ever.
            word(&format!(
                "if=none,id=disk{number},format={},file={},read-only={},cache=unsafe,discard=unmap,detect-zeroes=unmap,werror=report,rerror=report",
                disk.format,
                value(&disk.file),
                if disk.read_only { "on" } else { "off" },
            ));
            word("-device");
            let serial = disk.serial.as_ref().map(|serial| format!(",serial={serial}")).unwrap_or_default();
            word(&format!("virtio-blk-pci,drive=disk{number}{serial},bootindex={number}"));
        }
        word("-netdev");
        word(&format!("user,id=net0,ipv6=off,hostfwd=tcp:127.0.0.1:{}-:22", self.ssh_port));
        word("-device");
        word("virtio-net-pci,netdev=net0,romfile=");
        if let Some(link) = &self.link {
            word("-netdev");
            word(&format!(
                "dgram,id=net1,local.type=unix,local.path=link-{}.sock,remote.type=unix,remote.path=link-{}.sock",
                link.member, link.peer
            ));
            word("-device");
            word(&format!("virtio-net-pci,netdev=net1,mac={},romfile=", link.mac));
        }
        for file in &self.credentials {
            word("-smbios");
            word(&format!("type=11,path={}", value(file)));
        }
        // A cloud image's cloud-init must not look for its data on networks that are not there.
        word("-smbios");
        word("type=1,serial=ds=nocloud");
        for text in ["-device", "virtio-rng-pci", "-chardev"] {
            word(text);
        }
        word(&format!("file,id=console,path={}", value(&self.console)));
        for text in ["-serial", "chardev:console"] {
            word(text);
        }
        words
    }
}

/// A path as an option's value: a comma in it is doubled.
fn value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A running emulator.
pub(super) struct Process {
    pub(super) pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub(super) started: u64,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts `qemu` with its messages in `log`. Unless it may `outlive` this process, it dies with it.
    ///
    /// # Errors
    /// Exit 4 when it cannot be started.
    pub(super) fn start(qemu: &Qemu, log: &Path, folder: &Path, outlive: bool) -> Result<Self> {
        let mut command = match (outlive, super::host::program("setpriv")) {
            (false, Some(setpriv)) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&qemu.program);
                command
            }
            _ => Command::new(&qemu.program),
        };
        let file = std::fs::File::create(log).or_host(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone().or_host(|| format!("cannot write {}", log.display()))?;
        // A group of its own: the terminal's Ctrl-C is for amibake, which then ends the guest in order.
        command.args(qemu.arguments()).current_dir(folder).process_group(0);
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let (told, tell) = std::sync::mpsc::channel();
        let (ended, exit) = watch::channel(None);
        // The signal that a dying parent sends is sent when the *thread* ends that started the child (prctl(2)): this one
        // lives as long as the emulator, and reaps it.
        std::thread::Builder::new()
            .name("qemu".to_owned())
            .spawn(move || match command.spawn() {
                Ok(mut child) => {
                    let _ = told.send(Ok(child.id()));
                    let _ = ended.send(Some(child.wait().unwrap_or_default()));
                }
                Err(error) => drop(told.send(Err(error))),
            })
            .or_host(|| "cannot start a thread".to_owned())?;
        let pid = tell
            .recv()
            .or_host(|| "cannot start the emulator".to_owned())?
            .or_host(|| format!("cannot start {}", qemu.program.display()))?;
        Ok(Self { pid, started: start_ticks(pid).unwrap_or(0), exit })
    }

    /// How it ended, if it did.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it has ended.
    pub(super) async fn wait(&self) {
        let mut exit = self.exit.clone();
        let _ = exit.wait_for(Option::is_some).await;
    }
}

/// When process `pid` was started, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)).
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn ticks(stat: &str) -> Option<u64> {
    // The name, field 2, is in parentheses and may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Ends the process, politely at first, and waits until it is gone. One that is gone, or is another by now, is a success.
///
/// # Errors
/// When it is still there after fifteen seconds.
pub(super) async fn end_process(pid: u32, started: u64) -> Result<()> {
    let alive = || start_ticks(pid) == Some(started) && !is_zombie(pid);
    let Some(process) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    for (signal, tenths) in [(rustix::process::Signal::TERM, 50), (rustix::process::Signal::KILL, 100)] {
        if !alive() {
            return Ok(());
        }
        let _ = rustix::process::kill_process(process, signal);
        for _ in 0..tenths {
            if !alive() {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    Err(Error::host(format!("process {pid} does not end")))
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 98765 1 1 18446744073709551615";
        assert_eq!(ticks(stat), Some(98765));
        assert!(start_ticks(std::process::id()).is_some_and(|ticks| ticks > 0));
    }
}
