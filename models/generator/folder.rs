//! A published folder: which files it has, which of them are taken, and what its JSON says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{LoadError, pack};

/// Largest JSON or template file that is read, in bytes; the largest published tokenizer.json has 35 MB.
const MAX_TEXT: u64 = 1 << 20;
const MAX_TOKENIZER: u64 = 256 << 20;
/// Most files of `onnx/` that are looked at.
const MAX_FILES: usize = 10_000;

/// Words for the number formats of a session's weights, and the endings of their files (Transformers.js `utils/dtypes.js`).
///
/// In the order in which they are taken where nothing else is asked for: what fits in memory first.
pub const DTYPES: [(&str, &str); 12] = [
    ("q4f16", "_q4f16"),
    ("q4", "_q4"),
    ("q8", "_quantized"),
    ("int8", "_int8"),
    ("uint8", "_uint8"),
    ("fp16", "_fp16"),
    ("fp32", ""),
    ("bnb4", "_bnb4"),
    ("q2f16", "_q2f16"),
    ("q2", "_q2"),
    ("q1f16", "_q1f16"),
    ("q1", "_q1"),
];

/// What an optional `describe.json` beside a published model may set; every member may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Name in the `source` of observations; the folder's name without it.
    pub name: Option<String>,
    /// Version, told by `describe inspect`.
    pub version: Option<String>,
    /// What the model is told to be, in the system turn.
    pub system: Option<String>,
    /// What is asked about each clip.
    pub prompt: Option<String>,
    /// JSON schema of the answer.
    pub schema: Option<Value>,
    /// Frames of a clip.
    pub frames: Option<u32>,
    /// Number format by session, or for all of them.
    pub dtype: Option<Dtypes>,
    /// Text around the soft tokens of a picture or a sound, such as two line feeds.
    pub wrapper: Option<String>,
    /// Whether the times of answers count from the start of the stream instead of from the start of the clip.
    pub stream_times: bool,
    /// Longest side of frames, in pixels.
    pub max_size: Option<u32>,
    /// Probability from which a label is said, 0 to 1; only of pairs such as CLIP.
    pub threshold: Option<f32>,
    /// What the cosines of a pair are multiplied with.
    pub logit_scale: Option<f32>,
    /// What is added to them then.
    pub logit_bias: Option<f32>,
}

/// Number formats that are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Dtypes {
    /// The same for every session.
    All(String),
    /// One for each session by its name, such as `decoder_model_merged`.
    Each(BTreeMap<String, String>),
}

impl Dtypes {
    /// Reads `q4f16` or `decoder_model_merged=q4f16,embed_tokens=int8`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = |word: &str| match DTYPES.iter().any(|(name, _)| *name == word) {
            true => Ok(word.to_owned()),
            false => {
                let names: Vec<&str> = DTYPES.iter().map(|(name, _)| *name).collect();
                Err(format!("'{word}' is no number format; use one of {}", names.join(", ")))
            }
        };
        if !text.contains('=') {
            return known(text.trim()).map(Self::All);
        }
        let each = text.split(',').map(|part| match part.split_once('=') {
            Some((session, word)) => Ok((session.trim().to_owned(), known(word.trim())?)),
            None => Err(format!("'{part}' does not say which session; write SESSION=FORMAT")),
        });
        each.collect::<Result<_, String>>().map(Self::Each)
    }

    fn of(&self, session: &str) -> Option<&str> {
        match self {
            Self::All(word) => Some(word),
            Self::Each(each) => each.get(session).map(String::as_str),
        }
    }
}

/// The files of a published model.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// `config.json`.
    pub config: Value,
    /// `generation_config.json`; null where there is none.
    pub generation: Value,
    /// `processor_config.json`; null where there is none.
    pub processor: Value,
    /// `preprocessor_config.json`; null where there is none.
    pub preprocessor: Value,
    /// `tokenizer_config.json`; null where there is none.
    pub tokenizer: Value,
    /// `describe.json`.
    pub overrides: Overrides,
    /// `config.json`'s `model_type`.
    pub model_type: String,
    /// Names of the ONNX files in `onnx/`, without `.onnx`.
    stems: BTreeSet<String>,
}

impl Folder {
    /// Whether `path` looks like a published model: a config.json and ONNX files in `onnx/`.
    pub fn is_one(path: &Path) -> bool {
        path.join("config.json").exists() && path.join("onnx").is_dir()
    }

