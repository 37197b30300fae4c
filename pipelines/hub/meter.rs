//! How far a download is: a bar on a terminal, a line every tenth otherwise.

use std::{
    cell::Cell,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::show::{megabytes, tell};

/// Fewest bytes that are worth a line, without a terminal.
const WORTH: u64 = 1_000_000;

/// Shows one download on standard error.
pub struct Meter {
    bar: Option<ProgressBar>,
    started: Instant,
    total: u64,
    done: Cell<u64>,
    /// Bytes that were there before, which say nothing of the speed.
    kept: Cell<u64>,
    /// Tenths that a line told of.
    said: Cell<u64>,
}

impl Meter {
    /// Of `total` bytes.
    pub fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(total));
        Self { bar, started: Instant::now(), total, done: 0.into(), kept: 0.into(), said: 0.into() }
    }

    /// Names the file that is under way.
    pub fn name(&self, path: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(path.to_owned());
        }
    }

    /// Counts bytes that an earlier run left.
    pub fn keep(&self, bytes: u64) {
        self.kept.set(self.kept.get() + bytes);
        self.set(self.done.get() + bytes);
    }

    /// Counts bytes that came.
    pub fn advance(&self, bytes: u64) {
        let done = self.done.get() + bytes;
        self.set(done);
        let tenth = done.saturating_mul(10) / self.total.max(1);
        if self.bar.is_none() && self.total >= WORTH && tenth > self.said.replace(tenth.max(self.said.get())) {
            tell(line(done, self.total, done.saturating_sub(self.kept.get()), self.started.elapsed()));
        }
    }

    /// Takes back bytes that were no good.
    pub fn lose(&self, bytes: u64) {
        self.set(self.done.get().saturating_sub(bytes));
    }

    /// Says something without disturbing the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    fn set(&self, done: u64) {
        self.done.set(done);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta} left")
        .expect("the template is a constant");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// `came` bytes took `elapsed`.
fn line(done: u64, total: u64, came: u64, elapsed: Duration) -> String {
    let share = done.saturating_mul(100) / total.max(1);
    let speed = came as f64 / elapsed.as_secs_f64().max(1e-3);
    format!("{share} %, {} of {}, {}/s", megabytes(done), megabytes(total), megabytes(speed as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_and_how_fast() {
        let text = line(30_000_000, 40_000_000, 10_000_000, Duration::from_secs(4));
        assert_eq!(text, "75 %, 30.0 MB of 40.0 MB, 2.5 MB/s");
        assert_eq!(line(0, 0, 0, Duration::ZERO), "0 %, 0.0 MB of 0.0 MB, 0.0 MB/s");
    }
}
