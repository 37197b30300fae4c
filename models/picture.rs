//! Pictures: decoded frames to small upright RGB. The only file that speaks to OpenCV.
//!
//! Each plane is scaled first and converted afterwards, so a frame costs one pass over its samples whatever its format.

use std::sync::Once;

use bytes::Bytes;
use opencv::{
    core::{self, Mat, MatTraitConst, MatTraitConstManual, Size, Vector},
    imgproc,
};

use crate::clip::{THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH};

/// Why a picture could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The description of the samples and the samples do not fit together.
    #[error("a frame of {width}x{height} does not fit its {bytes} bytes: the stream is broken or lies about its size")]
    Layout {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes of the plane that is too short.
        bytes: usize,
    },
    /// OpenCV refused.
    #[error("OpenCV could not scale the frame: {0}")]
    OpenCv(#[from] opencv::Error),
}

/// One of the three colour components: where its samples lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Index into [`Picture::planes`].
    pub plane: usize,
    /// Samples that lie side by side for one position of this component, 1 to 4.
    pub channels: usize,
    /// Which of them is this component.
    pub channel: usize,
    /// Width of the component in samples.
    pub width: u32,
    /// Height of the component in samples.
    pub height: u32,
}

/// A plane of samples in memory.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// The bytes, at least `stride * height`, the last row perhaps shorter.
    pub bytes: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
}

/// How the samples are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// 8 bits a sample.
    Eight,
    /// 16-bit little-endian words whose value, shifted right by `shift`, has `bits` bits.
    Sixteen {
        /// Bits that count, 9 to 16.
        bits: u32,
        /// Bits below them.
        shift: u32,
    },
}

/// How three components become RGB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Colour {
    /// They are red, green and blue.
    Rgb,
    /// One component, brightness.
    Gray {
        /// Whether black is 0 and white 255, not 16 and 235.
        full_range: bool,
    },
    /// Luma and two colour differences.
    Yuv {
        /// Weight of red in luma: 0.299 (BT.601), 0.2126 (BT.709), 0.2627 (BT.2020).
        kr: f64,
        /// Weight of blue: 0.114, 0.0722, 0.0593.
        kb: f64,
        /// Whether samples use 0 to 255, not 16 to 235 and 16 to 240.
        full_range: bool,
    },
}

/// How the picture must be turned to stand upright (the values of GStreamer's image-orientation tag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation {
    /// Quarter turns clockwise, 0 to 3.
    pub quarter_turns: u8,
    /// Mirrored left to right after turning.
    pub flip: bool,
}

/// A decoded frame.
#[derive(Debug, Clone)]
pub struct Picture<'a> {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Shape of a pixel: width to height.
    pub pixel_aspect: (u32, u32),
    /// Planes of samples.
    pub planes: Vec<Plane<'a>>,
    /// Three components, or one for grey.
    pub components: Vec<Component>,
    /// Bits.
    pub depth: Depth,
    /// Colours.
    pub colour: Colour,
    /// Turns to upright.
    pub orientation: Orientation,
}

