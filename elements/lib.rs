//! The GStreamer side of describe: elements translate events and buffers; thinking is in `describe-models`.

use gst::glib;

pub mod clip;
pub mod clipsampler;

/// Makes every element known to GStreamer.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    clipsampler::register(plugin)?;
    Ok(())
}
