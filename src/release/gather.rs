//! Fetches what a release offers beside its tarballs, and moves the lock once all of it holds.

use std::path::Path;

use futures_util::future::{try_join, try_join_all, try_join4};
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::evidence::{self, Level, Offer, Stated, TrustedRoot, Verdict};
use super::index::Listed;
use super::lock::file_name;
use super::store::Store;
use super::{Artifact, Fetch, Lock, LockedArtifact, Mirror, Platform, Sha256, Version};
use crate::bake::Reporter;
use crate::download::Source;
use crate::download::page::Ask;
use crate::error::{Context as _, Error, Result};

/// Where BuildKit's releases are: `<base>/<version>/<file>`.
const DOWNLOADS: &str = "https://github.com/moby/buildkit/releases/download";

/// A bundle holds a statement with all materials of a build: some hundred kB. An SBOM has a few MB.
const LARGEST_BUNDLE: u64 = 16 << 20;
const LARGEST_SBOM: u64 = 64 << 20;

/// Which release is looked at, and how.
pub struct Gather<'a> {
    /// Which version.
    pub version: Version,
    /// What the index says of it, if it was read.
    pub listed: Option<&'a Listed>,
    /// Where to get it from instead of GitHub.
    pub mirror: Option<&'a Mirror>,
    /// Whom signatures are believed from.
    pub root: &'a TrustedRoot,
    /// amibake's cache.
    pub cache_dir: &'a Path,
    /// The lock as it is: what it pins of this version must still hold, and a stand-in's stays one.
    pub lock: Option<&'a Lock>,
}

/// A release that was looked at for one platform, and what its lock would say.
#[derive(Debug)]
pub struct Gathered {
    /// What was looked at.
    pub verdict: Verdict,
    /// Nothing of it is there: no evidence, no tarball, no word in the index. That is no attack, and nothing to believe.
    pub missing: bool,
    /// The release's SBOM.
    sbom: Option<Vec<u8>>,
}

/// The tarballs of a release, fetched and held against the evidence.
#[derive(Debug)]
pub struct Renewed {
    /// The lock that pins them.
    pub lock: Lock,
    /// The tarballs.
    pub artifacts: Vec<Artifact>,
}

/// A tarball that was held against its evidence.
#[derive(Debug)]
pub struct Seen {
    /// The tarball.
    pub artifact: Artifact,
    /// What is published was read, and not the cache alone.
    pub published: bool,
}

