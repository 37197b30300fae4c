//! What captions say, by example and by property.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::time::Span;

/// Class, its article, its group and the article of that.
const WORDS: [(&str, &str, &str, &str); 15] = [
    ("German shepherd", "a", "dog", "a"),
    ("malinois", "a", "dog", "a"),
    ("kelpie", "a", "dog", "a"),
    ("Egyptian cat", "an", "cat", "a"),
    ("ox", "an", "cattle", ""),
    ("water buffalo", "a", "cattle", ""),
    ("acoustic guitar", "an", "guitar", "a"),
    ("scuba diver", "a", "person", "a"),
    ("groom", "a", "person", "a"),
    ("sports car", "a", "car", "a"),
    ("convertible", "a", "car", "a"),
    ("sand", "", "", ""),
    ("bobsled", "a", "", ""),
    ("bow tie", "a", "", ""),
    ("car", "a", "car", "a"),
];

struct Table;

impl Names for Table {
    fn article(&self, class: &str) -> Option<&str> {
        WORDS.iter().find(|word| word.0 == class).map(|word| word.1)
    }

    fn group_of(&self, class: &str) -> Option<(&str, &str)> {
        WORDS.iter().find(|word| word.0 == class && !word.2.is_empty()).map(|word| (word.3, word.2))
    }
}

/// Times of the frames of the segments below, in tenths of a second.
const FRAMES: [u64; 4] = [5, 15, 25, 35];

fn tenths(start: u64, end: u64) -> Span {
    Span::new(start * SECOND / 10, end * SECOND / 10)
}

/// What the tagger says of frame `index`.
fn tags(index: usize, labels: &[(&str, f32)]) -> Observation {
    let span = tenths(FRAMES[index], FRAMES.get(index + 1).copied().unwrap_or(40));
    let mut o = Observation::new(Kind::Object, span, labels[0].0, labels[0].1, TAGS);
    o.labels = labels.iter().map(|(name, p)| Label { name: (*name).into(), confidence: *p }).collect();
    o
}

/// The same in every frame.
fn sees(labels: &[(&str, f32)]) -> Vec<Observation> {
    (0..FRAMES.len()).map(|index| tags(index, labels)).collect()
}

/// People in the first `frames` of the four frames.
fn people(frames: usize, text: &str) -> Vec<Observation> {
    let said = |index: usize| Observation::new(Kind::Object, tenths(FRAMES[index], 40), text, 0.8, PEOPLE);
    (0..frames).map(said).collect()
}

fn sound(start: u64, end: u64, text: &str, confidence: f32) -> Vec<Observation> {
    vec![Observation::new(Kind::Sound, tenths(start, end), text, confidence, "lite/sounds")]
}

fn speech(start: u64, end: u64, text: &str) -> Vec<Observation> {
    vec![Observation::new(Kind::Speech, tenths(start, end), text, 0.9, "lite/speech")]
}

fn describe(segment: Span, said: &[Observation]) -> Option<Observation> {
    let frames = FRAMES.map(|at| at * SECOND / 10);
    caption(segment, &Evidence { said, frames: &frames, names: &Table, rules: &Rules::default() })
}

/// The caption of the first four seconds.
fn text(said: &[Vec<Observation>]) -> String {
    describe(tenths(0, 40), &said.concat()).map_or_else(String::new, |caption| caption.text)
}

