//! Packs made up in a folder, loaded with scripted experts.

use std::{cell::RefCell, fs};

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Cancel, Clip, DescribeError, Observation};

struct Silent;

impl Expert for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }
    fn observe(&mut self, _: &Clip, _: &Cancel, _: &mut Vec<Observation>) -> Result<(), DescribeError> {
        Ok(())
    }
    fn flush(&mut self, _: &Cancel, _: &mut Vec<Observation>) -> Result<(), DescribeError> {
        Ok(())
    }
    fn reset(&mut self) {}
    fn settled_ns(&self) -> u64 {
        0
    }
}

fn manifest() -> Value {
    let piece = |file: &str| json!({"license": "MIT", "files": {"model": file}});
    json!({
        "name": "lite", "version": "1", "made": "for a test", "clip": {"max_size": 448, "frames": 8, "rate": 16000},
        "caption": {"class": 0.4},
        "pieces": {
            "shots": piece("shots.onnx"), "tags": {"files": {"model": "tags.onnx", "labels": "images.json"}}, "people": piece("people.onnx"),
            "sounds": piece("sounds.onnx"), "voice": piece("voice.onnx"), "text": piece("text.onnx"),
            "speech": {"files": {"encoder": "speech/encoder.onnx"}, "settings": {"mels": 80}},
        },
    })
}

/// A pack whose models are empty files.
fn pack(manifest: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("speech")).unwrap();
    for file in ["shots", "tags", "people", "sounds", "voice", "text", "speech/encoder"] {
        fs::write(folder.path().join(file).with_extension("onnx"), file).unwrap();
    }
    let classes: Vec<Value> =
        (0..1000).map(|i| json!({"name": format!("thing {i}"), "article": "a", "group": null})).collect();
    fs::write(folder.path().join("images.json"), json!({"groups": {}, "classes": classes}).to_string()).unwrap();
    fs::write(folder.path().join(MANIFEST), manifest.to_string()).unwrap();
    folder
}

fn wanting(kinds: &[Kind]) -> PackSettings {
    PackSettings { kinds: kinds.iter().copied().collect(), ..PackSettings::default() }
}

/// Loads the pack with experts that work unless `broken` has an error for them; also gives the parts they got.
fn assembled(
    folder: &TempDir,
    settings: &PackSettings,
    broken: &dyn Fn(&str, &Part) -> Option<LoadError>,
) -> (Result<Loaded, LoadError>, Vec<(String, Part)>) {
    let parts = RefCell::new(Vec::new());
    let manifest = Manifest::read(folder.path()).unwrap();
    let loaded = assemble(folder.path(), &manifest, settings, &mut |_| {}, &|piece, part| {
        parts.borrow_mut().push((piece.to_owned(), part.clone()));
        broken(piece, part).map_or_else(|| Ok(Box::new(Silent) as Box<dyn Expert>), Err)
    });
    (loaded, parts.into_inner())
}

fn model_error(part: &Part) -> LoadError {
    LoadError::Model { path: part.files.values().next().cloned().unwrap_or_default(), reason: "cut short".into() }
}

