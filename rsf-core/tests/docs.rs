//! The references that are generated from tables in the code. `UPDATE_DOCS=1 cargo test -p rsf-core --test docs`
//! rewrites them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

use std::collections::BTreeMap;
use std::path::Path;

use rsf_core::policy::fields::Kind;

fn check(name: &str, title: &str, intro: &str, table: &str) {
    file(name, &format!("# {title}\n\n{intro}\n\n{table}"));
}

fn file(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
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
        "For each way a call can end without a reply: whether it is attempted again (the policy `retry.reasons` may narrow\n\
         that), what it counts for, and whether \
         dedup stores it.\nAn error that the caller gets (`RpcError`) names the reason; a provider that refuses sends \
         it as `rsf-reason`.\nGenerated from `rsf-core/src/outcome.rs`.",
        &rsf_core::outcome::markdown(),
    );
}

#[test]
fn policy() {
    let tested = live_tests();
    check(
        "policy.md",
        "Policy",
        "Every field of a policy document. Unknown fields are refused. Precedence, later wins: built-in < fleet < \
         provider application\n< .proto option < service < method < consumer. The JSON Schema is \
         [policy.schema.json](policy.schema.json).\n\nThe last column names the test that changes the field while calls \
         run and sees what it does.\nGenerated from the tables in `rsf-core/src/policy`.",
        &rsf_core::policy::fields::markdown(|path| {
            tested
                .get(path)
                .map_or_else(String::new, |test| format!("`{test}`"))
        }),
    );
}

#[test]
fn the_schema_of_policies() {
    let schema = serde_json::to_string_pretty(&rsf_core::policy::schema::json_schema()).unwrap();
    file("policy.schema.json", &format!("{schema}\n"));
}

/// Field → the test that changes it live, as `path/to/file.rs::test`, from `tests/live_policy.txt`.
fn live_tests() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("rsf-core/tests/live_policy.txt")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let tests: BTreeMap<_, _> = lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(path, test)| (path.to_owned(), test.trim().to_owned()))
        .collect();
    let fields = rsf_core::policy::fields::paths();
    let container = |kind| {
        matches!(
            kind,
            Kind::Object(_) | Kind::List(..) | Kind::Named(_) | Kind::Methods(_)
        )
    };
    for (path, _, field) in &fields {
        assert!(
            container(field.kind) || tests.contains_key(path),
            "no test changes {path} live"
        );
    }
    for (path, test) in &tests {
        assert!(
            fields.iter().any(|(known, ..)| known == path),
            "{path} is no field"
        );
        let (file, name) = test.split_once("::").unwrap();
        let source =
            std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{test}: {error}"));
        assert!(source.contains(&format!("fn {name}(")), "{test} is no test");
    }
    tests
}
