//! Answers held to a JSON schema, closed before the tokens run out.
//!
//! A [`Vocabulary`] is built once per pack, a [`Grammar`] once per schema, a [`Constraint`] once per answer. The grammar
//! knows nothing but the schema and the tokens of the answer: nothing in picture, sound or prompt can widen it.

use std::{path::PathBuf, sync::Arc};

use llguidance::{Matcher, api::TopLevelGrammar};

mod closing;
mod outline;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

use outline::Outline;
pub use schema::Schema;
pub use vocabulary::Vocabulary;
use vocabulary::first_line;

/// Longest way to the end that is looked for in a schema's smallest answer, in tokens.
const MAX_CLOSING: usize = 4096;

/// Why answers cannot be held to a schema.
#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
    /// The tokenizer cannot be used.
    #[error("the tokenizer is not usable: {0}; get the pack's tokenizer.json anew")]
    Tokenizer(String),
    /// A schema file cannot be read.
    #[error("cannot read the schema {path}: {source}; give the path of a JSON schema, or the schema itself")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The schema is no JSON schema that answers can be held to.
    #[error("the answer's schema is not usable: {0}; correct it or leave it out to use the default one")]
    Schema(String),
    /// The tokens allowed do not hold the smallest answer.
    #[error(
        "an answer of {given} tokens cannot hold even the smallest one that the schema allows; set max-tokens to {needed} or more"
    )]
    MaxTokens {
        /// Tokens asked for.
        given: usize,
        /// Tokens of the smallest answer.
        needed: usize,
    },
}

/// A schema made ready for a vocabulary; gives a [`Constraint`] for each answer.
pub struct Grammar {
    vocabulary: Arc<Vocabulary>,
    start: Matcher,
    smallest: Vec<u32>,
}

impl Grammar {
    /// Compiles `schema`; takes some milliseconds.
    pub fn new(vocabulary: &Arc<Vocabulary>, schema: &Schema) -> Result<Self, GrammarError> {
        let parser = vocabulary.factory.create_parser(TopLevelGrammar::from_json_schema(schema.compact()));
        let mut start = Matcher::new(parser);
        if let Some(reason) = start.get_error() {
            return Err(GrammarError::Schema(first_line(&reason)));
        }
        for warning in start.grammar_warnings() {
            tracing::warn!("the answer's schema: {warning}");
        }
        let smallest = closing::find(vocabulary, &start, Outline::default(), MAX_CLOSING).ok_or_else(|| {
            GrammarError::Schema(format!(
                "no answer of at most {MAX_CLOSING} tokens was found; require less, or use a simpler pattern"
            ))
        })?;
        // The first mask fills caches that every answer then starts with.
        start.compute_mask().map_err(|reason| GrammarError::Schema(first_line(&reason)))?;
        Ok(Self { vocabulary: vocabulary.clone(), start, smallest })
    }

    /// Tokens of the smallest answer found: the least that `max_tokens` may be.
    pub fn smallest(&self) -> usize {
        self.smallest.len()
    }

    /// The constraint of a new answer of at most `max_tokens` tokens, its stop token not counted.
    pub fn answer(&self, max_tokens: usize) -> Result<Constraint, GrammarError> {
        if self.smallest.len() > max_tokens {
            return Err(GrammarError::MaxTokens { given: max_tokens, needed: self.smallest.len() });
        }
        Ok(Constraint {
            vocabulary: self.vocabulary.clone(),
            // A deep clone, so that the caches of one answer end with it.
            matcher: self.start.deep_clone(),
            mask: Vec::new(),
            closing: self.smallest.iter().rev().copied().collect(),
            outline: Outline::default(),
            text: Vec::new(),
            left: max_tokens,
            complete: false,
            replaced: 0,
        })
    }
}

/// Holds one answer to a schema.
///
/// At any time a way to the end of the answer is known that fits into the tokens left; a token after which none is known
/// is not taken, the next one of the known way is taken in its place. So the answer is valid whatever the model says.
pub struct Constraint {
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    mask: Vec<u32>,
    /// The known way to the end, last token first.
    closing: Vec<u32>,
    outline: Outline,
    text: Vec<u8>,
    left: usize,
    complete: bool,
    replaced: usize,
}

impl Constraint {
    /// The tokens that may come next, as bits: token `i` is bit `i % 32` of word `i / 32`.
    ///
    /// Bits of ids past the logits mean nothing. A complete answer allows its stop ids only.
    pub fn allowed(&mut self) -> &[u32] {
        match self.matcher.compute_mask_or_eos() {
            Ok(mask) if !self.complete => self.mask = mask.into(),
            _ => self.only_closing(),
        }
        &self.mask
    }

    /// Takes the next token and returns the one that was really taken: `token`, or one that closes the answer where
    /// `token` is not allowed or would leave too few tokens to close it.
    pub fn push(&mut self, token: u32) -> u32 {
        if self.complete {
            return token;
        }
        if self.vocabulary.stops().contains(&token) && self.matcher.is_accepting().unwrap_or(false) {
            self.complete = true;
            return token;
        }
        let taken = if self.closing.last() == Some(&token) {
            self.close()
        } else if self.take(token) {
            token
        } else {
            self.replaced += 1;
            self.close()
        };
        self.left = self.left.saturating_sub(1);
        self.complete |= self.closing.is_empty() && (self.left == 0 || self.matcher.is_stopped());
        taken
    }