#[test]
fn what_is_seen() {
    let shepherd = sees(&[("German shepherd", 0.8)]);
    assert_eq!(text(&[]), "", "nothing known, nothing said");
    assert_eq!(text(&[shepherd]), "A German shepherd.");
    assert_eq!(text(&[sees(&[("Egyptian cat", 0.5)])]), "An Egyptian cat.");
    assert_eq!(text(&[sees(&[("sand", 0.5)])]), "Sand.");
    assert_eq!(text(&[sees(&[("bobsled", 0.2)])]), "", "not sure enough");
    // No class is sure, but all of them are dogs.
    assert_eq!(text(&[sees(&[("German shepherd", 0.2), ("malinois", 0.2), ("kelpie", 0.2)])]), "A dog.");
    assert_eq!(text(&[sees(&[("ox", 0.29), ("water buffalo", 0.28)])]), "Cattle.");
    assert_eq!(text(&[sees(&[("ox", 0.2), ("water buffalo", 0.2)])]), "", "0.4 is not enough for a group");
    // The class passes, yet it is more likely another dog.
    assert_eq!(text(&[sees(&[("German shepherd", 0.35), ("malinois", 0.3), ("kelpie", 0.1)])]), "A dog.");
    assert_eq!(text(&[sees(&[("German shepherd", 0.35), ("malinois", 0.3)])]), "A German shepherd.");
    // A label that is missing in a frame counts as 0 there.
    let once = [vec![tags(0, &[("bow tie", 0.9)])], (1..4).map(|i| tags(i, &[("sand", 0.1)])).collect()];
    assert_eq!(text(&once), "");
}

#[test]
fn who_is_seen() {
    assert_eq!(text(&[people(1, "person")]), "A person.", "one frame of four");
    assert_eq!(text(&[people(4, "2 people")]), "Two people.");
    assert_eq!(text(&[people(4, "5 people")]), "Five people.");
    assert_eq!(text(&[people(4, "17 people")]), "Several people.");
    assert_eq!(text(&[people(2, "person"), people(1, "3 people")]), "A person.", "most frames show one");
    let guitar = sees(&[("acoustic guitar", 0.6)]);
    assert_eq!(text(&[people(4, "person"), guitar]), "A person; an acoustic guitar.");
    // The tagger takes people for things: it must be surer where there are some.
    assert_eq!(text(&[people(4, "person"), sees(&[("bobsled", 0.4)])]), "A person.");
    assert_eq!(text(&[sees(&[("scuba diver", 0.9)]), people(4, "person")]), "A scuba diver.");
    assert_eq!(text(&[sees(&[("scuba diver", 0.9)]), people(4, "2 people")]), "Two people; a scuba diver.");
    assert_eq!(text(&[sees(&[("scuba diver", 0.28), ("groom", 0.29)]), people(4, "person")]), "A person.");
}

#[test]
fn people_in_one_frame_of_many_are_not_named() {
    let frames: Vec<u64> = (0..8).map(|i| i * SECOND / 2).collect();
    let said = people(1, "person");
    let evidence = Evidence { said: &said, frames: &frames, names: &Table, rules: &Rules::default() };
    assert_eq!(caption(tenths(0, 40), &evidence), None, "one frame of eight");
}

#[test]
fn what_is_heard() {
    let shepherd = sees(&[("German shepherd", 0.8)]);
    let dog = sees(&[("German shepherd", 0.2), ("malinois", 0.2), ("kelpie", 0.2)]);
    let car = sees(&[("car", 0.7)]);
    let bark = sound(0, 20, "a dog barks", 0.7);
    assert_eq!(text(std::slice::from_ref(&bark)), "A dog barks.");
    assert_eq!(text(&[shepherd.clone(), bark.clone()]), "A German shepherd; a dog barks.");
    assert_eq!(text(&[dog.clone(), bark.clone()]), "A dog; it barks.");
    let music = sound(0, 40, "music plays", 0.9);
    assert_eq!(text(&[dog.clone(), music.clone(), bark.clone()]), "A dog; it barks; music plays.");
    assert_eq!(text(&[dog, sound(0, 20, "a dog growls", 0.6), bark.clone()]), "A dog; it barks and growls.");
    // What goes with the picture comes first, a weak second one not at all.
    let yip = sound(0, 20, "a dog yips", 0.4);
    assert_eq!(text(&[shepherd.clone(), yip.clone(), music.clone()]), "A German shepherd; a dog yips; music plays.");
    assert_eq!(text(&[yip.clone(), music]), "Music plays.");
    assert_eq!(text(&[yip]), "A dog yips.", "the only one is told");
    assert_eq!(text(&[car.clone(), sound(0, 20, "a car passes by", 0.5)]), "A car; it passes by.");
    assert_eq!(text(&[car, sound(0, 20, "a car horn honks", 0.5)]), "A car; a car horn honks.");
    let cattle = sees(&[("ox", 0.29), ("water buffalo", 0.28)]);
    assert_eq!(text(&[cattle, sound(0, 20, "cattle low", 0.5)]), "Cattle; they low.");
    // The two surest, and none twice.
    let birds = sound(0, 40, "birds sing", 0.6);
    let rain = sound(0, 40, "rain falls", 0.8);
    assert_eq!(text(&[birds.clone(), bark.clone(), rain.clone()]), "Rain falls; a dog barks.");
    assert_eq!(text(&[rain.clone(), rain, birds]), "Rain falls; birds sing.");
    // Less than a second of a long sound may be a neighbour's; a short sound is heard whole, and so is a short segment.
    let siren = |start| sound(start, 80, "a siren wails", 0.9);
    assert_eq!(text(&[shepherd.clone(), siren(31)]), "A German shepherd.");
    assert_eq!(text(&[shepherd.clone(), siren(30)]), "A German shepherd; a siren wails.");
    assert_eq!(describe(tenths(40, 44), &siren(35)).map(|o| o.text), Some("A siren wails.".into()));
    assert_eq!(text(&[shepherd, sound(38, 40, "a whip cracks", 0.9)]), "A German shepherd; a whip cracks.");
}

