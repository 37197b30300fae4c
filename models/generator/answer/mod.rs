//! From the JSON that a generator answers to observations.
//!
//! Whatever a model says, each observation lies in its clip, lasts, and has words; what had to be set right is counted.

use serde_json::{Map, Value};

use crate::{
    observation::{Kind, Observation},
    time::{SECOND, Span},
};

mod boxes;
#[cfg(test)]
mod tests;

pub use boxes::BoxUnit;
use boxes::MAX_BOXES;

/// Length that an instant is given: a click that a model puts at one time, start and end alike.
const INSTANT_NS: u64 = SECOND / 10;
/// Most observations taken from one array of an answer.
const MAX_SPANS: usize = 256;
/// Longest text of an observation in characters.
const MAX_CHARS: usize = 4000;
/// Times beyond this many seconds are outside of any clip; nanoseconds of it are exact in 128 bits.
const FAR_SECONDS: f64 = 1e10;

/// What the times of an answer count from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeBase {
    /// Seconds from the start of the clip.
    #[default]
    Clip,
    /// Seconds of stream time, as in the labels of the frames.
    Stream,
}

/// How an answer is to be read.
#[derive(Debug, Clone)]
pub struct Reading<'a> {
    /// The clip that was described.
    pub clip: Span,
    /// What times count from.
    pub base: TimeBase,
    /// What boxes count in.
    pub boxes: BoxUnit,
    /// How sure the model was, 0 to 1: the mean probability of the answer's tokens.
    pub confidence: f32,
    /// The piece that answered, as `pack/piece`.
    pub source: &'a str,
}

/// How often an answer had to be set right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Spans that reached out of the clip or ended before they started.
    pub clamped: u64,
    /// Instants that were given a length.
    pub widened: u64,
    /// Entries without words, boxes without area, and what was too much.
    pub dropped: u64,
}

/// What an answer says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// In the order of the answer.
    pub observations: Vec<Observation>,
    /// What had to be set right.
    pub counts: Counts,
}

/// Reads an answer: JSON by the default schema or a user's own, or plain text.
///
/// Members `caption`, `text`, `description` become captions of the clip; arrays `events` and `scenes` scenes, `sounds`
/// sounds, `speech` speech and `objects` objects, each entry with its `start`, `end` and `text`; entries of any array with
/// a box become objects with a place. An answer without any of these is kept whole, as one caption.
pub fn parse(text: &str, reading: &Reading) -> Answer {
    let mut writer = Writer { reading, answer: Answer::default() };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(members)) if writer.members(&members) => {}
        Ok(Value::Array(entries)) if writer.boxed(&entries) => {}
        Ok(Value::String(words)) => writer.plain(&words),
        Ok(other) => writer.say(Kind::Caption, reading.clip, &other.to_string(), None),
        Err(_) => writer.plain(text),
    }
    writer.answer
}

struct Writer<'a> {
    reading: &'a Reading<'a>,
    answer: Answer,
}

