//! What an operator says of services' instances: a file that is read again when it changes, and pushes that expire.
//!
//! A push beats the file, the file the directory. A file that is wrong or gone changes nothing but the log, the metric
//! `rsf_overrides_refused` and the status.

mod document;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

pub use document::{ServiceOverride, StaticInstance};

use crate::{StoreError, world};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The most bytes of the file.
const MAX_FILE: u64 = 8 << 20;
/// The most services that are pushed an override at once.
const MAX_PUSHED: usize = 1_000;
/// How long a pushed override may hold.
pub const OVERRIDE_TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// The file of static instances cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "static instances {file}: {reason}; write JSON like {{\"shop.v1.MemberService\": [\"127.0.0.1:7001\"]}} or \
     {{\"shop.v1.MemberService\": {{\"add\": [\"127.0.0.1:7001\"], \"remove\": [\"shop/2\"]}}}}"
)]
pub struct InvalidOverrides {
    file: String,
    reason: String,
}

/// Where an override came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverrideSource {
    /// The file of static instances.
    File,
    /// An operator, through the admin port.
    Push,
}

/// An override that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveOverride {
    /// The service key.
    pub service: String,
    /// Where it came from.
    pub source: OverrideSource,
    /// Milliseconds until it ends by itself; a file's does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_in_ms: Option<u64>,
    /// What it says.
    #[serde(rename = "override")]
    pub what: ServiceOverride,
}

/// What holds now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OverrideStatus {
    /// In the order of their services.
    pub active: Vec<ActiveOverride>,
    /// Why the file as it stands now is not in force; what it said before is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_refused: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    file: BTreeMap<String, Arc<ServiceOverride>>,
    pushed: BTreeMap<String, Pushed>,
    file_refused: Option<String>,
}

#[derive(Debug)]
struct Pushed {
    what: Arc<ServiceOverride>,
    until: Instant,
}

impl State {
    /// What holds of `service`.
    pub(super) fn of(&self, service: &str) -> Option<(Arc<ServiceOverride>, OverrideSource)> {
        let pushed = self
            .pushed
            .get(service)
            .map(|pushed| (&pushed.what, OverrideSource::Push));
        let file = || self.file.get(service).map(|what| (what, OverrideSource::File));
        pushed.or_else(file).map(|(what, source)| (what.clone(), source))
    }
}

/// The overrides of one process.
#[derive(Debug)]
pub(super) struct Overrides {
    state: Arc<watch::Sender<State>>,
    gauges: Gauges,
    _task: AbortOnDropHandle<()>,
}

