//! Namespaces: one environment each.

use rsf_registry::StoreError;

use crate::fixture::Fixture;

pub(crate) async fn unknown_namespace_is_named(fixture: &impl Fixture) {
    let error = fixture.unknown_namespace().await;
    assert!(
        matches!(&error, StoreError::UnknownNamespace { namespace, .. } if namespace == "nowhere"),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("`nowhere`") && text.contains("`default`"),
        "names both: {text}"
    );
}
