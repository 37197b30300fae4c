//! Features against the golden arrays of the fixture packs and of the reference, and token counts by properties.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::generator::testing::{self, Golden, packs};

fn read(class: &str) -> SoundRule {
    SoundRule::read(&json!({ "feature_extractor_type": class }), &Value::Null, &Value::Null).unwrap()
}

fn clap() -> SoundRule {
    let extractor = json!({
        "feature_extractor_type": "ClapFeatureExtractor", "frequency_min": 0, "frequency_max": 14_000,
        "truncation": "rand_trunc",
    });
    SoundRule::read(&extractor, &Value::Null, &Value::Null).unwrap()
}

/// The samples of a 16-bit mono WAV.
fn wav(bytes: &[u8]) -> Vec<f32> {
    let data = bytes.windows(4).position(|w| w == b"data").unwrap();
    bytes[data + 8..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0).collect()
}

#[test]
fn features_are_those_of_the_reference() {
    for pack in packs() {
        let processor = testing::json(&pack, "processor_config.json");
        let Some(extractor) = processor.get("feature_extractor") else { continue };
        let audio = &testing::json(&pack, "config.json")["audio_config"];
        let rule = SoundRule::read(extractor, &processor, audio).unwrap();
        let golden = Golden::open(&pack);
        for (name, medium) in golden.index["media"].as_object().unwrap() {
            let Some(file) = medium["wav"].as_str() else { continue };
            let samples = wav(&golden.bytes(file));
            assert_eq!(Some(samples.len() as u64), medium["samples"].as_u64());
            let found = rule.features(&samples);
            let whole = format!("{name}/input_features");
            let (wanted_name, first) = match golden.has(&whole) {
                true => (whole, None),
                false => (format!("{name}/input_features_first_400_frames"), Some(400)),
            };
            let (shape, wanted) = golden.f32(&wanted_name);
            let values = match first {
                Some(first) => found.values.slice(ndarray::s![.., .., ..first]).to_owned().into_dyn(),
                None => found.values,
            };
            assert_eq!(values.shape(), shape, "{} {name}", pack.display());
            let difference = values.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            eprintln!("{} {name}: log-mel differs by {difference:.1e} at most", pack.display());
            assert!(difference <= 1e-4, "{} {name}", pack.display());
            let mask = format!("{name}/input_features_mask");
            if golden.has(&mask) {
                let (shape, wanted) = golden.bool(&mask);
                let mask = found.mask.as_ref().unwrap();
                assert_eq!((mask.shape(), mask.as_slice().unwrap()), (&shape[..], &wanted[..]), "{name}");
            }
            if let Some(tokens) = medium["soft_tokens"].as_u64() {
                assert_eq!(rule.tokens(samples.len()) as u64, tokens, "{} {name}", pack.display());
            }
        }
    }
}

/// x(t) = 0.5 sin(2 pi 440 t) + 0.25 sin(2 pi (200 + 600 t) t), two seconds.
fn signal(rate: u32) -> Vec<f32> {
    let at = |i: u32| {
        let t = f64::from(i) / f64::from(rate);
        let turn = std::f64::consts::TAU;
        (0.5 * (turn * 440.0 * t).sin() + 0.25 * (turn * (200.0 + 600.0 * t) * t).sin()) as f32
    };
    (0..2 * rate).map(at).collect()
}

