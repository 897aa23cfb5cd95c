//! The `tidewheel` program: flags, options, run, exit code.

use std::process::ExitCode;

use tidewheel::cli::{self, EXIT_FAILURE, Parsed, logging};
use tidewheel::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (options, warnings) = match cli::parse_from(std::env::args_os(), std::env::vars_os()) {
        Ok(Parsed::Serve { options, warnings }) => (options, warnings),
        Ok(Parsed::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(error.exit_code());
        }
    };
    logging::init(&options.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    server::run(&options).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(EXIT_FAILURE)
    })
}
