//! A release's Sigstore bundle: is it whole and genuine, and does it say what BuildKit's releases must say?
//!
//! `sigstore-verify` checks the cryptography, offline: certificate chain and its log's promise, time stamp, inclusion in
//! the transparency log, signature, and that log entry and bundle are about the same. It matches identities only as a
//! whole, and looks at neither the names of subjects nor the types of statement and predicate: that is done here.

use jiff::Timestamp;
use serde::Serialize;
use sigstore_verify::bundle::ValidationOptions;
use sigstore_verify::crypto::CertificateInfo;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Bundle, MediaType, Sha256Hash, SignatureContent};
use sigstore_verify::{SubjectAltName, VerificationPolicy, VerificationResult, Verifier, trust_root};

use super::statement::{SLSA_V0_2, SLSA_V1, Statement, TYPES};
use super::{Check, DO_NOT_USE, Outcome, unreadable};
use crate::config::FILE;
use crate::error::{Context as _, Error, Result};
use crate::release::{Sha256, Version};

/// Who vouches for the workload's identity.
const ISSUER: &str = "https://token.actions.githubusercontent.com";
/// The workflow that builds and signs BuildKit's releases, and the one that did for v0.27.
const WORKFLOW: &str = "https://github.com/docker/github-builder/.github/workflows/bake.yml@";
const EARLY_WORKFLOW: &str = "https://github.com/docker/github-builder-experimental/.github/workflows/bake.yml@";
const REPOSITORY: &str = "https://github.com/moby/buildkit";
const RUNNER: &str = "github-hosted";
const PAYLOAD: &str = "application/vnd.in-toto+json";

/// What a signature says: the lock's particulars of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// The certificate's identity: workflow and where its text is from.
    pub identity: String,
    /// The commit of the workflow.
    pub builder_commit: String,
    /// Where the signature is in the transparency log.
    pub log_index: u64,
    /// When it was made, by the time-stamp authority.
    pub signed_at: Timestamp,
}

/// Whom signatures are believed from: certificate authorities, logs and time-stamp authorities.
pub struct TrustedRoot {
    verifier: Verifier,
    newest: Option<Timestamp>,
    name: String,
}

impl TrustedRoot {
    /// Sigstore's public one, as it is in this program.
    ///
    /// # Errors
    /// Never in a program that passed its tests.
    pub fn embedded() -> Result<Self> {
        Self::parse(trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT, "Sigstore's public one")
    }

