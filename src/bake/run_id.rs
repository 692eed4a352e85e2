//! The name of one execution: sorts by time, is unique enough for one machine, and is safe in a file name.

use std::hash::{BuildHasher as _, Hasher as _};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Names one execution of a bake: `20261124t145112-3fa9c1` (UTC, then 24 random bits).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// The name of an execution that begins at `at`; the low 24 bits of `entropy` tell it from others of that second.
    #[must_use]
    pub fn new(at: Timestamp, entropy: u32) -> Self {
        Self(format!("{}-{:06x}", at.strftime("%Y%m%dt%H%M%S"), entropy & 0x00ff_ffff))
    }

    /// A name for an execution that begins now.
    #[must_use]
    pub fn generate() -> Self {
        // A hasher of the standard library is seeded from the system's random source; a name needs no more than that.
        let entropy = std::hash::RandomState::new().build_hasher().finish();
        Self::new(Timestamp::now(), entropy as u32)
    }

    /// Whether `text` has the form of a run's name. What a sweep may delete depends on it, so it is strict.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let digits = |part: &str, length: usize, hex: bool| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_digit() || (hex && matches!(byte, b'a'..=b'f')))
        };
        let Some((time, random)) = text.split_once('-') else { return false };
        let Some((day, clock)) = time.split_once('t') else { return false };
        digits(day, 8, false) && digits(clock, 6, false) && digits(random, 6, true)
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_when_and_keeps_24_bits() {
        let at: Timestamp = "2026-11-24T14:51:12.9Z".parse().unwrap();
        assert_eq!(RunId::new(at, 0xff3f_a9c1).to_string(), "20261124t145112-3fa9c1");
        assert_eq!(RunId::new(at, 1).to_string(), "20261124t145112-000001");
        assert!(RunId::is_valid(&RunId::generate().0));
    }

    #[test]
    fn what_is_no_name_is_told() {
        for bad in ["", ".ssh", "20261124t145112", "20261124t145112-3fa9cg", "20261124t145112-3fa9c1x", "a/b", "..-"] {
            assert!(!RunId::is_valid(bad), "{bad}");
        }
    }
}
