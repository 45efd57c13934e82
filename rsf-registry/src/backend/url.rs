//! Where the registry is: the value of `RSF_REGISTRY`.

use std::fmt;
use std::str::FromStr;

use crate::StoreError;
use crate::cluster::{Place, RedisUrl};
use crate::limits::check_address;

/// A valid value of `RSF_REGISTRY`. `Display` and `Debug` leave out credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryUrl {
    /// `rsf://[token@]host:port`
    Embedded {
        /// `host:port`
        address: String,
        /// What the registry asks for; `rsf dev` leaves it in the state folder.
        token: Option<String>,
    },
    /// `redis[s]://[user:password@]host:port[/db][,host:port…],zk://[user:password@]host:port[,host:port…][/chroot]`
    Cluster {
        /// Each Redis server; at least one, no two with one address.
        redis: Vec<RedisUrl>,
        /// `host:port` of each ZooKeeper server, at least one; before the first `user:password@` and behind the last a
        /// `/chroot`, where they are given.
        zookeeper: Vec<String>,
    },
}

/// A text that says of no registry where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "registry `{given}`: {reason}; set RSF_REGISTRY to rsf://host:port, or to redis://host:port[,host:port],zk://host:port[,host:port]"
)]
pub struct InvalidRegistryUrl {
    given: String,
    reason: String,
}

impl FromStr for RegistryUrl {
    type Err = InvalidRegistryUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRegistryUrl> {
        parse(text).map_err(|reason| InvalidRegistryUrl {
            given: without_credentials(text).escape_debug().to_string(),
            reason,
        })
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegistryUrl::Embedded { address, .. } => write!(f, "rsf://{address}"),
            RegistryUrl::Cluster { redis, zookeeper } => {
                let redis: Vec<String> = redis.iter().map(RedisUrl::to_string).collect();
                let zookeeper = zookeeper.join(",");
                let zookeeper = zookeeper
                    .rsplit_once('@')
                    .map_or(&*zookeeper, |(_, servers)| servers);
                write!(f, "{},zk://{zookeeper}", redis.join(","))
            }
        }
    }
}

impl fmt::Debug for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryUrl({self})")
    }
}

fn parse(text: &str) -> Result<RegistryUrl, String> {
    let (mut embedded, mut redis, mut zookeeper) = (Vec::new(), Vec::new(), Vec::new());
    // A part without a scheme goes on with the scheme before it.
    let mut scheme = None;
    for part in text.split(',').map(str::trim) {
        let rest = match part.split_once("://") {
            Some((named, rest)) => {
                scheme = Some(named);
                rest
            }
            None => part,
        };
        match scheme {
            Some("rsf") => embedded.push(guarded_address(rest)?),
            Some("redis" | "rediss") => redis.push(RedisUrl::behind(&redis, part)?),
            Some(other @ ("redis+sentinel" | "redis-sentinel" | "sentinel" | "redis+cluster")) => {
                return Err(format!(
                    "`{other}` is not supported: name the servers themselves, redis://host:port,host:port, each of \
                     which takes over for another without it"
                ));
            }
            Some("zk") => zookeeper.push(rest.to_owned()),
            Some(other) => return Err(format!("the scheme `{other}` is not known")),
            None if text.trim().is_empty() => return Err("it is empty".to_owned()),
            None => return Err("it has no scheme".to_owned()),
        }
    }
    if !zookeeper.is_empty() {
        zookeeper = zookeeper_servers(&zookeeper.join(","))?;
    }
    match (&mut embedded[..], redis.is_empty(), zookeeper.is_empty()) {
        ([(address, token)], true, true) => Ok(RegistryUrl::Embedded {
            address: std::mem::take(address),
            token: token.take(),
        }),
        ([], false, false) => Ok(RegistryUrl::Cluster { redis, zookeeper }),
        ([], false, true) => {
            Err("redis:// keeps the leases only; zk:// for the directory is missing".to_owned())
        }
        ([], true, _) => Err("zk:// keeps the directory only; redis:// for the leases is missing".to_owned()),
        ([_, _, ..], true, true) => {
            Err("an embedded registry is one server, and several are named".to_owned())
        }
        _ => Err("rsf:// is a whole registry and goes with neither redis:// nor zk://".to_owned()),
    }
}

/// `[token@]host:port`; a token is visible ASCII without `@` and `,`.
fn guarded_address(text: &str) -> Result<(String, Option<String>), String> {
    let (token, address) = match text.rsplit_once('@') {
        Some((token, address)) => (Some(token), address),
        None => (None, text),
    };
    if token.is_some_and(|token| token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic())) {
        return Err("the token before the `@` is empty or no visible ASCII".to_owned());
    }
    Ok((plain_address(address)?, token.map(str::to_owned)))
}

