//! The encoders of a published model: pixels and log-mel features go in, rows of soft tokens come out.

use std::{collections::VecDeque, sync::Arc};

use half::f16;
use ndarray::{Array2, ArrayD, IxDyn};
use ort::value::{DynValue, Tensor, TensorElementType};
use sha2::{Digest, Sha256};

use super::{
    picture::{PixelRule, Pixels},
    prompt::{Features, Shown},
    sound::SoundRule,
};
use crate::{
    Cancel, DescribeError, Frame, LoadError,
    runtime::{Model, Outputs, Port, Range},
};

/// Frames in one run of the vision encoder.
const BATCH: usize = 8;
/// Frames whose features are kept: those of a few overlapping clips.
const KEPT: usize = 128;
/// A usual frame, to see what a rule makes of it.
const SAMPLE: (u32, u32) = (192, 108);
/// Side of the grid on which nearly equal frames are compared.
const GRID: usize = 16;

/// Sizes of the vision encoder's inputs with one frame, half a batch and a whole one; TensorRT builds for them.
pub fn picture_ranges(rule: &PixelRule) -> Vec<Range> {
    let Ok(pixels) = rule.pixels(SAMPLE.0, SAMPLE.1, &vec![0; (SAMPLE.0 * SAMPLE.1 * 3) as usize]) else {
        return Vec::new();
    };
    let values = pixels.values.shape().to_vec();
    // Tiles are counted on the second axis, everything else on the first.
    let axis = usize::from(values.len() == 5);
    let inputs = [
        ("pixel_values", Some(values)),
        ("pixel_position_ids", pixels.positions.map(|array| array.shape().to_vec())),
        ("pixel_attention_mask", pixels.mask.map(|array| array.shape().to_vec())),
        ("image_grid_thw", pixels.grid.map(|array| array.shape().to_vec())),
    ];
    let range = |(name, shape): (&str, Option<Vec<usize>>)| {
        let shape = shape?;
        let sizes = [1, BATCH / 2, BATCH].map(|count| {
            let mut sizes = shape.clone();
            sizes[axis] *= count;
            sizes
        });
        Some(Range { name: name.to_owned(), sizes })
    };
    inputs.into_iter().filter_map(range).collect()
}

/// Sizes of the audio encoder's inputs with a tenth of a second, four seconds and the longest sound.
pub fn sound_ranges(rule: &SoundRule) -> Vec<Range> {
    let second = rule.rate() as usize;
    let features = [second / 10, 4 * second, rule.longest()].map(|samples| rule.features(&vec![0.0; samples]));
    let mut ranges = vec![Range {
        name: "input_features".to_owned(),
        sizes: features.each_ref().map(|features| features.values.shape().to_vec()),
    }];
    if features.iter().all(|features| features.mask.is_some()) {
        let sizes = features.map(|features| features.mask.map(|mask| mask.shape().to_vec()).unwrap_or_default());
        ranges.push(Range { name: "input_features_mask".to_owned(), sizes });
    }
    ranges
}

/// How much an encoder had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames that were encoded.
    pub encoded: u64,
    /// Frames whose features were there already.
    pub reused: u64,
}

/// The vision encoder with the rule that makes its pixels.
pub struct Eyes {
    model: Model,
    rule: PixelRule,
    kept: VecDeque<Kept>,
    /// Mean difference, 0 to 255, up to which frames count as the same; 0: only equal ones.
    near: f32,
    seen: Seen,
}

struct Kept {
    hash: [u8; 32],
    size: (u32, u32),
    grid: Option<[f32; GRID * GRID]>,
    shown: Shown,
    features: Features,
}

impl Eyes {
    /// Checks that `model` takes what `rule` makes.
    pub fn new(model: Model, rule: PixelRule) -> Result<Self, LoadError> {
        const GIVEN: [&str; 4] = ["pixel_values", "pixel_position_ids", "pixel_attention_mask", "image_grid_thw"];
        if let Some(port) = model.inputs().iter().find(|port| !GIVEN.contains(&port.name.as_str())) {
            return Err(model.signature(format!("it takes '{}', which nobody here can give", port.name)));
        }
        if model.input("pixel_values").is_none() || model.outputs().is_empty() {
            return Err(model.signature("it does not take 'pixel_values' or gives nothing".into()));
        }
        Ok(Self { model, rule, kept: VecDeque::new(), near: 0.0, seen: Seen::default() })
    }

    /// Lets frames that differ by less than `near` (mean, 0 to 255) share features.
    pub fn set_near(&mut self, near: f32) {
        self.near = near;
    }

    /// The rule that makes pixels.
    pub fn rule(&self) -> &PixelRule {
        &self.rule
    }

