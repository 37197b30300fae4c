//! What GStreamer says went wrong, in words for people, with what to do next.

use gst::prelude::*;

use crate::{
    exit::{Exit, Failure},
    show::clock,
};

/// Collects errors, warnings and missing decoders of a run.
pub struct Troubles {
    name: String,
    local: bool,
    error: Option<(Exit, String)>,
    /// The error says only that no data came.
    vague: bool,
    notes: Vec<String>,
    codecs: Vec<String>,
}

impl Troubles {
    /// Of the input `name`, which is a `local` file or comes over the network.
    pub fn new(name: &str, local: bool) -> Self {
        Self { name: name.to_owned(), local, error: None, vague: false, notes: Vec::new(), codecs: Vec::new() }
    }

    /// Takes a message of the bus; true where it is an error.
    pub fn read(&mut self, message: &gst::Message) -> bool {
        match message.view() {
            gst::MessageView::Error(error) => {
                let found = explain(message, &error.error(), error.debug().as_deref());
                tracing::debug!("{:?} {:?}", error.error(), error.debug());
                if self.error.is_none() {
                    self.vague = error.error().matches(gst::StreamError::Failed);
                    self.error = Some(found);
                }
                true
            }
            gst::MessageView::Warning(warning) => {
                let text = sentence(&warning.error().to_string());
                if !self.notes.contains(&text) {
                    self.notes.push(text);
                }
                false
            }
            gst::MessageView::Element(element) => {
                if let Some(codec) = element.structure().and_then(missing_plugin)
                    && !self.codecs.contains(&codec)
                {
                    self.codecs.push(codec);
                }
                false
            }
            _ => false,
        }
    }

    /// Adds an error that GStreamer does not report.
    pub fn add(&mut self, exit: Exit, text: &str) {
        self.error.get_or_insert((exit, text.to_owned()));
    }

    /// Whether there was an error.
    pub fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether a decoder is missing.
    pub fn has_missing(&self) -> bool {
        !self.codecs.is_empty()
    }

    /// The failure and the notes; `end_ns` is how far the media was read, where it was.
    pub fn end(mut self, end_ns: Option<u64>) -> (Option<Failure>, Vec<String>) {
        let codecs = self.codecs.join(", ");
        let remedy = "install gstreamer1.0-libav and gstreamer1.0-plugins-good, -bad and -ugly";
        if !codecs.is_empty() && end_ns.is_some() {
            self.notes.push(format!("left out what GStreamer cannot decode here ({codecs}); {remedy}"));
        }
        let failure = self.error.map(|(exit, text)| match end_ns {
            None if !codecs.is_empty() => Failure::new(
                Exit::Missing,
                format!("{}: GStreamer has nothing to decode it with: {codecs} is missing; {remedy}", self.name),
            ),
            // A server that is not there looks like a stream without data.
            None if !self.local && self.vague => Failure::new(
                Exit::Temporary,
                format!("{}: nothing could be read from there; check address and network, then run again", self.name),
            ),
            None => Failure::new(exit, format!("{}: {text}", self.name)),
            Some(end_ns) => {
                Failure::new(exit, format!("{}: {text}. It could be read up to {}", self.name, clock(end_ns)))
            }
        });
        (failure, self.notes)
    }
}

/// The exit code and the words for an error.
pub fn explain(message: &gst::Message, error: &gst::glib::Error, debug: Option<&str>) -> (Exit, String) {
    let said = sentence(error.message());
    let factory = message
        .src()
        .and_then(|src| src.downcast_ref::<gst::Element>())
        .and_then(|element| element.factory())
        .map_or_else(String::new, |factory| factory.name().to_string());
    if factory == "clipdescriber" {
        return (Exit::Missing, said);
    }
    if debug.is_some_and(|debug| debug.contains("not-negotiated")) {
        let text =
            "its picture or sound is in a form that the sampler cannot take; convert it, for example with ffmpeg";
        return (Exit::BadInput, text.into());
    }
    let damaged = |said: String| (Exit::BadInput, format!("the file is damaged ({said}); copy or download it again"));
    if let Some(kind) = error.kind::<gst::StreamError>() {
        return match kind {
            gst::StreamError::TypeNotFound | gst::StreamError::WrongType => {
                (Exit::BadInput, format!("it is no video or sound that GStreamer knows ({said}); give a media file"))
            }
            gst::StreamError::CodecNotFound => (Exit::Missing, said),
            gst::StreamError::Decrypt | gst::StreamError::DecryptNokey => {
                (Exit::BadInput, format!("it is encrypted ({said}); give a copy that is not"))
            }
            _ => damaged(said),
        };
    }
    if error.matches(gst::CoreError::MissingPlugin) {
        return (
            Exit::Missing,
            format!("{said}; install gstreamer1.0-libav and gstreamer1.0-plugins-good, -bad and -ugly"),
        );
    }
    if let Some(kind) = error.kind::<gst::ResourceError>() {
        return match kind {
            gst::ResourceError::NotFound => (Exit::BadInput, format!("it is not there ({said}); check the address")),
            gst::ResourceError::NotAuthorized => {
                (Exit::BadInput, format!("it may not be read ({said}); check its permissions"))
            }
            gst::ResourceError::NoSpaceLeft => {
                (Exit::Temporary, format!("the disk is full ({said}); make room and run again"))
            }
            _ => (Exit::Temporary, format!("it cannot be read now ({said}); run again later")),
        };
    }
    damaged(said)
}

/// What a "missing-plugin" message says is missing (GStreamer's plugin-utils library, "Missing plugins").
fn missing_plugin(structure: &gst::StructureRef) -> Option<String> {
    (structure.name() == "missing-plugin")
        .then(|| structure.get::<String>("name").unwrap_or_else(|_| "a decoder".into()))
}

/// Text without its full stop, so that more can follow.
fn sentence(text: &str) -> String {
    text.trim().trim_end_matches('.').to_owned()
}
