//! The job: describe each input and write what was said.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use describe_models::{Kind, runtime::Provider, time::SECOND};
use gst::prelude::*;

use crate::{
    container::{self, Extent},
    exit::{Exit, Failure},
    generator,
    input::{self, Input},
    player::{Outcome, Player},
    plugin,
    progress::{Progress, speed},
    show::{self, clock, print, tell},
    trouble,
    writer::{self, Journal, Results},
};

/// What to describe and how.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Video or sound files, or URIs such as https://…
    #[arg(value_name = "FILE|URI")]
    pub inputs: Vec<OsString>,
    /// Folder for the results; a second input of the same name gets '-2' behind it
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Kinds of observation to make, with commas: caption, scene, sound, speech, text, object
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', default_value = "caption,scene,sound,speech")]
    pub kinds: Vec<Kind>,
    /// Leave out observations less sure than this, 0 to 1
    #[arg(long, value_name = "X", default_value = "0", value_parser = share)]
    pub min_confidence: f64,
    /// Language of the speech as an ISO 639-1 code such as 'en'; without it the speech is listened to for it
    #[arg(long, value_name = "xx")]
    pub language: Option<String>,
    /// Folder of the pack; without it DESCRIBE_PACK, else the default pack that 'describe models fetch' installs
    #[arg(long, value_name = "DIR")]
    pub pack: Option<PathBuf>,
    /// Your own file in place of one of the pack's, such as tags.model=my.onnx; may be repeated
    #[arg(long = "piece", value_name = "PIECE.FILE=PATH", value_parser = piece)]
    pub pieces: Vec<(String, PathBuf)>,
    /// The ONNX Runtime library; without it ORT_DYLIB_PATH, else the one that 'describe models fetch' installs
    #[arg(long, value_name = "FILE")]
    pub runtime: Option<PathBuf>,
    /// Hardware that runs the models: auto, cpu, cuda or tensorrt; what does not work is warned of and the next best taken
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub execution_provider: Provider,
    /// Threads of a model
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Length of a clip in seconds
    #[arg(long, value_name = "S", default_value = "4", value_parser = seconds)]
    pub clip_duration: Duration,
    /// Most frames of a clip that the models look at
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub frames: u32,
    /// Print nothing but errors and the names of the files that were written
    #[arg(long, short)]
    pub quiet: bool,
    /// Print a line of JSON for each input in place of file names
    #[arg(long)]
    pub json: bool,
    /// What is asked of a generator
    #[command(flatten)]
    pub generator: generator::Options,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "give a number from 0 to 1".into())
}

/// Seconds as a decimal number, 0.01 to 600 (the range of the sampler's property).
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.01..=600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give a number of seconds from 0.01 to 600".into())
}

fn piece(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if name.contains('.') && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("give PIECE.FILE=PATH, such as tags.model=my.onnx; 'describe models list' names the pieces".into()),
    }
}

/// What became of an input.
struct Report {
    name: String,
    media_ns: u64,
    elapsed: Duration,
    counts: Vec<(Kind, usize)>,
    files: Vec<PathBuf>,
    failure: Option<Failure>,
}

/// Describes every input; one that fails does not keep the others from it. The first failure decides the exit code.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    let mut fail = |failure: &Failure| {
        tell(format_args!("describe: {failure}"));
        if exit == Exit::Done {
            exit = failure.exit;
        }
    };
    let mut inputs = Vec::new();
    for argument in &options.inputs {
        match Input::new(argument).and_then(|input| input.check().map(|()| input)) {
            Ok(input) => inputs.push(input),
            Err(failure) => fail(&failure),
        }
    }
    input::separate(&mut inputs);
    if !inputs.is_empty() {
        plugin::start()?;
        plugin::element("clipsampler")?;
        writer::make_folder(&options.out)?;
        let results: Vec<_> = inputs.iter().map(|input| Results::new(&options.out, input)).collect::<Result<_, _>>()?;
        let describer = load(options)?;
        let mut reports = Vec::new();
        for (input, results) in inputs.iter().zip(&results) {
            if stop.load(Ordering::Relaxed) {
                fail(&Failure::new(
                    Exit::Temporary,
                    format!("{}: not described, interrupted; run again for it", input.name),
                ));
                continue;
            }
            let report = describe(options, input, results, &describer, stop);
            report.failure.iter().for_each(&mut fail);
            list(&report, options.json);
            reports.push(report);
        }
        if !options.quiet && reports.iter().any(|report| !report.files.is_empty()) {
            tell(table(&reports));
        }
        let _ = describer.set_state(gst::State::Null);
    }
    Ok(exit)
}

