//! `amibake doctor` against faults that are really there: a stand-in daemon, listeners that are none, TLS of every kind.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;

/// What `amibake doctor --json` says: exit status and checks.
fn doctor(arguments: &[&str]) -> (i32, Vec<Value>) {
    let (code, json) = run(arguments);
    (code, json["checks"].as_array().cloned().unwrap_or_default())
}

fn run(arguments: &[&str]) -> (i32, Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_amibake"))
        .args(["doctor", "--json"])
        .args(arguments)
        .current_dir(folder.path())
        .env_remove("BUILDKIT_HOST")
        // No buildctl of this machine's.
        .env("PATH", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), json.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

/// The one thing that is wrong.
fn fault(arguments: &[&str]) -> String {
    let (code, checks) = doctor(arguments);
    let wrong: Vec<_> = checks.iter().filter(|check| check["verdict"] == "wrong").collect();
    assert_eq!((code, wrong.len()), (1, 1), "{checks:#?}");
    assert!(wrong[0]["hint"].as_str().is_some_and(|hint| hint.len() > 10), "{checks:#?}");
    assert_eq!(checks.last(), wrong.first().copied(), "nothing is guessed after the first cause");
    wrong[0]["fault"].as_str().unwrap().to_owned()
}

fn host(address: SocketAddr) -> String {
    format!("tcp://{address}")
}

/// A listener on loopback that treats each connection as it is told.
fn listener(treat: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let treat = Arc::new(treat);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let treat = treat.clone();
            std::thread::spawn(move || treat(stream));
        }
    });
    address
}

#[test]
fn what_is_no_daemon() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(fault(&["--host", &host(closed)]), "connection-refused");
    // A forwarder with nobody behind it.
    assert_eq!(fault(&["--host", &host(listener(drop))]), "no-daemon");
    let web = listener(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let (_, checks) = doctor(&["--host", &host(web)]);
    assert!(checks.last().unwrap()["found"].as_str().unwrap().contains("HTTP/1.1 400 Bad Request"), "{checks:#?}");
    assert_eq!(fault(&["--host", &host(web)]), "no-daemon");
    let noise = listener(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(&[0, 1, 2, 255, 254, 253, 0, 0, 0, 0]);
    });
    let (_, checks) = doctor(&["--host", &host(noise)]);
    let found = checks.last().unwrap()["found"].as_str().unwrap();
    assert!(found.ends_with("it says the bytes 00 01 02 ff fe fd 00 00 00"), "{found}");
}

#[test]
fn what_never_answers() {
    let silent = listener(|stream| {
        // Until the other side goes.
        let _ = (&stream).read_to_end(&mut Vec::new());
    });
    assert_eq!(fault(&["--host", &host(silent)]), "no-daemon");
    // A queue of accepted connections that is full: what is sent to it gets no answer, as behind a security group.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let full = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(0).unwrap()
    });
    let address = full.local_addr().unwrap();
    let wait = std::time::Duration::from_millis(300);
    let held: Vec<_> = (0..8).filter_map(|_| TcpStream::connect_timeout(&address, wait).ok()).collect();
    assert!(held.len() < 8, "the queue is not full");
    assert_eq!(fault(&["--host", &host(address)]), "no-answer");
}

#[test]
fn addresses_that_lead_nowhere() {
    assert_eq!(fault(&[]), "address-missing");
    assert_eq!(fault(&["--host", "127.0.0.1:1234"]), "address-scheme");
    assert_eq!(fault(&["--host", "http://127.0.0.1:1234"]), "address-scheme");
    assert_eq!(fault(&["--host", "tcp://builder.invalid:1234"]), "unknown-host");
    assert_eq!(fault(&["--host", "unix:///nonexistent/buildkitd.sock"]), "connection-refused");
    assert_eq!(fault(&["--host", ""]), "address-scheme");
    assert_eq!(fault(&["--host", "tcp://bad host:1"]), "address-scheme");
    let (_, checks) = doctor(&["--host", "unix:///tmp"]);
    assert_eq!(checks.last().unwrap()["found"], "/tmp is no socket", "{checks:#?}");
    let (_, checks) = doctor(&["--host", "tcp://user:s3cretpw@127.0.0.1:1"]);
    let last = checks.last().unwrap();
    assert_eq!(
        (last["fault"].as_str(), last["hint"].as_str()),
        (Some("address-scheme"), Some("write tcp://127.0.0.1:1"))
    );
    assert!(last["found"].as_str().unwrap().contains("no user") && !format!("{checks:?}").contains("s3cretpw"));
}

