//! The checks of a connection, in the order in which it is made. The first that finds a cause is the last that guesses:
//! what comes after it is not looked at.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::address::{self, Address};
use super::wire::{self, Daemon, Handshake, Listener, PATIENCE, Unanswered};
use super::{Check, LITTLE, Verdict, known, lasts};
use crate::report::human_bytes;

/// The client's side of TLS, as buildctl's flags say it.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// `--tlsdir`: has ca.pem, cert.pem and key.pem.
    pub dir: Option<PathBuf>,
    /// `--tlsservername`.
    pub server_name: Option<String>,
}

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Options {
    /// What BUILDKIT_HOST says; none if it is not set.
    pub host: Option<String>,
    /// Nothing here needs to reach a daemon: that there is no address is no fault.
    pub elsewhere: bool,
    /// The client's side of TLS.
    pub client: Client,
    /// What `buildctl --version` says here, if there is a buildctl.
    pub buildctl: Option<String>,
    /// The version that the lock pins, if there is a lock.
    pub locked: Option<String>,
    /// Folders of this machine that builds write to.
    pub folders: Vec<PathBuf>,
    /// Free and all bytes of the file system that a folder is on.
    pub free: fn(&Path) -> Option<(u64, u64)>,
}

/// Looks.
pub async fn examine(options: &Options, now: Timestamp) -> Vec<Check> {
    let mut checks: Vec<Check> = options.folders.iter().filter_map(|folder| disk(folder, options.free)).collect();
    checks.push(buildctl(options));
    let mut connection = Connection { options, now, checks };
    connection.examine().await;
    connection.checks
}

fn disk(folder: &Path, free: fn(&Path) -> Option<(u64, u64)>) -> Option<Check> {
    let (free, all) = free(folder)?;
    let left = format!("{} of {} are free in {}", human_bytes(free), human_bytes(all), folder.display());
    Some(if free < LITTLE.1.min(all / LITTLE.0) {
        let hint = "remove what is not needed there: a build writes its context and its output to it";
        Check::wrong("disk", "disk-full", left, hint)
    } else {
        Check::fine("disk", left)
    })
}

fn buildctl(options: &Options) -> Check {
    match (&options.buildctl, &options.locked) {
        (None, _) => Check::skipped("buildctl", "there is none on this machine's PATH"),
        (Some(version), Some(locked)) if version != locked => Check::wrong(
            "buildctl",
            "version-mismatch",
            format!("it is {version}, the lock pins {locked}"),
            "this agent runs an older image, or another buildctl comes first on its PATH: `command -v buildctl`",
        ),
        (Some(version), _) => Check::fine("buildctl", version.clone()),
    }
}

struct Connection<'o> {
    options: &'o Options,
    now: Timestamp,
    checks: Vec<Check>,
}

