//! Whisper: sound in, tokens out.

use std::{collections::BTreeMap, path::PathBuf};

use ndarray::{Array2, Array5, Axis};
use ort::value::{DynValue, Tensor, TensorRef};
use tokenizers::Tokenizer;

use super::{
    PIECE,
    rules::{Decode, Rules, Token, log_sum_exp},
    text::TICK,
};
use crate::{
    Cancel, DescribeError, LoadError,
    experts::{
        files,
        mel::{HOP, WHISPER_BANDS, WhisperMel},
        tape::RATE,
    },
    runtime::{Model, RunSettings},
};

/// Frames of the encoder's longest window: 30 s.
const FRAMES: usize = 3_000;
/// Silence that must follow the sound in a shorter window, in samples: 3 s. With less, Whisper goes round in circles.
const TAIL: u64 = 3 * RATE as u64;
/// Largest tokenizer file that is read, in bytes; that of Whisper has two million.
const MAX_TOKENIZER: u64 = 16 << 20;
/// Layers, heads and width of a head of Whisper base.
const CACHE: [usize; 3] = [6, 8, 64];
/// Symbols that no voice says; `whisper/tokenizer.py` (`non_speech_tokens`) suppresses them.
const SYMBOLS: &str = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 << >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
/// Of these, the first byte alone is suppressed: several tokens make one note.
const NOTES: &str = "♩ ♪ ♫ ♬ ♭ ♮ ♯";

/// What was made of a stretch of sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// The tokens that were said, with their timestamps.
    pub tokens: Vec<Token>,
    /// Probability that nobody speaks, 0 to 1.
    pub no_speech: f32,
    /// Token of the language.
    pub language: u32,
    /// How sure it is, 0 to 1; 1 where it was given.
    pub language_confidence: f32,
}

/// The two networks and their vocabulary.
pub struct Whisper {
    encoder: Model,
    decoder: Model,
    mel: WhisperMel,
    tokenizer: Tokenizer,
    rules: Rules,
    start: u32,
    transcribe: u32,
    no_speech: u32,
    /// Tokens of languages with their ISO 639-1 codes.
    languages: BTreeMap<u32, String>,
}

impl Whisper {
    /// Loads the files `encoder`, `decoder` and `tokenizer`.
    pub fn load(files: &BTreeMap<String, PathBuf>, run: &RunSettings) -> Result<Self, LoadError> {
        let path = files::role(PIECE, files, "tokenizer")?;
        let wrong = |reason: String| LoadError::Format { path: path.to_owned(), reason };
        let tokenizer = Tokenizer::from_bytes(files::read(path, MAX_TOKENIZER)?).map_err(|e| wrong(e.to_string()))?;
        let id = |name: &str| tokenizer.token_to_id(name).ok_or_else(|| wrong(format!("it has no token {name}")));
        let (start, end, transcribe) = (id("<|startoftranscript|>")?, id("<|endoftext|>")?, id("<|transcribe|>")?);
        // The timestamps follow the last token that has a name.
        let zero = id("<|notimestamps|>")? + 1;
        let no_speech = id("<|nospeech|>").or_else(|_| id("<|nocaptions|>"))?;
        let languages = language_tokens(&tokenizer, start, transcribe);
        let never = (end + 1..zero).chain(symbol_tokens(&tokenizer)).collect();
        let blank = tokenizer.encode(" ", false).map(|text| text.get_ids().to_vec()).unwrap_or_default();
        let rules = Rules { end, zero, never, blank };
        let [layers, heads, width] = CACHE.map(|size| size as i64);
        let cache: &[i64] = &[layers, -1, heads, -1, width];
        let vocabulary = i64::from(zero) + (FRAMES / 2) as i64 + 1;
        let encoder = Model::load(PIECE, files::role(PIECE, files, "encoder")?, run)?
            .expect(&[("mel", &[-1, WHISPER_BANDS as i64, -1])], &[("cross_k", cache), ("cross_v", cache)])?;
        let decoder = Model::load(PIECE, files::role(PIECE, files, "decoder")?, run)?.expect(
            &[("tokens", &[-1, -1]), ("past_k", cache), ("past_v", cache), ("cross_k", cache), ("cross_v", cache)],
            &[("logits", &[-1, vocabulary]), ("k", cache), ("v", cache)],
        )?;
        let mel = WhisperMel::default();
        Ok(Self { encoder, decoder, mel, tokenizer, rules, start, transcribe, no_speech, languages })
    }

