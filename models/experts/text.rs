//! Text: words that are written in the picture (PP-OCR detector and recogniser).

use std::{collections::BTreeMap, path::PathBuf};

use ndarray::Array4;
use ort::value::TensorRef;
use serde::Deserialize;

use super::{
    Expert, files,
    lines::{self, MapSettings},
    outputs,
    pixels::{self, Novelty, Region},
};
use crate::{
    Cancel, Clip, DescribeError, Frame, Kind, LoadError, Observation, Span,
    runtime::{Model, RunSettings},
    time::SECOND,
};

const PIECE: &str = "text";
const SOURCE: &str = "lite/text";
/// Names that the exporter gave to input and output of both models.
const INPUT: &str = "x";
const OUTPUT: &str = "fetch_name_0";
/// Both models want (value - 127.5) / 127.5, blue first (PaddleOCR).
const MIDDLE: f32 = 127.5;
/// Sides of the detector's input are multiples of this.
const MULTIPLE: u32 = 32;
/// Height of a line for the recogniser in pixels.
const LINE_HEIGHT: usize = 48;
/// Least and largest width of a line; shorter ones are filled up with grey, as in training, longer ones squeezed.
const LINE_WIDTH: (usize, usize) = (320, 1600);
/// Largest file of characters that is read; the pack's own has 75 kB.
const MAX_KEYS: u64 = 1 << 20;
/// Words with fewer letters and digits are most often specks.
const LEAST_CHARACTERS: usize = 2;
/// Text that stays is told at least this often, so that nothing waits for the end of a station's logo.
const MAX_OPEN_NS: u64 = 10 * SECOND;

/// What can be set in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
struct Settings {
    /// How sure the characters of a line must be on average, 0 to 1.
    threshold: f32,
    /// Longer side of the picture in which lines are looked for, in pixels.
    size: u32,
    pixel_threshold: f32,
    box_threshold: f32,
    unclip: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 0.8, size: 640, pixel_threshold: 0.3, box_threshold: 0.5, unclip: 1.6 }
    }
}

/// The reader of on-screen text: one [`Kind::Text`] for each line, for as long as it stays.
///
/// Reads the first frame of each clip that shows something new.
pub struct Text {
    detect: Model,
    recognize: Model,
    keys: Vec<String>,
    settings: Settings,
    novelty: Novelty,
    screen: Screen,
}

