//! Generator packs: published audio-vision-language models in the layout of Hugging Face's ONNX folders.
//!
//! The way of a clip: frames become pixels ([`picture`]) and sound becomes log-mel features ([`sound`]), encoders make
//! soft tokens of them, the prompt puts those among its text in order of time, one decoder reads all of it, and what it
//! may answer is held to a schema ([`grammar`]) until the answer is observations ([`answer`]).
//! Everything about a model is read from its folder; nothing here knows the sizes of any one model.

pub mod answer;
mod batch;
pub mod check;
pub mod choice;
pub mod decoder;
pub mod describer;
pub mod encoder;
mod fields;
pub mod folder;
pub mod generate;
pub mod grammar;
pub mod picture;
pub mod profile;
pub mod prompt;
pub mod sound;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
