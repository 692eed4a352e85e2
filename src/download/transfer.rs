//! A whole download: the lock, the partial file, the retries, the hash, the final rename.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderValue;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::digest::Hasher;
use super::http::{Answer, Body, Fault, Http};
use super::{Digest, FileLock, Growing, Limits, shown};
use crate::bake::{Event, Reporter};
use crate::error::{Context, Error, Result};

/// Pieces of the body that may wait for the disk: each has at most 400 kB (hyper's buffer), so this bounds memory.
const QUEUE: usize = 8;

/// The shortest time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Where bytes come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A server.
    Http(Url),
    /// A file on this machine.
    File(PathBuf),
}

impl Source {
    fn shown(&self) -> String {
        match self {
            Source::Http(url) => shown(url),
            Source::File(path) => path.display().to_string(),
        }
    }
}

/// One download with everything about it.
pub(crate) struct Transfer<'a> {
    pub(crate) source: Source,
    pub(crate) digest: Digest,
    pub(crate) destination: &'a Path,
    pub(crate) limits: &'a Limits,
    /// The file must be on the disk before it has its name. Not needed by who hashes it again before every use: there a
    /// crash costs one more download, while waiting for the disk would cost every download.
    pub(crate) durable: bool,
}

/// What is known at the end beside the bytes.
#[derive(Default)]
struct Came {
    /// The bytes came in more than one piece, which may be pieces of different files.
    pieced: bool,
    web_page: bool,
}

