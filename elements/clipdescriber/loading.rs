//! Loading a pack, and what there is to tell of it.

use std::sync::Arc;

use describe_models::{LoadError, Partial};
use gst::{prelude::*, subclass::prelude::*};

use super::{
    imp::{CAT, ClipDescriber},
    model::{self, PrepareError},
};

impl ClipDescriber {
    /// What the property `stats` says.
    pub(super) fn stats(&self) -> gst::Structure {
        let (load_time, missing) = {
            let model = self.model();
            (model.load_time, model.missing.join(","))
        };
        // A describer that is at work is not asked.
        let counts = self.model().describer.as_ref().and_then(|pack| Some((pack.provider()?, pack.stats())));
        let stats = self.stream().stats;
        let mut structure = gst::Structure::builder("stats")
            .field("clips", stats.clips)
            .field("described", stats.described)
            .field("skipped", stats.skipped)
            .field("failed", stats.failed)
            .field("observations", stats.observations)
            .field("processing-ns", nanoseconds(stats.processing))
            .field("load-ns", nanoseconds(load_time))
            .field("missing-pieces", missing)
            .build();
        if let Some((provider, counts)) = counts {
            structure.set("provider", provider);
            counts.into_iter().for_each(|(name, count)| structure.set(name, count));
        }
        structure
    }

    /// Loads the pack that the properties name.
    pub(super) fn load(&self) -> Result<(), gst::StateChangeError> {
        let (settings, own) = (self.settings().clone(), self.model().own);
        self.progress(gst::ProgressType::Start, "Loading models");
        let prepared = model::prepare(&settings, own, &mut |what| {
            self.progress(gst::ProgressType::Continue, &format!("Loading {what}"));
        });
        let ready = match prepared {
            Ok(ready) => ready,
            Err(error) => {
                self.progress(gst::ProgressType::Error, &error.to_string());
                self.refuse(&error);
                return Err(gst::StateChangeError);
            }
        };
        for (piece, error) in &ready.missing {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::NotFound,
                ("Going on without the {} piece: {}", piece, error)
            );
        }
        gst::info!(CAT, imp = self, "Loaded in {:?}, {} pieces missing", ready.load_time, ready.missing.len());
        self.model().install(ready);
        let partial = settings.post_partial.then(|| self.partial());
        self.with_describer(|describer, _| describer.listen(partial));
        self.progress(gst::ProgressType::Complete, "Models loaded");
        Ok(())
    }

    /// Posts an answer while it grows: `partial` with `start_ns`, `end_ns` and the `text` so far.
    fn partial(&self) -> Partial {
        let element = self.obj().downgrade();
        Arc::new(move |span, text| {
            let Some(element) = element.upgrade() else { return };
            let structure = gst::Structure::builder("partial")
                .field("start_ns", span.start_ns)
                .field("end_ns", span.end_ns)
                .field("text", text)
                .build();
            let _ = element.post_message(gst::message::Element::builder(structure).src(&element).build());
        })
    }

    fn progress(&self, kind: gst::ProgressType, text: &str) {
        let message = gst::message::Progress::builder(kind, "load", text).src(&*self.obj()).build();
        let _ = self.obj().post_message(message);
    }

    fn refuse(&self, error: &PrepareError) {
        match error {
            PrepareError::Settings(_) => {
                gst::element_imp_error!(self, gst::LibraryError::Settings, ("{}", error));
            }
            PrepareError::Load(LoadError::NoRuntime { .. } | LoadError::Runtime { .. }) => {
                gst::element_imp_error!(self, gst::LibraryError::Init, ("{}", error));
            }
            PrepareError::Load(LoadError::Read { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
                gst::element_imp_error!(self, gst::ResourceError::OpenRead, ("{}", error));
            }
            PrepareError::Load(LoadError::Read { .. } | LoadError::Empty { .. }) => {
                gst::element_imp_error!(self, gst::ResourceError::NotFound, ("{}", error));
            }
            PrepareError::Load(_) => gst::element_imp_error!(self, gst::ResourceError::OpenRead, ("{}", error)),
        }
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
