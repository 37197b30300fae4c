//! Decoded frames: which formats are taken, and how GStreamer's description of them becomes ours.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use describe_models::{
    Frame,
    picture::{Colour, Component, Depth, Orientation, Picture, PictureError, Plane},
    sampling::Candidate,
};
use gst::glib::translate::IntoGlib;
use gst_video::{VideoColorMatrix, VideoColorRange, VideoFormat, VideoFormatInfo, VideoInfo, prelude::*};

use crate::lock;

/// Raw formats whose samples OpenCV can scale where they lie: bytes, or 16-bit little-endian words, side by side.
pub fn formats() -> impl Iterator<Item = VideoFormat> {
    VideoFormat::iter_raw().filter(|format| {
        let info = VideoFormatInfo::from_format(*format);
        depth(&info).is_some() && (info.is_yuv() || info.is_rgb() || info.is_gray())
    })
}

fn depth(info: &VideoFormatInfo) -> Option<Depth> {
    let colours = (info.n_components() as usize).min(3);
    let (depths, shifts) = (&info.depth()[..colours], &info.shift()[..colours]);
    let strange = info.is_complex() || info.is_tiled() || info.has_palette();
    if strange || colours == 2 || depths.iter().any(|d| *d != depths[0]) || shifts.iter().any(|s| *s != shifts[0]) {
        return None;
    }
    let depth = match (depths[0], shifts[0]) {
        (8, 0) => Depth::Eight,
        (bits @ 9..=16, shift) if info.is_le() && bits + shift <= 16 => Depth::Sixteen { bits, shift },
        _ => return None,
    };
    let places: Vec<_> = (0..colours).map(|c| samples(info, depth, c)).collect();
    // GStreamer gives the words of Y410's relatives one and the same place, and swaps the colours of VYUY.
    let distinct = (1..colours).all(|c| !places[..c].contains(&places[c]));
    let sound = places.iter().all(|(_, channels, channel)| (1..=4).contains(channels) && channel < channels);
    (distinct && sound && info.format() != VideoFormat::Vyuy).then_some(depth)
}

/// Plane of a component, how many samples lie side by side there, and which of them is the component.
fn samples(info: &VideoFormatInfo, depth: Depth, component: usize) -> (usize, usize, usize) {
    let word = if depth == Depth::Eight { 1 } else { 2 };
    let (stride, offset) = (info.pixel_stride()[component] as usize, info.poffset()[component] as usize);
    // The offset is in bytes, except for the two-plane formats of P010's family, where it counts words.
    let channel = if offset % word == 0 { offset / word } else { offset };
    (info.plane()[component] as usize, stride / word, channel)
}

/// How to read the frames of a pad.
#[derive(Debug, Clone)]
pub struct VideoReader {
    info: VideoInfo,
    depth: Depth,
    colour: Colour,
    components: Vec<Component>,
    /// Turns to upright, from the stream's tags.
    pub orientation: Orientation,
}

impl VideoReader {
    /// A reader for `caps`; `None` where the format is none of [`formats`].
    pub fn new(caps: &gst::CapsRef, orientation: Orientation) -> Option<Self> {
        let info = VideoInfo::from_caps(caps).ok()?;
        let format = info.format_info();
        let depth = depth(&format)?;
        let components = (0..(format.n_components() as usize).min(3))
            .map(|c| {
                let (plane, channels, channel) = samples(&format, depth, c);
                let (width, height) = (info.comp_width(c as u8), info.comp_height(c as u8));
                Component { plane, channels, channel, width, height }
            })
            .collect();
        Some(Self { depth, colour: colour(&info), components, orientation, info })
    }

    /// Length of a frame by the caps in nanoseconds; `None` for a variable rate.
    pub fn duration_ns(&self) -> Option<u64> {
        let fps = self.info.fps();
        (fps.numer() > 0).then(|| {
            describe_models::time::SECOND * u64::from(fps.denom().unsigned_abs()) / fps.numer().unsigned_abs() as u64
        })
    }

    /// Bytes of a frame.
    pub fn size(&self) -> u32 {
        u32::try_from(self.info.size()).unwrap_or(u32::MAX)
    }

    /// Calls `with` with the mapped frame.
    pub fn picture<R>(
        &self,
        buffer: &gst::BufferRef,
        with: impl FnOnce(&Picture<'_>) -> Result<R, PictureError>,
    ) -> Result<R, PictureError> {
        let short = PictureError::Layout { width: self.info.width(), height: self.info.height(), bytes: buffer.size() };
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &self.info).map_err(|_| short)?;
        let plane = |plane: u32| Plane {
            bytes: frame.plane_data(plane).unwrap_or_default(),
            stride: usize::try_from(frame.plane_stride()[plane as usize]).unwrap_or(0),
        };
        let par = self.info.par();
        with(&Picture {
            width: self.info.width(),
            height: self.info.height(),
            pixel_aspect: (par.numer().max(1) as u32, par.denom().max(1) as u32),
            planes: (0..frame.n_planes()).map(plane).collect(),
            components: self.components.clone(),
            depth: self.depth,
            colour: self.colour,
            orientation: self.orientation,
        })
    }
}

