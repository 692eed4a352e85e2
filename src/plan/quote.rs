//! Values inside other languages: shell words, systemd arguments, TOML literals. Every value that a script, a unit or a
//! configuration file is given goes through one of these; nothing is ever pasted in bare.

use std::fmt::Write as _;

/// `text` as one word of a POSIX shell. Bare where that is plainly the same, so that scripts stay readable.
///
/// `text` holds no NUL: no shell can carry one (recipes refuse it, templates are asked by [`has_nul`]).
pub(crate) fn sh(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+:,./-=".contains(&byte);
    // A leading `=` means something to zsh, and people paste.
    if !text.is_empty() && text.bytes().all(bare) && !text.starts_with('=') {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Whether `text` can not be an argument of any program.
pub(super) fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// `text` as one argument in a unit's `ExecStart=` (systemd.service(5), "Command lines"): specifiers and variables are
/// not expanded, and it stays one argument on one line.
pub(super) fn systemd(text: &str) -> String {
    let bare = |char: char| char.is_ascii_alphanumeric() || "_@+:,./-=[]%$".contains(char);
    let mut escaped = String::with_capacity(text.len() + 2);
    for char in text.chars() {
        match char {
            '%' => escaped.push_str("%%"),
            '$' => escaped.push_str("$$"),
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            char if char.is_ascii_control() => _ = write!(escaped, "\\x{:02x}", u32::from(char)),
            char => escaped.push(char),
        }
    }
    if !text.is_empty() && text.chars().all(bare) { escaped } else { format!("\"{escaped}\"") }
}

/// `text` as a TOML basic string on one line: a value or a quoted key.
pub(super) fn toml(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for char in text.chars() {
        match char {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\t' => literal.push_str("\\t"),
            '\r' => literal.push_str("\\r"),
            char if char.is_ascii_control() => _ = write!(literal, "\\u{:04X}", u32::from(char)),
            char => literal.push(char),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shell_words_are_bare_where_that_is_the_same() {
        for (text, word) in [
            ("/etc/x.conf", "/etc/x.conf"),
            ("a=b", "a=b"),
            ("", "''"),
            ("=x", "'=x'"),
            ("~", "'~'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("é", "'é'"),
        ] {
            assert_eq!(sh(text), word);
        }
    }

    #[test]
    fn systemd_arguments() {
        for (text, argument) in [
            ("--root", "--root"),
            ("tcp://[::]:1234", "tcp://[::]:1234"),
            ("100%", "100%%"),
            ("$HOME", "$$HOME"),
            ("a b", "\"a b\""),
            ("say \"hi\"", r#""say \"hi\"""#),
            ("back\\slash", r#""back\\slash""#),
            ("two\nlines", r#""two\nlines""#),
            ("\u{1}", r#""\x01""#),
            (";", "\";\""),
            ("", "\"\""),
        ] {
            assert_eq!(systemd(text), argument);
        }
    }

    /// What bash makes of the words, one a NUL-ended record.
    fn through_bash(words: &str) -> Vec<u8> {
        let script = format!("printf '%s\\0' {words}");
        let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{script}");
        output.stdout
    }

    proptest! {
        // Each case starts a shell.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bash_reads_back_what_was_quoted(texts in proptest::collection::vec("[^\0]{0,12}|[ -~\n\t]{0,24}", 1..16)) {
            let words: Vec<String> = texts.iter().map(|text| sh(text)).collect();
            let expected: Vec<u8> = texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
            prop_assert_eq!(through_bash(&words.join(" ")), expected);
        }
    }

    proptest! {
        #[test]
        fn toml_reads_back_what_was_quoted(text in any::<String>(), key in any::<String>()) {
            let table: ::toml::Table = format!("{} = {}", toml(&key), toml(&text)).parse().unwrap();
            prop_assert_eq!(table[&key].as_str(), Some(text.as_str()));
        }
    }
}
