//! Whisper as it is published for ONNX Runtime: `encoder_model` and `decoder_model_merged`, one graph with a branch for the
//! first run and one for all later ones (Transformers.js `models/whisper`, optimum's `merge_decoders`).

use std::{path::PathBuf, sync::Arc};

use half::f16;
use ndarray::{Array2, ArrayD};
use ort::{
    memory::MemoryInfo,
    session::IoBinding,
    value::{DynValue, Tensor},
};

use super::{
    PIECE,
    rules::Decode,
    whisper::{Transcriber, failed, unexpected},
    words::Words,
};
use crate::{
    Cancel, DescribeError, LoadError,
    experts::tape::RATE,
    generator::{
        decoder::{Slot, converted, cut, host, memory, slots},
        encoder::floats,
        folder::{Dtypes, Folder},
        sound::SoundRule,
    },
    runtime::{Loading, Model, Outputs, Provider, RunSettings},
};

const HIDDEN: &str = "encoder_hidden_states";
const BRANCH: &str = "use_cache_branch";
/// Inputs that can be given, besides the cache.
const GIVEN: [&str; 4] = ["input_ids", HIDDEN, BRANCH, "encoder_attention_mask"];
/// Places for tokens where no file says how many there are (Whisper, all sizes).
const ROOM: u64 = 448;

/// The networks of a published Whisper.
pub struct Published {
    folder: Folder,
    encoder: Model,
    decoder: Model,
    rule: SoundRule,
    slots: Arc<[Slot]>,
    memory: MemoryInfo<'static>,
    size: usize,
    tick: u64,
    room: usize,
}

/// What the encoder made of a sound.
pub struct Hidden(DynValue);

impl Hidden {
    /// Shape and values of the encoder's last layer.
    pub fn values(&self) -> Result<ArrayD<f32>, DescribeError> {
        self.0.try_extract_array::<f32>().map(|values| values.to_owned()).map_err(failed)
    }
}

impl Published {
    /// Loads the sessions of `folder` in the number formats that are wanted, and checks that they fit its files.
    pub fn load(folder: &Folder, dtype: Option<&Dtypes>, run: &RunSettings) -> Result<Self, LoadError> {
        let (rule, from) = sound_rule(folder)?;
        let load = |session: &str, arena: bool| {
            let path = folder.model(session, dtype)?;
            Model::open(Loading { piece: PIECE, path: &path, settings: run, ranges: Vec::new(), arena })
        };
        let encoder = load("encoder_model", false)?;
        match encoder.inputs() {
            [port] if port.name == "input_features" && port.dims.len() == 3 => {}
            ports => {
                let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
                return Err(encoder.signature(format!("it takes {names:?}; 'input_features' alone is expected")));
            }
        }
        let frames = rule.longest() / rule.hop();
        for (axis, what, size) in [(1, "bands", rule.bands()), (2, "frames", frames)] {
            if let Some(wants) = encoder.input_dim("input_features", axis).filter(|wants| *wants != size) {
                return Err(encoder.signature(format!("it takes {wants} {what}, and {} makes {size}", from.display())));
            }
        }
        if !encoder.has_output("last_hidden_state") {
            return Err(encoder.signature("it does not give 'last_hidden_state'".into()));
        }
        let decoder = load("decoder_model_merged", true)?;
        let slots: Arc<[Slot]> = slots(&decoder)?.into();
        let size = checked_decoder(&decoder, &slots, folder)?;
        let memory = memory(&decoder, run).map_err(|error| decoder.signature(error.to_string()))?;
        // Times count in rows of the encoder (`time_precision`); two convolutions, one of stride 2, make them of frames.
        let rows = folder.number("max_source_positions").filter(|rows| (1..=1 << 20).contains(rows));
        let rows = rows.unwrap_or(frames.div_ceil(2) as u64);
        let tick = (rule.longest() as u64 / rows).max(1);
        let room = folder.number("max_target_positions").unwrap_or(ROOM).clamp(8, 1 << 16) as usize;
        Ok(Self { folder: folder.clone(), encoder, decoder, rule, slots, memory, size, tick, room })
    }

    /// What its tokens mean.
    pub fn words(&self) -> Result<Words, LoadError> {
        Words::of_folder(&self.folder, self.size)
    }

    /// The log-mel features of `samples`, mono at 16 kHz: `[1, bands, frames]`.
    pub fn features(&self, samples: &[f32]) -> ArrayD<f32> {
        self.rule.features(samples).values
    }

