//! Certificates between agents and builder: an authority of one's own, a server's certificate for the builder's names, a
//! client's for the agents. PURE but for randomness: names and times in, PEM out. Keys are shown nowhere. What signs says how
//! long what it signs may hold; `trust` says who is believed while one authority takes over from another.

mod trust;

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;

use crate::error::{Context as _, Error, Result};
use crate::release::Sha256;

pub use trust::{Fault, Trusted};

/// How far clocks may differ: a certificate holds from a little before it was made.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Characters that a common name may have (RFC 5280, ub-common-name).
const COMMON_NAME: usize = 64;

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

    /// What is wrong with the two of them; `None` if the key is the certificate's.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        let Ok((_, pem)) = parse_x509_pem(self.certificate.as_bytes()) else { return Some(Fault::Unreadable) };
        let Ok(certificate) = pem.parse_x509() else { return Some(Fault::Unreadable) };
        let Ok(key) = KeyPair::from_pem(&self.key) else { return Some(Fault::UnreadableKey) };
        let its_own = *certificate.public_key().subject_public_key.data == *key.public_key_raw();
        (!its_own).then_some(Fault::OtherKey)
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
    /// Who it is, as what it signs says: the identifier of its key, or else its whole name.
    #[serde(skip)]
    itself: Identity,
    /// Who signed it, said in the same way.
    #[serde(skip)]
    signer: Identity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    key: Option<Vec<u8>>,
    name: Vec<u8>,
}

impl Described {
    /// Whole days that are left; none once it has ended.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> i64 {
        days_until(self.not_after, now)
    }

    /// Whether that authority signed it, by what both say of themselves. Two authorities may have one name: then their
    /// keys decide.
    fn says_it_is_of(&self, authority: &Self) -> bool {
        match (&self.signer.key, &authority.itself.key) {
            (Some(signer), Some(authority)) => signer == authority,
            _ => self.signer.name == authority.itself.name,
        }
    }
}

/// Whole days until `end`; none once it is over.
#[must_use]
pub fn days_until(end: Timestamp, now: Timestamp) -> i64 {
    ((end.as_second() - now.as_second()) / 86_400).max(0)
}

/// An authority that signs servers and clients, and no other authority.
///
/// # Errors
/// Exit 2 for what cannot be a name, exit 4 when the system has no randomness.
pub fn authority(name: &str, days: u32, now: Timestamp) -> Result<Pair> {
    if name.trim().is_empty() || name.chars().count() > COMMON_NAME || name.chars().any(char::is_control) {
        return Err(Error::usage(format!("`{}` cannot be the name of an authority", name.escape_debug()))
            .with_hint(format!("one line of 1 to {COMMON_NAME} characters")));
    }
    let mut params = params(name, end(days, now), now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = new_key()?;
    let made = params.self_signed(&key).or_host(cannot)?;
    Ok(Pair { certificate: made.pem(), key: key.serialize_pem() })
}

/// The builder's certificate for `names`: host names, `*.` before one, and addresses. It ends with its authority, if
/// `days` are more.
///
/// # Errors
/// Exit 2 for what is no name, or an authority that cannot sign or has ended.
pub fn server(authority: &Pair, names: &[String], days: u32, now: Timestamp) -> Result<Pair> {
    if names.is_empty() {
        return Err(Error::usage("a builder's certificate needs a name"));
    }
    // Its names are those below; this one is for people, and may not be as long as a host's.
    let fits = names.iter().find(|name| name.len() <= COMMON_NAME);
    let mut params = params(fits.map_or("builder", String::as_str), end_below(authority, days, now)?, now);
    params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(authority, params)
}

/// The agents' certificate. It ends with its authority, if `days` are more.
///
/// # Errors
/// Exit 2 for an authority that cannot sign or has ended.
pub fn client(authority: &Pair, name: &str, days: u32, now: Timestamp) -> Result<Pair> {
    let mut params = params(name, end_below(authority, days, now)?, now);
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
        itself: Identity { key: own_key(&certificate), name: certificate.subject().as_raw().to_vec() },
        signer: Identity { key: signers_key(&certificate), name: certificate.issuer().as_raw().to_vec() },
    })
}

/// The identifiers of keys (RFC 5280, 4.2.1.1 and 4.2.1.2).
fn own_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
        _ => None,
    })
}

fn signers_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
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
    // No name ends in a number (RFC 3696): it is an address that was mistyped.
    let number = plain.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    let fits = plain.len() <= 253 && plain.split('.').all(label) && !number;
    match name.try_into() {
        Ok(text) if fits => Ok(SanType::DnsName(text)),
        _ => Err(Error::usage(format!("`{}` is no host name and no address", name.escape_debug()))
            .with_hint("builder.ci.internal, 10.0.1.7")),
    }
}

fn params(name: &str, until: Timestamp, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let since = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since(now - SKEW);
    params.not_after = epoch + since(until);
    params
}

/// When what holds for `days` from now on is over.
#[must_use]
pub fn end(days: u32, now: Timestamp) -> Timestamp {
    now + DAY * i32::try_from(days).unwrap_or(i32::MAX / 100_000)
}

/// The same for what `authority` signs: nobody accepts it any longer than its authority.
///
/// Also where an authority is refused that cannot sign. One with another's key would sign without a word, and what was good
/// before would be replaced by what nobody accepts.
fn end_below(authority: &Pair, days: u32, now: Timestamp) -> Result<Timestamp> {
    let described = describe(&authority.certificate).or_usage(unusable)?;
    if let Some(fault) = authority.fault() {
        return Err(Error::usage(format!("{}: {fault}", unusable())));
    }
    if described.not_after <= now {
        return Err(Error::usage(format!("{}: {}", unusable(), Fault::Ended)));
    }
    Ok(end(days, now).min(described.not_after))
}

fn signed(authority: &Pair, params: CertificateParams) -> Result<Pair> {
    let key = KeyPair::from_pem(&authority.key).or_usage(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key).or_usage(unusable)?;
    let key = new_key()?;
    let made = params.signed_by(&key, &issuer).or_host(cannot)?;
    Ok(Pair { certificate: made.pem(), key: key.serialize_pem() })
}

fn unusable() -> String {
    "the authority cannot sign".to_owned()
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).or_host(cannot)
}

fn cannot() -> String {
    "cannot make a certificate".to_owned()
}

#[cfg(test)]
mod tests;
