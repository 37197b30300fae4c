//! The shortest way found from where an answer is to its end.

use llguidance::Matcher;

use super::{outline::Outline, vocabulary::Vocabulary};

/// Orders in which a way is searched before giving up; all but the first differ in what they write into patterns.
const ATTEMPTS: u32 = 6;
/// Steps of the first attempt; each later one takes four times as many. Few schemas need more than the first.
const STEPS: u64 = 64;
/// Single bytes before structure is tried: outside of strings closers come first, openers last.
const OUTSIDE: &[u8] = b"}],:0123456789nftul\"aesr.-[{eE+";
/// The same inside a string: end it, else fill it up.
const INSIDE: &[u8] = b"\". 0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_:/@#,+";

/// Tokens that end the answer, few if possible, at most `limit`; `None` where no way was found.
///
/// What the grammar forces is written as it is; where it leaves a choice the first byte that it takes from a fixed order
/// is written. Patterns can lead that astray (`^[a-z]*z$`), therefore other orders are tried when one does not end.
pub(super) fn find(vocabulary: &Vocabulary, matcher: &Matcher, outline: Outline, limit: usize) -> Option<Vec<u32>> {
    let bytes = (0..ATTEMPTS).find_map(|attempt| walk(vocabulary, matcher.clone(), outline, attempt))?;
    vocabulary.spell(&bytes).filter(|tokens| tokens.len() <= limit)
}

/// Bytes that end the answer; `None` where that takes more steps than the attempt has.
fn walk(vocabulary: &Vocabulary, mut matcher: Matcher, mut outline: Outline, attempt: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for step in 0..STEPS << (2 * attempt) {
        if matcher.is_accepting().ok()? {
            return Some(bytes);
        }
        let forced = matcher.compute_ff_bytes();
        let tokens = if forced.is_empty() {
            vec![choose(vocabulary, &mut matcher, outline.in_string(), u64::from(attempt) * (step + 1))?]
        } else {
            vocabulary.spell(&forced)?
        };
        matcher.consume_tokens(&tokens).ok()?;
        for &token in &tokens {
            bytes.extend_from_slice(vocabulary.bytes(token));
            outline.write(vocabulary.bytes(token));
        }
    }
    None
}

/// The token to write where there is a choice: one that closes, else one after which something closes, else the first of
/// the order that the grammar takes, else the shortest of all that it takes.
fn choose(vocabulary: &Vocabulary, matcher: &mut Matcher, in_string: bool, turn: u64) -> Option<u32> {
    let order = if in_string { INSIDE } else { OUTSIDE };
    let (closers, rest) = order.split_at(if in_string { 1 } else { 3 });
    // In each later attempt the rest begins elsewhere, scattered by Knuth's multiplicative hash.
    let start = (turn.wrapping_mul(2_654_435_761) >> 7) as usize % rest.len();
    let (later, sooner) = rest.split_at(if turn == 0 { 0 } else { start });
    let token = |byte: u8| vocabulary.single[usize::from(byte)];
    let closers: Vec<u32> = closers.iter().copied().filter_map(token).collect();
    for &closer in &closers {
        if matcher.validate_tokens(&[closer]).ok()? == 1 {
            return Some(closer);
        }
    }
    let mut first = None;
    for one in sooner.iter().chain(later).copied().filter_map(token) {
        if matcher.validate_tokens(&[one]).ok()? == 1 {
            first.get_or_insert(one);
            for end in closers.iter().copied().chain([vocabulary.logits() as u32]) {
                if matcher.validate_tokens(&[one, end]).ok()? == 2 {
                    return Some(one);
                }
            }
        }
    }
    for one in (0..=255u8).filter(|byte| first.is_none() && !order.contains(byte)).filter_map(token) {
        if matcher.validate_tokens(&[one]).ok()? == 1 {
            return Some(one);
        }
    }
    if first.is_some() {
        return first;
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
