//! What a repository holds, as its endpoint lists it: untrusted, so every name and number is looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::exit::{Exit, Failure};

/// Longest path of a file, in bytes.
const MAX_PATH: usize = 512;

/// A file as the endpoint promises it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promise {
    /// Length in bytes, where the list tells.
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hexadecimal; told for large files (Git LFS).
    pub sha256: Option<String>,
    /// Name of the content in git, or its ETag: equal names mean equal content.
    pub blob: Option<String>,
}

/// A repository at one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The commit, in hexadecimal.
    pub commit: String,
    /// What the model card says of the licence; may be empty.
    pub licence: String,
    /// Files by path.
    pub files: BTreeMap<String, Promise>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Reads the answer of `/api/models/OWNER/NAME/revision/REVISION?blobs=true`.
    pub fn parse(text: &[u8]) -> Result<Self, Failure> {
        let wrong = |what: String| {
            Failure::new(
                Exit::BadInput,
                format!("{what}; nothing was written. Is HF_ENDPOINT a Hugging Face endpoint?"),
            )
        };
        let info: Info = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("the endpoint's list of files cannot be read ({error})")))?;
        if !is_hex(&info.sha, &[40, 64]) {
            return Err(wrong(format!("the endpoint names a commit that is none: {:?}", short(&info.sha))));
        }
        let licence = info.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(short).unwrap_or_default();
        let mut listing = Self { commit: info.sha, licence, files: BTreeMap::new() };
        for file in info.siblings {
            if let Some(fault) = fault(&file.rfilename) {
                let name = short(&file.rfilename);
                return Err(wrong(format!("the endpoint lists a file whose name {fault}: \"{name}\"")));
            }
            let (sha256, lfs_size) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
            let promise = Promise {
                bytes: lfs_size.or(file.size),
                sha256: sha256.filter(|sum| is_hex(sum, &[64])).map(|sum| sum.to_ascii_lowercase()),
                blob: file.blob.filter(|blob| is_hex(blob, &[40, 64])),
            };
            if listing.files.insert(file.rfilename.clone(), promise).is_some() {
                return Err(wrong(format!("the endpoint lists \"{}\" twice", short(&file.rfilename))));
            }
        }
        Ok(listing)
    }

    /// The paths of all files.
    pub fn paths(&self) -> BTreeSet<&str> {
        self.files.keys().map(String::as_str).collect()
    }
}

/// Why a path is not to be put behind a folder.
pub fn fault(path: &str) -> Option<&'static str> {
    if path.contains('\\') || path.chars().any(char::is_control) {
        Some("has a backslash or a control character")
    } else if path.starts_with('/') {
        Some("is absolute")
    } else if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("leads out of its folder")
    } else if path.len() > MAX_PATH {
        Some("is too long")
    } else {
        None
    }
}

/// Whether `text` is hexadecimal of one of these lengths.
pub fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a stranger says, fit for a terminal.
pub fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::path::{Component, Path};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn large_files_have_a_sum_and_small_ones_a_blob() {
        let sum = "AB".repeat(32);
        let text = json!({"sha": COMMIT, "tags": ["onnx", "license:gemma"], "siblings": [
            {"rfilename": "config.json", "size": 12, "blobId": COMMIT},
            {"rfilename": "onnx/a.onnx", "size": 134, "lfs": {"sha256": sum, "size": 9000, "pointerSize": 134}},
            {"rfilename": "old.bin"},
        ]});
        let listing = Listing::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!((listing.commit.as_str(), listing.licence.as_str()), (COMMIT, "gemma"));
        let of = |bytes, sha256: Option<&str>, blob: Option<&str>| Promise {
            bytes,
            sha256: sha256.map(String::from),
            blob: blob.map(String::from),
        };
        assert_eq!(listing.files["config.json"], of(Some(12), None, Some(COMMIT)));
        assert_eq!(listing.files["onnx/a.onnx"], of(Some(9000), Some(&"ab".repeat(32)), None));
        assert_eq!(listing.files["old.bin"], Promise::default());
    }

    #[test]
    fn hostile_lists_are_refused_whole() {
        for name in ["../x", "/etc/passwd", "a\\b", "a\0b", "onnx/../../x", "a//b", "", ".", "a/\u{1b}[2J", "C:\\x"] {
            let text = json!({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}, {"rfilename": name}]});
            let refused = Listing::parse(text.to_string().as_bytes()).unwrap_err();
            assert_eq!(refused.exit, Exit::BadInput, "{name:?}");
            assert!(!refused.message.chars().any(char::is_control), "{refused}");
        }
        for text in [
            json!({"sha": "../../main", "siblings": []}),
            json!({"sha": COMMIT, "siblings": [{"rfilename": "x"}, {"rfilename": "x"}]}),
            json!({"sha": COMMIT, "siblings": [{"rfilename": "x", "size": -1}]}),
            json!({"error": "no"}),
            json!([]),
        ] {
            assert_eq!(Listing::parse(text.to_string().as_bytes()).unwrap_err().exit, Exit::BadInput, "{text}");
        }
    }

    proptest! {
        /// What passes stays inside the folder, whatever the system makes of the path.
        #[test]
        fn no_path_leads_out(path in "[a./\\\\]{0,12}") {
            if fault(&path).is_none() {
                let only_down = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(only_down && !path.is_empty());
            }
        }
    }
}
