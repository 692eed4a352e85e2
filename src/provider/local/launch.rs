//! From a launch order to a running QEMU: disks, key, command line, process, port. Everything it makes outside the
//! machine's own folder is armed the moment it exists.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;

use super::disk;
use super::files::Files;
use super::host;
use super::machine::LocalMachine;
use super::monitor::Monitor;
use super::network;
use super::process::{Process, mortal};
use super::qemu::{Disk, Link, QemuCommand};
use super::ssh::{Key, Ssh};
use crate::bake::Undo;
use crate::error::{Context as _, Error, Result};
use crate::provider::{Launch, Resource, Source};
use crate::release::Arch;

/// Carries out a launch.
///
/// # Errors
/// Exit 4 when the machine does not start.
pub(super) async fn launch(order: Launch<'_>, undo: &Undo) -> Result<LocalMachine> {
    let arch = order.plan.arch;
    let emulator = host::emulator(arch)?;
    let accelerator = host::accelerator(arch).await?;
    let firmware = match arch {
        Arch::Amd64 => None,
        Arch::Arm64 => Some(host::arm64_firmware()?),
    };
    let files = Files { dir: order.machine_dir.to_owned() };
    let key = Key::generate()?;
    key.write(&files.key())?;
    write_credentials(&files.credentials(), &key)?;
    let disks = make_disks(&order, &files).await?;
    let link = link(&order)?;
    let qemu = QemuCommand {
        name: format!("amibake-{}", order.plan.recipe),
        arch,
        accelerator,
        firmware,
        cpus: order.plan.machine.cpus,
        memory_bytes: order.plan.machine.memory_bytes,
        disks,
        console: files.console(),
        credentials: files.credentials(),
        product_serial: product_serial(&order),
        isolated: matches!(order.source, Source::Image(..)),
        link,
    };
    let folder = start_folder(&order, qemu.link.as_ref(), undo)?;
    let (monitor, its_end) = Monitor::new().or_host(|| "cannot make a socket for QEMU's monitor".to_owned())?;
    let process = start(&emulator, &qemu, &files, &folder, its_end, &order)?;
    undo.arm(Resource::Process { pid: process.pid, started: process.started })?;
    let port = tokio::select! {
        port = monitor.forwarded_port() => port,
        ended = process.ended() => Err(died_at_once(&files, ended)),
    };
    // QEMU closes its monitor a moment before it ends: its own words say more than the monitor's silence.
    let port = match port {
        Ok(port) => port,
        Err(error) => match tokio::time::timeout(std::time::Duration::from_secs(2), process.ended()).await {
            Ok(ended) => return Err(died_at_once(&files, ended)),
            Err(_elapsed) => return Err(error),
        },
    };
    let ssh = Arc::new(Ssh::new(port, key, files.known_hosts()));
    Ok(LocalMachine::new(&order, files, process, monitor, ssh))
}

/// In a file and not on the command line, which every user of this host can read.
fn write_credentials(path: &Path, key: &Key) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let value = base64::engine::general_purpose::STANDARD.encode(key.authorized());
    let text = format!("io.systemd.credential.binary:ssh.authorized_keys.root={value}");
    let context = || format!("cannot write {}", path.display());
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).or_host(context)?;
    file.write_all(text.as_bytes()).or_host(context)
}

/// cloud-init, where a base has it, would look for a data source on the network for minutes: it is told that there is
/// one without content. The instance's id differs from launch to launch, as in a cloud.
fn product_serial(order: &Launch<'_>) -> String {
    let id = crate::release::Sha256::of(order.machine_dir.as_os_str().as_encoded_bytes()).short(12);
    format!("ds=nocloud;i=amibake-{id}")
}

async fn make_disks(order: &Launch<'_>, files: &Files) -> Result<Vec<Disk>> {
    let machine = &order.plan.machine;
    let writable = |file, serial| Disk { file, format: "qcow2", serial, read_only: false };
    let mut disks = vec![writable(files.root(), None)];
    let artifact = match order.source {
        Source::Base(artifact) => {
            let base = Path::new(&order.plan.base.location);
            let found = disk::inspect_base(base).await?;
            overlay(files, base, found.format, found.virtual_bytes, machine.disk_bytes).await?;
            Some(artifact)
        }
        Source::Image(image, _) => {
            let bytes = disk::virtual_bytes(&image.location, image.format).await?;
            overlay(files, &image.location, image.format.as_str(), bytes, bytes.max(machine.disk_bytes)).await?;
            None
        }
    };
    for volume in &order.plan.volumes {
        let file = files.volume(&volume.name);
        disk::create_blank(&file, volume.size_bytes).await?;
        disks.push(writable(file, Some(format!("amibake-{}", volume.name))));
    }
    if let Some(artifact) = artifact {
        disks.push(Disk {
            file: artifact.path().to_owned(),
            format: "raw",
            serial: Some(ARTIFACT_SERIAL.to_owned()),
            read_only: true,
        });
    }
    for disk in &disks {
        if disk.file.to_str().is_none() {
            return Err(Error::host(format!("QEMU cannot open {}: its path is not UTF-8", disk.file.display())));
        }
    }
    Ok(disks)
}

