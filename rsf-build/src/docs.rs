//! Gives every message, field, enum, value, service and method a doc comment, and keeps rustdoc from running code in
//! comments that were not written for Rust.

use std::collections::HashMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

// Field numbers in descriptor.proto, of which the paths of locations are made.
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const FILE_SERVICE: i32 = 6;
const MESSAGE_FIELD: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUM: i32 = 4;
const MESSAGE_ONEOF: i32 = 8;
const ENUM_VALUE: i32 = 2;
const SERVICE_METHOD: i32 = 2;

/// Completes the comments of a file.
pub(crate) fn complete(file: &mut FileDescriptorProto) {
    let mut info = file.source_code_info.take().unwrap_or_default();
    let mut docs = Docs {
        places: HashMap::new(),
        locations: std::mem::take(&mut info.location),
    };
    for (place, location) in docs.locations.iter_mut().enumerate() {
        for comment in location
            .leading_comments
            .iter_mut()
            .chain(&mut location.trailing_comments)
        {
            *comment = inert(comment);
        }
        docs.places.insert(location.path.clone(), place);
    }
    let package = file.package();
    let scope = if package.is_empty() {
        String::new()
    } else {
        format!("{package}.")
    };
    for (message, path) in file.message_type.iter().zip(0..) {
        docs.message(message, &scope, &[FILE_MESSAGE, path]);
    }
    for (kind, path) in file.enum_type.iter().zip(0..) {
        docs.kind(kind, &scope, &[FILE_ENUM, path]);
    }
    for (service, path) in file.service.iter().zip(0..) {
        docs.service(service, &scope, &[FILE_SERVICE, path]);
    }
    info.location = docs.locations;
    file.source_code_info = Some(info);
}

struct Docs {
    places: HashMap<Vec<i32>, usize>,
    locations: Vec<Location>,
}

impl Docs {
    fn message(&mut self, message: &DescriptorProto, scope: &str, path: &[i32]) {
        let name = format!("{scope}{}", message.name());
        self.fill(path, || format!("The message `{name}`."));
        for (field, at) in message.field.iter().zip(0..) {
            self.fill(&[path, &[MESSAGE_FIELD, at]].concat(), || {
                describe(field, message)
            });
        }
        for (oneof, at) in message.oneof_decl.iter().zip(0..) {
            self.fill(&[path, &[MESSAGE_ONEOF, at]].concat(), || {
                format!("`{}`: one of these, or none.", oneof.name())
            });
        }
        let scope = format!("{name}.");
        for (nested, at) in message.nested_type.iter().zip(0..) {
            self.message(nested, &scope, &[path, &[MESSAGE_NESTED, at]].concat());
        }
        for (kind, at) in message.enum_type.iter().zip(0..) {
            self.kind(kind, &scope, &[path, &[MESSAGE_ENUM, at]].concat());
        }
    }

    fn kind(&mut self, kind: &EnumDescriptorProto, scope: &str, path: &[i32]) {
        self.fill(path, || format!("The enum `{scope}{}`.", kind.name()));
        for (value, at) in kind.value.iter().zip(0..) {
            self.fill(&[path, &[ENUM_VALUE, at]].concat(), || {
                format!("`{}`, {}.", value.name(), value.number())
            });
        }
    }

    fn service(&mut self, service: &ServiceDescriptorProto, scope: &str, path: &[i32]) {
        self.fill(path, || format!("The service `{scope}{}`.", service.name()));
        for (method, at) in service.method.iter().zip(0..) {
            let doc = || format!("The method `{scope}{}.{}`.", service.name(), method.name());
            self.fill(&[path, &[SERVICE_METHOD, at]].concat(), doc);
        }
    }

    /// Writes a comment where the author wrote none.
    fn fill(&mut self, path: &[i32], doc: impl FnOnce() -> String) {
        let place = *self.places.entry(path.to_vec()).or_insert_with(|| {
            self.locations.push(Location {
                path: path.to_vec(),
                ..Location::default()
            });
            self.locations.len() - 1
        });
        let location = &mut self.locations[place];
        let written =
            |comment: &Option<String>| comment.as_ref().is_some_and(|comment| !comment.trim().is_empty());
        if !written(&location.leading_comments) && !written(&location.trailing_comments) {
            location.trailing_comments = None;
            location.leading_comments = Some(format!(" {}\n", doc()));
        }
    }
}

fn describe(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let map = |entry: &&DescriptorProto| {
        entry.options.as_ref().is_some_and(|options| options.map_entry())
            && field
                .type_name()
                .ends_with(&format!(".{}.{}", message.name(), entry.name()))
    };
    if let Some([key, value]) = message.nested_type.iter().find(map).map(|entry| &entry.field[..]) {
        return format!(
            "Field {}, a map of {} to {}.",
            field.number(),
            type_name(key),
            type_name(value)
        );
    }
    let repeated = if field.label() == Label::Repeated {
        "repeated "
    } else {
        ""
    };
    format!("Field {}, {repeated}{}.", field.number(), type_name(field))
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => {
            format!("`{}`", field.type_name().trim_start_matches('.'))
        }
        scalar => format!(
            "`{}`",
            scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()
        ),
    }
}

/// A comment whose code blocks rustdoc shows and does not compile: code in a .proto file is seldom Rust.
fn inert(comment: &str) -> String {
    let mut out = String::with_capacity(comment.len());
    let mut fenced = false;
    let mut indented = false;
    let mut after_blank = true;
    for line in comment.lines() {
        let text = line.trim_start();
        let is_code =
            !fenced && !text.is_empty() && line.len() - text.len() >= 5 && (after_blank || indented);
        if is_code && !indented {
            out.push_str(" ```text\n");
        } else if indented && !is_code && !text.is_empty() {
            out.push_str(" ```\n");
        }
        indented = is_code || (indented && text.is_empty());
        if text.starts_with("```") {
            fenced = !fenced;
            let indent = &line[..line.len() - text.len()];
            let mark = if fenced { "```text" } else { "```" };
            out.push_str(&format!("{indent}{mark}\n"));
        } else {
            // The fence says what four spaces said.
            out.push_str(if is_code { &line[4..] } else { line });
            out.push('\n');
        }
        after_blank = text.is_empty();
    }
    if indented || fenced {
        out.push_str(" ```\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_comments_is_text() {
        let table = [
            (" One line.\n", " One line.\n"),
            (
                " Like so:\n\n     let x = 1;\n\n Done.\n",
                " Like so:\n\n ```text\n let x = 1;\n\n ```\n Done.\n",
            ),
            (" ```\n get()\n ```\n", " ```text\n get()\n ```\n"),
            (" ```rust\n get()\n ```\n", " ```text\n get()\n ```\n"),
            (" - a list\n     goes on\n", " - a list\n     goes on\n"),
            (" ```\n unclosed\n", " ```text\n unclosed\n ```\n"),
        ];
        for (comment, expected) in table {
            assert_eq!(inert(comment), expected, "{comment}");
        }
    }
}
