//! What the bytes of a download must hash to.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::release::Sha256;

/// What the bytes must hash to: `sha256:…` or `sha512:…` (FIPS 180-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512([u8; 64]),
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Digest::Sha256(digest) => write!(f, "sha256:{digest}"),
            Digest::Sha512(bytes) => {
                f.write_str("sha512:")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// `sha256:` and 64, or `sha512:` and 128 hexadecimal digits were expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest, expected `sha256:` and 64 or `sha512:` and 128 hexadecimal digits")]
pub struct BadDigest(String);

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadDigest(text.to_owned());
        match text.split_once(':') {
            Some(("sha256", digits)) => digits.parse().map(Digest::Sha256).map_err(|_| bad()),
            Some(("sha512", digits)) if digits.len() == 128 && digits.is_ascii() => {
                let (high, low) = digits.split_at(64);
                // A half of it has the form of a SHA-256, whose parser reads the digits.
                let half = |digits: &str| digits.parse::<Sha256>().map(|half| half.bytes()).map_err(|_| bad());
                let mut bytes = [0; 64];
                bytes[..32].copy_from_slice(&half(high)?);
                bytes[32..].copy_from_slice(&half(low)?);
                Ok(Digest::Sha512(bytes))
            }
            _ => Err(bad()),
        }
    }
}

/// A hash under way, of the kind of the digest it will be compared with.
pub(super) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// For the same algorithm as `digest`.
    pub(super) fn like(digest: Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Digest::Sha512(_) => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        match self {
            Hasher::Sha256(state) => state.update(data),
            Hasher::Sha512(state) => state.update(data),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(state) => Digest::Sha256(Sha256::from_bytes(state.finalize().into())),
            Hasher::Sha512(state) => Digest::Sha512(state.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_round_trip_and_nothing_else_parses() {
        for digest in [Digest::Sha256(Sha256::of(b"abc")), Digest::Sha512(sha2::Sha512::digest(b"abc").into())] {
            assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }
        // FIPS 180-4 example: SHA-512("abc") begins so.
        let mut hasher = Hasher::like(Digest::Sha512([0; 64]));
        hasher.update(b"abc");
        assert!(hasher.finish().to_string().starts_with("sha512:ddaf35a193617abacc417349ae204131"));
        let unmarked = "a".repeat(64);
        let crossed = format!("sha512:{unmarked}");
        let wide = format!("sha512:{}", "é".repeat(64));
        for bad in ["", "sha256:", "md5:abc", &unmarked, &crossed, &wide] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