impl Picture<'_> {
    /// Size of the upright picture with square pixels that fits a square of `max` and is not enlarged.
    pub fn fit(&self, max: u32) -> (u32, u32) {
        fit((self.width, self.height), self.pixel_aspect, self.orientation, max)
    }

    /// The upright picture as `width * height * 3` bytes of RGB.
    pub fn rgb(&self, width: u32, height: u32) -> Result<Bytes, PictureError> {
        self.scale(width, height, false)
    }

    /// The thumbnail: 48x27 RGB, the whole picture squeezed in.
    ///
    /// Of tall frames only some rows are read (at least eight a row of the thumbnail): what matters at this size is kept
    /// at a fraction of the cost.
    pub fn thumbnail(&self) -> Result<Bytes, PictureError> {
        self.scale(THUMBNAIL_WIDTH as u32, THUMBNAIL_HEIGHT as u32, true)
    }

    fn scale(&self, width: u32, height: u32, skip_rows: bool) -> Result<Bytes, PictureError> {
        static SINGLE: Once = Once::new();
        // OpenCV would take a thread for every core; the frames of one stream need one.
        SINGLE.call_once(|| {
            let _ = core::set_num_threads(1);
        });
        let turned = self.orientation.quarter_turns % 2 == 1;
        let size = if turned { (height, width) } else { (width, height) };
        let size = Size::new(size.0.max(1) as i32, size.1.max(1) as i32);
        let channels = self.components(size, skip_rows)?;
        let upright = self.turn(self.colours(channels)?)?;
        Ok(Bytes::copy_from_slice(upright.data_bytes()?))
    }

    /// The components, each of `size` and 8 bits.
    fn components(&self, size: Size, skip_rows: bool) -> Result<Vec<Mat>, PictureError> {
        let mut scaled: Vec<((usize, usize), Vector<Mat>)> = Vec::new();
        let mut channels = Vec::new();
        for component in &self.components {
            // Components that lie side by side in the same samples are scaled once.
            let key = (component.plane, component.channels);
            if !scaled.iter().any(|(done, _)| *done == key) {
                scaled.push((key, self.scale_samples(*component, size, skip_rows)?));
            }
            if let Some((_, split)) = scaled.iter().find(|(done, _)| *done == key) {
                channels.push(split.get(component.channel)?);
            }
        }
        Ok(channels)
    }

    fn scale_samples(&self, component: Component, size: Size, skip_rows: bool) -> Result<Vector<Mat>, PictureError> {
        let plane = self.planes.get(component.plane).copied().unwrap_or(Plane { bytes: &[], stride: 0 });
        let word = if self.depth == Depth::Eight { 1 } else { 2 };
        let (rows, columns) = (component.height as usize, component.width as usize);
        let row = columns * component.channels * word;
        let needs = plane.stride.saturating_mul(rows.saturating_sub(1)).saturating_add(row);
        if rows == 0 || columns == 0 || plane.stride < row || plane.bytes.len() < needs {
            let (width, height, bytes) = (self.width, self.height, plane.bytes.len());
            return Err(PictureError::Layout { width, height, bytes });
        }
        let step = if skip_rows { (rows / (8 * size.height as usize)).max(1) } else { 1 };
        let kind =
            if word == 1 { core::CV_8UC(component.channels as i32) } else { core::CV_16UC(component.channels as i32) };
        // SAFETY: the rows read are 0, step, 2*step, … below `rows`; `needs` bytes reach to the end of the last of them
        // and were checked above. OpenCV only reads them, and the header does not outlive `plane.bytes`.
        let source = unsafe {
            Mat::new_rows_cols_with_data_unsafe(
                rows.div_ceil(step) as i32,
                columns as i32,
                kind,
                plane.bytes.as_ptr().cast_mut().cast(),
                plane.stride * step,
            )?
        };
        let mut small = Mat::default();
        // Area averaging is right for shrinking, and enlarges like nearest neighbour where chroma must grow: linear then.
        let shrinks = columns as i32 >= size.width && rows as i32 >= size.height;
        let method = if shrinks { imgproc::INTER_AREA } else { imgproc::INTER_LINEAR };
        imgproc::resize(&source, &mut small, size, 0.0, 0.0, method)?;
        if let Depth::Sixteen { bits, shift } = self.depth {
            let mut eight = Mat::default();
            let factor = (-f64::from(bits) + 8.0 - f64::from(shift)).exp2();
            small.convert_to(&mut eight, core::CV_8U, factor, 0.0)?;
            small = eight;
        }
        let mut split = Vector::new();
        core::split(&small, &mut split)?;
        Ok(split)
    }

    /// RGB of components.
    fn colours(&self, mut channels: Vec<Mat>) -> Result<Mat, PictureError> {
        if channels.len() == 1 {
            channels = vec![channels[0].clone(), channels[0].clone(), channels[0].clone()];
        }
        let mut merged = Mat::default();
        core::merge(&Vector::<Mat>::from_iter(channels), &mut merged)?;
        let Some(matrix) = matrix(self.colour) else { return Ok(merged) };
        let matrix = Mat::from_slice_2d(&matrix)?;
        let mut rgb = Mat::default();
        core::transform(&merged, &mut rgb, &matrix)?;
        Ok(rgb)
    }

    fn turn(&self, mut picture: Mat) -> Result<Mat, PictureError> {
        let code = match self.orientation.quarter_turns % 4 {
            1 => Some(core::ROTATE_90_CLOCKWISE),
            2 => Some(core::ROTATE_180),
            3 => Some(core::ROTATE_90_COUNTERCLOCKWISE),
            _ => None,
        };
        if let Some(code) = code {
            let mut turned = Mat::default();
            core::rotate(&picture, &mut turned, code)?;
            picture = turned;
        }
        if self.orientation.flip {
            let mut flipped = Mat::default();
            core::flip(&picture, &mut flipped, 1)?;
            picture = flipped;
        }
        Ok(picture)
    }
}

