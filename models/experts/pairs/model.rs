//! The two encoders and what makes scores of their embeddings.

use half::f16;
use ndarray::{Array2, ArrayD, Dimension};
use ort::value::{DynValue, Tensor, TensorElementType};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::{
    Cancel, DescribeError, LoadError,
    generator::{
        encoder::floats,
        folder::{Dtypes, Folder},
    },
    runtime::{Model, Outputs, RunSettings},
};

/// Longest text in tokens where no file says (CLIP).
const LONGEST_TEXT: u64 = 77;

/// A family of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Pictures; the labels share one probability.
    Clip,
    /// Pictures; each label has its own probability.
    Siglip,
    /// Sounds; the labels share one probability.
    Clap,
}

impl Family {
    /// The family of a `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "clip" => Self::Clip,
            "siglip" => Self::Siglip,
            "clap" => Self::Clap,
            _ => return None,
        })
    }

    /// The sentence that a label stands in: those of the zero-shot pipelines of `transformers`, and of CLIP's paper.
    fn template(self) -> &'static str {
        match self {
            Self::Clip => "a photo of {}",
            Self::Siglip => "This is a photo of {}.",
            Self::Clap => "This is a sound of {}.",
        }
    }

    /// The session that does not take text, its input and its output.
    fn tower(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Clip | Self::Siglip => ("vision_model", "pixel_values", "image_embeds"),
            Self::Clap => ("audio_model", "input_features", "audio_embeds"),
        }
    }

    /// Scale and bias of cosines where no file tells them.
    ///
    /// CLIP: 100, where its training stops the scale (arXiv:2103.00020, section 2.5). SigLIP: about those of the base
    /// model; each checkpoint has its own. CLAP: where its training starts, 1 / 0.07 (`logit_scale_init_value`).
    fn calibration(self) -> (f32, f32) {
        match self {
            Self::Clip => (100.0, 0.0),
            Self::Siglip => (117.33, -12.93),
            Self::Clap => (1.0 / 0.07, 0.0),
        }
    }

    /// Probability from which a label is said; where labels do not share one, the right one has often little.
    fn threshold(self) -> f32 {
        match self {
            Self::Clip | Self::Clap => 0.3,
            Self::Siglip => 0.1,
        }
    }

    fn shares(self) -> bool {
        self != Self::Siglip
    }
}

/// What is asked of a pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// The labels to look or listen for.
    pub labels: Vec<String>,
    /// A sentence with `{}` in the place of the label; others are not used.
    pub template: Option<String>,
    /// Whether embeddings are written with what is said.
    pub embeddings: bool,
}

/// A pair of encoders with the labels that were asked for.
pub struct Pair {
    family: Family,
    tower: Model,
    input: &'static str,
    output: String,
    /// Tokens for the text side of a graph that has both sides.
    filler: Option<Array2<i64>>,
    labels: Vec<String>,
    /// Embedding of each label, of length 1.
    rows: Vec<Vec<f32>>,
    scale: f32,
    bias: f32,
    threshold: f32,
    source: String,
    embeds: bool,
}

impl Pair {
    /// Loads `folder` and embeds the labels.
    ///
    /// `shape` is that of what the other side takes: pixels or features of one picture or sound.
    pub fn load(
        folder: &Folder,
        family: Family,
        asked: Asked,
        shape: &[usize],
        dtype: Option<&Dtypes>,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let (session, input, output) = family.tower();
        let both = !folder.has(session) && folder.has("model");
        let load = |name: &str| Model::load(name, &folder.model(name, dtype)?, run);
        let tower = load(if both { "model" } else { session })?;
        let output = chosen_output(&tower, output)?;
        if tower.input(input).is_none() {
            return Err(tower.signature(format!("it does not take '{input}'")));
        }
        let text = if both { tower.clone() } else { load("text_model")? };
        let reader = Reader::new(folder, &text)?;
        let template = [asked.template.as_deref(), folder.overrides.prompt.as_deref()];
        let template = template.into_iter().flatten().find(|text| text.contains("{}")).unwrap_or(family.template());
        let other = both.then_some((input, shape));
        let mut rows = Vec::with_capacity(asked.labels.len());
        let mut cosines = Vec::new();
        for label in &asked.labels {
            let ids = reader.ids(&template.replace("{}", label))?;
            let (row, seen) =
                reader.embed(&text, ids, other, &output).map_err(|error| text.signature(error.to_string()))?;
            if let Some((image, logit)) = seen {
                cosines.push((dot(&image, &row), logit));
            }
            rows.push(row);
        }
        let filler = both.then(|| reader.ids(template)).transpose()?;
        let (scale, bias) = calibration(folder, family, &cosines);
        let source = format!("{}/{}", folder.name(), if family == Family::Clap { "sounds" } else { "objects" });
        let threshold = folder.overrides.threshold.unwrap_or(family.threshold());
        let Asked { labels, embeddings, .. } = asked;
        Ok(Self {
            family,
            tower,
            input,
            output,
            filler,
            labels,
            rows,
            scale,
            bias,
            threshold,
            source,
            embeds: embeddings,
        })
    }

