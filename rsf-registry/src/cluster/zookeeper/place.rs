//! Where ZooKeeper is and who comes: `[user:password@]host:port[,host:port…][/chroot]`.

use std::fmt;

use crate::StoreError;
use crate::limits::check_address;

/// A ZooKeeper, as it was configured. `Display` and `Debug` leave out the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `host:port` of each server; at least one.
    pub(crate) hosts: Vec<String>,
    /// The path before all of RSF's, without an end `/`; empty where there is none.
    pub(crate) chroot: String,
    pub(crate) credentials: Option<Credentials>,
}

/// `user:password` of ZooKeeper's digest scheme.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials(String);

impl Credentials {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Place {
    /// Reads what stands behind `zk://`.
    pub(crate) fn parse(text: &str) -> Result<Self, StoreError> {
        let (credentials, rest) = match text.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, text),
        };
        let invalid = |what: String| StoreError::Refused {
            backend: "zookeeper",
            reason: format!("`{rest}` {what}; write zk://[user:password@]host:port[,host:port…][/chroot]"),
        };
        let (hosts, chroot) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        for host in &hosts {
            check_address(host).map_err(|reason| invalid(format!("names a server wrongly: {reason}")))?;
        }
        let chroot = chroot.trim_end_matches('/');
        if !is_path(chroot) {
            return Err(invalid(format!(
                "has the chroot `{chroot}`, which is no ZooKeeper path"
            )));
        }
        let complete = |text: &&str| {
            text.split_once(':')
                .is_some_and(|(user, password)| !user.is_empty() && !password.is_empty())
        };
        if credentials.is_some_and(|text| !complete(&text)) {
            return Err(invalid("has no user:password before the `@`".to_owned()));
        }
        Ok(Place {
            hosts,
            chroot: chroot.to_owned(),
            credentials: credentials.map(|text| Credentials(text.to_owned())),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.hosts.join(","), self.chroot)
    }
}

fn is_path(chroot: &str) -> bool {
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | ".." | "zookeeper") && segment.chars().all(|c| c.is_ascii_graphic())
    };
    chroot.is_empty()
        || chroot
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_a_chroot_and_credentials() {
        let place = Place::parse("pump:a@b:c@z1:2181, z2:2181,[::1]:2181/site/a/").expect("good");
        assert_eq!(place.hosts, ["z1:2181", "z2:2181", "[::1]:2181"]);
        assert_eq!(place.chroot, "/site/a");
        assert_eq!(
            place.credentials.as_ref().map(Credentials::expose),
            Some("pump:a@b:c")
        );
        assert_eq!(place.to_string(), "z1:2181,z2:2181,[::1]:2181/site/a");
        assert!(!format!("{place:?}").contains("a@b"), "{place:?}");
        let plain = Place::parse("127.0.0.1:1/").expect("good");
        assert_eq!((plain.chroot.as_str(), plain.credentials), ("", None));
    }

    #[test]
    fn mistakes_say_what_to_write_and_no_password() {
        for bad in [
            "",
            "z1",
            "z1:0",
            "u:secret@z1",
            "u@z1:1",
            ":secret@z1:1",
            "z1:1//a",
            "z1:1/a/../b",
            "z1:1/a b",
            "z1:1,u:secret@z2",
        ] {
            let error = Place::parse(bad).expect_err(bad).to_string();
            assert!(
                error.contains("zk://") && !error.contains("secret"),
                "{bad}: {error}"
            );
        }
    }
}
