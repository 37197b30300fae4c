//! Whether a file is shorter than its own container says: a download or recording that was cut off.
//!
//! Demuxers read as far as they get and then report a normal end, so this is looked up in the file itself.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Top-level boxes that are looked at; fragmented recordings of hours have a few thousand.
const MAX_BOXES: usize = 100_000;

/// What a container says of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Nothing that is understood here.
    Unknown,
    /// All that it promises is there.
    Whole,
    /// The file ends early.
    Short {
        /// Bytes there.
        has: u64,
        /// Bytes the container promises at least.
        needs: u64,
    },
    /// An MP4 without its index, the `moov` box: the recording was never finished.
    NoIndex,
}

/// Looks at the outermost boxes of MP4 (ISO/IEC 14496-12, 4.2), Matroska (RFC 8794) and RIFF.
pub fn extent(path: &Path) -> io::Result<Extent> {
    let mut file = File::open(path)?;
    let has = file.metadata()?.len();
    look(&mut file, has)
}

fn look(file: &mut (impl Read + Seek), has: u64) -> io::Result<Extent> {
    let mut start = Vec::new();
    file.take(64).read_to_end(&mut start)?;
    let compare = |needs: u64| if needs > has { Extent::Short { has, needs } } else { Extent::Whole };
    if let Some(rest) = start.strip_prefix(&[0x1a, 0x45, 0xdf, 0xa3]) {
        return Ok(matroska_end(rest).map_or(Extent::Unknown, compare));
    }
    if let (Some(b"RIFF"), Some(size)) = (start.get(..4), start.get(4..8)) {
        let size = u32::from_le_bytes(size.try_into().expect("four bytes"));
        // Both stand for "unknown" in files that were written to a pipe.
        let known = size != 0 && size != u32::MAX;
        return Ok(if known { compare(u64::from(size) + 8) } else { Extent::Unknown });
    }
    match start.get(4..8) {
        Some(b"ftyp" | b"moov" | b"mdat" | b"free" | b"skip" | b"wide") => boxes(file, has),
        _ => Ok(Extent::Unknown),
    }
}

fn boxes(file: &mut (impl Read + Seek), has: u64) -> io::Result<Extent> {
    let (mut at, mut index) = (0u64, false);
    for _ in 0..MAX_BOXES {
        let mut header = [0u8; 16];
        if has - at < 8 {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header[..8])?;
        index |= &header[4..8] == b"moov";
        let size = match u32::from_be_bytes([header[0], header[1], header[2], header[3]]) {
            // It reaches to the end of the file.
            0 => break,
            1 if has - at >= 16 => {
                file.read_exact(&mut header[8..])?;
                u64::from_be_bytes(header[8..].try_into().expect("eight bytes"))
            }
            size => size.into(),
        };
        // Something that is no box: what follows the last one is not for us to judge.
        if size < 8 || !header[4..8].iter().all(|c| (b' '..=b'~').contains(c) || *c == 0xa9) {
            break;
        }
        match at.checked_add(size) {
            Some(end) if end <= has => at = end,
            end => return Ok(Extent::Short { has, needs: end.unwrap_or(u64::MAX) }),
        }
    }
    Ok(if index { Extent::Whole } else { Extent::NoIndex })
}

/// Where the segment of a Matroska file ends, from the bytes behind the first identifier; `None` where it is not said.
fn matroska_end(rest: &[u8]) -> Option<u64> {
    let (size, width) = size_of_element(rest)?;
    let segment = 4 + width as u64 + size?;
    let rest = rest.get(usize::try_from(segment).ok()?.checked_sub(4)?..)?.strip_prefix(&[0x18, 0x53, 0x80, 0x67])?;
    let (size, width) = size_of_element(rest)?;
    size?.checked_add(segment + 4 + width as u64)
}

/// A size as EBML writes it and how many bytes that takes; the size is `None` where it says "unknown".
fn size_of_element(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let width = bytes.first()?.leading_zeros() as usize + 1;
    if width > 8 {
        return None;
    }
    let value = bytes.get(..width)?.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let mask = (1u64 << (7 * width)) - 1;
    Some(((value & mask != mask).then_some(value & mask), width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn look_at(bytes: &[u8]) -> Extent {
        look(&mut Cursor::new(bytes), bytes.len() as u64).unwrap()
    }

    fn mp4_box(name: &[u8; 4], body: usize) -> Vec<u8> {
        [&(body as u32 + 8).to_be_bytes()[..], name, &vec![0; body]].concat()
    }

    #[test]
    fn an_mp4_needs_all_its_boxes_and_its_index() {
        let whole = [mp4_box(b"ftyp", 8), mp4_box(b"moov", 100), mp4_box(b"mdat", 500)].concat();
        assert_eq!(look_at(&whole), Extent::Whole);
        assert_eq!(look_at(&whole[..400]), Extent::Short { has: 400, needs: whole.len() as u64 });
        let unfinished = [mp4_box(b"ftyp", 8), mp4_box(b"mdat", 500)].concat();
        assert_eq!(look_at(&unfinished), Extent::NoIndex);
        let mut open = [mp4_box(b"ftyp", 8), mp4_box(b"moov", 9), mp4_box(b"mdat", 50)].concat();
        let mdat = open.len() - 58;
        open[mdat..mdat + 4].fill(0);
        assert_eq!(look_at(&open), Extent::Whole, "a size of 0 reaches to the end");
        let mut wide = [mp4_box(b"moov", 9), mp4_box(b"mdat", 50)].concat();
        wide[17..21].copy_from_slice(&1u32.to_be_bytes());
        wide[25..33].copy_from_slice(&(1u64 << 40).to_be_bytes());
        assert_eq!(look_at(&wide), Extent::Short { has: wide.len() as u64, needs: 17 + (1 << 40) });
    }

    #[test]
    fn a_matroska_segment_says_how_long_it_is() {
        let header = [0x1a, 0x45, 0xdf, 0xa3, 0x82, 1, 2, 0x18, 0x53, 0x80, 0x67];
        let file = |size: &[u8], body: usize| look_at(&[&header[..], size, &vec![0; body]].concat());
        assert_eq!(file(&[0x40, 100], 100), Extent::Whole);
        assert_eq!(file(&[0x40, 100], 40), Extent::Short { has: 53, needs: 113 });
        assert_eq!(file(&[0xff], 40), Extent::Unknown, "unknown, as in a live recording");
        assert_eq!(file(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0), Extent::Unknown);
    }

    #[test]
    fn a_wave_file_says_how_long_it_is() {
        let wave = |size: u32| look_at(&[&b"RIFF"[..], &size.to_le_bytes(), b"WAVEfmt "].concat());
        assert_eq!(wave(8), Extent::Whole);
        assert_eq!(wave(u32::MAX), Extent::Unknown);
        assert_eq!(wave(900), Extent::Short { has: 16, needs: 908 });
    }

    #[test]
    fn anything_else_is_left_alone() {
        for bytes in
            [&b""[..], b"x", b"hello there, this is no container", &[0x1a, 0x45, 0xdf, 0xa3], &[0; 64], &[255; 64]]
        {
            assert_eq!(look_at(bytes), Extent::Unknown);
        }
        let mut seed = 1u32;
        for length in 0..300 {
            let mut bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            for start in [&b"RIFF"[..], &[0x1a, 0x45, 0xdf, 0xa3], &[0, 0, 0, 16, b'f', b't', b'y', b'p']] {
                bytes.splice(..start.len().min(bytes.len()), start.iter().copied());
                let _ = look_at(&bytes);
            }
        }
    }
}