/// Size of the upright picture with square pixels that fits a square of `max` and is not enlarged; each side at least 1.
pub fn fit(size: (u32, u32), pixel_aspect: (u32, u32), orientation: Orientation, max: u32) -> (u32, u32) {
    let aspect = f64::from(pixel_aspect.0.max(1)) / f64::from(pixel_aspect.1.max(1));
    let (width, height) = (f64::from(size.0), f64::from(size.1));
    // The side that would be shrunk to make pixels square is kept, the other one grows: nothing is lost.
    let (width, height) = if aspect >= 1.0 { (width * aspect, height) } else { (width, height / aspect) };
    let (width, height) = if orientation.quarter_turns % 2 == 1 { (height, width) } else { (width, height) };
    let scale = (f64::from(max.max(1)) / width.max(height).max(1.0)).min(1.0);
    let side = |length: f64| ((length * scale).round() as u32).clamp(1, max.max(1));
    (side(width), side(height))
}

/// Rows of the 3x4 matrix from components (0 to 255) to RGB; `None` where nothing is to be done.
///
/// Source: ITU-R BT.601-7, section 2.5 (and BT.709-6, 3.5): luma from Kr, Kb and the quantisation of limited range.
fn matrix(colour: Colour) -> Option<[[f32; 4]; 3]> {
    match colour {
        Colour::Rgb | Colour::Gray { full_range: true } => None,
        Colour::Gray { full_range: false } => {
            let gain = (255.0 / 219.0) as f32;
            let offset = -16.0 * gain;
            Some([[gain, 0.0, 0.0, offset], [0.0, gain, 0.0, offset], [0.0, 0.0, gain, offset]])
        }
        Colour::Yuv { kr, kb, full_range } => {
            let (y_gain, c_gain, black) =
                if full_range { (1.0, 1.0, 0.0) } else { (255.0 / 219.0, 255.0 / 224.0, 16.0) };
            let kg = 1.0 - kr - kb;
            let (red_v, blue_u) = (2.0 * (1.0 - kr) * c_gain, 2.0 * (1.0 - kb) * c_gain);
            let (green_u, green_v) = (-blue_u * kb / kg, -red_v * kr / kg);
            let row = |u: f64, v: f64| [y_gain as f32, u as f32, v as f32, (-black * y_gain - 128.0 * (u + v)) as f32];
            Some([row(0.0, red_v), row(green_u, green_v), row(blue_u, 0.0)])
        }
    }
}

