//! Voice activity: Silero's network, or the loudness where it is missing, and the rules that make segments of it.

use std::{ops::Range, path::Path};

use ndarray::{Array2, Array3, ArrayView2, Axis};
use ort::value::TensorRef;
use serde::Deserialize;

use super::tape::{RATE, Tape};
use crate::{
    Cancel, DescribeError, LoadError,
    runtime::{Model, RunSettings},
};

/// Samples of one decision: 32 ms (Silero VAD at 16 kHz).
pub const CHUNK: usize = 512;
/// Samples before the chunk that the network sees too.
const CONTEXT: usize = 64;
/// Width of the network's memory.
const STATE: usize = 128;
/// Most chunks in one run: 8 s of sound, so that a run can be cancelled.
const BATCH: usize = 256;
/// Silent chunks after which the network starts afresh: half a second.
const PAUSE: usize = 16;
/// Below this peak (-50 dB of full scale) a chunk is silent.
const SILENCE: f32 = 0.003;
const PIECE: &str = "voice";

/// Says of each chunk of sound how likely somebody speaks.
pub enum Voice {
    /// Silero VAD v6, the 16 kHz graph for any number of consecutive chunks.
    Silero {
        /// The network.
        model: Box<Model>,
        /// Its memory, `h` and `c`, each `[1, 1, 128]`.
        state: [Array3<f32>; 2],
        /// Silent chunks since the last loud one.
        quiet: usize,
    },
    /// Sound that stands out of the background.
    Loudness {
        /// Root mean square of the background.
        background: f32,
    },
}

impl Voice {
    /// Loads the network.
    pub fn load(path: &Path, run: &RunSettings) -> Result<Self, LoadError> {
        let state: &[i64] = &[1, 1, STATE as i64];
        let model = Model::load(PIECE, path, run)?.expect(
            &[("input", &[-1, (CONTEXT + CHUNK) as i64]), ("h", state), ("c", state)],
            &[("speech_probs", &[-1]), ("hn", state), ("cn", state)],
        )?;
        Ok(Self::Silero { model: Box::new(model), state: Default::default(), quiet: 0 }.fresh())
    }

    /// The rule that needs no network; takes loud sounds of any sort for speech.
    pub fn by_loudness() -> Self {
        Self::Loudness { background: 1.0 }.fresh()
    }

    fn fresh(mut self) -> Self {
        self.reset();
        self
    }

    /// Forgets the sound.
    pub fn reset(&mut self) {
        match self {
            Self::Silero { state, quiet, .. } => (*state, *quiet) = (blank(), PAUSE),
            Self::Loudness { background } => *background = 1.0,
        }
    }

    /// Probability of speech, 0 to 1, in each of `chunks` (by index on the absolute grid), which follow the last ones.
    ///
    /// Samples that are not on the tape are silence.
    pub fn listen(&mut self, tape: &Tape, chunks: Range<u64>, cancel: &Cancel) -> Result<Vec<f32>, DescribeError> {
        let mut rows = Array2::zeros(((chunks.end - chunks.start) as usize, CONTEXT + CHUNK));
        for (chunk, mut row) in chunks.zip(rows.rows_mut()) {
            let row = row.as_slice_mut().expect("a fresh array is contiguous");
            match (chunk * CHUNK as u64).checked_sub(CONTEXT as u64) {
                Some(start) => tape.read(start, row),
                None => tape.read(0, &mut row[CONTEXT..]),
            }
        }
        match self {
            Self::Silero { model, state, quiet } => listen_for_voice(model, state, quiet, rows.view(), cancel),
            Self::Loudness { background } => Ok(rows.rows().into_iter().map(|row| loudness(row, background)).collect()),
        }
    }
}

fn blank() -> [Array3<f32>; 2] {
    [Array3::zeros((1, 1, STATE)), Array3::zeros((1, 1, STATE))]
}

