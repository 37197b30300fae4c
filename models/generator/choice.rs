//! Which token comes next: greedy or drawn, with penalties.

use rand_pcg::{
    Pcg64,
    rand_core::{Rng, SeedableRng},
};

/// How the next token is chosen; names and meaning are those of a published `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits before a token is drawn; 0 takes the likeliest token.
    pub temperature: f32,
    /// Draws among this many of the likeliest tokens (and those equal to the last of them); 0 draws among all.
    pub top_k: usize,
    /// Draws among the likeliest tokens that make up this share of probability, at least one; 1 draws among all.
    pub top_p: f32,
    /// Divides positive and multiplies negative logits of tokens already seen; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Where the random numbers start; the same on every machine.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Chooses tokens, one after the other; greedy choice allocates nothing once the first token is chosen.
pub struct Chooser {
    sampling: Sampling,
    random: Pcg64,
    /// One bit for each id seen; all zero between calls.
    seen: Vec<u32>,
    candidates: Vec<(f32, u32)>,
}

impl Chooser {
    /// A chooser at the start of its random numbers.
    pub fn new(sampling: Sampling) -> Self {
        let random = Pcg64::seed_from_u64(sampling.seed);
        Self { sampling, random, seen: Vec::new(), candidates: Vec::new() }
    }

    /// Whether the likeliest token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.sampling.temperature <= 0.0
    }

    /// Goes back to the first random number, as for a new answer.
    pub fn reset(&mut self) {
        self.random = Pcg64::seed_from_u64(self.sampling.seed);
    }

    /// The next token.
    ///
    /// `mask` has bit `i % 32` of word `i / 32` set for each id that is allowed, `history` the ids of prompt and answer.
    /// Not-a-number counts as the lowest value; of equal ones the lowest id is taken. Where nothing is allowed, 0.
    pub fn choose(&mut self, logits: &[f32], mask: Option<&[u32]>, history: &[u32]) -> u32 {
        let penalised = self.sampling.repetition_penalty != 1.0 && self.sampling.repetition_penalty > 0.0;
        if penalised {
            self.mark(logits.len(), history);
        }
        let view =
            View { logits, mask, seen: &self.seen, penalty: penalised.then_some(self.sampling.repetition_penalty) };
        let token = if self.sampling.temperature > 0.0 {
            draw(&view, &self.sampling, &mut self.candidates, &mut self.random)
        } else {
            view.best()
        };
        if penalised {
            for &id in history {
                if let Some(word) = self.seen.get_mut(id as usize / 32) {
                    *word = 0;
                }
            }
        }
        token
    }

    fn mark(&mut self, logits: usize, history: &[u32]) {
        self.seen.resize(logits.div_ceil(32), 0);
        for &id in history {
            if let Some(word) = self.seen.get_mut(id as usize / 32) {
                *word |= 1 << (id % 32);
            }
        }
    }
}

/// Logits as they count: masked and penalised.
struct View<'a> {
    logits: &'a [f32],
    mask: Option<&'a [u32]>,
    seen: &'a [u32],
    penalty: Option<f32>,
}

