//! A clip as bytes: what travels between the sampler and the describer.
//!
//! Parts in a row: 8 bytes (`CLIP`, length of the header as u32 little-endian), the header (JSON), the pixels of each
//! frame, the thumbnails, the samples (f32, native endian). The parts may lie in separate pieces of memory; reading
//! them back copies nothing unless a part was torn.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    clip::{Clip, Frame, Sound, THUMBNAIL_BYTES, Thumbnails},
    time::{SECOND, Span},
};

const MAGIC: &[u8; 4] = b"CLIP";
/// Largest header that is parsed: a day of thumbnails at 100 frames a second is far above it.
const MAX_HEADER: usize = 4 << 20;

/// Why bytes are no clip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too short for what the header promises.
    #[error("the clip ends after {has} of {needs} bytes of its {part}")]
    Short {
        /// Which part.
        part: &'static str,
        /// Bytes needed.
        needs: usize,
        /// Bytes there.
        has: usize,
    },
    /// Not what a clip starts with, or a header that makes no sense.
    #[error("not a clip: {0}")]
    Header(String),
}

#[derive(Serialize, Deserialize)]
struct Header {
    start_ns: u64,
    end_ns: u64,
    discont: bool,
    frames: Vec<FrameHeader>,
    thumbnails: Vec<u64>,
    sound: Option<SoundHeader>,
}

#[derive(Serialize, Deserialize)]
struct FrameHeader {
    at_ns: u64,
    width: u32,
    height: u32,
}

#[derive(Serialize, Deserialize)]
struct SoundHeader {
    rate: u32,
    first: u64,
    filled: u64,
    samples: usize,
}

/// The parts of `clip`, in order, sharing the bytes of the pictures and the sound.
pub fn write(clip: &Clip) -> Vec<Bytes> {
    let header = Header {
        start_ns: clip.span.start_ns,
        end_ns: clip.span.end_ns,
        discont: clip.discont,
        frames: clip
            .frames
            .iter()
            .map(|frame| FrameHeader { at_ns: frame.at_ns, width: frame.width, height: frame.height })
            .collect(),
        thumbnails: clip.thumbnails.at_ns.clone(),
        sound: clip.sound.as_ref().map(|sound| SoundHeader {
            rate: sound.rate,
            first: sound.first,
            filled: sound.filled,
            samples: sound.samples().len(),
        }),
    };
    let json = serde_json::to_vec(&header).expect("integers and flags are always JSON");
    let mut start = BytesMut::with_capacity(8 + json.len());
    start.extend_from_slice(MAGIC);
    start.extend_from_slice(&(json.len() as u32).to_le_bytes());
    start.extend_from_slice(&json);
    let mut parts = vec![start.freeze()];
    parts.extend(clip.frames.iter().map(|frame| frame.rgb.clone()));
    parts.push(clip.thumbnails.rgb.clone());
    parts.extend(clip.sound.as_ref().map(Sound::bytes_of));
    parts.retain(|part| !part.is_empty());
    parts
}

/// The clip whose bytes are `parts` in a row, however they are cut.
pub fn read(parts: impl IntoIterator<Item = Bytes>) -> Result<Clip, WireError> {
    let mut reader = Reader { parts: parts.into_iter().collect(), next: 0 };
    reader.parts.reverse();
    let start = reader.take(8, "start")?;
    if &start[..4] != MAGIC {
        return Err(WireError::Header("it does not start with 'CLIP'".into()));
    }
    let length = u32::from_le_bytes([start[4], start[5], start[6], start[7]]) as usize;
    if length > MAX_HEADER {
        return Err(WireError::Header(format!("a header of {length} bytes")));
    }
    let header: Header = serde_json::from_slice(&reader.take(length, "header")?)
        .map_err(|error| WireError::Header(error.to_string()))?;
    check(&header)?;
    let frames = header
        .frames
        .into_iter()
        .map(|frame| {
            let bytes = (frame.width as usize).saturating_mul(frame.height as usize).saturating_mul(3);
            let rgb = reader.take(bytes, "frames")?;
            Ok(Frame { at_ns: frame.at_ns, width: frame.width, height: frame.height, rgb })
        })
        .collect::<Result<_, WireError>>()?;
    let rgb = reader.take(header.thumbnails.len().saturating_mul(THUMBNAIL_BYTES), "thumbnails")?;
    let sound = header
        .sound
        .map(|sound| {
            let samples = reader.take(sound.samples.saturating_mul(4), "sound")?;
            Ok(Sound::new(sound.rate, sound.first, sound.filled.min(sound.samples as u64), samples))
        })
        .transpose()?;
    Ok(Clip {
        span: Span::new(header.start_ns, header.end_ns),
        discont: header.discont,
        frames,
        thumbnails: Thumbnails { at_ns: header.thumbnails, rgb },
        sound,
    })
}

