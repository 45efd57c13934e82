//! Several independent servers as one store: a lease is on the first living one in its own order, and moves home when
//! that server is back.
//!
//! Nothing is replicated. A server that dies takes its share of the leases along, and their owners, who still have
//! them, put them on the next one with their next renewal. Meanwhile a lease may stand on two servers, in two versions:
//! readers believe the greater `(incarnation, sequence)`.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::health::Health;
use super::{DENIED, RedisLeases, rendezvous};
use crate::error::REQUEST_TIMEOUT;
use crate::record::{Acknowledgement, Lease, LeaseState, Report};
use crate::{Acknowledgements, LeaseStore, Renewal, ReportSource, ReportStore, Reported, StoreError, limits};

/// How long one of several servers may take before the next one is asked; less where a quarter of the TTL is less.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);

/// The leases, acknowledgements and reports of one namespace on several independent Redis servers.
pub struct RedisServers {
    servers: Vec<Server>,
    /// Instance → where its lease is, as this process wrote it.
    places: Mutex<HashMap<String, Place>>,
}

/// Where a record was written.
#[derive(Debug, Clone)]
struct Place {
    server: usize,
    /// Those before it whose users may not write it.
    denied: Vec<usize>,
}

struct Server {
    leases: RedisLeases,
    health: Health,
}

impl std::fmt::Debug for RedisServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.servers.iter().map(|server| &server.leases))
            .finish()
    }
}

