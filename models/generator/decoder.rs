//! The decoder of a published model with its KV cache, which stays in ONNX Runtime's values from step to step.
//!
//! Inputs and outputs are those that the files declare (Transformers.js `decoder_forward`, `addPastKeyValues`); nothing is
//! fed that is not declared.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use half::f16;
use ndarray::Array2;
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::IoBinding,
    value::{DynTensor, DynValue, Tensor, TensorElementType},
};

use super::{
    profile::{Profile, RECURRENT},
    prompt::Prompt,
};
use crate::{
    Cancel, DescribeError, LoadError,
    runtime::{Dim, Loading, Model, Outputs, Port, Provider, RunSettings},
};

/// Tokens of a prompt that are read in one run; more make the run's memory grow with their square.
pub const CHUNK: usize = 512;
const EMBED: &str = "embed_tokens";
/// Tokens that a cache in place has room for at first, and the share by which it has more than it needs: one eighth.
const ROOM: usize = 64;
const SPARE: usize = 8;

/// A cache tensor: what it is called going in and coming out, and which axis grows.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) past: String,
    pub(crate) present: String,
    kind: TensorElementType,
    /// Its shape with nothing in it.
    empty: Vec<usize>,
    axis: usize,
}

/// Keys and values of some tokens; clones share them.
#[derive(Clone, Default)]
struct Cache {
    values: Vec<Arc<DynValue>>,
    /// What each token was: its number, or a hash of the features in its place.
    tokens: Vec<u64>,
}

/// What a decoder did since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens that were run through the decoder.
    pub tokens: u64,
    /// Tokens of prompts that were in the cache already.
    pub reused: u64,
    /// Runs of the decoder.
    pub runs: u64,
    /// Bytes of the cache that were copied on the processor by us, to cut it or to make room.
    pub copied: u64,
}

/// A decoder and what it has read.
pub struct Decoder {
    model: Model,
    embed: Option<Model>,
    slots: Vec<Slot>,
    /// Inputs that the embedding makes.
    embedded: Vec<Port>,
    positions: bool,
    mask: bool,
    branch: bool,
    /// Rank of `num_logits_to_keep`.
    keeps: Option<usize>,
    vocabulary: Option<usize>,
    first_position: i64,
    /// The token that is embedded where features go, and whether it is.
    blank: Option<u32>,
    binding: IoBinding,
    memory: MemoryInfo<'static>,
    cache: Cache,
    /// The cache at the end of the fixed prefix; its tokens alone where the cache is in place.
    prefix: Option<Cache>,
    /// Whether keys and values are written behind those there are, in memory that has room for more.
    in_place: bool,
    room: usize,
    work: Work,
}

/// Scores of the last tokens that were read: `rows` times the size of the vocabulary.
#[derive(Debug, Clone, Default)]
pub struct Logits {
    values: Vec<f32>,
    width: usize,
}

impl Logits {
    /// How many tokens have scores.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The scores after token `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The scores after the last token.
    pub fn last(&self) -> &[f32] {
        self.row(self.len().saturating_sub(1))
    }
}

