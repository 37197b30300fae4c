//! The GStreamer side of describe: elements translate events and buffers; thinking is in `describe-models`.

use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The data behind `mutex`; a panic while it was locked is an error of the element already, and the data is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
