//! What is right and what is wrong with a published folder, part by part.

use std::{collections::BTreeSet, path::Path};

use tokenizers::Tokenizer;

use super::{
    describer::{Engine, Evidence, Generator, Wishes},
    folder::Folder,
    profile::{Frames, Profile},
    template::Template,
};
use crate::{
    Cancel, Clip, Describer, Frame, Kind, LoadError, Sound, Span, Thumbnails,
    runtime::{Graph, RunSettings},
    time::SECOND,
};

/// What was found of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The part: a file or a session.
    pub part: String,
    /// What is right with it, or what is wrong.
    pub found: Result<String, String>,
}

/// Looks at the folder part by part; `deep` also loads it and lets it describe a grey clip.
///
/// Parts that depend on a broken one are left out.
pub fn check(path: &Path, deep: bool, run: &RunSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |part: &str, found: Result<String, LoadError>| {
        let found = found.map_err(|error| error.to_string());
        let good = found.is_ok();
        findings.push(Finding { part: part.to_owned(), found });
        good
    };
    let folder = match Folder::read(path) {
        Ok(folder) => folder,
        Err(error) => {
            note("config.json", Err(error));
            return findings;
        }
    };
    note("config.json", Ok(format!("a model of the type {}", folder.model_type)));
    let tokenizer = tokenizer(&folder);
    let profile = tokenizer.as_ref().ok().map(|tokenizer| Profile::read(&folder, tokenizer));
    note("tokenizer.json", tokenizer.map(|tokenizer| format!("{} tokens", tokenizer.get_vocab_size(true))));
    let Some(profile) = profile else { return findings };
    let profile = match profile {
        Ok(profile) => profile,
        Err(error) => {
            note("prompts", Err(error));
            return findings;
        }
    };
    note("prompts", Ok(told(&profile)));
    note("chat template", template(&folder, &profile));
    let mut sessions = vec![if folder.has("decoder_model_merged") { "decoder_model_merged" } else { "model" }];
    if profile.family.frames != Frames::None {
        sessions.extend(["embed_tokens", "vision_encoder"]);
    } else if folder.has("embed_tokens") {
        sessions.push("embed_tokens");
    }
    if profile.audio.is_some() {
        sessions.push("audio_encoder");
    }
    let mut whole = true;
    for session in sessions {
        let found = folder.model(session, None).and_then(|file| {
            let graph = Graph::read(&file)?;
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let weights = graph.weights.iter().cloned().collect::<Vec<_>>().join(", ");
            let weights = if weights.is_empty() { String::new() } else { format!(", weights in {weights}") };
            let contrib = if graph.has_contrib() { ", operators outside the ONNX standard" } else { "" };
            Ok(format!("{name}, {} sorts of operators{contrib}{weights}", graph.operators.len()))
        });
        whole &= note(session, found);
    }
    if deep && whole && findings.iter().all(|finding| finding.found.is_ok()) {
        findings.push(Finding { part: "description".into(), found: describe(folder, run) });
    }
    findings
}

fn tokenizer(folder: &Folder) -> Result<Tokenizer, LoadError> {
    let (path, bytes) = folder.tokenizer_bytes()?;
    Tokenizer::from_bytes(bytes).map_err(|error| LoadError::Format { path, reason: error.to_string() })
}

fn template(folder: &Folder, profile: &Profile) -> Result<String, LoadError> {
    let reads_only = profile.family.frames == Frames::None;
    match folder.template()? {
        Some((path, text)) => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Template::new(path, text, profile.names.clone(), reads_only).map(|_| format!("{name} works"))
        }
        None => Ok("there is none; words follow each other line by line".into()),
    }
}

fn told(profile: &Profile) -> String {
    let sees = match profile.family.frames {
        Frames::Video => "sees video",
        Frames::Pictures => "sees pictures",
        Frames::Sentence => "sees frames told in a sentence",
        Frames::None => "only reads",
    };
    format!("{sees}, {}", if profile.audio.is_some() { "hears" } else { "does not hear" })
}

/// Loads the folder and describes a grey clip with a tone.
fn describe(folder: Folder, run: &RunSettings) -> Result<String, String> {
    let text = |error: LoadError| error.to_string();
    let engine = Engine::load(folder, None, run, &mut |_| ()).map_err(text)?;
    let sessions = [
        Some(format!("decoder on {}", engine.decoder.provider())),
        engine.eyes.as_ref().map(|eyes| format!("vision on {}", eyes.model().provider())),
        engine.ears.as_ref().map(|ears| format!("sound on {}", ears.model().provider())),
    ];
    let rate = engine.ears.as_ref().map_or(16_000, |ears| ears.rule().rate());
    let wishes = Wishes { evidence: Evidence::None, max_tokens: 64, ..Wishes::default() };
    let kinds: BTreeSet<Kind> = Kind::ALL.into();
    let mut generator = Generator::new(engine, wishes, kinds, None).map_err(text)?;
    let samples = (0..rate).map(|i| (i as f32 * 0.1).sin() * 0.1).collect();
    let clip = Clip {
        span: Span::new(0, SECOND),
        discont: true,
        frames: vec![Frame { at_ns: 0, width: 192, height: 108, rgb: vec![128; 192 * 108 * 3].into() }],
        thumbnails: Thumbnails::default(),
        sound: Some(Sound::from_samples(rate, 0, 0, samples)),
    };
    let cancel = Cancel::new().map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    generator.describe(&clip, &cancel, &mut said).map_err(|error| error.to_string())?;
    let sessions = sessions.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Ok(format!("a grey clip was described with {} observations; {sessions}", said.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::testing;

    #[test]
    fn whole_folders_are_found_whole_and_broken_ones_broken() {
        let Some(folder) = testing::fixtures() else { return };
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.join("chat_template.jinja").exists() {
                continue;
            }
            let findings = check(&path, true, &RunSettings::default());
            assert!(findings.iter().all(|finding| finding.found.is_ok()), "{findings:#?}");
            assert_eq!(findings.last().unwrap().part, "description");
        }
        for (name, part) in [
            ("truncated-onnx", "vision_encoder"),
            ("bad-tokenizer", "tokenizer.json"),
            ("no-model-type", "config.json"),
        ] {
            let path = folder.join("broken").join(name);
            if path.is_dir() {
                let findings = check(&path, true, &RunSettings::default());
                let broken: Vec<&str> = findings.iter().filter(|f| f.found.is_err()).map(|f| f.part.as_str()).collect();
                assert_eq!(broken, [part], "{name}");
            }
        }
    }
}
