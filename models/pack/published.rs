//! Published models that are no generators: a Whisper writes down what is spoken, a pair such as CLIP looks or listens for
//! labels.

use std::{collections::BTreeMap, path::PathBuf};

use super::{Loaded, Manifest, PackSettings, Progress, data_folders, locate_in};
use crate::{
    ClipShape, Kind, LoadError,
    experts::{
        Expert,
        pairs::{self, Asked, Family},
        speech::Speech,
        tape::RATE,
    },
    generator::folder::{Dtypes, Folder},
    lite::Lite,
};

/// Side of frames that nobody looks at, in pixels: the least that a clip may have.
const UNSEEN: u32 = 16;

/// Loads the model in `folder` where it is one of these; `None` where it is another.
pub(super) fn load(
    folder: &Folder,
    settings: &PackSettings,
    progress: &mut dyn FnMut(Progress),
) -> Option<Result<Loaded, LoadError>> {
    match folder.model_type.as_str() {
        "whisper" => Some(whisper(folder, settings, progress)),
        model_type => Family::of(model_type).map(|family| pair(folder, family, settings, progress)),
    }
}

fn whisper(folder: &Folder, settings: &PackSettings, progress: &mut dyn FnMut(Progress)) -> Result<Loaded, LoadError> {
    says(folder, settings, &[Kind::Speech])?;
    progress(Progress { piece: "speech".into(), done: 0, total: 1 });
    let mut missing = Vec::new();
    let mut files: BTreeMap<String, PathBuf> = [("model".to_owned(), folder.path.clone())].into();
    match voice() {
        Ok(voice) => {
            files.insert("voice".into(), voice);
        }
        Err(error) => missing.push(("voice".to_owned(), error)),
    }
    let mut wishes = serde_json::Map::new();
    if let Some(language) = &settings.language {
        wishes.insert("language".into(), language.as_str().into());
    }
    if let Some(dtype) = &settings.generator.dtype {
        wishes.insert("dtype".into(), dtype_json(dtype));
    }
    let speech = Speech::load(&files, &wishes.into(), &settings.run)?;
    let shape = ClipShape { max_size: UNSEEN, rate: RATE, frames: Some(1) };
    Ok(loaded(folder, settings, shape, vec![Box::new(speech)], missing))
}

fn pair(
    folder: &Folder,
    family: Family,
    settings: &PackSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<Loaded, LoadError> {
    let hears = family == Family::Clap;
    let kind = if hears { Kind::Sound } else { Kind::Object };
    says(folder, settings, &[kind])?;
    let wishes = &settings.generator;
    let labels = pairs::labels(wishes.labels.as_deref().unwrap_or_default())?;
    let reason = match labels.len() {
        0 if !wishes.embeddings => {
            "it needs to be told what to look or listen for: give labels=cat,dog or embeddings=true"
        }
        1 if family != Family::Siglip => {
            "its labels share one probability, so that of a single one is always 1: give two or more"
        }
        _ => "",
    };
    if !reason.is_empty() {
        return Err(LoadError::Format { path: folder.path.clone(), reason: reason.to_owned() });
    }
    progress(Progress { piece: kind.as_str().into(), done: 0, total: 1 });
    let asked = Asked { labels, template: wishes.prompt.clone(), embeddings: wishes.embeddings };
    let dtype = wishes.dtype.as_ref();
    if hears {
        let sounds = pairs::Sounds::load(folder, family, asked, dtype, &settings.run)?;
        let shape = ClipShape { max_size: UNSEEN, rate: sounds.rate(), frames: Some(1) };
        return Ok(loaded(folder, settings, shape, vec![Box::new(sounds)], Vec::new()));
    }
    let pictures = pairs::Pictures::load(folder, family, asked, dtype, &settings.run)?;
    let max_size = folder.overrides.max_size.unwrap_or(pictures.max_size()).max(UNSEEN);
    let shape = ClipShape { max_size, rate: RATE, frames: folder.overrides.frames };
    Ok(loaded(folder, settings, shape, vec![Box::new(pictures)], Vec::new()))
}

fn loaded(
    folder: &Folder,
    settings: &PackSettings,
    shape: ClipShape,
    experts: Vec<Box<dyn Expert>>,
    missing: Vec<(String, LoadError)>,
) -> Loaded {
    let describer = Box::new(Lite::new(shape, settings.kinds.clone(), experts, None));
    let version = folder.overrides.version.clone().unwrap_or_default();
    Loaded { describer, name: folder.name(), version, missing }
}

/// An error where nothing that the model says is wanted.
fn says(folder: &Folder, settings: &PackSettings, kinds: &[Kind]) -> Result<(), LoadError> {
    if kinds.iter().any(|kind| settings.kinds.contains(kind)) {
        return Ok(());
    }
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    Err(LoadError::Format {
        path: folder.path.join("config.json"),
        reason: format!(
            "a model of the type {} says only {}, which is not among the wanted kinds; ask for kinds={}",
            folder.model_type,
            kinds.join(" and "),
            kinds.join(",")
        ),
    })
}

/// The voice activity model of the default pack.
fn voice() -> Result<PathBuf, LoadError> {
    let folder = locate_in(None, None, data_folders())?;
    let manifest = Manifest::read(&folder)?;
    let file = manifest.pieces.get("voice").and_then(|voice| voice.files.get("model"));
    let path = folder.join(file.map_or("voice.onnx", String::as_str));
    match std::fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(LoadError::Read { path, source }),
    }
}

/// Number formats as settings of a piece hold them.
pub(super) fn dtype_json(dtype: &Dtypes) -> serde_json::Value {
    match dtype {
        Dtypes::All(word) => word.as_str().into(),
        Dtypes::Each(each) => each.iter().map(|(session, word)| (session.clone(), word.clone())).collect(),
    }
}
