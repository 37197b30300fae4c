//! The properties of the element and what they ask of a pack.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use describe_models::{
    Kind,
    generator::{
        choice::Sampling,
        describer::{self, Wishes},
        folder::Dtypes,
    },
    observation::UnknownKind,
    runtime::{Provider, RunSettings},
};
use gst::glib;

/// Kinds of observation that are made unless others are asked for.
pub const DEFAULT_KINDS: &str = "caption,scene,sound,speech";
/// Threads of one model.
pub const DEFAULT_THREADS: u32 = 2;
/// Declared latency: a clip of 4 s is described in well under 2 s on two cores.
pub const DEFAULT_LATENCY: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// The hardware that runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstClipDescriberExecutionProvider")]
pub enum ExecutionProvider {
    /// CUDA where it works, else the processor.
    #[default]
    #[enum_value(name = "CUDA where it works, else the processor", nick = "auto")]
    Auto,
    /// The processor.
    #[enum_value(name = "Processor", nick = "cpu")]
    Cpu,
    /// NVIDIA graphics by CUDA.
    #[enum_value(name = "NVIDIA CUDA", nick = "cuda")]
    Cuda,
    /// NVIDIA graphics by TensorRT, then CUDA.
    #[enum_value(name = "NVIDIA TensorRT, then CUDA", nick = "tensorrt")]
    TensorRt,
}

impl From<ExecutionProvider> for Provider {
    fn from(provider: ExecutionProvider) -> Self {
        match provider {
            ExecutionProvider::Auto => Self::Auto,
            ExecutionProvider::Cpu => Self::Cpu,
            ExecutionProvider::Cuda => Self::Cuda,
            ExecutionProvider::TensorRt => Self::TensorRt,
        }
    }
}

/// What the experts of the default pack tell a generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstClipDescriberEvidence")]
pub enum Evidence {
    /// Speech where the model does not hear, else nothing.
    #[default]
    #[enum_value(name = "Speech where the model does not hear, else nothing", nick = "auto")]
    Auto,
    /// Nothing.
    #[enum_value(name = "Nothing", nick = "none")]
    None,
    /// What was spoken.
    #[enum_value(name = "What was spoken", nick = "speech")]
    Speech,
    /// All that they observe.
    #[enum_value(name = "All that they observe", nick = "all")]
    All,
}

/// Values of the properties.
#[derive(Debug, Clone)]
pub struct Settings {
    pub model_path: Option<String>,
    pub runtime_path: Option<String>,
    pub kinds: String,
    pub min_confidence: f64,
    pub threads: u32,
    pub execution_provider: ExecutionProvider,
    pub language: Option<String>,
    pub pieces: Option<gst::Structure>,
    pub post_messages: bool,
    pub latency: u64,
    pub skip_late: bool,
    pub prompt: Option<String>,
    pub system_prompt: Option<String>,
    pub schema: Option<String>,
    pub evidence: Evidence,
    pub max_tokens: u32,
    pub temperature: f64,
    pub top_k: u32,
    pub top_p: f64,
    pub repetition_penalty: f64,
    pub seed: u64,
    pub context_captions: u32,
    pub context_tokens: u32,
    pub dtype: Option<String>,
    pub near_frames: f64,
    pub labels: Option<String>,
    pub embeddings: bool,
    pub post_partial: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model_path: None,
            runtime_path: None,
            kinds: DEFAULT_KINDS.into(),
            min_confidence: 0.0,
            threads: DEFAULT_THREADS,
            execution_provider: ExecutionProvider::default(),
            language: None,
            pieces: None,
            post_messages: false,
            latency: DEFAULT_LATENCY.nseconds(),
            skip_late: true,
            prompt: None,
            system_prompt: None,
            schema: None,
            evidence: Evidence::Auto,
            max_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            context_captions: 0,
            context_tokens: 0,
            dtype: None,
            near_frames: 0.0,
            labels: None,
            embeddings: false,
            post_partial: false,
        }
    }
}

