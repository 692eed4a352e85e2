//! One script on a machine: its time limit, its output as events, and the words for how it failed.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::{Event, Reporter};
use crate::error::{Error, Result};
use crate::provider::{Machine, ScriptEnd};
use crate::report::clean;

/// Lines of output a failure shows.
const TAIL_LINES: usize = 40;
/// Bytes of output kept for a failure: 40 long lines, and more than a trap prints.
const TAIL_BYTES: usize = 64 << 10;

/// How a script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Ended(ScriptEnd),
    /// It took longer than this.
    TimedOut(Duration),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Ended(ScriptEnd::Exited(status)) => write!(f, "exit status {status}"),
            End::Ended(ScriptEnd::Signalled) => f.write_str("ended by a signal"),
            End::TimedOut(after) => write!(f, "took longer than {} s", after.as_secs()),
        }
    }
}

/// What a script did.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) end: End,
    pub(super) elapsed: Duration,
    tail: Vec<u8>,
}

/// A script and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script<'a> {
    pub(super) text: &'a str,
    /// Lines of it that the user did not write.
    pub(super) preamble_lines: u32,
    pub(super) timeout: Duration,
    pub(super) peer: Option<&'a str>,
}

impl Script<'_> {
    /// Runs it. Output goes to `reporter` as it comes.
    ///
    /// # Errors
    /// When the channel breaks.
    pub(super) async fn run(&self, machine: &dyn Machine, reporter: &Reporter) -> Result<Ran> {
        let started = Instant::now();
        let mut tail = Vec::new();
        let mut output = |bytes: &[u8]| {
            reporter.event(&Event::Output { bytes: bytes.to_vec() });
            tail.extend_from_slice(bytes);
            // Cut only now and then: to move the rest down for every few bytes would be slow.
            if tail.len() > 4 * TAIL_BYTES {
                tail.drain(..tail.len() - TAIL_BYTES);
            }
        };
        let run = machine.run(self.text, self.peer, &mut output);
        let end = match tokio::time::timeout(self.timeout, run).await {
            Ok(end) => End::Ended(end?),
            Err(_elapsed) => End::TimedOut(self.timeout),
        };
        Ok(Ran { end, elapsed: started.elapsed(), tail })
    }

    /// What a person needs to see of a failure: the line of the script, the last lines of its output.
    pub(super) fn explain(&self, ran: &Ran) -> String {
        let mut text = String::new();
        if let Some(number) = crate::plan::failed_line(&ran.tail)
            && let Some(line) =
                self.text.lines().nth((self.preamble_lines as usize).saturating_add(number as usize) - 1)
        {
            let _ = writeln!(text, "  line {number} of the script: {}", clean(line.trim()));
        }
        let lines = last_lines(&ran.tail);
        if lines.is_empty() {
            text.push_str("  it printed nothing\n");
        } else {
            let _ = writeln!(text, "  the last lines of its output:");
        }
        for line in lines {
            let _ = writeln!(text, "  | {line}");
        }
        text
    }
}

impl Ran {
    /// Whether the script exited 0 in time.
    pub(super) fn success(&self) -> bool {
        matches!(self.end, End::Ended(end) if end.success())
    }
}

/// The error for something that could not be carried out because the machine or the way to it failed: the exit status,
/// hint and detail of `source`, in other words.
pub(super) fn broken(message: String, source: Error) -> Error {
    let mut error = Error::new(source.exit(), message);
    if let Some(hint) = source.hint() {
        error = error.with_hint(hint);
    }
    if let Some(detail) = source.detail() {
        error = error.with_detail(detail);
    }
    error.with_source(source)
}

/// The last lines of an output, fit for a terminal.
fn last_lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<_> = text.lines().rev().map(clean).skip_while(String::is_empty).take(TAIL_LINES).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_forty_lines_whatever_the_bytes() {
        let mut output = Vec::new();
        for number in 1..=100 {
            output.extend_from_slice(format!("line {number} ").as_bytes());
            output.extend_from_slice(b"\xff\xfe\r\n");
        }
        output.extend_from_slice(b"\n\n");
        let lines = last_lines(&output);
        assert_eq!(lines.len(), 40);
        assert_eq!((lines[0].as_str(), lines[39].as_str()), ("line 61 \u{fffd}\u{fffd}", "line 100 \u{fffd}\u{fffd}"));
    }

    #[test]
    fn an_explanation_names_the_users_line() {
        let script = Script {
            text: "set -e\ntrap …\necho one\nfalse # two\n",
            preamble_lines: 2,
            timeout: Duration::from_secs(1),
            peer: None,
        };
        let ran =
            |tail: &[u8]| Ran { end: End::Ended(ScriptEnd::Exited(1)), elapsed: Duration::ZERO, tail: tail.to_vec() };
        let explained = script.explain(&ran(b"one\namibake: line 2: false: exit status 1\n"));
        assert!(explained.starts_with("  line 2 of the script: false # two\n"), "{explained}");
        assert!(explained.contains("\n  | one\n"), "{explained}");
        assert_eq!(script.explain(&ran(b"")), "  it printed nothing\n");
        assert!(script.explain(&ran(b"amibake: line 999: false: exit status 1\n")).starts_with("  the last lines"));
    }
}
