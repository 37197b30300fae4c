//! Mel spectra: one sparse filter bank and one FFT behind every ear, of the experts and of the generators.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

/// A pitch scale.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
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

/// How the triangles of a bank are drawn.
#[derive(Clone, Copy)]
pub(crate) enum Triangles {
    /// In mel, without the constant part of the signal (TensorFlow).
    Mel,
    /// In hertz, one high at the peak (torchaudio, USM).
    Hertz,
    /// In hertz, all of the same area (librosa).
    EvenArea,
}

/// A filter bank: `bands` triangles over the bins of a real FFT of `fft` samples at `rate` per second, evenly spaced in
/// `scale` from `low` to `high` Hz.
#[derive(Clone, Copy)]
pub(crate) struct Bank {
    pub(crate) rate: f64,
    pub(crate) fft: usize,
    pub(crate) bands: usize,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) scale: Scale,
    pub(crate) triangles: Triangles,
}

/// The weights of one band where they are not zero.
#[derive(Clone)]
pub(crate) struct Band {
    pub(crate) first: usize,
    pub(crate) weights: Vec<f64>,
}

impl Bank {
    pub(crate) fn filters(&self) -> Vec<Band> {
        (0..self.bands).map(|band| self.filter(band)).collect()
    }

    fn filter(&self, band: usize) -> Band {
        let (from, to) = (self.scale.mel_of(self.low), self.scale.mel_of(self.high));
        let edges = [band, band + 1, band + 2].map(|i| from + (to - from) * i as f64 / (self.bands + 1) as f64);
        let triangle = |[l, c, r]: [f64; 3], at: f64| ((at - l) / (c - l)).min((r - at) / (r - c)).max(0.0);
        let [left, centre, right] = edges.map(|mel| self.scale.hz_of(mel));
        let weight = |bin: usize| {
            let hz = bin as f64 * self.rate / self.fft as f64;
            match self.triangles {
                Triangles::Mel if bin == 0 => 0.0,
                Triangles::Mel => triangle(edges, self.scale.mel_of(hz)),
                Triangles::Hertz => triangle([left, centre, right], hz),
                Triangles::EvenArea => triangle([left, centre, right], hz) * 2.0 / (right - left),
            }
        };
        let weights: Vec<f64> = (0..=self.fft / 2).map(weight).collect();
        let first = weights.iter().position(|&w| w > 0.0).unwrap_or(0);
        let end = weights.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
        Band { first, weights: weights[first..end].to_vec() }
    }
}

/// The window of Hann that comes round after `length` samples.
pub(crate) fn hann(length: usize) -> Vec<f64> {
    (0..length).map(|i| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / length as f64).cos()).collect()
}

/// Turns frames of sound into bands, without allocating.
///
/// In double precision: near silence, the rounding of a strong tone would show in the logarithm of weak bands.
#[derive(Clone)]
pub(crate) struct Spectrum {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    bands: Vec<Band>,
}

/// What [`Spectrum::bands`] works on; one for each who works at a time.
pub(crate) struct Desk {
    input: Vec<f64>,
    output: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    bins: Vec<f64>,
}

impl Spectrum {
    /// Frames as long as `window`, filled up with zeros to the size of the FFT.
    pub(crate) fn new(window: Vec<f64>, bank: &Bank) -> Self {
        Self { fft: RealFftPlanner::new().plan_fft_forward(bank.fft), window, bands: bank.filters() }
    }

    pub(crate) fn desk(&self) -> Desk {
        Desk {
            input: self.fft.make_input_vec(),
            output: self.fft.make_output_vec(),
            scratch: self.fft.make_scratch_vec(),
            bins: vec![0.0; self.fft.len() / 2 + 1],
        }
    }

    /// Bands of as many of `samples` as the window has (missing ones are silence); `measure` says what counts of a bin,
    /// nothing where the bin is 0.
    pub(crate) fn bands(
        &self,
        desk: &mut Desk,
        samples: impl IntoIterator<Item = f64>,
        measure: impl Fn(Complex<f64>) -> f64,
        mut each: impl FnMut(usize, f64),
    ) {
        desk.input.fill(0.0);
        let mut silent = true;
        for ((to, from), weight) in desk.input.iter_mut().zip(samples).zip(&self.window) {
            *to = from * weight;
            silent &= *to == 0.0;
        }
        if silent {
            (0..self.bands.len()).for_each(|index| each(index, 0.0));
            return;
        }
        self.fft
            .process_with_scratch(&mut desk.input, &mut desk.output, &mut desk.scratch)
            .expect("the buffers were made by the plan for this size");
        for (bin, value) in desk.bins.iter_mut().zip(&desk.output) {
            *bin = measure(*value);
        }
        for (index, band) in self.bands.iter().enumerate() {
            each(index, band.weights.iter().zip(&desk.bins[band.first..]).map(|(w, x)| w * x).sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bank_of_even_area_has_one() {
        let bank = Bank {
            rate: 16_000.0,
            fft: 4096,
            bands: 20,
            low: 0.0,
            high: 8000.0,
            scale: Scale::Slaney,
            triangles: Triangles::EvenArea,
        };
        for band in bank.filters() {
            let area: f64 = band.weights.iter().sum::<f64>() * 16_000.0 / 4096.0;
            assert!((area - 1.0).abs() < 0.01, "{area}");
        }
    }

    #[test]
    fn silence_has_no_bands_and_a_tone_has() {
        let bank = Bank {
            rate: 16_000.0,
            fft: 512,
            bands: 32,
            low: 0.0,
            high: 8000.0,
            scale: Scale::Htk,
            triangles: Triangles::Hertz,
        };
        let spectrum = Spectrum::new(hann(320), &bank);
        let mut desk = spectrum.desk();
        let mut loud = |samples: Vec<f64>| {
            let mut sum = 0.0;
            spectrum.bands(&mut desk, samples, |bin| bin.norm(), |_, level| sum += level);
            sum
        };
        assert_eq!(loud(vec![0.0; 320]), 0.0);
        assert!(loud((0..320).map(|i| (f64::from(i) * 0.5).sin()).collect()) > 1.0);
        assert_eq!(loud(Vec::new()), 0.0);
    }
}