impl Decoder {
    /// Loads `decoder` and, where it wants embeddings, `embed`.
    pub fn load(
        decoder: &Path,
        embed: Option<&Path>,
        profile: Option<&Profile>,
        settings: &RunSettings,
    ) -> Result<Self, LoadError> {
        let load =
            |piece: &str, path: &Path| Model::open(Loading { piece, path, settings, ranges: Vec::new(), arena: true });
        let model = load("decoder", decoder)?;
        let has = |name: &str| model.input(name).is_some();
        let embedded: Vec<Port> = match has("input_ids") {
            true => Vec::new(),
            false => model
                .inputs()
                .iter()
                .filter(|port| port.name.ends_with("_embeds") || port.name == "per_layer_inputs")
                .cloned()
                .collect(),
        };
        let embed = match (embedded.is_empty(), embed) {
            (true, _) => None,
            (false, Some(path)) => Some(checked_embedding(load(EMBED, path)?, &model, &embedded)?),
            (false, None) => return Err(model.signature("it takes embeddings, and there is no embed_tokens".into())),
        };
        let slots = slots(&model)?;
        refuse_unknown(&model, &embedded, &slots)?;
        let logits = model.output("logits").ok_or_else(|| model.signature("it does not give 'logits'".into()))?;
        let vocabulary = logits.dim(2);
        let binding = model.binding().map_err(|error| model.signature(error.to_string()))?;
        let memory = memory(&model, settings).map_err(|error| model.signature(error.to_string()))?;
        let keeps = model.input("num_logits_to_keep").map(|port| port.dims.len());
        Ok(Self {
            positions: has("position_ids"),
            mask: has("attention_mask"),
            branch: has("use_cache_branch"),
            keeps,
            vocabulary,
            first_position: profile.map_or(0, |profile| profile.family.first_position),
            blank: profile.filter(|profile| profile.family.blanks).map(|profile| profile.pad),
            embed,
            slots,
            embedded,
            binding,
            memory,
            cache: Cache::default(),
            prefix: None,
            in_place: in_place(&model),
            room: 0,
            work: Work::default(),
            model,
        })
    }

    /// Scores of the vocabulary, where the file says how many there are.
    pub fn vocabulary(&self) -> Option<usize> {
        self.vocabulary
    }

    /// Width of the embeddings, where the files say.
    pub fn width(&self) -> Option<usize> {
        self.embed.as_ref()?.output("inputs_embeds")?.dim(2)
    }

    /// The hardware that holds it.
    pub fn provider(&self) -> Provider {
        self.model.provider()
    }

    /// Tokens that it has read.
    pub fn len(&self) -> usize {
        self.cache.tokens.len()
    }

    /// Whether it has read nothing.
    pub fn is_empty(&self) -> bool {
        self.cache.tokens.is_empty()
    }

    /// What it did so far.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Forgets everything it has read, but not the fixed prefix.
    pub fn clear(&mut self) {
        self.take(Cache::default());
    }

    /// Forgets the prefix too.
    pub fn reset(&mut self) {
        (self.cache, self.prefix, self.room) = (Cache::default(), None, 0);
    }

    /// What was kept becomes the cache.
    fn take(&mut self, kept: Cache) {
        match self.in_place {
            true => self.cache.tokens = kept.tokens,
            false => self.cache = kept,
        }
    }

    /// The cache as it is now, to be kept.
    fn kept(&self) -> Cache {
        match self.in_place {
            true => Cache { values: Vec::new(), tokens: self.cache.tokens.clone() },
            false => self.cache.clone(),
        }
    }

    /// Reads `prompt` and gives the scores after its last token.
    ///
    /// What it begins with and was read before is not read again. The first `prefix` tokens are kept for later prompts
    /// that begin with them.
    pub fn feed(&mut self, prompt: &Prompt, prefix: usize, cancel: &Cancel) -> Result<Logits, DescribeError> {
        self.feed_in(prompt, prefix, CHUNK, cancel)
    }

    /// [`Self::feed`] with at most `chunk` tokens a run.
    pub fn feed_in(
        &mut self,
        prompt: &Prompt,
        prefix: usize,
        chunk: usize,
        cancel: &Cancel,
    ) -> Result<Logits, DescribeError> {
        let tokens = identities(prompt);
        if tokens.is_empty() {
            return Err(self.failed(ort::Error::new("the prompt is empty")));
        }
        // The last token is always read, for its scores.
        let known = common(&self.cache.tokens, &tokens[..tokens.len() - 1]);
        let kept = self.prefix.clone().filter(|kept| tokens[..tokens.len() - 1].starts_with(&kept.tokens));
        match kept {
            Some(kept) if kept.tokens.len() > known => self.take(kept),
            _ => self.rewind(known)?,
        }
        self.work.reused += self.len() as u64;
        let mut logits = Logits::default();
        while self.len() < tokens.len() {
            let at = self.len();
            let mut until = tokens.len().min(at + chunk.max(1));
            if at < prefix && prefix < tokens.len() {
                until = until.min(prefix);
            }
            logits = self.run(prompt, &tokens, at, until, 1, cancel)?;
            if until == prefix {
                self.prefix = Some(self.kept());
            }
        }
        Ok(logits)
    }

