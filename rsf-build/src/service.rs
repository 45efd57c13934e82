//! Writes what a service becomes in Rust: a method table, a client, a trait for handlers, and a server.

use std::collections::HashMap;
use std::fmt::Write as _;

use heck::ToShoutySnakeCase;
use prost_build::{Comments, Method, Service, ServiceGenerator};

use crate::rules::Rules;

/// On every generated item, because an included file cannot say it once for all: the lints of the application's code are
/// not meant for generated code. `missing_docs` is not among them: what is generated is documented.
pub(crate) const ALLOW: &str = "\
#[allow(unused, unused_qualifications, unreachable_pub, single_use_lifetimes)]
#[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]";

/// Names that a client has for itself; a method of that name gets a `_` at its end.
const TAKEN: [&str; 4] = ["new", "implementation", "descriptor", "clone"];

/// Generates services against the crate at `rsf`.
pub(crate) struct Services {
    /// The path of the crate (`::rsf`).
    pub(crate) rsf: String,
    /// By the methods' full names.
    pub(crate) rules: HashMap<String, Rules>,
}

impl ServiceGenerator for Services {
    fn generate(&mut self, service: Service, out: &mut String) {
        let (streaming, unary): (Vec<_>, Vec<_>) = service
            .methods
            .iter()
            .cloned()
            .partition(|method| method.client_streaming || method.server_streaming);
        let package = if service.package.is_empty() {
            String::new()
        } else {
            format!("{}.", service.package)
        };
        let full_name = format!("{package}{}", service.proto_name);
        let unary: Vec<_> = unary
            .into_iter()
            .map(|method| Unary {
                rules: self
                    .rules
                    .get(&format!("{full_name}.{}", method.proto_name))
                    .cloned()
                    .unwrap_or_default(),
                rust_name: rust_name(&method.name),
                path: format!("/{full_name}/{}", method.proto_name),
                method,
            })
            .collect();
        let parts = Parts {
            rsf: &self.rsf,
            table: format!("{}_DESCRIPTOR", service.name.to_shouty_snake_case()),
            doc: lines(&service.comments, 0),
            streaming: streaming_doc(&streaming),
            name: &service.name,
            full_name,
            unary,
        };
        parts.table(out);
        parts.client(out);
        parts.handlers(out);
        parts.server(out);
    }
}

/// A service on its way into text.
struct Parts<'a> {
    rsf: &'a str,
    /// The static that holds the method table.
    table: String,
    doc: String,
    streaming: String,
    name: &'a str,
    full_name: String,
    unary: Vec<Unary>,
}

struct Unary {
    method: Method,
    rules: Rules,
    rust_name: String,
    path: String,
}

macro_rules! put {
    ($out:expr, $($text:tt)*) => {
        // Writing to a string does not fail.
        let _ = writeln!($out, $($text)*);
    };
}

