//! The shortest way found from where an answer is to its end.

use llguidance::Matcher;

use super::{outline::Outline, vocabulary::Vocabulary};

/// Orders in which a way is searched before giving up; all but the first differ in what they write into patterns.
const ATTEMPTS: u64 = 8;
/// Single bytes before structure is tried: outside of strings closers come first, openers last.
const OUTSIDE: &[u8] = b"}],:0123456789nftul\"aesr.-[{eE+";
/// The same inside a string: end it, else fill it up.
const INSIDE: &[u8] = b"\". 0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_:/@#,+";

/// Tokens that end the answer, few if possible, at most `limit`; `None` where no way was found.
///
/// What the grammar forces is written as it is; where it leaves a choice the first byte that it takes from a fixed order
/// is written. Patterns can lead that astray (`^[a-z]*z$`), therefore other orders are tried when one does not end.
pub(super) fn find(vocabulary: &Vocabulary, matcher: &Matcher, outline: Outline, limit: usize) -> Option<Vec<u32>> {
    (0..ATTEMPTS).find_map(|attempt| walk(vocabulary, matcher.clone(), outline, limit, attempt))
}

fn walk(
    vocabulary: &Vocabulary,
    mut matcher: Matcher,
    mut outline: Outline,
    limit: usize,
    attempt: u64,
) -> Option<Vec<u32>> {
    let mut bytes = Vec::new();
    let mut steps = 0u64;
    while !matcher.is_accepting().ok()? {
        // A token holds at least one byte of the way, and few hold more than a word.
        if steps > limit as u64 * 16 || bytes.len() > limit.saturating_mul(64) {
            return None;
        }
        steps += 1;
        let forced = matcher.compute_ff_bytes();
        let tokens = if forced.is_empty() {
            vec![choose(vocabulary, &mut matcher, outline.in_string(), attempt.wrapping_mul(steps))?]
        } else {
            vocabulary.spell(&forced)?
        };
        matcher.consume_tokens(&tokens).ok()?;
        for &token in &tokens {
            bytes.extend_from_slice(vocabulary.bytes(token));
            outline.write(vocabulary.bytes(token));
        }
    }
    vocabulary.spell(&bytes).filter(|tokens| tokens.len() <= limit)
}

/// The first token of the order that the grammar takes; the shortest of all that it takes where none does.
fn choose(vocabulary: &Vocabulary, matcher: &mut Matcher, in_string: bool, turn: u64) -> Option<u32> {
    let order = if in_string { INSIDE } else { OUTSIDE };
    // What closes stays first; the rest begins elsewhere in each attempt, scattered by Knuth's multiplicative hash.
    let (closers, rest) = order.split_at(if in_string { 1 } else { 4 });
    let start = (turn.wrapping_mul(2_654_435_761) >> 7) as usize % rest.len();
    let (later, sooner) = rest.split_at(if turn == 0 { 0 } else { start });
    let others = (0..=255u8).filter(|byte| !order.contains(byte));
    for byte in closers.iter().chain(sooner).chain(later).copied().chain(others) {
        if let Some(token) = vocabulary.single[usize::from(byte)]
            && matcher.validate_tokens(&[token]).ok()? == 1
        {
            return Some(token);
        }
    }
    let mask = matcher.compute_mask().ok()?;
    let mut best: Option<(usize, u32)> = None;
    mask.iter_set_entries(|id| {
        let length = vocabulary.bytes(id as u32).len();
        if length > 0 && best.is_none_or(|(shortest, _)| length < shortest) {
            best = Some((length, id as u32));
        }
    });
    best.map(|(_, token)| token)
}
