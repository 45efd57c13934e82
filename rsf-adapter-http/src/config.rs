//! The adapter's configuration: settings as they are written, and the validated form that the adapter runs with.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

/// The configuration as a file or flags give it; every field has a default. [`AdapterSettings::validate`] it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSettings {
    /// `ip:port` to listen on; port 0 takes a free one. Default `127.0.0.1:8080`.
    pub listen: String,
    /// A path before every route (`/rpc`); empty for none, which is the default.
    pub prefix: String,
    /// Connections at most, 1 to 1 000 000; one more is answered 503 and closed. Default 4 096.
    pub max_connections: usize,
    /// Requests under way at most, 1 to 1 000 000; one more is answered 503. Default 1 024.
    pub max_requests: usize,
    /// Bytes of a request body after decompression, 1 KiB to 64 MiB. Default 4 MiB.
    pub max_body_bytes: usize,
    /// Bytes of a request's headers, 8 KiB to 1 MiB. Default 16 KiB.
    pub max_header_bytes: usize,
    /// Objects and arrays inside each other in a JSON body, 1 to 100. Default 32.
    pub max_json_depth: usize,
    /// Milliseconds in which a request's headers must have come, 100 to 600 000. Default 10 000.
    pub header_read_timeout_ms: u64,
    /// Milliseconds in which a request's body must have come, 100 to 600 000. Default 30 000.
    pub body_read_timeout_ms: u64,
    /// Milliseconds that a call may take, whatever `Connect-Timeout-Ms` asks for, 1 to 3 600 000. Default: no bound
    /// of the adapter's own; the policy's timeout holds.
    pub max_timeout_ms: Option<u64>,
    /// Milliseconds that running requests get at the end, 0 to 600 000. Default 30 000.
    pub drain_timeout_ms: u64,
    /// Passes over JSON fields that the schema does not know, instead of refusing them. Default false.
    pub ignore_unknown_fields: bool,
    /// Writes fields that hold their default value, instead of omitting them. Default false.
    pub write_defaults: bool,
    /// Passes `Cookie` on as metadata and `set-cookie` back. Default false.
    pub forward_cookies: bool,
    /// Refuses calls without an `Idempotency-Key` to methods that declare `dedup`. Default false.
    pub require_idempotency_key: bool,
    /// Refuses calls without `Authorization: Bearer <application token>`; needs trusted keys. Default false.
    pub require_token: bool,
}

impl Default for AdapterSettings {
    fn default() -> Self {
        AdapterSettings {
            listen: "127.0.0.1:8080".to_owned(),
            prefix: String::new(),
            max_connections: 4_096,
            max_requests: 1_024,
            max_body_bytes: 4 * 1024 * 1024,
            max_header_bytes: 16 * 1024,
            max_json_depth: 32,
            header_read_timeout_ms: 10_000,
            body_read_timeout_ms: 30_000,
            max_timeout_ms: None,
            drain_timeout_ms: 30_000,
            ignore_unknown_fields: false,
            write_defaults: false,
            forward_cookies: false,
            require_idempotency_key: false,
            require_token: false,
        }
    }
}

/// The validated configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    listen: SocketAddr,
    pub(crate) prefix: String,
    pub(crate) max_connections: usize,
    pub(crate) max_requests: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_header_bytes: usize,
    pub(crate) max_json_depth: usize,
    pub(crate) header_read_timeout: Duration,
    pub(crate) body_read_timeout: Duration,
    pub(crate) max_timeout: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    pub(crate) ignore_unknown_fields: bool,
    pub(crate) write_defaults: bool,
    pub(crate) forward_cookies: bool,
    pub(crate) require_idempotency_key: bool,
    pub(crate) require_token: bool,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    /// One sentence a setting.
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ConfigErrors {}