    /// Token of a language by its ISO 639-1 code.
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages.iter().find(|(_, has)| *has == code).map(|(token, _)| *token)
    }

    /// ISO 639-1 code of a language by its token.
    pub fn language_code(&self, token: u32) -> Option<&str> {
        self.languages.get(&token).map(String::as_str)
    }

    /// The timestamp 0.00 s.
    pub fn zero(&self) -> u32 {
        self.rules.zero
    }

    /// The text of `tokens`.
    pub fn text(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, true).unwrap_or_default()
    }

    /// Transcribes `samples`, at most 30 s at 16 kHz, in `language` or the one that is heard; at most `most` tokens.
    ///
    /// The encoder's window has at least `shortest` samples.
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        language: Option<u32>,
        most: usize,
        shortest: u64,
        cancel: &Cancel,
    ) -> Result<Transcript, DescribeError> {
        let frames = window_frames(samples.len() as u64, shortest);
        let mel = self.mel.spectrum(samples, frames).insert_axis(Axis(0));
        let view = TensorRef::from_array_view(mel.view()).map_err(failed)?;
        let mut outputs = self.encoder.run(ort::inputs!["mel" => view], cancel)?;
        let (Some(cross_k), Some(cross_v)) = (outputs.remove("cross_k"), outputs.remove("cross_v")) else {
            return Err(unexpected("cross_k and cross_v", "less"));
        };
        drop(outputs);
        let Self { decoder: model, rules, .. } = self;
        let size = rules.zero as usize + FRAMES / 2 + 1;
        let mut decoder = Decoder { model, cross_k, cross_v, past: None, size, cancel };
        let first = decoder.extend(&[self.start])?;
        let no_speech = (first[self.no_speech as usize] - log_sum_exp(&first)).exp();
        let (language, language_confidence) = match language {
            Some(language) => (language, 1.0),
            None => likeliest_language(&first, &self.languages),
        };
        let prompt = [self.start, language, self.transcribe];
        let scores = decoder.extend(&prompt[1..])?;
        let last = (samples.len() as u64).div_ceil(TICK).min(FRAMES as u64 / 2) as u32;
        let tokens = rules.decode(&mut decoder, &prompt, scores, most, last)?;
        Ok(Transcript { tokens, no_speech, language, language_confidence })
    }
}

/// Longest sound that fits, in samples.
pub const LONGEST: u64 = (FRAMES * HOP) as u64;

/// Even number of frames of the encoder's window for a sound of so many samples, where the window has `shortest` at least.
fn window_frames(samples: u64, shortest: u64) -> usize {
    let frames = (samples + TAIL).max(shortest).min(LONGEST).div_ceil(2 * HOP as u64) * 2;
    (frames as usize).min(FRAMES)
}

fn failed(source: ort::Error) -> DescribeError {
    DescribeError::Run { piece: PIECE.into(), source }
}

fn unexpected(expected: &str, found: &str) -> DescribeError {
    DescribeError::Output { piece: PIECE.into(), expected: expected.into(), found: found.into() }
}

fn likeliest_language(scores: &[f32], languages: &BTreeMap<u32, String>) -> (u32, f32) {
    let scores: Vec<(u32, f32)> =
        languages.keys().filter_map(|&token| Some((token, *scores.get(token as usize)?))).collect();
    let best = scores.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
    let total = log_sum_exp(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>());
    (best.0, (best.1 - total).exp())
}

/// The tokens `<|xx|>` between the start and the tasks.
fn language_tokens(tokenizer: &Tokenizer, start: u32, transcribe: u32) -> BTreeMap<u32, String> {
    let code = |token: u32| {
        let name = tokenizer.id_to_token(token)?;
        let code = name.strip_prefix("<|")?.strip_suffix("|>")?;
        (code.len() <= 3).then(|| (token, code.to_owned()))
    };
    (start + 1..transcribe).filter_map(code).collect()
}