/// The servers, the first with the credentials and the last with the chroot, if there are any.
fn zookeeper_servers(text: &str) -> Result<Vec<String>, String> {
    Place::parse(text).map_err(|error| match error {
        StoreError::Refused { reason, .. } => reason,
        other => other.to_string(),
    })?;
    // A password may hold a comma.
    let (credentials, rest) = match text.rfind('@') {
        Some(at) => text.split_at(at + 1),
        None => ("", text),
    };
    let mut servers: Vec<String> = rest.split(',').map(|server| server.trim().to_owned()).collect();
    servers[0] = format!("{credentials}{}", servers[0]);
    Ok(servers)
}

fn plain_address(text: &str) -> Result<String, String> {
    let address = text.strip_suffix('/').unwrap_or(text);
    if address.contains('@') {
        return Err("rsf:// takes a token before the `@`, and no more than one".to_owned());
    }
    check_address(address).map(|()| address.to_owned())
}

/// A URL, or a list of them, without anything that may be a part of a credential: of what stands behind a `://`, only
/// what follows the last `@` is left. A password may hold anything, a comma too.
pub(super) fn without_credentials(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((scheme, behind)) = rest.split_once("://") {
        let next = behind.find("://").map_or(behind.len(), |next| {
            behind[..next].rfind(',').map_or(next, |comma| comma + 1)
        });
        let (part, later) = behind.split_at(next);
        shown.push_str(scheme);
        shown.push_str("://");
        shown.push_str(part.rsplit_once('@').map_or(part, |(_, location)| location));
        rest = later;
    }
    shown.push_str(rest.rsplit_once('@').map_or(rest, |(_, location)| location));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good() {
        let embedded: RegistryUrl = "rsf://127.0.0.1:7000".parse().expect("embedded");
        assert_eq!(
            embedded,
            RegistryUrl::Embedded {
                address: "127.0.0.1:7000".into(),
                token: None,
            }
        );
        let guarded: RegistryUrl = "rsf://secret@127.0.0.1:7000".parse().expect("guarded");
        assert!(matches!(&guarded, RegistryUrl::Embedded { token: Some(token), .. } if token == "secret"));
        assert_eq!(guarded.to_string(), "rsf://127.0.0.1:7000");
        let cluster: RegistryUrl = "redis://u:secret@r1:6379/2,r2:6379,zk://z1:2181,z2:2181,zk://[::1]:2181"
            .parse()
            .expect("cluster");
        let RegistryUrl::Cluster { redis, zookeeper } = &cluster else {
            panic!("{cluster}")
        };
        assert_eq!(
            redis.iter().map(RedisUrl::address).collect::<Vec<_>>(),
            ["r1:6379", "r2:6379"]
        );
        assert_eq!(zookeeper, &["z1:2181", "z2:2181", "[::1]:2181"]);
        assert_eq!(
            cluster.to_string(),
            "redis://r1:6379/2,redis://r2:6379/2,zk://z1:2181,z2:2181,[::1]:2181"
        );
        assert!(!format!("{cluster:?}").contains("secret"));
        let guarded: RegistryUrl = "redis://r1:6379,zk://pump:secret@z1:2181,z2:2181/site"
            .parse()
            .expect("guarded");
        assert!(
            matches!(&guarded, RegistryUrl::Cluster { zookeeper, .. } if *zookeeper == ["pump:secret@z1:2181", "z2:2181/site"])
        );
        assert_eq!(guarded.to_string(), "redis://r1:6379,zk://z1:2181,z2:2181/site");
        assert_eq!(embedded.to_string().parse(), Ok(embedded));
    }

    #[test]
    fn bad_ones_say_what_to_write() {
        let cases = [
            ("", "empty"),
            ("127.0.0.1:7000", "no scheme"),
            ("http://a:1", "`http`"),
            ("rsf://a", "no port"),
            ("rsf://@a:1", "token"),
            ("rsf://a:1,b:1", "several"),
            ("rsf://a:1,zk://b:1", "whole registry"),
            ("redis://a:1", "zk:// for the directory"),
            ("zk://a:1", "redis:// for the leases"),
            ("redis://a:1/x,zk://b:1", "database"),
            ("redis://a:1,zk://u@b:1", "user:password"),
            ("redis://a:1,zk://b:1//x", "chroot"),
            ("redis://u:secret@:1,zk://b:1", "no host"),
            ("redis://u:sec,secret@a:1,zk://b:1", "address"),
            ("redis://u:secret@a:1,b:1,a:1,zk://b:1", "twice"),
            ("rediss://a:1?x=1,zk://b:1", "`x`"),
            ("redis+sentinel://a:1,zk://b:1", "name the servers themselves"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<RegistryUrl>().expect_err(text).to_string();
            assert!(
                error.contains(reason) && error.contains("rsf://host:port"),
                "{text}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
