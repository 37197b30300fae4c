//! Experts: small single-purpose models. Each says what it knows; what it says is also evidence for the captions.

mod cuts;
#[cfg(test)]
mod eyes_tests;
mod files;
mod frames;
pub mod labels;
mod lines;
mod outputs;
pub mod people;
pub mod pixels;
pub mod shots;
pub mod tags;
pub mod text;

use crate::{Cancel, Clip, DescribeError, Observation};

/// A single-purpose model with its state along the stream.
pub trait Expert: Send {
    /// Name of the piece in the manifest, also the second half of an observation's source.
    fn name(&self) -> &'static str;

    /// Looks at (or listens to) the next clip, which starts where the last one ended.
    ///
    /// What could be said is in `out` also when an error is returned; the error costs this clip only.
    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError>;

    /// Closes what is still open, at the end of the last clip.
    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError>;

    /// Forgets the stream, keeps the model.
    fn reset(&mut self);

    /// No later observation of this expert changes what is known before this time.
    fn settled_ns(&self) -> u64;
}
