//! What the shop's programs have in common.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Logs warnings, or what `RUST_LOG` says, to the standard error output.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    log.with_ansi(std::io::stderr().is_terminal()).init();
}

/// Success, or an error told with its causes.
#[allow(clippy::print_stderr, reason = "the programs' last words")]
pub fn end_with(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}
