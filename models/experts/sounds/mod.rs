//! Sound events: YAMNet on patches of 0.96 s every 0.48 s of the absolute grid, whatever the length of the clips.

mod events;
mod labels;

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use ndarray::{Array4, ArrayView2, Ix2};
use ort::value::TensorRef;

use self::{
    events::{EventSettings, Events, Heard, Levels, PATCH_FRAMES, PATCH_HOP, SILENCE, patch_start},
    labels::{CLASSES, SoundLabels},
};
use super::{
    Expert, files,
    mel::{HOP, WINDOW, YAMNET_BANDS, YamnetMel},
    tape::{Next, RATE, Tape, hearable},
};
use crate::{
    Cancel, Clip, DescribeError, Kind, Label, LoadError, Observation, Sound, Span,
    runtime::{Model, RunSettings},
    time::time_of_sample,
};

const PIECE: &str = "sounds";
const SOURCE: &str = "lite/sounds";
/// Most patches in one run: 8 s of sound, 0.4 MB.
const BATCH: usize = 16;
/// Shortest sound at the end of the stream that is worth a patch of its own: 0.2 s.
const LAST_PATCH: u64 = RATE as u64 / 5;

/// The sounds expert.
pub struct Sounds {
    model: Model,
    ear: Ear,
    events: Events,
    settled_ns: u64,
}

impl Sounds {
    /// Loads the files `model` and `labels`.
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        settings: &serde_json::Value,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let settings: EventSettings = files::settings(PIECE, settings)?;
        let labels = SoundLabels::load(files::role(PIECE, files, "labels")?)?;
        let patch = [-1, 1, PATCH_FRAMES as i64, YAMNET_BANDS as i64];
        let model = Model::load(PIECE, files::role(PIECE, files, "model")?, run)?
            .expect(&[("log_mel", &patch)], &[("scores", &[-1, CLASSES as i64])])?;
        Ok(Self { model, ear: Ear::default(), events: Events::new(labels, settings), settled_ns: 0 })
    }

    fn listen(&mut self, last: bool, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let Self { model, ear, events, .. } = self;
        let mut score = |patches: Array4<f32>, each: &mut dyn FnMut(ArrayView2<f32>)| {
            let failed = |source| DescribeError::Run { piece: PIECE.into(), source };
            let view = TensorRef::from_array_view(patches.view()).map_err(failed)?;
            let outputs = model.run(ort::inputs!["log_mel" => view], cancel)?;
            let scores =
                outputs.value("scores").and_then(|scores| scores.try_extract_array::<f32>()).map_err(failed)?;
            match scores.into_dimensionality::<Ix2>() {
                Ok(scores) if scores.dim() == (patches.dim().0, CLASSES) => each(scores),
                _ => return Err(unexpected(patches.dim().0)),
            }
            Ok(())
        };
        listen(ear, events, last, &mut score, out)
    }

    fn end(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let result = self.listen(true, cancel, out);
        self.settled_ns = self.settled_ns.max(self.ear.tape.end_ns());
        self.ear.clear();
        self.events.start_at(0);
        result
    }
}

fn unexpected(patches: usize) -> DescribeError {
    DescribeError::Output {
        piece: PIECE.into(),
        expected: format!("scores of {patches} patches in {CLASSES} classes"),
        found: "another shape".into(),
    }
}

impl Expert for Sounds {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let Some(sound) = hearable(clip) else {
            let result = self.end(cancel, out);
            self.settled_ns = self.settled_ns.max(clip.span.end_ns);
            return result;
        };
        let ended = match self.ear.tape.next(sound) {
            Next::Joined => Ok(()),
            Next::Apart => self.end(cancel, out),
        };
        if let Some(first_patch) = self.ear.hear(sound) {
            self.events.start_at(first_patch);
        }
        ended.and(self.listen(false, cancel, out))
    }

    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.end(cancel, out)
    }

    fn reset(&mut self) {
        self.ear.clear();
        self.events.start_at(0);
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        match self.ear.tape.is_running() {
            true => self.settled_ns.max(time_of_sample(patch_start(self.events.oldest()), RATE)),
            false => self.settled_ns,
        }
    }
}

/// Gives scores `[n, CLASSES]` of patches `[n, 1, 96, 64]`.
type Score<'a> = dyn FnMut(Array4<f32>, &mut dyn FnMut(ArrayView2<f32>)) -> Result<(), DescribeError> + 'a;

