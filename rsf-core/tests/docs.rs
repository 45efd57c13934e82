//! The references that are generated from tables in the code. `UPDATE_DOCS=1 cargo test -p rsf-core --test docs`
//! rewrites them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

use std::path::Path;

fn check(name: &str, title: &str, intro: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let wanted = format!("# {title}\n\n{intro}\n\n{table}");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let gone = found.lines().filter(|line| !wanted.lines().any(|w| w == *line));
    let new = wanted.lines().filter(|line| !found.lines().any(|f| f == *line));
    let diff: Vec<_> = gone
        .map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect();
    assert!(
        found == wanted,
        "docs/{name} is stale; run UPDATE_DOCS=1 cargo test -p rsf-core --test docs\n{}",
        diff.join("\n")
    );
}

#[test]
fn outcomes() {
    check(
        "outcomes.md",
        "Outcomes",
        "For each way a call can end without a reply: whether it is attempted again, what it counts for, and whether \
         dedup stores it.\nAn error that the caller gets (`RpcError`) names the reason; a provider that refuses sends \
         it as `rsf-reason`.\nGenerated from `rsf-core/src/outcome.rs`.",
        &rsf_core::outcome::markdown(),
    );
}

#[test]
fn policy() {
    check(
        "policy.md",
        "Policy",
        "Every field of a policy document. Unknown fields are refused. Precedence, later wins: built-in < fleet < \
         provider application\n< .proto option < service < method < consumer.\nGenerated from \
         `rsf-core/src/policy/fields.rs`.",
        &rsf_core::policy::fields::markdown(),
    );
}
