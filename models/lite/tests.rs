//! The default pack with scripted experts.

use std::sync::{Arc, Mutex};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    Frame, Label,
    caption::{Names, Rules},
    clip::Thumbnails,
};

/// Says what it was told to, once it has heard of all of it and `lag_ns` more.
struct Scripted {
    name: &'static str,
    script: Vec<Observation>,
    lag_ns: u64,
    fails: Vec<u64>,
    seen_ns: u64,
    said_ns: u64,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn new(name: &'static str, script: &[Observation]) -> Self {
        let (calls, script) = (Arc::default(), script.to_vec());
        Self { name, script, lag_ns: 0, fails: Vec::new(), seen_ns: 0, said_ns: 0, calls }
    }

    fn lag(mut self, lag_ns: u64) -> Self {
        self.lag_ns = lag_ns;
        self
    }

    fn boxed(self) -> Box<dyn Expert> {
        Box::new(self)
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn say_until(&mut self, ns: u64, out: &mut Vec<Observation>) {
        let due = |o: &&Observation| (self.said_ns..ns).contains(&o.span.end_ns.saturating_sub(1));
        out.extend(self.script.iter().filter(due).cloned());
        self.said_ns = self.said_ns.max(ns);
    }
}

impl Expert for Scripted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        cancel.check()?;
        self.note(format!("{}-{}", clip.span.start_ns, clip.span.end_ns));
        self.seen_ns = clip.span.end_ns;
        self.say_until(self.seen_ns.saturating_sub(self.lag_ns), out);
        if self.fails.contains(&clip.span.start_ns) {
            let (expected, found) = ("words".into(), "silence".into());
            return Err(DescribeError::Output { piece: self.name.into(), expected, found });
        }
        Ok(())
    }

    fn flush(&mut self, _cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.note("flush".into());
        self.say_until(u64::MAX, out);
        Ok(())
    }

    fn reset(&mut self) {
        self.note("reset".into());
        (self.seen_ns, self.said_ns) = (0, 0);
    }

    fn settled_ns(&self) -> u64 {
        let until = self.seen_ns.saturating_sub(self.lag_ns);
        self.script.iter().filter(|o| o.span.end_ns > until).map(|o| o.span.start_ns).min().unwrap_or(until).min(until)
    }
}

struct Dogs;

impl Names for Dogs {
    fn article(&self, _class: &str) -> Option<&str> {
        Some("a")
    }
    fn group_of(&self, _class: &str) -> Option<(&str, &str)> {
        Some(("a", "dog"))
    }
}

fn seconds(start: u64, end: u64) -> Span {
    Span::new(start * SECOND, end * SECOND)
}

/// A clip with a frame a second.
fn clip(start: u64, end: u64) -> Clip {
    let frame = |at: u64| Frame { at_ns: at * SECOND, width: 0, height: 0, rgb: bytes::Bytes::new() };
    let frames = (start..end).map(frame).collect();
    Clip { span: seconds(start, end), discont: false, frames, thumbnails: Thumbnails::default(), sound: None }
}

fn said(kind: Kind, start: u64, end: u64, text: &str) -> Observation {
    Observation::new(kind, seconds(start, end), text, 0.8, "lite/x")
}

/// What the tagger says of each second in which it sees a terrier.
fn terrier(start: u64, end: u64) -> Vec<Observation> {
    let seen = |at: u64| {
        let mut o = Observation::new(Kind::Object, seconds(at, at + 1), "terrier", 0.8, "lite/tags");
        o.labels = vec![Label { name: "terrier".into(), confidence: 0.8 }];
        o
    };
    (start..end).map(seen).collect()
}

fn lite(kinds: &[Kind], experts: Vec<Box<dyn Expert>>) -> Lite {
    let composer = Composer::new(Box::new(Dogs), Rules::default());
    let shape = ClipShape { max_size: 448, rate: 16_000, frames: None };
    Lite::new(shape, kinds.iter().copied().collect(), experts, Some(composer))
}

fn texts(observations: &[Observation]) -> Vec<(u64, u64, &str)> {
    let text = |o: &Observation| (o.span.start_ns / SECOND, o.span.end_ns / SECOND);
    observations.iter().map(|o| (text(o).0, text(o).1, o.text.as_str())).collect()
}

/// Two shots of a terrier and of rain.
fn script() -> (Vec<Observation>, Vec<Observation>, Vec<Observation>) {
    let shots = vec![said(Kind::Scene, 0, 6, "shot 1"), said(Kind::Scene, 6, 12, "shot 2")];
    let sounds = vec![said(Kind::Sound, 1, 5, "a dog barks"), said(Kind::Sound, 6, 11, "rain falls")];
    (shots, terrier(0, 6), sounds)
}

fn experts() -> Vec<Box<dyn Expert>> {
    let (shots, tags, sounds) = script();
    vec![
        Scripted::new("shots", &shots).lag(SECOND).boxed(),
        Scripted::new("tags", &tags).boxed(),
        Scripted::new("sounds", &sounds).boxed(),
        Scripted::new("speech", &[said(Kind::Speech, 7, 9, "Wet.")]).lag(2 * SECOND).boxed(),
    ]
}