/// What an HTTP/2 server begins with: an empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Begins as a daemon does, and then says nothing more, or hangs up once it was asked something.
fn begins_and(hangs_up: bool) -> SocketAddr {
    listener(move |mut stream| {
        let _ = stream.write_all(SETTINGS);
        if hangs_up {
            // The preface with what the client sets, and its question.
            while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0 && read < 100) {}
        } else {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    })
}

#[test]
fn a_daemon_that_hangs_is_not_one_that_refuses() {
    let silent = begins_and(false);
    assert_eq!(fault(&["--host", &host(silent)]), "no-answer");
    let ours = Authority::new("ours");
    let files = ours.client("client");
    let dir = files.path().to_str().unwrap();
    for clients in [None, Some(&ours)] {
        let tls = Tls { authority: &ours, name: "127.0.0.1", days: -1..90, clients, alpn: true };
        let (code, checks) = doctor(&["--host", &host(in_front_of(silent, &tls)), "--tlsdir", dir]);
        let last = checks.last().unwrap();
        assert_eq!((code, last["check"].as_str(), last["fault"].as_str()), (1, Some("daemon"), Some("no-answer")));
        assert_eq!(last["found"], "no answer within 5 s");
    }
    // It never asked for a certificate: what it hangs up on is something else.
    let everyone = Tls { authority: &ours, name: "127.0.0.1", days: -1..90, clients: None, alpn: true };
    let address = in_front_of(begins_and(true), &everyone);
    assert_eq!(fault(&["--host", &host(address), "--tlsdir", dir]), "daemon-error");
    // One that does, and does not know this client's.
    let mutual = Tls { clients: Some(&ours), ..everyone };
    let stranger = Authority::new("theirs").client("client");
    std::fs::copy(files.path().join("ca.pem"), stranger.path().join("ca.pem")).unwrap();
    let address = in_front_of(silent, &mutual);
    assert_eq!(fault(&["--host", &host(address), "--tlsdir", stranger.path().to_str().unwrap()]), "client-certificate");
}

#[test]
fn two_authorities_of_one_name() {
    let (ours, theirs) = (Authority::new("amibake builders"), Authority::new("amibake builders"));
    let tls = Tls { authority: &ours, name: "127.0.0.1", days: -1..90, clients: None, alpn: true };
    let (address, files) = (in_front_of(begins_and(false), &tls), theirs.client("client"));
    let dir = files.path().to_str().unwrap();
    assert_eq!(fault(&["--host", &host(address), "--tlsdir", dir]), "unknown-authority");
}

#[test]
fn the_clients_files_come_before_the_port() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = host(closed);
    assert_eq!(fault(&["--host", &at, "--tlsdir", "/nonexistent"]), "certificate-file");
    let (ours, other) = (Authority::new("ours").client("client"), Authority::new("ours").client("client"));
    std::fs::copy(other.path().join("key.pem"), ours.path().join("key.pem")).unwrap();
    let (_, checks) = doctor(&["--host", &at, "--tlsdir", ours.path().to_str().unwrap()]);
    let found = checks.last().unwrap()["found"].as_str().unwrap();
    assert!(found.contains("cert.pem and key.pem do not go together"), "{checks:#?}");
}

#[test]
#[ignore = "needs namespaces"]
fn a_disk_that_is_full() {
    // A user without root's rights is root in a namespace of their own.
    let namespaces =
        if rustix::process::geteuid().is_root() { &["--mount"][..] } else { &["--map-root-user", "--mount"] };
    let script = "mount -t tmpfs -o size=8m none /var/tmp && head -c 9000000 /dev/zero >/var/tmp/fill; exec \"$0\" doctor --json";
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", script, env!("CARGO_BIN_EXE_amibake")])
        .env_remove("BUILDKIT_HOST")
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["fault"] == "disk-full"), "{checks:#?}");
}

#[test]
fn a_log_is_read_instead() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("job.log");
    std::fs::write(&log, "+ buildctl build\nerror: failed to solve: exporter \"registry\" could not be found\n")
        .unwrap();
    let (code, json) = run(&["--from-log", log.to_str().unwrap()]);
    assert_eq!(
        (code, json["findings"][0]["fault"].as_str(), json["findings"][0]["line"].as_u64()),
        (1, Some("exporter"), Some(2))
    );
    assert_eq!(json["healthy"], false);
    // Nothing known is not the same as nothing wrong.
    std::fs::write(&log, "all is well\n").unwrap();
    let (code, json) = run(&["--from-log", log.to_str().unwrap()]);
    assert_eq!((code, &json["healthy"]), (0, &Value::Null));
    assert_eq!(run(&["--from-log", log.to_str().unwrap(), "--host", "tcp://b:1"]).0, 2);
}

