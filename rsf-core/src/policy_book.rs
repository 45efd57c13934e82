//! The process's policies: each watched, checked and acknowledged once, however many services use it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::{ControlPlane, PolicyState, PolicyText, Scope};
use crate::policy::{Layer, PolicyDocument, PolicyError, ProviderView, Resolution, provider_rules};
use crate::runtime::IoRuntime;
use crate::timer::Timers;

/// Valid policies by scope. A document that does not pass the check leaves the last good one in force.
///
/// What follows it stops when it is dropped: the values of that moment stay.
pub struct PolicyBook {
    control: Arc<dyn ControlPlane>,
    runtime: IoRuntime,
    refused: prometheus::IntCounter,
    layers: Mutex<HashMap<Scope, watch::Receiver<LayerState>>>,
    checks: Arc<Checks>,
    ended: CancellationToken,
}

/// What is in force of one scope.
#[derive(Debug, Clone, Default)]
pub enum LayerState {
    /// The control plane has not said yet whether there is a policy. Nothing is in force meanwhile.
    #[default]
    Pending,
    /// The last good document; `None` where there is none.
    Known(Option<Layer>),
}

impl LayerState {
    /// Whether the control plane has spoken.
    pub fn is_known(&self) -> bool {
        matches!(self, LayerState::Known(_))
    }

    /// The last good document.
    pub fn layer(&self) -> Option<&Layer> {
        match self {
            LayerState::Known(layer) => layer.as_ref(),
            LayerState::Pending => None,
        }
    }
}

/// A check that a document must pass in this process beyond its own, for what the process alone knows.
pub(crate) trait DocumentCheck: Send + Sync {
    /// Everything that is wrong with the document.
    fn problems(&self, document: &Arc<PolicyDocument>) -> Vec<PolicyError>;
}

type Checks = Mutex<HashMap<Scope, Vec<Weak<dyn DocumentCheck>>>>;

impl Drop for PolicyBook {
    fn drop(&mut self) {
        // Its tasks hold receivers and the control plane, and would keep each other alive.
        self.ended.cancel();
    }
}

impl PolicyBook {
    /// A book that follows the fleet's policy from now on, and others as they are asked for.
    pub fn new(
        control: Arc<dyn ControlPlane>,
        runtime: IoRuntime,
        refused: prometheus::IntCounter,
    ) -> Arc<Self> {
        let book = Arc::new(PolicyBook {
            control,
            runtime,
            refused,
            layers: Mutex::default(),
            checks: Arc::default(),
            ended: CancellationToken::new(),
        });
        let mut fleet = book.layer(&Scope::Fleet);
        let set_threads = book.runtime.callback_threads();
        book.spawn(async move {
            loop {
                let threads = fleet
                    .borrow_and_update()
                    .layer()
                    .and_then(|layer| layer.document.callback_threads);
                set_threads(threads);
                if fleet.changed().await.is_err() {
                    return;
                }
            }
        });
        book
    }

    /// The last good document of a scope, watched.
    pub fn layer(&self, scope: &Scope) -> watch::Receiver<LayerState> {
        let mut layers = self.layers.lock();
        if let Some(layer) = layers.get(scope) {
            return layer.clone();
        }
        let mut texts = {
            let _runtime = self.runtime.handle().enter();
            self.control.policy(scope)
        };
        let follower = Follower {
            scope: scope.clone(),
            control: self.control.clone(),
            refused: self.refused.clone(),
            checks: self.checks.clone(),
            layer: watch::Sender::default(),
        };
        follower.read(&texts.borrow_and_update());
        let receiver = follower.layer.subscribe();
        layers.insert(scope.clone(), receiver.clone());
        self.spawn(async move {
            while texts.changed().await.is_ok() {
                follower.read(&texts.borrow_and_update());
            }
        });
        receiver
    }

    /// The timers of the runtime that the book lives on.
    pub(crate) fn timers(&self) -> &Timers {
        self.runtime.timers()
    }

