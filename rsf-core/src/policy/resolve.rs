//! Documents in their order of precedence → the values that hold for one method, and where each came from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::document::{Balance, CallPolicy, PolicyDocument};
use crate::method::MethodDescriptor;

/// A document in its place of precedence.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Names the layer in explanations: `fleet@12`, `service/shop.v1.MemberService@15`.
    pub origin: Arc<str>,
    /// The document.
    pub document: Arc<PolicyDocument>,
}

/// The documents that may say something about one service, each absent where nothing was published.
#[derive(Debug, Clone, Default)]
pub struct Resolution {
    /// The fleet's.
    pub fleet: Option<Layer>,
    /// The provider applications', in order of their names.
    pub applications: Vec<Layer>,
    /// The service's.
    pub service: Option<Layer>,
}

impl Resolution {
    /// All layers that apply to whole services, weakest first.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.fleet.iter().chain(&self.applications).chain(&self.service)
    }
}

/// What holds for one method, as seen by one consumer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodPolicy {
    /// For the whole logical call.
    pub timeout: Duration,
    /// After which a further attempt may start beside the first.
    pub attempt_timeout: Option<Duration>,
    /// Tries of one call, the first included.
    pub attempts: u32,
    /// Before the second attempt.
    pub backoff: Duration,
    /// Where its doubling stops.
    pub max_backoff: Duration,
    /// Retries as a share of the calls, 0 to 100.
    pub budget_percent: u32,
    /// Retries a second that are always allowed.
    pub budget_per_second: u32,
    /// Whether the method may be attempted again after its handler may have run. A fact of the code.
    pub idempotent: bool,
    /// How an instance is chosen.
    pub balance: Balance,
    /// When an instance is left alone.
    pub node_breaker: NodeBreaker,
    /// Field → the layer that set it; fields that are not here hold their built-in value.
    pub origins: BTreeMap<&'static str, Arc<str>>,
}

/// When an instance is left alone, resolved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NodeBreaker {
    /// Whether instances are ejected at all.
    pub enabled: bool,
    /// In a row.
    pub consecutive_failures: u32,
    /// The first ejection.
    pub ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// Share of the instances, 0 to 100.
    pub max_ejected_percent: u32,
}

/// The provider's limits, resolved for the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderLimits {
    /// Handlers at once.
    pub pool: u32,
    /// Waiting calls.
    pub queue: u32,
    /// Method name → calls under way at once.
    pub concurrency: BTreeMap<String, u32>,
}

impl Default for ProviderLimits {
    fn default() -> Self {
        ProviderLimits {
            pool: 1024,
            queue: 4096,
            concurrency: BTreeMap::new(),
        }
    }
}

/// Resolves one method for the consumer `caller`; without a method, what holds for the service as a whole.
pub fn method_policy(
    method: Option<&MethodDescriptor>,
    caller: &str,
    resolution: &Resolution,
) -> MethodPolicy {
    let mut resolved = MethodPolicy::built_in(method.is_some_and(|method| method.idempotent));
    for layer in resolution.fleet.iter().chain(&resolution.applications) {
        resolved.apply(&layer.origin, &layer.document.call);
    }
    if let Some(method) = method {
        resolved.apply(&"proto option".into(), &method.options());
    }
    if let Some(service) = &resolution.service {
        resolved.apply(&service.origin, &service.document.call);
        let own = method.and_then(|method| Some((method, service.document.methods.get(&*method.name)?)));
        if let Some((method, own)) = own {
            resolved.apply(&format!("{} method {}", service.origin, method.name).into(), own);
        }
    }
    for layer in resolution.layers() {
        if let Some(own) = layer.document.consumers.get(caller) {
            resolved.apply(&format!("{} consumer {caller}", layer.origin).into(), own);
        }
    }
    resolved
}

/// Resolves the provider's limits: the fleet's, then the application's, then the service's thresholds.
pub fn provider_limits<'a>(layers: impl Iterator<Item = &'a Layer>) -> ProviderLimits {
    let mut limits = ProviderLimits::default();
    for layer in layers {
        let provider = &layer.document.provider;
        limits.pool = provider.pool.unwrap_or(limits.pool);
        limits.queue = provider.queue.unwrap_or(limits.queue);
        limits.concurrency.extend(
            provider
                .concurrency
                .iter()
                .map(|(name, most)| (name.clone(), *most)),
        );
    }
    limits
}

