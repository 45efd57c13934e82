//! Where one Redis server is, and as whom to speak to it.

use std::fmt;

use percent_encoding::percent_decode_str;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError};

use super::DEAD_PEER;
use crate::StoreError;
use crate::limits::check_address;

/// What a part of a URL should look like, for messages.
pub(crate) const FORM: &str = "redis://[user:password@]host:port[/db]";

/// `redis://[user:password@]host:port[/db]`.
///
/// User and password may be percent-encoded, and must be where they hold `,`, `/`, `?`, `@` or `%`. `Display` and
/// `Debug` leave both out.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    address: String,
    user: Option<String>,
    password: Option<String>,
    database: u16,
}

impl RedisUrl {
    /// Reads the part of a URL behind `redis://`.
    ///
    /// # Errors
    /// What is wrong with it, without credentials.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (credentials, location) = match text.rsplit_once('@') {
            Some((credentials, location)) => (Some(credentials), location),
            None => (None, text),
        };
        let (address, database) = location.split_once('/').unwrap_or((location, ""));
        check_address(address)?;
        let database = match database {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| format!("`/{}` is no Redis database number", number.escape_debug()))?,
        };
        let (user, password) = match credentials.map(|both| both.split_once(':').unwrap_or((both, ""))) {
            None => (None, None),
            Some((_, "")) => return Err("a user needs a password: write user:password@host:port".to_owned()),
            Some(("", password)) => (None, Some(decoded(password)?)),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
        };
        Ok(RedisUrl {
            address: address.to_owned(),
            user,
            password,
            database,
        })
    }

    /// Another server that is written without a scheme behind this one: what it does not say itself (user, password,
    /// database) is as here.
    ///
    /// # Errors
    /// What is wrong with it, without credentials.
    pub(crate) fn another(&self, text: &str) -> Result<Self, String> {
        let mut other = RedisUrl::parse(text)?;
        if other.password.is_none() {
            (other.user, other.password) = (self.user.clone(), self.password.clone());
        }
        if !text.contains('/') {
            other.database = self.database;
        }
        Ok(other)
    }

    /// Reads a list: a part without a scheme goes on with what was said before it.
    ///
    /// # Errors
    /// What is wrong with it, without credentials.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<RedisUrl>, String> {
        let mut servers = Vec::new();
        for part in text.split(',').map(str::trim) {
            let server = RedisUrl::behind(&servers, part)?;
            servers.push(server);
        }
        Ok(servers)
    }

    /// One more server of a list behind `others`.
    ///
    /// # Errors
    /// What is wrong with it, without credentials.
    pub(crate) fn behind(others: &[RedisUrl], part: &str) -> Result<RedisUrl, String> {
        let server = match (part.split_once("://"), others.last()) {
            (Some(("redis", rest)), _) => RedisUrl::parse(rest)?,
            (None, Some(before)) => before.another(part)?,
            _ => return Err(format!("write {FORM}[,host:port…]")),
        };
        if others.iter().any(|other| other.address == server.address) {
            return Err(format!("the Redis server {} is named twice", server.address));
        }
        Ok(server)
    }

    /// `host:port`, the name by which the fleet knows the server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client that connects when it is used.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the library does not take what was read here.
    pub(super) fn client(&self) -> Result<Client, StoreError> {
        let refused = |reason: String| StoreError::Refused {
            backend: "redis",
            reason: format!("{}: {reason}", self.address),
        };
        let unusable = |error: RedisError| {
            refused(format!(
                "its URL is not valid ({}); write {FORM}",
                error.category()
            ))
        };
        let (host, port) = self.address.rsplit_once(':').unwrap_or((&self.address, "6379"));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().unwrap_or(6379);
        let mut settings = RedisConnectionInfo::default().set_db(self.database.into());
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let address = ConnectionAddr::Tcp(host, port);
        let info = address.into_connection_info().map_err(unusable)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(DEAD_PEER);
        let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
        Client::open(info).map_err(unusable)
    }
}

fn decoded(text: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| "a percent-encoded part is no UTF-8".to_owned())
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://{}", self.address)?;
        match self.database {
            0 => Ok(()),
            database => write!(f, "/{database}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_server_does_not_say_is_as_in_the_first() {
        let first = RedisUrl::parse("order:s%2Cecret@r1:6379/2").unwrap();
        assert_eq!(first.password.as_deref(), Some("s,ecret"));
        let second = first.another("r2:6379").unwrap();
        let expected = RedisUrl {
            address: "r2:6379".to_owned(),
            ..first.clone()
        };
        assert_eq!(second, expected);
        let third = first.another(":other@r3:6379/0").unwrap();
        assert_eq!((third.user, third.password.as_deref()), (None, Some("other")));
        assert_eq!(third.database, 0);
    }

    #[test]
    fn bad_ones_say_why_and_keep_the_secret() {
        let cases = [
            ("r1", "port"),
            ("user@r1:1", "password"),
            ("u:secret@r1:1/x", "database"),
            ("u:%ffsecret@r1:1", "UTF-8"),
        ];
        for (text, reason) in cases {
            let error = RedisUrl::parse(text).expect_err(text);
            assert!(
                error.contains(reason) && !error.contains("secret"),
                "{text}: {error}"
            );
        }
    }
}
