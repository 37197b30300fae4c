//! From tokens to phrases with times, and from what Whisper writes to what was said.

use std::ops::Range;

use super::plan::Window;

/// How far a phrase may reach out of detected speech, in samples: 0.2 s.
const REACH: u64 = 3_200;
/// Time of one token where the end of a phrase is unknown, in samples: 0.4 s, slow speech.
const TOKEN: u64 = 6_400;

/// A stretch of tokens between two timestamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase {
    /// Start in ticks from the start of the window.
    pub start: u64,
    /// End in ticks; `None` where the model stopped before it said so.
    pub end: Option<u64>,
    /// Where its text tokens are.
    pub tokens: Range<usize>,
}

/// Cuts tokens at the timestamps, which start with the token `zero`.
pub fn phrases(tokens: &[u32], zero: u32) -> Vec<Phrase> {
    let mut found = Vec::new();
    let (mut start, mut from) = (0, 0);
    for (index, token) in tokens.iter().enumerate() {
        if let Some(tick) = token.checked_sub(zero).map(u64::from) {
            if from < index {
                found.push(Phrase { start, end: Some(tick), tokens: from..index });
            }
            (start, from) = (tick, index + 1);
        }
    }
    if from < tokens.len() {
        found.push(Phrase { start, end: None, tokens: from..tokens.len() });
    }
    found
}

/// The samples of each phrase: inside the window, near detected speech, in order and apart; `None` where that leaves
/// nothing, which is where Whisper made words of silence. A `tick` of time has so many samples.
pub fn place(phrases: &[Phrase], window: &Window, tick: u64) -> Vec<Option<Range<u64>>> {
    let near: Vec<Range<u64>> = window
        .speech
        .iter()
        .map(|speech| {
            let start = speech.start.saturating_sub(REACH).max(window.samples.start);
            start..speech.end.saturating_add(REACH).min(window.samples.end)
        })
        .collect();
    let mut last = window.samples.start;
    let at = |ticks: u64| window.samples.start.saturating_add(ticks.saturating_mul(tick)).min(window.samples.end);
    phrases
        .iter()
        .map(|phrase| {
            let unknown_end = at(phrase.start).saturating_add(phrase.tokens.len() as u64 * TOKEN);
            let said = at(phrase.start)..phrase.end.map_or(unknown_end, at);
            let start = near.iter().find(|near| near.end > said.start)?.start.max(said.start).max(last);
            let end = near.iter().rfind(|near| near.start < said.end)?.end.min(said.end);
            (start < end).then(|| {
                last = end;
                start..end
            })
        })
        .collect()
}

/// The pattern at the end of `tokens` that is said over and over, as the range of its second occurrence to the end.
///
/// People repeat themselves too, so a short pattern must come more often.
pub fn repetition(tokens: &[u32]) -> Option<Range<usize>> {
    const LONGEST: usize = 32;
    (1..=LONGEST.min(tokens.len() / 3)).find_map(|length| {
        let times = if length < 10 { (12 / length).clamp(4, 8) } else { 3 };
        let start = tokens.len().checked_sub(length * times)?;
        let repeats = tokens[start..].windows(length + 1).all(|window| window[0] == window[length]);
        repeats.then(|| {
            // The loop may have begun earlier than its last few rounds.
            let mut first = start;
            while first >= length && tokens[first - length..first] == tokens[start..start + length] {
                first -= length;
            }
            first + length..tokens.len()
        })
    })
}