    /// What the encoder makes of features.
    pub fn encode(&self, features: ArrayD<f32>, cancel: &Cancel) -> Result<Hidden, DescribeError> {
        let Some(port) = self.encoder.inputs().first() else { return Err(unexpected("an input", "none")) };
        let features = floats(port, features).map_err(failed)?;
        let mut outputs = self.encoder.run(vec![(port.name.as_str(), features)], cancel)?;
        outputs.remove("last_hidden_state").map(Hidden).ok_or_else(|| unexpected("last_hidden_state", "nothing"))
    }

    /// A decoder of what was heard, which has read nothing yet.
    pub fn decoder<'a>(&'a self, hidden: Hidden, cancel: &'a Cancel) -> Result<Decoder<'a>, DescribeError> {
        let rows = hidden.0.shape().get(1).copied().unwrap_or(0).max(0) as usize;
        let port = self.decoder.input(HIDDEN);
        let hidden = port.map(|port| converted(hidden.0, port)).transpose().map_err(failed)?;
        Ok(Decoder {
            model: &self.decoder,
            slots: &self.slots,
            memory: &self.memory,
            binding: self.decoder.binding()?,
            hidden,
            rows,
            own: Vec::new(),
            cross: Vec::new(),
            read: 0,
            size: self.size,
            cancel,
        })
    }
}

impl Transcriber for Published {
    fn listen<'a>(
        &'a mut self,
        samples: &[f32],
        _shortest: u64,
        cancel: &'a Cancel,
    ) -> Result<Box<dyn Decode + 'a>, DescribeError> {
        let hidden = self.encode(self.features(samples), cancel)?;
        Ok(Box::new(self.decoder(hidden, cancel)?))
    }

    fn longest(&self) -> u64 {
        self.rule.longest() as u64
    }

    fn tick(&self) -> u64 {
        self.tick
    }

    fn room(&self) -> usize {
        self.room
    }
}

/// The rule of the folder's feature extractor, and the file it is in.
fn sound_rule(folder: &Folder) -> Result<(SoundRule, PathBuf), LoadError> {
    let in_processor = folder.processor.get("feature_extractor").is_some();
    let path = folder.path.join(if in_processor { "processor_config.json" } else { "preprocessor_config.json" });
    let wrong = |reason: String| LoadError::Format { path: path.clone(), reason };
    let part = folder
        .processor_part("feature_extractor")
        .ok_or_else(|| wrong("it is missing, so nobody can tell how the model hears".into()))?;
    let rule = SoundRule::read(part, &folder.processor, &folder.config).map_err(wrong)?;
    if rule.rate() != RATE {
        return Err(wrong(format!("the model hears at {} Hz; speech is listened to at {RATE} Hz", rule.rate())));
    }
    Ok((rule, path))
}

/// Checks what the decoder takes and gives; how many tokens it scores.
fn checked_decoder(decoder: &Model, slots: &[Slot], folder: &Folder) -> Result<usize, LoadError> {
    let known = |name: &str| GIVEN.contains(&name) || slots.iter().any(|slot| slot.past == name);
    if let Some(port) = decoder.inputs().iter().find(|port| !known(&port.name)) {
        return Err(decoder.signature(format!("it takes '{}', which nobody here can give", port.name)));
    }
    if decoder.input("input_ids").is_none() || decoder.input(HIDDEN).is_none() {
        return Err(decoder.signature(format!("it does not take 'input_ids' and '{HIDDEN}'")));
    }
    let crossed = slots.iter().any(is_cross);
    if crossed && decoder.input(BRANCH).is_none() {
        return Err(decoder.signature(format!(
            "it keeps a cache of the encoder and has no '{BRANCH}', so it cannot start; use decoder_model_merged"
        )));
    }
    let logits = decoder.output("logits").ok_or_else(|| decoder.signature("it does not give 'logits'".into()))?;
    let size = logits.dim(2).or_else(|| folder.number("vocab_size").map(|size| size as usize));
    size.filter(|size| (16..=1 << 24).contains(size)).ok_or_else(|| {
        decoder.signature("neither it nor config.json ('vocab_size') says how many tokens there are".into())
    })
}

/// Whether a cache is of the sound, which stays the same for all tokens.
fn is_cross(slot: &Slot) -> bool {
    slot.past.contains(".encoder.")
}

