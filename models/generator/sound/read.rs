//! Feature extractor files to rules.

use serde_json::Value;

use super::{Padding, SoundRule, Usm, Way, window};
use crate::{
    generator::fields::Fields,
    mel::{Bank, Scale, Spectrum, Triangles, hann},
};

const SUPPORTED: &str = "Gemma4Audio, Gemma3nAudio, Whisper and Clap";
/// Most samples that Gemma's extractors take: 30 s at 16 kHz (their `max_length`).
const GEMMA_LONGEST: usize = 480_000;
/// Most samples of one call that a file may ask for: three minutes at 48 kHz.
const LONGEST: u64 = 1 << 23;
/// Largest FFT and frame, in samples.
const LARGEST_FRAME: u32 = 16_384;
/// Frames of 10 ms that one soft token of Gemma 4 holds: two convolutions of stride 2, in code and not in files.
const GEMMA4_FRAMES: usize = 4;
/// The same of Gemma 3n where its config says nothing: strides of 2 and 2, then every 4th row.
const GEMMA3N_FRAMES: usize = 16;

/// The rule of one feature extractor.
pub(super) fn rule(extractor: &Value, processor: &Value, audio: &Value) -> Result<SoundRule, String> {
    let fields = Fields::new(extractor, "feature extractor");
    let class = fields.text("feature_extractor_type").ok_or_else(|| {
        format!("the feature extractor has no `feature_extractor_type`: it must name one of {SUPPORTED}")
    })?;
    match class.strip_suffix("FeatureExtractor").unwrap_or(class) {
        "Gemma4Audio" => gemma(&fields, processor, &GEMMA4),
        "Gemma3nAudio" => gemma(&fields, processor, &Defaults { frames: gemma3n_frames(audio)?, ..GEMMA3N }),
        "Whisper" => whisper(&fields),
        "Clap" => clap(&fields),
        _ => {
            let class: String = class.chars().take(60).collect();
            Err(format!("the feature extractor `{class}` is not known here; known are {SUPPORTED}"))
        }
    }
}

/// What Gemma's extractors do where a file says nothing: the class attributes of `transformers`.
struct Defaults {
    way: fn(Usm) -> Way,
    window: fn(usize) -> Vec<f32>,
    frame_ms: f64,
    overdrive: bool,
    low: f64,
    high: f64,
    floor: f64,
    preemphasis: f64,
    tokens: u32,
    frames: usize,
}

const GEMMA4: Defaults = Defaults {
    way: Way::Gemma4,
    window: window::rounded,
    frame_ms: 20.0,
    overdrive: false,
    low: 0.0,
    high: 8000.0,
    floor: 1e-3,
    preemphasis: 0.0,
    tokens: 750,
    frames: GEMMA4_FRAMES,
};

const GEMMA3N: Defaults = Defaults {
    way: Way::Gemma3n,
    window: window::single,
    frame_ms: 32.0,
    overdrive: true,
    low: 125.0,
    high: 7600.0,
    floor: 1e-5,
    preemphasis: 0.97,
    tokens: 188,
    frames: GEMMA3N_FRAMES,
};

/// Frames that one soft token of Gemma 3n holds, from its `audio_config`.
fn gemma3n_frames(audio: &Value) -> Result<usize, String> {
    let fields = Fields::new(audio, "audio_config");
    let reduction = fields.whole("conf_reduction_factor", 4, 1..=64)?;
    let strides = match fields.get("sscp_conv_stride_size").and_then(Value::as_array) {
        // Each is [time, frequency].
        Some(strides) => strides.iter().try_fold(1u64, |product, stride| {
            let stride = stride.get(0).and_then(Value::as_u64).filter(|stride| (1..=64).contains(stride))?;
            product.checked_mul(stride).filter(|&product| product <= 4096)
        }),
        None => Some((GEMMA3N_FRAMES / 4) as u64),
    };
    let strides = strides.ok_or_else(|| fields.wrong("sscp_conv_stride_size", "pairs of strides from 1 to 64"))?;
    Ok(strides as usize * reduction as usize)
}

/// A length in samples: `key`, or `key` with `_ms` in milliseconds.
fn length(fields: &Fields, key: &str, rate: u32, default_ms: f64, least: u32) -> Result<u32, String> {
    let ms = fields.number(&format!("{key}_ms"), default_ms, 0.1..=1000.0)?;
    let samples = (f64::from(rate) * ms / 1000.0).round() as u32;
    fields.whole(key, samples.clamp(least, LARGEST_FRAME / 2), least..=LARGEST_FRAME / 2)
}

fn rate(fields: &Fields, default: u32) -> Result<u32, String> {
    fields.whole("sampling_rate", default, 8_000..=192_000)
}

fn bands(fields: &Fields, default: u32) -> Result<usize, String> {
    Ok(fields.whole("feature_size", default, 1..=512)? as usize)
}

/// Lowest and highest pitch in Hz.
fn range(fields: &Fields, keys: [&str; 2], defaults: [f64; 2], rate: u32) -> Result<(f64, f64), String> {
    let half = f64::from(rate) / 2.0;
    let low = fields.number(keys[0], defaults[0], 0.0..=half)?;
    let high = fields.number(keys[1], defaults[1], 1.0..=half)?;
    if low < high { Ok((low, high)) } else { Err(fields.wrong(keys[1], "more than the lowest frequency")) }
}

