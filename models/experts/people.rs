//! People: how many are in each chosen frame (BlazeFace full range, confirmed by the BlazePose detector).

use std::{collections::BTreeMap, path::PathBuf};

use ndarray::Array4;
use ort::value::TensorRef;
use serde::Deserialize;

use super::{
    Expert, files,
    frames::PerFrame,
    outputs,
    pixels::{self, Region},
};
use crate::{
    Cancel, Clip, DescribeError, Frame, Kind, Label, LoadError, Observation,
    runtime::{Model, RunSettings},
};

const PIECE: &str = "people";
const SOURCE: &str = "lite/people";
/// Two faces that share more than this part of their common area are one.
const SAME_FACE: f32 = 0.3;
/// Faces that are counted at most, which bounds the time of a hostile picture.
const MAX_FACES: usize = 64;

/// What can be set in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
struct Settings {
    /// How sure both detectors must be, 0 to 1. At 0.7 neither alone is enough: faces are seen in animals.
    threshold: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 0.7 }
    }
}

/// Geometry of a detector: the side of its input in pixels and, of each grid of anchors, cells a side and anchors a cell.
struct Detector {
    size: usize,
    grids: &'static [(usize, usize)],
    /// Values for each anchor; the first four are centre and size in pixels of the input, the centre from the anchor's.
    values: usize,
}

/// BlazeFace, full range (MediaPipe `face_detection_full_range_sparse`).
const FACE: Detector = Detector { size: 192, grids: &[(48, 1)], values: 16 };
/// BlazePose detector (MediaPipe `pose_detection`).
const POSE: Detector = Detector { size: 224, grids: &[(28, 2), (14, 2), (7, 6)], values: 12 };

impl Detector {
    fn anchors(&self) -> usize {
        self.grids.iter().map(|(side, each)| side * side * each).sum()
    }

    /// Centres of the anchors, 0 to 1 of the input, in the order of the outputs.
    fn centres(&self) -> impl Iterator<Item = (f32, f32)> {
        self.grids.iter().flat_map(|&(side, each)| {
            let at = move |i: usize| (i as f32 + 0.5) / side as f32;
            (0..side * side * each).map(move |i| (at(i / each % side), at(i / each / side)))
        })
    }

    fn load(&self, role: &str, files: &BTreeMap<String, PathBuf>, run: &RunSettings) -> Result<Model, LoadError> {
        let (side, count) = (self.size as i64, self.anchors() as i64);
        Model::load(PIECE, files::role(PIECE, files, role)?, run)?.expect(
            &[("image", &[-1, side, side, 3])],
            &[("boxes", &[-1, count, self.values as i64]), ("scores", &[-1, count, 1])],
        )
    }

