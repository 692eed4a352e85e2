//! Disk images: what `qemu-img` says of one, overlays, blanks, and the finished image.

use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::host;
use crate::bake::{Event, Reporter};
use crate::error::{Context as _, Error, Result};
use crate::plan::ImageFormat;
use crate::release::Sha256;

/// What a disk image is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inspected {
    /// `qcow2` or `raw`.
    pub(super) format: &'static str,
    pub(super) virtual_bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    format_specific: Option<serde_json::Value>,
}

/// Reads what the image at `path` is.
///
/// # Errors
/// Exit 4 when it cannot be read, is of another format, or draws on other files: a base that names files of this host
/// could bring them into an image.
pub(super) async fn inspect(path: &Path) -> Result<Inspected> {
    let shown = path.display();
    let about = std::fs::metadata(path).or_host(|| format!("cannot read {shown}"))?;
    if !about.is_file() || about.len() == 0 {
        let what = if about.is_dir() { "a folder" } else { "empty" };
        return Err(Error::host(format!("{shown} is no disk image: it is {what}")));
    }
    // -U: another bake may be running on it.
    let output = tool(&["info", "-U", "--output=json"], &[path]).await?;
    let info: Info = serde_json::from_slice(&output).or_host(|| format!("qemu-img says nothing of {shown}"))?;
    let external = info.format_specific.as_ref().and_then(|specific| specific.get("data")?.get("data-file"));
    if info.backing_filename.is_some() || external.is_some() {
        return Err(Error::host(format!("{shown} draws on other files"))
            .with_hint("make it stand on its own: qemu-img convert -O qcow2 FROM TO"));
    }
    let format = match info.format.as_str() {
        "qcow2" => "qcow2",
        "raw" => "raw",
        other => {
            return Err(Error::host(format!("{shown} is a {other} image; a base is raw or qcow2"))
                .with_hint("convert it: qemu-img convert -O qcow2 FROM TO"));
        }
    };
    Ok(Inspected { format, virtual_bytes: info.virtual_size })
}

/// Makes a copy-on-write overlay of `bytes` on `backing`.
pub(super) async fn overlay(path: &Path, backing: &Path, format: &str, bytes: u64) -> Result<()> {
    let bytes = bytes.to_string();
    let mut command = command()?;
    command.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(backing).arg(path).arg(bytes);
    finish(command).await.map(drop)
}

/// Makes an empty disk that takes space as it is filled.
pub(super) async fn blank(path: &Path, bytes: u64) -> Result<()> {
    let mut command = command()?;
    command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(bytes.to_string());
    finish(command).await.map(drop)
}

/// Writes `from`, an overlay, as an image that stands on its own.
pub(super) async fn convert(
    from: &Path,
    to: &Path,
    format: ImageFormat,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut command = command()?;
    // Out of order, eight at a time: reading the base and writing the image overlap. Without the page cache's help the
    // copy would wait for the disk.
    command.args(["convert", "-p", "-m", "8", "-W", "-f", "qcow2", "-O", format.as_str()]);
    command.arg(from).arg(to).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().or_host(|| "cannot start qemu-img".to_owned())?;
    let mut progress = child.stdout.take().ok_or_else(|| Error::host("qemu-img has no output"))?;
    let watch = async {
        let mut buffer = [0; 256];
        while let Ok(length @ 1..) = progress.read(&mut buffer).await {
            if let Some(percent) = last_percent(&buffer[..length]) {
                reporter.event(&Event::Progress { done: percent, total: Some(100) });
            }
        }
        child.wait_with_output().await
    };
    let output = tokio::select! {
        () = cancel.cancelled() => return Err(Error::interrupted()),
        output = watch => output.or_host(|| "cannot wait for qemu-img".to_owned())?,
    };
    check(&output)?;
    let file = std::fs::File::open(to).or_host(|| format!("cannot read {}", to.display()))?;
    file.sync_all().or_host(|| format!("cannot write {}", to.display()))
}

/// `    (12.34/100%)\r` as qemu-img prints it: the whole percent.
fn last_percent(bytes: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(bytes);
    let number = text.rsplit_once("/100%")?.0.rsplit_once('(')?.1;
    number.split('.').next()?.trim().parse().ok()
}

/// Takes the overlay itself for the image: it goes on drawing on the base.
pub(super) async fn move_overlay(from: &Path, to: &Path) -> Result<()> {
    if tokio::fs::rename(from, to).await.is_err() {
        tokio::fs::copy(from, to).await.or_host(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

/// SHA-256 and length of a file.
pub(super) async fn digest(path: &Path) -> Result<(Sha256, u64)> {
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(&path)?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut length = 0;
        loop {
            match std::io::Read::read(&mut file, &mut buffer)? {
                0 => return Ok::<_, std::io::Error>((Sha256::from_bytes(hasher.finalize().into()), length)),
                read => {
                    hasher.update(&buffer[..read]);
                    length += read as u64;
                }
            }
        }
    });
    hashed.await.or_host(|| "hashing was cut off".to_owned())?.or_host(|| "cannot read a disk image".to_owned())
}

fn command() -> Result<Command> {
    let program = host::program("qemu-img").ok_or_else(|| {
        Error::host("there is no qemu-img").with_hint("install it: apt-get install qemu-utils (Fedora: qemu-img)")
    })?;
    let mut command = Command::new(program);
    // A signal for amibake's group is amibake's to handle.
    command.process_group(0);
    Ok(command)
}

async fn tool(words: &[&str], paths: &[&Path]) -> Result<Vec<u8>> {
    let mut command = command()?;
    command.args(words).args(paths);
    finish(command).await
}

async fn finish(mut command: Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.or_host(|| "cannot start qemu-img".to_owned())?;
    check(&output)?;
    Ok(output.stdout)
}

fn check(output: &std::process::Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let error = Error::host("qemu-img failed").with_detail(format!("  | {}", said.replace('\n', "\n  | ")));
    Err(if said.contains("No space left") { error.with_hint("free some disk space") } else { error })
}

#[cfg(test)]
mod tests {
    #[test]
    fn progress_of_qemu_img() {
        assert_eq!(super::last_percent(b"    (0.00/100%)\r    (42.13/100%)\r"), Some(42));
        assert_eq!(super::last_percent(b"    (7"), None);
    }
}
