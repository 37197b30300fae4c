//! Inputs, models and folders that are broken: each is said, has its exit code, and keeps what was made before.

mod common;

use std::{fs, path::Path, process::Command};

use common::{Done, describe, film, has_pack, launch, names, noise, observations, pictures};
use describe_models::{Kind, pack};

/// Describes `file` quickly: scenes and sounds only.
fn quick(folder: &Path, file: &str) -> Done {
    describe(folder, [file, "--out", "out", "--kinds", "scene,sound"])
}

/// The end of the last scene, in nanoseconds, after checking that the scenes have no gap.
fn scenes_end(folder: &Path, stem: &str) -> u64 {
    let mut end_ns = None;
    for scene in observations(&folder.join(format!("out/{stem}.jsonl"))).iter().filter(|said| said.kind == Kind::Scene)
    {
        assert!(end_ns.is_none_or(|end_ns| end_ns == scene.span.start_ns) && !scene.span.is_empty(), "{scene:?}");
        end_ns = Some(scene.span.end_ns);
    }
    end_ns.expect("there is a scene")
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn what_is_no_media_file_is_refused_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("zero.mp4"), "").unwrap();
    fs::create_dir(folder.path().join("films")).unwrap();
    for (file, words) in [("not-there.mp4", "no such file"), ("films", "a folder"), ("zero.mp4", "empty (0 bytes)")] {
        let done = quick(folder.path(), file).expect(65, &[file, words]);
        assert_eq!((done.err.lines().count(), done.out.as_str()), (1, ""), "{done:#?}");
    }
    assert_eq!(names(folder.path()), ["films", "zero.mp4"], "nothing is made");
}

#[test]
fn a_text_that_is_called_a_film_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text.mp4"), "This is a letter, not a film.\n".repeat(50)).unwrap();
    fs::write(folder.path().join("noise.mp4"), (0..50_000u32).map(|i| ((i * i) >> 7) as u8).collect::<Vec<_>>())
        .unwrap();
    for file in ["text.mp4", "noise.mp4"] {
        describe(folder.path(), ["clips", file, "--out", "out"])
            .expect(65, &[file, "no video or sound", "give a media file"]);
        if has_pack() {
            quick(folder.path(), file).expect(65, &[file, "no video or sound"]);
        }
    }
    assert_eq!(names(&folder.path().join("out")), [""; 0]);
}

#[test]
fn of_a_file_that_is_cut_off_the_rest_is_described() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, muxer) in [("late", "mp4mux"), ("fast", "mp4mux faststart=true"), ("matroska", "matroskamux")] {
        film(folder.path(), name, muxer);
        let whole = fs::read(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name), &whole[..whole.len() / 2]).unwrap();
        let done = quick(folder.path(), name).expect(65, &[name, "cut off", "copy or download it again"]);
        if name == "late" {
            assert_eq!(done.out, "", "an index at the end is gone");
            continue;
        }
        assert!(done.err.contains("what was described before that is written"), "{done:#?}");
        let end_ns = scenes_end(folder.path(), name);
        assert!((2 * SECOND..9 * SECOND).contains(&end_ns), "{name}: {end_ns}");
    }
}

#[test]
fn of_a_file_that_is_damaged_in_the_middle_the_start_is_described() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "film.mkv", "matroskamux");
    film(folder.path(), "film.mp4", "mp4mux");
    // A hole that a demuxer cannot pass, and packets that a decoder cannot read.
    for (name, step) in [("film.mkv", 1), ("film.mp4", 7)] {
        let mut bytes = fs::read(folder.path().join(name)).unwrap();
        let (from, to) = (bytes.len() * 4 / 10, bytes.len() * 6 / 10);
        for i in (from..to).step_by(step) {
            bytes[i] = ((i * 2_654_435_761) >> 13) as u8;
        }
        fs::write(folder.path().join(name), bytes).unwrap();
        let done = quick(folder.path(), name);
        assert!(done.code == 0 || done.code == 65 && done.err.contains("damaged"), "{done:#?}");
        assert!(scenes_end(folder.path(), "film") >= 3 * SECOND);
        // A demuxer may find its way again behind the hole: which it is depends on the noise in the film.
        assert!(done.code == 0 || name == "film.mkv", "{done:#?}");
    }
}

