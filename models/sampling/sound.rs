//! Placing sound by its timestamps on the grid of output samples.
//!
//! Sound that follows on without a hole is one *run*: it goes through one resampler that keeps its state, and its
//! first sample is placed at the grid point nearest to its timestamp. A hole ends the run; silence is put in for it
//! when the sound is taken. So nothing drifts: every run is at most half an output sample off, however long it is.

use std::collections::VecDeque;

use rubato::{Fft, FixedSync, Indexing, Resampler, WindowFunction, audioadapter_buffers::direct::InterleavedSlice};

use crate::time::{SECOND, Span, sample_at, time_of_sample};

/// Timestamps off by less than this continue a run: containers round times to a millisecond (Matroska, FLV).
const TOLERANCE_NS: u64 = 2_000_000;
/// Fewest frames that the resampler takes at once: short enough for live use, long enough for a steep filter.
const CHUNK: usize = 512;

/// A stream of sound on the grid of `rate` samples a second.
pub struct SoundTrack {
    rate: u32,
    /// First grid index that is still open: nothing is placed before it.
    end: u64,
    run: Option<Run>,
    /// Sound that was placed and not yet forgotten, in order, without overlap; silence lies between.
    pieces: VecDeque<Piece>,
    samples_in: u64,
    trimmed: u64,
}

struct Piece {
    first: u64,
    samples: Vec<f32>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.first + self.samples.len() as u64
    }
}

struct Run {
    rate: u32,
    /// Stream time of the run's first sample.
    start_ns: u64,
    /// Samples pushed so far, at the input rate.
    pushed: u64,
    /// Output samples still to be thrown away: the resampler's delay.
    skip: usize,
    /// `None` where the rates are the same.
    resampler: Option<Fft<f32>>,
    waiting: Vec<f32>,
    scratch: Vec<f32>,
}

impl Run {
    fn new(rate: u32, out_rate: u32, start_ns: u64) -> Self {
        let resampler = (rate != out_rate).then(|| Self::resampler(rate, out_rate)).flatten();
        let skip = resampler.as_ref().map_or(0, Resampler::output_delay);
        let scratch = vec![0.0; resampler.as_ref().map_or(0, Resampler::output_frames_max)];
        Self { rate, start_ns, pushed: 0, skip, resampler, waiting: Vec::new(), scratch }
    }

    /// The block is an even number of the smallest blocks: the filter's middle is at half a block, and with an odd
    /// number of samples rubato rounds it, which puts everything half an input sample off.
    fn resampler(rate: u32, out_rate: u32) -> Option<Fft<f32>> {
        let (rate, out_rate) = (rate as usize, out_rate as usize);
        let (mut divisor, mut rest) = (rate, out_rate);
        while rest != 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        let pair = 2 * (rate / divisor);
        let block = CHUNK.div_ceil(pair) * pair;
        Fft::new_custom(rate, out_rate, block, 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Input).ok()
    }

    /// Stream time at which the next sample is expected.
    fn expected_ns(&self) -> u64 {
        self.start_ns + time_of_sample(self.pushed, self.rate)
    }

    /// Feeds `samples`; what comes out is appended to `out`.
    fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.pushed += samples.len() as u64;
        if self.resampler.is_none() {
            out.extend_from_slice(samples);
            return;
        }
        self.waiting.extend_from_slice(samples);
        let mut taken = 0;
        while let Some(needs) = self.resampler.as_ref().map(Resampler::input_frames_next) {
            if needs == 0 || self.waiting.len() - taken < needs {
                break;
            }
            self.process(taken, None, out);
            taken += needs;
        }
        self.waiting.drain(..taken);
    }

    /// Pushes out what is still inside, until the run has given `length` samples in all, `given` of them before.
    fn finish(mut self, mut given: u64, length: u64, out: &mut Vec<f32>) {
        if self.resampler.is_none() {
            return;
        }
        let start = out.len();
        let mut partial = self.waiting.len();
        while given + ((out.len() - start) as u64) < length {
            let before = out.len();
            self.process(0, Some(partial), out);
            self.waiting.clear();
            // The delay may swallow a whole chunk; a resampler that gives nothing for silence twice is empty.
            if out.len() == before && partial == 0 && self.skip == 0 {
                break;
            }
            partial = 0;
        }
        given += (out.len() - start) as u64;
        out.truncate(out.len() - usize::try_from(given.saturating_sub(length)).unwrap_or(0).min(out.len() - start));
    }

    fn process(&mut self, offset: usize, partial: Option<usize>, out: &mut Vec<f32>) {
        let Some(resampler) = &mut self.resampler else { return };
        let length = self.scratch.len();
        let waiting = &self.waiting[offset..];
        let indexing = partial.map(|frames| Indexing::new().partial_len(frames));
        let (Ok(input), Ok(mut output)) =
            (InterleavedSlice::new(waiting, 1, waiting.len()), InterleavedSlice::new_mut(&mut self.scratch, 1, length))
        else {
            return;
        };
        let Ok((_, written)) = resampler.process_into_buffer(&input, &mut output, indexing.as_ref()) else { return };
        let skipped = self.skip.min(written);
        self.skip -= skipped;
        out.extend_from_slice(&self.scratch[skipped..written]);
    }
}

