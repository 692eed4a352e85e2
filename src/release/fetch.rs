//! From a lock to an `Artifact`: the cache, the download, reading the tarball while it comes, and the order in which a
//! verdict is made: first the digest, then the content, and only then anything that could be used.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::archive::{self, Bounds, Contents, Refusal, Wanted};
use super::lock::file_name;
use super::store::Store;
use super::{Arch, Artifact, Lock, LockedArtifact, Mirror, Platform};
use crate::bake::{Event, Reporter};
use crate::download::{Digest, FileLock, Growing, Limits, Source, Transfer, hash};
use crate::error::{Context, Error, Exit, Result};

/// The member that marks a stand-in release: no real one has it.
const STAND_IN_MARK: &str = "bin/amibake-stand-in";

/// Releases have 60 to 90 MB; more than this is something else.
pub(super) const LARGEST: u64 = 1 << 30;

/// Fetches (or takes from the cache) and verifies the tarball of `lock` for `arch`. `members` are those a recipe needs
/// (empty: whatever there is).
///
/// # Errors
/// As [`Fetch::run`].
pub async fn fetch(
    lock: &Lock,
    arch: Arch,
    members: &[String],
    mirror: Option<&Mirror>,
    cache_dir: &Path,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Artifact> {
    Fetch { members, mirror, ..Fetch::new(lock, arch, cache_dir) }.run(reporter, cancel).await
}

/// A member to take out of the tarball.
#[derive(Debug, Clone, Copy)]
pub struct Extract<'a> {
    /// Its name: `bin/buildctl`.
    pub member: &'a str,
    /// The file it becomes; its folder is made. Only there once the tarball is verified, and then complete; mode as in
    /// the tarball, never setuid or writable by others.
    pub to: &'a Path,
}

/// One fetch with everything about it.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// The release.
    pub lock: &'a Lock,
    /// For which machines.
    pub arch: Arch,
    /// Members the tarball must hold.
    pub members: &'a [String],
    /// Where to get it from instead of the place the lock names.
    pub mirror: Option<&'a Mirror>,
    /// amibake's cache.
    pub cache_dir: &'a Path,
    /// A member to take out while the tarball is read: in the same pass, so it costs next to nothing.
    pub extract: Option<Extract<'a>>,
    /// How long and how much it may take.
    pub limits: Limits,
}

/// The reading of a tarball, on a thread of its own.
type Reading = JoinHandle<std::result::Result<Contents, Refusal>>;

impl<'a> Fetch<'a> {
    /// From the place the lock names, whatever members there are.
    #[must_use]
    pub fn new(lock: &'a Lock, arch: Arch, cache_dir: &'a Path) -> Self {
        let limits = Limits { size: LARGEST, ..Limits::default() };
        Self { lock, arch, members: &[], mirror: None, cache_dir, extract: None, limits }
    }