    /// Reads `ids` after what it has read; gives the scores after each of the last `keep`.
    pub fn step(&mut self, ids: &[u32], keep: usize, cancel: &Cancel) -> Result<Logits, DescribeError> {
        let before = self.len();
        let prompt = Prompt { ids: ids.to_vec(), soft: Vec::new() };
        let mut tokens = self.cache.tokens.clone();
        tokens.extend(identities(&prompt));
        let shifted = Shifted { prompt: &prompt, by: before };
        self.run_shifted(&shifted, &tokens, before, tokens.len(), keep.max(1), cancel)
    }

    /// Forgets all but the first `length` tokens; on graphics devices perhaps more, down to the prefix.
    pub fn rewind(&mut self, length: usize) -> Result<(), DescribeError> {
        if length >= self.len() {
            return Ok(());
        }
        if length == 0 {
            self.clear();
            return Ok(());
        }
        if self.in_place {
            self.cache.tokens.truncate(length);
            return Ok(());
        }
        if let Some(prefix) = self
            .prefix
            .as_ref()
            .filter(|prefix| prefix.tokens.len() == length && self.cache.tokens.starts_with(&prefix.tokens))
        {
            self.cache = prefix.clone();
            return Ok(());
        }
        if self.model.provider() != Provider::Cpu {
            let prefix = self
                .prefix
                .clone()
                .filter(|prefix| prefix.tokens.len() <= length && self.cache.tokens.starts_with(&prefix.tokens));
            self.cache = prefix.unwrap_or_default();
            return Ok(());
        }
        let cut: ort::Result<Vec<(DynValue, u64)>> =
            self.cache.values.iter().zip(&self.slots).map(|(value, slot)| cut(value, slot, length)).collect();
        let cut = cut.map_err(|error| self.failed(error))?;
        self.work.copied += cut.iter().map(|(_, bytes)| bytes).sum::<u64>();
        self.cache.values = cut.into_iter().map(|(value, _)| Arc::new(value)).collect();
        self.cache.tokens.truncate(length);
        Ok(())
    }

    fn run(
        &mut self,
        prompt: &Prompt,
        tokens: &[u64],
        from: usize,
        until: usize,
        keep: usize,
        cancel: &Cancel,
    ) -> Result<Logits, DescribeError> {
        self.run_shifted(&Shifted { prompt, by: 0 }, tokens, from, until, keep, cancel)
    }

    /// Runs the tokens `from..until` through the decoder and takes in their keys and values.
    fn run_shifted(
        &mut self,
        prompt: &Shifted<'_>,
        tokens: &[u64],
        from: usize,
        until: usize,
        keep: usize,
        cancel: &Cancel,
    ) -> Result<Logits, DescribeError> {
        let embedded = self.embeddings(prompt, from, until, cancel)?;
        if self.in_place {
            self.make_room(until).map_err(|error| self.failed(error))?;
            // Keys of the prefix are about to be written over.
            self.prefix.take_if(|prefix| from < prefix.tokens.len());
        }
        let bound = self.bind(prompt, from, until, keep, &embedded);
        bound.map_err(|error| self.failed(error))?;
        drop(embedded);
        let outputs = self.model.run_bound(&self.binding, cancel);
        // What was bound goes, so that the old cache is not kept beside the new one.
        self.binding.clear();
        let mut outputs = outputs?;
        let logits = self.logits(&outputs, until - from, keep)?;
        let mut values = Vec::with_capacity(self.slots.len());
        for slot in self.slots.iter().filter(|_| !self.in_place) {
            let Some(value) = outputs.remove(&slot.present) else {
                return Err(self.failed(ort::Error::new(format!("it did not give '{}'", slot.present))));
            };
            values.push(Arc::new(value));
        }
        if !self.in_place {
            self.cache.values = values;
        }
        self.cache.tokens.truncate(from);
        self.cache.tokens.extend_from_slice(&tokens[from..until]);
        self.work.tokens += (until - from) as u64;
        self.work.runs += 1;
        Ok(logits)
    }

