//! The loop that lets a decoder answer, token by token, within what a grammar allows.

use super::{
    choice::Chooser,
    decoder::{Decoder, Logits},
    grammar::Constraint,
    prompt::Prompt,
};
use crate::{Cancel, DescribeError, runtime::Provider};

/// Tokens that are guessed ahead at once, and how many must be the same for a guess.
const DRAFT: usize = 8;
const SAME: usize = 3;
/// Differences to the best score from which on a probability counts as nothing.
const NEGLIGIBLE: f32 = 20.0;

/// What is asked of a decoder.
pub struct Question<'a> {
    /// What it reads.
    pub prompt: &'a Prompt,
    /// Tokens at the start of the prompt that later prompts begin with too.
    pub prefix: usize,
    /// What it may answer; anything without it.
    pub constraint: Option<Constraint>,
    /// Tokens that end an answer.
    pub stops: &'a [u32],
    /// Most tokens of the answer.
    pub most: usize,
    /// Whether tokens are guessed ahead from what was read; the answer is the same.
    pub drafts: bool,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// Its text, where a grammar held it.
    pub text: String,
    /// Geometric mean of the tokens' probabilities, 0 to 1; 1 of an empty answer.
    pub confidence: f32,
    /// Tokens that were guessed ahead and right.
    pub guessed: usize,
}

/// Lets `decoder` answer; `hear` gets the text whenever it grew.
pub fn answer(
    decoder: &mut Decoder,
    mut question: Question<'_>,
    chooser: &mut Chooser,
    cancel: &Cancel,
    hear: &mut dyn FnMut(&str),
) -> Result<Said, DescribeError> {
    let drafts = question.drafts && chooser.is_greedy() && decoder.provider() == Provider::Cpu && decoder.is_exact();
    let mut logits = decoder.feed(question.prompt, question.prefix, cancel)?;
    let mut history = question.prompt.ids.clone();
    let (mut said, mut surprise) = (Said::default(), 0.0f64);
    let (mut draft, mut row): (Vec<u32>, usize) = (Vec::new(), 0);
    let mut base = decoder.len();
    while said.ids.len() < question.most {
        let scores = logits.row(row);
        let chosen = chooser.choose(scores, question.constraint.as_mut().map(Constraint::allowed), &history);
        let token = question.constraint.as_mut().map_or(chosen, |constraint| constraint.push(chosen));
        let complete = question.constraint.as_ref().is_some_and(Constraint::is_complete);
        surprise -= f64::from(log_probability(scores, token));
        if question.stops.contains(&token) && (complete || question.constraint.is_none()) {
            break;
        }
        said.ids.push(token);
        history.push(token);
        if let Some(constraint) = &question.constraint {
            hear(constraint.text());
        }
        if complete || said.ids.len() == question.most {
            break;
        }
        if draft.get(row) == Some(&token) {
            row += 1;
            said.guessed += 1;
            continue;
        }
        // What was guessed wrongly is forgotten again.
        decoder.rewind(base + row)?;
        draft = if drafts {
            guess(&history, question.constraint.as_ref(), question.most - said.ids.len())
        } else {
            Vec::new()
        };
        let mut ids = vec![token];
        ids.extend_from_slice(&draft);
        base = decoder.len() + 1;
        logits = step(decoder, &ids, cancel)?;
        row = 0;
    }
    decoder.rewind(base + row)?;
    said.text = question.constraint.map(|constraint| constraint.text().to_owned()).unwrap_or_default();
    said.confidence = match said.ids.len() {
        0 => 1.0,
        count => (-surprise / count as f64).exp() as f32,
    };
    Ok(said)
}

fn step(decoder: &mut Decoder, ids: &[u32], cancel: &Cancel) -> Result<Logits, DescribeError> {
    let logits = decoder.step(ids, ids.len(), cancel)?;
    match logits.len() == ids.len() {
        true => Ok(logits),
        false => Err(DescribeError::Output {
            piece: "decoder".into(),
            expected: format!("scores after {} tokens", ids.len()),
            found: format!("{}", logits.len()),
        }),
    }
}

/// Tokens that may come next: those that followed when the last ones came before, else those that a grammar demands.
fn guess(history: &[u32], constraint: Option<&Constraint>, most: usize) -> Vec<u32> {
    let most = most.min(DRAFT);
    let mut found = follow(history, most).to_vec();
    if found.is_empty()
        && let Some(constraint) = constraint
    {
        found = constraint.likely();
        found.truncate(most);
    }
    found
}

/// What followed the last time that the last [`SAME`] tokens came.
fn follow(history: &[u32], most: usize) -> &[u32] {
    let Some(last) = history.len().checked_sub(SAME) else { return &[] };
    let tail = &history[last..];
    let before = history[..history.len() - 1].windows(SAME).rposition(|window| window == tail);
    before.map_or(&[], |at| {
        let from = at + SAME;
        &history[from..history.len().min(from + most)]
    })
}

/// Logarithm of the probability of `token`.
fn log_probability(scores: &[f32], token: u32) -> f32 {
    let best = scores.iter().copied().fold(f32::MIN, f32::max);
    let near = scores.iter().filter(|score| **score > best - NEGLIGIBLE);
    let total: f32 = near.map(|score| (score - best).exp()).sum();
    scores.get(token as usize).map_or(0.0, |score| (score - best).max(-NEGLIGIBLE) - total.max(1.0).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_what_followed_the_last_time() {
        assert_eq!(follow(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 2), [4, 5]);
        assert_eq!(follow(&[1, 2, 3, 7, 1, 2, 3, 4, 1, 2, 3], 8), [4, 1, 2, 3]);
        assert!(follow(&[1, 2, 3], 4).is_empty() && follow(&[1, 2], 4).is_empty());
    }

    #[test]
    fn probabilities_are_those_of_a_softmax() {
        let scores = [1.0f32, 2.0, 0.5];
        let total: f32 = scores.iter().map(|score| score.exp()).sum();
        for (token, score) in scores.iter().enumerate() {
            assert!((log_probability(&scores, token as u32) - (score.exp() / total).ln()).abs() < 1e-5);
        }
    }
}
