//! Rows under a heading, for a person.

use unicode_width::UnicodeWidthStr as _;

/// One line for each row, its cells aligned; the first row is the heading. Two spaces between columns, none at the end.
#[must_use]
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let gap = " ".repeat(width - cell.width());
            format!("{cell}{gap}")
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_whatever_they_are_made_of() {
        let rows = [["A", "B"], ["é", "x"], ["日本", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A     B\né     x\n日本");
    }
}
