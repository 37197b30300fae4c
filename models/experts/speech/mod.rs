//! Speech: voice activity finds where somebody speaks, Whisper writes down what is said, with times.

mod networks;
mod plan;
pub mod published;
pub mod rules;
mod text;
mod whisper;
pub mod words;

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use serde::Deserialize;

use self::{
    plan::{PlanSettings, Planner, Window},
    whisper::{Transcript, Whisper},
};
use super::{
    Expert, files,
    tape::{Next, RATE, Tape, hearable},
    voice::{CHUNK, SegmentSettings, Segmenter, Voice},
};
use crate::{
    Cancel, Clip, DescribeError, Kind, LoadError, Observation, Span, generator::folder::Dtypes, runtime::RunSettings,
    time::time_of_sample,
};

const PIECE: &str = "speech";
/// Name of the default pack in sources.
const PACK: &str = "lite";
/// Most runs of Whisper for one window, where it stops before the speech does.
const MOST_RUNS: usize = 4;
/// Detected speech after the last phrase that is worth another run, in samples: 1 s.
const WORTH_A_RUN: u64 = RATE as u64;
/// Languages are kept for the stream from this certainty on.
const SURE_OF_LANGUAGE: f32 = 0.5;
/// Above this probability of no speech, unsure words are dropped (`no_speech_threshold` of `whisper/transcribe.py`).
const NO_SPEECH: f32 = 0.6;
/// Words with a lower mean logarithm of probability are unsure (`logprob_threshold`).
const UNSURE: f32 = -1.0;

/// How speech is found and written down.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct SpeechSettings {
    /// ISO 639-1 code; without it the language is the one heard first.
    language: Option<String>,
    /// Most tokens of one window.
    max_tokens: Option<usize>,
    /// Shortest window that Whisper is given, in seconds; it was trained on 30 s.
    shortest_s: Option<f32>,
    /// Number formats of the files of a published model.
    dtype: Option<Dtypes>,
    #[serde(flatten)]
    segments: SegmentSettings,
    #[serde(flatten)]
    plan: PlanSettings,
}

/// Whisper has room for 448 tokens with the prompt; half of it is what it was trained to write (`sample_len`).
const MAX_TOKENS: usize = 224;

/// Windows of 10 s cost a third of those of 30 s and gave no more wrong words (100, not 103) on 43 recordings of people in English,
/// Spanish and French; much shorter ones make Whisper go round in circles.
const SHORTEST_S: f32 = 10.0;

/// The speech expert.
pub struct Speech {
    whisper: Whisper,
    source: String,
    hearing: Hearing,
    max_tokens: usize,
    shortest: u64,
    given_language: Option<u32>,
    language: Option<u32>,
    settled_ns: u64,
}

impl Speech {
    /// Loads the files `encoder`, `decoder`, `tokenizer`, or the folder `model` of a published Whisper, and, where it is there, `voice` (the voice activity network).
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        settings: &serde_json::Value,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        let settings: SpeechSettings = files::settings(PIECE, settings)?;
        let whisper = Whisper::load(files, settings.dtype.as_ref(), run)?;
        let given_language = settings.language.as_deref().map(|code| {
            whisper.words().language(code).ok_or_else(|| LoadError::Format {
                path: whisper.path().to_owned(),
                reason: format!(
                    "it knows no language '{code}'; use a code of ISO 639-1 such as en, or none to have it found"
                ),
            })
        });
        let given_language = given_language.transpose()?;
        let voice = files.get("voice").map(|path| Voice::load(path, run)).unwrap_or_else(|| {
            tracing::warn!(
                "the voice piece is not there: all loud sound is taken for speech; run 'describe models fetch'"
            );
            Ok(Voice::by_loudness())
        })?;
        // A window of the planner goes into one run, with a second of silence behind it.
        let longest_s = whisper.longest() as f32 / RATE as f32;
        let plan = PlanSettings { window_s: settings.plan.window_s.min(longest_s - 1.0), ..settings.plan };
        let pack = files.get("model").and_then(|folder| folder.file_name());
        let pack = pack.map_or(PACK.into(), |name| name.to_string_lossy());
        Ok(Self {
            source: format!("{pack}/{PIECE}"),
            whisper,
            hearing: Hearing::new(voice, settings.segments, plan),
            max_tokens: settings.max_tokens.unwrap_or(MAX_TOKENS).clamp(1, MAX_TOKENS),
            shortest: (f64::from(settings.shortest_s.unwrap_or(SHORTEST_S)) * f64::from(RATE)) as u64,
            given_language,
            language: given_language,
            settled_ns: 0,
        })
    }

    fn listen(&mut self, last: bool, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let mut windows = Vec::new();
        let mut result = self.hearing.listen(last, cancel, &mut windows);
        for window in windows {
            let said = self.transcribe(window, cancel, out);
            if matches!(said, Err(DescribeError::Cancelled)) {
                return said;
            }
            result = result.and(said);
        }
        self.hearing.forget();
        result
    }

    /// Says what is said in the window; runs again for the rest where Whisper stops early.
    fn transcribe(
        &mut self,
        mut window: Window,
        cancel: &Cancel,
        out: &mut Vec<Observation>,
    ) -> Result<(), DescribeError> {
        for _ in 0..MOST_RUNS {
            let length = (window.samples.end - window.samples.start).min(self.whisper.longest());
            let mut samples = vec![0.0; length as usize];
            self.hearing.tape.read(window.samples.start, &mut samples);
            let heard = self.whisper.transcribe(&samples, self.language, self.max_tokens, self.shortest, cancel)?;
            if self.language.is_none() && heard.language_confidence >= SURE_OF_LANGUAGE {
                self.language = Some(heard.language);
            }
            let done = self.say(&heard, &window, out);
            let Some(rest) = done.and_then(|done| window.after(done, WORTH_A_RUN)) else { break };
            window = rest;
        }
        Ok(())
    }

    /// Gives the phrases of a transcript to `out`; returns the end of the last one in samples.
    fn say(&self, heard: &Transcript, window: &Window, out: &mut Vec<Observation>) -> Option<u64> {
        let ids: Vec<u32> = heard.tokens.iter().map(|token| token.id).collect();
        let mean = |tokens: Range<usize>| {
            let tokens = &heard.tokens[tokens];
            tokens.iter().map(|token| token.log_probability).sum::<f32>() / tokens.len().max(1) as f32
        };
        if heard.no_speech > NO_SPEECH && mean(0..ids.len()) < UNSURE {
            return None;
        }
        let phrases = text::phrases(&ids, self.whisper.words().rules().zero);
        let mut done = None;
        for (phrase, place) in phrases.iter().zip(text::place(&phrases, window, self.whisper.tick())) {
            let Some(samples) = place else { continue };
            done = Some(samples.end);
            let Some(said) = text::clean(&self.whisper.words().text(&ids[phrase.tokens.clone()])) else { continue };
            let span = Span::new(time_of_sample(samples.start, RATE), time_of_sample(samples.end, RATE));
            let confidence = mean(phrase.tokens.clone()).exp().clamp(0.0, 1.0);
            let mut observation = Observation::new(Kind::Speech, span, said, confidence, &self.source);
            observation.language = self.whisper.words().language_code(heard.language).map(str::to_owned);
            out.push(observation);
        }
        done
    }

    fn end(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let result = self.listen(true, cancel, out);
        self.settled_ns = self.settled_ns.max(self.hearing.tape.end_ns());
        self.hearing.clear();
        result
    }
}