    /// Documents of `scope` that come from now on must pass `check` too, for as long as it lives.
    pub(crate) fn check(&self, scope: &Scope, check: Weak<dyn DocumentCheck>) {
        let mut checks = self.checks.lock();
        let checks = checks.entry(scope.clone()).or_default();
        checks.retain(|check| check.strong_count() > 0);
        checks.push(check);
    }

    /// Runs a task that ends with the book.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.runtime.handle().spawn(async move {
            ended.run_until_cancelled(task).await;
        });
    }

    /// What holds for a provider that hosts `services`, now and after every change, given to `apply` for each service:
    /// the provider's side, and the documents themselves.
    pub(crate) fn follow_provider(
        &self,
        application: &str,
        services: Vec<String>,
        apply: impl Fn(&str, ProviderView, &Resolution) + Send + Sync + 'static,
    ) {
        let apply = Arc::new(apply);
        let fleet = self.layer(&Scope::Fleet);
        let own = self.layer(&Scope::Application(application.to_owned()));
        for service in services {
            let (mut fleet, mut own) = (fleet.clone(), own.clone());
            let mut layer = self.layer(&Scope::Service(service.clone()));
            let apply = apply.clone();
            self.spawn(async move {
                loop {
                    let resolution = Resolution {
                        fleet: fleet.borrow_and_update().layer().cloned(),
                        applications: own.borrow_and_update().layer().cloned().into_iter().collect(),
                        service: layer.borrow_and_update().layer().cloned(),
                    };
                    apply(&service, provider_rules(resolution.layers()), &resolution);
                    let changed = tokio::select! {
                        changed = fleet.changed() => changed,
                        changed = own.changed() => changed,
                        changed = layer.changed() => changed,
                    };
                    if changed.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

struct Follower {
    scope: Scope,
    control: Arc<dyn ControlPlane>,
    refused: prometheus::IntCounter,
    checks: Arc<Checks>,
    layer: watch::Sender<LayerState>,
}

impl Follower {
    fn read(&self, state: &PolicyState) {
        let text = match state {
            PolicyState::Pending => return,
            PolicyState::Absent => return self.put_in_force(None),
            PolicyState::Present(text) => text,
        };
        // An empty document is a scope whose policy was deleted by that revision.
        if text.document.is_empty() {
            self.put_in_force(None);
            return self.control.acknowledge(&self.scope, text.revision, None);
        }
        match self.parse(&text.document) {
            Ok(document) => {
                let origin = format!("{}@{}", self.scope, text.revision).into();
                self.put_in_force(Some(Layer { origin, document }));
                self.control.acknowledge(&self.scope, text.revision, None);
            }
            Err(errors) => self.refuse(text, &errors),
        }
    }

    fn put_in_force(&self, layer: Option<Layer>) {
        self.layer.send_replace(LayerState::Known(layer));
    }

    /// The last good document stays; where there was none, it is known by now that none is in force.
    fn refuse(&self, text: &PolicyText, errors: &[PolicyError]) {
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let refusal = errors.join("; ");
        tracing::warn!(scope = %self.scope, revision = text.revision, refusal, "policy refused, the last good one stays");
        self.refused.inc();
        self.layer.send_if_modified(|state| {
            let first = !state.is_known();
            if first {
                *state = LayerState::Known(None);
            }
            first
        });
        self.control
            .acknowledge(&self.scope, text.revision, Some(refusal));
    }

    fn parse(&self, text: &str) -> Result<Arc<PolicyDocument>, Vec<PolicyError>> {
        let document = Arc::new(PolicyDocument::parse(&self.scope, text)?);
        let checks = self.checks.lock().get(&self.scope).cloned().unwrap_or_default();
        // Two consumers of one service find the same.
        let mut problems: Vec<PolicyError> = Vec::new();
        for problem in checks
            .iter()
            .filter_map(Weak::upgrade)
            .flat_map(|check| check.problems(&document))
        {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        match problems.is_empty() {
            true => Ok(document),
            false => Err(problems),
        }
    }
}
