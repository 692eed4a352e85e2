//! A failed job's log: which lines tell of a fault that is known.

use std::collections::BTreeSet;
use std::io::{BufRead, Read as _};
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};
use serde::Serialize;

use super::known::{self, Known};

/// A fault that a log tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A short stable word, for programs.
    pub fault: &'static str,
    /// Line of the log, from 1.
    pub line: usize,
    /// What it says, fit for a terminal.
    pub said: String,
    /// What that means.
    pub cause: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// A line that is longer is read in parts of this many bytes: what is no log may have no line at all.
const PART: u64 = 1 << 20;
/// What is shown before the words of a fault where the line is too long to be shown from its start.
const BEFORE: usize = 60;

/// Every fault of a log that is known, each kind once, in the order of the log, which is read to its end however long it
/// is. Bytes that are no text, colours and the time stamps of Buildkite do no harm.
///
/// # Errors
/// What reading it said.
pub fn read_log(mut log: impl BufRead) -> std::io::Result<Vec<Finding>> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    let mut part = Vec::new();
    let mut number = 1;
    while (&mut log).take(PART).read_until(b'\n', &mut part)? > 0 {
        let line = String::from_utf8_lossy(&part);
        if let Some(known) = known::in_line(&line)
            && seen.insert(known.id)
        {
            findings.push(Finding {
                fault: known.id,
                line: number,
                said: shown(known, line.trim_end_matches(['\n', '\r'])),
                cause: known.cause,
                hint: known.fix,
            });
        }
        number += usize::from(part.last() == Some(&b'\n'));
        part.clear();
    }
    Ok(findings)
}

/// The part of a line that has the fault's words, without what a terminal would obey and without secrets.
fn shown(known: &Known, line: &str) -> String {
    let line = without_secrets(line);
    let at = known.at(&line);
    // What was drawn over before and after it on the same line is no part of it.
    let start = line[..at].rfind('\r').map_or(0, |before| before + 1);
    let line = line[start..].split('\r').next().unwrap_or_default();
    let (at, whole) = (at - start, crate::report::clean(line));
    if at <= BEFORE || !whole.ends_with('…') {
        return whole.trim().to_owned();
    }
    format!("…{}", crate::report::clean(&line[line.floor_char_boundary(at - BEFORE)..]).trim())
}

/// People paste what is shown. Only what looks like a secret by its name is seen: a log may hold others.
fn without_secrets(line: &str) -> String {
    static USER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"://[^/\s@]+@").expect("it is a pattern"));
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        let name = r"(?:password|passwd|token|secret|api[_-]?key|access[_-]?key)[a-z0-9_-]*";
        let pattern = format!(
            r#"(?i)((?:--[a-z-]*)?{name}["']?(?:\s*=\s*|\s*:\s*|\s+)["']?|\b(?:bearer|basic)\s+)([^\s"',;&]+)"#
        );
        Regex::new(&pattern).expect("it is a pattern")
    });
    let line = USER.replace_all(line, "://…@");
    let named = |found: &Captures<'_>| {
        let (before, value) = (&found[1], found[2].trim_end_matches(':'));
        // `failed to fetch oauth token: unexpected status` names no token, and `token: 401` none either.
        let is_word = value.len() < 16 && value.bytes().all(|byte| byte.is_ascii_alphabetic());
        let is_value = before.contains('=') || before.starts_with("--") || (value.len() > 4 && !is_word);
        if is_value { format!("{before}…") } else { found[0].to_owned() }
    };
    NAMED.replace_all(&line, named).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_once_in_the_order_of_the_log() {
        let log = b"\x1b_bk;t=1764064800000\x07~~~ Running commands\n\x1b[31merror: failed to list workers: dial tcp 10.0.1.7:1234: connect: \
            connection refused\x1b[0m\nagain: connect: connection refused\n\xff\xfe\nerror: failed to solve: exporter \
            \"registry\" could not be found\n";
        let found = read_log(&log[..]).unwrap();
        let found: Vec<_> = found.iter().map(|finding| (finding.fault, finding.line)).collect();
        assert_eq!(found, [("connection-refused", 2), ("exporter", 5)]);
        assert_eq!(read_log(&b"all is well\n"[..]).unwrap(), []);
    }

    fn said(line: &str) -> String {
        let found = read_log(line.as_bytes()).unwrap();
        assert_eq!(found.len(), 1, "{line}");
        found[0].said.clone()
    }

    #[test]
    fn the_words_are_shown_wherever_they_stand() {
        let long = format!("{} é connect: connection refused\r\n", "é".repeat(900));
        let said = said(&long);
        assert!(said.starts_with('…') && said.ends_with("connect: connection refused"), "{said}");
        assert_eq!(self::said("exec format error\r50%\r100%\n"), "exec format error");
        // In parts: the number is that of the line all the same.
        let parts = format!("first\n{}exec format error\nlast: no space left on device", "x".repeat(3 << 20));
        let lines: Vec<_> = read_log(parts.as_bytes()).unwrap().iter().map(|found| found.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn what_is_named_a_secret_is_not_shown() {
        for (secret, line) in [
            ("s3cret", "push to https://user:s3cret@registry/app: no basic auth credentials"),
            ("s3cret", "REGISTRY_PASSWORD=s3cret no basic auth credentials"),
            ("plain", "AWS_SECRET_ACCESS_KEY=plain no basic auth credentials"),
            ("hunter", "docker login --password hunter: no basic auth credentials"),
            ("eyJhbGci0", "Authorization: Bearer eyJhbGci0 no basic auth credentials"),
            ("abc123", "{\"token\": \"abc123\"} no basic auth credentials"),
        ] {
            let said = said(line);
            assert!(!said.contains(secret) && said.contains("no basic auth credentials"), "{said}");
        }
        let line =
            "failed to fetch oauth token: unexpected status from POST request to https://r/token: 401 Unauthorized";
        assert_eq!(said(line), line);
    }
}