impl Expert for Speech {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let Some(sound) = hearable(clip) else {
            let result = self.end(cancel, out);
            self.settled_ns = self.settled_ns.max(clip.span.end_ns);
            return result;
        };
        let ended = match self.hearing.tape.next(sound) {
            Next::Joined => Ok(()),
            Next::Apart => self.end(cancel, out),
        };
        self.hearing.hear(sound);
        ended.and(self.listen(false, cancel, out))
    }

    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.end(cancel, out)
    }

    fn reset(&mut self) {
        self.hearing.clear();
        self.language = self.given_language;
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        match self.hearing.tape.is_running() {
            true => self.settled_ns.max(time_of_sample(self.hearing.oldest(), RATE)),
            false => self.settled_ns,
        }
    }
}

/// From sound to the windows in which somebody speaks.
struct Hearing {
    tape: Tape,
    voice: Voice,
    segmenter: Segmenter,
    planner: Planner,
    next_chunk: u64,
    start: u64,
}

impl Hearing {
    fn new(voice: Voice, segments: SegmentSettings, plan: PlanSettings) -> Self {
        Self {
            tape: Tape::default(),
            voice,
            segmenter: Segmenter::new(segments),
            planner: Planner::new(plan),
            next_chunk: 0,
            start: 0,
        }
    }

    fn hear(&mut self, sound: &crate::Sound) {
        let starts = !self.tape.is_running();
        self.tape.push(sound);
        if starts {
            self.start = self.tape.first();
            self.next_chunk = self.start / CHUNK as u64;
            self.segmenter.start_at(self.next_chunk);
            self.planner.start_at(self.start);
        }
    }

    /// Finds the windows that are complete, at the end of the stream all of them.
    ///
    /// Sound that the voice activity network failed on counts as silence.
    fn listen(&mut self, last: bool, cancel: &Cancel, windows: &mut Vec<Window>) -> Result<(), DescribeError> {
        if !self.tape.is_running() {
            return Ok(());
        }
        let chunk = CHUNK as u64;
        let end = if last { self.tape.end().div_ceil(chunk) } else { self.tape.end() / chunk };
        let chunks = self.next_chunk..end.max(self.next_chunk);
        self.next_chunk = chunks.end;
        let silence = vec![0.0; (chunks.end - chunks.start) as usize];
        let (probabilities, result) = match self.voice.listen(&self.tape, chunks, cancel) {
            Ok(probabilities) => (probabilities, Ok(())),
            Err(error) => (silence, Err(error)),
        };
        for probability in probabilities {
            let segment = self.segmenter.push(probability);
            self.plan(segment, windows);
        }
        if last {
            let segment = self.segmenter.flush();
            self.plan(segment, windows);
            windows.extend(self.planner.flush(self.tape.end()));
        }
        result
    }

    fn plan(&mut self, segment: Option<Range<u64>>, windows: &mut Vec<Window>) {
        let clamp = |chunks: u64| (chunks * CHUNK as u64).clamp(self.start, self.tape.end());
        if let Some(segment) = segment {
            windows.extend(self.planner.push(clamp(segment.start)..clamp(segment.end)));
        }
        windows.extend(self.planner.advance(clamp(self.segmenter.known()), clamp(self.segmenter.next())));
    }

    /// The oldest sample that is still needed.
    fn oldest(&self) -> u64 {
        self.planner.oldest((self.segmenter.known() * CHUNK as u64).clamp(self.start, self.tape.end()))
    }

    /// Drops the sound that is not needed any more.
    fn forget(&mut self) {
        let context = (self.next_chunk * CHUNK as u64).saturating_sub(CHUNK as u64);
        self.tape.drop_before(self.oldest().min(context));
    }

    fn clear(&mut self) {
        self.tape.clear();
        self.voice.reset();
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests;
