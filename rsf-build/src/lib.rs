//! Code generation for RSF: from .proto to typed clients, traits for handlers, and method tables. Needs no `protoc`.
//!
//! A build script of two lines:
//!
//! ```no_run
//! fn main() -> Result<(), rsf_build::Error> {
//!     rsf_build::compile(&["shop/v1/member.proto"], &["proto"])
//! }
//! ```
//!
//! and in the code, with one file a package:
//!
//! ```ignore
//! pub mod shop {
//!     include!(concat!(env!("OUT_DIR"), "/shop.v1.rs"));
//! }
//! ```
//!
//! For a service `MemberService` the file holds:
//!
//! - `MemberServiceClient`: a method for each unary method, which returns a `Call`: await it, wait for it, start it, or
//!   let it call back.
//! - `trait MemberService`: what an application implements, with `async fn`s.
//! - `MemberServiceServer<T>`: those handlers as a service that an application registers.
//! - the messages, by [prost](https://docs.rs/prost), which the application need not depend on.
//!
//! Both sides know the method table: `idempotency_level`, RSF's own options (`rsf/options/v1/options.proto`, which an
//! import finds by itself), and the encoded schema. Comments become documentation.
//!
//! The path of a file, in order: `schema` reads and checks it, `rules` reads method options, `names` looks for
//! collisions, `docs` completes the comments, `service` writes the code, `output` the files. Streaming methods are not
//! generated: they are tonic's.

mod error;

mod schema;

mod rules;

mod names;

mod docs;

mod service;

mod output;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use prost_reflect::FileDescriptor;

pub use error::{Error, Problem};

use rules::{OPTIONS_PACKAGE, Rules};
use schema::Schema;
use service::{ALLOW, Services, schema_file};

/// Generates code for `protos`, found in `includes` like their imports, into cargo's `OUT_DIR`.
///
/// Errors name the file, line and column of everything that is wrong; nothing is written then.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Config::new().compile(protos, includes)
}

/// How to generate.
#[derive(Debug)]
pub struct Config {
    out_dir: Option<PathBuf>,
    rsf_path: String,
    include_file: Option<String>,
    extern_paths: Vec<(String, String)>,
    prost: prost_build::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// Into `OUT_DIR`, for the crate `rsf`.
    pub fn new() -> Self {
        let mut prost = prost_build::Config::new();
        prost.type_attribute(".", ALLOW);
        Config {
            out_dir: None,
            rsf_path: "::rsf".to_owned(),
            include_file: None,
            extern_paths: Vec::new(),
            prost,
        }
    }

