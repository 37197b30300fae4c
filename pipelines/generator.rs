//! Options for generator packs: what is asked of the model.

use describe_models::generator::describer::Evidence;
use gst::prelude::*;

/// What is asked of a generator; experts alone have no use for these.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of generator packs")]
pub struct Options {
    /// What is asked about each clip
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// What the model is told to be
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// JSON schema of the answers: the schema itself or a file with it
    #[arg(long, value_name = "JSON|FILE")]
    pub schema: Option<String>,
    /// What the experts of the default pack tell the model: auto, none, speech or all
    #[arg(long, value_name = "WHAT", default_value = "auto", value_parser = evidence)]
    pub evidence: String,
    /// Most tokens of an answer; answers are whole all the same
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(8..=65_536))]
    pub max_tokens: u32,
    /// How freely words are drawn; 0 takes the likeliest ones
    #[arg(long, value_name = "X", default_value = "0", value_parser = number::<0, 10>)]
    pub temperature: f64,
    /// Draw among so many of the likeliest tokens; 0: among all
    #[arg(long, value_name = "N", default_value = "0")]
    pub top_k: u32,
    /// Draw among the likeliest tokens that have this share of probability
    #[arg(long, value_name = "X", default_value = "1", value_parser = number::<0, 1>)]
    pub top_p: f64,
    /// Makes words less likely that were there before; 1 changes nothing
    #[arg(long, value_name = "X", default_value = "1", value_parser = number::<0, 10>)]
    pub repetition_penalty: f64,
    /// Where random numbers start
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// How many of the last captions the model is told
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub context_captions: u32,
    /// Tokens up to which the model remembers the clips before; 0: each clip is new to it
    #[arg(long, value_name = "N", default_value = "0")]
    pub context_tokens: u32,
    /// Number format of the model's files, such as q4f16 or decoder_model_merged=q4f16,embed_tokens=int8
    #[arg(long, value_name = "FORMAT", value_parser = dtype)]
    pub dtype: Option<String>,
    /// What a CLIP, SigLIP or CLAP pack looks or listens for: words with commas, or a file with one a line
    #[arg(long, value_name = "WORDS|FILE")]
    pub labels: Option<String>,
    /// Write the embedding of each frame or window of sound that a CLIP, SigLIP or CLAP pack makes
    #[arg(long)]
    pub embeddings: bool,
}

fn evidence(word: &str) -> Result<String, String> {
    word.parse::<Evidence>().map(|_| word.to_owned())
}

fn dtype(text: &str) -> Result<String, String> {
    describe_models::generator::folder::Dtypes::parse(text).map(|_| text.to_owned())
}

fn number<const LEAST: i32, const MOST: i32>(text: &str) -> Result<f64, String> {
    let range = f64::from(LEAST)..=f64::from(MOST);
    text.parse().ok().filter(|x| range.contains(x)).ok_or_else(|| format!("give a number from {LEAST} to {MOST}"))
}

impl Options {
    /// Sets the properties of the describer.
    pub fn set(&self, describer: &gst::Element) {
        describer.set_property("prompt", &self.prompt);
        describer.set_property("system-prompt", &self.system_prompt);
        describer.set_property("schema", &self.schema);
        describer.set_property_from_str("evidence", &self.evidence);
        describer.set_property("max-tokens", self.max_tokens);
        describer.set_property("temperature", self.temperature);
        describer.set_property("top-k", self.top_k);
        describer.set_property("top-p", self.top_p);
        describer.set_property("repetition-penalty", self.repetition_penalty.max(0.1));
        describer.set_property("seed", self.seed);
        describer.set_property("context-captions", self.context_captions);
        describer.set_property("context-tokens", self.context_tokens);
        describer.set_property("dtype", &self.dtype);
        describer.set_property("labels", &self.labels);
        describer.set_property("embeddings", self.embeddings);
    }
}
