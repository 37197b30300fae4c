//! Decoded sound: any raw format and channel count to mono samples.

use gst::glib;
use gst_audio::{AudioChannelPosition, AudioInfo};

/// How to read the sound of a pad.
pub struct AudioReader {
    info: AudioInfo,
    /// Share of each channel in the mix; the shares add up to 1.
    weights: Vec<f64>,
    unpacked: Vec<u8>,
}

/// Share of each channel in mono. Source: the downmix of ITU-R BS.775-4, annex 4: surrounds at -3 dB and no low-frequency
/// effects, scaled so that nothing clips.
fn weights(info: &AudioInfo) -> Vec<f64> {
    let channels = info.channels() as usize;
    let weight = |position: &AudioChannelPosition| match position {
        AudioChannelPosition::Lfe1 | AudioChannelPosition::Lfe2 => 0.0,
        AudioChannelPosition::FrontLeft
        | AudioChannelPosition::FrontRight
        | AudioChannelPosition::FrontCenter
        | AudioChannelPosition::Mono => 1.0,
        _ => std::f64::consts::FRAC_1_SQRT_2,
    };
    let raw: Vec<f64> = match info.positions() {
        Some(positions) if positions.len() == channels => positions.iter().map(weight).collect(),
        _ => vec![1.0; channels],
    };
    let sum: f64 = raw.iter().sum();
    if sum > 0.0 {
        raw.iter().map(|weight| weight / sum).collect()
    } else {
        vec![1.0 / channels.max(1) as f64; channels]
    }
}

impl AudioReader {
    /// A reader for `caps`.
    pub fn new(caps: &gst::CapsRef) -> Result<Self, glib::BoolError> {
        let info = AudioInfo::from_caps(caps)?;
        Ok(Self { weights: weights(&info), info, unpacked: Vec::new() })
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.info.rate()
    }

    /// Length of a buffer in nanoseconds.
    pub fn duration_ns(&self, buffer: &gst::BufferRef) -> u64 {
        let frames = buffer.size() as u64 / u64::from(self.info.bpf().max(1));
        describe_models::time::time_of_sample(frames, self.rate())
    }

    /// Mono samples of `buffer`, -1 to 1; a trailing part of a frame is dropped, a buffer that cannot be mapped is empty.
    pub fn read(&mut self, buffer: &gst::BufferRef) -> Vec<f32> {
        if self.info.layout() == gst_audio::AudioLayout::Interleaved {
            return buffer.map_readable().map(|map| self.mix(&map, 0..self.weights.len())).unwrap_or_default();
        }
        // A plane a channel; where each lies is in the buffer's meta.
        let Ok(planes) = gst_audio::AudioBufferRef::from_buffer_ref_readable(buffer, &self.info) else {
            return Vec::new();
        };
        let mut mono = Vec::new();
        for channel in 0..self.weights.len().min(planes.n_planes() as usize) {
            let Ok(plane) = planes.plane_data(channel as u32) else { continue };
            let part = self.mix(plane, channel..channel + 1);
            mono.resize(part.len().max(mono.len()), 0.0);
            mono.iter_mut().zip(part).for_each(|(sum, sample)| *sum += sample);
        }
        mono
    }

    /// The weighted sum of `channels`, which lie side by side in `bytes`.
    fn mix(&mut self, bytes: &[u8], channels: std::ops::Range<usize>) -> Vec<f32> {
        let format = self.info.format_info();
        let frame = (format.width() as usize / 8 * channels.len()).max(1);
        let bytes = &bytes[..bytes.len() / frame * frame];
        let unpacked = gst_audio::AudioFormatInfo::from_format(format.unpack_format());
        let values = bytes.len() * 8 / format.width().max(8) as usize;
        self.unpacked.resize(values * unpacked.width() as usize / 8, 0);
        format.unpack(gst_audio::AudioPackFlags::TRUNCATE_RANGE, &mut self.unpacked, bytes);
        let weights = &self.weights[channels];
        // GStreamer unpacks integers to 32 bits and floats to 64.
        if unpacked.is_integer() {
            weigh::<4>(&self.unpacked, weights, |word| f64::from(i32::from_ne_bytes(word)) / 2_147_483_648.0)
        } else {
            weigh::<8>(&self.unpacked, weights, f64::from_ne_bytes)
        }
    }
}

