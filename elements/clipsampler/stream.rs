//! The stream between a start and an end, a flush or a jump back: buffers in, clips out. No calls into pads.

use std::sync::Arc;

use describe_models::{
    Clip, ClipShape, Span,
    picture::Orientation,
    sampling::{Assembler, ClipPlan, Counts},
};

use super::{
    audio::AudioReader,
    video::{Handle, VideoReader},
};

/// The two sides of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// The pad `video`.
    Video,
    /// The pad `audio`.
    Audio,
}

/// Why a buffer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// Nothing says when it is.
    #[error(
        "a {0:?} buffer has no timestamp, so its place in time is unknown; put a parser or a decoder that sets timestamps \
         in front of clipsampler"
    )]
    NoTimestamp(Media),
    /// No caps came before it, or none that can be read.
    #[error("a {0:?} buffer came before its format; the element in front of clipsampler must send caps first")]
    NoFormat(Media),
    /// Its segment is not in time.
    #[error("the {0:?} segment is not in time format; put a demuxer or parser in front of clipsampler")]
    NotTime(Media),
    /// Played backwards.
    #[error("the {0:?} stream plays backwards; clips can only be cut forwards: seek with a positive rate")]
    Backwards(Media),
    /// Its samples do not fit its caps.
    #[error(transparent)]
    Picture(#[from] describe_models::picture::PictureError),
}

/// What a pad said of its buffers.
struct Side<R> {
    reader: Option<R>,
    /// Stream time of the last buffer, and whether a new segment came since.
    last_ns: Option<u64>,
    new_segment: bool,
    /// Time jumped back: what follows belongs to the next stretch of the stream.
    broken: bool,
    ended: bool,
}

impl<R> Default for Side<R> {
    fn default() -> Self {
        Self { reader: None, last_ns: None, new_segment: false, broken: false, ended: false }
    }
}

impl<R> Side<R> {
    fn restart(&mut self) {
        (self.last_ns, self.new_segment, self.broken, self.ended) = (None, false, false, false);
    }

    /// Whether a buffer at `at_ns` starts a new stretch: time went back in a new segment, or by more than `far_ns`.
    fn breaks(&mut self, at_ns: u64, far_ns: u64) -> bool {
        let back = self.last_ns.map_or(0, |last| last.saturating_sub(at_ns));
        self.broken |= back > 0 && (self.new_segment || back > far_ns);
        self.broken
    }
}

/// A buffer's part inside its segment.
pub struct Placed {
    /// Stream time of the part's start.
    pub at_ns: u64,
    /// How much of the buffer lies before the segment, in nanoseconds.
    pub skip_ns: u64,
    /// Length of the part in nanoseconds; `None` where it is not known.
    pub duration_ns: Option<u64>,
}

/// Where `buffer` lies in stream time; `None` where all of it is outside its segment.
pub fn place(
    media: Media,
    buffer: &gst::BufferRef,
    duration_ns: Option<u64>,
    segment: &gst::Segment,
) -> Result<Option<Placed>, BufferError> {
    let segment = segment.downcast_ref::<gst::ClockTime>().ok_or(BufferError::NotTime(media))?;
    if segment.rate() < 0.0 {
        return Err(BufferError::Backwards(media));
    }
    let pts = buffer.pts().ok_or(BufferError::NoTimestamp(media))?;
    let own = buffer.duration().map(gst::ClockTime::nseconds).filter(|ns| *ns > 0);
    let by_format = duration_ns.filter(|ns| *ns > 0);
    // Sound is as long as its samples; a frame lasts as long as it says, and only else as long as its rate says.
    let duration = if media == Media::Audio { by_format.or(own) } else { own.or(by_format) };
    let stop = duration.map(|ns| pts + gst::ClockTime::from_nseconds(ns));
    let Some((Some(start), stop)) = segment.clip(pts, stop) else { return Ok(None) };
    let Some(at) = segment.to_stream_time(start) else { return Ok(None) };
    Ok(Some(Placed {
        at_ns: at.nseconds(),
        skip_ns: start.saturating_sub(pts).nseconds(),
        duration_ns: duration.and(stop).map(|stop| stop.saturating_sub(start).nseconds()),
    }))
}

