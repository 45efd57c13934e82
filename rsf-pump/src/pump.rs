//! The pump: one task that takes in what the sources say, folds it, and publishes while it leads.

mod lane;
mod pause;
mod running;

mod answers;
mod term;

mod report;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rsf_registry::directory::{ListOpener, ListSealer};
use rsf_registry::{DirectoryWriter, LeaseSource};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::PumpConfig;
use crate::evidence::{Evidence, Inquiry};
use crate::intake::{Intake, Intakes};
use crate::leader::Leader;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::state::StateFile;
use crate::status::{Command, PumpHandle, PumpStatus, Role};
use running::Running;

/// How old a status may be.
const REPORT: Duration = Duration::from_millis(500);
/// How often the state file takes in which list is the newest: a crash costs that much of it.
const SAVE: Duration = Duration::from_secs(3);

/// A pump of one namespace, ready to run.
pub struct Pump {
    sources: Vec<Arc<dyn LeaseSource>>,
    writer: Arc<dyn DirectoryWriter>,
    evidence: Vec<Arc<dyn Evidence>>,
    config: PumpConfig,
    sealer: ListSealer,
    opener: ListOpener,
    metrics: Metrics,
    status: watch::Sender<Arc<PumpStatus>>,
    commands: mpsc::Receiver<Command>,
    handle: PumpHandle,
}

impl Pump {
    /// A pump from all `sources` of a namespace to `writer`; its metrics go into `registry`, which must not have another
    /// pump's. Every pump of a namespace is given the same sources: one that is not named here counts as if it had
    /// nothing. Without any source the pump stays not ready and writes nothing.
    ///
    /// # Errors
    /// Where `registry` has metrics of these names already.
    pub fn new(
        sources: Vec<Arc<dyn LeaseSource>>,
        writer: Arc<dyn DirectoryWriter>,
        config: PumpConfig,
        registry: &Registry,
    ) -> Result<Pump, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let first = PumpStatus {
            pump: config.pump.clone(),
            not_ready: Some("the pump has not started".into()),
            ..PumpStatus::default()
        };
        let (status, watched) = watch::channel(Arc::new(first));
        let (sender, commands) = mpsc::channel(8);
        let handle = PumpHandle {
            status: watched,
            commands: sender,
        };
        Ok(Pump {
            sources,
            writer,
            evidence: Vec::new(),
            config,
            sealer: ListSealer::unsigned(),
            opener: ListOpener::unverified(),
            metrics,
            status,
            commands,
            handle,
        })
    }

    /// Seals lists with `sealer`, and takes over only those that `opener` accepts: the own ones and, while keys are
    /// replaced, those of the former key. Without it lists are neither signed nor verified.
    pub fn sealing(mut self, sealer: ListSealer, opener: ListOpener) -> Self {
        (self.sealer, self.opener) = (sealer, opener);
        self
    }

    /// Asks this too whether held instances live, unless the configuration forbids it. Without any evidence a hold ends
    /// by time, by an operator, or when the instances are back.
    pub fn with_evidence(mut self, evidence: Arc<dyn Evidence>) -> Pump {
        self.evidence.push(evidence);
        self
    }

    /// A handle to the status and to what a running pump can be told.
    pub fn handle(&self) -> PumpHandle {
        self.handle.clone()
    }

    /// Runs until `shutdown` is cancelled. No failure of a source or the directory ends it.
    pub async fn run(self, shutdown: CancellationToken) {
        let state = Arc::new(StateFile::open(self.config.state_file.clone()).await);
        let Pump {
            sources,
            writer,
            mut evidence,
            config,
            sealer,
            opener,
            metrics,
            status,
            mut commands,
            handle,
        } = self;
        // Its own handle must not keep the channel of commands open, nor the status alive.
        drop(handle);
        let names = sources.iter().map(|source| source.name().to_owned()).collect();
        let mut intake = Intakes::new(sources, &config);
        evidence.retain(|evidence| config.evidence.contains(&evidence.kind()));
        let mut inquiry = Inquiry::new(evidence, config.inquiry.clone());
        let mut leader = Leader::new(writer.clone(), opener, config.pump.clone(), state.clone());
        let remembered = state.clone();
        let publisher = Publisher::new(writer, sealer, state, &config);
        let mut running = Running::new(&config, names, metrics, publisher, status);
        let mut report = interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut save = interval(SAVE);
        save.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut commanded = true;
        loop {
            running.pause.turn(running.now().elapsed);
            let deadline = running.next_deadline(&intake);
            let flush = running.publisher.due().filter(|_| running.may_write());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                event = leader.next() => {
                    if running.on_leadership(event) {
                        intake.sweep_soon();
                    }
                }
                outcome = running.publisher.written() => {
                    let round = running.publisher.settle(outcome, running.now().elapsed);
                    if running.on_round(round) {
                        leader.step_down();
                    }
                }
                command = commands.recv(), if commanded => match command {
                    Some(Command::EndHold { service, answer }) => {
                        let ended = running.rule.end_hold(service.as_deref());
                        intake.sweep_soon();
                        // Whoever asked may have gone.
                        let _ = answer.send(ended);
                    }
                    None => commanded = false,
                },
                () = at(running.start, flush) => {
                    let now = running.now();
                    running.publisher.flush(now, &running.fold, &running.rule);
                }
                () = at(running.start, deadline) => running.check_deadlines(&mut intake),
                _ = report.tick() => {
                    running.report();
                    running.release_unread();
                    if running.may_write() {
                        let now = running.now().elapsed;
                        running.publisher.retire(now, &running.fold);
                    }
                    if running.knows_a_view() {
                        remembered.record_published().await;
                    }
                }
                _ = save.tick() => remembered.save_soon(),
                found = inquiry.next() => running.on_evidence(&found),
                (source, event) = intake.next() => {
                    let more = matches!(event, Intake::Page { .. }) && !running.may_write();
                    running.on_intake(source, event, &mut intake);
                    if more {
                        // Nothing is written before the last page, and every page changes the same lists.
                        continue;
                    }
                }
            }
            if let Some(wanted) = running.wanted.take() {
                inquiry.want(wanted.suspects, wanted.living);
            }
            running.note_changes();
        }
        tracing::info!(pump = config.pump, "the pump stops");
        running.publisher.end();
        running.role = Role::Standby;
        running.report();
        // The next leader does not wait for this one's disk.
        drop(leader);
        remembered.save().await;
    }
}

/// Waits until a moment since `start`; for ever where there is none.
async fn at(start: Instant, moment: Option<Duration>) {
    match moment {
        Some(moment) => sleep_until(start + moment).await,
        None => std::future::pending().await,
    }
}
