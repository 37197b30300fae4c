//! The hardware that runs the models: what is asked for, and what is tried in which order.

use std::{fmt, path::PathBuf, str::FromStr};

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProviderDispatch};

use super::Graph;

/// Operators whose result sizes depend on data: TensorRT must leave them alone (onnxruntime#23705).
const NOT_FOR_TENSORRT: &str = "NonMaxSuppression,NonZero,RoiAlign";

/// The hardware that runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Provider {
    /// CUDA where the runtime has it and it works, else the processor.
    Auto,
    /// The processor; always there.
    #[default]
    Cpu,
    /// NVIDIA graphics by CUDA; what it cannot run goes to the processor.
    Cuda,
    /// NVIDIA graphics by TensorRT for models of standard operators, CUDA for the others.
    TensorRt,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Cpu, Self::Cuda, Self::TensorRt];

    /// The word used in properties and options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether the running ONNX Runtime was built with it; needs the runtime started.
    pub fn is_built_in(self) -> bool {
        use ep::ExecutionProvider as _;
        match self {
            Self::Auto | Self::Cpu => true,
            Self::Cuda => ep::CUDA::is_available().unwrap_or(false),
            Self::TensorRt => ep::TensorRT::is_available().unwrap_or(false),
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
            .ok_or_else(|| format!("'{word}' is no execution provider; use auto, cpu, cuda or tensorrt"))
    }
}

/// How models are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSettings {
    /// Threads of all models of the process, 1 or more.
    pub threads: usize,
    /// The hardware.
    pub provider: Provider,
    /// Number of the graphics device.
    pub device: i32,
    /// Bytes of graphics memory that each model may take; `None`: as many as there are.
    pub memory_limit: Option<usize>,
    /// The ONNX Runtime library; `None` looks in [`super::candidates`].
    pub runtime: Option<PathBuf>,
    /// Where TensorRT keeps what it built; `None`: `$XDG_CACHE_HOME/describe/tensorrt`.
    pub cache: Option<PathBuf>,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self { threads: 2, provider: Provider::Cpu, device: 0, memory_limit: None, runtime: None, cache: None }
    }
}

impl RunSettings {
    fn cache_folder(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| crate::pack::cache_folder().join("tensorrt"))
    }
}

/// The smallest, usual and largest size of an input, for TensorRT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    /// The input.
    pub name: String,
    /// Its smallest, usual and largest sizes.
    pub sizes: [Vec<usize>; 3],
}

/// One try to load a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The hardware.
    pub provider: Provider,
    /// Why it is not the one that was asked for.
    pub instead: Option<String>,
}

/// What is tried for a model of `graph` until one holds; the processor comes last.
///
/// `has_ranges`: whether the sizes of the model's inputs are known, without which TensorRT would build anew for every size.
pub fn attempts(
    wanted: Provider,
    graph: &Graph,
    has_ranges: bool,
    is_built_in: &dyn Fn(Provider) -> bool,
) -> Vec<Attempt> {
    let plain = |provider| Attempt { provider, instead: None };
    let no_tensorrt = if graph.has_contrib() {
        Some("TensorRT knows no operators outside the ONNX standard, and the model has some")
    } else if graph.has("If") {
        Some("TensorRT cannot run a model with two branches (If)")
    } else if !has_ranges {
        Some("the sizes of the model's inputs are not known beforehand")
    } else {
        None
    };
    match (wanted, no_tensorrt) {
        (Provider::Auto, _) if !is_built_in(Provider::Cuda) => vec![plain(Provider::Cpu)],
        (Provider::Cpu, _) => vec![plain(Provider::Cpu)],
        (Provider::Auto | Provider::Cuda, _) => vec![plain(Provider::Cuda), plain(Provider::Cpu)],
        (Provider::TensorRt, Some(reason)) => {
            vec![Attempt { provider: Provider::Cuda, instead: Some(reason.to_owned()) }, plain(Provider::Cpu)]
        }
        (Provider::TensorRt, None) => {
            vec![plain(Provider::TensorRt), plain(Provider::Cuda), plain(Provider::Cpu)]
        }
    }
}