/// The describer with its models loaded; they stay for all inputs.
fn load(options: &Options) -> Result<gst::Element, Failure> {
    if let Some((name, path)) = options.pieces.iter().find(|(_, path)| !path.exists()) {
        let text = format!("--piece {name}: there is no {}; check the path", path.display());
        return Err(Failure::new(Exit::Missing, text));
    }
    let describer = plugin::element("clipdescriber")?;
    let words: Vec<_> = options.kinds.iter().map(|kind| kind.as_str()).collect();
    describer.set_property("kinds", words.join(","));
    describer.set_property("min-confidence", options.min_confidence);
    describer.set_property("threads", options.threads);
    describer.set_property_from_str("execution-provider", options.execution_provider.as_str());
    describer.set_property("language", &options.language);
    options.generator.set(&describer);
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    describer.set_property("model-path", options.pack.as_ref().map(text));
    describer.set_property("runtime-path", options.runtime.as_ref().map(text));
    if !options.pieces.is_empty() {
        let mut pieces = gst::Structure::new_empty("files");
        options.pieces.iter().for_each(|(name, path)| pieces.set(name.as_str(), text(path)));
        describer.set_property("pieces", pieces);
    }
    let bus = gst::Bus::new();
    describer.set_bus(Some(&bus));
    let say = |text: &str| {
        if !options.quiet {
            tell(format_args!("describe: {text}"))
        }
    };
    say("loading the models");
    let ready = describer.set_state(gst::State::Ready);
    let mut failure =
        ready.err().map(|_| Failure::new(Exit::Missing, "clipdescriber does not start; see GST_DEBUG=clipdescriber:6"));
    while let Some(message) = bus.pop() {
        match message.view() {
            gst::MessageView::Error(error) => {
                let (exit, text) = trouble::explain(&message, &error.error(), error.debug().as_deref());
                failure = Some(Failure::new(exit, as_options(&text)));
            }
            gst::MessageView::Warning(warning) => {
                say(&as_options(warning.error().message()));
            }
            _ => {}
        }
    }
    match failure {
        None => Ok(describer),
        Some(failure) => {
            let _ = describer.set_state(gst::State::Null);
            Err(failure)
        }
    }
}

/// The element speaks of its properties, the command of its options.
fn as_options(text: &str) -> String {
    let text = text.replace("execution-provider=", "--execution-provider ").replace("model-path", "--pack");
    text.replace("the property runtime-path", "--runtime").replace("runtime-path", "--runtime")
}

fn describe(
    options: &Options,
    input: &Input,
    results: &Results,
    describer: &gst::Element,
    stop: &AtomicBool,
) -> Report {
    let mut report = Report {
        name: input.name.clone(),
        media_ns: 0,
        elapsed: Duration::ZERO,
        counts: Vec::new(),
        files: Vec::new(),
        failure: None,
    };
    if let Err(failure) = play(options, input, results, describer, stop, &mut report) {
        report.failure.get_or_insert(failure);
    }
    report
}

fn play(
    options: &Options,
    input: &Input,
    results: &Results,
    describer: &gst::Element,
    stop: &AtomicBool,
    report: &mut Report,
) -> Result<(), Failure> {
    let journal = Arc::new(Mutex::new(Some(Journal::create(results.journal())?)));
    let take = {
        let journal = journal.clone();
        move |sample: &gst::Sample| take_lines(sample, &journal)
    };
    let sampler = plugin::element("clipsampler")?;
    sampler.set_property("clip-duration", options.clip_duration.as_nanos() as u64);
    sampler.set_property("frames", options.frames);
    let player = Player::new(input, sampler, describer, Box::new(take))?;
    let mut progress = Progress::new(&input.name, options.quiet);
    let outcome = player.run(stop, &mut |position| progress.at(position));
    let failed: u64 = describer.property::<gst::Structure>("stats").get("failed").unwrap_or_default();
    player.close(describer);
    for note in &outcome.notes {
        progress.say(&format!("{}: {note}", input.name));
    }
    if failed > 0 {
        progress.say(&format!(
            "{}: {failed} of {} clips could not be described and are left out",
            input.name, outcome.clips
        ));
    }
    report.elapsed = progress.end();
    report.failure = cause(input, &outcome);
    let journal = journal.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (outcome.span, journal) {
        (Some(span), Some(journal)) => {
            report.media_ns = span.duration_ns();
            report.counts = results.write(journal.observations, span, &input.name).map_err(|failure| {
                let kept = results.journal().display();
                Failure::new(failure.exit, format!("{failure}; what fitted is kept in {kept}"))
            })?;
            report.files = results.files().map(Into::into).to_vec();
        }
        _ => results.forget(),
    }
    if let (Some(failure), false) = (&mut report.failure, report.files.is_empty()) {
        failure.message.push_str("; what was described before that is written");
    }
    Ok(())
}

