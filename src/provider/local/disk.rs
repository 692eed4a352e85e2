//! Disk images through `qemu-img`: what one is, a copy-on-write copy, a blank one, a conversion. Formats are always
//! spelt out; the one guess is made about a base the user named.

use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::process::program;
use crate::error::{Context as _, Error, Result};
use crate::plan::ImageFormat;

/// What a disk image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inspected {
    /// `qcow2` or `raw`.
    pub(super) format: &'static str,
    /// Size of the disk it holds, in bytes.
    pub(super) virtual_bytes: u64,
}

/// What `qemu-img info` prints, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    format_specific: Option<FormatSpecific>,
}

#[derive(Debug, Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: serde_json::Value,
}

/// Looks at a base: raw or qcow2, standing on its own (what it leans on would not be covered by its digest).
///
/// # Errors
/// Exit 4 when it is missing or something else.
pub(super) async fn inspect_base(base: &Path) -> Result<Inspected> {
    let shown = base.display();
    if !base.is_file() {
        return Err(Error::host(format!("the base disk {shown} does not exist"))
            .with_hint("make one with `amibake base create`, or name another with `--base`"));
    }
    let info = info(base, None).await?;
    let leans = info.backing_filename.or_else(|| data_file(info.format_specific.as_ref()));
    if let Some(other) = leans {
        return Err(Error::host(format!("the base disk {shown} does not stand on its own: it needs {other}"))
            .with_hint(format!("`qemu-img convert -O qcow2 {shown} standalone.qcow2` makes one that does")));
    }
    let format = match info.format.as_str() {
        "raw" => "raw",
        "qcow2" => "qcow2",
        other => {
            return Err(Error::host(format!("the base disk {shown} is in format {other}, expected raw or qcow2"))
                .with_hint(format!("`qemu-img convert -O qcow2 {shown} base.qcow2` converts it")));
        }
    };
    Ok(Inspected { format, virtual_bytes: info.virtual_size })
}

fn data_file(specific: Option<&FormatSpecific>) -> Option<String> {
    Some(specific?.data.get("data-file")?.as_str()?.to_owned())
}

/// Size of the disk that a finished image holds, in bytes.
///
/// # Errors
/// Exit 4 when it is missing or not in that format.
pub(super) async fn virtual_bytes(image: &Path, format: ImageFormat) -> Result<u64> {
    if !image.is_file() {
        return Err(Error::host(format!("the image {} does not exist", image.display()))
            .with_hint("bake it again with `amibake build`"));
    }
    Ok(info(image, Some(format.as_str())).await?.virtual_size)
}

/// Size of the disk that a machine's overlay holds, in bytes.
///
/// # Errors
/// Exit 4 when it cannot be read.
pub(super) async fn inspect_overlay(overlay: &Path) -> Result<u64> {
    Ok(info(overlay, Some("qcow2")).await?.virtual_size)
}

async fn info(image: &Path, format: Option<&str>) -> Result<Info> {
    let mut command = qemu_img()?;
    command.args(["info", "--output=json"]);
    if let Some(format) = format {
        command.args(["-f", format]);
    }
    let text = finish(command.arg(image), || format!("cannot read the disk {}", image.display())).await?;
    serde_json::from_str(&text).or_host(|| format!("cannot understand what qemu-img says of {}", image.display()))
}

/// Makes `target`, a qcow2 disk of `bytes` that holds what `base` holds and keeps changes to itself.
///
/// # Errors
/// Exit 4.
pub(super) async fn create_overlay(target: &Path, base: &Path, base_format: &str, bytes: u64) -> Result<()> {
    let mut command = qemu_img()?;
    command.args(["create", "-q", "-f", "qcow2", "-F", base_format, "-b"]).arg(base).arg(target).arg(bytes.to_string());
    finish(&mut command, || format!("cannot make the disk {}", target.display())).await.map(drop)
}

/// Makes `target`, a blank qcow2 disk of `bytes` that takes no space yet.
///
/// # Errors
/// Exit 4.
pub(super) async fn create_blank(target: &Path, bytes: u64) -> Result<()> {
    let mut command = qemu_img()?;
    command.args(["create", "-q", "-f", "qcow2"]).arg(target).arg(bytes.to_string());
    finish(&mut command, || format!("cannot make the disk {}", target.display())).await.map(drop)
}

