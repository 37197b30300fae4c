//! Joins chosen frames, thumbnails and placed sound into clips on a grid of stream time.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::{
    frames::{Candidate, FramePicker},
    sound::SoundTrack,
};
use crate::{
    clip::{Clip, Frame, Sound, THUMBNAIL_BYTES, Thumbnails},
    time::Span,
};

/// How clips are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipPlan {
    /// Length of a clip in nanoseconds, 1 or more.
    pub duration_ns: u64,
    /// From the start of one clip to the start of the next, in nanoseconds, 1 or more; less than the length: overlap.
    pub interval_ns: u64,
    /// Most frames in a clip.
    pub frames: usize,
    /// Samples a second of the sound.
    pub rate: u32,
}

/// What was taken and what was lost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clips given out.
    pub clips: u64,
    /// Frames that came.
    pub frames_in: u64,
    /// Frames given out in clips; one in two overlapping clips counts twice.
    pub frames_used: u64,
    /// Input samples that came, at their own rate.
    pub samples_in: u64,
    /// Samples of silence given out for sound that was not there.
    pub samples_filled: u64,
    /// Frames and input samples that came after their clip was given out, or whose place was taken.
    pub late: u64,
}

/// How far one side of the stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The source has no such side.
    Absent,
    /// Everything before this time is there.
    Until(u64),
    /// The side has ended.
    Ended(u64),
}

impl Progress {
    fn covers(self, ns: u64) -> bool {
        match self {
            Self::Absent | Self::Ended(_) => true,
            Self::Until(until) => until >= ns,
        }
    }

    fn advance(&mut self, ns: u64) {
        if let Self::Until(until) = self {
            *until = (*until).max(ns);
        }
    }
}

struct Thumbnail {
    at_ns: u64,
    rgb: Bytes,
}

/// Cuts the stream; `F` is a handle to a decoded frame.
pub struct Assembler<F> {
    plan: ClipPlan,
    /// Stream time of the start of clip 0.
    origin_ns: u64,
    /// Number of the clip that is given out next.
    next: u64,
    pickers: BTreeMap<u64, FramePicker<F>>,
    thumbnails: VecDeque<Thumbnail>,
    video: Progress,
    /// End of the last frame, and the time it came after the one before.
    last_frame: Option<(u64, u64)>,
    video_end_ns: u64,
    audio: Progress,
    sound: SoundTrack,
    /// End of the clip given out last; `None` before the first.
    given_ns: Option<u64>,
    counts: Counts,
}

impl<F: Candidate> Assembler<F> {
    /// An assembler whose first clip starts at `origin_ns`.
    pub fn new(plan: ClipPlan, origin_ns: u64, has_video: bool, has_audio: bool) -> Self {
        let side = |there| if there { Progress::Until(origin_ns) } else { Progress::Absent };
        let plan = ClipPlan {
            duration_ns: plan.duration_ns.max(1),
            interval_ns: plan.interval_ns.max(1),
            frames: plan.frames.max(1),
            rate: plan.rate.max(1),
        };
        Self {
            plan,
            origin_ns,
            next: 0,
            pickers: BTreeMap::new(),
            thumbnails: VecDeque::new(),
            video: side(has_video),
            last_frame: None,
            video_end_ns: origin_ns,
            audio: side(has_audio),
            sound: SoundTrack::new(plan.rate, origin_ns),
            given_ns: None,
            counts: Counts::default(),
        }
    }

    fn span(&self, number: u64) -> Span {
        let start = self.origin_ns.saturating_add(number.saturating_mul(self.plan.interval_ns));
        Span::new(start, start.saturating_add(self.plan.duration_ns))
    }

    /// Span of the clip that is given out next.
    pub fn next_span(&self) -> Span {
        self.span(self.next)
    }

    /// Whether picture or sound is still needed before the next clip can be given out: (video, audio).
    pub fn wants(&self) -> (bool, bool) {
        let end = self.next_span().end_ns;
        (!self.video.covers(end), !(self.audio.covers(end) && self.sound_is_complete_to(end)))
    }