/// Chunks to be run in a row, as a range; `true` where the network's memory starts blank.
///
/// Sound after a pause is heard afresh: what came before (an owl, a door) keeps the network from noticing speech for up
/// to a second. So the memory is blank after [`PAUSE`] silent chunks, and those beyond need not be run at all. A shorter
/// pause is run like sound: leaving it out would change the probabilities after it by up to 0.3.
fn stretches(loud: impl Iterator<Item = bool>, quiet: &mut usize) -> Vec<(Range<usize>, bool)> {
    let mut stretches: Vec<(Range<usize>, bool)> = Vec::new();
    for (i, loud) in loud.enumerate() {
        let fresh = loud && *quiet >= PAUSE;
        *quiet = if loud { 0 } else { *quiet + 1 };
        if *quiet > PAUSE {
            continue;
        }
        match stretches.last_mut() {
            Some((range, _)) if range.end == i && !fresh => range.end = i + 1,
            _ => stretches.push((i..i + 1, fresh)),
        }
    }
    stretches
}

fn listen_for_voice(
    model: &mut Model,
    state: &mut [Array3<f32>; 2],
    quiet: &mut usize,
    rows: ArrayView2<f32>,
    cancel: &Cancel,
) -> Result<Vec<f32>, DescribeError> {
    let is_loud = |row: ndarray::ArrayView1<f32>| row.iter().skip(CONTEXT).any(|sample| sample.abs() >= SILENCE);
    let mut probabilities = vec![0.0; rows.nrows()];
    for (range, fresh) in stretches(rows.rows().into_iter().map(is_loud), quiet) {
        if fresh {
            *state = blank();
        }
        let mut at = range.start;
        for part in rows.slice_axis(Axis(0), range.into()).axis_chunks_iter(Axis(0), BATCH) {
            let said = run_network(model, state, part, cancel)?;
            probabilities[at..at + said.len()].copy_from_slice(&said);
            at += said.len();
        }
    }
    Ok(probabilities)
}

fn run_network(
    model: &mut Model,
    state: &mut [Array3<f32>; 2],
    rows: ArrayView2<f32>,
    cancel: &Cancel,
) -> Result<Vec<f32>, DescribeError> {
    let failed = |source| DescribeError::Run { piece: PIECE.into(), source };
    let [h, c] = state;
    let (input, old_h, old_c) = (
        TensorRef::from_array_view(rows).map_err(failed)?,
        TensorRef::from_array_view(h.view()).map_err(failed)?,
        TensorRef::from_array_view(c.view()).map_err(failed)?,
    );
    let (probabilities, new) = {
        let outputs = model.run(ort::inputs!["input" => input, "h" => old_h, "c" => old_c], cancel)?;
        let get = |name: &str| outputs.value(name)?.try_extract_tensor::<f32>().map(|(_, values)| values.to_vec());
        let new = [get("hn").map_err(failed)?, get("cn").map_err(failed)?];
        (get("speech_probs").map_err(failed)?, new)
    };
    if probabilities.len() != rows.nrows() || new.iter().any(|values| values.len() != STATE) {
        return Err(DescribeError::Output {
            piece: PIECE.into(),
            expected: format!("{} probabilities and {STATE} values of state", rows.nrows()),
            found: format!("{} and {}", probabilities.len(), new[0].len()),
        });
    }
    for (state, new) in [h, c].into_iter().zip(new) {
        state.iter_mut().zip(new).for_each(|(old, new)| *old = new);
    }
    Ok(probabilities)
}

/// 1 where the chunk is four times as loud as the background and not a whisper of noise, else 0.
fn loudness(row: ndarray::ArrayView1<f32>, background: &mut f32) -> f32 {
    let level = (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32).sqrt();
    // Down at once, up by 10 dB in about 4 s.
    *background = level.min(*background * 1.01);
    f32::from(u8::from(level > (*background * 4.0).max(0.005)))
}

/// How probabilities become segments.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SegmentSettings {
    /// Probability, 0 to 1, with which a segment begins.
    pub on: f32,
    /// Probability below which it may end.
    pub off: f32,
    /// Shortest segment, in seconds; less is no speech.
    pub min_speech_s: f32,
    /// Shortest silence that ends a segment, in seconds.
    pub min_silence_s: f32,
    /// Longest segment, in seconds; it is split at its quietest point then.
    pub max_speech_s: f32,
}