#[test]
fn one_stream_is_enough() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    launch(folder.path(), &format!("{} ! mp4mux ! filesink location=silent.mp4", pictures(5)));
    launch(folder.path(), &format!("{} ! mp4mux ! filesink location=dark.m4a", noise(5)));
    quick(folder.path(), "silent.mp4").expect(0, &[]);
    assert_eq!(scenes_end(folder.path(), "silent"), 5 * SECOND);
    quick(folder.path(), "dark.m4a").expect(0, &[]);
    assert!(observations(&folder.path().join("out/dark.jsonl")).iter().all(|said| said.kind == Kind::Sound));
}

#[test]
fn very_short_media_are_media() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    launch(
        folder.path(),
        "videotestsrc num-buffers=1 ! video/x-raw,framerate=25/1 ! x264enc ! mp4mux ! filesink location=frame.mp4",
    );
    launch(
        folder.path(),
        "audiotestsrc num-buffers=1 samplesperbuffer=480 ! audio/x-raw,rate=48000 ! wavenc ! filesink location=blip.wav",
    );
    quick(folder.path(), "frame.mp4").expect(0, &[]);
    assert_eq!(scenes_end(folder.path(), "frame"), SECOND / 25);
    quick(folder.path(), "blip.wav").expect(0, &[]);
}

/// The one clip's frame size, number of samples and end.
fn only_clip(folder: &Path, file: &str) -> (Option<(u32, u32)>, usize, u64) {
    describe(folder, ["clips", file, "--out", "out", "--duration", "20"]).expect(0, &[]);
    let list = fs::read_to_string(folder.join("out/clips.jsonl")).unwrap();
    let clip: serde_json::Value = serde_json::from_str(list.lines().next().expect("there is a clip")).unwrap();
    let frame = clip["frames"][0]["file"].as_str().map(|name| {
        let decoder =
            png::Decoder::new(std::io::BufReader::new(fs::File::open(folder.join("out").join(name)).unwrap()));
        let reader = decoder.read_info().unwrap();
        (reader.info().width, reader.info().height)
    });
    (frame, clip["sound"]["samples"].as_u64().unwrap_or(0) as usize, clip["end_ns"].as_u64().unwrap())
}

#[test]
fn any_sound_is_mixed_and_resampled() {
    let folder = tempfile::tempdir().unwrap();
    for (rate, channels, mask) in [(8_000, 1, ""), (96_000, 6, ",channel-mask=(bitmask)0x3f")] {
        launch(
            folder.path(),
            &format!(
                "audiotestsrc num-buffers=100 samplesperbuffer={} ! audio/x-raw,rate={rate},channels={channels}{mask} \
                 ! flacenc ! matroskamux ! filesink location=sound.mkv",
                rate / 50
            ),
        );
        let (frame, samples, end_ns) = only_clip(folder.path(), "sound.mkv");
        assert_eq!((frame, end_ns), (None, 2 * SECOND), "{rate} Hz");
        assert!(samples.abs_diff(32_000) <= 1, "{rate} Hz: {samples}");
    }
}

/// Writes into an MP4 that its picture is to be turned by 90 degrees, as a phone does that was held upright: the matrix
/// of the first track header (ISO/IEC 14496-12, 8.3.2), for a coded picture of `height`.
fn turn(path: &Path, height: u32) {
    let mut bytes = fs::read(path).unwrap();
    let header = bytes.windows(4).position(|name| name == b"tkhd").expect("there is a track");
    let matrix = [0, 0x1_0000, 0, 0xffff_0000, 0, 0, height << 16, 0, 0x4000_0000u32];
    let at = header + 44;
    bytes[at..at + 36].copy_from_slice(&matrix.map(u32::to_be_bytes).concat());
    fs::write(path, bytes).unwrap();
}

#[test]
fn odd_sizes_and_turned_pictures_keep_their_shape() {
    let folder = tempfile::tempdir().unwrap();
    let video = |size: &str| format!("videotestsrc num-buffers=25 ! video/x-raw,format=I420,{size},framerate=25/1");
    let odd = format!("{} ! avenc_ffv1 ! matroskamux ! filesink location=odd.mkv", video("width=427,height=239"));
    launch(folder.path(), &odd);
    assert_eq!(only_clip(folder.path(), "odd.mkv").0, Some((427, 239)));
    launch(
        folder.path(),
        &format!("{} ! x264enc ! mp4mux ! filesink location=phone.mp4", video("width=320,height=180")),
    );
    turn(&folder.path().join("phone.mp4"), 180);
    assert_eq!(only_clip(folder.path(), "phone.mp4").0, Some((180, 320)));
}

