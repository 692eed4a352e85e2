//! The local provider: machines are QEMU virtual machines on this host, images are disk images in `dist/`.
//!
//! A machine is a copy-on-write overlay in its own folder and a QEMU process (`qemu` decides its arguments, `launch`
//! starts it, `machine` uses it). Scripts go through one SSH connection (`ssh`); QEMU itself is spoken to through its
//! monitor (`monitor`) only. Needs no root.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

pub use dist::Dist;

use super::{Finding, Launch, Machine, Provider, Resource};
use crate::bake::Undo;
use crate::error::Result;
use crate::plan::{BaseImage, Image, ImagePlan, Plan};
use crate::recipe::Recipe;
use crate::release::Arch;

pub mod base;
mod capture;
mod disk;
mod dist;
mod files;
pub mod host;
mod images;
mod launch;
mod machine;
mod monitor;
mod network;
mod process;
mod qemu;
mod removal;
mod ssh;

// What a bake in a cloud makes on this host is removed in the same way.
pub(in crate::provider) use removal::remove;

/// What the local provider must know of its host.
#[derive(Clone)]
pub struct Settings {
    /// Absolute folder of the cache (`$XDG_CACHE_HOME/amibake`).
    pub cache_dir: PathBuf,
    /// Absolute folder of finished images (`dist`).
    pub dist_dir: PathBuf,
    /// Absolute folder that machines' folders are made below (`.amibake/runs`).
    pub runs_dir: PathBuf,
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

    async fn find(&self, plan: &Plan) -> Result<Option<Image>> {
        let ImagePlan { format, name, .. } = &plan.image;
        let found = images::find(&self.settings.dist_dir, &plan.fingerprint, *format, &self.settings.reporter)?;
        // A thin image and one that stands on its own have one fingerprint and two names.
        Ok(found.filter(|image| image.name == *name))
    }

    fn memory(&self) -> Option<u64> {
        Some(host::memory_for_machines())
    }

    async fn preflight(&self, plan: &Plan) -> Vec<Finding> {
        host::preflight(&self.settings, plan).await
    }

    async fn launch(&self, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>> {
        Ok(Box::new(launch::launch(launch, undo).await?))
    }

    async fn remove(&self, resource: &Resource) -> Result<()> {
        removal::remove(resource).await
    }
}