/// Weights of red and blue as in the specifications that the GStreamer enumeration names.
fn colour(info: &VideoInfo) -> Colour {
    let colorimetry = info.colorimetry();
    let full_range = colorimetry.range() == VideoColorRange::Range0_255;
    if info.is_rgb() {
        return Colour::Rgb;
    }
    if info.format_info().is_gray() {
        return Colour::Gray { full_range: colorimetry.range() != VideoColorRange::Range16_235 };
    }
    let (kr, kb) = match colorimetry.matrix() {
        VideoColorMatrix::Bt601 => (0.299, 0.114),
        VideoColorMatrix::Bt709 => (0.2126, 0.0722),
        VideoColorMatrix::Bt2020 => (0.2627, 0.0593),
        VideoColorMatrix::Fcc => (0.30, 0.11),
        VideoColorMatrix::Smpte240m => (0.212, 0.087),
        // Nothing is said: by size, as GStreamer itself guesses.
        _ if info.height() > 576 => (0.2126, 0.0722),
        _ => (0.299, 0.114),
    };
    Colour::Yuv { kr, kb, full_range }
}

/// The turns that the stream's tags ask for.
pub fn orientation(tags: &gst::TagListRef) -> Option<Orientation> {
    use gst_video::VideoOrientationMethod as Method;
    let (quarter_turns, flip) = match Method::from_tag(tags)? {
        Method::Identity => (0, false),
        Method::_90r => (1, false),
        Method::_180 => (2, false),
        Method::_90l => (3, false),
        Method::Horiz => (0, true),
        // Transposing is a quarter turn clockwise, then mirroring left to right.
        Method::UlLr => (1, true),
        Method::Vert => (2, true),
        Method::UrLl => (3, true),
        other => {
            gst::warning!(gst::CAT_DEFAULT, "orientation {} is not known", other.into_glib());
            return None;
        }
    };
    Some(Orientation { quarter_turns, flip })
}

/// A decoded frame on its way: the decoder's buffer until it is kept, then the small picture.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Held>>);

enum Held {
    Raw { buffer: gst::Buffer, reader: Arc<VideoReader>, max_size: u32 },
    Small { width: u32, height: u32, rgb: Bytes },
    Failed,
}

impl Handle {
    /// A handle to `buffer`.
    pub fn new(buffer: gst::Buffer, reader: Arc<VideoReader>, max_size: u32) -> Self {
        Self(Arc::new(Mutex::new(Held::Raw { buffer, reader, max_size })))
    }
}

impl Candidate for Handle {
    fn keep(&self) {
        let mut held = lock(&self.0);
        let Held::Raw { buffer, reader, max_size } = &*held else { return };
        let small = reader.picture(buffer, |picture| {
            let (width, height) = picture.fit(*max_size);
            Ok(Held::Small { width, height, rgb: picture.rgb(width, height)? })
        });
        *held = small.unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Held::Failed
        });
    }

    fn frame(&self, at_ns: u64) -> Option<Frame> {
        match &*lock(&self.0) {
            Held::Small { width, height, rgb } => {
                Some(Frame { at_ns, width: *width, height: *height, rgb: rgb.clone() })
            }
            Held::Raw { .. } | Held::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_that_decoders_give_are_taken() {
        gst::init().unwrap();
        let formats: Vec<String> = formats().map(|format| format.to_str().to_string()).collect();
        for wanted in [
            "I420",
            "NV12",
            "NV21",
            "YV12",
            "I420_10LE",
            "P010_10LE",
            "RGB",
            "BGR",
            "RGBA",
            "BGRx",
            "ARGB",
            "GRAY8",
            "YUY2",
            "UYVY",
            "Y42B",
            "Y444",
            "I422_10LE",
            "GBR",
            "GRAY16_LE",
        ] {
            assert!(formats.iter().any(|format| format == wanted), "{wanted} is not among {formats:?}");
        }
        for strange in ["v210", "RGB16", "RGB8P", "NV12_64Z32", "I420_10BE", "Y410"] {
            assert!(!formats.iter().any(|format| format == strange), "{strange} is among {formats:?}");
        }
    }

    /// Every format, filled by GStreamer's own converter with one colour, gives that colour back.
    #[test]
    fn every_format_shows_the_same_colour() {
        gst::init().unwrap();
        let rgb = VideoInfo::builder(VideoFormat::Rgb, 32, 24).build().unwrap();
        let colour = [200u8, 60, 30];
        let mut source = gst::Buffer::with_size(rgb.size()).unwrap();
        let stride = rgb.stride()[0] as usize;
        for row in source.get_mut().unwrap().map_writable().unwrap().chunks_mut(stride) {
            row.as_chunks_mut::<3>().0.iter_mut().take(32).for_each(|pixel| *pixel = colour);
        }
        let mut wrong = Vec::new();
        for format in formats() {
            let info = VideoInfo::builder(format, 32, 24).build().unwrap();
            let input = gst_video::VideoFrame::from_buffer_readable(source.clone(), &rgb).unwrap();
            let output = gst::Buffer::with_size(info.size()).unwrap();
            let mut output = gst_video::VideoFrame::from_buffer_writable(output, &info).unwrap();
            gst_video::VideoConverter::new(&rgb, &info, None).unwrap().frame(&input, &mut output);
            let reader = VideoReader::new(&info.to_caps().unwrap(), Orientation::default()).unwrap();
            let found = reader.picture(&output.into_buffer(), |picture| picture.rgb(16, 12)).unwrap();
            let middle = &found[(6 * 16 + 8) * 3..][..3];
            let wanted = if info.format_info().is_gray() { [middle[0]; 3] } else { colour };
            let near = middle.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 4);
            if !near {
                wrong.push(format!("{format:?}: {middle:?} instead of {wanted:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
