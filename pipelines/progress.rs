//! How far a run is: a bar on a terminal, a line every tenth otherwise.

use std::{
    fmt,
    io::IsTerminal,
    time::{Duration, Instant},
};

use describe_models::time::SECOND;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::{
    player::Position,
    show::{clock, tell},
};

/// Media time between two lines where the length is not known.
const LINE_NS: u64 = 30 * SECOND;

/// Shows one run on standard error.
pub struct Progress {
    name: String,
    started: Instant,
    how: How,
}

enum How {
    Silent,
    Bar(ProgressBar),
    Lines { next_ns: u64 },
}

impl Progress {
    /// Of the input `name`; `quiet` shows nothing.
    pub fn new(name: &str, quiet: bool) -> Self {
        let how = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => How::Silent,
            (false, true) => How::Bar(bar(name)),
            (false, false) => How::Lines { next_ns: 0 },
        };
        Self { name: name.to_owned(), started: Instant::now(), how }
    }

    /// Shows where the run is.
    pub fn at(&mut self, position: Position) {
        let elapsed = self.started.elapsed();
        match &mut self.how {
            How::Silent => {}
            How::Bar(bar) => {
                if let Some(duration_ns) = position.duration_ns {
                    bar.set_length(duration_ns);
                }
                bar.set_position(position.at_ns);
            }
            How::Lines { next_ns } if position.at_ns >= *next_ns => {
                if position.at_ns > 0 {
                    tell(format_args!("{}: {}", self.name, line(position, elapsed)));
                }
                let step_ns = position.duration_ns.map_or(LINE_NS, |duration_ns| (duration_ns / 10).max(SECOND));
                *next_ns = (position.at_ns / step_ns + 1) * step_ns;
            }
            How::Lines { .. } => {}
        }
    }

    /// Says something without disturbing the bar.
    pub fn say(&self, text: &str) {
        match &self.how {
            How::Silent => {}
            How::Bar(bar) => bar.suspend(|| tell(text)),
            How::Lines { .. } => tell(text),
        }
    }

    /// Takes the bar away; gives the time that passed.
    pub fn end(self) -> Duration {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

/// Media time a second of wall time; 0 at the very start.
pub fn speed(media_ns: u64, elapsed: Duration) -> f64 {
    match elapsed.as_secs_f64() {
        seconds if seconds > 0.0 => media_ns as f64 / SECOND as f64 / seconds,
        _ => 0.0,
    }
}

fn bar(name: &str) -> ProgressBar {
    let fact = |text: fn(Position, Duration) -> String| {
        move |state: &ProgressState, f: &mut dyn fmt::Write| {
            let position = Position { at_ns: state.pos(), duration_ns: state.len() };
            // Writing to a string does not fail.
            let _ = f.write_str(&text(position, state.elapsed()));
        }
    };
    let style = ProgressStyle::with_template("{name} {wide_bar} {where} {speed} {left}")
        .expect("the template is a constant")
        .with_key("name", {
            let name = name.to_owned();
            move |_: &ProgressState, f: &mut dyn fmt::Write| f.write_str(&name).unwrap_or(())
        })
        .with_key("where", fact(place))
        .with_key("speed", fact(|position, elapsed| format!("{:.1}x", speed(position.at_ns, elapsed))))
        .with_key("left", fact(left));
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn line(position: Position, elapsed: Duration) -> String {
    let share =
        position.duration_ns.map_or_else(String::new, |all| format!("{} %, ", 100 * position.at_ns / all.max(1)));
    let left = left(position, elapsed);
    let left = if left.is_empty() { left } else { format!(", {left}") };
    format!("{share}{}, {:.1} x real time{left}", place(position, elapsed), speed(position.at_ns, elapsed))
}

fn place(position: Position, _: Duration) -> String {
    match position.duration_ns {
        Some(all) => format!("{} of {}", clock(position.at_ns), clock(all)),
        None => clock(position.at_ns),
    }
}

/// The time it will still take, where that can be told.
fn left(position: Position, elapsed: Duration) -> String {
    let speed = speed(position.at_ns, elapsed);
    match position.duration_ns {
        Some(all) if speed > 0.0 => {
            let seconds = all.saturating_sub(position.at_ns) as f64 / SECOND as f64 / speed;
            format!("{} left", clock((seconds * SECOND as f64) as u64))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_how_fast_and_how_long() {
        let position = Position { at_ns: 20 * SECOND, duration_ns: Some(60 * SECOND) };
        assert_eq!(line(position, Duration::from_secs(5)), "33 %, 0:20 of 1:00, 4.0 x real time, 0:10 left");
        let endless = Position { at_ns: 20 * SECOND, duration_ns: None };
        assert_eq!(line(endless, Duration::from_secs(20)), "0:20, 1.0 x real time");
        assert_eq!(line(Position::default(), Duration::ZERO), "0:00, 0.0 x real time");
    }
}