fn names(parts: &[(String, Part)]) -> Vec<&str> {
    parts.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn only_what_the_kinds_need_is_loaded() {
    let folder = pack(&manifest());
    let load = |kinds: &[Kind]| {
        let (loaded, parts) = assembled(&folder, &wanting(kinds), &|_, _| None);
        assert!(loaded.unwrap().missing.is_empty());
        names(&parts).join(" ")
    };
    assert_eq!(load(&[Kind::Caption]), "shots tags people sounds speech");
    assert_eq!(load(&[Kind::Sound]), "sounds");
    assert_eq!(load(&[Kind::Text, Kind::Scene]), "shots text");
    assert_eq!(load(&[Kind::Object]), "shots tags people");
}

#[test]
fn progress_is_told_before_each_piece() {
    let folder = pack(&manifest());
    let mut told = Vec::new();
    let manifest = Manifest::read(folder.path()).unwrap();
    let settings = wanting(&[Kind::Sound, Kind::Scene]);
    let loaded = assemble(folder.path(), &manifest, &settings, &mut |p| told.push(p), &|_, _| Ok(Box::new(Silent)));
    let progress = |piece: &str, done| Progress { piece: piece.into(), done, total: 2 };
    assert_eq!(told, [progress("shots", 0), progress("sounds", 1)]);
    let loaded = loaded.unwrap();
    assert_eq!(loaded.describer.shape(), ClipShape { max_size: 448, rate: 16_000, frames: None });
    assert_eq!((loaded.name.as_str(), loaded.version.as_str()), ("lite", "1"));
}

#[test]
fn speech_gets_the_voice_model_and_the_language() {
    let folder = pack(&manifest());
    let settings = PackSettings { language: Some("de".into()), ..wanting(&[Kind::Speech]) };
    let (_, parts) = assembled(&folder, &settings, &|_, _| None);
    assert_eq!(parts[0].1.files["voice"], folder.path().join("voice.onnx"));
    assert_eq!(parts[0].1.settings, json!({"mels": 80, "language": "de"}));

    let broken = |_: &str, part: &Part| part.files.contains_key("voice").then(|| model_error(part));
    let (loaded, parts) = assembled(&folder, &settings, &broken);
    assert_eq!(loaded.unwrap().missing[0].0, "voice", "a broken voice model costs only itself");
    assert_eq!(parts[1].1.files.keys().collect::<Vec<_>>(), ["encoder"]);

    fs::remove_file(folder.path().join("voice.onnx")).unwrap();
    let missing = assembled(&folder, &settings, &|_, _| None).0.unwrap().missing;
    assert!(missing[0].1.to_string().contains("voice.onnx"), "{}", missing[0].1);
}

#[test]
fn own_files_take_the_place_of_the_packs() {
    let folder = pack(&manifest());
    let with =
        |key: &str| PackSettings { pieces: [(key.into(), "mine.onnx".into())].into(), ..wanting(&[Kind::Scene]) };
    let (_, parts) = assembled(&folder, &with("shots.model"), &|_, _| None);
    assert_eq!(parts[0].1.files["model"], Path::new("mine.onnx"));
    for key in ["shots.modle", "shot.model", "shots"] {
        let error = assembled(&folder, &with(key), &|_, _| None).0.err().unwrap().to_string();
        assert!(
            error.contains(&format!("'{key}'")) && error.contains("shots.model, sounds.model, speech.encoder"),
            "{error}"
        );
    }
}

#[test]
fn a_broken_piece_is_left_out_and_told_of() {
    let mut without_text = manifest();
    without_text["pieces"].as_object_mut().unwrap().remove("text");
    let folder = pack(&without_text);
    let settings = wanting(&[Kind::Scene, Kind::Sound, Kind::Text]);
    let broken = |piece: &str, part: &Part| (piece == "shots").then(|| model_error(part));
    let missing = assembled(&folder, &settings, &broken).0.unwrap().missing;
    let said: Vec<_> = missing.iter().map(|(piece, error)| format!("{piece}: {error}")).collect();
    assert!(said[0].starts_with("shots: ") && said[0].contains("shots.onnx"), "{said:?}");
    assert!(said[1].starts_with("text: ") && said[1].contains("has no 'text' piece"), "{said:?}");

    let none = assembled(&folder, &settings, &|_, part| Some(model_error(part))).0;
    assert!(matches!(none, Err(LoadError::Empty { path }) if path == folder.path()));
}

#[test]
fn what_all_pieces_need_is_told_once() {
    let folder = pack(&manifest());
    let broken = |_: &str, _: &Part| Some(LoadError::NoRuntime { tried: "x".into() });
    let (loaded, parts) = assembled(&folder, &PackSettings::default(), &broken);
    assert!(matches!(loaded, Err(LoadError::NoRuntime { .. })));
    assert_eq!(parts.len(), 1, "no other piece is tried");
}

#[test]
fn a_manifest_that_makes_no_sense_is_refused() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut changed = manifest();
        change(&mut changed);
        Manifest::read(pack(&changed).path()).unwrap_err().to_string()
    };
    for name in ["../x.onnx", "/x.onnx", "a/../../x", "a//b", "", ".", "a\\..\\b", "a/\0"] {
        let error = refused(&|m| m["pieces"]["shots"]["files"]["model"] = name.into());
        assert!(error.contains("no plain path inside the pack") && error.contains("shots"), "{error}");
    }
    assert!(refused(&|m| m["clip"]["rate"] = 0.into()).contains("rate 0"));
    assert!(refused(&|m| m["clip"]["max_size"] = (-1).into()).contains("describe.json is not usable"));
    assert!(refused(&|m| m["pieces"] = json!([])).contains("describe.json is not usable"));
    assert!(refused(&|m| m["made"] = "x".repeat(2 << 20).into()).contains("more than 1048576 bytes"));
    assert_eq!(Manifest::read(pack(&manifest()).path()).unwrap().caption, Rules { class: 0.4, ..Rules::default() });
}

