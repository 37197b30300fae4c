//! What an ONNX file says of itself, read without its weights: operators, declared sizes, files that belong to it.
//!
//! ONNX Runtime would find most faults too, but late, after allocating, and in words that name no remedy.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use crate::LoadError;

/// Most elements that an input may declare: nothing that fits in a machine has more.
const MAX_ELEMENTS: u64 = 1 << 33;
/// Longest name that is read, in bytes; longer ones count as broken.
const MAX_NAME: u64 = 4096;
/// Deepest nesting of messages: graphs in attributes of nodes.
const MAX_DEPTH: usize = 48;
/// What the names of the cache's inputs begin with.
const CACHE: &str = "past_key_values";
/// Most names of operators and files that are kept.
const MAX_NAMES: usize = 4096;

/// Facts about an ONNX file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// Names of the operators, in sub-graphs too; those outside the standard with their domain, like
    /// `com.microsoft.GroupQueryAttention`.
    pub operators: BTreeSet<String>,
    /// Files that hold weights, relative to the ONNX file.
    pub weights: BTreeSet<String>,
    /// Names of the operators that read an input of the cache, `past_key_values…`.
    cache_readers: BTreeSet<String>,
    /// Inputs that declare more elements than any machine holds, with their sizes.
    huge: Vec<(String, Vec<u64>)>,
}

impl Graph {
    /// Reads `path`; an error where it is empty, cut off, no ONNX, too large in what it declares, or where a file of its
    /// weights is missing.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let broken = |reason: String| LoadError::Model { path: path.to_owned(), reason };
        if length == 0 {
            return Err(broken("the file is empty (0 bytes)".into()));
        }
        let mut walk = Walk { from: BufReader::with_capacity(1 << 16, file), at: 0, graph: Self::default() };
        walk.message(length, Message::Model, 0).map_err(|fault| match fault {
            Fault::Io(source) => unreadable(source),
            Fault::Form(reason) => broken(format!("{reason} (the file has {length} bytes)")),
        })?;
        let graph = walk.graph;
        if graph.operators.is_empty() {
            return Err(broken("it holds no graph; it is no ONNX file".into()));
        }
        if let Some((name, sizes)) = graph.huge.first() {
            return Err(broken(format!(
                "its input '{name}' is declared with the sizes {sizes:?}, more than any memory holds"
            )));
        }
        graph.check_weights(path)?;
        Ok(graph)
    }

    /// A graph of these operators.
    #[cfg(test)]
    pub(super) fn of(operators: &[&str]) -> Self {
        Self { operators: operators.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }

    fn check_weights(&self, path: &Path) -> Result<(), LoadError> {
        for name in &self.weights {
            let missing = |reason: String| LoadError::Weights { path: path.to_owned(), file: name.clone(), reason };
            if !crate::pack::is_plain(name) {
                return Err(missing("that is no plain path beside the model".into()));
            }
            let file = path.parent().unwrap_or(Path::new(".")).join(name);
            std::fs::metadata(&file).map_err(|error| missing(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether it uses operators outside the ONNX standard, such as GroupQueryAttention or MatMulNBits.
    pub fn has_contrib(&self) -> bool {
        self.operators.iter().any(|name| name.contains('.'))
    }

    /// Whether keys and values may be written behind those there are, in the same memory: where nothing but
    /// GroupQueryAttention reads them, which is told by the mask how many there are (onnxruntime, ContribOperators.md).
    pub fn caches_in_place(&self) -> bool {
        self.cache_readers.iter().eq(["com.microsoft.GroupQueryAttention"])
    }

    /// Whether it uses the operator of that name, whatever its domain.
    pub fn has(&self, operator: &str) -> bool {
        self.operators.iter().any(|name| name.rsplit('.').next() == Some(operator))
    }
}

/// The messages of onnx.proto that are looked into (field numbers as there).
#[derive(Clone, Copy, PartialEq)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    Sparse,
}

impl Message {
    /// What is in the field `number`.
    fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            _ => return None,
        })
    }
}

