//! The command `describe`: timestamped captions, scenes, sounds and speech of video files.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use clap::{CommandFactory, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{
    exit::{Exit, Failure},
    show::tell,
};

mod clips;
mod container;
mod describe;
mod exit;
mod generator;
mod hub;
mod input;
mod inspect;
mod models_cmd;
mod player;
mod plugin;
mod progress;
mod show;
mod trouble;
mod vtt;
mod writer;

const EXAMPLES: &str = "\
Examples:
  describe models fetch                  install the default pack once (about 200 MB)
  describe models fetch hf:OWNER/NAME    a model published for ONNX Runtime, from the Hugging Face hub
  describe holiday.mp4                   writes holiday.jsonl, holiday.vtt and holiday.chapters.vtt here
  describe *.mkv --out results --kinds caption,speech --language en
  describe clips holiday.mp4 --out look  what the models see and hear: PNG, WAV and clips.jsonl

Results: NAME.jsonl has every observation with start_ns and end_ns; NAME.vtt has captions and sounds as subtitles;
NAME.chapters.vtt has the scenes.

Exit codes: 0 done, 2 wrong usage, 65 bad input, 69 something is missing (plugin, decoder, model, runtime),
75 temporary (interrupted, disk full): run again. Results made before an error are kept.";

/// Describes video and sound files: captions, scenes, sounds and speech, each with its time
#[derive(Parser)]
#[command(name = "describe", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    describe: describe::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Write every clip's frames as PNG and its sound as WAV: what the models see and hear
    Clips(clips::Options),
    /// List, fetch or check the models
    #[command(subcommand)]
    Models(models_cmd::Action),
    /// Show versions, the plugin, the runtime, decoders and models, and what is missing
    Inspect(inspect::Options),
}

/// Blocks of memory from this size on go back to the system when they are freed, in bytes.
///
/// Left alone, glibc raises the limit to that of the largest block seen, and memory of one large run stays for good. A
/// lower limit gives more back and costs more page faults: 1 MiB took 400 MB and 7 s of the system's time, this takes
/// about 460 MB and 3 s (single runs on the small clip of benches/media.py).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVEN_BACK: i32 = 8 << 20;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt(3) may be called before any other thread runs, and takes plain numbers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, GIVEN_BACK);
    }
    let cli = Cli::parse();
    let result = stop_switch().and_then(|stop| match &cli.command {
        Some(Command::Clips(options)) => clips::run(options, &stop),
        Some(Command::Models(action)) => models_cmd::run(action, &stop),
        Some(Command::Inspect(options)) => inspect::run(options),
        None if cli.describe.inputs.is_empty() => {
            tell(Cli::command().render_help());
            Ok(Exit::Usage)
        }
        None => describe::run(&cli.describe, &stop),
    });
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            tell(format_args!("describe: {failure}"));
            failure.exit.into()
        }
    }
}

/// A switch that Ctrl-C turns on; the second Ctrl-C ends the process at once.
fn stop_switch() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Registered first, so that it sees the switch as the signal before left it.
        signal_hook::flag::register_conditional_shutdown(signal, Exit::Temporary as i32, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| Failure::new(Exit::Temporary, format!("cannot watch for Ctrl-C: {error}; run again")))?;
    }
    Ok(stop)
}
