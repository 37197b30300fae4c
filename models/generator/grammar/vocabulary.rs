//! The tokens of a pack as bytes, and the machinery that every grammar over them shares.

use std::{panic::AssertUnwindSafe, sync::Arc};

use llguidance::{ParserFactory, earley::SlicedBiasComputer, panic_utils};
use tokenizers::Tokenizer;
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::GrammarError;

/// Most logits a vocabulary may have; the largest published ones have about 262,000.
const MAX_LOGITS: usize = 1 << 20;
/// Longest token in bytes; the trie cannot hold one longer than 1,024.
const MAX_TOKEN_BYTES: usize = 1000;

/// The tokens of a pack: built once, shared by every grammar and answer.
///
/// Ids that have no text (padding of the logits, special tokens, ids that the tokenizer does not know) are never part of
/// an answer. Special is what the tokenizer marks so, every added token of the form `<...>`, and the stop ids.
pub struct Vocabulary {
    pub(super) factory: ParserFactory,
    pub(super) env: TokEnv,
    /// A token of exactly one byte, for each byte that has one.
    pub(super) single: [Option<u32>; 256],
    logits: usize,
    stops: Vec<u32>,
}

impl Vocabulary {
    /// Reads the bytes of a `tokenizer.json`; otherwise as [`Vocabulary::new`].
    pub fn from_json(json: &[u8], logits: usize, stops: &[u32]) -> Result<Arc<Self>, GrammarError> {
        // The crate checks most of what it reads, not all; a panic in there is a broken file too.
        let tokenizer = panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(Tokenizer::from_bytes(json))))
            .map_err(|error| GrammarError::Tokenizer(first_line(&error)))?
            .map_err(|error| GrammarError::Tokenizer(error.to_string()))?;
        Self::new(&tokenizer, logits, stops)
    }

    /// The vocabulary of `tokenizer` for a model with `logits` outputs, ended by any of `stops`.
    ///
    /// There may be more or fewer logits than tokens. Stop ids outside of the logits are left out.
    pub fn new(tokenizer: &Tokenizer, logits: usize, stops: &[u32]) -> Result<Arc<Self>, GrammarError> {
        if logits == 0 || logits > MAX_LOGITS {
            return Err(GrammarError::Tokenizer(format!(
                "the model has {logits} logits; 1 to {MAX_LOGITS} are possible"
            )));
        }
        let mut stops: Vec<u32> = stops.iter().copied().filter(|&id| (id as usize) < logits).collect();
        stops.dedup();
        let mut words = words(tokenizer, logits)?;
        for &stop in &stops {
            words[stop as usize] = special(&format!("stop {stop}"));
        }
        let mut single = [None; 256];
        for (id, word) in words.iter().enumerate() {
            if let [byte] = word[..] {
                single[usize::from(byte)].get_or_insert(id as u32);
            }
        }
        if single[usize::from(b'"')].is_none() || single[usize::from(b'}')].is_none() {
            return Err(GrammarError::Tokenizer(
                "no tokens for '\"' and '}', so it cannot write JSON; is it the tokenizer of this model?".into(),
            ));
        }
        // One id after the logits stands for the end where the model has no stop id: it can be asked for, never chosen.
        words.push(special("end"));
        let mut ends = stops.clone();
        ends.push(logits as u32);
        let (env, factory) = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, ends[0]), &words).with_eos_tokens(&ends);
            // An approximate tokenizer never narrows masks to its own way of cutting text: the model's way is kept.
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let mut factory =
                ParserFactory::new(&env, InferenceCapabilities::default(), &SlicedBiasComputer::json_slices())?;
            factory.quiet().limits_mut().verbose_errors = false;
            Ok((env, factory))
        }))
        .map_err(|error| GrammarError::Tokenizer(first_line(&error)))?;
        Ok(Arc::new(Self { factory, env, single, logits, stops }))
    }

    /// How many logits the model has.
    pub fn logits(&self) -> usize {
        self.logits
    }

    /// The ids that end an answer.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// The text of a token; empty for those that have none.
    pub fn bytes(&self, token: u32) -> &[u8] {
        match self.env.tok_trie().token(token) {
            [TokTrie::SPECIAL_TOKEN_MARKER, ..] => &[],
            bytes => bytes,
        }
    }

    /// Few tokens that spell `bytes`, always the longest that fits; `None` where a byte has no token.
    pub(super) fn spell(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        let tokens = self.env.tok_trie().greedy_tokenize(bytes);
        let spelled: usize = tokens.iter().map(|&token| self.bytes(token).len()).sum();
        (spelled == bytes.len()).then_some(tokens)
    }
}