    /// Tokens that come next because nothing else is allowed, at most `limit`: exactly those that greedy choice takes.
    ///
    /// Most vocabularies can write the same text in several ways, so this is often empty where [`Constraint::likely`] is not.
    pub fn forced(&mut self, limit: usize) -> Vec<u32> {
        let mut ahead = self.matcher.clone();
        let mut tokens = Vec::new();
        while !self.complete && tokens.len() < limit && !ahead.is_stopped() {
            let Ok(mask) = ahead.compute_mask() else { break };
            if mask.num_set() != 1 {
                break;
            }
            let Some(token) = mask.first_bit_set().filter(|&token| token < self.vocabulary.logits()) else { break };
            if ahead.consume_token(token as u32).is_err() {
                break;
            }
            tokens.push(token as u32);
        }
        tokens
    }

    /// Tokens that spell the text that must follow, the longest first: a draft to verify, since a model may cut the same
    /// text into other tokens.
    pub fn likely(&self) -> Vec<u32> {
        if self.complete {
            return Vec::new();
        }
        let text = self.matcher.clone().compute_ff_bytes();
        self.vocabulary.spell(&text).unwrap_or_default()
    }

    /// Whether the answer is whole: nothing more can be added, or a stop token came.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The answer so far; a character of which not all bytes have come is left out.
    pub fn text(&self) -> &str {
        match std::str::from_utf8(&self.text) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&self.text[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// Tokens that may still come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// How many tokens of the model were replaced by tokens that close the answer.
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    /// Takes the next token of the known way. Called only while there is one: the answer would be complete otherwise.
    fn close(&mut self) -> u32 {
        let Some(token) = self.closing.pop() else {
            self.complete = true;
            return self.vocabulary.stops().first().copied().unwrap_or_default();
        };
        if let Err(error) = self.matcher.consume_token(token) {
            // The known way stays right without the grammar, so the answer is closed along it.
            tracing::debug!("closing an answer without its grammar: {}", first_line(&error));
        }
        self.write(token);
        token
    }

    /// Takes `token` if it is allowed and a way to the end that fits is known after it.
    fn take(&mut self, token: u32) -> bool {
        let mut outline = self.outline;
        let bytes = self.vocabulary.bytes(token);
        if bytes.is_empty() || !outline.write(bytes) || self.left == 0 {
            return false;
        }
        if !matches!(self.matcher.validate_tokens(&[token]), Ok(1)) || self.matcher.consume_token(token).is_err() {
            return false;
        }
        let Some(closing) = self.closing_after(token, outline) else {
            // An error here leaves the grammar unusable; the known way goes on without it.
            let _ = self.matcher.rollback(1);
            return false;
        };
        if let Some(closing) = closing {
            self.closing = closing;
        }
        self.write(token);
        true
    }

    /// A way to the end after `token` that fits: `Some(None)` if the known one still holds.
    #[expect(clippy::option_option, reason = "none at all, the known one, a new one")]
    fn closing_after(&mut self, token: u32, outline: Outline) -> Option<Option<Vec<u32>>> {
        let room = self.left - 1;
        let known: Vec<u8> = self.closing.iter().rev().flat_map(|&one| self.vocabulary.bytes(one)).copied().collect();
        if let Some(rest) = known.strip_prefix(self.vocabulary.bytes(token))
            && let Some(mut rest) = self.vocabulary.spell(rest).filter(|rest| rest.len() <= room)
        {
            rest.reverse();
            return Some(Some(rest));
        }
        // A number that the known way would make too long is ended some shorter way.
        if self.closing.len() <= room && { outline }.write(&known) && self.closes() {
            return Some(None);
        }
        let mut found = closing::find(&self.vocabulary, &self.matcher, outline, room)?;
        found.reverse();
        Some(Some(found))
    }

    /// Whether the known way ends the answer from where the grammar is now.
    fn closes(&mut self) -> bool {
        let mut way: Vec<u32> = self.closing.iter().rev().copied().collect();
        // The id after the logits is an end of the grammar in every vocabulary.
        way.push(self.vocabulary.logits() as u32);
        self.matcher.validate_tokens(&way).is_ok_and(|valid| valid == way.len())
    }

    fn write(&mut self, token: u32) {
        let bytes = self.vocabulary.bytes(token);
        self.outline.write(bytes);
        self.text.extend_from_slice(bytes);
    }

    /// Allows the next token of the known way, or the stop ids where it is at its end.
    fn only_closing(&mut self) {
        self.mask.clear();
        self.mask.resize(self.vocabulary.logits() / 32 + 1, 0);
        let stops = self.vocabulary.stops();
        let ids = self.closing.last().map_or(stops, std::slice::from_ref);
        for &id in ids {
            if let Some(word) = self.mask.get_mut(id as usize / 32) {
                *word |= 1 << (id % 32);
            }
        }
    }
}
