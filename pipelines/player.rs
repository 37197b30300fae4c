//! One run of one input: a pipeline that decodes, cuts into clips and hands them on, watched to its end, whatever it is.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use describe_models::Span;
use gst::{glib, prelude::*};

use crate::{
    exit::{Exit, Failure},
    input::Input,
    plugin,
    trouble::Troubles,
};

/// Clips that wait for the models: enough to keep decoding while they work, few enough to keep memory small.
const CLIPS_AHEAD: u32 = 2;
/// How often signals and progress are looked at.
const TICK: Duration = Duration::from_millis(100);
/// After an error or Ctrl-C, how long nothing may move before what has arrived is taken as all there is.
const STALLED: Duration = Duration::from_secs(3);
/// How long the rest may take to come out then.
const LEAVING: Duration = Duration::from_secs(60);
/// Name of the message that says that everything came out.
const OVER: &str = "describe-over";

/// Takes each buffer that comes out at the end.
pub type Take = Box<dyn FnMut(&gst::Sample) -> Result<(), Failure> + Send>;

/// Where a run is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Position {
    /// Stream time of the clip in work.
    pub at_ns: u64,
    /// Length of the media, where it is known.
    pub duration_ns: Option<u64>,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the start of the first clip to the end of the last one; `None` where there was none.
    pub span: Option<Span>,
    /// How many clips there were.
    pub clips: u64,
    /// Length that the media announces.
    pub duration_ns: Option<u64>,
    /// There are streams that were not used, which may be longer.
    pub left_out: bool,
    /// Ended by Ctrl-C.
    pub interrupted: bool,
    /// What ended it early, the first cause.
    pub failure: Option<Failure>,
    /// What the user should know, each once.
    pub notes: Vec<String>,
}

/// What the streaming threads and the watching thread share.
#[derive(Default)]
struct Shared {
    pads: Mutex<Vec<gst::Pad>>,
    linked: AtomicBool,
    left_out: AtomicBool,
    seen: Mutex<Seen>,
    refused: Mutex<Option<Failure>>,
    /// Counts everything that moves.
    moved: AtomicU64,
    /// No further clip is wanted: what is in work comes out, then the end.
    finish: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    span: Option<Span>,
    at_ns: u64,
    clips: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `uridecodebin ! clipsampler ! queue ! middle ! appsink`.
pub struct Player {
    pipeline: gst::Pipeline,
    sampler: gst::Element,
    queue: gst::Element,
    sink: gst_app::AppSink,
    shared: Arc<Shared>,
    name: String,
    local: bool,
}

impl Player {
    /// A pipeline that decodes `input`, gives the clips of `sampler` to `middle`, and what comes out of that to `take`.
    pub fn new(input: &Input, sampler: gst::Element, middle: &gst::Element, take: Take) -> Result<Self, Failure> {
        let pipeline = gst::Pipeline::new();
        let decoder = plugin::element("uridecodebin")?;
        decoder.set_property("uri", &input.uri);
        let queue = plugin::element("queue")?;
        queue.set_property("max-size-buffers", CLIPS_AHEAD);
        queue.set_property("max-size-bytes", 0u32);
        queue.set_property("max-size-time", 0u64);
        let shared = Arc::<Shared>::default();
        let sink = sink(&pipeline, &shared, take);
        pipeline
            .add_many([&decoder, &sampler, &queue, middle, sink.upcast_ref()])
            .and_then(|()| gst::Element::link_many([&sampler, &queue, middle]))
            .and_then(|()| middle.link_pads(Some("src"), &sink, Some("sink")))
            .map_err(|error| {
                Failure::new(
                    Exit::Missing,
                    format!("the elements do not fit together: {error}; build command and plugin anew"),
                )
            })?;
        let player =
            Self { pipeline, sampler, queue, sink, shared, name: input.name.clone(), local: input.path.is_some() };
        player.watch_clips();
        player.watch_decoder(&decoder);
        Ok(player)
    }

