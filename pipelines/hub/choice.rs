//! Which files of a published folder are needed: the text files, and of every session the one file that was chosen.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde_json::Value;

use crate::exit::{Exit, Failure};

/// Numeric formats and the ends of their file names, as Transformers.js publishes them (`utils/dtypes.js` of 4.3.1);
/// the one to take comes first where nothing is asked: the smallest that answers well.
const DTYPES: [(&str, &str); 12] = [
    ("q4f16", "_q4f16"),
    ("q4", "_q4"),
    ("q8", "_quantized"),
    ("int8", "_int8"),
    ("fp16", "_fp16"),
    ("fp32", ""),
    ("uint8", "_uint8"),
    ("bnb4", "_bnb4"),
    ("q2f16", "_q2f16"),
    ("q2", "_q2"),
    ("q1f16", "_q1f16"),
    ("q1", "_q1"),
];

/// Text files in the root of a published folder.
const TEXTS: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "README.md",
];

/// A numeric format: its place in [`DTYPES`], so that less is taken sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dtype(usize);

impl Dtype {
    /// Its name, like `q4f16`.
    pub fn name(self) -> &'static str {
        DTYPES.get(self.0).map_or("", |(name, _)| name)
    }

    fn all() -> impl Iterator<Item = (Self, &'static str)> {
        DTYPES.iter().enumerate().map(|(rank, (_, suffix))| (Self(rank), *suffix))
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text == "quantized" { "q8" } else { text };
        let names = DTYPES.map(|(name, _)| name);
        let found = names.iter().position(|name| *name == text).map(Self);
        found.ok_or_else(|| format!("'{text}' is no dtype; there are {}", names.join(", ")))
    }
}

/// What `--dtype` asks for: `q4f16`, or `SESSION=DTYPE` joined by commas, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    rest: Option<Dtype>,
    of: BTreeMap<String, Dtype>,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for item in text.split(',').map(str::trim) {
            let twice = match item.split_once('=') {
                Some((session, dtype)) => asked.of.insert(session.trim().to_owned(), dtype.trim().parse()?).is_some(),
                None => asked.rest.replace(item.parse()?).is_some(),
            };
            if twice {
                return Err(format!("'{item}' asks twice for the same session"));
            }
        }
        Ok(asked)
    }
}

/// The file that is taken of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Base name of its files, like `vision_encoder`.
    pub name: String,
    /// Its format.
    pub dtype: Dtype,
    /// Paths of the graph and of its external data.
    pub files: Vec<String>,
}

/// What is taken of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Paths of text files in the root.
    pub texts: Vec<String>,
    /// The sessions, by name.
    pub sessions: Vec<Session>,
    /// Names of sessions that are not needed beside the others.
    pub left_out: Vec<String>,
}

impl Choice {
    /// Every path that is taken.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        self.texts.iter().chain(self.sessions.iter().flat_map(|session| &session.files))
    }
}

/// Chooses from the `paths` of a repository.
///
/// The format of a session is the one asked for; else the one that `transformers.js_config.dtype` of `config` names, if
/// it exists; else the first of [`DTYPES`] that exists.
pub fn choose(paths: &BTreeSet<&str>, asked: &Asked, config: &Value) -> Result<Choice, Failure> {
    let found = sessions(paths);
    let fail = |exit, message: String| Err(Failure::new(exit, message));
    if found.is_empty() {
        return fail(
            Exit::BadInput,
            "it has no ONNX files in the folder onnx/; choose a repository that is published for ONNX Runtime or \
             Transformers.js"
                .into(),
        );
    }
    if let Some(unknown) = asked.of.keys().find(|name| !found.contains_key(name.as_str())) {
        let names: Vec<_> = found.keys().copied().collect();
        return fail(Exit::Usage, format!("it has no session '{unknown}'; its sessions are {}", names.join(", ")));
    }
    let mut choice = Choice { texts: texts(paths), ..Choice::default() };
    for (name, files) in &found {
        if !asked.of.contains_key(*name) && is_spare(name, &found) {
            choice.left_out.push((*name).to_owned());
            continue;
        }
        let wanted = asked.of.get(*name).copied().or(asked.rest);
        let configured = configured(config, name).filter(|dtype| files.contains_key(dtype));
        let dtype = wanted.or(configured).or(files.keys().next().copied()).unwrap_or(Dtype(0));
        let Some(graph) = files.get(&dtype) else {
            let there: Vec<_> = files.keys().map(|dtype| dtype.name()).collect();
            return fail(
                Exit::Usage,
                format!(
                    "its session {name} is not there as {}, only as {}; ask for one of these with \
                     --dtype {name}={}",
                    dtype.name(),
                    there.join(", "),
                    there.first().unwrap_or(&"")
                ),
            );
        };
        choice.sessions.push(Session { name: (*name).to_owned(), dtype, files: with_data(graph, paths) });
    }
    Ok(choice)
}