#[test]
fn captions_come_once_every_expert_is_done_and_objects_with_them() {
    let mut lite = lite(&[Kind::Caption, Kind::Object, Kind::Speech], experts());
    let (cancel, mut out) = (Cancel::default(), Vec::new());
    assert_eq!(lite.settled_ns(), 0);
    lite.describe(&clip(0, 4), &cancel, &mut out).unwrap();
    assert_eq!((texts(&out), lite.settled_ns()), (vec![], 0));
    lite.describe(&clip(4, 8), &cancel, &mut out).unwrap();
    assert_eq!(texts(&out), [(0, 6, "A terrier; a dog barks."), (0, 6, "terrier")]);
    assert_eq!(lite.settled_ns(), 6 * SECOND);
    out.clear();
    lite.describe(&clip(8, 12), &cancel, &mut out).unwrap();
    assert_eq!(texts(&out), [(7, 9, "Wet.")]);
    lite.flush(&cancel, &mut out).unwrap();
    assert_eq!(texts(&out)[1..], [(6, 12, "Rain falls; a voice says: “Wet.”")]);
    assert_eq!(lite.settled_ns(), 12 * SECOND);
}

#[test]
fn only_what_is_new_in_a_clip_goes_to_the_experts() {
    let expert = Scripted::new("tags", &[]);
    let calls = expert.calls.clone();
    let mut lite = lite(&[Kind::Caption], vec![expert.boxed()]);
    for (start, end) in [(0, 4), (2, 6), (3, 5), (4, 8), (8, 8)] {
        lite.describe(&clip(start, end), &Cancel::default(), &mut Vec::new()).unwrap();
    }
    let spans: Vec<String> = calls.lock().unwrap().iter().map(|call| call.replace("000000000", "")).collect();
    assert_eq!(spans, ["0-4", "4-6", "6-8"]);
}

#[test]
fn a_jump_closes_what_is_open_before_the_new_starts() {
    for (discont, start) in [(false, 20), (true, 4), (true, 1)] {
        let expert = Scripted::new("sounds", &[said(Kind::Sound, 0, 30, "rain falls")]);
        let calls = expert.calls.clone();
        let mut lite = lite(&[Kind::Sound, Kind::Caption], vec![expert.boxed()]);
        let mut out = Vec::new();
        lite.describe(&clip(0, 4), &Cancel::default(), &mut out).unwrap();
        assert_eq!(out, []);
        let next = Clip { discont, ..clip(start, start + 2) };
        lite.describe(&next, &Cancel::default(), &mut out).unwrap();
        assert_eq!(texts(&out), [(0, 4, "Rain falls."), (0, 4, "rain falls")], "cut at the end of what was seen");
        assert_eq!(calls.lock().unwrap()[1..3], ["flush", "reset"]);
        assert_eq!(lite.settled_ns(), start * SECOND);
    }
}

#[test]
fn one_that_fails_stops_no_other() {
    let (shots, tags, sounds) = script();
    let (mut deaf, mut mute) = (Scripted::new("sounds", &sounds), Scripted::new("speech", &[]));
    (deaf.fails, mute.fails) = (vec![4 * SECOND], vec![4 * SECOND]);
    let experts =
        vec![deaf.boxed(), mute.boxed(), Scripted::new("shots", &shots).boxed(), Scripted::new("tags", &tags).boxed()];
    let mut lite = lite(&[Kind::Caption], experts);
    let mut out = Vec::new();
    lite.describe(&clip(0, 4), &Cancel::default(), &mut out).unwrap();
    let error = lite.describe(&clip(4, 8), &Cancel::default(), &mut out).unwrap_err().to_string();
    assert!(error.contains("the sounds piece"), "the first error: {error}");
    lite.describe(&clip(8, 12), &Cancel::default(), &mut out).unwrap();
    lite.flush(&Cancel::default(), &mut out).unwrap();
    assert_eq!(texts(&out), [(0, 6, "A terrier; a dog barks."), (6, 12, "Rain falls.")]);
}

#[test]
fn an_expert_that_always_fails_holds_nothing_up() {
    let mut dead = Scripted::new("speech", &[]).lag(u64::MAX);
    dead.fails = (0..10).map(|i| i * 4 * SECOND).collect();
    let mut lite = lite(&[Kind::Caption], vec![Scripted::new("tags", &terrier(0, 40)).boxed(), dead.boxed()]);
    let mut out = Vec::new();
    for i in 0..10 {
        assert!(lite.describe(&clip(i * 4, i * 4 + 4), &Cancel::default(), &mut out).is_err());
    }
    assert_eq!(lite.settled_ns(), 32 * SECOND);
    assert_eq!(out.len(), 8);
}