    /// Room for `length` tokens in a cache in place.
    fn make_room(&mut self, length: usize) -> ort::Result<()> {
        if length <= self.room {
            return Ok(());
        }
        let (allocator, has, room) = (Allocator::default(), self.cache.tokens.len(), ROOM.max(length + length / SPARE));
        for (index, slot) in self.slots.iter().enumerate() {
            let mut shape = slot.empty.clone();
            shape[slot.axis] = room;
            let mut value = DynTensor::new(&allocator, slot.kind, shape)?.into_dyn();
            match self.cache.values.get_mut(index) {
                // One after the other, so that there is never a second cache.
                Some(old) => {
                    self.work.copied += carry(old, &mut value, slot, has)?;
                    *old = Arc::new(value);
                }
                None => self.cache.values.push(Arc::new(value)),
            }
        }
        self.room = room;
        Ok(())
    }

    /// The embeddings of the tokens `from..until`, features in the place of soft ones.
    fn embeddings(
        &self,
        prompt: &Shifted<'_>,
        from: usize,
        until: usize,
        cancel: &Cancel,
    ) -> Result<BTreeMap<String, DynValue>, DescribeError> {
        let Some(embed) = &self.embed else { return Ok(BTreeMap::new()) };
        let ids = prompt.ids(from, until, self.blank);
        let ids = Tensor::from_array(ids).map_err(|error| self.failed(error))?;
        let mut outputs = embed.run(ort::inputs!["input_ids" => ids], cancel)?;
        let mut found = BTreeMap::new();
        for port in &self.embedded {
            let Some(value) = outputs.remove(&port.name) else {
                return Err(self.failed(ort::Error::new(format!("embed_tokens did not give '{}'", port.name))));
            };
            let value = match port.name == "inputs_embeds" {
                true => self.with_features(value, port, prompt, from, until)?,
                false => converted(value, port).map_err(|error| self.failed(error))?,
            };
            found.insert(port.name.clone(), value);
        }
        Ok(found)
    }

    /// `value` (`[1, until - from, width]`) with the rows of features written over it, in the type that `port` wants.
    fn with_features(
        &self,
        value: DynValue,
        port: &Port,
        prompt: &Shifted<'_>,
        from: usize,
        until: usize,
    ) -> Result<DynValue, DescribeError> {
        let mut value = converted(value, port).map_err(|error| self.failed(error))?;
        let width = value.shape().last().copied().unwrap_or(0) as usize;
        for (at, row) in prompt.features(from, until) {
            if row.len() != width {
                return Err(DescribeError::Output {
                    piece: "encoder".into(),
                    expected: format!("features {width} wide, as inputs_embeds is"),
                    found: format!("features {} wide", row.len()),
                });
            }
            let span = (at - from) * width..(at - from + 1) * width;
            let written = match port.kind {
                Some(TensorElementType::Float16) => value.try_extract_tensor_mut::<f16>().map(|(_, into)| {
                    into[span].iter_mut().zip(row).for_each(|(into, from)| *into = f16::from_f32(*from));
                }),
                _ => value.try_extract_tensor_mut::<f32>().map(|(_, into)| into[span].copy_from_slice(row)),
            };
            written.map_err(|error| self.failed(error))?;
        }
        Ok(value)
    }