    /// Where to write. `OUT_DIR` by default.
    pub fn out_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(folder.into());
        self
    }

    /// The path at which generated code finds RSF. `::rsf` by default.
    pub fn rsf_path(mut self, path: impl Into<String>) -> Self {
        self.rsf_path = path.into();
        self
    }

    /// Also writes a file of this name that holds all packages as nested modules. Needed where packages refer to each
    /// other; then it is the only file to `include!`.
    pub fn include_file(mut self, name: impl Into<String>) -> Self {
        self.include_file = Some(name.into());
        self
    }

    /// Takes the messages at `proto` (`.common.v1` or `.common.v1.Money`) from `rust` (`::common::v1`) instead of
    /// generating them.
    pub fn extern_path(mut self, proto: impl Into<String>, rust: impl Into<String>) -> Self {
        self.extern_paths.push((proto.into(), rust.into()));
        self
    }

    /// Puts `attribute` on the messages, oneofs and enums at `path`; see [`prost_build::Config::type_attribute`].
    pub fn type_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.prost.type_attribute(path, attribute);
        self
    }

    /// Puts `attribute` on the fields at `path`; see [`prost_build::Config::field_attribute`].
    pub fn field_attribute(mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.prost.field_attribute(path, attribute);
        self
    }

    /// Reads the `bytes` fields at `path` without copying, as `Bytes`; see [`prost_build::Config::bytes`].
    pub fn bytes(mut self, path: impl AsRef<str>) -> Self {
        self.prost.bytes([path]);
        self
    }

    /// Generates code for `protos`, found in `includes` like their imports.
    ///
    /// Services are generated for the files that are named, messages for these and all that they import. In a build
    /// script, cargo is told to run it again when one of the files changes.
    pub fn compile(
        mut self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        let folder = self
            .out_dir
            .take()
            .or_else(|| std::env::var_os("OUT_DIR").map(PathBuf::from));
        let folder = folder.ok_or_else(|| {
            let message = "no folder to write to: call it in a build script, where cargo sets OUT_DIR, or set `out_dir`";
            Error::new(vec![Problem::of("", message)])
        })?;
        let schema = Schema::load(&owned(protos), &owned(includes)).map_err(Error::new)?;
        if std::env::var_os("OUT_DIR").is_some() {
            rerun_if_changed(&schema.read);
        }
        let rules = check(&schema).map_err(Error::new)?;
        self.generate(&schema, rules, &folder).map_err(|error| {
            Error::new(vec![Problem::of(
                folder.display().to_string(),
                format!("cannot generate: {error}"),
            )])
        })
    }

    fn generate(
        mut self,
        schema: &Schema,
        rules: HashMap<String, Rules>,
        folder: &Path,
    ) -> std::io::Result<()> {
        let rsf = self.rsf_path;
        self.prost.prost_path(format!("{rsf}::codegen::prost"));
        self.prost
            .prost_types_path(format!("{rsf}::codegen::prost_types"));
        for (proto, rust) in self.extern_paths {
            self.prost.extern_path(proto, rust);
        }
        self.prost.service_generator(Box::new(Services { rsf, rules }));

        let mut files = Vec::new();
        for file in generated(schema) {
            let named = schema.named.contains(file.name());
            let mut raw = file.file_descriptor_proto().clone();
            if named {
                for service in file.services() {
                    let path = folder.join(schema_file(service.full_name()));
                    output::write_if_changed(&path, &Schema::self_contained(&file))?;
                }
            } else {
                raw.service.clear();
            }
            docs::complete(&mut raw);
            files.push(raw);
        }
        output::generate(&mut self.prost, files, folder, self.include_file.as_deref())
    }
}

/// The files that code is generated from. RSF's options are facts for the generator, of no use to the application.
fn generated(schema: &Schema) -> Vec<FileDescriptor> {
    let files = schema.pool.files();
    files
        .filter(|file| schema.named.contains(file.name()) || file.package_name() != OPTIONS_PACKAGE)
        .collect()
}

/// The options of all methods, by full name, or everything that the compiler of .proto files had no reason to refuse.
fn check(schema: &Schema) -> Result<HashMap<String, Rules>, Vec<Problem>> {
    let is_named = |file: &FileDescriptor| schema.named.contains(file.name());
    let files = generated(schema);
    let mut problems = names::collisions(&files, is_named);
    let mut rules = HashMap::new();
    for service in files
        .iter()
        .filter(|file| is_named(file))
        .flat_map(|file| file.services().collect::<Vec<_>>())
    {
        for method in service.methods() {
            match Rules::read(&method) {
                Ok(read) => drop(rules.insert(method.full_name().to_owned(), read)),
                Err(found) => problems.extend(found),
            }
        }
    }
    problems.sort_by_cached_key(Problem::place);
    if problems.is_empty() {
        Ok(rules)
    } else {
        Err(problems)
    }
}

#[allow(clippy::print_stdout, reason = "build scripts speak to cargo by printing")]
fn rerun_if_changed(files: &[PathBuf]) {
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
}

fn owned(paths: &[impl AsRef<Path>]) -> Vec<PathBuf> {
    paths.iter().map(|path| path.as_ref().to_owned()).collect()
}
