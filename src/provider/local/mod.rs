//! The local provider: machines are QEMU virtual machines on this host, images are disk images in `dist/`.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Finding, Launch, Machine, Provider, Resource};
use crate::bake::Undo;
use crate::error::{Context as _, Error, Result};
use crate::plan::{BaseImage, Fingerprint, Image, ImageFormat, Plan};
use crate::recipe::Recipe;
use crate::release::Arch;

pub mod base;
mod catalog;
mod disk_image;
pub mod host;
mod machine;
mod qemu;
mod ssh;

/// What the local provider must know of its host.
#[derive(Clone)]
pub struct Settings {
    /// Absolute folder of the cache (`$XDG_CACHE_HOME/amibake`).
    pub cache_dir: PathBuf,
    /// Absolute folder of finished images (`dist`).
    pub dist_dir: PathBuf,
    /// `--base` and `--base-sha256`: instead of the recipe's and of amibake's own.
    pub base: Option<base::Override>,
    /// Where the progress of fetching a base goes.
    pub reporter: crate::bake::Reporter,
}

/// QEMU on this host.
#[derive(Clone)]
pub struct Local {
    settings: Settings,
}

impl Local {
    /// The provider. Touches nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Provider for Local {
    async fn base(&self, recipe: &Recipe, recipe_dir: &Path, arch: Arch) -> Result<BaseImage> {
        base::resolve(&self.settings, recipe, recipe_dir, arch).await
    }

    async fn find(&self, fingerprint: &Fingerprint, format: ImageFormat) -> Result<Option<Image>> {
        catalog::find(&self.settings.dist_dir, fingerprint, format)
    }

    async fn preflight(&self, plan: &Plan) -> Vec<Finding> {
        host::preflight(&self.settings, plan).await
    }

    async fn launch(&self, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>> {
        Ok(Box::new(machine::launch(launch, undo).await?))
    }

    async fn remove(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Process { pid, started } => qemu::end_process(*pid, *started).await,
            Resource::Path { path } => remove_path(path),
        }
    }
}

/// Removes a file or a folder with all it holds. A link is removed, not followed.
fn remove_path(path: &Path) -> Result<()> {
    if !path.is_absolute() || path.components().count() < 3 {
        return Err(Error::host(format!("will not remove {}", path.display())));
    }
    let removed = match std::fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).or_host(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
