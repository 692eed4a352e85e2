//! Sizes and durations as recipes spell them (`100GiB`, `1h30m`) → numbers.
//!
//! Owns the two grammars. Bounds that belong to one key (a timeout's upper limit) are that key's business.

use std::ops::Range;
use std::time::Duration;

/// Why a text is not what was wanted: a lower-case fragment, and what to write instead where that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    message: String,
    help: Option<String>,
}

impl Invalid {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help_with(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What to write instead, if known.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

/// Units of [`parse_size`] with their bytes.
const SIZE_UNITS: [(&str, u64); 5] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Units of [`parse_duration`] with their seconds, longest first: the order they are written in.
const TIME_UNITS: [(char, u64); 3] = [('h', 3600), ('m', 60), ('s', 1)];

/// Bytes of a size: a whole number with `KiB`, `MiB`, `GiB` or `TiB` (powers of 1024), or a bare number of bytes.
///
/// # Errors
/// Anything else, zero, and what does not fit 63 bits (file offsets are signed).
pub fn parse_size(text: &str) -> Result<u64, Invalid> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let Some((_, scale)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(unknown_size(text, digits, unit));
    };
    if digits.is_empty() {
        return Err(unknown_size(text, digits, unit));
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale));
    match bytes {
        Some(0) => Err(Invalid::new("a size of zero")),
        Some(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err(Invalid::new(format!("`{text}` is too large a size")).help_with("the largest is below 8388608TiB")),
    }
}

fn unknown_size(text: &str, digits: &str, unit: &str) -> Invalid {
    let invalid = Invalid::new(format!("`{}` is not a size", shown(text)));
    if digits.is_empty() {
        return invalid;
    }
    if unit.starts_with('.') {
        return invalid.help_with("only whole numbers: write `1536MiB` for 1.5 GiB");
    }
    // `2 GiB`, `2gib`, `2G`, `2GB`: the unit can be told by its first letter.
    let letter = unit.trim_start().chars().next().map(|letter| letter.to_ascii_uppercase());
    match letter {
        Some(letter @ ('K' | 'M' | 'G' | 'T')) if unit.to_ascii_uppercase().trim() == format!("{letter}B") => invalid
            .help_with(format!(
                "sizes are in powers of 1024: write `{digits}{letter}iB` (`{letter}B` is a power of 1000 to some)"
            )),
        Some(letter @ ('K' | 'M' | 'G' | 'T')) => invalid.help_with(format!("write `{digits}{letter}iB`")),
        Some('B') => invalid.help_with(format!("bytes have no unit: write `{digits}`")),
        _ => invalid.help_with("the units are KiB, MiB, GiB and TiB"),
    }
}

/// A duration: whole numbers with `h`, `m` and `s`, each at most once and in this order (`90m`, `1h30m`, `15s`).
///
/// # Errors
/// Anything else, and zero.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    let bad = || Invalid::new(format!("`{}` is not a duration", shown(text)));
    let too_long = || Invalid::new(format!("`{}` is too long a duration", shown(text)));
    if text.is_empty() {
        return Err(bad());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad().help_with(format!("say the unit: `{text}s`, `{text}m` or `{text}h`")));
    }
    let (mut rest, mut seconds, mut units) = (text, 0u64, TIME_UNITS.as_slice());
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (digits, tail) = rest.split_at(split);
        let letter = tail.chars().next().ok_or_else(bad)?;
        let Some(position) = units.iter().position(|(unit, _)| *unit == letter) else {
            return Err(bad().help_with("the units are h, m and s, each once and in this order: `1h30m`"));
        };
        if digits.is_empty() {
            return Err(bad());
        }
        let number = digits.parse::<u64>().map_err(|_| too_long())?;
        seconds =
            number.checked_mul(units[position].1).and_then(|more| seconds.checked_add(more)).ok_or_else(too_long)?;
        units = &units[position + 1..];
        rest = &tail[letter.len_utf8()..];
    }
    if seconds == 0 {
        return Err(Invalid::new("a duration of zero"));
    }
    Ok(Duration::from_secs(seconds))
}

/// `text` as a message may quote it: one line, printable, without secrets, at most 60 characters.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let secret = secret_in(text);
    let masked = text.char_indices().map(|(at, c)| if secret.contains(&at) { '*' } else { c });
    let mut words: String = masked.take(MOST).flat_map(printable).collect();
    if text.chars().nth(MOST).is_some() {
        words.push('…');
    }
    words
}

/// The bytes of `text` that hold a URL's user and password; empty when it has none.
pub(super) fn secret_in(text: &str) -> Range<usize> {
    let Some(start) = text.find("://").map(|at| at + 3) else { return 0..0 };
    let authority = text[start..].split(['/', '"', '\'', '?', '#', ' ']).next().unwrap_or_default();
    authority.rfind('@').map_or(0..0, |at| start..start + at)
}

/// `c` itself, or its escape where printing it would move the cursor, colour the terminal or reorder the line.
pub(super) fn printable(c: char) -> impl Iterator<Item = char> {
    let plain = !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let escape = (!plain).then(|| c.escape_default());
    plain.then_some(c).into_iter().chain(escape.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("512MiB", 512 << 20),
            ("2GiB", 2 << 30),
            ("100GiB", 100 << 30),
            ("1TiB", 1 << 40),
            ("4KiB", 4096),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "GiB", "0", "0GiB", "-1", "2GB", "2G", "2gib", "2 GiB", "1.5GiB", "99999999TiB", "٣GiB", "2GiB "]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let help = |text| parse_size(text).unwrap_err().help().map(str::to_owned);
        assert_eq!(
            help("2GB").as_deref(),
            Some("sizes are in powers of 1024: write `2GiB` (`GB` is a power of 1000 to some)")
        );
        assert_eq!(help("2g").as_deref(), Some("write `2GiB`"));
        assert_eq!(help("2 GiB").as_deref(), Some("write `2GiB`"));
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90m", 5400), ("15s", 15), ("2h", 7200), ("1h30m", 5400), ("1h0m1s", 3601)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0s", "90", "m", "1m1h", "1m1m", "1d", "1.5h", "-1s", "1h ", "99999999999999999999s", "1h30"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(text in ".*") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
            prop_assert!(shown(&text).chars().all(|c| !c.is_control()));
        }

        #[test]
        fn whole_units_multiply(number in 1u64..4096) {
            prop_assert_eq!(parse_size(&format!("{number}GiB")), Ok(number << 30));
            prop_assert_eq!(parse_duration(&format!("{number}h{number}m")), Ok(Duration::from_secs(number * 3660)));
        }
    }
}
