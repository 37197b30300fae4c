//! A describer that does what the test says, and an element with everything around it that the test looks at.

use std::sync::{Arc, Mutex};

use describe_models::{
    Cancel, Clip, ClipShape, DescribeError, Describer, Kind, Observation, Span, Thumbnails, time::SECOND,
};
use gst::prelude::*;
use gst_check::Harness;

use crate::{clip, clipdescriber};

/// What the describer does with a clip.
type Answer = Box<dyn FnMut(&Clip, &Cancel, &mut Vec<Observation>) -> Result<(), DescribeError> + Send>;

/// A describer by script.
pub struct Scripted {
    /// Every call, in words.
    pub calls: Arc<Mutex<Vec<String>>>,
    pub answer: Answer,
    /// Said at the flush.
    pub last_words: Vec<Observation>,
    /// Everything is said up to here; `None`: up to the end of the last clip.
    pub settled_ns: Option<u64>,
    pub seen_ns: u64,
}

impl Scripted {
    pub fn new(
        answer: impl FnMut(&Clip, &Cancel, &mut Vec<Observation>) -> Result<(), DescribeError> + Send + 'static,
    ) -> Self {
        let (calls, answer) = (Arc::default(), Box::new(answer));
        Self { calls, answer, last_words: Vec::new(), settled_ns: None, seen_ns: 0 }
    }

    /// Says `said` about each clip that it begins in.
    pub fn says(said: Vec<Observation>) -> Self {
        Self::new(move |clip, _, out| {
            out.extend(said.iter().filter(|one| clip.span.contains(one.span.start_ns)).cloned());
            Ok(())
        })
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Describer for Scripted {
    fn shape(&self) -> ClipShape {
        ClipShape { max_size: 448, rate: 16_000, frames: None }
    }

    fn describe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let (start, end) = (clip.span.start_ns / SECOND, clip.span.end_ns / SECOND);
        self.note(format!("clip {start}-{end}{}", if clip.discont { " discont" } else { "" }));
        self.seen_ns = clip.span.end_ns;
        (self.answer)(clip, cancel, out)
    }

    fn flush(&mut self, _: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.note("flush".into());
        out.append(&mut self.last_words);
        Ok(())
    }

    fn reset(&mut self) {
        self.note("reset".into());
        self.seen_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        self.settled_ns.unwrap_or(self.seen_ns).min(self.seen_ns)
    }
}

/// The element in PLAYING, with a harness at each pad and a bus.
pub struct Bench {
    pub element: gst::Element,
    /// Drives `sink` and takes from `src`.
    pub clips: Harness,
    /// Takes from `text`.
    pub text: Harness,
    pub bus: gst::Bus,
    pub calls: Arc<Mutex<Vec<String>>>,
}

pub const CAPS: &str = "application/x-clip,width=448,height=252,rate=16000";

impl Bench {
    pub fn new(describer: Scripted) -> Self {
        Self::with_text_caps(describer, "text/x-raw")
    }

    pub fn with_text_caps(describer: Scripted, caps: &str) -> Self {
        gst::init().unwrap();
        let calls = describer.calls.clone();
        let element: gst::Element = clipdescriber::with_describer(Box::new(describer)).upcast();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut text = Harness::with_element(&element, None, Some("text"));
        text.set_sink_caps_str(caps);
        let mut clips = Harness::with_element(&element, Some("sink"), Some("src"));
        clips.play();
        clips.set_src_caps_str(CAPS);
        let bench = Self { element, clips, text, bus, calls };
        bench.calls.lock().unwrap().clear();
        bench
    }

    /// Pushes the clip from `start` to `end` seconds of stream time, at the same position.
    #[track_caller]
    pub fn push(&mut self, start: u64, end: u64) {
        assert_eq!(self.clips.push(buffer(start, end, start)), Ok(gst::FlowSuccess::Ok));
    }

    /// The calls since the last look.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// Start, end (seconds of position) and bytes of each observation.
    pub fn observations(&mut self) -> Vec<(u64, u64, String)> {
        std::iter::from_fn(|| self.clips.try_pull()).map(|buffer| read(&buffer)).collect()
    }

    /// Buffers and GAPs that came out of a pad are in different queues of a harness; together they tell the story.
    pub fn story(harness: &mut Harness) -> Vec<(u64, u64, String)> {
        let mut story: Vec<_> = std::iter::from_fn(|| harness.try_pull()).map(|buffer| read(&buffer)).collect();
        for event in std::iter::from_fn(|| harness.try_pull_event()) {
            if let gst::EventView::Gap(gap) = event.view() {
                let (start, duration) = gap.get();
                story.push((start.seconds(), (start + duration.unwrap()).seconds(), "-".into()));
            }
        }
        story.sort();
        story
    }

    /// Warnings, errors, element and QoS messages since the last look; not the harness's and the state changes.
    pub fn messages(&self) -> Vec<gst::Message> {
        use gst::MessageType as Type;
        let told = [Type::Warning, Type::Error, Type::Element, Type::Qos];
        self.bus.iter().filter(|message| told.contains(&message.type_())).collect()
    }

    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        self.element.property::<gst::Structure>("stats").get(name).unwrap()
    }
}

fn read(buffer: &gst::Buffer) -> (u64, u64, String) {
    let bytes = buffer.map_readable().unwrap();
    let start = buffer.pts().unwrap();
    let end = start + buffer.duration().unwrap();
    (start.seconds(), end.seconds(), String::from_utf8(bytes.to_vec()).unwrap())
}

/// A clip from `start` to `end` seconds of stream time, at `position` seconds.
pub fn buffer(start: u64, end: u64, position: u64) -> gst::Buffer {
    let (frames, thumbnails) = (Vec::new(), Thumbnails::default());
    let clip = Clip { span: seconds(start, end), discont: false, frames, thumbnails, sound: None };
    let mut buffer = clip::to_buffer(&clip);
    let times = buffer.get_mut().unwrap();
    times.set_pts(gst::ClockTime::from_seconds(position));
    times.set_duration(gst::ClockTime::from_seconds(end - start));
    buffer
}

pub fn seconds(start: u64, end: u64) -> Span {
    Span::new(start * SECOND, end * SECOND)
}

pub fn caption(start: u64, end: u64, text: &str) -> Observation {
    Observation::new(Kind::Caption, seconds(start, end), text, 0.75, "test/caption")
}

/// The line of JSON of [`caption`], read as `observations` does.
pub fn line(start: u64, end: u64, text: &str) -> (u64, u64, String) {
    (start, end, caption(start, end, text).to_json() + "\n")
}
