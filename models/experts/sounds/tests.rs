use proptest::prelude::*;

use super::{events::Event, *};
use crate::experts::testing::{clip, difference, golden, noise, observe, pack_files, tone};

const LABELS: &str = r#"{"classes": [
    {"label": "Animal", "name": "animal", "clause": "an animal is heard", "generic": true},
    {"label": "Dog", "name": "dog", "clause": "a dog is heard", "parents": ["Animal"]},
    {"label": "Bark", "name": "barking", "clause": "a dog barks", "parents": ["Dog", "Animal"]},
    {"label": "Speech", "name": "speech", "clause": "someone speaks", "kind": "speech"},
    {"label": "Pop", "name": "pop music", "clause": "pop music plays"},
    {"label": "Rock", "name": "rock music", "clause": "rock music plays"},
    {"label": "Rain", "name": "rain", "clause": "rain falls"},
    {"label": "Siren", "name": "siren", "clause": "a siren wails"},
    {"label": "Wind", "name": "wind", "clause": "wind blows"}
]}"#;
const DOG: usize = 1;
const BARK: usize = 2;
const SPEECH: usize = 3;
const POP: usize = 4;
const ROCK: usize = 5;
const RAIN: usize = 6;

fn labels() -> SoundLabels {
    SoundLabels::parse(LABELS.as_bytes()).unwrap()
}

/// The events of patches with these scores (class, score), all equally loud.
fn events(patches: &[&[(usize, f32)]]) -> Vec<Event> {
    let mut events = Events::new(labels(), EventSettings::default());
    let mut levels = Levels::default();
    levels.start_at(0);
    (0..(patches.len() + 1) * PATCH_HOP).for_each(|_| levels.push(0.1));
    let heard = Heard { levels: &levels, start: 0, end: patch_start(patches.len() as u64 + 1) };
    let mut out = Vec::new();
    for (index, patch) in patches.iter().enumerate() {
        let mut scores = vec![0.0; labels().classes().len()];
        patch.iter().for_each(|&(class, score)| scores[class] = score);
        events.push(index as u64, &scores, heard, &mut out);
    }
    events.flush(heard, &mut out);
    out
}

fn event(class: usize, patches: Range<u64>, score: f32) -> Event {
    Event { class, samples: patch_start(patches.start)..patch_start(patches.end) + patch_start(1), score }
}

#[test]
fn a_wavering_score_is_one_event() {
    let (on, low, off): (&[_], &[_], &[_]) = (&[(RAIN, 0.9)], &[(RAIN, 0.25)], &[]);
    assert_eq!(events(&[off, low, on, low, low, on, low]), [event(RAIN, 2..7, 0.9)]);
    // A hole of two patches is half a second of silence; three are too many.
    assert_eq!(events(&[on, off, off, on]), [event(RAIN, 0..4, 0.9)]);
    assert_eq!(events(&[on, off, off, off, on]), [event(RAIN, 0..1, 0.9), event(RAIN, 4..5, 0.9)]);
}

#[test]
fn what_a_better_word_implies_is_not_said() {
    let both: &[_] = &[(0, 0.95), (DOG, 0.9), (BARK, 0.5)];
    assert_eq!(events(&[both, both, &[(DOG, 0.9)]]), [event(BARK, 0..2, 0.5)]);
    // Where the dog does something else most of the time, it is said for that time.
    let dog: &[_] = &[(DOG, 0.8)];
    assert_eq!(events(&[both, dog, dog, dog]), [event(BARK, 0..1, 0.5), event(DOG, 1..4, 0.9)]);
    assert_eq!(events(&[&[(0, 0.9), (SPEECH, 0.9)]]), []);
}

#[test]
fn at_most_three_that_differ_are_said() {
    let all: &[_] = &[(POP, 0.6), (ROCK, 0.7), (RAIN, 0.8), (7, 0.5), (8, 0.9)];
    let said: Vec<usize> = events(&[all, all]).iter().map(|event| event.class).collect();
    assert_eq!(said, [ROCK, RAIN, 8]);
}

#[test]
fn a_long_sound_is_said_in_parts_that_tile_it() {
    let rain: &[(usize, f32)] = &[(RAIN, 0.9)];
    let found = events(&vec![rain; 200]);
    assert_eq!(found.len(), 4);
    assert!(found.windows(2).all(|two| two[0].samples.end == two[1].samples.start));
    assert!(found.iter().all(|event| event.samples.end - event.samples.start <= 30 * u64::from(RATE)));
    assert_eq!(found[0].samples.start..found[3].samples.end, 0..patch_start(201));
}

#[test]
fn an_event_is_as_long_as_its_sound() {
    let mut events = Events::new(labels(), EventSettings::default());
    let mut levels = Levels::default();
    levels.start_at(48);
    // Patches 1 to 3 end at frame 240; the bark is from frame 100 to 180.
    (48..240).for_each(|frame| levels.push(if (100..180).contains(&frame) { 0.2 } else { 0.002 }));
    let heard = Heard { levels: &levels, start: 0, end: 240 * 160 };
    let (mut scores, mut out) = (vec![0.0; 9], Vec::new());
    scores[BARK] = 0.8;
    (1..=2).for_each(|patch| events.push(patch, &scores, heard, &mut out));
    events.flush(heard, &mut out);
    assert_eq!(out, [Event { class: BARK, samples: 100 * 160..180 * 160, score: 0.8 }]);
}