#[async_trait]
impl LeaseStore for RedisServers {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        limits::check_lease(lease)?;
        limits::check_ttl(&lease.instance, ttl)?;
        let limit = limit(ttl);
        let (place, _) = self.write(&lease.instance, Record::Lease(lease), ttl).await?;
        let server = place.server;
        let before = match lease.state() {
            LeaseState::Deregistered => self.places.lock().remove(&lease.instance),
            _ => self.places.lock().insert(lease.instance.clone(), place),
        };
        if let Some(before) = before.filter(|before| before.server != server) {
            self.clear(before.server, lease, limit).await;
        }
        Ok(())
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        limits::check_ttl(instance, ttl)?;
        let place = self.places.lock().get(instance).cloned();
        let Some(place) = place.filter(|place| self.servers[place.server].health.is_up()) else {
            return Ok(Renewal::Unknown);
        };
        let limit = limit(ttl);
        let server = &self.servers[place.server];
        let renewed = server.ask(limit, server.leases.renew(instance, incarnation, ttl));
        // Side by side: the lease must not run out while a better server is looked at.
        let (renewed, home) = tokio::join!(renewed, self.better(instance, &place, limit));
        match renewed {
            // To be put again, for that is what moves it.
            Ok(_) if home => Ok(Renewal::Unknown),
            Ok(renewal) => Ok(renewal),
            // To be put again, on the next one.
            Err(error) if is_of_the_server(&error) || is_denied(&error) => Ok(Renewal::Unknown),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Acknowledgements for RedisServers {
    async fn acknowledge(
        &self,
        acknowledgements: &[Acknowledgement],
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let mut of_instances: HashMap<&str, Vec<Acknowledgement>> = HashMap::new();
        for acknowledgement in acknowledgements {
            of_instances
                .entry(&acknowledgement.instance)
                .or_default()
                .push(acknowledgement.clone());
        }
        for (instance, some) in of_instances {
            self.write(instance, Record::Acknowledgements(&some), ttl).await?;
        }
        Ok(())
    }

    /// Of all servers that answer. What stood on one that does not is said anew on another with the next renewal.
    async fn acknowledged(&self, scope: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        let read = self
            .servers
            .iter()
            .map(|server| server.leases.acknowledged(scope));
        let mut newest: HashMap<String, Acknowledgement> = HashMap::new();
        let mut failed = None;
        let mut answered = false;
        for result in join_all(read).await {
            match result {
                Ok(some) => {
                    answered = true;
                    for one in some {
                        let order = |one: &Acknowledgement| (one.incarnation, one.at_unix_ms, one.revision);
                        match newest.get(&one.instance) {
                            Some(held) if order(held) >= order(&one) => {}
                            _ => drop(newest.insert(one.instance.clone(), one)),
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(scope, %error, "the acknowledgements of one Redis server are left out");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(newest.into_values().collect()),
        }
    }

    /// They stand on the server that has the instance's lease, and move with it.
    fn lost_with_leases(&self) -> bool {
        true
    }
}

#[async_trait]
impl ReportStore for RedisServers {
    /// On the reporter's server: one request, whomever it reports on.
    async fn report(&self, reports: &[Report], ttl: Duration) -> Result<usize, StoreError> {
        let Some(first) = reports.first() else {
            return Ok(0);
        };
        let written = self.write(&first.reporter, Record::Reports(reports), ttl).await;
        written.map(|(_, kept)| kept)
    }
}

#[async_trait]
impl ReportSource for RedisServers {
    /// Of all servers that answer.
    async fn reports(&self, instances: &[String]) -> Result<Reported, StoreError> {
        let read = self.servers.iter().map(|server| server.leases.reports(instances));
        let (mut all, mut answered, mut failed) = (Reported::default(), false, None);
        for result in join_all(read).await {
            match result {
                Ok(reported) => {
                    answered = true;
                    all.reports.extend(reported.reports);
                    all.ill_formed += reported.ill_formed;
                }
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(all),
        }
    }
}

impl RedisServers {
    /// One store over these; there must be one at least.
    pub(crate) fn new(servers: Vec<RedisLeases>) -> Self {
        let server = |leases| Server {
            leases,
            health: Health::default(),
        };
        RedisServers {
            servers: servers.into_iter().map(server).collect(),
            places: Mutex::default(),
        }
    }

    fn order(&self, instance: &str) -> Vec<usize> {
        let addresses = self.servers.iter().map(|server| server.leases.address.as_str());
        rendezvous::order(addresses, instance)
    }

    /// Writes to the first server in the instance's order that takes it; those that failed before are asked only after
    /// all others. One that denies it is passed over, and is as well as before. Answers which one it is, and how much of it
    /// that one keeps.
    async fn write(
        &self,
        instance: &str,
        record: Record<'_>,
        ttl: Duration,
    ) -> Result<(Place, usize), StoreError> {
        let (up, down): (Vec<usize>, Vec<usize>) = self
            .order(instance)
            .into_iter()
            .partition(|at| self.servers[*at].health.is_up());
        let end = Instant::now() + REQUEST_TIMEOUT;
        let (mut first_error, mut first_denial) = (None, None);
        let mut denied = Vec::new();
        for at in up.into_iter().chain(down) {
            let limit = limit(ttl).min(end.saturating_duration_since(Instant::now()));
            if limit.is_zero() {
                break;
            }
            let server = &self.servers[at];
            match server.ask(limit, record.write(&server.leases, ttl)).await {
                Ok(kept) => return Ok((Place { server: at, denied }, kept)),
                Err(error) if is_of_the_server(&error) => {
                    first_error.get_or_insert(error);
                }
                Err(error) if is_denied(&error) => {
                    denied.push(at);
                    first_denial.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        // A denial stands only where all deny it: one that did not answer may take it.
        Err(first_error
            .or(first_denial)
            .unwrap_or_else(|| StoreError::Unavailable {
                backend: "redis",
                address: "all servers".to_owned(),
                reason: format!("none answered within {REQUEST_TIMEOUT:?}"),
            }))
    }

    /// Whether a server that stands before `place` in the instance's order would take its lease. One that was down is
    /// asked for that when its pause is over, one that denied it each time.
    async fn better(&self, instance: &str, place: &Place, limit: Duration) -> bool {
        for at in self.order(instance) {
            if at == place.server {
                break;
            }
            let server = &self.servers[at];
            let (up, denied) = (server.health.is_up(), place.denied.contains(&at));
            if up && !denied {
                return true;
            }
            if (up || server.health.take_trial())
                && server.ask(limit, server.leases.ready(instance)).await.is_ok()
            {
                return true;
            }
        }
        false
    }

    /// Removes what stands on a server that the lease has left. Where that fails it ends by its TTL.
    async fn clear(&self, place: usize, lease: &Lease, limit: Duration) {
        let server = &self.servers[place];
        if !server.health.is_up() {
            return;
        }
        let removed = server.ask(limit, server.leases.remove(lease)).await;
        if let Err(error) = removed {
            tracing::debug!(instance = lease.instance, %error, "a moved lease runs out where it was");
        }
    }
}

/// What is written to one server.
#[derive(Clone, Copy)]
enum Record<'a> {
    Lease(&'a Lease),
    Acknowledgements(&'a [Acknowledgement]),
    Reports(&'a [Report]),
}

impl Record<'_> {
    /// Answers how many records the server keeps.
    async fn write(self, server: &RedisLeases, ttl: Duration) -> Result<usize, StoreError> {
        match self {
            Record::Lease(lease) => server.put(lease, ttl).await.map(|()| 1),
            Record::Acknowledgements(some) => server.acknowledge(some, ttl).await.map(|()| some.len()),
            Record::Reports(some) => server.report(some, ttl).await,
        }
    }
}

impl Server {
    /// Asks it within `limit`, and notes whether it is up.
    async fn ask<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = match timeout(limit, request).await {
            Ok(answer) => answer,
            Err(_) => Err(self.leases.unavailable(format!("no answer within {limit:?}"))),
        };
        let redis = &self.leases.address;
        match &answer {
            Err(error) if is_of_the_server(error) => {
                if self.health.failed() {
                    tracing::warn!(redis, %error, "a Redis server does not take leases; the next one does");
                }
            }
            // It answers, but whether it would take another's lease is not known.
            Err(error) if is_denied(error) => {}
            _ => {
                if self.health.succeeded() {
                    tracing::info!(redis, "a Redis server takes leases again");
                }
            }
        }
        answer
    }
}

/// Whether the server failed, and would have failed others too.
fn is_of_the_server(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable { .. } => true,
        StoreError::Refused { .. } => !is_denied(error),
        _ => false,
    }
}

/// Whether the user may not do this. That says nothing of the server: other instances of this process may belong to other
/// applications.
fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { reason, .. } if reason.contains(DENIED))
}

fn limit(ttl: Duration) -> Duration {
    SERVER_TIMEOUT.min(ttl / 4)
}
