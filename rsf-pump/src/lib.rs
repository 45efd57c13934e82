//! RSF's pump: folds leases (instance → services) into lists (service → instances), and publishes them while it leads.
//!
//! The path of one lease, in order:
//!
//! 1. `intake`: hints, deadline checks and sweeps ask each [`LeaseSource`](rsf_registry::LeaseSource). Hints are only
//!    hints; each known deadline (`deadlines`, on the pump's own monotonic clock) is checked at the source when it
//!    comes, and a sweep repairs the rest. A namespace has one source or several; each is asked, and believed, apart.
//! 2. `trust`: a restarted, emptied, stalled or changed source is a *discontinuity*: nothing of it expires for one TTL.
//! 3. [`fold`]: leases become lists. Pure; its cost follows the change. An instance stays while any source has its lease,
//!    and while the source that had it last does not answer. Otherwise it leaves right after a sweep that went well, past
//!    its own deadline, and as far as [`shrink`] (rule R) admits.
//! 4. [`evidence`]: who is held is asked, and those who call it are: who is gone leaves at once, who answers stays.
//! 5. `coalesce`, `publish`: a lone change goes out fast, a storm is gathered; only lists that changed are written, the
//!    newest content only, `(epoch, sequence)` rising.
//! 6. `leader`, `state`: one pump leads, fenced by its epoch; the others fold along. A new leader reads the published
//!    lists back as the last known view, so that an emptied source or a restarted pump never shrinks them.
//! 7. [`status`]: what a pump says about itself.
//!
//! The crate knows no backend and serves no port.
//!
//! ```
//! # use std::sync::Arc;
//! # use rsf_registry::{DirectoryWriter, LeaseSource};
//! # async fn start(sources: Vec<Arc<dyn LeaseSource>>, writer: Arc<dyn DirectoryWriter>)
//! #     -> Result<(), Box<dyn std::error::Error>> {
//! use rsf_pump::{Pump, PumpSettings};
//! use tokio_util::sync::CancellationToken;
//!
//! let settings = PumpSettings { pump: "pump-1".into(), ..PumpSettings::default() };
//! let registry = prometheus::Registry::new();
//! let pump = Pump::new(sources, writer, settings.validate()?, &registry)?;
//! let mut handle = pump.handle();
//! let shutdown = CancellationToken::new();
//! tokio::spawn(pump.run(shutdown.clone()));
//! handle.wait_for(|status| status.ready).await?;
//! # Ok(()) }
//! ```
//!
//! # Metrics
//!
//! | name | what |
//! |---|---|
//! | `rsf_pump_role{role}` | 1 for the current role: `standby`, `taking_over`, `leading` |
//! | `rsf_pump_epoch` | epoch of the current term, 0 without one |
//! | `rsf_pump_ready` | 1 while the lists can be trusted |
//! | `rsf_pump_source_up{source}`, `rsf_pump_source_distrusted{source}`, `rsf_pump_source_leases{source}` | the source answers; it was discontinued less than a TTL ago; leases it has |
//! | `rsf_pump_services`, `rsf_pump_leases`, `rsf_pump_unconfirmed` | sizes; `unconfirmed`: listed and not seen since the last discontinuity |
//! | `rsf_pump_holds`, `rsf_pump_held_instances`, `rsf_pump_holds_total` | rule R: alert on `rsf_pump_holds > 0` |
//! | `rsf_pump_probes_total{finding}` | held instances that were looked into: `answers`, `gone`, `unclear` |
//! | `rsf_pump_evidence_total{kind,finding}` | what each kind of evidence said of them: `probe`, `reports` |
//! | `rsf_pump_reports_total{what}` | consumers' reports that were read: `answers`, `gone`, `other_start`, `ill_formed` |
//! | `rsf_pump_lists_waiting`, `rsf_pump_lag_seconds` | changed lists not yet written; time from change to written list |
//! | `rsf_pump_terms_total`, `rsf_pump_fenced_total` | terms begun; ended by a refused write |
//! | `rsf_pump_hints_total`, `rsf_pump_deadline_checks_total`, `rsf_pump_sweeps_total`, `rsf_pump_sweep_seconds` | the sources' load |
//! | `rsf_pump_source_errors_total`, `rsf_pump_discontinuities_total{reason}` | the sources' faults |
//! | `rsf_pump_removed_total{cause}` | instances that left a list: `deregistered`, `expired`, `evicted` |
//! | `rsf_pump_lists_written_total`, `rsf_pump_write_errors_total`, `rsf_pump_lists_removed_total` | the directory |

mod deadlines;
mod intake;
mod trust;

pub mod fold;
pub mod shrink;

pub mod evidence;

mod coalesce;
mod leader;
mod publish;
mod state;

pub mod config;
mod metrics;
mod pump;
pub mod status;

pub use config::{InvalidConfig, PumpConfig, PumpSettings};
pub use evidence::{ConsumerReports, Evidence, Finding, TcpProbe};
pub use pump::Pump;
pub use status::{PumpHandle, PumpStatus, PumpStopped, Role};
