//! When a method that fails or is slow as a whole is not called for a while: the object `call.method_breaker`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fields::{HOUR_MS, Kind};
use super::group::group;
use crate::status::Code;

group! {
    /// When a method is not called for a while.
    policy MethodBreakerPolicy;
    /// When a method is not called for a while, resolved.
    #[derive(Copy)]
    resolved MethodBreakerRules;
    fields {
        enabled: bool = false, Kind::Flag,
            "whether calls fail at once (`breaker_open`) while the method fails or is slow as a whole";
        window_ms: u64 = 10_000, Kind::Integer(100, HOUR_MS),
            "milliseconds of calls that are looked at, in tenths";
        min_calls: u32 = 100, Kind::Integer(1, 1_000_000),
            "calls in the window below which nothing opens the breaker";
        error_percent: u32 = 50, Kind::Integer(1, 100),
            "errors among them that open it; docs/outcomes.md says which errors count";
        slow_call_ms: u64, Kind::Integer(1, HOUR_MS),
            "milliseconds from which a call is slow, whatever its outcome";
        slow_percent: u32 = 50, Kind::Integer(1, 100),
            "slow calls among them that open it, where `slow_call_ms` is set";
        open_ms: u64 = 5000, Kind::Integer(1, HOUR_MS),
            "milliseconds that it stays open before it tries again";
        half_open_calls: u32 = 3, Kind::Integer(1, 10_000),
            "calls that are let through to try; the same percentages of them decide whether it opens again";
        codes: Codes, Kind::Words(Code::ERROR_NAMES),
            "gRPC codes of handlers that count as errors";
    }
}

/// A set of gRPC codes, written as a list of their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Codes(u32);

impl Codes {
    /// Whether `code` is one of them.
    pub fn contains(self, code: Code) -> bool {
        self.0 & (1 << code as u32) != 0
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        Codes(codes.into_iter().fold(0, |set, code| set | 1 << code as u32))
    }
}

impl Serialize for Codes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            Code::ALL
                .iter()
                .filter(|code| self.contains(**code))
                .map(|code| code.name()),
        )
    }
}

impl<'de> Deserialize<'de> for Codes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let code = |name: &String| {
            Code::from_name(name).ok_or_else(|| D::Error::custom(format!("`{name}` is no gRPC code")))
        };
        names.iter().map(code).collect()
    }
}
