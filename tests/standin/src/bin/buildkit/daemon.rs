//! The stand-in `buildkitd`: takes the real one's flags and configuration, holds its state folder, listens where it is
//! told and answers the part of the API that shows a daemon to be up. A `Solve` takes the seconds it is asked to and is
//! cancelled by SIGTERM, as a real build is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use amibake_standin::api;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Flags of the real daemon that take a value. Read from `cmd/buildkitd/main*.go` at v0.31.2.
const VALUED: &[&str] = &[
    "--config",
    "--root",
    "--addr",
    "--log-format",
    "--log-level",
    "--group",
    "--debugaddr",
    "--tlscert",
    "--tlskey",
    "--tlscacert",
    "--allow-insecure-entitlement",
    "--otel-socket-path",
    "--cdi-spec-dir",
    "--oci-worker-net",
    "--oci-worker-labels",
    "--oci-worker-snapshotter",
    "--oci-worker-platform",
    "--oci-worker-gc-keepstorage",
    "--oci-worker-binary",
    "--oci-worker-apparmor-profile",
    "--oci-cni-config-path",
    "--oci-cni-binary-dir",
    "--oci-cni-pool-size",
    "--oci-max-parallelism",
    "--containerd-worker-addr",
];

/// Its flags that take none, or a value after `=`.
const SWITCHES: &[&str] = &[
    "--debug",
    "--oci-worker",
    "--oci-worker-gc",
    "--oci-worker-rootless",
    "--containerd-worker",
    "--rootless",
    "--cdi-disabled",
    "--save-cache-debug",
    "--oci-worker-selinux",
    "--proxy-network",
];

/// Tables that the real configuration file has (`cmd/buildkitd/config/config.go` at v0.31.2).
const TABLES: &[&str] = &[
    "debug",
    "trace",
    "insecure-entitlements",
    "log",
    "root",
    "grpc",
    "otel",
    "cdi",
    "worker",
    "registry",
    "dns",
    "history",
    "frontend",
    "system",
    "shutdown",
    "provenanceEnvDir",
    "cacheCompatMode",
    "solver",
];

struct Options {
    root: PathBuf,
    addresses: Vec<String>,
    debug_address: Option<String>,
    /// What the daemon shows, and whom it lets in.
    tls: Option<ServerTlsConfig>,
}

type ServerFuture = Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>;

/// Runs until SIGTERM or SIGINT; the error is what the daemon dies of.
pub(crate) async fn run(arguments: &[String]) -> Result<(), String> {
    if arguments.iter().any(|argument| argument == "--version" || argument == "-v") {
        println!("{}", super::version_line("buildkitd"));
        return Ok(());
    }
    let options = options(arguments)?;
    log("warning", "stand-in buildkitd: not BuildKit, it builds nothing");
    let state = Arc::new(State::open(&options.root)?);
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let (stop, stopped) = watch::channel(false);

    if let Some(address) = &options.debug_address {
        tokio::spawn(serve_debug(listen(address).await?));
    }
    let mut servers = Vec::new();
    for address in &options.addresses {
        let control = Control { state: Arc::clone(&state), stopped: stopped.clone() };
        let mut until = stopped.clone();
        let until = async move {
            let _ = until.wait_for(|stop| *stop).await;
        };
        let mut server = Server::builder();
        let server: ServerFuture = if let Some(path) = address.strip_prefix("unix://") {
            let listener = listen_unix(Path::new(path))?;
            log("info", &format!("running server on {path}"));
            let incoming = UnixListenerStream::new(listener);
            Box::pin(server.add_service(control).serve_with_incoming_shutdown(incoming, until))
        } else {
            let host = address.strip_prefix("tcp://").ok_or_else(|| format!("listen {address}: no such protocol"))?;
            let listener = listen(host).await?;
            log("info", &format!("running server on {}", listener.local_addr().map_err(|error| error.to_string())?));
            if let Some(tls) = &options.tls {
                server = server.tls_config(tls.clone()).map_err(|error| format!("{error}: {error:?}"))?;
            }
            let incoming = TcpIncoming::from(listener);
            Box::pin(server.add_service(control).serve_with_incoming_shutdown(incoming, until))
        };
        servers.push(tokio::spawn(server));
    }
    notify("READY=1");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify("STOPPING=1");
    log("info", "stopping server");
    let _ = stop.send(true);
    for server in servers {
        let _ = tokio::time::timeout(Duration::from_secs(5), server).await;
    }
    let _ = std::fs::remove_file(options.root.join("buildkitd.lock"));
    Ok(())
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        if let Some(flag) = VALUED.iter().find(|known| **known == flag) {
            let value = inline.or_else(|| rest.next().cloned());
            values.entry(flag).or_default().push(value.ok_or_else(|| format!("flag needs an argument: {flag}"))?);
        } else if !SWITCHES.contains(&flag) {
            return Err(format!("flag provided but not defined: {flag}"));
        }
    }
    let config = values.get("--config").and_then(|paths| paths.last()).map(PathBuf::from);
    let config = match config.as_deref().unwrap_or(Path::new("/etc/buildkit/buildkitd.toml")) {
        path if config.is_none() && !path.exists() => toml::Table::new(),
        path => configuration(path)?,
    };
    let mut take = |flag| values.remove(flag).unwrap_or_default();
    let addresses = match take("--addr") {
        given if given.is_empty() => configured(&config, &["grpc", "address"]),
        given => given,
    };
    let tls = tls(take("--tlscacert").pop(), take("--tlscert").pop(), take("--tlskey").pop())?;
    let root = take("--root").pop().or_else(|| configured(&config, &["root"]).pop());
    let debug_address = take("--debugaddr").pop().or_else(|| configured(&config, &["grpc", "debugAddress"]).pop());
    Ok(Options {
        root: root.unwrap_or_else(|| "/var/lib/buildkit".to_owned()).into(),
        addresses: if addresses.is_empty() { vec!["tcp://127.0.0.1:1234".to_owned()] } else { addresses },
        debug_address,
        tls,
    })
}