/// The state of the stream.
pub struct Stream {
    shape: ClipShape,
    plan: ClipPlan,
    assembler: Option<Assembler<Handle>>,
    /// Counted before the stretch in progress.
    earlier: Counts,
    video: Side<Arc<VideoReader>>,
    audio: Side<AudioReader>,
    /// Upright by the tags of the stream; the caps may come before or after them.
    orientation: Orientation,
}

impl Stream {
    /// A stream that has not begun.
    pub fn new() -> Self {
        Self {
            shape: ClipShape { max_size: 0, rate: 0, frames: None },
            plan: ClipPlan { duration_ns: 1, interval_ns: 1, frames: 1, rate: 1 },
            assembler: None,
            earlier: Counts::default(),
            video: Side::default(),
            audio: Side::default(),
            orientation: Orientation::default(),
        }
    }

    /// Starts a stretch whose first clip starts at `origin_ns`.
    pub fn begin(&mut self, shape: ClipShape, plan: ClipPlan, origin_ns: u64, has_video: bool, has_audio: bool) {
        (self.shape, self.plan) = (shape, plan);
        self.assembler = Some(Assembler::new(plan, origin_ns, has_video, has_audio));
    }

    /// Whether a stretch is in progress.
    pub fn has_begun(&self) -> bool {
        self.assembler.is_some()
    }

    /// Forgets the stretch; counts and formats stay.
    pub fn end_stretch(&mut self) {
        self.earlier = self.counts();
        self.assembler = None;
        self.video.restart();
        self.audio.restart();
    }

    /// Everything counted since the start.
    pub fn counts(&self) -> Counts {
        let now = self.assembler.as_ref().map(Assembler::counts).unwrap_or_default();
        let then = self.earlier;
        Counts {
            clips: then.clips + now.clips,
            frames_in: then.frames_in + now.frames_in,
            frames_used: then.frames_used + now.frames_used,
            samples_in: then.samples_in + now.samples_in,
            samples_filled: then.samples_filled + now.samples_filled,
            late: then.late + now.late,
        }
    }

    /// New caps on a pad; `false` where they cannot be read.
    pub fn set_caps(&mut self, media: Media, caps: &gst::CapsRef) -> bool {
        match media {
            Media::Video => {
                self.video.reader = VideoReader::new(caps, self.orientation).map(Arc::new);
                self.video.reader.is_some()
            }
            Media::Audio => {
                self.audio.reader = AudioReader::new(caps).ok();
                self.audio.reader.is_some()
            }
        }
    }

    /// Tags on the pad `video`.
    pub fn set_orientation(&mut self, orientation: Orientation) {
        self.orientation = orientation;
        if let Some(reader) = self.video.reader.as_mut().map(Arc::make_mut) {
            reader.orientation = orientation;
        }
    }

    /// A new segment on a pad.
    pub fn set_segment(&mut self, media: Media) {
        match media {
            Media::Video => self.video.new_segment = true,
            Media::Audio => self.audio.new_segment = true,
        }
    }

    /// Length of a buffer by its format.
    pub fn duration_ns(&self, media: Media, buffer: &gst::BufferRef) -> Option<u64> {
        match media {
            Media::Video => self.video.reader.as_ref()?.duration_ns(),
            Media::Audio => Some(self.audio.reader.as_ref()?.duration_ns(buffer)),
        }
    }

    /// Bytes of a frame, where that is known, and how many frames are held at most.
    pub fn frames_held(&self) -> Option<(u32, u32)> {
        // The spare frames of a clip's start, one undecided, one being handed over.
        Some((self.video.reader.as_ref()?.size(), self.plan.frames as u32 + 2))
    }