impl Connection<'_> {
    async fn examine(&mut self) {
        let Some(address) = self.address() else { return };
        let daemon = match &address {
            Address::Unix { path } => self.unix(path).await,
            Address::Tcp { host, port } => self.tcp(host, *port).await,
        };
        if let Some(daemon) = daemon {
            self.versions(&daemon);
            self.workers(&daemon);
        }
    }

    /// Notes a check, and whether to go on.
    fn note(&mut self, check: Check) -> Option<()> {
        let go_on = check.verdict != Verdict::Wrong;
        self.checks.push(check);
        go_on.then_some(())
    }

    fn address(&mut self) -> Option<Address> {
        let Some(text) = &self.options.host else {
            if self.options.elsewhere {
                let why = "BUILDKIT_HOST is not set here: the connection itself is not tried";
                self.note(Check::skipped("address", why));
                return None;
            }
            let hint =
                "run this where the job runs, or name the daemon with --host; agents get it from the stack's env hook";
            self.note(Check::wrong("address", "address-missing", "BUILDKIT_HOST is not set", hint));
            return None;
        };
        match Address::parse(text) {
            Ok(address) => {
                self.note(Check::fine("address", text.clone()));
                Some(address)
            }
            Err(bad) => {
                let found = match text.trim() {
                    "" => bad.fault,
                    text => format!("{}: {}", address::without_user(text), bad.fault),
                };
                self.note(Check::wrong("address", "address-scheme", found, bad.fix));
                None
            }
        }
    }

    async fn unix(&mut self, path: &str) -> Option<Daemon> {
        match tokio::time::timeout(PATIENCE, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => {
                self.note(Check::fine("connection", "the socket answers"));
                let asked = wire::ask(stream).await;
                self.asked(asked)
            }
            Ok(Err(_)) if std::fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket()) => {
                let hint = "name the daemon's socket: unix:///run/buildkit/buildkitd.sock";
                self.note(Check::wrong("connection", "connection-refused", format!("{path} is no socket"), hint));
                None
            }
            Ok(Err(error)) => {
                let hint =
                    "start buildkitd on this machine (`systemctl status buildkit`), and check who may open the socket";
                self.note(Check::wrong("connection", "connection-refused", format!("{path}: {error}"), hint));
                None
            }
            Err(_elapsed) => {
                self.note(Check::wrong(
                    "connection",
                    "no-answer",
                    format!("{path} does not answer"),
                    "restart buildkitd",
                ));
                None
            }
        }
    }

    async fn tcp(&mut self, host: &str, port: u16) -> Option<Daemon> {
        // As buildctl does: it reads its files before it speaks to anybody.
        let certificates = self.certificates()?;
        let found = self.resolve(host, port).await?;
        let reached = self.connect(&found).await?;
        let name = self.server_name(host)?;
        let dial = || async move {
            let connect = tokio::time::timeout(PATIENCE, TcpStream::connect(reached)).await;
            connect.unwrap_or_else(|elapsed| Err(std::io::Error::from(elapsed)))
        };
        match (wire::look(dial, &name).await, certificates) {
            (Listener::Plain, None) => {
                self.note(Check::fine("protocol", "gRPC without TLS"));
                let asked = match dial().await {
                    Ok(stream) => wire::ask(stream).await,
                    Err(error) => Err(Unanswered::broke(&error)),
                };
                self.asked(asked)
            }
            (Listener::Plain, Some(_)) => {
                let found = "the daemon speaks without TLS, and there are certificates in --tlsdir";
                let hint = "leave --tlsdir out, or turn TLS on at the builder";
                self.note(Check::wrong("protocol", "daemon-is-plain", found, hint));
                None
            }
            (Listener::Tls(_), None) => {
                let hint = "give buildctl --tlsdir with ca.pem, cert.pem and key.pem, and this command too";
                self.note(Check::wrong("protocol", "daemon-wants-tls", "the daemon speaks TLS only", hint));
                None
            }
            (Listener::Tls(seen), Some(certificates)) => {
                self.note(Check::fine("protocol", "gRPC with TLS"));
                self.tls(&seen, &certificates, &name, dial).await
            }
            (Listener::Nobody(how), _) => {
                let hint = "on the builder: `systemctl status buildkitd`; a load balancer or a forwarder may hold the port open";
                let found = format!("the port is open, and no daemon is behind it: {how}");
                self.note(Check::wrong("protocol", "no-daemon", found, hint));
                None
            }
            (Listener::Other(said), _) => {
                let hint = "something else has this port: compare it with the recipe's `[buildkitd] port`";
                self.note(Check::wrong(
                    "protocol",
                    "no-daemon",
                    format!("what listens is no buildkitd: it says {said}"),
                    hint,
                ));
                None
            }
        }
    }

    async fn resolve(&mut self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let looked = tokio::time::timeout(PATIENCE * 2, tokio::net::lookup_host((host, port))).await;
        let found: Vec<SocketAddr> = match looked {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        if found.is_empty() {
            let hint = "check the name, and that its private hosted zone is joined to this machine's VPC";
            self.note(Check::wrong("name", "unknown-host", format!("{host} is not known here"), hint));
            return None;
        }
        let addresses: Vec<String> = found.iter().map(|one| one.ip().to_string()).collect();
        let is_public = |one: &SocketAddr| address::is_public(one.ip());
        let shown = match host.parse::<IpAddr>() {
            Ok(_) => "an address needs none".to_owned(),
            Err(_) => addresses.join(", "),
        };
        if found.iter().any(is_public) {
            let hint = "give the builder no public address, and let agents use its private one: whoever reaches tcp/1234 can build";
            let words = format!("{}: a public address", addresses.join(", "));
            self.note(Check::warning("name", "public-address", words, hint));
        } else {
            self.note(Check::fine("name", shown));
        }
        Some(found)
    }

    async fn connect(&mut self, found: &[SocketAddr]) -> Option<SocketAddr> {
        let mut failures = Vec::new();
        for one in found {
            match tokio::time::timeout(PATIENCE, TcpStream::connect(one)).await {
                Ok(Ok(_)) => {
                    self.note(Check::fine("connection", format!("{one} answers")));
                    return Some(*one);
                }
                Ok(Err(error)) => failures.push((one, error.to_string(), error.kind())),
                Err(_elapsed) => failures.push((
                    one,
                    format!("no answer within {} s", PATIENCE.as_secs()),
                    std::io::ErrorKind::TimedOut,
                )),
            }
        }
        let words: Vec<String> = failures.iter().map(|(one, error, _)| format!("{one}: {error}")).collect();
        let (fault, hint) = match failures.first().map(|(_, _, kind)| *kind) {
            Some(std::io::ErrorKind::ConnectionRefused) => (
                "connection-refused",
                "the machine is there, and nothing listens: on it, `systemctl status buildkitd` and `journalctl -u buildkitd`",
            ),
            Some(std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable) => (
                "no-route",
                "there is no way to that address, or nobody has it any more: use a name that follows the builder, check routes",
            ),
            _ => (
                "no-answer",
                "let the port in from the agents' security group, check the routes between the subnets, and that the builder runs",
            ),
        };
        self.note(Check::wrong("connection", fault, words.join("; "), hint));
        None
    }

    fn server_name(&mut self, host: &str) -> Option<ServerName<'static>> {
        let name = self.options.client.server_name.as_deref().unwrap_or(host).to_owned();
        match ServerName::try_from(name.clone()) {
            Ok(name) => Some(name),
            Err(_) => {
                let found = format!("{name} cannot be the name of a server");
                self.note(Check::wrong("name", "unknown-host", found, "check BUILDKIT_HOST and --tls-server-name"));
                None
            }
        }
    }

    /// An answer of the daemon's, or what stands in its way.
    fn asked(&mut self, asked: Result<Daemon, Unanswered>) -> Option<Daemon> {
        match asked {
            Ok(daemon) => {
                let version = if daemon.version.is_empty() { "older than v0.11" } else { &daemon.version };
                self.note(Check::fine("daemon", format!("buildkitd {version} answers")));
                Some(daemon)
            }
            Err(Unanswered { words, silent: true, .. }) => {
                let hint =
                    "it took the connection and hangs: on the builder, `journalctl -u buildkitd`, and how busy it is";
                self.note(Check::wrong("daemon", "no-answer", words, hint));
                None
            }
            Err(Unanswered { words: error, .. }) => {
                let check = match known::in_line(&error) {
                    Some(known) => Check::wrong("daemon", known.id, format!("{}: {error}", known.cause), known.fix),
                    None => Check::wrong(
                        "daemon",
                        "daemon-error",
                        format!("it does not answer as buildkitd does: {error}"),
                        "on the builder: `journalctl -u buildkitd`",
                    ),
                };
                self.note(check);
                None
            }
        }
    }

    /// The files in --tlsdir; an inner none without one.
    fn certificates(&mut self) -> Option<Option<Certificates>> {
        let Some(dir) = &self.options.client.dir else { return Some(None) };
        let read = Certificates::read(dir).and_then(|certificates| certificates.client().map(|_| certificates));
        match read {
            Ok(certificates) => Some(Some(certificates)),
            Err(fault) => {
                let hint = "the folder needs ca.pem, cert.pem and key.pem, readable by the job's user";
                self.note(Check::wrong("certificates", "certificate-file", fault, hint));
                None
            }
        }
    }

    async fn tls<F>(
        &mut self,
        seen: &Handshake,
        certificates: &Certificates,
        name: &ServerName<'static>,
        dial: impl Fn() -> F,
    ) -> Option<Daemon>
    where
        F: Future<Output = std::io::Result<TcpStream>>,
    {
        for (whose, certificate) in
            [("the daemon's", seen.certificates.first()), ("this client's", certificates.chain.first())]
        {
            let Some(certificate) = certificate else { continue };
            self.note(expiry(whose, certificate, self.now))?;
        }
        if !seen.http2 && seen.failed.is_none() {
            let hint = "bring builder and agent to the same BuildKit version: a buildctl since grpc-go 1.67 refuses such a daemon";
            let found = "the daemon does not offer HTTP/2 in its handshake (ALPN): it is older than buildctl";
            self.note(Check::wrong("tls", "version-skew-tls", found, hint))?;
        }
        let shaken = match (dial().await, certificates.client()) {
            (Ok(stream), Ok(config)) => shake(config, name, stream).await,
            (Err(error), _) => Err(error.to_string()),
            (_, Err(error)) => Err(error),
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err(error) => {
                self.note(untrusted(&error));
                return None;
            }
        };
        let asked = wire::ask(stream).await;
        if let Err(error) = &asked
            && refuses(error, seen)
        {
            // In TLS 1.3 a server looks at the certificate after the handshake, and under load its alert is lost.
            let (found, hint) = match refused_certificate(&error.words.replace("reset", "").replace("pipe", "")) {
                true => (
                    "the daemon refuses this client's certificate",
                    "issue a certificate for this client by the CA that the daemon trusts (--tlscacert there)",
                ),
                false => (
                    "the daemon closes the connection once it has this client's certificate: most likely it refuses it",
                    "issue one by the CA that the daemon trusts (--tlscacert there); `journalctl -u buildkitd` on the builder tells \
                     whether it was going down instead",
                ),
            };
            self.note(Check::wrong("tls", "client-certificate", found, hint));
            return None;
        }
        let daemon = self.asked(asked)?;
        self.anonymous(certificates, name, dial).await;
        Some(daemon)
    }

    /// Whether the daemon answers somebody without a certificate.
    async fn anonymous<F>(&mut self, certificates: &Certificates, name: &ServerName<'static>, dial: impl Fn() -> F)
    where
        F: Future<Output = std::io::Result<TcpStream>>,
    {
        let (Ok(config), Ok(stream)) = (certificates.nobody(), dial().await) else { return };
        let answered = match shake(config, name, stream).await {
            Ok(stream) => wire::ask(stream).await.is_ok(),
            Err(_) => false,
        };
        let check = if answered {
            let hint = "give the daemon --tlscacert: with a certificate alone it encrypts, and lets everyone in who reaches it";
            Check::wrong("tls", "lets-everyone-in", "the daemon answers a client that shows no certificate", hint)
        } else {
            Check::fine("tls", "the daemon lets in only who has a certificate of its CA")
        };
        self.note(check);
    }

    fn versions(&mut self, daemon: &Daemon) {
        if daemon.version.is_empty() {
            return;
        }
        let Options { buildctl, locked, .. } = self.options;
        let others = [("buildctl", buildctl), ("the lock", locked)];
        let others: Vec<_> = others.iter().filter_map(|(who, version)| Some((*who, version.as_ref()?))).collect();
        let sides: Vec<String> = std::iter::once(format!("buildkitd {}", daemon.version))
            .chain(others.iter().map(|(who, version)| format!("{who} {version}")))
            .collect();
        let check = if others.is_empty() {
            Check::skipped("versions", "there is neither a buildctl nor a lock here to compare with")
        } else if others.iter().all(|(_, version)| **version == daemon.version) {
            Check::fine("versions", sides.join(", "))
        } else {
            let hint =
                "bake both images from one lock, and replace the builder and the agents: what runs stays as it is";
            Check::wrong("versions", "version-mismatch", sides.join(", "), hint)
        };
        self.note(check);
    }

    fn workers(&mut self, daemon: &Daemon) {
        let mut platforms: Vec<&str> = daemon.workers.iter().flatten().map(String::as_str).collect();
        platforms.dedup();
        let check = if daemon.workers.is_empty() {
            let hint =
                "on the builder: `journalctl -u buildkitd` tells which worker was left out, and why (runc, overlayfs)";
            Check::wrong("workers", "no-worker", "the daemon has no worker: it cannot build", hint)
        } else if !platforms.iter().any(|one| one.starts_with("linux/amd64"))
            || !platforms.iter().any(|one| one.starts_with("linux/arm64"))
        {
            let hint =
                "fine for images of that architecture; for others the builder needs buildkit-qemu-* beside buildkitd";
            Check::warning("workers", "binfmt", format!("builds for {} only", platforms.join(", ")), hint)
        } else {
            Check::fine("workers", format!("{}, for {}", daemon.workers.len(), platforms.join(", ")))
        };
        self.note(check);
    }
}

