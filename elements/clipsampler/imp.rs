//! The element: translates pads, events and deadlines; cutting is in `describe_models::sampling`.
//!
//! Three mutexes, taken one at a time and never held across a call into GStreamer: `settings`, `pads`, `stream`.

use std::sync::{LazyLock, Mutex};

use describe_models::{Clip, ClipShape, sampling::ClipPlan};
use gst::{glib, prelude::*, subclass::prelude::*};
use gst_base::{prelude::*, subclass::prelude::*};

use super::{
    pads::Pads,
    stream::{BufferError, Media, Placed, Stream, place},
    video,
};
use crate::{
    clip::{CLIP_CAPS, to_buffer},
    lock,
};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("clipsampler", gst::DebugColorFlags::empty(), Some("cuts picture and sound into clips"))
});

const DEFAULT_DURATION_NS: u64 = 4_000_000_000;
const DEFAULT_FRAMES: u32 = 8;
/// Where nothing downstream says what it wants: enough for a classifier, little enough to move.
const DEFAULT_SHAPE: ClipShape = ClipShape { max_size: 448, rate: 16_000, frames: None };
/// Longer clips would hold minutes of thumbnails and sound; shorter ones than a millisecond hold nothing.
const DURATION_RANGE: (u64, u64) = (1_000_000, 600_000_000_000);

#[derive(Debug, Clone, Copy)]
struct Settings {
    duration: u64,
    interval: u64,
    frames: u32,
}

impl Settings {
    fn plan(self, shape: ClipShape) -> ClipPlan {
        ClipPlan {
            duration_ns: self.duration,
            interval_ns: if self.interval == 0 { self.duration } else { self.interval },
            frames: shape.frames.unwrap_or(self.frames).min(self.frames) as usize,
            rate: shape.rate,
        }
    }
}

/// What came of asking the pads for the buffers that are needed.
enum Fed {
    /// Something came in.
    Some,
    /// A needed buffer is not there yet.
    Nothing,
    /// Nothing more can come in this stretch; `true` where the stream goes on with the next one.
    Over(bool),
}

#[derive(glib::Properties)]
#[properties(wrapper_type = super::ClipSampler)]
pub struct ClipSampler {
    #[property(name = "clip-duration", nick = "Clip duration", get, set = Self::set_duration, type = u64, member = duration,
        blurb = "Length of a clip in nanoseconds; the latency is set to the same",
        builder().minimum(DURATION_RANGE.0).maximum(DURATION_RANGE.1).default_value(DEFAULT_DURATION_NS).mutable_ready())]
    #[property(name = "clip-interval", nick = "Clip interval", get, set, type = u64, member = interval,
        blurb = "From the start of a clip to the start of the next, in nanoseconds; 0: the clip duration, less: overlap",
        builder().maximum(DURATION_RANGE.1).mutable_ready())]
    #[property(name = "frames", nick = "Frames", get, set, type = u32, member = frames,
        blurb = "Most frames in a clip, chosen nearest to as many even instants",
        builder().minimum(1).maximum(256).default_value(DEFAULT_FRAMES).mutable_ready())]
    settings: Mutex<Settings>,
    pads: Mutex<Pads>,
    stream: Mutex<Stream>,
}

#[glib::object_subclass]
impl ObjectSubclass for ClipSampler {
    const NAME: &'static str = "GstClipSampler";
    type Type = super::ClipSampler;
    type ParentType = gst_base::Aggregator;

    fn new() -> Self {
        Self {
            settings: Mutex::new(Settings { duration: DEFAULT_DURATION_NS, interval: 0, frames: DEFAULT_FRAMES }),
            pads: Mutex::default(),
            stream: Mutex::new(Stream::new()),
        }
    }
}

impl ObjectImpl for ClipSampler {
    /// The derive macro knows no boxed structures, so `stats` is by hand.
    fn properties() -> &'static [glib::ParamSpec] {
        static ALL: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let stats = glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb(
                    "clips, frames-in, frames-used, samples-in, samples-filled, late: counted since READY (all uint64)",
                )
                .read_only()
                .build();
            [ClipSampler::derived_properties(), &[stats]].concat()
        });
        &ALL
    }

    fn property(&self, id: usize, spec: &glib::ParamSpec) -> glib::Value {
        if spec.name() == "stats" { self.stats().to_value() } else { self.derived_property(id, spec) }
    }

    fn set_property(&self, id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
        self.derived_set_property(id, value, spec);
    }

    fn constructed(&self) {
        self.parent_constructed();
        // Up to GStreamer 1.24 a pad's queue has room for this property's time only, not for the latency a subclass
        // sets: with less, a live clip gets no more than the frames that came last.
        self.obj().set_property("latency", DEFAULT_DURATION_NS);
    }
}

