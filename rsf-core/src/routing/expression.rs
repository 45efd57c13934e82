//! Expressions of routing rules: a total, bounded subset of CEL.
//!
//! `request.order.region == "north" && metadata["tier"] in ["gold", "silver"] ? "west" : ""`
//!
//! There are no loops, no calls into the program and no I/O: every node is evaluated at most once, and an expression has
//! at most [`MAX_NODES`] of them. A whole CEL interpreter brings macros that loop over what the request holds, and the one
//! at hand has no bound on its steps.
//!
//! 1. [`lex`]: text → tokens.
//! 2. [`node`]: what an expression is made of.
//! 3. [`parse`]: tokens → nodes, bounded.
//! 4. [`evaluate`]: nodes and a call's fields → a text.

mod lex;
mod node;
mod parse;

mod evaluate;

use http::header::HeaderName;

pub(crate) use evaluate::{Environment, Value};
use node::Node;

/// Bytes of an expression at most.
pub(crate) const MAX_BYTES: usize = 4096;
/// Nodes of an expression at most.
pub(crate) const MAX_NODES: usize = 200;
/// Nodes within nodes at most; chains of one operator count once.
pub(crate) const MAX_DEPTH: usize = 16;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expression {
    root: Node,
    /// The request fields that it reads, as `order.region`.
    fields: Vec<String>,
    /// The metadata that it reads.
    metadata: Vec<HeaderName>,
}

impl Expression {
    /// Parses and checks a text, or says what is wrong and where.
    pub(crate) fn parse(text: &str) -> Result<Expression, String> {
        parse::parse(text)
    }

    /// The request fields that it reads; an [`Environment`] is asked for them by their place.
    pub(crate) fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The metadata that it reads, by place.
    pub(crate) fn metadata(&self) -> &[HeaderName] {
        &self.metadata
    }