    fn sound_is_complete_to(&self, ns: u64) -> bool {
        matches!(self.audio, Progress::Absent | Progress::Ended(_)) || self.sound.is_complete_to(ns)
    }

    /// A frame at `at_ns` lasting `duration_ns` where known, with its thumbnail of [`THUMBNAIL_BYTES`].
    ///
    /// Frames come in order of time; one that comes too late for every open clip, or before the one before, is counted.
    pub fn push_frame(&mut self, at_ns: u64, duration_ns: Option<u64>, thumbnail: Bytes, frame: F) {
        self.counts.frames_in += 1;
        self.video.advance(at_ns);
        let out_of_order = self.last_frame.is_some_and(|(last, _)| at_ns < last);
        let first = self.first_clip_ending_after(at_ns);
        let given_out = at_ns < self.given_ns.unwrap_or(self.origin_ns) && !self.span(first).contains(at_ns);
        if out_of_order || given_out {
            self.counts.late += 1;
            return;
        }
        let gap = self.last_frame.map_or(0, |(last, _)| at_ns - last);
        self.last_frame = Some((at_ns, gap));
        let lasts = duration_ns.filter(|duration| *duration > 0).unwrap_or(gap);
        self.video_end_ns = self.video_end_ns.max(at_ns.saturating_add(lasts)).max(at_ns.saturating_add(1));
        let mut number = first;
        let mut wanted = false;
        while self.span(number).contains(at_ns) {
            let (span, frames) = (self.span(number), self.plan.frames);
            self.pickers.entry(number).or_insert_with(|| FramePicker::new(span, frames)).push(at_ns, frame.clone());
            (number, wanted) = (number + 1, true);
        }
        if wanted {
            debug_assert_eq!(thumbnail.len(), THUMBNAIL_BYTES);
            self.thumbnails.push_back(Thumbnail { at_ns, rgb: thumbnail });
        }
    }

    /// Number of the first clip, not given out yet, that ends after `ns`.
    fn first_clip_ending_after(&self, ns: u64) -> u64 {
        let since = ns.saturating_sub(self.origin_ns);
        let number = (since + 1).saturating_sub(self.plan.duration_ns).div_ceil(self.plan.interval_ns);
        number.max(self.next)
    }

    /// Mono samples of `rate` a second whose first is at `at_ns`; `discont` as in [`SoundTrack::push`].
    pub fn push_sound(&mut self, at_ns: u64, rate: u32, samples: &[f32], discont: bool) {
        self.sound.push(at_ns, rate, samples, discont);
        self.audio.advance(self.sound.end_ns());
    }

    /// Nothing comes on the picture side before `ns`.
    pub fn video_gap(&mut self, ns: u64) {
        self.video.advance(ns);
    }

    /// Nothing comes on the sound side before `ns`.
    pub fn audio_gap(&mut self, ns: u64) {
        self.sound.fill_to(ns);
        self.audio.advance(ns);
    }

    /// The picture has ended.
    pub fn end_video(&mut self) {
        if self.video != Progress::Absent {
            self.video = Progress::Ended(self.video_end_ns);
        }
    }

    /// The sound has ended.
    pub fn end_audio(&mut self) {
        if let Progress::Until(_) = self.audio {
            let end = self.sound.end_ns();
            self.sound.fill_to(end);
            self.audio = Progress::Ended(end);
        }
    }

    /// The next clip, where it is complete. A clip with neither picture nor sound is passed over.
    pub fn pop(&mut self) -> Option<Clip> {
        self.skip_empty();
        let end = self.next_span().end_ns;
        let complete = self.video.covers(end) && self.audio.covers(end) && self.sound_is_complete_to(end);
        if !complete || self.has_ended() {
            return None;
        }
        Some(self.give(self.next_span()))
    }