#[test]
fn a_long_log_is_read_from_its_first_line_to_its_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.log");
    let mut log = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    writeln!(log, "connect: connection refused").unwrap();
    // Longer than what once was read of it.
    let line = [&[b'x'; (1 << 20) - 1][..], b"\n"].concat();
    for _ in 0..65 {
        log.write_all(&line).unwrap();
    }
    writeln!(log, "no space left on device").unwrap();
    log.into_inner().unwrap();
    let (code, json) = run(&["--from-log", path.to_str().unwrap()]);
    let lines: Vec<_> = json["findings"].as_array().unwrap().iter().map(|found| found["line"].as_u64()).collect();
    assert_eq!((code, lines), (1, vec![Some(1), Some(67)]));
}

/// The stand-in's buildkitd on a port of its own; ended with the test.
struct Daemon {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The version of the stand-in release that `make test` makes.
fn release() -> (PathBuf, String) {
    let mirror = std::env::var("AMIBAKE_TEST_MIRROR").expect("AMIBAKE_TEST_MIRROR is not set: run `make test`");
    let folders = std::fs::read_dir(mirror).unwrap().flatten().map(|entry| entry.path());
    let folder = folders.into_iter().find(|path| path.is_dir()).unwrap();
    let version = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let tarball = folder.read_dir().unwrap().flatten().map(|entry| entry.path()).next().unwrap();
    (tarball, version)
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let untar = Command::new("tar").arg("-xzf").arg(release().0).arg("-C").arg(folder.path()).status().unwrap();
        assert!(untar.success());
        let mut child = Command::new(folder.path().join("bin/buildkitd"))
            .args(["--addr", "tcp://127.0.0.1:0", "--root"])
            .arg(folder.path().join("state"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().split_once("running server on ").map(|(_, rest)| rest.to_owned()))
            .expect("the daemon does not listen");
        let address = address.trim_end_matches('"').trim().parse().unwrap();
        // Whoever does not read fills the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _folder: folder }
    }
}

#[test]
#[ignore = "needs the stand-in release"]
fn a_daemon_that_is_well() {
    let daemon = Daemon::start();
    let (code, checks) = doctor(&["--host", &host(daemon.address)]);
    assert_eq!(code, 0, "{checks:#?}");
    let found =
        |name: &str| checks.iter().find(|check| check["check"] == name).unwrap()["found"].as_str().unwrap().to_owned();
    assert!(found("daemon").contains(&release().1), "{checks:#?}");
    assert!(found("workers").contains("linux/"), "{checks:#?}");
    // A lock that pins another version.
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("other.lock");
    let text = std::fs::read_to_string(std::env::var("AMIBAKE_TEST_LOCK").unwrap()).unwrap();
    std::fs::write(&lock, text.replace(&release().1, "v0.13.2")).unwrap();
    let (code, checks) = doctor(&["--host", &host(daemon.address), "--lock", lock.to_str().unwrap()]);
    let wrong: Vec<_> = checks.iter().filter(|check| check["verdict"] == "wrong").collect();
    assert_eq!((code, wrong.len(), wrong[0]["fault"].as_str()), (1, 1, Some("version-mismatch")), "{checks:#?}");
    // A client that speaks TLS to it.
    let files = Authority::new("amibake test").client("client");
    assert_eq!(
        fault(&["--host", &host(daemon.address), "--tlsdir", files.path().to_str().unwrap()]),
        "daemon-is-plain"
    );
}

/// A CA of a test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, days: std::ops::Range<i64>) -> (String, CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let day =
            |day: i64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs((now + day * 86_400) as u64);
        (params.not_before, params.not_after) = (day(days.start), day(days.end));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), certificate.der().clone(), key)
    }

    /// A client's folder.
    fn client(&self, name: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (pem, _, key) = self.issue(name, -1..90);
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        write("ca.pem", &self.0.pem());
        write("cert.pem", &pem);
        write("key.pem", &key.serialize_pem());
        folder
    }
}

