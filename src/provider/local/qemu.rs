//! QEMU's command line as a value: everything a machine is, decided, and its arguments. Starts nothing.
//!
//! Disks are given by `-blockdev` in JSON with their formats spelt out: QEMU never guesses a format from bytes a guest
//! wrote, and no character of a path is special.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::host::Accelerator;
use crate::release::Arch;

/// A machine.
#[derive(Debug, Clone)]
pub(super) struct QemuCommand {
    /// Shown in lists of processes.
    pub(super) name: String,
    pub(super) arch: Arch,
    pub(super) accelerator: Accelerator,
    /// UEFI firmware, the first flash; none for the machine's own BIOS.
    pub(super) firmware: Option<PathBuf>,
    pub(super) cpus: u32,
    pub(super) memory_bytes: u64,
    /// The first one is booted from.
    pub(super) disks: Vec<Disk>,
    /// Where the serial console is written.
    pub(super) console: PathBuf,
    /// A file with one SMBIOS string of type 11: systemd's credentials.
    pub(super) credentials: PathBuf,
    /// Product serial number, which cloud-init reads its data source from. No commas.
    pub(super) product_serial: String,
    /// Whether the guest reaches nothing but the forwarded port's other end.
    pub(super) isolated: bool,
    /// The link to the other machines.
    pub(super) link: Option<Link>,
}

/// A disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) file: PathBuf,
    /// `qcow2` or `raw`.
    pub(super) format: &'static str,
    /// Found in the guest as /dev/disk/by-id/virtio-SERIAL: at most 20 characters.
    pub(super) serial: Option<String>,
    pub(super) read_only: bool,
}

/// One end of a private network.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The card's address.
    pub(super) mac: String,
    /// Pairs of datagram sockets, ours and the other's, relative to the process's folder: a socket's path may have
    /// 107 bytes only. More than one are joined by a hub.
    pub(super) wires: Vec<(String, String)>,
}

/// Card of the network by which amibake reaches the guest.
pub(super) const CONTROL_MAC: &str = "52:54:00:a1:00:01";

impl QemuCommand {
    /// QEMU's arguments. Its monitor (QMP) is on standard input and output.
    pub(super) fn args(&self) -> Vec<String> {
        let mut args = Args::default();
        for flag in ["-nodefaults", "-no-user-config"] {
            args.0.push(flag.to_owned());
        }
        args.add("-name", escaped(&self.name));
        args.add("-display", "none");
        self.processor(&mut args);
        // A socket that nobody else can connect to, has no name to clash, and is gone with the process.
        args.add("-chardev", "stdio,id=monitor,signal=off");
        args.add("-mon", "chardev=monitor,mode=control");
        args.add("-chardev", format!("file,id=console,path={}", escaped_path(&self.console)));
        args.add("-serial", "chardev:console");
        args.add("-smbios", format!("type=1,serial={}", self.product_serial));
        args.add("-smbios", format!("type=11,path={}", escaped_path(&self.credentials)));
        args.add("-object", "rng-builtin,id=rng");
        args.add("-device", "virtio-rng-pci,rng=rng");
        for (index, disk) in self.disks.iter().enumerate() {
            disk.args(index, &mut args);
        }
        self.network(&mut args);
        args.0
    }