impl GstObjectImpl for ClipSampler {}

impl ElementImpl for ClipSampler {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Clip sampler",
                "Filter/Analyzer/Video/Audio",
                "Cuts synchronized picture and sound into clips for a describer",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let video = gst_video::VideoCapsBuilder::new().format_list(video::formats()).build();
            let audio = gst_audio::AudioCapsBuilder::new().rate_range(1_000..=768_000).build();
            let clip = gst::Caps::builder(CLIP_CAPS).build();
            let template = |name, direction, presence, caps| {
                gst::PadTemplate::with_gtype(name, direction, presence, caps, gst_base::AggregatorPad::static_type())
                    .expect("name and caps are constant")
            };
            vec![
                template("video", gst::PadDirection::Sink, gst::PadPresence::Request, &video),
                template("audio", gst::PadDirection::Sink, gst::PadPresence::Request, &audio),
                template("src", gst::PadDirection::Src, gst::PadPresence::Always, &clip),
            ]
        });
        &TEMPLATES
    }

    fn release_pad(&self, pad: &gst::Pad) {
        let mut pads = lock(&self.pads);
        for media in [Media::Video, Media::Audio] {
            let slot = pads.slot(media);
            if slot.as_ref().is_some_and(|own| own.upcast_ref::<gst::Pad>() == pad) {
                *slot = None;
            }
        }
        drop(pads);
        self.parent_release_pad(pad);
    }
}

impl AggregatorImpl for ClipSampler {
    /// The base class would call the pads `sink_0` and `sink_1`.
    fn create_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst_base::AggregatorPad> {
        let media = match template.name_template() {
            "video" => Media::Video,
            "audio" => Media::Audio,
            _ => return None,
        };
        let mut pads = lock(&self.pads);
        if pads.get(media).is_some() {
            gst::error!(CAT, imp = self, "there is a {} pad already", template.name_template());
            return None;
        }
        let pad =
            gst::PadBuilder::<gst_base::AggregatorPad>::from_template(template).name(template.name_template()).build();
        *pads.slot(media) = Some(pad.clone());
        Some(pad)
    }

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.stream) = Stream::new();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        lock(&self.stream).end_stretch();
        let duration = lock(&self.settings).duration;
        self.obj().set_property("latency", duration);
        Ok(())
    }

    fn flush(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        lock(&self.stream).end_stretch();
        self.parent_flush()
    }

    fn negotiate(&self) -> bool {
        // The caps depend on what downstream asks for and are set before the first clip of a stretch.
        true
    }

    fn sink_event(&self, pad: &gst_base::AggregatorPad, event: gst::Event) -> bool {
        let media = lock(&self.pads).media_of(pad);
        if let Some(media) = media {
            match event.view() {
                gst::EventView::Caps(caps) if !lock(&self.stream).set_caps(media, caps.caps()) => {
                    gst::error!(CAT, obj = pad, "cannot read {}", caps.caps());
                    return false;
                }
                gst::EventView::Segment(_) => lock(&self.stream).set_segment(media),
                gst::EventView::Tag(tag) if media == Media::Video => {
                    if let Some(orientation) = video::orientation(tag.tag()) {
                        lock(&self.stream).set_orientation(orientation);
                    }
                }
                _ => (),
            }
        }
        self.parent_sink_event(pad, event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match event.view() {
            // A late caption must not make decoders drop frames.
            gst::EventView::Qos(_) => true,
            _ => self.parent_src_event(event),
        }
    }

    fn propose_allocation(
        &self,
        pad: &gst_base::AggregatorPad,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        if lock(&self.pads).media_of(pad) == Some(Media::Video) {
            query.add_allocation_meta::<gst_video::VideoMeta>(None);
            // Hardware decoders have few buffers; the frames held here must not starve them.
            if let Some((size, held)) = lock(&self.stream).frames_held() {
                query.add_allocation_pool(None::<&gst::BufferPool>, size, held, 0);
            }
        }
        self.parent_propose_allocation(pad, decide_query, query)
    }

    /// The deadline of the clip in progress is its start plus the latency, which is its duration plus that of upstream.
    fn next_time(&self) -> Option<gst::ClockTime> {
        let span = lock(&self.stream).next_span();
        let Some(span) = span else { return self.obj().simple_get_next_time() };
        let segment = self.obj().src_pad().segment();
        let segment = segment.downcast_ref::<gst::ClockTime>()?;
        let position = segment.position_from_stream_time(gst::ClockTime::from_nseconds(span.start_ns))?;
        segment.to_running_time(position)
    }

    fn aggregate(&self, timeout: bool) -> Result<gst::FlowSuccess, gst::FlowError> {
        let pads = lock(&self.pads).clone();
        loop {
            if !lock(&self.stream).has_begun() && !self.begin(&pads, timeout)? {
                return Err(gst_base::AGGREGATOR_FLOW_NEED_DATA);
            }
            let clip = lock(&self.stream).pop();
            if let Some(clip) = clip {
                return self.push(&clip);
            }
            match self.feed(&pads)? {
                Fed::Some => (),
                Fed::Nothing if timeout => return self.push_now(),
                Fed::Nothing => return Err(gst_base::AGGREGATOR_FLOW_NEED_DATA),
                Fed::Over(goes_on) => {
                    let clip = lock(&self.stream).drain();
                    match clip {
                        Some(clip) => return self.push(&clip),
                        None if goes_on => lock(&self.stream).end_stretch(),
                        None => return Err(gst::FlowError::Eos),
                    }
                }
            }
        }
    }
}

