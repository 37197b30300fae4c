//! Test material whose truth is known to the frame and the sample: flat pictures that tell their number, white
//! flashes, and clicks of one millisecond.

use std::path::Path;

use gst::prelude::*;

/// Samples a second of the sound.
pub const RATE: u64 = 48_000;
/// Samples in a buffer of sound: 20 ms, so that the times are whole milliseconds, which is all that Matroska keeps.
const BLOCK: u64 = RATE / 50;
/// Samples of a click: 1 ms.
pub const CLICK: u64 = RATE / 1000;

const MILLISECOND: u64 = 1_000_000;

/// What is in a film.
#[derive(Debug, Clone, Default)]
pub struct Film {
    /// Time of each frame and of the end, in milliseconds.
    pub frames_ms: Vec<u64>,
    /// Numbers of the frames that are white.
    pub flashes: Vec<usize>,
    /// Samples, in order, at which a click starts.
    pub clicks: Vec<u64>,
    /// Spans of time with sound, in multiples of 20 ms.
    pub sound_ms: Vec<(u64, u64)>,
    /// What the container says of the frame rate; 0: it varies.
    pub frame_rate: u32,
}

impl Film {
    /// Brightness of frame `index`, 0 to 255: a flash, or darker and different from its neighbours.
    pub fn brightness(&self, index: usize) -> u8 {
        if self.flashes.contains(&index) { 255 } else { (index * 37 % 160) as u8 }
    }

    fn sample(&self, index: u64) -> i16 {
        let inside = self.clicks.iter().any(|click| (*click..click + CLICK).contains(&index));
        if inside { 16_000 } else { 0 }
    }

    /// Writes it; `video`, `audio` and `muxer` are elements, and nothing is lost in them.
    pub fn write(&self, path: &Path, video: &str, audio: &str, muxer: &str) {
        gst::init().unwrap();
        let text = format!(
            "{muxer} name=mux ! filesink location=\"{}\" \
             appsrc name=v format=time max-bytes=0 caps=video/x-raw,format=I420,width=64,height=48,framerate={}/1 \
             ! videoconvert ! {video} ! queue max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! mux. \
             appsrc name=a format=time max-bytes=0 caps=audio/x-raw,format=S16LE,layout=interleaved,channels=2,rate={RATE} \
             ! audioconvert ! {audio} ! queue max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! mux.",
            path.display(),
            self.frame_rate
        );
        let pipeline = gst::parse::launch(&text).unwrap().downcast::<gst::Pipeline>().unwrap();
        let source = |name: &str| pipeline.by_name(name).unwrap().downcast::<gst_app::AppSrc>().unwrap();
        let (v, a) = (source("v"), source("a"));
        pipeline.set_state(gst::State::Playing).unwrap();
        for (index, times) in self.frames_ms.windows(2).enumerate() {
            // Limited range, as video has it: 16 is black, 235 is white (ITU-R BT.601).
            let luma = 16 + (u32::from(self.brightness(index)) * 219 + 127) / 255;
            let pixels = [vec![luma as u8; 64 * 48], vec![128; 2 * 32 * 24]].concat();
            v.push_buffer(buffer(pixels, times[0] * MILLISECOND, times[1] * MILLISECOND, false)).unwrap();
        }
        v.end_of_stream().unwrap();
        for (start_ms, end_ms) in &self.sound_ms {
            for first in (start_ms * 48..end_ms * 48).step_by(BLOCK as usize) {
                let samples =
                    (first..first + BLOCK).flat_map(|i| [self.sample(i); 2]).flat_map(i16::to_le_bytes).collect();
                let (start_ns, end_ns) = (first * MILLISECOND / 48, (first + BLOCK) * MILLISECOND / 48);
                a.push_buffer(buffer(samples, start_ns, end_ns, first == start_ms * 48)).unwrap();
            }
        }
        a.end_of_stream().unwrap();
        let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &wanted);
        assert!(matches!(message.as_ref().map(|m| m.view()), Some(gst::MessageView::Eos(_))), "{message:?}");
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

fn buffer(bytes: Vec<u8>, start_ns: u64, end_ns: u64, discont: bool) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let writable = buffer.get_mut().expect("it is new");
    writable.set_pts(gst::ClockTime::from_nseconds(start_ns));
    writable.set_duration(gst::ClockTime::from_nseconds(end_ns - start_ns));
    if discont {
        writable.set_flags(gst::BufferFlags::DISCONT);
    }
    buffer
}
