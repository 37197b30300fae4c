//! ONNX Runtime: found and started once, then one [`Model`] a file.

use std::{
    env,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use once_cell::sync::OnceCell;
use ort::{
    environment::Environment,
    ep,
    logging::LogLevel,
    session::{Session, SessionInputs, SessionOutputs, builder::GraphOptimizationLevel},
    value::ValueType,
};
use tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

use crate::describer::{Cancel, DescribeError, LoadError};

/// The one environment of the process. ONNX Runtime allows a single one, never again after it was dropped, and its
/// destructors crash in several hosts at exit; so it stays for ever. The fallible start is why this is once_cell's.
static ENVIRONMENT: OnceCell<(Environment, PathBuf)> = OnceCell::new();

/// Starts ONNX Runtime from `path`, or from where [`candidates`] finds it; later calls return the one that runs.
pub fn start(path: Option<&Path>) -> Result<&'static Environment, LoadError> {
    let (environment, running) = ENVIRONMENT.get_or_try_init(|| open(path))?;
    if let Some(path) = path
        && path != running
    {
        tracing::warn!("ONNX Runtime runs already from {}; {} is not used", running.display(), path.display());
    }
    Ok(environment)
}

/// The library that runs, where one does.
pub fn library() -> Option<&'static Path> {
    ENVIRONMENT.get().map(|(_, path)| path.as_path())
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