/// Tokens of symbols that no voice says.
fn symbol_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    let ids = |text: String| tokenizer.encode(text, false).map(|text| text.get_ids().to_vec()).unwrap_or_default();
    let mut found = Vec::new();
    for symbol in SYMBOLS.split(' ').chain(NOTES.split(' ')) {
        for text in [symbol.to_owned(), format!(" {symbol}")] {
            if let [first, rest @ ..] = ids(text).as_slice()
                && (rest.is_empty() || NOTES.contains(symbol))
            {
                found.push(*first);
            }
        }
    }
    // A dash or a quote inside a word is fine, at its start it is not.
    found.extend([" -", " '"].into_iter().filter_map(|text| ids(text.to_owned()).first().copied()));
    found
}

/// The decoder with what it keeps from token to token; ONNX Runtime's values go back in without being copied.
struct Decoder<'a> {
    model: &'a mut Model,
    cross_k: DynValue,
    cross_v: DynValue,
    past: Option<[DynValue; 2]>,
    size: usize,
    cancel: &'a Cancel,
}

impl Decode for Decoder<'_> {
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError> {
        let tokens = Array2::from_shape_fn((1, tokens.len()), |(_, i)| i64::from(tokens[i]));
        let [past_k, past_v] = match self.past.take() {
            Some(past) => past,
            None => [empty()?, empty()?],
        };
        let inputs = ort::inputs![
            "tokens" => TensorRef::from_array_view(tokens.view()).map_err(failed)?,
            "past_k" => past_k,
            "past_v" => past_v,
            "cross_k" => &self.cross_k,
            "cross_v" => &self.cross_v,
        ];
        let mut outputs = self.model.run(inputs, self.cancel)?;
        let (Some(k), Some(v)) = (outputs.remove("k"), outputs.remove("v")) else {
            return Err(unexpected("k and v", "less"));
        };
        self.past = Some([k, v]);
        let (_, scores) =
            outputs.value("logits").and_then(|scores| scores.try_extract_tensor::<f32>()).map_err(failed)?;
        if scores.len() != self.size {
            return Err(unexpected(&format!("{} scores", self.size), &scores.len().to_string()));
        }
        Ok(scores.to_vec())
    }

    fn rewind(&mut self) {
        self.past = None;
    }
}

/// No past: a cache of no tokens.
fn empty() -> Result<DynValue, DescribeError> {
    let [layers, heads, width] = CACHE;
    Tensor::from_array(Array5::<f32>::zeros((layers, 1, heads, 0, width))).map(|value| value.into_dyn()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::testing::pack_files;

    #[test]
    fn windows_are_even_and_hold_the_sound_and_its_tail() {
        assert_eq!(window_frames(16_000, 160_000), 1_000);
        assert_eq!(window_frames(160_001, 160_000), 1_302);
        assert_eq!(window_frames(LONGEST, 160_000), 3_000);
        assert_eq!(window_frames(0, u64::MAX), 3_000);
    }

    #[test]
    fn the_symbols_that_are_never_said_are_those_of_the_model() {
        // `suppress_tokens` in the config.json of Whisper base, but for the special tokens.
        const WANTED: [u32; 82] = [
            1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93, 359, 503, 522, 542,
            873, 893, 902, 918, 922, 931, 1350, 1853, 1982, 2460, 2627, 3246, 3253, 3268, 3536, 3846, 3961, 4183, 4667,
            6585, 6647, 7273, 9061, 9383, 10428, 10929, 11938, 12033, 12331, 12562, 13793, 14157, 14635, 15265, 15618,
            16553, 16604, 18362, 18956, 20075, 21675, 22520, 26130, 26161, 26435, 28279, 29464, 31650, 32302, 32470,
            36865, 42863, 47425, 49870, 50254,
        ];
        let Some(files) = pack_files(&[("tokenizer", "speech_tokenizer.json")]) else { return };
        let tokenizer = Tokenizer::from_file(&files["tokenizer"]).unwrap();
        let mut found = symbol_tokens(&tokenizer);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, WANTED);
        assert_eq!(language_tokens(&tokenizer, 50_258, 50_359).len(), 99);
    }
}
