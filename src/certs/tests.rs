use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::error::Exit;

fn now() -> Timestamp {
    Timestamp::now()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

struct Fleet {
    authority: Pair,
    server: Pair,
    client: Pair,
}

fn fleet() -> Fleet {
    let authority = authority("builders", 3650, now()).unwrap();
    let server = server(&authority, &names(&["builder.ci.internal", "10.0.1.7"]), 397, now()).unwrap();
    let client = client(&authority, "agents", 397, now()).unwrap();
    Fleet { authority, server, client }
}

fn certificate(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()
}

fn key(pair: &Pair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pair.key().as_bytes()).unwrap()
}

fn roots(authority: &Pair) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(authority)).unwrap();
    Arc::new(roots)
}

/// What a client that trusts `trusted`, shows `shown` and calls the builder `called` hears from a builder with `server`,
/// which lets in whoever `lets_in` signed.
async fn shake(
    server: &Pair,
    lets_in: &Pair,
    trusted: &Pair,
    shown: Option<&Pair>,
    called: &str,
) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(lets_in), Arc::clone(&provider)).build().unwrap();
    let accepting = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let accepting = accepting.unwrap().with_client_cert_verifier(verifier);
    let accepting = accepting.with_single_cert(vec![certificate(server)], key(server)).unwrap();
    let connecting = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connecting = connecting.with_root_certificates(roots(trusted));
    let connecting = match shown {
        Some(client) => connecting.with_client_auth_cert(vec![certificate(client)], key(client)).unwrap(),
        None => connecting.with_no_client_auth(),
    };
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(Arc::new(accepting)).accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())
    });
    let name = ServerName::try_from(called.to_owned()).unwrap();
    let heard = async {
        let mut stream = TlsConnector::from(Arc::new(connecting)).connect(name, near).await?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await?;
        Ok::<_, std::io::Error>(heard)
    };
    let heard = heard.await.map_err(|error| error.to_string());
    server.await.unwrap().and(heard)
}

#[tokio::test]
async fn agents_and_builder_shake_hands_and_nobody_else_does() {
    let ours = fleet();
    let Fleet { authority, server, client } = &ours;
    for called in ["builder.ci.internal", "10.0.1.7"] {
        assert_eq!(shake(server, authority, authority, Some(client), called).await.unwrap(), "hello");
    }
    // Another name, another authority on either side, no certificate, and one that is for servers.
    assert!(shake(server, authority, authority, Some(client), "other.internal").await.is_err());
    let theirs = fleet();
    assert!(shake(server, authority, &theirs.authority, Some(client), "10.0.1.7").await.is_err());
    assert!(shake(server, authority, authority, Some(&theirs.client), "10.0.1.7").await.is_err());
    assert!(shake(server, authority, authority, None, "10.0.1.7").await.is_err());
    assert!(shake(server, authority, authority, Some(server), "10.0.1.7").await.is_err());
    assert!(shake(client, authority, authority, Some(client), "10.0.1.7").await.is_err());
    let ended = super::client(authority, "agents", 1, now() - DAY * 3).unwrap();
    assert!(shake(server, authority, authority, Some(&ended), "10.0.1.7").await.is_err());
}

#[test]
fn a_certificate_says_what_it_is_for_and_how_long() {
    let Fleet { authority, server, client } = fleet();
    let described = describe(&server.certificate).unwrap();
    assert_eq!((described.purpose, described.names), (Purpose::Server, names(&["builder.ci.internal", "10.0.1.7"])));
    assert_eq!(describe(&authority.certificate).unwrap().purpose, Purpose::Authority);
    let described = describe(&client.certificate).unwrap();
    assert_eq!((described.purpose, described.subject.as_str()), (Purpose::Client, "agents"));
    assert_eq!(described.days_left(now() + SignedDuration::from_mins(1)), 396);
    assert_eq!(described.days_left(now() + DAY * 500), 0);
    for bad in ["", "x", client.key()] {
        assert_eq!(describe(bad).unwrap_err().exit(), Exit::Usage, "{bad}");
    }
}

#[test]
fn nothing_outlives_its_authority() {
    let authority = authority("builders", 10, now()).unwrap();
    let end = describe(&authority.certificate).unwrap().not_after;
    let server = server(&authority, &names(&["b"]), 397, now()).unwrap();
    let client = super::client(&authority, "agents", 397, now()).unwrap();
    for pair in [&server, &client] {
        assert_eq!(describe(&pair.certificate).unwrap().not_after, end);
    }
    let short = super::client(&authority, "agents", 3, now()).unwrap();
    assert!(describe(&short.certificate).unwrap().not_after < end);
    let later = end + SignedDuration::from_secs(1);
    assert_eq!(super::client(&authority, "agents", 1, later).unwrap_err().exit(), Exit::Usage);
}

