//! Where one shot ends and the next begins, from thumbnails of every frame: the arithmetic around the network.

use std::{collections::VecDeque, sync::Arc};

use crate::clip::THUMBNAIL_BYTES;

/// Frames that the network sees at once (TransNetV2, arXiv:2008.04838).
pub const WINDOW: usize = 100;
/// Frames from one window to the next; so many in the middle of each are believed.
const STEP: usize = 50;
/// Frames at both ends of a window that only give context.
const MARGIN: usize = (WINDOW - STEP) / 2;
/// Frames to both sides in which a cut must be the surest one.
const PEAK: usize = 5;
/// Distance in frames over which a slow dissolve shows; about half a second of film.
const SLOW: usize = 12;
/// Windows in one run of the network: four at once were no faster and took 110 MB more.
const BATCH: usize = 1;
/// A picture that stays longer than this counts as shown again: the network knows film, not slides a minute apart,
/// and the decision on a slide must not wait for 75 more slides.
const HOLD_NS: u64 = 200_000_000;
/// Most repeats of one picture between two frames (3.6 hours), against broken timestamps.
const MAX_HELD: u64 = 1 << 16;

/// The first frame of a new shot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Stream time of the frame.
    pub at_ns: u64,
    /// 0 to 1.
    pub probability: f32,
}

/// Mean differences of thumbnails, 0 to 255, up to which a window counts as one shot and is not looked at.
///
/// A cut is a step between neighbours, a dissolve a slow change; a zoom or a pan changes less within half a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// From one frame to the next.
    pub next: f32,
    /// Over [`SLOW`] frames.
    pub slow: f32,
}

impl Gate {
    /// The same for neighbours and for slow changes.
    #[cfg(test)]
    pub fn both(limit: f32) -> Self {
        Self { next: limit, slow: limit }
    }
}

/// A thumbnail on the screen; repeats share its pixels.
struct Shown {
    at_ns: u64,
    rgb: Arc<[u8]>,
}

/// Finds cuts in thumbnails as they come, keeping only those that are still needed.
///
/// Frames are counted from the first one. The window that decides the frames `[s, s + 50)` sees `[s - 25, s + 75)`;
/// the first and the last frame are repeated where it reaches over the ends. As `s` counts by 50 whatever the clips,
/// cuts do not depend on how the stream is divided.
pub struct CutFinder {
    threshold: f32,
    gate: Gate,
    frames: VecDeque<Shown>,
    /// Index of `frames[0]`.
    first: usize,
    /// When the last frame came that is no repeat, and how often it was repeated.
    held: (u64, u64),
    /// Frames that have a probability.
    decided: usize,
    /// Probabilities of the frames from `decided - probabilities.len()` to `decided`.
    probabilities: VecDeque<f32>,
    /// The next frame to be judged.
    candidate: usize,
}

impl CutFinder {
    /// A finder of cuts surer than `threshold`; windows in which no two thumbnails differ by more than `gate` (mean over
    /// all values, 0 to 255) are not shown to the network and have no cut.
    pub fn new(threshold: f32, gate: Gate) -> Self {
        Self {
            threshold,
            gate,
            frames: VecDeque::new(),
            first: 0,
            held: (0, 0),
            decided: 0,
            probabilities: VecDeque::new(),
            candidate: 0,
        }
    }

    /// Adds the next frame; a time before that of the last one counts as the same time.
    pub fn push(&mut self, at_ns: u64, rgb: &[u8]) {
        self.hold(at_ns);
        let at_ns = self.frames.back().map_or(at_ns, |last| last.at_ns.max(at_ns));
        self.frames.push_back(Shown { at_ns, rgb: rgb.into() });
        self.held = (at_ns, 0);
    }

    /// Says that the last frame stays on the screen until `ns`, at least.
    pub fn hold(&mut self, ns: u64) {
        let Some(rgb) = self.frames.back().map(|last| last.rgb.clone()) else { return };
        let (since, count) = self.held;
        // The repeats are at since + 1, 2, 3... times HOLD_NS, those before `ns`; the same ones however often this is asked.
        let wanted = (ns.saturating_sub(since).saturating_sub(1) / HOLD_NS).min(MAX_HELD);
        for k in count + 1..=wanted {
            self.frames.push_back(Shown { at_ns: since + k * HOLD_NS, rgb: rgb.clone() });
        }
        self.held.1 = wanted.max(count);
    }

    /// Time of the first frame that is not decided; `None` where no frame is waiting.
    pub fn undecided_ns(&self) -> Option<u64> {
        self.frames.get(self.candidate - self.first).map(|frame| frame.at_ns)
    }

