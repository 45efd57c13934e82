//! Which applications may call which methods, and whether a caller is who it says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::stack::{Gate, InboundCall};
use crate::error::framework_status;
use crate::identity::{Peer, TokenVerifier};
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::outcome::Reason;
use crate::policy::{Access, AuthorizationMode, IdentityDemand, ProviderView};
use crate::status::Status;
use crate::wire::headers::{CALLER, TOKEN};

/// Callers of a service that a log line is written for; everything else is counted only.
const LOGGED_CALLERS: usize = 100;
/// Bytes of a caller's name in messages and in the log.
const MAX_NAME: usize = 100;

/// Refuses callers that policy does not let in.
pub(super) struct Authorize {
    verifier: Option<Arc<TokenVerifier>>,
}

impl Authorize {
    pub(super) fn new(verifier: Option<Arc<TokenVerifier>>) -> Self {
        Authorize { verifier }
    }
}

impl Gate for Authorize {
    #[inline]
    fn enter(&self, call: &mut InboundCall) -> Result<(), Status> {
        if self.verifier.is_none() && call.peer.is_none() && call.method.door.is_open() {
            return Ok(());
        }
        let door = call.method.door.clone();
        let identified = identify(call, self.verifier.as_deref());
        identified.inspect_err(|_| door.unauthenticated.inc())?;
        let context = &call.context;
        let proven = context.identity().is_proven();
        door.check(context.caller(), proven, &call.method.name)
    }
}

/// Notes in the call's context who the caller has proven to be. A token goes no further than this.
fn identify(call: &mut InboundCall, verifier: Option<&TokenVerifier>) -> Result<(), Status> {
    let metadata = call.context.metadata();
    let headers = metadata.raw();
    let token = headers.and_then(|headers| headers.get(TOKEN));
    let caller = metadata.get(CALLER.as_str());
    let proven = prove(token, caller, call.peer.as_ref(), verifier)?;
    let carries_token = token.is_some();
    if proven.is_none() && !carries_token {
        return Ok(());
    }
    let context = call.context.make_mut();
    if carries_token {
        context.metadata_mut().remove_reserved("rsf-token");
    }
    if let Some(application) = proven {
        context.proven(application);
    }
    Ok(())
}

/// Who the caller has proven to be, by its certificate or by its token; `None` where it brought no proof. A proof that
/// is not good is worse than none.
pub(super) fn prove(
    token: Option<&http::HeaderValue>,
    caller: Option<&str>,
    peer: Option<&Peer>,
    verifier: Option<&TokenVerifier>,
) -> Result<Option<Arc<str>>, Status> {
    let refused = |problem: String| framework_status(Reason::Unauthenticated, problem);
    if let Some(Peer(application)) = peer {
        return match caller {
            Some(caller) if caller != &**application => Err(refused(format!(
                "the connection is application `{application}`'s, the caller says that it is `{}`",
                shortened(caller)
            ))),
            _ => Ok(Some(application.clone())),
        };
    }
    let (Some(token), Some(verifier)) = (token, verifier) else {
        return Ok(None);
    };
    let text = token.to_str().unwrap_or_default();
    let proven = verifier.verify(text, caller);
    proven.map(Some).map_err(|error| refused(error.to_string()))
}

/// A service's door: what policy says of its callers now, and how often it said what.
pub(super) struct Door {
    service: String,
    /// Whether `rules` let everybody in: what most calls ask, and all that they ask.
    open: AtomicBool,
    rules: ArcSwap<Rules>,
    allowed: IntCounter,
    denied: IntCounter,
    audited: IntCounter,
    pub(super) unauthenticated: IntCounter,
    /// Callers that the log has named.
    logged: Mutex<HashSet<String>>,
}

/// What policy says, as calls ask it.
enum Rules {
    /// Nothing: everybody comes in.
    Open,
    /// Nothing, and this provider must not open without.
    Waiting,
    Asked(Box<Asked>),
}

struct Asked {
    enforced: bool,
    proof: bool,
    /// Whether callers come in that no rule names.
    others: bool,
    callers: BTreeMap<String, Allowed>,
    /// The layers that set mode, default, identity, and each caller.
    origins: crate::policy::Origins,
}

enum Allowed {
    All,
    These(HashSet<String>),
}

impl Allowed {
    fn contains(&self, method: &str) -> bool {
        match self {
            Allowed::All => true,
            Allowed::These(methods) => methods.contains(method),
        }
    }
}

