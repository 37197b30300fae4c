//! The element: pads, events, queries, states. What it does with a clip is in `work.rs`.
//!
//! Lock order: settings, then model, then stream; each is let go before GStreamer or the describer is called.
#![allow(missing_docs, reason = "the properties derive makes public methods; their blurbs are the documentation")]

use std::sync::{LazyLock, Mutex, MutexGuard};

use describe_models::Describer;
use gst::{glib, prelude::*, subclass::prelude::*};

use super::{
    model::Model,
    output::{Progress, Segment, continues},
    settings::{DEFAULT_KINDS, DEFAULT_LATENCY, DEFAULT_THREADS, Evidence, ExecutionProvider, Settings},
    stream::{Stats, Stream},
};
use crate::{
    clip::CLIP_CAPS,
    observation::{OBSERVATION_CAPS, TextFormat},
};

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("clipdescriber", gst::DebugColorFlags::empty(), Some("Describes clips with models"))
});

static SINK: LazyLock<gst::PadTemplate> =
    LazyLock::new(|| template("sink", gst::PadDirection::Sink, gst::Caps::new_empty_simple(CLIP_CAPS)));
static SRC: LazyLock<gst::PadTemplate> = LazyLock::new(|| {
    template("src", gst::PadDirection::Src, OBSERVATION_CAPS.parse().expect("the constant is valid caps"))
});
static TEXT: LazyLock<gst::PadTemplate> = LazyLock::new(|| {
    let caps = gst::Caps::builder("text/x-raw").field("format", gst::List::new(["pango-markup", "utf8"])).build();
    template("text", gst::PadDirection::Src, caps)
});

fn template(name: &str, direction: gst::PadDirection, caps: gst::Caps) -> gst::PadTemplate {
    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).expect("name and caps are valid")
}

/// Data of the element.
#[derive(glib::Properties)]
#[properties(wrapper_type = super::ClipDescriber)]
pub struct ClipDescriber {
    sink: gst::Pad,
    pub(super) src: gst::Pad,
    pub(super) text: gst::Pad,

