//! The eyes with their real models: golden arrays, and pictures that are made up.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde_json::Value;

use super::{Expert, people::People, shots::Shots, tags::Tags, text::Text};
use crate::{
    Cancel, Clip, Frame, Kind, LoadError, Observation, Span, Thumbnails,
    clip::{THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH},
    pack::data_folders,
    runtime::RunSettings,
};

/// Whether what is missing must fail the test; else it is skipped, loudly.
fn missing<T>(what: &str) -> Option<T> {
    assert!(env::var_os("DESCRIBE_REQUIRE_PACK").is_none_or(|value| value != "1"), "{what}, and it is required");
    eprintln!("SKIPPED: {what}");
    None
}

/// Bytes of a golden array; `None` where there are no goldens.
pub(super) fn golden(name: &str) -> Option<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("lite/goldens");
    let Ok(index) = fs::read(folder.join("index.json")) else {
        return missing("there are no golden arrays in models/lite/goldens");
    };
    let index: Value = serde_json::from_slice(&index).unwrap();
    Some(fs::read(folder.join(index["tensors"][name]["file"].as_str().unwrap())).unwrap())
}

pub(super) fn golden_f32(name: &str) -> Option<Vec<f32>> {
    golden(name).map(|bytes| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Files of the installed pack by role; `None` where one is missing.
pub(super) fn pack(roles: &[(&str, &str)]) -> Option<BTreeMap<String, PathBuf>> {
    let folders = data_folders().into_iter().map(|folder| folder.join("packs/lite"));
    let in_folder = |folder: PathBuf| -> Option<BTreeMap<_, _>> {
        let file = |(role, name): &(&str, &str)| (role.to_string(), folder.join(name));
        Some(roles.iter().map(file).collect())
            .filter(|files: &BTreeMap<_, PathBuf>| files.values().all(|f| f.is_file()))
    };
    folders.filter_map(in_folder).next().or_else(|| missing(&format!("the pack lite with {roles:?} is not installed")))
}

/// Largest difference of two arrays of the same length.
pub(super) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub(super) fn golden_frame() -> Option<Frame> {
    Some(Frame { at_ns: 0, width: 224, height: 224, rgb: golden("image")?.into() })
}

fn clip(frames: Vec<Frame>) -> Clip {
    Clip { span: Span::new(0, 1_000), discont: true, frames, thumbnails: Thumbnails::default(), sound: None }
}

const STEP_NS: u64 = 40_000_000;

/// Thumbnail `index` of a film whose shots are `length` frames: soft blobs that drift, each shot its own.
fn film(index: usize, length: usize) -> Vec<u8> {
    let (shot, t) = (index / length, (index % length) as f32);
    let pixel = |x: usize, y: usize, colour: usize| {
        let (kx, ky) =
            (0.11 + 0.05 * ((shot * 7 + colour) % 5) as f32, 0.13 + 0.06 * ((shot * 3 + colour * 2) % 4) as f32);
        let wave = (x as f32 * kx + t * 0.02 + shot as f32).sin() * (y as f32 * ky - t * 0.015 + colour as f32).cos();
        (128.0 + 70.0 * wave + 30.0 * ((shot * 5 + colour * 3) % 7) as f32 - 90.0).clamp(0.0, 255.0) as u8
    };
    let places = (0..THUMBNAIL_HEIGHT).flat_map(|y| (0..THUMBNAIL_WIDTH).map(move |x| (x, y)));
    places.flat_map(|(x, y)| [pixel(x, y, 0), pixel(x, y, 1), pixel(x, y, 2)]).collect()
}

/// Scenes of `count` frames at 25 frames a second, in clips of `per_clip` frames.
fn scenes(shots: &mut Shots, count: usize, per_clip: usize, picture: impl Fn(usize) -> Vec<u8>) -> Vec<Observation> {
    let (mut out, cancel) = (Vec::new(), Cancel::default());
    shots.reset();
    for start in (0..count).step_by(per_clip) {
        let indices = start..(start + per_clip).min(count);
        let span = Span::new(indices.start as u64 * STEP_NS, indices.end as u64 * STEP_NS);
        let at_ns = indices.clone().map(|i| i as u64 * STEP_NS).collect();
        let rgb: Vec<u8> = indices.flat_map(&picture).collect();
        let clip = Clip { span, thumbnails: Thumbnails { at_ns, rgb: rgb.into() }, ..clip(Vec::new()) };
        let before = shots.settled_ns();
        shots.observe(&clip, &cancel, &mut out).unwrap();
        assert!(before <= shots.settled_ns() && shots.settled_ns() <= span.end_ns);
    }
    shots.flush(&cancel, &mut out).unwrap();
    assert_eq!(shots.settled_ns(), count as u64 * STEP_NS);
    out
}

fn load_shots() -> Option<Shots> {
    Some(Shots::load(&pack(&[("model", "shots.onnx")])?, &Value::Null, &RunSettings::default()).unwrap())
}

#[test]
fn shots_start_at_the_frame_of_the_cut() {
    let Some(mut shots) = load_shots() else { return };
    let found = scenes(&mut shots, 400, 75, |i| film(i, 80));
    let starts: Vec<u64> = found.iter().map(|scene| scene.span.start_ns / STEP_NS).collect();
    assert_eq!(starts, [0, 80, 160, 240, 320], "{found:?}");
    assert_eq!(found[0].confidence, 1.0);
    assert!(found.iter().all(|scene| scene.kind == Kind::Scene && scene.source == "lite/shots"));
    assert_eq!(found[4].span.end_ns, 400 * STEP_NS);
    for per_clip in [13, 200, 400] {
        assert_eq!(scenes(&mut shots, 400, per_clip, |i| film(i, 80)), found, "clips of {per_clip} frames");
    }
}

#[test]
fn shots_agree_with_the_original() {
    let (Some(mut shots), Some(frames), Some(wanted)) =
        (load_shots(), golden("shots.frames"), golden_f32("shots.single"))
    else {
        return;
    };
    let found = shots.probabilities(&frames, &Cancel::default()).unwrap();
    // The model is quantised to 8 bits: decisions must be the same, probabilities near.
    assert!(found.iter().zip(&wanted).all(|(a, b)| (*a > 0.4) == (*b > 0.4)), "{}", difference(&found, &wanted));
    assert!(difference(&found, &wanted) < 0.15, "{}", difference(&found, &wanted));
}

#[test]
fn a_model_of_another_piece_is_refused() {
    let Some(mut files) = pack(&[("model", "tags.onnx"), ("labels", "images.json"), ("other", "shots.onnx")]) else {
        return;
    };
    let run = RunSettings::default();
    let error = Shots::load(&files, &Value::Null, &run).err().unwrap();
    assert!(matches!(error, LoadError::Signature { .. }), "{error}");
    assert!(error.to_string().contains("tags.onnx does not fit the shots piece"), "{error}");
    files.insert("model".into(), files["other"].clone());
    assert!(matches!(Tags::load(&files, &Value::Null, &run), Err(LoadError::Signature { .. })));
}

fn load_tags() -> Option<Tags> {
    let files = pack(&[("model", "tags.onnx"), ("labels", "images.json")])?;
    Some(Tags::load(&files, &Value::Null, &RunSettings::default()).unwrap())
}

#[test]
fn tags_agree_with_the_original() {
    let (Some(mut tags), Some(frame), Some(wanted)) = (load_tags(), golden_frame(), golden_f32("tags.probs")) else {
        return;
    };
    let mut out = Vec::new();
    tags.observe(&clip(vec![frame]), &Cancel::default(), &mut out).unwrap();
    let mut order: Vec<usize> = (0..1000).collect();
    order.sort_by(|a, b| wanted[*b].total_cmp(&wanted[*a]));
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].kind, out[0].span, out[0].labels.len()), (Kind::Object, Span::new(0, 1_000), 8));
    for (label, index) in out[0].labels.iter().zip(order) {
        assert_eq!(label.name, tags.labels().classes()[index].name);
        assert!((label.confidence - wanted[index]).abs() < 1e-3, "{label:?} is not {}", wanted[index]);
    }
}