    /// What `model` finds in each of `frames`: things surer than `threshold`, surest first.
    fn find(
        &self,
        model: &mut Model,
        frames: &[&Frame],
        threshold: f32,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<Found>>, DescribeError> {
        let mut input = Array4::zeros((frames.len(), self.size, self.size, 3));
        for (frame, mut image) in frames.iter().zip(input.outer_iter_mut()) {
            let pixels = pixels::resample(frame, Region::letterbox(frame), self.size, self.size);
            // Both detectors were trained on -1 to 1.
            image.iter_mut().zip(pixels).for_each(|(to, value)| *to = value / 127.5 - 1.0);
        }
        let tensor = TensorRef::from_array_view(input.view())
            .map_err(|source| DescribeError::Run { piece: PIECE.into(), source })?;
        let outputs = model.run(ort::inputs!["image" => tensor], cancel)?;
        let scores = outputs::tensor(PIECE, &outputs, "scores", &[frames.len(), self.anchors(), 1])?;
        let boxes = outputs::tensor(PIECE, &outputs, "boxes", &[frames.len(), self.anchors(), self.values])?;
        let each = scores.outer_iter().zip(boxes.outer_iter()).zip(frames);
        Ok(each
            .map(|((scores, boxes), frame)| {
                let boxes = boxes.outer_iter().map(|values| values.iter().copied().take(4).collect());
                self.decode(scores.iter().copied(), boxes, frame, threshold)
            })
            .collect())
    }

    /// Things surer than `threshold`, surest first, from the `scores` (logits) and `boxes` of all anchors.
    fn decode(
        &self,
        scores: impl Iterator<Item = f32>,
        boxes: impl Iterator<Item = Vec<f32>>,
        frame: &Frame,
        threshold: f32,
    ) -> Vec<Found> {
        let mut found: Vec<Found> = self
            .centres()
            .zip(scores.zip(boxes))
            .map(|(centre, (logit, values))| (centre, 1.0 / (1.0 + (-logit).exp()), values))
            .filter(|(_, score, _)| *score > threshold)
            .map(|(centre, score, values)| {
                let parts: Vec<f32> = values.iter().map(|value| value / self.size as f32).collect();
                Found { score, bounds: in_picture(frame, centre, &parts) }
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found
    }
}

/// Something that was detected.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    /// 0 to 1.
    score: f32,
    /// Left, top, right, bottom as parts of the picture, 0 to 1.
    bounds: [f32; 4],
}

impl Found {
    /// Common area over area of both together, 0 to 1.
    fn overlap(&self, other: &Self) -> f32 {
        let area = |[left, top, right, bottom]: [f32; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
        let ([l, t, r, b], [left, top, right, bottom]) = (self.bounds, other.bounds);
        let common = area([l.max(left), t.max(top), r.min(right), b.min(bottom)]);
        common / (area(self.bounds) + area(other.bounds) - common).max(f32::MIN_POSITIVE)
    }
}

/// A box of the letterboxed input (`values`: centre from the anchor's, width, height; parts of the input) in the picture.
fn in_picture(frame: &Frame, centre: (f32, f32), values: &[f32]) -> [f32; 4] {
    let &[x, y, width, height] = values else { return [0.0; 4] };
    let region = Region::letterbox(frame);
    let whole = Region::whole(frame);
    let place = |at: f32| (at * region.width + region.left) / whole.width;
    let level = |at: f32| (at * region.height + region.top) / whole.height;
    let (x, y) = (x + centre.0, y + centre.1);
    [place(x - width / 2.0), level(y - height / 2.0), place(x + width / 2.0), level(y + height / 2.0)]
        .map(|part| part.clamp(0.0, 1.0))
}

/// The surest of those that overlap: one for each face.
fn distinct(found: Vec<Found>) -> Vec<Found> {
    let mut kept: Vec<Found> = Vec::new();
    for face in found {
        if kept.len() < MAX_FACES && kept.iter().all(|other| other.overlap(&face) <= SAME_FACE) {
            kept.push(face);
        }
    }
    kept
}

/// The people in a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    count: usize,
    /// The lower of the surest face and the surest body, 0 to 1.
    confidence: f32,
    /// Of the face, where there is one only.
    bounds: Option<[f32; 4]>,
}

/// The people detector: one [`Kind::Object`] for each frame with people in it.
pub struct People {
    face: Model,
    pose: Model,
    threshold: f32,
    frames: PerFrame<Option<Seen>>,
    settled_ns: u64,
}

impl People {
    /// Loads `face` (`image` `f32 [n,192,192,3]`) and `pose` (`f32 [n,224,224,3]`), both -1 to 1 -> `boxes`, `scores` (logits).
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        settings: &serde_json::Value,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let Settings { threshold } = files::settings(PIECE, settings)?;
        let (face, pose) = (FACE.load("face", files, run)?, POSE.load("pose", files, run)?);
        Ok(Self { face, pose, threshold, frames: PerFrame::default(), settled_ns: 0 })
    }
}

/// The people in each of `frames`; bodies are only looked for where there are faces.
fn look(
    face: &mut Model,
    pose: &mut Model,
    threshold: f32,
    frames: &[&Frame],
    cancel: &Cancel,
) -> Result<Vec<Option<Seen>>, DescribeError> {
    let mut answers = vec![None; frames.len()];
    let found = FACE.find(face, frames, threshold, cancel)?.into_iter().map(distinct).enumerate();
    let faces: Vec<(usize, Vec<Found>)> = found.filter(|(_, faces)| !faces.is_empty()).collect();
    if faces.is_empty() {
        return Ok(answers);
    }
    let with_faces: Vec<&Frame> = faces.iter().map(|(index, _)| frames[*index]).collect();
    let bodies = POSE.find(pose, &with_faces, threshold, cancel)?;
    for ((index, faces), bodies) in faces.into_iter().zip(bodies) {
        answers[index] = faces.first().zip(bodies.first()).map(|(face, body)| Seen {
            count: faces.len(),
            confidence: face.score.min(body.score),
            bounds: (faces.len() == 1).then_some(face.bounds),
        });
    }
    Ok(answers)
}

impl Expert for People {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.settled_ns = clip.span.end_ns;
        let Self { face, pose, threshold, frames, .. } = self;
        for (span, answer) in frames.answers(clip, |new| look(face, pose, *threshold, new, cancel))? {
            if let Some(Seen { count, confidence, bounds }) = answer {
                let text = if count == 1 { "person".to_owned() } else { format!("{count} people") };
                let mut seen = Observation::new(Kind::Object, span, text, confidence, SOURCE);
                seen.labels = vec![Label { name: "person".to_owned(), confidence }];
                seen.bounds = bounds;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::eyes_tests::{difference, golden_f32, golden_frame, pack};

    fn frame(width: u32, height: u32) -> Frame {
        Frame { at_ns: 0, width, height, rgb: Default::default() }
    }

    #[test]
    fn anchors_go_row_by_row_through_each_grid() {
        assert_eq!((FACE.anchors(), POSE.anchors()), (2304, 2254));
        let face: Vec<_> = FACE.centres().collect();
        assert_eq!((face.len(), face[1], face[48]), (2304, (1.5 / 48.0, 0.5 / 48.0), (0.5 / 48.0, 1.5 / 48.0)));
        let pose: Vec<_> = POSE.centres().collect();
        assert_eq!(
            (pose[1], pose[2], pose[28 * 28 * 2]),
            (pose[0], (1.5 / 28.0, 0.5 / 28.0), (0.5 / 14.0, 0.5 / 14.0))
        );
    }

    #[test]
    fn a_box_loses_the_letterbox() {
        // The picture fills the middle half of the square from 0.25 to 0.75 downwards.
        assert_eq!(in_picture(&frame(400, 200), (0.5, 0.5), &[0.0, 0.0, 0.5, 0.25]), [0.25, 0.25, 0.75, 0.75]);
        assert_eq!(in_picture(&frame(400, 200), (0.5, 0.25), &[0.0, 0.0, 2.0, 0.5]), [0.0, 0.0, 1.0, 0.5]);
        assert_eq!(in_picture(&frame(200, 400), (0.5, 0.5), &[0.25, 0.0, 0.5, 1.0]), [0.5, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn boxes_on_the_same_face_are_one() {
        let at = |left: f32, score| Found { score, bounds: [left, 0.0, left + 0.2, 0.2] };
        let kept = distinct(vec![at(0.0, 0.9), at(0.01, 0.8), at(0.15, 0.75), at(0.5, 0.7)]);
        assert_eq!(kept.iter().map(|face| face.score).collect::<Vec<_>>(), [0.9, 0.75, 0.7]);
    }

    #[test]
    fn detectors_agree_with_the_original() {
        let Some(files) = pack(&[("face", "people_face.onnx"), ("pose", "people_pose.onnx")]) else { return };
        for (detector, role) in [(FACE, "face"), (POSE, "pose")] {
            let golden = |what| golden_f32(&format!("people.{role}_{what}"));
            let (Some(picture), Some(boxes), Some(scores)) = (golden_frame(), golden("boxes"), golden("scores")) else {
                return;
            };
            // The original saw the upper left corner.
            let side = detector.size as u32;
            let corner =
                picture.rgb.chunks_exact(224 * 3).take(detector.size).flat_map(|row| &row[..detector.size * 3]);
            let corner = Frame { at_ns: 0, width: side, height: side, rgb: corner.copied().collect::<Vec<_>>().into() };
            let mut model = detector.load(role, &files, &RunSettings::default()).unwrap();
            let found = detector.find(&mut model, &[&corner], -1.0, &Cancel::default()).unwrap().remove(0);
            let boxes = boxes.chunks_exact(detector.values).map(|values| values[..4].to_vec());
            let wanted = detector.decode(scores.into_iter(), boxes, &corner, -1.0);
            // All anchors passed; the order of near-equal ones may differ, so only the surest are compared.
            assert_eq!((found.len(), wanted.len()), (detector.anchors(), detector.anchors()));
            for (found, wanted) in found.iter().zip(&wanted).take(3) {
                assert!((found.score - wanted.score).abs() < 1e-3, "{role}: {found:?} is not {wanted:?}");
                assert!(difference(&found.bounds, &wanted.bounds) < 1e-3, "{role}: {found:?} is not {wanted:?}");
            }
        }
    }
}
