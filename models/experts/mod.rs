//! Experts: small single-purpose models. Each says what it knows; what it says is also evidence for the captions.

mod cuts;
#[cfg(test)]
mod eyes_tests;
pub mod files;
mod frames;
pub mod labels;
mod lines;
pub mod mel;
mod outputs;
pub mod pairs;
pub mod people;
pub mod pixels;
pub mod shots;
pub mod sounds;
pub mod speech;
pub mod tags;
pub mod tape;
#[cfg(test)]
mod testing;
pub mod text;
pub mod voice;

use std::{collections::BTreeMap, path::PathBuf};

use crate::{Cancel, Clip, DescribeError, LoadError, Observation, caption::Names, runtime::RunSettings};

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

/// The expert for the piece called `piece`, from its files by role and its settings.
pub fn build(
    piece: &str,
    files: &BTreeMap<String, PathBuf>,
    settings: &serde_json::Value,
    run: &RunSettings,
) -> Result<Box<dyn Expert>, LoadError> {
    Ok(match piece {
        "shots" => Box::new(shots::Shots::load(files, settings, run)?),
        "tags" => Box::new(tags::Tags::load(files, settings, run)?),
        "people" => Box::new(people::People::load(files, settings, run)?),
        "text" => Box::new(text::Text::load(files, settings, run)?),
        "sounds" => Box::new(sounds::Sounds::load(files, settings, run)?),
        "speech" => Box::new(speech::Speech::load(files, settings, run)?),
        _ => {
            return Err(LoadError::Signature {
                path: files.values().next().cloned().unwrap_or_default(),
                piece: piece.to_owned(),
                reason: "this version has no expert for it".to_owned(),
            });
        }
    })
}

/// The words for the classes of the tags piece, from its files by role.
pub fn names(files: &BTreeMap<String, PathBuf>) -> Result<Box<dyn Names>, LoadError> {
    let labels = labels::ImageLabels::load(files::role("tags", files, "labels")?, tags::CLASSES)?;
    Ok(Box::new(labels))
}

impl Names for labels::ImageLabels {
    fn article(&self, class: &str) -> Option<&str> {
        self.class(class).map(|class| class.article.as_str())
    }

    fn group_of(&self, class: &str) -> Option<(&str, &str)> {
        self.group_of(class).map(|group| (group.article.as_str(), group.phrase.as_str()))
    }
}

/// Knows no class; stands in where there is no tags piece.
#[derive(Debug, Clone, Copy)]
pub struct NoNames;

impl Names for NoNames {
    fn article(&self, _class: &str) -> Option<&str> {
        None
    }

    fn group_of(&self, _class: &str) -> Option<(&str, &str)> {
        None
    }
}
