//! RSF's own processes, and what their configurations have in common: a flag beats `RSF_*` beats the file.

pub(crate) mod adapter;
pub(crate) mod console;
pub(crate) mod pump;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use rsf::state::DevFiles;
use rsf_console::Token;
use rsf_core::identity::TrustedKeys;
use rsf_registry::RegistryUrl;
use rsf_registry::directory::ListOpener;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// What every process of RSF's own is told.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(default)]
pub(crate) struct Common {
    /// rsf://host:port, or redis://host:port,zk://host:port[,host:port]
    #[arg(long, env = "RSF_REGISTRY")]
    pub(crate) registry: Option<String>,
    /// The environment [default: default]
    #[arg(long, env = "RSF_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// File with the public keys by which lists must be signed [default: signatures are not looked at]
    #[arg(long, env = "RSF_LIST_KEYS")]
    pub(crate) list_keys: Option<PathBuf>,
}

impl Common {
    /// Takes from the file what neither flag nor environment says, and checks it. Mistakes go to `problems`.
    pub(crate) fn registry(
        &self,
        file: &Common,
        problems: &mut Vec<String>,
    ) -> Option<(RegistryUrl, String)> {
        let dev = DevFiles::within(&rsf::state::folder());
        let set = self.registry.clone().or_else(|| file.registry.clone());
        let found = set.clone().or_else(|| dev.registry());
        let dev_namespace = set.is_none().then(|| dev.namespace()).flatten();
        let namespace = self
            .namespace
            .clone()
            .or_else(|| file.namespace.clone())
            .or(dev_namespace);
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        let Some(text) = found else {
            problems.push(
                "no registry: set --registry or RSF_REGISTRY to rsf://host:port or redis://host:port,zk://host:port, \
                 or start `rsf dev`"
                    .to_owned(),
            );
            return None;
        };
        match text.parse() {
            Ok(url) => Some((url, namespace)),
            Err(error) => {
                problems.push(format!("registry: {error}"));
                None
            }
        }
    }
}

impl Common {
    /// Opens lists with the keys that are configured. Mistakes go to `problems`.
    pub(crate) fn lists(&self, file: &Common, namespace: &str, problems: &mut Vec<String>) -> ListOpener {
        let Some(path) = self.list_keys.as_ref().or(file.list_keys.as_ref()) else {
            return ListOpener::unverified();
        };
        match trusted_keys(path, "") {
            Ok(keys) => ListOpener::trusting(namespace, keys),
            Err(problem) => {
                problems.push(format!("list_keys: {problem}"));
                ListOpener::unverified()
            }
        }
    }
}

/// The public keys in a file, and those in `more`.
pub(crate) fn trusted_keys(path: &Path, more: &str) -> Result<TrustedKeys, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // The file by itself, or a private key in its place would pass for no further keys.
    TrustedKeys::from_pem(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    TrustedKeys::from_pem(&format!("{text}\n{more}")).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads a TOML file; without one, everything has its default.
pub(crate) fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok(toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.to_string().trim_end()))?)
}

/// All mistakes as one error; `Ok` where there is none.
pub(crate) fn all(problems: Vec<String>) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!("the configuration is invalid:\n  - {}", problems.join("\n  - ")).into())
}

pub(crate) fn address(text: &str, name: &str, problems: &mut Vec<String>) -> Option<SocketAddr> {
    let parsed = text.parse();
    parsed
        .map_err(|_| {
            problems.push(format!(
                "{name}: `{text}` is no address:port, such as 127.0.0.1:7600"
            ))
        })
        .ok()
}

/// The token in a file. Mistakes go to `problems`.
pub(crate) fn token(path: &Path, problems: &mut Vec<String>) -> Option<Token> {
    match std::fs::read_to_string(path) {
        Ok(text) => Token::new(&text)
            .map_err(|error| problems.push(format!("{}: {error}", path.display())))
            .ok(),
        Err(error) => {
            problems.push(format!("cannot read the token file {}: {error}", path.display()));
            None
        }
    }
}

pub(crate) async fn listen(address: SocketAddr, what: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    Ok(bound.map_err(|e| {
        format!("cannot listen on {address} for the {what}: {e}; choose another port, or 0 for a free one")
    })?)
}

/// Cancelled by Ctrl-C or SIGTERM.
pub(crate) fn until_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let ended = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        ended.cancel();
    });
    Ok(token)
}

/// A folder of the process's own, made where it is missing, readable by its owner alone.
pub(crate) fn private_folder(path: PathBuf) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path);
    made.map_err(|e| format!("cannot make the folder {}: {e}", path.display()))?;
    Ok(path)
}
