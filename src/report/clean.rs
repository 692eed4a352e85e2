//! Text of a machine made fit for a person's terminal.

/// Characters of a line a failure shows.
const LINE_CHARS: usize = 240;

/// A line as it may be shown: no control sequences (a machine's output must not drive the user's terminal), what a
/// carriage return overwrote left out, and not without end.
pub(crate) fn clean(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut shown = String::new();
    let mut count = 0;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => skip_sequence(&mut chars),
            '\t' => shown.push_str("    "),
            // Direction marks can make a line read as something else.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            char if char.is_control() => {}
            char => {
                shown.push(char);
                count += 1;
            }
        }
        if count == LINE_CHARS {
            shown.push('…');
            break;
        }
    }
    shown.truncate(shown.trim_end().len());
    shown
}

/// Takes the rest of a control sequence (ECMA-48): CSI up to its final byte, a string up to its terminator, or one
/// character.
fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => drop(chars.find(|char| ('\x40'..='\x7e').contains(char))),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(char) = chars.next() {
                if char == '\x07' || (char == '\x1b' && chars.next().is_some()) {
                    break;
                }
            }
        }
        Some('(' | ')' | '#' | '%') => drop(chars.next()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_fit_for_a_terminal() {
        for (raw, shown) in [
            ("plain", "plain"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link", "link"),
            ("10%\r50%\r100%\r", "100%"),
            ("a\tb\x07\x00\x08", "a    b"),
            ("\x1b(Bascii", "ascii"),
            ("open\x1b[", "open"),
            ("evil\u{202e}txt", "eviltxt"),
            ("", ""),
        ] {
            assert_eq!(clean(raw), shown, "{raw:?}");
        }
        assert_eq!(clean(&"x".repeat(5000)).chars().count(), LINE_CHARS + 1);
    }
}