#[test]
fn both_authorities_are_believed_while_one_takes_over() {
    let (old, new) = (fleet(), authority("builders", 3650, now()).unwrap());
    let trusted = Trusted::new(&new.certificate, &old.authority.certificate, now()).unwrap();
    assert_eq!(trusted.bundle(), format!("{}{}", new.certificate, old.authority.certificate));
    assert_eq!((trusted.former().count(), trusted.signing().unwrap().purpose), (1, Purpose::Authority));
    let fault = |trusted: &Trusted, pair: &Pair, now| trusted.fault(&pair.certificate, Some(pair.key()), now);
    assert_eq!(fault(&trusted, &old.server, now()), None);
    assert_eq!(fault(&trusted, &super::client(&new, "agents", 1, now()).unwrap(), now()), None);
    assert_eq!(trusted.fault(&old.server.certificate, None, now()), Some(Fault::NoKey));
    assert_eq!(trusted.fault(&old.server.certificate, Some(old.client.key()), now()), Some(Fault::OtherKey));
    assert_eq!(trusted.fault(&old.server.certificate, Some("x"), now()), Some(Fault::UnreadableKey));
    assert_eq!(trusted.fault("x", None, now()), Some(Fault::Unreadable));
    assert_eq!(fault(&trusted, &old.server, now() + DAY * 398), Some(Fault::Ended));
    // Of the same name, and of nobody who is known.
    assert_eq!(fault(&trusted, &fleet().server, now()), Some(Fault::OtherAuthority));
    let described = describe(&old.server.certificate).unwrap();
    let waits = |now| trusted.waits(&described, now);
    assert_eq!((waits(now()), waits(now() + DAY * 2), waits(now() + DAY * 396)), (true, false, false));
    let theirs = describe(&super::client(&new, "agents", 1, now()).unwrap().certificate).unwrap();
    let ending = describe(&super::client(&old.authority, "agents", 1, now()).unwrap().certificate).unwrap();
    assert!(!trusted.waits(&theirs, now()) && !trusted.waits(&ending, now()));
    // Once the old one has ended nobody believes it, nor what it signed.
    let later = now() + DAY * 3649;
    let trusted = Trusted::new(&authority("b", 1, later).unwrap().certificate, &trusted.bundle(), later).unwrap();
    assert_eq!(trusted.former().count(), 2);
    let later = later + DAY * 2;
    assert_eq!(Trusted::new(&new.certificate, &trusted.bundle(), later).unwrap().former().count(), 0);
}

#[test]
fn the_key_of_another_signs_nothing() {
    let (ours, theirs) = (fleet(), fleet());
    let mixed = Pair::of(ours.authority.certificate.clone(), theirs.authority.key().to_owned());
    assert_eq!((ours.authority.fault(), mixed.fault()), (None, Some(Fault::OtherKey)));
    assert_eq!(super::client(&mixed, "agents", 1, now()).unwrap_err().exit(), Exit::Usage);
}

#[test]
fn what_is_no_name_and_what_is_no_authority_is_refused() {
    let Fleet { authority, client, .. } = fleet();
    for bad in ["", "a b", "-a", "a..b", "tcp://b", "b:1234", "*", "é", "a.*.b"] {
        assert_eq!(server(&authority, &names(&[bad]), 1, now()).unwrap_err().exit(), Exit::Usage, "{bad}");
    }
    server(&authority, &names(&["*.ci.internal", "fd00::1"]), 1, now()).unwrap();
    assert!(server(&authority, &[], 1, now()).is_err());
    // Longer than a common name may be, and a host's name all the same.
    let long = format!("{}.internal", "b".repeat(60));
    let made = describe(&server(&authority, &names(&[&long]), 1, now()).unwrap().certificate).unwrap();
    assert_eq!((made.names, made.subject.as_str()), (vec![long], "builder"));
    for bad in ["", " ", "a\nb", &"n".repeat(65)] {
        assert_eq!(super::authority(bad, 1, now()).unwrap_err().exit(), Exit::Usage, "{bad:?}");
    }
    let broken = Pair::of(authority.certificate.clone(), "no key".to_owned());
    assert!(super::client(&broken, "agents", 1, now()).is_err());
    assert!(!format!("{client:?}").contains("PRIVATE"));
}
