//! The log of the models in GStreamer's debug log: `GST_DEBUG=describe:5,onnxruntime:4`.
//!
//! A plugin must not take the process-wide subscriber of `tracing` away from the application, so the bridge is there
//! only around the calls into the models, only in the calling thread, and only where the application has none itself.
//! What ONNX Runtime says in its own threads, of which nobody else hears, comes here, too.

use std::{
    fmt::{self, Write as _},
    sync::LazyLock,
};

use describe_models::runtime;
use gst::{glib, prelude::*};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::{Interest, NoSubscriber},
};

static DESCRIBE: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("describe", gst::DebugColorFlags::empty(), Some("Models of describe")));
static ONNXRUNTIME: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("onnxruntime", gst::DebugColorFlags::empty(), Some("ONNX Runtime")));
static BRIDGE: LazyLock<Dispatch> = LazyLock::new(|| {
    let bridge = Dispatch::new(Bridge);
    runtime::listen(bridge.clone());
    bridge
});

/// Calls `work` with everything it logs going to GStreamer, unless the application listens already.
pub fn with_bridge<T>(work: impl FnOnce() -> T) -> T {
    if tracing::dispatcher::get_default(|current| current.is::<NoSubscriber>()) {
        tracing::dispatcher::with_default(&BRIDGE, work)
    } else {
        work()
    }
}

struct Bridge;

fn category(metadata: &Metadata<'_>) -> gst::DebugCategory {
    // The runtime's and its binding's.
    if metadata.target() == "onnxruntime" || metadata.target().starts_with("ort") { *ONNXRUNTIME } else { *DESCRIBE }
}

fn level(metadata: &Metadata<'_>) -> gst::DebugLevel {
    match *metadata.level() {
        Level::ERROR => gst::DebugLevel::Error,
        Level::WARN => gst::DebugLevel::Warning,
        Level::INFO => gst::DebugLevel::Info,
        Level::DEBUG => gst::DebugLevel::Debug,
        Level::TRACE => gst::DebugLevel::Trace,
    }
}

impl Subscriber for Bridge {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Thresholds can change while the program runs.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && category(metadata).above_threshold(level(metadata))
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        category(metadata).log(
            None::<&glib::Object>,
            level(metadata),
            glib::GString::from(metadata.file().unwrap_or_default()).as_gstr(),
            metadata.module_path().unwrap_or_default(),
            metadata.line().unwrap_or_default(),
            format_args!("{}{}", line.message, line.fields),
        );
    }

    // Spans are of no use in GStreamer's log.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// An event in words: the message, then ` name=value` for each field.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What is logged in `category` while `work` runs.
    fn logged(category: &'static str, work: impl FnOnce()) -> Vec<String> {
        gst::init().unwrap();
        gst::log::remove_default_log_function();
        DESCRIBE.set_threshold(gst::DebugLevel::Debug);
        ONNXRUNTIME.set_threshold(gst::DebugLevel::Debug);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let here = std::thread::current().id();
        let handle = gst::log::add_log_function(move |from, level, _, _, _, _, message| {
            if from.name() == category && std::thread::current().id() == here {
                let text = message.get().map(|text| text.to_string()).unwrap_or_default();
                sink.lock().unwrap().push(format!("{level:?} {text}"));
            }
        });
        work();
        gst::log::remove_log_function(handle);
        Arc::try_unwrap(lines).unwrap().into_inner().unwrap()
    }

    #[test]
    fn events_go_to_the_category_of_their_target() {
        let said = || {
            with_bridge(|| {
                tracing::warn!(piece = "tags", count = 2, "left out");
                tracing::error!(target: "onnxruntime", "no memory");
                tracing::trace!("below the threshold");
            })
        };
        assert_eq!(logged("describe", said), ["Warning left out piece=\"tags\" count=2"]);
        assert_eq!(logged("onnxruntime", said), ["Error no memory"]);
    }

    #[test]
    fn nothing_is_bridged_outside_of_a_call() {
        assert!(logged("describe", || tracing::warn!("nobody asked")).is_empty());
    }

    #[test]
    fn the_subscriber_of_the_application_comes_first() {
        /// Anything that is not "none" is somebody's subscriber.
        struct Own(Bridge);
        impl Subscriber for Own {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                false
            }
            fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
                self.0.new_span(span)
            }
            fn event(&self, _: &Event<'_>) {}
            fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
            fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
            fn enter(&self, _: &span::Id) {}
            fn exit(&self, _: &span::Id) {}
        }
        let under = |subscriber: Dispatch| {
            logged("describe", || {
                tracing::dispatcher::with_default(&subscriber, || with_bridge(|| tracing::warn!("hello")));
            })
        };
        assert!(under(Dispatch::new(Own(Bridge))).is_empty());
        assert_eq!(under(Dispatch::none()), ["Warning hello"]);
    }
}