impl ClipSampler {
    fn set_duration(&self, duration: u64) {
        lock(&self.settings).duration = duration;
        self.obj().set_property("latency", duration);
    }

    fn stats(&self) -> gst::Structure {
        let counts = lock(&self.stream).counts();
        gst::Structure::builder("stats")
            .field("clips", counts.clips)
            .field("frames-in", counts.frames_in)
            .field("frames-used", counts.frames_used)
            .field("samples-in", counts.samples_in)
            .field("samples-filled", counts.samples_filled)
            .field("late", counts.late)
            .build()
    }

    /// Starts a stretch where there is data, or the end, on every pad; `false` where that is still to come.
    fn begin(&self, pads: &Pads, timeout: bool) -> Result<bool, gst::FlowError> {
        let mut first: Option<u64> = None;
        for (media, pad) in pads.all() {
            match pad.peek_buffer() {
                Some(buffer) => {
                    let placed = self.place(media, pad, &buffer)?;
                    first = first.into_iter().chain(placed.map(|placed| placed.at_ns)).min();
                }
                None if pad.is_eos() || timeout => (),
                None => return Ok(false),
            }
        }
        // The clips' grid starts where the segment does, unless the data starts far behind (a live clock since boot).
        let Some(segment) = pads.all().map(|(_, pad)| pad.segment()).find(|s| s.format() == gst::Format::Time) else {
            return if pads.all().all(|(_, pad)| pad.is_eos()) { Err(gst::FlowError::Eos) } else { Ok(false) };
        };
        let start = segment
            .downcast_ref::<gst::ClockTime>()
            .and_then(|segment| segment.to_stream_time(segment.start()))
            .map_or(0, gst::ClockTime::nseconds);
        let settings = *lock(&self.settings);
        let origin = first.filter(|first| *first >= start + settings.duration).unwrap_or(start);
        if first.is_none() && timeout && !pads.all().all(|(_, pad)| pad.is_eos()) {
            return Ok(false);
        }

        let shape = self.negotiate_shape()?;
        self.bound_queues(settings.duration);
        self.obj().update_segment(&segment);
        let (has_video, has_audio) = (pads.video.is_some(), pads.audio.is_some());
        lock(&self.stream).begin(shape, settings.plan(shape), origin, has_video, has_audio);
        gst::debug!(CAT, imp = self, "clips start at {}", gst::ClockTime::from_nseconds(origin));
        Ok(true)
    }

    /// A pad's queue holds as much time as the latency says. A file needs no latency, and four seconds of decoded film
    /// are 300 MB in full HD: what is not live waits at the decoder instead.
    fn bound_queues(&self, duration: u64) {
        let mut query = gst::query::Latency::new();
        let live = self.obj().src_pad().query(&mut query) && query.result().0;
        self.obj().set_property("latency", if live { duration } else { 0 });
    }

    /// Asks downstream for the size of frames and the rate of sound, and sets the caps.
    fn negotiate_shape(&self) -> Result<ClipShape, gst::FlowError> {
        let source = self.obj().src_pad().clone();
        let asked = source.peer_query_caps(Some(&source.pad_template_caps()));
        let Some(structure) = asked.structure(0) else {
            gst::element_imp_error!(
                self,
                gst::StreamError::Format,
                ("the element after clipsampler takes no {CLIP_CAPS}; put clipdescriber or a filesink there")
            );
            return Err(gst::FlowError::NotNegotiated);
        };
        let largest = |name: &str| match structure.value(name) {
            Ok(value) => value.get::<i32>().ok().or_else(|| Some(value.get::<gst::IntRange<i32>>().ok()?.max())),
            Err(_) => None,
        };
        let side = |name| largest(name).and_then(|side| u32::try_from(side).ok()).filter(|side| *side > 0);
        let max_size = match (side("width"), side("height")) {
            (None, None) => DEFAULT_SHAPE.max_size,
            (width, height) => width.unwrap_or(u32::MAX).min(height.unwrap_or(u32::MAX)).min(8_192),
        };
        let mut wish = structure.to_owned();
        if wish.has_field("rate") {
            wish.fixate_field_nearest_int("rate", DEFAULT_SHAPE.rate as i32);
        }
        let rate = wish.get::<i32>("rate").ok().and_then(|rate| u32::try_from(rate).ok());
        let rate = rate.filter(|rate| (1_000..=768_000).contains(rate)).unwrap_or(DEFAULT_SHAPE.rate);
        let frames = largest("frames").and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
        let caps = gst::Caps::builder(CLIP_CAPS)
            .field("width", max_size as i32)
            .field("height", max_size as i32)
            .field("rate", rate as i32);
        let caps = match frames {
            Some(count) => caps.field("frames", count.min(i32::MAX as u32) as i32),
            None => caps,
        };
        self.obj().set_src_caps(&caps.build());
        Ok(ClipShape { max_size, rate, frames })
    }

