//! The tiny pairs of tests/data/pairs against what numpy makes of them (tests/data/make_pairs.py).

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::*;
use crate::{
    Cancel, Clip, Describer, Frame, Sound, Thumbnails,
    experts::{Expert, testing::difference},
    generator::{describer::Wishes, folder::Folder},
    pack::{self, Loaded, PackSettings},
    runtime::RunSettings,
};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/pairs").join(name)
}

struct Golden(Value);

impl Golden {
    fn of(name: &str) -> Self {
        Self(serde_json::from_slice(&fs::read(folder(name).join("golden.json")).unwrap()).unwrap())
    }

    fn labels(&self) -> Vec<String> {
        self.0["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap().to_owned()).collect()
    }

    fn rows(&self, key: &str) -> Vec<Vec<f32>> {
        let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        self.0[key].as_array().unwrap().iter().map(row).collect()
    }
}

/// Picture `k` of the formula in make_pairs.py.
fn picture(side: u32, k: u32) -> Frame {
    let value = |y: u32, x: u32, c: u32| {
        let sum = i64::from(x) * i64::from(7 + 4 * k)
            + i64::from(y) * (13 - 5 * i64::from(k))
            + i64::from(c * (29 + 40 * k))
            + i64::from(x * y * (k + 1));
        sum.rem_euclid(256) as u8
    };
    let rgb: Vec<u8> = (0..side * side * 3).map(|i| value(i / 3 / side, i / 3 % side, i % 3)).collect();
    Frame { at_ns: u64::from(k) * 1_000, width: side, height: side, rgb: rgb.into() }
}

/// Sound `k` of make_pairs.py, at 48 kHz.
fn sound(k: usize) -> Vec<f32> {
    let sine = |hz: f64, t: f64| (std::f64::consts::TAU * hz * t).sin();
    let value = |i: usize| {
        let t = i as f64 / 48_000.0;
        match k {
            0 => 0.5 * sine(440.0, t),
            1 => 0.3 * sine(1000.0, t) + 0.3 * sine(7000.0, t),
            _ => 0.4 * (std::f64::consts::TAU * (500.0 * t + 4000.0 * t * t)).sin(),
        }
    };
    (0..if k == 2 { 24_000 } else { 48_000 }).map(|i| value(i) as f32).collect()
}

fn asked(golden: &Golden) -> Asked {
    Asked { labels: golden.labels(), ..Asked::default() }
}

#[track_caller]
fn check(golden: &Golden, index: usize, pair: &Pair, embedding: &[f32]) {
    let found = difference(embedding, &golden.rows("embeddings")[index]);
    let scores = difference(&pair.scores(embedding), &golden.rows("scores")[index]);
    eprintln!("{} {index}: embedding {found:.1e}, scores {scores:.1e}", pair.source());
    assert!(found <= 1e-4 && scores <= 1e-4, "{:?}", pair.scores(embedding));
}

#[test]
fn pictures_have_the_scores_of_the_reference() {
    for (name, side) in [("tiny-clip", 32), ("tiny-clip-one", 32), ("tiny-siglip", 24)] {
        let (golden, folder) = (Golden::of(name), Folder::read(&folder(name)).unwrap());
        let family = Family::of(&folder.model_type).unwrap();
        let pictures = Pictures::load(&folder, family, asked(&golden), None, &RunSettings::default()).unwrap();
        for (row, wanted) in pictures.pair().rows().iter().zip(golden.rows("label_embeddings")) {
            assert!(difference(row, &wanted) <= 1e-4);
        }
        for index in 0..3 {
            let found = pictures.embed(&[&picture(side, index as u32)], &Cancel::default()).unwrap();
            check(&golden, index, pictures.pair(), &found[0]);
        }
    }
}

#[test]
fn sounds_have_the_scores_of_the_reference() {
    let (golden, folder) = (Golden::of("tiny-clap"), Folder::read(&folder("tiny-clap")).unwrap());
    let sounds = Sounds::load(&folder, Family::Clap, asked(&golden), None, &RunSettings::default()).unwrap();
    for index in 0..3 {
        let found = sounds.embed(&sound(index), &Cancel::default()).unwrap();
        check(&golden, index, sounds.pair(), &found);
    }
}

fn load(name: &str, kinds: &[Kind], wishes: Wishes) -> Result<Loaded, crate::LoadError> {
    let kinds = kinds.iter().copied().collect();
    let settings = PackSettings { path: Some(folder(name)), kinds, generator: wishes, ..PackSettings::default() };
    pack::load(&settings, &mut |_| ())
}

fn wishes(labels: &str, embeddings: bool) -> Wishes {
    Wishes { labels: Some(labels.to_owned()), embeddings, ..Wishes::default() }
}

fn clip(frames: Vec<Frame>, start_ns: u64, end_ns: u64, sound: Option<Sound>) -> Clip {
    Clip { span: Span::new(start_ns, end_ns), discont: start_ns == 0, frames, thumbnails: Thumbnails::default(), sound }
}

fn describe(describer: &mut dyn Describer, clips: &[Clip]) -> Vec<Observation> {
    let mut out = Vec::new();
    for clip in clips {
        describer.describe(clip, &Cancel::default(), &mut out).unwrap();
    }
    describer.flush(&Cancel::default(), &mut out).unwrap();
    out
}

#[test]
fn a_clip_folder_is_a_pack_that_says_what_frames_show() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("labels.txt");
    fs::write(&file, "cat\r\n dog\n\nred car\nrain\ncat\n").unwrap();
    let golden = Golden::of("tiny-clip");
    for labels in ["cat, dog,red car,rain", file.to_str().unwrap()] {
        let mut loaded = load("tiny-clip", &[Kind::Object], wishes(labels, false)).unwrap();
        assert_eq!((loaded.name.as_str(), loaded.missing.len()), ("tiny-clip", 0));
        let clips = [
            clip(vec![picture(32, 0), picture(32, 1)], 0, 2_000, None),
            clip(vec![Frame { at_ns: 2_000, ..picture(32, 1) }], 2_000, 3_000, None),
        ];
        let said = describe(&mut *loaded.describer, &clips);
        let mut wanted = Vec::new();
        for (index, span) in [(0, Span::new(0, 1_000)), (1, Span::new(1_000, 2_000)), (1, Span::new(2_000, 3_000))] {
            for (label, score) in golden.labels().iter().zip(&golden.rows("scores")[index]) {
                if *score >= 0.3 {
                    wanted.push((Kind::Object, span, label.clone(), (score * 1e3).round() as i32));
                }
            }
        }
        assert!(!wanted.is_empty());
        let found: Vec<_> =
            said.iter().map(|o| (o.kind, o.span, o.text.clone(), (o.confidence * 1e3).round() as i32)).collect();
        assert_eq!(found, wanted);
        assert!(said.iter().all(|o| o.source == "tiny-clip/objects" && o.embedding.is_none() && o.labels.len() == 1));
        // Over the border of the clips the label goes on.
        let joined = crate::timeline::join(said, 0);
        assert!(joined.iter().any(|o| o.span.end_ns == 3_000 && o.span.start_ns <= 1_000), "{joined:?}");
    }
}

