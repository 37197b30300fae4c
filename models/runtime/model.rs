//! One session a file, shared by everyone in the process who wants it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use ort::{
    ep::CPU,
    session::{IoBinding, Session, SessionInputs, builder::GraphOptimizationLevel},
    value::{DynValue, Outlet, TensorElementType, ValueType},
};

use super::{
    Graph,
    provider::{self, Attempt, Provider, Range, RunSettings, attempts},
    start,
};
use crate::describer::{Cancel, DescribeError, LoadError};

/// Size of a declared dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always so many.
    Fixed(usize),
    /// Any number; the name that the file gives to it, empty where it gives none.
    Free(String),
}

/// A declared input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its elements; `None` where it is no tensor.
    pub kind: Option<TensorElementType>,
    /// Its sizes.
    pub dims: Vec<Dim>,
}

impl Port {
    fn new(outlet: &Outlet) -> Self {
        let name = outlet.name().to_owned();
        let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
            return Self { name, kind: None, dims: Vec::new() };
        };
        let dim = |(axis, size): (usize, &i64)| match usize::try_from(*size) {
            Ok(size) => Dim::Fixed(size),
            Err(_) => Dim::Free(dimension_symbols.get(axis).cloned().unwrap_or_default()),
        };
        Self { name, kind: Some(*ty), dims: shape.iter().enumerate().map(dim).collect() }
    }

    /// Size of dimension `axis` where it is declared.
    pub fn dim(&self, axis: usize) -> Option<usize> {
        match self.dims.get(axis)? {
            Dim::Fixed(size) => Some(*size),
            Dim::Free(_) => None,
        }
    }
}

/// What makes two sessions the same.
#[derive(PartialEq)]
struct Key {
    path: PathBuf,
    length: u64,
    changed: Option<SystemTime>,
    provider: Provider,
    device: i32,
    memory_limit: Option<usize>,
    ranges: Vec<Range>,
    arena: bool,
}

/// A session with what was read from it.
struct Shared {
    session: Mutex<Session>,
    path: PathBuf,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    graph: Graph,
    provider: Provider,
}

/// All sessions in use. Held while one is loaded, so that nobody loads the same a second time meanwhile.
static SESSIONS: LazyLock<Mutex<Sessions>> = LazyLock::new(Mutex::default);
type Sessions = Vec<(Key, Weak<Shared>)>;

/// A loaded ONNX file; clones, and other loads of the same file, share its session and weights.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
    piece: Arc<str>,
}

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Loading<'a> {
    /// Name of the piece in messages.
    pub piece: &'a str,
    /// The ONNX file.
    pub path: &'a Path,
    /// How it is run.
    pub settings: &'a RunSettings,
    /// Sizes of its inputs, where they are known; TensorRT needs them.
    pub ranges: Vec<Range>,
    /// Whether the processor's memory of a run is kept for the next: worth it only for short runs in quick succession.
    pub arena: bool,
}

impl Model {
    /// Loads `path` for the piece named `piece`, starting ONNX Runtime where it does not run yet.
    pub fn load(piece: &str, path: &Path, settings: &RunSettings) -> Result<Self, LoadError> {
        Self::open(Loading { piece, path, settings, ranges: Vec::new(), arena: false })
    }

    /// Loads a file, or shares the session where somebody has it loaded.
    pub fn open(loading: Loading<'_>) -> Result<Self, LoadError> {
        let Loading { piece, path, settings, .. } = loading;
        let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
        let about = fs::metadata(path).map_err(unreadable)?;
        let key = Key {
            path: path.canonicalize().map_err(unreadable)?,
            length: about.len(),
            changed: about.modified().ok(),
            provider: settings.provider,
            device: settings.device,
            memory_limit: settings.memory_limit,
            ranges: loading.ranges.clone(),
            arena: loading.arena,
        };
        start(settings)?;
        let mut sessions = guard(&SESSIONS);
        sessions.retain(|(_, shared)| shared.strong_count() > 0);
        let found = sessions.iter().find(|(has, _)| *has == key).and_then(|(_, shared)| shared.upgrade());
        let shared = match found {
            Some(shared) => shared,
            None => {
                let shared = Arc::new(load(&loading)?);
                sessions.push((key, Arc::downgrade(&shared)));
                shared
            }
        };
        Ok(Self { shared, piece: piece.into() })
    }

