//! The user's labels: words with commas, or a file with one on each line.

use std::path::Path;

use crate::{LoadError, experts::files};

/// Largest file of labels that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most labels; each is a run of the text encoder when the pack is loaded.
const MOST: usize = 4096;
/// Longest label, in characters.
const LONGEST: usize = 400;

/// The labels in `text`: those in the file that it names, one a line, else what stands between its commas.
///
/// Each is there once, in the order in which they came.
pub fn labels(text: &str) -> Result<Vec<String>, LoadError> {
    let path = Path::new(text);
    let is_file = path.is_file();
    let text = match is_file {
        true => String::from_utf8_lossy(&files::read(path, MAX_FILE)?).into_owned(),
        false => text.to_owned(),
    };
    let mut found: Vec<String> = Vec::new();
    for label in text.split(if is_file { '\n' } else { ',' }) {
        let label = label.trim_start_matches('\u{feff}').trim();
        if !label.is_empty() && !found.iter().any(|known| known == label) {
            found.push(label.to_owned());
        }
    }
    let wrong = |reason: String| LoadError::Format {
        path: if is_file { path } else { Path::new("labels") }.to_owned(),
        reason,
    };
    if found.len() > MOST {
        return Err(wrong(format!("it has {} labels; at most {MOST} are possible", found.len())));
    }
    match found.iter().find(|label| label.chars().count() > LONGEST) {
        Some(long) => {
            let start: String = long.chars().take(40).collect();
            Err(wrong(format!("the label '{start}…' has more than {LONGEST} characters")))
        }
        None => Ok(found),
    }
}
