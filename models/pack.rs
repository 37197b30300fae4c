//! Packs: folders of models, where they lie, what they hold and how they are loaded.
//!
//! A pack is a folder with a manifest, `describe.json`, and the files that it names. A piece of it that cannot be used
//! is left out and told of; the others work without it.

mod check;
mod published;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::check::{FileReport, FileState, PieceReport, check};
use crate::{
    ClipShape, Describer, Kind, LoadError,
    caption::{Composer, Rules},
    experts::{self, Expert},
    generator::{
        describer::{Engine, Evidence, Generator, Wishes},
        folder::Folder,
    },
    lite::Lite,
    runtime::{self, RunSettings},
};

/// Name of the manifest in a pack's folder.
pub const MANIFEST: &str = "describe.json";
/// Name of the default pack.
const DEFAULT: &str = "lite";
/// The piece and role of a folder with a published model in place of the pack's own files.
const PUBLISHED: (&str, &str) = ("speech", "model");
/// Largest manifest or list of files that is read, in bytes; the default pack's has 8 kB.
const MAX_JSON: u64 = 1 << 20;

/// Folders that may hold packs and the runtime: the user's (`$XDG_DATA_HOME/describe`) first, then the system's.
pub fn data_folders() -> Vec<PathBuf> {
    let user = env::var_os("XDG_DATA_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    user.into_iter()
        .chain(["/usr/local/share".into(), "/usr/share".into()])
        .map(|folder: PathBuf| folder.join("describe"))
        .collect()
}

/// Where things are kept that can be made again: `$XDG_CACHE_HOME/describe`.
pub fn cache_folder() -> PathBuf {
    let named = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = named.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    folder.unwrap_or_else(env::temp_dir).join("describe")
}

/// What to load and how.
#[derive(Debug, Clone)]
pub struct PackSettings {
    /// The pack's folder; `None` looks where [`locate`] does.
    pub path: Option<PathBuf>,
    /// Own files in place of the pack's, by piece and role as in the manifest, like `tags.model`.
    pub pieces: BTreeMap<String, PathBuf>,
    /// What is to be said; pieces that are not needed for it are not loaded.
    pub kinds: BTreeSet<Kind>,
    /// ISO 639-1 code of the language that is spoken; `None` listens for it.
    pub language: Option<String>,
    /// How the models are run.
    pub run: RunSettings,
    /// What is asked of a generator; experts alone have no use for it.
    pub generator: Wishes,
}

impl Default for PackSettings {
    fn default() -> Self {
        let kinds = [Kind::Caption, Kind::Scene, Kind::Sound, Kind::Speech].into();
        Self {
            path: None,
            pieces: BTreeMap::new(),
            kinds,
            language: None,
            run: RunSettings::default(),
            generator: Wishes::default(),
        }
    }
}

/// How far loading has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The piece that is loaded next.
    pub piece: String,
    /// Pieces done.
    pub done: usize,
    /// Pieces in all.
    pub total: usize,
}

/// A loaded pack.
pub struct Loaded {
    /// What describes clips.
    pub describer: Box<dyn Describer>,
    /// Name of the pack.
    pub name: String,
    /// Version of the pack.
    pub version: String,
    /// Pieces that were wanted and cannot be used, and why.
    pub missing: Vec<(String, LoadError)>,
}

/// What `describe.json` says of a pack; keys that are not known are left alone.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// Name of the pack.
    pub name: String,
    /// Version of the pack.
    pub version: String,
    /// What clips should look like.
    pub clip: Wish,
    /// Pieces by name.
    pub pieces: BTreeMap<String, Piece>,
    /// How sure captions must be.
    #[serde(default)]
    pub caption: Rules,
}

/// What a pack wants clips to look like.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Wish {
    /// Side of the square that frames are scaled down to fit in, in pixels.
    pub max_size: u32,
    /// Samples of sound a second.
    pub rate: u32,
}

/// A single-purpose model of a pack.
#[derive(Debug, Clone, Deserialize)]
pub struct Piece {
    /// Its files by role: plain paths inside the pack's folder.
    pub files: BTreeMap<String, String>,
    /// Its licence.
    #[serde(default)]
    pub license: String,
    /// Its settings; `null` where there are none.
    #[serde(default)]
    pub settings: Value,
}

