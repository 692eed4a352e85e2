//! What the environment says about the network: proxies and certificate authorities. The environment belongs to a
//! process, so each case runs this test program again, as a child with an environment of its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use amibake::bake::Reporter;
use amibake::error::render;
use amibake::release::{Fetch, Lock, Mirror, Sha256};
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::release_server::*;

impl Closing for TlsStream<TcpStream> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

/// The child: fetches what its environment names.
#[tokio::test]
#[ignore = "a part of the other tests, which run it in a process of its own"]
async fn child() {
    let folder = std::env::var("TEST_FOLDER").unwrap();
    let folder = Path::new(&folder);
    let mirror: Mirror = std::env::var("TEST_MIRROR").unwrap().parse().unwrap();
    let lock = Lock::load(&folder.join("test.lock")).unwrap();
    let cache = folder.join("cache");
    let fetch = Fetch { mirror: Some(&mirror), limits: limits(), ..Fetch::new(&lock, ARCH, &cache) };
    match fetch.run(&Reporter::silent(), &CancellationToken::new()).await {
        Ok(artifact) => println!("fetched {}", artifact.sha256()),
        Err(error) => println!("exit {}\n{}", error.exit().code(), render(&error)),
    }
}

/// Runs the child with only these variables; what it prints.
async fn fetch_as_child(folder: &TempDir, mirror: &str, variables: &[(&str, &str)]) -> String {
    lock(&release()).save(&folder.path().join("test.lock")).unwrap();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["network::child", "--exact", "--ignored", "--nocapture"])
        .env_clear()
        .envs(variables.iter().copied())
        .env("TEST_FOLDER", folder.path())
        .env("TEST_MIRROR", mirror)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn fetched() -> String {
    format!("fetched {}", Sha256::of(&release()))
}

/// A certificate authority, and a server that it vouches for as `localhost`.
struct Tls {
    authority: String,
    acceptor: TlsAcceptor,
}

impl Tls {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        Self { authority: authority.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    async fn server(&self, then: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Server {
        let acceptor = self.acceptor.clone();
        Server::start_wrapped(vec![], then, move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authorities_that_the_environment_names_are_trusted_and_no_others() {
    let (tls, stranger) = (Tls::new(), Tls::new());
    let server = tls.server(good(&release())).await;
    let mirror = format!("https://localhost:{}", server.address.port());
    let folder = TempDir::new().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, other) = (file("certs/good.pem", &tls.authority), file("other.pem", &stranger.authority));
    let (empty, broken) =
        (file("empty.pem", ""), file("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"));
    let certs = folder.path().join("certs").to_str().unwrap().to_owned();

    let refused = fetch_as_child(&folder, &mirror, &[("SSL_CERT_FILE", &other)]).await;
    assert!(refused.contains("exit 4") && refused.contains("no trustworthy connection to localhost"), "{refused}");
    // Before any of it is in the cache.
    for bad in [empty.as_str(), broken.as_str(), "/nowhere/bundle.pem"] {
        let message = fetch_as_child(&folder, &mirror, &[("SSL_CERT_FILE", bad)]).await;
        assert!(message.contains("exit 4") && message.contains(bad), "{message}");
    }
    let message = fetch_as_child(&folder, &mirror, &[("SSL_CERT_DIR", "/nowhere/certs")]).await;
    assert!(message.contains("exit 4") && message.contains("/nowhere/certs"), "{message}");
    assert_eq!(server.seen().len(), 0);

    for variables in [("SSL_CERT_FILE", good.as_str()), ("SSL_CERT_DIR", certs.as_str())] {
        let message = fetch_as_child(&folder, &mirror, &[variables]).await;
        assert!(message.contains(&fetched()), "{message}");
        std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_from_https_to_http_is_not_followed_and_the_other_way_is() {
    let tls = Tls::new();
    let folder = TempDir::new().unwrap();
    let bundle = folder.path().join("ca.pem");
    std::fs::write(&bundle, &tls.authority).unwrap();
    let variables = [("SSL_CERT_FILE", bundle.to_str().unwrap())];

    let plain = Server::start(vec![], good(&release())).await;
    let target = format!("http://{}/x", plain.address);
    let secure = tls.server(move |_| status("302 Found", &[("location", &target)])).await;
    let mirror = format!("https://localhost:{}", secure.address.port());
    let message = fetch_as_child(&folder, &mirror, &variables).await;
    assert!(message.contains("exit 4") && message.contains("redirects from https to http"), "{message}");
    assert_eq!((secure.seen().len(), plain.seen().len()), (1, 0));

    let secure = tls.server(good(&release())).await;
    let target = format!("https://localhost:{}/x", secure.address.port());
    let plain = Server::start(vec![], move |_| status("301 Moved Permanently", &[("location", &target)])).await;
    let message = fetch_as_child(&folder, &format!("http://{}", plain.address), &variables).await;
    assert!(message.contains(&fetched()), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_asked_for_everything_but_what_no_proxy_names() {
    // A proxy for plain http is a server that is asked for whole URLs.
    let proxy = Server::start(vec![], good(&release())).await;
    let address = proxy.address;
    let with_password = format!("http://me:geheim@{address}");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let folder = TempDir::new().unwrap();
        let message = fetch_as_child(&folder, "http://releases.invalid/base", &[(name, &with_password)]).await;
        assert!(message.contains(&fetched()), "{name}: {message}");
        let seen = proxy.seen().pop().unwrap();
        assert_eq!(seen.target, format!("http://releases.invalid/base/{FILE}"));
        let expected = format!("Basic {}", base64::prelude::BASE64_STANDARD.encode("me:geheim"));
        assert_eq!(seen.header("proxy-authorization"), Some(expected.as_str()));
    }
    let origin = Server::start(vec![], good(&release())).await;
    let folder = TempDir::new().unwrap();
    let dead = [("HTTP_PROXY", "http://127.0.0.1:9"), ("NO_PROXY", "127.0.0.1")];
    let message = fetch_as_child(&folder, &format!("http://{}", origin.address), &dead).await;
    assert!(message.contains(&fetched()), "{message}");
    let message =
        fetch_as_child(&TempDir::new().unwrap(), "http://releases.invalid", &[("HTTP_PROXY", "htp://u:geheim@x")])
            .await;
    assert!(message.contains("HTTP_PROXY is not the address of a proxy") && !message.contains("geheim"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_goes_through_the_tunnel_of_a_proxy() {
    let tls = Tls::new();
    let origin = tls.server(good(&release())).await;
    let folder = TempDir::new().unwrap();
    let bundle = folder.path().join("ca.pem");
    std::fs::write(&bundle, &tls.authority).unwrap();
    // CONNECT: whatever name is asked for, the tunnel leads to our server.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let address = origin.address;
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            asked.send(String::from_utf8(head).unwrap()).unwrap();
            let mut server = TcpStream::connect(address).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });
    let variables = [("HTTPS_PROXY", proxy.as_str()), ("SSL_CERT_FILE", bundle.to_str().unwrap())];
    let message = fetch_as_child(&folder, "https://localhost:4433", &variables).await;
    assert!(message.contains(&fetched()), "{message}");
    assert!(requests.recv().await.unwrap().starts_with("CONNECT localhost:4433 "));
}
