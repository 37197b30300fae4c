//! Log-mel spectra: how YAMNet and Whisper want to hear, on one sparse filter bank and one FFT.

use std::sync::Arc;

use ndarray::Array2;
use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

/// Samples of one frame: 25 ms at 16 kHz (YAMNet `params.py`, Whisper `audio.py`).
pub const WINDOW: usize = 400;
/// Samples from one frame to the next: 10 ms at 16 kHz.
pub const HOP: usize = 160;
/// Mel bands of YAMNet.
pub const YAMNET_BANDS: usize = 64;
/// Mel bands of Whisper, all sizes but large-v3.
pub const WHISPER_BANDS: usize = 80;

const RATE: f64 = 16_000.0;
/// YAMNet adds this before the logarithm (`LOG_OFFSET`).
const YAMNET_OFFSET: f64 = 0.001;
/// Whisper cuts the power off below this.
const WHISPER_FLOOR: f64 = 1e-10;
/// Whisper cuts off what is this much weaker than the strongest point, in log10 of power.
const WHISPER_RANGE: f32 = 8.0;

/// A pitch scale.
#[derive(Clone, Copy)]
enum Scale {
    /// HTK: logarithmic everywhere.
    Htk,
    /// Slaney's Auditory Toolbox: linear to 1 kHz, then logarithmic.
    Slaney,
}

impl Scale {
    fn mel_of(self, hz: f64) -> f64 {
        match self {
            Self::Htk => 1127.0 * (1.0 + hz / 700.0).ln(),
            Self::Slaney if hz < 1000.0 => hz * 3.0 / 200.0,
            Self::Slaney => 15.0 + (hz / 1000.0).ln() * 27.0 / 6.4f64.ln(),
        }
    }

    fn hz_of(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * ((mel / 1127.0).exp() - 1.0),
            Self::Slaney if mel < 15.0 => mel * 200.0 / 3.0,
            Self::Slaney => 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp(),
        }
    }
}

/// The weights of one band where they are not zero.
struct Band {
    first: usize,
    weights: Vec<f64>,
}

/// Triangles over the bins of a real FFT of `fft` samples, evenly spaced in `scale` from `low` to `high` Hz.
fn filter_bank(scale: Scale, bands: usize, fft: usize, low: f64, high: f64) -> Vec<Band> {
    let (from, to) = (scale.mel_of(low), scale.mel_of(high));
    let edge = |i: usize| from + (to - from) * i as f64 / (bands + 1) as f64;
    let bin_hz = |bin: usize| bin as f64 * RATE / fft as f64;
    (0..bands)
        .map(|band| {
            let (left, centre, right) = (edge(band), edge(band + 1), edge(band + 2));
            let weight = |bin: usize| match scale {
                // TensorFlow draws the triangles in mel and leaves out the constant part of the signal.
                Scale::Htk if bin == 0 => 0.0,
                Scale::Htk => {
                    let at = scale.mel_of(bin_hz(bin));
                    ((at - left) / (centre - left)).min((right - at) / (right - centre)).max(0.0)
                }
                // librosa draws them in Hz and gives all of them the same area.
                Scale::Slaney => {
                    let [l, c, r] = [left, centre, right].map(|mel| scale.hz_of(mel));
                    let at = bin_hz(bin);
                    ((at - l) / (c - l)).min((r - at) / (r - c)).max(0.0) * 2.0 / (r - l)
                }
            };
            let weights: Vec<f64> = (0..=fft / 2).map(weight).collect();
            let first = weights.iter().position(|&w| w > 0.0).unwrap_or(0);
            let end = weights.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
            Band { first, weights: weights[first..end].to_vec() }
        })
        .collect()
}

/// Turns frames of sound into bands, without allocating.
///
/// In double precision: near silence, the rounding of a strong tone would show in the logarithm of weak bands.
struct Spectrum {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    bands: Vec<Band>,
    input: Vec<f64>,
    output: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    bins: Vec<f64>,
}

impl Spectrum {
    fn new(fft: usize, bands: Vec<Band>) -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(fft);
        let hann = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / WINDOW as f64).cos();
        Self {
            window: (0..WINDOW).map(hann).collect(),
            bands,
            input: fft.make_input_vec(),
            output: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            bins: vec![0.0; fft.len() / 2 + 1],
            fft,
        }
    }

    /// Bands of the first [`WINDOW`] of `samples` (missing ones are silence); `measure` says what counts of a bin.
    fn bands(&mut self, samples: &[f32], measure: impl Fn(Complex<f64>) -> f64, mut each: impl FnMut(usize, f64)) {
        self.input.fill(0.0);
        for ((to, from), weight) in self.input.iter_mut().zip(samples).zip(&self.window) {
            *to = f64::from(*from) * weight;
        }
        self.fft
            .process_with_scratch(&mut self.input, &mut self.output, &mut self.scratch)
            .expect("the buffers were made by the plan for this size");
        for (bin, value) in self.bins.iter_mut().zip(&self.output) {
            *bin = measure(*value);
        }
        for (index, band) in self.bands.iter().enumerate() {
            each(index, band.weights.iter().zip(&self.bins[band.first..]).map(|(w, x)| w * x).sum());
        }
    }
}

