//! The table of policy fields: name, kind, range, default and meaning of each, in one place.
//!
//! Validation walks a document along this table, and `docs/policy.md` is generated from it.

use std::fmt::Write as _;

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number within the bounds, both included.
    Integer(u64, u64),
    /// A number within the bounds, both included.
    Number(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any text up to this many bytes.
    Text(usize),
    /// `true` or `false`.
    Flag,
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object whose keys are names (of methods, of applications) and whose values have these fields.
    Named(&'static [Field]),
    /// An object of text values.
    Texts,
    /// An object whose keys are names and whose values are whole numbers within the bounds.
    Numbers(u64, u64),
    /// A list of objects with these fields, at most this many.
    List(&'static [Field], usize),
}

/// One field of a policy document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What holds where no document sets it, in words.
    pub default: &'static str,
    /// What it does, with its unit.
    pub doc: &'static str,
}

const fn field(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        default,
        doc,
    }
}

/// An hour, the longest time a policy may name unless a field says otherwise.
const HOUR_MS: u64 = 3_600_000;

const ATTEMPTS: Field = field(
    "attempts",
    Kind::Integer(1, 5),
    "3",
    "tries of one call, the first included (gRFC A6's bound of 5)",
);
const BACKOFF: Field = field(
    "backoff_ms",
    Kind::Integer(0, 60_000),
    "10",
    "milliseconds before the second attempt; doubles with each further one, with full jitter",
);
const MAX_BACKOFF: Field = field(
    "max_backoff_ms",
    Kind::Integer(0, 60_000),
    "1000",
    "milliseconds at which the doubling stops",
);

const METHOD_RETRY: &[Field] = &[ATTEMPTS, BACKOFF, MAX_BACKOFF];

const RETRY: &[Field] = &[
    ATTEMPTS,
    BACKOFF,
    MAX_BACKOFF,
    field(
        "budget_percent",
        Kind::Integer(0, 100),
        "20",
        "retries as a share of the calls, per consumer and service, over ten seconds",
    ),
    field(
        "budget_per_second",
        Kind::Integer(0, 10_000),
        "10",
        "retries a second that are always allowed",
    ),
];

const NODE_BREAKER: &[Field] = &[
    field(
        "enabled",
        Kind::Flag,
        "true",
        "whether failing instances are ejected",
    ),
    field(
        "consecutive_failures",
        Kind::Integer(1, 1000),
        "5",
        "failures or timeouts in a row that eject an instance",
    ),
    field(
        "ejection_ms",
        Kind::Integer(100, HOUR_MS),
        "5000",
        "milliseconds of the first ejection; grows with each further one, ±20 % jitter",
    ),
    field(
        "max_ejection_ms",
        Kind::Integer(100, HOUR_MS),
        "300000",
        "milliseconds that an ejection lasts at most",
    ),
    field(
        "max_ejected_percent",
        Kind::Integer(0, 100),
        "50",
        "the largest share of the instances that may be ejected; beyond it all serve (panic mode)",
    ),
];

const TIMEOUT: Field = field(
    "timeout_ms",
    Kind::Integer(1, HOUR_MS),
    "3000",
    "milliseconds for the whole logical call, all attempts included; a shorter remaining time of the caller's own call wins",
);
const ATTEMPT_TIMEOUT: Field = field(
    "attempt_timeout_ms",
    Kind::Integer(1, HOUR_MS),
    "none",
    "milliseconds after which a further attempt may start beside the first; the first stays alive and may still win",
);

/// What a single method can have of its own.
const METHOD: &[Field] = &[
    TIMEOUT,
    ATTEMPT_TIMEOUT,
    field(
        "retry",
        Kind::Object(METHOD_RETRY),
        "",
        "when and how often a call is attempted again",
    ),
];

const CALL: &[Field] = &[
    TIMEOUT,
    ATTEMPT_TIMEOUT,
    field(
        "retry",
        Kind::Object(RETRY),
        "",
        "when and how often a call is attempted again",
    ),
    field(
        "balance",
        Kind::Word(&["least_pending", "random"]),
        "least_pending",
        "how an instance is chosen: the lesser pending per weight of candidates drawn by weight, or by weight alone",
    ),
    field(
        "node_breaker",
        Kind::Object(NODE_BREAKER),
        "",
        "when an instance that fails is left alone",
    ),
];

