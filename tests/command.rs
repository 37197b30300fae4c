//! The command `describe`, as a person runs it.

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{command, describe, film, finish, has_pack, launch, names, noise, observations, pictures, prepare, wait};
use describe_models::{Kind, Observation};

#[test]
fn help_says_how_to_begin() {
    let folder = tempfile::tempdir().unwrap();
    let none: [&str; 0] = [];
    describe(folder.path(), none).expect(2, &["Usage: describe", "Examples:", "describe models fetch"]);
    let help = describe(folder.path(), ["--help"]).expect(0, &[]);
    assert!(help.out.contains("Exit codes: 0 done, 2 wrong usage, 65 bad input, 69"), "{help:#?}");
    assert!(describe(folder.path(), ["--version"]).expect(0, &[]).out.starts_with("describe 0."));
}

#[test]
fn wrong_usage_is_said() {
    let folder = tempfile::tempdir().unwrap();
    describe(folder.path(), ["x.mp4", "--kinds", "smell"]).expect(2, &["'smell'", "caption, scene, sound"]);
    describe(folder.path(), ["x.mp4", "--min-confidence", "7"]).expect(2, &["from 0 to 1"]);
    describe(folder.path(), ["x.mp4", "--piece", "tags"]).expect(2, &["PIECE.FILE=PATH"]);
    describe(folder.path(), ["x.mp4", "--clip-duration", "NaN"]).expect(2, &["seconds"]);
    describe(folder.path(), ["clips", "x.mp4"]).expect(2, &["--out"]);
}

/// The command in `folder`, where nothing is installed.
fn bare(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = prepare(folder, arguments);
    command
        .env("XDG_DATA_HOME", folder.join("data"))
        .env_remove("DESCRIBE_PACK")
        .env("ORT_DYLIB_PATH", "/not/there.so");
    command
}

#[test]
fn inspect_works_with_parts_missing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let bare = finish(bare(folder.path(), &["inspect"])).expect(0, &[]);
    for words in [
        "GStreamer     1.",
        "libgstdescribe.so",
        "clipsampler",
        "OpenCV        4.",
        "pack          MISSING",
        "ONNX Runtime  MISSING",
        "describe models fetch",
    ] {
        assert!(bare.out.contains(words), "no '{words}' in {bare:#?}");
    }
    if has_pack() {
        let whole = describe(folder.path(), ["inspect"]).expect(0, &[]);
        assert!(whole.out.contains("execution providers: cpu") && whole.out.contains("speech"), "{whole:#?}");
    }
}

#[test]
fn without_the_plugin_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(command(), folder.path().join("describe")).unwrap();
    fs::write(folder.path().join("x.mp4"), "x").unwrap();
    let mut alone = Command::new(folder.path().join("describe"));
    alone.args(["x.mp4"]).current_dir(folder.path()).env_remove("GST_PLUGIN_PATH");
    finish(alone).expect(69, &["no element 'clipsampler'", "GST_PLUGIN_PATH"]);
}

#[test]
fn the_pack_is_listed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let list = finish(bare(folder.path(), &["models", "list"])).expect(0, &[]);
    assert!(list.out.contains("models fetch") && list.out.contains("speech") && list.out.contains("MIT"), "{list:#?}");
    let pack = folder.path().join("pack");
    fs::create_dir(&pack).unwrap();
    fs::write(pack.join("a.onnx"), "hello").unwrap();
    fs::write(
        pack.join("describe.json"),
        r#"{"name": "own", "version": "1", "clip": {"max_size": 448, "rate": 16000},
            "pieces": {"sounds": {"license": "MIT", "files": {"model": "a.onnx"}}}}"#,
    )
    .unwrap();
    let list = describe(folder.path(), ["models", "list", "--pack", "pack"]).expect(0, &[]);
    assert!(list.out.contains("sounds") && list.out.contains("not installed by fetch"), "{list:#?}");
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let installed = format!(r#"{{"files": {{"a.onnx": {{"bytes": 5, "sha256": "{sha256}"}}}}}}"#);
    fs::write(pack.join("installed.json"), installed).unwrap();
    let check = describe(folder.path(), ["models", "check", "--pack", "pack"]).expect(0, &[]);
    assert!(check.out.contains("as installed"), "{check:#?}");
    fs::write(pack.join("a.onnx"), "hallo").unwrap();
    let check = describe(folder.path(), ["models", "check", "--pack", "pack"]).expect(69, &["describe models fetch"]);
    assert!(check.out.contains("BROKEN") && check.out.contains("SHA-256"), "{check:#?}");
    describe(folder.path(), ["models", "check", "--pack", "not-there"]).expect(69, &["not-there"]);
    if has_pack() {
        let check = describe(folder.path(), ["models", "check", "--deep"]).expect(0, &[]);
        assert!(check.out.contains("as installed, loads"), "{check:#?}");
    }
}

