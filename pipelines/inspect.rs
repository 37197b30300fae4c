//! `describe inspect`: what is there and what is missing, for people who set it up or report a fault.

use std::path::PathBuf;

use crate::{
    exit::{Exit, Failure},
    models_cmd, plugin,
    show::print,
};
use describe_models::{
    generator::{
        check::{Finding, check},
        folder::Folder,
    },
    pack,
    runtime::RunSettings,
};

/// Formats most files have, and the caps that GStreamer knows them by.
const FORMATS: [(&str, &str); 8] = [
    ("H.264", "video/x-h264"),
    ("H.265", "video/x-h265"),
    ("VP9", "video/x-vp9"),
    ("AV1", "video/x-av1"),
    ("AAC", "audio/mpeg,mpegversion=4"),
    ("MP3", "audio/mpeg,mpegversion=1,layer=3"),
    ("Opus", "audio/x-opus"),
    ("FLAC", "audio/x-flac"),
];

/// Where to look.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder of the pack; without it DESCRIBE_PACK, else the default pack
    #[arg(long, value_name = "DIR")]
    pub pack: Option<PathBuf>,
    /// The ONNX Runtime library; without it ORT_DYLIB_PATH, else the installed one
    #[arg(long, value_name = "FILE")]
    pub runtime: Option<PathBuf>,
}

/// Prints it; missing parts are no failure.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    row("describe", env!("CARGO_PKG_VERSION"));
    match plugin::start() {
        Ok(()) => gstreamer(),
        Err(failure) => row("GStreamer", &format!("MISSING: {failure}")),
    }
    row("OpenCV", &describe_models::picture::opencv_version());
    let run = RunSettings { runtime: options.runtime.clone(), ..RunSettings::default() };
    match models_cmd::runtime_lines(options.runtime.as_deref()) {
        Ok(lines) => {
            lines.iter().enumerate().for_each(|(index, line)| row(if index == 0 { "ONNX Runtime" } else { "" }, line))
        }
        Err(error) => row("ONNX Runtime", &format!("MISSING: {error}")),
    }
    match pack::locate(options.pack.as_deref()) {
        Ok(folder) if Folder::is_one(&folder) => {
            row("pack", &format!("a published model in {}", folder.display()));
            for Finding { part, found } in check(&folder, true, &run) {
                row("", &format!("{part}: {}", found.unwrap_or_else(|why| format!("BROKEN: {why}"))));
            }
            return Ok(Exit::Done);
        }
        _ => {}
    }
    match pack::locate(options.pack.as_deref())
        .and_then(|folder| Ok((pack::Manifest::read(&folder)?, pack::check(&folder, false)?, folder)))
    {
        Ok((manifest, pieces, folder)) => {
            row("pack", &format!("{} {} in {}", manifest.name, manifest.version, folder.display()));
            print(models_cmd::table(&pieces));
        }
        Err(error) => row("pack", &format!("MISSING: {error}")),
    }
    Ok(Exit::Done)
}

fn row(name: &str, value: &str) {
    print(format_args!("{name:<14}{value}"));
}

fn gstreamer() {
    let (major, minor, micro, _) = gst::version();
    row("GStreamer", &format!("{major}.{minor}.{micro}"));
    match gst::Registry::get().find_plugin("describe") {
        Some(plugin) => {
            let file = plugin.filename().map_or_else(|| "built in".into(), |path| path.display().to_string());
            row("plugin", &format!("{} {file}", plugin.version()));
        }
        None => {
            row("plugin", "MISSING: put libgstdescribe.so beside the command or name its folder in GST_PLUGIN_PATH")
        }
    }
    let has = |name: &&str| gst::ElementFactory::find(name).is_some();
    let (there, missing): (Vec<_>, Vec<_>) = ["clipsampler", "clipdescriber"].iter().partition(|name| has(name));
    row("elements", &list(&there, &missing));
    let decoders = gst::ElementFactory::factories_with_type(gst::ElementFactoryType::DECODER, gst::Rank::MARGINAL);
    let decodes = |caps: &str| {
        caps.parse::<gst::Caps>().is_ok_and(|caps| decoders.iter().any(|decoder| decoder.can_sink_any_caps(&caps)))
    };
    let (there, missing): (Vec<_>, Vec<_>) = FORMATS.iter().partition(|(_, caps)| decodes(caps));
    let names = |formats: &[&(&'static str, &str)]| formats.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    row("decoders", &list(&names(&there), &names(&missing)));
}

fn list(there: &[&str], missing: &[&str]) -> String {
    match missing {
        [] => there.join(", "),
        missing => format!("{}; MISSING: {}", there.join(", "), missing.join(", ")),
    }
}
