//! Sound to log-mel features, as the processor files of a published model ask for them.
//!
//! A [`SoundRule`] is one `feature_extractor` object: [`SoundRule::features`] gives the arrays that the audio encoder
//! takes, [`SoundRule::tokens`] the soft tokens that come of so many samples.

mod read;
#[cfg(test)]
mod tests;
mod window;

use ndarray::{Array2, Array3, Array4, ArrayD};
use serde_json::Value;

use crate::mel::Spectrum;

/// Gemma's extractors fill up to a multiple of this many samples (`pad_to_multiple_of`).
const GEMMA_MULTIPLE: usize = 128;
/// Whisper and CLAP cut the power off below this.
const POWER_FLOOR: f64 = 1e-10;
/// Whisper cuts off what is this much weaker than the strongest point, in log10 of power.
const WHISPER_RANGE: f32 = 8.0;

/// What the audio encoder takes for one clip.
#[derive(Debug, Clone)]
pub struct Features {
    /// Logarithms of bands; `[1, frames, bands]` of Gemma, `[1, bands, frames]` of Whisper, `[1, 1, frames, bands]` of CLAP.
    pub values: ArrayD<f32>,
    /// Whether a frame is all sound, `[1, frames]`; only of Gemma.
    pub mask: Option<Array2<bool>>,
}

/// What is done about frames that are weak, and at the ends of the sound.
#[derive(Debug, Clone)]
enum Way {
    /// Gemma 4: half a frame of silence first, the floor is added, frames that are not all sound are 0.
    Gemma4(Usm),
    /// Gemma 3n: frames from the first sample on, the floor is the least.
    Gemma3n(Usm),
    Whisper,
    Clap(Padding),
}

/// What both of Gemma's extractors know (the features of the Universal Speech Model).
#[derive(Debug, Clone)]
struct Usm {
    window: Vec<f32>,
    floor: f64,
    scale: f32,
    preemphasis: f64,
    /// Whether pre-emphasis starts anew in each frame.
    htk: bool,
    /// Mean and deviation of each band.
    bins: Option<Vec<(f64, f64)>>,
    /// Most soft tokens of a clip.
    most_tokens: usize,
}

/// How CLAP fills up what is too short.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Padding {
    /// Whole repetitions, then silence.
    RepeatPad,
    /// Repetitions to the end.
    Repeat,
    Silence,
}

/// The preprocessing of one published audio feature extractor.
#[derive(Clone)]
pub struct SoundRule {
    way: Way,
    rate: u32,
    bands: usize,
    frame: usize,
    hop: usize,
    longest: usize,
    spectrum: Spectrum,
}

impl std::fmt::Debug for SoundRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { way, rate, bands, frame, hop, longest, .. } = self;
        write!(f, "SoundRule {{ {way:?}, {rate} Hz, {bands} bands, frames of {frame} every {hop}, {longest} samples }}")
    }
}

impl SoundRule {
    /// Reads the `feature_extractor` object of processor_config.json, or a preprocessor_config.json.
    ///
    /// `processor` is processor_config.json itself (`audio_seq_length`), `audio` the `audio_config` of config.json; either
    /// may be `Null`, then the published models' values count. The error is one sentence that names the field.
    pub fn read(extractor: &Value, processor: &Value, audio: &Value) -> Result<Self, String> {
        read::rule(extractor, processor, audio)
    }

    /// Bands of a frame.
    pub fn bands(&self) -> usize {
        self.bands
    }

    /// Samples from one frame to the next.
    pub fn hop(&self) -> usize {
        self.hop
    }

    /// Samples per second that the encoder hears.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Most samples of one call; what is longer is cut off at the end.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Soft tokens (rows of the encoder's output) for so many samples; 0 where they are too few for a frame.
    pub fn tokens(&self, samples: usize) -> usize {
        let samples = samples.min(self.longest);
        match &self.way {
            // Two convolutions of stride 2; frames that are not all sound do not count.
            Way::Gemma4(usm) => self.frames(samples + self.frame / 2).div_ceil(2).div_ceil(2).min(usm.most_tokens),
            Way::Gemma3n(usm) if self.frames(samples.next_multiple_of(GEMMA_MULTIPLE)) > 0 => usm.most_tokens,
            Way::Gemma3n(_) => 0,
            Way::Whisper => (self.longest / self.hop).div_ceil(2),
            Way::Clap(_) => 1,
        }
    }

    /// The arrays for `samples`, mono at [`SoundRule::rate`], -1 to 1.
    pub fn features(&self, samples: &[f32]) -> Features {
        let samples = &samples[..samples.len().min(self.longest)];
        match &self.way {
            Way::Gemma4(usm) => self.gemma4(usm, samples),
            Way::Gemma3n(usm) => self.gemma3n(usm, samples),
            Way::Whisper => self.whisper(samples),
            Way::Clap(padding) => self.clap(*padding, samples),
        }
    }

    /// Frames of Gemma in so many samples: each takes one more sample than its window has.
    fn frames(&self, samples: usize) -> usize {
        samples.checked_sub(self.frame + 1).map_or(0, |rest| rest / self.hop + 1)
    }