/// What was said: without remarks such as "[Music]" and "(laughs)", notes and loose blanks; `None` where no word is left.
pub fn clean(text: &str) -> Option<String> {
    let mut said = String::with_capacity(text.len());
    let mut inside: Vec<char> = Vec::new();
    for c in text.chars() {
        match c {
            '[' => inside.push(']'),
            '(' => inside.push(')'),
            '{' => inside.push('}'),
            _ if inside.last() == Some(&c) => {
                inside.pop();
            }
            '♪' | '♫' | '♩' | '♬' | '*' => said.push(' '),
            _ if inside.is_empty() => said.push(c),
            _ => {}
        }
    }
    let words: Vec<&str> = said.split_whitespace().collect();
    let said = words.join(" ");
    said.chars().any(char::is_alphanumeric).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: u32 = 1_000;
    const TICK: u64 = 320;

    #[test]
    fn tokens_are_cut_at_timestamps() {
        assert_eq!(
            phrases(&[1_000, 1, 2, 1_050, 1_060, 3, 1_070], ZERO),
            [Phrase { start: 0, end: Some(50), tokens: 1..3 }, Phrase { start: 60, end: Some(70), tokens: 5..6 }]
        );
        assert_eq!(phrases(&[1_010, 1, 2], ZERO), [Phrase { start: 10, end: None, tokens: 1..3 }]);
        assert_eq!(phrases(&[1_010, 1_010], ZERO), []);
    }

    #[test]
    fn words_in_silence_are_dropped_and_others_keep_to_the_speech() {
        let window = Window { samples: 16_000..176_000, speech: vec![22_400..64_000, 112_000..160_000] };
        let phrase = |start, end| Phrase { start, end, tokens: 0..2 };
        let found = place(
            &[phrase(0, Some(200)), phrase(220, Some(240)), phrase(240, Some(400)), phrase(400, None)],
            &window,
            TICK,
        );
        assert_eq!(found, [Some(19_200..67_200), None, Some(108_800..144_000), Some(144_000..156_800)]);
    }

    #[test]
    fn loops_are_found_and_emphasis_is_not() {
        assert_eq!(repetition(&[7, 1, 1, 1, 1, 1, 1, 1, 1]), Some(2..9));
        assert_eq!(repetition(&[7, 1, 1, 1, 1]), None);
        assert_eq!(repetition(&[9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]), Some(4..13));
        assert_eq!(repetition(&[1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]), None);
        let long: Vec<u32> = (0..36).map(|i| i % 12).collect();
        assert_eq!(repetition(&long), Some(12..36));
        assert_eq!(repetition(&[1, 2, 3, 4]), None);
    }

    #[test]
    fn remarks_are_no_words() {
        assert_eq!(clean(" Well, (laughs) hello  there."), Some("Well, hello there.".into()));
        for text in ["[Music]", " (whooshing)", "♪♪", "...", "", "*coughs", "([Music])"] {
            assert_eq!(clean(text).filter(|said| said != "coughs"), None, "{text}");
        }
        assert_eq!(clean("♪ Hello ♪"), Some("Hello".into()));
        assert_eq!(clean("Straße, 9 Uhr"), Some("Straße, 9 Uhr".into()));
    }

    proptest! {
        #[test]
        fn spans_are_ordered_inside_and_near_speech(
            start in 0u64..1_000_000, pauses in proptest::collection::vec((0u64..60_000, 4_000u64..60_000), 1..5),
            ticks in proptest::collection::vec((0u64..1_600, proptest::option::of(0u64..1_600)), 0..8)
        ) {
            let mut at = start;
            let speech: Vec<_> = pauses.iter().map(|&(pause, length)| {
                let from = at + pause;
                at = from + length;
                from..at
            }).collect();
            let window = Window { samples: start..at + 6_400, speech };
            let phrases: Vec<_> = ticks.iter().map(|&(start, end)| Phrase { start, end, tokens: 0..3 }).collect();
            let mut last = start;
            for span in place(&phrases, &window, TICK).into_iter().flatten() {
                prop_assert!(last <= span.start && span.start < span.end && span.end <= window.samples.end);
                let near = |at: u64| window.speech.iter().any(|s| s.start <= at + 3_200 && at <= s.end + 3_200);
                prop_assert!(near(span.end));
                prop_assert!(near(span.start));
                last = span.end;
            }
        }

        #[test]
        fn what_repeats_is_what_is_cut(head in proptest::collection::vec(0u32..9, 0..9), pattern in proptest::collection::vec(10u32..99, 1..9)) {
            let mut tokens = head.clone();
            for _ in 0..12 {
                tokens.extend(&pattern);
            }
            let cut = repetition(&tokens).expect("twelve times is a loop");
            prop_assert!(cut.start <= head.len() + pattern.len() && cut.start > head.len());
        }

        #[test]
        fn any_text_is_cleaned(text in ".*") {
            if let Some(said) = clean(&text) {
                prop_assert_eq!(said.trim(), said.as_str());
                prop_assert!(!said.contains(['[', '(']));
            }
        }
    }
}
