//! A folder for one test's files that stays on disk when the test fails.

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace;

/// A folder under `target/test-tmp/<test>/` that is deleted on drop, unless the test is failing or `RSF_TEST_KEEP`
/// is set.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Creates a new, empty folder whose name starts with `name`.
    ///
    /// # Panics
    /// When the folder cannot be created.
    pub fn new(name: &str) -> Self {
        let parent = workspace::target_dir()
            .join("test-tmp")
            .join(file_name(&test_name()));
        let created = fs::create_dir_all(&parent).and_then(|()| {
            tempfile::Builder::new()
                .prefix(&format!("{}-", file_name(name)))
                .tempdir_in(&parent)
        });
        match created {
            Ok(dir) => TempDir { path: dir.keep() },
            Err(error) => panic!("cannot create a folder under {}: {error}", parent.display()),
        }
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` inside the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("RSF_TEST_KEEP").is_some() {
            return;
        }
        // A folder that cannot be deleted harms no test; `make clean` takes it along.
        let _ = fs::remove_dir_all(&self.path);
        // The test's own folder goes with the last folder in it.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// nextest names the test in the environment, libtest names the thread after it.
fn test_name() -> String {
    std::env::var("NEXTEST_TEST_NAME")
        .ok()
        .or_else(|| std::thread::current().name().map(str::to_owned))
        .unwrap_or_else(|| "unnamed".to_owned())
}

/// `text` with everything that is not plain in a file name replaced, so that `a::b` needs no quoting in a shell.
pub(crate) fn file_name(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_a_test_that_passes() {
        let dir = TempDir::new("passes");
        fs::write(dir.join("file"), "content").unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_stays_with_a_test_that_fails() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let failing = std::thread::spawn(move || {
            let dir = TempDir::new("fails");
            sender.send(dir.path().to_owned()).unwrap();
            panic!("on purpose");
        });
        assert!(failing.join().is_err());
        let path = receiver.recv().unwrap();
        assert!(path.is_dir());
        fs::remove_dir_all(&path).unwrap();
        let _ = fs::remove_dir(path.parent().unwrap());
    }
}
