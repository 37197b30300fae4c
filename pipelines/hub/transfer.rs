//! One file from the hub to its place: continued where the last try stopped, checked, and put in place whole.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::{
    client::{Facts, Fault, Hub, Reply, broken},
    listing::Promise,
    lock::Entry,
    meter::Meter,
};
use crate::exit::{Exit, Failure};

/// Tries in a row that may bring nothing before it is given up.
const TRIES: u32 = 6;
/// Bytes read at a time.
const BLOCK: usize = 128 << 10;
/// Longest sleep without a look at the stop switch.
const NAP: Duration = Duration::from_millis(100);

/// When to try again, and when to give up.
pub struct Patience<'s> {
    /// Pause after the first failure; it doubles with each one that follows.
    pub first: Duration,
    /// Turned on by Ctrl-C.
    pub stop: &'s AtomicBool,
}

impl Patience<'_> {
    /// Does `work` until it gives something; `say` is told why it is tried again.
    ///
    /// `work` tells beside its fault whether it came further, which starts the count anew.
    pub fn until<T>(
        &self,
        what: &str,
        say: impl Fn(&str),
        mut work: impl FnMut() -> (bool, Result<T, Fault>),
    ) -> Result<T, Failure> {
        let mut failed = 0;
        loop {
            self.check()?;
            let (further, result) = work();
            let (why, asked) = match result {
                Ok(done) => return Ok(done),
                Err(Fault::Final(failure)) => return Err(failure),
                Err(Fault::Passing(why, asked)) => (why, asked),
                Err(Fault::Range) => ("the server has no such part".to_owned(), None),
            };
            failed = if further { 1 } else { failed + 1 };
            if failed >= TRIES {
                let message =
                    format!("cannot fetch {what}: {why}, {TRIES} times in a row; what came is kept, run again later");
                return Err(Failure::new(Exit::Temporary, message));
            }
            let pause = self.first.saturating_mul(1 << (failed - 1)).max(asked.unwrap_or_default());
            say(&format!("{what}: {why}; once more in {:.1} s", pause.as_secs_f64()));
            self.wait(pause)?;
        }
    }

    /// Fails once Ctrl-C was pressed.
    pub fn check(&self) -> Result<(), Failure> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Failure::new(Exit::Temporary, "interrupted; what came is kept, run again to go on there")),
            false => Ok(()),
        }
    }

    fn wait(&self, pause: Duration) -> Result<(), Failure> {
        let started = Instant::now();
        while let Some(left) = pause.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            self.check()?;
            thread::sleep(left.min(NAP));
        }
        Ok(())
    }
}

/// A file that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Path in the repository and in the folder.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// What else is promised of it.
    pub promise: Promise,
}

impl Wanted {
    /// Name of the part in the file's folder. It names the content, so that a part is never continued with another.
    pub fn part(&self, commit: &str) -> String {
        let promise = &self.promise;
        let content = promise.sha256.as_deref().or(promise.blob.as_deref()).unwrap_or(commit);
        let content: String = content.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
        format!("{}.{content}.part", self.path)
    }
}

/// Brings one file of `commit` into `folder`.
pub fn fetch(
    hub: &Hub,
    commit: &str,
    wanted: &Wanted,
    folder: &Path,
    patience: &Patience,
    meter: &Meter,
) -> Result<Entry, Failure> {
    let target = folder.join(&wanted.path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|error| Failure::writing(parent, &error))?;
    }
    meter.name(&wanted.path);
    let mut part = Part::open(folder.join(wanted.part(commit)), wanted.bytes)?;
    meter.keep(part.length);
    let mut promise = wanted.promise.clone();
    let mut spoilt = false;
    let mut furthest = part.length;
    let sha256 = loop {
        patience.until(
            &wanted.path,
            |text| meter.say(text),
            || {
                let result = part.fill(hub, commit, wanted, &mut promise, patience, meter);
                let further = part.length > furthest;
                furthest = furthest.max(part.length);
                (further, result)
            },
        )?;
        let sha256 = part.sum();
        match &promise.sha256 {
            Some(promised) if *promised != sha256 => {
                part.clear(meter)?;
                if spoilt {
                    return Err(spoiled(wanted, promised, &sha256));
                }
                spoilt = true;
                meter.say(&format!("{}: its SHA-256 is not the promised one; once more from the start", wanted.path));
            }
            _ => break sha256,
        }
    };
    part.place(&target)?;
    Ok(Entry { bytes: wanted.bytes, sha256, blob: promise.blob })
}

fn spoiled(wanted: &Wanted, promised: &str, sha256: &str) -> Failure {
    let message = format!(
        "{} came damaged twice and is not installed: its SHA-256 is {sha256}, promised was {promised}; run again, and if \
         it stays so, something between here and the hub changes files (a proxy, or the mirror in HF_ENDPOINT)",
        wanted.path
    );
    Failure::new(Exit::BadInput, message)
}

