//! Every command line of the README is run, and what runs leaves nothing behind.

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{command, has_pack};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn sample() -> Option<PathBuf> {
    let sample = Path::new(ROOT).join("target/sample/farm.mp4");
    if sample.is_file() {
        return Some(sample);
    }
    assert!(env::var_os("DESCRIBE_SAMPLE").is_none(), "{} is not there", sample.display());
    eprintln!("SKIPPED: the sample video is not there: run 'make sample'");
    None
}

/// The blocks of shell commands, without those that install or build: CI runs these itself.
fn blocks() -> Vec<String> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let parts = readme.split("```sh\n").skip(1);
    let blocks = parts.map(|part| part.split("```").next().unwrap_or_default().to_owned());
    blocks.filter(|block| !block.lines().any(|line| line.starts_with("make "))).collect()
}

#[test]
fn the_commands_of_the_readme_run() {
    if sample().is_none() || !has_pack() {
        return;
    }
    let blocks = blocks();
    assert!(blocks.len() >= 4, "only {} blocks were found", blocks.len());
    let programs = command().parent().unwrap().to_owned();
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    for block in blocks {
        let done = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block])
            .current_dir(ROOT)
            .env("PATH", &path)
            .env_remove("G_DEBUG")
            .output()
            .unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{block}\nended with {}:\n{}", done.status, String::from_utf8_lossy(&said));
    }
}

#[test]
fn nothing_is_left_behind() {
    if !has_pack() {
        return;
    }
    let programs = command().parent().unwrap().to_owned();
    let pipeline = "videotestsrc num-buffers=60 ! video/x-raw,framerate=25/1 ! s.video \
        audiotestsrc num-buffers=100 samplesperbuffer=1024 ! s.audio \
        clipsampler name=s clip-duration=1000000000 ! queue ! clipdescriber name=c kinds=scene,sound \
        c.src ! fakesink c.text ! fakesink";
    let done = Command::new("gst-launch-1.0")
        .args(pipeline.split_whitespace())
        .env("GST_PLUGIN_PATH", programs)
        .env("GST_TRACERS", "leaks")
        .env("GST_DEBUG", "GST_TRACER:7")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && log.contains("leaks"), "{log}");
    // Lines that only describe the format have a placeholder where the type is.
    let is_object = |line: &&str| {
        line.split_once("object-alive, type-name=(string)")
            .is_some_and(|(_, name)| name.starts_with(char::is_uppercase))
    };
    let alive: Vec<_> = log.lines().filter(is_object).collect();
    assert!(alive.is_empty(), "{alive:#?}");
}
