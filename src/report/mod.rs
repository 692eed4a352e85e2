//! What a person, a pipe or a program reads: progress bars, plain lines, JSON, logs, manifests. The only place that prints,
//! and the only user of indicatif. Decides nothing and fails nothing: what cannot be written is not worth a bake.
//!
//! stdout is data, stderr is talk.

mod clean;
mod log;
mod manifest;
mod plain;
mod summary;
mod table;
mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use clean::clean;
pub use log::FileLog;
pub(crate) use manifest::milliseconds;
pub use manifest::{BOOTED, CheckRecord, MANIFEST, Manifest, StepRecord, Times};
pub use plain::Plain;
pub use summary::{Row, summary};
pub use table::table;
pub use terminal::Terminal;

use crate::bake::Sink;
use crate::error::{self, Error};

/// Whether to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How talk is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Talk {
    /// Colours.
    pub color: Color,
    /// Stream all output of the machines.
    pub verbose: bool,
    /// Only warnings and errors.
    pub quiet: bool,
}

impl Talk {
    fn colors(self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stderr().is_terminal()),
        }
    }

    /// The listener for a person or a pipe at stderr: bars on a terminal, timestamped lines elsewhere and in CI.
    #[must_use]
    pub fn sink(self) -> Arc<dyn Sink> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
        if std::io::stderr().is_terminal() && !dumb && !ci && !self.quiet {
            Arc::new(Terminal::new(self.colors(), self.verbose))
        } else {
            Arc::new(Plain::stderr(self.verbose, self.quiet))
        }
    }

    /// A failure on stderr.
    pub fn error(self, failure: &Error) {
        let mut text = error::render(failure);
        if self.colors() {
            for (word, color) in [("error:", "31"), ("hint:", "36")] {
                text = paint(&text, word, color);
            }
        }
        say(text.trim_end());
    }
}

/// Colours `word` where a line begins with it.
fn paint(text: &str, word: &str, color: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix(word) {
        Some(rest) => format!("\x1b[1;{color}m{word}\x1b[0m{rest}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// Whether data was lost on its way to stdout.
static LOST: AtomicBool = AtomicBool::new(false);

/// Data on stdout. A reader that went away (`| head`) is not a failure of ours; a full disk is, and [`lost`] says so.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{end}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            LOST.store(true, Ordering::Relaxed);
            say(&format!("error: cannot write to stdout: {error}"));
        }
        _ => {}
    }
}

/// Whether something that was printed did not arrive.
#[must_use]
pub fn lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Data on stdout as JSON.
pub fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&text),
        Err(error) => say(&format!("error: cannot write JSON: {error}")),
    }
}

/// A line on stderr.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A question on stderr; the answer comes on the same line.
pub fn prompt(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// A failure as `--json` gives it.
#[must_use]
pub fn error_json(failure: &Error) -> serde_json::Value {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(failure);
    while let Some(current) = cause {
        causes.push(current.to_string());
        cause = current.source();
    }
    serde_json::json!({
        "message": failure.to_string(),
        "exit": failure.exit().code(),
        "detail": failure.detail(),
        "causes": causes,
        "hint": failure.hint(),
    })
}

/// Bytes as a person reads them.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A duration as a person reads it: `12.3 s`, `2 min 05 s`.
#[must_use]
pub fn human_time(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=59 => format!("{:.1} s", time.as_secs_f64()),
        60..=3599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}
