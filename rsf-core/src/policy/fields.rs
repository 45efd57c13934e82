//! What a policy field may hold, and the table of all fields of a document.
//!
//! Validation walks a document along this table; `docs/policy.md` and the JSON Schema ([`super::schema`]) are made from
//! it.

use std::fmt::Write as _;

use super::call::CallPolicy;
use super::dedup::DedupPolicy;
use super::instances::INSTANCE;
use super::provider::ProviderPolicy;

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number within the bounds, both included.
    Integer(u64, u64),
    /// A number within the bounds, both included.
    Number(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// One of these words, or a name behind this prefix.
    Choice(&'static [&'static str], &'static str),
    /// A list of these words, each at most once.
    Words(&'static [&'static str]),
    /// Any text up to this many bytes.
    Text(usize),
    /// A list of texts up to this many bytes each; at most so many.
    TextList(usize, usize),
    /// `true` or `false`.
    Flag,
    /// Any JSON value up to this many bytes.
    Json(usize),
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object whose keys are names and whose values have these fields.
    Named(&'static [Field]),
    /// An object whose keys are names of methods; of these fields only those of [`Level::Method`].
    Methods(&'static [Field]),
    /// An object of text values.
    Texts,
    /// An object whose keys are names and whose values are whole numbers within the bounds.
    Numbers(u64, u64),
    /// A list of objects with these fields, at most this many.
    List(&'static [Field], usize),
}

/// The narrowest thing that a field can be set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Each method can have its own.
    Method,
    /// One for a whole service: not under `methods`.
    Service,
    /// One for all that an instance does: documents of the fleet and of applications.
    Instance,
    /// One for each process: documents of the fleet.
    Fleet,
}

/// One field of a policy document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What holds where no document sets it, as written in the code; [`Field::shown_default`] says it in a document's
    /// words.
    pub default: &'static str,
    /// What it can be set for.
    pub level: Level,
    /// What it does, with its unit.
    pub doc: &'static str,
}

impl Field {
    /// The default as a document would write it: `300000` for `300_000`, `least_pending` for `Balance::LeastPending`.
    pub fn shown_default(&self) -> String {
        // A list of words.
        if let Some((_, words)) = self.default.split_once('[') {
            let words = words.split('"').skip(1).step_by(2);
            return words.collect::<Vec<_>>().join(", ");
        }
        let text = self.default.trim_matches('"');
        match text.rsplit_once("::") {
            Some((_, variant)) => {
                let mut word = String::new();
                for c in variant.chars() {
                    if c.is_ascii_uppercase() && !word.is_empty() {
                        word.push('_');
                    }
                    word.push(c.to_ascii_lowercase());
                }
                word
            }
            None if text.starts_with(|c: char| c.is_ascii_digit()) => text.replace('_', ""),
            None => text.to_owned(),
        }
    }
}

/// An hour, the longest time a policy may name unless a field says otherwise.
pub(super) const HOUR_MS: u64 = 3_600_000;

const fn top(name: &'static str, kind: Kind, level: Level, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        default: "",
        level,
        doc,
    }
}

/// The fields of a document.
pub const DOCUMENT: &[Field] = &[
    top(
        "call",
        Kind::Object(CallPolicy::FIELDS),
        Level::Method,
        "holds for every method that the scope covers",
    ),
    top(
        "methods",
        Kind::Methods(CallPolicy::FIELDS),
        Level::Method,
        "method name → what differs for that method (service scope only)",
    ),
    top(
        "consumers",
        Kind::Named(CallPolicy::FIELDS),
        Level::Method,
        "application name → what differs for calls from that application",
    ),
    top(
        "instances",
        Kind::List(INSTANCE, 1000),
        Level::Method,
        "rules for instances, in order; of two that name the same field the later wins",
    ),
    top(
        "provider",
        Kind::Object(ProviderPolicy::FIELDS),
        Level::Method,
        "what holds at the provider's side",
    ),
    Field {
        name: "callback_threads",
        kind: Kind::Integer(1, 1024),
        default: "4",
        level: Level::Fleet,
        doc: "threads that run callbacks in each process",
    },
];

/// Every field's path, containers included, with what it can be set for and the field: `call.retry.attempts`, `instances[].weight`.
pub fn paths() -> Vec<(String, Level, &'static Field)> {
    type Paths = Vec<(String, Level, &'static Field)>;
    fn walk(prefix: &str, above: Level, fields: &'static [Field], out: &mut Paths) {
        for field in fields {
            let path = format!("{prefix}{}", field.name);
            // What holds for a group holds for all in it.
            let level = field.level.max(above);
            out.push((path.clone(), level, field));
            match field.kind {
                Kind::Object(inner) => walk(&format!("{path}."), level, inner, out),
                Kind::List(inner, _) => walk(&format!("{path}[]."), level, inner, out),
                // Those of `call` and of `provider.dedup` stand in the table once.
                Kind::Named(inner) if inner != CallPolicy::FIELDS && inner != DedupPolicy::FIELDS => {
                    walk(&format!("{path}.*."), level, inner, out);
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    walk("", Level::Method, DOCUMENT, &mut out);
    out
}

/// The reference of all fields as a Markdown table. `tested` names the test that changes a field live.
pub fn markdown(tested: impl Fn(&str) -> String) -> String {
    let mut out = String::from(
        "| field | holds | default | set for | meaning | tested live by |\n|---|---|---|---|---|---|\n",
    );
    for (path, level, field) in paths() {
        let holds = holds(field.kind);
        let level = match level {
            _ if matches!(field.kind, Kind::Object(_)) || !path.contains('.') && field.default.is_empty() => {
                ""
            }
            Level::Method => "method",
            Level::Service => "service",
            Level::Instance => "instance",
            Level::Fleet => "fleet",
        };
        let level = if path.starts_with("instances[]") {
            ""
        } else {
            level
        };
        let (default, doc) = (field.shown_default(), field.doc);
        let _ = writeln!(
            out,
            "| `{path}` | {holds} | {default} | {level} | {doc} | {} |",
            tested(&path)
        );
    }
    out
}

fn holds(kind: Kind) -> String {
    match kind {
        Kind::Integer(least, u64::MAX) => format!("integer, at least {least}"),
        Kind::Integer(least, most) => format!("integer, {least} to {most}"),
        Kind::Number(least, most) => format!("number, {least} to {most}"),
        Kind::Word(words) => format!("`{}`", words.join("`, `")),
        Kind::Choice(words, prefix) => format!("`{}`, `{prefix}<name>`", words.join("`, `")),
        Kind::Words(words) => format!("list of `{}`", words.join("`, `")),
        Kind::Text(most) => format!("text, at most {most} bytes"),
        Kind::TextList(most, count) => format!("list of at most {count} texts, at most {most} bytes each"),
        Kind::Flag => "`true`, `false`".to_owned(),
        Kind::Json(most) => format!("any JSON, at most {most} bytes"),
        Kind::Object(_) => "object".to_owned(),
        Kind::Methods(_) => "names → the fields of `call` that are set for a method".to_owned(),
        Kind::Named(inner) if inner == CallPolicy::FIELDS => "names → the fields of `call`".to_owned(),
        Kind::Named(inner) if inner == DedupPolicy::FIELDS => {
            "names → the fields of `provider.dedup`".to_owned()
        }
        Kind::Named(_) => "names → object".to_owned(),
        Kind::Texts => "names → text".to_owned(),
        Kind::Numbers(least, most) => format!("names → integer, {least} to {most}"),
        Kind::List(_, most) => format!("list, at most {most}"),
    }
}
