//! What a console is told at its start, checked with all errors at once.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rsf_registry::limits::check_namespace;
use serde::Deserialize;

use crate::model::Problem;

/// The settings as they stand in a file; every field has a default but the database.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSettings {
    /// `default` where it is missing.
    pub namespace: Option<String>,
    /// The SQLite file of policies and audit; its folder must exist.
    pub database: Option<PathBuf>,
    /// Names under which browsers may reach the console, without a port. `localhost` and IP addresses always may.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Milliseconds between two passes of the reconciler, 100 to 600 000; 3 000 by default.
    pub reconcile_interval_ms: Option<u64>,
    /// Milliseconds between two rounds of scrapes, 100 to 60 000; 1 000 by default.
    pub scrape_interval_ms: Option<u64>,
}

/// Valid settings.
#[derive(Debug, Clone)]
pub struct ConsoleConfig {
    pub(crate) namespace: String,
    pub(crate) database: PathBuf,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) reconcile_interval: Duration,
    pub(crate) scrape_interval: Duration,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the console's settings are wrong: {}", .0.iter().map(|problem| format!("{}: {}", problem.path, problem.problem)).collect::<Vec<_>>().join("; "))]
pub struct ConfigErrors(pub Vec<Problem>);

impl ConsoleSettings {
    /// Checks all fields, or returns everything that is wrong.
    pub fn validate(self) -> Result<ConsoleConfig, ConfigErrors> {
        let mut problems = Vec::new();
        let mut wrong = |path: &str, problem: String| {
            problems.push(Problem {
                path: path.to_owned(),
                problem,
            });
        };
        let namespace = self.namespace.unwrap_or_else(|| "default".to_owned());
        if let Err(error) = check_namespace(&namespace) {
            wrong("namespace", error.to_string());
        }
        let database = self.database.unwrap_or_default();
        if let Err(problem) = check_database(&database) {
            wrong("database", problem);
        }
        let mut allowed_hosts = Vec::new();
        for (index, host) in self.allowed_hosts.iter().enumerate() {
            let host_chars = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let valid = !host.is_empty() && host.len() <= 253 && host.chars().all(host_chars);
            if !valid {
                let text = format!("`{host}` is no host name; write it without scheme and port");
                wrong(&format!("allowed_hosts[{index}]"), text);
            }
            allowed_hosts.push(host.to_ascii_lowercase());
        }
        let mut interval = |path: &str, given: Option<u64>, default, least, most| {
            let ms = given.unwrap_or(default);
            if !(least..=most).contains(&ms) {
                wrong(path, format!("{ms} is not within {least} to {most} milliseconds"));
            }
            Duration::from_millis(ms)
        };
        let reconcile_interval = interval(
            "reconcile_interval_ms",
            self.reconcile_interval_ms,
            3000,
            100,
            600_000,
        );
        let scrape_interval = interval("scrape_interval_ms", self.scrape_interval_ms, 1000, 100, 60_000);
        if !problems.is_empty() {
            return Err(ConfigErrors(problems));
        }
        Ok(ConsoleConfig {
            namespace,
            database,
            allowed_hosts,
            reconcile_interval,
            scrape_interval,
        })
    }
}

fn check_database(database: &Path) -> Result<(), String> {
    if database.as_os_str().is_empty() {
        return Err("is missing; name the file that keeps policies and audit".to_owned());
    }
    if database.is_dir() {
        return Err(format!("{} is a folder; name a file", database.display()));
    }
    // A bare file name lies in the working folder.
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(format!(
            "its folder {} does not exist; create it",
            folder.display()
        )),
        _ => Ok(()),
    }
}

impl ConsoleConfig {
    /// Whether a browser may name this host. A rebound DNS name may not; an address cannot be rebound.
    pub(crate) fn allows_host(&self, authority: &str) -> bool {
        let host = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok()
            || self
                .allowed_hosts
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold() {
        let folder = tempfile::tempdir().unwrap();
        let settings = ConsoleSettings {
            database: Some(folder.path().join("console.db")),
            ..ConsoleSettings::default()
        };
        let config = settings.validate().unwrap();
        assert_eq!(config.namespace, "default");
        assert_eq!(config.scrape_interval, Duration::from_secs(1));
    }

    #[test]
    fn all_errors_come_at_once() {
        let settings = ConsoleSettings {
            namespace: Some("a b".to_owned()),
            database: Some("/does/not/exist/console.db".into()),
            allowed_hosts: vec!["ok.example".to_owned(), "http://x".to_owned()],
            reconcile_interval_ms: Some(1),
            scrape_interval_ms: Some(u64::MAX),
        };
        let errors = settings.validate().unwrap_err();
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "namespace",
                "database",
                "allowed_hosts[1]",
                "reconcile_interval_ms",
                "scrape_interval_ms"
            ]
        );
        assert_eq!(
            ConsoleSettings::default().validate().unwrap_err().0[0].path,
            "database"
        );
    }

    #[test]
    fn hosts() {
        let folder = tempfile::tempdir().unwrap();
        let settings = ConsoleSettings {
            database: Some(folder.path().join("console.db")),
            allowed_hosts: vec!["Console.example".to_owned()],
            ..ConsoleSettings::default()
        };
        let config = settings.validate().unwrap();
        for (authority, allowed) in [
            ("localhost:80", true),
            ("127.0.0.1:7700", true),
            ("[::1]:7700", true),
            ("10.1.2.3", true),
            ("console.example:443", true),
            ("evil.example:7700", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            assert_eq!(config.allows_host(authority), allowed, "{authority}");
        }
    }
}