/// A pack with only the sounds piece, whose model is `model`.
fn small_pack(folder: &Path, model: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    let installed = pack::locate(None).unwrap();
    fs::copy(installed.join("sounds.json"), folder.join("sounds.json")).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(installed.join("describe.json")).unwrap()).unwrap();
    let small = serde_json::json!({"name": "small", "version": "1", "clip": manifest["clip"],
        "pieces": {"sounds": manifest["pieces"]["sounds"]}});
    fs::write(folder.join("describe.json"), small.to_string()).unwrap();
    fs::write(folder.join("sounds.onnx"), model).unwrap();
}

#[test]
fn models_that_are_missing_or_broken_are_named() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    launch(folder.path(), &format!("{} ! mp4mux ! filesink location=dark.m4a", noise(2)));
    let installed = pack::locate(None).unwrap();
    let whole = fs::read(installed.join("sounds.onnx")).unwrap();
    let wrong = fs::read(installed.join("voice.onnx")).unwrap();
    let broken = folder.path().join("pack");
    for (model, words) in
        [(&whole[..1000], "no model that ONNX Runtime can load"), (&wrong[..], "does not fit the sounds piece")]
    {
        small_pack(&broken, model);
        let file = broken.join("sounds.onnx");
        // With no other piece there is nothing to describe with.
        let arguments = ["dark.m4a", "--out", "out", "--kinds", "sound", "--pack", "pack"];
        describe(folder.path(), arguments).expect(69, &["no piece of the pack in pack is usable", "describe models"]);
        // With the others it goes on without, and says so once.
        let piece = format!("sounds.model={}", file.display());
        let done = describe(folder.path(), ["dark.m4a", "--out", "out", "--kinds", "scene,sound", "--piece", &piece])
            .expect(0, &[words, &file.display().to_string()]);
        assert_eq!(done.err.matches("without the sounds piece").count(), 1, "{done:#?}");
    }
    fs::remove_file(broken.join("sounds.onnx")).unwrap();
    let arguments = ["dark.m4a", "--out", "out", "--kinds", "sound", "--pack"];
    describe(folder.path(), arguments.iter().chain(&["pack"])).expect(69, &["describe models"]);
    describe(folder.path(), arguments.iter().chain(&["not-there"]))
        .expect(69, &["not-there", "--pack", "describe models fetch"]);
    let done = describe(folder.path(), ["dark.m4a", "--piece", "sounds.model=not-there.onnx"]);
    done.expect(69, &["--piece sounds.model", "not-there.onnx"]);
    let done = describe(folder.path(), ["dark.m4a", "--runtime", "not-there.so"]);
    done.expect(69, &["not-there.so", "--runtime", "describe models fetch"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_a_wrong_choice() {
    let folder = tempfile::tempdir().unwrap();
    launch(folder.path(), &format!("{} ! mp4mux ! filesink location=dark.m4a", noise(1)));
    // Root may write into any folder of a disk, so these are no folders of a disk.
    for out in ["/proc/describe", "dark.m4a", "dark.m4a/out"] {
        describe(folder.path(), ["dark.m4a", "--out", out]).expect(2, &[out, "--out"]);
        describe(folder.path(), ["clips", "dark.m4a", "--out", out]).expect(2, &[out, "--out"]);
    }
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(folder.path().join("mine/dark.vtt"), "WEBVTT\n\n00:00.000 --> 00:01.000\nmy own words\n").unwrap();
    describe(folder.path(), ["dark.m4a", "--out", "mine"]).expect(2, &["dark.vtt", "not made by describe"]);
    assert_eq!(names(&folder.path().join("mine")), ["dark.vtt"]);
}

/// Runs the command where no file may grow beyond `blocks` of 512 bytes, which is how a full disk looks to it.
fn on_a_full_disk(folder: &Path, blocks: u32, arguments: &str) -> Done {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {} {arguments}", common::command().display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(folder);
    common::finish(command)
}

#[test]
fn a_full_disk_is_said_and_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    launch(folder.path(), &format!("{} ! mp4mux ! filesink location=dark.m4a", noise(2)));
    let done = on_a_full_disk(folder.path(), 4, "clips dark.m4a --out clips").expect(75, &["disk is full", "--out"]);
    assert_eq!((names(&folder.path().join("clips")), done.out.as_str()), (vec![], ""));
    if !has_pack() {
        return;
    }
    on_a_full_disk(folder.path(), 0, "dark.m4a --out out --kinds sound").expect(75, &["disk is full", "--out"]);
    assert!(names(&folder.path().join("out")).iter().all(|name| name.starts_with('.')));
}