/// How YAMNet hears: 64 bands of magnitude, 125 Hz to 7.5 kHz (`yamnet/features.py` of tensorflow/models).
pub struct YamnetMel(Spectrum);

impl Default for YamnetMel {
    fn default() -> Self {
        Self(Spectrum::new(512, filter_bank(Scale::Htk, YAMNET_BANDS, 512, 125.0, 7500.0)))
    }
}

impl YamnetMel {
    /// Appends one row of [`YAMNET_BANDS`] natural logarithms to `out`, from the first [`WINDOW`] of `samples`.
    pub fn push_row(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.0.bands(samples, |bin| bin.norm(), |_, sum| out.push((sum + YAMNET_OFFSET).ln() as f32));
    }
}

/// How Whisper hears: 80 bands of power up to 8 kHz (`whisper/audio.py`).
pub struct WhisperMel(Spectrum);

impl Default for WhisperMel {
    fn default() -> Self {
        Self(Spectrum::new(WINDOW, filter_bank(Scale::Slaney, WHISPER_BANDS, WINDOW, 0.0, 8000.0)))
    }
}

impl WhisperMel {
    /// The spectrum `[80, frames]` of `samples` at 16 kHz, followed by silence; about -1 to 1.
    pub fn spectrum(&mut self, samples: &[f32], frames: usize) -> Array2<f32> {
        let mut out = Array2::from_elem((WHISPER_BANDS, frames), WHISPER_FLOOR.log10() as f32);
        let padded = reflected(samples);
        let mut strongest = WHISPER_FLOOR.log10() as f32;
        // Frames behind the sound are silent; what they hold is there already.
        for frame in 0..frames.min(padded.len().div_ceil(HOP)) {
            let samples = &padded[frame * HOP..];
            let row = |band: usize, sum: f64| {
                let level = sum.max(WHISPER_FLOOR).log10() as f32;
                strongest = strongest.max(level);
                out[(band, frame)] = level;
            };
            self.0.bands(samples, |bin| bin.norm_sqr(), row);
        }
        out.mapv_inplace(|level| (level.max(strongest - WHISPER_RANGE) + 4.0) / 4.0);
        out
    }
}

/// The samples with half a window of their mirror image in front, so that the first frame is centred on the first sample.
fn reflected(samples: &[f32]) -> Vec<f32> {
    let half = WINDOW / 2;
    let mirrored = (1..=half).rev().map(|i| samples.get(i).copied().unwrap_or(0.0));
    mirrored.chain(samples.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::testing::{difference, golden, golden_audio};

    #[test]
    fn yamnet_hears_what_the_reference_hears() {
        let (Some(audio), Some((shape, wanted))) = (golden_audio(), golden("sounds.log_mel")) else { return };
        assert_eq!(shape[1], YAMNET_BANDS);
        let (mut mel, mut rows) = (YamnetMel::default(), Vec::new());
        for frame in 0..shape[0] {
            mel.push_row(&audio[frame * HOP..], &mut rows);
        }
        let found = difference(&rows, &wanted);
        eprintln!("YAMNet log-mel: largest difference {found:.1e}");
        assert!(found <= 1e-3);
    }

    #[test]
    fn whisper_hears_what_the_reference_hears() {
        let (Some(audio), Some((shape, wanted))) = (golden_audio(), golden("speech.log_mel")) else { return };
        let found = WhisperMel::default().spectrum(&audio, 3_000);
        let found: Vec<f32> = found.slice(ndarray::s![.., ..shape[1]]).iter().copied().collect();
        let found = difference(&found, &wanted);
        eprintln!("Whisper log-mel: largest difference {found:.1e}");
        assert!(found <= 1e-3);
    }

    #[test]
    fn silence_is_even() {
        let found = WhisperMel::default().spectrum(&[0.0; 1_000], 20);
        assert!(found.iter().all(|&x| x == found[(0, 0)]));
        assert_eq!(WhisperMel::default().spectrum(&[], 4).dim(), (80, 4));
    }

    #[test]
    fn a_tone_is_loudest_in_its_band() {
        let tone: Vec<f32> =
            (0..WINDOW).map(|i| (i as f32 * std::f32::consts::TAU * 1000.0 / 16_000.0).sin()).collect();
        let mut row = Vec::new();
        YamnetMel::default().push_row(&tone, &mut row);
        let loudest = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let edges = filter_bank(Scale::Htk, YAMNET_BANDS, 512, 125.0, 7500.0);
        let bin = 1000 * 512 / 16_000;
        assert!((edges[loudest].first..edges[loudest].first + edges[loudest].weights.len()).contains(&bin));
    }
}
