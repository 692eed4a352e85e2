//! What listens at a port, and BuildKit's API over whatever it takes. The only place that speaks to a daemon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{InfoRequest, ListWorkersRequest};
use hyper_util::rt::TokioIo;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::TimeoutExpired;
use tonic::transport::{Channel, Endpoint};

use crate::error::in_a_line;

/// How long a connection, and each answer on it, may take. buildctl gives up after 5 s as well ("dial" in its client).
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What begins every HTTP/2 connection (RFC 9113, 3.4), with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Type of a SETTINGS frame, the fourth byte of what a server begins with (RFC 9113, 4.1 and 6.5).
const SETTINGS: u8 = 4;
/// First byte of a TLS record that holds an alert, and of one that holds a handshake (RFC 8446, 5.1).
const TLS_RECORDS: [u8; 2] = [21, 22];

/// What listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listener {
    /// HTTP/2 without TLS.
    Plain,
    /// TLS.
    Tls(Handshake),
    /// It takes connections and says nothing, or hangs up on whatever it is told.
    Nobody(String),
    /// Something else: how it begins.
    Other(String),
}

/// What a TLS server showed before anybody trusted it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Handshake {
    /// Its certificate and those between it and its CA.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Whether it chose HTTP/2 when it was offered (ALPN, RFC 7301).
    pub(super) http2: bool,
    /// Whether it asked for a client's certificate.
    pub(super) asks: bool,
    /// Why the handshake did not end, if it did not.
    pub(super) failed: Option<String>,
}

/// Finds out what listens behind a connection; `dial` makes another one.
pub(super) async fn look<F>(dial: impl Fn() -> F, name: &ServerName<'static>) -> Listener
where
    F: Future<Output = std::io::Result<TcpStream>>,
{
    let plain = match dial().await {
        Ok(stream) => begins(stream).await,
        Err(error) => Err(error.to_string()),
    };
    match plain.as_deref() {
        Ok([_, _, _, SETTINGS, ..]) => return Listener::Plain,
        Ok([first, ..]) if !TLS_RECORDS.contains(first) => return Listener::Other(shown(&plain.unwrap_or_default())),
        _ => {}
    }
    // A TLS server hangs up on what is no TLS, mostly without a word: so does a forwarder with nobody behind it.
    let Ok(stream) = dial().await else { return Listener::Nobody("it closes every connection".to_owned()) };
    match handshake(stream, name).await {
        Some(seen) => Listener::Tls(seen),
        None => Listener::Nobody(match plain {
            Ok(_) => "it closes the connection without a word".to_owned(),
            Err(error) => error,
        }),
    }
}

/// The first bytes that a server says to an HTTP/2 client.
async fn begins(mut stream: TcpStream) -> Result<Vec<u8>, String> {
    let exchange = async {
        stream.write_all(PREFACE).await?;
        let mut first = vec![0; 64];
        let mut length = 0;
        // A frame's head is nine bytes; a line of another protocol is shorter at times.
        while length < 9 {
            match stream.read(&mut first[length..]).await? {
                0 => break,
                read => length += read,
            }
        }
        first.truncate(length);
        Ok::<_, std::io::Error>(first)
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(first)) => Ok(first),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("it says nothing within {} s", PATIENCE.as_secs())),
    }
}

/// Shakes hands with whoever it is, only to see who it is: nothing is sent afterwards. None if it is no TLS server.
async fn handshake(stream: TcpStream, name: &ServerName<'static>) -> Option<Handshake> {
    let seen = Arc::new(Seen::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let config = config.dangerous().with_custom_certificate_verifier(seen.clone());
    let mut config = config.with_client_cert_resolver(seen.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let shaken = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
    let mut handshake = Handshake::default();
    match tokio::time::timeout(PATIENCE, shaken).await {
        Ok(Ok(stream)) => handshake.http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        Ok(Err(error)) => {
            // An alert is a TLS server's; anything else came from something that is none.
            let alert = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            match alert {
                Some(rustls::Error::AlertReceived(alert)) => handshake.failed = Some(format!("{alert:?}")),
                _ if seen.chain().is_empty() => return None,
                _ => handshake.failed = Some(error.to_string()),
            }
        }
        Err(_elapsed) => return None,
    }
    handshake.certificates = seen.chain();
    handshake.asks = seen.asked.load(Ordering::Relaxed);
    Some(handshake)
}

/// Takes every certificate, and remembers it; shows none, and remembers whether it was asked for one.
#[derive(Debug, Default)]
struct Seen {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    asked: AtomicBool,
}

impl Seen {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end).chain(between).map(|one| one.clone().into_owned()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Seen {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A daemon as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Daemon {
    /// `v0.31.2`; empty if it does not say.
    pub(super) version: String,
    /// One entry for each worker: the platforms it builds for.
    pub(super) workers: Vec<Vec<String>>,
}

/// Why a daemon did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// With its causes, on one line.
    pub(super) words: String,
    /// The connection broke: nobody answered at all.
    pub(super) broke: bool,
    /// The connection holds, and no answer came in time.
    pub(super) silent: bool,
}

impl Unanswered {
    pub(super) fn broke(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { words: in_a_line(error), broke: true, silent: false }
    }

    /// A status that the daemon sent has no cause on this side.
    fn status(status: &tonic::Status) -> Self {
        let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
        // With the type: the words of a status may be the daemon's own.
        if causes.into_iter().any(|cause| cause.is::<TimeoutExpired>()) {
            let words = format!("no answer within {} s", PATIENCE.as_secs());
            return Self { words, broke: false, silent: true };
        }
        Self { words: in_a_line(status), broke: std::error::Error::source(status).is_some(), silent: false }
    }
}

/// Asks the daemon at the other end of `stream`.
///
/// # Errors
/// What went wrong.
pub(super) async fn ask(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Daemon, Unanswered> {
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connect = tower::service_fn(move |_| {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(taken.ok_or_else(|| std::io::Error::other("the connection broke")))
    });
    // The name is for nobody: the connection is there.
    let endpoint = Endpoint::from_static("http://buildkitd").timeout(PATIENCE);
    let channel = endpoint.connect_with_connector(connect).await.map_err(|error| Unanswered::broke(&error))?;
    let mut client = ControlClient::<Channel>::new(channel);
    let version = match client.info(InfoRequest {}).await {
        Ok(info) => info.into_inner().buildkit_version.map(|version| version.version).unwrap_or_default(),
        // Before v0.11 there was no such call.
        Err(status) if status.code() == tonic::Code::Unimplemented => String::new(),
        Err(status) => return Err(Unanswered::status(&status)),
    };
    let workers = client.list_workers(ListWorkersRequest { filter: Vec::new() }).await;
    let workers = workers.map_err(|status| Unanswered::status(&status))?.into_inner().record;
    let platform = |platform: bollard_buildkit_proto::pb::Platform| {
        let variant = if platform.variant.is_empty() { String::new() } else { format!("/{}", platform.variant) };
        format!("{}/{}{variant}", platform.os, platform.architecture)
    };
    let workers = workers.into_iter().map(|worker| worker.platforms.into_iter().map(platform).collect()).collect();
    Ok(Daemon { version, workers })
}

/// The beginning of an answer, fit for a terminal.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = crate::report::clean(text.lines().next().unwrap_or_default());
    if text.chars().any(|char| char.is_ascii_alphanumeric()) {
        return format!("`{text}`");
    }
    let bytes: Vec<String> = bytes.iter().take(9).map(|byte| format!("{byte:02x}")).collect();
    format!("the bytes {}", bytes.join(" "))
}