    fn bind(
        &mut self,
        prompt: &Shifted<'_>,
        from: usize,
        until: usize,
        keep: usize,
        embedded: &BTreeMap<String, DynValue>,
    ) -> ort::Result<()> {
        let count = until - from;
        let constants = self.constants(keep.min(count), from > 0)?;
        let binding = &mut self.binding;
        for (name, value) in &constants {
            binding.bind_input(name, value)?;
        }
        for (name, value) in embedded {
            binding.bind_input(name, value)?;
        }
        if self.embed.is_none() {
            binding.bind_input("input_ids", &Tensor::from_array(prompt.ids(from, until, None))?)?;
        }
        if self.mask {
            binding.bind_input("attention_mask", &Tensor::from_array(Array2::<i64>::ones((1, until)))?)?;
        }
        if self.positions {
            let first = self.first_position;
            let positions = Array2::from_shape_fn((1, count), |(_, i)| first + (from + i) as i64);
            binding.bind_input("position_ids", &Tensor::from_array(positions)?)?;
        }
        for (index, slot) in self.slots.iter().enumerate() {
            match self.cache.values.get_mut(index) {
                Some(value) if self.in_place => {
                    binding.bind_input(&slot.past, &**value)?;
                    let value = Arc::get_mut(value).ok_or_else(|| ort::Error::new("the cache is held elsewhere"))?;
                    binding.bind_output(&slot.present, value)?;
                    continue;
                }
                Some(value) => binding.bind_input(&slot.past, &**value)?,
                None => binding.bind_input(&slot.past, &slot.nothing(1, self.branch)?)?,
            }
            // Sizes change with each step: without this, ONNX Runtime would write into the last step's output.
            binding.bind_output_to_device(&slot.present, &self.memory)?;
        }
        binding.bind_output_to_device("logits", &host()?)
    }

    /// The scores of the last `keep` of `count` tokens.
    fn logits(&self, outputs: &Outputs, count: usize, keep: usize) -> Result<Logits, DescribeError> {
        let value = outputs.value("logits").map_err(|error| self.failed(error))?;
        let keep = keep.min(count);
        let unexpected = |found: String| DescribeError::Output {
            piece: self.model.piece().to_owned(),
            expected: format!("logits of {keep} or {count} tokens"),
            found,
        };
        let sizes: Vec<usize> = value.shape().iter().map(|size| *size as usize).collect();
        let &[1, rows, width] = sizes.as_slice() else { return Err(unexpected(format!("the shape {sizes:?}"))) };
        if rows < keep || width == 0 {
            return Err(unexpected(format!("the shape {sizes:?}")));
        }
        let from = (rows - keep) * width;
        let values = match value.try_extract_tensor::<f32>() {
            Ok((_, values)) => values[from..].to_vec(),
            Err(_) => {
                let (_, values) = value.try_extract_tensor::<f16>().map_err(|error| self.failed(error))?;
                values[from..].iter().map(|value| value.to_f32()).collect()
            }
        };
        Ok(Logits { values, width })
    }

    /// Whether a token scores the same however many are read with it. Products of activations rounded to 8 bits do not: the
    /// scale is that of all rows together, and near ties flip.
    pub fn is_exact(&self) -> bool {
        !["MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLinear"]
            .iter()
            .any(|name| self.uses(name))
    }

    pub(super) fn takes(&self, input: &str) -> bool {
        self.model.input(input).is_some()
    }

    pub(super) fn uses(&self, operator: &str) -> bool {
        self.model.graph().has(operator)
    }

    pub(super) fn first_position(&self) -> i64 {
        self.first_position
    }

    /// Caches of nothing for `count` prompts.
    pub(super) fn empty_caches(&self, count: usize) -> ort::Result<Vec<(String, DynValue)>> {
        self.slots.iter().map(|slot| Ok((slot.past.clone(), slot.nothing(count, self.branch)?))).collect()
    }

    /// Inputs that do not depend on the tokens: how many rows of scores are kept, and whether there is a past.
    pub(super) fn constants(&self, keep: usize, past: bool) -> ort::Result<Vec<(String, DynValue)>> {
        let mut inputs = Vec::new();
        if let Some(rank) = self.keeps {
            let value = Tensor::from_array((vec![1usize; rank], vec![keep as i64]))?;
            inputs.push(("num_logits_to_keep".to_owned(), value.into_dyn()));
        }
        if self.branch {
            inputs.push(("use_cache_branch".to_owned(), Tensor::from_array(([1], vec![past]))?.into_dyn()));
        }
        Ok(inputs)
    }

