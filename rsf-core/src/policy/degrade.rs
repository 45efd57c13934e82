//! What answers in a method's place: the object `call.degrade`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::Kind;
use super::group::group;
use crate::status::Code;

/// Bytes that a degraded reply may have, as JSON and encoded.
pub const MAX_REPLY_BYTES: usize = 64 * 1024;

group! {
    /// What answers in a method's place, and when.
    policy DegradePolicy;
    /// What answers in a method's place, resolved.
    resolved DegradeRules;
    fields {
        when: DegradeWhen = DegradeWhen::Never, Kind::Word(DegradeWhen::WORDS),
            "when the answer below is given: never, to every call, while the method's breaker is open, or whenever the service gives none (docs/outcomes.md says for which reasons)";
        reply_json: Value, Kind::Json(MAX_REPLY_BYTES),
            "a reply of the method's type in protobuf's JSON form; beats `reply_base64` and `code`";
        reply_base64: String, Kind::Text(MAX_REPLY_BYTES.div_ceil(3) * 4),
            "an encoded reply of the method's type in base64; beats `code`";
        code: Code, Kind::Word(Code::ERROR_NAMES),
            "the gRPC code that the call fails with at once";
        message: String, Kind::Text(1000),
            "the message that goes with `code`";
    }
}

/// When a degraded answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DegradeWhen {
    /// Never.
    Never,
    /// To every call: a mock, or failure at once.
    Always,
    /// While the method's breaker is open.
    BreakerOpen,
    /// Whenever the service gives no answer of its own.
    Unavailable,
}

impl DegradeWhen {
    pub(super) const WORDS: &'static [&'static str] = &["never", "always", "breaker_open", "unavailable"];
}

impl DegradePolicy {
    /// What its fields cannot say one by one: field → what is wrong with it.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Some(text) = &self.reply_base64
            && let Err(error) = decode_base64(text)
        {
            problems.push(("reply_base64", error));
        }
        let answers = [
            ("reply_base64", self.reply_base64.is_some()),
            ("code", self.code.is_some()),
        ];
        if self.reply_json.is_some() {
            for (name, _) in answers.into_iter().filter(|(_, set)| *set) {
                problems.push((name, "stands beside `reply_json`; give one answer".to_owned()));
            }
        } else if answers.iter().all(|(_, set)| *set) {
            problems.push(("code", "stands beside `reply_base64`; give one answer".to_owned()));
        }
        if self.message.is_some() && (self.reply_json.is_some() || self.reply_base64.is_some()) {
            problems.push(("message", "goes with `code`, not with a reply".to_owned()));
        }
        problems
    }
}

pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    let bytes = crate::metadata::BASE64
        .decode(text)
        .map_err(|error| format!("is no base64: {error}"))?;
    if bytes.len() > MAX_REPLY_BYTES {
        return Err(format!(
            "{} bytes; at most {MAX_REPLY_BYTES} are allowed",
            bytes.len()
        ));
    }
    Ok(bytes)
}
