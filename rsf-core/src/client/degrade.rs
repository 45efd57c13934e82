//! Degradation: an answer where the service has none, or in its place.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use super::reply_type::ReplyTypes;
use super::stack::{Guard, OutboundCall, Outcome};
use crate::call::HandOver;
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::method::MethodDescriptor;
use crate::outcome::Reason;
use crate::policy::degrade::{MAX_REPLY_BYTES, decode_base64};
use crate::policy::{DegradeRules, DegradeWhen, MethodPolicy};
use crate::status::{Code, Status};
use crate::wire::UnaryReply;
use crate::wire::headers::DEGRADED;

/// Answers in the service's place where policy says so.
pub(crate) struct Degrade {}

impl Guard for Degrade {
    type Pass = ();

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<(), Outcome> {
        match &call.guards().degrade {
            Some(degraded) if degraded.is_always() => Err(degraded.answer(call)),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn leave((): (), call: &mut OutboundCall, outcome: &mut Outcome) {
        let Err(error) = outcome else { return };
        // Nobody waits for a one-way call that was handed over: an answer would be counted that nobody got, and hide from
        // the count of failures that the handler may never have run.
        if call.options.one_way().is_some_and(HandOver::is_done) {
            return;
        }
        if let Some(degraded) = &call.guards().degrade
            && degraded.is_for(error.reason())
            && let Some(reply) = degraded.answer_instead(call, error)
        {
            *outcome = Ok(reply);
        }
    }
}

/// A method's answer by policy, ready to be given.
pub(crate) struct Degraded {
    rules: DegradeRules,
    answer: Answer,
    /// The layer that set `when`.
    origin: Arc<str>,
    given: prometheus::IntCounter,
}

enum Answer {
    Reply(Bytes),
    Fail(Code),
}

impl Degraded {
    /// The answer that policy wants; `None` where it wants none, or an earlier one that is the same.
    ///
    /// # Errors
    /// What is wrong with the answer for this method.
    pub(super) fn build(
        method: &MethodDescriptor,
        policy: &MethodPolicy,
        types: &ReplyTypes<'_>,
        previous: Option<&Arc<Degraded>>,
        given: impl FnOnce() -> prometheus::IntCounter,
    ) -> Result<Option<Arc<Degraded>>, String> {
        let rules = &policy.call.degrade;
        if rules.when == DegradeWhen::Never {
            return Ok(None);
        }
        let origin = policy.origins.get("degrade.when").cloned();
        let origin = origin.unwrap_or_else(|| "built-in".into());
        if let Some(same) = previous.filter(|previous| previous.rules == *rules && previous.origin == origin)
        {
            return Ok(Some(same.clone()));
        }
        Ok(Some(Arc::new(Degraded {
            answer: answer(method, rules, types)?,
            origin,
            given: given(),
            rules: rules.clone(),
        })))
    }

    /// Whether it answers without asking the service.
    pub(super) fn is_always(&self) -> bool {
        self.rules.when == DegradeWhen::Always
    }

    /// The layer that switched it on.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it answers in the place of an error of `reason`.
    pub(super) fn is_for(&self, reason: Reason) -> bool {
        match self.rules.when {
            DegradeWhen::Never | DegradeWhen::Always => false,
            DegradeWhen::BreakerOpen => reason == Reason::BreakerOpen,
            DegradeWhen::Unavailable => reason.is_unavailable(),
        }
    }

    /// Answers; the service is not asked.
    fn answer(&self, call: &OutboundCall) -> Outcome {
        self.given.inc();
        match &self.answer {
            Answer::Reply(message) => Ok(reply(message)),
            Answer::Fail(code) => {
                let status = self.status(*code, call, None);
                Err(RpcError::with_status(Reason::Degraded, false, status))
            }
        }
    }

    /// Answers in the place of `error`: with a reply, or by another status of the failure that it is.
    fn answer_instead(&self, call: &OutboundCall, error: &mut RpcError) -> Option<UnaryReply> {
        self.given.inc();
        match &self.answer {
            Answer::Reply(message) => Some(reply(message)),
            Answer::Fail(code) => {
                error.answer_by_policy(self.status(*code, call, Some(error)));
                None
            }
        }
    }

    fn status(&self, code: Code, call: &OutboundCall, error: Option<&RpcError>) -> Status {
        let message = match (&self.rules.message, error) {
            (Some(message), _) => message.clone(),
            (None, Some(error)) => {
                format!(
                    "degraded by `degrade` of {}, because {}",
                    self.origin,
                    error.message()
                )
            }
            (None, None) => format!(
                "{}: fails at once by `degrade` of {}; not sent",
                call.method().path,
                self.origin
            ),
        };
        Status::new(code, message).with_metadata(mark())
    }
}

fn reply(message: &Bytes) -> UnaryReply {
    UnaryReply {
        result: Ok(message.clone()),
        metadata: mark(),
    }
}

/// Says that it is no answer of the service.
fn mark() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set_reserved(DEGRADED, HeaderValue::from_static("policy"));
    metadata
}

/// A reply beats a code, so that a service's reply can stand over a fleet's code.
fn answer(method: &MethodDescriptor, rules: &DegradeRules, types: &ReplyTypes<'_>) -> Result<Answer, String> {
    if let Some(json) = &rules.reply_json {
        let bytes = types.encode(method, json)?;
        if bytes.len() > MAX_REPLY_BYTES {
            return Err(format!(
                "reply_json: {} bytes encoded; at most {MAX_REPLY_BYTES} are allowed",
                bytes.len()
            ));
        }
        return Ok(Answer::Reply(bytes.into()));
    }
    if let Some(text) = &rules.reply_base64 {
        let bytes = decode_base64(text).map_err(|error| format!("reply_base64: {error}"))?;
        types.check(method, &bytes)?;
        return Ok(Answer::Reply(bytes.into()));
    }
    match rules.code {
        Some(code) => Ok(Answer::Fail(code)),
        None => Err(
            "when: there is no answer to give; set `reply_json`, `reply_base64` or `code` beside it"
                .to_owned(),
        ),
    }
}