impl SoundTrack {
    /// A track of `rate` samples a second on which nothing is placed before `origin_ns`.
    pub fn new(rate: u32, origin_ns: u64) -> Self {
        Self { rate, end: sample_at(origin_ns, rate), run: None, pieces: VecDeque::new(), samples_in: 0, trimmed: 0 }
    }

    /// Places mono `samples` of `rate` a second whose first is at `at_ns`.
    ///
    /// `discont`: the timestamp is to be believed to the sample even where it is off by less than the tolerance.
    pub fn push(&mut self, at_ns: u64, rate: u32, samples: &[f32], discont: bool) {
        self.samples_in += samples.len() as u64;
        if rate == 0 || samples.is_empty() {
            return;
        }
        let half_sample = SECOND / u64::from(rate) / 2 + 1;
        let tolerance = if discont { half_sample } else { TOLERANCE_NS };
        let follows = self
            .run
            .as_ref()
            .is_some_and(|run| run.rate == rate && at_ns.abs_diff(run.expected_ns()) <= tolerance.max(half_sample));
        if follows {
            self.feed(samples);
            return;
        }
        let jumps_ahead = self.run.as_ref().is_none_or(|run| run.rate != rate || at_ns > run.expected_ns());
        if jumps_ahead {
            self.end_run();
        }
        // Whatever was placed already stays: the part of the new sound that lies before is trimmed.
        let open_ns = self.run.as_ref().map_or_else(|| time_of_sample(self.end, self.rate), Run::expected_ns);
        let trim = if at_ns < open_ns { sample_at(open_ns - at_ns, rate) } else { 0 };
        self.trimmed += trim.min(samples.len() as u64);
        let Some(rest) =
            usize::try_from(trim).ok().and_then(|trim| samples.get(trim..)).filter(|rest| !rest.is_empty())
        else {
            return;
        };
        if self.run.is_none() {
            let start_ns = at_ns + time_of_sample(trim, rate);
            self.end = self.end.max(sample_at(start_ns, self.rate));
            self.pieces.push_back(Piece { first: self.end, samples: Vec::new() });
            self.run = Some(Run::new(rate, self.rate, start_ns));
        }
        self.feed(rest);
    }

    fn feed(&mut self, samples: &[f32]) {
        let (Some(run), Some(piece)) = (&mut self.run, self.pieces.back_mut()) else { return };
        run.push(samples, &mut piece.samples);
        self.end = piece.end();
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        let Some(piece) = self.pieces.back_mut() else { return };
        let end = sample_at(run.expected_ns(), self.rate);
        let given = piece.samples.len() as u64;
        run.finish(given, end.saturating_sub(piece.first), &mut piece.samples);
        self.end = self.end.max(piece.end());
    }

    /// Silence up to `ns`: a GAP event, a stream that ended, or a clip that cannot wait.
    pub fn fill_to(&mut self, ns: u64) {
        self.end_run();
        self.end = self.end.max(sample_at(ns, self.rate));
    }

    /// Whether every sample before `ns` is there.
    pub fn is_complete_to(&self, ns: u64) -> bool {
        self.end >= sample_at(ns, self.rate)
    }

    /// Stream time up to which sound was pushed or silence put in, the resampler's delay included.
    pub fn end_ns(&self) -> u64 {
        self.run.as_ref().map_or_else(|| time_of_sample(self.end, self.rate), Run::expected_ns)
    }

    /// First time at or after `ns` at which there is sound; `None` where there is none yet.
    pub fn next_sound_ns(&self, ns: u64) -> Option<u64> {
        let index = sample_at(ns, self.rate);
        self.pieces
            .iter()
            .find(|piece| piece.end() > index)
            .map(|piece| time_of_sample(piece.first.max(index), self.rate))
    }

    /// Index of the first sample of `span`, its samples, and how many of them are silence that was put in.
    pub fn copy(&self, span: Span) -> (u64, Vec<f32>, u64) {
        let (first, end) = (sample_at(span.start_ns, self.rate), sample_at(span.end_ns, self.rate));
        let mut samples = vec![0.0; usize::try_from(end - first).unwrap_or(0)];
        let mut there = 0;
        for piece in &self.pieces {
            let (from, to) = (piece.first.max(first), piece.end().min(end));
            if from < to {
                let part = &piece.samples[(from - piece.first) as usize..(to - piece.first) as usize];
                samples[(from - first) as usize..(to - first) as usize].copy_from_slice(part);
                there += to - from;
            }
        }
        (first, samples, end - first - there)
    }

