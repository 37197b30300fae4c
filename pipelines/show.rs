//! Times and sizes as people read them.

use std::{fmt, io::Write as _};

use comfy_table::{LineStyle, Table, TableStyle};
use describe_models::time::SECOND;

/// A header, a line, and a row each.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(header);
    table.add_rows(rows);
    table.trim_fmt()
}

/// A line on standard output; when nobody listens any more, that is no failure.
pub fn print(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on standard error, which may be a file on a full disk.
pub fn tell(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `1:02:03`, or `2:03` below an hour.
pub fn clock(ns: u64) -> String {
    let seconds = ns / SECOND;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Megabytes (1e6 bytes) with one decimal.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_space_at_the_end_of_its_lines() {
        let text = table(["piece", "size"], [["shots".into(), megabytes(8_927_869)]]);
        assert_eq!(
            text.lines().map(str::trim).collect::<Vec<_>>(),
            ["piece   size", "────────────────", "shots   8.9 MB"]
        );
        assert!(text.lines().all(|line| line.trim_end() == line));
    }

    #[test]
    fn times_read_like_a_clock() {
        let shown = [0, 59_999_999_999, 61 * SECOND, 3_661 * SECOND, 100 * 3600 * SECOND].map(clock);
        assert_eq!(shown, ["0:00", "0:59", "1:01", "1:01:01", "100:00:00"]);
    }
}
