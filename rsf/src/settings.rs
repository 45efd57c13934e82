//! How a process is configured: code beats `RSF_*` beats the file; all errors at once, before a port is bound.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use rsf_core::wire::WireStack;
use rsf_registry::agent::MAX_PEERS;
use rsf_registry::{DedupUrl, RegistryUrl};
use serde::Deserialize;

use crate::state::{self, DevFiles};

/// The settings of a process, unchecked. Each has an environment variable, and a key of the same name in the TOML file
/// that `RSF_CONFIG` names.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `RSF_REGISTRY`: `rsf://host:port`, or `redis://…,zk://host:port[,host:port…]`. Without one, the registry that
    /// `rsf dev` runs on this machine.
    pub registry: Option<String>,
    /// `RSF_DEDUP`: where providers keep the outcomes of deduplicated methods, `redis://host:port` or `memory`. The
    /// registry's Redis; each instance's memory where the registry is an embedded one.
    pub dedup: Option<String>,
    /// `RSF_NAMESPACE`: the environment. `default`.
    pub namespace: Option<String>,
    /// `RSF_INSTANCE`: this copy's name, unique within the application; its advertised address where none is set.
    pub instance: Option<String>,
    /// `RSF_LISTEN`: `address:port` of the service port; port 0 takes a free one. `127.0.0.1:0`.
    pub listen: Option<String>,
    /// `RSF_ADVERTISE`: `host:port` or `host` that others use for calls. The listening address; required where that
    /// is `0.0.0.0` or `[::]`.
    pub advertise: Option<String>,
    /// `RSF_ADMIN`: `address:port` of the admin port (metrics, health, status). `127.0.0.1:0`.
    pub admin: Option<String>,
    /// `RSF_ADMIN_TOKEN_FILE`: the file with the token that opens what the admin port can change (`rsf override`), read each
    /// time. None: nobody can change anything there; where the registry is that of `rsf dev`, its token.
    pub admin_token_file: Option<PathBuf>,
    /// `RSF_ZONE`: the data centre or machine room. Empty.
    pub zone: Option<String>,
    /// `RSF_TAGS`: labels, `key=value,key=value`; a table in the file. None.
    pub tags: HashMap<String, String>,
    /// `RSF_WEIGHT`: relative share of the calls, 0 to 10 000. 100.
    pub weight: Option<u32>,
    /// `RSF_STATE`: the folder for snapshots on disk. See [`crate::state::folder`].
    pub state: Option<PathBuf>,
    /// `RSF_PEERS`: other instances' admin ports, `host:port,host:port`, at most 64; an array in the file: whom to ask for
    /// lists and policies where neither registry nor disk has them. None.
    pub peers: Vec<String>,
    /// `RSF_STATIC_INSTANCES`: a JSON file of service key → list of `host:port`, or what to pin, add and remove, that
    /// overrides the directory; read again when it changes.
    pub static_instances: Option<PathBuf>,
    /// `RSF_LEASE_TTL_MS`: milliseconds that the lease lives without renewal, 1 000 to 600 000. 15 000.
    pub lease_ttl_ms: Option<u64>,
    /// `RSF_WIRE`: what carries calls, `engine` for RSF's own engine or `hyper` for the hyper and h2 crates; peers do not
    /// notice. `hyper`.
    pub wire: Option<String>,
    /// `RSF_IO_THREADS`: threads of RSF's own runtime, 0 to 1 024. 0: one per core.
    pub io_threads: Option<usize>,
    /// `RSF_DRAIN_MS`: milliseconds that running calls get at a graceful end, 0 to 600 000. 30 000.
    pub drain_ms: Option<u64>,
    /// `RSF_TOKEN_FILE`: the file with this application's token (`rsf token sign`), sent with every call and read again
    /// when it changes. None.
    pub token_file: Option<PathBuf>,
    /// `RSF_TRUSTED_KEYS`: the file with the public keys whose tokens this provider believes, read again when it changes.
    /// None: callers' tokens are not looked at.
    pub trusted_keys: Option<PathBuf>,
    /// `RSF_LIST_KEYS`: the file with the public keys by which the pump signs the directory's lists; lists that none of them
    /// signed are refused. None: signatures are not looked at.
    pub list_keys: Option<PathBuf>,
    /// `RSF_AUTHORIZATION_REQUIRED`: whether a service takes no call until a policy sets `provider.authorization.mode` for
    /// it. `false`.
    pub authorization_required: Option<bool>,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is invalid:{}", .problems.iter().map(|p| format!("\n  - {p}")).collect::<String>())]
