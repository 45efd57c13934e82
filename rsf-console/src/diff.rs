//! How two documents differ, line by line of their indented JSON.

use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use crate::model::{Change, DiffLine};

/// The lines of both documents, unchanged ones included. `null` counts as no line at all.
pub fn lines(from: &Value, to: &Value) -> Vec<DiffLine> {
    let (from, to) = (indented(from), indented(to));
    TextDiff::from_lines(from.as_str(), to.as_str())
        .iter_all_changes()
        .map(|change| DiffLine {
            change: match change.tag() {
                ChangeTag::Equal => Change::Same,
                ChangeTag::Delete => Change::Removed,
                ChangeTag::Insert => Change::Added,
            },
            text: change.value().trim_end_matches('\n').to_owned(),
        })
        .collect()
}

fn indented(document: &Value) -> String {
    match document {
        Value::Null => String::new(),
        // Every line ends with a line end, else the last one would always differ.
        value => format!("{value:#}\n"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_changed_number_is_one_line_out_and_one_in() {
        let lines = lines(
            &json!({"call": {"timeout_ms": 100}}),
            &json!({"call": {"timeout_ms": 200}}),
        );
        let changed: Vec<_> = lines
            .iter()
            .filter(|line| line.change != Change::Same)
            .map(|line| (line.change, line.text.trim()))
            .collect();
        assert_eq!(
            changed,
            [
                (Change::Removed, "\"timeout_ms\": 100"),
                (Change::Added, "\"timeout_ms\": 200")
            ]
        );
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn a_deletion_removes_all_lines() {
        let lines = lines(&json!({"call": {}}), &Value::Null);
        assert!(!lines.is_empty() && lines.iter().all(|line| line.change == Change::Removed));
    }
}
