//! Shots: scenes from cut to cut, found in the thumbnails of every frame (TransNetV2).

use std::{collections::BTreeMap, path::PathBuf};

use ndarray::ArrayView5;
use ort::value::TensorRef;
use serde::Deserialize;

use super::{
    Expert,
    cuts::{Cut, CutFinder, Gate, WINDOW},
    files, outputs,
};
use crate::{
    Cancel, Clip, DescribeError, Kind, LoadError, Observation, Span,
    clip::{THUMBNAIL_BYTES, THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH},
    runtime::{Model, RunSettings},
};

const PIECE: &str = "shots";
const SOURCE: &str = "lite/shots";

/// What can be set in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Probability above which a frame is the last of its shot, 0 to 1.
    pub threshold: f32,
    /// Mean difference of neighbouring thumbnails, 0 to 255, up to which a window counts as one shot; the noise of coding
    /// stays below 1.
    pub gate: f32,
    /// The same over half a second: slow zooms stay below 9, dissolves of up to two seconds do not.
    pub slow_gate: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 0.4, gate: 4.0, slow_gate: 12.0 }
    }
}

impl Settings {
    fn finder(self) -> CutFinder {
        CutFinder::new(self.threshold, Gate { next: self.gate, slow: self.slow_gate })
    }
}

/// The shot detector: one [`Kind::Scene`] per shot, said when the shot is over.
pub struct Shots {
    model: Model,
    settings: Settings,
    finder: CutFinder,
    scenes: Scenes,
}

impl Shots {
    /// Loads `model` (`frames` `u8 [n,100,27,48,3]` -> `single` `f32 [n,100,1]`, probabilities).
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        settings: &serde_json::Value,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let window = [-1, WINDOW as i64, THUMBNAIL_HEIGHT as i64, THUMBNAIL_WIDTH as i64, 3];
        let model = Model::load(PIECE, files::role(PIECE, files, "model")?, run)?
            .expect(&[("frames", &window)], &[("single", &[-1, WINDOW as i64, 1])])?;
        let settings: Settings = files::settings(PIECE, settings)?;
        let finder = settings.finder();
        Ok(Self { model, settings, finder, scenes: Scenes::default() })
    }

    /// What the model says of whole windows (`u8 [n,100,27,48,3]`).
    #[cfg(test)]
    pub(super) fn probabilities(&mut self, windows: &[u8], cancel: &Cancel) -> Result<Vec<f32>, DescribeError> {
        run(&mut self.model, windows, cancel)
    }

    fn advance(&mut self, end: bool, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let Self { model, finder, scenes, .. } = self;
        let (cuts, result) = finder.advance(end, |windows| run(model, windows, cancel));
        out.extend(cuts.into_iter().filter_map(|cut| scenes.cut(cut)));
        result
    }
}

/// Probability of each frame of `windows` (`u8 [n,100,27,48,3]`) to be the last one of its shot.
fn run(model: &mut Model, windows: &[u8], cancel: &Cancel) -> Result<Vec<f32>, DescribeError> {
    let count = windows.len() / (WINDOW * THUMBNAIL_BYTES);
    let frames = ArrayView5::from_shape((count, WINDOW, THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH, 3), windows)
        .expect("windows are whole");
    let tensor =
        TensorRef::from_array_view(frames).map_err(|source| DescribeError::Run { piece: PIECE.into(), source })?;
    let outputs = model.run(ort::inputs!["frames" => tensor], cancel)?;
    Ok(outputs::tensor(PIECE, &outputs, "single", &[count, WINDOW, 1])?.iter().copied().collect())
}

impl Expert for Shots {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.scenes.extend(clip.span, !clip.thumbnails.is_empty());
        for (index, at_ns) in clip.thumbnails.at_ns.iter().enumerate() {
            let at_ns = (*at_ns).min(clip.span.end_ns).max(clip.span.start_ns);
            self.finder.push(at_ns, clip.thumbnails.get(index));
        }
        self.finder.hold(clip.span.end_ns);
        self.advance(false, cancel, out)
    }

    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let result = self.advance(true, cancel, out);
        out.extend(self.scenes.finish());
        self.finder = self.settings.finder();
        result
    }

    fn reset(&mut self) {
        self.finder = self.settings.finder();
        self.scenes = Scenes::default();
    }

    fn settled_ns(&self) -> u64 {
        self.finder.undecided_ns().unwrap_or(self.scenes.seen.end_ns)
    }
}

/// The scenes between the cuts: they cover the clips seen, without gap or overlap.
#[derive(Debug)]
struct Scenes {
    /// From the start of the first clip to the end of the last.
    seen: Span,
    /// Whether any clip was seen, and whether any had a picture.
    begun: bool,
    pictured: bool,
    /// Start, number and probability of the scene that is going on.
    start_ns: u64,
    number: u64,
    confidence: f32,
}

impl Default for Scenes {
    fn default() -> Self {
        Self { seen: Span::new(0, 0), begun: false, pictured: false, start_ns: 0, number: 1, confidence: 1.0 }
    }
}

impl Scenes {
    /// Takes in the span of the next clip.
    fn extend(&mut self, span: Span, pictured: bool) {
        if !self.begun {
            (self.begun, self.seen, self.start_ns) = (true, span, span.start_ns);
        }
        self.seen.end_ns = self.seen.end_ns.max(span.end_ns);
        self.pictured |= pictured;
    }

    /// Ends the scene at `cut`; a cut at its very start, or where no clip was, is none.
    fn cut(&mut self, cut: Cut) -> Option<Observation> {
        if cut.at_ns <= self.start_ns || cut.at_ns >= self.seen.end_ns {
            return None;
        }
        let scene = self.say(cut.at_ns);
        (self.start_ns, self.number, self.confidence) = (cut.at_ns, self.number + 1, cut.probability);
        Some(scene)
    }

    /// Ends the last scene, leaving nothing open.
    fn finish(&mut self) -> Option<Observation> {
        let scene = (self.pictured && self.start_ns < self.seen.end_ns).then(|| self.say(self.seen.end_ns));
        *self = Self { seen: Span::new(self.seen.end_ns, self.seen.end_ns), ..Self::default() };
        scene
    }

    fn say(&self, end_ns: u64) -> Observation {
        let span = Span::new(self.start_ns, end_ns);
        Observation::new(Kind::Scene, span, format!("shot {}", self.number), self.confidence, SOURCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scenes_tile_the_clips(
            start in 0u64..100, lengths in proptest::collection::vec(1u64..50, 1..10),
            cuts in proptest::collection::vec(0u64..700, 0..20), pictured: bool,
        ) {
            let (mut scenes, mut now, mut said) = (Scenes::default(), start, Vec::new());
            let mut cuts: Vec<u64> = cuts.into_iter().collect();
            cuts.sort_unstable();
            for length in lengths {
                scenes.extend(Span::new(now, now + length), pictured);
                now += length;
                if pictured {
                    let due = cuts.partition_point(|&cut| cut < now);
                    said.extend(cuts.drain(..due).filter_map(|at_ns| scenes.cut(Cut { at_ns, probability: 0.5 })));
                }
            }
            said.extend(scenes.finish());
            prop_assert_eq!(said.is_empty(), !pictured);
            let mut next = start;
            for (index, scene) in said.iter().enumerate() {
                prop_assert_eq!(scene.span.start_ns, next);
                prop_assert!(!scene.span.is_empty());
                prop_assert_eq!(&scene.text, &format!("shot {}", index + 1));
                next = scene.span.end_ns;
            }
            prop_assert!(said.is_empty() || next == now);
        }
    }
}