/// The files of a client.
struct Certificates {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificates {
    fn read(dir: &Path) -> Result<Self, String> {
        let path = |name: &str| dir.join(name);
        let fault = |name: &str, error: &dyn std::fmt::Display| format!("{}: {error}", path(name).display());
        let read = |name: &str| -> Result<Vec<CertificateDer<'static>>, String> {
            let text = std::fs::read(path(name)).map_err(|error| fault(name, &error))?;
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
            let found = found.map_err(|error| fault(name, &error))?;
            if found.is_empty() { Err(fault(name, &"there is no certificate in it")) } else { Ok(found) }
        };
        let mut roots = RootCertStore::empty();
        for root in read("ca.pem")? {
            roots.add(root).map_err(|error| fault("ca.pem", &error))?;
        }
        let chain = read("cert.pem")?;
        // Nothing of a key is shown, whatever is wrong with it.
        let key = std::fs::read(path("key.pem")).map_err(|error| fault("key.pem", &error))?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|_| fault("key.pem", &"there is no private key in it"))?;
        Ok(Self { roots, chain, key })
    }

    fn builder(&self) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(self.roots.clone()))
    }

    fn client(&self) -> Result<ClientConfig, String> {
        let config = self.builder()?.with_client_auth_cert(self.chain.clone(), self.key.clone_key());
        config.map_err(|error| format!("cert.pem and key.pem do not go together: {error}"))
    }

    fn nobody(&self) -> Result<ClientConfig, String> {
        Ok(self.builder()?.with_no_client_auth())
    }
}

