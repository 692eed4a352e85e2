//! The full log of a run as a listener: every event with its time, and all output as it came, to the byte.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::bake::{Event, Sink};
use crate::error::{Context as _, Result};

/// Writes `bake.log`. Each event goes to the file at once, without a buffer: what a killed run did is there to read.
pub struct FileLog {
    state: Mutex<State>,
}

struct State {
    file: File,
    /// The last output did not end its line.
    mid_line: bool,
    /// Whose line was the last: the output of two machines at once must be told apart.
    scope: String,
    /// Why writing stopped.
    failed: Option<std::io::Error>,
}

impl FileLog {
    /// A log at `path`, which is appended to if it exists.
    ///
    /// # Errors
    /// Exit 4 when it cannot be opened.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.or_host(|| format!("cannot write the log {}", path.display()))?;
        Ok(Self { state: Mutex::new(State { file, mid_line: false, scope: String::new(), failed: None }) })
    }

    /// Why the log is incomplete, if it is: a full disk does not stop a bake that could go on without its log.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed.as_ref().map(ToString::to_string)
    }
}

impl Sink for FileLog {
    fn event(&self, scope: &str, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_some() {
            return;
        }
        if let Err(error) = state.write(scope, event) {
            state.failed = Some(error);
        }
    }
}

impl State {
    fn write(&mut self, scope: &str, event: &Event) -> std::io::Result<()> {
        if let Event::Output { bytes } = event {
            if scope != self.scope {
                self.line(scope, "output of the running step")?;
            }
            self.mid_line = bytes.last().map_or(self.mid_line, |byte| *byte != b'\n');
            return self.file.write_all(bytes);
        }
        words(event).map_or(Ok(()), |words| self.line(scope, &words))
    }

    fn line(&mut self, scope: &str, words: &str) -> std::io::Result<()> {
        let end = if std::mem::take(&mut self.mid_line) { "\n" } else { "" };
        scope.clone_into(&mut self.scope);
        self.file.write_all(format!("{end}{:.3} {scope}: {words}\n", Timestamp::now()).as_bytes())
    }
}

/// The event in a line; none for what a log need not have.
fn words(event: &Event) -> Option<String> {
    Some(match event {
        Event::PhaseStarted { name } => format!("{name} …"),
        Event::Progress { .. } | Event::Output { .. } => return None,
        Event::PhaseEnded { elapsed } => format!("done in {:.1} s", elapsed.as_secs_f64()),
        Event::StepStarted { number, total, name, kind } => format!("[{number}/{total}] {kind}: {name}"),
        Event::StepEnded { success: true, elapsed } => format!("ok after {:.1} s", elapsed.as_secs_f64()),
        Event::StepEnded { success: false, elapsed } => format!("FAILED after {:.1} s", elapsed.as_secs_f64()),
        Event::StepSkipped { name, reason } => format!("skipped: {name}: {reason}"),
        Event::Note { text } => text.clone(),
        Event::Warning { text } => format!("warning: {text}"),
        Event::Finished { success, summary, elapsed } => {
            format!("{} after {:.1} s: {summary}", if *success { "done" } else { "failed" }, elapsed.as_secs_f64())
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn output_is_there_to_the_byte_and_events_have_lines_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bake.log");
        let log = FileLog::create(&path).unwrap();
        log.event("builder", &Event::PhaseStarted { name: "launch".into() });
        log.event("builder", &Event::Output { bytes: b"caf\xc3".to_vec() });
        log.event("builder", &Event::Output { bytes: b"\xa9\x00\x1b[1m".to_vec() });
        log.event("builder", &Event::StepEnded { success: false, elapsed: Duration::from_millis(1250) });
        let text = std::fs::read(&path).unwrap();
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
        assert!(lines[0].ends_with("Z builder: launch …".as_bytes()));
        assert_eq!(lines[1], b"caf\xc3\xa9\x00\x1b[1m");
        assert!(lines[2].ends_with(b"Z builder: FAILED after 1.2 s"), "{:?}", String::from_utf8_lossy(lines[2]));
        assert_eq!(log.failure(), None);
    }

    #[test]
    fn the_output_of_two_machines_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("verify.log");
        let log = FileLog::create(&path).unwrap();
        for (scope, bytes) in [("a", "one "), ("a", "two"), ("b", "three\n"), ("a", "four\n")] {
            log.event(scope, &Event::Output { bytes: bytes.into() });
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let without_times: Vec<_> =
            text.lines().map(|line| line.split_once("Z ").map_or(line, |(_, rest)| rest)).collect();
        let headers = ["a: output of the running step", "b: output of the running step"];
        assert_eq!(without_times, [headers[0], "one two", headers[1], "three", headers[0], "four"]);
    }

    #[test]
    fn a_full_disk_is_remembered_and_does_not_stop_anything() {
        let log = FileLog::create(Path::new("/dev/full")).unwrap();
        log.event("builder", &Event::Note { text: "one".into() });
        log.event("builder", &Event::Note { text: "two".into() });
        assert!(log.failure().is_some_and(|reason| reason.contains("space")));
    }
}