    #[property(name = "model-path", nick = "Model path", get, set, type = Option<String>, member = model_path,
        blurb = "Folder of the pack; unset: DESCRIBE_PACK, else the default pack. Takes effect from NULL to READY",
        builder().mutable_ready())]
    #[property(name = "runtime-path", nick = "Runtime path", get, set, type = Option<String>, member = runtime_path,
        blurb = "ONNX Runtime library, 1.17 or newer; unset: ORT_DYLIB_PATH, else where 'describe models fetch' put it. \
                 The first one loaded stays for the whole process",
        builder().mutable_ready())]
    #[property(name = "kinds", nick = "Kinds", get, set, type = String, member = kinds,
        blurb = "Observations to make, with commas: caption, scene, sound, speech, text, object",
        builder().default_value(Some(DEFAULT_KINDS)).mutable_ready())]
    #[property(name = "min-confidence", nick = "Minimum confidence", get, set, type = f64, member = min_confidence,
        blurb = "Observations less sure than this are left out, 0 to 1",
        builder().minimum(0.0).maximum(1.0).default_value(0.0).mutable_playing())]
    #[property(name = "threads", nick = "Threads", get, set, type = u32, member = threads,
        blurb = "Threads of all models of the process together; the first describer decides",
        builder().minimum(1).maximum(256).default_value(DEFAULT_THREADS).mutable_ready())]
    #[property(name = "execution-provider", nick = "Execution provider", get, set, type = ExecutionProvider,
        member = execution_provider, blurb = "Hardware that runs the models; what does not work is warned of and the next best taken",
        builder(ExecutionProvider::Auto).mutable_ready())]
    #[property(name = "language", nick = "Language", get, set, type = Option<String>, member = language,
        blurb = "ISO 639-1 code of the speech; unset: found out from the sound",
        builder().mutable_ready())]
    #[property(name = "post-messages", nick = "Post messages", get, set, type = bool, member = post_messages,
        blurb = "Post each observation as an element message, too",
        builder().default_value(false).mutable_playing())]
    #[property(name = "latency", nick = "Latency", get, set = Self::set_latency, type = u64, member = latency,
        blurb = "Time declared for describing a clip in a live pipeline, in nanoseconds",
        builder().maximum(i64::MAX as u64).default_value(DEFAULT_LATENCY.nseconds()).mutable_playing())]
    #[property(name = "skip-late", nick = "Skip late", get, set, type = bool, member = skip_late,
        blurb = "In a live pipeline, do not describe a clip whose end plus latency is past",
        builder().default_value(true).mutable_playing())]
    #[property(name = "prompt", nick = "Prompt", get, set, type = Option<String>, member = prompt,
        blurb = "What a generator is asked about each clip; unset: what the pack says", builder().mutable_ready())]
    #[property(name = "system-prompt", nick = "System prompt", get, set, type = Option<String>, member = system_prompt,
        blurb = "What a generator is told to be; unset: what the pack says", builder().mutable_ready())]
    #[property(name = "schema", nick = "Schema", get, set, type = Option<String>, member = schema,
        blurb = "JSON schema of a generator's answers, or the path of a file with it; unset: caption, events, sounds",
        builder().mutable_ready())]
    #[property(name = "evidence", nick = "Evidence", get, set, type = Evidence, member = evidence,
        blurb = "What the experts of the default pack tell a generator", builder(Evidence::Auto).mutable_ready())]
    #[property(name = "max-tokens", nick = "Most tokens", get, set, type = u32, member = max_tokens,
        blurb = "Tokens of a generator's answer at most; answers are whole all the same",
        builder().minimum(8).maximum(65_536).default_value(256).mutable_ready())]
    #[property(name = "temperature", nick = "Temperature", get, set, type = f64, member = temperature,
        blurb = "How freely a generator's words are drawn; 0 takes the likeliest ones",
        builder().minimum(0.0).maximum(10.0).default_value(0.0).mutable_ready())]
    #[property(name = "top-k", nick = "Top k", get, set, type = u32, member = top_k,
        blurb = "Draw among so many of the likeliest tokens; 0: among all", builder().default_value(0).mutable_ready())]
    #[property(name = "top-p", nick = "Top p", get, set, type = f64, member = top_p,
        blurb = "Draw among the likeliest tokens that have this share of probability",
        builder().minimum(0.0).maximum(1.0).default_value(1.0).mutable_ready())]
    #[property(name = "repetition-penalty", nick = "Repetition penalty", get, set, type = f64, member = repetition_penalty,
        blurb = "Makes tokens less likely that were there before; 1 changes nothing",
        builder().minimum(0.1).maximum(10.0).default_value(1.0).mutable_ready())]
    #[property(name = "seed", nick = "Seed", get, set, type = u64, member = seed,
        blurb = "Where random numbers start; the same seed gives the same answers",
        builder().default_value(0).mutable_ready())]
    #[property(name = "context-captions", nick = "Context captions", get, set, type = u32, member = context_captions,
        blurb = "How many of the last captions a generator is told", builder().maximum(64).default_value(0).mutable_ready())]
    #[property(name = "context-tokens", nick = "Context tokens", get, set, type = u32, member = context_tokens,
        blurb = "Tokens up to which a generator remembers the clips before; 0: each clip is new to it",
        builder().default_value(0).mutable_ready())]
    #[property(name = "dtype", nick = "Number format", get, set, type = Option<String>, member = dtype,
        blurb = "Number format of a generator's files, such as q4f16 or decoder_model_merged=q4f16,embed_tokens=int8",
        builder().mutable_ready())]
    #[property(name = "near-frames", nick = "Near frames", get, set, type = f64, member = near_frames,
        blurb = "Mean difference, 0 to 255, up to which frames count as the same for a generator; 0: only equal ones",
        builder().minimum(0.0).maximum(255.0).default_value(0.0).mutable_ready())]
    #[property(name = "labels", nick = "Labels", get, set, type = Option<String>, member = labels,
        blurb = "What a CLIP, SigLIP or CLAP pack looks or listens for: words with commas, or a file with one a line",
        builder().mutable_ready())]
    #[property(name = "embeddings", nick = "Embeddings", get, set, type = bool, member = embeddings,
        blurb = "Write the embedding of each frame or window of sound that a CLIP, SigLIP or CLAP pack makes",
        builder().default_value(false).mutable_ready())]
    #[property(name = "post-partial", nick = "Post partial answers", get, set, type = bool, member = post_partial,
        blurb = "Post a generator's answer as element messages 'partial' while it grows",
        builder().default_value(false).mutable_ready())]
    pub(super) settings: Mutex<Settings>,

    model: Mutex<Model>,
    stream: Mutex<Stream>,
}

