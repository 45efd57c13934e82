//! The fields of a routing rule, as the schema and docs/policy.md list them.

use super::MAX_RANGES;
use crate::policy::fields::{Field, Kind, Level};

const fn field(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        default,
        level: Level::Service,
        doc,
    }
}

const SPILL: Field = field(
    "spill_below_percent",
    Kind::Integer(0, 100),
    "70",
    "percent of the zone's instances that are well below which calls spill to the others, the more the fewer are well; 0: never while it has one",
);

/// The fields of a rule, one of which each rule has.
pub const RULE: &[Field] = &[
    field(
        "same_zone",
        Kind::Object(&[SPILL]),
        "",
        "the consumer's own zone first; spills to the others by health, at once where it has no instance",
    ),
    field(
        "primary_zone",
        Kind::Object(&[
            field(
                "zone",
                Kind::Text(200),
                "required",
                "the zone that all consumers prefer",
            ),
            field(
                "standby",
                Kind::TextList(200, 16),
                "all others",
                "the zones that it spills to, in order, and no others; an empty list: all others",
            ),
            SPILL,
        ]),
        "",
        "one zone for all consumers; spills to the others by health",
    ),
    field(
        "shard",
        Kind::Object(&[
            field(
                "key",
                Kind::Text(200),
                "as `call.routing.key`",
                "the request field (`order.customer_id`) or `metadata:<name>` that names the owner",
            ),
            field(
                "no_key",
                Kind::Word(&["refuse", "any"]),
                "refuse",
                "what becomes of a call without a key: it fails, or the rule does not narrow",
            ),
            field(
                "buckets",
                Kind::Integer(1, 1_000_000),
                "none",
                "the ranges are of the key's hash modulo this number; without it they are of the key itself",
            ),
            field(
                "ranges",
                Kind::List(RANGE, MAX_RANGES),
                "required",
                "which keys belong where; they may not overlap",
            ),
        ]),
        "",
        "the zone or tag that owns the call's key, never another; the provider checks it again (`wrong_shard`); at most one such rule",
    ),
    field(
        "tags",
        Kind::Object(&[field(
            "require",
            Kind::Texts,
            "required",
            "tags that an instance must all have",
        )]),
        "",
        "instances with these tags alone",
    ),
    field(
        "dye",
        Kind::Object(&[
            field(
                "tag",
                Kind::Text(200),
                "dye",
                "the tag that names an instance's colour",
            ),
            field(
                "metadata",
                Kind::Text(200),
                "none",
                "the metadata key that colours a call, beside the colour that it inherited (`rsf-dye`)",
            ),
            field(
                "fallback",
                Kind::Flag,
                "true",
                "whether a coloured call goes to the instances without a colour where none has its colour",
            ),
        ]),
        "",
        "coloured calls to the instances of their colour, the others to those without; the colour travels down the call chain",
    ),
    field(
        "percent",
        Kind::Object(&[
            field(
                "percent",
                Kind::Number(0.0, 100.0),
                "0",
                "share of the calls, by the key's hash or at random",
            ),
            field(
                "tags",
                Kind::Texts,
                "required",
                "the instances that get it; the others get the rest",
            ),
        ]),
        "",
        "a canary by percentage; where either side has no instance the other gets all",
    ),
    field(
        "expression",
        Kind::Object(&[
            field(
                "text",
                Kind::Text(crate::routing::expression::MAX_BYTES),
                "required",
                "yields a zone's name, or \"\" to choose nothing; see routing.md",
            ),
            field(
                "tag",
                Kind::Text(200),
                "none",
                "the tag whose value the expression yields, instead of a zone",
            ),
        ]),
        "",
        "a zone or a tag computed from the request",
    ),
];

const RANGE: &[Field] = &[
    field(
        "from",
        Kind::Json(200),
        "lowest",
        "the first key: a whole number or a text, of one sort in all ranges",
    ),
    field(
        "to",
        Kind::Json(200),
        "highest",
        "the first key that is no longer in the range",
    ),
    field(
        "zone",
        Kind::Text(200),
        "none",
        "the zone that owns the keys; this or `tag`",
    ),
    field(
        "tag",
        Kind::Texts,
        "none",
        "the one tag whose instances own the keys",
    ),
];
