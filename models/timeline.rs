//! The timeline: observations of neighbouring clips that say the same become one.

use std::{cmp::Ordering, collections::BTreeSet};

use crate::{
    observation::{Kind, Label, Observation},
    time::Span,
};

/// Whether observations of this kind are joined; two shots or two sentences stay two, whatever their words.
pub fn is_joined(kind: Kind) -> bool {
    match kind {
        Kind::Caption | Kind::Sound | Kind::Text | Kind::Object => true,
        Kind::Scene | Kind::Speech => false,
    }
}

/// Joins all observations of a stream, in any order, into canonical order.
///
/// Same kind, text and source with at most `gap_ns` nanoseconds between them become one: it spans all of them and
/// keeps the highest confidences.
pub fn join(observations: Vec<Observation>, gap_ns: u64) -> Vec<Observation> {
    let mut timeline = Timeline::new(gap_ns, u64::MAX);
    let mut joined = timeline.push(observations, 0);
    joined.extend(timeline.flush());
    joined.sort_by(Observation::canonical_cmp);
    joined
}

/// The streaming form of [`join`]: holds back only what may still be joined.
///
/// Scenes and speech pass at once. Of each other kind, starts come out in order of time.
#[derive(Debug, Clone)]
pub struct Timeline {
    gap_ns: u64,
    longest_ns: u64,
    /// Not settled yet: something may come that starts before them.
    waiting: Vec<Observation>,
    /// Settled, in order of start: may still grow, or wait for an earlier one of their kind.
    open: Vec<Observation>,
}

impl Timeline {
    /// A timeline that joins over gaps of up to `gap_ns` and never beyond a length of `longest_ns` nanoseconds.
    ///
    /// The length bounds how long anything is held back; `u64::MAX` gives what [`join`] gives.
    pub fn new(gap_ns: u64, longest_ns: u64) -> Self {
        Self { gap_ns, longest_ns, waiting: Vec::new(), open: Vec::new() }
    }

    /// Takes what was said, and that no later observation starts before `settled_ns`; gives what is final now.
    pub fn push(&mut self, observations: Vec<Observation>, settled_ns: u64) -> Vec<Observation> {
        let (joined, mut ready): (Vec<_>, Vec<_>) = observations.into_iter().partition(|o| is_joined(o.kind));
        self.waiting.extend(joined);
        self.waiting.sort_by(Observation::canonical_cmp);
        let settled = self.waiting.partition_point(|o| o.span.start_ns < settled_ns);
        for observation in self.waiting.drain(..settled).collect::<Vec<_>>() {
            self.take(observation);
        }
        let gap_ns = self.gap_ns;
        self.release(|o| o.span.end_ns.saturating_add(gap_ns) < settled_ns, &mut ready);
        ready.sort_by(Observation::canonical_cmp);
        ready
    }

    /// Gives all the rest, at the end of the stream.
    pub fn flush(&mut self) -> Vec<Observation> {
        for observation in std::mem::take(&mut self.waiting) {
            self.take(observation);
        }
        let mut rest = std::mem::take(&mut self.open);
        rest.sort_by(Observation::canonical_cmp);
        rest
    }

    fn take(&mut self, next: Observation) {
        let before = self.open.iter_mut().rev().find(|o| says_the_same(o, &next));
        match before {
            Some(before) if self.gap_ns >= next.span.start_ns.saturating_sub(before.span.end_ns) => {
                let end_ns = before.span.end_ns.max(next.span.end_ns);
                if end_ns - before.span.start_ns <= self.longest_ns {
                    return grow(before, next);
                }
                self.open.push(next);
            }
            _ => self.open.push(next),
        }
    }

    fn release(&mut self, is_final: impl Fn(&Observation) -> bool, out: &mut Vec<Observation>) {
        let mut held = BTreeSet::new();
        self.open.retain(|observation| {
            // An earlier one that is still growing holds the later ones of its kind back.
            let keep = held.contains(&observation.kind) || !is_final(observation);
            if keep {
                held.insert(observation.kind);
            } else {
                out.push(observation.clone());
            }
            keep
        });
    }
}