/// The providers of ONNX Runtime for an attempt, each an error where it does not work.
pub(super) fn dispatch(provider: Provider, settings: &RunSettings, ranges: &[Range]) -> Vec<ExecutionProviderDispatch> {
    match provider {
        Provider::Auto | Provider::Cpu => Vec::new(),
        Provider::Cuda => vec![cuda(settings)],
        Provider::TensorRt => vec![tensorrt(settings, ranges), cuda(settings)],
    }
}

fn cuda(settings: &RunSettings) -> ExecutionProviderDispatch {
    let cuda = ep::CUDA::default()
        .with_device_id(settings.device)
        // Sessions of one process would else each take the next power of two (onnxruntime#29351).
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
    let cuda = match settings.memory_limit {
        Some(limit) => cuda.with_memory_limit(limit),
        None => cuda,
    };
    cuda.build().error_on_failure()
}

fn tensorrt(settings: &RunSettings, ranges: &[Range]) -> ExecutionProviderDispatch {
    let cache = settings.cache_folder();
    let _ = std::fs::create_dir_all(&cache);
    let cache = cache.display().to_string();
    let [least, usual, most] = [0, 1, 2].map(|which| profile(ranges, which));
    let tensorrt = ep::TensorRT::default()
        .with_device_id(settings.device)
        .with_fp16(true)
        .with_engine_cache(true)
        .with_engine_cache_path(&cache)
        .with_timing_cache(true)
        .with_timing_cache_path(&cache)
        .with_profile_min_shapes(least)
        .with_profile_opt_shapes(usual)
        .with_profile_max_shapes(most)
        .with_arbitrary_config("trt_op_types_to_exclude", NOT_FOR_TENSORRT);
    tensorrt.build().error_on_failure()
}

/// The sizes as TensorRT's options have them: `pixel_values:1x3x512x512,mask:1x512x512`.
fn profile(ranges: &[Range], which: usize) -> String {
    let sizes = |range: &Range| range.sizes[which].iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    ranges.iter().map(|range| format!("{}:{}", range.name, sizes(range))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(operators: &[&str]) -> Graph {
        Graph::of(operators)
    }

    fn tried(wanted: Provider, operators: &[&str], ranges: bool, cuda: bool) -> Vec<&'static str> {
        let built_in = |provider| provider != Provider::Cuda || cuda;
        attempts(wanted, &graph(operators), ranges, &built_in).iter().map(|attempt| attempt.provider.as_str()).collect()
    }

    #[test]
    fn encoders_go_to_tensorrt_and_decoders_with_contrib_operators_to_cuda() {
        assert_eq!(tried(Provider::TensorRt, &["Conv"], true, true), ["tensorrt", "cuda", "cpu"]);
        assert_eq!(tried(Provider::TensorRt, &["com.microsoft.MatMulNBits"], true, true), ["cuda", "cpu"]);
        assert_eq!(tried(Provider::TensorRt, &["If"], true, true), ["cuda", "cpu"]);
        assert_eq!(tried(Provider::TensorRt, &["Conv"], false, true), ["cuda", "cpu"]);
        let graph = graph(&["com.microsoft.MatMulNBits"]);
        let first = attempts(Provider::TensorRt, &graph, true, &|_| true).remove(0);
        assert!(first.instead.is_some_and(|reason| reason.contains("outside the ONNX standard")));
    }

    #[test]
    fn auto_takes_cuda_only_where_it_is_built_in() {
        assert_eq!(tried(Provider::Auto, &["Conv"], true, false), ["cpu"]);
        assert_eq!(tried(Provider::Auto, &["Conv"], true, true), ["cuda", "cpu"]);
        assert_eq!(tried(Provider::Cuda, &["Conv"], true, false), ["cuda", "cpu"]);
        assert_eq!(tried(Provider::Cpu, &["Conv"], true, true), ["cpu"]);
    }

    #[test]
    fn sizes_are_written_as_tensorrt_reads_them() {
        let range = |name: &str, side| Range { name: name.into(), sizes: [1, 2, 4].map(|n| vec![n, 3, side]) };
        let ranges = [range("pixel_values", 512), range("mask", 64)];
        assert_eq!(profile(&ranges, 2), "pixel_values:4x3x512,mask:4x3x64");
    }
}
