//! The one error type of the crate, its exit status, and the one renderer.
//!
//! A module builds an [`Error`] where it knows what failed and what the user can do about it; everything above only
//! passes it on. `Display` never embeds the source: the chain is printed by [`render`], one `caused by:` a line.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

/// How the process ends. The numbers are part of the command line's contract (DESIGN, rule 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Done,
    /// A step, a check or the bake itself failed.
    Failed,
    /// The command line or a recipe is wrong.
    Usage,
    /// Verification refused an artifact.
    Refused,
    /// The cloud or the host refused: no QEMU, no space, no permission, no network.
    Host,
    /// Done, but something that should be gone remains.
    Leftovers,
    /// `check`: something is out of date.
    OutOfDate,
    /// Interrupted by the user.
    Interrupted,
}

impl Exit {
    /// The process exit status.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Host => 4,
            Exit::Leftovers => 5,
            Exit::OutOfDate => 10,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// What a fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as a person reads it: what failed, why, and what to do next.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    exit: Exit,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure with the given exit status. `message` is a lower-case fragment without a full stop.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { exit, message: message.into(), detail: None, hint: None, source: None }))
    }

    /// A bake or a check failed (exit 1).
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command line or a recipe is wrong (exit 2).
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A fault in a file (exit 2): `path:line:column: message` with the line it is about. `span` is in bytes of `text`.
    #[must_use]
    pub fn at(path: &Path, text: &str, span: Option<Range<usize>>, message: &str) -> Self {
        let message = message.trim_end().replace('\n', ", ");
        let Some(start) = span.map(|span| text.floor_char_boundary(span.start)) else {
            return Self::usage(format!("{}: {message}", path.display()));
        };
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let number = text[..start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let line = text[line_start..].lines().next().unwrap_or_default();
        // A tab is as wide in the line as under it.
        let indent: String = line.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        let margin = " ".repeat(number.to_string().len());
        Self::usage(format!("{}:{number}:{column}: {message}", path.display()))
            .with_detail(format!(" {number} | {line}\n {margin} | {indent}^"))
    }

    /// Verification refused (exit 3).
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// The cloud or the host refused (exit 4).
    #[must_use]
    pub fn host(message: impl Into<String>) -> Self {
        Self::new(Exit::Host, message)
    }

    /// The user interrupted (exit 130).
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// What to do next: a sentence without a full stop.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The underlying failure.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// A ready-made block printed between the message and the causes (the faults of a recipe, the tail of an output).
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// How the process should end because of this.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.0.exit
    }

    /// What to do next, if known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The ready-made block, if any.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Turns a foreign error into ours where the caller knows what it was doing.
pub trait Context<T> {
    /// Exit 4: the host refused. `message` says what was being done.
    fn or_host(self, message: impl FnOnce() -> String) -> Result<T>;
    /// Exit 1: the bake failed.
    fn or_failed(self, message: impl FnOnce() -> String) -> Result<T>;
    /// Exit 2: the input is wrong.
    fn or_usage(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn or_host(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::host(message()).with_source(source))
    }

    fn or_failed(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::failed(message()).with_source(source))
    }

    fn or_usage(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::usage(message()).with_source(source))
    }
}

/// An error and its causes on one line, each said once.
#[must_use]
pub fn in_a_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let words = current.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = current.source();
    }
    text
}

/// The failure as it is printed on stderr: `error:`, the detail, `caused by:` lines, a `hint:` for each line of
/// the hint; ends with a newline.
#[must_use]
pub fn render(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    if let Some(detail) = error.detail() {
        text.push_str(detail.trim_end_matches('\n'));
        text.push('\n');
    }
    let mut shown = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let words = current.to_string();
        // Libraries often repeat their source's words in their own; one line says it.
        if !shown.ends_with(&words) {
            let _ = writeln!(text, "  caused by: {words}");
        }
        shown = words;
        cause = current.source();
    }
    for hint in error.hint().into_iter().flat_map(str::lines) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_message_detail_causes_and_hint_in_order() {
        let io = std::io::Error::other("disk on fire");
        let error =
            Error::host("cannot write dist/x").with_source(io).with_detail("  | detail").with_hint("free space");
        assert_eq!(
            render(&error),
            "error: cannot write dist/x\n  | detail\n  caused by: disk on fire\nhint: free space\n"
        );
        assert_eq!(error.exit().code(), 4);
    }

    #[test]
    fn a_cause_that_only_repeats_is_left_out() {
        let inner = Error::host("no route");
        let error = Error::host("connect: no route").with_source(inner);
        assert_eq!(render(&error), "error: connect: no route\n");
    }
}
