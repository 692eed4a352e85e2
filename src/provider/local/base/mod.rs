//! Base disks: the one amibake makes (`amibake base create`), and any other image a user names.
//!
//! Owns `<cache>/bases/`: amibake's own bases with a description beside each, downloaded ones by their digest, and the
//! digests of all of them. Never writes to an image that someone else made, and never lets QEMU guess what one is.

mod bootstrap;
mod create;
mod disk;
mod identity;
mod inspect;
mod sources;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use create::create;
pub use inspect::{Disk, inspect};

use super::Settings;
use crate::download::{self, Digest};
use crate::error::{Context as _, Error, Result};
use crate::plan::BaseImage;
use crate::recipe::Recipe;
use crate::release::{Arch, Sha256};

/// `--base PATH|URL`, `--base-sha256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Path or http(s) URL.
    pub image: String,
    /// `sha256:…` or `sha512:…` (required for a URL).
    pub digest: Option<String>,
}

/// A base that `amibake base create` made, as the file beside it describes it and `base list` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseEntry {
    /// The release it was made from: `debian-12`.
    pub name: String,
    /// Its architecture.
    pub arch: Arch,
    /// Where it is.
    pub path: PathBuf,
    /// Digest of the file.
    pub sha256: Sha256,
    /// Size of its disk in bytes.
    pub disk_bytes: u64,
    /// Bytes the file has.
    pub file_bytes: u64,
    /// When it was made, UTC, to the second.
    pub made: jiff::Timestamp,
    /// Code name of the release: `bookworm`.
    pub suite: String,
    /// Packages it was made of, with their versions.
    pub packages: Vec<String>,
}

/// Where bases are kept.
fn folder(cache_dir: &Path) -> PathBuf {
    cache_dir.join("bases")
}

/// What a recipe starts from on this host: the override, else the recipe's `[base.local]`, else amibake's own.
///
/// # Errors
/// Exit 4 with a hint (`amibake base create`) when there is none; exit 3 when it is not the bytes expected; exit 2 when
/// what names it is wrong.
pub async fn resolve(settings: &Settings, recipe: &Recipe, recipe_dir: &Path, arch: Arch) -> Result<BaseImage> {
    if let Some(named) = &settings.base {
        let digest = named.digest.as_deref().map(identity::parse_digest).transpose()?;
        return resolve_named(settings, &named.image, digest, Path::new(""), arch).await;
    }
    let Some(local) = &recipe.base.local else { return resolve_own(settings, arch).await };
    let image = local.image.get(arch).ok_or_else(|| {
        Error::usage(format!("`[base.local]` of the recipe `{}` names no image for {arch}", recipe.name))
            .with_hint(format!("add one: `image = {{ {arch} = \"…\" }}`; or use `--base`"))
    })?;
    let digest = local.digest.as_ref().and_then(|digest| digest.get(arch));
    let digest = digest.map(|text| identity::parse_digest(text)).transpose()?;
    resolve_named(settings, image, digest, recipe_dir, arch).await
}

async fn resolve_own(settings: &Settings, arch: Arch) -> Result<BaseImage> {
    let newest =
        list(&settings.cache_dir)?.into_iter().filter(|entry| entry.arch == arch).max_by_key(|entry| entry.made);
    let entry = newest.ok_or_else(|| {
        let error = Error::host(format!("there is no base disk for {arch} yet"));
        if Arch::host() == Some(arch) && arch == Arch::Amd64 {
            error.with_hint("make one with `amibake base create`, or name a cloud image with `--base PATH|URL`")
        } else {
            error.with_hint(format!("name an {arch} cloud image with `--base PATH|URL`: `base create` makes none here"))
        }
    })?;
    let disk = inspect(&entry.path)?;
    let found = identity::digests(&folder(&settings.cache_dir), &entry.path, None, &settings.reporter).await?;
    if found.sha256 != entry.sha256 {
        let path = entry.path.display();
        return Err(Error::refused(format!("the base {path} is not what `amibake base create` made: it was changed"))
            .with_hint("make it again with `amibake base create --force`"));
    }
    image(entry.name, &entry.path, found.sha256, disk, arch)
}