#[test]
fn fetch_runs_the_set_up_that_is_in_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let mut without = bare(folder.path(), &["models", "fetch"]);
    finish({
        without.env("PATH", folder.path());
        without
    })
    .expect(69, &["python3", "python3-venv"]);
    let python = folder.path().join("python3");
    fs::write(
        &python,
        "#!/bin/sh\necho \"$@\" > arguments\n/bin/ls \"${2%/*}/convert\" > converters\necho 'a line'\nexit $FAKE\n",
    )
    .unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    for (status, code) in [("0", 0), ("69", 69), ("75", 75), ("1", 75), ("64", 2)] {
        let mut fake = bare(folder.path(), &["models", "fetch", "--piece", "tags"]);
        fake.env("PATH", folder.path()).env("FAKE", status);
        let done = finish(fake).expect(code, &[]);
        assert!(done.out.starts_with("a line\n"), "{done:#?}");
    }
    let arguments = fs::read_to_string(folder.path().join("arguments")).unwrap();
    let data = folder.path().join("data/describe");
    let wanted = format!("--out {0}/packs/lite --runtime {0}/runtime --piece tags\n", data.display());
    assert!(arguments.ends_with(&wanted) && arguments.contains("/fetch.py "), "{arguments}");
    assert!(fs::read_to_string(folder.path().join("converters")).unwrap().contains("shots.py"));
}

/// Checks what holds for the results of any film.
#[track_caller]
fn check_results(said: &[Observation], end_ns: u64) {
    assert!(said.is_sorted_by(|a, b| a.canonical_cmp(b).is_le()));
    let scenes: Vec<_> = said.iter().filter(|o| o.kind == Kind::Scene).map(|o| o.span).collect();
    assert_eq!((scenes.first().map(|s| s.start_ns), scenes.last().map(|s| s.end_ns)), (Some(0), Some(end_ns)));
    assert!(scenes.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns), "{scenes:?}");
    assert!(said.iter().all(|o| !o.span.is_empty() && o.span.end_ns <= end_ns && !o.text.is_empty()), "{said:?}");
}

#[test]
fn a_film_becomes_three_files() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Two shots: colour bars, then a ball.
    launch(
        folder.path(),
        "videotestsrc num-buffers=100 pattern=smpte ! video/x-raw,width=320,height=180,framerate=25/1 ! c. \
         videotestsrc num-buffers=100 pattern=ball background-color=0xff2050a0 ! video/x-raw,width=320,height=180,framerate=25/1 ! c. \
         concat name=c ! x264enc speed-preset=ultrafast ! mux. \
         audiotestsrc num-buffers=400 samplesperbuffer=960 wave=pink-noise ! audio/x-raw,rate=48000 ! avenc_aac ! mux. \
         mp4mux name=mux ! filesink location=my_film.mp4",
    );
    let done = describe(folder.path(), ["my_film.mp4", "--out", "new/results"]);
    let done = done.expect(0, &["my_film.mp4", "x real time", "observations"]);
    let files = ["my_film.jsonl", "my_film.vtt", "my_film.chapters.vtt"].map(|name| format!("new/results/{name}"));
    assert_eq!(done.out.lines().collect::<Vec<_>>(), files);
    let out = folder.path().join("new/results");
    assert_eq!(names(&out), ["my_film.chapters.vtt", "my_film.jsonl", "my_film.vtt"]);
    let said = observations(&out.join("my_film.jsonl"));
    let end_ns = said.iter().map(|o| o.span.end_ns).max().unwrap();
    assert!(end_ns.abs_diff(8_000_000_000) < 50_000_000, "{end_ns}");
    check_results(&said, end_ns);
    let cut_ns = said.iter().filter(|o| o.kind == Kind::Scene).nth(1).expect("there are two shots").span.start_ns;
    assert!(cut_ns.abs_diff(4_000_000_000) <= 80_000_000, "the cut is found at {cut_ns}");
    for file in ["my_film.vtt", "my_film.chapters.vtt"] {
        let text = fs::read_to_string(out.join(file)).unwrap();
        assert!(text.starts_with("WEBVTT\n\nNOTE made by describe from my_film.mp4\n"), "{text}");
    }
    let chapters = fs::read_to_string(out.join("my_film.chapters.vtt")).unwrap();
    assert_eq!(chapters.matches(" --> ").count(), said.iter().filter(|o| o.kind == Kind::Scene).count());
    // A second run gives the same, in the same place.
    let before = fs::read(out.join("my_film.jsonl")).unwrap();
    let again = describe(folder.path(), ["my_film.mp4", "--out", "new/results", "--quiet"]).expect(0, &[]);
    assert_eq!(again.err, "");
    assert_eq!(fs::read(out.join("my_film.jsonl")).unwrap(), before);
}