async fn shake(
    mut config: ClientConfig,
    name: &ServerName<'static>,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let shaken = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
    match tokio::time::timeout(PATIENCE, shaken).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(crate::error::in_a_line(&error)),
        Err(_elapsed) => Err("the handshake takes too long".to_owned()),
    }
}

/// What a handshake that a trusting client could not end says.
fn untrusted(error: &str) -> Check {
    let lower = error.to_lowercase();
    // Of an authority of the same name, and every `amibake certs init` uses one name, only the signature tells.
    let (fault, found, hint) = if lower.contains("unknownissuer") || lower.contains("badsignature") {
        let hint = "use the ca.pem of the CA that issued the daemon's certificate";
        ("unknown-authority", "the daemon's certificate is not of this client's CA", hint)
    } else if lower.contains("notvalidforname") || lower.contains("not valid for name") {
        let hint = "put one of the certificate's names into BUILDKIT_HOST, or say it with --tls-server-name";
        ("certificate-name", "the daemon's certificate is for another name", hint)
    } else if lower.contains("expired") || lower.contains("notvalidyet") {
        let hint = "issue a new certificate, or set this machine's clock";
        ("certificate-expired", "the daemon's certificate is not valid now", hint)
    } else if refused_certificate(error) {
        let hint = "issue a certificate for this client by the CA that the daemon trusts (--tlscacert there)";
        ("client-certificate", "the daemon refuses this client's certificate", hint)
    } else {
        ("tls-handshake", "the handshake fails", "compare the TLS files on both sides")
    };
    Check::wrong("tls", fault, format!("{found}: {error}"), hint)
}

