//! `amibake releases`, and what all commands take that ask for releases.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use url::Url;

use super::prepare::until_cancelled;
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::cli::Settings;
use crate::config::FILE;
use crate::error::{Error, Exit, Result};
use crate::release::evidence::{Level, TrustedRoot, recorded};
use crate::release::{Arch, Channel, Gather, Index, Listed, Lock, Mirror, Place, Platform, Token, Version};
use crate::report;

/// Where releases are looked for.
#[derive(Debug, Clone, Args)]
pub struct ReleasePlace {
    /// Take everything from here instead of GitHub: an http(s) address or a folder, with `releases.json` and
    /// `<version>/<file>`
    #[arg(long, value_name = "URL|DIR", env = "AMIBAKE_RELEASE_MIRROR")]
    pub(super) release_mirror: Option<Mirror>,
    /// Another list of releases than GitHub's, in the form of its REST API
    #[arg(long, value_name = "URL", env = "AMIBAKE_RELEASE_INDEX", value_parser = address)]
    release_index: Option<Url>,
}

/// Whom signatures are believed from.
#[derive(Debug, Clone, Args)]
pub struct Trusting {
    /// Believe signatures by this root instead of Sigstore's public one
    #[arg(long, value_name = "FILE", env = "AMIBAKE_TRUSTED_ROOT")]
    trusted_root: Option<PathBuf>,
}

/// `amibake releases`.
#[derive(Debug, Args)]
pub struct ReleasesArgs {
    #[command(flatten)]
    place: ReleasePlace,
    /// Which versions count
    #[arg(long, value_name = "CHANNEL", default_value = "stable")]
    channel: Channel,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn address(text: &str) -> std::result::Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err("expected an http or https URL".to_owned()) }
}

impl ReleasePlace {
    /// As flags of another command say it.
    pub(super) fn at(release_mirror: Option<Mirror>, release_index: Option<Url>) -> Self {
        Self { release_mirror, release_index }
    }

    /// Looks at one release here.
    pub(super) fn gather<'a>(
        &'a self,
        settings: &'a Settings,
        version: Version,
        index: Option<&'a Index>,
        root: &'a TrustedRoot,
        lock: Option<&'a Lock>,
    ) -> Gather<'a> {
        let listed = index.and_then(|index| index.get(version));
        Gather { version, listed, mirror: self.release_mirror.as_ref(), root, cache_dir: &settings.cache, lock }
    }

    /// Reads the index.
    pub(super) async fn index(&self, settings: &Settings, reporter: &Reporter) -> Result<Index> {
        let token = Token::from_environment(|name| std::env::var(name).ok())?;
        let (mirror, list) = (self.release_mirror.as_ref(), self.release_index.as_ref());
        Index::read(&Place { mirror, list, cache_dir: &settings.cache, token }, reporter).await
    }
}

impl Trusting {
    /// The root by flag, project or program.
    pub(super) fn root(&self, settings: &Settings) -> Result<TrustedRoot> {
        match self.trusted_root.as_ref().or(settings.config.trust.trusted_root.as_ref()) {
            Some(path) => TrustedRoot::load(path).map_err(|error| {
                if self.trusted_root.is_some() {
                    return error;
                }
                let named = format!("`[trust] trusted_root` in {FILE} names it");
                let hint = error.hint().map_or(named.clone(), |hint| format!("{hint}\n{named}"));
                error.with_hint(hint)
            }),
            None => TrustedRoot::embedded(),
        }
    }
}

/// A reporter for what belongs to no bake.
pub(super) fn reporter(settings: &Settings) -> Reporter {
    Reporter::new("", vec![Arc::clone(&settings.talk.sink())])
}

/// The lock, if there is one; one that cannot be read is a fault.
pub(super) fn lock_if_any(settings: &Settings) -> Result<Option<Lock>> {
    if settings.lock.exists() { Lock::load(&settings.lock).map(Some) } else { Ok(None) }
}

/// The platforms asked for, or those that the lock pins, or all.
pub(super) fn platforms(arches: &[Arch], lock: Option<&Lock>) -> Vec<Platform> {
    let mut platforms: Vec<Platform> = match (arches, lock) {
        ([], Some(lock)) => lock.artifacts.keys().copied().collect(),
        ([], None) => Arch::ALL.into_iter().map(Platform).collect(),
        (given, _) => given.iter().copied().map(Platform).collect(),
    };
    platforms.sort_unstable();
    platforms.dedup();
    platforms
}

pub(crate) fn run(settings: &Settings, args: &ReleasesArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = reporter(settings);
        let index = until_cancelled(&cancel, args.place.index(settings, &reporter)).await?;
        let locked = lock_if_any(settings)?.map(|lock| lock.version);
        let releases: Vec<&Listed> = index.releases(args.channel).collect();
        if releases.is_empty() {
            return Err(nothing_listed(&index));
        }
        if args.json {
            let releases: Vec<Value> = releases
                .iter()
                .map(|release| {
                    json!({
                        "version": release.version, "published": release.published,
                        "platforms": release.platforms(), "evidence": offered(release),
                        "strongest": strongest(release), "locked": locked == Some(release.version),
                    })
                })
                .collect();
            report::print_json(&json!({ "releases": releases }));
        } else {
            let heading = ["VERSION", "DATE", "PLATFORMS", "EVIDENCE", ""].map(str::to_owned);
            let rows = releases.iter().map(|release| {
                let platforms: Vec<String> =
                    release.platforms().iter().map(|platform| platform.0.to_string()).collect();
                [
                    release.version.to_string(),
                    release.published.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string()),
                    if platforms.is_empty() { "-".to_owned() } else { platforms.join(" ") },
                    match offered(release).join(", ") {
                        none if none.is_empty() => if platforms.is_empty() { "-" } else { "none" }.to_owned(),
                        offered => offered,
                    },
                    if locked == Some(release.version) { "locked".to_owned() } else { String::new() },
                ]
            });
            report::print(&report::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()));
        }
        Ok(Exit::Done)
    })
}

fn nothing_listed(index: &Index) -> Error {
    if index.releases(Channel::Rc).next().is_some() {
        return Error::host("the list holds no stable release of BuildKit")
            .with_hint("`--channel rc` shows what is on the way to one");
    }
    Error::host("the list holds no release of BuildKit").with_hint(
        "a mirror has `<version>/<file>`, and `releases.json` in the form of GitHub's REST API, \"List releases\" (a folder \
         can do without)",
    )
}

/// The best that can vouch for it by what the list says. Nothing where no tarball is listed, or a signature that must be there.
fn strongest(release: &Listed) -> Option<Level> {
    let offered = offered(release);
    match Level::ALL.into_iter().rev().find(|level| offered.contains(&level.as_str())) {
        Some(Level::Signature) => Some(Level::Signature),
        _ if release.version.is_signed_era() || release.platforms().is_empty() => None,
        found => found.or(Some(Level::FirstUse)),
    }
}

/// What the list says there is beside the tarballs, and what this amibake knows: for all platforms it has.
fn offered(release: &Listed) -> Vec<&'static str> {
    let platforms = release.platforms();
    let all = |kind: &str| {
        let has = |platform: &Platform| {
            release.has(&format!("buildkit-{}.{}.{kind}.json", release.version, platform.file_part()))
        };
        !platforms.is_empty() && platforms.iter().all(has)
    };
    let known =
        !platforms.is_empty() && platforms.iter().all(|platform| recorded(release.version, *platform).is_some());
    let offers =
        [("signature", all("sigstore")), ("recorded", known), ("provenance", all("provenance")), ("sbom", all("sbom"))];
    offers.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}