    /// The next clip as it is now, because it cannot wait; what comes for it later is counted as late.
    pub fn pop_now(&mut self) -> Option<Clip> {
        let span = self.next_span();
        if self.audio != Progress::Absent {
            self.sound.fill_to(span.end_ns);
            self.audio.advance(span.end_ns);
        }
        self.video.advance(span.end_ns);
        let empty = !self.pickers.contains_key(&self.next) && !self.sounds_in(span);
        if empty {
            self.next += 1;
            self.forget();
            return None;
        }
        Some(self.give(span))
    }

    /// At the end of the stream: the next clip, the last one cut at the end of what was there; `None` when all are out.
    pub fn drain(&mut self) -> Option<Clip> {
        self.end_video();
        self.end_audio();
        if let Some(clip) = self.pop() {
            return Some(clip);
        }
        let end = self.end_ns()?;
        let span = self.next_span();
        // What lies in the overlap with the clip before is out already.
        let new = Span::new(span.start_ns.max(self.given_ns.unwrap_or(0)), end.min(span.end_ns));
        (!new.is_empty()).then(|| self.give(span.intersect(Span::new(0, end))))
    }

    /// Where both sides have ended: the later end.
    fn end_ns(&self) -> Option<u64> {
        let end = |side: Progress| match side {
            Progress::Absent => Some(0),
            Progress::Ended(at) => Some(at),
            Progress::Until(_) => None,
        };
        Some(end(self.video)?.max(end(self.audio)?))
    }

    /// Whether the next clip would reach past the end of the stream.
    fn has_ended(&self) -> bool {
        self.end_ns().is_some_and(|end| self.next_span().end_ns > end)
    }

    fn sounds_in(&self, span: Span) -> bool {
        self.sound.next_sound_ns(span.start_ns).is_some_and(|at| at < span.end_ns)
    }

    /// Passes over clips with nothing in them, by arithmetic: timestamps may jump by days.
    fn skip_empty(&mut self) {
        let span = self.next_span();
        if self.pickers.contains_key(&self.next) || self.sounds_in(span) {
            return;
        }
        let frame = self.pickers.keys().next().copied();
        let sound = self.sound.next_sound_ns(span.start_ns).map(|at| self.first_clip_ending_after(at));
        let Some(number) = frame.into_iter().chain(sound).min() else { return };
        // Only over clips that can no longer get anything.
        let start = self.span(number).start_ns;
        if self.video.covers(start) && self.audio.covers(start) {
            self.next = number.max(self.next);
            self.forget();
        }
    }

    fn give(&mut self, span: Span) -> Clip {
        let frames = self.pickers.remove(&self.next).map(FramePicker::finish).unwrap_or_default();
        let sound = (self.audio != Progress::Absent).then(|| {
            let (first, samples, filled) = self.sound.copy(span);
            self.counts.samples_filled += filled;
            Sound::from_samples(self.plan.rate, first, filled, samples)
        });
        let thumbnails: Vec<&Thumbnail> = self.thumbnails.iter().filter(|t| span.contains(t.at_ns)).collect();
        let mut rgb = BytesMut::with_capacity(thumbnails.len() * THUMBNAIL_BYTES);
        thumbnails.iter().for_each(|thumbnail| rgb.extend_from_slice(&thumbnail.rgb));
        let thumbnails = Thumbnails { at_ns: thumbnails.iter().map(|t| t.at_ns).collect(), rgb: rgb.freeze() };
        let discont = self.given_ns.is_none_or(|given| span.start_ns > given);
        self.counts.clips += 1;
        self.counts.frames_used += frames.len() as u64;
        self.given_ns = Some(span.end_ns);
        self.next += 1;
        self.forget();
        let frames: Vec<Frame> = frames.into_iter().filter_map(|(at_ns, frame)| frame.frame(at_ns)).collect();
        Clip { span, discont, frames, thumbnails, sound }
    }

    /// Lets go of what lies before the next clip.
    fn forget(&mut self) {
        let start = self.next_span().start_ns;
        self.pickers = self.pickers.split_off(&self.next);
        while self.thumbnails.front().is_some_and(|thumbnail| thumbnail.at_ns < start) {
            self.thumbnails.pop_front();
        }
        self.sound.forget_before(start);
    }