/// An ear whose network is a rule: rain where it is loud, a dog where it is not too loud.
struct Fake {
    ear: Ear,
    events: Events,
    settled_ns: u64,
}

impl Fake {
    fn listen(&mut self, last: bool, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let mut score = |patches: Array4<f32>, each: &mut dyn FnMut(ArrayView2<f32>)| {
            let mut scores = ndarray::Array2::zeros((patches.dim().0, 9));
            for (patch, mut row) in patches.outer_iter().zip(scores.rows_mut()) {
                let mean = patch.mean().unwrap();
                row[RAIN] = (mean / 4.0 + 0.6).clamp(0.0, 1.0);
                row[BARK] = (0.5 - mean / 4.0).clamp(0.0, 1.0);
            }
            each(scores.view());
            Ok(())
        };
        listen(&mut self.ear, &mut self.events, last, &mut score, out)
    }
}

impl Expert for Fake {
    fn name(&self) -> &'static str {
        PIECE
    }

    fn observe(&mut self, clip: &Clip, _: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        if let Some(first) = self.ear.hear(clip.sound.as_ref().unwrap()) {
            self.events.start_at(first);
        }
        self.listen(false, out)
    }

    fn flush(&mut self, _: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        self.settled_ns = self.ear.tape.end_ns();
        self.listen(true, out)
    }

    fn reset(&mut self) {
        self.ear.clear();
        self.events.start_at(0);
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        self.settled_ns.max(time_of_sample(patch_start(self.events.oldest()).min(self.ear.tape.end()), RATE))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn events_do_not_depend_on_the_length_of_clips(
        first in 0u64..100_000, parts in proptest::collection::vec((0.0f32..3.0, prop::sample::select(vec![0.0f32, 1e-5, 0.003, 0.05, 0.9])), 1..8),
        lengths in proptest::collection::vec(1usize..60_000, 1..4)
    ) {
        let samples: Vec<f32> = parts.iter().flat_map(|&(seconds, peak)| noise(seconds, peak)).collect();
        let mut fake = Fake { ear: Ear::default(), events: Events::new(labels(), EventSettings::default()), settled_ns: 0 };
        let whole = observe(&mut fake, first, &samples, &[samples.len().max(1)]);
        prop_assert_eq!(&observe(&mut fake, first, &samples, &lengths), &whole);
        prop_assert_eq!(&observe(&mut fake, first, &samples, &[4_000]), &whole);
    }
}

fn sounds() -> Option<Sounds> {
    let files = pack_files(&[("model", "sounds.onnx"), ("labels", "sounds.json")])?;
    Some(Sounds::load(&files, &serde_json::Value::Null, &RunSettings::default()).unwrap())
}

#[test]
fn the_network_scores_as_the_reference_does() {
    let (Some(sounds), Some((_, log_mel)), Some((_, wanted))) =
        (sounds(), golden("sounds.log_mel"), golden("sounds.scores"))
    else {
        return;
    };
    let patch = Array4::from_shape_vec((1, 1, 96, 64), log_mel[..96 * 64].to_vec()).unwrap();
    let view = TensorRef::from_array_view(patch.view()).unwrap();
    let cancel = Cancel::default();
    let outputs = sounds.model.run(ort::inputs!["log_mel" => view], &cancel).unwrap();
    let found = difference(outputs.value("scores").unwrap().try_extract_tensor::<f32>().unwrap().1, &wanted);
    eprintln!("sounds: largest difference {found:.1e}");
    assert!(found <= 1e-3);
}

#[test]
fn silence_says_nothing_and_noise_is_no_dog() {
    let Some(mut sounds) = sounds() else { return };
    assert_eq!(observe(&mut sounds, 777, &[0.0; 64_000], &[16_000]), []);
    let found = observe(&mut sounds, 777, &noise(5.0, 0.5), &[16_000]);
    assert!(found.iter().all(|said| !said.text.contains("dog")), "{found:?}");
    let samples = [noise(3.0, 0.3), tone(3.0, 1000.0, 0.3), vec![0.0; 20_000]].concat();
    let whole = observe(&mut sounds, 777, &samples, &[samples.len()]);
    eprintln!("{:?}", whole.iter().map(Observation::to_json).collect::<Vec<_>>());
    for length in [8_000, 64_000, 31_337] {
        let parts = observe(&mut sounds, 777, &samples, &[length]);
        assert_eq!(
            parts.iter().map(Observation::to_json).collect::<Vec<_>>(),
            whole.iter().map(Observation::to_json).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_clip_without_sound_ends_what_was_heard() {
    let Some(mut sounds) = sounds() else { return };
    let (cancel, mut out) = (Cancel::default(), Vec::new());
    sounds.observe(&clip(0, &noise(3.0, 0.3)), &cancel, &mut out).unwrap();
    let silent = Clip { sound: None, span: Span::new(3_000_000_000, 5_000_000_000), ..clip(0, &[]) };
    sounds.observe(&silent, &cancel, &mut out).unwrap();
    assert_eq!(sounds.settled_ns(), 5_000_000_000);
    assert!(!sounds.ear.tape.is_running());
    assert!(out.iter().all(|said| said.span.end_ns <= 3_000_000_000));
}
