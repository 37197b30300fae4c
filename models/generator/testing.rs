//! What the tests of generators share: fixture packs and the golden arrays beside them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The folder of fixture packs; `None` (said loudly) where there is none.
///
/// `DESCRIBE_FIXTURES`, else the packs of the checkout, else the shared folder beside it.
pub fn fixtures() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside =
        || [root.join("../tests/data/packs"), root.join("../../shared/fixtures")].into_iter().find(|f| f.is_dir());
    let found = env::var_os("DESCRIBE_FIXTURES").map(PathBuf::from).or_else(beside).filter(|folder| folder.is_dir());
    if found.is_none() {
        missing("there are no fixture packs (DESCRIBE_FIXTURES names their folder)");
    }
    found
}

/// Whether what is missing must fail the test; else it is skipped, loudly.
fn missing(what: &str) {
    assert!(env::var_os("DESCRIBE_REQUIRE_PACK").is_none_or(|value| value != "1"), "{what}, and it is required");
    eprintln!("SKIPPED: {what}");
}

/// The golden arrays of one pack.
pub struct Golden {
    /// `goldens/index.json`.
    pub index: Value,
    folder: PathBuf,
}

impl Golden {
    /// Opens `goldens` in the folder of a pack.
    pub fn open(pack: &Path) -> Self {
        let folder = pack.join("goldens");
        let index = fs::read(folder.join("index.json")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        Self { index: serde_json::from_slice(&index).unwrap(), folder }
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.index["tensors"].get(name).is_some()
    }

    /// The bytes of a file in the folder of the goldens.
    pub fn bytes(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    /// Shape and values as f32; where the file holds u8 for u8/255, the true values.
    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, kind, bytes) = self.raw(name);
        let values = match kind.as_str() {
            "f32" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            "f16" => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            "u8" if self.index["tensors"][name].get("value").is_some() => {
                bytes.iter().map(|&b| f32::from(b) / 255.0).collect()
            }
            other => panic!("{name} is of type {other}"),
        };
        (shape, values)
    }

    /// Shape and values of an array of i64.
    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let (shape, kind, bytes) = self.raw(name);
        assert_eq!(kind, "i64", "{name}");
        (shape, bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect())
    }

    /// Shape and values of an array of truths.
    pub fn bool(&self, name: &str) -> (Vec<usize>, Vec<bool>) {
        let (shape, kind, bytes) = self.raw(name);
        assert_eq!(kind, "bool", "{name}");
        (shape, bytes.iter().map(|&b| b != 0).collect())
    }

    fn raw(&self, name: &str) -> (Vec<usize>, String, Vec<u8>) {
        let tensor = &self.index["tensors"][name];
        let text = |key: &str| tensor[key].as_str().unwrap_or_else(|| panic!("{name} has no {key}")).to_owned();
        let shape = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        (shape, text("dtype"), self.bytes(&text("file")))
    }
}

/// The packs in the folder of fixtures that have goldens.
pub fn packs() -> Vec<PathBuf> {
    let Some(folder) = fixtures() else { return Vec::new() };
    let mut packs: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|pack| pack.join("goldens/index.json").is_file())
        .collect();
    packs.sort();
    packs
}

/// A JSON file of a pack; `Null` where there is none.
pub fn json(pack: &Path, file: &str) -> Value {
    fs::read(pack.join(file)).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}