    /// The cuts that can be decided now, all of them at the `end`.
    ///
    /// `network` is given whole windows (`u8 [n,100,27,48,3]`) and returns a probability for each frame of them. Where it
    /// fails, the frames that it was asked about have no cut, and the error is returned with the cuts of the others.
    pub fn advance<E>(
        &mut self,
        end: bool,
        mut network: impl FnMut(&[u8]) -> Result<Vec<f32>, E>,
    ) -> (Vec<Cut>, Result<(), E>) {
        let starts = self.ready(end);
        let mut found = vec![0.0; starts.len() * STEP];
        let moving: Vec<usize> = (0..starts.len()).filter(|&i| self.moves(starts[i])).collect();
        let mut result = Ok(());
        for batch in moving.chunks(BATCH) {
            match network(&self.windows(batch.iter().map(|&i| starts[i]))) {
                Ok(probabilities) => {
                    for (&i, window) in batch.iter().zip(probabilities.chunks_exact(WINDOW)) {
                        found[i * STEP..(i + 1) * STEP].copy_from_slice(&window[MARGIN..MARGIN + STEP]);
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        found.truncate(self.end() - self.decided);
        self.decided += found.len();
        self.probabilities.extend(found);
        let cuts = self.judge(end);
        self.forget();
        (cuts, result)
    }

    /// First index after the known frames.
    fn end(&self) -> usize {
        self.first + self.frames.len()
    }

    /// First frames of the windows that can be run.
    fn ready(&self, end: bool) -> Vec<usize> {
        let known = self.end();
        let is_ready = |start: &usize| if end { *start < known } else { start + STEP + MARGIN <= known };
        (0..).map(|i| self.decided + i * STEP).take_while(is_ready).collect()
    }

    /// Frame `index` + `offset`, or the known one that is nearest.
    fn frame(&self, index: usize, offset: isize) -> &Shown {
        let wanted = index.saturating_add_signed(offset).clamp(self.first, self.end() - 1);
        &self.frames[wanted - self.first]
    }

    /// Whether anything changes, at once or slowly, where the window at `start` decides.
    fn moves(&self, start: usize) -> bool {
        let differs = |index: usize, offset: usize, gate: f32| {
            difference(&self.frame(index, 0).rgb, &self.frame(index, offset as isize).rgb) > gate
        };
        let Gate { next, slow } = self.gate;
        (start.saturating_sub(SLOW)..start + STEP).any(|i| differs(i, 1, next) || differs(i, SLOW, slow))
    }

    /// The pixels of the windows at `starts`.
    fn windows(&self, starts: impl Iterator<Item = usize>) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(BATCH * WINDOW * THUMBNAIL_BYTES);
        for start in starts {
            for k in 0..WINDOW {
                pixels.extend_from_slice(&self.frame(start, k as isize - MARGIN as isize).rgb);
            }
        }
        pixels
    }

    /// Probability of frame `index`; 0 where it has none.
    fn probability(&self, index: usize) -> f32 {
        (index + self.probabilities.len())
            .checked_sub(self.decided)
            .and_then(|i| self.probabilities.get(i))
            .copied()
            .unwrap_or(0.0)
    }

    /// The frames that are surest among their neighbours; the first of those that are equally sure.
    fn judge(&mut self, end: bool) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let last = if end { self.decided } else { self.decided.saturating_sub(PEAK) };
        while self.candidate < last {
            let here = self.candidate;
            let sure = self.probability(here);
            let is_peak = sure > self.threshold
                && (here.saturating_sub(PEAK)..here).all(|i| self.probability(i) < sure)
                && (here + 1..=here + PEAK).all(|i| self.probability(i) <= sure);
            if is_peak && here + 1 < self.end() {
                cuts.push(Cut { at_ns: self.frame(here, 1).at_ns, probability: sure });
            }
            self.candidate += 1;
        }
        cuts
    }

    /// Drops what no later decision looks at.
    fn forget(&mut self) {
        let needed = self.decided.saturating_sub(MARGIN + SLOW).min(self.candidate);
        self.frames.drain(..needed.saturating_sub(self.first));
        self.first = self.first.max(needed);
        let old = (self.candidate.saturating_sub(PEAK) + self.probabilities.len()).saturating_sub(self.decided);
        self.probabilities.drain(..old);
    }
}

/// Mean difference of two thumbnails, 0 to 255.
fn difference(a: &Arc<[u8]>, b: &Arc<[u8]>) -> f32 {
    if Arc::ptr_eq(a, b) {
        return 0.0;
    }
    let sum: u32 = a.iter().zip(b.iter()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    sum as f32 / a.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A thumbnail whose probability the fake network reads off its first byte.
    fn thumbnail(value: u8) -> Vec<u8> {
        vec![value; THUMBNAIL_BYTES]
    }

    fn read_off(windows: &[u8]) -> Result<Vec<f32>, ()> {
        Ok(windows.chunks_exact(THUMBNAIL_BYTES).map(|rgb| f32::from(rgb[0]) / 255.0).collect())
    }

    /// Cuts of `frames` (time, value), asked for after each of `pieces` frames; a negative gate lets all through.
    fn find(frames: &[(u64, u8)], pieces: &[usize], gate: f32) -> Vec<Cut> {
        let (mut finder, mut cuts, mut rest) = (CutFinder::new(0.4, Gate::both(gate)), Vec::new(), frames);
        for piece in pieces.iter().copied().chain([usize::MAX]) {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            now.iter().for_each(|(at, value)| finder.push(*at, &thumbnail(*value)));
            if let Some((next, _)) = later.first() {
                finder.hold(*next);
            }
            cuts.extend(finder.advance(false, read_off).0);
            assert!(finder.frames.len() <= now.len() + WINDOW + SLOW, "{} frames are kept", finder.frames.len());
            rest = later;
        }
        cuts.extend(finder.advance(true, read_off).0);
        cuts
    }

    /// The rule in one line each, over all frames at once.
    fn by_hand(frames: &[(u64, u8)]) -> Vec<Cut> {
        let p = |i: usize| f32::from(frames[i].1) / 255.0;
        let near = |i: usize| i.saturating_sub(PEAK)..(i + PEAK + 1).min(frames.len());
        (0..frames.len().saturating_sub(1))
            .filter(|&i| p(i) > 0.4 && near(i).all(|j| if j < i { p(j) < p(i) } else { p(j) <= p(i) }))
            .map(|i| Cut { at_ns: frames[i + 1].0, probability: p(i) })
            .collect()
    }

    fn film() -> impl Strategy<Value = Vec<(u64, u8)>> {
        let value = prop_oneof![4 => Just(0u8), 1 => any::<u8>()];
        proptest::collection::vec((0u64..HOLD_NS, value), 0..260).prop_map(|steps| {
            steps
                .into_iter()
                .scan(7, |now, (step, value)| {
                    *now += step;
                    Some((*now, value))
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn cuts_are_the_peaks_however_the_stream_is_divided(
            frames in film(), pieces in proptest::collection::vec(0usize..130, 0..12),
        ) {
            prop_assert_eq!(find(&frames, &pieces, -1.0), by_hand(&frames));
        }

        #[test]
        fn pauses_do_not_make_the_division_matter(
            frames in film(), scale in 1u64..40, pieces in proptest::collection::vec(0usize..130, 0..12),
        ) {
            let frames: Vec<_> = frames.into_iter().map(|(at, value)| (at * scale, value)).collect();
            prop_assert_eq!(find(&frames, &pieces, 0.0), find(&frames, &[], 0.0));
        }
    }

    #[test]
    fn a_still_picture_never_reaches_the_network() {
        let mut finder = CutFinder::new(0.4, Gate::both(1.0));
        (0..300).for_each(|i| finder.push(i * 40, &thumbnail(255 - (i % 2) as u8)));
        let (cuts, result) = finder.advance(true, |_| Err("asked"));
        assert_eq!((cuts, result), (vec![], Ok(())));
    }

    #[test]
    fn a_slow_change_reaches_the_network() {
        let mut finder = CutFinder::new(0.4, Gate::both(1.0));
        (0..100).for_each(|i| finder.push(i * 40, &thumbnail((i / 4) as u8)));
        assert_eq!(finder.advance(true, |_| Err("asked")).1, Err("asked"));
    }

    #[test]
    fn a_failed_run_costs_its_frames_only() {
        let frames: Vec<_> = (0..200u64).map(|i| (i * 40, if i == 20 || i == 120 { 255 } else { 0 })).collect();
        let mut finder = CutFinder::new(0.4, Gate::both(-1.0));
        frames[..100].iter().for_each(|(at, value)| finder.push(*at, &thumbnail(*value)));
        assert_eq!(finder.advance(false, |_| Err("broken")), (vec![], Err("broken")));
        frames[100..].iter().for_each(|(at, value)| finder.push(*at, &thumbnail(*value)));
        assert_eq!(finder.advance(true, read_off).0, [Cut { at_ns: 121 * 40, probability: 1.0 }]);
    }

    #[test]
    fn slides_are_decided_without_waiting_for_more_slides() {
        let mut finder = CutFinder::new(0.4, Gate::both(0.0));
        finder.push(0, &thumbnail(0));
        finder.hold(60_000_000_000);
        let _ = finder.advance(false, read_off);
        assert!(finder.undecided_ns().unwrap() > 35_000_000_000);
        // A broken timestamp neither fills the memory nor takes for ever.
        finder.push(u64::MAX, &thumbnail(9));
        assert!(finder.end() < MAX_HELD as usize + WINDOW);
    }
}
