//! The trait that describes clips, its errors, and how a description in progress is cancelled.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ort::session::{NoSelectedOutputs, RunOptions};

use crate::{
    clip::{Clip, ClipShape},
    observation::Observation,
    time::Span,
};

/// Something that describes clips: a pack.
///
/// Clips come in order of time. State may be carried from clip to clip; [`Clip::discont`] and [`Describer::reset`] end it.
pub trait Describer: Send {
    /// What the clips should look like.
    fn shape(&self) -> ClipShape;

    /// Describes the next clip.
    ///
    /// Answers may lie before the clip (a shot that ended only now) and may come with a later clip (a sentence that
    /// is still going on), but never reach past the end of the clips seen. What could be said is in `out` also when an
    /// error is returned; the error costs this clip only and the describer stays usable.
    fn describe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError>;

    /// Ends the stream: what is still open is closed at the end of the last clip.
    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError>;

    /// Forgets everything about the stream, but not the models.
    fn reset(&mut self);

    /// The time up to which everything has been said: no later answer starts before it.
    fn settled_ns(&self) -> u64;

    /// Who hears an answer while it grows; a describer that answers at once has nobody to tell.
    fn listen(&mut self, _partial: Option<Partial>) {}

    /// Counts of what it did, by name.
    fn stats(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// The hardware that its main model runs on, where it knows.
    fn provider(&self) -> Option<String> {
        None
    }
}

/// Hears an answer about a span while it grows: the whole text so far.
pub type Partial = Arc<dyn Fn(Span, &str) + Send + Sync>;

/// Stops a description in progress from another thread.
///
/// Cloning gives another handle to the same switch.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Switch>);

#[derive(Default)]
struct Switch {
    cancelled: AtomicBool,
    run: Option<RunOptions<NoSelectedOutputs>>,
}

impl Cancel {
    /// A switch that also stops a run of ONNX Runtime half-way; needs the runtime started.
    pub fn new() -> Result<Self, DescribeError> {
        let run = Some(RunOptions::new().map_err(|source| DescribeError::Run { piece: "runtime".into(), source })?);
        Ok(Self(Arc::new(Switch { cancelled: AtomicBool::new(false), run })))
    }

    /// Stops the run in progress, and every later one until [`Cancel::resume`].
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        if let Some(run) = &self.0.run {
            // Fails only where the options are gone; they live as long as the switch.
            let _ = run.terminate();
        }
    }

    /// Allows runs again.
    pub fn resume(&self) {
        if let Some(run) = &self.0.run {
            let _ = run.unterminate();
        }
        self.0.cancelled.store(false, Ordering::Release);
    }

    /// An error where the switch is on; to be asked between the steps of a long description.
    pub fn check(&self) -> Result<(), DescribeError> {
        if self.0.cancelled.load(Ordering::Acquire) { Err(DescribeError::Cancelled) } else { Ok(()) }
    }

    /// Options to give to a run so that it can be stopped.
    pub fn run_options(&self) -> Option<&RunOptions<NoSelectedOutputs>> {
        self.0.run.as_ref()
    }
}

/// Why a clip could not be described.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Cancelled by a seek, a flush or the end of the pipeline.
    #[error("cancelled")]
    Cancelled,
    /// ONNX Runtime refused or failed a run.
    #[error("the {piece} piece failed on this clip: {source}")]
    Run {
        /// The piece of the pack.
        piece: String,
        /// What ONNX Runtime said.
        source: ort::Error,
    },
    /// A model answered in a shape that nobody expected.
    #[error("the {piece} piece answered with {found} where {expected} was expected; the model file does not fit")]
    Output {
        /// The piece of the pack.
        piece: String,
        /// What should have come.
        expected: String,
        /// What came.
        found: String,
    },
}

/// Why a pack, a piece of it or the runtime could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No ONNX Runtime library was found.
    #[error(
        "no ONNX Runtime library: tried {tried}; run 'describe models fetch', set the property runtime-path, or set ORT_DYLIB_PATH \
         to the full path of libonnxruntime.so (1.17 or newer)"
    )]
    NoRuntime {
        /// Paths that were tried and why each failed.
        tried: String,
    },
    /// ONNX Runtime was found but did not start.
    #[error("ONNX Runtime at {path} did not start: {reason}; give another library with runtime-path or ORT_DYLIB_PATH")]
    Runtime {
        /// The library.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A file of the pack cannot be read.
    #[error("cannot read {path}: {source}; run 'describe models fetch' or give another folder with model-path")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A text file of the pack does not hold what it should.
    #[error("{path} is not usable: {reason}; run 'describe models check' to see which files are broken")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// ONNX Runtime refused a model file.
    #[error("{path} is no model that ONNX Runtime can load: {reason}; run 'describe models fetch' to get it anew")]
    Model {
        /// The file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A model takes or gives something else than the piece needs.
    #[error("{path} does not fit the {piece} piece: {reason}")]
    Signature {
        /// The file.
        path: PathBuf,
        /// The piece of the pack.
        piece: String,
        /// What is missing or different.
        reason: String,
    },
    /// A file with weights of a model is missing or not where it may be.
    #[error(
        "{path} keeps its weights in '{file}', which cannot be used: {reason}; put the file beside the model, or fetch the \
         model anew"
    )]
    Weights {
        /// The ONNX file.
        path: PathBuf,
        /// The file of its weights, as it names it.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing of the pack could be loaded.
    #[error(
        "no piece of the pack in {path} is usable; run 'describe models fetch', or 'describe models check' to see why"
    )]
    Empty {
        /// The pack.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_shared_and_can_be_set_back() {
        let cancel = Cancel::default();
        let other = cancel.clone();
        other.cancel();
        assert!(matches!(cancel.check(), Err(DescribeError::Cancelled)));
        cancel.resume();
        assert!(other.check().is_ok());
    }
}