fn check(header: &Header) -> Result<(), WireError> {
    let wrong = |what: &str| Err(WireError::Header(what.to_owned()));
    // A hundred years: sums of two such times never overflow.
    if header.end_ns < header.start_ns || header.end_ns > 100 * 366 * 86_400 * SECOND {
        return wrong("its span makes no sense");
    }
    if header.frames.iter().any(|frame| frame.width == 0 || frame.height == 0) {
        return wrong("it has an empty frame");
    }
    if !header.frames.is_sorted_by_key(|frame| frame.at_ns) || !header.thumbnails.is_sorted() {
        return wrong("its frames are not in order of time");
    }
    if header.sound.as_ref().is_some_and(|sound| sound.rate == 0 || sound.first > u64::MAX / 2) {
        return wrong("its sound has no rate or no time");
    }
    Ok(())
}

struct Reader {
    parts: Vec<Bytes>,
    /// Bytes already taken of the last of `parts`, which are in reverse order.
    next: usize,
}

impl Reader {
    fn take(&mut self, needs: usize, part: &'static str) -> Result<Bytes, WireError> {
        let has = self.parts.iter().map(Bytes::len).sum::<usize>() - self.next;
        if has < needs {
            return Err(WireError::Short { part, needs, has });
        }
        let mut torn = BytesMut::new();
        loop {
            let Some(current) = self.parts.last() else { return Ok(torn.freeze()) };
            let left = current.len() - self.next;
            let wanted = needs - torn.len();
            let piece = current.slice(self.next..self.next + left.min(wanted));
            if left > wanted {
                self.next += wanted;
            } else {
                self.parts.pop();
                self.next = 0;
            }
            if torn.is_empty() && piece.len() == needs {
                return Ok(piece);
            }
            torn.extend_from_slice(&piece);
            if torn.len() == needs {
                return Ok(torn.freeze());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clips() -> impl Strategy<Value = Clip> {
        (
            any::<u32>(),
            any::<u32>(),
            any::<bool>(),
            proptest::collection::vec((1u32..5, 1u32..5), 0..3),
            0usize..3,
            proptest::option::of(0usize..20),
        )
            .prop_map(|(start, length, discont, frames, thumbnails, sound)| Clip {
                span: Span::new(start.into(), u64::from(start) + u64::from(length)),
                discont,
                frames: frames
                    .into_iter()
                    .enumerate()
                    .map(|(i, (width, height))| Frame {
                        at_ns: i as u64,
                        width,
                        height,
                        rgb: vec![i as u8; (width * height * 3) as usize].into(),
                    })
                    .collect(),
                thumbnails: Thumbnails {
                    at_ns: (0..thumbnails as u64).collect(),
                    rgb: vec![7; thumbnails * THUMBNAIL_BYTES].into(),
                },
                sound: sound.map(|n| Sound::from_samples(16_000, 5, 0, (0..n).map(|i| i as f32).collect())),
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(clip in clips()) {
            prop_assert_eq!(read(write(&clip)).unwrap(), clip);
        }

        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(clip in clips(), cut in 1usize..5000) {
            let whole = write(&clip).concat();
            prop_assert_eq!(read(whole.chunks(cut).map(Bytes::copy_from_slice)).unwrap(), clip);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read([Bytes::from(bytes)]);
        }

        #[test]
        fn a_damaged_clip_is_refused_or_read(clip in clips(), at in any::<prop::sample::Index>(), with in any::<u8>(), keep in any::<prop::sample::Index>()) {
            let mut whole = write(&clip).concat();
            let at = at.index(whole.len());
            whole[at] = with;
            whole.truncate(keep.index(whole.len()) + 1);
            let _ = read([Bytes::from(whole)]);
        }
    }

    #[test]
    fn parts_are_shared_not_copied() {
        let rgb = Bytes::from(vec![1u8; 12]);
        let frame = Frame { at_ns: 0, width: 2, height: 2, rgb: rgb.clone() };
        let clip = Clip {
            span: Span::new(0, 1),
            discont: false,
            frames: vec![frame],
            thumbnails: Thumbnails::default(),
            sound: None,
        };
        assert_eq!(read(write(&clip)).unwrap().frames[0].rgb.as_ptr(), rgb.as_ptr());
    }
}