async fn resolve_named(
    settings: &Settings,
    named: &str,
    digest: Option<Digest>,
    relative_to: &Path,
    arch: Arch,
) -> Result<BaseImage> {
    let (name, path) = match named.split_once("://") {
        Some(_) => fetch(settings, named, digest).await?,
        None => {
            let path = std::path::absolute(relative_to.join(named));
            (named.to_owned(), path.or_usage(|| format!("`{named}` is not a path"))?)
        }
    };
    let disk = inspect(&path)?;
    let found = identity::digests(&folder(&settings.cache_dir), &path, digest.as_ref(), &settings.reporter).await?;
    if let Some(wanted) = digest.filter(|wanted| !found.are(wanted)) {
        return Err(Error::refused(format!("the base {} is not {}", path.display(), identity::show(&wanted)))
            .with_detail(format!("  it is sha256:{}", found.sha256)));
    }
    image(name, &path, found.sha256, disk, arch)
}

/// Downloads a base into the cache, by its digest; returns what a person calls it and where it is.
async fn fetch(settings: &Settings, address: &str, digest: Option<Digest>) -> Result<(String, PathBuf)> {
    let shown = sources::without_password(address).unwrap_or_else(|| address.to_owned());
    let url = Url::parse(address).or_usage(|| format!("`{shown}` is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::usage(format!("a base is fetched by http or https, not from `{shown}`"))
            .with_hint("a file is named by its path"));
    }
    let digest = digest.ok_or_else(|| {
        Error::usage(format!("the base {shown} is fetched, so its digest must be known"))
            .with_hint("`--base-sha256`, or `digest = \"sha256:…\"` in `[base.local]`")
    })?;
    let folder = folder(&settings.cache_dir);
    make_folder(&folder)?;
    let name = identity::show(&digest).replace(':', "-");
    let destination = folder.join(format!("{name}.img"));
    if destination.exists() {
        let found = identity::digests(&folder, &destination, Some(&digest), &settings.reporter).await?;
        if found.are(&digest) {
            return Ok((shown, destination));
        }
        settings.reporter.warn(format!("{} in the cache is damaged: it is fetched again", destination.display()));
        std::fs::remove_file(&destination).or_host(|| format!("cannot remove {}", destination.display()))?;
    }
    let request = download::Request { url: &url, digest, destination: &destination };
    download::fetch(&request, &settings.reporter, &CancellationToken::new()).await?;
    Ok((shown, destination))
}

fn image(name: String, path: &Path, sha256: Sha256, disk: Disk, arch: Arch) -> Result<BaseImage> {
    let location = path.to_str().ok_or_else(|| {
        Error::host(format!("the base's path {} is not UTF-8", path.display())).with_hint("rename it")
    })?;
    let identity = format!("sha256:{sha256}");
    Ok(BaseImage { name, identity, location: location.to_owned(), arch, disk_bytes: disk.virtual_bytes, ami: None })
}

/// The bases that `amibake base create` made and that are there, by name and architecture.
///
/// # Errors
/// Exit 4 when the cache cannot be read.
pub fn list(cache_dir: &Path) -> Result<Vec<BaseEntry>> {
    let folder = folder(cache_dir);
    let found = match std::fs::read_dir(&folder) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).or_host(|| format!("cannot read {}", folder.display())),
    };
    let mut entries: Vec<BaseEntry> = found
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        // What cannot be read is of another version of amibake: as if it were not there.
        .filter_map(|path| serde_json::from_slice::<BaseEntry>(&std::fs::read(path).ok()?).ok())
        // The cache may have been moved; the description says what, the folder says where.
        .map(|entry| BaseEntry { path: folder.join(entry.file_name()), ..entry })
        .filter(|entry| entry.path.is_file())
        .collect();
    entries.sort_by(|a, b| (&a.name, a.arch).cmp(&(&b.name, b.arch)));
    Ok(entries)
}

impl BaseEntry {
    fn file_name(&self) -> String {
        file_name(&self.name, self.arch)
    }
}

/// The file of a base; its description is beside it as `.json`.
fn file_name(name: &str, arch: Arch) -> String {
    format!("{name}-{arch}.qcow2")
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| {
        Error::host(format!("cannot make the cache folder {}", folder.display()))
            .with_source(error)
            .with_hint("XDG_CACHE_HOME names another place")
    })
}

/// Writes a file that appears whole or not at all, making its folder. Others may read it: root makes bases for users.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let readable = std::fs::Permissions::from_mode(0o644);
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