#[test]
fn what_is_said() {
    let shepherd = sees(&[("German shepherd", 0.8)]);
    assert_eq!(text(&[speech(5, 30, "Hello there.")]), "A voice says: “Hello there.”");
    assert_eq!(text(&[speech(5, 30, "hello there")]), "A voice says: “hello there”.");
    assert_eq!(text(&[speech(5, 30, " Who is it? ")]), "A voice says: “Who is it?”");
    assert_eq!(
        text(&[shepherd, sound(0, 40, "rain falls", 0.8), speech(5, 30, "Good dog!")]),
        "A German shepherd; rain falls; a voice says: “Good dog!”"
    );
    assert_eq!(text(&[speech(20, 30, "And two."), speech(1, 19, "One.")]), "A voice says: “One. And two.”");
    assert_eq!(text(&[speech(5, 30, "He said “no”, \"never\".")]), "A voice says: “He said 'no', 'never'.”");
    let long = "It was the best of times, it was the worst of times, it was the age of wisdom.";
    assert_eq!(
        text(&[speech(0, 40, long)]),
        "A voice says: “It was the best of times, it was the worst of times, it was…”"
    );
    assert_eq!(text(&[speech(5, 30, " … ")]), "", "no words");
    // Its middle is in the next segment, and there it is told.
    assert_eq!(text(&[speech(30, 60, "Not yet.")]), "");
    let next = describe(tenths(40, 80), &speech(30, 60, "Not yet.")).unwrap();
    assert_eq!(next.text, "A voice says: “Not yet.”");
    // A language without spaces is cut by letters.
    let words = text(&[speech(0, 40, &"犬".repeat(500))]);
    assert_eq!(words.chars().filter(|c| *c == '犬').count(), LETTERS);
}

#[test]
fn a_caption_tells_what_it_is_made_of() {
    let mut bark = sound(0, 20, "a dog barks", 0.7);
    bark[0].labels = vec![Label { name: "dog bark".into(), confidence: 0.7 }];
    let said = [sees(&[("acoustic guitar", 0.6)]), people(4, "person"), bark, speech(0, 10, "Hush!")].concat();
    let caption = describe(tenths(0, 40), &said).unwrap();
    assert_eq!(caption.text, "A person; an acoustic guitar; a dog barks; a voice says: “Hush!”");
    assert_eq!((caption.kind, caption.source.as_str(), caption.span), (Kind::Caption, "lite/caption", tenths(0, 40)));
    assert!((caption.confidence - (0.6 + 0.8 + 0.7 + 0.9) / 4.0).abs() < 1e-6);
    let labels: Vec<_> = caption.labels.iter().map(|label| label.name.as_str()).collect();
    assert_eq!(labels, ["person", "dog bark", "acoustic guitar"]);
}

