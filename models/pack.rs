//! Packs: folders of models, where they lie and how they are loaded.

use std::{env, path::PathBuf};

/// Folders that may hold packs and the runtime: the user's (`$XDG_DATA_HOME/describe`) first, then the system's.
pub fn data_folders() -> Vec<PathBuf> {
    let user = env::var_os("XDG_DATA_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    user.into_iter()
        .chain(["/usr/local/share".into(), "/usr/share".into()])
        .map(|folder: PathBuf| folder.join("describe"))
        .collect()
}