impl View<'_> {
    /// The allowed ids of each 32 logits: bits of those that exist.
    fn words(&self) -> impl Iterator<Item = (usize, &[f32], u32)> {
        self.logits.chunks(32).enumerate().map(|(index, chunk)| {
            let there = u32::MAX >> (32 - chunk.len());
            let allowed = self.mask.map_or(u32::MAX, |mask| mask.get(index).copied().unwrap_or(0));
            (index, chunk, allowed & there)
        })
    }

    /// The score of the id at `bit` of word `index`.
    fn score(&self, index: usize, bit: usize, logit: f32) -> f32 {
        match self.penalty {
            Some(penalty) if self.seen.get(index).is_some_and(|seen| seen >> bit & 1 == 1) => {
                if logit < 0.0 {
                    logit * penalty
                } else {
                    logit / penalty
                }
            }
            _ => logit,
        }
    }

    /// The allowed id with the highest score.
    fn best(&self) -> u32 {
        let mut best: Option<(f32, u32)> = None;
        for (index, chunk, mut allowed) in self.words() {
            if allowed == 0 {
                continue;
            }
            let plain = self.penalty.is_none() || self.seen.get(index).is_none_or(|&seen| seen == 0);
            // Most words are skipped by this vector operation: none of their logits, allowed or not, is high enough.
            // Not-a-number never wins a comparison.
            if let Some((top, _)) = best
                && plain
                && allowed.count_ones() > 2
                && chunk.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }) <= top
            {
                continue;
            }
            while allowed != 0 {
                let bit = allowed.trailing_zeros() as usize;
                allowed &= allowed - 1;
                let score = self.score(index, bit, chunk[bit]);
                let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
                if best.is_none_or(|(top, _)| score > top) {
                    best = Some((score, (index * 32 + bit) as u32));
                }
            }
        }
        best.map_or(0, |(_, id)| id)
    }

    /// Every allowed id with its score, where that is a number.
    fn gather(&self, into: &mut Vec<(f32, u32)>) {
        into.clear();
        for (index, chunk, mut allowed) in self.words() {
            while allowed != 0 {
                let bit = allowed.trailing_zeros() as usize;
                allowed &= allowed - 1;
                let score = self.score(index, bit, chunk[bit]);
                if !score.is_nan() {
                    into.push((score, (index * 32 + bit) as u32));
                }
            }
        }
    }
}

