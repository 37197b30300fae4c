use std::{fs, process::Command};

use proptest::prelude::*;

use super::*;
use crate::experts::testing::{clip, noise, observe, pack_files, tone};

fn windows(first: u64, samples: &[f32], lengths: &[usize]) -> Vec<Window> {
    let mut hearing = Hearing::new(Voice::by_loudness(), SegmentSettings::default(), PlanSettings::default());
    let (mut at, mut found) = (0, Vec::new());
    for length in lengths.iter().cycle() {
        let end = samples.len().min(at + length);
        hearing.hear(clip(first + at as u64, &samples[at..end]).sound.as_ref().unwrap());
        let oldest = hearing.oldest();
        let before = found.len();
        hearing.listen(end == samples.len(), &Cancel::default(), &mut found).unwrap();
        for window in &found[before..] {
            assert!(window.samples.start >= oldest.max(hearing.tape.first()), "{window:?} before {oldest}");
        }
        hearing.forget();
        // What is kept: at most a window, its pause and the clip itself.
        assert!(hearing.tape.end() - hearing.tape.first() < 35 * 16_000 + *length as u64);
        at = end;
        if at == samples.len() {
            break;
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn windows_do_not_depend_on_the_length_of_clips(
        first in 0u64..100_000, parts in proptest::collection::vec((0.05f32..12.0, prop::bool::ANY), 1..12),
        lengths in proptest::collection::vec(1usize..200_000, 1..4)
    ) {
        let samples: Vec<f32> = parts.iter().flat_map(|&(seconds, loud)| noise(seconds, if loud { 0.5 } else { 1e-3 })).collect();
        let whole = windows(first, &samples, &[samples.len()]);
        prop_assert_eq!(&windows(first, &samples, &lengths), &whole);
        let mut said = first;
        for window in whole {
            prop_assert!(window.samples.end <= first + samples.len() as u64);
            prop_assert!(window.samples.end - window.samples.start <= 28 * 16_000);
            for speech in &window.speech {
                prop_assert!(said <= speech.start && speech.start < speech.end);
                prop_assert!(window.samples.start <= speech.start && speech.end <= window.samples.end);
                said = speech.end;
            }
        }
    }
}

#[test]
fn near_sentences_share_a_window_and_far_ones_do_not() {
    let quiet = |seconds| noise(seconds, 1e-3);
    let loud = |seconds| noise(seconds, 0.5);
    let samples = [quiet(2.0), loud(3.0), quiet(1.5), loud(2.0), quiet(2.5), loud(4.0), quiet(1.0)].concat();
    let found = windows(0, &samples, &[16_000]);
    assert_eq!(found.iter().map(|window| window.speech.len()).collect::<Vec<_>>(), [2, 1]);
    // 0.4 s before and after.
    let pad = 6_400..=6_400 + 2 * CHUNK as u64;
    assert!(pad.contains(&(2 * 16_000 - found[0].samples.start)), "{found:?}");
    assert!(pad.contains(&(found[0].samples.end - 17 * 8_000)), "{found:?}");
}

#[test]
fn the_rest_of_a_window_is_heard_again() {
    let window = Window { samples: 0..400_000, speech: vec![10_000..90_000, 200_000..390_000] };
    let rest = window.after(150_000, 16_000).unwrap();
    assert_eq!(rest, Window { samples: 193_600..400_000, speech: vec![200_000..390_000] });
    assert_eq!(window.after(380_000, 16_000), None);
    assert_eq!(window.after(0, 16_000).map(|rest| rest.samples.start), Some(3_600));
}

fn speech() -> Option<Speech> {
    let files = pack_files(&[
        ("encoder", "speech_encoder.onnx"),
        ("decoder", "speech_decoder.onnx"),
        ("tokenizer", "speech_tokenizer.json"),
        ("voice", "voice.onnx"),
    ])?;
    Some(Speech::load(&files, &serde_json::Value::Null, &RunSettings::default()).unwrap())
}

/// A sentence said by a machine at 16 kHz; `None` where no such program is there.
fn say(sentence: &str) -> Option<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("said.wav");
    let flite = Command::new("flite").args(["-voice", "slt", "-t", sentence, "-o"]).arg(&path).output();
    if !flite.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: there is no flite to say a sentence (apt install flite)");
        return None;
    }
    // flite writes a plain header of 44 bytes, then 16 bit samples of one channel.
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[24..28], RATE.to_le_bytes());
    Some(bytes[44..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0).collect())
}

fn text(found: &[Observation]) -> String {
    found.iter().map(|said| said.text.to_lowercase()).collect::<Vec<_>>().join(" ")
}

#[test]
fn noise_and_tones_are_no_speech() {
    let Some(mut speech) = speech() else { return };
    for samples in [noise(6.0, 0.5), tone(6.0, 1000.0, 0.5), vec![0.0; 50_000], tone(0.1, 440.0, 0.5)] {
        assert_eq!(observe(&mut speech, 5_000, &samples, &[16_000]), []);
    }
}

