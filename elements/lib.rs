//! The GStreamer side of describe: elements translate events and buffers; thinking is in `describe-models`.

pub mod bridge;
pub mod clip;
pub mod clipdescriber;
pub mod clipsampler;
pub mod observation;

/// Makes every element known to GStreamer.
pub fn register(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
    clipsampler::register(plugin)?;
    clipdescriber::register(plugin)?;
    Ok(())
}