/// Draws a token after temperature, top-k and top-p, in this order.
fn draw(view: &View, sampling: &Sampling, candidates: &mut Vec<(f32, u32)>, random: &mut Pcg64) -> u32 {
    // Drawn first, so that one token takes one number whatever the logits are.
    let share = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    view.gather(candidates);
    let highest = candidates.iter().fold(f32::NEG_INFINITY, |top, &(score, _)| top.max(score));
    if !highest.is_finite() {
        return view.best();
    }
    let by_score = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if (1..candidates.len()).contains(&sampling.top_k) {
        let (_, &mut (last, _), _) = candidates.select_nth_unstable_by(sampling.top_k - 1, by_score);
        candidates.retain(|&(score, _)| score >= last);
    }
    for (score, _) in candidates.iter_mut() {
        *score = ((*score - highest) / sampling.temperature).exp();
    }
    if sampling.top_p < 1.0 {
        candidates.sort_unstable_by(by_score);
        let total: f64 = candidates.iter().map(|&(weight, _)| f64::from(weight)).sum();
        let mut larger = 0.0;
        let kept = candidates.iter().take_while(|&&(weight, _)| {
            let keep = larger < f64::from(sampling.top_p) * total;
            larger += f64::from(weight);
            keep
        });
        let kept = kept.count().max(1);
        candidates.truncate(kept);
    } else {
        // The order after a selection is not fixed; by id it is the same on every machine.
        candidates.sort_unstable_by_key(|&(_, id)| id);
    }
    let total: f64 = candidates.iter().map(|&(weight, _)| f64::from(weight)).sum();
    let mut left = share * total;
    for &(weight, id) in candidates.iter() {
        left -= f64::from(weight);
        if left < 0.0 {
            return id;
        }
    }
    view.best()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greedy() -> Chooser {
        Chooser::new(Sampling::default())
    }

    fn mask_of(allowed: &[bool]) -> Vec<u32> {
        let bits = |chunk: &[bool]| chunk.iter().enumerate().fold(0, |word, (bit, &on)| word | u32::from(on) << bit);
        allowed.chunks(32).map(bits).collect()
    }

    #[test]
    fn the_penalty_is_that_of_the_reference() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut chooser = Chooser::new(sampling);
        assert_eq!(chooser.choose(&[3.0, 2.0, -1.0], None, &[0]), 1, "3 / 2 is less than 2");
        assert_eq!(chooser.choose(&[-1.0, -1.5], None, &[0]), 1, "-1 * 2 is less than -1.5");
        assert_eq!(chooser.choose(&[3.0, 2.0], None, &[]), 0, "nothing is remembered");
        assert_eq!(chooser.choose(&[3.0, 2.0], None, &[7, 1000]), 0, "ids without logits do not count");
    }

    #[test]
    fn top_p_keeps_at_least_one_and_top_k_keeps_equals() {
        let draws = |sampling: Sampling, logits: &[f32]| {
            let mut chooser = Chooser::new(sampling);
            let mut found: Vec<u32> = (0..400).map(|_| chooser.choose(logits, None, &[])).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(draws(Sampling { top_p: 0.0, ..hot.clone() }, &[0.0, 1.0, 0.5]), [1]);
        assert_eq!(draws(Sampling { top_k: 2, ..hot.clone() }, &[0.0, 1.0, 0.0, -1.0]), [0, 1, 2]);
        // 0.6 and 0.3 of probability: the first does not reach 0.7, both do.
        let logits = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
        assert_eq!(draws(Sampling { top_p: 0.7, ..hot.clone() }, &logits), [0, 1]);
        assert_eq!(draws(hot, &logits), [0, 1, 2]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut chooser = Chooser::new(Sampling { temperature: 2.0, seed: 5, ..Sampling::default() });
        // Half the logarithms at temperature 2 leave 0.75 and 0.25.
        let logits = [2.0 * 0.75f32.ln(), 2.0 * 0.25f32.ln()];
        let first = (0..10_000).filter(|_| chooser.choose(&logits, None, &[]) == 0).count();
        assert!((7300..7700).contains(&first), "{first}");
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_on_every_machine() {
        let mut chooser = Chooser::new(Sampling { temperature: 1.0, seed: 42, ..Sampling::default() });
        let logits = [0.0; 1000];
        let first: Vec<u32> = (0..4).map(|_| chooser.choose(&logits, None, &[])).collect();
        assert_eq!(first, FIRST_OF_42);
        chooser.reset();
        assert_eq!(chooser.choose(&logits, None, &[]), first[0]);
    }

    /// What PCG64 draws among 1,000 equal tokens from seed 42; a change means that seeds no longer repeat old answers.
    const FIRST_OF_42: [u32; 4] = [226, 239, 760, 527];

    proptest! {
        #[test]
        fn greedy_is_the_first_of_the_highest(logits in proptest::collection::vec(-4i8..4, 1..200), seed in any::<u64>()) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let allowed: Vec<bool> = (0..logits.len()).map(|i| seed.rotate_left(i as u32 * 7) & 1 == 1).collect();
            let expected = (0..logits.len()).filter(|&i| allowed[i]).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            let found = greedy().choose(&logits, Some(&mask_of(&allowed)), &[]);
            prop_assert_eq!(found, expected.unwrap_or(0) as u32);
        }

        #[test]
        fn a_masked_token_is_never_chosen(bits in proptest::collection::vec((any::<u32>(), any::<bool>()), 1..150),
                                          temperature in prop_oneof![Just(0.0f32), 0.01f32..10.0, Just(f32::NAN)],
                                          top_k in 0usize..40, top_p in 0.0f32..1.2, penalty in 0.1f32..3.0, seed in any::<u64>()) {
            // Any bit pattern: infinities and not-a-number too.
            let logits: Vec<f32> = bits.iter().map(|&(bits, _)| f32::from_bits(bits)).collect();
            let allowed: Vec<bool> = bits.iter().map(|&(_, on)| on).collect();
            let mut chooser = Chooser::new(Sampling { temperature, top_k, top_p, repetition_penalty: penalty, seed });
            let token = chooser.choose(&logits, Some(&mask_of(&allowed)), &[0, 3, 500]) as usize;
            prop_assert!(allowed[token] || !allowed.contains(&true));
        }
    }
}
