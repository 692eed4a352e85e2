//! "Did you mean": the one word of those that exist which a misspelt word most likely stands for.

/// What other tools call it.
const SYNONYMS: &[(&str, &str)] = &[
    ("x86-64", "amd64"),
    ("aarch64", "arm64"),
    ("shell", "run"),
    ("script", "run"),
    ("bash", "run"),
    ("command", "run"),
    ("command", "script"),
    ("inline", "script"),
    ("apt", "packages"),
    ("dnf", "packages"),
    ("yum", "packages"),
    ("yum", "dnf"),
    ("copy", "file"),
    ("template", "file"),
    ("service", "unit"),
    ("systemd", "unit"),
    ("ram", "memory"),
    ("source", "asset"),
    ("src", "asset"),
    ("dest", "path"),
    ("destination", "path"),
    ("permissions", "mode"),
    ("everything", "all"),
    ("qemu", "local"),
    ("ec2", "aws"),
];

/// The word of `words` nearest to `typed`, if one is near enough to be a slip of the finger and not another word.
pub(super) fn nearest<'w>(typed: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let plain = |word: &str| word.to_lowercase().replace(['_', ' ', '.'], "-");
    let typed = plain(typed);
    // Distances grow with the square of the length; no key or name is as long as this.
    if typed.len() > 100 {
        return None;
    }
    let words: Vec<_> = words.into_iter().collect();
    let known = SYNONYMS.iter().find(|(other, meant)| *other == typed && words.contains(meant));
    if let Some((_, meant)) = known {
        return Some(meant);
    }
    words
        .into_iter()
        .map(|word| (distance(&typed, &plain(word)), word))
        .filter(|(distance, word)| *distance <= (word.chars().count().max(typed.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn distance(typed: &str, word: &str) -> usize {
    // `timeout_secs` for `timeout`, `steps` for `step`, `disk-size` for `disk`: the word with more said.
    let longer = typed.strip_prefix(word).is_some_and(|rest| rest == "s" || rest.starts_with('-'));
    if longer { 1 } else { strsim::osa_distance(typed, word) }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let keys = ["port", "address", "max_parallelism", "volume", "step", "name"];
        for (typed, meant) in [
            ("prot", Some("port")),
            ("Port", Some("port")),
            ("adress", Some("address")),
            ("max-parallelism", Some("max_parallelism")),
            ("volumes", Some("volume")),
            ("steps", Some("step")),
            ("ram", None),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
        assert_eq!(nearest("shell", ["packages", "run"]), Some("run"));
        assert_eq!(nearest("x86_64", ["amd64", "arm64"]), Some("amd64"));
        assert_eq!(nearest(&"p".repeat(1 << 20), keys), None);
    }
}
