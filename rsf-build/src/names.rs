//! Finds names that are different in .proto and the same in Rust, before the compiler does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_reflect::{FileDescriptor, ServiceDescriptor};

use crate::error::Problem;
use crate::rules::position;

/// The collisions among the types of each package and among the methods of each service.
pub(crate) fn collisions(
    files: &[FileDescriptor],
    with_services: impl Fn(&FileDescriptor) -> bool,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut packages: HashMap<String, Names> = HashMap::new();
    for file in files {
        let types = packages.entry(file.package_name().to_owned()).or_default();
        for message in file.messages() {
            types.take(
                message.name().to_upper_camel_case(),
                message.full_name(),
                file,
                message.path(),
                &mut problems,
            );
        }
        for kind in file.enums() {
            types.take(
                kind.name().to_upper_camel_case(),
                kind.full_name(),
                file,
                kind.path(),
                &mut problems,
            );
        }
        for service in file.services().filter(|_| with_services(file)) {
            for suffix in ["", "Client", "Server"] {
                let name = service.name().to_upper_camel_case() + suffix;
                types.take(name, service.full_name(), file, service.path(), &mut problems);
            }
            methods(&service, &mut problems);
        }
    }
    problems
}

fn methods(service: &ServiceDescriptor, problems: &mut Vec<Problem>) {
    let mut names = Names::default();
    for method in service.methods() {
        let name = method.name().to_snake_case();
        names.take(
            name,
            method.full_name(),
            &service.parent_file(),
            method.path(),
            problems,
        );
    }
}

/// Rust names in one scope, and what they stand for.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn take(
        &mut self,
        rust: String,
        full_name: &str,
        file: &FileDescriptor,
        path: &[i32],
        problems: &mut Vec<Problem>,
    ) {
        match self.0.entry(rust) {
            Entry::Vacant(free) => {
                free.insert(full_name.to_owned());
            }
            Entry::Occupied(taken) => problems.push(Problem {
                file: file.name().to_owned(),
                position: position(file, path),
                message: format!(
                    "{full_name} and {} are both `{}` in Rust: rename one of them",
                    taken.get(),
                    taken.key()
                ),
            }),
        }
    }
}
