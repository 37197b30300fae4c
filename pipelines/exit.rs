//! Exit codes, and failures that know theirs.

use std::{io, path::Path, process::ExitCode};

/// How the command ends; the numbers are those of sysexits.h, and 2 for wrong usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done = 0,
    /// The command line asks for something impossible.
    Usage = 2,
    /// An input is not there, is no media, or is damaged.
    BadInput = 65,
    /// A plugin, decoder, model or library is missing.
    Missing = 69,
    /// Run it again later: interrupted, disk full, network.
    Temporary = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong, where, and what to do next; and the code to end with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The code to end with.
    pub exit: Exit,
    /// One paragraph.
    pub message: String,
}

impl Failure {
    /// A failure that ends with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// `path` cannot be written: a folder that was chosen badly, or a disk that is full.
    pub fn writing(path: &Path, error: &io::Error) -> Self {
        use io::ErrorKind::{
            AlreadyExists, FileTooLarge, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
            StorageFull,
        };
        let path = path.display();
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::new(
                Exit::Temporary,
                format!(
                    "cannot write {path}: the disk is full ({error}); make room or choose another folder with --out, then run again"
                ),
            ),
            PermissionDenied | ReadOnlyFilesystem | NotFound | NotADirectory | AlreadyExists => Self::new(
                Exit::Usage,
                format!("cannot write {path}: {error}; choose a folder that you may write to with --out"),
            ),
            _ => Self::new(
                Exit::Temporary,
                format!("cannot write {path}: {error}; run again or choose another folder with --out"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_temporary_and_a_closed_folder_is_a_wrong_choice() {
        let exit = |code| Failure::writing(Path::new("x"), &io::Error::from_raw_os_error(code)).exit;
        // ENOSPC, EFBIG, EDQUOT; EACCES, EROFS, ENOTDIR; EIO (errno.h of Linux).
        assert_eq!([28, 27, 122].map(exit), [Exit::Temporary; 3]);
        assert_eq!([13, 30, 20].map(exit), [Exit::Usage; 3]);
        assert_eq!(exit(5), Exit::Temporary);
    }
}