/// How a daemon's TLS is set up.
struct Tls<'a> {
    authority: &'a Authority,
    name: &'a str,
    days: std::ops::Range<i64>,
    /// Whose clients are let in; everyone, if none.
    clients: Option<&'a Authority>,
    /// Whether HTTP/2 is offered in the handshake.
    alpn: bool,
}

/// TLS in front of a daemon that has none, as the real one does it itself.
fn in_front_of(behind: SocketAddr, tls: &Tls<'_>) -> SocketAddr {
    let (_, certificate, key) = tls.authority.issue(tls.name, tls.days.clone());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match tls.clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    if tls.alpn {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let config = Arc::new(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
                tokio::spawn(async move {
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let Ok(mut outside) = tokio::net::TcpStream::connect(behind).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
    });
    address
}

#[test]
#[ignore = "needs the stand-in release"]
fn tls_of_every_kind() {
    let daemon = Daemon::start();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = ours.client("client");
    let dir = files.path().to_str().unwrap();
    let good = || Tls { authority: &ours, name: "127.0.0.1", days: -1..90, clients: Some(&ours), alpn: true };

    let mutual = host(in_front_of(daemon.address, &good()));
    let (code, checks) = doctor(&["--host", &mutual, "--tlsdir", dir]);
    assert_eq!(code, 0, "{checks:#?}");
    assert!(checks.iter().any(|check| check["check"] == "tls" && check["verdict"] == "fine"), "{checks:#?}");
    assert_eq!(fault(&["--host", &mutual]), "daemon-wants-tls");

    let stranger = theirs.client("stranger");
    // Trusts the right CA, and is known to the wrong one.
    std::fs::copy(files.path().join("ca.pem"), stranger.path().join("ca.pem")).unwrap();
    assert_eq!(fault(&["--host", &mutual, "--tlsdir", stranger.path().to_str().unwrap()]), "client-certificate");
    let trusting_others = theirs.client("client");
    let trusting_others = trusting_others.path().to_str().unwrap();
    assert_eq!(fault(&["--host", &mutual, "--tlsdir", trusting_others]), "unknown-authority");

    let named = host(in_front_of(daemon.address, &Tls { name: "builder.internal", ..good() }));
    assert_eq!(fault(&["--host", &named, "--tlsdir", dir]), "certificate-name");
    let (code, checks) = doctor(&["--host", &named, "--tlsdir", dir, "--tls-server-name", "builder.internal"]);
    assert_eq!(code, 0, "{checks:#?}");

    let expired = host(in_front_of(daemon.address, &Tls { days: -30..-1, ..good() }));
    assert_eq!(fault(&["--host", &expired, "--tlsdir", dir]), "certificate-expired");
    let soon = host(in_front_of(daemon.address, &Tls { days: -30..3, ..good() }));
    let (code, checks) = doctor(&["--host", &soon, "--tlsdir", dir]);
    assert_eq!(code, 0);
    assert!(checks.iter().any(|check| check["fault"] == "certificate-expires-soon"), "{checks:#?}");

    let old = host(in_front_of(daemon.address, &Tls { alpn: false, ..good() }));
    assert_eq!(fault(&["--host", &old, "--tlsdir", dir]), "version-skew-tls");

    let open = host(in_front_of(daemon.address, &Tls { clients: None, ..good() }));
    let (code, checks) = doctor(&["--host", &open, "--tlsdir", dir]);
    let wrong: Vec<_> = checks.iter().filter(|check| check["verdict"] == "wrong").collect();
    assert_eq!((code, wrong.len(), wrong[0]["fault"].as_str()), (1, 1, Some("lets-everyone-in")), "{checks:#?}");

    let incomplete = tempfile::tempdir().unwrap();
    assert_eq!(fault(&["--host", &mutual, "--tlsdir", incomplete.path().to_str().unwrap()]), "certificate-file");
    // What is in a key's file is shown to nobody.
    std::fs::write(files.path().join("key.pem"), "SECRET").unwrap();
    let (_, checks) = doctor(&["--host", &mutual, "--tlsdir", dir]);
    assert!(!format!("{checks:?}").contains("SECRET"));
    assert_eq!(checks.last().unwrap()["fault"], "certificate-file", "{checks:#?}");
}

#[test]
fn a_person_reads_marks_and_hints() {
    let output = Command::new(env!("CARGO_BIN_EXE_amibake"))
        .args(["doctor", "--host", "10.0.1.7:1234"])
        .current_dir(tempfile::tempdir().unwrap().path())
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("✗ address"), "{text}");
    assert!(text.contains("hint: write tcp://10.0.1.7:1234"), "{text}");
}
