//! Clips as buffers: `application/x-clip`.

use bytes::Bytes;
use describe_models::{Clip, wire};

/// Media type of a clip.
pub const CLIP_CAPS: &str = "application/x-clip";

/// A buffer with the bytes of `clip`, shared; times and flags are the caller's.
pub fn to_buffer(clip: &Clip) -> gst::Buffer {
    let mut buffer = gst::Buffer::new();
    let writable = buffer.get_mut().expect("a new buffer has one owner");
    for part in wire::write(clip) {
        writable.append_memory(gst::Memory::from_slice(part));
    }
    buffer
}

/// The clip in `buffer`; its pictures and sound stay where they are.
pub fn from_buffer(buffer: &gst::Buffer) -> Result<Clip, wire::WireError> {
    struct Mapped(gst::memory::MappedMemory<gst::memory::Readable>);
    impl AsRef<[u8]> for Mapped {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    let parts = buffer
        .iter_memories_owned()
        .map(|memory| {
            memory
                .into_mapped_memory_readable()
                .map(|mapped| Bytes::from_owner(Mapped(mapped)))
                .map_err(|_| wire::WireError::Header("its memory cannot be read".into()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    wire::read(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use describe_models::{Frame, Sound, Span, Thumbnails};

    #[test]
    fn a_clip_survives_the_buffer_without_a_copy() {
        gst::init().unwrap();
        let rgb = Bytes::from(vec![9u8; 12]);
        let clip = Clip {
            span: Span::new(4, 8),
            discont: true,
            frames: vec![Frame { at_ns: 5, width: 2, height: 2, rgb: rgb.clone() }],
            thumbnails: Thumbnails::default(),
            sound: Some(Sound::from_samples(16_000, 7, 1, vec![0.5, -0.5])),
        };
        let back = from_buffer(&to_buffer(&clip)).unwrap();
        assert_eq!(back, clip);
        assert_eq!(back.frames[0].rgb.as_ptr(), rgb.as_ptr());
    }

    #[test]
    fn a_buffer_of_something_else_is_refused() {
        gst::init().unwrap();
        assert!(from_buffer(&gst::Buffer::from_slice(*b"RIFF....WAVE")).is_err());
        assert!(from_buffer(&gst::Buffer::new()).is_err());
    }
}
