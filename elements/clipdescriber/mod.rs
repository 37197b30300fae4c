//! # SECTION:element-clipdescriber
//!
//! Describes clips with a pack of ONNX models and sends the descriptions on as timestamped metadata.
//!
//! - `sink` takes the clips of `clipsampler`. The frame size and the sound rate that the pack wants are in the caps
//!   that the pad accepts, so the sampler makes the clips to measure.
//! - `src` sends observations: a JSON object and a newline in each buffer, so that a file sink writes JSON Lines. PTS
//!   and duration are the span in the segment; `start_ns` and `end_ns` in the JSON are stream time. An answer may come
//!   with a later clip than the one it begins in, so PTS may go back between kinds; a GAP says that nothing more will
//!   start before its end.
//! - `text` sends the captions as text, one at a time and in order of time, with GAPs in between: what a subtitle
//!   encoder, muxer or overlay wants. Pango markup is escaped; plain UTF-8 is for muxers that take nothing else.
//!
//! Either source pad may stay unlinked. Describing takes its time in the streaming thread: put a `queue` in front, with
//! `leaky=downstream` where the oldest clip may be lost, and one behind `text` for a live overlay.
//!
//! The pack is loaded from NULL to READY (progress messages with the code `load`) and stays until NULL; a seek or flush
//! stops the description in progress and forgets the stream, not the models. A clip that fails is a warning and
//! counted in `stats`. In a live pipeline a clip is not described when its time is over already, which is its end plus
//! `latency`: it is counted, and a QoS message says so.
//!
//! ## Example
//!
//! ```text
//! gst-launch-1.0 clipsampler name=s ! queue ! clipdescriber ! filesink location=movie.jsonl \
//!   filesrc location=movie.mp4 ! decodebin name=d   d. ! queue ! s.video   d. ! queue ! s.audio
//! ```
//!
//! Since: 0.1

use describe_models::Describer;
use gst::{glib, prelude::*, subclass::prelude::*};

mod imp;
mod loading;
mod model;
mod output;
mod settings;
mod stream;
#[cfg(test)]
mod tests;
mod work;

pub use settings::{Evidence, ExecutionProvider};

glib::wrapper! {
    /// The element `clipdescriber`.
    pub struct ClipDescriber(ObjectSubclass<imp::ClipDescriber>) @extends gst::Element, gst::Object;
}

/// Makes the element known to GStreamer as `clipdescriber`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "clipdescriber", gst::Rank::NONE, ClipDescriber::static_type())
}

/// An element that describes with `describer` in place of a pack, for applications that bring their own.
///
/// Properties about the pack have no effect. A describer that runs ONNX models through `describe_models` must have
/// started the runtime before the element goes to READY, otherwise a seek waits for the run in progress.
pub fn with_describer(describer: Box<dyn Describer>) -> ClipDescriber {
    let element: ClipDescriber = glib::Object::new();
    element.imp().bring(describer);
    element
}
