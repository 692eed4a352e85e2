//! Where a recipe's text came from, and how a place in it is shown: `file:line:column`, the line, a caret.
//!
//! Owns positions and excerpts. A span may lie in the file or in one `--set`; both are shown alike.

use std::ops::Range;

use unicode_width::UnicodeWidthChar as _;

use super::quantity::{printable, secret_in, shown};

/// The largest recipe that is read, in bytes. Recipes are a few KiB; this stops a disk image given by mistake.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// Excerpts are cut to about this many columns around the fault, so that a minified line stays readable.
const EXCERPT_WIDTH: usize = 110;

/// Columns kept before the caret when a line is cut.
const EXCERPT_LEAD: usize = 50;

/// A range of bytes in one of the texts of [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Span {
    /// 0: the file; n: the n-th `--set`, from 1.
    pub(super) source: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// A range of the file.
    pub(super) fn file(range: Range<usize>) -> Self {
        Self { source: 0, start: range.start, end: range.end }
    }

    /// Whether it lies in a `--set`.
    pub(super) fn is_override(self) -> bool {
        self.source > 0
    }
}

/// The file and the `--set`s of one recipe.
#[derive(Debug)]
pub(super) struct Sources<'t> {
    /// As the user knows the file.
    pub(super) name: &'t str,
    /// Its text, without a byte order mark.
    pub(super) text: &'t str,
    /// `key=value`, in the order given.
    pub(super) overrides: &'t [String],
    /// Where the lines of `text` start.
    lines: Vec<usize>,
}

impl<'t> Sources<'t> {
    pub(super) fn new(name: &'t str, text: &'t str, overrides: &'t [String]) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name, text, overrides, lines }
    }

    fn text_of(&self, span: Span) -> &str {
        match span.source {
            0 => self.text,
            n => self.overrides.get(n - 1).map_or("", String::as_str),
        }
    }

    /// The text at `span`.
    pub(super) fn slice(&self, span: Span) -> &str {
        self.text_of(span).get(span.start..span.end).unwrap_or_default()
    }

    /// Line of a byte of the file, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// Where the line that holds a byte of the file starts.
    pub(super) fn line_start(&self, offset: usize) -> usize {
        self.lines[self.line(offset) - 1]
    }

    /// `file:line:column`, both from 1 and the column in characters; for a `--set`, itself.
    pub(super) fn place(&self, span: Span) -> String {
        if span.is_override() {
            return format!("--set {}", shown(self.text_of(span)));
        }
        let line = line_around(self.text, span.start);
        let column =
            self.text[line.start..self.text.floor_char_boundary(span.start).max(line.start)].chars().count() + 1;
        format!("{}:{}:{column}", self.name, self.line(span.start))
    }

    /// The line of `span` and its underlining with `label`, in the gutter the compiler uses.
    pub(super) fn excerpt(&self, span: Span, label: &str) -> String {
        let text = self.text_of(span);
        let range = line_around(text, span.start);
        let start = text.floor_char_boundary(span.start).clamp(range.start, range.end);
        let end = text.floor_char_boundary(span.end).clamp(start, range.end);
        let (number, prefix) = match span.source {
            0 => (self.line(span.start).to_string(), ""),
            _ => (String::new(), "--set "),
        };
        let secret = secret_in(&text[range.clone()]);
        let secret = range.start + secret.start..range.start + secret.end;
        let before = columns(text, range.start..start, &secret);
        let marked = columns(text, start..end, &secret);
        let after = columns(text, end..range.end, &secret);
        let (line, lead, carets) = cut(prefix, before, marked, after);
        let gutter = " ".repeat(number.len());
        let under = format!("{gutter} | {}{} {label}", " ".repeat(lead), "^".repeat(carets.max(1)));
        format!("{gutter} |\n{number} | {line}\n{}\n", under.trim_end())
    }
}

/// The line of `text` that holds byte `offset`, without its line end.
fn line_around(text: &str, offset: usize) -> Range<usize> {
    let offset = text.floor_char_boundary(offset);
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let carriage = text[start..end].ends_with('\r');
    start..(end - usize::from(carriage))
}

