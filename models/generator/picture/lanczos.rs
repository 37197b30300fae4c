//! Pillow's Lanczos filter on 8-bit RGB, to the last bit: whole-number weights of 22 bits.
//!
//! A tile halved in size has many sums that lie just between two shades; with weights of 16 bits or of single precision
//! some of them fall to the other side.

use super::sizes::Size;

/// Bits of a weight: 32 less 8 of the sample and 2 for the lobes (`Resample.c`).
const BITS: u32 = 32 - 8 - 2;
/// Lobes of the filter on each side.
const LOBES: f64 = 3.0;

/// What one sample of the result takes of the source.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// `bytes` of a picture of size `from` along `way`, one size after the other.
pub(super) fn scaled(bytes: &[u8], from: Size, way: [Size; 2]) -> Vec<u8> {
    let (mut size, mut picture) = (from, bytes.to_vec());
    for to in way {
        if to.0 != size.0 {
            picture = rows(&picture, size.0, to.0);
        }
        if to.1 != size.1 {
            picture = columns(&picture, (to.0, size.1), to.1);
        }
        size = to;
    }
    picture
}

fn filter(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

fn taps(from: u32, to: u32) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let wide = scale.max(1.0);
    let reach = LOBES * wide;
    let at = |i: u32| {
        let centre = (f64::from(i) + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as u32;
        let end = ((centre + reach + 0.5) as u32).min(from);
        let weights: Vec<f64> = (first..end).map(|x| filter((f64::from(x) - centre + 0.5) / wide)).collect();
        let sum: f64 = weights.iter().sum();
        // `round` is away from zero at a half, as Pillow does it.
        let whole = weights.iter().map(|weight| (weight / sum * f64::from(1 << BITS)).round() as i32).collect();
        Taps { first: first as usize, weights: whole }
    };
    (0..to).map(at).collect()
}

fn shade(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn rows(bytes: &[u8], width: u32, to: u32) -> Vec<u8> {
    let taps = taps(width, to);
    let mut out = Vec::with_capacity(bytes.len() / width as usize * to as usize);
    for row in bytes.chunks_exact(width as usize * 3) {
        for taps in &taps {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (rgb, weight) in row[taps.first * 3..].chunks_exact(3).zip(&taps.weights) {
                for (sum, sample) in sums.iter_mut().zip(rgb) {
                    *sum += i32::from(*sample) * weight;
                }
            }
            out.extend(sums.map(shade));
        }
    }
    out
}

fn columns(bytes: &[u8], (width, height): Size, to: u32) -> Vec<u8> {
    let stride = width as usize * 3;
    let mut out = Vec::with_capacity(stride * to as usize);
    let mut sums = vec![0i32; stride];
    for taps in taps(height, to) {
        sums.fill(1 << (BITS - 1));
        for (row, weight) in bytes[taps.first * stride..].chunks_exact(stride).zip(&taps.weights) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| shade(sum)));
    }
    out
}