fn says_the_same(one: &Observation, other: &Observation) -> bool {
    // Each frame and each window has its own embedding.
    let embedded = one.embedding.is_some() || other.embedding.is_some();
    !embedded && one.kind == other.kind && one.text == other.text && one.source == other.source
}

fn grow(before: &mut Observation, next: Observation) {
    before.span.end_ns = before.span.end_ns.max(next.span.end_ns);
    before.confidence = before.confidence.max(next.confidence);
    for label in next.labels {
        match before.labels.iter_mut().find(|known| known.name == label.name) {
            Some(known) => known.confidence = known.confidence.max(label.confidence),
            None => before.labels.push(label),
        }
    }
    before.labels.sort_by(surest_first);
    before.language = before.language.take().or(next.language);
    // A thing that moved has no single place.
    before.bounds = before.bounds.filter(|bounds| Some(*bounds) == next.bounds);
}

/// Order of labels: the surest first, then by name.
pub(crate) fn surest_first(one: &Label, other: &Label) -> Ordering {
    other.confidence.total_cmp(&one.confidence).then_with(|| one.name.cmp(&other.name))
}

/// Whether a scene is a shot, which lasts until the next one begins, and not an event within its own span.
pub fn is_shot(said: &Observation) -> bool {
    let number = said.text.strip_prefix("shot ");
    said.kind == Kind::Scene && number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Makes scenes cover exactly `span`: half-open, in order, without gap or overlap, numbered anew where they are only numbered.
///
/// Each scene lasts until the next one starts; the scene that runs at the start of the span is cut there. Of scenes
/// that start together the surest stays. No scenes, or an empty span, give none.
pub fn tile_scenes(mut scenes: Vec<Observation>, span: Span) -> Vec<Observation> {
    scenes.retain(|scene| scene.kind == Kind::Scene && scene.span.start_ns < span.end_ns);
    scenes.sort_by(|one, other| one.span.cmp(&other.span).then_with(|| one.canonical_cmp(other)));
    if span.is_empty() || scenes.is_empty() {
        return Vec::new();
    }
    let mut tiles: Vec<Observation> = Vec::with_capacity(scenes.len());
    for mut scene in scenes {
        let runs_at_start = scene.span.start_ns <= span.start_ns;
        scene.span.start_ns = scene.span.start_ns.max(span.start_ns);
        match tiles.last_mut() {
            // Of those that began before the span the last one runs there.
            Some(last) if runs_at_start => *last = scene,
            Some(last) if last.span.start_ns == scene.span.start_ns => {
                if scene.confidence > last.confidence {
                    *last = scene;
                }
            }
            _ => tiles.push(scene),
        }
    }
    let starts: Vec<u64> = tiles.iter().skip(1).map(|tile| tile.span.start_ns).chain([span.end_ns]).collect();
    for (index, (tile, end_ns)) in tiles.iter_mut().zip(starts).enumerate() {
        // Nothing is known to start earlier, so the first one starts with the span.
        let start_ns = if index == 0 { span.start_ns } else { tile.span.start_ns };
        tile.span = Span::new(start_ns, end_ns);
        if is_shot(tile) {
            tile.text = format!("shot {}", index + 1);
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn said(kind: Kind, start_ns: u64, end_ns: u64, text: &str) -> Observation {
        Observation::new(kind, Span::new(start_ns, end_ns), text, 0.5, "x")
    }

    fn spans(observations: &[Observation]) -> Vec<(u64, u64, &str)> {
        observations.iter().map(|o| (o.span.start_ns, o.span.end_ns, o.text.as_str())).collect()
    }

    #[test]
    fn the_same_sound_in_two_clips_is_one_sound() {
        let mut before = said(Kind::Sound, 0, 40, "rain falls");
        before.labels = vec![Label { name: "rain".into(), confidence: 0.5 }];
        let mut next = said(Kind::Sound, 42, 60, "rain falls");
        next.confidence = 0.9;
        next.labels =
            vec![Label { name: "drops".into(), confidence: 0.7 }, Label { name: "rain".into(), confidence: 0.6 }];
        let joined = join(vec![next.clone(), said(Kind::Sound, 10, 20, "a dog barks"), before.clone()], 2);
        assert_eq!(spans(&joined), [(0, 60, "rain falls"), (10, 20, "a dog barks")]);
        assert_eq!(joined[0].confidence, 0.9);
        let labels: Vec<_> = joined[0].labels.iter().map(|l| (l.name.as_str(), l.confidence)).collect();
        assert_eq!(labels, [("drops", 0.7), ("rain", 0.6)]);
        assert_eq!(join(vec![before, next], 1).len(), 2, "the gap is longer than allowed");
    }

    #[test]
    fn two_sentences_and_two_sources_stay_two() {
        let no = said(Kind::Speech, 0, 10, "No.");
        let again = said(Kind::Speech, 10, 20, "No.");
        assert_eq!(join(vec![no, again], 5).len(), 2);
        let mut other = said(Kind::Sound, 0, 10, "rain falls");
        other.source = "y".into();
        assert_eq!(join(vec![other, said(Kind::Sound, 0, 10, "rain falls")], 5).len(), 2);
    }

    #[test]
    fn only_what_may_still_grow_is_held_back() {
        let mut timeline = Timeline::new(5, u64::MAX);
        let first = vec![
            said(Kind::Scene, 0, 40, "shot 1"),
            said(Kind::Sound, 0, 10, "a dog barks"),
            said(Kind::Sound, 20, 40, "rain falls"),
        ];
        assert_eq!(spans(&timeline.push(first, 40)), [(0, 40, "shot 1"), (0, 10, "a dog barks")]);
        let second = vec![said(Kind::Sound, 44, 60, "rain falls"), said(Kind::Sound, 45, 50, "a dog barks")];
        assert_eq!(spans(&timeline.push(second, 60)), []);
        assert_eq!(spans(&timeline.push(vec![], 66)), [(20, 60, "rain falls"), (45, 50, "a dog barks")]);
        assert_eq!(timeline.flush(), []);
    }

    #[test]
    fn nothing_grows_beyond_the_longest() {
        let mut timeline = Timeline::new(0, 20);
        let music: Vec<_> = (0..5).map(|i| said(Kind::Sound, i * 10, i * 10 + 10, "music plays")).collect();
        let mut out = timeline.push(music, 50);
        out.extend(timeline.flush());
        assert_eq!(spans(&out), [(0, 20, "music plays"), (20, 40, "music plays"), (40, 50, "music plays")]);
    }

    #[test]
    fn scenes_are_stretched_cut_and_numbered() {
        let scenes = vec![
            said(Kind::Scene, 30, 40, "shot 1"),
            said(Kind::Scene, 0, 9, "shot 1"),
            said(Kind::Scene, 12, 20, "a farm"),
        ];
        let tiles = tile_scenes(scenes, Span::new(5, 50));
        assert_eq!(spans(&tiles), [(5, 12, "shot 1"), (12, 30, "a farm"), (30, 50, "shot 3")]);
    }

    fn any_observation() -> impl Strategy<Value = Observation> {
        (0usize..6, 0u64..60, 0u64..12, 0usize..3, 0usize..2, 0u8..=4).prop_map(
            |(kind, start, length, text, source, sure)| {
                let mut o = said(Kind::ALL[kind], start, start + length, ["a", "b", "c"][text]);
                o.source = ["x", "y"][source].into();
                o.confidence = f32::from(sure) / 4.0;
                o.labels = vec![Label { name: o.source.clone(), confidence: o.confidence }];
                o
            },
        )
    }

    fn sorted(mut observations: Vec<Observation>) -> Vec<Observation> {
        observations.sort_by(Observation::canonical_cmp);
        observations
    }

    proptest! {
        #[test]
        fn after_joining_no_two_that_say_the_same_touch(all in vec(any_observation(), 0..40), gap in 0u64..8) {
            let joined = join(all.clone(), gap);
            for (index, one) in joined.iter().enumerate() {
                for other in joined.iter().skip(index + 1).filter(|o| is_joined(o.kind) && says_the_same(one, o)) {
                    let apart = other.span.start_ns.saturating_sub(one.span.end_ns);
                    prop_assert!(apart > gap, "{one:?} {other:?}");
                }
                let (from, to) = (one.span.start_ns, one.span.end_ns);
                prop_assert!(all.iter().any(|o| says_the_same(o, one) && o.span.start_ns == from));
                prop_assert!(all.iter().any(|o| says_the_same(o, one) && o.span.end_ns == to));
            }
            for one in &all {
                let holder = |o: &&Observation| says_the_same(o, one) && o.span.intersect(one.span) == one.span;
                prop_assert!(joined.iter().any(|o| holder(&o) && o.confidence >= one.confidence));
            }
            prop_assert_eq!(&join(joined.clone(), gap), &joined, "joining twice changes nothing");
        }

        #[test]
        fn the_order_in_which_they_come_does_not_matter(all in vec(any_observation(), 0..20).prop_shuffle(), gap in 0u64..8) {
            let (mut there, mut back) = (join(all.clone(), gap), join(all.into_iter().rev().collect(), gap));
            for o in there.iter_mut().chain(&mut back) {
                o.labels.clear(); // labels of exact duplicates may tie
            }
            prop_assert_eq!(there, back);
        }

        #[test]
        fn a_stream_gives_what_the_whole_gives(all in vec(any_observation(), 0..40), gap in 0u64..8,
                                               steps in vec(1u64..20, 1..12), longest in 12u64..80) {
            let all = sorted(all);
            let run = |longest: u64, steps: &[u64]| {
                let (mut timeline, mut out, mut settled) = (Timeline::new(gap, longest), Vec::new(), 0);
                let mut left = all.clone();
                for step in steps {
                    settled += step;
                    let rest = left.split_off(left.partition_point(|o| o.span.start_ns < settled));
                    out.extend(timeline.push(std::mem::replace(&mut left, rest), settled));
                }
                out.extend(timeline.push(left, settled));
                out.extend(timeline.flush());
                out
            };
            let streamed = run(u64::MAX, &steps);
            for kind in Kind::ALL {
                let starts: Vec<_> = streamed.iter().filter(|o| o.kind == kind).map(|o| o.span.start_ns).collect();
                prop_assert!(starts.is_sorted(), "{kind}: {starts:?}");
            }
            prop_assert_eq!(sorted(streamed), join(all.clone(), gap));
            let capped = run(longest, &steps);
            prop_assert_eq!(sorted(capped.clone()), sorted(run(longest, &[1000])));
            prop_assert!(capped.iter().all(|o| o.span.duration_ns() <= longest));
            prop_assert_eq!(join(capped, gap), join(all.clone(), gap));
        }

        #[test]
        fn what_is_still_going_on_may_come_early(all in vec(any_observation(), 0..40), gap in 0u64..8, order in any::<u64>()) {
            // Everything at once, long before it is settled.
            let mut timeline = Timeline::new(gap, u64::MAX);
            let mut out = timeline.push(all.clone(), 0);
            for settled in (0..80).step_by(1 + (order % 7) as usize) {
                out.extend(timeline.push(vec![], settled));
            }
            out.extend(timeline.flush());
            prop_assert_eq!(sorted(out), join(all, gap));
        }

        #[test]
        fn scenes_cover_the_span_exactly(all in vec(any_observation(), 0..20), start in 0u64..70, length in 0u64..70) {
            let span = Span::new(start, start + length);
            let tiles = tile_scenes(all, span);
            let mut at = span.start_ns;
            for tile in &tiles {
                prop_assert_eq!(tile.span.start_ns, at);
                prop_assert!(!tile.span.is_empty());
                at = tile.span.end_ns;
            }
            prop_assert!(tiles.is_empty() || at == span.end_ns);
        }
    }
}
