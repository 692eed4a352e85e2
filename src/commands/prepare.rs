//! What building, planning and verifying have in common: recipes, lock and facts → plans.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;

use crate::bake::{Reporter, Sink};
use crate::cli::{Planning, Recipes, Settings};
use crate::error::{Context as _, Error, Result};
use crate::plan::{self, Facts, Image, ImageFormat, Options, Plan};
use crate::provider::Provider;
use crate::provider::local::{self, Local};
use crate::recipe::{self, Loaded, ProviderKind};
use crate::release::{Arch, Lock};

/// Everything that is read before anything is decided.
pub(super) struct Prepared {
    pub(super) lock: Lock,
    pub(super) arch: Arch,
    pub(super) provider: Local,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) plans: Vec<Plan>,
}

impl Prepared {
    /// A reporter for the bake of `plan`.
    pub(super) fn reporter(&self, plan: &Plan) -> Reporter {
        Reporter::new(&format!("{} ({})", plan.recipe, plan.arch), vec![Arc::clone(&self.sink)])
    }

    /// A reporter for what belongs to no bake.
    pub(super) fn general(&self) -> Reporter {
        Reporter::new("", vec![Arc::clone(&self.sink)])
    }
}

/// The names that `recipes` means.
pub(super) fn names(settings: &Settings, recipes: &Recipes) -> Result<Vec<String>> {
    if recipes.all {
        return recipe::all(&settings.project);
    }
    if recipes.names.is_empty() {
        return Err(
            Error::usage("no recipe is named").with_hint("name recipes, or use --all for every one in recipes/")
        );
    }
    Ok(recipes.names.clone())
}

/// Reads recipes, tells the faults of all of them at once.
pub(super) fn load(project: &Path, names: &[String], overrides: &[String]) -> Result<Vec<Loaded>> {
    let mut loaded = Vec::new();
    let mut failed: Vec<Error> = Vec::new();
    for name in names {
        match recipe::load(project, name, overrides) {
            Ok(recipe) => loaded.push(recipe),
            Err(error) => failed.push(error),
        }
    }
    match failed.len() {
        0 => Ok(loaded),
        1 => Err(failed.remove(0)),
        count => {
            let details: Vec<String> = failed.iter().map(crate::error::render).collect();
            Err(Error::usage(format!("{count} recipes cannot be used")).with_detail(details.concat()))
        }
    }
}

/// Rows 1 to 5 of the flow, but for the tarball: it is only fetched for what must be baked.
pub(super) async fn prepare(settings: &Settings, planning: &Planning, names: &[String]) -> Result<Prepared> {
    if planning.provider != ProviderKind::Local {
        return Err(Error::usage("this version bakes locally only; the aws provider is the next one")
            .with_hint("leave --provider out, or use --provider local"));
    }
    if planning.thin && planning.format != ImageFormat::Qcow2 {
        return Err(Error::usage("only a qcow2 image can be thin")
            .with_hint("leave --thin out, or store the image as --format qcow2"));
    }
    let arch = planning.arch.or_else(Arch::host).ok_or_else(|| {
        Error::usage(format!("amibake knows no images for {}", std::env::consts::ARCH))
            .with_hint("name one with --arch")
    })?;
    let loaded = load(&settings.project, names, &planning.set)?;
    let mut seen = BTreeMap::new();
    for one in &loaded {
        if let Some(other) = seen.insert(one.recipe.name.clone(), one.path.clone()) {
            let message =
                format!("{} and {} are both called `{}`", other.display(), one.path.display(), one.recipe.name);
            return Err(Error::usage(message));
        }
    }
    let lock = Lock::load(&settings.lock)?;
    let sink = settings.talk.sink();
    let general = Reporter::new("", vec![Arc::clone(&sink)]);
    if lock.stand_in {
        general.warn(format!("{} is a stand-in release: not BuildKit", lock.version));
    }
    let provider = Local::new(local::Settings {
        cache_dir: settings.cache.clone(),
        dist_dir: settings.dist(planning)?,
        base: planning.base_override(),
        reporter: general,
    });
    let planned = loaded.iter().map(|one| planned(one, &lock, &provider, planning, arch));
    let plans = try_join_all(planned).await?;
    Ok(Prepared { lock, arch, provider, sink, plans })
}

async fn planned(loaded: &Loaded, lock: &Lock, provider: &Local, planning: &Planning, arch: Arch) -> Result<Plan> {
    let base = provider.base(&loaded.recipe, &loaded.dir, arch).await?;
    let mut assets = BTreeMap::new();
    for name in plan::wanted_assets(&loaded.recipe) {
        let path = loaded.assets_dir.join(&name);
        let bytes = std::fs::read(&path).or_usage(|| format!("cannot read the asset {}", path.display()))?;
        assets.insert(name, bytes);
    }
    let options = Options {
        provider: planning.provider,
        arch,
        format: planning.format,
        standalone: !planning.thin,
        overrides: planning.set.clone(),
    };
    plan::plan(&loaded.recipe, lock, &Facts { base, assets }, &options)
}

/// The finished image of `plan`, stored the way it asks for: a thin image and one that stands on its own have one
/// fingerprint and two names.
pub(super) async fn existing(provider: &Local, plan: &Plan) -> Result<Option<Image>> {
    let found = provider.find(&plan.fingerprint, plan.image.format).await?;
    Ok(found.filter(|image| image.name == plan.image.name))
}

/// Runs `work` until it is done or `cancel` says stop.
pub(super) async fn until_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::interrupted()),
        done = work => done,
    }
}