    /// Width of a soft token, where the file says.
    pub fn width(&self) -> Option<usize> {
        let port = self.model.outputs().first()?;
        port.dim(port.dims.len().checked_sub(1)?)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What it did so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The soft tokens of frames; equal frames are encoded once.
    pub fn see(&mut self, frames: &[Frame], cancel: &Cancel) -> Result<Vec<(Shown, Features)>, DescribeError> {
        let hashes: Vec<[u8; 32]> = frames.iter().map(|frame| Sha256::digest(&frame.rgb).into()).collect();
        let mut found: Vec<Option<(Shown, Features)>> = Vec::with_capacity(frames.len());
        for (frame, hash) in frames.iter().zip(&hashes) {
            found.push(self.recall(frame, hash));
        }
        let (mut todo, mut fresh) = (VecDeque::new(), 0);
        for index in 0..frames.len() {
            let twin = todo
                .iter()
                .any(|&other| hashes[other] == hashes[index] && size(&frames[other]) == size(&frames[index]));
            if found[index].is_none() && !twin {
                todo.push_back(index);
            }
        }
        let most = if self.model.input_dim("pixel_values", 0).is_some_and(|size| size == 1) && !self.tiled() {
            1
        } else {
            BATCH
        };
        while let Some(first) = todo.pop_front() {
            let mut batch = vec![first];
            while batch.len() < most && todo.front().is_some_and(|&next| size(&frames[next]) == size(&frames[first])) {
                batch.extend(todo.pop_front());
            }
            let shown: Vec<&Frame> = batch.iter().map(|&index| &frames[index]).collect();
            let encoded = self.encode(&shown, &batch.iter().map(|&index| hashes[index]).collect::<Vec<_>>(), cancel)?;
            self.seen.encoded += batch.len() as u64;
            fresh += batch.len() as u64;
            for (&index, (shown, features)) in batch.iter().zip(encoded) {
                self.keep(&frames[index], hashes[index], shown, &features);
                found[index] = Some((shown, features));
            }
        }
        for index in 0..frames.len() {
            if found[index].is_none() {
                found[index] = self.recall(&frames[index], &hashes[index]);
            }
        }
        self.seen.reused += frames.len() as u64 - fresh;
        Ok(found.into_iter().flatten().collect())
    }

    /// Whether pictures come as `[1, tiles, ...]`.
    fn tiled(&self) -> bool {
        self.model.input("pixel_values").is_some_and(|port| port.dims.len() == 5)
    }

    fn recall(&mut self, frame: &Frame, hash: &[u8; 32]) -> Option<(Shown, Features)> {
        let exact = self.kept.iter().position(|kept| kept.hash == *hash && kept.size == size(frame));
        let index = exact.or_else(|| {
            let grid = (self.near > 0.0).then(|| grid(frame))?;
            self.kept.iter().position(|kept| {
                kept.size == size(frame) && kept.grid.is_some_and(|other| difference(&grid, &other) <= self.near)
            })
        })?;
        let kept = self.kept.remove(index)?;
        let found = (kept.shown, kept.features.clone());
        // The one that was used last goes last.
        self.kept.push_back(kept);
        Some(found)
    }

    fn keep(&mut self, frame: &Frame, hash: [u8; 32], shown: Shown, features: &Features) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        let grid = (self.near > 0.0).then(|| grid(frame));
        self.kept.push_back(Kept { hash, size: size(frame), grid, shown, features: features.clone() });
    }

    fn encode(
        &self,
        frames: &[&Frame],
        hashes: &[[u8; 32]],
        cancel: &Cancel,
    ) -> Result<Vec<(Shown, Features)>, DescribeError> {
        let Some(first) = frames.first() else { return Ok(Vec::new()) };
        let rgb: Vec<&[u8]> = frames.iter().map(|frame| &frame.rgb[..]).collect();
        let pixels = self.rule.batch(first.width, first.height, &rgb).map_err(|error| DescribeError::Output {
            piece: self.model.piece().to_owned(),
            expected: "a picture that the model takes".into(),
            found: error.to_string(),
        })?;
        let layout = pixels.layout;
        let rows = self.encode_pixels(pixels, cancel)?;
        if rows.nrows() == 0 || rows.nrows() % (frames.len() * layout.pictures) != 0 {
            return Err(self.unexpected(&format!("rows for {} pictures", frames.len() * layout.pictures), &rows));
        }
        let each = rows.nrows() / frames.len();
        if layout.soft_tokens.is_some_and(|tokens| tokens != each) {
            return Err(self.unexpected(&format!("{} rows a picture", layout.soft_tokens.unwrap_or(0)), &rows));
        }
        let tiles = (layout.pictures > 1).then_some((layout.rows as usize, layout.cols as usize));
        let shown = Shown { tokens: each / layout.pictures, tiles };
        Ok(hashes
            .iter()
            .enumerate()
            .map(|(index, hash)| {
                let rows = rows.slice(ndarray::s![index * each..(index + 1) * each, ..]).to_owned();
                (shown, Features { rows: Arc::new(rows), key: key(hash) })
            })
            .collect())
    }

