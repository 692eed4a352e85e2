//! A local machine: an emulator, its disks, and the way into it.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::qemu::{Disk, Link, Process, Qemu};
use super::ssh::{self, Key, Ssh};
use super::{disk_image, host};
use crate::bake::wait::{self, Probe, Schedule};
use crate::bake::{Reporter, Undo};
use crate::error::{Context as _, Error, Result};
use crate::plan::{Image, Plan};
use crate::provider::{Destination, Launch, Machine, Network, Reach, Resource, ScriptEnd, Source};
use crate::release::Arch;

/// How long a guest may take until scripts run. Fifteen seconds are usual under emulation on two cores; a cloud image with
/// cloud-init on a busy machine takes minutes.
const BOOT: Schedule = Schedule {
    first: Duration::from_millis(300),
    most: Duration::from_millis(1500),
    deadline: Duration::from_secs(600),
};

/// How long a guest may take to switch itself off.
const POWER_OFF: Duration = Duration::from_secs(180);

/// Free bytes below which a guest's write to its disks may fail.
const FULL: u64 = 32 << 20;

/// Address of member n of a private network: 10.213.77.(n + 1), a range that nothing else here uses.
fn address(member: u8) -> String {
    format!("10.213.77.{}", u16::from(member) + 1)
}

/// Hardware address of member n's card on the private network; locally administered.
fn mac(member: u8) -> String {
    format!("52:54:00:ba:4e:{member:02x}")
}

/// A running virtual machine.
pub(super) struct LocalMachine {
    plan: Plan,
    dir: PathBuf,
    root_disk: PathBuf,
    process: Process,
    ssh: Ssh,
    ssh_port: u16,
    /// What scripts find the artifact by: size in bytes.
    artifact_size: Option<u64>,
    member: Option<u8>,
    reporter: Reporter,
    cancel: CancellationToken,
}

/// Starts the machine that `launch` describes.
pub(super) async fn launch(launch: Launch<'_>, undo: &Undo) -> Result<LocalMachine> {
    let plan = launch.plan;
    let dir = launch.machine_dir;
    let key = Key::generate()?;
    write_private(&dir.join("key"), key.private_pem()?.as_bytes())?;
    let credentials = vec![credential(dir, "authorized-keys", "ssh.authorized_keys.root", &key.public_line()?)?];
    let root_disk = dir.join("root.qcow2");
    let mut disks = vec![Disk { file: root_disk.clone(), format: "qcow2", serial: None, read_only: false }];
    let mut artifact_size = None;
    let mut link = None;
    let (backing, format) = match launch.source {
        Source::Base(artifact) => {
            artifact_size = Some(artifact.size());
            disks.push(Disk {
                file: artifact.path().to_owned(),
                format: "raw",
                serial: Some("amibake-artifact".to_owned()),
                read_only: true,
            });
            let base = PathBuf::from(&plan.base.location);
            let format = disk_image::inspect(&base).await?.format;
            (base, format)
        }
        Source::Image(image, network) => {
            link = private_link(network)?;
            (image.location.clone(), image.format.as_str())
        }
    };
    disk_image::overlay(&root_disk, &backing, format, plan.machine.disk_bytes).await?;
    for volume in &plan.volumes {
        let file = dir.join(format!("volume-{}.qcow2", volume.name));
        disk_image::blank(&file, volume.size_bytes).await?;
        disks.push(Disk { file, format: "qcow2", serial: Some(volume.serial()), read_only: false });
    }
    let member = link.as_ref().map(|link| link.member);
    let mut qemu = Qemu {
        program: host::emulator(plan.arch)?,
        arch: plan.arch,
        accelerator: host::accelerator(plan.arch).await?,
        cpus: plan.machine.cpus,
        memory_bytes: plan.machine.memory_bytes,
        disks,
        credentials,
        ssh_port: 0,
        link,
        console: dir.join("console.log"),
        firmware: (plan.arch == Arch::Arm64).then(host::arm64_firmware).transpose()?,
    };
    let folder = qemu.link.as_ref().map_or(dir, |link| link.run_dir.as_path()).to_owned();
    let process = start(&mut qemu, dir, &folder, launch.outlive, undo).await?;
    Ok(LocalMachine {
        plan: plan.clone(),
        dir: dir.to_owned(),
        root_disk,
        process,
        ssh: Ssh::new(qemu.ssh_port, key),
        ssh_port: qemu.ssh_port,
        artifact_size,
        member,
        reporter: launch.reporter.clone(),
        cancel: launch.cancel.clone(),
    })
}