    fn processor(&self, args: &mut Args) {
        let machine = match self.arch {
            // Without graphics the BIOS speaks on the serial console: a disk that does not boot is told from a slow one.
            Arch::Amd64 => "q35,graphics=off",
            Arch::Arm64 => "virt",
        };
        match &self.firmware {
            Some(path) => {
                let file = json!({ "driver": "file", "filename": path.display().to_string(), "read-only": true });
                let flash = json!({ "driver": "raw", "node-name": "firmware", "read-only": true, "file": file });
                args.add("-blockdev", flash.to_string());
                args.add("-machine", format!("{machine},pflash0=firmware"));
            }
            None => args.add("-machine", machine),
        }
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Hvf => ("hvf", "host"),
            Accelerator::Tcg => ("tcg,thread=multi", "max"),
        };
        args.add("-accel", accelerator);
        args.add("-cpu", cpu);
        args.add("-smp", self.cpus.to_string());
        args.add("-m", format!("{}M", self.memory_bytes.div_ceil(1 << 20)));
        args.add("-boot", "strict=on");
    }

    fn network(&self, args: &mut Args) {
        let restrict = if self.isolated { "on" } else { "off" };
        // Port 0: the kernel picks a free one, QEMU holds it, and the monitor says which. No other process can have
        // taken it in between.
        args.add("-netdev", format!("user,id=control,ipv6=off,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22"));
        // No ROM: nobody boots from the network, and looking for it takes time.
        args.add("-device", format!("virtio-net-pci,netdev=control,mac={CONTROL_MAC},romfile="));
        let Some(link) = &self.link else { return };
        for (index, (ours, theirs)) in link.wires.iter().enumerate() {
            args.add(
                "-netdev",
                format!(
                    "dgram,id=wire{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    escaped(ours),
                    escaped(theirs)
                ),
            );
        }
        let card = if link.wires.len() == 1 {
            "wire0"
        } else {
            for index in 0..link.wires.len() {
                args.add("-netdev", format!("hubport,id=port{index},hubid=0,netdev=wire{index}"));
            }
            args.add("-netdev", "hubport,id=card,hubid=0");
            "card"
        };
        args.add("-device", format!("virtio-net-pci,netdev={card},mac={},romfile=", link.mac));
    }
}

impl Disk {
    fn args(&self, index: usize, args: &mut Args) {
        let node = format!("disk{index}");
        // What the guest flushes need not be on this host's disk: an overlay whose QEMU did not end by itself is
        // thrown away, and package managers flush after every file.
        let cache = json!({ "direct": false, "no-flush": true });
        let mut file = json!({ "driver": "file", "filename": self.file.display().to_string(), "cache": cache });
        let mut disk = json!({ "driver": self.format, "node-name": node, "cache": cache });
        if self.read_only {
            file["read-only"] = true.into();
            disk["read-only"] = true.into();
        } else {
            // What the guest frees or fills with zeros takes no space here, and none in the image.
            for part in [&mut file, &mut disk] {
                part["discard"] = "unmap".into();
            }
            disk["detect-zeroes"] = "unmap".into();
        }
        disk["file"] = file;
        args.add("-blockdev", disk.to_string());
        let mut device = format!("virtio-blk-pci,drive={node}");
        if let Some(serial) = &self.serial {
            device.push_str(&format!(",serial={serial}"));
        }
        if index == 0 {
            device.push_str(",bootindex=0");
        }
        if !self.read_only {
            // On a full disk the machine stops and the monitor hears of it; the guest sees no error it would hide.
            device.push_str(",werror=stop,rerror=stop");
        }
        args.add("-device", device);
    }
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_owned());
        self.0.push(value.into());
    }
}

/// A value in QEMU's `key=value,…` syntax.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