impl Overrides {
    /// Reads the file, and follows it from now on.
    pub(super) fn follow(file: Option<&Path>) -> Result<Self, InvalidOverrides> {
        let gauges = Gauges::new();
        let mut state = State::default();
        let followed = match file {
            None => None,
            Some(path) => {
                let text = read(path)?;
                state.file = parsed(path, &text)?;
                Some(Followed {
                    path: path.to_owned(),
                    text: text.into(),
                })
            }
        };
        gauges.show(&state);
        let state = Arc::new(watch::Sender::new(state));
        let task = tokio::spawn(keep(state.clone(), followed, gauges.clone()));
        Ok(Overrides {
            state,
            gauges,
            _task: AbortOnDropHandle::new(task),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// What holds now.
    pub(super) fn status(&self) -> OverrideStatus {
        let (state, now) = (self.state.borrow(), Instant::now());
        let pushed = state.pushed.iter().map(|(service, pushed)| ActiveOverride {
            service: service.clone(),
            source: OverrideSource::Push,
            expires_in_ms: u64::try_from(pushed.until.saturating_duration_since(now).as_millis()).ok(),
            what: (*pushed.what).clone(),
        });
        let hidden = |service: &str| state.pushed.contains_key(service);
        let file = state.file.iter().filter(|(service, _)| !hidden(service));
        let file = file.map(|(service, what)| ActiveOverride {
            service: service.clone(),
            source: OverrideSource::File,
            expires_in_ms: None,
            what: (**what).clone(),
        });
        let mut active: Vec<_> = pushed.chain(file).collect();
        active.sort_by(|a, b| a.service.cmp(&b.service));
        OverrideStatus {
            active,
            file_refused: state.file_refused.clone(),
        }
    }

    /// Puts `what` in force for `ttl`, in place of what was pushed for the service before.
    pub(super) fn push(&self, service: &str, what: ServiceOverride, ttl: Duration) -> Result<(), StoreError> {
        let invalid = |reason: String| StoreError::Invalid {
            key: service.to_owned(),
            reason,
        };
        what.check(service).map_err(invalid)?;
        if !OVERRIDE_TTL.contains(&ttl) {
            let (least, most) = (OVERRIDE_TTL.start(), OVERRIDE_TTL.end());
            return Err(invalid(format!("its TTL is {ttl:?}; use {least:?} to {most:?}")));
        }
        let what = Arc::new(what);
        let until = Instant::now() + ttl;
        let taken = self.state.send_if_modified(|state| {
            let room = state.pushed.len() < MAX_PUSHED || state.pushed.contains_key(service);
            if room {
                state.pushed.insert(service.to_owned(), Pushed { what, until });
                self.gauges.show(state);
            }
            room
        });
        match taken {
            true => Ok(()),
            false => Err(invalid(format!(
                "{MAX_PUSHED} services have a pushed override already; clear some"
            ))),
        }
    }

    /// Takes back what was pushed for `service`; whether there was something.
    pub(super) fn clear(&self, service: &str) -> bool {
        self.state.send_if_modified(|state| {
            let cleared = state.pushed.remove(service).is_some();
            self.gauges.show(state);
            cleared
        })
    }

    /// How many hold, and whether the file is refused.
    pub(super) fn metrics(&self) -> Vec<Box<dyn Collector>> {
        self.gauges.collectors()
    }
}

/// `rsf_overrides{source}` and `rsf_overrides_refused`.
#[derive(Debug, Clone)]
struct Gauges {
    active: Option<IntGaugeVec>,
    refused: Option<IntGauge>,
}

impl Gauges {
    fn new() -> Self {
        let active = Opts::new(
            "rsf_overrides",
            "Services whose instances an operator overrides in this process.",
        );
        let refused =
            "1 while the file of static instances is refused as it stands; what it said before holds.";
        // Names and labels are good, so that this cannot fail; a program without the metrics would go on.
        Gauges {
            active: IntGaugeVec::new(active, &["source"]).ok(),
            refused: IntGauge::new("rsf_overrides_refused", refused).ok(),
        }
    }

    fn show(&self, state: &State) {
        if let Some(active) = &self.active {
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            active.with_label_values(&["file"]).set(count(state.file.len()));
            active.with_label_values(&["push"]).set(count(state.pushed.len()));
        }
        if let Some(refused) = &self.refused {
            refused.set(state.file_refused.is_some().into());
        }
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let active = self
            .active
            .clone()
            .map(|active| Box::new(active) as Box<dyn Collector>);
        let refused = self
            .refused
            .clone()
            .map(|refused| Box::new(refused) as Box<dyn Collector>);
        active.into_iter().chain(refused).collect()
    }
}

/// The file, and what it said last when it was good.
struct Followed {
    path: PathBuf,
    text: Arc<str>,
}

/// Ends pushes in time and looks at the file.
async fn keep(state: Arc<watch::Sender<State>>, mut followed: Option<Followed>, gauges: Gauges) {
    let mut changes = state.subscribe();
    let mut look_at = Instant::now() + LOOK;
    loop {
        let end = changes
            .borrow_and_update()
            .pushed
            .values()
            .map(|pushed| pushed.until)
            .min();
        let next = match (end, &followed) {
            (Some(end), Some(_)) => Some(end.min(look_at)),
            (end, None) => end,
            (None, Some(_)) => Some(look_at),
        };
        tokio::select! {
            biased;
            changed = changes.changed() => if changed.is_err() { return },
            () = at(next) => {}
        }
        expire(&state, &gauges);
        if let Some(file) = &mut followed
            && Instant::now() >= look_at
        {
            file.look(&state, &gauges).await;
            look_at = Instant::now() + LOOK;
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn expire(state: &watch::Sender<State>, gauges: &Gauges) {
    let now = Instant::now();
    state.send_if_modified(|state| {
        let before = state.pushed.len();
        state.pushed.retain(|service, pushed| {
            let stands = now < pushed.until;
            if !stands {
                tracing::warn!(service, "a pushed override has expired");
            }
            stands
        });
        gauges.show(state);
        state.pushed.len() < before
    });
}

impl Followed {
    async fn look(&mut self, state: &watch::Sender<State>, gauges: &Gauges) {
        let (path, known) = (self.path.clone(), self.text.clone());
        let looked = world::blocking(move || {
            let text = read(&path)?;
            // What was good before is good; it may be back after a mistake.
            match *text == *known {
                true => Ok(None),
                false => parsed(&path, &text).map(|file| Some((file, text))),
            }
        });
        // A join error means that the runtime ends.
        let Ok(looked) = looked.await else { return };
        match looked {
            Ok(Some((file, text))) => {
                self.text = text.into();
                state.send_modify(|state| {
                    let services = file.len();
                    tracing::warn!(file = %self.path.display(), services, "the static instances have changed");
                    state.file = file;
                    state.file_refused = None;
                    gauges.show(state);
                });
            }
            Ok(None) => {
                state.send_if_modified(|state| {
                    let repaired = state.file_refused.take().is_some();
                    if repaired {
                        tracing::info!(file = %self.path.display(), "the static instances are good again");
                        gauges.show(state);
                    }
                    repaired
                });
            }
            Err(error) => {
                let error = error.to_string();
                state.send_if_modified(|state| {
                    let news = state.file_refused.as_ref() != Some(&error);
                    if news {
                        tracing::error!(error, "the static instances are refused; the last good ones stay");
                        state.file_refused = Some(error);
                        gauges.show(state);
                    }
                    news
                });
            }
        }
    }
}

fn read(path: &Path) -> Result<String, InvalidOverrides> {
    let bounded = || {
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let text = bounded().map_err(|error: std::io::Error| invalid(path, error.to_string()))?;
    match text.len() as u64 > MAX_FILE {
        true => Err(invalid(path, format!("it is larger than {} MiB", MAX_FILE >> 20))),
        false => Ok(text),
    }
}

fn parsed(path: &Path, text: &str) -> Result<BTreeMap<String, Arc<ServiceOverride>>, InvalidOverrides> {
    document::parse(text).map_err(|reason| invalid(path, reason))
}

fn invalid(path: &Path, reason: String) -> InvalidOverrides {
    InvalidOverrides {
        file: path.display().to_string(),
        reason,
    }
}
