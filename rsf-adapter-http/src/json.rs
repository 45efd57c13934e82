//! Protobuf's JSON mapping, in and out, by a method's schema.

mod scan;

use std::sync::LazyLock;

use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::failure::Failure;

/// Reads `text` as a message of type `input`. The error says where and at which field.
pub(crate) fn read(
    text: &[u8],
    input: &MessageDescriptor,
    max_depth: usize,
    ignore_unknown: bool,
) -> Result<DynamicMessage, Failure> {
    let name = input.full_name();
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::invalid(format!(
            "the body is empty; send the JSON of a {name}, `{{}}` if it has no fields"
        )));
    }
    let text = scan::prepare(text, input, max_depth).map_err(|deep| {
        let (line, column) = position(text, deep.at);
        Failure::invalid(format!(
            "JSON at line {line}, column {column}: more than {max_depth} levels inside each other"
        ))
    })?;
    let options = DeserializeOptions::new().deny_unknown_fields(!ignore_unknown);
    let mut json = serde_json::Deserializer::from_slice(&text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let message = DynamicMessage::deserialize_with_options(input.clone(), tracked, &options);
    let message = message.and_then(|message| json.end().map(|()| message));
    message.map_err(|error| {
        let path = track.path().to_string();
        let field = if path == "." {
            String::new()
        } else {
            format!(", field `{path}`")
        };
        let (line, column) = (error.line().max(1), error.column());
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        Failure::invalid(format!(
            "JSON at line {line}, column {column}{field}: {what} (the method takes a {name})"
        ))
    })
}

/// Writes a message.
pub(crate) fn write(message: &DynamicMessage, write_defaults: bool) -> Result<Vec<u8>, serde_json::Error> {
    static OMIT: LazyLock<SerializeOptions> = LazyLock::new(SerializeOptions::new);
    static WRITE: LazyLock<SerializeOptions> =
        LazyLock::new(|| SerializeOptions::new().skip_default_fields(false));
    let mut out = serde_json::Serializer::new(Vec::with_capacity(256));
    message.serialize_with_options(&mut out, if write_defaults { &WRITE } else { &OMIT })?;
    Ok(out.into_inner())
}

/// Line and column of a byte, both from 1.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