impl Parts<'_> {
    fn table(&self, out: &mut String) {
        let Parts {
            rsf,
            table,
            full_name,
            ..
        } = self;
        put!(out, "{ALLOW}");
        put!(
            out,
            "static {table}: {rsf}::ServiceDescriptor = {rsf}::ServiceDescriptor {{"
        );
        put!(out, "    name: ::std::borrow::Cow::Borrowed({full_name:?}),");
        put!(out, "    methods: ::std::borrow::Cow::Borrowed(&[");
        for Unary {
            method, rules, path, ..
        } in &self.unary
        {
            put!(out, "        {rsf}::MethodDescriptor {{");
            put!(
                out,
                "            name: ::std::borrow::Cow::Borrowed({:?}),",
                method.proto_name
            );
            put!(out, "            path: ::std::borrow::Cow::Borrowed({path:?}),");
            put!(out, "            idempotent: {},", rules.idempotent);
            put!(out, "            timeout_ms: {},", option(rules.timeout_ms));
            put!(out, "            attempts: {},", option(rules.attempts));
            put!(out, "            dedup: {},", rules.dedup);
            put!(
                out,
                "            routing_key: ::std::borrow::Cow::Borrowed({:?}),",
                rules.routing_key
            );
            put!(out, "        }},");
        }
        put!(out, "    ]),");
        put!(
            out,
            "    schema: ::std::borrow::Cow::Borrowed(include_bytes!({:?})),",
            schema_file(full_name)
        );
        put!(out, "}};");
    }

    fn client(&self, out: &mut String) {
        let Parts {
            rsf,
            table,
            name,
            doc,
            full_name,
            streaming,
            ..
        } = self;
        put!(out, "/// Calls `{full_name}`.");
        put!(out, "///\n{doc}{streaming}{ALLOW}");
        put!(out, "#[derive(Clone)]");
        put!(
            out,
            "pub struct {name}Client {{\n    channel: {rsf}::Channel,\n}}"
        );

        put!(out, "{ALLOW}\nimpl {name}Client {{");
        put!(out, "    /// A client that calls over `channel`.");
        put!(
            out,
            "    pub fn new(channel: {rsf}::Channel) -> Self {{\n        Self {{ channel }}\n    }}"
        );
        put!(
            out,
            "    /// A client of the implementation `name`, where several run side by side."
        );
        put!(out, "    pub fn implementation(&self, name: &str) -> Self {{");
        put!(
            out,
            "        Self::new(self.channel.implementation(name))\n    }}"
        );
        for (
            number,
            Unary {
                method,
                rules,
                rust_name,
                ..
            },
        ) in self.unary.iter().enumerate()
        {
            let Method {
                input_type,
                output_type,
                ..
            } = method;
            put!(out, "{}{}", lines(&method.comments, 1), rules_doc(rules));
            if method.options.deprecated() {
                put!(out, "    #[deprecated]");
            }
            put!(
                out,
                "    pub fn {rust_name}(&self, request: impl ::std::convert::Into<{rsf}::Request<{input_type}>>) -> {rsf}::Call<{output_type}> {{"
            );
            put!(out, "        self.channel.call({number}, request.into())\n    }}");
        }
        put!(out, "}}");

        put!(out, "{ALLOW}\nimpl {rsf}::Client for {name}Client {{");
        put!(
            out,
            "    fn descriptor() -> &'static {rsf}::ServiceDescriptor {{\n        &{table}\n    }}"
        );
        put!(
            out,
            "    fn new(channel: {rsf}::Channel) -> Self {{\n        Self {{ channel }}\n    }}\n}}"
        );
        debug(out, &format!("{name}Client"), "");
    }

    fn handlers(&self, out: &mut String) {
        let Parts {
            rsf,
            name,
            doc,
            full_name,
            streaming,
            ..
        } = self;
        put!(
            out,
            "/// Handles `{full_name}`: implement it with `async fn`s and register it as a [`{name}Server`]."
        );
        put!(out, "///\n{doc}{streaming}{ALLOW}");
        put!(
            out,
            "pub trait {name}: ::std::marker::Send + ::std::marker::Sync + 'static {{"
        );
        for Unary {
            method, rust_name, ..
        } in &self.unary
        {
            let Method {
                input_type,
                output_type,
                ..
            } = method;
            put!(out, "{}", lines(&method.comments, 1).trim_end());
            put!(
                out,
                "    fn {rust_name}(&self, request: {rsf}::Request<{input_type}>) -> impl ::std::future::Future<Output = ::std::result::Result<{rsf}::Response<{output_type}>, {rsf}::Status>> + ::std::marker::Send;"
            );
        }
        put!(out, "}}");
    }

    fn server(&self, out: &mut String) {
        let Parts {
            rsf,
            table,
            name,
            full_name,
            ..
        } = self;
        put!(out, "/// Serves `{full_name}` with the handlers of a [`{name}`].");
        put!(
            out,
            "{ALLOW}\npub struct {name}Server<T> {{\n    handlers: {rsf}::codegen::Arc<T>,\n}}"
        );
        put!(out, "{ALLOW}\nimpl<T> {name}Server<T> {{");
        put!(out, "    /// Serves with `handlers`.");
        put!(
            out,
            "    pub fn new(handlers: T) -> Self {{\n        Self::from_arc({rsf}::codegen::Arc::new(handlers))\n    }}"
        );
        put!(out, "    /// Serves with handlers that are shared.");
        put!(
            out,
            "    pub fn from_arc(handlers: {rsf}::codegen::Arc<T>) -> Self {{\n        Self {{ handlers }}\n    }}\n}}"
        );

        put!(out, "{ALLOW}\nimpl<T> ::std::clone::Clone for {name}Server<T> {{");
        put!(
            out,
            "    fn clone(&self) -> Self {{\n        Self::from_arc({rsf}::codegen::Arc::clone(&self.handlers))\n    }}\n}}"
        );
        debug(out, &format!("{name}Server<T>"), "<T>");

        put!(
            out,
            "{ALLOW}\nimpl<T: {name}> {rsf}::Service for {name}Server<T> {{"
        );
        put!(
            out,
            "    fn descriptor(&self) -> &{rsf}::ServiceDescriptor {{\n        &{table}\n    }}"
        );
        put!(
            out,
            "    fn call(self: {rsf}::codegen::Arc<Self>, method: usize, request: {rsf}::Request<{rsf}::codegen::Bytes>, scope: {rsf}::CallScope) -> {rsf}::Handled {{"
        );
        put!(out, "        match method {{");
        for (number, Unary { rust_name, .. }) in self.unary.iter().enumerate() {
            // By the trait's name, because `Arc` has methods of its own (`clone`, `as_ref`) that would win.
            put!(out, "            {number} => scope.run(async move {{");
            put!(
                out,
                "                let request = {rsf}::codegen::decode(request)?;"
            );
            put!(
                out,
                "                {rsf}::codegen::encode(<T as {name}>::{rust_name}(&self.handlers, request).await?)"
            );
            put!(out, "            }}),");
        }
        put!(
            out,
            "            _ => scope.run(::std::future::ready(::std::result::Result::Err({rsf}::Status::unimplemented("
        );
        put!(
            out,
            "                ::std::format!(\"{full_name} has no method of number {{method}}\"),"
        );
        put!(out, "            )))),\n        }}\n    }}\n}}");
    }
}