const PROVIDER: &[Field] = &[
    field(
        "pool",
        Kind::Integer(1, 1_000_000),
        "1024",
        "handlers that run at once in an instance (fleet and application scope)",
    ),
    field(
        "queue",
        Kind::Integer(0, 1_000_000),
        "4096",
        "calls that wait for a place in the pool; one more is refused (`queue_full`); fleet and application scope",
    ),
    field(
        "concurrency",
        Kind::Numbers(0, 1_000_000),
        "none",
        "method name → calls that it may have under way at once, waiting ones included; one more is refused (`provider_limit`)",
    ),
];

const INSTANCE: &[Field] = &[
    field(
        "instance",
        Kind::Text(200),
        "any",
        "the instance's id that the rule is for",
    ),
    field("zone", Kind::Text(200), "any", "the zone that the rule is for"),
    field(
        "tags",
        Kind::Texts,
        "any",
        "tags that an instance must all have for the rule",
    ),
    field(
        "weight",
        Kind::Integer(0, 10_000),
        "its own",
        "relative share of the calls; 0 takes none",
    ),
    field("disabled", Kind::Flag, "false", "true: takes no calls at all"),
    field(
        "expires_unix_ms",
        Kind::Integer(0, u64::MAX),
        "never",
        "Unix milliseconds after which the rule is void",
    ),
];

/// The fields of a document.
pub const DOCUMENT: &[Field] = &[
    field(
        "call",
        Kind::Object(CALL),
        "",
        "holds for every method that the scope covers",
    ),
    field(
        "methods",
        Kind::Named(METHOD),
        "",
        "method name → what differs for that method (service scope only)",
    ),
    field(
        "consumers",
        Kind::Named(CALL),
        "",
        "application name → what differs for calls from that application",
    ),
    field(
        "instances",
        Kind::List(INSTANCE, 1000),
        "",
        "rules for instances, in order; of two that name the same field the later wins",
    ),
    field(
        "provider",
        Kind::Object(PROVIDER),
        "",
        "limits at the provider's side",
    ),
    field(
        "callback_threads",
        Kind::Integer(1, 1024),
        "4",
        "threads that run callbacks in each process (fleet scope only)",
    ),
];

/// The reference of all fields as a Markdown table.
pub fn markdown() -> String {
    let mut out = String::from("| field | holds | default | meaning |\n|---|---|---|---|\n");
    rows(&mut out, "", DOCUMENT);
    out
}

fn rows(out: &mut String, prefix: &str, fields: &[Field]) {
    for field in fields {
        let path = format!("{prefix}{}", field.name);
        let (holds, inner, inner_prefix) = match field.kind {
            Kind::Integer(least, u64::MAX) => (format!("integer, at least {least}"), None, String::new()),
            Kind::Integer(least, most) => (format!("integer, {least} to {most}"), None, String::new()),
            Kind::Number(least, most) => (format!("number, {least} to {most}"), None, String::new()),
            Kind::Word(words) => (format!("`{}`", words.join("`, `")), None, String::new()),
            Kind::Text(most) => (format!("text, at most {most} bytes"), None, String::new()),
            Kind::Flag => ("`true`, `false`".to_owned(), None, String::new()),
            Kind::Object(inner) => ("object".to_owned(), Some(inner), format!("{path}.")),
            Kind::Named(inner) if inner.len() == METHOD.len() => (
                "names → `timeout_ms`, `attempt_timeout_ms`, `retry`".to_owned(),
                None,
                String::new(),
            ),
            Kind::Named(_) => ("names → the fields of `call`".to_owned(), None, String::new()),
            Kind::Texts => ("names → text".to_owned(), None, String::new()),
            Kind::Numbers(least, most) => {
                (format!("names → integer, {least} to {most}"), None, String::new())
            }
            Kind::List(inner, most) => (format!("list, at most {most}"), Some(inner), format!("{path}[].")),
        };
        let _ = writeln!(out, "| `{path}` | {holds} | {} | {} |", field.default, field.doc);
        if let Some(inner) = inner {
            rows(out, &inner_prefix, inner);
        }
    }
}