enum Fault {
    Io(io::Error),
    Form(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Walk {
    from: BufReader<File>,
    at: u64,
    graph: Graph,
}

impl Walk {
    fn byte(&mut self) -> Result<u8, Fault> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }

    /// A variable-length integer that ends before `end`.
    fn number(&mut self, end: u64) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.at >= end {
                return Err(Fault::Form("it is cut off within a number".into()));
            }
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Form(format!("it is no ONNX file: a number without end at byte {}", self.at)))
    }

    fn skip_to(&mut self, target: u64) -> Result<(), Fault> {
        let distance = i64::try_from(target - self.at).map_err(|_| Fault::Form("a field is too long".into()))?;
        self.from.seek_relative(distance)?;
        self.at = target;
        Ok(())
    }

    fn text(&mut self, end: u64) -> Result<String, Fault> {
        if end - self.at > MAX_NAME {
            return Err(Fault::Form(format!("it is no ONNX file: a name of {} bytes", end - self.at)));
        }
        let mut bytes = vec![0; (end - self.at) as usize];
        self.from.read_exact(&mut bytes)?;
        self.at = end;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Calls `each` for the fields before `end`: number, and where its bytes end, or its value where it has no bytes.
    fn fields(
        &mut self,
        end: u64,
        mut each: impl FnMut(&mut Self, u64, Field) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while self.at < end {
            let start = self.at;
            let tag = self.number(end)?;
            let field = match tag & 7 {
                0 => Field::Value(self.number(end)?),
                1 => Field::Bytes(self.at + 8),
                2 => {
                    let length = self.number(end)?;
                    Field::Bytes(self.at.saturating_add(length))
                }
                5 => Field::Bytes(self.at + 4),
                kind => return Err(Fault::Form(format!("it is no ONNX file: field of kind {kind} at byte {start}"))),
            };
            match field {
                Field::Bytes(until) if until > end => {
                    return Err(Fault::Form(format!("it is cut off: the field at byte {start} ends at byte {until}")));
                }
                Field::Bytes(until) => {
                    each(self, tag >> 3, field)?;
                    self.skip_to(until)?;
                }
                Field::Value(_) => each(self, tag >> 3, field)?,
            }
        }
        Ok(())
    }

    fn message(&mut self, end: u64, message: Message, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Form("its graphs are nested too deeply".into()));
        }
        let (mut operator, mut domain, mut reads_cache) = (String::new(), String::new(), false);
        self.fields(end, |walk, number, field| {
            let Field::Bytes(until) = field else { return Ok(()) };
            match (message, number) {
                (Message::Node, 1) => reads_cache |= walk.text(until)?.starts_with(CACHE),
                (Message::Node, 4) => operator = walk.text(until)?,
                (Message::Node, 7) => domain = walk.text(until)?,
                (Message::Graph, 11) if depth <= 1 => walk.input(until)?,
                (Message::Tensor, 13) => walk.external(until)?,
                _ => {
                    if let Some(inner) = message.field(number) {
                        walk.message(until, inner, depth + 1)?;
                    }
                }
            }
            Ok(())
        })?;
        if message == Message::Node && self.graph.operators.len() < MAX_NAMES {
            let standard = matches!(domain.as_str(), "" | "ai.onnx");
            let operator = if standard { operator } else { format!("{domain}.{operator}") };
            if reads_cache {
                self.graph.cache_readers.insert(operator.clone());
            }
            self.graph.operators.insert(operator);
        }
        Ok(())
    }

    /// A `ValueInfoProto`: its name and its sizes.
    fn input(&mut self, end: u64) -> Result<(), Fault> {
        let (mut name, mut sizes) = (String::new(), Vec::new());
        self.fields(end, |walk, number, field| match (number, field) {
            (1, Field::Bytes(until)) => {
                name = walk.text(until)?;
                Ok(())
            }
            (2, Field::Bytes(until)) => walk.sizes(until, &[1, 2, 1, 1], &mut sizes),
            _ => Ok(()),
        })?;
        let elements = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size.max(1)));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) && self.graph.huge.len() < 16 {
            self.graph.huge.push((name, sizes));
        }
        Ok(())
    }

    /// The `dim_value`s under `TypeProto.tensor_type.shape.dim`: the field numbers of `path`.
    fn sizes(&mut self, end: u64, path: &[u64], sizes: &mut Vec<u64>) -> Result<(), Fault> {
        let Some((&wanted, rest)) = path.split_first() else { return Ok(()) };
        self.fields(end, |walk, number, field| match field {
            Field::Value(value) if number == wanted && rest.is_empty() && sizes.len() < 64 => {
                sizes.push(value);
                Ok(())
            }
            Field::Bytes(until) if number == wanted && !rest.is_empty() => walk.sizes(until, rest, sizes),
            _ => Ok(()),
        })
    }

    /// A `StringStringEntryProto` of a tensor's external data.
    fn external(&mut self, end: u64) -> Result<(), Fault> {
        let (mut key, mut value) = (String::new(), String::new());
        self.fields(end, |walk, number, field| {
            if let Field::Bytes(until) = field {
                match number {
                    1 => key = walk.text(until)?,
                    2 => value = walk.text(until)?,
                    _ => {}
                }
            }
            Ok(())
        })?;
        if key == "location" && self.graph.weights.len() < MAX_NAMES {
            self.graph.weights.insert(value);
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Field {
    Value(u64),
    Bytes(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, bytes.len() as u8];
        out.extend_from_slice(bytes);
        out
    }

    fn node(operator: &str, domain: &str) -> Vec<u8> {
        field(1, &[field(4, operator.as_bytes()), field(7, domain.as_bytes())].concat())
    }

    fn input(name: &str, sizes: &[u8]) -> Vec<u8> {
        let dims: Vec<u8> = sizes.iter().flat_map(|size| field(1, &[8, *size])).collect();
        field(11, &[field(1, name.as_bytes()), field(2, &field(1, &field(2, &dims)))].concat())
    }

    fn read(model: &[u8]) -> Result<Graph, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model).unwrap();
        Graph::read(&path)
    }

    #[test]
    fn operators_are_found_also_within_sub_graphs() {
        let inner = field(5, &field(6, &node("GroupQueryAttention", "com.microsoft")));
        let outer = field(1, &[field(4, b"If"), inner].concat());
        let graph = read(&field(7, &[outer, node("Add", ""), input("x", &[2, 3])].concat())).unwrap();
        let wanted = ["Add", "If", "com.microsoft.GroupQueryAttention"];
        assert_eq!(graph.operators.iter().collect::<Vec<_>>(), wanted);
        assert!(graph.has_contrib() && graph.has("GroupQueryAttention") && !graph.has("Conv"));
    }

    #[test]
    fn a_cache_is_in_place_where_only_group_query_attention_reads_it() {
        let reader = |operator: &str, domain: &str| {
            field(
                1,
                &[field(1, b"past_key_values.0.key"), field(4, operator.as_bytes()), field(7, domain.as_bytes())]
                    .concat(),
            )
        };
        let in_place = |nodes: &[Vec<u8>]| read(&field(7, &nodes.concat())).unwrap().caches_in_place();
        let grouped = reader("GroupQueryAttention", "com.microsoft");
        assert!(in_place(&[grouped.clone(), node("Add", "")]));
        assert!(!in_place(&[grouped, reader("Shape", "")]) && !in_place(&[reader("Concat", "")]));
        assert!(!in_place(&[node("GroupQueryAttention", "com.microsoft")]));
    }

    #[test]
    fn weights_that_are_missing_or_outside_are_named() {
        for (location, reason) in [("model.onnx_data", "No such file"), ("../../etc/passwd", "no plain path")] {
            let entry = field(13, &[field(1, b"location"), field(2, location.as_bytes())].concat());
            let error = read(&field(7, &[node("Add", ""), field(5, &entry)].concat())).unwrap_err().to_string();
            assert!(error.contains(location) && error.contains(reason) && error.contains("model.onnx"), "{error}");
        }
    }

    #[test]
    fn an_input_larger_than_memory_is_refused() {
        let dim = field(1, &[8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
        let huge = field(11, &[field(1, b"x"), field(2, &field(1, &field(2, &dim)))].concat());
        let error = read(&field(7, &[node("Add", ""), huge].concat())).unwrap_err().to_string();
        assert!(error.contains("'x'") && error.contains("1099511627776"), "{error}");
    }

    #[test]
    fn empty_and_cut_files_say_so() {
        assert!(read(&[]).unwrap_err().to_string().contains("0 bytes"));
        let whole = field(7, &[node("Add", ""), node("Mul", "")].concat());
        assert!(read(&whole[..whole.len() - 3]).unwrap_err().to_string().contains("cut off"));
        assert!(read(b"not a model at all").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