/// A property that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A word in `kinds`.
    #[error("property kinds: {0}")]
    Kind(#[from] UnknownKind),
    /// A field of `pieces`.
    #[error(
        "property pieces: the field '{0}' must be a string, the path of a file; write pieces=\"files,{0}=(string)PATH\""
    )]
    Piece(String),
    /// The text of `dtype`.
    #[error("property dtype: {0}")]
    Dtype(String),
}

impl Settings {
    /// The kinds that are wanted.
    pub fn kinds(&self) -> Result<BTreeSet<Kind>, SettingsError> {
        let words = self.kinds.split([',', '+']).map(str::trim).filter(|word| !word.is_empty());
        Ok(words.map(str::parse).collect::<Result<_, UnknownKind>>()?)
    }

    /// Files that stand in for those of the pack, by `piece.file`.
    pub fn pieces(&self) -> Result<BTreeMap<String, PathBuf>, SettingsError> {
        let fields = self.pieces.iter().flat_map(|pieces| pieces.iter());
        fields
            .map(|(name, value)| match value.get::<&str>() {
                Ok(path) => Ok((name.to_string(), path.into())),
                Err(_) => Err(SettingsError::Piece(name.to_string())),
            })
            .collect()
    }

    /// What is asked of a generator.
    pub fn wishes(&self) -> Result<Wishes, SettingsError> {
        let dtype = self.dtype.as_deref().filter(|text| !text.is_empty()).map(Dtypes::parse).transpose();
        Ok(Wishes {
            system: self.system_prompt.clone(),
            prompt: self.prompt.clone(),
            schema: self.schema.clone(),
            dtype: dtype.map_err(SettingsError::Dtype)?,
            max_tokens: self.max_tokens as usize,
            sampling: Sampling {
                temperature: self.temperature as f32,
                top_k: self.top_k as usize,
                top_p: self.top_p as f32,
                repetition_penalty: self.repetition_penalty as f32,
                seed: self.seed,
            },
            evidence: match self.evidence {
                Evidence::Auto => describer::Evidence::Auto,
                Evidence::None => describer::Evidence::None,
                Evidence::Speech => describer::Evidence::Speech,
                Evidence::All => describer::Evidence::All,
            },
            context_captions: self.context_captions as usize,
            context_tokens: self.context_tokens as usize,
            near_frames: self.near_frames as f32,
            labels: self.labels.clone(),
            embeddings: self.embeddings,
            ..Wishes::default()
        })
    }

    /// How the models are run.
    pub fn run(&self) -> RunSettings {
        RunSettings {
            threads: self.threads as usize,
            provider: self.execution_provider.into(),
            runtime: self.runtime_path.as_ref().map(PathBuf::from),
            ..RunSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_words_with_commas() {
        let wanted = |kinds: &str| Settings { kinds: kinds.into(), ..Settings::default() }.kinds();
        assert_eq!(wanted("caption, scene"), Ok([Kind::Caption, Kind::Scene].into()));
        assert_eq!(wanted(DEFAULT_KINDS), Ok([Kind::Caption, Kind::Scene, Kind::Sound, Kind::Speech].into()));
        let error = wanted("caption,smell").unwrap_err().to_string();
        assert!(error.contains("'smell'") && error.contains("caption, scene, sound"), "{error}");
    }

    #[test]
    fn pieces_are_named_by_piece_and_file() {
        gst::init().unwrap();
        let pieces = |text: &str| Settings { pieces: Some(text.parse().unwrap()), ..Settings::default() }.pieces();
        assert_eq!(
            pieces("files,tags.model=(string)/a/b.onnx"),
            Ok([("tags.model".to_owned(), PathBuf::from("/a/b.onnx"))].into())
        );
        assert_eq!(pieces("files,tags.model=(int)3"), Err(SettingsError::Piece("tags.model".into())));
    }
}
