//! `describe clips`: what the models see and hear, as pictures, sounds and a list.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use describe_models::{Clip, Frame, Sound, wire};
use gst::prelude::*;

use crate::{
    describe::{cause, seconds},
    exit::{Exit, Failure},
    input::Input,
    player::Player,
    plugin,
    progress::Progress,
    show::print,
    writer::{make_folder, write_whole},
};

/// What clips to make.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Video or sound file, or URI
    #[arg(value_name = "FILE|URI")]
    pub input: OsString,
    /// Folder for clips.jsonl, the pictures and the sounds
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Scale frames down to fit a square of this side in pixels
    #[arg(long, value_name = "PIXELS", default_value = "448", value_parser = clap::value_parser!(i32).range(16..=8192))]
    pub size: i32,
    /// Most frames of a clip
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub frames: u32,
    /// Length of a clip in seconds
    #[arg(long, value_name = "S", default_value = "4", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds from the start of a clip to the start of the next; without it the length
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub interval: Option<Duration>,
    /// Samples of sound a second
    #[arg(long, value_name = "HZ", default_value = "16000", value_parser = clap::value_parser!(i32).range(8_000..=192_000))]
    pub rate: i32,
    /// Print nothing but errors and the name of the list
    #[arg(long, short)]
    pub quiet: bool,
}

/// Writes the clips.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Exit, Failure> {
    let input = Input::new(&options.input)?;
    input.check()?;
    plugin::start()?;
    let sampler = plugin::element("clipsampler")?;
    sampler.set_property("clip-duration", options.duration.as_nanos() as u64);
    sampler.set_property("clip-interval", options.interval.map_or(0, |interval| interval.as_nanos() as u64));
    sampler.set_property("frames", options.frames);
    let wish = plugin::element("capsfilter")?;
    let side = gst::IntRange::new(1, options.size);
    let caps = gst::Caps::builder("application/x-clip");
    let caps = caps.field("width", side).field("height", side).field("rate", options.rate).build();
    wish.set_property("caps", caps);
    make_folder(&options.out)?;

    let list = Arc::new(Mutex::new(String::new()));
    let take = {
        let (list, folder) = (list.clone(), options.out.clone());
        let mut number = 0;
        move |sample: &gst::Sample| {
            number += 1;
            let line = write_clip(&read(sample)?, number, &folder)?;
            let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
            list.push_str(&(line.to_string() + "\n"));
            Ok(())
        }
    };
    let player = Player::new(&input, sampler, &wish, Box::new(take))?;
    let mut progress = Progress::new(&input.name, options.quiet);
    let outcome = player.run(stop, &mut |position| progress.at(position));
    player.close(&wish);
    let _ = wish.set_state(gst::State::Null);
    outcome.notes.iter().for_each(|note| progress.say(&format!("{}: {note}", input.name)));
    progress.end();
    let list = std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner));
    if !list.is_empty() {
        let path = options.out.join("clips.jsonl");
        write_whole(&path, |file| file.write_all(list.as_bytes()))?;
        print(path.display());
    }
    match cause(&input, &outcome) {
        None => Ok(Exit::Done),
        Some(failure) => Err(failure),
    }
}

fn read(sample: &gst::Sample) -> Result<Clip, Failure> {
    let refuse = |why: String| {
        Failure::new(Exit::Missing, format!("clipsampler sent something that is {why}; build command and plugin anew"))
    };
    let buffer = sample.buffer().ok_or_else(|| refuse("empty".into()))?;
    let parts: Result<Vec<_>, _> = (0..buffer.n_memory())
        .map(|index| buffer.peek_memory(index).map_readable().map(|map| Bytes::copy_from_slice(&map)))
        .collect();
    wire::read(parts.map_err(|error| refuse(error.to_string()))?).map_err(|error| refuse(error.to_string()))
}

/// Writes the pictures and the sound of a clip; gives its line for the list.
fn write_clip(clip: &Clip, number: usize, folder: &Path) -> Result<serde_json::Value, Failure> {
    let mut frames = Vec::new();
    for (index, frame) in clip.frames.iter().enumerate() {
        let name = format!("clip-{number:04}-frame-{:02}.png", index + 1);
        write_whole(&folder.join(&name), |file| write_png(file, frame))?;
        frames.push(serde_json::json!({"file": name, "at_ns": frame.at_ns}));
    }
    let mut line = serde_json::json!({"start_ns": clip.span.start_ns, "end_ns": clip.span.end_ns, "frames": frames});
    if let Some(sound) = &clip.sound {
        let name = format!("clip-{number:04}.wav");
        write_whole(&folder.join(&name), |file| write_wav(file, sound))?;
        line["sound"] = serde_json::json!({
            "file": name,
            "start_ns": sound.start_ns(),
            "rate": sound.rate,
            "samples": sound.samples().len(),
            "filled": sound.filled,
        });
    }
    Ok(line)
}

fn write_png(file: &mut std::fs::File, frame: &Frame) -> io::Result<()> {
    let mut encoder = png::Encoder::new(io::BufWriter::new(file), frame.width, frame.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().map_err(png_error)?;
    writer.write_image_data(&frame.rgb).map_err(png_error)?;
    writer.finish().map_err(png_error)
}

fn png_error(error: png::EncodingError) -> io::Error {
    match error {
        png::EncodingError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

/// Samples as 32-bit floats, so that nothing is lost.
fn write_wav(file: &mut std::fs::File, sound: &Sound) -> io::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: sound.rate,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::new(io::BufWriter::new(file), spec).map_err(wav_error)?;
    for sample in sound.samples() {
        writer.write_sample(*sample).map_err(wav_error)?;
    }
    writer.finalize().map_err(wav_error)
}

fn wav_error(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        error => io::Error::other(error),
    }
}
