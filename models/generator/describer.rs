//! Describes clips with a published audio-vision-language model.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{
    answer::{self, BoxUnit, Counts, Reading, TimeBase},
    choice::{Chooser, Sampling},
    decoder::Decoder,
    encoder::{Ears, Eyes, picture_ranges, sound_ranges},
    folder::{Dtypes, Folder},
    generate::{self, Question},
    grammar::{Grammar, GrammarError, Schema, Vocabulary},
    picture::PixelRule,
    profile::{Frames, Profile},
    prompt::{Features, Medium, PromptError, Prompter, Shown, clock},
    sound::SoundRule,
    template::{Message, Part, Template},
};
use crate::{
    Cancel, Clip, ClipShape, DescribeError, Describer, Kind, LoadError, Observation, Span,
    describer::Partial,
    runtime::{Loading, Model, Range, RunSettings},
};

/// What the model is told to be where neither the user nor the pack says.
const SYSTEM: &str = "You describe clips of a film in JSON: caption says what is seen and heard; events and sounds have \
                      a start and an end in seconds of the clip.";
/// What is asked about a clip.
const PROMPT: &str = "Describe the clip in JSON.";
/// Most frames of a clip where the pack says no number of its own.
const FRAMES: u32 = 8;
/// Sound of models that do not hear, for the experts beside them.
const RATE: u32 = 16_000;
/// Clips that wait for evidence at most.
const WAITING: usize = 8;
/// Characters of a line of evidence or context.
const LINE: usize = 240;
/// Lines of evidence of one clip.
const LINES: usize = 24;

/// What experts tell the model about a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Evidence {
    /// Speech where the model does not hear, else nothing.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// What was spoken.
    Speech,
    /// All that they observe.
    All,
}

impl Evidence {
    /// Every choice with its word.
    pub const ALL: [(&str, Self); 4] =
        [("auto", Self::Auto), ("none", Self::None), ("speech", Self::Speech), ("all", Self::All)];
}

impl std::str::FromStr for Evidence {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, evidence)| evidence);
        found.ok_or_else(|| format!("'{word}' is no sort of evidence; use auto, none, speech or all"))
    }
}

/// What can be asked of a generator.
#[derive(Debug, Clone, PartialEq)]
pub struct Wishes {
    /// What the model is told to be; `None`: what describe.json or this program says.
    pub system: Option<String>,
    /// What is asked about each clip.
    pub prompt: Option<String>,
    /// JSON schema of the answers: the schema itself or the path of a file.
    pub schema: Option<String>,
    /// Number format by session.
    pub dtype: Option<Dtypes>,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What experts tell the model.
    pub evidence: Evidence,
    /// How many of the last captions the model is told.
    pub context_captions: usize,
    /// Tokens up to which clips follow each other in one chat; 0: each clip is a chat of its own.
    pub context_tokens: usize,
    /// Whether tokens are guessed ahead; the answers are the same.
    pub drafts: bool,
    /// Mean difference, 0 to 255, up to which frames share features; 0: only equal ones do.
    pub near_frames: f32,
    /// Labels to look and listen for: words with commas or a file; only of pairs such as CLIP.
    pub labels: Option<String>,
    /// Whether pairs write embeddings.
    pub embeddings: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            system: None,
            prompt: None,
            schema: None,
            dtype: None,
            max_tokens: 256,
            sampling: Sampling::default(),
            evidence: Evidence::Auto,
            context_captions: 0,
            context_tokens: 0,
            drafts: true,
            near_frames: 0.0,
            labels: None,
            embeddings: false,
        }
    }
}

/// The sessions of a published model and what reads its prompts.
pub struct Engine {
    /// The files.
    pub folder: Folder,
    /// What makes prompts.
    pub prompter: Prompter,
    /// The decoder.
    pub decoder: Decoder,
    /// The vision encoder, with the rule for frames of clips.
    pub eyes: Option<Eyes>,
    /// The audio encoder.
    pub ears: Option<Ears>,
    /// What the decoder can say.
    pub vocabulary: Arc<Vocabulary>,
}

