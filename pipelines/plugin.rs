//! The plugin: found without any set-up beside the command, in the prefix it is installed in, or by GStreamer itself.

use std::{env, path::PathBuf};

use crate::exit::{Exit, Failure};

const LIBRARY: &str = "libgstdescribe.so";

/// Starts GStreamer and the plugin.
pub fn start() -> Result<(), Failure> {
    gst::init().map_err(|error| {
        Failure::new(Exit::Missing, format!("GStreamer does not start: {error}; install GStreamer 1.22 or newer"))
    })?;
    let beside = candidates().into_iter().find(|path| path.is_file());
    if let Some(path) = &beside
        && let Err(error) = gst::Plugin::load_file(path)
    {
        return Err(Failure::new(
            Exit::Missing,
            format!(
                "the plugin {} cannot be loaded: {error}; build it for this GStreamer or take it away",
                path.display()
            ),
        ));
    }
    Ok(())
}

/// Where the plugin may lie: beside the executable (a build folder), else in `lib` of its prefix (installed).
fn candidates() -> Vec<PathBuf> {
    let Some(folder) = env::current_exe().ok().and_then(|exe| Some(exe.canonicalize().ok()?.parent()?.to_owned()))
    else {
        return Vec::new();
    };
    let mut paths = vec![folder.join(LIBRARY)];
    if let Some(prefix) = folder.parent() {
        let lib = prefix.join("lib");
        let multiarch = format!("{}-linux-gnu", env::consts::ARCH);
        paths.extend(
            [lib.clone(), lib.join(multiarch), prefix.join("lib64")].map(|lib| lib.join("gstreamer-1.0").join(LIBRARY)),
        );
    }
    paths
}

/// A new element; where GStreamer has none of that name, says where it should come from.
pub fn element(factory: &str) -> Result<gst::Element, Failure> {
    gst::ElementFactory::make(factory).build().map_err(|_| {
        let remedy = match factory {
            "clipsampler" | "clipdescriber" => format!(
                "put {LIBRARY} beside the command ('cargo build --release --workspace' does), or name its folder in GST_PLUGIN_PATH"
            ),
            _ => "install gstreamer1.0-plugins-base".to_owned(),
        };
        Failure::new(Exit::Missing, format!("GStreamer has no element '{factory}'; {remedy}"))
    })
}
