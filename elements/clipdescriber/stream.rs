//! What the element knows of the stream it describes.

use std::time::Duration;

use super::output::{Progress, Segment};
use crate::observation::TextFormat;

/// From READY to PAUSED and at a flush this starts anew.
pub struct Stream {
    pub segment: Segment,
    /// How far the pad `src` has got.
    pub observations: Progress,
    /// How far the pad `text` has got.
    pub text: Progress,
    pub text_format: TextFormat,
    /// End of the last clip (or gap) in nanoseconds of stream time.
    pub seen_ns: u64,
    /// The next clip does not continue the last one.
    pub discont: bool,
    /// No segment came since the start or the flush.
    pub fresh: bool,
    /// The describer may have something left to say.
    pub open: bool,
    /// What upstream answered about its latency; `None`: ask again.
    pub upstream: Option<Upstream>,
    /// Outlives a flush.
    pub stats: Stats,
    /// Outlives a flush.
    pub flows: gst_base::UniqueFlowCombiner,
}

/// Upstream's answer about latency.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upstream {
    pub live: bool,
    /// Nanoseconds.
    pub latency_ns: u64,
}

/// Counted since READY.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Clips that came.
    pub clips: u64,
    pub described: u64,
    /// Too late, therefore not described.
    pub skipped: u64,
    pub failed: u64,
    /// Sent downstream.
    pub observations: u64,
    /// Spent in the describer.
    pub processing: Duration,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            segment: Segment::new(),
            observations: Progress::default(),
            text: Progress::default(),
            text_format: TextFormat::default(),
            seen_ns: 0,
            discont: true,
            fresh: true,
            open: false,
            upstream: None,
            stats: Stats::default(),
            flows: gst_base::UniqueFlowCombiner::new(),
        }
    }
}

impl Stream {
    /// Forgets the stream after a flush.
    pub fn restart(&mut self) {
        let flows = std::mem::take(&mut self.flows);
        *self = Self { flows, stats: self.stats, text_format: self.text_format, ..Self::default() };
        self.flows.reset();
    }
}