/// Starts QEMU on a free port. Another process may take the port between our look and QEMU's bind: then with another.
async fn start(qemu: &mut Qemu, dir: &Path, folder: &Path, outlive: bool, undo: &Undo) -> Result<Process> {
    let log = dir.join("qemu.log");
    let mut said = String::new();
    for _ in 0..5 {
        qemu.ssh_port = free_port()?;
        let process = Process::start(qemu, &log, folder, outlive)?;
        undo.arm(Resource::Process { pid: process.pid, started: process.started })?;
        // A bad option or a taken port ends it within this time; a good start is not held up by it for long.
        if tokio::time::timeout(Duration::from_millis(400), process.wait()).await.is_err() {
            return Ok(process);
        }
        undo.keep(&Resource::Process { pid: process.pid, started: process.started })?;
        said = std::fs::read_to_string(&log).unwrap_or_default();
        if !said.contains("host forwarding") && !said.contains("Address already in use") {
            break;
        }
    }
    Err(Error::host("the emulator did not start").with_detail(said))
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).or_host(|| "no free port on 127.0.0.1".to_owned())?;
    Ok(listener.local_addr().or_host(|| "no free port on 127.0.0.1".to_owned())?.port())
}

fn private_link(network: Network<'_>) -> Result<Option<Link>> {
    match network.members {
        1 => Ok(None),
        2 => Ok(Some(Link {
            run_dir: network.run_dir.to_owned(),
            member: network.member,
            peer: 1 - network.member,
            mac: mac(network.member),
        })),
        more => Err(Error::usage(format!("{more} local machines cannot be linked: two at the most"))),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).or_host(|| format!("cannot write {}", path.display()))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .or_host(|| format!("cannot write {}", path.display()))?;
    file.write_all(bytes).or_host(|| format!("cannot write {}", path.display()))
}

/// A systemd credential as a file for QEMU: on the command line any user of the host could read it.
fn credential(dir: &Path, file: &str, name: &str, value: &str) -> Result<PathBuf> {
    let path = dir.join(format!("credential-{file}"));
    write_private(&path, format!("io.systemd.credential.binary:{name}={}", ssh::encode(value)).as_bytes())?;
    Ok(path)
}

impl LocalMachine {
    /// What the machine itself can say of why it does not answer.
    fn last_words(&self) -> String {
        let tail = |file: &Path| {
            let bytes = std::fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4000)..]).into_owned();
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("  | {line}\n")).collect::<String>()
        };
        tail(&self.dir.join("qemu.log")) + &tail(&self.dir.join("console.log"))
    }

    fn died(&self) -> Option<Error> {
        let status = self.process.ended()?;
        Some(Error::host(format!("the emulator ended ({status})")).with_detail(self.last_words()))
    }

    async fn connected(&self) -> Result<()> {
        wait::until("the machine's start", BOOT, &self.cancel, || async {
            if let Some(error) = self.died() {
                return Err(error);
            }
            Ok(match self.ssh.try_connect().await? {
                Ok(()) => Probe::Ready(()),
                Err(reason) => Probe::NotYet(reason),
            })
        })
        .await
        .map_err(|error| match error.detail() {
            None if error.exit() != crate::Exit::Interrupted => error.with_detail(self.last_words()),
            _ => error,
        })
    }

    /// Gives the card on the private network its address; forgotten by the guest at its next start.
    async fn join_network(&self) -> Result<()> {
        let Some(member) = self.member else { return Ok(()) };
        let script = format!(
            "set -eu\nmac={}\naddress={}/24\n{}",
            mac(member),
            address(member),
            include_str!("../../../assets/local/join-network.sh")
        );
        self.quiet(&script, "join the private network").await.map(drop)
    }

    /// Runs a script of ours; its output is the result, or the detail of the error.
    async fn quiet(&self, script: &str, what: &str) -> Result<String> {
        let mut text = Vec::new();
        let end = self.ssh.run(script, &[], &mut |bytes| text.extend_from_slice(bytes)).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if end.success() {
            Ok(text)
        } else {
            Err(Error::failed(format!("the machine could not {what}")).with_detail(text))
        }
    }

    async fn boot_id(&self) -> Result<String> {
        self.quiet("cat /proc/sys/kernel/random/boot_id", "tell its boot id").await
    }
}