/// Whether a daemon that did not answer took offence at the client's certificate. In TLS 1.3 a server looks at it after the
/// handshake; under load its alert comes as a closed connection. One that asked for none, or only keeps silent, did not.
fn refuses(error: &Unanswered, seen: &Handshake) -> bool {
    let asks = seen.asks || seen.failed.is_some();
    asks && !error.silent && (error.broke || refused_certificate(&error.words))
}

fn refused_certificate(error: &str) -> bool {
    let lower = error.to_lowercase().replace([' ', '_'], "");
    ["certificaterequired", "badcertificate", "unknownca", "certificateunknown", "brokenpipe", "connectionreset"]
        .iter()
        .any(|word| lower.contains(word))
}

/// How long a certificate is still good for.
fn expiry(whose: &str, certificate: &CertificateDer<'_>, now: Timestamp) -> Check {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        let hint = "issue it anew";
        return Check::wrong("certificates", "certificate-file", format!("{whose} certificate cannot be read"), hint);
    };
    let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let now = now.as_second();
    if from > now && until > now {
        let day = Timestamp::from_second(from).map_or_else(|_| "?".to_owned(), |at| at.strftime("%F").to_string());
        let found = format!("{whose} certificate is not valid before {day}");
        return Check::wrong("certificates", "certificate-expired", found, "set this machine's clock: `timedatectl`");
    }
    lasts("certificates", whose, until, now, "issue a new one, or set this machine's clock if it is wrong")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_nearly_full_below_a_gib_or_a_twentieth_of_it() {
        let verdict =
            |free: fn(&Path) -> Option<(u64, u64)>| disk(Path::new("/var/tmp"), free).map(|check| check.verdict);
        assert_eq!(verdict(|_| Some((1 << 30, 100 << 30))), Some(Verdict::Fine));
        assert_eq!(verdict(|_| Some(((1 << 30) - 1, 100 << 30))), Some(Verdict::Wrong));
        // Of a small one a twentieth is enough.
        assert_eq!(verdict(|_| Some((60 << 20, 1 << 30))), Some(Verdict::Fine));
        assert_eq!(verdict(|_| Some((40 << 20, 1 << 30))), Some(Verdict::Wrong));
        assert_eq!(verdict(|_| None), None);
    }
}
