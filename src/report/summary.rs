//! Results as Markdown: what a job's summary or annotation shows.

use std::fmt::Write as _;

/// One result.
#[derive(Debug, Clone)]
pub struct Row {
    /// Recipe.
    pub recipe: String,
    /// Architecture.
    pub arch: String,
    /// BuildKit, and who vouches for it.
    pub buildkit: String,
    /// The image, if there is one.
    pub image: Option<String>,
    /// How it ended.
    pub result: String,
}

/// A table of Markdown (GitHub's form, which Buildkite shows as well).
#[must_use]
pub fn summary(rows: &[Row]) -> String {
    let mut text = "| recipe | arch | BuildKit | image | result |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        let image = row.image.as_deref().map_or_else(|| "-".to_owned(), |image| format!("`{}`", cell(image)));
        let (recipe, arch, buildkit) = (cell(&row.recipe), cell(&row.arch), cell(&row.buildkit));
        let _ = writeln!(text, "| {recipe} | {arch} | {buildkit} | {image} | {} |", cell(&row.result));
    }
    text
}

/// One line, with nothing in it that ends a cell or is markup.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for char in super::clean(&text.replace('\n', " ")).chars() {
        match char {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' => {
                out.push('\\');
                out.push(char);
            }
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_said_cannot_leave_its_cell() {
        let row = Row {
            recipe: "agent".into(),
            arch: "amd64".into(),
            buildkit: "v0.31.2 (signature)".into(),
            image: Some("ami-0123".into()),
            result: "failed | <b>\n`x` [a](b)".into(),
        };
        let text = summary(&[row.clone(), Row { image: None, result: "baked".into(), ..row }]);
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains(r"failed \| \<b\> \`x\` \[a\](b)"), "{text}");
    }
}