    /// The rows that the encoder makes of `pixels`.
    pub fn encode_pixels(&self, pixels: Pixels, cancel: &Cancel) -> Result<Array2<f32>, DescribeError> {
        let failed = |source| DescribeError::Run { piece: self.model.piece().to_owned(), source };
        let mut inputs: Vec<(&str, DynValue)> = Vec::new();
        for port in self.model.inputs() {
            let value = match port.name.as_str() {
                "pixel_values" => floats(port, pixels.values.view().to_owned()).map_err(failed)?,
                "pixel_position_ids" => {
                    whole(port, pixels.positions.clone().map(|ids| ids.into_dyn())).map_err(failed)?
                }
                "image_grid_thw" => whole(port, pixels.grid.clone().map(|ids| ids.into_dyn())).map_err(failed)?,
                _ => {
                    let mask = pixels.mask.clone().ok_or_else(|| failed(missing(port)))?;
                    Tensor::from_array(mask).map_err(failed)?.into_dyn()
                }
            };
            inputs.push((&port.name, value));
        }
        let outputs = self.model.run(inputs, cancel)?;
        rows(&self.model, &outputs)
    }

    fn unexpected(&self, expected: &str, rows: &Array2<f32>) -> DescribeError {
        DescribeError::Output {
            piece: self.model.piece().to_owned(),
            expected: expected.to_owned(),
            found: format!("{} rows", rows.nrows()),
        }
    }
}

/// The audio encoder with the rule that makes its features.
pub struct Ears {
    model: Model,
    rule: SoundRule,
}

impl Ears {
    /// Checks that `model` takes what `rule` makes.
    pub fn new(model: Model, rule: SoundRule) -> Result<Self, LoadError> {
        const GIVEN: [&str; 2] = ["input_features", "input_features_mask"];
        if let Some(port) = model.inputs().iter().find(|port| !GIVEN.contains(&port.name.as_str())) {
            return Err(model.signature(format!("it takes '{}', which nobody here can give", port.name)));
        }
        if model.input("input_features").is_none() || model.outputs().is_empty() {
            return Err(model.signature("it does not take 'input_features' or gives nothing".into()));
        }
        Ok(Self { model, rule })
    }

    /// The rule that makes features.
    pub fn rule(&self) -> &SoundRule {
        &self.rule
    }