/// The version of OpenCV that is linked.
pub fn opencv_version() -> String {
    core::get_version_string().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BT601: Colour = Colour::Yuv { kr: 0.299, kb: 0.114, full_range: false };
    const BT709: Colour = Colour::Yuv { kr: 0.2126, kb: 0.0722, full_range: false };

    /// A 4:2:0 picture of one colour.
    struct Planar {
        size: (u32, u32),
        planes: [Vec<u8>; 3],
        colour: Colour,
    }

    impl Planar {
        fn new(width: u32, height: u32, yuv: [u8; 3], colour: Colour) -> Self {
            let mut planar = Self { size: (width, height), planes: Default::default(), colour };
            for (i, value) in yuv.into_iter().enumerate() {
                let (width, height) = planar.plane_size(i);
                planar.planes[i] = vec![value; (width * height) as usize];
            }
            planar
        }

        fn plane_size(&self, plane: usize) -> (u32, u32) {
            let (width, height) = self.size;
            if plane == 0 { (width, height) } else { (width.div_ceil(2), height.div_ceil(2)) }
        }

        fn picture(&self) -> Picture<'_> {
            let component = |plane: usize| {
                let (width, height) = self.plane_size(plane);
                Component { plane, channels: 1, channel: 0, width, height }
            };
            let plane = |i: usize| Plane { bytes: &self.planes[i], stride: self.plane_size(i).0 as usize };
            Picture {
                width: self.size.0,
                height: self.size.1,
                pixel_aspect: (1, 1),
                planes: (0..3).map(plane).collect(),
                components: (0..3).map(component).collect(),
                depth: Depth::Eight,
                colour: self.colour,
                orientation: Orientation::default(),
            }
        }
    }

    fn pixel(rgb: &[u8], width: u32, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * width + x) * 3) as usize;
        [rgb[at], rgb[at + 1], rgb[at + 2]]
    }

    #[track_caller]
    fn assert_near(found: [u8; 3], wanted: [u8; 3]) {
        assert!(found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 2), "{found:?}, {wanted:?} wanted");
    }

    #[test]
    fn the_same_samples_are_another_colour_in_another_matrix() {
        // Full red (255, 0, 0) is Y 81, Cb 90, Cr 240 in BT.601 and Y 63, Cb 102, Cr 240 in BT.709, limited range.
        for (yuv, colour) in [([81, 90, 240], BT601), ([63, 102, 240], BT709)] {
            let planar = Planar::new(64, 48, yuv, colour);
            assert_near(pixel(&planar.picture().rgb(32, 24).unwrap(), 32, 10, 10), [255, 0, 0]);
            assert_near(pixel(&planar.picture().thumbnail().unwrap(), 48, 40, 20), [255, 0, 0]);
        }
    }

    #[test]
    fn limited_range_is_stretched_and_full_range_is_not() {
        let planar = Planar::new(16, 16, [16, 128, 128], BT601);
        assert_near(pixel(&planar.picture().rgb(8, 8).unwrap(), 8, 1, 1), [0, 0, 0]);
        let planar = Planar::new(16, 16, [235, 128, 128], BT709);
        assert_near(pixel(&planar.picture().rgb(8, 8).unwrap(), 8, 1, 1), [255, 255, 255]);
        let full = Colour::Yuv { kr: 0.299, kb: 0.114, full_range: true };
        let planar = Planar::new(16, 16, [16, 128, 128], full);
        assert_near(pixel(&planar.picture().rgb(8, 8).unwrap(), 8, 1, 1), [16, 16, 16]);
    }

    #[test]
    fn ten_bits_are_read_as_words() {
        // Limited-range white: 940 of 1023. Once in the low bits (I420_10LE), once in the high ones (P010).
        for shift in [0u32, 6] {
            let luma: Vec<u8> = std::iter::repeat_n((940u16 << shift).to_le_bytes(), 64).flatten().collect();
            let chroma: Vec<u8> = std::iter::repeat_n((512u16 << shift).to_le_bytes(), 32).flatten().collect();
            let component =
                |plane, channels, channel, side| Component { plane, channels, channel, width: side, height: side };
            let picture = Picture {
                width: 8,
                height: 8,
                pixel_aspect: (1, 1),
                planes: vec![Plane { bytes: &luma, stride: 16 }, Plane { bytes: &chroma, stride: 16 }],
                components: vec![component(0, 1, 0, 8), component(1, 2, 0, 4), component(1, 2, 1, 4)],
                depth: Depth::Sixteen { bits: 10, shift },
                colour: BT709,
                orientation: Orientation::default(),
            };
            assert_near(pixel(&picture.rgb(8, 8).unwrap(), 8, 3, 3), [255, 255, 255]);
        }
    }

    #[test]
    fn a_turned_picture_stands_upright() {
        // 2x1 BGR: left blue, right red.
        let bytes = [255, 0, 0, 0, 0, 255];
        let component = |channel| Component { plane: 0, channels: 3, channel, width: 2, height: 1 };
        let mut picture = Picture {
            width: 2,
            height: 1,
            pixel_aspect: (1, 1),
            planes: vec![Plane { bytes: &bytes, stride: 6 }],
            components: vec![component(2), component(1), component(0)],
            depth: Depth::Eight,
            colour: Colour::Rgb,
            orientation: Orientation { quarter_turns: 1, flip: false },
        };
        assert_eq!(picture.fit(100), (1, 2));
        // A quarter turn clockwise puts the left end on top.
        assert_eq!(&picture.rgb(1, 2).unwrap()[..], [0, 0, 255, 255, 0, 0]);
        picture.orientation = Orientation { quarter_turns: 0, flip: true };
        assert_eq!(&picture.rgb(2, 1).unwrap()[..], [255, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn the_size_respects_the_shape_of_pixels() {
        let upright = Orientation::default();
        assert_eq!(fit((1920, 1080), (1, 1), upright, 448), (448, 252));
        assert_eq!(fit((720, 576), (64, 45), upright, 2000), (1024, 576));
        assert_eq!(fit((720, 576), (16, 15), upright, 448), (448, 336));
        assert_eq!(fit((320, 240), (1, 1), upright, 448), (320, 240));
        assert_eq!(fit((1920, 1080), (1, 1), Orientation { quarter_turns: 3, flip: false }, 448), (252, 448));
    }

    #[test]
    fn a_frame_that_is_too_short_is_refused() {
        let mut planar = Planar::new(64, 48, [0, 0, 0], BT601);
        planar.planes[2].truncate(100);
        assert!(matches!(planar.picture().rgb(8, 8), Err(PictureError::Layout { bytes: 100, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_size_is_scaled_to_any_size(width in 1u32..500, height in 1u32..300, to in (1u32..100, 1u32..100), turns in 0u8..4) {
            let planar = Planar::new(width, height, [120, 128, 128], BT601);
            let mut picture = planar.picture();
            picture.orientation.quarter_turns = turns;
            prop_assert_eq!(picture.rgb(to.0, to.1).unwrap().len(), (to.0 * to.1 * 3) as usize);
            prop_assert_eq!(picture.thumbnail().unwrap().len(), crate::clip::THUMBNAIL_BYTES);
        }
    }
}
