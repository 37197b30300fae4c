//! The sound of contiguous clips as one run of samples on the absolute grid.

use crate::{Clip, Sound, time::time_of_sample};

/// Samples a second that the ears of the pack were trained on.
pub const RATE: u32 = 16_000;

/// The sound of the clip, where it has the rate that was asked for.
pub fn hearable(clip: &Clip) -> Option<&Sound> {
    let sound = clip.sound.as_ref()?;
    if sound.rate != RATE {
        tracing::warn!("sound at {} Hz is not listened to; clips must bring it at {RATE} Hz", sound.rate);
    }
    (sound.rate == RATE).then_some(sound)
}

/// How the sound of a clip goes on from what was heard before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It starts where the last one ended, or nothing was heard yet.
    Joined,
    /// It starts later, or ends before: what is open must be closed and the tape cleared first.
    Apart,
}

/// The samples that are still needed.
#[derive(Debug, Default)]
pub struct Tape {
    samples: Vec<f32>,
    first: u64,
    running: bool,
}

impl Tape {
    /// Whether `sound` continues the tape; an overlap with what is known counts as continued.
    pub fn next(&self, sound: &Sound) -> Next {
        let last = sound.first + sound.samples().len() as u64;
        if !self.running || (sound.first <= self.end() && last >= self.end()) { Next::Joined } else { Next::Apart }
    }

    /// Adds what is new in `sound`, which [`Tape::next`] says is joined.
    pub fn push(&mut self, sound: &Sound) {
        if !self.running {
            (self.first, self.running) = (sound.first, true);
        }
        let known = self.end().saturating_sub(sound.first);
        let new = sound.samples().get(known as usize..).unwrap_or_default();
        // A broken decoder gives NaN or huge values; one of them would spoil the whole spectrum.
        self.samples.extend(new.iter().map(|&x| if x.is_finite() { x.clamp(-1.0, 1.0) } else { 0.0 }));
    }

    /// Index of the oldest sample kept.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Index after the newest sample.
    pub fn end(&self) -> u64 {
        self.first + self.samples.len() as u64
    }

    /// Whether anything was pushed since the start or the last [`Tape::clear`].
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Stream time after the newest sample, in nanoseconds.
    pub fn end_ns(&self) -> u64 {
        time_of_sample(self.end(), RATE)
    }

    /// Copies the samples from `start` on into `out`; zero where there are none.
    pub fn read(&self, start: u64, out: &mut [f32]) {
        out.fill(0.0);
        let (from, to) = (start.max(self.first), (start + out.len() as u64).min(self.end()));
        if from < to {
            let known = &self.samples[(from - self.first) as usize..(to - self.first) as usize];
            out[(from - start) as usize..(to - start) as usize].copy_from_slice(known);
        }
    }

    /// Drops what lies before sample `start`.
    pub fn drop_before(&mut self, start: u64) {
        let count = start.saturating_sub(self.first).min(self.samples.len() as u64);
        self.samples.drain(..count as usize);
        self.first += count;
    }

    /// Forgets everything, also where the next sound should start.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sound(first: u64, samples: Vec<f32>) -> Sound {
        Sound::from_samples(RATE, first, 0, samples)
    }

    #[test]
    fn a_hole_or_a_step_back_is_apart() {
        let mut tape = Tape::default();
        assert_eq!(tape.next(&sound(70, vec![0.0; 10])), Next::Joined);
        tape.push(&sound(70, vec![0.5; 10]));
        assert_eq!(tape.next(&sound(80, vec![0.0; 10])), Next::Joined);
        assert_eq!(tape.next(&sound(75, vec![0.0; 10])), Next::Joined);
        assert_eq!(tape.next(&sound(81, vec![0.0; 10])), Next::Apart);
        assert_eq!(tape.next(&sound(0, vec![0.0; 10])), Next::Apart);
    }

    #[test]
    fn broken_samples_become_silence() {
        let mut tape = Tape::default();
        tape.push(&sound(0, vec![f32::NAN, f32::INFINITY, 1e9, -0.5]));
        let mut out = [9.0; 4];
        tape.read(0, &mut out);
        assert_eq!(out, [0.0, 0.0, 1.0, -0.5]);
    }

    proptest! {
        #[test]
        fn reading_is_the_same_however_the_sound_was_cut(
            first in 0u64..50, cuts in proptest::collection::vec((1usize..20, 0u64..5), 1..10), start in 0u64..100, length in 0usize..60, drop in 0u64..200
        ) {
            // The value of a sample is its index.
            let mut tape = Tape::default();
            let mut end = first;
            for (length, back) in cuts {
                let from = end.saturating_sub(back).max(first);
                let to = end + length as u64;
                let piece = sound(from, (from..to).map(|i| i as f32 / 1e4).collect());
                prop_assert_eq!(tape.next(&piece), Next::Joined);
                tape.push(&piece);
                end = to;
            }
            prop_assert_eq!((tape.first(), tape.end()), (first, end));
            tape.drop_before(drop);
            prop_assert_eq!(tape.end(), end);
            let mut out = vec![1.0; length];
            tape.read(start, &mut out);
            for (i, x) in out.into_iter().enumerate() {
                let index = start + i as u64;
                let known = (tape.first()..end).contains(&index);
                prop_assert_eq!(x, if known { index as f32 / 1e4 } else { 0.0 });
            }
        }
    }
}
