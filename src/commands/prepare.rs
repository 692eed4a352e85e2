//! What building, planning and verifying have in common: recipes, lock and facts → plans.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;

use crate::bake::{Reporter, Sink};
use crate::cli::{Planning, Recipes, Settings};
use crate::config::{self, scope};
use crate::error::{Context as _, Error, Result};
use crate::plan::{self, Facts, ImageFormat, Options, Plan};
use crate::provider::Provider;
use crate::provider::aws::Aws;
use crate::provider::local::{self, Local};
use crate::recipe::{self, Loaded, ProviderKind};
use crate::release::{Arch, Lock};

/// Everything that is read before anything is decided.
pub(super) struct Prepared {
    pub(super) lock: Lock,
    pub(super) provider: Box<dyn Provider>,
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

/// A recipe that was read, with the part of `--set` that is its own.
pub(super) struct Read {
    pub(super) loaded: Loaded,
    pub(super) overrides: Vec<String>,
}

/// The names that are given, or every recipe's.
pub(super) fn names_or_all(settings: &Settings, names: &[String]) -> Result<Vec<String>> {
    if names.is_empty() { recipe::all(&settings.project) } else { Ok(names.to_vec()) }
}

/// Reads recipes with what `amibake.toml` and then `overrides` give them, tells the faults of all of them at once.
pub(super) fn load(settings: &Settings, names: &[String], overrides: &[String]) -> Result<Vec<Read>> {
    let mut loaded = Vec::new();
    let mut failed: Vec<Error> = Vec::new();
    let before = about(settings, names)?;
    let all: Vec<String> = before.iter().chain(overrides).cloned().collect();
    for (name, overrides) in names.iter().zip(scoped(names, &all)?) {
        match recipe::load(&settings.project, name, &overrides) {
            Ok(recipe) => loaded.push(Read { loaded: recipe, overrides }),
            // Nobody typed what [set] gives.
            Err(error) => match before.iter().find(|text| told_of(&error, text)) {
                Some(text) => failed.push(error.with_hint(format!("`{text}` is given by [set] in {}", config::FILE))),
                None => failed.push(error),
            },
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

/// One recipe with what `amibake.toml` gives it.
pub(super) fn given(settings: &Settings, name: &str) -> Result<Loaded> {
    let overrides = scoped(&[name.to_owned()], &about(settings, &[name.to_owned()])?)?;
    recipe::load(&settings.project, name, &overrides.concat())
}

/// Whether an error is about this override.
fn told_of(error: &Error, text: &str) -> bool {
    let own = scope(text).map_or(text, |(_, rest)| rest);
    crate::error::render(error).contains(&format!("--set {own}"))
}

fn stem(name: &str) -> String {
    Path::new(name).file_stem().map_or(name.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// What `amibake.toml` gives to the recipes that are named: what is for others is left out, what is for none is a slip.
fn about(settings: &Settings, names: &[String]) -> Result<Vec<String>> {
    let named: Vec<String> = names.iter().map(|name| stem(name)).collect();
    let mut kept = Vec::new();
    for text in &settings.config.set {
        match scope(text) {
            Some((scope, _)) if !named.iter().any(|name| name == scope) => {
                let all: Vec<String> =
                    recipe::all(&settings.project).unwrap_or_default().iter().map(|name| stem(name)).collect();
                if !all.iter().any(|name| name == scope) {
                    let file = settings.project.join(config::FILE);
                    let message = format!("{}: `{text}` in [set] is for no recipe of recipes/", file.display());
                    return Err(Error::usage(message).with_hint(format!("there is {}", all.join(" and "))));
                }
            }
            _ => kept.push(text.clone()),
        }
    }
    Ok(kept)
}

/// The overrides of each recipe: `key=value` is for every one, `recipe:key=value` for that one. No key of a recipe has a
/// colon outside of quotes.
fn scoped(names: &[String], overrides: &[String]) -> Result<Vec<Vec<String>>> {
    let stems: Vec<String> = names.iter().map(|name| stem(name)).collect();
    let mut each = vec![Vec::new(); names.len()];
    for text in overrides {
        match scope(text) {
            None => each.iter_mut().for_each(|own| own.push(text.clone())),
            Some((scope, rest)) => {
                let mut known = false;
                for (own, _) in each.iter_mut().zip(&stems).filter(|(_, stem)| *stem == scope) {
                    own.push(rest.to_owned());
                    known = true;
                }
                if !known {
                    return Err(Error::usage(format!(
                        "`--set {text}` is for the recipe `{scope}`, which is not named"
                    ))
                    .with_hint(format!("this command is about {}", stems.join(" and "))));
                }
            }
        }
    }
    Ok(each)
}

/// Rows 1 to 5 of the flow, but for the tarball: it is only fetched for what must be baked.
pub(super) async fn prepare(settings: &Settings, planning: &Planning, names: &[String]) -> Result<Prepared> {
    let arches = arches(planning)?;
    let format = format(planning)?;
    let loaded = load(settings, names, &planning.set)?;
    let mut seen = BTreeMap::new();
    for Read { loaded: one, .. } in &loaded {
        if let Some(other) = seen.insert(one.recipe.name.clone(), one.path.clone()) {
            let message =
                format!("{} and {} are both called `{}`", other.display(), one.path.display(), one.recipe.name);
            return Err(Error::usage(message));
        }
    }
    let lock = Lock::load(&settings.lock)?;
    if let Some(least) = settings.config.trust.require {
        lock.demand(least).map_err(|error| error.with_detail(format!("  demanded by {}", crate::config::FILE)))?;
    }
    let sink = settings.talk.sink();
    let general = Reporter::new("", vec![Arc::clone(&sink)]);
    if lock.stand_in {
        general.warn(format!("{} is a stand-in release: not BuildKit", lock.version));
    }
    let provider = provider(settings, planning, general).await?;
    let each = arches.iter().flat_map(|arch| loaded.iter().map(move |one| (one, *arch)));
    let planned = each.map(|(one, arch)| planned(one, &lock, &*provider, planning, arch, format));
    let plans = try_join_all(planned).await?;
    Ok(Prepared { lock, provider, sink, plans })
}

/// Architectures asked for, each once. By default what this machine runs, and what the Elastic CI Stack runs unless told
/// otherwise.
pub(super) fn arches(planning: &Planning) -> Result<Vec<Arch>> {
    let mut arches: Vec<Arch> = Vec::new();
    for arch in &planning.arch {
        if !arches.contains(arch) {
            arches.push(*arch);
        }
    }
    if arches.is_empty() {
        let usual = match planning.provider {
            ProviderKind::Aws => Some(Arch::Amd64),
            ProviderKind::Local => Arch::host(),
        };
        arches.push(usual.ok_or_else(|| {
            Error::usage(format!("amibake knows no images for {}", std::env::consts::ARCH))
                .with_hint("name one with --arch")
        })?);
    }
    Ok(arches)
}

/// How images are stored; options that mean nothing to the provider are refused rather than ignored.
pub(super) fn format(planning: &Planning) -> Result<ImageFormat> {
    match planning.provider {
        ProviderKind::Aws => {
            let given = [
                ("--format", planning.format.is_some()),
                ("--thin", planning.thin),
                ("--base", planning.base.is_some()),
            ];
            match given.iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Error::usage(format!("{option} is for local images"))
                    .with_hint(format!("leave it out, or bake with --provider {}", ProviderKind::Local))),
                None => Ok(ImageFormat::Ami),
            }
        }
        ProviderKind::Local => {
            let given = [("--region", planning.region.is_some()), ("--profile", planning.profile.is_some())];
            if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
                return Err(Error::usage(format!("{option} is for AWS"))
                    .with_hint(format!("leave it out, or bake with --provider {}", ProviderKind::Aws)));
            }
            let format = planning.format.unwrap_or(ImageFormat::Qcow2);
            if planning.thin && format != ImageFormat::Qcow2 {
                return Err(Error::usage("only a qcow2 image can be thin")
                    .with_hint("leave --thin out, or store the image as --format qcow2"));
            }
            Ok(format)
        }
    }
}

pub(super) async fn provider(settings: &Settings, planning: &Planning, general: Reporter) -> Result<Box<dyn Provider>> {
    Ok(match planning.provider {
        ProviderKind::Local => Box::new(Local::new(local::Settings {
            cache_dir: settings.cache.clone(),
            dist_dir: settings.dist(planning)?,
            runs_dir: settings.runs.clone(),
            base: planning.base_override(),
            reporter: general,
        })),
        ProviderKind::Aws => {
            let account = settings.account(planning.region.clone(), planning.profile.clone());
            let mirror = planning.release_mirror.clone();
            let aws = Aws::connect(&account, mirror, general).await?;
            Box::new(aws.remembering(settings.cache.join("aws-waits.json")))
        }
    })
}

pub(super) async fn planned(
    read: &Read,
    lock: &Lock,
    provider: &dyn Provider,
    planning: &Planning,
    arch: Arch,
    format: ImageFormat,
) -> Result<Plan> {
    let Read { loaded, overrides } = read;
    let base = provider.base(&loaded.recipe, &loaded.dir, arch).await?;
    let assets = assets(loaded)?;
    let options =
        Options { provider: planning.provider, arch, format, standalone: !planning.thin, overrides: overrides.clone() };
    plan::plan(&loaded.recipe, lock, &Facts { base, assets }, &options)
}

/// Every asset that the recipe's steps refer to.
pub(super) fn assets(loaded: &Loaded) -> Result<BTreeMap<String, Vec<u8>>> {
    let wanted = plan::wanted_assets(&loaded.recipe).into_iter();
    wanted
        .map(|name| {
            let path = loaded.assets_dir.join(&name);
            let bytes = std::fs::read(&path).or_usage(|| format!("cannot read the asset {}", path.display()))?;
            Ok((name, bytes))
        })
        .collect()
}

/// Runs `work` until it is done or `cancel` says stop.
pub(super) async fn until_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::interrupted()),
        done = work => done,
    }
}