impl ClipDescriber {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        crate::lock(&self.settings)
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        crate::lock(&self.model)
    }

    pub(super) fn stream(&self) -> MutexGuard<'_, Stream> {
        crate::lock(&self.stream)
    }

    pub(super) fn bring(&self, describer: Box<dyn Describer>) {
        *self.model() = Model::own(describer);
    }

    fn set_latency(&self, latency: u64) {
        self.settings().latency = latency;
        // The pipeline asks all elements anew.
        let _ = self.obj().post_message(gst::message::Latency::builder().src(&*self.obj()).build());
    }

    /// Stops the description in progress and forgets the stream it was about; the models stay.
    fn restart(&self) {
        self.model().cancel.resume();
        self.with_describer(|describer, _| describer.reset());
        self.stream().restart();
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "{event:?}");
        match event.view() {
            gst::EventView::StreamStart(event) => self.start_streams(event),
            gst::EventView::Caps(_) => self.negotiate(),
            gst::EventView::Segment(segment) => match segment.segment().downcast_ref::<gst::ClockTime>() {
                Some(segment) => {
                    let start = self.change_segment(segment);
                    let forwarded = gst::Pad::event_default(pad, Some(&*self.obj()), event.clone());
                    if start {
                        self.preroll(segment.start().unwrap_or_default());
                    }
                    forwarded
                }
                None => {
                    gst::element_imp_error!(
                        self,
                        gst::StreamError::Format,
                        (
                            "Clips need a segment in time, not in {:?}; link clipsampler to the sink pad",
                            segment.segment().format()
                        )
                    );
                    false
                }
            },
            gst::EventView::Gap(gap) => self.pass_gap(gap),
            gst::EventView::Eos(_) => {
                // Where the rest cannot be sent, there is still an end.
                let _ = self.close();
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            gst::EventView::FlushStart(_) => {
                self.model().cancel.cancel();
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            gst::EventView::FlushStop(_) => {
                self.restart();
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    /// Opens a stream on both pads; both say little and far between.
    fn start_streams(&self, event: &gst::event::StreamStart) -> bool {
        for (pad, name) in [(&self.src, "observations"), (&self.text, "text")] {
            let own = gst::event::StreamStart::builder(&format!("{}/{name}", event.stream_id()))
                .seqnum(event.seqnum())
                .flags(event.stream_flags() | gst::StreamFlags::SPARSE)
                .group_id_if_some(event.group_id())
                .build();
            pad.push_event(own);
        }
        true
    }

    fn negotiate(&self) -> bool {
        self.src.push_event(gst::event::Caps::new(SRC.caps()));
        self.negotiate_text();
        true
    }

    /// Settles on the first text format that is wanted downstream.
    pub(super) fn negotiate_text(&self) {
        let mut caps = self.text.allowed_caps().filter(|caps| !caps.is_empty()).unwrap_or_else(|| TEXT.caps().clone());
        caps.fixate();
        if let Some(format) = TextFormat::from_caps(&caps) {
            self.stream().text_format = format;
            self.text.push_event(gst::event::Caps::new(&caps));
        }
    }

    /// Lets the sinks of both pads preroll at once.
    ///
    /// A sink that is not playing yet keeps the thread that brings it something. One thread serves both pads, so the
    /// second sink would never get anything without a queue, and the pipeline would never start: each pad gets an empty
    /// gap from a thread of its own, which goes as soon as the pipeline plays.
    fn preroll(&self, start: gst::ClockTime) {
        let mut top = self.obj().clone().upcast::<gst::Object>();
        while let Some(parent) = top.parent() {
            top = parent;
        }
        if top.downcast_ref::<gst::Element>().is_none_or(|top| top.current_state() == gst::State::Playing) {
            return;
        }
        for pad in [self.src.clone(), self.text.clone()] {
            self.obj().call_async(move |_| {
                pad.push_event(gst::event::Gap::builder(start).duration(gst::ClockTime::ZERO).build());
            });
        }
    }

    /// Whether sinks downstream have yet to preroll.
    fn change_segment(&self, segment: &Segment) -> bool {
        let goes_on = {
            let stream = self.stream();
            continues(&stream.segment, segment, stream.seen_ns)
        };
        if !goes_on {
            // What is still open belongs into the old segment.
            let _ = self.close();
        }
        let mut stream = self.stream();
        if !goes_on {
            let start = segment.time().unwrap_or_default().nseconds();
            (stream.observations, stream.text) = (Progress::new(start), Progress::new(start));
            stream.discont = true;
        }
        stream.segment = segment.clone();
        std::mem::take(&mut stream.fresh)
    }

    fn pass_gap(&self, gap: &gst::event::Gap) -> bool {
        let (start, duration) = gap.get();
        let end = duration.map_or(start, |duration| start.saturating_add(duration));
        let end = self.stream().segment.to_stream_time(end);
        end.is_none_or(|end| self.pass_over(end.nseconds()).is_ok())
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            // A late caption is no reason to drop pictures upstream.
            gst::EventView::Qos(_) => true,
            gst::EventView::Latency(_) => {
                self.stream().upstream = None;
                gst::Pad::event_default(pad, Some(&*self.obj()), event)
            }
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Caps(query) = query.view_mut() {
            let caps = self.wanted_caps();
            let caps = query
                .filter_owned()
                .map(|filter| filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First))
                .unwrap_or(caps);
            query.set_result(&caps);
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// The clips the pack wants.
    fn wanted_caps(&self) -> gst::Caps {
        let caps = gst::Caps::builder(CLIP_CAPS);
        let Some(shape) = self.model().shape else { return caps.build() };
        let integer = |value: u32| i32::try_from(value).unwrap_or(i32::MAX).max(1);
        let side = gst::IntRange::new(1, integer(shape.max_size).max(2));
        let caps = caps.field("width", side).field("height", side).field("rate", integer(shape.rate));
        match shape.frames {
            Some(frames) => caps.field("frames", gst::IntRange::new(1, integer(frames).max(2))).build(),
            None => caps.build(),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Latency(query) = query.view_mut() {
            let mut upstream = gst::query::Latency::new();
            if !self.sink.peer_query(&mut upstream) {
                return false;
            }
            let (live, min, max) = upstream.result();
            let own = gst::ClockTime::from_nseconds(if live { self.settings().latency } else { 0 });
            query.set(live, min.saturating_add(own), max.map(|max| max.saturating_add(own)));
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// Upstream's latency, asked again only after it may have changed.
    pub(super) fn upstream(&self) -> super::stream::Upstream {
        if let Some(known) = self.stream().upstream {
            return known;
        }
        let mut query = gst::query::Latency::new();
        let answer = match self.sink.peer_query(&mut query) {
            true => {
                let (live, min, _) = query.result();
                super::stream::Upstream { live, latency_ns: min.nseconds() }
            }
            false => Default::default(),
        };
        self.stream().upstream = Some(answer);
        answer
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ClipDescriber {
    const NAME: &'static str = "GstClipDescriber";
    type Type = super::ClipDescriber;
    type ParentType = gst::Element;

    fn with_class(_: &Self::Class) -> Self {
        let sink = gst::Pad::builder_from_template(&SINK)
            .flags(gst::PadFlags::ACCEPT_INTERSECT)
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |imp| imp.describe(buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_query(pad, query))
            })
            .build();
        let source = |template: &gst::PadTemplate| {
            gst::Pad::builder_from_template(template)
                .event_function(|pad, parent, event| {
                    Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
                })
                .query_function(|pad, parent, query| {
                    Self::catch_panic_pad_function(parent, || false, |imp| imp.src_query(pad, query))
                })
                .build()
        };
        let (src, text) = (source(&SRC), source(&TEXT));
        let (settings, model, stream) = Default::default();
        Self { sink, src, text, settings, model, stream }
    }
}

impl ObjectImpl for ClipDescriber {
    // The derive knows no structures, so these two are added behind its own.
    fn properties() -> &'static [glib::ParamSpec] {
        static ALL: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let pieces = glib::ParamSpecBoxed::builder::<gst::Structure>("pieces")
                .nick("Pieces")
                .blurb("Own files in place of the pack's, as files,PIECE.FILE=(string)PATH,...")
                .mutable_ready()
                .build();
            let stats = glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("Since PAUSED: clips, described, skipped, failed, observations, processing-ns; since READY: load-ns, \
                        missing-pieces, provider, and counts of the pack")
                .read_only()
                .build();
            [ClipDescriber::derived_properties(), &[pieces, stats]].concat()
        });
        &ALL
    }

    fn property(&self, id: usize, spec: &glib::ParamSpec) -> glib::Value {
        match spec.name() {
            "pieces" => self.settings().pieces.to_value(),
            "stats" => self.stats().to_value(),
            _ => self.derived_property(id, spec),
        }
    }

    fn set_property(&self, id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
        match spec.name() {
            "pieces" => self.settings().pieces = value.get().expect("GObject checked the type"),
            _ => self.derived_set_property(id, value, spec),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sink, &self.src, &self.text] {
            obj.add_pad(pad).expect("a new element has no pad of that name");
        }
        let flows = &mut self.stream().flows;
        flows.add_pad(&self.src);
        flows.add_pad(&self.text);
    }
}

impl GstObjectImpl for ClipDescriber {}

impl ElementImpl for ClipDescriber {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Clip describer",
                "Analyzer/Metadata",
                "Describes clips of picture and sound with a pack of ONNX models",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<[gst::PadTemplate; 3]> = LazyLock::new(|| [SINK.clone(), SRC.clone(), TEXT.clone()]);
        &*TEMPLATES
    }

    fn change_state(&self, change: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match change {
            gst::StateChange::NullToReady => self.load()?,
            gst::StateChange::ReadyToPaused => {
                self.restart();
                self.stream().stats = Stats::default();
            }
            gst::StateChange::PausedToReady => self.model().cancel.cancel(),
            _ => (),
        }
        let success = self.parent_change_state(change)?;
        if change == gst::StateChange::ReadyToNull {
            self.model().unload();
        }
        Ok(success)
    }
}
