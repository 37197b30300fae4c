//! What the models see and hear is where it was in the film: the exact frame, and sound to the sample.
//!
//! Films of flashes and clicks at known times go through `describe clips`, and its pictures and sounds are compared
//! with the truth.

mod common;
#[path = "common/flash.rs"]
mod flash;

use std::{collections::BTreeMap, fs, io::BufReader, path::Path};

use common::describe;
use flash::{CLICK, Film, RATE};

const MILLISECOND: u64 = 1_000_000;

/// What `describe clips` wrote.
struct Seen {
    /// Brightness of each frame by its time in nanoseconds.
    frames: BTreeMap<u64, u8>,
    /// Spans of the clips in nanoseconds.
    spans: Vec<(u64, u64)>,
    /// All sound in a row, and the time of its first sample.
    sound: Vec<f32>,
    start_ns: u64,
    filled: u64,
}

fn brightness(path: &Path) -> u8 {
    let mut reader = png::Decoder::new(BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let (low, high) = (*pixels.iter().min().unwrap(), *pixels.iter().max().unwrap());
    assert!(high - low <= 4, "{}: a flat picture came out as {low} to {high}", path.display());
    low + (high - low) / 2
}

fn look(folder: &Path, file: &str, options: &[&str]) -> Seen {
    let out = folder.join("clips");
    let _ = fs::remove_dir_all(&out);
    describe(folder, ["clips", file, "--out", "clips", "--size", "64"].iter().chain(options)).expect(0, &[]);
    let mut seen = Seen { frames: BTreeMap::new(), spans: Vec::new(), sound: Vec::new(), start_ns: 0, filled: 0 };
    for line in fs::read_to_string(out.join("clips.jsonl")).unwrap().lines() {
        let clip: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        seen.spans.push((number(&clip["start_ns"]), number(&clip["end_ns"])));
        for frame in clip["frames"].as_array().unwrap() {
            let path = out.join(frame["file"].as_str().unwrap());
            assert!(seen.frames.insert(number(&frame["at_ns"]), brightness(&path)).is_none(), "twice: {frame}");
        }
        let sound = &clip["sound"];
        let (rate, samples) = (number(&sound["rate"]), number(&sound["samples"]));
        if seen.sound.is_empty() {
            seen.start_ns = number(&sound["start_ns"]);
        }
        let expected = seen.start_ns as f64 + seen.sound.len() as f64 * 1e9 / rate as f64;
        assert!((number(&sound["start_ns"]) as f64 - expected).abs() <= 1.0, "clips follow each other to the sample");
        let mut wav = hound::WavReader::open(out.join(sound["file"].as_str().unwrap())).unwrap();
        assert_eq!((u64::from(wav.spec().sample_rate), u64::from(wav.len())), (rate, samples));
        seen.sound.extend(wav.samples::<f32>().map(Result::unwrap));
        seen.filled += number(&sound["filled"]);
    }
    seen
}

/// Every frame that was chosen is the one of its time.
#[track_caller]
fn check_frames(film: &Film, seen: &Seen) {
    for (at_ns, found) in &seen.frames {
        let index = film.frames_ms.iter().position(|ms| ms * MILLISECOND == *at_ns);
        let index = index.unwrap_or_else(|| panic!("no frame is at {at_ns} ns"));
        let truth = film.brightness(index);
        assert!(truth.abs_diff(*found) <= 3, "frame {index} at {at_ns} ns has brightness {found}, not {truth}");
    }
}

/// Every frame of the film was chosen, so every flash is seen at its time and nowhere else.
#[track_caller]
fn check_all_frames(film: &Film, seen: &Seen) {
    check_frames(film, seen);
    assert_eq!(seen.frames.len(), film.frames_ms.len() - 1);
    let white: Vec<_> = seen.frames.iter().filter(|(_, found)| **found > 250).map(|(at_ns, _)| *at_ns).collect();
    let flashes: Vec<_> = film.flashes.iter().map(|index| film.frames_ms[*index] * MILLISECOND).collect();
    assert_eq!(white, flashes);
}

/// Every click is heard where it was, to one sample at the output rate, and there is no other sound.
#[track_caller]
fn check_clicks(film: &Film, seen: &Seen, rate: u64) {
    let mut groups: Vec<(f64, f64, usize)> = Vec::new();
    for (index, sample) in seen.sound.iter().enumerate().filter(|(_, sample)| sample.abs() > 0.02) {
        let energy = f64::from(sample * sample);
        match groups.last_mut() {
            Some((sum, moment, last)) if index - *last < rate as usize / 100 => {
                (*sum, *moment, *last) = (*sum + energy, *moment + energy * index as f64, index);
            }
            _ => groups.push((energy, energy * index as f64, index)),
        }
    }
    assert_eq!(groups.len(), film.clicks.len(), "clicks heard and made");
    let first = seen.start_ns as f64 * rate as f64 / 1e9;
    for ((energy, moment, _), click) in groups.into_iter().zip(&film.clicks) {
        let found = first + moment / energy;
        // The middle between the first and the last sample of the click, at the output rate.
        let truth = (*click as f64 + (CLICK - 1) as f64 / 2.0) * rate as f64 / RATE as f64;
        assert!(
            (found - truth).abs() <= 1.0,
            "the click at sample {click} is heard {} samples late at {rate} Hz",
            found - truth
        );
    }
}

fn even_frames() -> Film {
    Film {
        frames_ms: (0..=250).map(|index| index * 40).collect(),
        // The first, one each side of a border between clips, the last.
        flashes: vec![0, 25, 99, 100, 163, 249],
        clicks: vec![0, 48_001, 191_990, 240_007, 384_000, 479_900],
        sound_ms: vec![(0, 10_000)],
        frame_rate: 0,
    }
}

#[test]
fn even_frames_and_whole_sound() {
    let folder = tempfile::tempdir().unwrap();
    let film = even_frames();
    film.write(&folder.path().join("film.mkv"), "avenc_ffv1", "identity", "matroskamux");
    let seen = look(folder.path(), "film.mkv", &["--frames", "256", "--rate", "48000"]);
    check_all_frames(&film, &seen);
    check_clicks(&film, &seen, 48_000);
    assert_eq!(
        seen.spans,
        [(0, 4_000), (4_000, 8_000), (8_000, 10_000)].map(|(a, b)| (a * MILLISECOND, b * MILLISECOND))
    );
    assert_eq!((seen.start_ns, seen.sound.len(), seen.filled), (0, 480_000, 0));
    // Without resampling no sample is changed.
    let onset = seen.sound.iter().skip(48_000).position(|sample| *sample != 0.0);
    assert_eq!(onset, Some(1));
}

#[test]
fn what_the_default_pack_gets() {
    let folder = tempfile::tempdir().unwrap();
    let film = even_frames();
    film.write(&folder.path().join("film.mkv"), "avenc_ffv1", "flacenc", "matroskamux");
    let seen = look(folder.path(), "film.mkv", &[]);
    check_frames(&film, &seen);
    check_clicks(&film, &seen, 16_000);
    assert_eq!((seen.sound.len(), seen.filled), (160_000, 0));
    let whole_clip: Vec<_> = seen.frames.keys().copied().filter(|at_ns| *at_ns < 4_000 * MILLISECOND).collect();
    assert_eq!(whole_clip.len(), 8);
    for (index, at_ns) in whole_clip.into_iter().enumerate() {
        let instant_ns = (2 * index as u64 + 1) * 250 * MILLISECOND;
        assert!(at_ns.abs_diff(instant_ns) <= 20 * MILLISECOND, "{at_ns} is not the nearest to {instant_ns}");
    }
}

#[test]
fn uneven_frames() {
    let folder = tempfile::tempdir().unwrap();
    let mut film = even_frames();
    // Steps of 7 to 119 ms, then a picture that stands still for two seconds.
    film.frames_ms = (0..120u64)
        .scan(0, |at, index| {
            let now = *at;
            *at += 7 + index * index * 31 % 113;
            Some(now)
        })
        .collect();
    let last = film.frames_ms.last().unwrap() + 2_000;
    film.frames_ms.extend([last, last + 40]);
    film.flashes = vec![3, 40, 77, 119, 120];
    film.write(&folder.path().join("film.mkv"), "avenc_ffv1", "flacenc", "matroskamux");
    let seen = look(folder.path(), "film.mkv", &["--frames", "256"]);
    check_all_frames(&film, &seen);
    check_clicks(&film, &seen, 16_000);
    check_frames(&film, &look(folder.path(), "film.mkv", &["--frames", "5", "--duration", "1.5"]));
}

#[test]
fn frames_that_were_dropped_and_sound_with_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let mut film = even_frames();
    film.frames_ms.retain(|ms| !(3_000..3_900).contains(ms) && ms % 280 != 40);
    film.flashes = vec![2, 30, 64, 65, 100];
    // Two holes, the second over a border between clips; a click right after each.
    film.sound_ms = vec![(0, 2_000), (3_500, 7_000), (8_260, 10_000)];
    film.clicks = vec![48_001, 168_000, 240_007, 335_900, 396_480, 470_001];
    film.write(&folder.path().join("film.mkv"), "avenc_ffv1", "identity", "matroskamux");
    for rate in [48_000u64, 16_000] {
        let seen = look(folder.path(), "film.mkv", &["--frames", "256", "--rate", &rate.to_string()]);
        check_all_frames(&film, &seen);
        check_clicks(&film, &seen, rate);
        assert_eq!(seen.sound.len() as u64, 10 * rate);
        let hole = (1_500 + 1_260) * rate / 1_000;
        assert!(
            seen.filled.abs_diff(hole) <= 2,
            "{} samples of silence were put in at {rate} Hz, not {hole}",
            seen.filled
        );
    }
}