/// The graphs in `onnx/`, by session and format.
fn sessions<'p>(paths: &BTreeSet<&'p str>) -> BTreeMap<&'p str, BTreeMap<Dtype, &'p str>> {
    let mut found: BTreeMap<&str, BTreeMap<Dtype, &str>> = BTreeMap::new();
    for path in paths {
        let Some(stem) = path.strip_prefix("onnx/").and_then(|name| name.strip_suffix(".onnx")) else { continue };
        if is_plain(stem) {
            // The longest end counts: every name ends with that of fp32, which is empty.
            let ends = Dtype::all().filter_map(|(dtype, suffix)| Some((stem.strip_suffix(suffix)?, dtype)));
            if let Some((name, dtype)) = ends.min_by_key(|(name, _)| name.len()).filter(|(name, _)| !name.is_empty()) {
                found.entry(name).or_default().insert(dtype, path);
            }
        }
    }
    found
}

/// Whether a session is another form of what the others do: the parts of a merged decoder, the whole of a model that is
/// also there in two towers, or a variant such as `model_O2` beside `model`.
fn is_spare<V>(name: &str, all: &BTreeMap<&str, V>) -> bool {
    let has = |name| all.contains_key(name);
    match name {
        "decoder_model_merged" => false,
        "decoder_model" | "decoder_with_past_model" => has("decoder_model_merged"),
        "model" => has("text_model") && (has("vision_model") || has("audio_model")),
        _ => all.keys().any(|other| name.strip_prefix(other).is_some_and(|rest| rest.starts_with('_'))),
    }
}

fn configured(config: &Value, session: &str) -> Option<Dtype> {
    let dtype = config.get("transformers.js_config")?.get("dtype")?;
    dtype.as_str().or_else(|| dtype.get(session)?.as_str())?.parse().ok()
}

/// The graph and its external data: `X.onnx_data`, `X.onnx_data_1` and so on.
fn with_data(graph: &str, paths: &BTreeSet<&str>) -> Vec<String> {
    let is_data = |path: &str| {
        let rest = path.strip_prefix(graph).and_then(|rest| rest.strip_prefix("_data"));
        rest.is_some_and(|rest| {
            let number = rest.strip_prefix('_').unwrap_or("x");
            rest.is_empty() || number.bytes().all(|digit| digit.is_ascii_digit()) && !number.is_empty()
        })
    };
    paths.iter().filter(|path| **path == graph || is_data(path)).map(|path| (*path).to_owned()).collect()
}

fn texts(paths: &BTreeSet<&str>) -> Vec<String> {
    let is_text = |path: &str| TEXTS.contains(&path) || path.starts_with("LICENSE") && is_plain(path);
    paths.iter().filter(|path| is_text(path)).map(|path| (*path).to_owned()).collect()
}