/// The disk whose bytes are the tarball.
const ARTIFACT_SERIAL: &str = "amibake-artifact";

/// Where a script finds it.
pub(super) const ARTIFACT_DEVICE: &str = "/dev/disk/by-id/virtio-amibake-artifact";

async fn overlay(files: &Files, base: &Path, format: &str, base_bytes: u64, bytes: u64) -> Result<()> {
    if bytes < base_bytes {
        return Err(Error::host(format!(
            "the machine's disk of {bytes} bytes is smaller than that of {}: {base_bytes} bytes",
            base.display()
        ))
        .with_hint("set a larger `disk` in `[machine]`, or leave it out"));
    }
    // A qcow2 file names its base relative to itself.
    let base = std::path::absolute(base).or_host(|| format!("cannot find {}", base.display()))?;
    disk::create_overlay(&files.root(), &base, format, bytes).await
}

fn link(order: &Launch<'_>) -> Result<Option<Link>> {
    let Source::Image(_, network) = order.source else { return Ok(None) };
    if network.members > network::MOST_MEMBERS {
        return Err(Error::usage(format!("a private network has room for {} machines", network::MOST_MEMBERS)));
    }
    Ok(network::link(&network))
}

/// The folder QEMU starts in: sockets are named relative to it. What it will make there is armed.
fn start_folder(order: &Launch<'_>, link: Option<&Link>, undo: &Undo) -> Result<PathBuf> {
    match (order.source, link) {
        (Source::Image(_, network), Some(link)) => {
            for path in network::sockets(network.run_dir, link) {
                undo.arm(Resource::Path { path })?;
            }
            Ok(network.run_dir.to_owned())
        }
        _ => Ok(order.machine_dir.to_owned()),
    }
}

fn start(
    emulator: &Path,
    qemu: &QemuCommand,
    files: &Files,
    folder: &Path,
    monitor: std::os::fd::OwnedFd,
    order: &Launch<'_>,
) -> Result<Process> {
    let context = || format!("cannot start {}", emulator.display());
    let words = std::fs::File::create(files.words()).or_host(|| format!("cannot write {}", files.words().display()))?;
    let (mut command, bound) = mortal(emulator, order.outlive);
    if !bound {
        order.reporter.warn("this host has no `setpriv` that ties a machine's life to amibake's: kill amibake with SIGKILL and the machine stays until the next build");
    }
    command.args(qemu.args()).current_dir(folder).stderr(Stdio::from(words));
    command.stdout(Stdio::from(monitor.try_clone().or_host(context)?)).stdin(Stdio::from(monitor));
    Process::start(command).or_host(context)
}

fn died_at_once(files: &Files, ended: Option<std::process::ExitStatus>) -> Error {
    let how = ended.map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
    let error = Error::host(format!("QEMU did not start the machine ({how})")).with_detail(files.last_words());
    let words = std::fs::read_to_string(files.words()).unwrap_or_default();
    if words.contains("lock") {
        error.with_hint("another program has this disk open for writing: close it, or bake from a copy")
    } else if words.contains("dgram") {
        error.with_hint("a private network needs QEMU 7.2 or newer")
    } else if words.contains("cannot set up guest memory") || words.contains("Cannot allocate memory") {
        error.with_hint("set a smaller `memory` in `[machine]`, or close other programs")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let key = Key::generate().unwrap();
        write_credentials(&path, &key).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let value = text.strip_prefix("io.systemd.credential.binary:ssh.authorized_keys.root=").unwrap();
        assert_eq!(base64::engine::general_purpose::STANDARD.decode(value).unwrap(), key.authorized().as_bytes());
    }

    #[test]
    fn what_qemu_says_becomes_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path().to_owned() };
        std::fs::write(files.words(), "qemu-system-x86_64: Failed to get shared \"write\" lock\n").unwrap();
        let error = died_at_once(&files, None);
        assert!(error.hint().unwrap().starts_with("another program has this disk open"));
        assert!(error.detail().unwrap().contains("Failed to get shared"));
        std::fs::write(files.words(), "qemu-system-x86_64: oops\n").unwrap();
        assert_eq!(died_at_once(&files, None).hint(), None);
    }
}
