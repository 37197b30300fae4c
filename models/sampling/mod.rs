//! Cutting two streams into clips: which frames, which samples, where. Pure: times in, clips out.
//!
//! [`frames`] chooses frames, [`sound`] places samples, [`assembler`] joins both into [`crate::Clip`]s.

pub mod assembler;
pub mod frames;
pub mod sound;

pub use assembler::{Assembler, ClipPlan, Counts};
pub use frames::Candidate;
