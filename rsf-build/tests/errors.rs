//! What a wrong .proto file gets: the place, what is wrong, and what to do. All of it at once.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::path::Path;

use rsf_build::{Config, Error};

const HEADER: &str = "syntax = \"proto3\";\npackage p;\nimport \"rsf/options/v1/options.proto\";\n";

/// Compiles `a.proto` of `source`, and returns what it printed.
fn refusal(source: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.proto"), source).unwrap();
    error_in(folder.path(), &["a.proto"]).to_string()
}

fn error_in(folder: &Path, protos: &[&str]) -> Error {
    let out = tempfile::tempdir().unwrap();
    let error = Config::new()
        .out_dir(out.path())
        .compile(protos, &[folder])
        .unwrap_err();
    assert_eq!(
        std::fs::read_dir(out.path()).unwrap().count(),
        0,
        "nothing is written beside an error"
    );
    error
}

/// One rpc with these options, from line 5 on.
fn with_options(options: &str) -> String {
    let messages = "message Q { string id = 1; repeated string ids = 2; Inner inner = 3; double weight = 4; }\n\
                    message Inner { bytes key = 1; }";
    format!("{HEADER}service S {{\n  rpc Get(Q) returns (Q) {{\n    {options}\n  }}\n}}\n{messages}\n")
}

#[test]
fn options_are_checked() {
    let table = [
        (
            "option (rsf.options.v1.method).timeout_ms = 0;",
            "a.proto:6:5: p.S.Get: `timeout_ms` is 0, it must be 1 to 3600000",
        ),
        (
            "option (rsf.options.v1.method).timeout_ms = 3600001;",
            "a.proto:6:5: p.S.Get: `timeout_ms` is 3600001, it must be 1 to 3600000",
        ),
        (
            "option (rsf.options.v1.method).attempts = 6;",
            "a.proto:6:5: p.S.Get: `attempts` is 6, it must be 1 to 5",
        ),
        (
            "option (rsf.options.v1.method) = { attempts: 0 };",
            "a.proto:6:5: p.S.Get: `attempts` is 0, it must be 1 to 5",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"member\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"member\"`: p.Q has no field `member`; its fields: `id`, `ids`, `inner`, `weight`",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"\"`: p.Q has no field ``; its fields: `id`, `ids`, `inner`, `weight`",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"inner.id\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"inner.id\"`: p.Inner has no field `id`; its fields: `key`",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"ids\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"ids\"`: `ids` holds many values; a routing key is a single one",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"inner\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"inner\"`: `inner` is a whole p.Inner; name a field in it",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"id.x\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"id.x\"`: `id` is no message, nothing is inside it",
        ),
        (
            "option (rsf.options.v1.method).routing_key = \"weight\";",
            "a.proto:6:5: p.S.Get: `routing_key: \"weight\"`: `weight` is a floating point number, which is no key",
        ),
        (
            "option idempotency_level = IDEMPOTENT; option (rsf.options.v1.method).idempotent = false;",
            "a.proto:6:44: p.S.Get: `idempotent: false` contradicts `idempotency_level = IDEMPOTENT`: keep one of them",
        ),
    ];
    for (options, expected) in table {
        assert_eq!(
            refusal(&with_options(options)),
            format!("rsf-build: {expected}"),
            "{options}"
        );
    }
}

#[test]
fn options_that_are_no_options_are_refused_with_their_place() {
    let table = [
        ("option (rsf.options.v1.method).timeout_ms = -1;", "a.proto:6:"),
        ("option (rsf.options.v1.method).timeout = 1;", "a.proto:6:"),
        ("option (rsf.options.v1.nothing) = {};", "a.proto:6:"),
    ];
    for (options, place) in table {
        let refusal = refusal(&with_options(options));
        assert!(
            refusal.starts_with(&format!("rsf-build: {place}")),
            "{options}: {refusal}"
        );
    }
}

#[test]
fn a_good_file_is_accepted() {
    let out = tempfile::tempdir().unwrap();
    let options =
        "option (rsf.options.v1.method) = { timeout_ms: 3600000 attempts: 5 routing_key: \"inner.key\" };";
    std::fs::write(out.path().join("a.proto"), with_options(options)).unwrap();
    Config::new()
        .out_dir(out.path())
        .compile(&["a.proto"], &[out.path()])
        .unwrap();
    let code = std::fs::read_to_string(out.path().join("p.rs")).unwrap();
    assert!(
        code.contains("3600000 ms and 5 attempts unless policy says otherwise; keyed by `inner.key`"),
        "{code}"
    );
    assert!(
        !out.path().join("rsf.options.v1.rs").exists(),
        "RSF's options are no message of the application's"
    );
}