pub struct InvalidSettings {
    /// One line for each mistake, naming the setting, its value and what is allowed.
    pub problems: Vec<String>,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) registry: RegistryUrl,
    pub(crate) registry_text: String,
    pub(crate) dedup: DedupUrl,
    pub(crate) namespace: String,
    pub(crate) instance: Option<String>,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) admin: SocketAddr,
    pub(crate) admin_token_file: Option<PathBuf>,
    pub(crate) zone: String,
    pub(crate) tags: HashMap<String, String>,
    pub(crate) weight: Option<u32>,
    pub(crate) state: PathBuf,
    pub(crate) peers: Vec<String>,
    pub(crate) static_instances: Option<PathBuf>,
    pub(crate) lease_ttl: std::time::Duration,
    pub(crate) wire: WireStack,
    pub(crate) io_threads: usize,
    pub(crate) drain: std::time::Duration,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) trusted_keys: Option<PathBuf>,
    pub(crate) list_keys: Option<PathBuf>,
    pub(crate) authorization_required: bool,
}

impl Settings {
    /// Reads `RSF_*`, and the file that `RSF_CONFIG` names.
    pub fn from_environment() -> Result<Self, InvalidSettings> {
        let mut problems = Vec::new();
        let settings = Self::read(environment, &mut problems);
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(InvalidSettings { problems })
        }
    }

    /// These settings completed by the environment and checked: all mistakes of both at once.
    pub(crate) fn complete(self) -> Result<Checked, InvalidSettings> {
        let mut problems = Vec::new();
        let weaker = Self::read(environment, &mut problems);
        self.or(weaker).check(problems)
    }

    /// Takes from `weaker` what is not set here.
    pub fn or(self, weaker: Settings) -> Settings {
        Settings {
            registry: self.registry.or(weaker.registry),
            dedup: self.dedup.or(weaker.dedup),
            namespace: self.namespace.or(weaker.namespace),
            instance: self.instance.or(weaker.instance),
            listen: self.listen.or(weaker.listen),
            advertise: self.advertise.or(weaker.advertise),
            admin: self.admin.or(weaker.admin),
            admin_token_file: self.admin_token_file.or(weaker.admin_token_file),
            zone: self.zone.or(weaker.zone),
            tags: if self.tags.is_empty() {
                weaker.tags
            } else {
                self.tags
            },
            weight: self.weight.or(weaker.weight),
            state: self.state.or(weaker.state),
            peers: match self.peers.is_empty() {
                true => weaker.peers,
                false => self.peers,
            },
            static_instances: self.static_instances.or(weaker.static_instances),
            lease_ttl_ms: self.lease_ttl_ms.or(weaker.lease_ttl_ms),
            wire: self.wire.or(weaker.wire),
            io_threads: self.io_threads.or(weaker.io_threads),
            drain_ms: self.drain_ms.or(weaker.drain_ms),
            token_file: self.token_file.or(weaker.token_file),
            trusted_keys: self.trusted_keys.or(weaker.trusted_keys),
            list_keys: self.list_keys.or(weaker.list_keys),
            authorization_required: self.authorization_required.or(weaker.authorization_required),
        }
    }

    fn read(get: impl Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Self {
        let file = match get("RSF_CONFIG") {
            Some(path) => file(&path).unwrap_or_else(|problem| {
                problems.push(problem);
                Settings::default()
            }),
            None => Settings::default(),
        };
        let environment = Settings {
            registry: get("RSF_REGISTRY"),
            dedup: get("RSF_DEDUP"),
            namespace: get("RSF_NAMESPACE"),
            instance: get("RSF_INSTANCE"),
            listen: get("RSF_LISTEN"),
            advertise: get("RSF_ADVERTISE"),
            admin: get("RSF_ADMIN"),
            admin_token_file: get("RSF_ADMIN_TOKEN_FILE").map(PathBuf::from),
            zone: get("RSF_ZONE"),
            tags: tags(get("RSF_TAGS"), problems),
            weight: number(get("RSF_WEIGHT"), "RSF_WEIGHT", problems),
            state: get("RSF_STATE").map(PathBuf::from),
            peers: peers(get("RSF_PEERS")),
            static_instances: get("RSF_STATIC_INSTANCES").map(PathBuf::from),
            lease_ttl_ms: number(get("RSF_LEASE_TTL_MS"), "RSF_LEASE_TTL_MS", problems),
            wire: get("RSF_WIRE"),
            io_threads: number(get("RSF_IO_THREADS"), "RSF_IO_THREADS", problems),
            drain_ms: number(get("RSF_DRAIN_MS"), "RSF_DRAIN_MS", problems),
            token_file: get("RSF_TOKEN_FILE").map(PathBuf::from),
            trusted_keys: get("RSF_TRUSTED_KEYS").map(PathBuf::from),
            list_keys: get("RSF_LIST_KEYS").map(PathBuf::from),
            authorization_required: flag("RSF_AUTHORIZATION_REQUIRED", &get, problems),
        };
        environment.or(file)
    }

    /// Checks everything and fills in the defaults; `problems` are the mistakes that were found before.
    fn check(self, mut problems: Vec<String>) -> Result<Checked, InvalidSettings> {
        let state = self.state.clone().unwrap_or_else(state::folder);
        let dev = DevFiles::within(&state);
        let registry_text = self
            .registry
            .clone()
            .or_else(|| dev.registry())
            .unwrap_or_default();
        let registry = match registry_text.is_empty() {
            true => {
                problems.push(format!(
                    "RSF_REGISTRY is not set and `rsf dev` does not run here (nothing in {}); set it to \
                     rsf://host:port or redis://host:port,zk://host:port",
                    dev.folder().display()
                ));
                None
            }
            false => registry_text
                .parse::<RegistryUrl>()
                .map_err(|e| problems.push(format!("RSF_REGISTRY: {e}")))
                .ok(),
        };
        let dedup = match &self.dedup {
            Some(text) => text
                .parse::<DedupUrl>()
                .map_err(|e| problems.push(format!("RSF_DEDUP: {e}")))
                .ok(),
            None => registry.as_ref().map(DedupUrl::beside),
        };
        let dev_namespace = self.registry.is_none().then(|| dev.namespace()).flatten();
        let namespace = self
            .namespace
            .clone()
            .or(dev_namespace)
            .unwrap_or_else(|| "default".to_owned());
        let dev_token = || Some(dev.token_file()).filter(|file| file.exists());
        let admin_token_file = match (&self.admin_token_file, &self.registry) {
            (None, None) => dev_token(),
            (file, _) => file.clone(),
        };
        let listen = address(self.listen.as_deref(), "RSF_LISTEN", &mut problems);
        let admin = address(self.admin.as_deref(), "RSF_ADMIN", &mut problems);
        if listen.is_some_and(|listen| listen.ip().is_unspecified()) && self.advertise.is_none() {
            problems.push(
                "RSF_LISTEN is every address of this machine; set RSF_ADVERTISE to the one that others use"
                    .to_owned(),
            );
        }
        for peer in &self.peers {
            if let Err(problem) = rsf_registry::limits::check_address(peer) {
                problems.push(format!("RSF_PEERS: {problem}"));
            }
        }
        if self.peers.len() > MAX_PEERS {
            let given = self.peers.len();
            problems.push(format!(
                "RSF_PEERS: {given} addresses are given; at most {MAX_PEERS} are asked"
            ));
        }
        within("RSF_WEIGHT", self.weight.map(u64::from), 0, 10_000, &mut problems);
        within(
            "RSF_LEASE_TTL_MS",
            self.lease_ttl_ms,
            1000,
            600_000,
            &mut problems,
        );
        let wire = self.wire.as_deref().map_or(Ok(WireStack::default()), str::parse);
        let wire = wire.map_err(|problem| problems.push(format!("RSF_WIRE: {problem}")));
        within(
            "RSF_IO_THREADS",
            self.io_threads.map(|threads| threads as u64),
            0,
            1024,
            &mut problems,
        );
        within("RSF_DRAIN_MS", self.drain_ms, 0, 600_000, &mut problems);
        let (Some(registry), Some(dedup), Some(listen), Some(admin), Ok(wire), true) =
            (registry, dedup, listen, admin, wire, problems.is_empty())
        else {
            return Err(InvalidSettings { problems });
        };
        Ok(Checked {
            registry_text: registry.to_string(),
            registry,
            dedup,
            namespace,
            instance: self.instance,
            listen,
            advertise: self.advertise,
            admin,
            admin_token_file,
            zone: self.zone.unwrap_or_default(),
            tags: self.tags,
            weight: self.weight,
            state,
            peers: self.peers,
            static_instances: self.static_instances,
            lease_ttl: std::time::Duration::from_millis(self.lease_ttl_ms.unwrap_or(15_000)),
            wire,
            io_threads: self.io_threads.unwrap_or(0),
            drain: std::time::Duration::from_millis(self.drain_ms.unwrap_or(30_000)),
            token_file: self.token_file,
            trusted_keys: self.trusted_keys,
            list_keys: self.list_keys,
            authorization_required: self.authorization_required.unwrap_or(false),
        })
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn file(path: &str) -> Result<Settings, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("RSF_CONFIG: cannot read {path}: {e}"))?;
    toml::from_str(&text).map_err(|e| format!("{path}: {}", e.to_string().trim_end()))
}

