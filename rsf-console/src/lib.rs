//! RSF's console: the truth about policies, the governance API, live figures, and a plain web page.
//!
//! The path of one policy change, in order:
//!
//! 1. [`client`]: the command line and the page send it to the API, whole or as an [`edit()`].
//! 2. `api`: who asks is checked, then the document, with all its errors at once.
//! 3. [`history`]: it is recorded as an intent under the next revision number, in one SQLite file, append-only.
//! 4. [`publish`]: it goes to the policy store and is confirmed; the reconciler finishes what is cut off between, and
//!    publishes again what the store has lost.
//!
//! Beside it, [`fleet`] watches the directory and [`stats`] turns consecutive scrapes into live figures.
//!
//! This crate does not deliver policies to instances (that is the policy store's watch, in `rsf-registry`), does not
//! decide what a field means (that is `rsf_core::policy`), and keeps no long-term metrics (that is Prometheus).

pub mod config;
pub mod model;

pub mod client;
pub mod edit;

mod api;
mod auth;
mod page;

pub mod diff;
pub mod history;
pub mod publish;

pub mod fleet;
pub mod metrics;
pub mod stats;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rsf_registry::{Acknowledgements, Directory, LeaseSource, PolicyWriter};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::history::{History, HistoryError};
use crate::publish::Publisher;
use crate::stats::{HttpScraper, StatsCollector};

pub use auth::{Token, WeakToken};
pub use client::{ClientError, ConsoleClient};
pub use config::{ConfigErrors, ConsoleConfig, ConsoleSettings};
pub use edit::{EditError, edit};

/// How long requests under way may take to end once the console shuts down.
const DRAIN: Duration = Duration::from_secs(5);

/// What the console stands on.
#[derive(Clone)]
pub struct Parts {
    /// Where policies are published.
    pub policies: Arc<dyn PolicyWriter>,
    /// Where instances say what they run.
    pub acknowledgements: Arc<dyn Acknowledgements>,
    /// The services and their instances.
    pub directory: Arc<dyn Directory>,
    /// All instances, pure consumers included; without it the console knows only what the directory lists.
    pub leases: Vec<Arc<dyn LeaseSource>>,
    /// What the pump says of itself; without it `GET pump` answers 404.
    pub pump: Option<Arc<dyn PumpStatus>>,
}

/// Where the pump's status comes from.
#[async_trait]
pub trait PumpStatus: Send + Sync + 'static {
    /// The status as the pump gives it, or a sentence saying why there is none now.
    async fn status(&self) -> Result<serde_json::Value, String>;
}

/// A console that is ready to serve.
pub struct Console {
    config: Arc<ConsoleConfig>,
    token: Token,
    parts: Parts,
    publisher: Arc<Publisher>,
    fleet: Arc<Fleet>,
    stats: Arc<StatsCollector>,
}

/// Why a console cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Its database.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The HTTP client of the scrapes.
    #[error("cannot prepare to scrape instances")]
    Scraper(#[from] reqwest::Error),
}

impl Console {
    /// Opens the database. Requests must bring `token`.
    pub async fn new(config: ConsoleConfig, token: Token, parts: Parts) -> Result<Self, ConsoleError> {
        let history = History::open(&config.database, &config.namespace).await?;
        let fleet = Arc::new(Fleet::new(parts.directory.clone(), parts.leases.clone()));
        Ok(Console {
            publisher: Arc::new(Publisher::new(history, parts.policies.clone())),
            stats: Arc::new(StatsCollector::new(fleet.clone(), Arc::new(HttpScraper::new()?))),
            fleet,
            config: Arc::new(config),
            token,
            parts,
        })
    }

    /// Serves API and page on `listener`, reconciles and scrapes, until `shutdown`; then ends what is under way.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let port = listener.local_addr()?.port();
        // Whatever ends the server ends the loops beside it.
        let running = shutdown.child_token();
        let _end = running.clone().drop_guard();
        let reconciler = {
            let (publisher, running) = (self.publisher.clone(), running.clone());
            let interval = self.config.reconcile_interval;
            tokio::spawn(async move { publisher.run(interval, running).await })
        };
        let fleet = {
            let (fleet, running) = (self.fleet.clone(), running.clone());
            tokio::spawn(async move { fleet.run(running).await })
        };
        let scrapes = {
            let (stats, running) = (self.stats.clone(), running.clone());
            let interval = self.config.scrape_interval;
            tokio::spawn(async move { stats.run(interval, running).await })
        };
        let router = api::router(Arc::new(api::Shared::new(self, port)));
        let stop = running.clone();
        let server =
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
        let served = tokio::select! {
            served = server => served,
            () = async { running.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
        };
        running.cancel();
        let _ = tokio::join!(reconciler, fleet, scrapes);
        served
    }
}