    /// The labels, in order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The embedding of each label, of length 1.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.rows
    }

    /// Probability from which a label is said, 0 to 1.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Whether embeddings are written.
    pub fn embeds(&self) -> bool {
        self.embeds
    }

    /// The source of what it says.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The embeddings, of length 1, of as many pictures or sounds as `values` has along its first axis.
    pub fn embed(&self, values: ArrayD<f32>, cancel: &Cancel) -> Result<Vec<Vec<f32>>, DescribeError> {
        let failed = |source| DescribeError::Run { piece: self.tower.piece().to_owned(), source };
        let count = values.shape().first().copied().unwrap_or(0);
        let mut inputs: Vec<(&str, DynValue)> = Vec::new();
        let mut values = Some(values);
        for port in self.tower.inputs() {
            let value = match (port.name.as_str(), &self.filler) {
                (name, _) if name == self.input => floats(port, values.take().unwrap_or_default()).map_err(failed)?,
                ("is_longer", _) => {
                    Tensor::from_array(Array2::from_elem((count, 1), false)).map_err(failed)?.into_dyn()
                }
                (name, Some(ids)) => text_input(name, ids).map_err(failed)?,
                (name, None) => return Err(failed(ort::Error::new(format!("nobody here can give '{name}'")))),
            };
            inputs.push((&port.name, value));
        }
        let outputs = self.tower.run(inputs, cancel)?;
        let rows = rows(&outputs, &self.output).map_err(failed)?;
        let width = self.rows.first().map(Vec::len);
        if rows.len() != count || rows.iter().any(|row| width.is_some_and(|width| width != row.len())) {
            return Err(DescribeError::Output {
                piece: self.tower.piece().to_owned(),
                expected: format!("{count} embeddings as wide as those of the labels ({})", width.unwrap_or(0)),
                found: format!("{} embeddings {} wide", rows.len(), rows.first().map_or(0, Vec::len)),
            });
        }
        Ok(rows)
    }

    /// The probability of each label, 0 to 1.
    pub fn scores(&self, embedding: &[f32]) -> Vec<f32> {
        let logits: Vec<f32> = self.rows.iter().map(|row| self.scale * dot(row, embedding) + self.bias).collect();
        match self.family.shares() {
            true => softmax(&logits),
            false => logits.into_iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        }
    }
}

/// Probabilities that sum to 1.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let sum: f32 = parts.iter().sum();
    parts.into_iter().map(|part| if sum > 0.0 { part / sum } else { 0.0 }).collect()
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// Scale and bias: those of describe.json, else what a graph with both sides shows, else of config.json, else the family's.
fn calibration(folder: &Folder, family: Family, shown: &[(f32, f32)]) -> (f32, f32) {
    let (scale, bias) = family.calibration();
    let told = |key: &str| folder.config.get(key).and_then(Value::as_f64).map(|value| value as f32);
    // Config files write the scale as a logarithm, as the weights hold it.
    let told = (told("logit_scale").map(f32::exp), told("logit_bias"));
    let (shown_scale, shown_bias) = match line(shown, family.shares()) {
        Some((scale, bias)) => (Some(scale), Some(bias)),
        None => (None, None),
    };
    let own = (folder.overrides.logit_scale, folder.overrides.logit_bias);
    if family == Family::Siglip && own.0.or(shown_scale).or(told.0).is_none() {
        tracing::warn!(
            "{}: no file tells the scale and bias of the scores; those of the base model ({scale}, {bias}) are used. Set \
             logit_scale and logit_bias in describe.json",
            folder.path.display()
        );
    }
    (own.0.or(shown_scale).or(told.0).unwrap_or(scale), own.1.or(shown_bias).or(told.1).unwrap_or(bias))
}

