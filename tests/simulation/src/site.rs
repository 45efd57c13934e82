//! The site: every process of it, how each starts and ends, and the servers they use.

mod instance;

mod consumer;
mod pump;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rsf_registry::record::{Acknowledgement, PolicyRecord};
use rsf_registry::{Acknowledgements, Observed, PolicyStore, StoreError, Watch};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::chance::Chance;
use crate::judge::Judge;
use crate::redis::Redis;
use crate::trace::Trace;
use crate::zookeeper::ZooKeeper;
pub(crate) use consumer::{Consumer, Disk};
pub(crate) use instance::Instance;
pub(crate) use pump::PumpProcess;

/// The namespace of the run.
const NAMESPACE: &str = "simulation";

/// Everything that runs.
pub(crate) struct Site {
    pub(crate) chance: Arc<Chance>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) judge: Arc<Judge>,
    pub(crate) redis: Arc<Redis>,
    pub(crate) zookeeper: Arc<ZooKeeper>,
    /// Service keys.
    pub(crate) services: Vec<String>,
    pub(crate) instances: Mutex<BTreeMap<String, Instance>>,
    pub(crate) consumers: Mutex<BTreeMap<String, Consumer>>,
    pub(crate) pumps: Mutex<BTreeMap<String, PumpProcess>>,
    /// How many instances and consumers there ever were.
    pub(crate) born: Mutex<u64>,
    /// How long rule R holds without evidence, milliseconds.
    pub(crate) hold_ms: u64,
    pub(crate) coalesce_ms: u64,
    pub(crate) folder: TempDir,
}

impl Site {
    /// The next number of an instance or consumer.
    pub(crate) fn next(&self) -> u64 {
        let mut born = self.born.lock();
        *born += 1;
        *born
    }
}

/// The parts of a backend that a run does not look at.
struct Nothing;

#[async_trait]
impl PolicyStore for Nothing {
    fn watch(&self, _scope: &str) -> Watch<PolicyRecord> {
        Watch::new(watch::channel(Observed::Absent).1, None)
    }

    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Acknowledgements for Nothing {
    async fn acknowledge(&self, _: &[Acknowledgement], _: std::time::Duration) -> Result<(), StoreError> {
        Ok(())
    }

    async fn acknowledged(&self, _: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl rsf_registry::ReportStore for Nothing {
    async fn report(
        &self,
        _: &[rsf_registry::record::Report],
        _: std::time::Duration,
    ) -> Result<usize, StoreError> {
        Ok(0)
    }
}

#[async_trait]
impl rsf_registry::Directory for Nothing {
    fn watch(&self, _: &str) -> Watch<rsf_registry::record::ServiceList> {
        Watch::new(watch::channel(Observed::Absent).1, None)
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}