#[test]
fn films_of_the_same_name_do_not_overwrite_each_other() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a b")).unwrap();
    film(folder.path(), "x.mp4", "mp4mux");
    fs::copy(folder.path().join("x.mp4"), folder.path().join("a b/x.mp4")).unwrap();
    let uri = format!("file://{}/a%20b/x.mp4", folder.path().display());
    let done = describe(folder.path(), ["x.mp4", "gone.mp4", &uri, "--out", "out", "--kinds", "scene,sound", "--json"]);
    let done = done.expect(65, &["gone.mp4: there is no such file"]);
    let reports: Vec<serde_json::Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 2);
    assert_eq!(reports[1]["files"][0], "out/x-2.jsonl");
    assert_eq!((&reports[1]["exit"], &reports[1]["counts"]["scene"]), (&0.into(), &1.into()));
    let read = |name: &str| fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    assert_eq!(read("x.jsonl"), read("x-2.jsonl"));
}

#[test]
fn ctrl_c_writes_what_is_done() {
    if !has_pack() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    launch(
        folder.path(),
        &format!("{} ! mux. {} ! mux. matroskamux name=mux ! filesink location=long.mkv", pictures(600), noise(600)),
    );
    let mut long = prepare(folder.path(), ["long.mkv", "--out", "out", "--kinds", "scene,sound,speech"]);
    let child = long.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let journal = folder.path().join("out/.long.jsonl.part");
    let started = Instant::now();
    while fs::metadata(&journal).map_or(0, |journal| journal.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(240), "nothing is kept while it runs");
        thread::sleep(Duration::from_millis(20));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let done = wait(child).expect(75, &["interrupted after", "run again", "is written"]);
    assert_eq!(done.out.lines().count(), 3, "{done:#?}");
    assert_eq!(names(&folder.path().join("out")), ["long.chapters.vtt", "long.jsonl", "long.vtt"]);
    let said = observations(&folder.path().join("out/long.jsonl"));
    let end_ns = said.iter().filter(|o| o.kind == Kind::Scene).map(|o| o.span.end_ns).max().unwrap();
    assert!(end_ns < 600_000_000_000, "{end_ns}");
    check_results(&said, end_ns);
}

#[test]
fn clips_are_pictures_sounds_and_a_list() {
    let folder = tempfile::tempdir().unwrap();
    film(folder.path(), "x.mkv", "matroskamux");
    let options = ["--size", "80", "--frames", "3", "--duration", "2.5", "--rate", "22050"];
    let done = describe(folder.path(), ["clips", "x.mkv", "--out", "look"].iter().chain(&options)).expect(0, &[]);
    assert_eq!(done.out, "look/clips.jsonl\n");
    let out = folder.path().join("look");
    let list = fs::read_to_string(out.join("clips.jsonl")).unwrap();
    let clips: Vec<serde_json::Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut written = vec!["clips.jsonl".to_owned()];
    for clip in &clips {
        let files =
            clip["frames"].as_array().unwrap().iter().map(|frame| &frame["file"]).chain([&clip["sound"]["file"]]);
        written.extend(files.map(|file| file.as_str().unwrap().to_owned()));
        assert_eq!(clip["sound"]["rate"], 22_050);
    }
    written.sort();
    assert_eq!(written, names(&out));
    assert_eq!(clips[0]["frames"].as_array().unwrap().len(), 3);
    let png = png::Decoder::new(std::io::BufReader::new(fs::File::open(out.join("clip-0001-frame-01.png")).unwrap()));
    assert_eq!((png.read_info().unwrap().info().width, clips.len() >= 4), (80, true));
}