/// As the real daemon: a certificate needs its key, and only with a CA are clients asked for theirs.
fn tls(ca: Option<String>, cert: Option<String>, key: Option<String>) -> Result<Option<ServerTlsConfig>, String> {
    let read = |path: &String| std::fs::read(path).map_err(|error| format!("open {path}: {error}"));
    let (cert, key) = match (&cert, &key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (read(cert)?, read(key)?),
        _ => return Err("you must specify key and cert file if one is specified".into()),
    };
    let config = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
    Ok(Some(match &ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(read(ca)?)),
        None => config,
    }))
}

/// The configuration file; a table that the real daemon does not know is refused, so that a misspelt one is noticed.
fn configuration(path: &Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("open {}: {error}", path.display()))?;
    let table: toml::Table = text.parse().map_err(|error| format!("failed to parse {}: {error}", path.display()))?;
    match table.keys().find(|key| !TABLES.contains(&key.as_str())) {
        Some(key) => Err(format!("failed to parse {}: unknown key {key}", path.display())),
        None => Ok(table),
    }
}

/// The strings at `path` in `config`: one, several or none.
fn configured(config: &toml::Table, path: &[&str]) -> Vec<String> {
    let mut value = config.get(path[0]);
    for key in &path[1..] {
        value = value.and_then(|value| value.get(key));
    }
    match value {
        Some(toml::Value::String(one)) => vec![one.clone()],
        Some(toml::Value::Array(many)) => many.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

async fn listen(address: &str) -> Result<TcpListener, String> {
    // Go prints and takes an empty host as every address.
    let address = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    TcpListener::bind(&address).await.map_err(|error| format!("listen tcp {address}: bind: {error}"))
}

/// For root alone; what a daemon that was killed left behind is in nobody's way.
fn listen_unix(path: &Path) -> Result<UnixListener, String> {
    let bind = || -> std::io::Result<UnixListener> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|error| format!("listen unix {}: {error}", path.display()))
}

/// Answers any request on the debug address with one line.
async fn serve_debug(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let body = "stand-in buildkitd: no metrics\n";
        let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    }
}

/// The state folder: its lock, and an id that lasts as long as the folder does, as a real worker's id.
struct State {
    worker: String,
    running: Mutex<BTreeMap<String, i64>>,
}

impl State {
    fn open(root: &Path) -> Result<Self, String> {
        let told = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        let folder = root.join("runc-overlayfs");
        std::fs::create_dir_all(&folder).map_err(|error| told(&folder, error))?;
        let lock = root.join("buildkitd.lock");
        std::fs::write(&lock, std::process::id().to_string()).map_err(|error| told(&lock, error))?;
        let file = folder.join("workerid");
        let worker = match std::fs::read_to_string(&file) {
            Ok(worker) => worker,
            Err(_) => {
                let worker = new_id().map_err(|error| told(&file, error))?;
                std::fs::write(&file, &worker).map_err(|error| told(&file, error))?;
                worker
            }
        };
        Ok(Self { worker, running: Mutex::new(BTreeMap::new()) })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, i64>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// 25 random letters and digits, the form of BuildKit's identifiers.
fn new_id() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 25];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| char::from(b"0123456789abcdefghijklmnopqrstuv"[usize::from(byte % 32)])).collect())
}

