//! Where one Redis server is, and as whom to speak to it.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsCertificates,
};

use super::DEAD_PEER;
use crate::StoreError;
use crate::limits::check_address;

/// What a part of a URL should look like, for messages.
pub(crate) const FORM: &str = "redis[s]://[user:password@]host:port[/db]";

/// `redis://[user:password@]host:port[/db]`, or with TLS `rediss://…[?ca=<file>][&cert=<file>&key=<file>]`.
///
/// User and password may be percent-encoded, and must be where they hold `,`, `/`, `?`, `@` or `%`. `Display` and
/// `Debug` leave both out.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    address: String,
    user: Option<String>,
    password: Option<String>,
    database: u16,
    tls: Option<Tls>,
}

/// The files that TLS needs, in PEM. They are read when a store is opened.
#[derive(Clone, Default, PartialEq, Eq)]
struct Tls {
    /// Who signed the server's certificate; those that the machine trusts, where it is not named.
    ca: Option<PathBuf>,
    /// This client's certificate and key, for servers that ask for one (`tls-auth-clients yes`, Redis' default).
    certificate: Option<(PathBuf, PathBuf)>,
}

impl RedisUrl {
    /// Reads the part of a URL behind `redis://`, or with `tls` behind `rediss://`.
    ///
    /// # Errors
    /// What is wrong with it, without credentials.
    pub(crate) fn parse(tls: bool, text: &str) -> Result<Self, String> {
        let (main, options) = text.split_once('?').unwrap_or((text, ""));
        let (credentials, location) = match main.rsplit_once('@') {
            Some((credentials, location)) => (Some(credentials), location),
            None => (None, main),
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
        let tls = match (tls, options) {
            (false, "") => None,
            (false, _) => return Err("the options behind `?` belong to TLS: write rediss://".to_owned()),
            (true, options) => Some(Tls::parse(options)?),
        };
        Ok(RedisUrl {
            address: address.to_owned(),
            user,
            password,
            database,
            tls,
        })
    }

    /// Another server that is written without a scheme behind this one: what it does not say itself (user, password,
    /// database, TLS) is as here.
    ///
    /// # Errors
    /// What is wrong with it, without credentials.
    pub(crate) fn another(&self, text: &str) -> Result<Self, String> {
        let mut other = RedisUrl::parse(self.tls.is_some(), text)?;
        if other.password.is_none() {
            (other.user, other.password) = (self.user.clone(), self.password.clone());
        }
        let (main, _) = text.split_once('?').unwrap_or((text, ""));
        if !main.contains('/') {
            other.database = self.database;
        }
        if !text.contains('?') {
            other.tls.clone_from(&self.tls);
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
            (Some((scheme @ ("redis" | "rediss"), rest)), _) => RedisUrl::parse(scheme == "rediss", rest)?,
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
    /// [`StoreError::Refused`] where a file of TLS cannot be read or used.
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
        let address = match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
        };
        let info = address.into_connection_info().map_err(unusable)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(DEAD_PEER);
        let info = info.set_tcp_settings(tcp).set_redis_settings(settings);
        match &self.tls {
            None => Client::open(info).map_err(unusable),
            Some(tls) => {
                let certificates = tls.read().map_err(refused)?;
                choose_provider();
                Client::build_with_tls(info, certificates).map_err(|error| {
                    refused(format!(
                        "the certificates that ?ca=, &cert= and &key= name are unusable ({error}); they must be PEM"
                    ))
                })
            }
        }
    }
}

impl Tls {
    fn parse(options: &str) -> Result<Self, String> {
        let (mut tls, mut cert, mut key) = (Tls::default(), None, None);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, path) = option.split_once('=').unwrap_or((option, ""));
            let slot = match name {
                "ca" => &mut tls.ca,
                "cert" => &mut cert,
                "key" => &mut key,
                other => {
                    return Err(format!(
                        "the option `{}` is not known; TLS takes ?ca=<file>&cert=<file>&key=<file>",
                        other.escape_debug()
                    ));
                }
            };
            if path.is_empty() {
                return Err(format!("the option `{name}` names no file"));
            }
            *slot = Some(PathBuf::from(decoded(path)?));
        }
        tls.certificate = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("`cert` and `key` go together: name both files".to_owned()),
        };
        Ok(tls)
    }

    fn read(&self) -> Result<TlsCertificates, String> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        // What holds none would be taken for an authority of nobody, and every server refused without a reason.
        let certificate = |path: &PathBuf| {
            let pem = read(path)?;
            let begin = b"-----BEGIN CERTIFICATE-----";
            match pem.windows(begin.len()).any(|window| window == begin) {
                true => Ok(pem),
                false => Err(format!("{} holds no certificate in PEM", path.display())),
            }
        };
        let client_tls = match &self.certificate {
            None => None,
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: certificate(cert)?,
                client_key: read(key)?,
            }),
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert: self.ca.as_ref().map(certificate).transpose()?,
        })
    }
}

/// Says which cryptography rustls uses, unless the process said so: with two in its tree it would panic.
fn choose_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster, and chose well too.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
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
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}", self.address)?;
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
        let first = RedisUrl::parse(true, "order:s%2Cecret@r1:6379/2?ca=/etc/ca.pem").unwrap();
        assert_eq!(first.password.as_deref(), Some("s,ecret"));
        let second = first.another("r2:6379").unwrap();
        let expected = RedisUrl {
            address: "r2:6379".to_owned(),
            ..first.clone()
        };
        assert!(second == expected, "{second}");
        let elsewhere = first.another("r2:6379?ca=/other.pem").unwrap();
        assert_eq!(elsewhere.database, 2, "the path of a file names no database");
        let third = first.another(":other@r3:6379/0?ca=/other.pem").unwrap();
        assert_eq!((third.user, third.password.as_deref()), (None, Some("other")));
        assert_eq!(third.database, 0);
        assert_eq!(third.tls.unwrap().ca, Some("/other.pem".into()));
    }

    #[test]
    fn bad_ones_say_why_and_keep_the_secret() {
        let cases = [
            (false, "r1", "port"),
            (false, "user@r1:1", "password"),
            (false, "u:secret@r1:1/x", "database"),
            (false, "u:secret@r1:1?ca=/ca.pem", "rediss"),
            (true, "u:secret@r1:1?verify=no", "`verify`"),
            (true, "u:secret@r1:1?ca=", "no file"),
            (true, "u:secret@r1:1?cert=/c.pem", "together"),
            (true, "u:%ffsecret@r1:1", "UTF-8"),
        ];
        for (tls, text, reason) in cases {
            let error = RedisUrl::parse(tls, text).expect_err(text);
            assert!(
                error.contains(reason) && !error.contains("secret"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let url = RedisUrl::parse(true, ":secret@r1:1?ca=/nowhere/ca.pem").unwrap();
        let error = url.client().expect_err("refused").to_string();
        assert!(
            error.contains("/nowhere/ca.pem") && !error.contains("secret"),
            "{error}"
        );
    }
}
