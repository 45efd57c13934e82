//! Which applications may call which methods: the object `provider.authorization`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fields::{Field, Kind, Level};
use super::group::group;

group! {
    /// Which applications may call which methods.
    policy AuthorizationPolicy;
    /// Which applications may call which methods, resolved.
    resolved AuthorizationRules;
    fields {
        @service mode: AuthorizationMode = AuthorizationMode::Off, Kind::Word(AuthorizationMode::WORDS),
            "`enforce` refuses whoever may not call (`denied`), `audit` lets them in, counts and logs them, `off` asks nobody";
        @service default: Access = Access::Allow, Kind::Word(Access::WORDS),
            "what holds for applications that `callers` does not name";
        @service identity: IdentityDemand = IdentityDemand::Asserted, Kind::Word(IdentityDemand::WORDS),
            "whether callers may say who they are (`asserted`) or must prove it (`proven`: a signed token, or a certificate); in the modes `audit` and `enforce`";
    }
    maps {
        @service callers: BTreeMap<String, CallerPolicy>, Kind::Named(CALLER),
            "application name → what it may call and nothing else; `*` is for all applications that are not named. A later document replaces the entry of an application as a whole";
    }
}

/// What one application may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallerPolicy {
    /// Names of methods, or `*` for all of them.
    pub methods: Option<Vec<String>>,
}

/// The fields of what one application may call.
const CALLER: &[Field] = &[Field {
    name: "methods",
    kind: Kind::TextList(200, 1000),
    default: "none",
    level: Level::Service,
    doc: "names of methods, or `*` for all of them; an empty list allows nothing",
}];

/// What authorization does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizationMode {
    /// Nothing.
    Off,
    /// Counts and logs what it would refuse.
    Audit,
    /// Refuses.
    Enforce,
}

impl AuthorizationMode {
    pub(super) const WORDS: &'static [&'static str] = &["off", "audit", "enforce"];
}

/// What holds for an application that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It may call.
    Allow,
    /// It may not.
    Deny,
}

impl Access {
    pub(super) const WORDS: &'static [&'static str] = &["allow", "deny"];
}

/// How a caller's identity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityDemand {
    /// As the caller says.
    Asserted,
    /// By proof.
    Proven,
}

impl IdentityDemand {
    pub(super) const WORDS: &'static [&'static str] = &["asserted", "proven"];
}