    /// What was taken and lost so far.
    pub fn counts(&self) -> Counts {
        let (samples_in, trimmed) = self.sound.counts();
        Counts { samples_in, late: self.counts.late + trimmed, ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{sample_at, time_of_sample};
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[derive(Clone)]
    struct Whole;

    impl Candidate for Whole {
        fn keep(&self) {}

        fn frame(&self, at_ns: u64) -> Option<Frame> {
            Some(Frame { at_ns, width: 1, height: 1, rgb: Bytes::from_static(&[0, 0, 0]) })
        }
    }

    fn plan(duration_ms: u64, interval_ms: u64) -> ClipPlan {
        ClipPlan { duration_ns: duration_ms * MS, interval_ns: interval_ms * MS, frames: 4, rate: 1_000 }
    }

    fn thumbnail() -> Bytes {
        Bytes::from_static(&[0; THUMBNAIL_BYTES])
    }

    /// Feeds frames (times in ms) and one run of sound, always the side that is wanted, and collects all clips.
    fn cut(plan: ClipPlan, frames: &[u64], sound: Option<(u64, u64)>) -> (Vec<Clip>, Counts) {
        let mut assembler = Assembler::new(plan, 0, !frames.is_empty(), sound.is_some());
        let mut clips = Vec::new();
        let mut frames = frames.iter();
        let mut at = sound.map(|(start, _)| start);
        loop {
            clips.extend(std::iter::from_fn(|| assembler.pop()));
            let (video, audio) = assembler.wants();
            if video {
                match frames.next() {
                    Some(ms) => assembler.push_frame(ms * MS, Some(40 * MS), thumbnail(), Whole),
                    None => assembler.end_video(),
                }
            } else if audio {
                let (now, (_, end)) = (at.unwrap(), sound.unwrap());
                if now < end {
                    let next = (now + 21).min(end);
                    assembler.push_sound(now * MS, 1_000, &vec![1.0; (next - now) as usize], false);
                    at = Some(next);
                } else {
                    assembler.end_audio();
                }
            } else {
                break;
            }
        }
        clips.extend(std::iter::from_fn(|| assembler.drain()));
        (clips, assembler.counts())
    }

    fn every(step: u64, end: u64) -> Vec<u64> {
        (0..end.div_ceil(step)).map(|i| i * step).collect()
    }

    #[test]
    fn ten_seconds_make_two_clips_and_a_half() {
        let (clips, counts) = cut(plan(4_000, 4_000), &every(40, 10_000), Some((0, 10_000)));
        let spans: Vec<_> = clips.iter().map(|clip| (clip.span.start_ns / MS, clip.span.end_ns / MS)).collect();
        assert_eq!(spans, [(0, 4_000), (4_000, 8_000), (8_000, 10_000)]);
        assert_eq!(clips.iter().map(|clip| clip.thumbnails.len()).collect::<Vec<_>>(), [100, 100, 50]);
        // In the cut clip the two instants before the end have their frames, and the last frame stands for the others.
        assert_eq!(clips.iter().map(|clip| clip.frames.len()).collect::<Vec<_>>(), [4, 4, 3]);
        assert_eq!(clips.iter().map(|clip| clip.discont).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(clips[2].sound.as_ref().unwrap().samples(), [1.0; 2_000]);
        let expected =
            Counts { clips: 3, frames_in: 250, frames_used: 11, samples_in: 10_000, samples_filled: 0, late: 0 };
        assert_eq!(counts, expected);
    }

    #[test]
    fn sound_that_starts_late_and_ends_early_is_silence_there() {
        let (clips, counts) = cut(plan(4_000, 4_000), &every(40, 8_000), Some((1_500, 6_000)));
        assert_eq!(clips.len(), 2);
        let first = clips[0].sound.as_ref().unwrap();
        assert_eq!(first.filled, 1_500);
        assert!(
            first.samples()[..1_500].iter().all(|x| *x == 0.0) && first.samples()[1_500..].iter().all(|x| *x == 1.0)
        );
        assert_eq!((clips[1].sound.as_ref().unwrap().filled, counts.samples_filled), (2_000, 3_500));
    }

    #[test]
    fn overlapping_clips_see_the_same_frames() {
        let (clips, _) = cut(plan(4_000, 2_000), &every(40, 8_000), Some((0, 8_000)));
        let starts: Vec<_> = clips.iter().map(|clip| clip.span.start_ns / MS).collect();
        assert_eq!(starts, [0, 2_000, 4_000]);
        assert!(clips.iter().all(|clip| clip.thumbnails.len() == 100));
        assert!(clips.iter().all(|clip| clip.sound.as_ref().unwrap().samples().len() == 4_000));
    }

    #[test]
    fn a_hole_of_days_is_passed_over_at_once() {
        let mut frames = every(40, 4_000);
        frames.push(3 * 86_400_000);
        let (clips, _) = cut(plan(4_000, 4_000), &frames, None);
        assert_eq!(clips.len(), 2);
        assert_eq!(clips[1].span.start_ns, 3 * 86_400_000 * MS);
        assert!(clips[1].discont && clips[1].frames.len() == 1);
    }

    #[test]
    fn what_cannot_wait_is_given_as_it_is_and_the_rest_is_late() {
        let mut assembler = Assembler::new(plan(4_000, 4_000), 0, true, true);
        assembler.push_frame(0, None, thumbnail(), Whole);
        let clip = assembler.pop_now().unwrap();
        assert_eq!((clip.span.end_ns, clip.frames.len()), (4_000 * MS, 1));
        assert_eq!(clip.sound.unwrap().filled, 4_000);
        assembler.push_frame(3_000 * MS, None, thumbnail(), Whole);
        assembler.push_sound(3_990 * MS, 1_000, &[1.0; 20], false);
        assert_eq!(assembler.counts().late, 1 + 10);
        assert!(assembler.pop_now().is_some_and(|clip| clip.sound.unwrap().samples()[..10] == [1.0; 10]));
    }

    #[test]
    fn one_frame_is_a_clip() {
        let (clips, _) = cut(plan(4_000, 4_000), &[0], None);
        assert_eq!(clips.len(), 1);
        assert_eq!((clips[0].span, clips[0].frames.len()), (Span::new(0, 40 * MS), 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Without overlap, clips tile the stream: every thumbnail once, every sample once, in order.
        #[test]
        fn clips_tile_the_stream(gaps in proptest::collection::vec(1u64..900, 1..60), duration in 500u64..5_000,
                                 sound in proptest::option::of((0u64..3_000, 1u64..9_000))) {
            let frames: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let sound = sound.map(|(start, length)| (start, start + length));
            let (clips, counts) = cut(plan(duration, duration), &frames, sound);
            let seen: Vec<u64> = clips.iter().flat_map(|clip| clip.thumbnails.at_ns.clone()).map(|at| at / MS).collect();
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(counts.late, 0);
            for pair in clips.windows(2) {
                prop_assert!(pair[0].span.end_ns <= pair[1].span.start_ns);
                prop_assert_eq!(pair[1].discont, pair[0].span.end_ns < pair[1].span.start_ns);
            }
            for clip in &clips {
                prop_assert!(clip.frames.iter().all(|frame| clip.span.contains(frame.at_ns)));
                if let Some(sound) = &clip.sound {
                    prop_assert_eq!(sound.first, sample_at(clip.span.start_ns, 1_000));
                    prop_assert_eq!(sound.first + sound.samples().len() as u64, sample_at(clip.span.end_ns, 1_000));
                }
            }
            if let Some((start, end)) = sound {
                let heard: u64 = clips.iter().flat_map(|clip| clip.sound.as_ref()).map(|s| s.samples().len() as u64 - s.filled).sum();
                prop_assert_eq!(heard, end - start);
                let last = clips.last().unwrap().span.end_ns;
                prop_assert!(last >= time_of_sample(end, 1_000));
            }
        }
    }
}
