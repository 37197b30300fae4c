//! The pack that describes, and how it is loaded.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use describe_models::{Cancel, ClipShape, Describer, Kind, LoadError, pack, runtime};

use super::settings::{Settings, SettingsError};
use crate::bridge;

/// What the element describes with, from READY on; a flush does not touch it.
#[derive(Default)]
pub struct Model {
    /// Away while it describes, so that nobody waits for it.
    pub describer: Option<Box<dyn Describer>>,
    /// Brought by the application: stays when the element goes to NULL.
    pub own: bool,
    pub cancel: Cancel,
    pub shape: Option<ClipShape>,
    pub kinds: BTreeSet<Kind>,
    pub load_time: Duration,
    /// Pieces that were left out.
    pub missing: Vec<String>,
}

impl Model {
    /// The model of an application.
    pub fn own(describer: Box<dyn Describer>) -> Self {
        Self { describer: Some(describer), own: true, ..Self::default() }
    }

    /// Forgets the pack, except an application's own.
    pub fn unload(&mut self) {
        let describer = self.describer.take().filter(|_| self.own);
        *self = Self { describer, own: self.own, ..Self::default() };
    }

    /// Makes what [`prepare`] gave ready for clips.
    pub fn install(&mut self, ready: Ready) {
        if let Some(describer) = ready.describer {
            self.describer = Some(describer);
        }
        self.shape = self.describer.as_ref().map(|describer| describer.shape());
        self.cancel = ready.cancel;
        self.kinds = ready.kinds;
        self.load_time = ready.load_time;
        self.missing = ready.missing.into_iter().map(|(piece, _)| piece).collect();
    }
}

/// Everything a describer needs to begin.
pub struct Ready {
    /// `None` where the application has its own.
    pub describer: Option<Box<dyn Describer>>,
    pub cancel: Cancel,
    pub kinds: BTreeSet<Kind>,
    pub load_time: Duration,
    /// Pieces that could not be loaded, and why.
    pub missing: Vec<(String, LoadError)>,
}

/// Why there is nothing to describe with.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A property makes no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The pack or the runtime.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Loads what `settings` ask for, or nothing where the application has its `own` describer.
pub fn prepare(settings: &Settings, own: bool, progress: &mut dyn FnMut(&str)) -> Result<Ready, PrepareError> {
    let kinds = settings.kinds()?;
    let started = Instant::now();
    let loaded = match own {
        true => Loaded { describer: None, missing: Vec::new() },
        false => bridge::with_bridge(|| load(settings, &kinds, progress))?,
    };
    // Without a runtime there is no run to stop half-way.
    let cancel = match runtime::library() {
        Some(_) => Cancel::new().unwrap_or_default(),
        None => Cancel::default(),
    };
    Ok(Ready { describer: loaded.describer, cancel, kinds, load_time: started.elapsed(), missing: loaded.missing })
}

struct Loaded {
    describer: Option<Box<dyn Describer>>,
    missing: Vec<(String, LoadError)>,
}

/// Loads a pack; the only place that knows how.
fn load(settings: &Settings, kinds: &BTreeSet<Kind>, progress: &mut dyn FnMut(&str)) -> Result<Loaded, PrepareError> {
    let wanted = pack::PackSettings {
        path: settings.model_path.as_ref().map(PathBuf::from),
        pieces: settings.pieces()?,
        kinds: kinds.clone(),
        language: settings.language.clone(),
        run: settings.run(),
        generator: settings.wishes()?,
    };
    let pack::Loaded { describer, missing, .. } = pack::load(&wanted, &mut |step| progress(&step.piece))?;
    Ok(Loaded { describer: Some(describer), missing })
}
