//! From the scores of one patch after the other to sound events with a beginning and an end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
};

use serde::Deserialize;

use super::labels::SoundLabels;
use crate::experts::{mel::HOP, tape::RATE};

/// Frames of 10 ms in one patch: 0.96 s (YAMNet `params.py`).
pub const PATCH_FRAMES: usize = 96;
/// Frames from one patch to the next: 0.48 s.
pub const PATCH_HOP: usize = 48;
/// Root mean square below which a frame counts as silent: -80 dB, less than the last bit of CD sound after dither.
pub const SILENCE: f32 = 1e-4;

/// When a sound is on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct EventSettings {
    /// Score, 0 to 1, with which an event begins.
    pub on: f32,
    /// Score below which it ends; the two differ so that a wavering score makes one event.
    pub off: f32,
    /// Longest hole in an event, in seconds.
    pub gap_s: f32,
    /// Longest event, in seconds; it is said in parts then.
    pub longest_s: f32,
    /// Most events at the same time.
    pub at_once: usize,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { on: 0.35, off: 0.2, gap_s: 0.5, longest_s: 30.0, at_once: 3 }
    }
}

impl EventSettings {
    fn seconds_in_samples(seconds: f32) -> u64 {
        (f64::from(seconds) * f64::from(RATE)) as u64
    }

    /// From the last patch that was on, the furthest one that still belongs to the event.
    fn reach(&self) -> u64 {
        (Self::seconds_in_samples(self.gap_s) + patch_length()) / patch_start(1)
    }

    /// Most patches of one event.
    fn longest(&self) -> u64 {
        Self::seconds_in_samples(self.longest_s).saturating_sub(patch_length()) / patch_start(1) + 1
    }
}

/// First sample of patch `index` on the absolute grid.
pub fn patch_start(index: u64) -> u64 {
    index * (PATCH_HOP * HOP) as u64
}

fn patch_length() -> u64 {
    (PATCH_FRAMES * HOP) as u64
}

/// Loudness of each frame of 10 ms on the absolute grid, as root mean square.
#[derive(Debug, Default)]
pub struct Levels {
    first: u64,
    values: VecDeque<f32>,
}

impl Levels {
    /// Forgets all levels; the next one belongs to `frame`.
    pub fn start_at(&mut self, frame: u64) {
        self.values.clear();
        self.first = frame;
    }

    /// Adds the level of the next frame.
    pub fn push(&mut self, level: f32) {
        self.values.push_back(level);
    }

    /// The known levels of the frames of a patch, each with its frame.
    pub fn of_patch(&self, patch: u64) -> impl DoubleEndedIterator<Item = (u64, f32)> {
        let start = patch * PATCH_HOP as u64;
        let at = |frame: u64| frame.saturating_sub(self.first).min(self.values.len() as u64);
        let (from, to) = (at(start), at(start + PATCH_FRAMES as u64));
        (from..to).map(|i| (self.first + i, self.values[i as usize]))
    }

    /// Forgets what lies before `frame`.
    pub fn drop_before(&mut self, frame: u64) {
        let count = frame.saturating_sub(self.first).min(self.values.len() as u64);
        self.values.drain(..count as usize);
        self.first += count;
    }

    /// The frames of a patch that stand out of its background, as a half-open range; the whole patch where none does.
    fn loud(&self, patch: u64) -> Range<u64> {
        let mut sorted: Vec<f32> = self.of_patch(patch).map(|(_, level)| level).collect();
        sorted.sort_by(f32::total_cmp);
        let whole = patch * PATCH_HOP as u64..patch * PATCH_HOP as u64 + PATCH_FRAMES as u64;
        let (Some(&quiet), Some(&loudest)) = (sorted.get(sorted.len() / 10), sorted.last()) else { return whole };
        // Half-way, in decibels, between the background and the loudest frame.
        let threshold = (quiet.max(SILENCE) * loudest).sqrt();
        let mut loud = self.of_patch(patch).filter(|&(_, level)| level >= threshold).map(|(frame, _)| frame);
        match (loud.next(), loud.next_back()) {
            (Some(first), last) => first..last.unwrap_or(first) + 1,
            (None, _) => whole,
        }
    }
}

/// Something that was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Index of the class.
    pub class: usize,
    /// Where, in samples of the absolute grid; never empty.
    pub samples: Range<u64>,
    /// Highest score, 0 to 1.
    pub score: f32,
}

/// What is known of the sound itself.
#[derive(Clone, Copy)]
pub struct Heard<'a> {
    /// Loudness of its frames.
    pub levels: &'a Levels,
    /// First sample of all.
    pub start: u64,
    /// After the last sample so far.
    pub end: u64,
}

