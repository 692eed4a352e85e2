//! Events on a terminal: what is done stays as a line, what runs has a spinner, its time and its last lines of output.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{clean, human_time};
use crate::bake::{Event, Sink};

/// Lines of output shown below the running step.
const TAIL: usize = 3;

/// Draws on stderr.
pub struct Terminal {
    bars: MultiProgress,
    scopes: Mutex<HashMap<String, Scope>>,
    colors: bool,
    verbose: bool,
    unicode: bool,
}

#[derive(Default)]
struct Scope {
    bar: Option<ProgressBar>,
    tail_bar: Option<ProgressBar>,
    doing: String,
    tail: Vec<String>,
    rest: Vec<u8>,
}

/// How a line that stays begins.
enum Mark {
    Good,
    Bad,
    Skipped,
    Note,
}

impl Terminal {
    /// With or without colours; `verbose` lets all output scroll by.
    #[must_use]
    pub fn new(colors: bool, verbose: bool) -> Self {
        Self::on(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), colors, verbose, has_unicode())
    }

    fn on(bars: MultiProgress, colors: bool, verbose: bool, unicode: bool) -> Self {
        Self { bars, scopes: Mutex::new(HashMap::new()), colors, verbose, unicode }
    }

    fn line(&self, scope: &str, mark: &Mark, text: &str) {
        let (sign, plain, color) = match mark {
            Mark::Good => ("✓", "ok", "32"),
            Mark::Bad => ("✗", "FAILED", "31"),
            Mark::Skipped => ("-", "-", "33"),
            Mark::Note => ("·", "*", "2"),
        };
        let sign = if self.unicode { sign } else { plain };
        let sign = if self.colors { format!("\x1b[{color}m{sign}\x1b[0m") } else { sign.to_owned() };
        let place = if scope.is_empty() { String::new() } else { format!("{scope}  ") };
        let _ = self.bars.println(format!("{sign} {place}{text}"));
    }

    /// Puts a spinner on what begins now.
    fn begin(&self, scope: &str, state: &mut Scope, doing: String) {
        state.clear();
        let ticks = if self.unicode { "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ " } else { "|/-\\ " };
        let place = if scope.is_empty() { String::new() } else { format!("{scope}  ") };
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style.tick_chars(ticks));
        }
        bar.set_message(format!("{place}{doing}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        let tail = self.bars.insert_after(&bar, ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template(if self.colors { "{msg:.dim}" } else { "{msg}" }) {
            tail.set_style(style);
        }
        *state = Scope { bar: Some(bar), tail_bar: Some(tail), doing, ..Scope::default() };
    }

    fn progress(&self, scope: &str, state: &mut Scope, done: u64, total: Option<u64>) {
        let Some(bar) = &state.bar else { return };
        if bar.length().is_none() {
            let template = match total {
                Some(100) => "{spinner} {msg} [{bar:24}] {percent} %",
                Some(_) => {
                    "{spinner} {msg} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}"
                }
                None => "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(if self.unicode { style.progress_chars("━━ ") } else { style.progress_chars("##-") });
            }
            bar.set_message(format!("{scope}  {}", state.doing));
        }
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    fn output(&self, scope: &str, state: &mut Scope, bytes: &[u8]) {
        state.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = state.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = state.rest.drain(..=end).collect();
            lines.push(clean(String::from_utf8_lossy(&line).trim_end()));
        }
        // A line without end must not take memory without end: it is shown in pieces.
        if state.rest.len() > 64 << 10 {
            lines.push(clean(&String::from_utf8_lossy(&std::mem::take(&mut state.rest))));
        }
        lines.retain(|line| !line.is_empty());
        if self.verbose {
            for line in &lines {
                let _ = self.bars.println(format!("  {scope}  | {line}"));
            }
            return;
        }
        state.tail.extend(lines);
        let drop = state.tail.len().saturating_sub(TAIL);
        state.tail.drain(..drop);
        if let Some(bar) = &state.tail_bar {
            let width = columns() - 8;
            let shown: Vec<String> =
                state.tail.iter().map(|line| format!("    {}", line.chars().take(width).collect::<String>())).collect();
            bar.set_message(shown.join("\n"));
        }
    }
}

impl Terminal {
    /// The last line of an output may have no end: it is shown when nothing can follow any more.
    fn flush(&self, scope: &str, state: &mut Scope) {
        let rest = clean(String::from_utf8_lossy(&std::mem::take(&mut state.rest)).trim_end());
        if self.verbose && !rest.is_empty() {
            let _ = self.bars.println(format!("  {scope}  | {rest}"));
        }
    }
}

impl Scope {
    fn clear(&mut self) {
        for bar in [self.bar.take(), self.tail_bar.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
        self.tail.clear();
        self.rest.clear();
    }
}

impl Sink for Terminal {
    fn event(&self, scope: &str, event: &Event) {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let state = scopes.entry(scope.to_owned()).or_default();
        match event {
            Event::PhaseStarted { name } => self.begin(scope, state, name.clone()),
            Event::Progress { done, total } => self.progress(scope, state, *done, *total),
            Event::PhaseEnded { elapsed } => {
                state.clear();
                self.line(scope, &Mark::Good, &format!("{}  {}", state.doing, human_time(*elapsed)));
            }
            Event::StepStarted { number, total, name, kind } => {
                let what = if *kind == "check" { "check " } else { "" };
                self.begin(scope, state, format!("{what}{number}/{total} {}", clean(name)));
            }
            Event::Output { bytes } => self.output(scope, state, bytes),
            Event::StepEnded { success, elapsed } => {
                self.flush(scope, state);
                state.clear();
                let mark = if *success { Mark::Good } else { Mark::Bad };
                self.line(scope, &mark, &format!("{}  {}", state.doing, human_time(*elapsed)));
            }
            Event::StepSkipped { name, reason } => {
                self.line(scope, &Mark::Skipped, &format!("skipped: {} ({reason})", clean(name)));
            }
            Event::Note { text } => self.line(scope, &Mark::Note, &clean(text)),
            Event::Warning { text } => self.line(scope, &Mark::Skipped, &format!("warning: {}", clean(text))),
            Event::Finished { success, summary, elapsed } => {
                state.clear();
                let mark = if *success { Mark::Good } else { Mark::Bad };
                self.line(scope, &mark, &format!("{}  {}", clean(summary), human_time(*elapsed)));
            }
        }
    }
}

/// Columns of the terminal at stderr.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.map_or(80, |size| usize::from(size.ws_col)).max(40)
}

/// Whether the locale says UTF-8 (locale(7): the first of these that is set counts).
fn has_unicode() -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    locale.is_some_and(|locale| locale.to_uppercase().replace('-', "").contains("UTF8"))
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    #[test]
    fn a_bake_on_a_terminal() {
        let screen = InMemoryTerm::new(20, 80);
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        let terminal = Terminal::on(bars, false, false, false);
        for event in crate::report::plain::tests::a_bake() {
            terminal.event("builder (amd64)", &event);
        }
        insta::assert_snapshot!(screen.contents());
    }
}