    /// What the decoder reads of a whole prompt: its embeddings with features, or its tokens.
    pub(super) fn read_in(&self, prompt: &Prompt, cancel: &Cancel) -> Result<Vec<(String, DynValue)>, DescribeError> {
        let shifted = Shifted { prompt, by: 0 };
        if self.embed.is_none() {
            let ids = Tensor::from_array(shifted.ids(0, prompt.ids.len(), None)).map_err(|error| self.failed(error))?;
            return Ok(vec![("input_ids".to_owned(), ids.into_dyn())]);
        }
        Ok(self.embeddings(&shifted, 0, prompt.ids.len(), cancel)?.into_iter().collect())
    }

    pub(super) fn run_on(&self, inputs: Vec<(String, DynValue)>, cancel: &Cancel) -> Result<Outputs, DescribeError> {
        self.model.run(inputs, cancel)
    }

    pub(super) fn failed(&self, source: ort::Error) -> DescribeError {
        DescribeError::Run { piece: self.model.piece().to_owned(), source }
    }
}

/// A prompt whose first token is number `by` of all.
struct Shifted<'a> {
    prompt: &'a Prompt,
    by: usize,
}

impl Shifted<'_> {
    /// The tokens `from..until`; soft ones as `blank` where that is given.
    fn ids(&self, from: usize, until: usize, blank: Option<u32>) -> Array2<i64> {
        let (from, until) = (from - self.by, until - self.by);
        let mut ids = Array2::from_shape_fn((1, until - from), |(_, i)| i64::from(self.prompt.ids[from + i]));
        if let Some(blank) = blank {
            for (at, features) in &self.prompt.soft {
                for at in (*at..at + features.rows.nrows()).filter(|at| (from..until).contains(at)) {
                    ids[(0, at - from)] = i64::from(blank);
                }
            }
        }
        ids
    }

    /// The rows of features at the tokens `from..until`.
    fn features(&self, from: usize, until: usize) -> impl Iterator<Item = (usize, &[f32])> {
        self.prompt.soft.iter().flat_map(move |(at, features)| {
            let first = at + self.by;
            let rows = features.rows.rows().into_iter().enumerate();
            rows.filter_map(move |(row, values)| {
                let at = first + row;
                (from..until).contains(&at).then(|| (at, values.to_slice().unwrap_or_default()))
            })
        })
    }
}

/// What each token of a prompt is: equal numbers mean that the decoder reads the same.
fn identities(prompt: &Prompt) -> Vec<u64> {
    let mut tokens: Vec<u64> = prompt.ids.iter().map(|id| u64::from(*id)).collect();
    for (at, features) in &prompt.soft {
        for row in 0..features.rows.nrows() {
            // Above all numbers of tokens.
            tokens[at + row] = (features.key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ row as u64) | 1 << 63;
        }
    }
    tokens
}

fn common(one: &[u64], other: &[u64]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Whether its cache is in place: a graph that allows it, which is told of the tokens, on the processor.
fn in_place(model: &Model) -> bool {
    model.provider() == Provider::Cpu && model.graph().caches_in_place() && model.input("attention_mask").is_some()
}

/// Where the cache stays: with the device that runs the model.
pub(crate) fn memory(model: &Model, settings: &RunSettings) -> ort::Result<MemoryInfo<'static>> {
    match model.provider() {
        Provider::Auto | Provider::Cpu => host(),
        Provider::Cuda | Provider::TensorRt => {
            MemoryInfo::new(AllocationDevice::CUDA, settings.device, AllocatorType::Device, MemoryType::Default)
        }
    }
}

pub(crate) fn host() -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
}

impl Slot {
    /// A cache tensor of nothing; graphs with two branches want one token that they do not look at.
    pub(crate) fn nothing(&self, batch: usize, branch: bool) -> ort::Result<DynValue> {
        let mut shape = self.empty.clone();
        shape[0] = batch;
        shape[self.axis] = usize::from(branch);
        let count = shape.iter().product();
        match self.kind {
            TensorElementType::Float16 => Ok(Tensor::from_array((shape, vec![f16::ZERO; count]))?.into_dyn()),
            _ => Ok(Tensor::from_array((shape, vec![0f32; count]))?.into_dyn()),
        }
    }
}