    /// Reads the JSON files of the folder and the list of its models.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let config: Value = json(&path.join("config.json"))?;
        let wrong = |reason: &str| LoadError::Format { path: path.join("config.json"), reason: reason.to_owned() };
        let model_type = config.get("model_type").and_then(Value::as_str).map(str::to_owned);
        let model_type = model_type.or_else(|| named_by_architecture(&config)).ok_or_else(|| {
            wrong("it names neither a model_type nor one in 'architectures', so nobody can tell what model this is")
        })?;
        let optional = |name: &str| match path.join(name) {
            file if file.exists() => json(&file),
            _ => Ok(Value::Null),
        };
        let overrides = match path.join(pack::MANIFEST) {
            file if file.exists() => serde_json::from_value(json(&file)?)
                .map_err(|error| LoadError::Format { path: file, reason: error.to_string() })?,
            _ => Overrides::default(),
        };
        Ok(Self {
            generation: optional("generation_config.json")?,
            processor: optional("processor_config.json")?,
            preprocessor: optional("preprocessor_config.json")?,
            tokenizer: optional("tokenizer_config.json")?,
            overrides,
            model_type,
            config,
            stems: stems(&path.join("onnx"))?,
            path: path.to_owned(),
        })
    }

    /// The name of the model in observations: letters of the folder's name, or what describe.json says.
    pub fn name(&self) -> String {
        let own = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.overrides.name.clone().or(own).unwrap_or_else(|| self.model_type.clone())
    }

    /// Whether the folder has any file for `session`, whatever its number format.
    pub fn has(&self, session: &str) -> bool {
        DTYPES.iter().any(|(_, ending)| self.stems.contains(&format!("{session}{ending}")))
    }

    /// Names of all sessions that the folder has files for.
    pub fn sessions(&self) -> BTreeSet<String> {
        let base = |stem: &String| {
            let ending = DTYPES.iter().filter(|(_, ending)| !ending.is_empty() && stem.ends_with(ending));
            let longest = ending.map(|(_, ending)| ending.len()).max().unwrap_or(0);
            stem[..stem.len() - longest].to_owned()
        };
        self.stems.iter().map(base).collect()
    }

    /// The file of `session` in the number format that is `wanted`, else that of describe.json, else that of
    /// config.json's `transformers.js_config`, else the first of [`DTYPES`] that exists.
    pub fn model(&self, session: &str, wanted: Option<&Dtypes>) -> Result<PathBuf, LoadError> {
        let folder = self.path.join("onnx");
        let there: Vec<(&str, &str)> =
            DTYPES.into_iter().filter(|(_, ending)| self.stems.contains(&format!("{session}{ending}"))).collect();
        let file = |ending: &str| folder.join(format!("{session}{ending}.onnx"));
        if there.is_empty() {
            return Err(LoadError::Read {
                path: file(""),
                source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such file, in no number format"),
            });
        }
        let asked = wanted.or(self.overrides.dtype.as_ref()).and_then(|dtypes| dtypes.of(session));
        if let Some(word) = asked {
            let Some((_, ending)) = there.iter().find(|(name, _)| *name == word) else {
                let has: Vec<&str> = there.iter().map(|(name, _)| *name).collect();
                let reason = format!("it has no {session} in {word}; it has {}", has.join(", "));
                return Err(LoadError::Format { path: folder, reason });
            };
            return Ok(file(ending));
        }
        let published = self.config.pointer("/transformers.js_config/dtype").and_then(|dtype| match dtype {
            Value::String(word) => Some(word.as_str()),
            each => each.get(session)?.as_str(),
        });
        let published = published.and_then(|word| there.iter().find(|(name, _)| *name == word));
        Ok(file(published.unwrap_or(&there[0]).1))
    }

    /// The bytes of `tokenizer.json`.
    pub fn tokenizer_bytes(&self) -> Result<(PathBuf, Vec<u8>), LoadError> {
        let path = self.path.join("tokenizer.json");
        bytes(&path, MAX_TOKENIZER).map(|text| (path, text))
    }

    /// The chat template and the file it came from; `None` where there is none.
    pub fn template(&self) -> Result<Option<(PathBuf, String)>, LoadError> {
        let plain = self.path.join("chat_template.jinja");
        if plain.exists() {
            let text = bytes(&plain, MAX_TEXT)?;
            return Ok(Some((plain, String::from_utf8_lossy(&text).into_owned())));
        }
        let wrapped = self.path.join("chat_template.json");
        let (path, value) = match wrapped.exists() {
            true => (wrapped.clone(), json(&wrapped)?),
            false => (self.path.join("tokenizer_config.json"), self.tokenizer.clone()),
        };
        Ok(chosen_template(value.get("chat_template")).map(|text| (path, text)))
    }

    /// An object of the processor files, such as `image_processor`: in processor_config.json, else all of
    /// preprocessor_config.json.
    pub fn processor_part(&self, name: &str) -> Option<&Value> {
        self.processor.get(name).or_else(|| (!self.preprocessor.is_null()).then_some(&self.preprocessor))
    }

    /// Tokens at which an answer ends: `eos_token_id` of generation_config.json, else of config.json.
    pub fn stop_ids(&self) -> Vec<u32> {
        let configs = [
            self.generation.get("eos_token_id"),
            self.config.get("eos_token_id"),
            self.config.pointer("/text_config/eos_token_id"),
        ];
        let ids = configs.into_iter().flatten().find(|value| !value.is_null());
        match ids {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).take(64).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A number of config.json that may stand at the top or in `text_config`.
    pub fn number(&self, name: &str) -> Option<u64> {
        let places = [self.config.get(name), self.config.get("text_config").and_then(|text| text.get(name))];
        places.into_iter().flatten().find_map(Value::as_u64)
    }
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// `smolvlm` of `SmolVLMForConditionalGeneration`.
fn named_by_architecture(config: &Value) -> Option<String> {
    let name = config.get("architectures")?.get(0)?.as_str()?;
    let end = name.find("For").or_else(|| name.find("Model")).unwrap_or(name.len());
    Some(name[..end].to_lowercase()).filter(|name| !name.is_empty())
}

/// A template, or the one named `default` of several.
fn chosen_template(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(several) => {
            let named = |name: &str| several.iter().find(|one| one.get("name").and_then(Value::as_str) == Some(name));
            Some(named("default").or_else(|| several.first())?.get("template")?.as_str()?.to_owned())
        }
        _ => None,
    }
}