fn number<T: std::str::FromStr>(text: Option<String>, name: &str, problems: &mut Vec<String>) -> Option<T> {
    let text = text?;
    text.parse()
        .map_err(|_| problems.push(format!("{name}: `{text}` is no whole number in its range")))
        .ok()
}

fn flag(name: &str, get: impl Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Option<bool> {
    let text = get(name)?;
    text.parse()
        .map_err(|_| problems.push(format!("{name}: `{text}` is neither `true` nor `false`")))
        .ok()
}

fn peers(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    let addresses = text.split(',').map(str::trim).filter(|peer| !peer.is_empty());
    addresses.map(str::to_owned).collect()
}

fn tags(text: Option<String>, problems: &mut Vec<String>) -> HashMap<String, String> {
    let text = text.unwrap_or_default();
    let pairs = text
        .split(',')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Some((key.to_owned(), value.to_owned())),
            _ => {
                problems.push(format!("RSF_TAGS: `{pair}` is no key=value"));
                None
            }
        });
    pairs.collect()
}

fn address(text: Option<&str>, name: &str, problems: &mut Vec<String>) -> Option<SocketAddr> {
    let text = text.unwrap_or("127.0.0.1:0");
    text.parse()
        .map_err(|_| {
            problems.push(format!(
                "{name}: `{text}` is no address:port, such as 127.0.0.1:7001 or [::1]:0"
            ))
        })
        .ok()
}

