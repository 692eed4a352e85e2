//! A release server that misbehaves as it is told, and the tarballs it serves.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amibake::bake::{Event, Reporter, Sink};
use amibake::download::Limits;
use amibake::release::{Arch, Lock, Mirror, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const FILE: &str = "v0.31.2/buildkit-v0.31.2.linux-amd64.tar.gz";

/// What happens on a connection after a request was read.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends a byte each time.
    Drip(Vec<u8>, Duration),
    /// Sends nothing until the client hangs up.
    Stall,
    /// Breaks the connection with a reset.
    Reset,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub target: String,
    head: String,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Offset of `Range: bytes=N-`, 0 without one.
    pub fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |from| from.parse().unwrap())
    }
}

/// Plays its script, one entry a request; after the last it goes on with what `then` says.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Then = Arc<dyn Fn(&Seen) -> Vec<Act> + Send + Sync>;

impl Server {
    pub async fn start(script: Vec<Vec<Act>>, then: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start_wrapped(script, then, |stream| async move { Some(stream) }).await
    }

    /// With something between TCP and HTTP, such as TLS.
    pub async fn start_wrapped<S, F>(
        script: Vec<Vec<Act>>,
        then: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + Closing + 'static,
        F: Future<Output = Option<S>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, then, wrap): (_, Then, _) =
            (Arc::new(Mutex::new(VecDeque::from(script))), Arc::new(then), Arc::new(wrap));
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, then, log, wrap) = (script.clone(), then.clone(), log.clone(), wrap.clone());
                tokio::spawn(async move {
                    let Some(mut stream) = wrap(stream).await else { return };
                    // One request a connection.
                    let Some(request) = read_request(&mut stream).await else { return };
                    log.lock().unwrap().push(request.clone());
                    let acts = script.lock().unwrap().pop_front().unwrap_or_else(|| then(&request));
                    play(stream, acts).await;
                });
            }
        });
        Self { address, seen }
    }

    pub fn mirror(&self) -> Mirror {
        format!("http://{}", self.address).parse().unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// A stream that can be reset.
pub trait Closing {
    fn reset(self);
}

impl Closing for TcpStream {
    fn reset(self) {
        self.set_zero_linger().unwrap();
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    Some(Seen { target, head })
}

async fn play<S: AsyncRead + AsyncWrite + Unpin + Closing>(mut stream: S, acts: Vec<Act>) {
    for act in acts {
        let ended = match act {
            Act::Send(bytes) => stream.write_all(&bytes).await,
            Act::Drip(bytes, every) => {
                let mut clock = tokio::time::interval(every);
                let mut sent = Ok(());
                for byte in bytes {
                    clock.tick().await;
                    sent = stream.write_all(&[byte]).await;
                    if sent.is_err() {
                        break;
                    }
                }
                sent
            }
            Act::Stall => stream.read(&mut [0]).await.map(drop),
            Act::Reset => {
                let _ = stream.flush().await;
                return stream.reset();
            }
        };
        if ended.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// A status line and headers.
pub fn head(status: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    (text + "\r\n").into_bytes()
}

/// A whole response.
pub fn status(status: &str, headers: &[(&str, &str)]) -> Vec<Act> {
    let headers: Vec<_> = headers.iter().copied().chain([("content-length", "0")]).collect();
    vec![Act::Send(head(status, &headers))]
}

/// The head of `200 OK` for all of `body`, with `bytes` of it after it.
pub fn begun(body: &[u8], bytes: usize, headers: &[(&str, &str)]) -> Act {
    let length = body.len().to_string();
    let headers: Vec<_> = headers.iter().copied().chain([("content-length", length.as_str())]).collect();
    Act::Send([head("200 OK", &headers), body[..bytes].to_vec()].concat())
}

/// What a good server answers, ranges included.
pub fn good(body: &[u8]) -> impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static {
    let body = body.to_vec();
    move |request| {
        let from = request.from();
        if from == 0 {
            return vec![begun(&body, body.len(), &[("etag", "\"1\"")])];
        }
        if from >= body.len() {
            let range = format!("bytes */{}", body.len());
            return status("416 Range Not Satisfiable", &[("content-range", &range)]);
        }
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        let length = (body.len() - from).to_string();
        let head = head("206 Partial Content", &[("content-range", &range), ("content-length", &length)]);
        vec![Act::Send([head, body[from..].to_vec()].concat())]
    }
}

/// Every event, for looking at afterwards.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    pub fn new() -> (Arc<Self>, Reporter) {
        let recorder = Arc::new(Self::default());
        (recorder.clone(), Reporter::new("test", vec![recorder]))
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Whether a note or warning has these words.
    pub fn told(&self, words: &str) -> bool {
        self.events().iter().any(|event| match event {
            Event::Note { text } | Event::Warning { text } => text.contains(words),
            _ => false,
        })
    }
}

impl Sink for Recorder {
    fn event(&self, _: &str, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// Bytes that do not compress, the same each time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A tarball with the folder `bin/` and these files.
pub fn tarball(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, data) in members {
        let mut header = tar::Header::new_gnu();
        // Set as bytes: a name that a builder would refuse is what some tests want.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, *data).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A release like a real one, in small.
pub fn release() -> Vec<u8> {
    tarball(&[("bin/buildctl", &noise(300_000)), ("bin/buildkitd", &noise(700_000))])
}

/// A lock that pins `body` for amd64.
pub fn lock(body: &[u8]) -> Lock {
    let text = format!(
        "schema = 1\nversion = \"v0.31.2\"\n[artifact.\"linux/amd64\"]\nurl = \"https://releases.invalid/{FILE}\"\nsha256 = \"{}\"\n",
        Sha256::of(body)
    );
    Lock::parse(&text, Path::new("test.lock")).unwrap()
}

/// Short enough for tests, long enough for a busy machine.
pub fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        idle: Duration::from_millis(300),
        least: 4096,
        overall: Duration::from_secs(20),
        attempts: 4,
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(50),
        longest_retry_after: Duration::from_millis(400),
        size: 4 << 20,
    }
}

/// The names of all files below `folder`.
pub fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The architecture all of these are for.
pub const ARCH: Arch = Arch::Amd64;
