//! What the tests of the command share: the command itself, and media made on the spot.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use describe_models::{Observation, pack};

/// Longest that a run may take; many run at a time on few cores.
const LONGEST: Duration = Duration::from_secs(300);

/// The command that was built beside these tests.
pub fn command() -> PathBuf {
    let tests = env::current_exe().expect("a test has a path");
    let command = tests.ancestors().nth(2).expect("tests lie in PROFILE/deps").join("describe");
    assert!(
        command.is_file(),
        "{} is not there: run 'cargo build --workspace' with the same profile first",
        command.display()
    );
    command
}

/// Whether the default pack is installed; says loudly where it is not, and fails where it must be.
pub fn has_pack() -> bool {
    match pack::locate(None) {
        Ok(_) => true,
        Err(error) if env::var_os("DESCRIBE_REQUIRE_PACK").is_some_and(|value| value == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED: this test needs the default pack: {error}");
            false
        }
    }
}

/// What a run of the command gave.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Panics unless the run ended with `code` and said all of `words` on standard error.
    #[track_caller]
    pub fn expect(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "no '{word}' in {self:#?}");
        }
        assert!(!self.err.contains("panicked") && !self.err.contains("CRITICAL"), "{self:#?}");
        self
    }
}

/// The command, to be run in `folder`.
pub fn prepare(folder: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(command());
    command.args(arguments).current_dir(folder);
    command
}

/// Runs the command in `folder`.
pub fn describe(folder: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
    finish(prepare(folder, arguments))
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Done {
    wait(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts"))
}

/// Waits for the end, which must come.
pub fn wait(mut child: Child) -> Done {
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break status,
            None if started.elapsed() > LONGEST => {
                let _ = child.kill();
                panic!("it hangs: {}", err.join().unwrap_or_default());
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    Done {
        code: status.code().unwrap_or(-1),
        out: out.join().expect("the reader does not panic"),
        err: err.join().expect("the reader does not panic"),
    }
}

/// Runs a pipeline of gst-launch in `folder`.
pub fn launch(folder: &Path, pipeline: &str) {
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q").args(pipeline.split_whitespace()).current_dir(folder);
    // The plugin lies beside the command; pipelines of plain media need neither.
    if let Some(programs) = env::current_exe().ok().and_then(|test| Some(test.ancestors().nth(2)?.to_owned())) {
        command.env("GST_PLUGIN_PATH", programs);
    }
    let done = finish(command);
    assert_eq!(done.code, 0, "{pipeline}: {done:#?}");
}

/// Pictures for [`launch`]: `seconds` of a moving ball at 25 frames a second.
pub fn pictures(seconds: u32) -> String {
    let frames = seconds * 25;
    format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width=160,height=90,framerate=25/1 \
         ! x264enc speed-preset=ultrafast key-int-max=25"
    )
}

/// Sound for [`launch`]: `seconds` of noise.
pub fn noise(seconds: u32) -> String {
    let buffers = seconds * 50;
    format!(
        "audiotestsrc num-buffers={buffers} samplesperbuffer=960 wave=pink-noise ! audio/x-raw,rate=48000,channels=2 ! avenc_aac"
    )
}

/// Ten seconds of picture and sound as `name`, muxed by `muxer`.
pub fn film(folder: &Path, name: &str, muxer: &str) {
    launch(
        folder,
        &format!("{} ! mux. {} ! mux. {muxer} name=mux ! filesink location={name}", pictures(10), noise(10)),
    );
}

/// The observations in a file of results.
pub fn observations(path: &Path) -> Vec<Observation> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| Observation::from_json(line).expect("each line is an observation")).collect()
}

/// Names in a folder, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
