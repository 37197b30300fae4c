//! Which token may come next, as in `whisper/decoding.py`, and greedy decoding by these rules.

use super::text::repetition;
use crate::DescribeError;

/// Latest start of the first phrase, in ticks of 0.02 s: 1 s (`max_initial_timestamp`).
pub const LATEST_START: u32 = 50;
/// How often a loop is broken before the rest is given up.
const RESCUES: usize = 2;

/// The special tokens of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// End of the transcript; every token from here on is special.
    pub end: u32,
    /// The timestamp 0.00 s; every token from here on is a timestamp, 0.02 s later each.
    pub zero: u32,
    /// Tokens that are never said: special ones, notes and brackets.
    pub never: Vec<u32>,
    /// Tokens that are blank, never said first.
    pub blank: Vec<u32>,
    /// Latest start of the first phrase, in ticks.
    pub latest_start: u32,
}

/// A token and how likely it was, as natural logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Token {
    /// Its number.
    pub id: u32,
    /// Logarithm of its probability among the tokens that were allowed.
    pub log_probability: f32,
}

/// What gives the scores of the next token.
pub trait Decode {
    /// Adds `tokens` to the transcript; gives the score of each token as the next one, unnormalised.
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError>;

    /// Goes back to the first `length` tokens of the transcript, or further; gives how many are left.
    fn rewind(&mut self, length: usize) -> Result<usize, DescribeError>;
}

impl Rules {
    /// Forbids, by a score of minus infinity, what may not follow `said`; `last` is the latest timestamp of the sound.
    pub fn apply(&self, scores: &mut [f32], said: &[u32], last: u32) {
        let mut forbid = |from: u32, to: u32| {
            let to = (to as usize).min(scores.len());
            scores[(from as usize).min(to)..to].fill(f32::NEG_INFINITY);
        };
        self.never.iter().for_each(|&token| forbid(token, token + 1));
        forbid(self.zero.saturating_add(last).saturating_add(1), u32::MAX);
        let is_time = |token: Option<&u32>| token.is_some_and(|&token| token >= self.zero);
        match said {
            [] => {
                self.blank.iter().for_each(|&token| forbid(token, token + 1));
                forbid(0, self.zero);
                forbid(self.zero.saturating_add(self.latest_start).saturating_add(1), u32::MAX);
            }
            // Timestamps come in pairs: the end of a phrase and the start of the next.
            [.., token] if is_time(Some(token)) && said.len() >= 2 && !is_time(said.get(said.len() - 2)) => {
                forbid(0, self.end);
            }
            [.., token] if is_time(Some(token)) => forbid(self.zero, u32::MAX),
            _ => {}
        }
        if let Some(index) = said.iter().rposition(|&token| token >= self.zero) {
            // A phrase has some length; the next one may start where it ended.
            let ended = index > 0 && index + 1 == said.len();
            forbid(self.zero, said[index].saturating_add(u32::from(!ended)));
        }
        self.prefer_time(scores);
    }

    /// Where all timestamps together are likelier than any word, only a timestamp may follow.
    fn prefer_time(&self, scores: &mut [f32]) {
        let Some((words, times)) = scores.split_at_mut_checked(self.zero as usize) else { return };
        let word = words.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if log_sum_exp(times) > word {
            words.fill(f32::NEG_INFINITY);
        }
    }

    /// Greedy decoding after `prompt`, whose next scores are `scores`; at most `most` tokens, ended by no end token.
    ///
    /// Where the model goes round in circles, the circle is cut off and another way tried.
    pub fn decode(
        &self,
        decoder: &mut dyn Decode,
        prompt: &[u32],
        mut scores: Vec<f32>,
        most: usize,
        last: u32,
    ) -> Result<Vec<Token>, DescribeError> {
        let mut said: Vec<Token> = Vec::new();
        let mut ids: Vec<u32> = Vec::new();
        let mut words: Vec<usize> = Vec::new();
        let mut banned = None;
        let mut rescues = 0;
        while said.len() < most {
            self.apply(&mut scores, &ids, last);
            if let Some(score) = banned.take().and_then(|token: u32| scores.get_mut(token as usize)) {
                *score = f32::NEG_INFINITY;
            }
            let Some(token) = likeliest(&scores).filter(|token| token.id != self.end) else { break };
            said.push(token);
            ids.push(token.id);
            if token.id < self.end {
                words.push(ids.len() - 1);
                let plain: Vec<u32> = words.iter().map(|&index| ids[index]).collect();
                if let Some(circle) = repetition(&plain) {
                    let keep = words[circle.start];
                    banned = Some(ids[keep]);
                    said.truncate(keep);
                    ids.truncate(keep);
                    words.truncate(circle.start);
                    rescues += 1;
                    if rescues > RESCUES {
                        break;
                    }
                    let all = [prompt, &ids].concat();
                    // The last token is read again, for its scores.
                    let kept = decoder.rewind(all.len().saturating_sub(1))?;
                    scores = decoder.extend(all.get(kept..).unwrap_or_default())?;
                    continue;
                }
            }
            scores = decoder.extend(&[token.id])?;
        }
        Ok(said)
    }
}