/// Lets readers go when the download ends without success, by whatever way.
struct AbandonOnDrop(Growing);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Transfer<'_> {
    /// Brings the bytes to the destination and returns their number. `watch` gets the growing file as soon as there is
    /// one, and again if everything has to begin anew; what its readers see is not verified before this returns.
    ///
    /// # Errors
    /// As [`super::fetch`].
    pub(crate) async fn run(
        &self,
        watch: &mut (dyn FnMut(Growing) + Send),
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let work = tokio::time::timeout(self.limits.overall, self.run_locked(watch, reporter, cancel));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::interrupted()),
            done = work => done.unwrap_or_else(|_| {
                let message = format!("{} took longer than {:?}", self.source.shown(), self.limits.overall);
                Err(Error::host(message).with_hint("what came so far is kept: the next try goes on from there"))
            }),
        }
    }

    async fn run_locked(
        &self,
        watch: &mut (dyn FnMut(Growing) + Send),
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let folder = self.destination.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).or_host(|| format!("cannot make the folder {}", folder.display()))?;
        let lock = Arc::new(FileLock::acquire(self.destination, self.limits.overall, reporter, cancel).await?);
        if let Some(size) = self.reuse(watch, reporter).await? {
            return Ok(size);
        }
        let partial = beside(self.destination, ".partial");
        let mut fresh = matches!(self.source, Source::File(_));
        loop {
            let growing = open_partial(&partial, fresh, self.limits.size)?;
            let _guard = AbandonOnDrop(growing.clone());
            let inherited = growing.len() > 0;
            watch(growing.clone());
            let hash = spawn_blocking({
                let (growing, digest) = (growing.clone(), self.digest);
                move || hash(&growing, digest)
            });
            let came = match &self.source {
                Source::Http(url) => self.download(url, &growing, &lock, reporter).await?,
                Source::File(path) => copy(path, &growing, self.limits.size, reporter).await?,
            };
            growing.finish();
            let got = joined(hash.await)?.or_host(|| format!("cannot read {}", partial.display()))?;
            if got == self.digest {
                keep(growing.clone(), self.durable, partial, self.destination.to_path_buf()).await?;
                return Ok(growing.len());
            }
            fs::remove_file(&partial).or_host(|| format!("cannot remove {}", partial.display()))?;
            if fresh || !(inherited || came.pieced) {
                return Err(self.mismatch(got, growing.len(), &came));
            }
            // A piece from an earlier run or of a file that changed meanwhile: once more, in one piece.
            reporter.warn("the pieces of the download do not fit together: fetching all of it again");
            fresh = true;
        }
    }

    /// The destination's size if it holds the right bytes already.
    async fn reuse(&self, watch: &mut (dyn FnMut(Growing) + Send), reporter: &Reporter) -> Result<Option<u64>> {
        let cannot_read = || format!("cannot read {}", self.destination.display());
        let file = match File::open(self.destination) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).or_host(cannot_read),
        };
        let growing = Growing::complete(file).or_host(cannot_read)?;
        watch(growing.clone());
        let (followed, digest) = (growing.clone(), self.digest);
        let got = joined(spawn_blocking(move || hash(&followed, digest)).await)?.or_host(cannot_read)?;
        if got == self.digest {
            return Ok(Some(growing.len()));
        }
        reporter.warn(format!("{} is damaged: fetching it again", self.destination.display()));
        fs::remove_file(self.destination).or_host(|| format!("cannot remove {}", self.destination.display()))?;
        Ok(None)
    }

    fn mismatch(&self, got: Digest, size: u64, came: &Came) -> Error {
        let hint = if came.web_page {
            "the server sent a web page: is there a login or a proxy in between?"
        } else {
            "the file there was changed, or is not the one that is meant; nothing of it was kept"
        };
        Error::refused(format!("{} does not have the digest that is expected", self.source.shown()))
            .with_detail(format!("  expected  {}\n  got       {got}  ({size} bytes)", self.digest))
            .with_hint(hint)
    }

    async fn download(&self, url: &Url, growing: &Growing, lock: &Arc<FileLock>, reporter: &Reporter) -> Result<Came> {
        let mut http = Http::new(self.limits)?;
        let mut stream = Stream::new(growing, lock, self.limits, reporter);
        let ended = self.attempts(&mut http, &mut stream, url, reporter).await;
        // If the disk failed, that is why the rest did.
        let came = stream.close().await?;
        ended.map(|()| came)
    }

    async fn attempts(
        &self,
        http: &mut Http<'_>,
        stream: &mut Stream<'_>,
        url: &Url,
        reporter: &Reporter,
    ) -> Result<()> {
        let mut failures = 0;
        loop {
            let before = stream.received;
            let (error, after, connected) = match stream.attempt(http, url).await {
                Ok(()) => return Ok(()),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Passing { error, after, connected }) => (error, after, connected),
            };
            failures = if stream.received - before >= self.limits.least { 1 } else { failures + 1 };
            let most = if connected { self.limits.attempts } else { self.limits.attempts.div_ceil(2) };
            if failures >= most {
                let hint = "check the network, HTTPS_PROXY and the release mirror; what came so far is kept";
                return Err(Error::host(format!("cannot download {} ({failures} tries)", shown(url)))
                    .with_source(error)
                    .with_hint(hint));
            }
            let pause = pause(self.limits, failures, after);
            reporter.note(format!("{}: trying again in {:.1} s", told(&error), pause.as_secs_f64()));
            tokio::time::sleep(pause).await;
        }
    }
}

/// The message with its innermost cause, in one line.
fn told(error: &Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(current) = cause {
        last = Some(current.to_string());
        cause = current.source();
    }
    last.map_or_else(|| error.to_string(), |last| format!("{error} ({last})"))
}

/// What the server asks for, or twice as long as last time, with a random half left out.
pub(super) fn pause(limits: &Limits, failures: u32, after: Option<Duration>) -> Duration {
    if let Some(after) = after {
        return after.min(limits.longest_retry_after);
    }
    let doubled = limits.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let full = doubled.min(limits.longest_pause);
    // The standard library's hash keys are its only source of randomness, and enough to spread retries.
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    full / 2 + full.mul_f64(random / 2.0)
}

enum Piece {
    Data(Bytes),
    Restart,
}

/// The way from responses to the file: knows how far it is, whatever connection the bytes came by.
struct Stream<'a> {
    limits: &'a Limits,
    reporter: &'a Reporter,
    to_disk: mpsc::Sender<Piece>,
    disk: JoinHandle<io::Result<()>>,
    /// Bytes handed to the disk, and so the offset to go on from.
    have: u64,
    /// Bytes that came over the network, over all attempts.
    received: u64,
    validator: Option<HeaderValue>,
    ranges: bool,
    reported: Instant,
    came: Came,
}

