//! A process of its own: ONNX Runtime starts only once in a process, and here it must not start.

use std::{fs, path::PathBuf};

use describe_models::{
    LoadError,
    pack::{PackSettings, load},
    runtime::RunSettings,
};

#[test]
fn a_missing_runtime_is_told_at_once_and_after_the_pack() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunSettings { runtime: Some(PathBuf::from("nowhere/libonnxruntime.so")), ..RunSettings::default() };
    let settings = PackSettings { path: Some(folder.path().to_owned()), run, ..PackSettings::default() };
    let mut told = 0;
    let error = load(&settings, &mut |_| told += 1).err().unwrap();
    assert!(matches!(error, LoadError::Read { .. }), "the pack is looked at first: {error}");

    let manifest = r#"{"name": "x", "version": "1", "clip": {"max_size": 448, "rate": 16000}, "pieces": {}}"#;
    fs::write(folder.path().join("describe.json"), manifest).unwrap();
    let error = load(&settings, &mut |_| told += 1).err().unwrap();
    assert!(matches!(&error, LoadError::NoRuntime { tried } if tried.contains("nowhere")), "{error}");
    assert!(error.to_string().contains("describe models fetch"), "{error}");
    assert_eq!(told, 0);
}
