//! Puts the set-up of the default pack into the command, so that `describe models fetch` needs no checkout.

use std::{env, fmt::Write as _, fs, io, path::Path};

/// What `fetch.py` needs beside itself; its folder `convert` goes in whole, because it takes a fingerprint of it.
const FILES: [&str; 6] = ["fetch.py", "manifest.json", "requirements.txt", "images.json", "sounds.json", "NOTICE.md"];

fn main() -> io::Result<()> {
    let lite =
        Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("../models/lite").canonicalize()?;
    println!("cargo::rerun-if-changed={}", lite.display());
    let mut names: Vec<String> = FILES.map(String::from).to_vec();
    let convert = lite.join("convert");
    println!("cargo::rerun-if-changed={}", convert.display());
    for entry in fs::read_dir(&convert)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(format!("convert/{}", entry.file_name().to_string_lossy()));
        }
    }
    names.sort();
    let mut code = String::from("[\n");
    for name in names {
        let path = lite.join(&name);
        let _ = writeln!(code, "    ({name:?}, include_bytes!({:?}).as_slice()),", path.display().to_string());
    }
    code.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("setup.rs"), code)
}
