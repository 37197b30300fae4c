//! Tags: what each chosen frame shows, as one of the 1000 classes of ImageNet (EfficientNet-Lite0).

use std::{collections::BTreeMap, path::PathBuf};

use ndarray::Array4;
use ort::value::TensorRef;

use super::{
    Expert, files,
    frames::PerFrame,
    labels::ImageLabels,
    outputs,
    pixels::{self, Region},
};
use crate::{
    Cancel, Clip, DescribeError, Frame, Kind, Label, LoadError, Observation,
    runtime::{Model, RunSettings},
};

const PIECE: &str = "tags";
const SOURCE: &str = "lite/tags";
/// Classes of ImageNet-1k.
pub(super) const CLASSES: usize = 1000;
/// Width and height of the model's input in pixels (EfficientNet-Lite0).
const SIZE: usize = 224;
/// The model wants (value - 127) / 128 (`MEAN_RGB`, `STDDEV_RGB` of the EfficientNet-Lite release).
const MEAN: f32 = 127.0;
const SCALE: f32 = 128.0;
/// Classes that are told of each frame.
const TOP: usize = 8;

/// The picture tagger.
///
/// Says one [`Kind::Object`] per frame: the surest class, and the eight surest as labels. How sure is sure enough is
/// left to the reader, and so is the sum over a group of classes ([`Tags::labels`]).
pub struct Tags {
    model: Model,
    labels: ImageLabels,
    frames: PerFrame<Vec<Label>>,
    settled_ns: u64,
}

impl Tags {
    /// Loads `model` (`image` `f32 [n,3,224,224]` -> `probs` `f32 [n,1000]`) and `labels` (the words).
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        _settings: &serde_json::Value,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let side = SIZE as i64;
        let model = Model::load(PIECE, files::role(PIECE, files, "model")?, run)?
            .expect(&[("image", &[-1, 3, side, side])], &[("probs", &[-1, CLASSES as i64])])?;
        let labels = ImageLabels::load(files::role(PIECE, files, "labels")?, CLASSES)?;
        Ok(Self { model, labels, frames: PerFrame::default(), settled_ns: 0 })
    }

    /// The words of the classes.
    pub fn labels(&self) -> &ImageLabels {
        &self.labels
    }
}

/// The surest classes of each of `frames`.
fn tag(
    model: &mut Model,
    labels: &ImageLabels,
    frames: &[&Frame],
    cancel: &Cancel,
) -> Result<Vec<Vec<Label>>, DescribeError> {
    let mut input = Array4::zeros((frames.len(), 3, SIZE, SIZE));
    for (frame, mut image) in frames.iter().zip(input.outer_iter_mut()) {
        prepare(frame, view(frame), image.as_slice_mut().expect("a new array is in one piece"));
    }
    let tensor = TensorRef::from_array_view(input.view())
        .map_err(|source| DescribeError::Run { piece: PIECE.into(), source })?;
    let outputs = model.run(ort::inputs!["image" => tensor], cancel)?;
    let probabilities = outputs::tensor(PIECE, &outputs, "probs", &[frames.len(), CLASSES])?;
    Ok(probabilities.outer_iter().map(|row| surest(row.iter().copied(), labels)).collect())
}

/// Writes the model's input for `region` of `frame` into `image`.
fn prepare(frame: &Frame, region: Region, image: &mut [f32]) {
    pixels::to_planes(&pixels::resample(frame, region, SIZE, SIZE), pixels::RGB, MEAN, SCALE, image);
}

/// The part of `frame` that is looked at: its middle, at most 4:3, squeezed into the square.
///
/// On 450 wide pictures of a thing at the left, in the middle and at the right the surest class was right 102 times,
/// with the usual middle square 100, with all of the picture squeezed 99, letterboxed 77 times; the wider view misses
/// less of what stands at the side.
fn view(frame: &Frame) -> Region {
    let (width, height) = (frame.width.max(1) as f32, frame.height.max(1) as f32);
    Region::middle(frame, width.min(height * 4.0 / 3.0), height.min(width * 4.0 / 3.0))
}

/// The classes with the largest of `probabilities`, surest first.
fn surest(probabilities: impl Iterator<Item = f32>, labels: &ImageLabels) -> Vec<Label> {
    let mut ranked: Vec<(f32, &str)> =
        probabilities.zip(labels.classes()).map(|(p, class)| (p, class.name.as_str())).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(TOP);
    ranked.into_iter().map(|(p, name)| Label { name: name.to_owned(), confidence: p.clamp(0.0, 1.0) }).collect()
}

impl Expert for Tags {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.settled_ns = clip.span.end_ns;
        let Self { model, labels, frames, .. } = self;
        for (span, answer) in frames.answers(clip, |new| tag(model, labels, new, cancel))? {
            if let Some(best) = answer.first() {
                let mut seen = Observation::new(Kind::Object, span, best.name.clone(), best.confidence, SOURCE);
                seen.labels = answer;
                out.push(seen);
            }
        }
        Ok(())
    }

    fn flush(&mut self, _cancel: &Cancel, _out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.frames = PerFrame::default();
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        self.settled_ns
    }
}
