//! One declaration a field: its type, its range, its default and its meaning, for documents, resolution and docs alike.
//!
//! A *group* is a JSON object of a policy document. [`group!`] makes of it
//!
//! - the document's type, in which every field may be absent,
//! - the resolved type, in which a field with a default holds a value and the others are options,
//! - `FIELDS`, the table that validation, `docs/policy.md` and the JSON Schema come from.

/// Where a field came from: its path (`call.retry.attempts` without `call.`) → the layer that set it.
pub type Origins = std::collections::BTreeMap<String, std::sync::Arc<str>>;

/// `path.name`, or `name` at the top.
pub(crate) fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

/// Declares a group.
///
/// `@service` before a field keeps it out of `methods`, because it holds for the service as a whole; `@instance` lets it
/// stand in documents of the fleet and of applications alone; `@fleet` in the fleet's alone. `maps` add up key by key
/// over the layers, everything else is replaced by the later layer.
macro_rules! group {
    (
        $(#[$policy_meta:meta])* policy $policy:ident;
        $(#[$resolved_meta:meta])* resolved $resolved:ident;
        fields { $( $(@$level:ident)? $name:ident: $ty:ty $(= $default:expr)?, $kind:expr, $doc:expr; )* }
        $( maps { $( $(@$map_level:ident)? $map:ident: $map_ty:ty, $map_kind:expr, $map_doc:expr; )* } )?
        $( groups { $( $(@$group_level:ident)? $group:ident: $group_policy:ident => $group_resolved:ident, $group_doc:expr; )* } )?
    ) => {
        $(#[$policy_meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $policy {
            $( #[doc = $doc] pub $name: Option<$ty>, )*
            $( $( #[doc = $map_doc] pub $map: $map_ty, )* )?
            $( $( #[doc = $group_doc] pub $group: $group_policy, )* )?
        }

        $(#[$resolved_meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        pub struct $resolved {
            $( #[doc = $doc] pub $name: $crate::policy::group::resolved_type!($ty $(, $default)?), )*
            $( $( #[doc = $map_doc] pub $map: $map_ty, )* )?
            $( $( #[doc = $group_doc] pub $group: $group_resolved, )* )?
        }

        impl $policy {
            /// The table of its fields.
            pub const FIELDS: &'static [$crate::policy::fields::Field] = &[
                $( $crate::policy::fields::Field {
                    name: stringify!($name),
                    kind: $kind,
                    default: $crate::policy::group::default_text!($($default)?),
                    level: $crate::policy::group::level!($($level)?),
                    doc: $doc,
                }, )*
                $( $( $crate::policy::fields::Field {
                    name: stringify!($map),
                    kind: $map_kind,
                    default: "none",
                    level: $crate::policy::group::level!($($map_level)?),
                    doc: $map_doc,
                }, )* )?
                $( $( $crate::policy::fields::Field {
                    name: stringify!($group),
                    kind: $crate::policy::fields::Kind::Object($group_policy::FIELDS),
                    default: "",
                    level: $crate::policy::group::level!($($group_level)?),
                    doc: $group_doc,
                }, )* )?
            ];
        }

        impl Default for $resolved {
            fn default() -> Self {
                $resolved {
                    $( $name: $crate::policy::group::built_in!($($default)?), )*
                    $( $( $map: Default::default(), )* )?
                    $( $( $group: Default::default(), )* )?
                }
            }
        }

        #[allow(dead_code, clippy::clone_on_copy, clippy::useless_conversion, clippy::allow_attributes, reason = "one text for all types")]
        impl $resolved {
            /// Takes over what a document sets, and notes that it was `origin` that set it.
            pub(crate) fn apply(
                &mut self,
                path: &str,
                from: &$policy,
                origin: &std::sync::Arc<str>,
                origins: &mut $crate::policy::group::Origins,
            ) {
                $( if let Some(value) = &from.$name {
                    self.$name = value.clone().into();
                    origins.insert($crate::policy::group::join(path, stringify!($name)), origin.clone());
                } )*
                $( $( for (key, value) in &from.$map {
                    self.$map.insert(key.clone(), value.clone());
                    let path = $crate::policy::group::join(path, stringify!($map));
                    origins.insert($crate::policy::group::join(&path, key), origin.clone());
                } )* )?
                $( $(
                    self.$group.apply(&$crate::policy::group::join(path, stringify!($group)), &from.$group, origin, origins);
                )* )?
            }
        }
    };
}

macro_rules! resolved_type {
    ($ty:ty) => { Option<$ty> };
    ($ty:ty, $default:expr) => { $ty };
}

macro_rules! built_in {
    () => {
        None
    };
    ($default:expr) => {
        $default
    };
}

macro_rules! default_text {
    () => {
        "none"
    };
    ($default:expr) => {
        stringify!($default)
    };
}

macro_rules! level {
    () => {
        $crate::policy::fields::Level::Method
    };
    (service) => {
        $crate::policy::fields::Level::Service
    };
    (instance) => {
        $crate::policy::fields::Level::Instance
    };
    (fleet) => {
        $crate::policy::fields::Level::Fleet
    };
}

pub(crate) use {built_in, default_text, group, level, resolved_type};
