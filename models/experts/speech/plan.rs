//! Which stretches of sound are given to the recogniser: segments of speech, joined so that few runs are needed.

use std::ops::Range;

use serde::Deserialize;

use crate::experts::tape::RATE;

/// How segments are joined.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct PlanSettings {
    /// Sound added on both sides of speech, in seconds; without it first and last words are lost.
    pub pad_s: f32,
    /// Segments with a shorter pause between them share a window, in seconds.
    pub join_s: f32,
    /// Longest window, in seconds; Whisper hears 30 s at most.
    pub window_s: f32,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self { pad_s: 0.4, join_s: 2.0, window_s: 28.0 }
    }
}

fn samples(seconds: f32) -> u64 {
    (f64::from(seconds) * f64::from(RATE)) as u64
}

/// A stretch of sound to be transcribed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The samples to listen to, never empty.
    pub samples: Range<u64>,
    /// Where in them somebody speaks, in order.
    pub speech: Vec<Range<u64>>,
}

impl Window {
    /// What is left after sample `done`, where at least `worth` samples of speech are.
    pub fn after(&self, done: u64, worth: u64) -> Option<Self> {
        let rest = self.speech.iter().map(|speech| speech.start.max(done)..speech.end);
        let speech: Vec<Range<u64>> = rest.filter(|speech| speech.start < speech.end).collect();
        let length: u64 = speech.iter().map(|speech| speech.end - speech.start).sum();
        // The pause before the rest tells nothing.
        let start = speech.first()?.start.saturating_sub(samples(PlanSettings::default().pad_s)).max(done);
        (length >= worth && start > self.samples.start).then_some(Self { samples: start..self.samples.end, speech })
    }
}

/// Joins segments of speech to windows.
#[derive(Debug)]
pub struct Planner {
    settings: PlanSettings,
    open: Vec<Range<u64>>,
    /// End of the last window's speech: nothing before is listened to again.
    said: u64,
}

impl Planner {
    /// No speech yet.
    pub fn new(settings: PlanSettings) -> Self {
        let mut settings = settings;
        settings.window_s = settings.window_s.clamp(1.0, 29.0);
        settings.pad_s = settings.pad_s.clamp(0.0, 0.5);
        Self { settings, open: Vec::new(), said: 0 }
    }

    /// Forgets everything; the sound starts at sample `start`.
    pub fn start_at(&mut self, start: u64) {
        self.open.clear();
        self.said = start;
    }

    /// Adds the next segment of speech, in samples; gives the window that is complete because of it.
    pub fn push(&mut self, speech: Range<u64>) -> Option<Window> {
        let done = self.advance(speech.start, speech.end);
        self.open.push(speech);
        done
    }

    /// Gives a window to which no more can be joined: speech of which nothing is known yet begins at `start` or later
    /// and reaches `end` or further.
    pub fn advance(&mut self, start: u64, end: u64) -> Option<Window> {
        let (first, last) = (self.open.first()?, self.open.last()?);
        let pause = start.saturating_sub(last.end);
        let length = end.saturating_sub(first.start) + 2 * samples(self.settings.pad_s);
        let full = pause >= samples(self.settings.join_s) || length > samples(self.settings.window_s);
        // While the pause is shorter than the padding, it is not known yet how much of it is free of speech.
        (full && (pause >= samples(self.settings.pad_s) || end > start)).then(|| self.close(start))?
    }

    /// Gives the last window; the sound ends at sample `end`.
    pub fn flush(&mut self, end: u64) -> Option<Window> {
        self.close(end)
    }

    fn close(&mut self, next: u64) -> Option<Window> {
        let speech = std::mem::take(&mut self.open);
        let (first, last) = (speech.first()?.start, speech.last()?.end);
        let pad = samples(self.settings.pad_s);
        let start = first.saturating_sub(pad).max(self.said).min(first);
        let end = (last + pad).min(next).max(last);
        self.said = last;
        Some(Window { samples: start..end, speech })
    }

    /// The oldest sample that a later window may need, where all speech from `start` on is unknown.
    pub fn oldest(&self, start: u64) -> u64 {
        let first = self.open.first().map_or(start, |speech| speech.start.min(start));
        first.saturating_sub(samples(self.settings.pad_s)).max(self.said.min(first))
    }
}