impl Writer<'_> {
    /// Reads the members of an answer; false where none of them is known.
    fn members(&mut self, members: &Map<String, Value>) -> bool {
        let mut known = false;
        for (name, value) in members {
            known |= match (name.as_str(), value) {
                ("caption" | "text" | "description", Value::String(words)) => {
                    self.plain(words);
                    true
                }
                (name, Value::Array(entries)) => match kind_of(name) {
                    Some(kind) => {
                        self.entries(kind, entries);
                        true
                    }
                    None => self.boxed(entries),
                },
                _ => false,
            };
        }
        known
    }

    /// Reads the entries of an array of spans.
    fn entries(&mut self, kind: Kind, entries: &[Value]) {
        self.answer.counts.dropped += entries.len().saturating_sub(MAX_SPANS) as u64;
        for entry in entries.iter().take(MAX_SPANS) {
            match boxes::of_member(entry, self.reading.boxes) {
                Some(Some(bounds)) => self.entry(Kind::Object, entry, Some(bounds)),
                Some(None) => self.answer.counts.dropped += 1,
                None => self.entry(kind, entry, None),
            }
        }
    }

    /// Reads an array of unknown name; false where none of its entries has a box.
    fn boxed(&mut self, entries: &[Value]) -> bool {
        let any = entries.iter().any(|entry| boxes::of_member(entry, self.reading.boxes).is_some());
        if any {
            self.entries(Kind::Object, entries);
        }
        any
    }

    fn entry(&mut self, kind: Kind, entry: &Value, bounds: Option<[f32; 4]>) {
        let words = match entry {
            Value::String(words) => words,
            _ => ["text", "label", "name", "description"]
                .iter()
                .find_map(|&name| entry[name].as_str())
                .unwrap_or_default(),
        };
        let seconds = |name: &str| entry.get(name).and_then(Value::as_f64);
        let span = match (seconds("start"), seconds("end")) {
            (None, None) => self.reading.clip,
            (start, end) => {
                let start_ns = start.map_or(i128::from(self.reading.clip.start_ns), |at| self.instant(at));
                let end_ns = end.map_or(i128::from(self.reading.clip.end_ns), |at| self.instant(at));
                let (span, clamped, widened) = fit(start_ns, end_ns, self.reading.clip);
                if !clean(words).is_empty() {
                    self.answer.counts.clamped += u64::from(clamped);
                    self.answer.counts.widened += u64::from(widened);
                }
                span
            }
        };
        self.say(kind, span, words, bounds);
    }

    /// Stream time of a time of the answer, in nanoseconds.
    fn instant(&self, seconds: f64) -> i128 {
        let offset = match self.reading.base {
            TimeBase::Clip => i128::from(self.reading.clip.start_ns),
            TimeBase::Stream => 0,
        };
        offset + (seconds.clamp(-FAR_SECONDS, FAR_SECONDS) * SECOND as f64).round() as i128
    }

    /// Text outside of any schema: its boxes if it has some, else a caption.
    fn plain(&mut self, text: &str) {
        let found = boxes::of_text(text);
        if found.is_empty() {
            self.say(Kind::Caption, self.reading.clip, text, None);
        }
        for one in found.into_iter().take(MAX_BOXES) {
            match one.bounds {
                Some(bounds) => self.say(Kind::Object, self.reading.clip, &one.label, Some(bounds)),
                None => self.answer.counts.dropped += 1,
            }
        }
    }

    fn say(&mut self, kind: Kind, span: Span, words: &str, bounds: Option<[f32; 4]>) {
        let text = clean(words);
        if text.is_empty() || span.is_empty() {
            self.answer.counts.dropped += 1;
            return;
        }
        let confidence = if self.reading.confidence.is_nan() { 0.0 } else { self.reading.confidence.clamp(0.0, 1.0) };
        let mut said = Observation::new(kind, span, text, confidence, self.reading.source);
        said.bounds = bounds;
        self.answer.observations.push(said);
    }
}

/// What the entries of an array of this name are.
fn kind_of(name: &str) -> Option<Kind> {
    match name {
        "events" | "scenes" => Some(Kind::Scene),
        "sounds" => Some(Kind::Sound),
        "speech" => Some(Kind::Speech),
        "objects" => Some(Kind::Object),
        _ => None,
    }
}

/// One line of at most [`MAX_CHARS`] characters, without control characters.
fn clean(words: &str) -> String {
    let spaced: String = words.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The span from `start_ns` to `end_ns` inside of the clip, whether it had to be clamped or turned round, and whether it
/// had to be widened. Empty only where the clip is.
fn fit(start_ns: i128, end_ns: i128, clip: Span) -> (Span, bool, bool) {
    let inside = |ns: i128| ns.clamp(clip.start_ns.into(), clip.end_ns.into());
    let (first, last) = (inside(start_ns.min(end_ns)) as u64, inside(start_ns.max(end_ns)) as u64);
    let clamped = (i128::from(first), i128::from(last)) != (start_ns, end_ns);
    if first < last {
        return (Span::new(first, last), clamped, false);
    }
    let length = INSTANT_NS.min(clip.duration_ns());
    let start = first.saturating_sub(length / 2).clamp(clip.start_ns, clip.end_ns - length);
    (Span::new(start, start + length), clamped, true)
}