impl Default for SegmentSettings {
    fn default() -> Self {
        Self { on: 0.5, off: 0.35, min_speech_s: 0.25, min_silence_s: 0.3, max_speech_s: 24.0 }
    }
}

fn chunks(seconds: f32) -> u64 {
    (f64::from(seconds) * f64::from(RATE) / CHUNK as f64).ceil().max(1.0) as u64
}

/// Finds where speech starts and ends.
#[derive(Debug)]
pub struct Segmenter {
    settings: SegmentSettings,
    next: u64,
    speaking: Option<Speaking>,
}

#[derive(Debug)]
struct Speaking {
    start: u64,
    probabilities: Vec<f32>,
    quiet_since: Option<u64>,
}

impl Segmenter {
    /// Nothing heard yet.
    pub fn new(settings: SegmentSettings) -> Self {
        Self { settings, next: 0, speaking: None }
    }

    /// Forgets everything; the next probability belongs to chunk `next`.
    pub fn start_at(&mut self, next: u64) {
        (self.next, self.speaking) = (next, None);
    }

    /// Start of the segment that is open, else the next chunk: all before is known.
    pub fn known(&self) -> u64 {
        self.speaking.as_ref().map_or(self.next, |speaking| speaking.start)
    }

    /// The chunk that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Hears the next chunk; gives a segment, in chunks, that it ended.
    pub fn push(&mut self, probability: f32) -> Option<Range<u64>> {
        let index = self.next;
        self.next += 1;
        let settings = &self.settings;
        let Some(speaking) = &mut self.speaking else {
            if probability >= settings.on {
                self.speaking = Some(Speaking { start: index, probabilities: vec![probability], quiet_since: None });
            }
            return None;
        };
        speaking.probabilities.push(probability);
        if probability >= settings.on {
            speaking.quiet_since = None;
        } else if probability < settings.off {
            let since = *speaking.quiet_since.get_or_insert(index);
            if self.next - since >= chunks(settings.min_silence_s) {
                return self.flush();
            }
        }
        let longest = chunks(settings.max_speech_s).max(2);
        (speaking.probabilities.len() as u64 >= longest).then(|| speaking.split())
    }

    /// Ends the stream; gives the segment that is open.
    pub fn flush(&mut self) -> Option<Range<u64>> {
        let speaking = self.speaking.take()?;
        let segment = speaking.start..speaking.quiet_since.unwrap_or(self.next);
        (segment.end - segment.start >= chunks(self.settings.min_speech_s)).then_some(segment)
    }
}