/// A part of `text` as printed, one entry a character with its width in columns: tabs as four spaces, control
/// characters escaped, secrets starred.
fn columns(text: &str, part: Range<usize>, secret: &Range<usize>) -> Vec<(String, usize)> {
    let shown = |(at, c): (usize, char)| match c {
        _ if secret.contains(&(part.start + at)) => ("*".to_owned(), 1),
        '\t' => ("    ".to_owned(), 4),
        c => {
            let text: String = printable(c).collect();
            let width = text.chars().map(|c| c.width().unwrap_or(0)).sum();
            (text, width)
        }
    };
    text[part.clone()].char_indices().map(shown).collect()
}

fn width(columns: &[(String, usize)]) -> usize {
    columns.iter().map(|(_, width)| width).sum()
}

/// The line to print, the columns before the caret, and the number of carets.
fn cut(
    prefix: &str,
    mut before: Vec<(String, usize)>,
    mut marked: Vec<(String, usize)>,
    mut after: Vec<(String, usize)>,
) -> (String, usize, usize) {
    let mut head = prefix.to_owned();
    if prefix.len() + width(&before) + width(&marked) + width(&after) > EXCERPT_WIDTH {
        if width(&before) > EXCERPT_LEAD {
            let mut excess = width(&before) - EXCERPT_LEAD;
            let over = |(_, width): &&(String, usize)| {
                let drop = excess > 0;
                excess = excess.saturating_sub(*width);
                drop
            };
            let dropped = before.iter().take_while(over).count();
            before.drain(..dropped);
            head.push('…');
        }
        let mut room = EXCERPT_WIDTH - EXCERPT_LEAD;
        for part in [&mut marked, &mut after] {
            let fits = part.iter().scan(0, |sum, (_, width)| {
                *sum += width;
                Some(*sum)
            });
            let keep = fits.take_while(|sum| *sum <= room).count();
            let dropped = keep < part.len();
            part.truncate(keep);
            room -= width(part);
            if dropped {
                part.push(("…".to_owned(), 1));
                room = 0;
            }
        }
    }
    let lead = head.chars().count() + width(&before);
    let join = |part: &[(String, usize)]| part.iter().map(|(text, _)| text.as_str()).collect::<String>();
    let line = format!("{head}{}{}{}", join(&before), join(&marked), join(&after));
    (line.trim_end().to_owned(), lead, width(&marked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sources(text: &str) -> Sources<'_> {
        Sources::new("r.toml", text, &[])
    }

    #[test]
    fn the_caret_stands_under_wide_characters_and_tabs() {
        let text = "a = 1\n\tb = \"漢字\" # é\n";
        let at = text.find("漢字").unwrap();
        let span = Span::file(at..at + "漢字".len());
        assert_eq!(sources(text).place(span), "r.toml:2:7");
        assert_eq!(sources(text).excerpt(span, "here"), "  |\n2 |     b = \"漢字\" # é\n  |          ^^^^ here\n");
    }

    #[test]
    fn terminal_escapes_are_not_passed_on() {
        let text = "a = \"\u{1b}[31m\u{202e}\"";
        let excerpt = sources(text).excerpt(Span::file(4..text.len()), "");
        assert!(!excerpt.contains(['\u{1b}', '\u{202e}']), "{excerpt:?}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_fault() {
        let text = format!("a = \"{}\" b", "x".repeat(5000));
        let excerpt = sources(&text).excerpt(Span::file(text.len() - 1..text.len()), "here");
        assert!(excerpt.lines().all(|line| line.chars().count() < 130), "{excerpt}");
        let lines: Vec<_> = excerpt.lines().collect();
        assert_eq!(lines[1].chars().position(|c| c == 'b'), lines[2].chars().position(|c| c == '^'));
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_can_be_shown(text in "(?s).{0,60}", start in 0usize..200, len in 0usize..200) {
            let span = Span::file(start..start + len);
            let excerpt = sources(&text).excerpt(span, "x");
            prop_assert!(excerpt.contains('^'));
            prop_assert!(sources(&text).place(span).starts_with("r.toml:"));
        }
    }
}
