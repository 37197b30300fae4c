//! Where the time of a whole `describe` job goes: each stage alone, then the job, on a small and on a full HD clip.
//!
//! ```sh
//! python3 benches/media.py && cargo bench --bench job [-- FILE...]
//! ```
//!
//! * **Decode** is the file into nothing. The **sampler** adds to it a thumbnail of every frame, the chosen frames
//!   converted, and the sound resampled.
//! * **Each piece** of the pack is alone with clips that were cut before. *In ONNX* is the part inside ONNX Runtime,
//!   taken from the spans of `Model::run`; the rest is what we do around it.
//! * **The job** is the command as a process of its own, from start to end. Its stages overlap, so it takes less than
//!   their sum; what it cannot go below is the larger of decoding alone and ONNX alone on the same threads. That bound
//!   counts only the windows and frames that the pieces do not skip.
//!
//! All stages are done in turn, three times over, so that what else the machine does falls on each of them. Seconds are
//! medians, ratios are medians of the rounds.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use describe_models::{
    Cancel, Clip, Observation,
    experts::{self, Expert},
    pack::{self, Manifest, PackSettings},
    runtime::RunSettings,
};
use gst::prelude::*;

mod runs;

use runs::Runs;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 3;
const DECODE: &str = "decode alone";
const SAMPLER: &str = "decode and sampler";
const JOB: &str = "the job: describe FILE";
/// The pieces that work by default, and the one that does not.
const PIECES: [&str; 5] = ["shots", "tags", "people", "sounds", "speech"];
const OFF: &str = "text";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("job: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    gst::init()?;
    gstdescribe::plugin_register_static()?;
    let runs = Runs::listen();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    let mut files: Vec<PathBuf> = std::env::args().skip(1).filter(|word| word != "--bench").map(Into::into).collect();
    if files.is_empty() {
        files = ["small.mp4", "large.mp4"].map(|name| folder.join(name)).into();
    }
    for file in files {
        let file =
            file.canonicalize().map_err(|e| format!("{}: {e}; run 'python3 benches/media.py'", file.display()))?;
        measure(&file, &folder, &runs)?;
    }
    Ok(())
}

/// What a stage took, and how much of it inside ONNX Runtime.
#[derive(Clone, Copy, Default)]
struct Took {
    whole: Duration,
    onnx: Duration,
}

impl From<Duration> for Took {
    fn from(whole: Duration) -> Self {
        Self { whole, onnx: Duration::ZERO }
    }
}

/// A stage of the job that can be done again and again.
struct Stage<'a> {
    name: &'static str,
    once: Box<dyn FnMut() -> Outcome<Took> + 'a>,
    took: Vec<Took>,
}

impl<'a> Stage<'a> {
    fn new(name: &'static str, once: impl FnMut() -> Outcome<Took> + 'a) -> Self {
        Self { name, once: Box::new(once), took: Vec::new() }
    }