/// The cache tensors that the model declares.
pub(crate) fn slots(model: &Model) -> Result<Vec<Slot>, LoadError> {
    let mut slots = Vec::new();
    for port in model.inputs() {
        if let Some(name) = RECURRENT.iter().find(|name| port.name.starts_with(*name)) {
            return Err(model.signature(format!(
                "it keeps a recurrent state ('{}'), which cannot be rewound; models with {name} layers are not \
                 supported, use one with attention layers only",
                port.name
            )));
        }
        let Some(rest) = port.name.strip_prefix("past_key_values") else { continue };
        let kind = match port.kind {
            Some(kind @ (TensorElementType::Float32 | TensorElementType::Float16)) => kind,
            other => {
                return Err(model.signature(format!("its cache '{}' holds {other:?}, f32 or f16 is needed", port.name)));
            }
        };
        let present = format!("present{rest}");
        if !model.has_output(&present) {
            return Err(model.signature(format!("it takes '{}' and does not give '{present}'", port.name)));
        }
        let free = |dim: &Dim| matches!(dim, Dim::Free(_));
        let axis = (1..port.dims.len()).find(|axis| free(&port.dims[*axis]));
        let Some(axis) = axis.filter(|axis| port.dims[axis + 1..].iter().all(|dim| !free(dim))) else {
            return Err(model.signature(format!(
                "its cache '{}' has the shape {:?}; exactly one axis behind the first must be free, to grow",
                port.name, port.dims
            )));
        };
        // Axis 0 is the batch whatever it is called; axes that grow begin at nothing.
        let empty = (0..port.dims.len()).map(|index| match &port.dims[index] {
            Dim::Fixed(size) => *size,
            Dim::Free(_) => usize::from(index == 0),
        });
        slots.push(Slot { past: port.name.clone(), present, kind, empty: empty.collect(), axis });
    }
    match slots.is_empty() {
        true => Err(model
            .signature("it has no cache inputs 'past_key_values…'; models without a cache are not supported".into())),
        false => Ok(slots),
    }
}

/// Refuses what nobody would feed, and what would be fed in another form.
fn refuse_unknown(model: &Model, embedded: &[Port], slots: &[Slot]) -> Result<(), LoadError> {
    for port in model.inputs() {
        let name = port.name.as_str();
        let known = slots.iter().any(|slot| slot.past == name) || embedded.iter().any(|known| known.name == name);
        let wanted = match name {
            "input_ids" | "attention_mask" => Some((TensorElementType::Int64, 2)),
            "position_ids" => Some((TensorElementType::Int64, 2)),
            "num_logits_to_keep" => Some((TensorElementType::Int64, port.dims.len())),
            "use_cache_branch" => Some((TensorElementType::Bool, 1)),
            _ if known => None,
            _ => return Err(model.signature(format!("it takes '{name}' ({}), which nobody here can give", kind(port)))),
        };
        if let Some((wanted, rank)) = wanted
            && (port.kind != Some(wanted) || port.dims.len() != rank)
        {
            return Err(model.signature(format!(
                "its input '{name}' is {} with {} axes; {wanted:?} with {rank} is needed{}",
                kind(port),
                port.dims.len(),
                if name == "position_ids" && port.dims.len() == 3 { " (M-RoPE is not supported)" } else { "" }
            )));
        }
    }
    Ok(())
}

fn kind(port: &Port) -> String {
    port.kind.map_or_else(|| "no tensor".into(), |kind| format!("{kind:?}"))
}

