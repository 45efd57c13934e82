//! What a pump remembers over its own restarts: the last epoch it saw, in a small checksummed file.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rsf_registry::world;
use serde::{Deserialize, Serialize};

/// The remembered state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The greatest epoch that this pump led in or read from a list.
    pub(crate) epoch: u64,
    /// Whether this pump ever published a list, read a published one, or stood by while another led: an empty directory
    /// was wiped then.
    pub(crate) published: bool,
    /// Epoch and sequence of the newest list that this pump wrote or read back: a directory whose lists are all older went
    /// back to a backup. After a crash the file's may be a few seconds older.
    #[serde(default)]
    pub(crate) newest: (u64, u64),
}

/// The state and its file. Without a path it lives as long as the process.
#[derive(Debug)]
pub(crate) struct StateFile {
    state: Arc<Mutex<State>>,
    file: Option<Arc<File>>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Locked while the file is written: a state that was saved later is never replaced by an earlier one.
    saved: Mutex<Saved>,
}

#[derive(Debug)]
struct Saved {
    state: State,
    /// Whether it could be saved last time; each trouble is told once.
    well: bool,
}

impl StateFile {
    /// Reads the file. A missing one is an empty state; a damaged one is reported and ignored.
    pub(crate) async fn open(path: Option<PathBuf>) -> StateFile {
        let from = path.clone();
        let read = world::blocking(move || from.as_deref().map(read)).await;
        let state = match read {
            Ok(None) => State::default(),
            Ok(Some(Ok(state))) => state,
            Ok(Some(Err(problem))) => {
                let path = path
                    .as_deref()
                    .map(Path::display)
                    .map(|p| p.to_string())
                    .unwrap_or_default();
                tracing::error!(
                    path,
                    problem,
                    "the pump's state file is unusable and ignored; it will be replaced"
                );
                State::default()
            }
            Err(error) => {
                tracing::error!(%error, "the pump's state file could not be read");
                State::default()
            }
        };
        let file = path.map(|path| File {
            path,
            saved: Mutex::new(Saved { state, well: true }),
        });
        StateFile {
            state: Arc::new(Mutex::new(state)),
            file: file.map(Arc::new),
        }
    }

    /// The state as it is remembered.
    pub(crate) fn get(&self) -> State {
        *self.state.lock()
    }

    /// Remembers `epoch` unless a greater one is remembered.
    pub(crate) async fn record_epoch(&self, epoch: u64) {
        let greater = {
            let mut state = self.state.lock();
            let greater = epoch > state.epoch;
            state.epoch = state.epoch.max(epoch);
            greater
        };
        if greater {
            self.save().await;
        }
    }

    /// Remembers that lists have been published, by whichever pump.
    pub(crate) async fn record_published(&self) {
        self.record_list((0, 0)).await;
    }

    /// Remembers that a list of this epoch and sequence has been published.
    pub(crate) async fn record_list(&self, version: (u64, u64)) {
        let first = {
            let mut state = self.state.lock();
            let before = *state;
            state.published = true;
            state.newest = state.newest.max(version);
            (before.published, before.newest.0) != (true, state.newest.0)
        };
        // The others are saved beside the writes: two flushes to disk would hold up the next round.
        if first {
            self.save().await;
        }
    }

    /// Saves what the file does not have yet; whoever calls does not wait for it.
    pub(crate) fn save_soon(&self) {
        if let Some(saving) = self.saving() {
            drop(tokio::spawn(saving));
        }
    }

    /// Saves what the file does not have yet. A state that cannot be saved is reported, and the pump goes on: the directory
    /// and the clock still order epochs.
    pub(crate) async fn save(&self) {
        if let Some(saving) = self.saving() {
            saving.await;
        }
    }

    fn saving(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let (file, state) = (self.file.clone()?, self.state.clone());
        Some(async move {
            if let Err(error) = world::blocking(move || file.save(&state)).await {
                tracing::error!(%error, "the pump's state could not be saved");
            }
        })
    }
}

impl File {
    fn save(&self, state: &Mutex<State>) {
        let mut saved = self.saved.lock();
        let state = *state.lock();
        if saved.well && saved.state == state {
            return;
        }
        match write(&self.path, state) {
            Ok(()) => *saved = Saved { state, well: true },
            Err(error) => {
                if std::mem::take(&mut saved.well) {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "the pump's state could not be saved; make the path writable");
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<State, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(error.to_string()),
    };
    let (body, checksum) = text.trim_end().rsplit_once(' ').ok_or("it has no checksum")?;
    if checksum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err("its checksum is wrong".into());
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

/// Writes beside the file, flushes to disk and renames, so that a crash leaves the old file or the new one.
fn write(path: &Path, state: State) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let body = serde_json::to_string(&state)?;
    // Added, not replaced: the folder may be another one's too, who calls a fresh file of theirs `pump.new`.
    let beside = path.with_added_extension("new");
    let mut options = std::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    writeln!(file, "{body} {:08x}", crc32fast::hash(body.as_bytes()))?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn survives_a_restart_and_ignores_damage() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("deep/pump.state");
        let file = StateFile::open(Some(path.clone())).await;
        assert_eq!(file.get(), State::default(), "a missing file is fine");
        file.record_epoch(41).await;
        file.record_epoch(7).await;
        file.record_published().await;
        for version in [(40, 1), (40, 2), (39, 9)] {
            file.record_list(version).await;
        }
        assert_eq!(file.get().newest, (40, 2));
        let kept = |newest| State {
            epoch: 41,
            published: true,
            newest,
        };
        let again = || StateFile::open(Some(path.clone()));
        assert_eq!(again().await.get(), kept((40, 1)), "no write waits for the disk");
        file.save().await;
        assert_eq!(again().await.get(), kept((40, 2)));

        let text = std::fs::read_to_string(&path).expect("text");
        for damaged in [
            text.replace("41", "42"),
            text[..text.len() / 2].to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, &damaged).expect("write");
            assert_eq!(
                StateFile::open(Some(path.clone())).await.get(),
                State::default(),
                "{damaged:?}"
            );
            assert!(read(&path).is_err(), "{damaged:?}");
        }
    }

    #[tokio::test]
    async fn a_file_of_an_earlier_release_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("pump.state");
        let body = r#"{"epoch":41,"published":true}"#;
        std::fs::write(
            &path,
            format!("{body} {:08x}\n", crc32fast::hash(body.as_bytes())),
        )
        .expect("write");
        let state = StateFile::open(Some(path)).await.get();
        assert_eq!((state.epoch, state.newest), (41, (0, 0)));
    }

    #[tokio::test]
    async fn a_neighbour_of_the_same_stem_is_left_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let neighbour = folder.path().join("pump.new");
        std::fs::write(&neighbour, "theirs").expect("write");
        let file = StateFile::open(Some(folder.path().join("pump.state"))).await;
        file.record_epoch(41).await;
        assert_eq!(std::fs::read_to_string(&neighbour).expect("their file"), "theirs");
    }
}