#[test]
fn objects_span_the_frames_that_show_them() {
    let frames = FRAMES.map(|at| at * SECOND / 10);
    let cat = [vec![tags(0, &[("sand", 0.1)])], vec![tags(1, &[("Egyptian cat", 0.9)])]].concat();
    let said = [cat, vec![tags(2, &[("Egyptian cat", 0.8)])], people(2, "person")].concat();
    let evidence = Evidence { said: &said, frames: &frames, names: &Table, rules: &Rules::default() };
    let found = objects(tenths(0, 40), &evidence);
    let found: Vec<_> = found.iter().map(|o| (o.text.as_str(), o.span, o.source.as_str())).collect();
    assert_eq!(found, [("person", tenths(0, 25), PEOPLE), ("Egyptian cat", tenths(15, 35), TAGS)]);
}

/// Words that no evidence is needed for.
const FUNCTION_WORDS: [&str; 14] =
    ["a", "an", "it", "they", "person", "people", "two", "three", "four", "five", "several", "voice", "says", "and"];

fn words(text: &str) -> BTreeSet<String> {
    let all = text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
    all.map(str::to_lowercase).collect()
}

fn any_evidence() -> impl Strategy<Value = Vec<Observation>> {
    let class = || (0..WORDS.len(), 0.0f32..1.0);
    let tagged = vec((0usize..4, vec(class(), 1..5)), 0..6).prop_map(|frames| {
        let label = |(class, p): (usize, f32)| (WORDS[class].0, p);
        frames
            .into_iter()
            .map(|(i, labels)| tags(i, &labels.into_iter().map(label).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    });
    let phrase = "(a|an|the|cattle|dog|car) (dog|cat|car|horn|barks|low|falls)( [a-zA-Z\"“”.!?]{0,8}){0,20}";
    let heard =
        (0u64..60, 0u64..60, phrase, 0.0f32..1.0, any::<bool>()).prop_map(|(start, length, text, p, is_speech)| {
            let mut o =
                if is_speech { speech(start, start + length, &text) } else { sound(start, start + length, &text, p) };
            o.remove(0)
        });
    let seen = (0usize..=4, 0usize..9).prop_map(|(frames, n)| people(frames, &format!("{n} people")));
    (tagged, vec(heard, 0..8), seen).prop_map(|(tagged, heard, seen)| [tagged, heard, seen].concat())
}

proptest! {
    #[test]
    fn every_content_word_has_evidence(said in any_evidence()) {
        if let Some(caption) = describe(tenths(0, 40), &said) {
            let mut known: BTreeSet<String> = FUNCTION_WORDS.iter().map(|word| (*word).to_owned()).collect();
            for o in &said {
                known.extend(words(&o.text));
                known.extend(words(&o.text.replace(['“', '”', '"'], "'")));
                let of_tags = o.labels.iter().filter_map(|label| Table.group_of(&label.name));
                known.extend(of_tags.flat_map(|(_, phrase)| words(phrase)));
                known.extend(o.labels.iter().flat_map(|label| words(&label.name)));
            }
            let unknown: Vec<_> = words(&caption.text).into_iter().filter(|word| !known.contains(word)).collect();
            // A word may be cut where a quotation gets too long.
            let cut = |word: &String| known.iter().any(|k| k.starts_with(word.as_str())) && caption.text.contains('…');
            prop_assert!(unknown.iter().all(cut), "{unknown:?} in {}", caption.text);

            prop_assert!((0.0..=1.0).contains(&caption.confidence));
            prop_assert!(caption.text.chars().next().is_some_and(|c| !c.is_lowercase()));
            prop_assert!(caption.text.ends_with(['.', '”']));
        }
    }

    #[test]
    fn no_sentence_is_told_twice(start in 0u64..200, length in 0u64..100, cuts in vec(1u64..300, 0..20)) {
        let said = speech(start, start + length, "Only once.");
        let mut borders: Vec<u64> = cuts.into_iter().chain([0, 300]).collect();
        borders.sort_unstable();
        borders.dedup();
        let told = borders.windows(2).filter(|pair| describe(tenths(pair[0], pair[1]), &said).is_some()).count();
        prop_assert_eq!(told, 1);
    }
}