/// The embedding, where it takes tokens and gives what the decoder wants.
fn checked_embedding(embed: Model, decoder: &Model, wanted: &[Port]) -> Result<Model, LoadError> {
    match embed.inputs() {
        [port] if port.name == "input_ids" && port.kind == Some(TensorElementType::Int64) => {}
        ports => {
            let found: Vec<String> = ports.iter().map(|port| format!("'{}' ({})", port.name, kind(port))).collect();
            return Err(embed.signature(format!("it takes {}; 'input_ids' (Int64) is expected", found.join(", "))));
        }
    }
    for port in wanted {
        let Some(given) = embed.output(&port.name) else {
            return Err(embed.signature(format!("it does not give '{}', which the decoder takes", port.name)));
        };
        let last = |port: &Port| port.dims.len().checked_sub(1).and_then(|axis| port.dim(axis));
        if let (Some(given), Some(taken)) = (last(given), last(port))
            && given != taken
        {
            return Err(embed.signature(format!(
                "it gives '{}' {given} wide, and {} takes it {taken} wide",
                port.name,
                decoder.path().display()
            )));
        }
    }
    Ok(embed)
}

/// `value` in the type that `port` takes.
pub(crate) fn converted(value: DynValue, port: &Port) -> ort::Result<DynValue> {
    let shape: Vec<usize> = value.shape().iter().map(|size| *size as usize).collect();
    match port.kind {
        Some(TensorElementType::Float16) if value.try_extract_tensor::<f32>().is_ok() => {
            let (_, values) = value.try_extract_tensor::<f32>()?;
            let values: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            Ok(Tensor::from_array((shape, values))?.into_dyn())
        }
        Some(TensorElementType::Float32) if value.try_extract_tensor::<f16>().is_ok() => {
            let (_, values) = value.try_extract_tensor::<f16>()?;
            let values: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
            Ok(Tensor::from_array((shape, values))?.into_dyn())
        }
        _ => Ok(value),
    }
}

/// The first `length` tokens of a cache tensor, and how many bytes they have.
pub(crate) fn cut(value: &DynValue, slot: &Slot, length: usize) -> ort::Result<(DynValue, u64)> {
    fn part<T: Copy>(values: &[T], shape: &mut [usize], axis: usize, length: usize) -> Vec<T> {
        let inner: usize = shape[axis + 1..].iter().product();
        let (old, new) = (shape[axis] * inner, length * inner);
        shape[axis] = length;
        values.chunks_exact(old.max(1)).flat_map(|rows| &rows[..new]).copied().collect()
    }
    let mut shape: Vec<usize> = value.shape().iter().map(|size| *size as usize).collect();
    if shape.get(slot.axis).is_none_or(|size| *size < length) {
        return Err(ort::Error::new(format!(
            "'{}' has the shape {shape:?}, {length} tokens are wanted of it",
            slot.present
        )));
    }
    match slot.kind {
        TensorElementType::Float16 => {
            let values = part(value.try_extract_tensor::<f16>()?.1, &mut shape, slot.axis, length);
            let bytes = 2 * values.len() as u64;
            Ok((Tensor::from_array((shape, values))?.into_dyn(), bytes))
        }
        _ => {
            let values = part(value.try_extract_tensor::<f32>()?.1, &mut shape, slot.axis, length);
            let bytes = 4 * values.len() as u64;
            Ok((Tensor::from_array((shape, values))?.into_dyn(), bytes))
        }
    }
}

/// Copies the first `length` tokens of one cache tensor to the start of another; how many bytes they have.
fn carry(from: &DynValue, to: &mut DynValue, slot: &Slot, length: usize) -> ort::Result<u64> {
    fn rows<T: Copy>(from: &[T], to: &mut [T], sizes: [usize; 2], used: usize) -> u64 {
        let pairs = from.chunks_exact(sizes[0].max(1)).zip(to.chunks_exact_mut(sizes[1].max(1)));
        let copied = pairs.map(|(from, to)| to[..used].copy_from_slice(&from[..used])).count();
        (copied * used * size_of::<T>()) as u64
    }
    let inner: usize = slot.empty[slot.axis + 1..].iter().product();
    let sizes = [from.shape(), to.shape()].map(|shape| shape[slot.axis] as usize * inner);
    match slot.kind {
        TensorElementType::Float16 => {
            Ok(rows::<f16>(from.try_extract_tensor()?.1, to.try_extract_tensor_mut()?.1, sizes, length * inner))
        }
        _ => Ok(rows::<f32>(from.try_extract_tensor()?.1, to.try_extract_tensor_mut()?.1, sizes, length * inner)),
    }
}
