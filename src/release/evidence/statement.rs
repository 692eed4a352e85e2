//! in-toto statements (<https://github.com/in-toto/attestation>): which digest they say a file has.

use serde::Deserialize;

use crate::release::Sha256;

/// The forms of a statement.
pub(super) const TYPES: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
pub(super) const SLSA_V1: &str = "https://slsa.dev/provenance/v1";
pub(super) const SLSA_V0_2: &str = "https://slsa.dev/provenance/v0.2";

/// What is read of a statement.
#[derive(Debug, Deserialize)]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    pub(super) kind: String,
    #[serde(rename = "predicateType")]
    pub(super) predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Debug, Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: Digest,
}

#[derive(Debug, Default, Deserialize)]
struct Digest {
    sha256: Option<Sha256>,
}

impl Statement {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("no in-toto statement: {error}"))
    }

    /// The digest of the subject that is called `file`.
    pub(super) fn digest_of(&self, file: &str) -> Result<Sha256, String> {
        let named: Vec<&Subject> = self.subject.iter().filter(|subject| subject.name == file).collect();
        let Some(first) = named.first() else {
            let names: Vec<String> = self.subject.iter().take(6).map(|subject| format!("`{}`", subject.name)).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return Err(format!("is about {names}, expected `{file}`"));
        };
        let digest = first.digest.sha256.ok_or_else(|| format!("states no SHA-256 of `{file}`"))?;
        if named.iter().any(|subject| subject.digest.sha256 != Some(digest)) {
            return Err(format!("states two digests of `{file}`"));
        }
        Ok(digest)
    }
}

/// What a release's unsigned provenance says the digest of `file` is.
pub(super) fn provenance_digest(bytes: &[u8], file: &str) -> Result<Sha256, String> {
    let statement = Statement::parse(bytes)?;
    if !TYPES.contains(&statement.kind.as_str()) {
        return Err(format!("its type is `{}`, expected `{}`", statement.kind, TYPES.join("` or `")));
    }
    if ![SLSA_V1, SLSA_V0_2].contains(&statement.predicate_type.as_str()) {
        return Err(format!("its predicate is `{}`, expected `{SLSA_V1}` or `{SLSA_V0_2}`", statement.predicate_type));
    }
    statement.digest_of(file)
}