/// The line through pairs of cosine and logit: slope and height, the height 0 where `through_zero`.
fn line(points: &[(f32, f32)], through_zero: bool) -> Option<(f32, f32)> {
    let count = points.len() as f32;
    let mean = |of: fn(&(f32, f32)) -> f32| points.iter().map(of).sum::<f32>() / count;
    let (x, y) = if through_zero { (0.0, 0.0) } else { (mean(|point| point.0), mean(|point| point.1)) };
    let spread: f32 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f32>() / spread;
    // Of labels that are all alike nothing can be learned.
    (spread > 1e-6 && slope.is_finite() && slope > 0.0).then_some((slope, y - slope * x))
}

/// The output with the embeddings.
fn chosen_output(model: &Model, wanted: &str) -> Result<String, LoadError> {
    let found = [wanted, "pooler_output", "sentence_embedding"].into_iter().find(|name| model.has_output(name));
    found.map(str::to_owned).ok_or_else(|| {
        let has: Vec<&str> = model.outputs().iter().map(|port| port.name.as_str()).collect();
        model.signature(format!("it gives {has:?}, neither '{wanted}' nor 'pooler_output'"))
    })
}

/// The text side: labels to tokens to embeddings.
struct Reader<'f> {
    folder: &'f Folder,
    tokenizer: Tokenizer,
    output: String,
    /// Most tokens, and whether all texts are filled up to them.
    longest: usize,
    fills: bool,
    pad: i64,
}

impl<'f> Reader<'f> {
    fn new(folder: &'f Folder, model: &Model) -> Result<Self, LoadError> {
        let (path, bytes) = folder.tokenizer_bytes()?;
        let tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| LoadError::Format { path, reason: error.to_string() })?;
        let Some(port) = model.input("input_ids").filter(|port| port.kind == Some(TensorElementType::Int64)) else {
            return Err(model.signature("it does not take 'input_ids' as Int64".into()));
        };
        let fixed = port.dim(1);
        let told = folder.config.pointer("/text_config/max_position_embeddings").and_then(Value::as_u64);
        let longest = fixed.unwrap_or(told.unwrap_or(LONGEST_TEXT).clamp(4, 8192) as usize);
        // Without a mask the model was trained on texts that are all filled up (SigLIP).
        let fills = fixed.is_some() || (model.input("attention_mask").is_none() && folder.model_type == "siglip");
        let pad = ["/text_config/pad_token_id", "/pad_token_id"].into_iter();
        let pad = pad.filter_map(|place| folder.config.pointer(place)?.as_i64()).find(|id| *id >= 0);
        let named = folder.tokenizer.get("pad_token").and_then(|pad| pad.as_str().or(pad.get("content")?.as_str()));
        let named = named.and_then(|name| tokenizer.token_to_id(name)).map(i64::from);
        let output = chosen_output(model, "text_embeds")?;
        Ok(Self { folder, tokenizer, output, longest, fills, pad: named.or(pad).unwrap_or(1) })
    }

    /// The tokens of `text` with what stands around them.
    fn ids(&self, text: &str) -> Result<Array2<i64>, LoadError> {
        let wrong = |reason: String| LoadError::Format { path: self.folder.path.join("tokenizer.json"), reason };
        let encoded = self.tokenizer.encode(text, true).map_err(|error| wrong(error.to_string()))?;
        // The file may fill up by itself; what is filling is not masked there.
        let mask = encoded.get_attention_mask().iter();
        let mut ids: Vec<i64> =
            encoded.get_ids().iter().zip(mask).filter(|(_, real)| **real == 1).map(|(id, _)| i64::from(*id)).collect();
        if ids.is_empty() {
            return Err(wrong(format!("it makes no tokens of '{text}'")));
        }
        if ids.len() > self.longest {
            // The last token ends the text.
            ids.drain(self.longest - 1..ids.len() - 1);
        }
        if self.fills {
            ids.resize(self.longest, self.pad);
        }
        let count = ids.len();
        Array2::from_shape_vec((1, count), ids).map_err(|error| wrong(error.to_string()))
    }

    /// The embedding of a text; of a graph with both sides also that of an empty picture or sound and their logit.
    #[expect(clippy::type_complexity, reason = "the second part exists for calibration only")]
    fn embed(
        &self,
        model: &Model,
        ids: Array2<i64>,
        other: Option<(&str, &[usize])>,
        image: &str,
    ) -> Result<(Vec<f32>, Option<(Vec<f32>, f32)>), DescribeError> {
        let failed = |source| DescribeError::Run { piece: model.piece().to_owned(), source };
        let mut inputs: Vec<(&str, DynValue)> = Vec::new();
        for port in model.inputs() {
            let value = match other {
                Some((name, shape)) if port.name == name => {
                    // Not all alike, so that the picture's embedding has some length.
                    let ramp = ArrayD::from_shape_fn(shape, |at| (at.slice().iter().sum::<usize>() % 7) as f32 / 7.0);
                    floats(port, ramp).map_err(failed)?
                }
                Some(_) if port.name == "is_longer" => {
                    Tensor::from_array(Array2::from_elem((1, 1), false)).map_err(failed)?.into_dyn()
                }
                _ => text_input(&port.name, &ids).map_err(failed)?,
            };
            inputs.push((&port.name, value));
        }
        let outputs = model.run(inputs, &Cancel::default())?;
        let one = |name: &str| -> Result<Vec<f32>, DescribeError> {
            let rows = rows(&outputs, name).map_err(failed)?;
            rows.into_iter().next().ok_or_else(|| failed(ort::Error::new(format!("'{name}' is empty"))))
        };
        let logits = ["logits_per_image", "logits_per_audio"].into_iter().find_map(|name| outputs.get(name));
        let logit = logits.and_then(|logits| plain(logits).ok()?.iter().next().copied());
        let shown = match (other, logit) {
            (Some(_), Some(logit)) => Some((one(image)?, logit)),
            _ => None,
        };
        Ok((one(&self.output)?, shown))
    }
}