#[test]
fn embeddings_are_written_for_every_frame_and_window() {
    let golden = Golden::of("tiny-siglip");
    let frames = || (0..3).map(|k| picture(24, k)).collect::<Vec<_>>();
    for labels in ["cat,dog,red car,rain", ""] {
        let mut loaded = load("tiny-siglip", &[Kind::Object], wishes(labels, true)).unwrap();
        let said = describe(&mut *loaded.describer, &[clip(frames(), 0, 3_000, None)]);
        let embedded: Vec<&Observation> = said.iter().filter(|o| o.embedding.is_some()).collect();
        assert_eq!(embedded.len(), 3);
        for (said, wanted) in embedded.iter().zip(golden.rows("embeddings")) {
            assert!(difference(said.embedding.as_ref().unwrap(), &wanted) <= 1e-4);
            assert_eq!(Observation::from_json(&said.to_json()).unwrap().embedding, said.embedding);
        }
        assert_eq!(crate::timeline::join(said.clone(), u64::MAX).iter().filter(|o| o.embedding.is_some()).count(), 3);
    }
}

#[test]
fn windows_of_sound_do_not_depend_on_the_length_of_clips() {
    let mut loaded = load("tiny-clap", &[Kind::Sound], wishes("cat,dog,red car,rain", true)).unwrap();
    assert_eq!(loaded.describer.shape().rate, 48_000);
    let samples = [sound(0), sound(1), vec![0.0; 96_000], sound(2)].concat();
    let first = 24_000u64;
    let mut run = |length: usize| {
        let mut clips = Vec::new();
        for (index, part) in samples.chunks(length).enumerate() {
            let from = first + (index * length) as u64;
            let ns = |sample: u64| crate::time::time_of_sample(sample, 48_000);
            let heard = Sound::from_samples(48_000, from, 0, part.to_vec());
            clips.push(Clip {
                discont: index == 0,
                ..clip(Vec::new(), ns(from), ns(from + part.len() as u64), Some(heard))
            });
        }
        loaded.describer.reset();
        describe(&mut *loaded.describer, &clips)
    };
    let whole = run(samples.len());
    let spans: Vec<(u64, u64)> =
        whole.iter().filter(|o| o.embedding.is_some()).map(|o| (o.span.start_ns, o.span.end_ns)).collect();
    let half = 500_000_000;
    let at = |halves: u64| halves * half;
    // Windows of a second on the grid; of silence nothing is said.
    assert_eq!(spans, [(at(1), at(2)), (at(2), at(4)), (at(4), at(6)), (at(8), at(10))]);
    for length in [10_000, 48_000, 70_000] {
        assert_eq!(run(length), whole);
    }
}

#[test]
fn what_is_missing_is_said() {
    let error = |name: &str, kinds: &[Kind], wishes: Wishes| load(name, kinds, wishes).err().unwrap().to_string();
    let text = error("tiny-clip", &[Kind::Object], Wishes::default());
    assert!(text.contains("labels=cat,dog"), "{text}");
    let text = error("tiny-clip", &[Kind::Object], wishes("cat", false));
    assert!(text.contains("two or more"), "{text}");
    let text = error("tiny-clap", &[Kind::Object], wishes("cat,dog", false));
    assert!(text.contains("kinds=sound"), "{text}");
    let long = "x".repeat(500);
    let text = error("tiny-clip", &[Kind::Object], wishes(&format!("cat,{long}"), false));
    assert!(text.contains("400 characters"), "{text}");
}

#[test]
fn an_expert_of_pictures_is_settled_with_its_clip() {
    let folder = Folder::read(&folder("tiny-clip")).unwrap();
    let golden = Golden::of("tiny-clip");
    let mut pictures = Pictures::load(&folder, Family::Clip, asked(&golden), None, &RunSettings::default()).unwrap();
    let mut out = Vec::new();
    pictures.observe(&clip(vec![picture(32, 0)], 0, 5_000, None), &Cancel::default(), &mut out).unwrap();
    assert_eq!(pictures.settled_ns(), 5_000);
    pictures.reset();
    assert_eq!(pictures.settled_ns(), 0);
}
