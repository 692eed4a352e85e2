//! Faults of an input file as a person reads them: place, offending line, what was expected, what may have been meant.
//! Used for recipes and for the lock; knows nothing of either.

use std::fmt::Write as _;
use std::ops::Range;

/// Where a fault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Bytes of the file.
    File(Range<usize>),
    /// The nth `--set` of the command line.
    Set(usize),
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub origin: Origin,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What was expected, or what to do: each a line of its own.
    pub notes: Vec<String>,
}

impl Fault {
    /// A fault at `origin`.
    pub fn new(origin: &Origin, message: impl Into<String>) -> Self {
        Self { origin: origin.clone(), message: message.into(), notes: Vec::new() }
    }

    /// Adds a line: `expected …`, `did you mean …`.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds what was probably meant, if one of `known` is near to `found`.
    #[must_use]
    pub fn nearest<'a>(self, found: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(found, known) {
            Some(near) => self.note(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

/// The one of `known` that `found` was probably meant to be: at most a third of its letters off.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(found, name), name)).min()?;
    (near.0 > 0 && near.0 <= (found.chars().count() / 3).max(1)).then_some(near.1)
}

/// All faults of one file, in the order of the file; those of `--set` come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file as the user named it.
    pub file: String,
    /// Its text.
    pub text: String,
    /// `key=value` as given with `--set`.
    pub overrides: Vec<String>,
    /// The faults.
    pub faults: Vec<Fault>,
}

impl Faults {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    /// Every fault with its place, its line and its notes; ends with a newline.
    #[must_use]
    pub fn render(&self) -> String {
        let mut faults: Vec<&Fault> = self.faults.iter().collect();
        faults.sort_by_key(|fault| match &fault.origin {
            Origin::Set(number) => (0, *number),
            Origin::File(span) => (1, span.start),
        });
        let mut out = String::new();
        for fault in faults {
            match &fault.origin {
                Origin::Set(number) => {
                    let given = self.overrides.get(*number).map_or("", String::as_str);
                    let _ = writeln!(out, "--set {}: {}", printable(given), printable(&fault.message));
                }
                Origin::File(span) => self.render_place(&mut out, span, &fault.message),
            }
            for note in &fault.notes {
                let _ = writeln!(out, "   = {}", printable(note));
            }
        }
        out
    }

    fn render_place(&self, out: &mut String, span: &Range<usize>, message: &str) {
        let place = Place::of(&self.text, span);
        let _ = writeln!(out, "{}:{}:{}: {}", self.file, place.line, place.column, printable(message));
        let number = place.line.to_string();
        let shown: String =
            place.text.chars().map(|c| if c == '\t' || !c.is_control() { c } else { '\u{fffd}' }).collect();
        let _ = writeln!(out, "{number} | {shown}");
        // A tab before the caret stays a tab, so that it lines up whatever a tab is wide.
        let pad: String = shown.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let _ = writeln!(out, "{} | {pad}{}", " ".repeat(number.len()), "^".repeat(place.width));
    }
}

/// Text without control characters, on one line.
fn printable(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Line and column as editors count them: from 1, in characters.
struct Place<'a> {
    line: usize,
    column: usize,
    width: usize,
    text: &'a str,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let floor = |mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (floor(span.start), floor(span.end));
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = &text[line_start..];
        let line = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let line_end = line_start + line.len();
        let marked = if start < end.min(line_end) { &text[start..end.min(line_end)] } else { "" };
        Self {
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: marked.chars().count().max(1),
            text: line,
        }
    }
}