    fn gemma4(&self, usm: &Usm, samples: &[f32]) -> Features {
        let left = self.frame / 2;
        let mut signal = vec![0.0; left + samples.len().next_multiple_of(GEMMA_MULTIPLE)];
        signal[left..left + samples.len()].copy_from_slice(samples);
        let (mut values, frames) = self.usm(usm, &signal, |sum| (sum + usm.floor).ln());
        // A frame counts where the last sample that it takes is sound.
        let valid = |frame: usize| frame * self.hop + self.frame < left + samples.len();
        for (frame, row) in values.chunks_exact_mut(self.bands).enumerate() {
            if !valid(frame) {
                row.fill(0.0);
            }
        }
        self.masked(values, frames, valid)
    }

    fn gemma3n(&self, usm: &Usm, samples: &[f32]) -> Features {
        let mut signal = samples.to_vec();
        signal.resize(samples.len().next_multiple_of(GEMMA_MULTIPLE), 0.0);
        let (values, frames) = self.usm(usm, &signal, |sum| sum.max(usm.floor).ln());
        self.masked(values, frames, |frame| frame * self.hop < samples.len())
    }

    /// Rows of bands of the frames of `signal`, and how many there are.
    ///
    /// Samples are rounded to single precision at each step up to the FFT, as in the reference: behind a loud tone, what
    /// the weak bands hold is that rounding.
    fn usm(&self, usm: &Usm, signal: &[f32], log: impl Fn(f64) -> f64) -> (Vec<f32>, usize) {
        let frames = self.frames(signal.len());
        let mut values = Vec::with_capacity(frames * self.bands);
        let mut desk = self.spectrum.desk();
        let signal: Vec<f32> = signal.iter().map(|x| x * usm.scale).collect();
        let (first, preemphasis) = ((1.0 - usm.preemphasis) as f32, usm.preemphasis as f32);
        for frame in 0..frames {
            let samples = &signal[frame * self.hop..][..self.frame + 1];
            let emphasised = |i: usize| match usm.htk {
                _ if usm.preemphasis == 0.0 => samples[i],
                true if i == 0 => samples[0] * first,
                true => samples[i] - preemphasis * samples[i - 1],
                false => samples[i + 1] - preemphasis * samples[i],
            };
            let windowed = usm.window.iter().enumerate().map(|(i, weight)| f64::from(emphasised(i) * weight));
            self.spectrum.bands(
                &mut desk,
                windowed,
                |bin| bin.norm(),
                |band, sum| {
                    let (mean, deviation) =
                        usm.bins.as_ref().and_then(|bins| bins.get(band)).copied().unwrap_or((0.0, 1.0));
                    values.push(((log(sum) - mean) / deviation) as f32);
                },
            );
        }
        (values, frames)
    }

    fn masked(&self, values: Vec<f32>, frames: usize, valid: impl Fn(usize) -> bool) -> Features {
        let values = Array3::from_shape_vec((1, frames, self.bands), values).expect("each frame gave all its bands");
        let mask = Array2::from_shape_fn((1, frames), |(_, frame)| valid(frame));
        Features { values: values.into_dyn(), mask: Some(mask) }
    }

    fn whisper(&self, samples: &[f32]) -> Features {
        let frames = self.longest / self.hop;
        let signal = mirrored(samples, self.longest, self.frame / 2);
        let mut values = Array3::zeros((1, self.bands, frames));
        let mut strongest = POWER_FLOOR.log10() as f32;
        self.power(&signal, frames, |frame, band, sum| {
            let level = sum.max(POWER_FLOOR).log10() as f32;
            strongest = strongest.max(level);
            values[(0, band, frame)] = level;
        });
        values.mapv_inplace(|level| (level.max(strongest - WHISPER_RANGE) + 4.0) / 4.0);
        Features { values: values.into_dyn(), mask: None }
    }

    fn clap(&self, padding: Padding, samples: &[f32]) -> Features {
        let frames = self.longest / self.hop + 1;
        let repeated = match padding {
            _ if samples.is_empty() => 0,
            Padding::RepeatPad => self.longest / samples.len() * samples.len(),
            Padding::Repeat => self.longest,
            Padding::Silence => samples.len(),
        };
        let filled: Vec<f32> = samples.iter().copied().cycle().take(repeated).collect();
        let signal = mirrored(&filled, self.longest, self.frame / 2);
        let mut values = Array4::zeros((1, 1, frames, self.bands));
        // Decibels of power.
        self.power(&signal, frames, |frame, band, sum| {
            values[(0, 0, frame, band)] = (10.0 * sum.max(POWER_FLOOR).log10()) as f32;
        });
        Features { values: values.into_dyn(), mask: None }
    }

    /// The power in each band of each frame.
    fn power(&self, signal: &[f32], frames: usize, mut each: impl FnMut(usize, usize, f64)) {
        let mut desk = self.spectrum.desk();
        for frame in 0..frames {
            let samples = signal.get(frame * self.hop..).unwrap_or_default().iter().map(|&x| x.into());
            self.spectrum.bands(&mut desk, samples, |bin| bin.norm_sqr(), |band, sum| each(frame, band, sum));
        }
    }
}

/// `samples`, filled up with silence to `length`, with `half` mirrored ones before and behind.
fn mirrored(samples: &[f32], length: usize, half: usize) -> Vec<f32> {
    let at = |i: usize| samples.get(i).copied().unwrap_or(0.0);
    let before = (1..=half).rev().map(at);
    let behind = (1..=half).map(|i| (length - 1).checked_sub(i).map_or(0.0, at));
    before.chain((0..length).map(at)).chain(behind).collect()
}