    /// Plays to the end; `stop` ends it early, `tick` is called about ten times a second.
    pub fn run(&self, stop: &AtomicBool, tick: &mut dyn FnMut(Position)) -> Outcome {
        let mut troubles = Troubles::new(&self.name, self.local);
        let (mut interrupted, mut duration_ns) = (false, None);
        let mut leaving: Option<Leaving> = None;
        let bus = self.pipeline.bus().expect("every pipeline has a bus");
        let started = self.pipeline.set_state(gst::State::Playing).is_ok();
        let mut ticked = Instant::now();
        loop {
            match bus.timed_pop(gst::ClockTime::try_from(TICK).ok()) {
                Some(message) if is_over(&message) => break,
                Some(message) if troubles.read(&message) && self.is_hopeless(&message) => break,
                Some(_) if ticked.elapsed() < TICK => continue,
                Some(_) => {}
                None if !started => {
                    troubles.add(Exit::Missing, "GStreamer could not start to decode it; try it with gst-play-1.0");
                    break;
                }
                None => {}
            }
            ticked = Instant::now();
            if stop.load(Ordering::Relaxed) && !interrupted {
                interrupted = true;
                self.shared.finish.store(true, Ordering::Release);
            }
            if (interrupted || troubles.has_error())
                && !leaving.get_or_insert_with(|| Leaving::new(self.moved())).goes_on(self)
            {
                break;
            }
            duration_ns = duration_ns.or_else(|| self.duration_ns());
            tick(Position { at_ns: lock(&self.shared.seen).at_ns, duration_ns });
        }
        while let Some(message) = bus.pop() {
            troubles.read(&message);
        }
        let seen = *lock(&self.shared.seen);
        let left_out = troubles.has_missing() || self.shared.left_out.load(Ordering::Relaxed);
        let (failure, notes) = troubles.end(seen.span.map(|span| span.end_ns));
        let failure = lock(&self.shared.refused).take().or(failure);
        Outcome { span: seen.span, clips: seen.clips, duration_ns, left_out, interrupted, failure, notes }
    }

    /// Takes `middle` out again, with the models it has loaded, and ends all the rest.
    pub fn close(self, middle: &gst::Element) {
        let _ = self.pipeline.set_state(gst::State::Ready);
        let _ = self.pipeline.remove(middle);
        let _ = self.pipeline.set_state(gst::State::Null);
    }

    /// Whether nothing more can come after an error in this element: it is one of ours, or nothing was decoded yet.
    fn is_hopeless(&self, message: &gst::Message) -> bool {
        let ours = message.src().is_some_and(|src| src.parent().as_ref() == Some(self.pipeline.upcast_ref()));
        let decoder = message.src().is_some_and(|src| src.name().starts_with("uridecodebin"));
        (ours && !decoder) || !self.shared.linked.load(Ordering::Acquire)
    }

    fn duration_ns(&self) -> Option<u64> {
        let ask = |pad: gst::Pad| pad.peer_query_duration::<gst::ClockTime>().map(gst::ClockTime::nseconds);
        self.sampler.sink_pads().into_iter().filter_map(ask).max().filter(|ns| *ns > 0)
    }

    fn moved(&self) -> u64 {
        self.shared.moved.load(Ordering::Relaxed)
    }