/// Whether a name needs no escape in a URL; no published file needs one.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn chosen(paths: &[&str], asked: &str, config: Value) -> Result<Vec<String>, Failure> {
        let asked = if asked.is_empty() { Asked::default() } else { asked.parse().unwrap() };
        let choice = choose(&paths.iter().copied().collect(), &asked, &config)?;
        Ok(choice.paths().cloned().collect())
    }

    const GEMMA: [&str; 14] = [
        ".gitattributes",
        "config.json",
        "LICENSE.txt",
        "model.safetensors",
        "onnx/decoder_model_merged.onnx",
        "onnx/decoder_model_merged.onnx_data",
        "onnx/decoder_model_merged.onnx_data_1",
        "onnx/decoder_model_merged_q4f16.onnx",
        "onnx/decoder_model_merged_q4f16.onnx_data",
        "onnx/embed_tokens_int8.onnx",
        "onnx/embed_tokens_quantized.onnx",
        "onnx/vision_encoder_fp16.onnx",
        "onnx/vision_encoder.onnx",
        "onnx/vision_encoder.onnx_data_x",
    ];

    #[test]
    fn asked_then_configured_then_the_first_that_exists() {
        let texts = ["LICENSE.txt", "config.json"];
        let chosen = |asked, config| chosen(&GEMMA, asked, config).map(|files| files[2..].to_vec()).unwrap();
        let first = [
            "onnx/decoder_model_merged_q4f16.onnx",
            "onnx/decoder_model_merged_q4f16.onnx_data",
            "onnx/embed_tokens_quantized.onnx",
            "onnx/vision_encoder_fp16.onnx",
        ];
        assert_eq!(chosen("", Value::Null), first);
        assert_eq!(super::texts(&GEMMA.into()), texts);
        let config = json!({"transformers.js_config": {"dtype": {"embed_tokens": "int8", "vision_encoder": "q4"}}});
        assert_eq!(chosen("", config.clone())[2..], ["onnx/embed_tokens_int8.onnx", "onnx/vision_encoder_fp16.onnx"]);
        let files = chosen("decoder_model_merged=fp32,embed_tokens=quantized, vision_encoder = fp32", config);
        let fp32 =
            ["onnx/decoder_model_merged.onnx", GEMMA[5], GEMMA[6], "onnx/embed_tokens_quantized.onnx", GEMMA[12]];
        assert_eq!(files, fp32);
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let refused = |asked: &str| chosen(&GEMMA, asked, Value::Null).unwrap_err();
        let error = refused("q4f16");
        assert_eq!(error.exit, Exit::Usage);
        for words in ["embed_tokens is not there as q4f16, only as q8, int8", "--dtype embed_tokens=q8"] {
            assert!(error.message.contains(words), "{error}");
        }
        assert!(refused("audio_encoder=q4").message.contains("decoder_model_merged, embed_tokens, vision_encoder"));
        assert_eq!(chosen(&["config.json", "model.onnx"], "", Value::Null).unwrap_err().exit, Exit::BadInput);
        for (wrong, words) in [("q5", "'q5' is no dtype; there are q4f16"), ("q4,q8", "twice"), ("a=q4,a=q8", "twice")]
        {
            assert!(wrong.parse::<Asked>().unwrap_err().contains(words));
        }
    }

    #[test]
    fn other_forms_of_a_session_stay_away_unless_asked_for() {
        let whisper =
            ["onnx/decoder_model.onnx", "onnx/decoder_with_past_model_q4.onnx", "onnx/decoder_model_merged.onnx"];
        assert_eq!(chosen(&whisper, "", Value::Null).unwrap(), [whisper[2]]);
        assert_eq!(chosen(&whisper, "decoder_model=fp32", Value::Null).unwrap(), [whisper[0], whisper[2]]);
        let clip =
            ["onnx/model.onnx", "onnx/text_model_q4.onnx", "onnx/vision_model.onnx", "onnx/vision_model_O3.onnx"];
        assert_eq!(chosen(&clip, "", Value::Null).unwrap(), [clip[1], clip[2]]);
        let embedder = ["onnx/model.onnx", "onnx/model_qint8_avx512.onnx", "onnx/vision_encoder.onnx"];
        assert_eq!(chosen(&embedder, "", Value::Null).unwrap(), [embedder[0], embedder[2]]);
    }

    proptest! {
        /// Whatever a repository holds: one graph of each session, with all of its data and no other.
        #[test]
        fn one_graph_of_each_session(
            held in prop::collection::btree_map("[a-z]{1,4}_encoder", prop::collection::btree_set(0..DTYPES.len(), 1..5), 1..4),
            parts in 0usize..3,
        ) {
            let mut paths = BTreeSet::new();
            for (name, dtypes) in &held {
                for dtype in dtypes {
                    let graph = format!("onnx/{name}{}.onnx", DTYPES[*dtype].1);
                    paths.extend((0..parts).map(|part| match part {
                        0 => format!("{graph}_data"),
                        part => format!("{graph}_data_{part}"),
                    }));
                    paths.insert(graph);
                }
            }
            let paths: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
            let choice = choose(&paths, &Asked::default(), &Value::Null).unwrap();
            let names: Vec<_> = choice.sessions.iter().map(|session| &session.name).collect();
            prop_assert_eq!(names, held.keys().collect::<Vec<_>>());
            for session in &choice.sessions {
                let best = held[&session.name].first().copied().unwrap();
                prop_assert_eq!(session.dtype, Dtype(best));
                let graph = format!("onnx/{}{}.onnx", session.name, DTYPES[best].1);
                prop_assert_eq!(session.files.len(), parts + 1);
                prop_assert!(session.files.iter().all(|file| file.starts_with(&graph)));
            }
        }
    }
}
