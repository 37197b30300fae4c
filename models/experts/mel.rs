//! Log-mel spectra: how YAMNet and Whisper want to hear, on the shared filter bank and FFT.

use ndarray::Array2;

use crate::mel::{Bank, Desk, Scale, Spectrum, Triangles, hann};

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

/// A spectrum with a desk of its own.
struct Ear {
    spectrum: Spectrum,
    desk: Desk,
}

impl Ear {
    fn new(bank: &Bank) -> Self {
        let spectrum = Spectrum::new(hann(WINDOW), bank);
        Self { desk: spectrum.desk(), spectrum }
    }
}

const YAMNET: Bank = Bank {
    rate: RATE,
    fft: 512,
    bands: YAMNET_BANDS,
    low: 125.0,
    high: 7500.0,
    scale: Scale::Htk,
    triangles: Triangles::Mel,
};

const WHISPER: Bank = Bank {
    rate: RATE,
    fft: WINDOW,
    bands: WHISPER_BANDS,
    low: 0.0,
    high: 8000.0,
    scale: Scale::Slaney,
    triangles: Triangles::EvenArea,
};

/// How YAMNet hears: 64 bands of magnitude, 125 Hz to 7.5 kHz (`yamnet/features.py` of tensorflow/models).
pub struct YamnetMel(Ear);

impl Default for YamnetMel {
    fn default() -> Self {
        Self(Ear::new(&YAMNET))
    }
}

impl YamnetMel {
    /// Appends one row of [`YAMNET_BANDS`] natural logarithms to `out`, from the first [`WINDOW`] of `samples`.
    pub fn push_row(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        let Ear { spectrum, desk } = &mut self.0;
        let row = |_, sum: f64| out.push((sum + YAMNET_OFFSET).ln() as f32);
        spectrum.bands(desk, samples.iter().map(|&x| x.into()), |bin| bin.norm(), row);
    }
}

/// How Whisper hears: 80 bands of power up to 8 kHz (`whisper/audio.py`).
pub struct WhisperMel(Ear);

impl Default for WhisperMel {
    fn default() -> Self {
        Self(Ear::new(&WHISPER))
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
            let Ear { spectrum, desk } = &mut self.0;
            spectrum.bands(desk, samples.iter().map(|&x| x.into()), |bin| bin.norm_sqr(), row);
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
        let edges = YAMNET.filters();
        let bin = 1000 * 512 / 16_000;
        assert!((edges[loudest].first..edges[loudest].first + edges[loudest].weights.len()).contains(&bin));
    }
}
