//! The files and settings of a piece, as the manifest names them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use crate::LoadError;

/// Name of a pack's manifest.
const MANIFEST: &str = "describe.json";

/// The file with this `role` in the piece.
pub fn role<'a>(piece: &str, files: &'a BTreeMap<String, PathBuf>, role: &str) -> Result<&'a Path, LoadError> {
    files.get(role).map(PathBuf::as_path).ok_or_else(|| LoadError::Format {
        path: MANIFEST.into(),
        reason: format!("the {piece} piece names no file for '{role}'"),
    })
}

/// The settings of the piece; `null` gives the defaults, and so does what is left out.
pub fn settings<T: DeserializeOwned + Default>(piece: &str, value: &serde_json::Value) -> Result<T, LoadError> {
    if value.is_null() {
        return Ok(T::default());
    }
    T::deserialize(value).map_err(|error| LoadError::Format {
        path: MANIFEST.into(),
        reason: format!("the settings of the {piece} piece are wrong: {error}"),
    })
}

/// All of a file that has at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(LoadError::Format { path: path.to_owned(), reason: format!("it has more than {limit} bytes") });
    }
    Ok(bytes)
}