fn version() -> Option<api::BuildkitVersion> {
    Some(api::BuildkitVersion {
        package: amibake_standin::PACKAGE.into(),
        version: amibake_standin::version::own(),
        revision: amibake_standin::REVISION.into(),
    })
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// The service `moby.buildkit.v1.Control`.
#[derive(Clone)]
struct Control {
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
}

impl NamedService for Control {
    const NAME: &'static str = api::SERVICE;
}

impl Service<http::Request<Body>> for Control {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let control = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "ListWorkers" => Grpc::new(ProstCodec::default()).unary(ListWorkers(control), request).await,
                "Info" => Grpc::new(ProstCodec::default()).unary(Info, request).await,
                "Solve" => Grpc::new(ProstCodec::default()).unary(Solve(control), request).await,
                "ListenBuildHistory" => {
                    Grpc::new(ProstCodec::default()).server_streaming(ListenBuildHistory(control), request).await
                }
                other => Status::unimplemented(format!("the stand-in buildkitd has no {other}")).into_http(),
            })
        })
    }
}

struct ListWorkers(Control);

impl UnaryService<api::ListWorkersRequest> for ListWorkers {
    type Response = api::ListWorkersResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, _: Request<api::ListWorkersRequest>) -> Self::Future {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let worker = api::WorkerRecord {
            id: self.0.state.worker.clone(),
            labels: [("org.mobyproject.buildkit.worker.executor".to_owned(), "stand-in".to_owned())].into(),
            platforms: vec![api::Platform { architecture: architecture.into(), os: "linux".into() }],
            buildkit_version: version(),
        };
        Box::pin(async move { Ok(Response::new(api::ListWorkersResponse { record: vec![worker] })) })
    }
}

struct Info;

impl UnaryService<api::InfoRequest> for Info {
    type Response = api::InfoResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, _: Request<api::InfoRequest>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(api::InfoResponse { buildkit_version: version() })) })
    }
}

struct Solve(Control);

impl UnaryService<api::SolveRequest> for Solve {
    type Response = api::SolveResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<api::SolveRequest>) -> Self::Future {
        let mut control = self.0.clone();
        Box::pin(async move {
            let request = request.into_inner();
            let seconds = request.frontend_attrs.get(api::SECONDS_OPTION).and_then(|text| text.parse().ok());
            let seconds = seconds.ok_or_else(|| Status::unimplemented("the stand-in buildkitd builds nothing"))?;
            log("info", &format!("stand-in build {} for {seconds} s", request.build_ref));
            control.state.running().insert(request.build_ref.clone(), now());
            let ended = tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(seconds)) => Ok(Response::new(Default::default())),
                _ = control.stopped.wait_for(|stop| *stop) => Err(Status::unavailable("error reading from server: EOF")),
            };
            control.state.running().remove(&request.build_ref);
            ended
        })
    }
}

struct ListenBuildHistory(Control);

impl ServerStreamingService<api::BuildHistoryRequest> for ListenBuildHistory {
    type Response = api::BuildHistoryEvent;
    type ResponseStream = tokio_stream::Iter<std::vec::IntoIter<Result<api::BuildHistoryEvent, Status>>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<api::BuildHistoryRequest>) -> Self::Future {
        let running = self.0.state.running().clone();
        let follows = !request.into_inner().early_exit;
        Box::pin(async move {
            if follows {
                return Err(Status::unimplemented("the stand-in buildkitd lists histories only up to now"));
            }
            let events: Vec<_> = running
                .into_iter()
                .map(|(build_ref, seconds)| {
                    let created_at = Some(api::Timestamp { seconds, nanos: 0 });
                    let record = Some(api::BuildHistoryRecord { build_ref, created_at });
                    Ok(api::BuildHistoryEvent { kind: 0, record })
                })
                .collect();
            Ok(Response::new(tokio_stream::iter(events)))
        })
    }
}

/// Tells systemd, if it asked to be told (sd_notify(3)); an abstract socket starts with `@`.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let path = path.to_string_lossy().into_owned();
    let sent = match path.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            std::os::unix::net::SocketAddr::from_abstract_name(name)
                .and_then(|address| socket.send_to_addr(state.as_bytes(), &address))
        }
        None => socket.send_to(state.as_bytes(), &path),
    };
    if let Err(error) = sent {
        log("warning", &format!("sd_notify: {error}"));
    }
}

fn log(level: &str, message: &str) {
    eprintln!("time={} level={level} msg={message:?}", now());
}
