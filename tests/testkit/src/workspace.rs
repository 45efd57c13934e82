//! Where things are: what cargo built, the files in `deploy/`, the Python that tests use.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The path of a binary of this workspace, built with the same profile as the running test.
///
/// # Panics
/// When it is not built, or one of its source files is newer than it.
pub fn binary(name: &str) -> PathBuf {
    built(&profile_dir(), name, "--bins")
}

/// The path of an example program of this workspace, built with the same profile as the running test.
///
/// # Panics
/// As [`binary`].
pub fn example(name: &str) -> PathBuf {
    built(&profile_dir().join("examples"), name, "--examples")
}

/// The path of a file in `deploy/`, which operators and tests share.
///
/// # Panics
/// When there is no such file.
pub fn deploy_file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(name);
    match path.canonicalize() {
        Ok(path) => path,
        Err(error) => panic!("deploy/{name} cannot be found: {error}"),
    }
}

/// The Python interpreter that has grpcio and its companions: `RSF_TEST_PYTHON`, or the environment under
/// `target/python` that `make test` creates.
///
/// # Panics
/// When neither is there.
pub fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("RSF_TEST_PYTHON") {
        return path.into();
    }
    let path = target_dir().join("python/bin/python");
    assert!(
        path.exists(),
        "{} is missing: `deploy/install-test-tools.sh python` creates it, as `make test` does",
        path.display()
    );
    path
}

/// The folder of Node's packages (`NODE_PATH`), grpc-js among them: `RSF_TEST_NODE_MODULES`, or the one under
/// `target/node` that `make test` creates.
///
/// # Panics
/// When neither is there.
pub fn node_modules() -> PathBuf {
    if let Some(path) = std::env::var_os("RSF_TEST_NODE_MODULES") {
        return path.into();
    }
    let path = target_dir().join("node/node_modules");
    assert!(
        path.exists(),
        "{} is missing: `deploy/install-test-tools.sh node` creates it, as `make test` does",
        path.display()
    );
    path
}

/// Cargo's `target` folder, found from the running test.
pub(crate) fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().map(Path::to_owned).unwrap_or(profile)
}

/// `target/debug`, or what stands for it in another profile: tests run in its `deps`, examples in its `examples`.
fn profile_dir() -> PathBuf {
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => panic!("cannot tell where this test runs: {error}"),
    };
    let folder = exe.parent().unwrap_or(Path::new("/"));
    let inner = folder
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    if inner {
        folder.parent().unwrap_or(folder).to_owned()
    } else {
        folder.to_owned()
    }
}

fn built(folder: &Path, name: &str, kind: &str) -> PathBuf {
    let path = folder.join(name);
    let advice = format!("run `cargo build --workspace {kind}` first, as `make test` does");
    let Ok(built_at) = fs::metadata(&path).and_then(|file| file.modified()) else {
        panic!("{} is not built: {advice}", path.display());
    };
    // A test that runs yesterday's binary proves nothing about today's code.
    if let Some(source) = newer_source(&folder.join(format!("{name}.d")), built_at) {
        panic!("{} is older than {}: {advice}", path.display(), source.display());
    }
    path
}

/// The first source file in cargo's dependency file that is newer than the program, or gone.
fn newer_source(dependency_file: &Path, built_at: SystemTime) -> Option<PathBuf> {
    let text = fs::read_to_string(dependency_file).ok()?;
    let (_, sources) = text.split_once(": ")?;
    // A space inside a path is written as `\ `.
    sources
        .replace("\\ ", "\0")
        .split_whitespace()
        .map(|source| PathBuf::from(source.replace('\0', " ")))
        .find(|source| {
            fs::metadata(source)
                .and_then(|file| file.modified())
                .map_or(true, |at| at > built_at)
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[should_panic(expected = "no-such-program is not built: run `cargo build --workspace --bins` first")]
    fn a_binary_that_is_not_built_is_named_with_what_to_do() {
        binary("no-such-program");
    }

    #[test]
    fn a_source_that_is_newer_or_gone_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("main source.rs");
        let listing = dir.path().join("program.d");
        fs::write(&source, "fn main() {}").unwrap();
        let escaped = source.display().to_string().replace(' ', "\\ ");
        fs::write(&listing, format!("/target/debug/program: {escaped}\n")).unwrap();

        let changed_at = fs::metadata(&source).unwrap().modified().unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(newer_source(&listing, changed_at + second), None);
        assert_eq!(newer_source(&listing, changed_at - second), Some(source.clone()));
        fs::remove_file(&source).unwrap();
        assert_eq!(newer_source(&listing, changed_at + second), Some(source));
    }

    #[test]
    fn the_files_for_operators_are_found() {
        assert!(deploy_file("redis.conf").is_file());
        assert!(deploy_file("zoo.cfg").is_file());
    }
}