impl Engine {
    /// Loads the folder at `path`; `progress` is told each session before it is loaded.
    pub fn load(
        folder: Folder,
        dtype: Option<&Dtypes>,
        run: &RunSettings,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, LoadError> {
        // Text files first: they are quick to read, and what is wrong with them needs no model to be seen.
        let (path, bytes) = folder.tokenizer_bytes()?;
        let wrong = |reason: String| LoadError::Format { path: path.clone(), reason };
        let tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| wrong(error.to_string()))?;
        let profile = Profile::read(&folder, &tokenizer)?;
        let reads_only = profile.family.frames == Frames::None;
        let template = folder.template()?;
        let template =
            template.map(|(path, text)| Template::new(path, text, profile.names.clone(), reads_only)).transpose()?;
        let rules = Rules::read(&folder, &profile)?;
        let open = |piece: &str, ranges: Vec<Range>| {
            let path = folder.model(piece, dtype)?;
            Model::open(Loading { piece, path: &path, settings: run, ranges, arena: false })
        };
        let eyes = match rules.frames {
            Some(rule) => {
                progress("vision_encoder");
                Some(Eyes::new(open("vision_encoder", picture_ranges(&rule))?, rule)?)
            }
            None => None,
        };
        let ears = match rules.sound {
            Some(rule) => {
                progress("audio_encoder");
                Some(Ears::new(open("audio_encoder", sound_ranges(&rule))?, rule)?)
            }
            None => None,
        };
        progress("decoder");
        let name = if folder.has("decoder_model_merged") { "decoder_model_merged" } else { "model" };
        let embed = folder.has("embed_tokens").then(|| folder.model("embed_tokens", dtype)).transpose()?;
        let decoder = Decoder::load(&folder.model(name, dtype)?, embed.as_deref(), Some(&profile), run)?;
        let widths = [
            eyes.as_ref().map(|eyes| (eyes.model(), eyes.width())),
            ears.as_ref().map(|ears| (ears.model(), ears.width())),
        ];
        for (model, width) in widths.into_iter().flatten() {
            if let (Some(has), Some(wants)) = (width, decoder.width())
                && has != wants
            {
                return Err(
                    model.signature(format!("its features are {has} wide, and inputs_embeds of embed_tokens {wants}"))
                );
            }
        }
        let logits = decoder.vocabulary().unwrap_or_else(|| tokenizer.get_vocab_size(true));
        let vocabulary =
            Vocabulary::new(&tokenizer, logits, &folder.stop_ids()).map_err(|error| wrong(error.to_string()))?;
        let prompter = Prompter { profile, tokenizer, template };
        Ok(Self { folder, prompter, decoder, eyes, ears, vocabulary })
    }
}

/// What the processor files say of frames and sound.
struct Rules {
    frames: Option<PixelRule>,
    sound: Option<SoundRule>,
}

impl Rules {
    fn read(folder: &Folder, profile: &Profile) -> Result<Self, LoadError> {
        let path = folder.path.join(if folder.processor.is_null() {
            "preprocessor_config.json"
        } else {
            "processor_config.json"
        });
        let wrong = |reason: String| LoadError::Format { path: path.clone(), reason };
        let frames = match profile.family.frames {
            Frames::None => None,
            shown => {
                let video = folder.processor.get("video_processor").filter(|_| shown != Frames::Pictures);
                let part = video.or_else(|| folder.processor_part("image_processor"));
                let part = part.ok_or_else(|| wrong("it has no image_processor".into()))?;
                Some(PixelRule::read(part).map_err(wrong)?.with_split(false))
            }
        };
        let sound = match &profile.audio {
            None => None,
            Some(_) => {
                let part = folder.processor_part("feature_extractor");
                let part = part.ok_or_else(|| wrong("it has no feature_extractor".into()))?;
                Some({
                    let audio = folder.config.get("audio_config").unwrap_or(&Value::Null);
                    SoundRule::read(part, &folder.processor, audio).map_err(wrong)?
                })
            }
        };
        Ok(Self { frames, sound })
    }
}

