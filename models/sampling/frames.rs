//! Which frames of a clip are kept: those nearest to N even instants.

use crate::{clip::Frame, time::Span};

/// A frame that may or may not be kept; a cheap handle.
pub trait Candidate: Clone {
    /// Called as soon as it is certain that the frame is kept: convert it now and let go of the decoder's memory.
    fn keep(&self);

    /// The picture of a kept frame; `None` where it could not be converted.
    fn frame(&self, at_ns: u64) -> Option<Frame>;
}

/// The `count` even instants of `span`: the middles of `count` equal parts.
pub fn instants(span: Span, count: usize) -> impl Iterator<Item = u64> {
    let length = u128::from(span.duration_ns());
    (0..count as u128).map(move |i| span.start_ns + (length * (2 * i + 1) / (2 * count as u128)) as u64)
}

/// Chooses the frames of one clip while they come, in order of time.
///
/// At most one frame is held undecided, except at the start of a clip: while there have been no more than N frames,
/// each of them is held, because a clip that never gets more than N keeps them all.
#[derive(Debug, Clone)]
pub struct FramePicker<F> {
    instants: Vec<u64>,
    /// How many of `instants` have their frame.
    decided: usize,
    seen: usize,
    last: Option<Held<F>>,
    kept: Vec<Held<F>>,
    /// Frames that are nearest to no instant, while there were no more than N.
    spare: Vec<Held<F>>,
}

#[derive(Debug, Clone)]
struct Held<F> {
    at_ns: u64,
    frame: F,
}

impl<F: Candidate> FramePicker<F> {
    /// A picker for `count` frames of `span`.
    pub fn new(span: Span, count: usize) -> Self {
        Self {
            instants: instants(span, count).collect(),
            decided: 0,
            seen: 0,
            last: None,
            kept: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// The next frame; its time is in the clip and not before the last one's.
    pub fn push(&mut self, at_ns: u64, frame: F) {
        self.settle_last(Some(at_ns));
        self.seen += 1;
        if self.seen > self.instants.len() {
            self.spare.clear();
        }
        self.last = Some(Held { at_ns, frame });
    }

    /// Gives the last frame every instant that lies nearer to it than to `next_ns`; all that are left where nothing follows.
    fn settle_last(&mut self, next_ns: Option<u64>) {
        let Some(last) = self.last.take() else { return };
        let nearer = |&&instant: &&u64| match next_ns {
            Some(next) => instant.abs_diff(last.at_ns) <= next.saturating_sub(instant),
            None => true,
        };
        let taken = self.instants[self.decided..].iter().take_while(nearer).count();
        self.decided += taken;
        if taken > 0 {
            last.frame.keep();
            self.kept.push(last);
        } else if self.seen <= self.instants.len() {
            self.spare.push(last);
        }
    }

    /// The chosen frames in order of time.
    pub fn finish(mut self) -> Vec<(u64, F)> {
        self.settle_last(None);
        if self.seen <= self.instants.len() {
            self.spare.iter().for_each(|held| held.frame.keep());
            self.kept.append(&mut self.spare);
            self.kept.sort_by_key(|held| held.at_ns);
        }
        self.kept.into_iter().map(|held| (held.at_ns, held.frame)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{cell::Cell, rc::Rc};

    #[derive(Clone, Default)]
    struct Probe(Rc<Cell<u32>>);

    impl Candidate for Probe {
        fn keep(&self) {
            self.0.set(self.0.get() + 1);
        }

        fn frame(&self, _at_ns: u64) -> Option<Frame> {
            None
        }
    }

    fn pick(span: Span, count: usize, times: &[u64]) -> (Vec<u64>, Vec<u32>) {
        let probes: Vec<Probe> = times.iter().map(|_| Probe::default()).collect();
        let mut picker = FramePicker::new(span, count);
        for (at, probe) in times.iter().zip(&probes) {
            picker.push(*at, probe.clone());
        }
        let chosen = picker.finish().into_iter().map(|(at, _)| at).collect();
        (chosen, probes.iter().map(|probe| probe.0.get()).collect())
    }

    /// The definition, without streaming.
    fn reference(span: Span, count: usize, times: &[u64]) -> Vec<u64> {
        if times.len() <= count {
            return times.to_vec();
        }
        let mut indices: Vec<usize> = instants(span, count)
            .filter_map(|instant| (0..times.len()).min_by_key(|&i| (times[i].abs_diff(instant), i)))
            .collect();
        indices.dedup();
        indices.into_iter().map(|i| times[i]).collect()
    }

    #[test]
    fn four_seconds_at_25_frames_a_second() {
        let times: Vec<u64> = (0..100).map(|i| i * 40).collect();
        let (chosen, _) = pick(Span::new(0, 4_000), 8, &times);
        // Instants 250, 750, …; ties (500 ± 20 never occurs here) go to the earlier frame.
        assert_eq!(chosen, [240, 760, 1240, 1760, 2240, 2760, 3240, 3760]);
    }

    #[test]
    fn few_frames_are_all_kept_once() {
        let (chosen, kept) = pick(Span::new(0, 4_000), 8, &[0, 10, 20, 3_990]);
        assert_eq!(chosen, [0, 10, 20, 3_990]);
        assert_eq!(kept, [1, 1, 1, 1]);
    }

    proptest! {
        #[test]
        fn streaming_equals_the_definition(gaps in proptest::collection::vec(1u64..400, 0..60), count in 1usize..12) {
            let times: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let span = Span::new(0, 4_000);
            let times: Vec<u64> = times.into_iter().filter(|at| span.contains(*at)).collect();
            let (chosen, kept) = pick(span, count, &times);
            prop_assert_eq!(&chosen, &reference(span, count, &times));
            // Sorted, unique, inside; each kept exactly once, none converted in vain.
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.iter().all(|at| span.contains(*at)) && chosen.len() <= count);
            for (at, kept) in times.iter().zip(kept) {
                prop_assert_eq!(kept, u32::from(chosen.contains(at)));
            }
        }

        #[test]
        fn instants_are_even(start in 0u64..1 << 40, length in 1u64..1 << 40, count in 1usize..64) {
            let span = Span::new(start, start + length);
            let all: Vec<u64> = instants(span, count).collect();
            prop_assert_eq!(all.len(), count);
            prop_assert!(all.iter().all(|at| span.contains(*at)));
            let step = length as f64 / count as f64;
            prop_assert!(all.windows(2).all(|pair| ((pair[1] - pair[0]) as f64 - step).abs() <= 1.0));
        }
    }
}