#[test]
fn a_published_folder_is_loaded_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |path: &Path| PackSettings { path: Some(path.to_owned()), ..PackSettings::default() };
    let error = |path: &Path| load(&settings(path), &mut |_| ()).err().map(|error| error.to_string()).unwrap();
    assert!(error(folder.path()).contains("describe.json"));
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::create_dir(folder.path().join("onnx")).unwrap();
    assert!(error(folder.path()).contains("model_type"));
    fs::write(folder.path().join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    assert!(error(folder.path()).contains("tokenizer.json"));
}

#[test]
fn a_pack_is_looked_for_where_the_documentation_says() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folders = vec!["nowhere".into(), data.path().to_owned()];
    let located = |path: Option<&Path>, variable: &str| locate_in(path, Some(variable.into()), folders.clone());
    let error = located(None, "").unwrap_err().to_string();
    assert!(error.contains("nowhere/packs/lite") && error.contains("describe models fetch"), "{error}");
    let lite = data.path().join("packs/lite");
    fs::create_dir_all(&lite).unwrap();
    assert_eq!(located(None, "").unwrap(), lite);
    assert_eq!(located(None, other.path().to_str().unwrap()).unwrap(), other.path());
    assert_eq!(located(Some(other.path()), "elsewhere").unwrap(), other.path());
    assert!(located(Some(Path::new("elsewhere")), "").is_err(), "a named pack that is not there is an error");
}

#[test]
fn files_are_compared_with_what_was_installed() {
    let folder = pack(&manifest());
    let shots = check::sha256(&b"shots"[..]).unwrap();
    let installed = json!({"files": {
        "shots.onnx": {"bytes": 5, "sha256": shots}, "tags.onnx": {"bytes": 4, "sha256": "00"},
        "people.onnx": {"bytes": 7, "sha256": "00"},
    }});
    fs::write(folder.path().join("installed.json"), installed.to_string()).unwrap();
    fs::remove_file(folder.path().join("text.onnx")).unwrap();
    let state = |deep: bool, piece: &str| {
        let reports = check(folder.path(), deep).unwrap();
        let report = reports.into_iter().find(|report| report.piece == piece).unwrap();
        report.files.iter().find(|file| file.name.ends_with(".onnx")).unwrap().state.clone()
    };
    let broken = |state: FileState| matches!(state, FileState::Broken(_));
    assert_eq!((state(false, "shots"), state(true, "shots")), (FileState::Good, FileState::Good));
    assert_eq!(state(false, "tags"), FileState::Good, "the length is right");
    assert!(broken(state(true, "tags")), "but the bytes are not");
    assert!(broken(state(false, "people")), "the length is wrong");
    assert!(broken(state(false, "text")), "it is not there");
    assert_eq!(state(true, "sounds"), FileState::Unknown);
    fs::write(folder.path().join("installed.json"), "{").unwrap();
    assert!(check(folder.path(), false).is_err());
}

#[test]
fn sha256_is_the_published_one() {
    // FIPS 180-4, example of the message "abc".
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(check::sha256(&b"abc"[..]).unwrap(), abc);
}

#[test]
fn the_default_pack_is_as_installed() {
    let folder = match locate(None) {
        Ok(folder) => folder,
        Err(error) if env::var_os("DESCRIBE_REQUIRE_PACK").is_some_and(|v| v == "1") => panic!("{error}"),
        Err(error) => return eprintln!("SKIPPED: the_default_pack_is_as_installed: {error}"),
    };
    let reports = check(&folder, true).unwrap();
    let broken: Vec<_> = reports.iter().flat_map(|r| &r.files).filter(|f| f.state != FileState::Good).collect();
    assert!(broken.is_empty(), "{broken:?}");
    for kind in Kind::ALL {
        for piece in pieces_for(kind) {
            assert!(reports.iter().any(|report| report.piece == *piece), "{piece} is not in the default pack");
        }
    }
}

proptest! {
    #[test]
    fn a_plain_name_stays_inside(name in "[a./\\\\]{0,8}") {
        if is_plain(&name) {
            let path = Path::new("/pack").join(&name);
            prop_assert!(path.starts_with("/pack") && path != Path::new("/pack"));
            prop_assert!(path.components().all(|c| c != std::path::Component::ParentDir));
        }
    }

    #[test]
    fn any_bytes_are_a_manifest_or_an_error(text in ".{0,64}") {
        let folder = pack(&manifest());
        fs::write(folder.path().join(MANIFEST), text).unwrap();
        let _ = Manifest::read(folder.path());
    }
}
