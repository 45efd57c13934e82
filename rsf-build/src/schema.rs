//! Reads .proto files into descriptors, without `protoc`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, SourceCode};
use prost_reflect::{DescriptorPool, DynamicMessage, FileDescriptor, ReflectMessage};
use prost_types::FileDescriptorProto;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use crate::error::Problem;
use crate::rules::OPTIONS_FILE;

/// RSF's own option file as it stands in this repository.
const OPTIONS_SOURCE: &str = include_str!("../../proto/rsf/options/v1/options.proto");

/// The files that were named, and everything they import.
pub(crate) struct Schema {
    pub(crate) pool: DescriptorPool,
    /// The names of the files to generate services for; what they import yields messages only.
    pub(crate) named: HashSet<String>,
    /// What was read from disk.
    pub(crate) read: Vec<PathBuf>,
}

impl Schema {
    /// Compiles `protos` against `includes`. A file that is wrong does not hide what is wrong with the others.
    pub(crate) fn load(protos: &[PathBuf], includes: &[PathBuf]) -> Result<Schema, Vec<Problem>> {
        let mut problems = missing_folders(includes);
        let mut resolver = ChainFileResolver::new();
        // First, so that a copy in the application's folders, kept for editors, is never an older one.
        resolver.add(OwnOptions);
        for include in includes {
            resolver.add(IncludeFileResolver::new(include.clone()));
        }
        resolver.add(GoogleFileResolver::new());

        let mut compiler = Compiler::with_file_resolver(resolver);
        for proto in protos {
            if let Err(error) = compiler.open_file(proto) {
                problems.extend(explain(proto, includes, &error));
            }
        }
        if !problems.is_empty() {
            // Two files that import the same broken one tell of it twice.
            let mut told = HashSet::new();
            problems.retain(|problem| told.insert(problem.to_string()));
            return Err(problems);
        }
        let files = compiler.files();
        Ok(Schema {
            pool: compiler.descriptor_pool(),
            named: files
                .filter(|file| !file.is_import())
                .map(|file| file.name().to_owned())
                .collect(),
            read: compiler
                .files()
                .filter_map(|file| file.path().map(Path::to_owned))
                .collect(),
        })
    }

    /// The encoded `FileDescriptorSet` of a file and all that it imports, imports first, with options and without
    /// comments.
    pub(crate) fn self_contained(file: &FileDescriptor) -> Vec<u8> {
        let mut set = Vec::new();
        push_with_imports(file, &mut HashSet::new(), &mut set);
        set
    }
}

fn push_with_imports(file: &FileDescriptor, seen: &mut HashSet<String>, set: &mut Vec<u8>) {
    if !seen.insert(file.name().to_owned()) {
        return;
    }
    for import in file.dependencies() {
        push_with_imports(&import, seen, set);
    }
    let encoded = without_source_info(file);
    prost::encoding::bytes::encode(1, &encoded, set);
}

/// By reflection, because prost's own types drop the options that they do not know.
fn without_source_info(file: &FileDescriptor) -> Vec<u8> {
    use prost::Message;

    let encoded = file.encode_to_vec();
    match DynamicMessage::decode(FileDescriptorProto::default().descriptor(), encoded.as_slice()) {
        Ok(mut message) => {
            message.clear_field_by_name("source_code_info");
            message.encode_to_vec()
        }
        Err(_) => encoded,
    }
}

struct OwnOptions;

impl FileResolver for OwnOptions {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match name {
            OPTIONS_FILE => File::from_source(name, OPTIONS_SOURCE),
            _ => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn missing_folders(includes: &[PathBuf]) -> Vec<Problem> {
    let missing = includes.iter().filter(|include| !include.is_dir());
    missing
        .map(|include| {
            let here = std::env::current_dir().unwrap_or_default();
            let message = format!("no such include folder (the build runs in {})", here.display());
            Problem::of(include.display().to_string(), message)
        })
        .collect()
}

/// protox's errors, with their places: the parser and the checker report several at once.
fn explain(proto: &Path, includes: &[PathBuf], error: &protox::Error) -> Vec<Problem> {
    let name = proto.display().to_string();
    if error.is_file_not_found() && error.labels().is_none() {
        let folders: Vec<_> = includes
            .iter()
            .map(|include| include.display().to_string())
            .collect();
        return vec![Problem::of(
            name,
            format!("no such file in the include folders ({})", folders.join(", ")),
        )];
    }
    if error.is_io() {
        let cause = std::error::Error::source(error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        return vec![Problem::of(name, format!("{error}{cause}"))];
    }
    let file = error.file().unwrap_or(&name);
    let source = error.source_code();
    let mut problems = vec![problem(file, error, source)];
    if let Some(related) = error.related() {
        problems.extend(related.map(|error| problem(file, error, error.source_code().or(source))));
    }
    problems.sort_by_cached_key(Problem::place);
    problems
}

fn problem(file: &str, error: &dyn Diagnostic, source: Option<&dyn SourceCode>) -> Problem {
    let position = error
        .labels()
        .and_then(|mut labels| labels.next())
        .and_then(|label| {
            let place = source?.read_span(label.inner(), 0, 0).ok()?;
            Some((place.line() + 1, place.column() + 1))
        });
    let help = error.help().map(|help| format!(" ({help})")).unwrap_or_default();
    Problem {
        file: file.to_owned(),
        position,
        message: format!("{error}{help}"),
    }
}