    /// Width of a soft token, where the file says.
    pub fn width(&self) -> Option<usize> {
        let port = self.model.outputs().first()?;
        port.dim(port.dims.len().checked_sub(1)?)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The soft tokens of a sound, in pieces as long as the encoder takes; none of a sound too short for one token.
    pub fn hear(&self, samples: &[f32], cancel: &Cancel) -> Result<Vec<Features>, DescribeError> {
        let longest = self.rule.longest().max(1);
        let mut heard = Vec::new();
        for piece in samples.chunks(longest) {
            if self.rule.tokens(piece.len()) == 0 {
                continue;
            }
            let rows = self.encode(piece, cancel)?;
            let hash: [u8; 32] = Sha256::digest(bytemuck::cast_slice::<f32, u8>(piece)).into();
            heard.push(Features { rows: Arc::new(rows), key: key(&hash) });
        }
        Ok(heard)
    }

    fn encode(&self, samples: &[f32], cancel: &Cancel) -> Result<Array2<f32>, DescribeError> {
        let features = self.rule.features(samples);
        let rows = self.encode_features(features.values, features.mask, cancel)?;
        let wanted = self.rule.tokens(samples.len());
        if rows.nrows() != wanted {
            return Err(DescribeError::Output {
                piece: self.model.piece().to_owned(),
                expected: format!("{wanted} rows of {} samples", samples.len()),
                found: format!("{} rows", rows.nrows()),
            });
        }
        Ok(rows)
    }

    /// The rows that the encoder makes of log-mel features and their mask.
    pub fn encode_features(
        &self,
        values: ArrayD<f32>,
        mask: Option<Array2<bool>>,
        cancel: &Cancel,
    ) -> Result<Array2<f32>, DescribeError> {
        let failed = |source| DescribeError::Run { piece: self.model.piece().to_owned(), source };
        let mut inputs: Vec<(&str, DynValue)> = Vec::new();
        let mut values = Some(values);
        for port in self.model.inputs() {
            let value = match port.name.as_str() {
                "input_features" => floats(port, values.take().unwrap_or_default()).map_err(failed)?,
                _ => {
                    let mask = mask.clone().ok_or_else(|| failed(missing(port)))?;
                    Tensor::from_array(mask).map_err(failed)?.into_dyn()
                }
            };
            inputs.push((&port.name, value));
        }
        let outputs = self.model.run(inputs, cancel)?;
        rows(&self.model, &outputs)
    }
}

fn missing(port: &Port) -> ort::Error {
    ort::Error::new(format!("the processor files do not say how '{}' is made", port.name))
}

/// `values` in the number format that `port` takes.
pub(crate) fn floats(port: &Port, values: ArrayD<f32>) -> ort::Result<DynValue> {
    match port.kind {
        Some(TensorElementType::Float16) => Ok(Tensor::from_array(values.mapv(f16::from_f32))?.into_dyn()),
        _ => Ok(Tensor::from_array(values)?.into_dyn()),
    }
}

fn whole(port: &Port, values: Option<ArrayD<i64>>) -> ort::Result<DynValue> {
    Ok(Tensor::from_array(values.ok_or_else(|| missing(port))?)?.into_dyn())
}

/// The first output of an encoder as rows, whatever stands before its last axis.
fn rows(model: &Model, outputs: &Outputs) -> Result<Array2<f32>, DescribeError> {
    let failed = |source| DescribeError::Run { piece: model.piece().to_owned(), source };
    let name = model.outputs().first().map_or("", |port| port.name.as_str());
    let value = outputs.value(name).map_err(failed)?;
    let values: ArrayD<f32> = match value.try_extract_array::<f32>() {
        Ok(values) => values.to_owned(),
        Err(_) => value.try_extract_array::<f16>().map_err(failed)?.mapv(f32::from),
    };
    let width = values.shape().last().copied().unwrap_or(0);
    let count = values.len().checked_div(width).unwrap_or(0);
    let rows = values.into_shape_with_order(IxDyn(&[count, width])).and_then(|rows| rows.into_dimensionality());
    rows.map_err(|error| failed(ort::Error::new(error.to_string())))
}

fn key(hash: &[u8; 32]) -> u64 {
    hash.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

fn size(frame: &Frame) -> (u32, u32) {
    (frame.width, frame.height)
}

/// Mean brightness of the fields of a grid over the frame.
fn grid(frame: &Frame) -> [f32; GRID * GRID] {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let mut sums = [(0u64, 0u64); GRID * GRID];
    for (y, row) in frame.rgb.chunks_exact((width * 3).max(1)).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let field = &mut sums[y * GRID / height.max(1) * GRID + x * GRID / width.max(1)];
            field.0 += pixel.iter().map(|value| u64::from(*value)).sum::<u64>();
            field.1 += 3;
        }
    }
    sums.map(|(sum, count)| sum as f32 / count.max(1) as f32)
}

fn difference(one: &[f32; GRID * GRID], other: &[f32; GRID * GRID]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).sum::<f32>() / one.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::testing;

    #[test]
    fn tensorrt_is_told_the_sizes_that_encoders_get() {
        for pack in testing::packs() {
            let processor = testing::json(&pack, "processor_config.json");
            for part in ["image_processor", "video_processor"] {
                let Some(rule) = processor.get(part).map(|part| PixelRule::read(part).unwrap().with_split(false))
                else {
                    continue;
                };
                let ranges = picture_ranges(&rule);
                let two = rule.batch(96, 54, &[&[0; 96 * 54 * 3], &[9; 96 * 54 * 3]]).unwrap();
                let found = two.values.shape();
                let [least, _, most] = &ranges[0].sizes;
                let within = |axis: usize| (least[axis]..=most[axis]).contains(&found[axis]);
                assert!((0..found.len()).all(within), "{}: {found:?} of {ranges:?}", pack.display());
            }
            if let Some(part) = processor.get("feature_extractor").filter(|part| part.get("fft_length").is_some()) {
                let rule = SoundRule::read(part, &processor, &serde_json::Value::Null).unwrap();
                let ranges = sound_ranges(&rule);
                let found = rule.features(&vec![0.0; rule.rate() as usize]).values.shape().to_vec();
                let [least, _, most] = &ranges[0].sizes;
                assert!(
                    (0..3).all(|axis| (least[axis]..=most[axis]).contains(&found[axis])),
                    "{found:?} of {ranges:?}"
                );
                assert_eq!(ranges[1].name, "input_features_mask");
            }
        }
    }
}