    /// The one in `path`.
    ///
    /// # Errors
    /// Exit 2 when it is none.
    pub fn load(path: &std::path::Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).or_usage(|| format!("cannot read the trusted root {}", path.display()));
        Self::parse(&text?, &path.display().to_string())
    }

    fn parse(json: &str, name: &str) -> Result<Self> {
        let unusable = || format!("{name} is no trusted root");
        let hint = "it is a `trusted_root.json` as Sigstore's TUF repository has it";
        let root =
            trust_root::TrustedRoot::from_json(json).or_usage(unusable).map_err(|error| error.with_hint(hint))?;
        if root.certificate_authorities.is_empty() || root.tlogs.is_empty() || root.timestamp_authorities.is_empty() {
            let missing = "it needs certificate authorities, transparency logs and time-stamp authorities";
            return Err(Error::usage(unusable()).with_hint(missing));
        }
        let windows = root.certificate_authorities.iter().map(|authority| authority.valid_for);
        let windows = windows.chain(root.tlogs.iter().map(|log| log.public_key.valid_for));
        let windows = windows.chain(root.timestamp_authorities.iter().map(|authority| authority.valid_for));
        let newest = windows.flatten().map(|window| window.start.as_second()).max();
        let verifier = Verifier::new(&root).or_usage(unusable)?;
        Ok(Self { verifier, newest: newest.and_then(|at| Timestamp::from_second(at).ok()), name: name.to_owned() })
    }

    /// When its newest authority or log began: the only date that a trusted root has.
    #[must_use]
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// What a person calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Adds what was looked at to `checks`; the digest and particulars if nothing was refused.
pub(super) fn check(
    bytes: &[u8],
    version: Version,
    file: &str,
    root: &TrustedRoot,
    checks: &mut Vec<Check>,
) -> Option<(Sha256, Signed)> {
    let refused = |what, found: String| Check::new(what, Outcome::Refused, found);
    let bundle = match parse(bytes) {
        Ok(bundle) => bundle,
        Err(reason) => {
            checks.push(unreadable("sigstore bundle", bytes, reason));
            return None;
        }
    };
    let statement = match statement(&bundle) {
        Ok(statement) => statement,
        Err(reason) => {
            checks.push(refused("signed statement", reason));
            return None;
        }
    };
    let digest = match statement.digest_of(file) {
        Ok(digest) => digest,
        Err(reason) => {
            checks.push(refused("signed subject", reason));
            return None;
        }
    };
    let result = match genuine(&bundle, digest, root) {
        Ok(result) => result,
        Err(error) => {
            checks.push(not_genuine(root, &error));
            return None;
        }
    };
    let (Some(certificate), Some(SubjectAltName::Uri(identity))) = (result.certificate(), result.identity()) else {
        checks.push(refused("identity", "the certificate names no workflow".to_owned()));
        return None;
    };
    let before = checks.len();
    checks.push(Check::new("sigstore bundle", Outcome::Holds, format!("genuine by the trusted root ({})", root.name)));
    checks.extend(claims(version, identity, result.issuer(), certificate));
    checks.extend(types(version, &statement));
    checks.push(Check::new("signed subject", Outcome::Holds, format!("`{file}`, sha256:{digest}")));
    if checks[before..].iter().any(|check| check.outcome == Outcome::Refused) {
        return None;
    }
    let entry = bundle.verification_material.tlog_entries.first()?;
    let signed_at = result.verified_timestamps().first()?.as_second();
    let signed = Signed {
        identity: identity.clone(),
        builder_commit: certificate.ci_claims.build_signer_digest.clone().unwrap_or_default(),
        log_index: entry.log_index.get(),
        signed_at: Timestamp::from_second(signed_at).ok()?,
    };
    Some((digest, signed))
}

/// A bundle that does not hold. The library does not tell a forged one from one of another Sigstore.
fn not_genuine(root: &TrustedRoot, error: &(dyn std::error::Error + 'static)) -> Check {
    let found = format!("not genuine by the trusted root ({}): {}", root.name, chain(error));
    let hint = format!(
        "believed was {}; a release that another Sigstore signed needs its root: --trusted-root FILE, or `[trust] trusted_root` \
         in {FILE}\n{DO_NOT_USE}",
        root.name
    );
    Check { hint: Some(hint), ..Check::new("sigstore bundle", Outcome::Refused, found) }
}

/// What a release's bundle must consist of, before anything in it is believed.
fn parse(bytes: &[u8]) -> std::result::Result<Bundle, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let bundle = Bundle::from_json(text).map_err(|error| format!("no bundle: {error}"))?;
    if bundle.media_type() != MediaType::Bundle0_3 {
        return Err(format!("is of type `{}`, expected `{}`", bundle.media_type(), MediaType::Bundle0_3));
    }
    let material = &bundle.verification_material;
    if !matches!(material.content, VerificationMaterialContent::Certificate(_)) {
        return Err("is not signed by one certificate's key".to_owned());
    }
    if material.tlog_entries.len() != 1 {
        return Err(format!("has {} entries of a transparency log, expected one", material.tlog_entries.len()));
    }
    // The crate is content with the log's own word for the time.
    if material.timestamp_verification_data.rfc3161_timestamps.is_empty() {
        return Err("has no time stamp (RFC 3161)".to_owned());
    }
    let options = ValidationOptions::new().with_require_inclusion_proof(true).with_require_timestamp(true);
    let sound = sigstore_verify::bundle::validate_bundle_with_options(&bundle, &options);
    sound.map_err(|error| format!("is not whole: {error}"))?;
    Ok(bundle)
}