#[test]
fn sound_that_comes_late_and_ends_early() {
    let folder = tempfile::tempdir().unwrap();
    let mut film = even_frames();
    film.sound_ms = vec![(1_240, 7_000)];
    film.clicks = vec![59_520, 240_007, 335_900];
    film.write(&folder.path().join("film.mkv"), "avenc_ffv1", "flacenc", "matroskamux");
    let seen = look(folder.path(), "film.mkv", &["--frames", "256"]);
    check_all_frames(&film, &seen);
    check_clicks(&film, &seen, 16_000);
}

#[test]
fn frames_out_of_order_in_an_mp4() {
    let folder = tempfile::tempdir().unwrap();
    let film = Film { frame_rate: 25, ..even_frames() };
    let video = "x264enc bframes=3 b-adapt=false quantizer=1 pass=quant key-int-max=50 ! video/x-h264,profile=high";
    film.write(&folder.path().join("film.mp4"), video, "avenc_alac", "mp4mux");
    let seen = look(folder.path(), "film.mp4", &["--frames", "256"]);
    check_all_frames(&film, &seen);
    check_clicks(&film, &seen, 16_000);
}

#[test]
fn clips_that_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let film = even_frames();
    film.write(&folder.path().join("film.mkv"), "avenc_ffv1", "flacenc", "matroskamux");
    let options = ["clips", "film.mkv", "--out", "clips", "--interval", "2", "--frames", "4"];
    describe(folder.path(), options).expect(0, &[]);
    let list = fs::read_to_string(folder.path().join("clips/clips.jsonl")).unwrap();
    let starts: Vec<_> = list
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["start_ns"].as_u64().unwrap() / MILLISECOND
        })
        .collect();
    assert_eq!(starts[..4], [0, 2_000, 4_000, 6_000]);
}
