//! The thinking side of describe: clips, observations, sampling, the timeline and model packs. Knows nothing of GStreamer.
//!
//! Two nouns: a [`clip::Clip`] is what was seen and heard in a span of stream time; an
//! [`observation::Observation`] is what is said about a span. A [`describer::Describer`] turns one into the other.

pub mod caption;
pub mod clip;
pub mod describer;
pub mod experts;
pub mod generator;
pub mod lite;
mod mel;
pub mod observation;
pub mod pack;
pub mod picture;
pub mod runtime;
pub mod sampling;
pub mod time;
pub mod timeline;
pub mod wire;

pub use clip::{Clip, ClipShape, Frame, Sound, Thumbnails};
pub use describer::{Cancel, DescribeError, Describer, LoadError};
pub use observation::{Kind, Label, Observation};
pub use time::Span;
