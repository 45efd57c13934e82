//! Documents in their order of precedence → the values that hold for one method, and where each came from.

use std::sync::Arc;

use serde::Serialize;

use super::call::{CallPolicy, CallRules};
use super::document::PolicyDocument;
use super::group::Origins;
use super::provider::ProviderRules;
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
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MethodPolicy {
    /// The values.
    pub call: CallRules,
    /// Whether the method may be attempted again after its handler may have run. A fact of the code.
    pub idempotent: bool,
    /// Whether its provider runs it once for each request id, so that it may be attempted again all the same. A fact of
    /// the code.
    pub dedup: bool,
    /// Field (without `call.`) → the layer that set it; fields that are not here hold their built-in value.
    pub origins: Origins,
}

/// Resolves one method for the consumer `caller`; without a method, what holds for the service as a whole.
pub fn method_policy(
    method: Option<&MethodDescriptor>,
    caller: &str,
    resolution: &Resolution,
) -> MethodPolicy {
    let mut resolved = MethodPolicy {
        idempotent: method.is_some_and(|method| method.idempotent),
        dedup: method.is_some_and(|method| method.dedup),
        ..MethodPolicy::default()
    };
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

/// What holds at the provider's side, and where each value came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ProviderView {
    /// The values.
    pub rules: ProviderRules,
    /// Field (without `provider.`) → the layer that set it.
    pub origins: Origins,
}

/// Resolves the provider's side for one service: the fleet's document, then the application's, then the service's.
pub fn provider_rules<'a>(layers: impl Iterator<Item = &'a Layer>) -> ProviderView {
    let mut view = ProviderView::default();
    for layer in layers {
        view.rules
            .apply("", &layer.document.provider, &layer.origin, &mut view.origins);
    }
    view
}

impl MethodPolicy {
    /// Whether a further attempt does no harm even where the handler may have run: running twice is harmless, or the
    /// provider sees to it that it does not.
    pub fn may_repeat(&self) -> bool {
        self.idempotent || self.dedup
    }

    fn apply(&mut self, origin: &Arc<str>, call: &CallPolicy) {
        self.call.apply("", call, origin, &mut self.origins);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Scope;
    use crate::policy::Balance;

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
        (policy.call.timeout_ms, origin.to_owned())
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
        assert_eq!((policy.call.retry.attempts, policy.call.retry.backoff_ms), (4, 5));
        assert_eq!(
            (policy.call.balance, policy.call.timeout_ms),
            (Balance::Random, 3000)
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
        assert_eq!(
            method_policy(Some(&idempotent), "", &resolution)
                .call
                .retry
                .attempts,
            5
        );
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
        let limits = provider_rules(layers.iter().flatten()).rules;
        assert_eq!((limits.pool, limits.queue), (7, 9));
        assert_eq!((limits.concurrency["Get"], limits.concurrency["Put"]), (3, 2));
    }
}