impl<'a> Stream<'a> {
    fn new(growing: &Growing, lock: &Arc<FileLock>, limits: &'a Limits, reporter: &'a Reporter) -> Self {
        let (to_disk, mut pieces) = mpsc::channel(QUEUE);
        let (target, lock) = (growing.clone(), lock.clone());
        let disk = spawn_blocking(move || {
            // Writing can outlast a cancelled download by a moment; until then nobody else may have the partial file.
            let _lock = lock;
            while let Some(piece) = pieces.blocking_recv() {
                match piece {
                    Piece::Data(data) => target.append(&data)?,
                    Piece::Restart => target.restart()?,
                }
            }
            Ok(())
        });
        Self {
            limits,
            reporter,
            to_disk,
            disk,
            have: growing.len(),
            received: 0,
            validator: None,
            ranges: true,
            reported: Instant::now(),
            came: Came::default(),
        }
    }

    /// One request and as much of its body as comes.
    async fn attempt(&mut self, http: &mut Http<'_>, url: &Url) -> std::result::Result<(), Fault> {
        if !self.ranges && self.have > 0 {
            self.restart().await?;
        }
        let body = match http.get(url, self.have, self.validator.as_ref()).await? {
            Answer::Body(body) => body,
            Answer::Complete => return Ok(()),
            Answer::NoRanges(reason) => {
                self.ranges = false;
                return Err(Fault::passing(Error::host(format!("{} cannot resume: {reason}", shown(url)))));
            }
        };
        if body.begins != self.have {
            self.restart().await?;
        } else if self.have > 0 {
            self.came.pieced = true;
        }
        self.validator.clone_from(&body.validator);
        self.came.web_page = body.is_web_page();
        self.read(body, url).await
    }

    async fn read(&mut self, body: Body, url: &Url) -> std::result::Result<(), Fault> {
        let Body { mut response, total, .. } = body;
        self.report(total, true);
        let (mut since, mut lately) = (Instant::now(), 0);
        loop {
            let chunk = match tokio::time::timeout_at(since + self.limits.idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    let message = format!("the connection broke off after {} bytes", self.have);
                    return Err(Fault::passing(Error::host(message).with_source(error.without_url())));
                }
                Err(_) => {
                    let message = format!(
                        "the server stalled after {} bytes: fewer than {} in {:?}",
                        self.have, self.limits.least, self.limits.idle
                    );
                    return Err(Fault::passing(Error::host(message)));
                }
            };
            let length = chunk.len() as u64;
            if self.have + length > self.limits.size {
                let message = format!("{} has more than the {} bytes that are accepted", shown(url), self.limits.size);
                return Err(Error::host(message).into());
            }
            let handing = Instant::now();
            self.hand(Piece::Data(chunk)).await?;
            // Waiting for a slow disk is not the server's fault.
            since += handing.elapsed();
            self.have += length;
            self.received += length;
            lately += length;
            if lately >= self.limits.least {
                (since, lately) = (Instant::now(), 0);
            }
            self.report(total, false);
        }
        if total.is_some_and(|total| total != self.have) {
            let message = format!("the server ended after {} bytes of {}", self.have, total.unwrap_or_default());
            return Err(Fault::passing(Error::host(message)));
        }
        self.report(total, true);
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.have = 0;
        self.came.pieced = false;
        self.validator = None;
        self.hand(Piece::Restart).await
    }

    async fn hand(&mut self, piece: Piece) -> Result<()> {
        // It is closed only by an error, which `close` brings.
        self.to_disk.send(piece).await.map_err(|_| Error::host("cannot write the download"))
    }

    /// Waits until everything is in the file.
    async fn close(self) -> Result<Came> {
        let Self { to_disk, disk, came, .. } = self;
        drop(to_disk);
        joined(disk.await)?.map_err(cannot_write)?;
        Ok(came)
    }

    fn report(&mut self, total: Option<u64>, always: bool) {
        if always || self.reported.elapsed() >= PROGRESS_EVERY {
            self.reported = Instant::now();
            self.reporter.event(&Event::Progress { done: self.have, total });
        }
    }
}

