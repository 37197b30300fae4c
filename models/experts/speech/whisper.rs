//! Whisper: sound in, tokens out, whichever files its networks come in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    PIECE,
    networks::Packed,
    published::Published,
    rules::{Decode, Token, log_sum_exp},
    words::Words,
};
use crate::{
    Cancel, DescribeError, LoadError,
    experts::files,
    generator::folder::{Dtypes, Folder},
    runtime::RunSettings,
};

/// What was made of a stretch of sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// The tokens that were said, with their timestamps.
    pub tokens: Vec<Token>,
    /// Probability that nobody speaks, 0 to 1; 0 where the model does not tell.
    pub no_speech: f32,
    /// Token of the language.
    pub language: u32,
    /// How sure it is, 0 to 1; 1 where it was given.
    pub language_confidence: f32,
}

/// The networks of a Whisper, as far as transcribing must know them.
pub trait Transcriber: Send {
    /// Listens to `samples` (mono at 16 kHz, at most [`Self::longest`]) in a window of at least `shortest` samples, where
    /// the encoder has a choice; gives what says the scores of a transcript that is empty yet.
    fn listen<'a>(
        &'a mut self,
        samples: &[f32],
        shortest: u64,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Decode + 'a>, DescribeError>;

    /// Longest sound that it hears at once, in samples.
    fn longest(&self) -> u64;

    /// Samples from one timestamp to the next.
    fn tick(&self) -> u64;

    /// Most tokens of a prompt and its transcript together.
    fn room(&self) -> usize;
}

/// The networks and their vocabulary.
pub struct Whisper {
    networks: Box<dyn Transcriber>,
    words: Words,
    /// Where its words come from, for messages.
    path: PathBuf,
}

impl Whisper {
    /// Loads the folder `model` of a published Whisper where there is one, else the files `encoder`, `decoder` and
    /// `tokenizer`.
    pub fn load(
        files: &BTreeMap<String, PathBuf>,
        dtype: Option<&Dtypes>,
        run: &RunSettings,
    ) -> Result<Self, LoadError> {
        if let Some(folder) = files.get("model") {
            let folder = Folder::read(folder)?;
            let networks = Published::load(&folder, dtype, run)?;
            return Ok(Self { words: networks.words()?, networks: Box::new(networks), path: folder.path });
        }
        let path = files::role(PIECE, files, "tokenizer")?;
        let words = Words::of_tokenizer(path)?;
        let networks = Packed::load(files, words.rules().zero, run)?;
        Ok(Self { networks: Box::new(networks), words, path: path.to_owned() })
    }

    /// The tokens and what they mean.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// The file or folder that the words come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Longest sound that is heard at once, in samples.
    pub fn longest(&self) -> u64 {
        self.networks.longest()
    }

    /// Samples from one timestamp to the next.
    pub fn tick(&self) -> u64 {
        self.networks.tick()
    }

    /// Transcribes `samples`, at most [`Self::longest`] at 16 kHz, in `language` or the one that is heard; at most `most`
    /// tokens.
    ///
    /// The encoder's window has at least `shortest` samples, where it has a choice.
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        language: Option<u32>,
        most: usize,
        shortest: u64,
        cancel: &Cancel,
    ) -> Result<Transcript, DescribeError> {
        let Self { networks, words, .. } = self;
        let (longest, tick, room) = (networks.longest(), networks.tick(), networks.room());
        let mut decoder = words.in_order(networks.listen(samples, shortest, cancel)?);
        let mut scores = decoder.extend(&[words.start()])?;
        let silence = words.no_speech().and_then(|token| scores.get(token as usize));
        let no_speech = silence.map_or(0.0, |score| (score - log_sum_exp(&scores)).exp());
        let (language, language_confidence) = match language.or(words.only_language()) {
            Some(language) => (language, 1.0),
            None => likeliest_language(&scores, words.languages()),
        };
        let prompt = words.prompt(language);
        if let [_, rest @ ..] = prompt.as_slice()
            && !rest.is_empty()
        {
            scores = decoder.extend(rest)?;
        }
        let last = (samples.len() as u64).div_ceil(tick).min(longest / tick) as u32;
        let most = most.min(room.saturating_sub(prompt.len()));
        let tokens = words.rules().decode(&mut *decoder, &prompt, scores, most, last)?;
        Ok(Transcript { tokens, no_speech, language, language_confidence })
    }
}

fn likeliest_language(scores: &[f32], languages: &BTreeMap<u32, String>) -> (u32, f32) {
    let scores: Vec<(u32, f32)> =
        languages.keys().filter_map(|&token| Some((token, *scores.get(token as usize)?))).collect();
    let best = scores.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
    let total = log_sum_exp(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>());
    (best.0, (best.1 - total).exp())
}

pub(super) fn failed(source: ort::Error) -> DescribeError {
    DescribeError::Run { piece: PIECE.into(), source }
}

pub(super) fn unexpected(expected: &str, found: &str) -> DescribeError {
    DescribeError::Output { piece: PIECE.into(), expected: expected.into(), found: found.into() }
}
