//! The `tidewheel` program: flags, options, run, exit code.

use std::fmt;
use std::io::{self, Write};
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
            return say(&text, 0);
        }
        Err(error) => {
            complain(format_args!("{error}\n"));
            return ExitCode::from(error.exit_code());
        }
    };
    logging::init(&options.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    serve(*options, settings).unwrap_or_else(|error| {
        complain(format_args!("error: {error:#}\n"));
        ExitCode::from(EXIT_FAILURE)
    })
}

fn token(command: &TokenCommand, secret: Option<&Secret>) -> ExitCode {
    let now_unix_ms = Clock::start().now().unix_ms;
    match cli::token::run(command, secret, now_unix_ms, io::stdin()) {
        Ok(outcome) => say(
            &outcome.text,
            if outcome.is_good { 0 } else { EXIT_FAILURE },
        ),
        Err(error) => {
            complain(format_args!("error: {error}\n"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn api_key(command: &ApiKeyCommand) -> ExitCode {
    match cli::api_key::run(command) {
        Ok(text) => say(&text, 0),
        Err(error) => {
            complain(format_args!("error: {error}\n"));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn history(command: &HistoryCommand) -> ExitCode {
    let now_unix_ms = Clock::start().now().unix_ms;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    match cli::history::run(command, now_unix_ms, stdin, stdout) {
        Ok(outcome) => {
            complain(format_args!("{}", outcome.text));
            ExitCode::from(if outcome.is_good { 0 } else { EXIT_FAILURE })
        }
        Err(error) => {
            complain(format_args!("error: {error}\n"));
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
            say(&report.text, report.exit_code)
        }
        Err(error) => {
            complain(format_args!(
                "error: could not find out what this machine allows: {error}\n"
            ));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn serve(options: Options, given: Settings) -> anyhow::Result<ExitCode> {
    let policy = match policy(&options) {
        Ok(policy) => Arc::new(policy),
        Err(error) => {
            complain(format_args!("error: {error}\n"));
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    if let Err(error) = load_files(&options, Clock::start().now().unix_ms) {
        complain(format_args!("error: {error:#}\n"));
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
    let (public, admin) = (startup.public_url(), startup.admin_url());
    // Whether anybody reads it makes no difference to clients.
    let _unread = write_out(&format!(
        "{startup}listening on {public}\nadmin on {admin}\n"
    ));
    server.run(Reloader::new(options, given))
}

/// Writes a text to standard output. Answers `exit_code`, also where nobody reads it any more:
/// `tidewheel --help | head -1` has what it wanted.
fn say(text: &str, exit_code: u8) -> ExitCode {
    match write_out(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!(
                "error: cannot write to standard output: {error}\n"
            ));
            ExitCode::from(EXIT_FAILURE)
        }
        _ => ExitCode::from(exit_code),
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes to standard error. Where that is gone there is nobody to tell.
fn complain(text: fmt::Arguments<'_>) {
    let _unheard = io::stderr().lock().write_fmt(text);
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
