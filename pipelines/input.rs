//! Inputs: files and URIs of the command line, and what is wrong with them before anything is decoded.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use gst::glib;

use crate::exit::{Exit, Failure};

/// A file or URI to describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// As the user wrote it.
    pub name: String,
    /// For GStreamer, escaped.
    pub uri: String,
    /// The file, where it is one.
    pub path: Option<PathBuf>,
    /// Name of the results without their ending; free of `/`.
    pub stem: String,
}

impl Input {
    /// An input from an argument: a path, or a URI where no file has that name.
    pub fn new(argument: &OsStr) -> Result<Self, Failure> {
        let name = argument.to_string_lossy().into_owned();
        if is_uri(&name) && !Path::new(argument).exists() {
            let path = glib::filename_from_uri(&name).ok().map(|(path, _)| path);
            let last = path.clone().unwrap_or_else(|| last_segment(&name).into());
            return Ok(Self { stem: stem(&last), uri: name.clone(), name, path });
        }
        let path = PathBuf::from(argument);
        let refuse = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::BadInput, format!("'{name}' cannot be opened: {error}; give the path of a file"))
        };
        let absolute = std::path::absolute(&path).map_err(|error| refuse(&error))?;
        let uri = glib::filename_to_uri(&absolute, None).map_err(|error| refuse(&error))?.into();
        Ok(Self { stem: stem(&path), uri, name, path: Some(path) })
    }

    /// Refuses what certainly is no media file.
    pub fn check(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        let refuse = |why: String| Err(Failure::new(Exit::BadInput, format!("{}: {why}", self.name)));
        let found = fs::metadata(path).and_then(|found| match found.is_dir() {
            true => Ok(found),
            false => fs::File::open(path).map(|_| found),
        });
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse("there is no such file; check the path".into())
            }
            Err(error) => refuse(format!("it cannot be read ({error}); check its permissions")),
            Ok(found) if found.is_dir() => {
                refuse("this is a folder; give the files in it, one by one or as *.mp4".into())
            }
            Ok(found) if found.is_file() && found.len() == 0 => {
                refuse("the file is empty (0 bytes); copy or download it again".into())
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Gives each input a stem of its own: the second `movie` becomes `movie-2`.
pub fn separate(inputs: &mut [Input]) {
    let given: BTreeSet<String> = inputs.iter().map(|input| input.stem.clone()).collect();
    let mut taken = BTreeSet::new();
    for input in inputs {
        let free = (2..).map(|number| format!("{}-{number}", input.stem));
        let mut names = std::iter::once(input.stem.clone()).chain(free.filter(|name| !given.contains(name)));
        input.stem = names.find(|name| !taken.contains(name)).expect("there is always a higher number");
        taken.insert(input.stem.clone());
    }
}

/// Whether `text` starts with a scheme (RFC 3986, section 3.1) and `://`.
fn is_uri(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// The last part of a URI's path, unescaped.
fn last_segment(uri: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let last = path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default());
    // A NUL is refused; what is escaped wrongly stays as it is.
    glib::uri_unescape_string(last, Some("\0")).map_or_else(|| last.to_owned(), Into::into)
}

fn stem(path: &Path) -> String {
    let stem: String = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect())
        .unwrap_or_default();
    if stem.is_empty() { "media".into() } else { stem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(argument: &str) -> Input {
        Input::new(OsStr::new(argument)).unwrap()
    }

    #[test]
    fn paths_are_escaped_and_uris_are_not() {
        let file = input("/films/a day, 100% #1?.mp4");
        assert_eq!(file.uri, "file:///films/a%20day,%20100%25%20%231%3F.mp4");
        assert_eq!(file.stem, "a day, 100% #1?");
        let web = input("https://example.org/a/My%20film.webm?x=1#t");
        assert_eq!((web.uri.as_str(), web.stem.as_str()), ("https://example.org/a/My%20film.webm?x=1#t", "My film"));
        assert_eq!(web.path, None);
        assert_eq!(input("file:///films/a%20b.mkv").path, Some("/films/a b.mkv".into()));
    }

    #[test]
    fn a_name_is_always_found() {
        assert_eq!(input("https://example.org").stem, "media");
        assert_eq!(input("https://example.org/a%2Fb.mp4").stem, "b");
        assert_eq!(input("rtsp://camera/").stem, "media");
        assert_eq!(input("a.b/.mp4").stem, ".mp4");
        assert!(!is_uri("a day: x://y.mp4") && is_uri("v4l2://") && !is_uri("1x://"));
    }

    #[test]
    fn no_result_overwrites_another() {
        let mut inputs = ["a/x.mp4", "b/x.mkv", "x-2.mp4", "c/x.mp4", "y.mp4"].map(input);
        separate(&mut inputs);
        assert_eq!(inputs.map(|input| input.stem), ["x", "x-3", "x-2", "x-4", "y"]);
    }
}