fn open(path: Option<&Path>) -> Result<(Environment, PathBuf), LoadError> {
    let paths = path.map_or_else(candidates, |path| vec![path.to_owned()]);
    let mut tried = String::new();
    for path in paths {
        match ort::init_from(&path) {
            Ok(builder) => {
                return builder
                    .with_name("describe")
                    .with_telemetry(false)
                    .with_logger(Arc::new(log))
                    .build()
                    .map(|environment| {
                        environment.set_log_level(LogLevel::Warning);
                        (environment, path.clone())
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

/// The hardware that runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Provider {
    /// The processor; always there.
    #[default]
    Cpu,
    /// NVIDIA graphics by CUDA; what it cannot run goes to the processor.
    Cuda,
    /// NVIDIA graphics by TensorRT, then CUDA.
    TensorRt,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::TensorRt];

    /// The word used in properties and options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether the running ONNX Runtime was built with it; needs the runtime started.
    pub fn is_built_in(self) -> bool {
        use ep::ExecutionProvider as _;
        match self {
            Self::Cpu => true,
            Self::Cuda => ep::CUDA::is_available().unwrap_or(false),
            Self::TensorRt => ep::TensorRT::is_available().unwrap_or(false),
        }
    }

    fn dispatch(self) -> Vec<ep::ExecutionProviderDispatch> {
        match self {
            Self::Cpu => Vec::new(),
            Self::Cuda => vec![ep::CUDA::default().build().error_on_failure()],
            Self::TensorRt => {
                vec![ep::TensorRT::default().build().error_on_failure(), ep::CUDA::default().build().error_on_failure()]
            }
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == word)
            .ok_or_else(|| format!("'{word}' is no execution provider; use cpu, cuda or tensorrt"))
    }
}

/// How models are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSettings {
    /// Threads of one model, 1 or more.
    pub threads: usize,
    /// The hardware.
    pub provider: Provider,
    /// The ONNX Runtime library; `None` looks in [`candidates`].
    pub runtime: Option<PathBuf>,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { threads: 2, provider: Provider::Cpu, runtime: None }
    }
}

/// A loaded ONNX file.
pub struct Model {
    session: Session,
    path: PathBuf,
    piece: String,
}

impl Model {
    /// Loads `path` for the piece named `piece`, starting ONNX Runtime where it does not run yet.
    pub fn load(piece: &str, path: &Path, settings: &RunSettings) -> Result<Self, LoadError> {
        let environment = start(settings.runtime.as_deref())?;
        std::fs::File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let broken = |error: String| LoadError::Model { path: path.to_owned(), reason: error };
        let mut builder = Session::builder(environment)
            .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Level3)?))
            .and_then(|builder| Ok(builder.with_intra_threads(settings.threads.max(1))?))
            // A spinning thread costs a core after each run; clips come seconds apart.
            .and_then(|builder| Ok(builder.with_intra_op_spinning(false)?))
            .and_then(|builder| Ok(builder.with_inter_op_spinning(false)?))
            .map_err(|error: ort::Error| broken(error.to_string()))?;
        let dispatch = settings.provider.dispatch();
        if !dispatch.is_empty() {
            builder = builder.with_execution_providers(dispatch).map_err(|error| LoadError::Provider {
                provider: settings.provider.to_string(),
                reason: error.to_string(),
            })?;
        }
        let session = builder.commit_from_file(path).map_err(|error| broken(error.to_string()))?;
        Ok(Self { session, path: path.to_owned(), piece: piece.to_owned() })
    }

    /// Checks that the model takes exactly `inputs` and gives at least `outputs`; in a shape, -1 stands for any size.
    pub fn expect(self, inputs: &[(&str, &[i64])], outputs: &[(&str, &[i64])]) -> Result<Self, LoadError> {
        for input in self.session.inputs() {
            if !inputs.iter().any(|(name, _)| *name == input.name()) {
                return Err(self.signature(format!("it takes '{}', which the piece cannot give", input.name())));
            }
        }
        for (side, found, wanted) in
            [("take", self.session.inputs(), inputs), ("give", self.session.outputs(), outputs)]
        {
            for (name, shape) in wanted {
                let Some(outlet) = found.iter().find(|outlet| outlet.name() == *name) else {
                    return Err(self.signature(format!("it does not {side} '{name}'")));
                };
                let ValueType::Tensor { shape: has, .. } = outlet.dtype() else {
                    return Err(self.signature(format!("'{name}' is no tensor")));
                };
                let fits = has.len() == shape.len()
                    && has.iter().zip(*shape).all(|(has, want)| *has == -1 || *want == -1 || has == want);
                if !fits {
                    return Err(self.signature(format!("'{name}' has shape {has:?}, {shape:?} is needed (-1: any)")));
                }
            }
        }
        Ok(self)
    }

    fn signature(&self, reason: String) -> LoadError {
        LoadError::Signature { path: self.path.clone(), piece: self.piece.clone(), reason }
    }

    /// Declared size of dimension `axis` of input `name`; `None` where it is free or not there.
    pub fn input_dim(&self, name: &str, axis: usize) -> Option<usize> {
        let outlet = self.session.inputs().iter().find(|input| input.name() == name)?;
        let ValueType::Tensor { shape, .. } = outlet.dtype() else { return None };
        shape.get(axis).and_then(|dim| usize::try_from(*dim).ok())
    }

    /// Whether the model gives `name`.
    pub fn has_output(&self, name: &str) -> bool {
        self.session.outputs().iter().any(|output| output.name() == name)
    }

    /// Runs the model; `cancel` stops it.
    pub fn run<'r, 's: 'r, 'i, 'v: 'i, const N: usize>(
        &'s mut self,
        inputs: impl Into<SessionInputs<'i, 'v, N>>,
        cancel: &'r Cancel,
    ) -> Result<SessionOutputs<'r>, DescribeError> {
        cancel.check()?;
        let piece = &self.piece;
        // Free of cost where nobody listens; the benches add these up.
        let _run = tracing::trace_span!("run", piece).entered();
        let result = match cancel.run_options() {
            Some(options) => self.session.run_with_options(inputs, options),
            None => self.session.run(inputs),
        };
        result.map_err(|source| match cancel.check() {
            Err(cancelled) => cancelled,
            Ok(()) => DescribeError::Run { piece: piece.clone(), source },
        })
    }

    /// The piece it was loaded for.
    pub fn piece(&self) -> &str {
        &self.piece
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