#[async_trait]
impl Machine for LocalMachine {
    async fn ready(&mut self) -> Result<()> {
        self.connected().await?;
        self.join_network().await
    }

    async fn run(
        &self,
        script: &str,
        peer: Option<&str>,
        output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send),
    ) -> Result<ScriptEnd> {
        let mut environment = Vec::new();
        if let Some(size) = self.artifact_size {
            environment.push(("AMIBAKE_ARTIFACT", "/dev/disk/by-id/virtio-amibake-artifact".to_owned()));
            environment.push(("AMIBAKE_ARTIFACT_SIZE", size.to_string()));
        }
        if let Some(peer) = peer {
            environment.push(("AMIBAKE_PEER", peer.to_owned()));
        }
        let end = self.ssh.run(script, &environment, output).await;
        match end {
            Ok(end) if end.success() => Ok(end),
            // A guest on a full host sees only I/O errors; the cause is told here.
            failed if host::free_bytes(&self.dir).is_ok_and(|free| free < FULL) => {
                let cause = failed.err().map_or_else(|| "a script failed".to_owned(), |error| error.to_string());
                Err(Error::host(format!("the disk that holds {} is full ({cause})", self.dir.display()))
                    .with_hint("free some space, or choose another project folder with -C"))
            }
            Err(error) => Err(self.died().unwrap_or(error)),
            ended => ended,
        }
    }

    async fn stop(&mut self) -> Result<()> {
        // The answer may be lost with the connection.
        let _ = self.ssh.run("systemctl poweroff", &[], &mut |_| ()).await;
        tokio::select! {
            () = self.cancel.cancelled() => return Err(Error::interrupted()),
            off = tokio::time::timeout(POWER_OFF, self.process.wait()) => off.map_err(|_| {
                Error::failed(format!("the machine did not switch itself off within {} s", POWER_OFF.as_secs()))
                    .with_detail(self.last_words())
            })?,
        }
        match self.process.ended() {
            Some(status) if status.success() => Ok(()),
            _ => Err(self.died().unwrap_or_else(|| Error::host("the emulator ended"))),
        }
    }

    async fn restart(&mut self) -> Result<()> {
        let before = self.boot_id().await?;
        let _ = self.ssh.run("systemctl reboot", &[], &mut |_| ()).await;
        wait::until("the machine's restart", BOOT, &self.cancel, || async {
            if let Some(error) = self.died() {
                return Err(error);
            }
            self.ssh.forget().await;
            if let Err(reason) = self.ssh.try_connect().await? {
                return Ok(Probe::NotYet(reason));
            }
            Ok(match self.boot_id().await {
                Ok(now) if now != before => Probe::Ready(()),
                Ok(_) => Probe::NotYet("it has not gone down yet".to_owned()),
                Err(error) => Probe::NotYet(error.to_string()),
            })
        })
        .await?;
        self.join_network().await
    }

    async fn capture(&mut self, destination: Destination<'_>, _undo: &Undo) -> Result<Image> {
        let format = self.plan.image.format;
        let name = format!("disk.{}", format.as_str());
        let file = destination.staging.join(&name);
        if self.plan.image.standalone {
            disk_image::convert(&self.root_disk, &file, format, &self.reporter, &self.cancel).await?;
        } else {
            disk_image::move_overlay(&self.root_disk, &file).await?;
        }
        let (sha256, size_bytes) = disk_image::digest(&file).await?;
        Ok(Image {
            name: self.plan.image.name.clone(),
            location: destination.published.join(name),
            format,
            size_bytes,
            sha256: Some(sha256),
        })
    }

    fn reach(&self) -> Reach {
        Reach {
            command: ssh::reach_command(self.ssh_port, &self.dir.join("key")),
            address: self.member.map(address),
            end: format!("kill {} && rm -r {}", self.process.pid, self.dir.display()),
        }
    }
}