#[test]
fn nobody_is_seen_where_nobody_is() {
    let Some(files) = pack(&[("face", "people_face.onnx"), ("pose", "people_pose.onnx")]) else { return };
    let mut people = People::load(&files, &Value::Null, &RunSettings::default()).unwrap();
    let plain = Frame { at_ns: 0, width: 64, height: 36, rgb: vec![90; 64 * 36 * 3].into() };
    let mut out = Vec::new();
    people.observe(&clip(vec![plain]), &Cancel::default(), &mut out).unwrap();
    assert_eq!((out, people.settled_ns()), (vec![], 1_000));
}

#[test]
fn text_is_read_with_its_place_and_for_as_long_as_it_stays() {
    let files =
        pack(&[("detect", "text_detect.onnx"), ("recognize", "text_recognize.onnx"), ("keys", "text_keys.txt")]);
    let (Some(files), Some(line)) = (files, golden("text.line")) else { return };
    let mut text = Text::load(&files, &Value::Null, &RunSettings::default()).unwrap();
    // The golden line, 216 x 48, on a plain picture of 448 x 256.
    let mut rgb = vec![line[0]; 448 * 256 * 3];
    for (row, pixels) in line.chunks_exact(216 * 3).enumerate() {
        let start = ((100 + row) * 448 + 120) * 3;
        rgb[start..start + pixels.len()].copy_from_slice(pixels);
    }
    let frame = |at_ns, rgb: Vec<u8>| Frame { at_ns, width: 448, height: 256, rgb: rgb.into() };
    let (mut out, cancel) = (Vec::new(), Cancel::default());
    text.observe(&clip(vec![frame(0, rgb.clone()), frame(500, rgb)]), &cancel, &mut out).unwrap();
    assert_eq!((out.len(), text.settled_ns()), (0, 0));
    let plain = frame(1_200, vec![line[0]; 448 * 256 * 3]);
    text.observe(&Clip { span: Span::new(1_000, 2_000), ..clip(vec![plain]) }, &cancel, &mut out).unwrap();
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!((out[0].text.as_str(), out[0].kind, out[0].span), ("HELLO 42", Kind::Text, Span::new(0, 1_200)));
    let [left, top, right, bottom] = out[0].bounds.unwrap();
    assert!(left > 0.2 && right < 0.8 && top > 0.3 && bottom < 0.7 && right - left > 0.3, "{out:?}");
    assert_eq!(text.settled_ns(), 2_000);
}
