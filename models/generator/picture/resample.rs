//! Scaling of 8-bit RGB, in the order of passes and with the rounding of the references.
//!
//! Both references (torchvision's uint8 kernels, Pillow) scale one axis after the other and round to bytes in between,
//! so the order of the axes shows in the last bits, and near sharp edges in more.

use std::borrow::Cow;

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};

use super::{PictureError, lanczos, sizes::Size};

type Failed = Box<dyn std::error::Error>;

/// How the values between the pixels are found; the numbers are Pillow's `resample` codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Nearest = 0,
    Lanczos = 1,
    Bilinear = 2,
    Bicubic = 3,
    Box = 4,
    Hamming = 5,
}

impl Filter {
    pub(super) fn of_code(code: u64) -> Option<Self> {
        use Filter::{Bicubic, Bilinear, Box, Hamming, Lanczos, Nearest};
        [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming].into_iter().find(|&filter| filter as u64 == code)
    }

    fn options(self) -> ResizeOptions {
        let filter = match self {
            Self::Nearest => return ResizeOptions::new().resize_alg(ResizeAlg::Nearest),
            Self::Lanczos => FilterType::Lanczos3,
            Self::Bilinear => FilterType::Bilinear,
            // The cubic with a = -0.5, as in Pillow and in torchvision's antialiased one.
            Self::Bicubic => FilterType::CatmullRom,
            Self::Box => FilterType::Box,
            Self::Hamming => FilterType::Hamming,
        };
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
    }

    /// The size after the first pass.
    ///
    /// torchvision scales rows first. It has no Lanczos filter and asks Pillow for it, which since version 13 scales
    /// columns first where that shrinks the height by more than twice what is taken off the width (measured).
    fn half_way(self, from: Size, to: Size) -> Size {
        let shorter = i64::from(from.1) - i64::from(to.1);
        let narrower = i64::from(from.0) - i64::from(to.0);
        match self == Self::Lanczos && shorter > (2 * narrower).max(0) {
            true => (from.0, to.1),
            false => (to.0, from.1),
        }
    }
}

/// A picture of `width * height * 3` bytes.
pub(super) struct Rgb<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Rgb<'a> {
    pub(super) fn new(width: u32, height: u32, bytes: &'a [u8]) -> Self {
        Self { width, height, bytes: Cow::Borrowed(bytes) }
    }

    /// The same picture in another size; itself where the size is right.
    pub(super) fn resized(&self, to: Size, filter: Filter) -> Result<Rgb<'_>, PictureError> {
        let (width, height) = to;
        let from = (self.width, self.height);
        if to == from {
            return Ok(Rgb { width, height, bytes: Cow::Borrowed(&self.bytes) });
        }
        let way = [filter.half_way(from, to), to];
        let bytes = match filter {
            Filter::Lanczos => lanczos::scaled(&self.bytes, from, way),
            _ => self.scaled(way, filter).map_err(|reason| PictureError::Resize {
                width,
                height,
                reason: reason.to_string(),
            })?,
        };
        Ok(Rgb { width, height, bytes: Cow::Owned(bytes) })
    }

    /// With weights of 16 bits, as torchvision has them.
    fn scaled(&self, [half, to]: [Size; 2], filter: Filter) -> Result<Vec<u8>, Failed> {
        let source = TypedImageRef::<U8x3>::from_buffer(self.width, self.height, &self.bytes)?;
        let mut between = TypedImage::new(half.0, half.1);
        let mut resizer = Resizer::new();
        resizer.resize_typed(&source, &mut between, &filter.options())?;
        let mut scaled = TypedImage::<U8x3>::new(to.0, to.1);
        resizer.resize_typed(&between, &mut scaled, &filter.options())?;
        Ok(scaled.pixels().iter().flat_map(|pixel| pixel.0).collect())
    }

    /// The bytes of `count` pixels of a row.
    pub(super) fn row(&self, y: u32, x: u32, count: u32) -> &[u8] {
        let from = (y as usize * self.width as usize + x as usize) * 3;
        self.bytes.get(from..from + count as usize * 3).unwrap_or_default()
    }
}