/// A clip that was told in this chat, and what was answered.
struct Turn {
    parts: Vec<Part>,
    media: Vec<Medium>,
    features: Vec<Features>,
    answer: String,
}

/// A describer that asks one model about each clip, perhaps with what experts know of it.
pub struct Generator {
    engine: Engine,
    grammar: Grammar,
    chooser: Chooser,
    wishes: Wishes,
    kinds: BTreeSet<Kind>,
    shape: ClipShape,
    source: String,
    system: String,
    question: String,
    /// Tokens of the system turn.
    prefix: usize,
    /// Most tokens that the model reads.
    window: usize,
    experts: Option<Box<dyn Describer>>,
    evidence: Evidence,
    waiting: VecDeque<Clip>,
    heard: Vec<Observation>,
    turns: Vec<Turn>,
    captions: VecDeque<(u64, String)>,
    settled_ns: u64,
    counts: Counts,
    partial: Option<Partial>,
    told: BTreeMap<&'static str, u64>,
}

impl Generator {
    /// A describer that says only `kinds`.
    ///
    /// `experts` describe each clip first; what they say goes out too, and to the model as `wishes.evidence` says.
    pub fn new(
        mut engine: Engine,
        wishes: Wishes,
        kinds: BTreeSet<Kind>,
        experts: Option<Box<dyn Describer>>,
    ) -> Result<Self, LoadError> {
        let overrides = engine.folder.overrides.clone();
        let broken =
            |error: GrammarError| LoadError::Format { path: engine.folder.path.clone(), reason: error.to_string() };
        let schema = match (&wishes.schema, &overrides.schema) {
            (Some(setting), _) => Schema::load(setting).map_err(broken)?,
            (None, Some(value)) => Schema::parse(&value.to_string()).map_err(broken)?,
            (None, None) => Schema::default(),
        };
        let grammar = Grammar::new(&engine.vocabulary, &schema).map_err(broken)?;
        grammar.answer(wishes.max_tokens).map_err(broken)?;
        let system = wishes.system.clone().or(overrides.system).unwrap_or_else(|| SYSTEM.to_owned());
        let question = wishes.prompt.clone().or(overrides.prompt).unwrap_or_else(|| PROMPT.to_owned());
        let wish = engine.eyes.as_ref().map_or(64, |eyes| eyes.rule().frame_size_wish());
        let shown = engine.folder.processor.pointer("/video_processor/num_frames").and_then(Value::as_u64);
        let frames = overrides.frames.unwrap_or_else(|| FRAMES.min(shown.map_or(FRAMES, |count| count as u32)).max(1));
        let rate = engine.ears.as_ref().map_or(RATE, |ears| ears.rule().rate());
        let (max_size, rate) = match experts.as_ref().map(|experts| experts.shape()) {
            Some(shape) => (shape.max_size.max(wish), shape.rate),
            None => (wish, rate),
        };
        let shape = ClipShape { max_size: overrides.max_size.unwrap_or(max_size), rate, frames: Some(frames) };
        if engine.ears.as_ref().is_some_and(|ears| ears.rule().rate() != rate) {
            return Err(LoadError::Format {
                path: engine.folder.path.clone(),
                reason: format!("the model hears at another rate than the experts ({rate} Hz); use evidence=none"),
            });
        }
        if let Some(eyes) = &mut engine.eyes {
            eyes.set_near(wishes.near_frames);
        }
        let evidence = match wishes.evidence {
            Evidence::Auto if engine.ears.is_some() => Evidence::None,
            Evidence::Auto => Evidence::Speech,
            chosen => chosen,
        };
        let window = engine.folder.number("max_position_embeddings").map_or(usize::MAX, |limit| limit as usize);
        let prefix = prefix(&engine.prompter, &system)
            .map_err(|error| LoadError::Format { path: engine.folder.path.clone(), reason: error.to_string() })?;
        Ok(Self {
            source: engine.folder.name(),
            chooser: Chooser::new(wishes.sampling.clone()),
            engine,
            grammar,
            wishes,
            kinds,
            shape,
            system,
            question,
            prefix,
            window,
            experts,
            evidence,
            waiting: VecDeque::new(),
            heard: Vec::new(),
            turns: Vec::new(),
            captions: VecDeque::new(),
            settled_ns: 0,
            counts: Counts::default(),
            partial: None,
            told: BTreeMap::new(),
        })
    }

