//! What the classes of YAMNet are called and how they hang together.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;

use crate::{LoadError, experts::files};

/// Classes of AudioSet that YAMNet tells apart.
pub const CLASSES: usize = 521;
/// Largest label file that is read, in bytes; ours has 80 thousand.
const MAX_BYTES: u64 = 1 << 20;
/// Kinds that are no sound events: speech has its own piece.
const UNSAID_KINDS: [&str; 3] = ["speech", "room", "silence"];

#[derive(Deserialize)]
struct LabelFile {
    classes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    label: String,
    name: String,
    clause: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    generic: bool,
    #[serde(default)]
    parents: Vec<String>,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoundClass {
    /// Natural English noun phrase.
    pub name: String,
    /// Natural English clause in the present tense.
    pub clause: String,
    /// Whether it says something on its own.
    pub said: bool,
    /// Every class that means the same or more, by index.
    pub ancestors: BTreeSet<usize>,
    /// Classes with the same number are so alike that only one of them is said at a time.
    pub likeness: usize,
}

/// The classes of a model, in the order of its scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoundLabels(Vec<SoundClass>);

impl SoundLabels {
    /// Reads the label file of the pack, which must name [`CLASSES`] classes.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::Format { path: path.to_owned(), reason };
        let labels = Self::parse(&files::read(path, MAX_BYTES)?).map_err(wrong)?;
        if labels.0.len() == CLASSES {
            Ok(labels)
        } else {
            Err(wrong(format!("it names {} classes, the model has {CLASSES}", labels.0.len())))
        }
    }

    /// Labels from JSON; an error says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let entries = serde_json::from_slice::<LabelFile>(json).map_err(|error| error.to_string())?.classes;
        let index: BTreeMap<&str, usize> = entries.iter().enumerate().map(|(i, e)| (e.label.as_str(), i)).collect();
        let mut alike = BTreeMap::new();
        let mut likeness = |key: &str| {
            let next = alike.len();
            *alike.entry(key.to_owned()).or_insert(next)
        };
        let classes = entries.iter().map(|entry| {
            let ancestor = |label: &String| {
                index
                    .get(label.as_str())
                    .copied()
                    .ok_or_else(|| format!("'{}' has the unknown parent '{label}'", entry.label))
            };
            Ok(SoundClass {
                name: entry.name.clone(),
                clause: entry.clause.clone(),
                said: !entry.generic && !entry.clause.is_empty() && !UNSAID_KINDS.contains(&entry.kind.as_str()),
                ancestors: entry.parents.iter().map(ancestor).collect::<Result<_, String>>()?,
                // English names end with what the thing is: "rock music" and "pop music" are one event.
                likeness: likeness(entry.name.rsplit(' ').next().unwrap_or_default()),
            })
        });
        Ok(Self(classes.collect::<Result<_, String>>()?))
    }

    /// The classes in the order of the scores.
    pub fn classes(&self) -> &[SoundClass] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_of_the_pack_are_usable() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lite/sounds.json");
        if !path.is_file() {
            eprintln!("SKIPPED: {} is not there yet", path.display());
            return;
        }
        let labels = SoundLabels::load(&path).unwrap();
        let find = |name: &str| labels.classes().iter().position(|class| class.name == name).unwrap();
        let (dog, bark, speech) = (find("dog"), find("barking"), find("speech"));
        assert!(labels.classes()[bark].ancestors.contains(&dog));
        assert!(labels.classes()[bark].said && !labels.classes()[speech].said);
        assert_eq!(labels.classes()[find("rock music")].likeness, labels.classes()[find("pop music")].likeness);
    }

    #[test]
    fn wrong_labels_are_refused() {
        for json in ["", "{}", r#"{"classes":[{"label":"a"}]}"#] {
            assert!(SoundLabels::parse(json.as_bytes()).is_err());
        }
        let orphan = r#"{"classes":[{"label":"a","name":"a","clause":"a","parents":["b"]}]}"#;
        assert_eq!(SoundLabels::parse(orphan.as_bytes()), Err("'a' has the unknown parent 'b'".into()));
    }
}
