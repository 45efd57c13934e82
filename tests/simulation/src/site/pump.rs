//! One pump: the real one, in a process that can be stopped, killed and made to stand still.

use std::sync::Arc;

use prometheus::Registry;
use rsf_pump::{Pump, PumpHandle, PumpSettings, Role};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::Site;
use crate::judge::{Judge, Writer};
use crate::process::{Main, Process};
use crate::redis::RedisClient;
use crate::zookeeper::{Link, ZooKeeperClient};

/// A running pump.
pub(crate) struct PumpProcess {
    pub(crate) process: Arc<Process>,
    pub(crate) link: Arc<Link>,
    shutdown: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Site {
    /// Starts a pump, with the state file of its name.
    pub(crate) fn start_pump(&self, name: &str) {
        self.judge.pump_starts(name);
        let process = Process::start(name);
        let link = Link::open(&self.zookeeper, process.clone());
        let settings = PumpSettings {
            pump: name.to_owned(),
            state_file: Some(self.folder.path().join(format!("{name}.state"))),
            shrink_hold_ms: self.hold_ms,
            coalesce_ms: self.coalesce_ms,
            ..PumpSettings::default()
        };
        let config = match settings.validate() {
            Ok(config) => config,
            Err(error) => return self.judge.broken(error.to_string()),
        };
        let source = Arc::new(RedisClient::new(self.redis.clone(), process.clone()));
        let writer = Arc::new(ZooKeeperClient::new(self.zookeeper.clone(), link.clone()));
        let pump = match Pump::new(vec![source], writer, config, &Registry::new()) {
            Ok(pump) => pump,
            Err(error) => return self.judge.broken(error.to_string()),
        };
        let (handle, shutdown) = (pump.handle(), CancellationToken::new());
        let span = tracing::info_span!("process", name);
        let main = Main::new(process.clone(), pump.run(shutdown.clone()).instrument(span));
        tokio::spawn(note_roles(self.judge.clone(), process.start_of(), handle));
        let running = PumpProcess {
            process,
            link,
            shutdown,
            task: AbortOnDropHandle::new(tokio::spawn(main)),
        };
        self.pumps.lock().insert(name.to_owned(), running);
    }

    /// Kills a pump (SIGKILL).
    pub(crate) fn kill_pump(&self, name: &str) {
        if let Some(pump) = self.pumps.lock().remove(name) {
            self.trace.note(name, format_args!("is killed"));
            pump.process.kill();
        }
    }

    /// Ends a pump in good order (SIGTERM).
    pub(crate) fn stop_pump(self: &Arc<Self>, name: &str) {
        let Some(pump) = self.pumps.lock().remove(name) else {
            return;
        };
        self.trace.note(name, format_args!("stops"));
        pump.shutdown.cancel();
        let site = self.clone();
        tokio::spawn(async move {
            if pump.task.await.is_err() {
                site.judge.broken("a pump panicked".to_owned());
            }
            site.judge.pump_stopped(&pump.process.start_of());
            site.zookeeper.expire(&pump.link);
            pump.process.kill();
        });
    }

    /// Whether a pump has ended by itself.
    pub(crate) fn look_after_pumps(&self) {
        for (name, pump) in &*self.pumps.lock() {
            if pump.task.is_finished() {
                self.judge.broken(format!("{name} ended by itself"));
            }
        }
    }
}

/// Notes each change of a pump's role until it is gone.
async fn note_roles(judge: Arc<Judge>, pump: Writer, mut handle: PumpHandle) {
    let mut role = handle.status().role;
    while let Ok(status) = handle.wait_for(|status| status.role != role).await {
        role = status.role;
        let note = format_args!("is {role:?} in epoch {:?}", status.epoch);
        judge.trace.note(&pump.0, note);
        if role == Role::Leading {
            judge.leads(pump.clone());
        }
    }
}
