//! From the command line, the environment and a file to [`Options`].
//!
//! ```text
//!   --max-lag-bytes 2MiB            a flag                              strongest
//!   TIDEWHEEL_MAX_LAG_BYTES=2MiB    the environment variable
//!   max-lag-bytes = "2MiB"          the key in the file of --config
//!   1MiB                            the default                         weakest
//! ```
//!
//! [`options`] is the only list of flags; the other names, the help text and `docs/flags.md`
//! ([`mod@reference`]) follow from it. [`units`] are the values' notations, [`sources`] merges the
//! layers, [`rooms`] reads the file's tables of rules, [`validate`] holds flags against each other,
//! [`host`] asks the machine what it allows, [`startup`] says what comes of both. [`policy`] reads
//! the files that the options name, [`reload`] all of it again while the server runs. [`check`],
//! [`token`] and [`api_key`] are commands of their own.
//!
//! Nothing here starts anything: [`parse_from`] is a function of its arguments and of the file
//! they name. A program around it is
//!
//! ```no_run
//! use tidewheel::cli::{self, Parsed};
//!
//! match cli::parse_from(std::env::args_os(), std::env::vars_os()) {
//!     Ok(Parsed::Serve { options, .. }) => println!("{options:?}"),
//!     Ok(Parsed::Token { command, secret: _ }) => println!("{command:?}"),
//!     Ok(Parsed::ApiKey(command)) => println!("{command:?}"),
//!     Ok(Parsed::History(command)) => println!("{command:?}"),
//!     Ok(Parsed::Check(check)) => println!("{check:?}"),
//!     Ok(Parsed::Print(text)) => print!("{text}"),
//!     Err(error) => {
//!         eprintln!("{error}");
//!         std::process::exit(error.exit_code().into());
//!     }
//! }
//! ```

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches as _, Subcommand as _};
use thiserror::Error;

pub mod api_key;
pub mod check;
mod exposure;
pub mod history;
pub mod host;
pub mod lists;
pub mod logging;
pub mod options;
pub mod policy;
pub mod rates;
pub mod reference;
pub mod reload;
pub mod rooms;
pub mod settings;
pub mod sources;
pub mod startup;
pub mod token;
pub mod units;
pub mod validate;

pub use options::Options;

pub use sources::Settings;

use check::Check;
use sources::{Environment, Origin};
use validate::Conflict;

/// Exit code after a run-time failure.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code after a command line, environment or file that cannot be used.
pub const EXIT_USAGE: u8 = 2;

/// What the operator asked for.
#[derive(Clone, PartialEq, Debug)]
pub enum Parsed {
    /// Run the server.
    Serve {
        /// How.
        options: Box<Options>,
        /// What was given, as it was written: what a reload is held against.
        settings: Settings,
        /// What to tell the operator once the log is open; nothing that keeps the server from running.
        warnings: Vec<String>,
    },
    /// Make or look at keys and tokens.
    Token {
        /// What exactly.
        command: token::TokenCommand,
        /// The secret of the environment.
        secret: Option<policy::Secret>,
    },
    /// Make keys of the admin API.
    ApiKey(api_key::ApiKeyCommand),
    /// Move history out of a data directory, or into one.
    History(history::HistoryCommand),
    /// Check the configuration and the machine.
    Check(Check),
    /// Print this text to standard output, and end with success: `--help`, `--version`.
    Print(String),
}

