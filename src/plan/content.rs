//! A file's content: where it comes from, and how a script carries it, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Facts;
use super::template::Templates;
use crate::error::{Error, Result};

/// A line of base64, as RFC 2045 has it.
const BASE64_LINE: usize = 76;

/// What a `file` or `unit` step says of its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// The step, as messages call it.
    pub(super) step: &'a str,
    pub(super) content: Option<&'a str>,
    pub(super) asset: Option<&'a str>,
    pub(super) template: bool,
}

impl Source<'_> {
    /// The bytes that end up in the file.
    ///
    /// # Errors
    /// Exit 2: there is no such asset, or its template does not render.
    pub(super) fn resolve(&self, facts: &Facts, templates: &Templates) -> Result<Vec<u8>> {
        let (bytes, what) = match (self.content, self.asset) {
            (Some(content), None) => (content.as_bytes(), format!("the content of step `{}`", self.step)),
            (None, Some(asset)) => {
                let bytes = facts.assets.get(asset).ok_or_else(|| {
                    Error::usage(format!("step `{}`: there is no asset `{asset}`", self.step))
                        .with_hint("assets are files below the folder that the recipe's `assets` names")
                })?;
                (bytes.as_slice(), format!("template `{asset}`"))
            }
            _ => return Err(Error::usage(format!("step `{}` needs exactly one of `content` and `asset`", self.step))),
        };
        if !self.template {
            return Ok(bytes.to_vec());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Error::usage(format!("{what} is not text"))
                .with_source(error)
                .with_hint("take `template = true` away for a binary file")
        })?;
        Ok(templates.render(&what, text)?.into_bytes())
    }
}

/// The definition of a shell function `content` that prints `bytes`: legible where they are text, else in base64.
pub(super) fn function(bytes: &[u8]) -> String {
    let (command, mut body) = match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(legible) => (format!("head --bytes={}", bytes.len()), text.to_owned()),
        _ => ("base64 --decode".to_owned(), base64_lines(bytes)),
    };
    let mut mark = "AMIBAKE_CONTENT".to_owned();
    while body.lines().any(|line| line == mark) {
        mark.push('_');
    }
    // The here-document needs an end of line that the file may not have: that is why its bytes are counted.
    if !body.is_empty() && !body.ends_with('\n') {
        body.push('\n');
    }
    format!("content() {{\n    {command} <<'{mark}'\n{body}{mark}\n}}\n")
}

/// Whether a character is the same to bash, to a terminal and to a reader: no control characters (bash uses two of them
/// itself) and nothing that reorders a line.
fn legible(char: char) -> bool {
    match char {
        '\n' | '\t' => true,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => false,
        char => !char.is_control(),
    }
}

fn base64_lines(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let mut lines = String::with_capacity(text.len() + text.len() / BASE64_LINE + 1);
    for (index, char) in text.chars().enumerate() {
        if index > 0 && index % BASE64_LINE == 0 {
            lines.push('\n');
        }
        lines.push(char);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(bytes: &[u8]) -> Vec<u8> {
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), format!("set -euo pipefail\n{}content\n", function(bytes))).unwrap();
        let output = std::process::Command::new("bash").arg(script.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn text_stays_legible_and_anything_else_is_base64() {
        assert_eq!(
            function(b"a $(b) 'c'\nd"),
            "content() {\n    head --bytes=12 <<'AMIBAKE_CONTENT'\na $(b) 'c'\nd\nAMIBAKE_CONTENT\n}\n"
        );
        for bytes in [&b"\xff"[..], b"a\0b", b"a\rb", b"\x01", b"\x1b[31m", "evil\u{202e}txt".as_bytes()] {
            assert!(function(bytes).contains("base64"), "{bytes:?}");
        }
    }

    #[test]
    fn content_arrives_byte_for_byte() {
        let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
        // Larger than a pipe holds: bash then writes here-documents to a file.
        let large = "line \\ $x `y`\n".repeat(20_000);
        for bytes in [
            &b""[..],
            b"\n",
            b"\n\n",
            b"no end",
            b"AMIBAKE_CONTENT\nAMIBAKE_CONTENT_\nEOF\n",
            b"AMIBAKE_CONTENT",
            b"back\\\nslash\\",
            b"'\"$(reboot)`reboot`${x}\\$\n",
            "é😀\t\n".as_bytes(),
            b"\r\n",
            &all,
            large.as_bytes(),
        ] {
            assert!(printed(bytes) == bytes, "{:?}", &bytes[..bytes.len().min(40)]);
        }
    }

    proptest! {
        // Each case starts a shell.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_bytes_arrive(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "(\\PC|\n){0,60}") {
            prop_assert_eq!(&printed(&bytes), &bytes);
            prop_assert_eq!(printed(text.as_bytes()), text.as_bytes());
        }
    }
}