    /// Median of `what` of each round, in seconds.
    fn median(&self, what: impl Fn(&Took) -> Duration) -> f64 {
        median(self.took.iter().map(|took| what(took).as_secs_f64()))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Does every stage of one file in turn, several times, and prints the table.
fn measure(file: &Path, folder: &Path, runs: &Runs) -> Outcome<()> {
    let source = format!("uridecodebin uri={} name=d", gst::glib::filename_to_uri(file, None)?);
    let nothing = format!("{source} d. ! video/x-raw ! fakesink sync=false  d. ! audio/x-raw ! fakesink sync=false");
    let sampler = format!("{source} clipsampler name=s  d. ! video/x-raw ! s.video  d. ! audio/x-raw ! s.audio  s.");
    let clips = &clips(&format!("{sampler} ! appsink name=out sync=false wait-on-eos=false"))?;
    let said = RefCell::default();
    let mut stages = vec![
        Stage::new(DECODE, || Ok(play(&nothing)?.into())),
        Stage::new(SAMPLER, || Ok(play(&format!("{sampler} ! fakesink sync=false"))?.into())),
    ];
    for piece in PIECES {
        let mut expert = expert(piece)?;
        stages.push(Stage::new(piece, move || alone(piece, &mut *expert, clips, runs)));
    }
    stages.push(Stage::new("load the pack", || {
        let started = Instant::now();
        pack::load(&PackSettings::default(), &mut |_| {})?;
        Ok(started.elapsed().into())
    }));
    stages.push(Stage::new("all pieces and captions", || Ok(together(clips, &mut said.borrow_mut())?.into())));
    stages.push(Stage::new("write", || Ok(write(&said.borrow(), &folder.join("job.jsonl"))?.into())));
    stages.push(Stage::new(JOB, || Ok(job(file, folder)?.into())));
    for _ in 0..ROUNDS {
        for stage in &mut stages {
            let took = (stage.once)()?;
            stage.took.push(took);
        }
    }
    let seconds = clips.last().map_or(0.0, |clip| clip.span.end_ns as f64 / 1e9);
    println!("\n{}: {seconds:.1} s, {} clips", file.display(), clips.len());
    print(&stages, seconds);
    let text = alone(OFF, &mut *expert(OFF)?, clips, runs)?;
    println!(
        "Not in the job: on-screen text, {:.2} s, {:.2} in ONNX",
        text.whole.as_secs_f64(),
        text.onnx.as_secs_f64()
    );
    Ok(())
}

/// Prints the medians, and what the job takes next to what it cannot go below, both in the same round.
fn print(stages: &[Stage], seconds: f64) {
    let of = |name: &str| stages.iter().find(|stage| stage.name == name);
    println!("{:<34}{:>9}{:>9}{:>13}", "stage", "seconds", "in ONNX", "x real time");
    for stage in stages {
        let took = stage.median(|took| took.whole);
        let onnx = stage.median(|took| took.onnx);
        let onnx = if onnx > 0.0 { format!("{onnx:.2}") } else { String::new() };
        println!("{:<34}{took:>9.2}{onnx:>9}{:>13.1}", stage.name, seconds / took);
    }
    let (Some(decode), Some(sampler), Some(job)) = (of(DECODE), of(SAMPLER), of(JOB)) else { return };
    let whole = |stage: &Stage, round: usize| stage.took[round].whole.as_secs_f64();
    let onnx = |round: usize| stages.iter().map(|stage| stage.took[round].onnx.as_secs_f64()).sum::<f64>();
    let added = median((0..ROUNDS).map(|round| whole(sampler, round) - whole(decode, round)));
    let ratio = median((0..ROUNDS).map(|round| whole(job, round) / whole(decode, round).max(onnx(round))));
    println!("The sampler adds {added:.2} s to decoding.");
    println!(
        "The job takes {ratio:.2} x the larger of decoding alone and ONNX alone ({:.2} s); the goal is 1.10.",
        median((0..ROUNDS).map(onnx))
    );
}

/// Runs a pipeline to its end; the time from playing to the end.
fn play(line: &str) -> Outcome<Duration> {
    play_and(line, |_| Ok(())).map(|(took, ())| took)
}

/// Runs a pipeline to its end and lets `then` look at it before it is stopped.
fn play_and<T>(line: &str, then: impl FnOnce(&gst::Bin) -> Outcome<T>) -> Outcome<(Duration, T)> {
    use gst::MessageType as Type;
    let pipeline = gst::parse::launch(line)?.downcast::<gst::Pipeline>().map_err(|_| format!("{line}: no pipeline"))?;
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    let started = Instant::now();
    pipeline.set_state(gst::State::Playing)?;
    // A warning too: that a pad could not be linked is one, and nothing would come after it.
    let message = bus.timed_pop_filtered(gst::ClockTime::NONE, &[Type::Eos, Type::Error, Type::Warning]);
    let took = started.elapsed();
    let result = match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Eos(_)) => then(pipeline.upcast_ref()),
        other => Err(format!("{line}: {other:?}").into()),
    };
    pipeline.set_state(gst::State::Null)?;
    Ok((took, result?))
}