#[test]
fn a_sentence_is_written_down_where_it_is_said() {
    let (Some(mut speech), Some(one), Some(two)) = (
        speech(),
        say("The quick brown fox jumps over the lazy dog near the river bank."),
        say("Please open the door and bring me two cups of coffee."),
    ) else {
        return;
    };
    let samples = [vec![0.0; 40_000], one.clone(), vec![0.0; 64_000], two.clone(), vec![0.0; 30_000]].concat();
    let whole = observe(&mut speech, 160_000, &samples, &[samples.len()]);
    for said in &whole {
        eprintln!("{}", said.to_json());
    }
    for word in ["brown fox", "lazy dog", "river", "door", "coffee"] {
        assert!(text(&whole).contains(word), "{word} in {}", text(&whole));
    }
    assert!(whole.iter().all(|said| said.language.as_deref() == Some("en") && said.kind == Kind::Speech));
    let at = |sample: usize| time_of_sample(160_000 + sample as u64, RATE);
    let (first, last) = (whole.first().unwrap(), whole.last().unwrap());
    assert!(first.span.start_ns.abs_diff(at(40_000)) < 500_000_000, "{first:?}");
    assert!(last.span.end_ns.abs_diff(at(samples.len() - 30_000)) < 700_000_000, "{last:?}");
    assert!(whole.windows(2).all(|two| two[0].span.end_ns <= two[1].span.start_ns));
    // Nothing reaches into the pause.
    let pause = Span::new(at(40_000 + one.len()) + 300_000_000, at(104_000 + one.len()) - 300_000_000);
    assert!(whole.iter().all(|said| !said.span.overlaps(pause)), "{whole:?}");
    let parts = observe(&mut speech, 160_000, &samples, &[10_000, 64_000]);
    assert_eq!(parts, whole);
}

#[test]
fn a_wrong_language_is_refused() {
    let Some(files) = pack_files(&[
        ("encoder", "speech_encoder.onnx"),
        ("decoder", "speech_decoder.onnx"),
        ("tokenizer", "speech_tokenizer.json"),
    ]) else {
        return;
    };
    let error = Speech::load(&files, &serde_json::json!({"language": "xx"}), &RunSettings::default()).err().unwrap();
    assert!(error.to_string().contains("'xx'"), "{error}");
    assert!(Speech::load(&files, &serde_json::json!({"on": "loud"}), &RunSettings::default()).is_err());
}

#[test]
fn a_cancelled_clip_leaves_the_expert_usable() {
    let (Some(mut speech), Some(samples)) = (speech(), say("Good morning, how are you today?")) else { return };
    let samples = [samples, vec![0.0; 48_000]].concat();
    let (cancel, mut out) = (Cancel::new().unwrap(), Vec::new());
    cancel.cancel();
    let stopped = speech.observe(&clip(0, &samples), &cancel, &mut out);
    assert!(matches!(stopped, Err(DescribeError::Cancelled)));
    cancel.resume();
    let found = observe(&mut speech, 0, &samples, &[16_000]);
    assert!(text(&found).contains("morning"), "{found:?}");
}

/// The published Whispers among the fixtures.
fn published() -> Vec<PathBuf> {
    let is_whisper = |path: &PathBuf| crate::generator::testing::json(path, "config.json")["model_type"] == "whisper";
    crate::generator::testing::packs().into_iter().filter(is_whisper).collect()
}

#[test]
fn a_published_whisper_takes_the_place_of_the_packs_own() {
    for path in published() {
        let files: BTreeMap<String, PathBuf> = [("model".to_owned(), path.clone())].into();
        let settings = serde_json::json!({"max_tokens": 40});
        let mut speech = Speech::load(&files, &settings, &RunSettings::default()).unwrap();
        // Without a voice piece all loud sound is speech; random weights say something about it.
        let samples = [noise(2.0, 0.5), vec![0.0; 48_000], noise(3.0, 0.4), vec![0.0; 48_000]].concat();
        let whole = observe(&mut speech, 16_000, &samples, &[samples.len()]);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for said in &whole {
            eprintln!("{}", said.to_json());
            assert_eq!(said.source, format!("{name}/speech"));
            assert!(said.language.is_some() && said.kind == Kind::Speech);
        }
        assert_eq!(observe(&mut speech, 16_000, &samples, &[10_000, 64_000]), whole);
        // What it may say is well formed, whatever the order of its vocabulary.
        let cancel = Cancel::default();
        let heard = speech.whisper.transcribe(&samples[..32_000], None, 60, 0, &cancel).unwrap();
        let rules = speech.whisper.words().rules();
        assert!(heard.tokens.first().is_none_or(|token| token.id >= rules.zero));
        assert!(heard.tokens.iter().all(|token| token.id != rules.end && !rules.never.contains(&token.id)));
        assert!((0.0..=1.0).contains(&heard.language_confidence) && (0.0..=1.0).contains(&heard.no_speech));
        let unknown = Speech::load(&files, &serde_json::json!({"language": "xx"}), &RunSettings::default());
        let error = unknown.err().unwrap().to_string();
        assert!(error.contains("'xx'") && error.contains(&name), "{error}");
    }
}

#[test]
fn a_published_folder_that_does_not_fit_says_what_is_wrong() {
    for path in published() {
        let place = tempfile::tempdir().unwrap();
        let broken = place.path().join("broken");
        let copy = |without: &str| {
            let _ = fs::remove_dir_all(&broken);
            fs::create_dir_all(broken.join("onnx")).unwrap();
            for folder in ["", "onnx"] {
                for file in fs::read_dir(path.join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
                    if file.is_file() && !file.ends_with(without) {
                        fs::copy(&file, broken.join(folder).join(file.file_name().unwrap())).unwrap();
                    }
                }
            }
            let files: BTreeMap<String, PathBuf> = [("model".to_owned(), broken.clone())].into();
            Speech::load(&files, &serde_json::Value::Null, &RunSettings::default()).err().map(|error| error.to_string())
        };
        assert_eq!(copy("nothing"), None);
        for missing in ["encoder_model.onnx", "decoder_model_merged.onnx", "tokenizer.json"] {
            let error = copy(missing).unwrap();
            assert!(error.contains(missing), "{error}");
        }
        // Two files say how it hears; one is enough.
        assert_eq!(copy("processor_config.json"), None);
    }
}
