//! SECTION:element-clipsampler
//!
//! Cuts picture and sound that belong together into clips.
//!
//! A clip is a span of stream time with a few chosen frames, a 48x27 thumbnail of every frame, and the sound of exactly
//! that span. Raw video and raw audio are taken as decoders give them; no converter is needed in front. Either pad may
//! be left out, but a pad that was requested must be fed.
//!
//! * **Frames** are chosen by stream time, those nearest to `frames` even instants; only they are converted and scaled.
//!   A clip with no more frames than that keeps all of them.
//! * **Sound** is mixed to mono, resampled once and placed by its timestamps; what is missing is silence and counted.
//! * **End of stream** gives the last clip, as long as it is.
//! * **Live**, a clip is given out at its end plus the latency, with what is there; what comes later is counted as late.
//! * The frame size and the sample rate are what the caps downstream ask for (`width`, `height`: the largest;
//!   `rate`), else 448 pixels and 16000 Hz.
//!
//! ## Example
//!
//! ```sh
//! gst-launch-1.0 uridecodebin uri=file:///video.mp4 name=d \
//!   d. ! s.video  d. ! s.audio  clipsampler name=s ! queue ! clipdescriber ! filesink location=out.jsonl
//! ```
//!
//! Since: 0.1

use gst::glib;
use gst::prelude::*;

mod audio;
#[allow(missing_docs, reason = "the derive macro makes accessors without documentation")]
mod imp;
mod pads;
mod stream;
mod video;

glib::wrapper! {
    /// The element.
    pub struct ClipSampler(ObjectSubclass<imp::ClipSampler>)
        @extends gst_base::Aggregator, gst::Element, gst::Object;
}

/// Makes the element known under its name.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "clipsampler", gst::Rank::NONE, ClipSampler::static_type())
}