/// Mean of all values and the first few, as the reference gives them for [`signal`].
#[test]
fn the_signal_of_the_reference_sounds_the_same() {
    let whisper128 = json!({ "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128 });
    let whisper128 = SoundRule::read(&whisper128, &Value::Null, &Value::Null).unwrap();
    type Case = (&'static str, SoundRule, Vec<usize>, f64, &'static [f32]);
    let cases: [Case; 5] = [
        (
            "gemma3n",
            read("Gemma3nAudioFeatureExtractor"),
            vec![1, 197, 128],
            -6.797_497,
            &[-2.44143, -1.91151, -0.72402],
        ),
        ("gemma4", read("Gemma4AudioFeatureExtractor"), vec![1, 199, 128], -4.382_180, &[-6.90776, 1.57277, 0.38734]),
        ("whisper80", read("WhisperFeatureExtractor"), vec![1, 80, 3000], -0.459_617, &[1.15218, 0.60439, 0.10992]),
        ("whisper128", whisper128, vec![1, 128, 3000], -0.414_781, &[]),
        ("clap", clap(), vec![1, 1, 1001, 64], -60.959_907, &[15.32104]),
    ];
    for (name, rule, shape, mean, first) in cases {
        let found = rule.features(&signal(rule.rate())).values;
        assert_eq!(found.shape(), shape, "{name}");
        let found_mean = found.iter().map(|&x| f64::from(x)).sum::<f64>() / found.len() as f64;
        eprintln!("{name}: mean {found_mean:.6}, wanted {mean:.6}; {:?}", found.iter().take(3).collect::<Vec<_>>());
        assert!((found_mean - mean).abs() < 2e-5 * mean.abs().max(1.0), "{name}: mean {found_mean}");
        // Whisper's first values go along the first band, which is how they lie here too.
        for (found, wanted) in found.iter().zip(first) {
            assert!((found - wanted).abs() < 2e-4, "{name}: {found} is not {wanted}");
        }
    }
}

#[test]
fn gemma4_counts_what_the_reference_counts() {
    let rule = read("Gemma4AudioFeatureExtractor");
    let cases =
        [(800, 1), (16_000, 25), (48_000, 75), (160_000, 250), (208_000, 325), (480_000, 750), (100, 0), (0, 0)];
    for (samples, tokens) in cases {
        assert_eq!(rule.tokens(samples), tokens, "{samples}");
    }
    assert_eq!(rule.features(&[0.1; 16_000]).values.shape()[1], 99);
    let short = rule.features(&[0.0; 800]);
    assert_eq!(short.mask.unwrap().as_slice().unwrap(), [true, true, true, true, false]);
    assert!(short.values.iter().take(4 * 128).all(|x| (x + 6.907_755).abs() < 1e-5));
    assert!(short.values.iter().skip(4 * 128).all(|&x| x == 0.0));
    assert_eq!(rule.longest(), 480_000);
    assert_eq!(rule.features(&[]).values.shape(), [1, 0, 128]);
}

#[test]
fn what_is_too_long_is_cut() {
    let rule = read("Gemma4AudioFeatureExtractor");
    let long = vec![0.25; 500_000];
    assert_eq!(rule.features(&long).values, rule.features(&long[..480_000]).values);
    assert_eq!((rule.tokens(500_000), rule.tokens(usize::MAX)), (750, 750));
    assert_eq!(read("Gemma3nAudioFeatureExtractor").longest(), 480_000);
    let few = json!({ "audio_seq_length": 24 });
    let extractor = json!({ "feature_extractor_type": "Gemma3nAudioFeatureExtractor" });
    assert_eq!(SoundRule::read(&extractor, &few, &Value::Null).unwrap().longest(), 24 * 2560);
}

#[test]
fn clap_repeats_what_is_short() {
    let rule = clap();
    let sound = signal(48_000);
    let five: Vec<f32> = sound.iter().copied().cycle().take(480_000).collect();
    assert_eq!(rule.features(&sound).values, rule.features(&five).values);
    assert!(rule.features(&[]).values.iter().all(|&x| x == -100.0));
}

#[test]
fn what_cannot_be_is_said() {
    let fault = |extractor: Value| SoundRule::read(&extractor, &Value::Null, &Value::Null).unwrap_err();
    assert!(fault(json!({})).contains("feature_extractor_type"));
    assert!(
        fault(json!({ "feature_extractor_type": "SpeechT5FeatureExtractor" })).contains("SpeechT5FeatureExtractor")
    );
    for (class, key, value) in [
        ("Gemma4Audio", "hop_length", json!(0)),
        ("Gemma4Audio", "fft_length", json!(1u64 << 40)),
        ("Gemma4Audio", "frame_length", json!(-320)),
        ("Gemma3nAudio", "mel_floor", json!("low")),
        ("Gemma3nAudio", "per_bin_mean", json!([1.0, 2.0])),
        ("Whisper", "feature_size", json!(0)),
        ("Whisper", "chunk_length", json!(1e12)),
        ("Clap", "truncation", json!("fusion")),
        ("Clap", "frequency_max", json!(1e9)),
    ] {
        let class = format!("{class}FeatureExtractor");
        let mut extractor = json!({ "feature_extractor_type": class, "truncation": "rand_trunc" });
        extractor[key] = value;
        let said = fault(extractor);
        assert!(said.contains(key), "{said}");
    }
}

/// Frames one after the other, each asked whether all of it is sound; then every second one, twice.
fn counted(frame: usize, hop: usize, samples: usize) -> usize {
    let (mut frames, left) = (0, frame / 2);
    while frames * hop + frame < left + samples {
        frames += 1;
    }
    (0..frames).step_by(2).step_by(2).count()
}

proptest! {
    #[test]
    fn tokens_are_as_counted_one_by_one(samples in 0usize..90_000, frame in 20u32..1200, hop in 16u32..800, most in 1u32..800) {
        let extractor = json!({
            "feature_extractor_type": "Gemma4AudioFeatureExtractor", "frame_length": frame, "hop_length": hop,
            "fft_length": frame.next_power_of_two(), "feature_size": 3,
        });
        let rule = SoundRule::read(&extractor, &json!({ "audio_seq_length": most }), &Value::Null).unwrap();
        let tokens = rule.tokens(samples);
        let cut = samples.min(rule.longest());
        prop_assert_eq!(tokens, counted(frame as usize, hop as usize, cut).min(most as usize));
        prop_assert!(tokens <= rule.tokens(samples + 1));
        // The encoder gives a row for every fourth frame that counts.
        if samples < 20_000 {
            let mask = rule.features(&vec![0.5; samples]).mask.unwrap();
            let rows = mask.iter().step_by(4).filter(|&&valid| valid).count();
            prop_assert_eq!(rows.min(most as usize), tokens);
        }
    }

    #[test]
    fn strange_numbers_never_panic(key in 0usize..9, value in prop_oneof![
        any::<i64>().prop_map(|n| json!(n)), any::<f64>().prop_map(|n| json!(n)), (0i64..2000).prop_map(|n| json!(n)),
    ], class in 0usize..4) {
        let keys = ["sampling_rate", "feature_size", "hop_length", "frame_length", "fft_length", "n_fft", "chunk_length",
            "fft_window_size", "max_frequency"];
        let class = ["Gemma4Audio", "Gemma3nAudio", "Whisper", "Clap"][class];
        let mut extractor = json!({ "feature_extractor_type": format!("{class}FeatureExtractor"),
            "truncation": "rand_trunc" });
        extractor[keys[key]] = value;
        if let Ok(rule) = SoundRule::read(&extractor, &Value::Null, &Value::Null) {
            let found = rule.features(&[0.5; 1000]);
            prop_assert!(found.values.iter().all(|x| x.is_finite()));
        }
    }
}