    /// Takes the buffers that the clip in progress needs, one of each side at most.
    fn feed(&self, pads: &Pads) -> Result<Fed, gst::FlowError> {
        let wanted: Vec<Media> = lock(&self.stream).wanted().collect();
        let mut fed = false;
        for media in wanted {
            let Some(pad) = pads.get(media) else {
                // The pad was released while the stream runs.
                lock(&self.stream).end(media);
                fed = true;
                continue;
            };
            if let Some(buffer) = pad.peek_buffer() {
                fed = true;
                let Some(placed) = self.place(media, pad, &buffer)? else {
                    pad.drop_buffer();
                    continue;
                };
                if !lock(&self.stream).breaks(media, placed.at_ns) {
                    pad.drop_buffer();
                    let pushed = lock(&self.stream).push(media, buffer, &placed);
                    pushed.or_else(|error| self.refuse(&error))?;
                }
            } else if pad.is_eos() {
                lock(&self.stream).end(media);
                fed = true;
            }
        }
        let (over, goes_on) = lock(&self.stream).is_over(pads.video.is_some(), pads.audio.is_some());
        Ok(match (over, fed) {
            (true, _) => Fed::Over(goes_on),
            (false, true) => Fed::Some,
            (false, false) => Fed::Nothing,
        })
    }

    fn place(
        &self,
        media: Media,
        pad: &gst_base::AggregatorPad,
        buffer: &gst::BufferRef,
    ) -> Result<Option<Placed>, gst::FlowError> {
        let duration = lock(&self.stream).duration_ns(media, buffer);
        place(media, buffer, duration, &pad.segment()).or_else(|error| self.refuse(&error).map(|()| None))
    }

    /// A frame whose bytes are too few is lost alone; what cannot be placed in time ends the stream.
    fn refuse(&self, error: &BufferError) -> Result<(), gst::FlowError> {
        match error {
            BufferError::Picture(_) => {
                gst::element_imp_warning!(self, gst::StreamError::Decode, ("{error}"));
                Ok(())
            }
            _ => {
                gst::element_imp_error!(self, gst::StreamError::Format, ("{error}"));
                Err(gst::FlowError::Error)
            }
        }
    }

    /// The deadline has passed: the clip goes as it is, or its time passes without one.
    fn push_now(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut stream = lock(&self.stream);
        let (span, clip) = (stream.next_span(), stream.pop_now());
        drop(stream);
        if let Some(clip) = clip {
            return self.push(&clip);
        }
        if let Some((span, position)) = span.and_then(|span| Some((span, self.position(span.start_ns)?))) {
            let duration = gst::ClockTime::from_nseconds(span.duration_ns());
            self.obj().set_position(position + duration);
            self.obj().src_pad().push_event(gst::event::Gap::builder(position).duration(duration).build());
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn position(&self, stream_ns: u64) -> Option<gst::ClockTime> {
        let segment = self.obj().src_pad().segment();
        let segment = segment.downcast_ref::<gst::ClockTime>()?;
        segment.position_from_stream_time(gst::ClockTime::from_nseconds(stream_ns)).or(segment.start())
    }

    fn push(&self, clip: &Clip) -> Result<gst::FlowSuccess, gst::FlowError> {
        let duration = gst::ClockTime::from_nseconds(clip.span.duration_ns());
        let position = self.position(clip.span.start_ns);
        let mut buffer = to_buffer(clip);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(position);
            buffer.set_duration(duration);
            if clip.discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        gst::log!(CAT, imp = self, "{} frames, {:?}", clip.frames.len(), clip.span);
        // Without this the base class waits for the wrong deadline.
        self.obj().set_position(position.map(|position| position + duration));
        self.finish_buffer(buffer)
    }
}
