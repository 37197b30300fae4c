//! The composer: cuts the stream into segments as it goes on, and has each described once all experts are done with it.

use std::collections::BTreeSet;

use super::{Evidence, Names, Rules, caption, objects};
use crate::{
    clip::Clip,
    observation::{Kind, Observation},
    time::SECOND,
};

/// No segment is longer, in nanoseconds.
const LONGEST_NS: u64 = 8 * SECOND;
/// A segment of a long shot ends at the first border of a clip from this length on, in nanoseconds.
const ENOUGH_NS: u64 = 4 * SECOND;
/// A long shot is cut so that no part of it is shorter, in nanoseconds.
const SHORTEST_NS: u64 = 2 * SECOND;

/// Cuts the stream into segments and says what is known of each.
///
/// Segments tile the stream from the first clip on. A cut always starts a new one; a shot of more than 8 s is cut
/// further, into parts of 2 to 8 s. How the stream came in does not matter beyond where the clips had their borders.
pub struct Composer {
    names: Box<dyn Names>,
    rules: Rules,
    /// Start of the next segment; `None` before the first clip.
    next_ns: Option<u64>,
    /// Where shots start and end.
    cuts: BTreeSet<u64>,
    /// Where clips start and end.
    borders: BTreeSet<u64>,
    /// Times of the frames, in order.
    frames: Vec<u64>,
    said: Vec<Observation>,
}

impl Composer {
    /// A composer with `names` for classes and with thresholds.
    pub fn new(names: Box<dyn Names>, rules: Rules) -> Self {
        let (cuts, borders) = (BTreeSet::new(), BTreeSet::new());
        Self { names, rules, next_ns: None, cuts, borders, frames: Vec::new(), said: Vec::new() }
    }

    /// Start of the segment that comes next, in nanoseconds; `None` before the first clip.
    pub fn next_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// How many observations are kept as evidence.
    pub fn kept(&self) -> usize {
        self.said.len()
    }

    /// Takes the clip that follows the last one, and what the experts said by the end of it.
    pub fn take(&mut self, clip: &Clip, said: impl IntoIterator<Item = Observation>) {
        self.next_ns.get_or_insert(clip.span.start_ns);
        self.borders.extend([clip.span.start_ns, clip.span.end_ns]);
        self.frames.extend(clip.frames.iter().map(|frame| frame.at_ns));
        self.hear(said);
    }

    /// Takes what was said after the last clip.
    pub fn hear(&mut self, said: impl IntoIterator<Item = Observation>) {
        for observation in said {
            if observation.kind == Kind::Scene {
                self.cuts.extend([observation.span.start_ns, observation.span.end_ns]);
            } else {
                self.said.push(observation);
            }
        }
    }

    /// Describes every segment that ends by `settled_ns`, up to which everything is known.
    ///
    /// `end_ns` is the end of the stream, where it is known; `u64::MAX` for `settled_ns` then says all that is left.
    pub fn compose(&mut self, settled_ns: u64, end_ns: Option<u64>) -> Vec<Observation> {
        let mut out = Vec::new();
        while let Some(start) = self.next_ns {
            let cut = self.cuts.range(start.saturating_add(1)..).next().copied().into_iter().chain(end_ns).min();
            let Some(end) = segment_end(start, cut, settled_ns, &self.borders) else { break };
            if end > settled_ns || end <= start {
                break;
            }
            let segment = crate::Span::new(start, end);
            let evidence = Evidence { said: &self.said, frames: &self.frames, names: &*self.names, rules: &self.rules };
            out.extend(caption(segment, &evidence));
            out.extend(objects(segment, &evidence));
            self.forget_before(end);
        }
        out
    }

    fn forget_before(&mut self, ns: u64) {
        self.next_ns = Some(ns);
        self.cuts = self.cuts.split_off(&ns);
        self.borders = self.borders.split_off(&ns);
        self.frames.retain(|at| *at >= ns);
        self.said.retain(|observation| observation.span.end_ns > ns);
    }

    /// Forgets the stream.
    pub fn reset(&mut self) {
        self.next_ns = None;
        self.cuts.clear();
        self.borders.clear();
        self.frames.clear();
        self.said.clear();
    }
}