/// Why there are no options. The text says what is wrong, where, and what to write instead.
#[derive(Debug, Error)]
pub enum CliError {
    /// The command line, in clap's words.
    #[error("{0}")]
    CommandLine(String),
    /// A value from the environment or a file.
    #[error("error: invalid value '{value}' for {flag} ({origin}): {complaint}")]
    Value {
        /// The flag's name, without dashes.
        flag: String,
        /// The value as written.
        value: String,
        /// Where it is written.
        origin: Origin,
        /// What is wrong with it, and what to write.
        complaint: String,
    },
    /// An environment variable that is not UTF-8.
    #[error("error: {0} is not valid UTF-8")]
    VariableNotUtf8(String),
    /// The file cannot be read.
    #[error("error: cannot read the configuration file {path}: {error}", path = path.display())]
    FileUnreadable {
        /// The file, as named by the operator.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("error: {origin}: {message}")]
    FileSyntax {
        /// The place in the file.
        origin: Origin,
        /// What is wrong there.
        message: String,
    },
    /// The file has a key that is no flag.
    #[error("error: unknown key `{key}` ({origin}){hint}")]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The place in the file.
        origin: Origin,
        /// What to do, with its punctuation.
        hint: String,
    },
    /// More than one of these.
    #[error("{}", lines_of(.0))]
    Several(Vec<CliError>),
    /// Values that are good alone, but not together.
    #[error("{}", conflicts_text(.0))]
    Conflicts(Vec<(Conflict, Vec<(&'static str, Origin)>)>),
}

impl CliError {
    /// What the process ends with: all of these are faults of usage.
    pub fn exit_code(&self) -> u8 {
        EXIT_USAGE
    }
}

fn lines_of(errors: &[CliError]) -> String {
    let lines: Vec<String> = errors.iter().map(CliError::to_string).collect();
    lines.join("\n")
}

fn conflicts_text(conflicts: &[(Conflict, Vec<(&'static str, Origin)>)]) -> String {
    let mut lines = Vec::new();
    for (conflict, origins) in conflicts {
        lines.push(format!("error: {}", conflict.problem));
        for (flag, origin) in origins {
            lines.push(format!("  {flag} is set in {origin}"));
        }
    }
    lines.join("\n")
}

/// The arguments of `tidewheel` and of `tidewheel serve`.
#[derive(Args)]
struct Serve {
    /// TOML file of settings: a flag's name without dashes is its key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: Options,
}

/// The command that starts nothing.
const CHECK: &str = "check";

const ABOUT: &str = "Tidewheel: a single-node edge server for real-time fan-out over WebSocket";

const AFTER_HELP: &str = "\
Every flag is also an environment variable (--max-lag-bytes: TIDEWHEEL_MAX_LAG_BYTES) and a key of \
the file (max-lag-bytes = \"1MiB\"). A flag wins over the environment, the environment over the \
file. An empty variable counts as not set.
Durations: 500ms, 25s, 10m, 2h. Sizes: 1000, 64KiB, 1MiB, 10MB.
Exit codes: 0 success, 1 failure while running, 2 wrong usage, 130 second signal during a drain.";

/// The command line as clap knows it.
fn command() -> Command {
    // The texts come after the arguments, which would put their own in the place of `about`.
    let serve = Serve::augment_args(Command::new("serve"))
        .about("Run the server: also what happens without a command")
        .after_help(AFTER_HELP);
    let token = token::TokenCommand::augment_subcommands(Command::new("token"))
        .about("Make keys and tokens for development, and look at tokens")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    let api_key = api_key::ApiKeyCommand::augment_subcommands(Command::new("api-key"))
        .about("Make keys for the admin API")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    let history = history::HistoryCommand::augment_subcommands(Command::new("history"))
        .about("Export the history of a data directory, or import one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true);
    Serve::augment_args(Command::new("tidewheel"))
        .about(ABOUT)
        .after_help(AFTER_HELP)
        .version(version())
        // Messages name the program as the documents do, wherever its file lies.
        .bin_name("tidewheel")
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .subcommand(serve)
        .subcommand(check::with_arguments(Serve::augment_args(Command::new(
            CHECK,
        ))))
        .subcommand(token)
        .subcommand(api_key)
        .subcommand(history)
}

/// The version and what was built: `0.1.0 (x86_64-linux, release build)`.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let build = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        format!(
            "{} ({}-{}, {build} build)",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
            std::env::consts::OS,
        )
    });
    &VERSION
}

/// Reads the options from `args` (the first is the program's name), the environment `env` and the
/// configuration file that these name.
pub fn parse_from(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
) -> Result<Parsed, CliError> {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return stopped_early(&error),
    };
    let environment = Environment::read(env)?;
    if let Some(("token", matches)) = matches.subcommand() {
        let command = token::TokenCommand::from_arg_matches(matches);
        let command = command.map_err(|error| CliError::CommandLine(error.to_string()))?;
        let secret = environment.jwt_secret();
        return Ok(Parsed::Token { command, secret });
    }
    if let Some(("api-key", matches)) = matches.subcommand() {
        let command = api_key::ApiKeyCommand::from_arg_matches(matches);
        let command = command.map_err(|error| CliError::CommandLine(error.to_string()))?;
        return Ok(Parsed::ApiKey(command));
    }
    if let Some(("history", matches)) = matches.subcommand() {
        let command = history::HistoryCommand::from_arg_matches(matches);
        let command = command.map_err(|error| CliError::CommandLine(error.to_string()))?;
        return Ok(Parsed::History(command));
    }
    // Without a command the flags stand at the top, and mean the same.
    let flags = matches.subcommand().map_or(&matches, |(_, flags)| flags);
    let resolved = sources::resolve(flags, &environment)?;
    if matches.subcommand_name() == Some(CHECK) {
        let check = Check::new(flags, resolved.options, resolved.warnings);
        return Ok(Parsed::Check(check));
    }
    Ok(Parsed::Serve {
        options: Box::new(resolved.options),
        settings: resolved.settings,
        warnings: resolved.warnings,
    })
}

fn stopped_early(error: &clap::Error) -> Result<Parsed, CliError> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Ok(Parsed::Print(text)),
        _ => Err(CliError::CommandLine(text.trim_end().to_owned())),
    }
}

#[cfg(test)]
mod tests;
