//! `describe models fetch hf:OWNER/NAME`: a published model folder from a Hugging Face endpoint.

mod choice;
mod client;
mod listing;
mod lock;
mod meter;
mod transfer;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::AtomicBool,
    time::Duration,
};

use clap::Args;
use describe_models::pack;
use serde_json::Value;

use self::{
    choice::{Asked, Choice},
    client::Hub,
    listing::Listing,
    lock::{Entry, Lock},
    meter::Meter,
    transfer::{Patience, Wanted},
};
use crate::{
    exit::{Exit, Failure},
    show::{self, megabytes, print, tell},
    writer::make_folder,
};

/// Name of the file that says what a model is.
const CONFIG: &str = "config.json";
/// Longest one that is read, in bytes; published ones have some kB.
const MAX_CONFIG: u64 = 16 << 20;

/// Which model, and how it is fetched.
#[derive(Debug, Args)]
pub struct Options {
    /// A published model in place of the default pack: hf:OWNER/NAME on the Hugging Face hub or the mirror in HF_ENDPOINT
    #[arg(value_name = "hf:OWNER/NAME", conflicts_with_all = ["pack", "pieces"])]
    pub model: Option<Model>,
    /// Branch, tag or commit of the model
    #[arg(long, value_name = "REVISION", default_value = "main", requires = "model", value_parser = revision)]
    pub revision: String,
    /// Formats of its sessions: q4f16, q4, q8, int8, fp16, fp32 ..., or SESSION=DTYPE joined by commas; without it what
    /// the model's config.json says, else the smallest good one there is
    #[arg(long, value_name = "DTYPE", requires = "model")]
    pub dtype: Option<Asked>,
    /// Folder for the model; without it packs/OWNER--NAME in the data folder
    #[arg(long, value_name = "DIR", requires = "model")]
    pub out: Option<PathBuf>,
    /// Pause before a broken download is tried again, in seconds; it doubles each time
    #[arg(long, value_name = "SECONDS", default_value = "1", requires = "model", value_parser = seconds)]
    pub retry_pause: Duration,
}

/// `OWNER/NAME` of a model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model(String);

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The hub's own rules for names; without them a name could lead out of the folder or to another URL.
        let is_part = |part: &str| {
            !part.is_empty()
                && part.len() <= 96
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && !part.starts_with(['.', '-'])
                && !part.ends_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        let name = text
            .strip_prefix("hf:")
            .filter(|name| name.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name)));
        let name = name.ok_or("a model is named hf:OWNER/NAME, like hf:onnx-community/gemma-4-E2B-it-ONNX")?;
        Ok(Self(name.to_owned()))
    }
}

fn revision(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+@/".contains(&byte));
    let is_path = text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(".."));
    match is_plain && is_path && text.len() <= 255 {
        true => Ok(text.to_owned()),
        false => Err("a revision is a branch, tag or commit, of letters, digits and ._-+@/".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it must be from 0 to 3600 seconds".into())
}

/// Fetches `model`; Ctrl-C turns `stop` on.
pub fn run(model: &Model, options: &Options, stop: &AtomicBool) -> Result<Exit, Failure> {
    let asked = options.dtype.clone().unwrap_or_default();
    let hub = Hub::from_env(&model.0)?;
    let patience = Patience { first: options.retry_pause, stop };
    let listing = patience.until("the list of files", |text| tell(text), || (false, hub.list(&options.revision)))?;
    let known = |failure: Failure| Failure::new(failure.exit, format!("{}: {failure}", model.0));
    // What is asked for and not there is said before anything is written.
    choice::choose(&listing.paths(), &asked, &Value::Null).map_err(known)?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => {
            let data = pack::data_folders().into_iter().next();
            let data = data
                .ok_or_else(|| Failure::new(Exit::Usage, "there is no folder for data; set HOME or XDG_DATA_HOME"))?;
            data.join("packs").join(model.0.replace('/', "--"))
        }
    };
    make_folder(&out)?;
    let _alone = alone(&out)?;
    let mut job = Job::new(hub, listing, options, out, patience)?;
    let missing = job.missing(vec![job.wanted(CONFIG)?])?;
    job.bring(&missing)?;
    let config = config(&job.out)?;
    let choice = choice::choose(&job.listing.paths(), &asked, &config).map_err(known)?;
    job.fetch(&choice)?;
    print(format_args!("{} is ready", job.out.display()));
    Ok(Exit::Done)
}

/// Keeps a second fetch out of the folder until it is dropped.
fn alone(folder: &Path) -> Result<File, Failure> {
    let handle = File::open(folder).map_err(|error| Failure::writing(folder, &error))?;
    match handle.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Temporary,
            format!("another fetch is at work in {}; wait for it, then run again", folder.display()),
        )),
        // A file system without locks is no reason to stop.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(handle),
    }
}

