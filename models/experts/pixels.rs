//! Pictures for models: a part of a frame at another size, letterboxed or cropped, and whether a frame shows anything new.

use crate::clip::{Frame, THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH};

/// A part of a picture in pixels of it; what reaches over the edge of the picture is black.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Left edge; pixel 0 reaches from 0 to 1.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// Width, above 0.
    pub width: f32,
    /// Height, above 0.
    pub height: f32,
}

impl Region {
    /// All of `frame`.
    pub fn whole(frame: &Frame) -> Self {
        Self { left: 0.0, top: 0.0, width: frame.width.max(1) as f32, height: frame.height.max(1) as f32 }
    }

    /// The smallest square that holds all of `frame`, which lies in its middle: a letterbox.
    pub fn letterbox(frame: &Frame) -> Self {
        let side = frame.width.max(frame.height).max(1) as f32;
        Self::middle(frame, side, side)
    }

    /// A part of `frame` around its centre.
    pub fn middle(frame: &Frame, width: f32, height: f32) -> Self {
        Self { left: (frame.width as f32 - width) / 2.0, top: (frame.height as f32 - height) / 2.0, width, height }
    }
}

/// The pixels that make up each pixel of one axis of the result.
struct Taps {
    first: Vec<usize>,
    weights: Vec<f32>,
    count: usize,
}

impl Taps {
    /// `n` results out of the `length` pixels from `start` on, of an axis that has `size` pixels.
    ///
    /// The weights are a triangle as wide as two pixels of the coarser grid (linear interpolation where the picture
    /// grows, an average where it shrinks), with half-pixel centres. Pixels outside of the region take no part.
    fn new(start: f32, length: f32, size: usize, n: usize) -> Self {
        let step = length / n as f32;
        let reach = step.max(1.0);
        let count = (2.0 * reach).ceil() as usize + 1;
        let mut taps = Self { first: Vec::with_capacity(n), weights: vec![0.0; n * count], count };
        for (i, weights) in taps.weights.chunks_exact_mut(count).enumerate() {
            let centre = start + (i as f32 + 0.5) * step;
            let low = (centre - reach - 0.5).ceil().max(start.floor());
            let high = (centre + reach - 0.5).floor().min((start + length).ceil() - 1.0);
            let weigh = |x: f32| (1.0 - (x + 0.5 - centre).abs() / reach).max(0.0);
            let steps = (high - low + 1.0).max(0.0) as usize;
            let total: f32 = (0..steps).map(|k| weigh(low + k as f32)).sum();
            // Where the region reaches over the edge, the pixels beyond count as black: weighed but not added.
            let first = low.max(0.0) as usize;
            taps.first.push(first.min(size));
            for (x, weight) in (first..size).zip(weights).take_while(|(x, _)| *x as f32 <= high) {
                *weight = if total > 0.0 { weigh(x as f32) / total } else { 0.0 };
            }
        }
        taps
    }

    fn get(&self, i: usize) -> (usize, &[f32]) {
        (self.first[i], &self.weights[i * self.count..(i + 1) * self.count])
    }
}

/// `region` of `frame` at `width` x `height` pixels: `height * width * 3` values from 0 to 255, RGB, row by row.
pub fn resample(frame: &Frame, region: Region, width: usize, height: usize) -> Vec<f32> {
    let mut out = vec![0.0; width * height * 3];
    let stride = frame.width as usize * 3;
    // A frame shorter than it says has black below.
    let rows = frame.rgb.len().checked_div(stride).unwrap_or(0).min(frame.height as usize);
    if rows == 0 || out.is_empty() {
        return out;
    }
    let across = Taps::new(region.left, region.width, frame.width as usize, width);
    let down = Taps::new(region.top, region.height, rows, height);
    let mut line = vec![0.0f32; stride];
    for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
        line.fill(0.0);
        let (first, weights) = down.get(y);
        for (row, &weight) in frame.rgb.chunks_exact(stride).skip(first).zip(weights).filter(|(_, w)| **w > 0.0) {
            for (sum, &value) in line.iter_mut().zip(row) {
                *sum += weight * f32::from(value);
            }
        }
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (first, weights) = across.get(x);
            for (from, weight) in line.chunks_exact(3).skip(first).zip(weights) {
                for channel in 0..3 {
                    pixel[channel] += weight * from[channel];
                }
            }
        }
    }
    out
}

/// Colours in the order in which a model wants them: red, green, blue.
pub const RGB: [usize; 3] = [0, 1, 2];
/// Blue, green, red.
pub const BGR: [usize; 3] = [2, 1, 0];

/// Writes `(value - mean) / scale` of `rgb` (RGB, row by row) into `planes`, one colour of `order` after the other.
pub fn to_planes(rgb: &[f32], order: [usize; 3], mean: f32, scale: f32, planes: &mut [f32]) {
    let area = (planes.len() / 3).max(1);
    for (channel, plane) in order.into_iter().zip(planes.chunks_exact_mut(area)) {
        for (to, pixel) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
            *to = (pixel[channel] - mean) / scale;
        }
    }
}

/// Mean difference of two pictures of the same size, in the unit of their values.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len().max(1) as f32
}

/// Tells frames that show something new from those that show what was there before.
#[derive(Debug, Default)]
pub struct Novelty(Option<Vec<f32>>);