impl Gather<'_> {
    /// Looks at the evidence for each of `platforms`, side by side.
    ///
    /// # Errors
    /// Exit 4 when something cannot be fetched: what is not there is an answer, what cannot be reached is none.
    pub async fn look(&self, platforms: &[Platform], reporter: &Reporter) -> Result<Vec<Gathered>> {
        try_join_all(platforms.iter().map(|platform| self.look_at(*platform, reporter))).await
    }

    /// Looks at the evidence for one platform.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub async fn look_at(&self, platform: Platform, reporter: &Reporter) -> Result<Gathered> {
        let file = file_name(self.version, platform);
        let sidecar = |kind: &str| file.replace(".tar.gz", &format!(".{kind}.json"));
        let (bundle, provenance, sbom, stated) = try_join4(
            self.read(sidecar("sigstore"), LARGEST_BUNDLE, reporter),
            self.read(sidecar("provenance"), LARGEST_BUNDLE, reporter),
            self.read(sidecar("sbom"), LARGEST_SBOM, reporter),
            async { Ok(self.listed.map_or(Stated::Unknown, |listed| listed.stated(&file))) },
        )
        .await?;
        let pinned = self.lock.filter(|lock| lock.version == self.version);
        let pinned = pinned.and_then(|lock| lock.artifact(platform.0)).map(|locked| locked.sha256);
        let offer = Offer { version: self.version, platform, bundle, provenance, sbom, stated, pinned };
        let verdict = evidence::judge(&offer, self.root);
        let offered = offer.bundle.is_some() || offer.provenance.is_some() || offer.sbom.is_some();
        // A tarball whose evidence was taken away is not missing: it is refused.
        let missing = !offered && offer.stated == Stated::Unknown && !self.is_there(&file, reporter).await;
        Ok(Gathered { verdict, sbom: offer.sbom, missing })
    }

    /// Whether there is such a file; one that cannot be asked for may be.
    async fn is_there(&self, file: &str, reporter: &Reporter) -> bool {
        match self.source(file) {
            Ok(Source::File(path)) => path.symlink_metadata().is_ok(),
            Ok(Source::Http(url)) => {
                let first = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
                // Room for a page that says "not found"; a server that sends the whole tarball says enough with that.
                let ask = Ask { accept: &[206, 404, 410, 416], headers: first, ..Ask::new(&url, 1 << 20) };
                !matches!(ask.send(reporter).await, Ok(page) if matches!(page.status.as_u16(), 404 | 410))
            }
            Err(_) => true,
        }
    }

    /// Demands that there is something of the release for each platform.
    ///
    /// # Errors
    /// Exit 4, naming those that it is missing for.
    pub fn demand_there(&self, gathered: &[Gathered]) -> Result<()> {
        let (missing, there): (Vec<&Gathered>, Vec<&Gathered>) = gathered.iter().partition(|one| one.missing);
        if missing.is_empty() {
            return Ok(());
        }
        let platforms: Vec<String> = missing.iter().map(|one| one.verdict.platform.to_string()).collect();
        let place = self.mirror.map_or("github.com".to_owned(), |mirror| format!("the release mirror {mirror}"));
        let message = format!("{place} has no BuildKit {} for {}", self.version, platforms.join(" and "));
        let others: Vec<&str> = there.iter().map(|one| one.verdict.platform.0.as_str()).collect();
        Err(Error::host(message).with_hint(if others.is_empty() {
            "`amibake releases` lists what there is".to_owned()
        } else {
            format!("`--arch {}` is content with what is there", others.join(","))
        }))
    }

    /// A file of the release; none if it is not there.
    async fn read(&self, file: String, most: u64, reporter: &Reporter) -> Result<Option<Vec<u8>>> {
        match self.source(&file)? {
            Source::Http(url) => {
                let page = Ask { accept: &[404, 410], ..Ask::new(&url, most) }.send(reporter).await?;
                Ok((page.status == 200).then_some(page.bytes))
            }
            Source::File(path) => match read_at_most(&path, most).await {
                Ok(Some(bytes)) => Ok(Some(bytes)),
                Ok(None) => {
                    let message = format!("{} has more than the {most} bytes that are accepted", path.display());
                    Err(Error::host(message))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).or_host(|| format!("cannot read {}", path.display())),
            },
        }
    }

    fn source(&self, file: &str) -> Result<Source> {
        let url = Url::parse(&self.url(file)).or_host(|| format!("{file} makes no address"))?;
        match self.mirror {
            Some(mirror) => mirror.source(&url),
            None => Ok(Source::Http(url)),
        }
    }

    fn url(&self, file: &str) -> String {
        format!("{DOWNLOADS}/{}/{file}", self.version)
    }

    /// The lock that pins what was looked at, if every platform reaches `least`; its tarballs are fetched and must be what
    /// the evidence says.
    ///
    /// # Errors
    /// Exit 3 when the evidence or a tarball is refused, exit 4 when something is missing or cannot be fetched or written;
    /// interrupted.
    pub async fn renew(
        &self,
        gathered: Vec<Gathered>,
        least: Level,
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<Renewed> {
        self.demand_there(&gathered)?;
        for one in &gathered {
            one.verdict.demand(least)?;
        }
        let pinned = try_join_all(gathered.iter().map(|one| self.pin(one, reporter)));
        let artifacts = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::interrupted()),
            pinned = pinned => pinned?.into_iter().collect(),
        };
        let stand_in = self.lock.is_some_and(|lock| lock.stand_in);
        let mut lock = Lock { version: self.version, stand_in, artifacts };
        let (fetched, ()) = try_join(self.fetch(&lock, reporter, cancel), self.keep(&gathered)).await?;
        for artifact in &fetched {
            if let Some(locked) = lock.artifacts.get_mut(&Platform(artifact.arch())) {
                locked.size = Some(artifact.size());
            }
        }
        Ok(Renewed { lock, artifacts: fetched })
    }

    /// The tarball of what was looked at, which must be what the evidence says. What a mirror holds is read even if the cache
    /// has the right one: that is what is asked about. GitHub's is not fetched again.
    ///
    /// # Errors
    /// As [`renew`](Self::renew), of which it demands the least level.
    pub async fn tarball(&self, one: &Gathered, reporter: &Reporter, cancel: &CancellationToken) -> Result<Seen> {
        one.verdict.demand(Level::FirstUse)?;
        let work = async {
            let (platform, locked) = self.pin(one, reporter).await?;
            let stand_in = self.lock.is_some_and(|lock| lock.stand_in);
            let expected = locked.sha256;
            let lock = Lock { version: self.version, stand_in, artifacts: [(platform, locked)].into() };
            let fetch = Fetch { mirror: self.mirror, ..Fetch::new(&lock, platform.0, self.cache_dir) };
            let file = file_name(self.version, platform);
            // What is not in the cache is read from the mirror anyway; what is, is read beside the mirror's own.
            let both = self.mirror.is_some() && Store::new(self.cache_dir, expected).tarball().exists();
            let read = async { if both { self.published(&file, reporter).await.map(Some) } else { Ok(None) } };
            let scoped = reporter.scoped(platform.0.as_str());
            let (artifact, read) = tokio::join!(fetch.run(&scoped, cancel), read);
            let (artifact, mut read) = (artifact?, read?);
            if read.is_none() && self.mirror.is_some() && artifact.cached() {
                read = Some(self.published(&file, reporter).await?);
            }
            if let Some(got) = read.filter(|got| *got != expected) {
                return Err(Error::refused(format!("{file} does not have the digest that is expected"))
                    .with_detail(format!("  expected  sha256:{expected}\n  got       sha256:{got}"))
                    .with_hint("the cache holds the right one; what the mirror has was changed, or is another"));
            }
            // Without a digest in the evidence, it was the published bytes that `pin` hashed.
            let published = read.is_some() || !artifact.cached() || one.verdict.digest.is_none();
            self.keep(std::slice::from_ref(one)).await?;
            Ok(Seen { artifact, published })
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::interrupted()),
            seen = work => seen,
        }
    }

    async fn pin(&self, gathered: &Gathered, reporter: &Reporter) -> Result<(Platform, LockedArtifact)> {
        let verdict = &gathered.verdict;
        let file = file_name(self.version, verdict.platform);
        let sha256 = match verdict.digest {
            Some(digest) => digest,
            // Nothing says what it should be, and that was asked for. It is fetched again to be read: only releases from
            // before v0.11 come to this.
            None => self.published(&file, reporter).await?,
        };
        let evidence = Some(verdict.evidence.clone());
        Ok((verdict.platform, LockedArtifact { url: self.url(&file), sha256, size: None, evidence }))
    }

    /// The digest of what is published, of which nothing is kept.
    async fn published(&self, file: &str, reporter: &Reporter) -> Result<Sha256> {
        match self.source(file)? {
            Source::Http(url) => Ask::new(&url, super::fetch::LARGEST).hash(reporter).await,
            Source::File(path) => {
                let cannot = || format!("cannot read {}", path.display());
                let growing = crate::download::Growing::complete(std::fs::File::open(&path).or_host(cannot)?);
                let growing = growing.or_host(cannot)?;
                let like = crate::download::Digest::Sha256(Sha256::of(b""));
                let hashed = tokio::task::spawn_blocking(move || crate::download::hash(&growing, like)).await;
                match hashed.or_host(cannot)?.or_host(cannot)? {
                    crate::download::Digest::Sha256(digest) => Ok(digest),
                    crate::download::Digest::Sha512(_) => Err(Error::host(cannot())),
                }
            }
        }
    }

    async fn fetch(&self, lock: &Lock, reporter: &Reporter, cancel: &CancellationToken) -> Result<Vec<Artifact>> {
        let all = lock.artifacts.keys().map(|platform| {
            let fetch = Fetch { mirror: self.mirror, ..Fetch::new(lock, platform.0, self.cache_dir) };
            let reporter = reporter.scoped(platform.0.as_str());
            async move { fetch.run(&reporter, cancel).await }
        });
        try_join_all(all).await
    }

    /// SBOMs stay in the cache under their digests, which the lock names.
    async fn keep(&self, gathered: &[Gathered]) -> Result<()> {
        for sbom in gathered.iter().filter_map(|one| one.sbom.as_deref()) {
            super::store::keep_sbom(self.cache_dir, sbom)?;
        }
        Ok(())
    }
}

/// None when there are more.
async fn read_at_most(path: &Path, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(most + 1).read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}