    /// Drops what lies before `ns`.
    pub fn forget_before(&mut self, ns: u64) {
        let index = sample_at(ns, self.rate);
        // The last piece may still grow.
        while self.pieces.len() > 1 && self.pieces[0].end() <= index {
            self.pieces.pop_front();
        }
        if let Some(piece) = self.pieces.front_mut()
            && piece.first < index
        {
            let drop = usize::try_from(index - piece.first).unwrap_or(usize::MAX).min(piece.samples.len());
            // Growing pieces keep their place even when all of their samples are gone.
            piece.samples.drain(..drop);
            piece.first += drop as u64;
        }
    }

    /// Samples a second of the track.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Input samples pushed so far, and how many of them were trimmed because their place was taken or given out.
    pub fn counts(&self) -> (u64, u64) {
        (self.samples_in, self.trimmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: u32 = 16_000;

    fn ns(samples: u64, rate: u32) -> u64 {
        time_of_sample(samples, rate)
    }

    /// A click (band-limited: a raised cosine of 1 ms) at `at_ns`, as `length` samples starting at `start_ns`.
    fn click(at_ns: f64, start_ns: f64, rate: u32, length: usize) -> Vec<f32> {
        (0..length)
            .map(|i| {
                let distance = (start_ns + i as f64 * 1e9 / f64::from(rate) - at_ns) / 1e6;
                if distance.abs() < 1.0 { (0.5 + 0.5 * (std::f64::consts::PI * distance).cos()) as f32 } else { 0.0 }
            })
            .collect()
    }

    fn peak(samples: &[f32]) -> f64 {
        // Centre of gravity: finer than a sample.
        let (mass, moment) = samples
            .iter()
            .enumerate()
            .map(|(i, x)| (f64::from(x * x), i as f64))
            .fold((0.0, 0.0), |(mass, moment), (x, i)| (mass + x, moment + x * i));
        moment / mass
    }

    #[test]
    fn a_hole_is_filled_to_the_sample() {
        let mut track = SoundTrack::new(RATE, 0);
        track.push(0, RATE, &[1.0; 100], true);
        track.push(ns(1_000, RATE), RATE, &[2.0; 100], false);
        track.fill_to(ns(2_000, RATE));
        let (first, samples, filled) = track.copy(Span::new(0, ns(2_000, RATE)));
        assert_eq!((first, filled, samples.len()), (0, 1_800, 2_000));
        assert!(samples[..100].iter().all(|x| *x == 1.0) && samples[100..1_000].iter().all(|x| *x == 0.0));
        assert!(samples[1_000..1_100].iter().all(|x| *x == 2.0) && samples[1_100..].iter().all(|x| *x == 0.0));
    }

    #[test]
    fn times_rounded_to_a_millisecond_are_no_holes() {
        let mut track = SoundTrack::new(RATE, 0);
        let ramp: Vec<f32> = (0..16_000).map(|i| i as f32).collect();
        // Buffers of 1024 samples are exactly 64 ms; 441 of them at 27.5625 ms are not.
        for (k, part) in ramp.chunks(441).enumerate() {
            let exact = ns(k as u64 * 441, RATE);
            track.push(exact / 1_000_000 * 1_000_000, RATE, part, k == 0);
        }
        let (_, samples, filled) = track.copy(Span::new(0, SECOND));
        assert_eq!((samples, filled), (ramp, 0));
    }

    #[test]
    fn a_marked_jump_is_believed_to_the_sample() {
        let mut track = SoundTrack::new(RATE, 0);
        track.push(0, RATE, &[1.0; 160], true);
        track.push(ns(170, RATE), RATE, &[1.0; 160], true);
        let (_, samples, filled) = track.copy(Span::new(0, ns(330, RATE)));
        assert_eq!(filled, 10);
        assert_eq!(samples.iter().filter(|x| **x == 0.0).count(), 10);
        assert_eq!(samples[160..170], [0.0; 10]);
    }

    #[test]
    fn what_overlaps_is_trimmed() {
        let mut track = SoundTrack::new(RATE, 0);
        track.push(0, RATE, &[1.0; 1_000], true);
        track.push(ns(500, RATE), RATE, &[2.0; 1_000], true);
        track.push(ns(100, RATE), RATE, &[3.0; 100], true);
        let (_, samples, filled) = track.copy(Span::new(0, ns(1_500, RATE)));
        assert_eq!(filled, 0);
        assert!(samples[..1_000].iter().all(|x| *x == 1.0) && samples[1_000..].iter().all(|x| *x == 2.0));
        assert_eq!(track.counts(), (2_100, 600));
    }

    #[test]
    fn a_jump_of_a_day_costs_no_memory() {
        let mut track = SoundTrack::new(RATE, 0);
        track.push(0, RATE, &[1.0; 10], true);
        track.push(86_400 * SECOND, RATE, &[1.0; 10], false);
        assert_eq!(track.pieces.iter().map(|piece| piece.samples.len()).sum::<usize>(), 20);
        assert_eq!(track.next_sound_ns(SECOND), Some(86_400 * SECOND));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Placement at the output rate equals painting each buffer into an array, first come first kept.
        #[test]
        fn any_holes_and_overlaps(steps in proptest::collection::vec((-300i64..600, 1usize..400), 1..20)) {
            let mut track = SoundTrack::new(RATE, 0);
            let mut truth = vec![None::<f32>; 20_000];
            let (mut at, mut open) = (1_000u64, 0u64);
            for (k, (step, length)) in steps.into_iter().enumerate() {
                at = at.saturating_add_signed(step);
                let value = k as f32 + 1.0;
                track.push(ns(at, RATE), RATE, &vec![value; length], true);
                let end = at + length as u64;
                for slot in at.max(open)..end {
                    truth[slot as usize] = Some(value);
                }
                open = open.max(end);
                at = end;
            }
            track.fill_to(ns(20_000, RATE));
            let (_, samples, filled) = track.copy(Span::new(0, ns(20_000, RATE)));
            prop_assert_eq!(filled, truth.iter().filter(|slot| slot.is_none()).count() as u64);
            let truth: Vec<f32> = truth.into_iter().map(|slot| slot.unwrap_or(0.0)).collect();
            prop_assert_eq!(samples, truth);
        }

        /// A click lands within one output sample of its time, whatever the input rate, the buffers and the hole before it.
        #[test]
        fn a_click_is_placed_to_the_sample(rate in prop::sample::select(vec![8_000u32, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]),
                                           start_ms in 0u64..300, hole_us in prop::sample::select(vec![0u64, 5_003, 33_337, 400_001]),
                                           sizes in proptest::collection::vec(1usize..5_000, 1..5), click_ms in 20u64..500) {
            let mut track = SoundTrack::new(RATE, 0);
            let start_ns = start_ms * 1_000_000 + 777;
            // Sound before the hole, then sound with the click.
            let before = rate as usize / 10;
            track.push(start_ns, rate, &vec![0.0; before], true);
            let second_ns = start_ns + ns(before as u64, rate) + hole_us * 1_000;
            let click_ns = second_ns as f64 + click_ms as f64 * 1e6;
            let all = click(click_ns, second_ns as f64, rate, rate as usize);
            let (mut done, mut size) = (0usize, sizes.iter().cycle());
            while done < all.len() {
                let end = (done + size.next().unwrap()).min(all.len());
                track.push(second_ns + ns(done as u64, rate), rate, &all[done..end], false);
                done = end;
            }
            let end_ns = second_ns + SECOND;
            prop_assert!(track.end_ns().abs_diff(end_ns) <= SECOND / 4_000);
            track.fill_to(end_ns);
            prop_assert!(track.is_complete_to(end_ns));
            let (_, samples, filled) = track.copy(Span::new(0, end_ns));
            let off = peak(&samples) - click_ns * f64::from(RATE) / 1e9;
            prop_assert!(off.abs() <= 1.0, "off by {} samples", off);
            let holes = sample_at(start_ns, RATE) + sample_at(hole_us * 1_000, RATE);
            prop_assert!(filled.abs_diff(holes) <= 2, "{} filled, {} missing", filled, holes);
        }

        /// Cutting the stream into buffers differently changes nothing: no edges.
        #[test]
        fn buffers_leave_no_edges(sizes in proptest::collection::vec(1usize..3_000, 1..6)) {
            let tone: Vec<f32> = (0..44_100).map(|i| (i as f32 * 0.05).sin()).collect();
            let run = |sizes: &[usize]| {
                let mut track = SoundTrack::new(RATE, 0);
                let (mut done, mut size) = (0, sizes.iter().cycle());
                while done < tone.len() {
                    let end = (done + size.next().unwrap()).min(tone.len());
                    track.push(ns(done as u64, 44_100), 44_100, &tone[done..end], false);
                    done = end;
                }
                track.fill_to(SECOND);
                track.copy(Span::new(0, SECOND))
            };
            prop_assert_eq!(run(&sizes), run(&[44_100]));
        }
    }
}