fn escaped_path(path: &Path) -> String {
    escaped(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> QemuCommand {
        QemuCommand {
            name: "amibake-builder".into(),
            arch: Arch::Amd64,
            accelerator: Accelerator::Tcg,
            firmware: None,
            cpus: 2,
            memory_bytes: 2 << 30,
            disks: vec![
                Disk { file: "/m/root.qcow2".into(), format: "qcow2", serial: None, read_only: false },
                Disk {
                    file: "/c/buildkit, \"x\".tar.gz".into(),
                    format: "raw",
                    serial: Some("amibake-artifact".into()),
                    read_only: true,
                },
            ],
            console: "/m,n/console.log".into(),
            credentials: "/m/credentials".into(),
            product_serial: "ds=nocloud;i=x".into(),
            isolated: false,
            link: None,
        }
    }

    /// The values of a flag, in order.
    fn values(args: &[String], flag: &str) -> Vec<String> {
        args.iter().zip(args.iter().skip(1)).filter(|(this, _)| *this == flag).map(|(_, next)| next.clone()).collect()
    }

    #[test]
    fn a_bake_machine_by_tcg() {
        insta::assert_snapshot!(command().args().join("\n"));
    }

    #[test]
    fn paths_are_data() {
        let args = command().args();
        let disk: serde_json::Value = serde_json::from_str(&values(&args, "-blockdev")[1]).unwrap();
        assert_eq!(disk["file"]["filename"], "/c/buildkit, \"x\".tar.gz");
        assert_eq!(disk["read-only"], true);
        assert!(values(&args, "-chardev").contains(&"file,id=console,path=/m,,n/console.log".to_owned()));
    }

    #[test]
    fn every_disk_has_its_format_and_a_writable_one_stops_the_machine_on_a_full_host() {
        let args = command().args();
        for disk in values(&args, "-blockdev") {
            let disk: serde_json::Value = serde_json::from_str(&disk).unwrap();
            assert!(["qcow2", "raw"].contains(&disk["driver"].as_str().unwrap()));
            assert_eq!(disk["file"]["driver"], "file");
        }
        let devices = values(&args, "-device");
        assert!(devices.contains(&"virtio-blk-pci,drive=disk0,bootindex=0,werror=stop,rerror=stop".to_owned()));
        assert!(devices.contains(&"virtio-blk-pci,drive=disk1,serial=amibake-artifact".to_owned()));
        assert!(!args.iter().any(|arg| arg == "-drive" || arg == "-hda"));
    }

    #[test]
    fn the_only_way_in_is_a_loopback_forward_and_an_isolated_machine_has_no_way_out() {
        let mut command = command();
        command.isolated = true;
        let [control] = values(&command.args(), "-netdev").try_into().unwrap();
        assert_eq!(control, "user,id=control,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:0-:22");
    }

    #[test]
    fn two_members_have_a_wire_and_the_middle_of_a_star_has_a_hub() {
        let mut command = command();
        let wire = |number: u8| (format!("wire-0-{number}"), format!("wire-{number}-0"));
        command.link = Some(Link { mac: "52:54:00:a1:4d:01".into(), wires: vec![wire(1)] });
        let args = command.args();
        assert_eq!(
            values(&args, "-netdev")[1..],
            ["dgram,id=wire0,local.type=unix,local.path=wire-0-1,remote.type=unix,remote.path=wire-1-0"]
        );
        assert_eq!(
            values(&args, "-device").last().unwrap(),
            "virtio-net-pci,netdev=wire0,mac=52:54:00:a1:4d:01,romfile="
        );
        command.link = Some(Link { mac: "52:54:00:a1:4d:01".into(), wires: vec![wire(1), wire(2)] });
        let args = command.args();
        assert_eq!(
            values(&args, "-netdev")[3..],
            [
                "hubport,id=port0,hubid=0,netdev=wire0",
                "hubport,id=port1,hubid=0,netdev=wire1",
                "hubport,id=card,hubid=0"
            ]
        );
        assert_eq!(
            values(&args, "-device").last().unwrap(),
            "virtio-net-pci,netdev=card,mac=52:54:00:a1:4d:01,romfile="
        );
    }

    #[test]
    fn each_accelerator_has_its_processor() {
        for (accelerator, accel, cpu) in [
            (Accelerator::Kvm, "kvm", "host"),
            (Accelerator::Hvf, "hvf", "host"),
            (Accelerator::Tcg, "tcg,thread=multi", "max"),
        ] {
            let args = QemuCommand { accelerator, ..command() }.args();
            assert_eq!((values(&args, "-accel"), values(&args, "-cpu")), (vec![accel.into()], vec![cpu.into()]));
        }
    }

    #[test]
    fn arm64_boots_by_uefi() {
        let firmware = Some("/usr/share/AAVMF/AAVMF_CODE.fd".into());
        let args = QemuCommand { arch: Arch::Arm64, firmware, ..command() }.args();
        assert_eq!(values(&args, "-machine"), ["virt,pflash0=firmware"]);
        let flash: serde_json::Value = serde_json::from_str(&values(&args, "-blockdev")[0]).unwrap();
        assert_eq!((&flash["driver"], &flash["read-only"]), (&json!("raw"), &json!(true)));
        assert_eq!(flash["file"]["filename"], "/usr/share/AAVMF/AAVMF_CODE.fd");
    }
}
