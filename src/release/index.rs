//! The release index: which versions of BuildKit there are, and what each offers. GitHub's list of releases, or the same
//! JSON on a mirror. It proves nothing: it says where to look.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use super::evidence::Stated;
use super::lock::file_name;
use super::{Mirror, Platform, Sha256, Version};
use crate::bake::Reporter;
use crate::download::page::{Ask, Page};
use crate::download::{Source, shown};
use crate::error::{Context as _, Error, Result};

/// GitHub's list of BuildKit's releases (REST API, "List releases").
pub const GITHUB: &str = "https://api.github.com/repos/moby/buildkit/releases";

/// The only host that is told a token of GitHub's.
const GITHUB_API: &str = "https://api.github.com";

/// A page of 100 releases with their assets has about 3 MiB.
const LARGEST: u64 = 32 << 20;

/// 100 releases each: ten times what BuildKit has.
const PAGES: usize = 50;

/// Which versions count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Channel {
    /// Releases alone.
    #[default]
    Stable,
    /// Also what is on the way to one: candidates, betas.
    Rc,
}

/// A release that the index lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its version.
    pub version: Version,
    /// When it was published.
    pub published: Option<Timestamp>,
    /// Its files by name, with what the index says of their digests.
    assets: BTreeMap<String, Stated>,
}

/// Every release, newest version first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    releases: Vec<Listed>,
}

/// As GitHub has a release; what else it says is not read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Raw {
    tag_name: String,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    prerelease: bool,
    #[serde(default)]
    published_at: Option<String>,
    #[serde(default)]
    assets: Option<Vec<RawAsset>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RawAsset {
    name: String,
    #[serde(default)]
    digest: Option<String>,
}

/// Where the index is read from.
pub struct Place<'a> {
    /// A mirror serves `releases.json`; it is then asked for everything, and GitHub for nothing.
    pub mirror: Option<&'a Mirror>,
    /// Another list than GitHub's.
    pub list: Option<&'a Url>,
    /// amibake's cache.
    pub cache_dir: &'a Path,
    /// A token for GitHub's API, if there is one.
    pub token: Option<Token>,
}

/// A token of GitHub's. Shown nowhere.
pub struct Token(HeaderValue);

impl Token {
    /// `GH_TOKEN` or `GITHUB_TOKEN`, in `gh`'s order. One that a GitHub Enterprise server gave its job is not for github.com.
    ///
    /// # Errors
    /// Exit 2 when it cannot be a token.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let elsewhere =
            set("GITHUB_SERVER_URL").is_some_and(|server| server.trim_end_matches('/') != "https://github.com");
        let found = [("GH_TOKEN", true), ("GITHUB_TOKEN", !elsewhere)].into_iter();
        let found = found.filter(|(_, ours)| *ours).find_map(|(name, _)| Some((name, set(name)?)));
        let Some((name, token)) = found else { return Ok(None) };
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Error::usage(format!("{name} holds characters that no token has")))?;
        value.set_sensitive(true);
        Ok(Some(Self(value)))
    }
}

impl Index {
    /// Reads it.
    ///
    /// # Errors
    /// Exit 4 when it cannot be had or is none, with when to come again if GitHub asks for fewer requests.
    pub async fn read(place: &Place<'_>, reporter: &Reporter) -> Result<Self> {
        let releases = match (place.list, place.mirror) {
            (None, Some(mirror)) => read_mirror(mirror, reporter).await?,
            (Some(url), _) => read_api(url, place, reporter).await?,
            (None, None) => {
                let url = Url::parse(GITHUB).or_host(|| format!("{GITHUB} is no address"))?;
                read_api(&url, place, reporter).await?
            }
        };
        Ok(Self::new(releases))
    }

    fn new(raw: Vec<Raw>) -> Self {
        let mut releases: Vec<Listed> = raw.into_iter().filter(|raw| !raw.draft).filter_map(listed).collect();
        releases.sort_by_key(|release| std::cmp::Reverse(release.version));
        // Pages shift while they are read.
        releases.dedup_by_key(|release| release.version);
        Self { releases }
    }

    /// The releases that count, newest version first.
    pub fn releases(&self, channel: Channel) -> impl Iterator<Item = &Listed> {
        self.releases.iter().filter(move |release| channel == Channel::Rc || release.version.is_stable())
    }

    /// The highest version that has a tarball for each of `platforms`: neither the newest by date, which may be an old
    /// branch's patch, nor one whose files are still on their way.
    #[must_use]
    pub fn newest(&self, channel: Channel, platforms: &[Platform]) -> Option<&Listed> {
        self.releases(channel).find(|release| release.lacking(platforms).is_empty())
    }

