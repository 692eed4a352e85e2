//! Base disks: the one amibake makes (`amibake base create`), and any other image a user names.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::bake::Reporter;
use crate::error::{Error, Result};
use crate::plan::BaseImage;
use crate::recipe::Recipe;
use crate::release::Arch;

/// `--base PATH|URL`, `--base-sha256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Path or http(s) URL.
    pub image: String,
    /// `sha256:…` or `sha512:…` (required for a URL).
    pub digest: Option<String>,
}

/// What a recipe starts from on this host: the override, else the recipe's `[base.local]`, else amibake's own.
///
/// # Errors
/// Exit 4 with a hint (`amibake base create`) when there is none; exit 3 when it is not the bytes expected.
pub async fn resolve(settings: &Settings, recipe: &Recipe, recipe_dir: &Path, arch: Arch) -> Result<BaseImage> {
    let _ = (settings, recipe, recipe_dir, arch);
    Err(Error::host("not written yet"))
}

/// Makes amibake's own base disk in the cache, unless it is there and `force` is not set; returns its path.
///
/// # Errors
/// Exit 4: no mmdebstrap, no permission, no space, no network.
pub async fn create(
    cache_dir: &Path,
    arch: Arch,
    force: bool,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<PathBuf> {
    let _ = (cache_dir, arch, force, reporter, cancel);
    Err(Error::host("not written yet"))
}
