//! What `rsf dev` leaves in the state folder while it runs, so that the CLI and applications find it.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rsf::state::DevFiles;
use rsf_console::Token;

use crate::Failure;
use crate::process::private_folder;

/// The folder of a running `rsf dev`, locked. What it wrote goes with it; the database and the token stay.
pub(super) struct RunningFiles {
    folder: PathBuf,
    _lock: File,
}

impl RunningFiles {
    /// Takes the folder, or says that another `rsf dev` has it.
    pub(super) fn take(state: &Path) -> Result<Self, Failure> {
        let folder = private_folder(DevFiles::within(state).folder().to_owned())?;
        let lock = File::create(folder.join("lock"))
            .map_err(|error| format!("cannot write in {}: {error}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunningFiles { folder, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let registry = DevFiles::within(state)
                    .registry()
                    .unwrap_or_else(|| "starting".to_owned());
                Err(format!(
                    "`rsf dev` runs here already ({registry}); end it, or set RSF_STATE to another folder than {}",
                    state.display()
                )
                .into())
            }
            Err(TryLockError::Error(error)) => {
                Err(format!("cannot lock {}: {error}", folder.display()).into())
            }
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The token of that name from earlier runs, or a new random one.
    pub(super) fn token(&self, name: &str) -> Result<Token, Failure> {
        let path = self.path(name);
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(token) = Token::new(&text)
        {
            // Whoever loosened it: only its owner reads it.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            return Ok(token);
        }
        let token = Token::random()?;
        // Removed first: an existing file would keep its mode.
        let _ = std::fs::remove_file(&path);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(token.expose().as_bytes())?;
        Ok(token)
    }

    /// Says where things are. Each file appears whole.
    pub(super) fn announce(
        &self,
        registry: &str,
        namespace: &str,
        console: &str,
        adapter: &str,
        pump: &str,
    ) -> Result<(), Failure> {
        let places = [
            ("namespace", namespace),
            ("console", console),
            ("adapter", adapter),
            ("pump", pump),
            ("registry", registry),
        ];
        for (name, text) in places {
            let path = self.path(name);
            write_whole(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes beside the file and renames.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = path.with_added_extension("new");
    // The registry's URL holds its token.
    let mut options = File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh);
    file?.write_all(text.as_bytes())?;
    std::fs::rename(fresh, path)
}

impl Drop for RunningFiles {
    fn drop(&mut self) {
        for name in [
            "registry",
            "namespace",
            "console",
            "adapter",
            "pump",
            super::PROCESSES_FILE,
        ] {
            let _ = std::fs::remove_file(self.path(name));
        }
    }
}
