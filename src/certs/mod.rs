//! Certificates between agents and builder: an authority of one's own, a server's certificate for the builder's names, a
//! client's for the agents. PURE but for randomness: names and times in, PEM out. Keys are shown nowhere.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::error::{Context as _, Error, Result};
use crate::release::Sha256;

/// How far clocks may differ: a certificate holds from a little before it was made.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A certificate and its key.
#[derive(Clone)]
pub struct Pair {
    /// PEM.
    pub certificate: String,
    key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Pair {
    /// As it was kept.
    #[must_use]
    pub fn of(certificate: String, key: String) -> Self {
        Self { certificate, key }
    }

    /// The key, PEM: for where it is kept, and for nothing else.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// It signs the others.
    Authority,
    /// The builder's.
    Server,
    /// The agents'.
    Client,
}

/// What is in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Described {
    /// Common name.
    pub subject: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Names and addresses of a server.
    pub names: Vec<String>,
    /// From when on it holds.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// SHA-256 of its DER.
    pub sha256: Sha256,
}

impl Described {
    /// Whole days that are left; none once it has ended.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> i64 {
        ((self.not_after.as_second() - now.as_second()) / 86_400).max(0)
    }
}

/// An authority that signs servers and clients, and no other authority.
///
/// # Errors
/// Exit 4 when the system has no randomness.
pub fn authority(name: &str, days: u32, now: Timestamp) -> Result<Pair> {
    let mut params = params(name, days, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = new_key()?;
    let made = params.self_signed(&key).or_host(cannot)?;
    Ok(Pair { certificate: made.pem(), key: key.serialize_pem() })
}

/// The builder's certificate for `names`: host names, `*.` before one, and addresses.
///
/// # Errors
/// Exit 2 for what is no name, or an authority that cannot sign.
pub fn server(authority: &Pair, names: &[String], days: u32, now: Timestamp) -> Result<Pair> {
    let [first, ..] = names else { return Err(Error::usage("a builder's certificate needs a name")) };
    let mut params = params(first, days, now);
    params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(authority, params)
}

/// The agents' certificate.
///
/// # Errors
/// Exit 2 for an authority that cannot sign.
pub fn client(authority: &Pair, name: &str, days: u32, now: Timestamp) -> Result<Pair> {
    let mut params = params(name, days, now);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signed(authority, params)
}

/// What is in a PEM file's first certificate.
///
/// # Errors
/// Exit 2 when there is none.
pub fn describe(pem: &str) -> Result<Described> {
    let none = || "it holds no certificate".to_owned();
    let (_, pem) = parse_x509_pem(pem.as_bytes()).or_usage(none)?;
    let certificate = pem.parse_x509().or_usage(none)?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).or_usage(none);
    let usage = certificate.extended_key_usage().ok().flatten().map(|usage| usage.value);
    let purpose = match usage {
        _ if certificate.is_ca() => Purpose::Authority,
        Some(usage) if usage.server_auth => Purpose::Server,
        _ => Purpose::Client,
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.map(|names| names.value.general_names.iter().filter_map(shown).collect());
    let subject = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Described {
        subject: subject.unwrap_or_default().to_owned(),
        purpose,
        names: names.unwrap_or_default(),
        not_before: time(certificate.validity().not_before)?,
        not_after: time(certificate.validity().not_after)?,
        sha256: Sha256::of(&pem.contents),
    })
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// A host name (RFC 1123), perhaps for all below it, or an address.
fn alternative(name: &str) -> Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = plain.len() <= 253 && plain.split('.').all(label);
    match name.try_into() {
        Ok(text) if fits => Ok(SanType::DnsName(text)),
        _ => Err(Error::usage(format!("`{}` is no host name and no address", crate::report::clean(name)))
            .with_hint("builder.ci.internal, 10.0.1.7")),
    }
}

fn params(name: &str, days: u32, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let since = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since(now - SKEW);
    params.not_after = epoch + since(now + DAY * i32::try_from(days).unwrap_or(i32::MAX / 100_000));
    params
}

fn signed(authority: &Pair, params: CertificateParams) -> Result<Pair> {
    let unusable = || "the authority cannot sign".to_owned();
    let key = KeyPair::from_pem(&authority.key).or_usage(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key).or_usage(unusable)?;
    let key = new_key()?;
    let made = params.signed_by(&key, &issuer).or_host(cannot)?;
    Ok(Pair { certificate: made.pem(), key: key.serialize_pem() })
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).or_host(cannot)
}

fn cannot() -> String {
    "cannot make a certificate".to_owned()
}

#[cfg(test)]
mod tests;