    /// The text that it yields for one call; `null` is the empty text.
    pub(crate) fn evaluate<'a>(
        &'a self,
        environment: &impl Environment<'a>,
    ) -> Result<std::borrow::Cow<'a, str>, String> {
        evaluate::text(&self.root, environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Call;

    impl<'a> Environment<'a> for (&'a Call, &'a Expression) {
        fn field(&self, place: usize) -> Value<'a> {
            match &*self.1.fields()[place] {
                "region" => Value::Text("north".into()),
                "order.id" => Value::Number(42),
                "long" => Value::Text("x".repeat(8190).into()),
                "gift" => Value::Flag(true),
                _ => Value::Null,
            }
        }

        fn metadata(&self, place: usize) -> Option<&'a str> {
            (self.1.metadata()[place] == "tier").then_some("gold")
        }

        fn method(&self) -> &'a str {
            "Get"
        }
    }

    fn result(text: &str) -> Result<String, String> {
        let expression = Expression::parse(text)?;
        expression
            .evaluate(&(&Call, &expression))
            .map(|text| text.into_owned())
    }

    #[test]
    fn expressions_yield_what_cel_would() {
        for (text, wanted) in [
            (r#""west""#, "west"),
            (r#"request.region"#, "north"),
            (r#"request.order.id > 40 ? 'big' : 'small'"#, "big"),
            (
                r#"request.order.id % 2 == 0 && request.gift ? "even" : "odd""#,
                "even",
            ),
            (r#"metadata["tier"] in ["gold", "silver"] ? "fast" : """#, "fast"),
            (r#"metadata["none"] == null ? "absent" : "there""#, "absent"),
            (r#"request.none"#, ""),
            (r#"null"#, ""),
            (
                r#"has(request.none) ? "a" : has(request.region) ? "b" : "c""#,
                "b",
            ),
            (
                r#""z-" + request.region + "-" + string(request.order.id)"#,
                "z-north-42",
            ),
            (
                r#"request.region.startsWith("no") && !request.region.endsWith("x") ? "y" : "n""#,
                "y",
            ),
            (r#"request.region.contains("ort") || 1 / 0 == 1 ? "y" : "n""#, "y"),
            (
                r#"size(request.region) == 5 && request.region.size() == 5 ? "y" : "n""#,
                "y",
            ),
            (r#"int("7") * 6 == request.order.id ? "y" : "n""#, "y"),
            (
                r#"-(3 - 5) * 2 == 4 && 7 / 2 == 3 && -7 % 3 == -1 ? "y" : "n""#,
                "y",
            ),
            (
                r#"1 < 2 && 2 <= 2 && "a" < "b" && !(2 > 3) && 3 >= 3 && 1 != 2 ? "y" : "n""#,
                "y",
            ),
            (r#"method == "Get" ? "reads" : "writes""#, "reads"),
            (
                r#"hash("42") == hash(42) && hash(request.order.id) % 4 < 4 ? "y" : "n""#,
                "y",
            ),
            (r#"'it\'s "\\"' "#, r#"it's "\""#),
        ] {
            assert_eq!(result(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("", "ends too early"),
            ("request", "request.<field>"),
            ("metadata[1]", "metadata[\"<name>\"]"),
            ("metadata[\"rsf-caller\"]", "no metadata key"),
            ("zone", "unknown name `zone`"),
            ("open(\"/etc/passwd\")", "unknown function `open`"),
            ("request.a.matches(\"x\")", "unknown function `matches`"),
            ("[1,2].map(x, x)", "unknown function `map`"),
            ("1 == 1", "yields a truth value"),
            ("7", "yields a number"),
            ("\"a\" ? \"b\" : \"c\"", "a text is no condition"),
            ("true && 1 ? \"a\" : \"b\"", "a number is no condition"),
            ("\"a\" \"b\"", "at byte 4"),
            ("\"open", "not closed"),
            ("a ~ b", "`~`"),
            ("99999999999999999999 == 1 ? \"a\" : \"b\"", "too large"),
            ("while (true) { }", "`{` means nothing"),
            ("while(true)", "unknown function `while`"),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn what_fails_for_a_call_is_said() {
        for (text, problem) in [
            (
                "1 / (request.order.id - 42) == 1 ? \"a\" : \"b\"",
                "division by zero",
            ),
            (
                "request.order.id % (request.order.id - 42) == 1 ? \"a\" : \"b\"",
                "division by zero",
            ),
            (
                "9223372036854775807 * request.order.id > 0 ? \"a\" : \"b\"",
                "too large",
            ),
            ("request.order.id", "yields a number"),
            ("request.long + request.region", "grew beyond"),
            ("request.region < 3 ? \"a\" : \"b\"", "compares"),
            ("request.region ? \"a\" : \"b\"", "no condition"),
            ("int(request.region) == 1 ? \"a\" : \"b\"", "no whole number"),
        ] {
            let error = result(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn texts_stay_bounded() {
        let mut text = r#""0123456789abcdef""#.to_owned();
        for _ in 0..7 {
            text = format!("({text} + {text})");
        }
        assert!(result(&text).unwrap_err().contains("nodes"));
        let long = "x".repeat(2000);
        let error = result(&format!(
            "'{long}' + string(request.order.id) + '{}'",
            &long[..1900]
        ))
        .map(|t| t.len());
        assert_eq!(error, Ok(3902));
        let at_run_time = format!("'{long}' + ('{}' + request.region)", &long[..2000]);
        assert_eq!(result(&at_run_time).map(|text| text.len()), Ok(4005));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let nested = |depth: usize| format!("{}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Expression::parse(&nested(MAX_DEPTH - 1)).is_ok());
        for text in [
            nested(MAX_DEPTH + 1),
            nested(2000),
            format!("{}true ? \"a\" : \"b\"", "!".repeat(2000)),
            format!("{}1 == 1 ? \"a\" : \"b\"", "-".repeat(2000)),
            "[".repeat(2000),
            "has(".repeat(1000),
        ] {
            let error = Expression::parse(&text).unwrap_err();
            assert!(error.contains("deep"), "{error}");
        }
        let chain = |count: usize| format!("{} ? \"a\" : \"b\"", vec!["true"; count].join(" && "));
        assert!(Expression::parse(&chain(150)).is_ok());
        assert!(Expression::parse(&chain(250)).unwrap_err().contains("nodes"));
        let cases: String = (0..35)
            .map(|n| format!("request.id == {n} ? \"z{n}\" : "))
            .collect();
        assert!(Expression::parse(&format!("{cases}\"\"")).is_ok());
        assert!(
            Expression::parse(&" ".repeat(MAX_BYTES + 1))
                .unwrap_err()
                .contains("4096")
        );
    }
}