    /// What [`newest`](Self::newest) passes over above `version`: releases that lack a tarball for one of `platforms`.
    pub fn passed_over(
        &self,
        channel: Channel,
        platforms: &[Platform],
        version: Version,
    ) -> impl Iterator<Item = &Listed> {
        let above = self.releases(channel).take_while(move |release| release.version > version);
        above.filter(|release| !release.lacking(platforms).is_empty())
    }

    /// The release of `version`, if it is listed.
    #[must_use]
    pub fn get(&self, version: Version) -> Option<&Listed> {
        self.releases.iter().find(|release| release.version == version)
    }
}

impl Listed {
    fn has_tarball(&self, platform: Platform) -> bool {
        self.has(&file_name(self.version, platform))
    }

    /// Those of `platforms` that it lists no tarball for.
    #[must_use]
    pub fn lacking(&self, platforms: &[Platform]) -> Vec<Platform> {
        platforms.iter().copied().filter(|platform| !self.has_tarball(*platform)).collect()
    }

    /// Platforms that it lists a tarball for.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        let all = super::Arch::ALL.into_iter().map(Platform);
        all.filter(|platform| self.has_tarball(*platform)).collect()
    }

    /// What it says the digest of `file` is.
    #[must_use]
    pub fn stated(&self, file: &str) -> Stated {
        self.assets.get(file).cloned().unwrap_or(Stated::Unknown)
    }

    /// Whether it lists `file`.
    #[must_use]
    pub fn has(&self, file: &str) -> bool {
        self.assets.contains_key(file)
    }
}

/// None for what is no version: `dockerfile/1.4.0`, a pre-release by GitHub's word under a stable tag.
fn listed(raw: Raw) -> Option<Listed> {
    let version: Version = raw.tag_name.parse().ok()?;
    if raw.prerelease && version.is_stable() {
        return None;
    }
    let asset = |asset: RawAsset| {
        let digest = asset.digest.and_then(|digest| digest.strip_prefix("sha256:")?.parse::<Sha256>().ok());
        (asset.name, digest.map_or(Stated::Nothing, Stated::Digest))
    };
    let published = raw.published_at.and_then(|at| at.parse().ok());
    // GitHub always lists files: a list without them promises none.
    let assets = raw.assets.unwrap_or_default().into_iter().map(asset).collect();
    Some(Listed { version, published, assets })
}

fn parse(bytes: &[u8], from: &str) -> Result<Vec<Raw>> {
    serde_json::from_slice(bytes).or_host(|| format!("{from} is no list of releases")).map_err(|error| {
        error.with_hint("expected the JSON of GitHub's REST API, \"List releases\": an array of releases")
    })
}