fn config(folder: &Path) -> Result<Value, Failure> {
    let path = folder.join(CONFIG);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
    let fault = match read {
        Ok(_) => match serde_json::from_slice(&text) {
            Ok(config) => return Ok(config),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let path = path.display();
    Err(Failure::new(
        Exit::BadInput,
        format!("cannot read {path}: {fault}; the model's own file is damaged, try another --revision"),
    ))
}

/// A fetch under way.
struct Job<'s> {
    hub: Hub,
    listing: Listing,
    out: PathBuf,
    patience: Patience<'s>,
    lock: Lock,
}

impl<'s> Job<'s> {
    fn new(
        hub: Hub,
        listing: Listing,
        options: &Options,
        out: PathBuf,
        patience: Patience<'s>,
    ) -> Result<Self, Failure> {
        let before = Lock::read(&out)?;
        let foreign = match &before {
            Some(lock) if lock.repository != hub.name => Some(listing::short(&lock.repository)),
            Some(_) => None,
            None => listing.files.keys().find(|path| out.join(path).exists()).map(|path| format!("another {path}")),
        };
        if let Some(foreign) = foreign {
            let (out, name) = (out.display(), &hub.name);
            let message = format!("{out} holds {foreign}, not fetched from {name}; choose another folder with --out");
            return Err(Failure::new(Exit::Usage, message));
        }
        let mut lock = before.unwrap_or_default();
        lock.repository.clone_from(&hub.name);
        lock.revision.clone_from(&options.revision);
        lock.complete &= lock.commit == listing.commit;
        lock.commit.clone_from(&listing.commit);
        Ok(Self { hub, listing, out, patience, lock })
    }

    /// A file of the list, with its length, which the endpoint is asked for where the list lacks it.
    fn wanted(&self, path: &str) -> Result<Wanted, Failure> {
        let (name, commit) = (&self.hub.name, &self.listing.commit);
        let mut promise = self.listing.files.get(path).cloned().ok_or_else(|| {
            let message = format!("{name} has no {path}; choose a repository in the layout of Transformers.js");
            Failure::new(Exit::BadInput, message)
        })?;
        if promise.bytes.is_none() {
            let facts = self.patience.until(path, |text| tell(text), || (false, self.hub.ask(commit, path)))?;
            promise.bytes = facts.bytes;
            promise.sha256 = promise.sha256.or(facts.sha256);
            promise.blob = promise.blob.or(facts.etag);
        }
        // The same file of the same commit is the same content.
        promise.blob = promise.blob.or_else(|| Some(commit.clone()));
        let bytes = promise.bytes.ok_or_else(|| {
            let message =
                format!("the endpoint does not say how large {path} of {name} is; choose another HF_ENDPOINT");
            Failure::new(Exit::BadInput, message)
        })?;
        Ok(Wanted { path: path.to_owned(), bytes, promise })
    }

    /// Says what is to come, brings it, and takes away what the new commit has no more.
    fn fetch(&mut self, choice: &Choice) -> Result<(), Failure> {
        let wanted: Vec<_> = choice.paths().map(|path| self.wanted(path)).collect::<Result<_, _>>()?;
        let sizes: BTreeMap<_, _> = wanted.iter().map(|wanted| (wanted.path.as_str(), wanted.bytes)).collect();
        let licence = Some(self.listing.licence.as_str()).filter(|licence| !licence.is_empty());
        tell(format_args!(
            "{} at {} ({}), licence: {}: {} files, {}, in {}",
            self.hub.name,
            self.lock.revision,
            self.listing.commit.get(..12).unwrap_or_default(),
            licence.unwrap_or("see its README.md"),
            wanted.len(),
            megabytes(total(sizes.values().copied())),
            self.out.display(),
        ));
        tell(show::table(
            ["session", "dtype", "size"],
            choice.sessions.iter().map(|session| {
                let bytes = total(session.files.iter().filter_map(|file| sizes.get(file.as_str()).copied()));
                [session.name.clone(), session.dtype.name().to_owned(), megabytes(bytes)]
            }),
        ));
        if !choice.left_out.is_empty() {
            tell(format_args!(
                "not needed beside these: {}; name one in --dtype to have it too",
                choice.left_out.join(", ")
            ));
        }
        let missing = self.missing(wanted)?;
        tell(format_args!(
            "to download: {} files, {}",
            missing.len(),
            megabytes(total(missing.iter().map(|w| w.bytes)))
        ));
        self.bring(&missing)?;
        self.tidy(choice)?;
        if !self.lock.complete {
            self.lock.complete = true;
            self.lock.write(&self.out)?;
        }
        Ok(())
    }

    /// Those that are not in place.
    fn missing(&mut self, wanted: Vec<Wanted>) -> Result<Vec<Wanted>, Failure> {
        let mut missing = Vec::new();
        for wanted in wanted {
            if !self.has(&wanted)? {
                missing.push(wanted);
            }
        }
        Ok(missing)
    }

    /// Brings files, and writes down every one that lands.
    fn bring(&mut self, missing: &[Wanted]) -> Result<(), Failure> {
        if missing.is_empty() {
            return Ok(());
        }
        self.lock.complete = false;
        self.lock.write(&self.out)?;
        let meter = Meter::new(total(missing.iter().map(|wanted| wanted.bytes)));
        for wanted in missing {
            let commit = &self.listing.commit;
            let entry = transfer::fetch(&self.hub, commit, wanted, &self.out, &self.patience, &meter)?;
            self.lock.files.insert(wanted.path.clone(), entry);
            self.lock.write(&self.out)?;
        }
        Ok(())
    }

    /// Whether a file is in place. One that landed just before a run was cut off is not recorded yet: its SHA-256 tells.
    fn has(&mut self, wanted: &Wanted) -> Result<bool, Failure> {
        let path = self.out.join(&wanted.path);
        if !fs::metadata(&path).is_ok_and(|about| about.is_file() && about.len() == wanted.bytes) {
            return Ok(false);
        }
        let sha256 = match (self.lock.files.get(&wanted.path), &wanted.promise.sha256) {
            (Some(entry), _) => return Ok(entry.keeps(&wanted.promise)),
            (None, None) => return Ok(false),
            (None, Some(_)) => transfer::sha256(&path).map_err(|error| Failure::writing(&path, &error))?,
        };
        if wanted.promise.sha256.as_ref() != Some(&sha256) {
            return Ok(false);
        }
        let entry = Entry { bytes: wanted.bytes, sha256, blob: wanted.promise.blob.clone() };
        self.lock.files.insert(wanted.path.clone(), entry);
        self.lock.complete = false;
        Ok(true)
    }

    /// Takes away what an earlier fetch brought from another commit and this one has no more: it does not fit the rest.
    fn tidy(&mut self, choice: &Choice) -> Result<(), Failure> {
        let fresh: Vec<_> = choice.paths().collect();
        let is_old = |path: &String, entry: &Entry| {
            !fresh.contains(&path) && !self.listing.files.get(path).is_some_and(|promise| entry.keeps(promise))
        };
        let old: Vec<_> =
            self.lock.files.iter().filter(|(path, entry)| is_old(path, entry)).map(|(path, _)| path.clone()).collect();
        for path in old {
            if listing::fault(&path).is_none() {
                let target = self.out.join(&path);
                match fs::remove_file(&target) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Failure::writing(&target, &error));
                    }
                    _ => tell(format_args!("removed {path}: it was of an earlier commit")),
                }
            }
            self.lock.files.remove(&path);
            self.lock.complete = false;
        }
        self.sweep()
    }

    /// Takes away parts of content that nobody waits for any more.
    fn sweep(&self) -> Result<(), Failure> {
        for folder in [self.out.clone(), self.out.join("onnx")] {
            let entries = fs::read_dir(&folder).map_err(|error| Failure::writing(&folder, &error))?;
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                let name = path.strip_prefix(&self.out).ok().and_then(Path::to_str).unwrap_or_default();
                let stem = name.strip_suffix(".part").and_then(|name| name.rsplit_once('.'));
                if stem.is_some_and(|(file, _)| self.listing.files.contains_key(file)) {
                    fs::remove_file(&path).map_err(|error| Failure::writing(&path, &error))?;
                }
            }
        }
        Ok(())
    }
}

/// A sum of numbers from a stranger, which may be as large as they like.
fn total(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_owner_and_name() {
        assert_eq!("hf:a-b/C_d.1".parse(), Ok(Model("a-b/C_d.1".into())));
        for wrong in [
            "a/b",
            "hf:a",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/.b",
            "hf:a--b/c",
            "hf:/b",
            "hf:a/",
            "hf:a/b?c",
            "hf:a/b%2e",
        ] {
            assert!(wrong.parse::<Model>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_revision_stays_in_its_place_of_the_url() {
        for right in ["main", "refs/pr/3", "v1.0+x", "0123abc"] {
            assert_eq!(revision(right).as_deref(), Ok(right));
        }
        for wrong in ["", "/", "a//b", "../x", "a/..", "a?b", "a#b", "a b", "a%2fb", "a\nb", ".x"] {
            assert!(revision(wrong).is_err(), "{wrong}");
        }
    }
}