/// What an error of the grammar crates says, without the traces that may follow.
pub(super) fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Bytes that stand for a token without text: a byte that UTF-8 never has comes first.
fn special(name: &str) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
}

/// How a tokenizer writes bytes in its vocabulary.
struct Spelling {
    byte_level: bool,
    byte_fallback: bool,
    /// Pieces that stand for a space.
    spaces: Vec<String>,
}

impl Spelling {
    /// Taken from the decoder, which is what turns ids into text.
    fn of(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        let mut found = Self { byte_level: false, byte_fallback: false, spaces: Vec::new() };
        found.visit(&decoder, 0);
        if !found.byte_level && !found.byte_fallback && found.spaces.is_empty() {
            return Err(GrammarError::Tokenizer(format!(
                "its decoder '{}' is none of ByteLevel, ByteFallback, Metaspace and Replace",
                decoder["type"].as_str().unwrap_or("none")
            )));
        }
        Ok(found)
    }

    fn visit(&mut self, decoder: &serde_json::Value, depth: usize) {
        match decoder["type"].as_str() {
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Metaspace") => self.spaces.extend(decoder["replacement"].as_str().map(str::to_owned)),
            Some("Replace") if decoder["content"] == " " => {
                self.spaces
                    .extend(decoder["pattern"]["String"].as_str().filter(|from| !from.is_empty()).map(str::to_owned));
            }
            Some("Sequence") if depth < 8 => {
                for one in decoder["decoders"].as_array().into_iter().flatten() {
                    self.visit(one, depth + 1);
                }
            }
            _ => {}
        }
    }

    /// Bytes of a piece of the vocabulary; empty where it is none.
    fn bytes(&self, piece: &str) -> Vec<u8> {
        if self.byte_level {
            return piece.chars().map(byte_of).collect::<Option<_>>().unwrap_or_default();
        }
        let hex = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())
            && self.byte_fallback
        {
            return vec![byte];
        }
        self.spaces.iter().fold(piece.to_owned(), |text, space| text.replace(space, " ")).into_bytes()
    }
}

/// The byte that a character of a byte-level vocabulary stands for (the table of GPT-2's `bytes_to_unicode`).
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        // Printable Latin-1 stands for itself; the 68 others follow from U+0100 on, in order.
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Bytes of every id below `logits`; empty where an id has no text.
fn words(tokenizer: &Tokenizer, logits: usize) -> Result<Vec<Vec<u8>>, GrammarError> {
    let spelling = Spelling::of(tokenizer)?;
    let mut words = vec![Vec::new(); logits];
    for (piece, id) in tokenizer.get_vocab(false) {
        if let Some(word) = words.get_mut(id as usize) {
            *word = spelling.bytes(&piece);
        }
    }
    for (id, added) in tokenizer.get_added_tokens_decoder() {
        if let Some(word) = words.get_mut(id as usize) {
            let marked = added.special || (added.content.starts_with('<') && added.content.ends_with('>'));
            *word = if marked { special(&added.content) } else { added.content.into_bytes() };
        }
    }
    for word in &mut words {
        if word.len() > MAX_TOKEN_BYTES {
            word.clear();
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_of_a_byte_level_vocabulary_stand_for_each_byte_once() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('漢'), None);
    }

    #[test]
    fn a_tokenizer_that_writes_no_json_is_refused() {
        let json = br#"{"version":"1.0","added_tokens":[],"decoder":{"type":"ByteFallback"},
            "model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}"#;
        let error = Vocabulary::from_json(json, 2, &[]).err().unwrap().to_string();
        assert!(error.contains("cannot write JSON"), "{error}");
        assert!(Vocabulary::from_json(json, 0, &[]).is_err());
        assert!(Vocabulary::from_json(json, usize::MAX, &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Vocabulary::from_json(&bytes, 100, &[1]).is_err());
        }
    }
}
