//! A clip: a span of stream time with its chosen frames, a thumbnail of every frame, and its sound.

use bytes::Bytes;

use crate::time::{Span, sample_at, time_of_sample};

/// Width of a thumbnail in pixels (the input size of TransNetV2, arXiv:2008.04838, section 3).
pub const THUMBNAIL_WIDTH: usize = 48;
/// Height of a thumbnail in pixels.
pub const THUMBNAIL_HEIGHT: usize = 27;
/// Bytes of one thumbnail: RGB, 8 bits a channel, rows without padding.
pub const THUMBNAIL_BYTES: usize = THUMBNAIL_WIDTH * THUMBNAIL_HEIGHT * 3;

/// One chosen frame: RGB, 8 bits a channel, upright, square pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Stream time of the frame.
    pub at_ns: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `height * width * 3` bytes, rows without padding.
    pub rgb: Bytes,
}

/// Thumbnails of every frame in the span, in order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thumbnails {
    /// Stream time of each frame.
    pub at_ns: Vec<u64>,
    /// `at_ns.len()` pictures of [`THUMBNAIL_BYTES`] each.
    pub rgb: Bytes,
}

impl Thumbnails {
    /// Pixels of thumbnail `index`.
    pub fn get(&self, index: usize) -> &[u8] {
        &self.rgb[index * THUMBNAIL_BYTES..(index + 1) * THUMBNAIL_BYTES]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.at_ns.len()
    }

    /// Whether the span had no frame at all.
    pub fn is_empty(&self) -> bool {
        self.at_ns.is_empty()
    }
}

/// Mono sound of exactly the clip's span, on the absolute grid whose sample 0 is at stream time 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// Samples a second.
    pub rate: u32,
    /// Index of the first sample on the grid.
    pub first: u64,
    /// How many of the samples are silence put in for sound that was not there.
    pub filled: u64,
    samples: Bytes,
}

impl Sound {
    /// Sound from native-endian f32 bytes; bytes that are not aligned for f32 are copied once.
    ///
    /// A trailing part of a sample is dropped.
    pub fn new(rate: u32, first: u64, filled: u64, samples: Bytes) -> Self {
        let samples = samples.slice(..samples.len() / 4 * 4);
        let samples = match bytemuck::try_cast_slice::<u8, f32>(&samples) {
            Ok(_) => samples,
            Err(_) => Self::bytes(bytemuck::pod_collect_to_vec::<u8, f32>(&samples)),
        };
        Self { rate, first, filled, samples }
    }

    /// Sound from samples.
    pub fn from_samples(rate: u32, first: u64, filled: u64, samples: Vec<f32>) -> Self {
        Self { rate, first, filled, samples: Self::bytes(samples) }
    }

    fn bytes(samples: Vec<f32>) -> Bytes {
        struct Owner(Vec<f32>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Bytes::from_owner(Owner(samples))
    }

    /// The samples, -1 to 1.
    pub fn samples(&self) -> &[f32] {
        bytemuck::cast_slice(&self.samples)
    }

    /// The samples as bytes, shared.
    pub(crate) fn bytes_of(&self) -> Bytes {
        self.samples.clone()
    }

    /// Stream time of the first sample.
    pub fn start_ns(&self) -> u64 {
        time_of_sample(self.first, self.rate)
    }

    fn after_sample(&self, first: u64) -> Self {
        let skip = first.saturating_sub(self.first).min(self.samples().len() as u64);
        Self {
            first: self.first + skip,
            filled: self.filled.min(self.samples().len() as u64 - skip),
            samples: self.samples.slice(skip as usize * 4..),
            ..*self
        }
    }
}

/// A span of stream time with what was seen and heard in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// The half-open span.
    pub span: Span,
    /// Whether time jumped before this clip (first clip, seek, gap): nothing may be carried over from the one before.
    pub discont: bool,
    /// Chosen frames in order of time; empty where there was no picture.
    pub frames: Vec<Frame>,
    /// A thumbnail of every frame.
    pub thumbnails: Thumbnails,
    /// The sound; `None` where the source has no sound at all.
    pub sound: Option<Sound>,
}

impl Clip {
    /// The part of the clip from `ns` on, sharing all bytes: what is new in a clip that overlaps the one before.
    pub fn after(&self, ns: u64) -> Self {
        if ns <= self.span.start_ns {
            return self.clone();
        }
        let skip = self.thumbnails.at_ns.partition_point(|&at| at < ns);
        Self {
            span: Span::new(ns.min(self.span.end_ns), self.span.end_ns),
            discont: self.discont,
            frames: self.frames.iter().filter(|frame| frame.at_ns >= ns).cloned().collect(),
            thumbnails: Thumbnails {
                at_ns: self.thumbnails.at_ns[skip..].to_vec(),
                rgb: self.thumbnails.rgb.slice(skip * THUMBNAIL_BYTES..),
            },
            sound: self.sound.as_ref().map(|sound| sound.after_sample(sample_at(ns, sound.rate))),
        }
    }
}

/// What a pack wants to see and hear; the sampler obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipShape {
    /// Frames are scaled down (never up) to fit a square of this side, in pixels.
    pub max_size: u32,
    /// Samples a second of the sound.
    pub rate: u32,
    /// Most frames of a clip; `None`: as many as the user wants.
    pub frames: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clip() -> Clip {
        Clip {
            span: Span::new(0, 4_000),
            discont: true,
            frames: [500, 1_500, 2_500]
                .map(|at_ns| Frame { at_ns, width: 1, height: 1, rgb: Bytes::from(vec![1, 2, 3]) })
                .to_vec(),
            thumbnails: Thumbnails {
                at_ns: vec![0, 1_000, 2_000, 3_000],
                rgb: Bytes::from((0..4u8).flat_map(|i| vec![i; THUMBNAIL_BYTES]).collect::<Vec<_>>()),
            },
            // One sample each 1000 ns.
            sound: Some(Sound::from_samples(1_000_000, 0, 0, vec![0.0, 0.1, 0.2, 0.3])),
        }
    }

    #[test]
    fn the_rest_of_a_clip_starts_at_the_asked_time() {
        let rest = clip().after(2_000);
        assert_eq!(rest.span, Span::new(2_000, 4_000));
        assert_eq!(rest.frames.iter().map(|f| f.at_ns).collect::<Vec<_>>(), [2_500]);
        assert_eq!(rest.thumbnails.at_ns, [2_000, 3_000]);
        assert_eq!(rest.thumbnails.get(0)[0], 2);
        let sound = rest.sound.unwrap();
        assert_eq!((sound.first, sound.samples()), (2, &[0.2f32, 0.3][..]));
    }

    proptest! {
        #[test]
        fn nothing_breaks_wherever_the_rest_starts(ns in 0u64..10_000) {
            let rest = clip().after(ns);
            prop_assert!(rest.span.end_ns == 4_000 && rest.span.start_ns <= 4_000);
            prop_assert_eq!(rest.thumbnails.rgb.len(), rest.thumbnails.len() * THUMBNAIL_BYTES);
        }

        #[test]
        fn any_bytes_make_a_sound(bytes in proptest::collection::vec(any::<u8>(), 0..64), skip in 0usize..8) {
            let bytes = Bytes::from(bytes);
            let sound = Sound::new(16_000, 0, 0, bytes.slice(skip.min(bytes.len())..));
            prop_assert_eq!(sound.samples().len(), bytes.len().saturating_sub(skip) / 4);
        }
    }
}
