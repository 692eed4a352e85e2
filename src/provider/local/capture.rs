//! From a stopped machine's disk to an image: converted into its format, hashed, and on disk when this returns.

use std::io::Read as _;
use std::path::Path;

use sha2::Digest as _;

use super::disk;
use super::machine::LocalMachine;
use crate::bake::Event;
use crate::error::{Context as _, Error, Result};
use crate::plan::{Image, ImageFormat};
use crate::provider::Destination;
use crate::release::Sha256;

/// Makes the image of `machine`, which is off.
///
/// # Errors
/// Exit 1 when it is on; exit 2 for a thin image in a format that has none; exit 4 when the image cannot be written.
pub(super) async fn capture(machine: &LocalMachine, destination: Destination<'_>) -> Result<Image> {
    if !machine.is_off() {
        return Err(Error::failed("an image is made of a machine that is off, and this one is on"));
    }
    let format = machine.image.format;
    let name = format!("disk.{}", format.as_str());
    let file = destination.staging.join(&name);
    let thin = thin_base(machine).await?;
    let total = disk::inspect_overlay(&machine.files.root()).await?;
    let progress = |share: f64| {
        let done = (total as f64 * share / 100.0) as u64;
        machine.reporter.event(&Event::Progress { done, total: Some(total) });
    };
    let base = thin.as_ref().map(|(base, format)| (base.as_path(), *format));
    disk::convert(&machine.files.root(), &file, format, base, progress).await?;
    let (size_bytes, sha256) = settle(&file).await?;
    Ok(Image {
        name: machine.image.name.clone(),
        location: destination.published.join(&name),
        format,
        size_bytes,
        sha256: Some(sha256),
        region: None,
        verified: false,
        created: None,
    })
}

/// What a thin image leans on; none for one that stands on its own.
async fn thin_base(machine: &LocalMachine) -> Result<Option<(std::path::PathBuf, &'static str)>> {
    if machine.image.standalone {
        return Ok(None);
    }
    if machine.image.format != ImageFormat::Qcow2 {
        return Err(Error::usage(format!(
            "an image in format {} always stands on its own",
            machine.image.format.as_str()
        ))
        .with_hint("use `--format qcow2` for a thin one"));
    }
    let base = std::path::absolute(&machine.base.location).or_host(|| "cannot find the base".to_owned())?;
    let format = disk::inspect_base(&base).await?.format;
    Ok(Some((base, format)))
}

/// Hashes the file and has it written to the disk, both at once.
async fn settle(file: &Path) -> Result<(u64, Sha256)> {
    let context = || format!("cannot finish the image {}", file.display());
    let opened = std::fs::File::open(file).or_host(context)?;
    let synced = opened.try_clone().or_host(context)?;
    let sync = tokio::task::spawn_blocking(move || synced.sync_all());
    let digest = tokio::task::spawn_blocking(move || digest(opened));
    sync.await.or_host(context)?.or_host(context)?;
    let (size, digest) = digest.await.or_host(context)?.or_host(context)?;
    if let Some(folder) = file.parent() {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).or_host(context)?;
    }
    Ok((size, digest))
}

fn digest(mut file: std::fs::File) -> std::io::Result<(u64, Sha256)> {
    let mut hasher = sha2::Sha256::new();
    let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size, Sha256::from_bytes(hasher.finalize().into()))),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}
