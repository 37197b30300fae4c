//! The sample video of `make demo` against what is known to be in it.

mod common;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use common::{describe, has_pack};
use describe_models::{Kind, Observation};
use serde_json::Value;

/// The sample and what is in it; fails where `make test` promised them.
fn sample() -> Option<(PathBuf, Value)> {
    let folder = env::var_os("DESCRIBE_SAMPLE")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/sample")), PathBuf::from);
    match fs::read_to_string(folder.join("farm.truth.json")) {
        Ok(truth) => Some((folder.join("farm.mp4"), serde_json::from_str(&truth).unwrap())),
        Err(error) if env::var_os("DESCRIBE_SAMPLE").is_some() => panic!("{}: {error}", folder.display()),
        Err(_) => {
            eprintln!("SKIPPED: the sample video is not there: run 'make sample'");
            None
        }
    }
}

fn words(text: &str) -> Vec<String> {
    let letters: String =
        text.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    letters.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn what_is_in_the_sample_is_said() {
    let Some((film, truth)) = sample().filter(|_| has_pack()) else { return };
    let folder = tempfile::tempdir().unwrap();
    describe(folder.path(), [film.to_str().unwrap(), "--out", "out"]).expect(0, &[]);
    let lines = fs::read_to_string(folder.path().join("out/farm.jsonl")).unwrap();
    let said: Vec<Observation> = lines.lines().map(|line| Observation::from_json(line).unwrap()).collect();
    assert!(said.is_sorted_by(|a, b| a.canonical_cmp(b).is_le()), "canonical order");

    // Scenes: half-open, without gap or overlap, every cut within two frames and none made up.
    let scenes: Vec<_> = said.iter().filter(|o| o.kind == Kind::Scene).map(|o| o.span).collect();
    assert_eq!(scenes[0].start_ns, 0);
    assert!(scenes.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns));
    let found: Vec<i64> = scenes[1..].iter().map(|scene| (scene.start_ns / 40_000_000) as i64).collect();
    let cuts: Vec<i64> = truth["cuts"].as_array().unwrap().iter().map(|cut| cut.as_i64().unwrap()).collect();
    assert_eq!(found.len(), cuts.len(), "{found:?}, not {cuts:?}");
    assert!(found.iter().zip(&cuts).all(|(found, cut)| (found - cut).abs() <= 2), "{found:?}, not {cuts:?}");

    // Recordings: named where they are, by a sound that lies mostly in their shot.
    let (mut recordings, mut named) = (0, 0);
    for shot in truth["shots"].as_array().unwrap().iter().filter(|shot| shot["sound"].is_string()) {
        let accept: BTreeSet<&str> = shot["accept"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let span = describe_models::Span::new(shot["start_ns"].as_u64().unwrap(), shot["end_ns"].as_u64().unwrap());
        let heard: Vec<String> = said
            .iter()
            .filter(|o| o.kind == Kind::Sound && span.contains(o.span.middle_ns()))
            .flat_map(|o| words(&o.text))
            .collect();
        recordings += 1;
        // "barks" names a bark.
        let is_named = accept.iter().any(|wanted| heard.iter().any(|word| word.starts_with(*wanted)));
        named += usize::from(is_named);
        eprintln!("{}: {}", shot["sound"], if is_named { "named" } else { "not named" });
    }
    assert!(named * 5 >= recordings * 4, "{named} of {recordings} recordings are named");

    // Speech: of the words that were spoken, nine in ten are written down, at the time they were spoken.
    let (mut spoken, mut written) = (0, 0);
    for line in truth["speech"].as_array().unwrap() {
        let (start, end) = (line["start_ns"].as_u64().unwrap(), line["end_ns"].as_u64().unwrap());
        let span = describe_models::Span::new(start, end);
        let there: Vec<String> = said
            .iter()
            .filter(|o| o.kind == Kind::Speech && o.span.overlaps(span))
            .flat_map(|o| words(&o.text))
            .collect();
        let wanted = words(line["text"].as_str().unwrap());
        spoken += wanted.len();
        written += wanted.iter().filter(|word| there.contains(word)).count();
    }
    assert!(written * 10 >= spoken * 9, "{written} of {spoken} words");
    eprintln!("{} cuts, {named} of {recordings} recordings, {written} of {spoken} words", cuts.len());

    // Captions: one a shot at least, and the other files are there.
    assert!(said.iter().filter(|o| o.kind == Kind::Caption).count() >= cuts.len());
    for file in ["farm.vtt", "farm.chapters.vtt"] {
        assert!(fs::read_to_string(folder.path().join("out").join(file)).unwrap().starts_with("WEBVTT"));
    }
}
