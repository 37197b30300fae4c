//! The shape that answers are held to: a JSON schema.

use std::{fs::File, io::Read, path::Path};

use serde_json::{Value, json};

use super::GrammarError;

/// Longest schema in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most events and most sounds in an answer.
const MAX_SPANS: u32 = 64;

/// A JSON schema that answers are held to, written without white space.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(Value);

impl Default for Schema {
    /// `{caption, events: [{start, end, text}], sounds: [{start, end, text}]}`: all required, in any order, nothing else.
    ///
    /// Times are seconds, 0 or more, without exponents. Texts have no greatest length: it would make masks ten times as
    /// slow, and the tokens of an answer bound it anyway.
    fn default() -> Self {
        let members = ["caption", "events", "sounds"];
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        // Members of an object are written in the order of the schema, so each order is one choice.
        let choices = orders.map(|order| {
            let names = order.map(|index| members[index]);
            let properties: serde_json::Map<String, Value> = names
                .iter()
                .map(|&name| {
                    let part = if name == "caption" { "#/$defs/caption" } else { "#/$defs/spans" };
                    (name.to_owned(), json!({ "$ref": part }))
                })
                .collect();
            json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
        });
        Self(json!({
            "anyOf": choices,
            "$defs": {
                "caption": {"type": "string"},
                "spans": {"type": "array", "maxItems": MAX_SPANS, "items": {
                    "type": "object",
                    "properties": {
                        "start": {"type": "number", "minimum": 0},
                        "end": {"type": "number", "minimum": 0},
                        "text": {"type": "string"},
                    },
                    "required": ["start", "end", "text"],
                    "additionalProperties": false,
                }},
            },
        }))
    }
}

impl Schema {
    /// A schema from the value of a setting: JSON where it starts with `{`, else the path of a file.
    pub fn load(setting: &str) -> Result<Self, GrammarError> {
        if setting.trim_start().starts_with('{') { Self::parse(setting) } else { Self::read(Path::new(setting)) }
    }

    /// A schema from its text, at most 1 MiB.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        if text.len() as u64 > MAX_BYTES {
            return Err(GrammarError::Schema(format!("it is longer than {MAX_BYTES} bytes")));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| GrammarError::Schema(error.to_string()))?;
        if !value.is_object() {
            return Err(GrammarError::Schema("it is no JSON object".into()));
        }
        Ok(Self(value))
    }

    /// A schema from a file of at most 1 MiB.
    pub fn read(path: &Path) -> Result<Self, GrammarError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
            .map_err(|source| GrammarError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// The schema as JSON.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The schema with the options of the grammar crate: compact JSON, one spelling for each string.
    ///
    /// Without `\u` escapes a member's name has one spelling, so that no extra member can repeat a declared one.
    pub(super) fn compact(&self) -> Value {
        let mut value = self.0.clone();
        value["x-guidance"] = json!({
            "whitespace_flexible": false, "item_separator": ",", "key_separator": ":", "json_allowed_escapes": "nrbtf\\\"",
        });
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_json_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schema.json");
        std::fs::write(&path, r#"{"type": "string"}"#).unwrap();
        assert_eq!(Schema::load(path.to_str().unwrap()).unwrap(), Schema::load(r#" {"type": "string"}"#).unwrap());
        let missing = Schema::load("no/such/schema.json").unwrap_err().to_string();
        assert!(missing.contains("no/such/schema.json"), "{missing}");
        for bad in ["{", "{}}", "{\"a\":1e999}"] {
            assert!(matches!(Schema::load(bad), Err(GrammarError::Schema(_))), "{bad}");
        }
        assert!(matches!(Schema::parse(&format!("{{{}}}", " ".repeat(1 << 20))), Err(GrammarError::Schema(_))));
        assert!(matches!(Schema::parse("[]"), Err(GrammarError::Schema(_))));
        std::fs::write(&path, vec![b' '; 1 << 21]).unwrap();
        assert!(matches!(Schema::read(&path), Err(GrammarError::Schema(_))));
    }
}