impl Door {
    /// Open until policy speaks, or closed until then where it is `required`.
    pub(super) fn new(service: &str, required: bool, metrics: &Metrics) -> Arc<Door> {
        let rules = if required { Rules::Waiting } else { Rules::Open };
        let counter = |verdict| metrics.authorized(service, verdict);
        Arc::new(Door {
            service: service.to_owned(),
            open: AtomicBool::new(!required),
            rules: ArcSwap::from_pointee(rules),
            allowed: counter("allowed"),
            denied: counter("denied"),
            audited: counter("audited"),
            unauthenticated: counter("unauthenticated"),
            logged: Mutex::default(),
        })
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// Whether everybody comes in unasked.
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Takes over what policy says now.
    pub(super) fn set(&self, view: &ProviderView, required: bool) {
        let policy = &view.rules.authorization;
        let spoken = view.origins.contains_key("authorization.mode");
        let rules = match policy.mode {
            AuthorizationMode::Off if required && !spoken => Rules::Waiting,
            AuthorizationMode::Off => Rules::Open,
            mode => {
                let callers = policy.callers.iter().map(|(name, rule)| {
                    let methods = rule.methods.clone().unwrap_or_default();
                    let allowed = match methods.iter().any(|method| method == "*") {
                        true => Allowed::All,
                        false => Allowed::These(methods.into_iter().collect()),
                    };
                    (name.clone(), allowed)
                });
                Rules::Asked(Box::new(Asked {
                    enforced: mode == AuthorizationMode::Enforce,
                    proof: policy.identity == IdentityDemand::Proven,
                    others: policy.default == Access::Allow,
                    callers: callers.collect(),
                    origins: view.origins.clone(),
                }))
            }
        };
        let open = matches!(rules, Rules::Open);
        self.rules.store(Arc::new(rules));
        self.open.store(open, Ordering::Release);
        self.logged.lock().clear();
    }

    /// Whether a call of `method` may come in, as far as its headers tell: so that nobody's body is waited for or held who
    /// is refused anyway. Only refusals are counted here; who passes meets [`Authorize`] on the way.
    pub(super) fn admit(
        &self,
        metadata: &Metadata,
        peer: Option<&Peer>,
        verifier: Option<&TokenVerifier>,
        method: &str,
    ) -> Result<(), Status> {
        if verifier.is_none() && peer.is_none() && self.is_open() {
            return Ok(());
        }
        let token = metadata.raw().and_then(|headers| headers.get(TOKEN));
        let caller = metadata.get(CALLER.as_str());
        let proven = prove(token, caller, peer, verifier);
        let proven = proven.inspect_err(|_| self.unauthenticated.inc())?;
        let (caller, is_proven) = (proven.as_deref().or(caller), proven.is_some());
        match self.refuses(caller, is_proven, method) {
            true => self.check(caller, is_proven, method),
            false => Ok(()),
        }
    }

    /// Whether [`Door::check`] would refuse, without a word about it: policy may only count.
    fn refuses(&self, caller: Option<&str>, proven: bool, method: &str) -> bool {
        match &**self.rules.load() {
            Rules::Open => false,
            Rules::Waiting => true,
            Rules::Asked(asked) => {
                asked.enforced && asked.judge(&self.service, caller, proven, method).is_err()
            }
        }
    }

    /// Whether `caller` may call `method`.
    pub(super) fn check(&self, caller: Option<&str>, proven: bool, method: &str) -> Result<(), Status> {
        let rules = self.rules.load();
        let asked = match &**rules {
            Rules::Open => return Ok(()),
            Rules::Waiting => {
                self.denied.inc();
                let problem = format!(
                    "this provider lets nobody call `{}` until a policy sets provider.authorization.mode for it \
                     (RSF_AUTHORIZATION_REQUIRED)",
                    self.service
                );
                return Err(framework_status(Reason::Denied, problem));
            }
            Rules::Asked(asked) => asked,
        };
        let Err((reason, problem)) = asked.judge(&self.service, caller, proven, method) else {
            self.allowed.inc();
            return Ok(());
        };
        self.log(caller, method, asked.enforced, &problem);
        if !asked.enforced {
            self.audited.inc();
            return Ok(());
        }
        match reason {
            Reason::Unauthenticated => self.unauthenticated.inc(),
            _ => self.denied.inc(),
        }
        Err(framework_status(reason, problem))
    }

    /// Each caller and method once, until policy changes.
    fn log(&self, caller: Option<&str>, method: &str, refused: bool, problem: &str) {
        let name = format!("{} {method}", shortened(caller.unwrap_or_default()));
        let mut logged = self.logged.lock();
        if logged.len() < LOGGED_CALLERS && logged.insert(name) {
            drop(logged);
            tracing::warn!(service = self.service, method, refused, problem, "authorization");
        }
    }
}

impl Asked {
    fn judge(
        &self,
        service: &str,
        caller: Option<&str>,
        proven: bool,
        method: &str,
    ) -> Result<(), (Reason, String)> {
        let origin = |field: &str| {
            let origin = self.origins.get(&format!("authorization.{field}"));
            let origin = origin.map_or("built-in", |origin| origin);
            format!("policy provider.authorization.{field} of {origin}")
        };
        if self.proof && !proven {
            let problem = format!(
                "{service}/{method} wants callers that prove who they are, and this call brought no token that the provider could \
                 check ({}); the caller needs RSF_TOKEN_FILE, the provider RSF_TRUSTED_KEYS",
                origin("identity")
            );
            return Err((Reason::Unauthenticated, problem));
        }
        let named = caller.and_then(|caller| Some((caller, self.callers.get(caller)?)));
        let named = named.or_else(|| Some(("*", self.callers.get("*")?)));
        let (allowed, field) = match named {
            Some((name, allowed)) => (allowed.contains(method), Some(name)),
            None => (self.others, None),
        };
        if allowed {
            return Ok(());
        }
        let field = field.map_or_else(|| "default".to_owned(), |name| format!("callers.{name}"));
        let caller = match caller {
            Some(caller) => format!("application `{}`", shortened(caller)),
            None => "a caller without a name (`rsf-caller`)".to_owned(),
        };
        Err((
            Reason::Denied,
            format!("{caller} may not call {service}/{method} ({})", origin(&field)),
        ))
    }
}

fn shortened(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}