impl Manifest {
    /// Reads the manifest of the pack in `folder`, which must be an existing folder.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join(MANIFEST);
        let manifest: Self = read_json(&path)?;
        match manifest.fault() {
            None => Ok(manifest),
            Some(reason) => Err(LoadError::Format { path, reason }),
        }
    }

    fn fault(&self) -> Option<String> {
        let Wish { max_size, rate } = self.clip;
        if !(16..=8192).contains(&max_size) || !(8_000..=192_000).contains(&rate) {
            return Some(format!(
                "clip wants size {max_size} and rate {rate}; 16 to 8192 and 8000 to 192000 are possible"
            ));
        }
        let mut files =
            self.pieces.iter().flat_map(|(piece, about)| about.files.values().map(move |name| (piece, name)));
        let (piece, name) = files.find(|(_, name)| !is_plain(name))?;
        Some(format!("the {piece} piece names the file '{name}', which is no plain path inside the pack"))
    }
}

/// Whether a path stays inside the folder that it is put behind.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.contains(['\\', '\0']) && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// A JSON file of at most [`MAX_JSON`] bytes.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
    let wrong = |reason| LoadError::Format { path: path.to_owned(), reason };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_JSON {
        return Err(wrong(format!("it has more than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

/// The pack's folder: `path`, or else what the environment variable DESCRIBE_PACK names, or else the default pack in
/// one of [`data_folders`].
pub fn locate(path: Option<&Path>) -> Result<PathBuf, LoadError> {
    locate_in(path, env::var_os("DESCRIBE_PACK"), data_folders())
}

fn locate_in(path: Option<&Path>, variable: Option<OsString>, folders: Vec<PathBuf>) -> Result<PathBuf, LoadError> {
    let named = path.map(Path::to_owned);
    let named = named.or_else(|| variable.filter(|path| !path.is_empty()).map(PathBuf::from));
    let candidates = named
        .map_or_else(|| folders.iter().map(|folder| folder.join("packs").join(DEFAULT)).collect(), |path| vec![path]);
    let not_there = |path: PathBuf| LoadError::Read {
        path,
        source: io::Error::new(io::ErrorKind::NotFound, "there is no such folder"),
    };
    match candidates.iter().find(|path| path.is_dir()) {
        Some(folder) => Ok(folder.clone()),
        None => Err(not_there(candidates.into_iter().next().unwrap_or_else(|| DEFAULT.into()))),
    }
}

/// Pieces that observations of `kind` are made from.
///
/// `voice` is an inner part of `speech`: it says where anyone speaks.
fn pieces_for(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Caption => &["shots", "tags", "people", "sounds", "voice", "speech"],
        Kind::Scene => &["shots"],
        Kind::Sound => &["sounds"],
        Kind::Speech => &["voice", "speech"],
        Kind::Text => &["text"],
        Kind::Object => &["shots", "tags", "people"],
    }
}

/// Loads the pack; `progress` is told before each piece.
///
/// A piece that is missing or broken is left out and listed in [`Loaded::missing`]; it is an error if none is left, or
/// if what all of them need is not there: the manifest, ONNX Runtime, the execution provider.
pub fn load(settings: &PackSettings, progress: &mut dyn FnMut(Progress)) -> Result<Loaded, LoadError> {
    let folder = locate(settings.path.as_deref())?;
    let loaded = match Folder::is_one(&folder) {
        true => Folder::read(&folder).and_then(|folder| {
            published::load(&folder, settings, progress).unwrap_or_else(|| generator(folder, settings, progress))
        }),
        false => toolbox(&folder, settings, progress),
    };
    runtime::trim();
    loaded
}

/// Loads a published model, with experts beside it where they tell it something or say what it cannot.
fn generator(folder: Folder, settings: &PackSettings, progress: &mut dyn FnMut(Progress)) -> Result<Loaded, LoadError> {
    let mut done = 0;
    let engine = Engine::load(folder, settings.generator.dtype.as_ref(), &settings.run, &mut |piece| {
        progress(Progress { piece: piece.to_owned(), done, total: done + 1 });
        done += 1;
    })?;
    let mut missing = Vec::new();
    let experts = beside(&engine, settings, progress, &mut missing);
    let overrides = &engine.folder.overrides;
    let (name, version) = (engine.folder.name(), overrides.version.clone().unwrap_or_default());
    let generator = Generator::new(engine, settings.generator.clone(), settings.kinds.clone(), experts)?;
    Ok(Loaded { describer: Box::new(generator), name, version, missing })
}

/// The default pack's experts for what a generator is to be told; without them it works too.
fn beside(
    engine: &Engine,
    settings: &PackSettings,
    progress: &mut dyn FnMut(Progress),
    missing: &mut Vec<(String, LoadError)>,
) -> Option<Box<dyn Describer>> {
    let kinds: BTreeSet<Kind> = match settings.generator.evidence {
        Evidence::None => return None,
        Evidence::Auto if engine.ears.is_some() => return None,
        Evidence::Auto | Evidence::Speech => [Kind::Speech].into(),
        Evidence::All => [Kind::Scene, Kind::Sound, Kind::Speech].into(),
    };
    let default = locate_in(None, None, data_folders()).and_then(|folder| {
        let settings = PackSettings { path: None, kinds, pieces: BTreeMap::new(), ..settings.clone() };
        toolbox(&folder, &settings, progress)
    });
    match default {
        Ok(loaded) => {
            missing.extend(loaded.missing);
            Some(loaded.describer)
        }
        Err(error) => {
            missing.push(("evidence".to_owned(), error));
            None
        }
    }
}

/// Loads a pack of experts.
fn toolbox(folder: &Path, settings: &PackSettings, progress: &mut dyn FnMut(Progress)) -> Result<Loaded, LoadError> {
    let manifest = Manifest::read(folder)?;
    runtime::start(&settings.run)?;
    assemble(folder, &manifest, settings, progress, &|name, part| {
        experts::build(name, &part.files, &part.settings, &settings.run)
    })
}

/// A piece as its expert gets it.
#[derive(Debug, Clone, Default)]
struct Part {
    files: BTreeMap<String, PathBuf>,
    settings: Value,
}

type Build<'b> = &'b dyn Fn(&str, &Part) -> Result<Box<dyn Expert>, LoadError>;

fn assemble(
    folder: &Path,
    manifest: &Manifest,
    settings: &PackSettings,
    progress: &mut dyn FnMut(Progress),
    build: Build,
) -> Result<Loaded, LoadError> {
    let mut parts = parts(folder, manifest, settings)?;
    let wanted: BTreeSet<&str> = settings.kinds.iter().flat_map(|kind| pieces_for(*kind)).copied().collect();
    let mut missing = Vec::new();
    if let Some(speech) = parts.remove("speech") {
        parts.insert("speech", with_voice(speech, parts.get("voice"), settings, &mut missing));
    }
    let order = ["shots", "tags", "people", "text", "sounds", "speech"];
    let order: Vec<&str> = order.into_iter().filter(|piece| wanted.contains(piece)).collect();
    let mut experts = Vec::new();
    for (done, piece) in order.iter().enumerate() {
        progress(Progress { piece: (*piece).to_owned(), done, total: order.len() });
        let built = match parts.get(piece) {
            Some(part) => build_piece(piece, part, build, &mut missing),
            None => Err(LoadError::Format {
                path: folder.join(MANIFEST),
                reason: format!("it has no '{piece}' piece, which one of the wanted kinds needs"),
            }),
        };
        match built {
            Ok(expert) => experts.push(expert),
            Err(error) if concerns_all(&error) => return Err(error),
            Err(error) => missing.push(((*piece).to_owned(), error)),
        }
    }
    if experts.is_empty() {
        for (piece, error) in &missing {
            tracing::warn!("{piece}: {error}");
        }
        return Err(LoadError::Empty { path: folder.to_owned() });
    }
    let composer = composer(&settings.kinds, &parts, &manifest.caption, &mut missing);
    let shape = ClipShape { max_size: manifest.clip.max_size, rate: manifest.clip.rate, frames: None };
    let describer = Box::new(Lite::new(shape, settings.kinds.clone(), experts, composer));
    Ok(Loaded { describer, name: manifest.name.clone(), version: manifest.version.clone(), missing })
}

/// Whether the same error would come for every piece.
fn concerns_all(error: &LoadError) -> bool {
    matches!(error, LoadError::NoRuntime { .. } | LoadError::Runtime { .. })
}

/// Files and settings of every piece, with the user's own files in place.
fn parts<'m>(
    folder: &Path,
    manifest: &'m Manifest,
    settings: &PackSettings,
) -> Result<BTreeMap<&'m str, Part>, LoadError> {
    let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
    for (name, piece) in &manifest.pieces {
        let files = piece.files.iter().map(|(role, file)| (role.clone(), folder.join(file))).collect();
        parts.insert(name, Part { files, settings: piece.settings.clone() });
    }
    for (key, path) in &settings.pieces {
        let file = key.split_once('.').and_then(|(piece, role)| place(&mut parts.get_mut(piece)?.files, piece, role));
        match file {
            Some(file) => file.clone_from(path),
            None => {
                let roles =
                    parts.iter().flat_map(|(name, part)| part.files.keys().map(move |role| format!("{name}.{role}")));
                let known = roles.chain([format!("{}.{}", PUBLISHED.0, PUBLISHED.1)]).collect::<Vec<_>>().join(", ");
                let reason = format!("it has no piece file '{key}' to be replaced; it has {known}");
                return Err(LoadError::Format { path: folder.join(MANIFEST), reason });
            }
        }
    }
    Ok(parts)
}

/// Where the path of a piece's file stands; a published model may stand in for all files of a piece.
fn place<'f>(files: &'f mut BTreeMap<String, PathBuf>, piece: &str, role: &str) -> Option<&'f mut PathBuf> {
    match (piece, role) {
        PUBLISHED => Some(files.entry(role.to_owned()).or_default()),
        _ => files.get_mut(role),
    }
}