/// Where the segment that starts at `start` ends; `None` where that is not certain yet.
///
/// `cut` is where its shot ends, where known; no shot ends before both `cut` and `settled`.
fn segment_end(start: u64, cut: Option<u64>, settled: u64, borders: &BTreeSet<u64>) -> Option<u64> {
    let longest = start.saturating_add(LONGEST_NS);
    match cut {
        Some(cut) if cut <= longest => return Some(cut),
        None if settled <= longest => return None,
        _ => {}
    }
    let enough = start.saturating_add(ENOUGH_NS);
    let part = borders.range(enough..=longest).next().copied().unwrap_or(longest);
    let rest_starts = part.saturating_add(SHORTEST_NS);
    match cut {
        Some(cut) if cut < rest_starts => Some(start + (cut - start) / 2),
        None if settled < rest_starts => None,
        _ => Some(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Span, clip::Thumbnails};
    use proptest::{collection::vec, prelude::*};

    struct NoNames;

    impl Names for NoNames {
        fn article(&self, _class: &str) -> Option<&str> {
            None
        }
        fn group_of(&self, _class: &str) -> Option<(&str, &str)> {
            None
        }
    }

    fn clip(start_ns: u64, end_ns: u64) -> Clip {
        let (frames, thumbnails) = (Vec::new(), Thumbnails::default());
        Clip { span: Span::new(start_ns, end_ns), discont: false, frames, thumbnails, sound: None }
    }

    /// Segments of a stream of `clips`, whose shots are said `lag` clips late, with a sound all along.
    fn segments(clips: &[u64], cuts: &[u64], lag: usize) -> Vec<Span> {
        let mut composer = Composer::new(Box::new(NoNames), Rules::default());
        let mut ends = vec![0];
        ends.extend(clips.iter().scan(0, |at, length| {
            *at += length;
            Some(*at)
        }));
        let end = *ends.last().unwrap();
        let mut all: Vec<u64> = cuts.iter().copied().filter(|cut| (1..end).contains(cut)).chain([0, end]).collect();
        all.sort_unstable();
        all.dedup();
        let rain = Observation::new(Kind::Sound, Span::new(0, end), "rain falls", 0.5, "lite/sounds");
        composer.hear([rain]);
        let (mut out, mut said) = (Vec::new(), 0);
        for (index, pair) in ends.windows(2).enumerate() {
            let settled = ends[(index + 1).saturating_sub(lag)];
            let shots = all.windows(2).filter(|shot| (said..settled).contains(&shot[1]));
            let shots: Vec<_> =
                shots.map(|s| Observation::new(Kind::Scene, Span::new(s[0], s[1]), "shot", 0.5, "x")).collect();
            composer.take(&clip(pair[0], pair[1]), shots);
            said = settled;
            out.extend(composer.compose(settled, None));
        }
        composer.hear(all.windows(2).map(|s| Observation::new(Kind::Scene, Span::new(s[0], s[1]), "shot", 0.5, "x")));
        out.extend(composer.compose(u64::MAX, Some(end)));
        assert!(composer.kept() <= 1, "evidence is dropped once it was used");
        out.into_iter().map(|o| o.span).collect()
    }

    #[test]
    fn a_long_shot_is_cut_at_borders_of_clips() {
        let s = |from: u64, to: u64| Span::new(from * SECOND, to * SECOND);
        let four = [4 * SECOND; 5];
        assert_eq!(segments(&four, &[], 0), [s(0, 4), s(4, 8), s(8, 12), s(12, 20)], "8 s may stay whole");
        assert_eq!(segments(&four, &[7 * SECOND], 0), [s(0, 7), s(7, 12), s(12, 20)]);
        assert_eq!(segments(&four, &[SECOND / 2, 9 * SECOND], 0)[0], Span::new(0, SECOND / 2), "a cut is a cut");
        // Borders that are too far apart: the longest, or two halves.
        assert_eq!(segments(&[19 * SECOND], &[], 0), [s(0, 8), s(8, 16), s(16, 19)]);
        assert_eq!(
            segments(&[9 * SECOND], &[], 0),
            [Span::new(0, 4_500_000_000), Span::new(4_500_000_000, 9 * SECOND)]
        );
    }

    /// So that a sound is heard in even the shortest segment.
    const STEP: u64 = SECOND * 3 / 10;

    proptest! {
        #[test]
        fn segments_tile_the_stream_and_come_out_the_same(
            clips in vec(1u64..40, 1..30), cuts in vec(1u64..400, 0..12), lag in 0usize..5,
        ) {
            let (clips, cuts): (Vec<_>, Vec<_>) =
                (clips.iter().map(|c| c * STEP).collect(), cuts.iter().map(|c| c * STEP).collect());
            let found = segments(&clips, &cuts, lag);
            let end: u64 = clips.iter().sum();
            let mut at = 0;
            for span in &found {
                prop_assert_eq!(span.start_ns, at);
                at = span.end_ns;
                prop_assert!(span.duration_ns() <= LONGEST_NS);
                let shot_starts = |ns: u64| ns == 0 || ns == end || cuts.contains(&ns);
                prop_assert!(span.duration_ns() >= SHORTEST_NS || shot_starts(span.start_ns) && shot_starts(span.end_ns));
            }
            prop_assert_eq!(at, end);
            for cut in cuts.iter().filter(|cut| **cut < end) {
                prop_assert!(found.iter().any(|span| span.start_ns == *cut));
            }
            prop_assert_eq!(segments(&clips, &cuts, 0), found, "lag does not matter");
        }
    }
}
