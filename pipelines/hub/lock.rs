//! `describe.lock.json`: what was fetched into a folder, from which commit, with length and SHA-256 of every file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::listing::Promise;
use crate::{
    exit::{Exit, Failure},
    writer::write_whole,
};

/// Name of the file.
pub const NAME: &str = "describe.lock.json";
/// Longest that is read, in bytes; a file takes about 200 of them.
const MAX: u64 = 16 << 20;

/// What lies in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// `OWNER/NAME`.
    pub repository: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it stood for.
    pub commit: String,
    /// Whether everything that was asked for is there; false while a fetch is under way.
    pub complete: bool,
    /// Files by path.
    pub files: BTreeMap<String, Entry>,
}

/// A file that was put in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, in lower-case hexadecimal.
    pub sha256: String,
    /// Name that the endpoint gave the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
}

impl Entry {
    /// Whether it is what is promised now; where nothing names the content, it is not.
    pub fn keeps(&self, promise: &Promise) -> bool {
        let same = match (&promise.sha256, &promise.blob) {
            (Some(sha256), _) => *sha256 == self.sha256,
            (None, blob) => blob.is_some() && *blob == self.blob,
        };
        same && promise.bytes.is_none_or(|bytes| bytes == self.bytes)
    }
}

impl Lock {
    /// Reads that of `folder`; `None` where there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(NAME);
        let wrong = |why: String| {
            let path = path.display();
            Failure::new(Exit::BadInput, format!("cannot read {path}: {why}; move it away or choose another --out"))
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| wrong(error.to_string()))?,
        };
        let mut text = Vec::new();
        file.take(MAX).read_to_end(&mut text).map_err(|error| wrong(error.to_string()))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| wrong(error.to_string()))
    }

    /// Writes it to `folder`, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        write_whole(&folder.join(NAME), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_only_what_names_the_same_content() {
        let named = |text: &str| Some(text.to_owned());
        let entry = Entry { bytes: 3, sha256: "s".into(), blob: named("b") };
        let promise = |bytes, sha256, blob| Promise { bytes, sha256, blob };
        assert!(entry.keeps(&promise(Some(3), named("s"), named("other"))));
        assert!(entry.keeps(&promise(None, None, named("b"))));
        assert!(!entry.keeps(&promise(Some(4), named("s"), None)));
        assert!(!entry.keeps(&promise(Some(3), named("t"), named("b"))));
        assert!(!entry.keeps(&promise(Some(3), None, None)));
        assert!(!Entry { blob: None, ..entry }.keeps(&promise(Some(3), None, None)));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lock::read(folder.path()), Ok(None));
        let entry = Entry { bytes: 3, sha256: "s".into(), blob: None };
        let lock = Lock { repository: "a/b".into(), files: [("x".into(), entry)].into(), ..Lock::default() };
        lock.write(folder.path()).unwrap();
        assert_eq!(Lock::read(folder.path()), Ok(Some(lock)));
        std::fs::write(folder.path().join(NAME), "{").unwrap();
        assert_eq!(Lock::read(folder.path()).unwrap_err().exit, Exit::BadInput);
    }
}