    /// Checks that the model takes exactly `inputs` and gives at least `outputs`; in a shape, -1 stands for any size.
    pub fn expect(self, inputs: &[(&str, &[i64])], outputs: &[(&str, &[i64])]) -> Result<Self, LoadError> {
        if let Some(extra) = self.inputs().iter().find(|port| !inputs.iter().any(|(name, _)| *name == port.name)) {
            return Err(self.signature(format!("it takes '{}', which the piece cannot give", extra.name)));
        }
        for (side, found, wanted) in [("take", self.inputs(), inputs), ("give", self.outputs(), outputs)] {
            for (name, shape) in wanted {
                let Some(port) = found.iter().find(|port| port.name == *name) else {
                    return Err(self.signature(format!("it does not {side} '{name}'")));
                };
                if port.kind.is_none() {
                    return Err(self.signature(format!("'{name}' is no tensor")));
                }
                let same = |(dim, want): (&Dim, &i64)| match dim {
                    Dim::Fixed(size) => *want == -1 || usize::try_from(*want) == Ok(*size),
                    Dim::Free(_) => true,
                };
                if port.dims.len() != shape.len() || !port.dims.iter().zip(*shape).all(same) {
                    let has: Vec<i64> = (0..port.dims.len()).map(|i| port.dim(i).map_or(-1, |n| n as i64)).collect();
                    return Err(self.signature(format!("'{name}' has shape {has:?}, {shape:?} is needed (-1: any)")));
                }
            }
        }
        Ok(self)
    }

    /// An error that says what the model takes or gives in another way than the piece needs.
    pub fn signature(&self, reason: String) -> LoadError {
        LoadError::Signature { path: self.shared.path.clone(), piece: self.piece.to_string(), reason }
    }