async fn read_mirror(mirror: &Mirror, reporter: &Reporter) -> Result<Vec<Raw>> {
    let name_one = "name the version (`--to vX.Y.Z`, `verify-release vX.Y.Z`), or let the mirror serve the list as \
                    GitHub's API does";
    match mirror.file("releases.json")? {
        Source::Http(url) => {
            let page = Ask { accept: &[404, 410], ..Ask::new(&url, LARGEST) }.send(reporter).await?;
            if page.status != 200 {
                return Err(Error::host(format!("{} is not there", shown(&url))).with_hint(name_one));
            }
            parse(&page.bytes, &shown(&url))
        }
        Source::File(path) => match fs::read(&path) {
            Ok(bytes) => parse(&bytes, &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => folders(&path),
            Err(error) => Err(error).or_host(|| format!("cannot read {}", path.display())),
        },
    }
}

/// A folder without a list is one by itself: `<version>/<file>`.
fn folders(list: &Path) -> Result<Vec<Raw>> {
    let folder = list.parent().unwrap_or(Path::new("."));
    let cannot = || format!("cannot read the release mirror {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).or_host(cannot)? {
        let entry = entry.or_host(cannot)?;
        let tag_name = entry.file_name().to_string_lossy().into_owned();
        if tag_name.parse::<Version>().is_err() || !entry.path().is_dir() {
            continue;
        }
        let files = fs::read_dir(entry.path()).or_host(cannot)?;
        let assets = files.filter_map(|file| {
            let name = file.ok()?.file_name().to_string_lossy().into_owned();
            Some(RawAsset { name, digest: None })
        });
        let assets = Some(assets.collect());
        found.push(Raw { tag_name, draft: false, prerelease: false, published_at: None, assets });
    }
    Ok(found)
}

/// What is kept of the last whole reading.
#[derive(Serialize, Deserialize)]
struct Kept {
    url: String,
    etag: String,
    releases: Vec<Raw>,
}

/// Page by page. As long as the first page is unchanged, so are the others: new releases come first, and an unchanged
/// answer costs nothing of the quota.
async fn read_api(list: &Url, place: &Place<'_>, reporter: &Reporter) -> Result<Vec<Raw>> {
    let path =
        place.cache_dir.join("releases").join(format!("index-{}.json", Sha256::of(list.as_str().as_bytes()).short(12)));
    let kept: Option<Kept> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let kept = kept.filter(|kept| kept.url == list.as_str());
    // The token is for GitHub; a list that is somewhere else needs none.
    let secret = place.token.as_ref().filter(|_| list.origin().ascii_serialization() == GITHUB_API);
    let secret = secret.map(|token| token.0.clone());
    let mut url = list.clone();
    url.query_pairs_mut().append_pair("per_page", "100");
    let (mut releases, mut etag) = (Vec::new(), None);
    for number in 0..PAGES {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert(HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28"));
        let known = kept.as_ref().filter(|_| number == 0);
        headers.extend(known.and_then(|kept| Some((header::IF_NONE_MATCH, kept.etag.parse().ok()?))));
        let accept = &[304, 401, 403, 429];
        let ask = Ask { headers, secret: secret.clone(), accept, ..Ask::new(&url, LARGEST) };
        let page = ask.send(reporter).await?;
        match (page.status.as_u16(), known) {
            (304, Some(_)) => return Ok(kept.map(|kept| kept.releases).unwrap_or_default()),
            (200, _) => {}
            _ => return Err(limited(&page, &url, secret.is_some())),
        }
        releases.extend(parse(&page.bytes, &shown(&url))?);
        if number == 0 {
            etag = page.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        }
        match next_page(&page.headers, &url) {
            Some(next) => url = next,
            None => {
                if let Some(etag) = etag {
                    let kept = Kept { url: list.as_str().to_owned(), etag, releases: releases.clone() };
                    if let Err(error) = keep(&path, &kept) {
                        reporter.warn(format!("the list of releases is not kept for the next time: {error}"));
                    }
                }
                return Ok(releases);
            }
        }
    }
    Err(Error::host(format!("{} has more than {PAGES} pages", shown(list))))
}

fn keep(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let folder: PathBuf = path.parent().unwrap_or(Path::new(".")).to_path_buf();
    fs::create_dir_all(&folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut new, kept)?;
    new.flush()?;
    new.persist(path)?;
    Ok(())
}

/// `Link: <…>; rel="next"` (RFC 8288), on the same server.
fn next_page(headers: &HeaderMap, here: &Url) -> Option<Url> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| {
        let mut parameters = link.split(';').skip(1).map(str::trim);
        parameters.any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
    })?;
    let url = here.join(next.trim().strip_prefix('<')?.split_once('>')?.0).ok()?;
    (url.origin() == here.origin()).then_some(url)
}

/// Why GitHub does not answer, and when it will (REST API, "Rate limits").
fn limited(page: &Page, url: &Url, with_token: bool) -> Error {
    let header = |name: &str| page.headers.get(name).and_then(|value| value.to_str().ok());
    let host = url.host_str().unwrap_or("the server");
    let direct = "a version that is named is fetched without the list: `amibake update --to vX.Y.Z`";
    if page.status == 401 {
        return Error::host(format!("{host} refuses the token in GH_TOKEN or GITHUB_TOKEN"))
            .with_hint("unset it or make a new one; the list of releases can be read without");
    }
    let token = if with_token { "" } else { "a token in GITHUB_TOKEN allows more; " };
    let reset =
        header("x-ratelimit-reset").and_then(|at| at.parse().ok()).and_then(|at| Timestamp::from_second(at).ok());
    let used_up = header("x-ratelimit-remaining") == Some("0");
    let hint = format!("{token}{direct}");
    match (used_up, reset, header("retry-after")) {
        (true, Some(reset), _) => {
            let limit = header("x-ratelimit-limit").map(|limit| format!(" (of {limit} an hour)")).unwrap_or_default();
            let at = reset.strftime("%H:%M:%S UTC on %Y-%m-%d");
            Error::host(format!("{host} allows no more requests{limit} until {at}")).with_hint(hint)
        }
        (_, _, Some(seconds)) => Error::host(format!("{host} asks to be left alone for {seconds} s")).with_hint(hint),
        _ => Error::host(format!("{host} answered {} for {}", page.status, shown(url))).with_hint(hint),
    }
}

#[cfg(test)]
mod tests;