impl Speaking {
    /// Cuts off the part before the least likely chunk of the second half; needs two chunks.
    fn split(&mut self) -> Range<u64> {
        let half = self.probabilities.len() / 2;
        let quietest = self.probabilities[half..].iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        let cut = half + quietest.map_or(0, |(index, _)| index);
        self.probabilities.drain(..cut);
        let part = self.start..self.start + cut as u64;
        self.start = part.end;
        // The silence may have begun in the part that is cut off.
        self.quiet_since = self.quiet_since.map(|since| since.max(part.end));
        part
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn sound_after_a_pause_is_heard_afresh_and_long_silence_is_not_run() {
        let sound = |parts: &[(bool, usize)]| -> Vec<bool> {
            parts.iter().flat_map(|(loud, count)| std::iter::repeat_n(*loud, *count)).collect()
        };
        let mut quiet = PAUSE;
        let first = sound(&[(false, 10), (true, 5), (false, 3), (true, 2), (false, 40), (true, 4), (false, 8)]);
        let found = stretches(first.into_iter(), &mut quiet);
        assert_eq!(found, [(10..20 + PAUSE, true), (60..72, true)]);
        // The pause goes on in the next call: eight silent chunks are run, then no more, then sound afresh.
        let found = stretches(sound(&[(false, 20), (true, 1)]).into_iter(), &mut quiet);
        assert_eq!(found, [(0..8, false), (20..21, true)]);
    }

    use crate::{
        Sound,
        experts::testing::{difference, golden, golden_audio, pack_files},
    };
    use proptest::prelude::*;

    fn segments(probabilities: &[f32]) -> Vec<Range<u64>> {
        let mut segmenter = Segmenter::new(SegmentSettings::default());
        let mut found: Vec<_> = probabilities.iter().filter_map(|&p| segmenter.push(p)).collect();
        found.extend(segmenter.flush());
        found
    }

    #[test]
    fn words_are_joined_over_short_pauses_and_clicks_are_dropped() {
        let said = |pattern: &[(usize, f32)]| {
            segments(&pattern.iter().flat_map(|&(count, p)| vec![p; count]).collect::<Vec<_>>())
        };
        assert_eq!(said(&[(10, 0.0), (20, 0.9), (9, 0.1), (20, 0.9), (30, 0.0)]), [10..59]);
        assert_eq!(said(&[(10, 0.0), (20, 0.9), (10, 0.1), (20, 0.9), (30, 0.0)]), [10..30, 40..60]);
        assert_eq!(said(&[(10, 0.0), (7, 0.9), (30, 0.0)]), []);
        assert_eq!(said(&[(10, 0.0), (8, 0.9)]), [10..18]);
        // Between off and on, what was said goes on.
        assert_eq!(said(&[(10, 0.9), (50, 0.4), (10, 0.1)]), [0..60]);
    }

    #[test]
    fn a_long_speech_is_split_where_it_is_quietest() {
        let mut probabilities = vec![0.9; 1_000];
        probabilities[600] = 0.4;
        assert_eq!(segments(&probabilities), [0..600, 600..1_000]);
    }

    #[test]
    fn the_network_hears_what_the_reference_hears() {
        let (Some(files), Some(audio), Some((_, wanted))) =
            (pack_files(&[("model", "voice.onnx")]), golden_audio(), golden("voice.probs"))
        else {
            return;
        };
        let mut voice = Voice::load(&files["model"], &RunSettings::default()).unwrap();
        let mut tape = Tape::default();
        tape.push(&Sound::from_samples(RATE, 0, 0, audio));
        let chunks = wanted.len() as u64;
        let whole = voice.listen(&tape, 0..chunks, &Cancel::default()).unwrap();
        let found = difference(&whole, &wanted);
        eprintln!("voice: largest difference {found:.1e}");
        assert!(found <= 1e-3);
        voice.reset();
        let parts = [0..1, 1..7, 7..7, 7..chunks];
        let parts = parts.map(|part| voice.listen(&tape, part, &Cancel::default()).unwrap()).concat();
        assert_eq!(parts, whole);
    }

    proptest! {
        #[test]
        fn segments_are_ordered_apart_long_enough_and_inside(
            runs in proptest::collection::vec((1usize..900, 0.0f32..1.0), 0..12)
        ) {
            let probabilities: Vec<f32> = runs.iter().flat_map(|&(count, p)| vec![p; count]).collect();
            let found = segments(&probabilities);
            let mut last = 0;
            for segment in found {
                prop_assert!(last <= segment.start && segment.start < segment.end);
                prop_assert!(segment.end <= probabilities.len() as u64);
                prop_assert!(segment.end - segment.start <= chunks(24.0));
                last = segment.end;
            }
        }

        #[test]
        fn all_sure_speech_is_in_a_segment(runs in proptest::collection::vec((8usize..900, prop::bool::ANY), 0..12)) {
            let probabilities: Vec<f32> = runs.iter().flat_map(|&(count, p)| vec![f32::from(u8::from(p)); count]).collect();
            let found = segments(&probabilities);
            for (index, &p) in probabilities.iter().enumerate() {
                prop_assert!(p < 0.5 || found.iter().any(|segment| segment.contains(&(index as u64))));
            }
        }
    }
}