#[test]
fn options_on_streaming_methods_are_refused() {
    let options = "option (rsf.options.v1.method).attempts = 2;";
    let source = with_options(options).replace("returns (Q)", "returns (stream Q)");
    let expected = "rsf-build: a.proto:6:5: p.S.Get: RSF's options hold for unary methods; a streaming method is not \
                    governed by them: remove them";
    assert_eq!(refusal(&source), expected);
}

#[test]
fn names_that_become_one_are_refused() {
    let table = [
        (
            "service S { rpc GetAll(Q) returns (Q);\n rpc Get_All(Q) returns (Q); }\nmessage Q {}",
            "a.proto:5:2: p.S.Get_All and p.S.GetAll are both `get_all` in Rust: rename one of them",
        ),
        (
            "message SClient {}\nservice S { rpc Get(SClient) returns (SClient); }",
            "a.proto:5:1: p.S and p.SClient are both `SClient` in Rust: rename one of them",
        ),
        (
            "message Foo_Bar {}\nmessage FooBar {}",
            "a.proto:5:1: p.FooBar and p.Foo_Bar are both `FooBar` in Rust: rename one of them",
        ),
    ];
    for (source, expected) in table {
        assert_eq!(
            refusal(&format!("{HEADER}{source}\n")),
            format!("rsf-build: {expected}")
        );
    }
}

#[test]
fn syntax_errors_name_the_place() {
    let refusal = refusal("syntax = \"proto3\";\npackage p;\nmessage Q {\n  string id 1;\n}\n");
    assert!(
        refusal.starts_with("rsf-build: a.proto:4:13: expected "),
        "{refusal}"
    );
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let source = format!(
        "{HEADER}service S {{\n  rpc A(Q) returns (Q) {{\n    option (rsf.options.v1.method) = {{\n      timeout_ms: 0\n      \
         attempts: 9\n      routing_key: \"x\"\n    }};\n  }}\n  rpc a(Q) returns (Q);\n}}\nmessage Q {{}}\n"
    );
    let problems = "rsf-build: 4 problems\n  \
        a.proto:6:5: p.S.A: `timeout_ms` is 0, it must be 1 to 3600000\n  \
        a.proto:6:5: p.S.A: `attempts` is 9, it must be 1 to 5\n  \
        a.proto:6:5: p.S.A: `routing_key: \"x\"`: p.Q has no field `x`; its fields: none\n  \
        a.proto:12:3: p.S.a and p.S.A are both `a` in Rust: rename one of them";
    assert_eq!(refusal(&source), problems);

    let unknown_types = refusal("syntax = \"proto3\";\npackage p;\nmessage Q {\n  Y y = 1;\n  Z z = 2;\n}\n");
    assert!(
        unknown_types.contains("a.proto:4:3") && unknown_types.contains("a.proto:5:3"),
        "{unknown_types}"
    );
}

#[test]
fn several_files_are_told_of_together() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("a.proto"),
        "syntax = \"proto3\";\nimport \"gone.proto\";\n",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("b.proto"),
        "syntax = \"proto3\";\nmessage {}\n",
    )
    .unwrap();
    let error = error_in(folder.path(), &["a.proto", "b.proto", "c.proto"]);
    let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(problems[0], "a.proto:2:1: import 'gone.proto' not found");
    assert!(
        problems[1].starts_with("b.proto:2:9: expected an identifier"),
        "{problems:?}"
    );
    let folders = folder.path().display();
    assert_eq!(
        problems[2],
        format!("c.proto: no such file in the include folders ({folders})")
    );
    assert_eq!(
        format!("{error:?}"),
        format!("{error}"),
        "build scripts print errors by `Debug`"
    );
}

#[test]
fn folders_that_are_not_there_are_named() {
    let out = tempfile::tempdir().unwrap();
    let error = Config::new()
        .out_dir(out.path())
        .compile(&["a.proto"], &["no/such/folder"])
        .unwrap_err();
    assert_eq!(error.problems()[0].file, "no/such/folder");
    assert!(
        error.problems()[0]
            .message
            .starts_with("no such include folder (the build runs in /"),
        "{error}"
    );

    let source = tempfile::tempdir().unwrap();
    std::fs::write(
        source.path().join("a.proto"),
        "syntax = \"proto3\";\nmessage Q {}\n",
    )
    .unwrap();
    let nowhere = Config::new()
        .out_dir("/no/such/folder")
        .compile(&["a.proto"], &[source.path()])
        .unwrap_err();
    assert_eq!(nowhere.problems()[0].file, "/no/such/folder");
    assert!(
        nowhere.to_string().contains("No such file or directory"),
        "{nowhere}"
    );
}