/// The clips that come to the appsink `out`.
fn clips(line: &str) -> Outcome<Vec<Clip>> {
    let (_, clips) = play_and(line, |pipeline| {
        let out = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().ok_or("no appsink")?;
        let mut clips = Vec::new();
        while let Some(sample) = out.try_pull_sample(gst::ClockTime::ZERO) {
            clips.push(describe_elements::clip::from_buffer(
                &sample.buffer_owned().ok_or("a sample without a buffer")?,
            )?);
        }
        Ok(clips)
    })?;
    if clips.is_empty() { Err(format!("{line}: no clip came").into()) } else { Ok(clips) }
}

/// The expert for a piece of the installed pack.
fn expert(piece: &str) -> Outcome<Box<dyn Expert>> {
    let folder = pack::locate(None)?;
    let manifest = Manifest::read(&folder)?;
    let files = |name: &str| -> Outcome<BTreeMap<String, PathBuf>> {
        let about = manifest.pieces.get(name).ok_or_else(|| format!("{}: no piece {name}", folder.display()))?;
        Ok(about.files.iter().map(|(role, file)| (role.clone(), folder.join(file))).collect())
    };
    let mut own = files(piece)?;
    if piece == "speech" {
        own.insert("voice".into(), files("voice")?.remove("model").ok_or("the voice piece has no model")?);
    }
    Ok(experts::build(piece, &own, &manifest.pieces[piece].settings, &RunSettings::default())?)
}

/// One piece alone with all clips.
fn alone(piece: &str, expert: &mut dyn Expert, clips: &[Clip], runs: &Runs) -> Outcome<Took> {
    let (cancel, mut said) = (Cancel::new()?, Vec::new());
    expert.reset();
    runs.take();
    let started = Instant::now();
    for clip in clips {
        expert.observe(clip, &cancel, &mut said)?;
    }
    expert.flush(&cancel, &mut said)?;
    match (started.elapsed(), runs.take()) {
        (_, Duration::ZERO) => {
            Err(format!("{piece}: no run of a model was seen; does Model::run have its span?").into())
        }
        (whole, onnx) => Ok(Took { whole, onnx }),
    }
}

/// The whole pack on the clips, without GStreamer; what it says is left in `said`.
fn together(clips: &[Clip], said: &mut Vec<Observation>) -> Outcome<Duration> {
    let mut describer = pack::load(&PackSettings::default(), &mut |_| {})?.describer;
    let cancel = Cancel::new()?;
    said.clear();
    let started = Instant::now();
    for clip in clips {
        describer.describe(clip, &cancel, said)?;
    }
    describer.flush(&cancel, said)?;
    Ok(started.elapsed())
}

/// Sorts and writes JSON lines.
fn write(said: &[Observation], path: &Path) -> Outcome<Duration> {
    let mut said = said.to_vec();
    let started = Instant::now();
    said.sort_by(Observation::canonical_cmp);
    let mut out = BufWriter::new(File::create(path)?);
    for observation in &said {
        serde_json::to_writer(&mut out, observation)?;
        out.write_all(b"\n")?;
    }
    out.into_inner()?.sync_all()?;
    Ok(started.elapsed())
}

/// The command, as people run it.
fn job(file: &Path, folder: &Path) -> Outcome<Duration> {
    let benches = std::env::current_exe()?;
    let command = benches.ancestors().nth(2).ok_or("no target folder")?.join("describe");
    let out = folder.join("job");
    std::fs::create_dir_all(&out)?;
    let started = Instant::now();
    let done = Command::new(&command).arg(file).args(["--threads", "2", "--out"]).arg(&out).output();
    let done = done.map_err(|e| format!("{}: {e}; run 'make build'", command.display()))?;
    let took = started.elapsed();
    match done.status.success() {
        true => Ok(took),
        false => {
            Err(format!("{}: {}\n{}", command.display(), done.status, String::from_utf8_lossy(&done.stderr)).into())
        }
    }
}
