//! Leases, acknowledgements and consumers' reports in Redis: one connection for all requests to a server, another for the hints. Outcomes
//! of deduplicated calls, on a server of their own where one is named.

mod url;

mod lease;
mod renewals;

mod acknowledge;

mod report;

mod hints;
mod sweep;

mod rendezvous;

mod health;
mod servers;

mod dedup;

pub use dedup::RedisDedup;
pub use servers::RedisServers;
pub use url::RedisUrl;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, Pipeline, RedisError};

use crate::StoreError;
use crate::error::REQUEST_TIMEOUT;
use renewals::Renewals;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The code for what the user may not do. It stands in the reason of the refusal.
const DENIED: &str = "NOPERM";
/// Why a server that is part of a Redis Cluster is of no use.
const NO_CLUSTER: &str = "it is part of a Redis Cluster, which RSF does not use: name several independent servers \
    in RSF_REGISTRY (redis://a:6379,b:6379), which share the leases and take over for each other";
/// After this long without an acknowledgement by its kernel a server's machine counts as gone.
const DEAD_PEER: Duration = Duration::from_secs(10);

/// The leases and acknowledgements of one namespace in one Redis server (7.0 or later).
///
/// A lease is the string `rsf:<namespace>:lease:<instance>` with its TTL; see `lease.rs` for its bytes. The
/// acknowledgements of a scope are the hash `rsf:<namespace>:ack:<scope>`; see `acknowledge.rs`. What consumers report of an
/// instance is the hash `rsf:<namespace>:report:<instance>`; see `report.rs`.
#[derive(Clone)]
pub struct RedisLeases {
    client: Client,
    connection: ConnectionManager,
    scripts: Arc<Scripts>,
    renewals: Arc<Renewals>,
    /// `host:port`, never with credentials.
    address: String,
    /// `rsf:<namespace>:`, before every key.
    prefix: String,
    /// The source of the last sweep: [`crate::LeaseSource::read`] only believes that a lease is gone while it stands.
    swept: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for RedisLeases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLeases")
            .field("address", &self.address)
            .field("prefix", &self.prefix)
            .finish()
    }
}

struct Scripts {
    put: redis::Script,
    renew: redis::Script,
    remove: redis::Script,
    ready: redis::Script,
    acknowledge: redis::Script,
    forget: redis::Script,
    report: redis::Script,
}

impl RedisLeases {
    /// Prepares the store on one server; must be called inside a Tokio runtime.
    ///
    /// Connects with the first request, so that it returns at once whether or not the server is up;
    /// [`StoreError::Refused`] where a file of TLS cannot be used.
    pub(crate) fn open(url: &RedisUrl, namespace: &str) -> Result<Self, StoreError> {
        let Connected { client, connection } = connect(url)?;
        Ok(RedisLeases {
            client,
            connection,
            scripts: Arc::new(Scripts {
                put: redis::Script::new(lease::PUT),
                renew: redis::Script::new(renewals::RENEW),
                remove: redis::Script::new(lease::REMOVE),
                ready: redis::Script::new(lease::READY),
                acknowledge: redis::Script::new(acknowledge::ACKNOWLEDGE),
                forget: redis::Script::new(acknowledge::FORGET),
                report: redis::Script::new(report::REPORT),
            }),
            renewals: Arc::default(),
            address: url.address().to_owned(),
            prefix: format!("rsf:{namespace}:"),
            swept: Arc::default(),
        })
    }

    fn lease_prefix(&self) -> String {
        format!("{}lease:", self.prefix)
    }

    fn lease_key(&self, instance: &str) -> String {
        format!("{}lease:{instance}", self.prefix)
    }

    /// Runs the commands of a pipeline in one round trip; one that fails fails all.
    async fn query<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        self.in_time(pipeline.query_async(&mut connection)).await
    }

    /// Runs a script by its hash, loading it where the server does not know it.
    async fn invoke<T: redis::FromRedisValue>(
        &self,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        self.in_time(script.invoke_async(&mut connection)).await
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(result) => result.map_err(|error| self.store_error(error)),
            Err(_) => Err(self.unavailable(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        }
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable {
            backend: "redis",
            address: self.address.clone(),
            reason,
        }
    }

    /// What an error of the server or the connection means to the caller of a store.
    fn store_error(&self, error: RedisError) -> StoreError {
        let (code, detail) = code_and_detail(&error);
        let todo = match code.as_str() {
            "MISCONF" => {
                "it cannot save to disk: free disk space, or see its log and `stop-writes-on-bgsave-error`"
            }
            "OOM" => "it is full: raise `maxmemory` or remove other data",
            "READONLY" => "it is a replica: name the primary in RSF_REGISTRY",
            "NOAUTH" | "WRONGPASS" => "give a valid user and password in RSF_REGISTRY",
            DENIED => {
                "let the user do what an application, a pump or a console does: deploy/redis-users.conf has the rules"
            }
            "WRONGTYPE" => "another program writes keys under `rsf:`; give RSF a database of its own",
            "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" => NO_CLUSTER,
            "LOADING" | "BUSY" | "MASTERDOWN" | "TRYAGAIN" | "NOREPLICAS" => {
                return self.unavailable(format!("{code} {detail}"));
            }
            "" if error.kind() == ErrorKind::AuthenticationFailed => {
                "give a valid user and password in RSF_REGISTRY"
            }
            "" => return self.unavailable(error.to_string()),
            _ => "RSF needs Redis 7.0 or later",
        };
        StoreError::Refused {
            backend: "redis",
            reason: format!("{} answered {code} {detail}; {todo}", self.address),
        }
    }
}

/// A server's client and a connection that is made when it is used, and made again when it broke.
struct Connected {
    client: Client,
    connection: ConnectionManager,
}

fn connect(url: &RedisUrl) -> Result<Connected, StoreError> {
    let client = url.client()?;
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(REQUEST_TIMEOUT))
        // The callers try again by themselves; a request must not hide an outage behind retries of its own.
        .set_number_of_retries(0);
    let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)
        .map_err(|error| invalid_url(error.category().to_owned()))?;
    Ok(Connected { client, connection })
}

/// The URL itself may hold a password, so it is not repeated.
pub(crate) fn invalid_url(reason: String) -> StoreError {
    StoreError::Refused {
        backend: "redis",
        reason: format!("its URL is not valid ({reason}); write {}", url::FORM),
    }
}

/// The code that the server sent and what it said, also for a command inside a pipeline; empty for a broken connection.
fn code_and_detail(error: &RedisError) -> (String, String) {
    if let Some(code) = error.code() {
        return (code.to_owned(), error.detail().unwrap_or_default().to_owned());
    }
    match error.clone().into_server_errors() {
        Some(errors) if !errors.is_empty() => {
            let (_, first) = &errors[0];
            (
                first.code().to_owned(),
                first.details().unwrap_or_default().to_owned(),
            )
        }
        _ => (String::new(), String::new()),
    }
}