/// The decoder with what it keeps from token to token, on the device that runs it.
pub struct Decoder<'a> {
    model: &'a Model,
    slots: &'a [Slot],
    memory: &'a MemoryInfo<'static>,
    binding: IoBinding,
    hidden: Option<DynValue>,
    /// Rows of the encoder.
    rows: usize,
    /// Caches of tokens and of the sound, in the order of the slots of their sort; empty before the first run.
    own: Vec<DynValue>,
    cross: Vec<DynValue>,
    /// Tokens that it has read.
    read: usize,
    size: usize,
    cancel: &'a Cancel,
}

impl Decoder<'_> {
    fn bind(&mut self, tokens: &[u32]) -> ort::Result<()> {
        let later = self.read > 0;
        let branch = self.model.input(BRANCH).is_some();
        let binding = &mut self.binding;
        let ids = Array2::from_shape_fn((1, tokens.len()), |(_, i)| i64::from(tokens[i]));
        binding.bind_input("input_ids", &Tensor::from_array(ids)?)?;
        if let Some(hidden) = &self.hidden {
            binding.bind_input(HIDDEN, hidden)?;
        }
        if branch {
            binding.bind_input(BRANCH, &Tensor::from_array(([1], vec![later]))?)?;
        }
        if self.model.input("encoder_attention_mask").is_some() {
            let mask = Tensor::from_array(Array2::<i64>::ones((1, self.rows)))?;
            binding.bind_input("encoder_attention_mask", &mask)?;
        }
        let (mut own, mut cross) = (self.own.iter(), self.cross.iter());
        for slot in self.slots {
            let kept = if is_cross(slot) { cross.next() } else { own.next() };
            match kept.filter(|_| later) {
                Some(value) => binding.bind_input(&slot.past, value)?,
                None => binding.bind_input(&slot.past, &slot.nothing(1, branch)?)?,
            }
            binding.bind_output_to_device(&slot.present, self.memory)?;
        }
        binding.bind_output_to_device("logits", &host()?)
    }

    /// One run over `tokens`; the scores after the last one.
    fn run(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError> {
        self.bind(tokens).map_err(failed)?;
        let outputs = self.model.run_bound(&self.binding, self.cancel);
        self.binding.clear();
        let mut outputs = outputs?;
        let scores = self.scores(&outputs, tokens.len())?;
        let first = self.read == 0;
        let (mut own, mut cross) = (Vec::new(), Vec::new());
        for slot in self.slots {
            let value = outputs.remove(&slot.present).ok_or_else(|| unexpected(&slot.present, "nothing"))?;
            if is_cross(slot) { cross.push(value) } else { own.push(value) }
        }
        self.own = own;
        // Later runs give dummies for the sound's cache: the first one stays.
        if first {
            self.cross = cross;
        }
        self.read += tokens.len();
        Ok(scores)
    }

    /// The scores after the last of `count` tokens.
    fn scores(&self, outputs: &Outputs, count: usize) -> Result<Vec<f32>, DescribeError> {
        let value = outputs.value("logits").map_err(failed)?;
        let shape: Vec<usize> = value.shape().iter().map(|size| *size as usize).collect();
        if count == 0 || shape != [1, count, self.size] {
            return Err(unexpected(
                &format!("{} scores after each of {count} tokens", self.size),
                &format!("{shape:?}"),
            ));
        }
        let from = (count - 1) * self.size;
        match value.try_extract_tensor::<f32>() {
            Ok((_, scores)) => Ok(scores[from..].to_vec()),
            Err(_) => {
                let (_, scores) = value.try_extract_tensor::<f16>().map_err(failed)?;
                Ok(scores[from..].iter().map(|score| score.to_f32()).collect())
            }
        }
    }
}

impl Decode for Decoder<'_> {
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DescribeError> {
        // Older exports traced the branch of later runs with one token, and mask nothing in it.
        if self.read == 0 || tokens.is_empty() {
            return self.run(tokens);
        }
        let mut scores = Vec::new();
        for token in tokens {
            scores = self.run(&[*token])?;
        }
        Ok(scores)
    }

    fn rewind(&mut self, length: usize) -> Result<usize, DescribeError> {
        if length >= self.read {
            return Ok(self.read);
        }
        if length == 0 || self.model.provider() != Provider::Cpu {
            self.read = 0;
            return Ok(0);
        }
        let slots = self.slots.iter().filter(|slot| !is_cross(slot));
        let values: ort::Result<Vec<DynValue>> =
            self.own.iter().zip(slots).map(|(value, slot)| cut(value, slot, length).map(|(value, _)| value)).collect();
        self.own = values.map_err(failed)?;
        self.read = length;
        Ok(length)
    }
}
