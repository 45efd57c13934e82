//! One consumer: a process that follows every service's list, with a disk of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rsf_core::control::ControlPlane;
use rsf_registry::{AgentOptions, Backend, RegistryAgent};
use tokio_util::task::AbortOnDropHandle;

use super::{NAMESPACE, Nothing, Site};
use crate::process::Process;
use crate::redis::RedisClient;
use crate::zookeeper::{Link, ZooKeeperClient};

/// A running consumer.
pub(crate) struct Consumer {
    pub(crate) process: Arc<Process>,
    pub(crate) link: Arc<Link>,
    _watching: Vec<AbortOnDropHandle<()>>,
    _agent: RegistryAgent,
}

/// What becomes of a consumer's disk when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Stays,
    Damaged,
    Lost,
}

impl Site {
    /// Starts a consumer, with what its disk holds.
    pub(crate) fn start_consumer(&self, name: &str) {
        let process = Process::start(name);
        let link = Link::open(&self.zookeeper, process.clone());
        let nothing = Arc::new(Nothing);
        let backend = Backend {
            leases: Arc::new(RedisClient::new(self.redis.clone(), process.clone())),
            directory: Arc::new(ZooKeeperClient::new(self.zookeeper.clone(), link.clone())),
            policies: nothing.clone(),
            acknowledgements: nothing.clone(),
            reports: nothing,
        };
        let options = AgentOptions {
            state: Some(self.disk(name)),
            ..AgentOptions::new(NAMESPACE, "simulated")
        };
        let agent = match RegistryAgent::new(backend, options) {
            Ok(agent) => agent,
            Err(error) => return self.judge.broken(format!("an agent cannot begin: {error}")),
        };
        self.judge.consumer_starts(name);
        let mut watching = Vec::new();
        for service in self.services.clone() {
            let mut seen = agent.instances(&service);
            let (judge, name) = (self.judge.clone(), name.to_owned());
            watching.push(AbortOnDropHandle::new(tokio::spawn(async move {
                while seen.changed().await.is_ok() {
                    let discovery = seen.borrow_and_update().clone();
                    judge.shown(&name, &service, &discovery);
                }
            })));
        }
        let consumer = Consumer {
            process,
            link,
            _watching: watching,
            _agent: agent,
        };
        self.consumers.lock().insert(name.to_owned(), consumer);
    }

    /// Kills a consumer.
    pub(crate) fn end_consumer(&self, name: &str, disk: Disk) {
        let Some(consumer) = self.consumers.lock().remove(name) else {
            return;
        };
        consumer.process.kill();
        self.judge.consumer_ends(name, disk);
        drop(consumer);
        let folder = self.disk(name);
        match disk {
            Disk::Stays => {}
            Disk::Damaged => self.damage(&folder),
            // A folder that is not there is lost already.
            Disk::Lost => drop(std::fs::remove_dir_all(folder)),
        }
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Flips a bit of every newest snapshot, or cuts it short.
    fn damage(&self, folder: &Path) {
        let lists = folder.join("snapshots").join(NAMESPACE).join("lists");
        let files = std::fs::read_dir(lists).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        files.sort();
        for file in files
            .iter()
            .filter(|file| file.extension().is_some_and(|end| end == "rsf"))
        {
            let Ok(mut bytes) = std::fs::read(file) else {
                continue;
            };
            let Some(last) = bytes.len().checked_sub(1) else {
                continue;
            };
            let place = self.chance.index(last);
            if self.chance.happens(30) {
                bytes.truncate(place);
            } else if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << self.chance.index(7);
            }
            if let Err(error) = std::fs::write(file, bytes) {
                self.judge.broken(format!("{}: {error}", file.display()));
            }
        }
    }
}