fn statement(bundle: &Bundle) -> std::result::Result<Statement, String> {
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err("what is signed is no DSSE envelope".to_owned());
    };
    if envelope.payload_type != PAYLOAD {
        return Err(format!("is of type `{}`, expected `{PAYLOAD}`", envelope.payload_type));
    }
    Statement::parse(envelope.payload.as_bytes())
}

/// All of the cryptography, with nothing left out.
fn genuine(
    bundle: &Bundle,
    digest: Sha256,
    root: &TrustedRoot,
) -> std::result::Result<VerificationResult, sigstore_verify::Error> {
    let digest = Sha256Hash::try_from(&digest.bytes()[..])?;
    let result = root.verifier.verify(digest, bundle, &VerificationPolicy::any_identity())?;
    // True by the policy; said again because everything rests on it.
    if result.certificate_verified() && result.sct_verified() && result.tlog_verified() {
        Ok(result)
    } else {
        Err(sigstore_verify::Error::InvalidBundle("a part of it was not verified".to_owned()))
    }
}

/// What the certificate must claim.
fn claims(version: Version, identity: &str, issuer: Option<&str>, certificate: &CertificateInfo) -> Vec<Check> {
    let claims = &certificate.ci_claims;
    let wanted_ref = format!("refs/tags/{version}");
    let exact = |what, found: Option<&str>, wanted: &str| {
        let found = found.unwrap_or("nothing");
        if found == wanted {
            Check::new(what, Outcome::Holds, found)
        } else {
            Check::new(what, Outcome::Refused, format!("`{found}`, expected `{wanted}`"))
        }
    };
    vec![
        exact("issuer", issuer, ISSUER),
        check_identity(version, identity),
        exact("build signer", claims.build_signer_uri.as_deref(), identity),
        exact("source repository", claims.source_repository_uri.as_deref(), REPOSITORY),
        exact("source ref", claims.source_repository_ref.as_deref(), &wanted_ref),
        exact("runner", claims.runner_environment.as_deref(), RUNNER),
    ]
}

/// The release workflow at a tag or a commit; for v0.27 also the one before it.
fn check_identity(version: Version, identity: &str) -> Check {
    let early = version.is_first_signed();
    let place = identity.strip_prefix(WORKFLOW).or_else(|| identity.strip_prefix(EARLY_WORKFLOW).filter(|_| early));
    match place {
        Some(place) if is_tag(place) || is_commit(place) => Check::new("identity", Outcome::Holds, identity),
        Some(_) => {
            let told = format!("`{identity}`: the workflow must be at a tag `refs/tags/v…` or a commit");
            Check::new("identity", Outcome::Refused, told)
        }
        None => Check::new("identity", Outcome::Refused, format!("`{identity}`, expected `{WORKFLOW}…`")),
    }
}

fn is_tag(place: &str) -> bool {
    let rest = place.strip_prefix("refs/tags/v").unwrap_or_default();
    rest.starts_with(|first: char| first.is_ascii_digit())
        && rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
}

fn is_commit(place: &str) -> bool {
    place.len() == 40 && place.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What kind of statement it must be.
fn types(version: Version, statement: &Statement) -> [Check; 2] {
    let one_of = |what, found: &str, wanted: &[&str]| {
        if wanted.contains(&found) {
            Check::new(what, Outcome::Holds, found)
        } else {
            Check::new(what, Outcome::Refused, format!("`{found}`, expected `{}`", wanted.join("` or `")))
        }
    };
    let predicates: &[&str] = if version.is_first_signed() { &[SLSA_V1, SLSA_V0_2] } else { &[SLSA_V1] };
    [one_of("statement type", &statement.kind, &TYPES), one_of("predicate type", &statement.predicate_type, predicates)]
}

/// The error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let told = current.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = current.source();
    }
    text
}