type Kept = Arc<Mutex<Option<Journal>>>;

fn take_lines(sample: &gst::Sample, journal: &Kept) -> Result<(), Failure> {
    let lines = sample.buffer().and_then(|buffer| buffer.map_readable().ok());
    match (lines, journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut()) {
        (Some(lines), Some(journal)) => journal.add(&lines),
        _ => Ok(()),
    }
}

/// Why a run ended before its time, the most telling cause first.
pub fn cause(input: &Input, outcome: &Outcome) -> Option<Failure> {
    if let Some(failure) = outcome.failure.as_ref().filter(|failure| failure.exit != Exit::BadInput) {
        return Some(failure.clone());
    }
    let extent = input.path.as_ref().and_then(|path| container::extent(path).ok()).unwrap_or(Extent::Unknown);
    let end = outcome.span.map_or_else(String::new, |span| format!(" after {}", clock(span.end_ns)));
    let text = match extent {
        Extent::Short { has, needs } => {
            format!("the file is cut off{end}: it has {has} of at least {needs} bytes; copy or download it again")
        }
        Extent::NoIndex => {
            "the file has no index (moov box), the recording was never finished; repair it or record it again".into()
        }
        _ if outcome.failure.is_some() => return outcome.failure.clone(),
        _ if outcome.interrupted => {
            let text = format!("{}: interrupted{end}; run again for the rest", input.name);
            return Some(Failure::new(Exit::Temporary, text));
        }
        _ if outcome.clips == 0 => "there is no picture and no sound in it; give a video or sound file".into(),
        Extent::Whole => missing_end(outcome)?,
        Extent::Unknown => return None,
    };
    Some(Failure::new(Exit::BadInput, format!("{}: {text}", input.name)))
}

/// Says that a demuxer gave up before the end that the container announces, as it does at damaged places.
///
/// A second and 2 % may be missing: the announced length is rounded and may be that of a little longer stream.
fn missing_end(outcome: &Outcome) -> Option<String> {
    let (span, announced_ns) = (outcome.span?, outcome.duration_ns.filter(|_| !outcome.left_out)?);
    (announced_ns.saturating_sub(span.end_ns) > SECOND + announced_ns / 50).then(|| {
        let (read, announced) = (clock(span.end_ns), clock(announced_ns));
        format!("the file is damaged: {announced} are announced, {read} could be read; copy or download it again")
    })
}

/// Results on standard output, for people and for scripts.
fn list(report: &Report, json: bool) {
    if json {
        let counts: serde_json::Map<_, _> =
            report.counts.iter().map(|(kind, count)| (kind.to_string(), (*count).into())).collect();
        print(serde_json::json!({
            "input": report.name,
            "files": report.files,
            "media_ns": report.media_ns,
            "seconds": report.elapsed.as_secs_f64(),
            "counts": counts,
            "exit": report.failure.as_ref().map_or(0, |failure| failure.exit as u8),
            "error": report.failure.as_ref().map(|failure| &failure.message),
        }));
    } else {
        report.files.iter().for_each(|file| print(file.display()));
    }
}

fn table(reports: &[Report]) -> String {
    let row = |report: &Report| {
        let counts: Vec<_> = report.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let files: Vec<_> = report.files.iter().map(|file| file.display().to_string()).collect();
        let speed = format!("{:.1} x real time", speed(report.media_ns, report.elapsed));
        [report.name.clone(), clock(report.media_ns), speed, counts.join(", "), files.join("\n")]
    };
    show::table(["input", "length", "speed", "observations", "written"], reports.iter().map(row))
}
