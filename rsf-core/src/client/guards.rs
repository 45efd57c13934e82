//! What stands before the calls of one method and keeps its state across snapshots: its degraded answer, its limits,
//! its breaker. What policy does not use is absent, and costs a call one branch.

use std::sync::Arc;

use super::channel::ChannelState;
use super::degrade::Degraded;
use super::limit::ConsumerLimit;
use super::method_breaker::Breaker;
use super::reply_type::ReplyTypes;
use super::snapshot::ServiceSnapshot;
use crate::control::Scope;
use crate::policy::{Layer, MethodPolicy, PolicyDocument, PolicyError, Resolution, method_policy};
use crate::policy_book::DocumentCheck;

/// One method's guards, as one snapshot rules them.
pub(crate) struct Guards {
    pub(super) degrade: Option<Arc<Degraded>>,
    pub(super) limit: Option<Arc<ConsumerLimit>>,
    pub(super) breaker: Option<Arc<Breaker>>,
    /// Why policy's degraded answer is not given, where it does not fit the method.
    pub(super) unfit: Option<String>,
}

impl Guards {
    /// The guards of all methods, in the order of the service's descriptor, that follow those of `previous`.
    pub(super) fn build(
        channel: &ChannelState,
        policies: &[MethodPolicy],
        previous: Option<&ServiceSnapshot>,
    ) -> Vec<Guards> {
        let types = ReplyTypes::new(&channel.service);
        let guards = policies.iter().enumerate().map(|(place, policy)| {
            let previous = previous.and_then(|previous| previous.guards.get(place));
            Guards::of_method(channel, place, policy, &types, previous)
        });
        guards.collect()
    }

    fn of_method(
        channel: &ChannelState,
        place: usize,
        policy: &MethodPolicy,
        types: &ReplyTypes<'_>,
        previous: Option<&Guards>,
    ) -> Guards {
        let method = &channel.methods[place].descriptor;
        let metrics = &channel.shared.metrics;
        let name = format!("{}/{}", channel.key, method.name);
        let known = previous.and_then(|previous| previous.degrade.as_ref());
        let (degrade, unfit) = match Degraded::build(method, policy, types, known, || metrics.degraded(&name))
        {
            Ok(degrade) => (degrade, None),
            Err(problem) => (None, Some(problem)),
        };
        if let Some(problem) = &unfit
            && previous.and_then(|previous| previous.unfit.as_ref()) != Some(problem)
        {
            tracing::warn!(
                method = name,
                problem,
                "the degraded answer does not fit the method and is not given"
            );
            metrics.policies_refused.inc();
        }
        let known = previous.and_then(|previous| previous.breaker.as_ref());
        let breaker = Breaker::build(policy, known, || metrics.method_breaker(&name));
        let known = previous.and_then(|previous| previous.limit.as_ref());
        Guards {
            degrade,
            limit: ConsumerLimit::build(policy, known),
            breaker,
            unfit,
        }
    }
}

/// What a service's document cannot be checked for without the service's schema, which this process knows: whether its
/// degraded replies are of the methods' types.
impl DocumentCheck for ChannelState {
    fn problems(&self, document: &Arc<PolicyDocument>) -> Vec<PolicyError> {
        let types = ReplyTypes::new(&self.service);
        if !types.are_known() {
            return Vec::new();
        }
        let resolution = Resolution {
            service: Some(Layer {
                origin: Scope::Service(self.key.clone()).to_string().into(),
                document: document.clone(),
            }),
            ..Resolution::default()
        };
        let mut problems = Vec::new();
        for method in &self.methods {
            let policy = method_policy(Some(&method.descriptor), &self.shared.application, &resolution);
            let rules = &policy.call.degrade;
            let encoded = rules
                .reply_json
                .as_ref()
                .map(|json| types.encode(&method.descriptor, json).map(drop));
            let raw = rules.reply_base64.as_ref().map(|text| {
                let bytes = crate::policy::degrade::decode_base64(text)?;
                types.check(&method.descriptor, &bytes)
            });
            for problem in [encoded, raw].into_iter().flatten().filter_map(Result::err) {
                problems.push(PolicyError {
                    path: format!("degrade of method {}", method.descriptor.name),
                    problem,
                });
            }
        }
        problems
    }
}
