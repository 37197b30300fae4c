//! Results on disk: kept line by line while a run lasts, then written in order and put in place whole.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use describe_models::{Kind, Observation, Span, timeline};

use crate::{
    exit::{Exit, Failure},
    input::Input,
    vtt,
};

/// Observations of neighbouring clips that say the same become one over gaps up to this, in nanoseconds: less than
/// half of a window of the sound piece, so nothing that was heard to stop is joined.
const JOIN_GAP_NS: u64 = 200_000_000;

/// Makes `folder` where it is not there.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::writing(folder, &error))
}

/// Writes a file so that it is there whole or not at all.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        // The umask takes away what others may not.
        let open = Permissions::from_mode(0o666);
        let mut part = tempfile::Builder::new().prefix(".describe-").permissions(open).tempfile_in(folder)?;
        fill(part.as_file_mut())?;
        part.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(|error| Failure::writing(path, &error))
}

/// The three result files of an input and the journal kept until they are written.
#[derive(Debug, Clone)]
pub struct Results {
    /// All observations.
    pub jsonl: PathBuf,
    /// Captions and sounds.
    pub subtitles: PathBuf,
    /// Scenes.
    pub chapters: PathBuf,
    journal: PathBuf,
}

impl Results {
    /// The files of `input` in `folder`; refuses to overwrite files that describe did not make.
    pub fn new(folder: &Path, input: &Input) -> Result<Self, Failure> {
        let name = |prefix: &str, ending: &str| folder.join(format!("{prefix}{}{ending}", input.stem));
        let results = Self {
            jsonl: name("", ".jsonl"),
            subtitles: name("", ".vtt"),
            chapters: name("", ".chapters.vtt"),
            journal: name(".", ".jsonl.part"),
        };
        if let Some(path) = results.files().into_iter().find(|path| is_foreign(path)) {
            let path = path.display();
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{path} is there already and was not made by describe; move it or choose another folder with --out"
                ),
            ));
        }
        Ok(results)
    }

    /// Every result file.
    pub fn files(&self) -> [&Path; 3] {
        [&self.jsonl, &self.subtitles, &self.chapters]
    }

    /// Writes what was said in `span`, joined and in order, and takes the journal away; gives how many of each kind.
    pub fn write(
        &self,
        observations: Vec<Observation>,
        span: Span,
        media: &str,
    ) -> Result<Vec<(Kind, usize)>, Failure> {
        let observations = arrange(observations, span);
        let lines: String = observations.iter().map(|said| said.to_json() + "\n").collect();
        let texts = [lines, vtt::subtitles(&observations, media), vtt::chapters(&observations, media)];
        for (path, text) in self.files().into_iter().zip(texts) {
            write_whole(path, |file| file.write_all(text.as_bytes()))?;
        }
        self.forget();
        let count = |kind| (kind, observations.iter().filter(|said| said.kind == kind).count());
        Ok(Kind::ALL.map(count).into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Takes the journal away.
    pub fn forget(&self) {
        // Its loss is no loss: the results are written, or there are none.
        let _ = fs::remove_file(&self.journal);
    }

    /// Where the lines are while a run lasts.
    pub fn journal(&self) -> &Path {
        &self.journal
    }
}

/// Joins what neighbouring clips said, lets the shots cover `span`, and sorts.
fn arrange(observations: Vec<Observation>, span: Span) -> Vec<Observation> {
    let (shots, rest): (Vec<_>, Vec<_>) = observations.into_iter().partition(timeline::is_shot);
    let mut arranged = timeline::join(rest, JOIN_GAP_NS);
    arranged.extend(timeline::tile_scenes(shots, span));
    arranged.sort_by(Observation::canonical_cmp);
    arranged
}

/// Whether there is a file that is not one of ours.
fn is_foreign(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut lines = io::BufReader::new(file.take(1 << 16)).lines().map_while(Result::ok);
    match path.extension().is_some_and(|ending| ending == "vtt") {
        true => lines.nth(2).is_none_or(|line| !line.starts_with(vtt::MARK)),
        false => lines.next().is_some_and(|line| Observation::from_json(&line).is_err()),
    }
}

/// Observations as they come, in memory and on disk, so that a crash loses nothing.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// All of them.
    pub observations: Vec<Observation>,
}

