//! Who is believed: the authority that signs, and those before it until they end. Agents and builder trust all of them, so
//! that one authority can take over from another while both sides run. PURE.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Described, Pair, describe};
use crate::error::Result;

const END: &str = "-----END CERTIFICATE-----";

/// How long a builder may go on with the authorities that it knows: its timer looks once a day, may be an hour late, and waits
/// half a day for a moment without builds.
const TAKEN_UP: SignedDuration = SignedDuration::from_hours(40);

/// Why a certificate, or an authority, is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is damaged.
    Unreadable,
    /// It has no key.
    NoKey,
    /// What should be its key is none.
    UnreadableKey,
    /// The key beside it is another's.
    OtherKey,
    /// None of the authorities signed it.
    OtherAuthority,
    /// It, or its authority, is over.
    Ended,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Unreadable => "it holds no certificate that can be read",
            Fault::NoKey => "its key is not there",
            Fault::UnreadableKey => "its key cannot be read",
            Fault::OtherKey => "the key beside it is not its own",
            Fault::OtherAuthority => "no authority that is here signed it",
            Fault::Ended => "it has ended",
        })
    }
}

/// The authorities that are believed, the one that signs first.
#[derive(Debug, Clone, Default)]
pub struct Trusted(Vec<(String, Described)>);

impl Trusted {
    /// Of the PEM of the one that signs, and of those before it. One that has ended is believed by nobody.
    ///
    /// # Errors
    /// Exit 2 when either holds what is no certificate.
    pub fn new(signing: &str, former: &str, now: Timestamp) -> Result<Self> {
        describe(signing)?;
        let mut all: Vec<(String, Described)> = Vec::new();
        for (index, pem) in each(signing).chain(each(former)).enumerate() {
            let described = describe(&pem)?;
            let known = all.iter().any(|(_, other)| other.sha256 == described.sha256);
            if !known && (index == 0 || described.not_after > now) {
                all.push((pem, described));
            }
        }
        Ok(Self(all))
    }

    /// All of them, PEM: what clients and servers are told to trust.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.0.iter().map(|(pem, _)| pem.as_str()).collect()
    }

    /// The one that signs; none if there is no authority.
    #[must_use]
    pub fn signing(&self) -> Option<&Described> {
        self.0.first().map(|(_, described)| described)
    }

    /// Those before it that have not ended.
    pub fn former(&self) -> impl Iterator<Item = &Described> {
        self.0.iter().skip(1).map(|(_, described)| described)
    }

    /// When nobody accepts a certificate any more: when it ends, or before that its authority.
    #[must_use]
    pub fn ends(&self, certificate: &Described) -> Timestamp {
        let signer = self.signer(certificate).map_or(certificate.not_after, |signer| signer.not_after);
        certificate.not_after.min(signer)
    }

    /// Whether a certificate of a former authority should be left as it is for now: the one that signs is so new that the
    /// other side may not know it yet. Not if it ends before that is over.
    #[must_use]
    pub fn waits(&self, certificate: &Described, now: Timestamp) -> bool {
        let Some(signing) = self.signing() else { return false };
        let known = signing.not_before + TAKEN_UP;
        self.signer(certificate).is_some_and(|signer| signer != signing)
            && now < known
            && known < self.ends(certificate)
    }

    fn signer(&self, certificate: &Described) -> Option<&Described> {
        self.0.iter().map(|(_, described)| described).find(|authority| certificate.says_it_is_of(authority))
    }

    /// Why a certificate that an authority signed is of no use. `key` is what is kept beside it, PEM; where no authority is
    /// known, nothing is said about who signed.
    #[must_use]
    pub fn fault(&self, certificate: &str, key: Option<&str>, now: Timestamp) -> Option<Fault> {
        let Ok(described) = describe(certificate) else { return Some(Fault::Unreadable) };
        let Some(key) = key else { return Some(Fault::NoKey) };
        let pair = Pair::of(certificate.to_owned(), key.to_owned());
        pair.fault().or_else(|| self.fault_of(&described, now))
    }

    /// The same without its key.
    #[must_use]
    pub fn fault_of(&self, described: &Described, now: Timestamp) -> Option<Fault> {
        if self.ends(described) <= now {
            Some(Fault::Ended)
        } else if !self.0.is_empty() && self.signer(described).is_none() {
            Some(Fault::OtherAuthority)
        } else {
            None
        }
    }
}

/// Each certificate of a PEM text as a PEM text of its own.
fn each(pem: &str) -> impl Iterator<Item = String> {
    let parts = pem.split_inclusive(END).filter(|part| part.contains("-----BEGIN CERTIFICATE"));
    parts.map(|part| format!("{}\n", part.trim()))
}