/// Scores every patch that is complete, or at the end of the stream the `last` one too, and says what ended.
fn listen(
    ear: &mut Ear,
    events: &mut Events,
    last: bool,
    score: &mut Score,
    out: &mut Vec<Observation>,
) -> Result<(), DescribeError> {
    let (mut ended, mut result) = (Vec::new(), Ok(()));
    while let Some(patches) = ear.next_patches(last) {
        let heard = ear.heard();
        let loud: Vec<u64> = patches.clone().filter(|&patch| !ear.is_silent(patch)).collect();
        let mut take = |scores: ArrayView2<f32>| {
            for patch in patches.clone() {
                let row = loud.binary_search(&patch).ok().map(|row| scores.row(row));
                let row = row.as_ref().and_then(|row| row.as_slice()).unwrap_or_default();
                events.push(patch, row, heard, &mut ended);
            }
        };
        if loud.is_empty() {
            take(ArrayView2::from_shape((0, CLASSES), &[]).expect("no rows need no values"));
        } else {
            result = score(ear.batch(&loud), &mut take);
        }
        ear.forget(patches.end, events.oldest());
        if result.is_err() {
            break;
        }
    }
    if last {
        events.flush(ear.heard(), &mut ended);
    }
    out.extend(ended.into_iter().map(|event| {
        let class = &events.labels().classes()[event.class];
        let span = Span::new(time_of_sample(event.samples.start, RATE), time_of_sample(event.samples.end, RATE));
        let mut said = Observation::new(Kind::Sound, span, class.clause.as_str(), event.score, SOURCE);
        said.labels.push(Label { name: class.name.clone(), confidence: event.score });
        said
    }));
    result
}

/// Keeps the sound that is still needed, as bands and levels.
#[derive(Default)]
struct Ear {
    tape: Tape,
    mel: YamnetMel,
    /// Bands of the frames from `first_row` on.
    rows: Vec<f32>,
    first_row: u64,
    levels: Levels,
    next_patch: u64,
    /// First sample of all.
    start: u64,
}

impl Ear {
    /// Takes more sound; gives the first patch where this is the start.
    fn hear(&mut self, sound: &Sound) -> Option<u64> {
        let starts = !self.tape.is_running();
        self.tape.push(sound);
        if starts {
            self.start = self.tape.first();
            self.next_patch = self.tape.first() / patch_start(1);
            self.first_row = self.next_patch * PATCH_HOP as u64;
            self.levels.start_at(self.first_row);
        }
        while self.next_frame() * HOP as u64 + WINDOW as u64 <= self.tape.end() {
            self.push_frame();
        }
        self.tape.drop_before(self.next_frame() * HOP as u64);
        starts.then_some(self.next_patch)
    }

    fn heard(&self) -> Heard<'_> {
        Heard { levels: &self.levels, start: self.start, end: self.tape.end() }
    }

    fn next_frame(&self) -> u64 {
        self.first_row + (self.rows.len() / YAMNET_BANDS) as u64
    }

    fn push_frame(&mut self) {
        let mut window = [0.0; WINDOW];
        self.tape.read(self.next_frame() * HOP as u64, &mut window);
        let power: f32 = window[..HOP].iter().map(|x| x * x).sum();
        self.levels.push((power / HOP as f32).sqrt());
        self.mel.push_row(&window, &mut self.rows);
    }

    /// The complete patches that nobody asked for yet, at most [`BATCH`] of them; with `last` also one that the end
    /// of the stream cuts short, filled up with silence.
    fn next_patches(&mut self, last: bool) -> Option<Range<u64>> {
        let from = self.next_patch;
        let complete = |end: u64| (end * PATCH_HOP as u64 + PATCH_FRAMES as u64).checked_sub(PATCH_HOP as u64);
        let mut to = from;
        while to - from < BATCH as u64 && complete(to + 1).is_some_and(|frames| frames <= self.next_frame()) {
            to += 1;
        }
        if to == from && last && self.tape.is_running() {
            // What no patch has covered: all after the middle of the one that was last.
            let covered = if patch_start(from) <= self.start { self.start } else { patch_start(from + 1) };
            if self.tape.end().saturating_sub(covered) >= LAST_PATCH {
                to = from + 1;
                while complete(to).is_some_and(|frames| self.next_frame() < frames) {
                    self.push_frame();
                }
            }
        }
        self.next_patch = to;
        (from < to).then_some(from..to)
    }

    fn is_silent(&self, patch: u64) -> bool {
        self.levels.of_patch(patch).all(|(_, level)| level < SILENCE)
    }

    /// The bands of `patches`, `[n, 1, 96, 64]`.
    fn batch(&self, patches: &[u64]) -> Array4<f32> {
        let rows = |patch: u64| {
            let from = (patch * PATCH_HOP as u64 - self.first_row) as usize * YAMNET_BANDS;
            &self.rows[from..from + PATCH_FRAMES * YAMNET_BANDS]
        };
        let bands = patches.iter().flat_map(|&patch| rows(patch)).copied().collect();
        Array4::from_shape_vec((patches.len(), 1, PATCH_FRAMES, YAMNET_BANDS), bands)
            .expect("each patch gives its frames and bands")
    }

    /// Drops bands before patch `next` and levels before patch `oldest`.
    fn forget(&mut self, next: u64, oldest: u64) {
        let frame = next * PATCH_HOP as u64;
        let count = (frame.saturating_sub(self.first_row) as usize).min(self.rows.len() / YAMNET_BANDS);
        self.rows.drain(..count * YAMNET_BANDS);
        self.first_row += count as u64;
        self.levels.drop_before(oldest.min(next) * PATCH_HOP as u64);
    }

    fn clear(&mut self) {
        self.tape.clear();
        self.rows.clear();
        self.levels.start_at(0);
        self.first_row = 0;
        self.next_patch = 0;
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests;