/// A class that is on.
#[derive(Debug, Clone)]
struct Open {
    first: u64,
    last: u64,
    on: u64,
    /// How many of the patches, and which first and last, had nothing better to say than this class.
    said: u64,
    said_first: u64,
    said_last: u64,
    peak: f32,
    /// No sample before this one; the end of the part before.
    not_before: u64,
}

/// Follows the classes from patch to patch.
pub struct Events {
    labels: SoundLabels,
    settings: EventSettings,
    open: BTreeMap<usize, Open>,
    next: u64,
}

impl Events {
    /// Nothing heard yet.
    pub fn new(labels: SoundLabels, settings: EventSettings) -> Self {
        Self { labels, settings, open: BTreeMap::new(), next: 0 }
    }

    /// The classes.
    pub fn labels(&self) -> &SoundLabels {
        &self.labels
    }

    /// Hears patch `index`, later than all before; `scores` of each class 0 to 1, none for silence. Events that
    /// ended go to `out`.
    pub fn push(&mut self, index: u64, scores: &[f32], heard: Heard, out: &mut Vec<Event>) {
        let mut on: Vec<(usize, f32)> = scores
            .iter()
            .copied()
            .enumerate()
            .take(self.labels.classes().len())
            .filter(|&(class, score)| {
                let goes_on = self.open.get(&class).is_some_and(|open| open.last + 1 == index);
                score >= if goes_on { self.settings.off.min(self.settings.on) } else { self.settings.on }
            })
            .collect();
        on.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let said = self.worth_saying(&on);
        let from = out.len();
        for &(class, score) in &on {
            self.carry_on(class, score, index, said.contains(&class), heard, out);
        }
        let reach = self.settings.reach();
        let ended: Vec<usize> =
            self.open.iter().filter(|(_, o)| o.last != index && index - o.last >= reach).map(|(&c, _)| c).collect();
        for class in ended {
            self.close(class, heard, out);
        }
        out[from..].sort_by_key(|event| (event.samples.start, event.class));
        self.next = index + 1;
    }

    /// The classes of a patch that say something, say it better than a class they imply, and differ from each other.
    fn worth_saying(&self, on: &[(usize, f32)]) -> BTreeSet<usize> {
        let classes = self.labels.classes();
        let implied: BTreeSet<usize> = on
            .iter()
            .flat_map(|(class, _)| classes[*class].ancestors.iter().copied().filter(move |a| a != class))
            .collect();
        let mut likenesses = BTreeSet::new();
        let mut clauses = BTreeSet::new();
        on.iter()
            .map(|(class, _)| *class)
            .filter(|class| classes[*class].said && !implied.contains(class))
            .filter(|class| likenesses.insert(classes[*class].likeness) && clauses.insert(&classes[*class].clause))
            .take(self.settings.at_once)
            .collect()
    }

    fn carry_on(&mut self, class: usize, score: f32, index: u64, said: bool, heard: Heard, out: &mut Vec<Event>) {
        let mut not_before = 0;
        if self.open.get(&class).is_some_and(|open| index - open.first >= self.settings.longest()) {
            not_before = self.close(class, heard, out);
        }
        let open = self.open.entry(class).or_insert(Open {
            first: index,
            last: index,
            on: 0,
            said: 0,
            said_first: index,
            said_last: index,
            peak: 0.0,
            not_before,
        });
        open.last = index;
        open.on += 1;
        open.peak = open.peak.max(score);
        if said {
            if open.said == 0 {
                open.said_first = index;
            }
            open.said_last = index;
            open.said += 1;
        }
    }

    /// Ends the class and says it where it was the best word at least half of the time; gives its last sample.
    fn close(&mut self, class: usize, heard: Heard, out: &mut Vec<Event>) -> u64 {
        let Some(open) = self.open.remove(&class) else { return 0 };
        let hop = HOP as u64;
        let start = (heard.levels.loud(open.said_first).start * hop).max(heard.start).max(open.not_before);
        let end = (heard.levels.loud(open.said_last).end * hop).min(heard.end);
        if open.said > 0 && open.said * 2 >= open.on && start < end {
            out.push(Event { class, samples: start..end, score: open.peak });
        }
        end.max(open.not_before)
    }

    /// Ends everything.
    pub fn flush(&mut self, heard: Heard, out: &mut Vec<Event>) {
        let from = out.len();
        while let Some((&class, _)) = self.open.first_key_value() {
            self.close(class, heard, out);
        }
        out[from..].sort_by_key(|event| (event.samples.start, event.class));
    }

    /// Forgets everything; the next patch will be `next`.
    pub fn start_at(&mut self, next: u64) {
        self.open.clear();
        self.next = next;
    }

    /// The first patch whose levels are still needed: no later event begins before it.
    pub fn oldest(&self) -> u64 {
        self.open.values().map(|open| open.first).min().unwrap_or(self.next).min(self.next)
    }
}
