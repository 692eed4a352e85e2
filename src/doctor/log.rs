//! A failed job's log: which lines tell of a fault that is known.

use std::collections::BTreeSet;

use serde::Serialize;

use super::known;

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

/// Every fault of a log that is known, each kind once, in the order of the log. Bytes that are no text, colours and the
/// time stamps of Buildkite do no harm.
#[must_use]
pub fn read_log(log: &[u8]) -> Vec<Finding> {
    let text = String::from_utf8_lossy(log);
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // The whole line: what matters often stands at its end.
        let Some(known) = known::in_line(line) else { continue };
        if seen.insert(known.id) {
            findings.push(Finding {
                fault: known.id,
                line: number + 1,
                said: crate::report::clean(line).trim().to_owned(),
                cause: known.cause,
                hint: known.fix,
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_once_in_the_order_of_the_log() {
        let log = b"\x1b_bk;t=1764064800000\x07~~~ Running commands\n\x1b[31merror: failed to list workers: dial tcp 10.0.1.7:1234: connect: \
            connection refused\x1b[0m\nagain: connect: connection refused\n\xff\xfe\nerror: failed to solve: exporter \
            \"registry\" could not be found\n";
        let found = read_log(log);
        let found: Vec<_> = found.iter().map(|finding| (finding.fault, finding.line)).collect();
        assert_eq!(found, [("connection-refused", 2), ("exporter", 5)]);
        assert_eq!(read_log(b"all is well\n"), []);
    }
}