#[test]
fn cancelling_stops_at_once() {
    struct Cancels;
    impl Expert for Cancels {
        fn name(&self) -> &'static str {
            "shots"
        }
        fn observe(&mut self, _: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
            out.push(said(Kind::Scene, 0, 1, "shot 1"));
            cancel.cancel();
            cancel.check()
        }
        fn flush(&mut self, _: &Cancel, _: &mut Vec<Observation>) -> Result<(), DescribeError> {
            Ok(())
        }
        fn reset(&mut self) {}
        fn settled_ns(&self) -> u64 {
            0
        }
    }
    let never = Scripted::new("speech", &[]);
    let calls = never.calls.clone();
    let mut lite = lite(&[Kind::Scene], vec![Box::new(Cancels), never.boxed()]);
    let (cancel, mut out) = (Cancel::default(), Vec::new());
    assert!(matches!(lite.describe(&clip(0, 4), &cancel, &mut out), Err(DescribeError::Cancelled)));
    assert_eq!((texts(&out), calls.lock().unwrap().len()), (vec![(0, 1, "shot 1")], 0), "what was said is there");
    assert!(matches!(lite.describe(&clip(4, 8), &cancel, &mut out), Err(DescribeError::Cancelled)));
    cancel.resume();
    lite.reset();
    assert_eq!(calls.lock().unwrap().as_slice(), ["reset"]);
}

#[test]
fn what_says_nothing_or_is_not_wanted_is_dropped() {
    let script = [
        said(Kind::Sound, 0, 9, "rain falls"),
        said(Kind::Sound, 1, 1, "nothing"),
        said(Kind::Sound, 1, 2, " "),
        said(Kind::Speech, 1, 2, "Wet."),
    ];
    let mut lite = lite(&[Kind::Sound], vec![Scripted::new("sounds", &script).boxed()]);
    let mut out = Vec::new();
    lite.describe(&clip(2, 4), &Cancel::default(), &mut out).unwrap();
    lite.flush(&Cancel::default(), &mut out).unwrap();
    assert_eq!(texts(&out), [(2, 4, "rain falls")]);
}

#[test]
fn evidence_is_bounded_where_an_expert_is_never_done() {
    let hours = 2 * 3600;
    let experts = vec![
        Scripted::new("tags", &terrier(0, 1000)).boxed(),
        Scripted::new("sounds", &[said(Kind::Sound, 0, hours + 4, "rain falls")]).boxed(),
    ];
    let mut lite = lite(&[Kind::Caption], experts);
    let mut out = Vec::new();
    for start in (0..hours).step_by(4) {
        lite.describe(&clip(start, start + 4), &Cancel::default(), &mut out).unwrap();
        let kept = lite.composer.as_ref().map_or(0, Composer::kept);
        assert!(kept as u64 <= PATIENCE_NS / SECOND + 12, "{kept}");
        assert!(lite.settled_ns() + PATIENCE_NS + 12 * SECOND >= (start + 4) * SECOND);
    }
    assert_eq!(out.len(), 1000 / 4, "captions are composed as is");
}

proptest! {
    #[test]
    fn answers_keep_the_contract(lengths in vec(1u64..12, 1..12), overlap in 0u64..3, jumps in vec(0usize..12, 0..2),
                                 spans in vec((0u64..60, 1u64..12, 0usize..4), 0..20), lag in 0u64..6) {
        let kinds = [Kind::Scene, Kind::Sound, Kind::Speech, Kind::Text];
        let script: Vec<Observation> =
            spans.iter().map(|&(start, length, kind)| said(kinds[kind], start, start + length, "words")).collect();
        let run = |together: bool| {
            let of = |kind: Kind| script.iter().filter(|o| o.kind == kind).cloned().collect::<Vec<_>>();
            let experts = vec![
                Scripted::new("shots", &of(Kind::Scene)).lag(lag * SECOND).boxed(),
                Scripted::new("text", &of(Kind::Text)).boxed(),
                Scripted::new("speech", &of(Kind::Speech)).lag(lag * SECOND).boxed(),
                Scripted::new("sounds", &of(Kind::Sound)).boxed(),
            ];
            let mut lite = lite(&Kind::ALL, experts).together(together);
            let (mut all, mut out, mut start) = (Vec::new(), Vec::new(), 3u64);
            let first = start;
            for (index, length) in lengths.iter().enumerate() {
                let jumped = index > 0 && jumps.contains(&index);
                start += if jumped { 5 } else { 0 };
                let settled = lite.settled_ns();
                let from = if jumped { start } else { start.saturating_sub(overlap).max(first) };
                lite.describe(&clip(from, start + length), &Cancel::default(), &mut out).unwrap();
                start += length;
                assert!(out.iter().all(|o| o.span.start_ns >= settled), "{settled} {out:?}");
                assert!(out.iter().all(|o| !o.span.is_empty() && o.span.end_ns <= start * SECOND));
                all.append(&mut out);
            }
            let settled = lite.settled_ns();
            lite.flush(&Cancel::default(), &mut out).unwrap();
            assert!(out.iter().all(|o| o.span.start_ns >= settled && o.span.end_ns <= start * SECOND));
            all.append(&mut out);
            all
        };
        let all = run(false);
        prop_assert!(all.iter().all(|o| o.span.start_ns >= 3 * SECOND));
        prop_assert_eq!(run(true), all, "two threads say the same in the same order");
    }
}
