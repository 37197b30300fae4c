//! Adds up the time inside ONNX Runtime, from the spans of `Model::run`.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{Event, Metadata, Subscriber, span};

thread_local! {
    /// When the run of this thread began; runs are not nested.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Nanoseconds inside ONNX Runtime since they were taken last, of all threads that run models.
#[derive(Clone, Default)]
pub struct Runs(Arc<AtomicU64>);

impl Runs {
    /// Listens from now on, in the whole process.
    pub fn listen() -> Self {
        let runs = Self::default();
        tracing::subscriber::set_global_default(runs.clone()).expect("the bench sets the only subscriber");
        runs
    }

    /// The time since the last call.
    pub fn take(&self) -> Duration {
        Duration::from_nanos(self.0.swap(0, Ordering::Relaxed))
    }
}

impl Subscriber for Runs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("describe_models::runtime") && metadata.name() == "run"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn enter(&self, _: &span::Id) {
        BEGAN.set(Some(Instant::now()));
    }

    fn exit(&self, _: &span::Id) {
        if let Some(began) = BEGAN.take() {
            self.0.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn event(&self, _: &Event<'_>) {}
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
}