impl Novelty {
    /// Mean difference at thumbnail size, 0 to 255, from which on a frame is new: one step of 8 bits, the noise of coding.
    const LEAST: f32 = 1.0;

    /// Whether `frame` differs from the last one that was new.
    pub fn is_new(&mut self, frame: &Frame) -> bool {
        let small = resample(frame, Region::whole(frame), THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT);
        if self.0.as_ref().is_some_and(|last| difference(last, &small) < Self::LEAST) {
            return false;
        }
        self.0 = Some(small);
        true
    }

    /// Makes the next frame new.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(width: u32, height: u32, value: impl Fn(u32, u32) -> u8) -> Frame {
        let rgb = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| [value(x, y); 3]);
        Frame { at_ns: 0, width, height, rgb: rgb.collect::<Vec<_>>().into() }
    }

    fn red(picture: &[f32]) -> Vec<f32> {
        picture.chunks_exact(3).map(|pixel| pixel[0]).collect()
    }

    fn near(found: &[f32], wanted: &[f32]) {
        assert!(
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-3),
            "{found:?} is not {wanted:?}"
        );
    }

    #[test]
    fn same_size_is_the_same_picture() {
        let source = frame(4, 3, |x, y| (x * 10 + y) as u8);
        near(
            &red(&resample(&source, Region::whole(&source), 4, 3)),
            &[0., 10., 20., 30., 1., 11., 21., 31., 2., 12., 22., 32.],
        );
    }

    #[test]
    fn growing_is_linear_between_half_pixel_centres() {
        let source = frame(2, 1, |x, _| x as u8 * 100);
        near(&red(&resample(&source, Region::whole(&source), 4, 1)), &[0., 25., 75., 100.]);
    }

    #[test]
    fn shrinking_is_an_average() {
        // Triangle of reach 2 around 1.0 over the pixels 0..2.5 (centres .5, 1.5, 2.5): weights .75, .75, .25.
        let source = frame(4, 1, |x, _| [10, 20, 30, 40][x as usize]);
        let left = (0.75 * 10.0 + 0.75 * 20.0 + 0.25 * 30.0) / 1.75;
        near(&red(&resample(&source, Region::whole(&source), 2, 1)), &[left, 50.0 - left]);
    }

    #[test]
    fn a_letterbox_is_black_above_and_below() {
        let source = frame(4, 2, |_, _| 200);
        assert_eq!(Region::letterbox(&source), Region { left: 0.0, top: -1.0, width: 4.0, height: 4.0 });
        let boxed = resample(&source, Region::letterbox(&source), 4, 4);
        near(&red(&boxed[..12]), &[0.0; 4]);
        near(&red(&boxed[12..36]), &[200.0; 8]);
        near(&red(&boxed[36..]), &[0.0; 4]);
    }

    #[test]
    fn a_crop_takes_no_pixel_from_outside() {
        let source = frame(6, 6, |x, y| if (1..5).contains(&x) && (1..5).contains(&y) { 50 } else { 255 });
        near(&resample(&source, Region::middle(&source, 4.0, 4.0), 2, 2), &[50.0; 12]);
    }

    #[test]
    fn planes_are_normalised_one_colour_after_the_other() {
        let mut planes = [0.0; 6];
        let pixels = [127.0, 255.0, 0.0, 191.0, 127.0, 127.0];
        to_planes(&pixels, RGB, 127.0, 128.0, &mut planes);
        near(&planes, &[0.0, 0.5, 1.0, 0.0, -127.0 / 128.0, 0.0]);
        to_planes(&pixels, BGR, 127.0, 128.0, &mut planes);
        near(&planes, &[-127.0 / 128.0, 0.0, 1.0, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn only_a_change_is_new() {
        let mut novelty = Novelty::default();
        assert!(novelty.is_new(&frame(96, 54, |x, _| x as u8)));
        assert!(!novelty.is_new(&frame(96, 54, |x, y| x as u8 + u8::from(x == y))));
        assert!(novelty.is_new(&frame(96, 54, |x, _| x as u8 + 2)));
        novelty.forget();
        assert!(novelty.is_new(&frame(96, 54, |x, _| x as u8 + 2)));
    }

    proptest! {
        #[test]
        fn a_plain_picture_stays_plain(w in 1u32..40, h in 1u32..40, to_w in 1usize..40, to_h in 1usize..40, value: u8,
                                       part in 0.1f32..1.0) {
            let source = frame(w, h, |_, _| value);
            let region = Region::middle(&source, (w as f32 * part).max(1.0), (h as f32 * part).max(1.0));
            for found in resample(&source, region, to_w, to_h) {
                prop_assert!((found - f32::from(value)).abs() < 0.01, "{found}");
            }
        }

        #[test]
        fn nothing_breaks_whatever_the_frame_says(w in 0u32..9, h in 0u32..9, bytes in 0usize..300, left in -20f32..20.0,
                                                  size in 0.1f32..40.0) {
            let source = Frame { at_ns: 0, width: w, height: h, rgb: vec![255; bytes].into() };
            let found = resample(&source, Region { left, top: left, width: size, height: size }, 5, 4);
            prop_assert!(found.len() == 60 && found.iter().all(|v| (0.0..=255.01).contains(v)));
        }
    }
}