fn cannot_write(error: io::Error) -> Error {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let failed = Error::host("cannot write the download").with_source(error);
    if full { failed.with_hint("the cache's disk is full: make room, or use another cache folder") } else { failed }
}

/// Copies a local file into the growing one.
async fn copy(path: &Path, growing: &Growing, most: u64, reporter: &Reporter) -> Result<Came> {
    let (path, growing, reporter) = (path.to_path_buf(), growing.clone(), reporter.clone());
    let copied = spawn_blocking(move || {
        let cannot_read = || format!("cannot read {}", path.display());
        // Without waiting, or a pipe of that name would hold us for ever.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut file =
            File::options().read(true).custom_flags(flags).open(&path).or_host(cannot_read).map_err(|error| {
                error.with_hint("a mirror folder holds `<version>/<file>`: is the folder right, and this file in it?")
            })?;
        let about = file.metadata().or_host(cannot_read)?;
        if !about.is_file() {
            return Err(Error::host(format!("{} is not a file", path.display())));
        }
        if about.len() > most {
            let message =
                format!("{} has {} bytes, more than the {most} that are accepted", path.display(), about.len());
            return Err(Error::host(message));
        }
        let mut buffer = vec![0; 256 << 10];
        // Not beyond the size just checked: a file that grows meanwhile is not the one pinned anyway.
        let mut source = file.by_ref().take(about.len());
        loop {
            let read = source.read(&mut buffer).or_host(cannot_read)?;
            if read == 0 || growing.is_abandoned() {
                break;
            }
            growing.append(&buffer[..read]).map_err(cannot_write)?;
        }
        reporter.event(&Event::Progress { done: growing.len(), total: Some(about.len()) });
        Ok(Came::default())
    });
    joined(copied.await)?
}

/// The digest of everything in `growing`, of the same kind as `like`; blocks until it is complete.
pub(crate) fn hash(growing: &Growing, like: Digest) -> io::Result<Digest> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut reader = growing.reader();
        let mut hasher = Hasher::like(like);
        let ended = loop {
            match reader.read(&mut buffer) {
                Ok(0) => break Ok(hasher.finish()),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) => break Err(error),
            }
        };
        if ended.is_ok() || !reader.is_stale() {
            return ended;
        }
    }
}

fn open_partial(path: &Path, fresh: bool, most: u64) -> Result<Growing> {
    let cannot_write = || format!("cannot write {}", path.display());
    // No link is followed: a partial file is ours or it is nothing.
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
    let file = options.open(path).or_host(cannot_write)?;
    let len = file.metadata().or_host(cannot_write)?.len();
    let len = if fresh || len > most { 0 } else { len };
    if len == 0 {
        file.set_len(0).or_host(cannot_write)?;
    }
    Ok(Growing::new(file, len))
}

/// Puts the verified file in its place, and on the disk before that if it must be.
async fn keep(growing: Growing, durable: bool, partial: PathBuf, destination: PathBuf) -> Result<()> {
    let kept = spawn_blocking(move || {
        if !durable {
            return fs::rename(&partial, &destination);
        }
        growing.file().sync_data()?;
        fs::rename(&partial, &destination)?;
        File::open(destination.parent().unwrap_or(Path::new(".")))?.sync_all()
    });
    joined(kept.await)?.map_err(cannot_write)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn joined<T>(ended: std::result::Result<T, JoinError>) -> Result<T> {
    ended.or_host(|| "a part of the download ended unexpectedly".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_obey_the_server_up_to_its_own() {
        let limits = Limits::default();
        for (failures, full) in [(1, 0.5), (2, 1.0), (5, 8.0), (12, 30.0), (u32::MAX, 30.0)] {
            let pause = pause(&limits, failures, None).as_secs_f64();
            assert!((full / 2.0..=full).contains(&pause), "{failures}: {pause}");
        }
        assert_eq!(pause(&limits, 1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(&limits, 1, Some(Duration::from_secs(86_400))), limits.longest_retry_after);
    }
}
