//! The windows of Gemma's extractors, to the last bit of single precision.
//!
//! One of them is made in single precision, so it holds the errors of NumPy's cosine. They matter: behind a loud tone,
//! the weak bands of Gemma 3n hold little else than what such a bit lets through (up to 1e-3 in the logarithm).

use crate::mel::hann;

/// Made in double precision, then rounded (Gemma 4).
pub(super) fn rounded(length: usize) -> Vec<f32> {
    hann(length).into_iter().map(|weight| weight as f32).collect()
}

/// Made in single precision (Gemma 3n).
pub(super) fn single(length: usize) -> Vec<f32> {
    let turn = |i: usize| std::f32::consts::TAU * i as f32 / length as f32;
    (0..length).map(|i| 0.5 * (1.0 - cosine(turn(i)))).collect()
}

/// Polynomials for half a quarter turn to each side, highest power first (`loops_trigonometric` of NumPy).
const COSINE: [f32; 5] = [2.437_226_6e-5, -1.388_652e-3, 4.166_662e-2, -0.5, 1.0];
const SINE: [f32; 5] = [2.840_409_7e-6, -1.985_649_1e-4, 8.333_397e-3, -0.166_666_67, 0.0];
/// A quarter turn in three parts, so that taking it off loses nothing.
#[expect(clippy::approx_constant, reason = "the first part is shorter than the constant on purpose")]
const QUARTER: [f32; 3] = [-1.570_796, -3.139_164_7e-7, -5.390_302_5e-15];

/// Added and taken off again, this leaves a whole number.
const WHOLE: f32 = 12_582_912.0;

/// NumPy's cosine of f32, 0 to a few turns.
fn cosine(x: f32) -> f32 {
    let quarters = x.mul_add(std::f32::consts::FRAC_2_PI, WHOLE) - WHOLE;
    let rest = QUARTER.iter().fold(x, |rest, part| quarters.mul_add(*part, rest));
    let square = rest * rest;
    let series = |terms: [f32; 5]| terms.into_iter().reduce(|sum, term| sum.mul_add(square, term)).unwrap_or_default();
    let value = match quarters as i32 % 2 {
        0 => series(COSINE),
        _ => series(SINE).mul_add(rest, rest),
    };
    if (quarters as i32 + 1) & 2 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_windows_are_the_window_of_hann() {
        for (single, double) in single(512).into_iter().zip(rounded(512)) {
            assert!((single - double).abs() < 3e-7);
        }
    }
}
