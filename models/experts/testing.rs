//! What the tests of experts share: golden arrays, the installed pack, sounds that are made up.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde_json::Value;

use super::{Expert, tape::RATE};
use crate::{Cancel, Clip, Observation, Sound, Span, Thumbnails, pack::data_folders, time::time_of_sample};

/// Whether what is missing must fail the test; else it is skipped, loudly.
fn missing(what: &str) {
    assert!(env::var_os("DESCRIBE_REQUIRE_PACK").is_none_or(|value| value != "1"), "{what}, and it is required");
    eprintln!("SKIPPED: {what}");
}

/// A golden array as f32 (integers as they are) with its shape; `None` where there are no goldens.
pub fn golden(name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("lite/goldens");
    let Ok(index) = fs::read(folder.join("index.json")) else {
        missing("there are no golden arrays in models/lite/goldens");
        return None;
    };
    let index: Value = serde_json::from_slice(&index).unwrap();
    let tensor = &index["tensors"][name];
    let shape = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let bytes = fs::read(folder.join(tensor["file"].as_str().unwrap())).unwrap();
    let values = match tensor["dtype"].as_str().unwrap() {
        "f32" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        "i16" => bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]]).into()).collect(),
        other => panic!("{name} is of type {other}"),
    };
    Some((shape, values))
}

/// The test signal of the goldens, -1 to 1 at 16 kHz.
pub fn golden_audio() -> Option<Vec<f32>> {
    golden("audio").map(|(_, samples)| samples.into_iter().map(|x| x / 32_768.0).collect())
}

/// Largest difference of two arrays of the same length.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Files of the installed pack by role; `None` where one is missing.
pub fn pack_files(roles: &[(&str, &str)]) -> Option<BTreeMap<String, PathBuf>> {
    let folder = data_folders().into_iter().map(|folder| folder.join("packs/lite")).find(|folder| folder.is_dir());
    let found: Option<BTreeMap<_, _>> = folder.map(|folder| {
        let file = |(role, name): &(&str, &str)| Some((role.to_string(), folder.join(name))).filter(|f| f.1.is_file());
        roles.iter().filter_map(file).collect()
    });
    let complete = found.filter(|files| files.len() == roles.len());
    if complete.is_none() {
        missing(&format!("the pack lite with {roles:?} is not installed (describe models fetch)"));
    }
    complete
}

/// A clip that is only heard.
pub fn clip(first: u64, samples: &[f32]) -> Clip {
    let end = first + samples.len() as u64;
    Clip {
        span: Span::new(time_of_sample(first, RATE), time_of_sample(end, RATE)),
        discont: false,
        frames: Vec::new(),
        thumbnails: Thumbnails::default(),
        sound: Some(Sound::from_samples(RATE, first, 0, samples.to_vec())),
    }
}

/// Gives `samples` to the expert in clips of these lengths, over and over; checks what every expert promises.
pub fn observe(expert: &mut dyn Expert, first: u64, samples: &[f32], lengths: &[usize]) -> Vec<Observation> {
    let (mut out, mut at, mut settled) = (Vec::new(), 0, 0);
    expert.reset();
    let mut check = |expert: &dyn Expert, out: &[Observation], seen: usize| {
        let end = time_of_sample(first + seen as u64, RATE);
        for said in out {
            assert!(said.span.start_ns < said.span.end_ns && said.span.end_ns <= end, "{said:?} at {end}");
            assert!(said.span.start_ns >= settled.min(time_of_sample(first, RATE)), "{said:?} is late");
            assert!(said.span.start_ns >= time_of_sample(first, RATE), "{said:?}");
            assert!((0.0..=1.0).contains(&said.confidence));
        }
        assert!(settled <= expert.settled_ns() && expert.settled_ns() <= end);
        settled = expert.settled_ns();
    };
    let cancel = Cancel::default();
    for length in lengths.iter().cycle() {
        let end = samples.len().min(at + length);
        let before = out.len();
        expert.observe(&clip(first + at as u64, &samples[at..end]), &cancel, &mut out).unwrap();
        check(expert, &out[before..], end);
        at = end;
        if at == samples.len() {
            break;
        }
    }
    let before = out.len();
    expert.flush(&cancel, &mut out).unwrap();
    check(expert, &out[before..], samples.len());
    out
}

/// `seconds` of white noise with this peak; the same each time.
pub fn noise(seconds: f32, peak: f32) -> Vec<f32> {
    let mut state = 0x9e37_79b9u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state as f32 / u32::MAX as f32 * 2.0 - 1.0) * peak
    };
    (0..(seconds * RATE as f32) as usize).map(|_| next()).collect()
}

/// `seconds` of a sine tone.
pub fn tone(seconds: f32, hz: f32, peak: f32) -> Vec<f32> {
    let step = std::f32::consts::TAU * hz / RATE as f32;
    (0..(seconds * RATE as f32) as usize).map(|i| (i as f32 * step).sin() * peak).collect()
}