/// What has come of a file.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    total: u64,
    hash: Sha256,
}

impl Part {
    fn open(path: PathBuf, total: u64) -> Result<Self, Failure> {
        let open = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            if file.metadata()?.len() > total {
                file.set_len(0)?;
            }
            let mut hash = Sha256::new();
            let length = digest(&mut file, &mut hash)?;
            Ok((file, length, hash))
        };
        let (file, length, hash) = open().map_err(|error| Failure::writing(&path, &error))?;
        Ok(Self { path, file, length, total, hash })
    }

    /// Gets what is missing in one request.
    fn fill(
        &mut self,
        hub: &Hub,
        commit: &str,
        wanted: &Wanted,
        promise: &mut Promise,
        patience: &Patience,
        meter: &Meter,
    ) -> Result<(), Fault> {
        if self.length == self.total {
            return Ok(());
        }
        let reply = match hub.get(commit, &wanted.path, self.length) {
            Err(Fault::Range) => {
                self.clear(meter)?;
                return Err(Fault::Passing("it cannot be continued".into(), None));
            }
            reply => reply?,
        };
        agree(&reply.facts, commit, wanted, promise)?;
        self.align(&reply, meter)?;
        let mut body = reply.body.into_with_config().limit(u64::MAX).reader();
        let mut block = vec![0; BLOCK];
        loop {
            patience.check()?;
            let count = match body.read(&mut block) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&error.into())),
            };
            let came = block.get(..count).unwrap_or_default();
            if came.is_empty() {
                break;
            }
            if came.len() as u64 > self.total - self.length {
                self.clear(meter)?;
                return Err(Fault::Passing("more came than was promised".into(), None));
            }
            self.add(came, meter)?;
        }
        match self.length == self.total {
            true => Ok(()),
            false => {
                Err(Fault::Passing(format!("the connection ended after {} of {} bytes", self.length, self.total), None))
            }
        }
    }

    /// Makes the part fit what the server sends: the rest, or all of it from the start.
    fn align(&mut self, reply: &Reply, meter: &Meter) -> Result<(), Fault> {
        let from = reply.from.unwrap_or(0);
        if from != self.length {
            self.clear(meter)?;
        }
        if from != self.length {
            return Err(Fault::Passing(format!("bytes from {from} on came, which nobody asked for"), None));
        }
        match reply.length {
            Some(length) if length != self.total - self.length => Err(Fault::Passing(
                format!("{length} bytes are to come where {} are missing", self.total - self.length),
                None,
            )),
            _ => Ok(()),
        }
    }

    fn add(&mut self, bytes: &[u8], meter: &Meter) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| Failure::writing(&self.path, &error))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        meter.advance(bytes.len() as u64);
        Ok(())
    }

    fn clear(&mut self, meter: &Meter) -> Result<(), Failure> {
        let clear = |file: &mut File| file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        clear(&mut self.file).map_err(|error| Failure::writing(&self.path, &error))?;
        meter.lose(self.length);
        self.length = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn sum(&self) -> String {
        hexadecimal(self.hash.clone())
    }

    fn place(self, target: &Path) -> Result<(), Failure> {
        let place = self.file.sync_data().and_then(|()| fs::rename(&self.path, target));
        place.map_err(|error| Failure::writing(target, &error))
    }
}

/// Takes what the endpoint says of the file with the file itself; refuses it where that is not what was promised.
fn agree(facts: &Facts, commit: &str, wanted: &Wanted, promise: &mut Promise) -> Result<(), Failure> {
    let other = |what: &str| {
        let message = format!(
            "{}: the endpoint sends another {what} than its list promises; nothing was written. Run again, and if it \
             stays so, the mirror in HF_ENDPOINT is at fault",
            wanted.path
        );
        Err(Failure::new(Exit::BadInput, message))
    };
    if facts.commit.as_ref().is_some_and(|said| said != commit) {
        return other("commit");
    }
    if facts.bytes.is_some_and(|said| said != wanted.bytes) {
        return other("length");
    }
    match (&facts.sha256, &promise.sha256) {
        (Some(said), Some(promised)) if said != promised => other("SHA-256"),
        (Some(said), None) => {
            promise.sha256 = Some(said.clone());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// SHA-256 of a file, in lower-case hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    digest(&mut File::open(path)?, &mut hash)?;
    Ok(hexadecimal(hash))
}

/// Hashes all that is left of a file; gives how many bytes that were.
fn digest(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let (mut block, mut length) = (vec![0; BLOCK], 0);
    loop {
        let count = match file.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Ok(length);
        }
        hash.update(block.get(..count).unwrap_or_default());
        length += count as u64;
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