    /// Asks the model about the clips whose evidence is in, or about all of them at the `end`.
    fn ask(&mut self, end: bool, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let mut result = Ok(());
        while let Some(clip) = self.waiting.front() {
            let known = match (&self.experts, self.evidence) {
                (Some(experts), Evidence::Speech | Evidence::All) => experts.settled_ns() >= clip.span.end_ns,
                _ => true,
            };
            if !known && !end && self.waiting.len() <= WAITING {
                break;
            }
            let Some(clip) = self.waiting.pop_front() else { break };
            match self.tell(&clip, cancel, out) {
                Err(DescribeError::Cancelled) => return Err(DescribeError::Cancelled),
                Err(error) => {
                    tracing::warn!("{error}");
                    result = result.and(Err(error));
                }
                Ok(()) => {}
            }
            self.settled_ns = clip.span.end_ns;
            self.heard.retain(|said| said.span.end_ns > clip.span.end_ns);
        }
        result
    }

    /// Asks the model about one clip.
    fn tell(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let frames = match &mut self.engine.eyes {
            Some(eyes) => eyes.see(&clip.frames, cancel)?,
            None => Vec::new(),
        };
        let heard = match (&self.engine.ears, &clip.sound) {
            (Some(ears), Some(sound)) => ears.hear(sound.samples(), cancel)?,
            _ => Vec::new(),
        };
        let shown: Vec<(u64, Shown)> =
            clip.frames.iter().zip(&frames).map(|(frame, (shown, _))| (frame.at_ns, *shown)).collect();
        let counts: Vec<usize> = heard.iter().map(|features| features.rows.nrows()).collect();
        let features: Vec<Features> = frames.into_iter().map(|(_, features)| features).chain(heard).collect();
        let mut prompt = self.prompt(clip, &shown, &counts, &features)?;
        let budget =
            if self.wishes.context_tokens > 0 { self.wishes.context_tokens.min(self.window) } else { self.window };
        if prompt.0.ids.len() + self.wishes.max_tokens > budget && !self.turns.is_empty() {
            // The chat is full: a new one begins, which is told the last captions.
            self.turns.clear();
            prompt = self.prompt(clip, &shown, &counts, &features)?;
        }
        let (prompt, parts, media) = prompt;
        if prompt.ids.len() >= self.window {
            return Err(
                self.fault(&format!("a prompt of at most {} tokens", self.window), format!("{}", prompt.ids.len()))
            );
        }
        self.chooser.reset();
        let constraint =
            self.grammar.answer(self.wishes.max_tokens).map_err(|error| self.fault("an answer", error.to_string()))?;
        let question = Question {
            prompt: &prompt,
            prefix: self.prefix,
            constraint: Some(constraint),
            stops: self.engine.vocabulary.stops(),
            most: self.wishes.max_tokens,
            drafts: self.wishes.drafts,
        };
        let (partial, span) = (self.partial.clone(), clip.span);
        let mut hear = |text: &str| {
            if let Some(partial) = &partial {
                partial(span, text);
            }
        };
        let said = generate::answer(&mut self.engine.decoder, question, &mut self.chooser, cancel, &mut hear)?;
        let reading = Reading {
            clip: clip.span,
            base: if self.engine.folder.overrides.stream_times { TimeBase::Stream } else { TimeBase::Clip },
            boxes: BoxUnit::default(),
            confidence: said.confidence,
            source: &self.source,
        };
        let answer = answer::parse(&said.text, &reading);
        self.counts.clamped += answer.counts.clamped;
        self.counts.widened += answer.counts.widened;
        self.counts.dropped += answer.counts.dropped;
        *self.told.entry("tokens-answered").or_default() += said.ids.len() as u64;
        *self.told.entry("tokens-guessed").or_default() += said.guessed as u64;
        for caption in answer.observations.iter().filter(|said| said.kind == Kind::Caption) {
            self.captions.push_back((caption.span.start_ns, caption.text.clone()));
        }
        while self.captions.len() > self.wishes.context_captions.max(4) {
            self.captions.pop_front();
        }
        if self.wishes.context_tokens > 0 {
            self.turns.push(Turn { parts, media, features, answer: said.text });
        }
        out.extend(answer.observations.into_iter().filter(|said| self.kinds.contains(&said.kind)));
        Ok(())
    }