/// The speech piece with the model of the voice piece as its file `voice`, and with the language.
fn with_voice(
    mut speech: Part,
    voice: Option<&Part>,
    settings: &PackSettings,
    missing: &mut Vec<(String, LoadError)>,
) -> Part {
    let wanted = settings.kinds.iter().any(|kind| pieces_for(*kind).contains(&"voice"));
    if let (Some(voice), true) = (voice, wanted)
        && let Some(model) = voice.files.get("model")
    {
        match File::open(model) {
            Ok(_) => {
                speech.files.insert("voice".into(), model.clone());
            }
            Err(source) => missing.push(("voice".into(), LoadError::Read { path: model.clone(), source })),
        }
    }
    let dtype = settings.generator.dtype.as_ref().filter(|_| speech.files.contains_key(PUBLISHED.1));
    let wishes =
        [("language", settings.language.as_deref().map(Value::from)), ("dtype", dtype.map(published::dtype_json))];
    for (key, value) in wishes.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        if !speech.settings.is_object() {
            speech.settings = Value::Object(serde_json::Map::new());
        }
        speech.settings[key] = value;
    }
    speech
}

/// Builds a piece; speech goes without a voice model that is broken.
fn build_piece(
    piece: &str,
    part: &Part,
    build: Build,
    missing: &mut Vec<(String, LoadError)>,
) -> Result<Box<dyn Expert>, LoadError> {
    let error = match build(piece, part) {
        Err(error) if part.files.contains_key("voice") && !concerns_all(&error) => error,
        built => return built,
    };
    let mut alone = part.clone();
    alone.files.remove("voice");
    let expert = build(piece, &alone)?;
    missing.push(("voice".into(), error));
    Ok(expert)
}

/// What makes captions and objects, where they are wanted.
fn composer(
    kinds: &BTreeSet<Kind>,
    parts: &BTreeMap<&str, Part>,
    rules: &Rules,
    missing: &mut Vec<(String, LoadError)>,
) -> Option<Composer> {
    if !kinds.contains(&Kind::Caption) && !kinds.contains(&Kind::Object) {
        return None;
    }
    let files = parts.get("tags").map(|part| part.files.clone()).unwrap_or_default();
    let names = experts::names(&files).unwrap_or_else(|error| {
        // The tagger itself cannot be loaded without its words, and that was told then.
        if !missing.iter().any(|(piece, _)| piece == "tags") {
            missing.push(("tags".to_owned(), error));
        }
        Box::new(experts::NoNames)
    });
    Some(Composer::new(names, rules.clone()))
}
