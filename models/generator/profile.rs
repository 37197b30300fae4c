//! What the `model_type` of a published model means for its prompts: one row of a table each, the rest is read from files.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::folder::Folder;
use crate::LoadError;

/// How the frames of a clip are put into the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// As one video, `mm:ss` before each frame (`processing_gemma4.py`, `replace_video_token`).
    Video,
    /// As pictures, with `mm:ss` as text before each.
    Pictures,
    /// As one video told in a sentence, `Frame from mm:ss:` before each frame (`processing_smolvlm.py`).
    Sentence,
    /// Not at all: the model only reads.
    None,
}

/// A family of models.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Values of `model_type`.
    pub types: &'static [&'static str],
    /// How frames are shown.
    pub frames: Frames,
    /// Text around the soft tokens of a picture or a sound.
    pub wrapper: &'static str,
    /// Whether the embedding wants the padding token where soft tokens go.
    pub blanks: bool,
    /// Position of the first token.
    pub first_position: i64,
}

/// The families that see. Every other `model_type` without a `vision_config` or `audio_config` only reads.
const FAMILIES: [Family; 4] = [
    Family { types: &["gemma4"], frames: Frames::Video, wrapper: "", blanks: true, first_position: 0 },
    Family { types: &["gemma3n"], frames: Frames::Pictures, wrapper: "\n\n", blanks: false, first_position: 0 },
    Family { types: &["gemma3"], frames: Frames::Pictures, wrapper: "\n\n", blanks: false, first_position: 1 },
    Family { types: &["smolvlm", "idefics3"], frames: Frames::Sentence, wrapper: "", blanks: false, first_position: 0 },
];
const READER: Family = Family { types: &[], frames: Frames::None, wrapper: "", blanks: false, first_position: 0 };
/// A reader whose positions begin at 1 (Transformers.js `decoder_forward`).
const READER_FROM_1: Family = Family { first_position: 1, ..READER };
/// Names of cache inputs of layers that keep a state instead of keys and values.
pub const RECURRENT: [&str; 3] = ["past_conv", "past_recurrent", "past_ssm"];

/// The soft tokens of one sort: the token that stands for them and what is put around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// What the chat template writes where the medium goes.
    pub placeholder: String,
    /// The token that is repeated.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// Text before and after.
    pub around: [String; 2],
}

/// Everything about prompts that was read from a folder.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The row of the table.
    pub family: &'static Family,
    /// How pictures are written.
    pub image: Option<Marks>,
    /// How frames of a video are written.
    pub video: Option<Marks>,
    /// How sound is written.
    pub audio: Option<Marks>,
    /// The token that stands for nothing.
    pub pad: u32,
    /// Names that the template knows: bos, eos and so on.
    pub names: Vec<(String, String)>,
}

impl Profile {
    /// Reads what the folder says about its prompts.
    pub fn read(folder: &Folder, tokenizer: &Tokenizer) -> Result<Self, LoadError> {
        let family = family(folder)?;
        let pad = folder.number("pad_token_id").or_else(|| folder.number("_pad_token_id"));
        let pad = pad.or_else(|| folder.generation.get("pad_token_id").and_then(Value::as_u64)).unwrap_or(0);
        let reader = Reader { folder, tokenizer };
        let wrapper = folder.overrides.wrapper.as_deref().unwrap_or(family.wrapper);
        let (mut image, mut video, mut audio) = (None, None, None);
        match family.frames {
            Frames::None => {}
            Frames::Video | Frames::Pictures => {
                let ends = [reader.named("boi_token")?, reader.named("eoi_token")?];
                let around = [format!("{wrapper}{}", ends[0]), format!("{}{wrapper}", ends[1])];
                image = Some(reader.marks("image_token", around)?);
                if family.frames == Frames::Video {
                    video = Some(reader.marks("video_token", ends)?);
                }
                if folder.config.get("audio_config").is_some_and(Value::is_object) {
                    let [begin, end] = [reader.named("boa_token")?, reader.named("eoa_token")?];
                    let around = [format!("{wrapper}{begin}"), format!("{end}{wrapper}")];
                    audio = Some(reader.marks("audio_token", around)?);
                }
            }
            Frames::Sentence => {
                let marks = reader.marks("image_token", [String::new(), String::new()])?;
                let placeholder = reader.name("video_token").unwrap_or_else(|| "<video>".into());
                video = Some(Marks { placeholder, ..marks.clone() });
                image = Some(marks);
            }
        }
        let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let names = names.iter().filter_map(|name| Some(((*name).to_owned(), reader.name(name)?))).collect();
        Ok(Self { family, image, video, audio, pad: pad as u32, names })
    }

    /// Tokens in whose place features go.
    pub fn soft_tokens(&self) -> [Option<u32>; 3] {
        [&self.image, &self.video, &self.audio].map(|marks| marks.as_ref().map(|marks| marks.token))
    }
}

fn family(folder: &Folder) -> Result<&'static Family, LoadError> {
    let name = folder.model_type.as_str();
    if let Some(family) = FAMILIES.iter().find(|family| family.types.contains(&name)) {
        return Ok(family);
    }
    let sees =
        ["vision_config", "audio_config"].iter().any(|part| folder.config.get(part).is_some_and(Value::is_object));
    if sees || folder.has("vision_encoder") || folder.has("audio_encoder") {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.types).copied().collect();
        return Err(LoadError::Format {
            path: folder.path.join("config.json"),
            reason: format!(
                "models of the type '{name}' that see or hear are not known; known are {}",
                known.join(", ")
            ),
        });
    }
    Ok(if name == "gemma3_text" { &READER_FROM_1 } else { &READER })
}

struct Reader<'a> {
    folder: &'a Folder,
    tokenizer: &'a Tokenizer,
}

impl Reader<'_> {
    /// Text of the token that tokenizer_config.json calls `name`.
    fn name(&self, name: &str) -> Option<String> {
        let value = self.folder.tokenizer.get(name)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    }

    /// Text of a special token, by its number in config.json (`NAME_id` or `NAME_index`) or its name in
    /// tokenizer_config.json.
    fn named(&self, name: &str) -> Result<String, LoadError> {
        let number = ["_id", "_index"].iter().find_map(|end| self.folder.number(&format!("{name}{end}")));
        let by_number = number.and_then(|id| self.tokenizer.id_to_token(u32::try_from(id).ok()?));
        by_number.or_else(|| self.name(name)).ok_or_else(|| LoadError::Format {
            path: self.folder.path.join("config.json"),
            reason: format!("it has no {name}_id that tokenizer.json knows, and tokenizer_config.json no {name}"),
        })
    }

    fn marks(&self, name: &str, around: [String; 2]) -> Result<Marks, LoadError> {
        let text = self.named(name)?;
        let token = self.tokenizer.token_to_id(&text).ok_or_else(|| LoadError::Format {
            path: self.folder.path.join("tokenizer.json"),
            reason: format!("it has no token '{text}', the {name} of the model"),
        })?;
        Ok(Marks { placeholder: text.clone(), token, text, around })
    }
}
