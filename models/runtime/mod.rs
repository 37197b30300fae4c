//! ONNX Runtime: found and started once, with one pool of threads; then one session a file, shared by all who want it.

mod graph;
mod model;
mod provider;

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use once_cell::sync::OnceCell;
use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    logging::LogLevel,
};
use tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

pub use self::{
    graph::Graph,
    model::{Dim, Loading, Model, Outputs, Port},
    provider::{Attempt, Provider, Range, RunSettings, attempts},
};
use crate::describer::LoadError;

/// What runs: the environment, the library it came from and the threads of its pool.
struct Running {
    environment: Environment,
    path: PathBuf,
    threads: usize,
}

/// The one environment of the process. ONNX Runtime allows a single one, never again after it was dropped, and its
/// destructors crash in several hosts at exit; so it stays for ever. The fallible start is why this is once_cell's.
static ENVIRONMENT: OnceCell<Running> = OnceCell::new();

/// Starts ONNX Runtime as `settings` say, or from where [`candidates`] finds it; later calls return the one that runs,
/// with the threads that the first one asked for: all sessions of a process share one pool.
pub fn start(settings: &RunSettings) -> Result<&'static Environment, LoadError> {
    let running = ENVIRONMENT.get_or_try_init(|| open(settings.runtime.as_deref(), settings.threads.max(1)))?;
    if let Some(path) = &settings.runtime
        && *path != running.path
    {
        tracing::warn!("ONNX Runtime runs already from {}; {} is not used", running.path.display(), path.display());
    }
    if settings.threads.max(1) != running.threads {
        tracing::warn!(
            "ONNX Runtime runs already with {} threads for all models of this process; {} are not used",
            running.threads,
            settings.threads
        );
    }
    Ok(&running.environment)
}

/// The library that runs, where one does.
pub fn library() -> Option<&'static Path> {
    ENVIRONMENT.get().map(|running| running.path.as_path())
}

/// What the running library says of its version and build.
pub fn build_info() -> Option<String> {
    library().map(|_| ort::info().to_owned())
}

/// Where the library is looked for: ORT_DYLIB_PATH alone where set, else describe's data folder, then the system.
pub fn candidates() -> Vec<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let mut paths: Vec<PathBuf> =
        crate::pack::data_folders().into_iter().map(|folder| folder.join("runtime/libonnxruntime.so")).collect();
    paths.retain(|path| path.is_file());
    paths.push("libonnxruntime.so".into());
    paths
}

/// Gives memory back that loading took and no longer needs: a model is read whole before it is taken apart.
pub(crate) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time from any thread (malloc_trim(3)); it frees only what nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn open(path: Option<&Path>, threads: usize) -> Result<Running, LoadError> {
    let paths = path.map_or_else(candidates, |path| vec![path.to_owned()]);
    let mut tried = String::new();
    for path in paths {
        match ort::init_from(&path) {
            Ok(builder) => {
                // A spinning thread costs a core after each run; clips come seconds apart.
                let pool = GlobalThreadPoolOptions::default()
                    .with_intra_threads(threads)
                    .and_then(|pool| pool.with_inter_threads(1))
                    .and_then(|pool| pool.with_spin_control(false));
                return pool
                    .and_then(|pool| {
                        let builder = builder.with_name("describe").with_telemetry(false).with_logger(Arc::new(log));
                        builder.with_global_thread_pool(pool).build()
                    })
                    .map(|environment| {
                        environment.set_log_level(LogLevel::Warning);
                        Running { environment, path: path.clone(), threads }
                    })
                    .map_err(|error| LoadError::Runtime { path, reason: error.to_string() });
            }
            Err(error) => {
                let _ = write!(tried, "{}{} ({error})", if tried.is_empty() { "" } else { ", " }, path.display());
            }
        }
    }
    Err(LoadError::NoRuntime { tried })
}

/// Who hears what ONNX Runtime says in threads where nobody listens.
static LISTENER: OnceCell<Dispatch> = OnceCell::new();

/// Lets `listener` hear what ONNX Runtime says in its own threads, unless the program listens there; the first stays.
pub fn listen(listener: Dispatch) {
    let _ = LISTENER.set(listener);
}

/// Called by ONNX Runtime, also from its own threads.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    let say = || say(level, category, location, message);
    match LISTENER.get().filter(|_| dispatcher::get_default(|current| current.is::<NoSubscriber>())) {
        Some(listener) => dispatcher::with_default(listener, say),
        None => say(),
    }
}

fn say(level: LogLevel, category: &str, location: &str, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Info => tracing::debug!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Verbose => tracing::trace!(target: "onnxruntime", category, location, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing::{Event, Metadata, Subscriber, span};

    /// Counts the events of ONNX Runtime.
    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl Subscriber for Count {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "onnxruntime"
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn the_log_of_other_threads_is_heard_unless_somebody_listens_there() {
        let (ours, theirs) = (Count::default(), Count::default());
        listen(Dispatch::new(ours.clone()));
        let warn = || log(LogLevel::Warning, "onnxruntime", "", "session.cc:1", "slow");
        std::thread::spawn(warn).join().unwrap();
        let their_subscriber = Dispatch::new(theirs.clone());
        std::thread::spawn(move || dispatcher::with_default(&their_subscriber, warn)).join().unwrap();
        assert_eq!((ours.0.load(Ordering::Relaxed), theirs.0.load(Ordering::Relaxed)), (1, 1));
    }
}
