//! The GStreamer side of describe: elements translate events and buffers; thinking is in `describe-models`.

pub mod bridge;
pub mod clip;
pub mod observation;