/// An input of the text side.
fn text_input(name: &str, ids: &Array2<i64>) -> ort::Result<DynValue> {
    match name {
        "input_ids" => Ok(Tensor::from_array(ids.clone())?.into_dyn()),
        "attention_mask" => Ok(Tensor::from_array(Array2::<i64>::ones(ids.dim()))?.into_dyn()),
        "position_ids" => Ok(Tensor::from_array(Array2::from_shape_fn(ids.dim(), |(_, i)| i as i64))?.into_dyn()),
        _ => Err(ort::Error::new(format!("it takes '{name}', which nobody here can give"))),
    }
}

fn plain(value: &DynValue) -> ort::Result<ArrayD<f32>> {
    match value.try_extract_array::<f32>() {
        Ok(values) => Ok(values.to_owned()),
        Err(_) => Ok(value.try_extract_array::<f16>()?.mapv(f32::from)),
    }
}

/// The rows of an output, each of length 1.
fn rows(outputs: &Outputs, name: &str) -> ort::Result<Vec<Vec<f32>>> {
    let values = plain(outputs.value(name)?)?;
    let width = values.shape().last().copied().unwrap_or(0).max(1);
    let values: Vec<f32> = values.iter().copied().collect();
    Ok(values
        .chunks_exact(width)
        .map(|row| {
            let length = dot(row, row).sqrt();
            row.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }).collect()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_is_found_again(scale in 1.0f32..150.0, bias in -20.0f32..5.0, cosines in proptest::collection::vec(-0.9f32..0.9, 3..9)) {
            let spread = cosines.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b)) - cosines.iter().fold(f32::INFINITY, |a, b| a.min(*b));
            prop_assume!(spread > 0.1);
            let points: Vec<(f32, f32)> = cosines.iter().map(|x| (*x, scale * x + bias)).collect();
            let (slope, height) = line(&points, false).unwrap();
            prop_assert!((slope - scale).abs() < 0.01 * scale && (height - bias).abs() < 0.1, "{slope} {height}");
        }

        #[test]
        fn shares_sum_to_one(logits in proptest::collection::vec(-1e4f32..1e4, 1..20)) {
            let shares = softmax(&logits);
            prop_assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        }
    }
}