impl MethodPolicy {
    /// What holds where no document says anything. The same values stand in the table of [`super::fields`].
    pub fn built_in(idempotent: bool) -> Self {
        MethodPolicy {
            timeout: Duration::from_millis(3000),
            attempt_timeout: None,
            attempts: 3,
            backoff: Duration::from_millis(10),
            max_backoff: Duration::from_millis(1000),
            budget_percent: 20,
            budget_per_second: 10,
            idempotent,
            balance: Balance::LeastPending,
            node_breaker: NodeBreaker {
                enabled: true,
                consecutive_failures: 5,
                ejection: Duration::from_millis(5000),
                max_ejection: Duration::from_millis(300_000),
                max_ejected_percent: 50,
            },
            origins: BTreeMap::new(),
        }
    }

    fn apply(&mut self, origin: &Arc<str>, call: &CallPolicy) {
        let origins = &mut self.origins;
        let mut set = |name: &'static str| drop(origins.insert(name, origin.clone()));
        macro_rules! take {
            ($($name:literal: $from:expr => $to:expr, $value:ident -> $make:expr;)*) => {
                $(if let Some($value) = $from { $to = $make; set($name); })*
            };
        }
        take! {
            "timeout_ms": call.timeout_ms => self.timeout, v -> Duration::from_millis(v);
            "attempt_timeout_ms": call.attempt_timeout_ms => self.attempt_timeout, v -> Some(Duration::from_millis(v));
            "retry.attempts": call.retry.attempts => self.attempts, v -> v;
            "retry.backoff_ms": call.retry.backoff_ms => self.backoff, v -> Duration::from_millis(v);
            "retry.max_backoff_ms": call.retry.max_backoff_ms => self.max_backoff, v -> Duration::from_millis(v);
            "retry.budget_percent": call.retry.budget_percent => self.budget_percent, v -> v;
            "retry.budget_per_second": call.retry.budget_per_second => self.budget_per_second, v -> v;
            "balance": call.balance => self.balance, v -> v;
            "node_breaker.enabled": call.node_breaker.enabled => self.node_breaker.enabled, v -> v;
            "node_breaker.consecutive_failures": call.node_breaker.consecutive_failures
                => self.node_breaker.consecutive_failures, v -> v;
            "node_breaker.ejection_ms": call.node_breaker.ejection_ms
                => self.node_breaker.ejection, v -> Duration::from_millis(v);
            "node_breaker.max_ejection_ms": call.node_breaker.max_ejection_ms
                => self.node_breaker.max_ejection, v -> Duration::from_millis(v);
            "node_breaker.max_ejected_percent": call.node_breaker.max_ejected_percent
                => self.node_breaker.max_ejected_percent, v -> v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Scope;

    fn layer(scope: &str, json: &str) -> Option<Layer> {
        let scope: Scope = scope.parse().unwrap();
        Some(Layer {
            origin: scope.to_string().into(),
            document: Arc::new(PolicyDocument::parse(&scope, json).unwrap()),
        })
    }

    fn get() -> MethodDescriptor {
        MethodDescriptor::plain("s.v1.S", "Get")
    }

    /// The timeout, and who set it.
    fn timeout(method: &MethodDescriptor, resolution: &Resolution) -> (u64, String) {
        let policy = method_policy(Some(method), "shop", resolution);
        let origin = policy.origins.get("timeout_ms").map_or("", |origin| origin);
        (policy.timeout.as_millis() as u64, origin.to_owned())
    }

    #[test]
    fn each_layer_beats_the_ones_before_it() {
        let mut method = get();
        let mut resolution = Resolution::default();
        assert_eq!(timeout(&method, &resolution), (3000, String::new()));
        resolution.fleet = layer("fleet", r#"{"call":{"timeout_ms":1}}"#);
        assert_eq!(timeout(&method, &resolution), (1, "fleet".into()));
        for (timeout_ms, name) in [(2, "application/a"), (3, "application/b")] {
            let json = format!(r#"{{"call":{{"timeout_ms":{timeout_ms}}}}}"#);
            resolution.applications.extend(layer(name, &json));
            assert_eq!(timeout(&method, &resolution), (timeout_ms, name.into()));
        }
        method.timeout_ms = Some(4);
        assert_eq!(timeout(&method, &resolution), (4, "proto option".into()));
        let mut json = r#"{"call":{"timeout_ms":5}}"#.to_owned();
        resolution.service = layer("service/s.v1.S", &json);
        assert_eq!(timeout(&method, &resolution), (5, "service/s.v1.S".into()));
        json.insert_str(
            1,
            r#""methods":{"Get":{"timeout_ms":6},"Put":{"timeout_ms":60}},"#,
        );
        resolution.service = layer("service/s.v1.S", &json);
        assert_eq!(
            timeout(&method, &resolution),
            (6, "service/s.v1.S method Get".into())
        );
        let consumers = r#"{"consumers":{"shop":{"timeout_ms":7},"bank":{"timeout_ms":70}}}"#;
        resolution.fleet = layer("fleet", consumers);
        assert_eq!(timeout(&method, &resolution), (7, "fleet consumer shop".into()));
        json.insert_str(1, r#""consumers":{"shop":{"timeout_ms":8}},"#);
        resolution.service = layer("service/s.v1.S", &json);
        assert_eq!(
            timeout(&method, &resolution),
            (8, "service/s.v1.S consumer shop".into())
        );
    }

    #[test]
    fn layers_add_up_field_by_field() {
        let resolution = Resolution {
            fleet: layer(
                "fleet",
                r#"{"call":{"retry":{"attempts":2,"backoff_ms":5},"balance":"random"}}"#,
            ),
            service: layer(
                "service/s.v1.S",
                r#"{"call":{"retry":{"attempts":4},"timeout_ms":null}}"#,
            ),
            ..Resolution::default()
        };
        let policy = method_policy(Some(&get()), "shop", &resolution);
        assert_eq!((policy.attempts, policy.backoff), (4, Duration::from_millis(5)));
        assert_eq!(
            (policy.balance, policy.timeout),
            (Balance::Random, Duration::from_millis(3000))
        );
        assert_eq!(&*policy.origins["retry.attempts"], "service/s.v1.S");
        assert_eq!(&*policy.origins["retry.backoff_ms"], "fleet");
        assert!(!policy.origins.contains_key("timeout_ms"));
    }

    #[test]
    fn idempotence_is_a_fact_of_the_code() {
        let idempotent = MethodDescriptor {
            idempotent: true,
            attempts: Some(5),
            ..get()
        };
        let resolution = Resolution::default();
        assert!(method_policy(Some(&idempotent), "", &resolution).idempotent);
        assert_eq!(method_policy(Some(&idempotent), "", &resolution).attempts, 5);
        assert!(!method_policy(Some(&get()), "", &resolution).idempotent);
        assert!(PolicyDocument::parse(&Scope::Fleet, r#"{"call":{"idempotent":true}}"#).is_err());
    }

    #[test]
    fn provider_limits_add_up_too() {
        let layers = [
            layer("fleet", r#"{"provider":{"pool":7,"queue":8}}"#),
            layer(
                "application/a",
                r#"{"provider":{"queue":9,"concurrency":{"Get":1,"Put":2}}}"#,
            ),
            layer("service/s.v1.S", r#"{"provider":{"concurrency":{"Get":3}}}"#),
        ];
        let limits = provider_limits(layers.iter().flatten());
        assert_eq!((limits.pool, limits.queue), (7, 9));
        assert_eq!((limits.concurrency["Get"], limits.concurrency["Put"]), (3, 2));
    }

    #[test]
    fn the_built_in_values_are_those_of_the_table() {
        use crate::policy::fields::{DOCUMENT, Kind};
        let call = DOCUMENT.iter().find(|field| field.name == "call").unwrap();
        let Kind::Object(call) = call.kind else {
            panic!("an object")
        };
        let built_in = MethodPolicy::built_in(false);
        let default = |path: &str| {
            let mut fields = call;
            let mut found = "";
            for name in path.split('.') {
                let field = fields.iter().find(|field| field.name == name).unwrap();
                found = field.default;
                if let Kind::Object(inner) = field.kind {
                    fields = inner;
                }
            }
            found.to_owned()
        };
        let breaker = built_in.node_breaker;
        for (path, value) in [
            ("timeout_ms", built_in.timeout.as_millis().to_string()),
            ("retry.attempts", built_in.attempts.to_string()),
            ("retry.backoff_ms", built_in.backoff.as_millis().to_string()),
            (
                "retry.max_backoff_ms",
                built_in.max_backoff.as_millis().to_string(),
            ),
            ("retry.budget_percent", built_in.budget_percent.to_string()),
            ("retry.budget_per_second", built_in.budget_per_second.to_string()),
            ("node_breaker.enabled", breaker.enabled.to_string()),
            (
                "node_breaker.consecutive_failures",
                breaker.consecutive_failures.to_string(),
            ),
            (
                "node_breaker.ejection_ms",
                breaker.ejection.as_millis().to_string(),
            ),
            (
                "node_breaker.max_ejection_ms",
                breaker.max_ejection.as_millis().to_string(),
            ),
            (
                "node_breaker.max_ejected_percent",
                breaker.max_ejected_percent.to_string(),
            ),
        ] {
            assert_eq!(default(path), value, "{path}");
        }
        assert_eq!(default("attempt_timeout_ms"), "none");
        assert_eq!(built_in.attempt_timeout, None);
    }
}
