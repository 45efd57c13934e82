//! What a path names.

use crate::failure::Failure;

/// A path's meaning. Paths are case-sensitive, and percent signs have no place in protobuf names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// What can be called, for people and tools.
    Index,
    /// The same as an OpenAPI document.
    OpenApi,
    /// A method.
    Call { service: &'a str, method: &'a str },
}

impl<'a> Route<'a> {
    pub(super) fn find(path: &'a str, prefix: &str) -> Result<Route<'a>, Failure> {
        let unknown = || {
            Failure::unknown_path(format!(
                "nothing is at `{path}`; methods are at {prefix}/package.Service/Method, GET {prefix}/ lists them"
            ))
        };
        let rest = path.strip_prefix(prefix).ok_or_else(unknown)?;
        let rest = match rest.strip_prefix('/') {
            Some(rest) => rest,
            None if rest.is_empty() => "",
            None => return Err(unknown()),
        };
        match rest.split_once('/') {
            None if rest.is_empty() => Ok(Route::Index),
            None if rest == "openapi.json" => Ok(Route::OpenApi),
            Some((service, method)) if is_name(service) && is_name(method) && !method.contains('.') => {
                Ok(Route::Call { service, method })
            }
            _ => Err(unknown()),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 512
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_pages_methods_or_nothing() {
        let call = Some(Route::Call {
            service: "a.v1.B",
            method: "C",
        });
        for (prefix, path, expected) in [
            ("", "/", Some(Route::Index)),
            ("", "/openapi.json", Some(Route::OpenApi)),
            ("", "/a.v1.B/C", call),
            ("", "/a.v1.B/C/", None),
            ("", "/a.v1.B/", None),
            ("", "/a.v1.B", None),
            ("", "//C", None),
            ("", "/a.v1.B:gold/C", None),
            ("", "/a.v1.B/C%20", None),
            ("", "*", None),
            ("/rpc", "/rpc", Some(Route::Index)),
            ("/rpc", "/rpc/", Some(Route::Index)),
            ("/rpc", "/rpc/a.v1.B/C", call),
            ("/rpc", "/rpca.v1.B/C", None),
            ("/rpc", "/a.v1.B/C", None),
        ] {
            assert_eq!(Route::find(path, prefix).ok(), expected, "{prefix} {path}");
        }
    }
}