/// The name of the file, beside the generated code, that holds a service's schema.
pub(crate) fn schema_file(full_name: &str) -> String {
    format!("{full_name}.schema.bin")
}

fn rust_name(name: &str) -> String {
    if TAKEN.contains(&name) {
        format!("{name}_")
    } else {
        name.to_owned()
    }
}

fn debug(out: &mut String, name: &str, parameters: &str) {
    put!(out, "{ALLOW}\nimpl{parameters} ::std::fmt::Debug for {name} {{");
    put!(
        out,
        "    fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {{"
    );
    put!(
        out,
        "        f.debug_struct({:?}).finish_non_exhaustive()\n    }}\n}}",
        name.trim_end_matches("<T>")
    );
}

fn option(value: Option<u32>) -> String {
    let some = |value| format!("::std::option::Option::Some({value})");
    value.map_or_else(|| "::std::option::Option::None".to_owned(), some)
}

fn lines(comments: &Comments, indent: u8) -> String {
    let mut out = String::new();
    let attached = Comments {
        leading_detached: Vec::new(),
        ..comments.clone()
    };
    attached.append_with_indent(indent, &mut out);
    out
}

/// What the options mean to a caller.
fn rules_doc(rules: &Rules) -> String {
    let mut facts = Vec::new();
    match (rules.idempotent, rules.dedup) {
        (true, _) => facts.push("idempotent".to_owned()),
        (false, true) => facts.push("deduplicated by its request id".to_owned()),
        (false, false) => {
            facts.push("not idempotent: tried again only when its handler never saw the request".to_owned())
        }
    }
    let time = rules.timeout_ms.map(|ms| format!("{ms} ms"));
    let attempts = rules.attempts.map(|attempts| format!("{attempts} attempts"));
    let defaults: Vec<_> = time.into_iter().chain(attempts).collect();
    if !defaults.is_empty() {
        facts.push(format!("{} unless policy says otherwise", defaults.join(" and ")));
    }
    if !rules.routing_key.is_empty() {
        facts.push(format!("keyed by `{}`", rules.routing_key));
    }
    format!("    ///\n    /// RSF: {}.", facts.join("; "))
}

fn streaming_doc(methods: &[Method]) -> String {
    if methods.is_empty() {
        return String::new();
    }
    let names: Vec<_> = methods
        .iter()
        .map(|method| format!("`{}`", method.proto_name))
        .collect();
    format!(
        "///\n/// Not here, because they stream: {}. Generate them with `tonic-build` and call them over\n/// `Application::tonic_channel`.\n",
        names.join(", ")
    )
}