impl AdapterSettings {
    /// Checks every setting and reports all that are wrong at once.
    pub fn validate(self) -> Result<AdapterConfig, ConfigErrors> {
        let mut problems = Vec::new();
        let listen = self.listen.parse::<SocketAddr>().unwrap_or_else(|_| {
            let listen = &self.listen;
            problems.push(format!(
                "listen: `{listen}` is no ip:port; write for example `127.0.0.1:8080`"
            ));
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        if !is_prefix(&self.prefix) {
            let prefix = &self.prefix;
            problems.push(format!(
                "prefix: `{prefix}` is no path; write for example `/rpc`, or nothing"
            ));
        }
        let mut within = |name: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{name}: {value} is not within {least} to {most}"));
            }
        };
        within("max_connections", self.max_connections as u64, 1, 1_000_000);
        within("max_requests", self.max_requests as u64, 1, 1_000_000);
        within(
            "max_body_bytes",
            self.max_body_bytes as u64,
            1_024,
            64 * 1024 * 1024,
        );
        within(
            "max_header_bytes",
            self.max_header_bytes as u64,
            8 * 1024,
            1024 * 1024,
        );
        within("max_json_depth", self.max_json_depth as u64, 1, 100);
        within(
            "header_read_timeout_ms",
            self.header_read_timeout_ms,
            100,
            600_000,
        );
        within("body_read_timeout_ms", self.body_read_timeout_ms, 100, 600_000);
        within("max_timeout_ms", self.max_timeout_ms.unwrap_or(1), 1, 3_600_000);
        within("drain_timeout_ms", self.drain_timeout_ms, 0, 600_000);
        if !problems.is_empty() {
            return Err(ConfigErrors(problems));
        }
        Ok(AdapterConfig {
            listen,
            prefix: self.prefix.trim_end_matches('/').to_owned(),
            max_connections: self.max_connections,
            max_requests: self.max_requests,
            max_body_bytes: self.max_body_bytes,
            max_header_bytes: self.max_header_bytes,
            max_json_depth: self.max_json_depth,
            header_read_timeout: Duration::from_millis(self.header_read_timeout_ms),
            body_read_timeout: Duration::from_millis(self.body_read_timeout_ms),
            max_timeout: self.max_timeout_ms.map(Duration::from_millis),
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
            ignore_unknown_fields: self.ignore_unknown_fields,
            write_defaults: self.write_defaults,
            forward_cookies: self.forward_cookies,
            require_idempotency_key: self.require_idempotency_key,
            require_token: self.require_token,
        })
    }
}

impl AdapterConfig {
    /// Whether calls without a caller's token are refused.
    pub fn requires_token(&self) -> bool {
        self.require_token
    }

    /// Where to listen.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The path before every route, without a slash at its end; empty for none.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

fn is_prefix(prefix: &str) -> bool {
    let segment = |segment: &str| {
        !segment.is_empty()
            && segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~'))
    };
    match prefix.trim_end_matches('/').strip_prefix('/') {
        Some(path) => path.split('/').all(segment),
        None => prefix.is_empty() || prefix == "/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let settings = AdapterSettings {
            listen: "nowhere".to_owned(),
            prefix: "rpc".to_owned(),
            max_json_depth: 0,
            max_body_bytes: 1 << 40,
            max_timeout_ms: Some(0),
            ..AdapterSettings::default()
        };
        let errors = settings.validate().unwrap_err();
        let named: Vec<_> = errors
            .problems()
            .iter()
            .filter_map(|problem| problem.split(':').next())
            .collect();
        assert_eq!(
            named,
            [
                "listen",
                "prefix",
                "max_body_bytes",
                "max_json_depth",
                "max_timeout_ms"
            ]
        );
    }

    #[test]
    fn defaults_are_valid_and_prefixes_are_normal() {
        for (written, normal) in [("", ""), ("/", ""), ("/rpc", "/rpc"), ("/a/b/", "/a/b")] {
            let settings = AdapterSettings {
                prefix: written.to_owned(),
                ..AdapterSettings::default()
            };
            assert_eq!(settings.validate().unwrap().prefix(), normal);
        }
        for wrong in ["rpc", "//", "/a//b", "/a b", "/%2f"] {
            let settings = AdapterSettings {
                prefix: wrong.to_owned(),
                ..AdapterSettings::default()
            };
            assert!(settings.validate().is_err(), "{wrong}");
        }
    }
}
