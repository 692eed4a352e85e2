//! Which certificate authorities are trusted: `SSL_CERT_FILE` and `SSL_CERT_DIR` if set, and then nothing else, as
//! OpenSSL and curl do it; else the system's store. A bundle that was named and cannot be used is an error: to go on
//! with other authorities than the user asked for would be wrong either way.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::error::{Context, Error, Result};

const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

/// A TLS client that trusts whom the environment names.
///
/// # Errors
/// Exit 4, naming the file or folder, when a bundle cannot be read or holds no certificate.
pub(super) fn trusting() -> Result<ClientConfig> {
    let named = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let (file, dirs) = (named(FILE), named(DIR));
    if file.is_none() && dirs.is_none() {
        // One unreadable file in a system's folder of hundreds is no reason to refuse.
        return config(rustls_native_certs::load_native_certs().certs, "the system's certificate store");
    }
    let mut certificates = Vec::new();
    let mut load = |variable: &str, file: Option<&Path>, dir: Option<&Path>| {
        let loaded = rustls_native_certs::load_certs_from_paths(file, dir);
        let place = file.or(dir).unwrap_or(Path::new("")).display();
        if let Some(error) = loaded.errors.into_iter().next() {
            let message = format!("cannot read the certificates that {variable} names: {place}");
            return Err(Error::host(message).with_source(error).with_hint(hint()));
        }
        if file.is_some() && loaded.certs.is_empty() {
            let message = format!("{place}, which {variable} names, holds no certificate in PEM form");
            return Err(Error::host(message).with_hint(hint()));
        }
        certificates.extend(loaded.certs);
        Ok(())
    };
    if let Some(file) = &file {
        load(FILE, Some(Path::new(file)), None)?;
    }
    for dir in dirs.iter().flat_map(std::env::split_paths).filter(|dir| !dir.as_os_str().is_empty()) {
        load(DIR, None, Some(&dir))?;
    }
    let source = match (&file, &dirs) {
        (Some(file), _) => format!("{FILE}={}", Path::new(file).display()),
        (None, Some(dirs)) => format!("{DIR}={}", Path::new(dirs).display()),
        (None, None) => String::new(),
    };
    config(certificates, &source)
}

/// A TLS client that trusts nobody, for connections that need none.
pub(super) fn trusting_nobody() -> Result<ClientConfig> {
    with_roots(RootCertStore::empty())
}

fn config(certificates: Vec<rustls::pki_types::CertificateDer<'static>>, source: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(Error::host(format!("no usable certificate in {source}")).with_hint(hint()));
    }
    with_roots(roots)
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .or_host(|| "cannot set TLS up".into())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // One large file over one connection: HTTP/2 would add a second flow control and nothing else.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn hint() -> String {
    format!("install the system's CA certificates, or point {FILE} at a PEM bundle")
}