fn within(name: &str, value: Option<u64>, least: u64, most: u64, problems: &mut Vec<String>) {
    if let Some(value) = value
        && !(least..=most).contains(&value)
    {
        problems.push(format!("{name}: {value} is not within {least} to {most}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)], problems: &mut Vec<String>) -> Settings {
        let map: HashMap<_, _> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Settings::read(|name| map.get(name).cloned(), problems)
    }

    fn from(pairs: &[(&str, &str)]) -> Result<Settings, InvalidSettings> {
        let mut problems = Vec::new();
        let settings = read(pairs, &mut problems);
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(InvalidSettings { problems })
        }
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let mut problems = Vec::new();
        let settings = read(
            &[
                ("RSF_WEIGHT", "many"),
                ("RSF_TAGS", "a,=b,c=d"),
                ("RSF_CONFIG", "/nowhere.toml"),
                ("RSF_REGISTRY", "http://x"),
                ("RSF_DEDUP", "memcached://x:1"),
                ("RSF_LISTEN", "0.0.0.0:80"),
                ("RSF_ADMIN", "here"),
                ("RSF_WIRE", "telex"),
                ("RSF_IO_THREADS", "20000"),
                ("RSF_DRAIN_MS", "999999999"),
                ("RSF_PEERS", "10.0.0.1:7001, nowhere"),
                ("RSF_AUTHORIZATION_REQUIRED", "yes"),
            ],
            &mut problems,
        );
        assert_eq!(problems.len(), 5, "what cannot be read: {problems:?}");
        let all = settings.check(problems).unwrap_err().problems;
        assert_eq!(all.len(), 5 + 8, "and what is out of its range: {all:?}");
    }

    #[test]
    fn the_environment_beats_the_file() {
        let folder = std::env::temp_dir().join(format!("rsf-settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("rsf.toml");
        std::fs::write(&path, "zone = \"north\"\nweight = 7\n[tags]\ncolour = \"blue\"\n").unwrap();
        let settings = from(&[("RSF_CONFIG", path.to_str().unwrap()), ("RSF_ZONE", "south")]).unwrap();
        assert_eq!(settings.zone.as_deref(), Some("south"));
        assert_eq!(settings.weight, Some(7));
        assert_eq!(settings.tags["colour"], "blue");
        std::fs::write(&path, "colour = 1\n").unwrap();
        assert!(
            from(&[("RSF_CONFIG", path.to_str().unwrap())])
                .unwrap_err()
                .problems[0]
                .contains("colour")
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