fn weigh<const N: usize>(unpacked: &[u8], weights: &[f64], value: impl Fn([u8; N]) -> f64) -> Vec<f32> {
    let (words, _) = unpacked.as_chunks::<N>();
    words
        .chunks_exact(weights.len().max(1))
        .map(|frame| frame.iter().zip(weights).map(|(word, weight)| value(*word) * weight).sum::<f64>() as f32)
        // A float stream may carry anything; models must not see what is no number.
        .map(|sample| if sample.is_finite() { sample } else { 0.0 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(format: gst_audio::AudioFormat, channels: u32) -> AudioReader {
        gst::init().unwrap();
        use AudioChannelPosition::{FrontCenter, FrontLeft, FrontRight, Lfe1, RearLeft, RearRight};
        let surround = [FrontLeft, FrontRight, FrontCenter, Lfe1, RearLeft, RearRight];
        let builder = AudioInfo::builder(format, 48_000, channels);
        let builder = if channels == 6 { builder.positions(&surround) } else { builder };
        let info = builder.build().unwrap();
        AudioReader::new(&info.to_caps().unwrap()).unwrap()
    }

    fn read(format: gst_audio::AudioFormat, channels: u32, bytes: &[u8]) -> Vec<f32> {
        reader(format, channels).read(&gst::Buffer::from_slice(bytes.to_vec()))
    }

    #[test]
    fn planes_are_mixed_like_channels_side_by_side() {
        gst::init().unwrap();
        let info = AudioInfo::builder(gst_audio::AudioFormat::F32le, 48_000, 2)
            .layout(gst_audio::AudioLayout::NonInterleaved)
            .build()
            .unwrap();
        let samples = [0.5f32, 0.25, 0.0, -1.0];
        let mut buffer = gst::Buffer::from_slice(samples.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        gst_audio::AudioMeta::add(buffer.get_mut().unwrap(), &info, 2, &[]).unwrap();
        let mut reader = AudioReader::new(&info.to_caps().unwrap()).unwrap();
        assert_eq!(reader.read(&buffer), [0.25, -0.375]);
    }

    #[test]
    fn stereo_is_averaged() {
        let bytes: Vec<u8> = [16_384i16, 0, -32_768, -32_768].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(read(gst_audio::AudioFormat::S16le, 2, &bytes), [0.25, -1.0]);
    }

    #[test]
    fn formats_agree_and_odd_bytes_are_dropped() {
        assert_eq!(read(gst_audio::AudioFormat::U8, 1, &[192, 128]), [0.5, 0.0]);
        assert_eq!(read(gst_audio::AudioFormat::S24le, 1, &[0, 0, 64, 9]), [0.5]);
        let mut bytes = 0.5f32.to_le_bytes().to_vec();
        bytes.extend(f32::NAN.to_le_bytes());
        assert_eq!(read(gst_audio::AudioFormat::F32le, 1, &bytes), [0.5, 0.0]);
    }

    #[test]
    fn speech_in_the_centre_of_surround_sound_stays_loud() {
        // 5.1 in GStreamer's order: left, right, centre, low frequencies, rear left, rear right.
        let frame = [0.0f32, 0.0, 1.0, 1.0, 0.0, 0.0];
        let bytes: Vec<u8> = frame.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mono = read(gst_audio::AudioFormat::F32le, 6, &bytes);
        assert!((mono[0] - 1.0 / (3.0 + std::f32::consts::SQRT_2)).abs() < 1e-6, "{mono:?}");
    }
}