    /// The prompt for a clip with the chat before it; its parts and media, for the chat after it.
    fn prompt(
        &self,
        clip: &Clip,
        shown: &[(u64, Shown)],
        sound: &[usize],
        features: &[Features],
    ) -> Result<(super::prompt::Prompt, Vec<Part>, Vec<Medium>), DescribeError> {
        let prompter = &self.engine.prompter;
        let (mut parts, media) = prompter.clip(clip.span, shown, sound, vec![Part::text(self.question.clone())]);
        if let Some(words) = self.words_before(clip.span) {
            parts.insert(0, Part::text(words));
        }
        let mut messages = vec![Message { role: "system", content: vec![Part::text(self.system.clone())] }];
        let (mut all_media, mut all_features) = (Vec::new(), Vec::new());
        for turn in &self.turns {
            messages.push(Message { role: "user", content: turn.parts.clone() });
            messages.push(Message { role: "assistant", content: vec![Part::text(turn.answer.clone())] });
            all_media.extend(turn.media.iter().cloned());
            all_features.extend(turn.features.iter().cloned());
        }
        messages.push(Message { role: "user", content: parts.clone() });
        all_media.extend(media.iter().cloned());
        all_features.extend(features.iter().cloned());
        let prompt = prompter.prompt(&messages, &all_media, all_features);
        prompt.map(|prompt| (prompt, parts, media)).map_err(|error| self.fault("a prompt", error.to_string()))
    }

    /// What the model is told before it sees the clip: the last captions, then what experts know.
    fn words_before(&self, span: Span) -> Option<String> {
        let mut lines = Vec::new();
        let restarted = self.wishes.context_tokens > 0 && self.turns.is_empty();
        let count = if restarted { self.wishes.context_captions.max(4) } else { self.wishes.context_captions };
        if count > 0 && !self.captions.is_empty() {
            lines.push("Before this clip:".to_owned());
            let skip = self.captions.len().saturating_sub(count);
            lines.extend(
                self.captions.iter().skip(skip).map(|(at, text)| format!("{} {}", clock(*at), self.line(text))),
            );
        }
        let mut known: Vec<&Observation> = self.heard.iter().filter(|said| self.is_evidence(said, span)).collect();
        known.sort_by(|one, other| one.canonical_cmp(other));
        if !known.is_empty() {
            lines.push("Known of this clip:".to_owned());
        }
        lines.extend(known.iter().take(LINES).map(|said| {
            let [start, end] = [said.span.start_ns, said.span.end_ns].map(clock);
            format!("{start}-{end} {}: {}", said.kind, self.line(&said.text))
        }));
        (!lines.is_empty()).then(|| lines.join("\n") + "\n")
    }