/// Names of the `.onnx` files in `folder`, without the ending.
fn stems(folder: &Path) -> Result<BTreeSet<String>, LoadError> {
    let unreadable = |source| LoadError::Read { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(unreadable)?.take(MAX_FILES);
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(".onnx").map(str::to_owned)).collect())
}

fn json(path: &Path) -> Result<Value, LoadError> {
    serde_json::from_slice(&bytes(path, MAX_TEXT)?)
        .map_err(|error| LoadError::Format { path: path.to_owned(), reason: error.to_string() })
}

fn bytes(path: &Path, most: u64) -> Result<Vec<u8>, LoadError> {
    let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).map_err(unreadable)?.take(most + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > most {
        return Err(LoadError::Format { path: path.to_owned(), reason: format!("it has more than {most} bytes") });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(files: &[&str], config: Value) -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("onnx")).unwrap();
        for file in files {
            fs::write(place.path().join("onnx").join(file), b"").unwrap();
        }
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let folder = Folder::read(place.path()).unwrap();
        (place, folder)
    }

    fn taken(folder: &Folder, wanted: Option<&str>) -> String {
        let wanted = wanted.map(|text| Dtypes::parse(text).unwrap());
        let path = folder.model("decoder", wanted.as_ref()).unwrap();
        path.file_name().unwrap().to_string_lossy().into_owned()
    }

    #[test]
    fn the_number_format_is_the_asked_one_else_the_published_one_else_the_smallest() {
        let files = ["decoder.onnx", "decoder_q4.onnx", "decoder_q4f16.onnx", "decoder_fp16.onnx_data"];
        let (_place, plain) = folder(&files, json!({"model_type": "llama"}));
        assert_eq!(taken(&plain, None), "decoder_q4f16.onnx");
        assert_eq!(taken(&plain, Some("fp32")), "decoder.onnx");
        assert_eq!(taken(&plain, Some("vision=fp32,decoder=q4")), "decoder_q4.onnx");
        let config = json!({"model_type": "llama", "transformers.js_config": {"dtype": {"decoder": "q4"}}});
        let (_place, published) = folder(&files, config);
        assert_eq!(taken(&published, None), "decoder_q4.onnx");
        let error = plain.model("decoder", Some(&Dtypes::All("int8".into()))).unwrap_err().to_string();
        assert!(error.contains("no decoder in int8") && error.contains("q4f16, q4, fp32"), "{error}");
        assert!(Dtypes::parse("q5").unwrap_err().contains("q4f16"));
        assert_eq!(plain.sessions(), ["decoder".to_owned()].into());
    }

    #[test]
    fn a_config_without_model_type_is_read_by_its_architecture_or_refused() {
        let (_place, folder) = folder(&["a.onnx"], json!({"architectures": ["SmolVLMForConditionalGeneration"]}));
        assert_eq!(folder.model_type, "smolvlm");
        fs::write(folder.path.join("config.json"), "{}").unwrap();
        assert!(Folder::read(&folder.path).unwrap_err().to_string().contains("model_type"));
    }

    #[test]
    fn stop_ids_come_from_the_generation_config_first() {
        let (_place, mut folder) = folder(&["a.onnx"], json!({"model_type": "x", "eos_token_id": 7}));
        assert_eq!(folder.stop_ids(), [7]);
        folder.generation = json!({"eos_token_id": [1, 106, -4, "x"]});
        assert_eq!(folder.stop_ids(), [1, 106]);
    }
}