impl Text {
    /// Loads `detect` (`f32 [n,3,h,w]` -> map `f32 [n,1,h,w]`), `recognize` (`f32 [n,3,48,w]` -> `f32 [n,steps,classes]`, both as
    /// PaddleOCR names them) and `keys` (a character a line).
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        settings: &serde_json::Value,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let detect = Model::load(PIECE, files::role(PIECE, files, "detect")?, run)?
            .expect(&[(INPUT, &[-1, 3, -1, -1])], &[(OUTPUT, &[-1, 1, -1, -1])])?;
        let path = files::role(PIECE, files, "keys")?;
        let keys = String::from_utf8(files::read(path, MAX_KEYS)?)
            .map_err(|error| LoadError::Format { path: path.to_owned(), reason: error.to_string() })?;
        let keys: Vec<String> = keys.lines().map(str::to_owned).collect();
        let height = LINE_HEIGHT as i64;
        let recognize = Model::load(PIECE, files::role(PIECE, files, "recognize")?, run)?
            .expect(&[(INPUT, &[-1, 3, height, -1])], &[(OUTPUT, &[-1, -1, keys.len() as i64 + 2])])?;
        let settings = files::settings(PIECE, settings)?;
        Ok(Self { detect, recognize, keys, settings, novelty: Novelty::default(), screen: Screen::default() })
    }

    /// The lines of text in `frame`, from the top down: words, how sure (0 to 1), and where (left, top, right, bottom as
    /// parts of the picture).
    pub fn read(&mut self, frame: &Frame, cancel: &Cancel) -> Result<Vec<(String, f32, [f32; 4])>, DescribeError> {
        let whole = Region::whole(frame);
        let mut read = Vec::new();
        for bounds in self.find(frame, cancel)? {
            let line = Region {
                left: bounds[0] * whole.width,
                top: bounds[1] * whole.height,
                width: (bounds[2] - bounds[0]) * whole.width,
                height: (bounds[3] - bounds[1]) * whole.height,
            };
            let (text, sure) = self.recognize(frame, line, cancel)?;
            let characters = text.chars().filter(|c| c.is_alphanumeric()).count();
            if sure > self.settings.threshold && characters >= LEAST_CHARACTERS {
                read.push((text, sure, bounds));
            }
        }
        Ok(read)
    }

    /// Boxes around the lines in `frame`, as parts of it.
    fn find(&mut self, frame: &Frame, cancel: &Cancel) -> Result<Vec<[f32; 4]>, DescribeError> {
        let scale = self.settings.size as f32 / frame.width.max(frame.height).max(1) as f32;
        let side = |pixels: u32| {
            let multiples = (pixels as f32 * scale / MULTIPLE as f32).round().max(1.0);
            multiples as usize * MULTIPLE as usize
        };
        let (width, height) = (side(frame.width), side(frame.height));
        let mut input = Array4::zeros((1, 3, height, width));
        let pixels = pixels::resample(frame, Region::whole(frame), width, height);
        pixels::to_planes(
            &pixels,
            pixels::BGR,
            MIDDLE,
            MIDDLE,
            input.as_slice_mut().expect("a new array is in one piece"),
        );
        let tensor = TensorRef::from_array_view(input.view()).map_err(failed)?;
        let outputs = self.detect.run(ort::inputs![INPUT => tensor], cancel)?;
        let map = outputs::tensor(PIECE, &outputs, OUTPUT, &[1, 1, height, width])?;
        let Settings { pixel_threshold, box_threshold, unclip, .. } = self.settings;
        let map: Vec<f32> = map.iter().copied().collect();
        Ok(lines::lines(&map, width, &MapSettings { pixel_threshold, box_threshold, unclip }))
    }

    /// The characters in `line` of `frame` and how sure they are.
    fn recognize(&mut self, frame: &Frame, line: Region, cancel: &Cancel) -> Result<(String, f32), DescribeError> {
        let wanted = (LINE_HEIGHT as f32 * line.width / line.height.max(1.0)).ceil() as usize;
        let width = wanted.clamp(1, LINE_WIDTH.1);
        let mut planes = vec![0.0; 3 * LINE_HEIGHT * width];
        let pixels = pixels::resample(frame, line, width, LINE_HEIGHT);
        pixels::to_planes(&pixels, pixels::BGR, MIDDLE, MIDDLE, &mut planes);
        let mut input = Array4::<f32>::zeros((1, 3, LINE_HEIGHT, width.max(LINE_WIDTH.0)));
        for (row, values) in input.rows_mut().into_iter().zip(planes.chunks_exact(width)) {
            row.into_iter().zip(values).for_each(|(to, value)| *to = *value);
        }
        let tensor = TensorRef::from_array_view(input.view()).map_err(failed)?;
        let outputs = self.recognize.run(ort::inputs![INPUT => tensor], cancel)?;
        let classes = self.keys.len() + 2;
        let scores = outputs::tensor_like(PIECE, &outputs, OUTPUT, &[Some(1), None, Some(classes)])?;
        let scores: Vec<f32> = scores.iter().copied().collect();
        Ok(lines::characters(scores.chunks_exact(classes), &self.keys))
    }
}

fn failed(source: ort::Error) -> DescribeError {
    DescribeError::Run { piece: PIECE.into(), source }
}