/// Writes what the qcow2 disk `from` holds to `to`. With `base` (and its format), `to` is a thin copy that leans on it.
/// `progress` gets the share that is done, 0 to 100.
///
/// # Errors
/// Exit 4: a full disk, mostly.
pub(super) async fn convert(
    from: &Path,
    to: &Path,
    format: ImageFormat,
    base: Option<(&Path, &str)>,
    mut progress: impl FnMut(f64),
) -> Result<()> {
    let mut command = qemu_img()?;
    // Out of order and eight at a time: reading and writing overlap. The page cache is flushed once, by the caller.
    command.args(["convert", "-p", "-W", "-m", "8", "-t", "unsafe", "-f", "qcow2", "-O", format.as_str()]);
    if let Some((base, base_format)) = base {
        command.arg("-B").arg(base).args(["-F", base_format]);
    }
    let context = || format!("cannot write the image {}", to.display());
    let mut child = command.arg(from).arg(to).stdout(Stdio::piped()).spawn().or_host(context)?;
    let mut reader = child.stdout.take();
    let follow = async {
        let (mut buffer, mut line) = ([0; 256], Vec::new());
        while let Some(stdout) = &mut reader
            && let Ok(count @ 1..) = stdout.read(&mut buffer).await
        {
            line.extend_from_slice(&buffer[..count]);
            // Each state is `    (12.34/100%)\r`.
            while let Some(end) = line.iter().position(|&byte| byte == b'\r') {
                if let Some(share) = percent(&line[..end]) {
                    progress(share);
                }
                line.drain(..=end);
            }
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), follow);
    checked(output.or_host(context)?, context).map(drop)
}

fn percent(state: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(state).ok()?;
    text.trim().strip_prefix('(')?.split_once('/')?.0.parse().ok()
}

/// `qemu-img`, killed when its future is dropped.
fn qemu_img() -> Result<Command> {
    let mut command = Command::new(program("qemu-img", "qemu-utils")?);
    command.kill_on_drop(true).stdin(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C");
    // Not in the terminal's group: Ctrl-C is amibake's to handle.
    command.process_group(0);
    Ok(command)
}

async fn finish(command: &mut Command, context: impl Fn() -> String) -> Result<String> {
    let output = command.stdout(Stdio::piped()).output().await.or_host(&context)?;
    checked(output, context)
}

fn checked(output: std::process::Output, context: impl Fn() -> String) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let error = Error::host(context()).with_source(format!("{}: {reason}", output.status));
    Err(if reason.contains("No space left on device") {
        error.with_hint("free some space there, or choose another folder")
    } else {
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_qemu_imgs_line() {
        assert_eq!(percent(b"    (12.34/100%)"), Some(12.34));
        assert_eq!(percent(b"    (100.00/100%)"), Some(100.0));
        assert_eq!(percent(b""), None);
        assert_eq!(percent(b"qemu-img: oops"), None);
    }

    #[tokio::test]
    async fn overlays_and_blanks_have_their_size_and_thin_copies_their_base() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::File::create(path("base, 1.raw")).unwrap().set_len(1 << 20).unwrap();
        let base = path("base, 1.raw");
        assert_eq!(inspect_base(&base).await.unwrap(), Inspected { format: "raw", virtual_bytes: 1 << 20 });
        create_overlay(&path("root"), &base, "raw", 3 << 20).await.unwrap();
        create_blank(&path("data"), 100 << 30).await.unwrap();
        assert!(path("data").metadata().unwrap().len() < 1 << 20);
        assert_eq!(inspect_base(&path("data")).await.unwrap(), Inspected { format: "qcow2", virtual_bytes: 100 << 30 });
        let mut shares = Vec::new();
        convert(&path("root"), &path("out"), ImageFormat::Qcow2, None, |share| shares.push(share)).await.unwrap();
        assert_eq!(shares.last(), Some(&100.0));
        assert_eq!(virtual_bytes(&path("out"), ImageFormat::Qcow2).await.unwrap(), 3 << 20);
        inspect_base(&path("out")).await.unwrap();
        convert(&path("root"), &path("thin"), ImageFormat::Qcow2, Some((&base, "raw")), drop).await.unwrap();
        let error = inspect_base(&path("thin")).await.unwrap_err();
        assert!(error.to_string().ends_with(&format!("does not stand on its own: it needs {}", base.display())));
    }

    #[tokio::test]
    async fn what_is_no_base_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = inspect_base(&dir.path().join("none")).await.unwrap_err();
        assert!(error.to_string().ends_with("does not exist"), "{error}");
        assert_eq!(error.exit(), crate::Exit::Host);
        let blank = dir.path().join("blank");
        create_blank(&blank, 1 << 20).await.unwrap();
        let vmdk = dir.path().join("disk.vmdk");
        convert(&blank, &vmdk, ImageFormat::Vmdk, None, drop).await.unwrap();
        let error = inspect_base(&vmdk).await.unwrap_err();
        assert!(error.to_string().ends_with("is in format vmdk, expected raw or qcow2"), "{error}");
        let error = convert(&blank, &dir.path().join("no/such"), ImageFormat::Raw, None, drop).await.unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("No such file"), "{error:?}");
    }
}