    fn is_evidence(&self, said: &Observation, span: Span) -> bool {
        let wanted = match self.evidence {
            Evidence::All => said.kind != Kind::Caption,
            Evidence::Speech => said.kind == Kind::Speech,
            Evidence::Auto | Evidence::None => false,
        };
        wanted && !said.span.intersect(span).is_empty()
    }

    /// Words as one line that cannot be taken for more than words.
    fn line(&self, text: &str) -> String {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.engine.prompter.harmless(&words).chars().take(LINE).collect()
    }

    fn fault(&self, expected: &str, found: String) -> DescribeError {
        DescribeError::Output { piece: self.source.clone(), expected: expected.to_owned(), found }
    }
}

/// How many tokens all prompts with this system turn have in common.
fn prefix(prompter: &Prompter, system: &str) -> Result<usize, PromptError> {
    let ids = |words: &str| {
        let messages = [
            Message { role: "system", content: vec![Part::text(system)] },
            Message { role: "user", content: vec![Part::text(words)] },
        ];
        prompter.ids(&prompter.text(&messages, &[])?)
    };
    let (one, other) = (ids("01")?, ids("Who")?);
    Ok(one.iter().zip(&other).take_while(|(one, other)| one == other).count())
}

impl Describer for Generator {
    fn shape(&self) -> ClipShape {
        self.shape
    }

    fn describe(&mut self, clip: &Clip, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        cancel.check()?;
        let mut result = Ok(());
        if clip.discont {
            result = self.ask(true, cancel, out);
            self.turns.clear();
            self.captions.clear();
        }
        if let Some(experts) = &mut self.experts {
            let mut said = Vec::new();
            result = result.and(experts.describe(clip, cancel, &mut said));
            self.heard.extend(said.iter().cloned());
            out.extend(said);
        }
        if matches!(result, Err(DescribeError::Cancelled)) {
            return result;
        }
        self.waiting.push_back(clip.clone());
        let asked = self.ask(false, cancel, out);
        if matches!(asked, Err(DescribeError::Cancelled)) { asked } else { result.and(asked) }
    }

    fn flush(&mut self, cancel: &Cancel, out: &mut Vec<Observation>) -> Result<(), DescribeError> {
        let mut result = Ok(());
        if let Some(experts) = &mut self.experts {
            let mut said = Vec::new();
            result = experts.flush(cancel, &mut said);
            self.heard.extend(said.iter().cloned());
            out.extend(said);
        }
        let asked = self.ask(true, cancel, out);
        self.turns.clear();
        self.captions.clear();
        self.heard.clear();
        result.and(asked)
    }

    fn reset(&mut self) {
        if let Some(experts) = &mut self.experts {
            experts.reset();
        }
        self.waiting.clear();
        self.heard.clear();
        self.turns.clear();
        self.captions.clear();
        self.engine.decoder.clear();
        self.settled_ns = 0;
    }

    fn settled_ns(&self) -> u64 {
        let experts = self.experts.as_ref().map_or(u64::MAX, |experts| experts.settled_ns());
        let waiting = self.waiting.front().map_or(u64::MAX, |clip| clip.span.start_ns);
        self.settled_ns.min(experts).min(waiting)
    }

    fn listen(&mut self, partial: Option<Partial>) {
        self.partial = partial;
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let work = self.engine.decoder.work();
        let seen = self.engine.eyes.as_ref().map(|eyes| eyes.seen()).unwrap_or_default();
        let mut stats = vec![
            ("times-clamped", self.counts.clamped),
            ("times-widened", self.counts.widened),
            ("answers-dropped", self.counts.dropped),
            ("tokens-read", work.tokens),
            ("tokens-reused", work.reused),
            ("frames-encoded", seen.encoded),
            ("frames-reused", seen.reused),
        ];
        stats.extend(self.told.iter().map(|(name, count)| (*name, *count)));
        stats
    }

    fn provider(&self) -> Option<String> {
        Some(self.engine.decoder.provider().to_string())
    }
}