impl Expert for Text {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let mut result = Ok(());
        if let Some(frame) = clip.frames.iter().find(|frame| self.novelty.is_new(frame)) {
            match self.read(frame, cancel) {
                Ok(lines) => self.screen.show(frame.at_ns, lines, out),
                Err(error) => {
                    self.novelty.forget();
                    result = Err(error);
                }
            }
        }
        self.screen.stay(clip.span.end_ns, out);
        result
    }

    fn flush(&mut self, _cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let end_ns = self.screen.end_ns;
        self.screen.show(end_ns, Vec::new(), out);
        self.novelty.forget();
        Ok(())
    }

    fn reset(&mut self) {
        self.screen = Screen::default();
        self.novelty.forget();
    }

    fn settled_ns(&self) -> u64 {
        self.screen.open.iter().map(|said| said.span.start_ns).min().unwrap_or(self.screen.end_ns)
    }
}

/// The lines that are on the screen.
#[derive(Debug, Default)]
struct Screen {
    open: Vec<Observation>,
    /// End of the last clip.
    end_ns: u64,
}

impl Screen {
    /// Takes in what was read at `at_ns`: lines that are gone are told, new ones begin, the others go on.
    fn show(&mut self, at_ns: u64, lines: Vec<(String, f32, [f32; 4])>, out: &mut Vec<Observation>) {
        let mut gone = std::mem::take(&mut self.open);
        for (text, sure, bounds) in lines {
            let mut line = match gone.iter().position(|open| open.text == text) {
                Some(index) => gone.swap_remove(index),
                None => Observation::new(Kind::Text, Span::new(at_ns, at_ns), text, sure, SOURCE),
            };
            line.confidence = line.confidence.max(sure);
            line.bounds = Some(bounds);
            self.open.push(line);
        }
        gone.iter_mut().for_each(|line| line.span.end_ns = at_ns.max(line.span.start_ns));
        gone.sort_by(Observation::canonical_cmp);
        out.extend(gone.into_iter().filter(|line| !line.span.is_empty()));
    }

    /// Says that nothing else happened until the end of the clip.
    fn stay(&mut self, end_ns: u64, out: &mut Vec<Observation>) {
        self.end_ns = end_ns;
        for line in &mut self.open {
            line.span = Span::new(line.span.start_ns, end_ns);
            if line.span.duration_ns() >= MAX_OPEN_NS {
                out.push(line.clone());
                line.span.start_ns = end_ns;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> (String, f32, [f32; 4]) {
        (text.to_owned(), 0.9, [0.0, 0.0, 1.0, 1.0])
    }

    fn said(out: &[Observation]) -> Vec<(&str, u64, u64)> {
        out.iter().map(|o| (o.text.as_str(), o.span.start_ns / SECOND, o.span.end_ns / SECOND)).collect()
    }

    #[test]
    fn a_line_lasts_until_it_is_gone() {
        let (mut screen, mut out) = (Screen::default(), Vec::new());
        screen.show(SECOND, vec![line("one"), line("two")], &mut out);
        screen.stay(4 * SECOND, &mut out);
        screen.show(5 * SECOND, vec![line("two"), line("three")], &mut out);
        assert_eq!(said(&out), [("one", 1, 5)]);
        screen.stay(8 * SECOND, &mut out);
        screen.show(8 * SECOND, vec![], &mut out);
        assert_eq!(said(&out), [("one", 1, 5), ("two", 1, 8), ("three", 5, 8)]);
    }

    #[test]
    fn a_line_that_stays_is_told_in_parts_that_touch() {
        let (mut screen, mut out) = (Screen::default(), Vec::new());
        screen.show(0, vec![line("logo")], &mut out);
        (1..=6).for_each(|i| screen.stay(4 * i * SECOND, &mut out));
        assert_eq!(said(&out), [("logo", 0, 12), ("logo", 12, 24)]);
        screen.show(24 * SECOND, vec![], &mut out);
        assert_eq!(out.len(), 2);
    }
}