impl Journal {
    /// A new journal at `path`.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| Failure::writing(path, &error))?;
        Ok(Self { file, path: path.to_owned(), observations: Vec::new() })
    }

    /// Takes lines of JSON.
    pub fn add(&mut self, lines: &[u8]) -> Result<(), Failure> {
        for line in String::from_utf8_lossy(lines).lines().filter(|line| !line.is_empty()) {
            let said = Observation::from_json(line).map_err(|error| {
                Failure::new(
                    Exit::Missing,
                    format!(
                        "clipdescriber sent something that is no observation ({error}); build command and plugin anew"
                    ),
                )
            })?;
            self.observations.push(said);
        }
        self.file.write_all(lines).map_err(|error| Failure::writing(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn said(kind: Kind, start_ns: u64, end_ns: u64, text: &str) -> Observation {
        Observation::new(kind, Span::new(start_ns, end_ns), text, 0.5, "x")
    }

    fn results(folder: &Path) -> Result<Results, Failure> {
        Results::new(folder, &Input::new(OsStr::new("farm.mp4")).unwrap())
    }

    #[test]
    fn results_are_sorted_joined_and_tiled() {
        let folder = tempfile::tempdir().unwrap();
        let results = results(folder.path()).unwrap();
        let mut journal = Journal::create(results.journal()).unwrap();
        for observation in [
            said(Kind::Scene, 40, 70, "shot 2"),
            said(Kind::Sound, 50, 60, "rain falls"),
            said(Kind::Sound, 0, 50, "rain falls"),
            said(Kind::Scene, 10, 40, "shot 1"),
        ] {
            journal.add((observation.to_json() + "\n").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(results.journal()).unwrap().lines().count(), 4);
        let counts = results.write(journal.observations, Span::new(0, 100), "farm.mp4").unwrap();
        assert_eq!(counts, [(Kind::Scene, 2), (Kind::Sound, 1)]);
        let lines = fs::read_to_string(&results.jsonl).unwrap();
        let spans: Vec<_> =
            lines.lines().map(|line| Observation::from_json(line).unwrap()).map(|o| (o.kind, o.span)).collect();
        assert_eq!(
            spans,
            [(Kind::Scene, Span::new(0, 40)), (Kind::Sound, Span::new(0, 60)), (Kind::Scene, Span::new(40, 100))]
        );
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["farm.chapters.vtt", "farm.jsonl", "farm.vtt"]);
    }

    #[test]
    fn only_our_own_files_are_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let first = results(folder.path()).unwrap();
        first.write(vec![said(Kind::Caption, 0, 1, "A cow.")], Span::new(0, 1), "farm.mp4").unwrap();
        assert!(results(folder.path()).is_ok());
        fs::write(folder.path().join("farm.vtt"), "WEBVTT\n\n00:00.000 --> 00:01.000\nmy own subtitles\n").unwrap();
        let refused = results(folder.path()).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.message.contains("farm.vtt") && refused.message.contains("--out"), "{refused}");
    }

    #[test]
    fn a_full_disk_is_said_and_leaves_nothing_half() {
        let mut journal = Journal::create(Path::new("/dev/full")).unwrap();
        let full = journal.add(b"\n").unwrap_err();
        assert_eq!(full.exit, Exit::Temporary);
        assert!(full.message.contains("full") && full.message.contains("--out"), "{full}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let refused = write_whole(&path, |_| Err(io::Error::from_raw_os_error(28))).unwrap_err();
        assert_eq!(refused.exit, Exit::Temporary);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_for_everybody_the_umask_allows() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let ours = folder.path().join("ours");
        write_whole(&ours, |_| Ok(())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