/// Logarithm of the sum of the exponentials; minus infinity of nothing.
pub fn log_sum_exp(scores: &[f32]) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if highest == f32::NEG_INFINITY {
        return highest;
    }
    highest + scores.iter().map(|score| (score - highest).exp()).sum::<f32>().ln()
}

/// The token with the highest score; `None` where none is allowed.
fn likeliest(scores: &[f32]) -> Option<Token> {
    let (id, score) = scores.iter().enumerate().filter(|(_, s)| s.is_finite()).max_by(|a, b| a.1.total_cmp(b.1))?;
    Some(Token { id: id as u32, log_probability: score - log_sum_exp(scores) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Words 0 to 9 (0 is blank, 1 a bracket), the end 10, a special 11, timestamps from 12 on.
    const ZERO: u32 = 12;
    const SIZE: usize = 12 + 101;

    fn rules() -> Rules {
        Rules { end: 10, zero: ZERO, never: vec![1, 11], blank: vec![0], latest_start: LATEST_START }
    }

    /// A model that wants to say `script`, then the same for ever, and whatever is left where that is forbidden.
    struct Script {
        script: Vec<u32>,
        position: usize,
        calls: usize,
    }

    impl Script {
        fn scores(&self) -> Vec<f32> {
            let want = self.script[self.position % self.script.len()] as usize;
            // What is not wanted is the less likely the higher its number; times are unlikely together.
            (0..SIZE)
                .map(|i| {
                    if i == want {
                        20.0
                    } else if i < 12 {
                        -(i as f32)
                    } else {
                        -30.0
                    }
                })
                .collect()
        }
    }

    impl Decode for Script {
        fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError> {
            self.calls += 1;
            self.position += tokens.len();
            Ok(self.scores())
        }

        fn rewind(&mut self, length: usize) -> Result<usize, DescribeError> {
            self.position = length;
            Ok(length)
        }
    }

    fn decode(script: &[u32], most: usize) -> (Vec<u32>, usize) {
        let mut decoder = Script { script: script.to_vec(), position: 0, calls: 0 };
        let scores = decoder.scores();
        let said = rules().decode(&mut decoder, &[], scores, most, 100).unwrap();
        (said.iter().map(|token| token.id).collect(), decoder.calls)
    }

    #[test]
    fn a_well_formed_transcript_is_taken_as_it_is() {
        assert_eq!(decode(&[12, 2, 3, 40, 40, 4, 60, 10], 50).0, [12, 2, 3, 40, 40, 4, 60]);
        assert_eq!(decode(&[12, 2, 3, 40, 40, 4, 60, 10], 3).0, [12, 2, 3]);
    }

    #[test]
    fn a_circle_is_left_after_one_round() {
        let (said, calls) = decode(&[12, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], 400);
        assert!(said.iter().filter(|&&token| token == 2).count() <= 12, "{said:?}");
        assert!(calls < 40, "{calls}");
    }

    proptest! {
        #[test]
        fn whatever_the_model_wants_the_transcript_is_well_formed(script in proptest::collection::vec(0u32..SIZE as u32, 1..40), last in 0u32..100) {
            let mut decoder = Script { script, position: 0, calls: 0 };
            let scores = decoder.scores();
            let said: Vec<u32> = rules().decode(&mut decoder, &[], scores, 60, last).unwrap().iter().map(|t| t.id).collect();
            prop_assert!(said.len() <= 60);
            prop_assert!(said.iter().all(|token| ![1, 10, 11].contains(token)));
            let times: Vec<u32> = said.iter().copied().filter(|&token| token >= ZERO).collect();
            prop_assert!(times.is_sorted());
            prop_assert!(times.iter().all(|&time| time <= ZERO + last));
            prop_assert!(said.first().is_none_or(|&token| token >= ZERO));
            prop_assert!(said.windows(3).all(|three| three.iter().any(|&token| token < ZERO)));
            // Where a phrase has ended, the next one says when it starts.
            prop_assert!(said.windows(3).all(|three| three[0] >= ZERO || three[1] < ZERO || three[2] >= ZERO));
        }
    }
}
