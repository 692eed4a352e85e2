//! Faults of a recipe: collected by the checks, sorted by position, told all at once.
//!
//! Owns their form. What is a fault is decided elsewhere.

use std::fmt::{self, Write as _};

use super::quantity::{Invalid, shown};
use super::source::{Sources, Span};
use crate::error::Error;

/// The most faults that are spelt out. A file that is no recipe at all has hundreds; the first tell enough.
pub(super) const MOST_SHOWN: usize = 100;

/// One fault, before it is put into words for its source.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Span,
    message: String,
    /// Beside the caret.
    label: String,
    /// Below the excerpt, as is `help`.
    expected: Option<String>,
    help: Option<String>,
    /// Something is not there. Means nothing where a part of the file could not be read.
    pub(super) missing: bool,
}

impl Fault {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), label: String::new(), expected: None, help: None, missing: false }
    }

    /// Something at `span` lacks what it needs.
    pub(super) fn missing(span: Span, message: impl Into<String>) -> Self {
        Self { missing: true, ..Self::new(span, message) }
    }

    /// `invalid`, found at `span`.
    pub(super) fn invalid(span: Span, invalid: &Invalid) -> Self {
        Self::new(span, invalid.to_string()).help(invalid.help())
    }

    /// Words beside the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// A line below the excerpt: `expected: …`.
    pub(super) fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.expected = Some(expected.to_string());
        self
    }

    /// A line below the excerpt: `help: …`.
    pub(super) fn help(mut self, help: Option<impl fmt::Display>) -> Self {
        self.help = help.map(|help| help.to_string());
        self
    }

    /// `did you mean …` beside the caret.
    pub(super) fn did_you_mean(mut self, guess: Option<&str>) -> Self {
        if let Some(guess) = guess {
            self.label = format!("did you mean `{}`?", shown(guess));
        }
        self
    }

    fn render(&self, sources: &Sources<'_>) -> String {
        let mut text = format!("{}: {}\n", sources.place(self.span), self.message);
        let excerpt = sources.excerpt(self.span, &self.label);
        let gutter = excerpt.find('|').unwrap_or(0);
        text.push_str(&excerpt);
        for (word, note) in [("expected", &self.expected), ("help", &self.help)] {
            if let Some(note) = note {
                let _ = writeln!(text, "{}= {word}: {note}", " ".repeat(gutter));
            }
        }
        text
    }
}

/// Every fault of a recipe, in the order of the file, those of `--set` last; at least one.
///
/// `Display` gives the blocks that [`crate::error::render`] prints: `file:line:column: message`, the line with a caret,
/// what was expected and what may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    what: String,
    /// At most [`MOST_SHOWN`].
    blocks: Vec<String>,
    count: usize,
}

impl Faults {
    pub(super) fn new(sources: &Sources<'_>, mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
        faults.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        let blocks = faults.iter().take(MOST_SHOWN).map(|fault| fault.render(sources)).collect();
        Self { what: sources.name.to_owned(), blocks, count: faults.len() }
    }

    /// Faults of a file that has no lines to show: a folder, no UTF-8.
    pub(super) fn whole_file(name: &str, message: &str) -> Self {
        Self { blocks: vec![format!("{name}: {message}\n")], what: name.to_owned(), count: 1 }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.blocks.join("\n"))?;
        match self.count - self.blocks.len() {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more\n"),
        }
    }
}

impl std::error::Error for Faults {}

impl From<Faults> for Error {
    fn from(faults: Faults) -> Self {
        let count = match faults.count() {
            1 => "a fault".to_owned(),
            n => format!("{n} faults"),
        };
        Error::usage(format!("{count} in recipe {}", faults.what)).with_detail(faults.to_string())
    }
}
