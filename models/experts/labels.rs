//! The words for the classes of the picture tagger, with their articles and the groups that they belong to.

use std::{collections::BTreeMap, collections::HashMap, path::Path};

use serde::Deserialize;

use crate::{describer::LoadError, experts::files};

/// Largest label file that is read; the pack's own has 66 kB.
const MAX_FILE: u64 = 4 << 20;

/// A class of the tagger.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageClass {
    /// Natural English name, as inside a sentence.
    pub name: String,
    /// "a", "an", or nothing for plurals and masses.
    pub article: String,
    /// Name of its group; `None` where no general word makes sense.
    pub group: Option<String>,
}

/// A general word for several classes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageGroup {
    /// "a", "an", or nothing.
    pub article: String,
    /// The word, as inside a sentence.
    pub phrase: String,
}

/// Words for all classes of the tagger, in the order of its outputs.
#[derive(Debug, Clone, Default)]
pub struct ImageLabels {
    classes: Vec<ImageClass>,
    groups: BTreeMap<String, ImageGroup>,
    index: HashMap<String, usize>,
}

impl ImageLabels {
    /// Reads `path`, which must name exactly `count` classes; their groups must be there.
    pub fn load(path: &Path, count: usize) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Contents {
            classes: Vec<ImageClass>,
            groups: BTreeMap<String, ImageGroup>,
        }
        let wrong = |reason: String| LoadError::Format { path: path.to_owned(), reason };
        let Contents { classes, groups } =
            serde_json::from_slice(&files::read(path, MAX_FILE)?).map_err(|error| wrong(error.to_string()))?;
        if classes.len() != count {
            return Err(wrong(format!("it names {} classes, the model has {count}", classes.len())));
        }
        if let Some(class) = classes.iter().find(|class| class.group.as_ref().is_some_and(|g| !groups.contains_key(g)))
        {
            return Err(wrong(format!("the class '{}' is in a group that is not there", class.name)));
        }
        let index = classes.iter().enumerate().map(|(i, class)| (class.name.clone(), i)).collect();
        Ok(Self { classes, groups, index })
    }

    /// All classes, in the order of the tagger's outputs.
    pub fn classes(&self) -> &[ImageClass] {
        &self.classes
    }

    /// The class called `name`.
    pub fn class(&self, name: &str) -> Option<&ImageClass> {
        self.index.get(name).and_then(|&i| self.classes.get(i))
    }

    /// The group of the class called `name`.
    pub fn group_of(&self, name: &str) -> Option<&ImageGroup> {
        self.groups.get(self.class(name)?.group.as_deref()?)
    }
}

/// `name` behind its `article`, where it has one.
pub fn with_article(article: &str, name: &str) -> String {
    if article.is_empty() { name.to_owned() } else { format!("{article} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, count: usize) -> Result<ImageLabels, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.json");
        std::fs::write(&path, text).unwrap();
        ImageLabels::load(&path, count)
    }

    const TWO: &str = r#"{"groups": {"dog": {"article": "a", "phrase": "dog"}}, "classes": [
        {"name": "Afghan hound", "article": "an", "group": "dog"}, {"name": "sand", "article": "", "group": null}]}"#;

    #[test]
    fn a_class_is_found_with_its_group() {
        let labels = load(TWO, 2).unwrap();
        assert_eq!(labels.group_of("Afghan hound").unwrap().phrase, "dog");
        assert_eq!(labels.group_of("sand"), None);
        assert_eq!(labels.class("nothing"), None);
        let class = labels.class("Afghan hound").unwrap();
        assert_eq!(with_article(&class.article, &class.name), "an Afghan hound");
        assert_eq!(with_article("", "sand"), "sand");
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        for (text, count, says) in [
            (TWO, 1000, "names 2 classes, the model has 1000"),
            ("[]", 2, "not usable"),
            (r#"{"groups": {}, "classes": [{"name": "x", "article": "a", "group": "y"}]}"#, 1, "'x' is in a group"),
        ] {
            let error = load(text, count).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_words_of_the_default_pack_fit_the_model() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("lite/images.json");
        if !path.is_file() {
            eprintln!("SKIPPED: {} is not there", path.display());
            return;
        }
        let labels = ImageLabels::load(&path, 1000).unwrap();
        assert_eq!(labels.group_of("German shepherd").unwrap().phrase, "dog");
    }
}