    /// Fetches (or takes from the cache) and verifies.
    ///
    /// # Errors
    /// Exit 2 when the lock has no tarball for the architecture; exit 3 when it is not what the lock pins or holds what
    /// no release holds, and then nothing of it remains; exit 4 when it cannot be had or the cache cannot be written;
    /// interrupted when cancelled.
    pub async fn run(&self, reporter: &Reporter, cancel: &CancellationToken) -> Result<Artifact> {
        let Some(locked) = self.lock.artifact(self.arch) else {
            let known: Vec<String> = self.lock.artifacts.keys().map(Platform::to_string).collect();
            let message = format!("the lock pins no tarball for {}", Platform(self.arch));
            return Err(Error::usage(message).with_hint(format!("it has: {}", known.join(", "))));
        };
        let started = Instant::now();
        reporter.event(&Event::PhaseStarted { name: format!("fetch BuildKit {} ({})", self.lock.version, self.arch) });
        let store = Store::new(self.cache_dir, locked.sha256);
        let fetched = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::interrupted()),
            fetched = self.cached_or_new(&store, locked, reporter, cancel) => fetched,
        };
        if fetched.is_ok() {
            reporter.event(&Event::PhaseEnded { elapsed: started.elapsed() });
        }
        fetched
    }

    async fn cached_or_new(
        &self,
        store: &Store,
        locked: &LockedArtifact,
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<Artifact> {
        // Without the lock first: what is in the cache never changes in place, and a cache may be read-only.
        if let Cached::Good(artifact) = self.cached(store, locked, reporter).await? {
            return Ok(artifact);
        }
        store.create()?;
        let lock = FileLock::acquire(&store.tarball(), self.limits.overall, reporter, cancel).await;
        let _one_at_a_time = lock.map_err(|error| match error.exit() {
            Exit::Host => error.with_hint("the cache must be writable, unless it holds the tarball already"),
            _ => error,
        })?;
        match self.cached(store, locked, reporter).await? {
            Cached::Good(artifact) => return Ok(artifact),
            Cached::Damaged => {
                reporter.warn("the cached tarball is damaged: fetching it again");
                store.remove()?;
            }
            Cached::None => {}
        }
        self.download(store, locked, reporter, cancel).await
    }

    /// The tarball in the cache, hashed, and read if it must be.
    async fn cached(&self, store: &Store, locked: &LockedArtifact, reporter: &Reporter) -> Result<Cached> {
        let path = store.tarball();
        let cannot_read = || format!("cannot read {}", path.display());
        let file = match File::open(&path) {
            Ok(file) => file,
            // A folder that is none is left to the one who makes it: the message is better there.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Cached::None);
            }
            Err(error) => return Err(error).or_host(cannot_read),
        };
        let growing = Growing::complete(file).or_host(cannot_read)?;
        let record = store.record();
        let target = self.target()?;
        let reading = match (&record, &target) {
            (Some(_), None) => None,
            _ => Some(self.read(&growing, target.as_ref())?),
        };
        let digest = Digest::Sha256(locked.sha256);
        let hashed = spawn_blocking({
            let growing = growing.clone();
            move || hash(&growing, digest)
        });
        let got = hashed.await.or_host(cannot_read)?.or_host(cannot_read)?;
        if got != digest {
            return Ok(Cached::Damaged);
        }
        let (members, mode) = match (reading, record) {
            (Some(reading), _) => {
                let contents = self.verdict(reading).await.inspect_err(|error| drop_refused(store, error, reporter))?;
                (contents.members, contents.wanted_mode)
            }
            (None, record) => (record.map(|record| record.members).unwrap_or_default(), None),
        };
        self.check_members(&members)?;
        self.deliver(target, mode)?;
        Ok(Cached::Good(Artifact { cached: true, ..self.artifact(store, locked, growing.len(), members) }))
    }

    async fn download(
        &self,
        store: &Store,
        locked: &LockedArtifact,
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<Artifact> {
        let target = self.target()?;
        let unread = store.unread();
        let transfer = Transfer {
            source: self.source(locked)?,
            digest: Digest::Sha256(locked.sha256),
            destination: &unread,
            limits: &self.limits,
            // `cached` hashes before every use.
            durable: false,
        };
        let mut reading = None;
        let mut failed = None;
        let watch = &mut |growing: Growing| match self.read(&growing, target.as_ref()) {
            Ok(thread) => reading = Some(thread),
            Err(error) => failed = Some(error),
        };
        let size = transfer.run(watch, reporter, cancel).await?;
        let accepted = match (failed, reading) {
            (Some(error), _) => Err(error),
            (None, Some(reading)) => self.verdict(reading).await,
            (None, None) => Err(Error::host("the tarball was not read")),
        };
        let accepted = accepted.and_then(|contents| self.check_members(&contents.members).map(|()| contents));
        let contents = accepted.inspect_err(|error| drop_refused(store, error, reporter))?;
        store.accept(&contents.members)?;
        self.deliver(target, contents.wanted_mode)?;
        Ok(self.artifact(store, locked, size, contents.members))
    }

    fn source(&self, locked: &LockedArtifact) -> Result<Source> {
        let url = Url::parse(&locked.url).or_usage(|| "the lock's URL is none".into())?;
        match self.mirror {
            Some(mirror) => mirror.source(&url),
            None => Ok(Source::Http(url)),
        }
    }

    /// The file a member is written to until the tarball is known to be good.
    fn target(&self) -> Result<Option<NamedTempFile>> {
        let Some(extract) = &self.extract else { return Ok(None) };
        let cannot_write = || format!("cannot write {}", extract.to.display());
        let folder = extract.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).or_host(cannot_write)?;
        tempfile::Builder::new().prefix(".amibake-").tempfile_in(folder).map(Some).or_host(cannot_write)
    }

    /// Starts to read a tarball; `target` is written by this reading alone.
    fn read(&self, growing: &Growing, target: Option<&NamedTempFile>) -> Result<Reading> {
        let file = target.map(|target| target.as_file().try_clone()).transpose();
        let file = file.or_host(|| "cannot write the member".into())?;
        let growing = growing.clone();
        let member = self.extract.map(|extract| extract.member.to_owned()).unwrap_or_default();
        Ok(spawn_blocking(move || {
            loop {
                let mut reader = growing.reader();
                if let Some(mut file) = file.as_ref() {
                    file.set_len(0).and_then(|()| io::Seek::rewind(&mut file)).map_err(Refusal::Io)?;
                }
                let wanted = file.as_ref().map(|file| Wanted { member: &member, file });
                let read = archive::inspect(&mut reader, Bounds::default(), wanted.as_ref());
                // It may refuse at the first bytes of a download that is thrown away later.
                reader.settle();
                if read.is_ok() || !reader.is_stale() {
                    return read;
                }
            }
        }))
    }

    /// What reading the tarball came to.
    async fn verdict(&self, reading: Reading) -> Result<Contents> {
        let name = file_name(self.lock.version, Platform(self.arch));
        reading.await.or_host(|| format!("cannot read {name}"))?.map_err(|refusal| match refusal {
            Refusal::Io(error) => {
                Error::host(format!("cannot read {name}, or write what is taken out of it")).with_source(error)
            }
            Refusal::Content { member: Some(member), reason } => {
                refused(format!("{name}: member `{member}`: {reason}"))
            }
            Refusal::Content { member: None, reason } => refused(format!("{name}: {reason}")),
        })
    }

    fn check_members(&self, members: &[String]) -> Result<()> {
        let name = file_name(self.lock.version, Platform(self.arch));
        let wanted = self.members.iter().map(String::as_str).chain(self.extract.map(|extract| extract.member));
        if let Some(missing) = wanted.into_iter().find(|wanted| !members.iter().any(|member| member == wanted)) {
            return Err(Error::refused(format!("{name}: member `{missing}` is needed and not there"))
                .with_detail(format!("  it holds: {}", members.join(", "))));
        }
        if members.iter().any(|member| member == STAND_IN_MARK) && !self.lock.stand_in {
            return Err(Error::refused(format!(
                "{name}: member `{STAND_IN_MARK}`: this is a stand-in release for tests"
            ))
            .with_hint("a lock with `stand_in = true` (never `amibake.lock`) may name it"));
        }
        Ok(())
    }

    /// Gives the member its name and mode.
    fn deliver(&self, target: Option<NamedTempFile>, mode: Option<u32>) -> Result<()> {
        let (Some(target), Some(extract)) = (target, &self.extract) else { return Ok(()) };
        let cannot_write = || format!("cannot write {}", extract.to.display());
        let mode = mode.unwrap_or(0o600) & 0o755;
        target.as_file().set_permissions(Permissions::from_mode(mode)).or_host(cannot_write)?;
        target.persist(extract.to).map(drop).or_host(cannot_write)
    }

    fn artifact(&self, store: &Store, locked: &LockedArtifact, size: u64, members: Vec<String>) -> Artifact {
        Artifact {
            version: self.lock.version,
            arch: self.arch,
            path: store.tarball(),
            sha256: locked.sha256,
            size,
            members,
            stand_in: self.lock.stand_in,
            cached: false,
        }
    }
}

enum Cached {
    Good(Artifact),
    Damaged,
    None,
}

fn refused(message: String) -> Error {
    Error::refused(message)
        .with_hint("its digest is the one that is expected, and still it is not what a release may be: do not use it")
}

/// Nothing of a refused tarball stays; the refusal is the error that counts.
fn drop_refused(store: &Store, error: &Error, reporter: &Reporter) {
    if error.exit() == Exit::Refused
        && let Err(error) = store.remove()
    {
        reporter.warn(format!("a refused tarball remains: {error}"));
    }
}