    /// Sides whose next buffer is needed now.
    pub fn wanted(&self) -> impl Iterator<Item = Media> {
        let (video, audio) = self.assembler.as_ref().map_or((false, false), Assembler::wants);
        let video = video && !self.video.broken && !self.video.ended;
        let audio = audio && !self.audio.broken && !self.audio.ended;
        video.then_some(Media::Video).into_iter().chain(audio.then_some(Media::Audio))
    }

    /// Whether a buffer of `media` at `at_ns` belongs to the next stretch; the side then waits for the other one.
    pub fn breaks(&mut self, media: Media, at_ns: u64) -> bool {
        let far = self.plan.duration_ns;
        match media {
            Media::Video => self.video.breaks(at_ns, far),
            Media::Audio => self.audio.breaks(at_ns, far),
        }
    }

    /// Nothing more comes on a side in this stretch.
    pub fn end(&mut self, media: Media) {
        let Some(assembler) = &mut self.assembler else { return };
        match media {
            Media::Video => {
                self.video.ended = true;
                assembler.end_video();
            }
            Media::Audio => {
                self.audio.ended = true;
                assembler.end_audio();
            }
        }
    }

    /// A buffer inside its segment.
    pub fn push(&mut self, media: Media, buffer: gst::Buffer, placed: &Placed) -> Result<(), BufferError> {
        let Some(assembler) = &mut self.assembler else { return Ok(()) };
        let is_gap = buffer.size() == 0 && buffer.flags().contains(gst::BufferFlags::GAP);
        let end_ns = placed.at_ns.saturating_add(placed.duration_ns.unwrap_or(0));
        match media {
            Media::Video if is_gap => assembler.video_gap(end_ns),
            Media::Audio if is_gap => assembler.audio_gap(end_ns),
            Media::Video => {
                let reader = self.video.reader.clone().ok_or(BufferError::NoFormat(media))?;
                let thumbnail = reader.picture(&buffer, |picture| picture.thumbnail())?;
                let handle = Handle::new(buffer, reader, self.shape.max_size);
                assembler.push_frame(placed.at_ns, placed.duration_ns, thumbnail, handle);
                (self.video.last_ns, self.video.new_segment) = (Some(placed.at_ns), false);
            }
            Media::Audio => {
                let reader = self.audio.reader.as_mut().ok_or(BufferError::NoFormat(media))?;
                let discont = buffer.flags().contains(gst::BufferFlags::DISCONT);
                let samples = reader.read(&buffer);
                let inside = inside(&samples, placed, reader.rate());
                assembler.push_sound(placed.at_ns, reader.rate(), inside, discont);
                (self.audio.last_ns, self.audio.new_segment) = (Some(placed.at_ns), false);
            }
        }
        Ok(())
    }

    /// The next complete clip.
    pub fn pop(&mut self) -> Option<Clip> {
        self.assembler.as_mut()?.pop()
    }

    /// The next clip as it is.
    pub fn pop_now(&mut self) -> Option<Clip> {
        self.assembler.as_mut()?.pop_now()
    }

    /// What is left at the end of the stretch, clip by clip.
    pub fn drain(&mut self) -> Option<Clip> {
        self.assembler.as_mut()?.drain()
    }

    /// Span of the clip in progress.
    pub fn next_span(&self) -> Option<Span> {
        self.assembler.as_ref().map(Assembler::next_span)
    }

    /// Whether no side can give more in this stretch, and whether time jumped back on one of them.
    pub fn is_over(&self, has_video: bool, has_audio: bool) -> (bool, bool) {
        let over = (!has_video || self.video.ended || self.video.broken)
            && (!has_audio || self.audio.ended || self.audio.broken);
        (over, self.video.broken || self.audio.broken)
    }
}

/// The samples of a buffer that lie inside its segment.
fn inside<'a>(samples: &'a [f32], placed: &Placed, rate: u32) -> &'a [f32] {
    let index = |ns| usize::try_from(describe_models::time::sample_at(ns, rate)).unwrap_or(usize::MAX);
    let start = index(placed.skip_ns).min(samples.len());
    let length = placed.duration_ns.map_or(usize::MAX, index);
    &samples[start..start.saturating_add(length).min(samples.len())]
}
