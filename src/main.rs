//! The `tidewheel` program: flags, options, run, exit code.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tidewheel::cli::api_key::ApiKeyCommand;
use tidewheel::cli::check::{Check, load_files};
use tidewheel::cli::history::HistoryCommand;
use tidewheel::cli::host::{Host, raise_descriptor_limit};
use tidewheel::cli::policy::{Secret, policy};
use tidewheel::cli::reload::Reloader;
use tidewheel::cli::settings::settings;
use tidewheel::cli::startup::Startup;
use tidewheel::cli::token::TokenCommand;
use tidewheel::cli::{self, EXIT_FAILURE, EXIT_USAGE, Options, Parsed, Settings, logging};
use tidewheel::reactor::Clock;
use tidewheel::server::{self, Server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let parsed = cli::parse_from(std::env::args_os(), std::env::vars_os());
    let (options, settings, warnings) = match parsed {
        Ok(Parsed::Serve {
            options,
            settings,
            warnings,
        }) => (options, settings, warnings),
        Ok(Parsed::Token { command, secret }) => return token(&command, secret.as_ref()),
        Ok(Parsed::ApiKey(command)) => return api_key(&command),
        Ok(Parsed::History(command)) => return history(&command),
        Ok(Parsed::Check(check)) => return examine(&check),
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
    serve(*options, settings).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(EXIT_FAILURE)
    })
}

fn token(command: &TokenCommand, secret: Option<&Secret>) -> ExitCode {
    let now_unix_ms = Clock::start().now().unix_ms;
    match cli::token::run(command, secret, now_unix_ms, std::io::stdin()) {
        Ok(outcome) => {
            print!("{}", outcome.text);
            ExitCode::from(if outcome.is_good { 0 } else { EXIT_FAILURE })
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn api_key(command: &ApiKeyCommand) -> ExitCode {
    match cli::api_key::run(command) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn history(command: &HistoryCommand) -> ExitCode {
    let now_unix_ms = Clock::start().now().unix_ms;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    match cli::history::run(command, now_unix_ms, stdin, stdout) {
        Ok(outcome) => {
            eprint!("{}", outcome.text);
            ExitCode::from(if outcome.is_good { 0 } else { EXIT_FAILURE })
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn examine(check: &Check) -> ExitCode {
    let now_unix_ms = Clock::start().now().unix_ms;
    // Where the limit cannot be raised, what it is counts.
    let _as_it_is = raise_descriptor_limit();
    match Host::inspect() {
        Ok(host) => {
            let report = check.run(&host, Path::new("/"), now_unix_ms);
            print!("{}", report.text);
            ExitCode::from(report.exit_code)
        }
        Err(error) => {
            eprintln!("error: could not find out what this machine allows: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn serve(options: Options, given: Settings) -> anyhow::Result<ExitCode> {
    let policy = match policy(&options) {
        Ok(policy) => Arc::new(policy),
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    if let Err(error) = load_files(&options, Clock::start().now().unix_ms) {
        eprintln!("error: {error:#}");
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    raise_descriptor_limit().context("could not raise the limit on open files")?;
    let host = Host::inspect().context("could not find out what this machine allows")?;
    let settings = server::Settings {
        collect: collect_free_memory,
        ..settings(&options, &host, policy)
    };
    let server = Server::start(&settings)?;
    let (listen, admin_listen, has_own_tables) =
        (server.listen, server.admin_listen, server.has_own_tables);
    let startup = Startup {
        options: &options,
        host: &host,
        has_own_tables,
        listen,
        admin_listen,
        shown: &server.shown,
        kept: server.kept.as_ref(),
    };
    print!("{startup}");
    println!("listening on {}", startup.public_url());
    println!("admin on {}", startup.admin_url());
    server.run(Reloader::new(options, given))
}

/// Makes the allocator give what is free on this thread back to the system.
#[allow(unsafe_code)]
fn collect_free_memory() {
    unsafe extern "C" {
        /// mimalloc's; it is linked in as the allocator.
        fn mi_collect(force: bool);
    }
    // SAFETY: it may be called at any time from any thread, and touches free memory alone.
    unsafe { mi_collect(true) }
}
