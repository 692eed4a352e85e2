//! Events as plain, timestamped lines: for pipes, CI and terminals that can do no more.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{clean, human_bytes, human_time};
use crate::bake::{Event, Sink};

/// How often a long download says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Writes one line an event.
pub struct Plain {
    state: Mutex<State>,
    verbose: bool,
    quiet: bool,
}

struct State {
    out: Box<dyn Write + Send>,
    now: Box<dyn Fn() -> Timestamp + Send>,
    scopes: HashMap<String, Scope>,
}

/// What is under way in one bake.
#[derive(Default)]
struct Scope {
    doing: String,
    rest: Vec<u8>,
    told: Option<Instant>,
}

impl Plain {
    /// To stderr. `verbose` streams output; `quiet` leaves only warnings.
    #[must_use]
    pub fn stderr(verbose: bool, quiet: bool) -> Self {
        Self::new(Box::new(std::io::stderr()), Box::new(Timestamp::now), verbose, quiet)
    }

    fn new(out: Box<dyn Write + Send>, now: Box<dyn Fn() -> Timestamp + Send>, verbose: bool, quiet: bool) -> Self {
        Self { state: Mutex::new(State { out, now, scopes: HashMap::new() }), verbose, quiet }
    }
}

impl Sink for Plain {
    fn event(&self, scope: &str, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let mut lines = Vec::new();
        state.scopes.entry(scope.to_owned()).or_default().lines(event, self.verbose, &mut lines);
        if self.quiet && !matches!(event, Event::Warning { .. }) {
            return;
        }
        let time = (state.now)().strftime("%H:%M:%SZ").to_string();
        let place = if scope.is_empty() { String::new() } else { format!("{scope}  ") };
        for line in lines {
            let _ = writeln!(state.out, "{time} {place}{line}");
        }
    }
}

impl Scope {
    fn lines(&mut self, event: &Event, verbose: bool, lines: &mut Vec<String>) {
        match event {
            Event::PhaseStarted { name } => {
                self.doing.clone_from(name);
                self.told = Some(Instant::now());
                lines.push(format!("{name} …"));
            }
            Event::Progress { done, total } => self.progress(*done, *total, lines),
            Event::PhaseEnded { elapsed } => lines.push(format!("{} done {}", self.doing, human_time(*elapsed))),
            Event::StepStarted { number, total, name, kind } => {
                let what = if *kind == "check" { "check" } else { "step" };
                self.doing = format!("{what} {number}/{total} {}", clean(name));
                lines.push(format!("{} …", self.doing));
            }
            Event::Output { bytes } if verbose => self.output(bytes, lines),
            Event::Output { .. } => {}
            Event::StepEnded { success, elapsed } => {
                if !self.rest.is_empty() {
                    let rest = std::mem::take(&mut self.rest);
                    lines.push(format!("| {}", clean(&String::from_utf8_lossy(&rest))));
                }
                let how = if *success { "ok" } else { "FAILED" };
                lines.push(format!("{} {how} {}", self.doing, human_time(*elapsed)));
            }
            Event::StepSkipped { name, reason } => lines.push(format!("check {} skipped: {reason}", clean(name))),
            Event::Note { text } => lines.push(clean(text)),
            Event::Warning { text } => lines.push(format!("warning: {}", clean(text))),
            Event::Finished { success, summary, elapsed } => {
                let how = if *success { "done" } else { "FAILED" };
                lines.push(format!("{how} after {}: {}", human_time(*elapsed), clean(summary)));
            }
        }
    }

    fn progress(&mut self, done: u64, total: Option<u64>, lines: &mut Vec<String>) {
        if self.told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        // A total of a hundred is a percentage.
        lines.push(match total {
            Some(100) => format!("{} {done} %", self.doing),
            Some(total) => format!("{} {} of {}", self.doing, human_bytes(done), human_bytes(total)),
            None => format!("{} {}", self.doing, human_bytes(done)),
        });
    }

    fn output(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(format!("| {}", clean(String::from_utf8_lossy(&line).trim_end())));
        }
        // A line without end must not take memory without end.
        if self.rest.len() > 64 << 10 {
            let line = std::mem::take(&mut self.rest);
            lines.push(format!("| {}", clean(&String::from_utf8_lossy(&line))));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// The events of a short bake.
    pub(in crate::report) fn a_bake() -> Vec<Event> {
        let time = Duration::from_millis(12_340);
        vec![
            Event::PhaseStarted { name: "launch the machine".to_owned() },
            Event::PhaseEnded { elapsed: time },
            Event::StepStarted { number: 1, total: 2, name: "install git".to_owned(), kind: "packages" },
            Event::Output { bytes: b"Reading\x1b[2J package lists\nhalf a ".to_vec() },
            Event::Output { bytes: b"line".to_vec() },
            Event::StepEnded { success: true, elapsed: time },
            Event::StepStarted { number: 2, total: 2, name: "evil\x1b]0;x\x07".to_owned(), kind: "run" },
            Event::StepEnded { success: false, elapsed: Duration::from_secs(125) },
            Event::StepSkipped { name: "the stack's user".to_owned(), reason: "only on aws".to_owned() },
            Event::Warning { text: "slow".to_owned() },
            Event::Finished { success: false, summary: "step 2 failed".to_owned(), elapsed: Duration::from_secs(140) },
        ]
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn told(verbose: bool, quiet: bool) -> String {
        let memory = Memory::default();
        let plain = Plain::new(Box::new(memory.clone()), Box::new(|| Timestamp::UNIX_EPOCH), verbose, quiet);
        for event in a_bake() {
            plain.event("builder (amd64)", &event);
        }
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_bake_in_plain_lines() {
        insta::assert_snapshot!(told(true, false));
    }

    #[test]
    fn quiet_leaves_warnings() {
        assert_eq!(told(true, true), "00:00:00Z builder (amd64)  warning: slow\n");
    }
}
