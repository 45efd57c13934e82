//! What a call is about: a field of the request, a metadata value, or what the caller named.

use http::header::{HeaderMap, HeaderName};

use super::field::{FieldPath, Schema, Value};
use crate::method::ServiceDescriptor;

/// What routing may read of a call.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The method's place in the service's descriptor; `None` for a service whose methods are not known.
    pub(crate) method: Option<usize>,
    /// The method's name.
    pub(crate) method_name: &'a str,
    /// The encoded request; empty where it has not been read.
    pub(crate) message: &'a [u8],
    /// The caller's metadata.
    pub(crate) headers: Option<&'a HeaderMap>,
    /// The routing key that the caller named.
    pub(crate) named_key: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// A text out of the metadata.
    pub(crate) fn metadata(&self, name: &HeaderName) -> Option<&'a str> {
        self.headers?.get(name)?.to_str().ok()
    }
}

/// A field of the requests of each method, by the method's place; why not where one has none.
pub(crate) type FieldOfMethods = Vec<Result<FieldPath, String>>;

/// Compiles one path for every method of a service.
pub(crate) fn field_of_methods(
    service: &ServiceDescriptor,
    schema: &Result<Schema, String>,
    path: impl Fn(usize) -> String,
) -> FieldOfMethods {
    let methods = service.methods.iter().enumerate();
    methods
        .map(|(place, method)| match (&*path(place), schema) {
            ("", _) => Err(format!("{} has no `routing_key` option", method.path)),
            (_, Err(problem)) => Err(problem.clone()),
            (path, Ok(schema)) => schema.field(&method.path, path),
        })
        .collect()
}

/// The schema of a service as its descriptor carries it.
pub(crate) fn schema(service: &ServiceDescriptor) -> Result<Schema, String> {
    if service.schema.is_empty() {
        return Err(format!("the schema of `{}` is not known here", service.name));
    }
    Schema::read(&service.schema)
}

