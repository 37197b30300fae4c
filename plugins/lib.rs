//! The plugin `describe`: timestamped captions, scene events, sound descriptions and speech for GStreamer media.
//!
//! Nothing is loaded here but the elements' names: the plugin scanner runs this, and a model or runtime that is not
//! there must not take the plugin away.
#![allow(missing_docs, reason = "the macro makes public items without documentation")]

use gst::glib;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    describe_elements::register(plugin)
}

gst::plugin_define!(
    describe,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    // GStreamer's name for what "MIT OR Apache-2.0" allows; it knows no others than its own list.
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
