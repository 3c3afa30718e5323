//! The table at the end.

use std::fmt::Write as _;
use std::time::Duration;

/// What one fault came to.
pub(super) struct Row {
    pub(super) fault: &'static str,
    /// Longest time that nobody answered a client.
    pub(super) gap: Duration,
    /// Time with two owners among the directors.
    pub(super) two: Duration,
    /// Time with the legacy peer beside a director; `None`: it took no part.
    pub(super) legacy: Option<Duration>,
    pub(super) note: String,
}

const HEAD: [&str; 5] = ["fault", "longest gap", "two owners", "legacy too", ""];

pub(super) fn render(rows: &[Row]) -> String {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let legacy = row.legacy.map_or_else(|| "-".to_owned(), milliseconds);
            [row.fault.to_owned(), milliseconds(row.gap), milliseconds(row.two), legacy, row.note.clone()]
        })
        .collect();
    let width = |column: usize| {
        let all = cells.iter().map(|row| row[column].chars().count());
        all.chain([HEAD[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    let mut line = |row: [&str; 5]| {
        let [a, b, c, d, e] = row;
        let [wa, wb, wc, wd, _] = widths;
        let padded = format!("{a:wa$}   {b:>wb$}   {c:>wc$}   {d:>wd$}   {e}");
        // Writing to a String cannot fail.
        writeln!(text, "{}", padded.trim_end()).ok();
    };
    line(HEAD);
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line([&rules[0], &rules[1], &rules[2], &rules[3], ""]);
    for row in &cells {
        line(row.each_ref().map(String::as_str));
    }
    text
}

pub(super) fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_a_legacy_peer_that_took_no_part_is_a_dash() {
        let row = |fault, gap, legacy| Row {
            fault,
            gap: Duration::from_millis(gap),
            two: Duration::ZERO,
            legacy,
            note: String::new(),
        };
        let text = render(&[row("steady", 0, Some(Duration::ZERO)), row("frozen for 6 s", 1032, None)]);
        let ends: Vec<Option<usize>> = text.lines().skip(2).map(|line| line.find(" ms")).collect();
        assert_eq!(ends[0], ends[1]);
        assert!(text.lines().nth(3).is_some_and(|line| line.ends_with('-')));
    }
}