/// Where a policy's text says that the key is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum KeyPlace<'a> {
    /// What the caller named, else the method's `routing_key` option.
    RoutingKey,
    /// A metadata value.
    Metadata(&'a str),
    /// A request field, as `order.customer_id`.
    Field(&'a str),
}

impl<'a> KeyPlace<'a> {
    /// Reads `order.customer_id` or `metadata:tenant`; `None` is the call's routing key.
    pub(crate) fn parse(text: Option<&'a str>) -> Result<KeyPlace<'a>, String> {
        let Some(text) = text else {
            return Ok(KeyPlace::RoutingKey);
        };
        if let Some(name) = text.strip_prefix("metadata:") {
            metadata_name(name)?;
            return Ok(KeyPlace::Metadata(name));
        }
        let word =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match text.split('.').all(word) {
            true => Ok(KeyPlace::Field(text)),
            false => Err(format!(
                "`{text}` is no key; name a request field as `order.customer_id`, or `metadata:<name>`"
            )),
        }
    }
}

/// A metadata key of the application's own.
pub(crate) fn metadata_name(name: &str) -> Result<HeaderName, String> {
    let valid = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
    let own = !name.starts_with("grpc-") && !name.starts_with("rsf-") && !name.ends_with("-bin");
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(header) if valid && own => Ok(header),
        _ => Err(format!(
            "`{name}` is no metadata key; use a-z, 0-9, `-`, `_`, `.`, not starting with `grpc-` or `rsf-`, not ending in `-bin`"
        )),
    }
}

/// A key's place, compiled for the methods of one service.
pub(crate) struct KeySource {
    from: From,
}

enum From {
    Metadata(HeaderName),
    Field(FieldOfMethods),
    /// The caller's, else the field.
    Named(FieldOfMethods),
}

impl KeySource {
    /// Compiles a place that [`KeyPlace::parse`] has let through. A bad one yields no keys.
    pub(crate) fn new(
        text: Option<&str>,
        service: &ServiceDescriptor,
        schema: &Result<Schema, String>,
    ) -> KeySource {
        let from = match KeyPlace::parse(text) {
            Ok(KeyPlace::Metadata(name)) => match metadata_name(name) {
                Ok(name) => From::Metadata(name),
                Err(problem) => From::Field(vec![Err(problem); service.methods.len()]),
            },
            Ok(KeyPlace::Field(path)) => From::Field(field_of_methods(service, schema, |_| path.to_owned())),
            Ok(KeyPlace::RoutingKey) => {
                let option = |place: usize| service.methods[place].routing_key.to_string();
                From::Named(field_of_methods(service, schema, option))
            }
            Err(problem) => From::Field(vec![Err(problem); service.methods.len()]),
        };
        KeySource { from }
    }

    /// Whether it is the caller who may name the key.
    pub(crate) fn is_named(&self) -> bool {
        matches!(self.from, From::Named(_))
    }

    /// Whether the requests of the method at this place can have a key in a field.
    pub(crate) fn is_in_field(&self, method: usize) -> bool {
        match &self.from {
            From::Metadata(_) => false,
            From::Named(fields) | From::Field(fields) => fields.get(method).is_some_and(Result::is_ok),
        }
    }

    /// The call's key; `None` where it has none, [`KeySource::missing`] says why.
    pub(crate) fn read<'a>(&self, facts: &Facts<'a>) -> Option<Key<'a>> {
        let fields = match &self.from {
            From::Metadata(name) => return Key::text(facts.metadata(name)?.as_bytes()),
            From::Named(_) if facts.named_key.is_some() => return Key::text(facts.named_key?.as_bytes()),
            From::Named(fields) | From::Field(fields) => fields,
        };
        let field = fields.get(facts.method?)?.as_ref().ok()?;
        match field.read(facts.message)? {
            Value::Number(number) => Some(Key::Number(number)),
            Value::Flag(flag) => Key::text(if flag { b"true" } else { b"false" }),
            Value::Text(text) => Key::text(text.as_bytes()),
            Value::Bytes(bytes) => Key::text(bytes),
        }
    }

    /// Why [`KeySource::read`] found nothing.
    pub(crate) fn missing(&self, facts: &Facts<'_>) -> String {
        let fields = match &self.from {
            From::Metadata(name) => return format!("the call has no metadata `{name}`"),
            From::Named(fields) | From::Field(fields) => fields,
        };
        match facts.method.and_then(|method| fields.get(method)) {
            Some(Err(problem)) => problem.clone(),
            _ => "the request's key field is absent or empty".to_owned(),
        }
    }
}

/// A call's key. A number and its decimal text are the same key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Key<'a> {
    Number(i128),
    /// Never empty.
    Text(&'a [u8]),
}

impl<'a> Key<'a> {
    /// `None` where the text is empty.
    pub(crate) fn text(text: &'a [u8]) -> Option<Key<'a>> {
        (!text.is_empty()).then_some(Key::Text(text))
    }

    /// The key as a number, where it is one.
    pub(crate) fn number(&self) -> Option<i128> {
        match self {
            Key::Number(number) => Some(*number),
            Key::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        }
    }

    /// The key's bytes.
    pub(crate) fn with_bytes<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Key::Text(text) => read(text),
            Key::Number(number) => {
                // 39 digits and a sign at most; no allocation for a call's key.
                let mut digits = [0u8; 40];
                let mut rest = number.unsigned_abs();
                let mut start = digits.len();
                loop {
                    start -= 1;
                    digits[start] = b'0' + (rest % 10) as u8;
                    rest /= 10;
                    if rest == 0 {
                        break;
                    }
                }
                if *number < 0 {
                    start -= 1;
                    digits[start] = b'-';
                }
                read(&digits[start..])
            }
        }
    }

    /// The number that rings, buckets and percentages go by, the same in every process.
    pub(crate) fn hash(&self) -> u64 {
        self.with_bytes(crate::client::key::hash)
    }
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.with_bytes(|bytes| f.write_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(100)])))
    }
}