fn gemma(fields: &Fields, processor: &Value, defaults: &Defaults) -> Result<SoundRule, String> {
    let rate = rate(fields, 16_000)?;
    let bands = bands(fields, 128)?;
    let frame = length(fields, "frame_length", rate, defaults.frame_ms, 2)?;
    let hop = length(fields, "hop_length", rate, 10.0, 16)?;
    let overdrive = fields.flag("fft_overdrive", defaults.overdrive)?;
    let fft = (frame.next_power_of_two() << u32::from(overdrive)).min(LARGEST_FRAME);
    let fft = fields.whole("fft_length", fft, frame..=LARGEST_FRAME)? as usize;
    let (low, high) = range(fields, ["min_frequency", "max_frequency"], [defaults.low, defaults.high], rate)?;
    let means = fields.numbers("per_bin_mean", bands)?;
    let deviations = fields.numbers("per_bin_stddev", bands)?;
    if deviations.as_ref().is_some_and(|all| all.contains(&0.0)) {
        return Err(fields.wrong("per_bin_stddev", "numbers other than 0"));
    }
    let bins = (means.is_some() || deviations.is_some()).then(|| {
        let (means, deviations) = (means.unwrap_or(vec![0.0; bands]), deviations.unwrap_or(vec![1.0; bands]));
        means.into_iter().zip(deviations).collect()
    });
    let tokens = Fields::new(processor, "processor").whole("audio_seq_length", defaults.tokens, 1..=65_536)? as usize;
    let frame = frame as usize;
    let usm = Usm {
        window: (defaults.window)(frame),
        floor: fields.number("mel_floor", defaults.floor, 1e-30..=1e3)?,
        scale: fields.number("input_scale_factor", 1.0, 1e-9..=1e9)? as f32,
        preemphasis: fields.number("preemphasis", defaults.preemphasis, 0.0..=1.0)?,
        htk: fields.flag("preemphasis_htk_flavor", true)?,
        bins,
        most_tokens: tokens,
    };
    let bank = Bank { rate: rate.into(), fft, bands, low, high, scale: Scale::Htk, triangles: Triangles::Hertz };
    let hop = hop as usize;
    // No clip gives more rows than there are places for them.
    let longest = GEMMA_LONGEST.min(tokens * defaults.frames * hop);
    // The samples come windowed.
    let spectrum = Spectrum::new(vec![1.0; frame], &bank);
    Ok(SoundRule { way: (defaults.way)(usm), rate, bands, frame, hop, longest, spectrum })
}

fn whisper(fields: &Fields) -> Result<SoundRule, String> {
    let rate = rate(fields, 16_000)?;
    let bands = bands(fields, 80)?;
    let fft = fields.whole("n_fft", 400, 2..=LARGEST_FRAME)? as usize;
    let hop = fields.whole("hop_length", 160, 16..=LARGEST_FRAME)? as usize;
    let longest = seconds(fields, "chunk_length", 30, rate, hop)?;
    // The upper edge is fixed in the reference.
    let high = (f64::from(rate) / 2.0).min(8000.0);
    let bank = slaney(rate, fft, bands, (0.0, high));
    let spectrum = Spectrum::new(hann(fft), &bank);
    Ok(SoundRule { way: Way::Whisper, rate, bands, frame: fft, hop, longest, spectrum })
}

fn clap(fields: &Fields) -> Result<SoundRule, String> {
    let rate = rate(fields, 48_000)?;
    let bands = bands(fields, 64)?;
    let fft = fields.whole("fft_window_size", 1024, 2..=LARGEST_FRAME)? as usize;
    let hop = fields.whole("hop_length", 480, 16..=LARGEST_FRAME)? as usize;
    let longest = seconds(fields, "max_length_s", 10, rate, hop)?;
    if fields.text("truncation").unwrap_or("fusion") != "rand_trunc" {
        return Err(fields.wrong("truncation", "`rand_trunc`: fused models take four spectra, which is not supported"));
    }
    let padding = match fields.text("padding").unwrap_or("repeatpad") {
        "repeatpad" => Padding::RepeatPad,
        "repeat" => Padding::Repeat,
        "pad" => Padding::Silence,
        _ => return Err(fields.wrong("padding", "`repeatpad`, `repeat` or `pad`")),
    };
    let range = range(fields, ["frequency_min", "frequency_max"], [0.0, 14_000f64.min(f64::from(rate) / 2.0)], rate)?;
    let spectrum = Spectrum::new(hann(fft), &slaney(rate, fft, bands, range));
    Ok(SoundRule { way: Way::Clap(padding), rate, bands, frame: fft, hop, longest, spectrum })
}

/// Seconds under `key`, in samples.
fn seconds(fields: &Fields, key: &str, default: u32, rate: u32, hop: usize) -> Result<usize, String> {
    let samples = u64::from(fields.whole(key, default, 1..=600)?) * u64::from(rate);
    if samples > LONGEST || samples < hop as u64 {
        return Err(fields.wrong(key, "at most 8388608 samples and no less than one hop"));
    }
    Ok(samples as usize)
}

fn slaney(rate: u32, fft: usize, bands: usize, (low, high): (f64, f64)) -> Bank {
    Bank { rate: rate.into(), fft, bands, low, high, scale: Scale::Slaney, triangles: Triangles::EvenArea }
}