    /// Declared size of dimension `axis` of input `name`; `None` where it is free or not there.
    pub fn input_dim(&self, name: &str, axis: usize) -> Option<usize> {
        self.input(name)?.dim(axis)
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs().iter().find(|port| port.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs().iter().find(|port| port.name == name)
    }

    /// Everything that it takes.
    pub fn inputs(&self) -> &[Port] {
        &self.shared.inputs
    }

    /// Everything that it gives.
    pub fn outputs(&self) -> &[Port] {
        &self.shared.outputs
    }

    /// Whether the model gives `name`.
    pub fn has_output(&self, name: &str) -> bool {
        self.output(name).is_some()
    }

    /// What its file says of it.
    pub fn graph(&self) -> &Graph {
        &self.shared.graph
    }

    /// The hardware that holds it.
    pub fn provider(&self) -> Provider {
        self.shared.provider
    }

    /// Whether both are one session with one set of weights.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The piece it was loaded for.
    pub fn piece(&self) -> &str {
        &self.piece
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Runs the model; `cancel` stops it.
    pub fn run<'i, 'v: 'i, const N: usize>(
        &self,
        inputs: impl Into<SessionInputs<'i, 'v, N>>,
        cancel: &Cancel,
    ) -> Result<Outputs, DescribeError> {
        self.guarded(cancel, |session| {
            let outputs = match cancel.run_options() {
                Some(options) => session.run_with_options(inputs, options),
                None => session.run(inputs),
            };
            outputs.map(|mut outputs| {
                let names: Vec<String> = outputs.keys().map(str::to_owned).collect();
                Outputs(names.into_iter().filter_map(|name| outputs.remove(&name).map(|value| (name, value))).collect())
            })
        })
    }

    /// An empty binding of values to the model's inputs and outputs.
    pub fn binding(&self) -> Result<IoBinding, DescribeError> {
        let binding = guard(&self.shared.session).create_binding();
        binding.map_err(|source| DescribeError::Run { piece: self.piece.to_string(), source })
    }

    /// Runs the model on what is bound; the outputs stay on the device that they are bound to.
    pub fn run_bound(&self, binding: &IoBinding, cancel: &Cancel) -> Result<Outputs, DescribeError> {
        self.guarded(cancel, |session| {
            let outputs = match cancel.run_options() {
                Some(options) => session.run_binding_with_options(binding, options),
                None => session.run_binding(binding),
            };
            outputs.map(|mut outputs| {
                let names: Vec<String> = outputs.keys().map(str::to_owned).collect();
                Outputs(names.into_iter().filter_map(|name| outputs.remove(&name).map(|value| (name, value))).collect())
            })
        })
    }

    fn guarded(
        &self,
        cancel: &Cancel,
        run: impl FnOnce(&mut Session) -> ort::Result<Outputs>,
    ) -> Result<Outputs, DescribeError> {
        cancel.check()?;
        let mut session = guard(&self.shared.session);
        let piece = &*self.piece;
        // Free of cost where nobody listens; the benches add these up.
        let span = tracing::trace_span!("run", piece).entered();
        let result = run(&mut session);
        drop(span);
        result.map_err(|source| match cancel.check() {
            Err(cancelled) => cancelled,
            Ok(()) => DescribeError::Run { piece: piece.to_owned(), source },
        })
    }
}

/// What is behind the lock, also after a panic of another thread: a session has no state that a panic could break.
fn guard<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries what [`attempts`] says until something holds.
fn load(loading: &Loading<'_>) -> Result<Shared, LoadError> {
    let Loading { piece, path, settings, ranges, .. } = loading;
    let graph = Graph::read(path)?;
    let plan = attempts(settings.provider, &graph, !ranges.is_empty(), &Provider::is_built_in);
    let mut attempts = plan.into_iter().peekable();
    while let Some(Attempt { provider, instead }) = attempts.next() {
        if let Some(reason) = instead {
            tracing::warn!("{piece}: {provider} is used instead of {}: {reason}", settings.provider);
        }
        match session(loading, provider) {
            Ok(session) => {
                tracing::info!("{piece}: {} runs on {provider}", path.display());
                let ports = |outlets: &[Outlet]| outlets.iter().map(Port::new).collect();
                let (inputs, outputs) = (ports(session.inputs()), ports(session.outputs()));
                let session = Mutex::new(session);
                return Ok(Shared { session, path: path.to_path_buf(), inputs, outputs, graph, provider });
            }
            Err(error) => match attempts.peek() {
                Some(next) => tracing::warn!(
                    "{piece}: {provider} does not work here ({error}); {} is used. Install its libraries, or ask for \
                     execution-provider={} to be rid of this warning",
                    next.provider,
                    next.provider
                ),
                None => return Err(LoadError::Model { path: path.to_path_buf(), reason: error.to_string() }),
            },
        }
    }
    Err(LoadError::Model { path: path.to_path_buf(), reason: "there is nothing to run it on".into() })
}

fn session(loading: &Loading<'_>, provider: Provider) -> ort::Result<Session> {
    let Loading { path, settings, ranges, .. } = loading;
    let environment = start(settings).map_err(|error| ort::Error::new(error.to_string()))?;
    let mut builder = Session::builder(environment)?.with_optimization_level(GraphOptimizationLevel::Level3)?;
    let mut dispatch = provider::dispatch(provider, settings, ranges);
    // What is kept for the next run is memory that all other models have not (benches/compare.py, memory).
    builder = builder.with_memory_pattern(loading.arena)?;
    dispatch.push(CPU::default().with_arena_allocator(loading.arena).build());
    builder.with_execution_providers(dispatch)?.commit_from_file(path)
}

/// What a run gave, by name.
#[derive(Debug)]
pub struct Outputs(Vec<(String, DynValue)>);

impl Outputs {
    /// The output of that name.
    pub fn get(&self, name: &str) -> Option<&DynValue> {
        self.0.iter().find(|(has, _)| has == name).map(|(_, value)| value)
    }

    /// The output of that name, or an error of the same sort as a run's.
    pub fn value(&self, name: &str) -> ort::Result<&DynValue> {
        self.get(name).ok_or_else(|| ort::Error::new(format!("the model did not give '{name}'")))
    }

    /// Takes the output of that name out.
    pub fn remove(&mut self, name: &str) -> Option<DynValue> {
        let index = self.0.iter().position(|(has, _)| has == name)?;
        Some(self.0.swap_remove(index).1)
    }
}
