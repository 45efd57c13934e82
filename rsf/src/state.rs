//! The state folder: snapshots on disk, and what `rsf dev` leaves for the others on this machine.

use std::path::{Path, PathBuf};

/// The folder: `RSF_STATE`, else `$XDG_STATE_HOME/rsf`, else `~/.local/state/rsf`, else `./.rsf`.
pub fn folder() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("RSF_STATE")
        .or_else(|| Some(set("XDG_STATE_HOME")?.join("rsf")))
        .or_else(|| Some(set("HOME")?.join(".local/state/rsf")))
        .unwrap_or_else(|| PathBuf::from(".rsf"))
}

/// What `rsf dev` leaves behind for the CLI and for applications on this machine.
#[derive(Debug, Clone)]
pub struct DevFiles {
    folder: PathBuf,
}

impl DevFiles {
    /// Within the state folder `state`.
    pub fn within(state: &Path) -> Self {
        DevFiles {
            folder: state.join("dev"),
        }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The URL of the registry that `rsf dev` runs; `None` where it ended in order, or never ran. One that was killed
    /// leaves its URL behind, so that a new consumer still knows whose snapshots on disk to use.
    pub fn registry(&self) -> Option<String> {
        read(&self.folder.join("registry"))
    }

    /// The namespace that it serves.
    pub fn namespace(&self) -> Option<String> {
        read(&self.folder.join("namespace"))
    }

    /// The console's URL.
    pub fn console(&self) -> Option<String> {
        read(&self.folder.join("console"))
    }

    /// The admin port of its pump.
    pub fn pump(&self) -> Option<String> {
        read(&self.folder.join("pump"))
    }

    /// The file of [`DevFiles::token`].
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    /// The token for the console's API and for what pump and applications can be told; the file is readable by its owner alone.
    pub fn token(&self) -> Option<String> {
        read(&self.token_file())
    }
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
