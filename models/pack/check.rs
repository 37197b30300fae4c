//! Whether the files of a pack are what was installed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Manifest, read_json};
use crate::LoadError;

/// Name of the list of installed files, written by the set-up.
const INSTALLED: &str = "installed.json";
/// Bytes hashed at a time.
const BLOCK: usize = 1 << 20;

/// What was found of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceReport {
    /// Name of the piece.
    pub piece: String,
    /// Its licence; empty where the manifest names none.
    pub licence: String,
    /// Its files, by role.
    pub files: Vec<FileReport>,
}

/// What was found of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Path inside the pack.
    pub name: String,
    /// Length in bytes; 0 where it cannot be read.
    pub bytes: u64,
    /// Whether it is as installed.
    pub state: FileState,
}

/// Whether a file is as it was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// As installed, as far as was looked.
    Good,
    /// There, but nothing is known of how it should be: a pack that was put together by hand.
    Unknown,
    /// Missing or changed, and how.
    Broken(String),
}

#[derive(Deserialize, Default)]
struct Installed {
    files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Compares the files of the pack in `folder` with the list of what was installed: lengths, and where `deep` all bytes.
pub fn check(folder: &Path, deep: bool) -> Result<Vec<PieceReport>, LoadError> {
    let manifest = Manifest::read(folder)?;
    let installed = match read_json(&folder.join(INSTALLED)) {
        Ok(installed) => installed,
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Installed::default(),
        Err(error) => return Err(error),
    };
    let report = |name: &String| {
        let (bytes, state) = match compare(&folder.join(name), installed.files.get(name), deep) {
            Ok(found) => found,
            Err(error) => (0, FileState::Broken(error.to_string())),
        };
        FileReport { name: name.clone(), bytes, state }
    };
    let pieces = manifest.pieces.iter().map(|(piece, about)| PieceReport {
        piece: piece.clone(),
        licence: about.license.clone(),
        files: about.files.values().map(report).collect(),
    });
    Ok(pieces.collect())
}

fn compare(path: &Path, entry: Option<&Entry>, deep: bool) -> io::Result<(u64, FileState)> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok((0, FileState::Broken("it is no file".to_owned())));
    }
    let bytes = about.len();
    let state = match entry {
        None => FileState::Unknown,
        Some(entry) if bytes != entry.bytes => FileState::Broken(format!("{} bytes were installed", entry.bytes)),
        Some(entry) if deep && !sha256(file)?.eq_ignore_ascii_case(&entry.sha256) => {
            FileState::Broken(format!("its SHA-256 is not {}", entry.sha256))
        }
        Some(_) => FileState::Good,
    };
    Ok((bytes, state))
}

/// SHA-256 of all that can be read, in hexadecimal.
pub(super) fn sha256(mut from: impl Read) -> io::Result<String> {
    let (mut hash, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        match from.read(&mut block)? {
            0 => break,
            count => hash.update(block.get(..count).unwrap_or_default()),
        }
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