    /// Notes each clip on its way to `middle`, and puts the end in its place when no more are wanted.
    fn watch_clips(&self) {
        let shared = self.shared.clone();
        let pad = self.queue.static_pad("src").expect("a queue has a source pad");
        let ended = AtomicBool::new(false);
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            shared.moved.fetch_add(1, Ordering::Relaxed);
            if shared.finish.load(Ordering::Acquire) {
                if !ended.swap(true, Ordering::AcqRel) {
                    pad.push_event(gst::event::Eos::new());
                }
                return gst::PadProbeReturn::Drop;
            }
            if let (Some(buffer), Some(segment)) = (info.buffer(), segment(pad))
                && let Some(span) = span(buffer, &segment)
            {
                let mut seen = lock(&shared.seen);
                let start_ns = seen.span.map_or(span.start_ns, |before| before.start_ns.min(span.start_ns));
                let end_ns = seen.span.map_or(span.end_ns, |before| before.end_ns.max(span.end_ns));
                *seen = Seen { span: Some(Span::new(start_ns, end_ns)), at_ns: span.start_ns, clips: seen.clips + 1 };
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Links the first picture and the first sound once all streams are known: the sampler waits for every pad it has.
    fn watch_decoder(&self, decoder: &gst::Element) {
        let shared = self.shared.clone();
        let pipeline = self.pipeline.downgrade();
        decoder.connect_pad_added(move |_, pad| match shared.linked.load(Ordering::Acquire) {
            false => lock(&shared.pads).push(pad.clone()),
            // Of a later part of a chained file; it has the sound and picture of another stream.
            true => pipeline.upgrade().iter().for_each(|pipeline| discard(pipeline, pad)),
        });
        let (shared, pipeline, sampler) = (self.shared.clone(), self.pipeline.downgrade(), self.sampler.downgrade());
        decoder.connect_no_more_pads(move |decoder| {
            let (Some(pipeline), Some(sampler)) = (pipeline.upgrade(), sampler.upgrade()) else { return };
            let pads = std::mem::take(&mut *lock(&shared.pads));
            if pads.is_empty() {
                return;
            }
            if link(&pipeline, &sampler, &shared, &pads) {
                shared.linked.store(true, Ordering::Release);
            } else {
                gst::element_error!(
                    decoder,
                    gst::StreamError::WrongType,
                    ("There is neither a picture nor sound in it that can be used; give a video or sound file")
                );
            }
        });
    }
}

/// How the rest comes out after an error or Ctrl-C.
struct Leaving {
    since: Instant,
    moved: u64,
    still_since: Instant,
    ended: bool,
}

impl Leaving {
    fn new(moved: u64) -> Self {
        Self { since: Instant::now(), moved, still_since: Instant::now(), ended: false }
    }

    /// Ends the streams where nothing moves any more; false where it takes too long.
    fn goes_on(&mut self, player: &Player) -> bool {
        let moved = player.moved();
        let waiting: u32 = player.queue.property("current-level-buffers");
        if moved != self.moved || waiting > 0 {
            (self.moved, self.still_since) = (moved, Instant::now());
        }
        if self.still_since.elapsed() > STALLED && !self.ended {
            self.ended = true;
            // After an early error the pipeline stays in PAUSED, where a sink holds what it gets.
            let _ = player.sink.set_state(gst::State::Playing);
            for pad in player.sampler.sink_pads() {
                // The pad of a stream that waits for the other one is busy until that one has ended.
                thread::spawn(move || pad.send_event(gst::event::Eos::new()));
            }
        }
        self.since.elapsed() < LEAVING
    }
}

fn is_over(message: &gst::Message) -> bool {
    matches!(message.view(), gst::MessageView::Application(over) if over.structure().is_some_and(|s| s.name() == OVER))
}

fn sink(pipeline: &gst::Pipeline, shared: &Arc<Shared>, mut take: Take) -> gst_app::AppSink {
    let sink = gst_app::AppSink::builder().sync(false).async_(false).build();
    let over = {
        let bus = pipeline.bus();
        move || {
            let message = gst::message::Application::new(gst::Structure::new_empty(OVER));
            bus.iter().for_each(|bus| drop(bus.post(message.clone())));
        }
    };
    let shared = shared.clone();
    let refused = over.clone();
    let take = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        shared.moved.fetch_add(1, Ordering::Relaxed);
        if lock(&shared.refused).is_none()
            && let Err(error) = take(&sample)
        {
            *lock(&shared.refused) = Some(error);
            refused();
        }
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).eos(move |_| over()).build());
    sink
}

fn segment(pad: &gst::Pad) -> Option<gst::FormattedSegment<gst::ClockTime>> {
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    event.segment().downcast_ref::<gst::ClockTime>().cloned()
}

fn span(buffer: &gst::Buffer, segment: &gst::FormattedSegment<gst::ClockTime>) -> Option<Span> {
    let start = segment.to_stream_time(buffer.pts()?)?.nseconds();
    Some(Span::new(start, start + buffer.duration().map_or(0, gst::ClockTime::nseconds)))
}

/// Links the first picture and the first sound among `pads`; false where there is none.
fn link(pipeline: &gst::Pipeline, sampler: &gst::Element, shared: &Arc<Shared>, pads: &[gst::Pad]) -> bool {
    let (mut video, mut audio) = (false, false);
    for pad in pads {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let (name, used, converter) = match caps.structure(0).map_or("", |s| s.name().as_str()) {
            "video/x-raw" if !video => ("video", &mut video, "videoconvert"),
            "audio/x-raw" if !audio => ("audio", &mut audio, "audioconvert"),
            _ => {
                shared.left_out.store(true, Ordering::Relaxed);
                discard(pipeline, pad);
                continue;
            }
        };
        *used = connect(pipeline, sampler, pad, name, converter, shared).is_ok();
        if !*used {
            shared.left_out.store(true, Ordering::Relaxed);
            discard(pipeline, pad);
        }
    }
    video || audio
}

fn connect(
    pipeline: &gst::Pipeline,
    sampler: &gst::Element,
    pad: &gst::Pad,
    name: &str,
    converter: &str,
    shared: &Arc<Shared>,
) -> Result<(), glib::BoolError> {
    let sink = sampler.request_pad_simple(name).ok_or_else(|| glib::bool_error!("no pad '{}'", name))?;
    let done = pad.link(&sink).map(drop).or_else(|_| {
        // A format that the sampler does not know yet.
        let converter = gst::ElementFactory::make(converter).build()?;
        pipeline.add(&converter)?;
        converter.link_pads(Some("src"), sampler, Some(name))?;
        converter.sync_state_with_parent()?;
        let entry = converter.static_pad("sink").ok_or_else(|| glib::bool_error!("no pad 'sink'"))?;
        pad.link(&entry).map(drop).map_err(|error| glib::bool_error!("{}", error))
    });
    if done.is_err() {
        sampler.release_request_pad(&sink);
        return done;
    }
    let shared = shared.clone();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        shared.moved.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Lets a stream that nobody wants run into the void, so that it holds up no other.
fn discard(pipeline: &gst::Pipeline, pad: &gst::Pad) {
    let sink = gst::ElementFactory::make("fakesink").property("async", false).property("sync", false).build();
    if let Ok(sink) = sink
        && pipeline.add(&sink).is_ok()
        && sink.sync_state_with_parent().is_ok()
        && let Some(entry) = sink.static_pad("sink")
    {
        let _ = pad.link(&entry);
    }
}
