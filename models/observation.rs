//! An observation: what is said about a span of stream time.

use std::{cmp::Ordering, fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// What sort of thing an observation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A sentence about picture and sound together.
    Caption,
    /// A shot, from cut to cut.
    Scene,
    /// A sound that was heard.
    Sound,
    /// Words that were said.
    Speech,
    /// Words that were written in the picture.
    Text,
    /// A thing that was seen.
    Object,
}

impl Kind {
    /// Every kind, in the order in which observations of the same start are sorted.
    pub const ALL: [Self; 6] = [Self::Caption, Self::Scene, Self::Sound, Self::Speech, Self::Text, Self::Object];

    /// The word used in JSON, properties and options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caption => "caption",
            Self::Scene => "scene",
            Self::Sound => "sound",
            Self::Speech => "speech",
            Self::Text => "text",
            Self::Object => "object",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind of observation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no kind of observation; use some of caption, scene, sound, speech, text, object")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// A class and how sure the model is of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// Natural English name.
    pub name: String,
    /// 0 to 1.
    pub confidence: f32,
}

/// What is said about a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// What sort of thing is said.
    pub kind: Kind,
    /// Where in stream time; flattened to `start_ns` and `end_ns`.
    #[serde(flatten)]
    pub span: Span,
    /// The words.
    pub text: String,
    /// 0 to 1.
    pub confidence: f32,
    /// The piece that said it, as `pack/piece`.
    pub source: String,
    /// Classes behind the words, surest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// ISO 639-1 code of spoken or written language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Where in the picture: left, top, right, bottom as parts of its width and height, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "box")]
    pub bounds: Option<[f32; 4]>,
    /// What a model made of the frame or the sound, of length 1, for search; in JSON base64 of little-endian f32.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "embedding")]
    pub embedding: Option<Vec<f32>>,
}

/// Embeddings in JSON.
mod embedding {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(values: &Option<Vec<f32>>, serializer: S) -> Result<S::Ok, S::Error> {
        match values {
            Some(values) => serializer.serialize_some(&super::base64_of(values)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<f32>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        super::from_base64(&text).map(Some).ok_or_else(|| D::Error::custom("embedding is no base64 of f32"))
    }
}

fn base64_of(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

fn from_base64(text: &str) -> Option<Vec<f32>> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    let (values, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

impl Observation {
    /// An observation without labels, language, place or embedding.
    pub fn new(kind: Kind, span: Span, text: impl Into<String>, confidence: f32, source: &str) -> Self {
        Self {
            kind,
            span,
            text: text.into(),
            confidence,
            source: source.to_owned(),
            labels: Vec::new(),
            language: None,
            bounds: None,
            embedding: None,
        }
    }

    /// The canonical order: by start, then kind, then end, then text; total, so that files come out the same each time.
    pub fn canonical_cmp(&self, other: &Self) -> Ordering {
        let key = |o: &Self| (o.span.start_ns, o.kind, o.span.end_ns);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.text.cmp(&other.text))
            .then_with(|| self.source.cmp(&other.source))
            .then_with(|| self.confidence.total_cmp(&other.confidence))
    }

    /// One line of JSON without the newline; confidences keep four digits.
    pub fn to_json(&self) -> String {
        let round = |value: f32| (f64::from(value) * 1e4).round() / 1e4;
        let mut value = serde_json::json!({
            "kind": self.kind,
            "start_ns": self.span.start_ns,
            "end_ns": self.span.end_ns,
            "text": self.text,
            "confidence": round(self.confidence),
            "source": self.source,
        });
        if !self.labels.is_empty() {
            value["labels"] = self
                .labels
                .iter()
                .map(|label| serde_json::json!({"name": label.name, "confidence": round(label.confidence)}))
                .collect();
        }
        if let Some(language) = &self.language {
            value["language"] = language.as_str().into();
        }
        if let Some(bounds) = self.bounds {
            value["box"] = bounds.map(round).to_vec().into();
        }
        if let Some(embedding) = self.embedding_base64() {
            value["embedding"] = embedding.into();
        }
        value.to_string()
    }

    /// The embedding as it stands in JSON.
    pub fn embedding_base64(&self) -> Option<String> {
        self.embedding.as_deref().map(base64_of)
    }

    /// An observation from a line of JSON, with its span set right.
    pub fn from_json(line: &str) -> Result<Self, serde_json::Error> {
        let mut observation: Self = serde_json::from_str(line)?;
        observation.span = Span::new(observation.span.start_ns, observation.span.end_ns);
        Ok(observation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_has_the_documented_fields() {
        let mut bark = Observation::new(Kind::Sound, Span::new(1, 2), "a \"dog\" barks", 0.875, "lite/sounds");
        bark.labels.push(Label { name: "dog bark".into(), confidence: 0.5 });
        let value: serde_json::Value = serde_json::from_str(&bark.to_json()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"kind": "sound", "start_ns": 1, "end_ns": 2, "text": "a \"dog\" barks",
                "confidence": 0.875, "source": "lite/sounds", "labels": [{"name": "dog bark", "confidence": 0.5}]})
        );
    }

    proptest! {
        #[test]
        fn json_round_trip(start in any::<u32>(), length in any::<u32>(), text in ".*", language in proptest::option::of("[a-z]{2}"),
                           kind in 0usize..6, confidence in 0u16..=10_000,
                           embedding in proptest::option::of(proptest::collection::vec(-1e9f32..1e9, 0..9))) {
            let span = Span::new(start.into(), u64::from(start) + u64::from(length));
            let mut said = Observation::new(Kind::ALL[kind], span, text, f32::from(confidence) / 1e4, "x");
            said.language = language;
            said.embedding = embedding;
            prop_assert_eq!(Observation::from_json(&said.to_json()).unwrap(), said);
        }

        #[test]
        fn any_line_is_parsed_or_refused(line in ".*") {
            let _ = Observation::from_json(&line);
        }
    }
}
