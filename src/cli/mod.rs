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
//! ([`reference`]) follow from it. [`units`] are the values' notations, [`sources`] merges the
//! layers, [`validate`] holds flags against each other.
//!
//! Nothing here starts anything: [`parse_from`] is a function of its arguments and of the file
//! they name. A program around it is
//!
//! ```no_run
//! use tidewheel::cli::{self, Parsed};
//!
//! match cli::parse_from(std::env::args_os(), std::env::vars_os()) {
//!     Ok(Parsed::Serve { options, warnings: _ }) => println!("{options:?}"),
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
use clap::{Args, Command};
use thiserror::Error;

pub mod logging;
pub mod options;
pub mod reference;
pub mod sources;
pub mod units;
pub mod validate;

pub use options::Options;

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
        /// What to tell the operator once the log is open; nothing that keeps the server from running.
        warnings: Vec<String>,
    },
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

const ABOUT: &str = "Tidewheel: a single-node edge server for real-time fan-out over WebSocket";

const AFTER_HELP: &str = "\
Every flag is also an environment variable (--max-lag-bytes: TIDEWHEEL_MAX_LAG_BYTES) and a key of \
the file (max-lag-bytes = \"1MiB\"). A flag wins over the environment, the environment over the \
file. An empty variable counts as not set.
Durations: 500ms, 25s, 10m, 2h. Sizes: 1000, 64KiB, 1MiB, 10MB.
Exit codes: 0 success, 1 failure while running, 2 wrong usage.";

/// The command line as clap knows it.
fn command() -> Command {
    let serve = Command::new("serve").about("Run the server: also what happens without a command");
    let root = Command::new("tidewheel")
        .about(ABOUT)
        .version(version())
        .after_help(AFTER_HELP)
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .subcommand(Serve::augment_args(serve.after_help(AFTER_HELP)));
    Serve::augment_args(root)
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
    // Without a command the flags stand at the top, and mean the same.
    let flags = matches.subcommand().map_or(&matches, |(_, flags)| flags);
    let environment = Environment::read(env)?;
    let (options, warnings) = sources::resolve(flags, &environment)?;
    Ok(Parsed::Serve {
        options: Box::new(options),
        warnings,
    })
}

fn stopped_early(error: &clap::Error) -> Result<Parsed, CliError> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Print(text)),
        _ => Err(CliError::CommandLine(text.trim_end().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::options::Overflow;
    use crate::cli::units::Count;

    const NO_ENV: [(&str, &str); 0] = [];

    fn parse(flags: &[&str], env: &[(&str, &str)]) -> Result<Parsed, CliError> {
        let args = std::iter::once("tidewheel").chain(flags.iter().copied());
        parse_from(args, env.iter().copied())
    }

    fn options(flags: &[&str], env: &[(&str, &str)]) -> Options {
        match parse(flags, env).unwrap() {
            Parsed::Serve { options, .. } => *options,
            Parsed::Print(text) => panic!("{text}"),
        }
    }

    fn refusal(flags: &[&str], env: &[(&str, &str)]) -> String {
        parse(flags, env).unwrap_err().to_string()
    }

    /// A configuration file that goes away with the test.
    struct File(PathBuf);

    impl File {
        fn with(text: &str) -> File {
            static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = format!("tidewheel-cli-{}-{number}.toml", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            File(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }

        /// The refusal of this file, with its path shortened to `FILE`.
        fn refusal(&self) -> String {
            refusal(&["--config", self.path()], &[]).replace(self.path(), "FILE")
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn flags_mean_the_same_with_and_without_the_command() {
        let flags = [
            "--listen",
            "127.0.0.1:1",
            "--shards=2",
            "--echo",
            "--overflow",
            "skip",
        ];
        let bare = options(&flags, &[]);
        let with_command = [&["serve"][..], &flags].concat();
        assert_eq!(bare, options(&with_command, &[]));
        assert_eq!(bare.listeners.listen.port(), 1);
        assert_eq!(bare.connections.shards, Count::Exactly(2));
        assert!(bare.listeners.echo);
        assert_eq!(bare.slow_consumers.overflow, Overflow::Skip);
        assert_eq!(options(&[], &[]), Options::default());
    }

    #[test]
    fn a_flag_wins_over_the_environment_the_environment_over_the_file() {
        let file = File::with("history = 1\nmax-rooms = 1_000\nretry-after = '3s'\necho = true\n");
        let env = [
            ("TIDEWHEEL_CONFIG", file.path()),
            ("TIDEWHEEL_HISTORY", "2"),
            ("TIDEWHEEL_MAX_ROOMS", "2000"),
            ("TIDEWHEEL_BACKLOG", ""),
        ];
        let merged = options(&["--history", "3", "--echo=false"], &env);
        assert_eq!(merged.rooms.history, 3);
        assert_eq!(merged.rooms.max_rooms, 2_000);
        assert_eq!(merged.connections.retry_after, Duration::from_secs(3));
        assert!(!merged.listeners.echo);
        assert_eq!(merged.listeners.backlog, 4_096);
        assert!(options(&[], &env).listeners.echo);
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_what_was_meant() {
        let cases = [
            (
                "# ours\n\nmax-lag-byts = 1\n",
                "error: unknown key `max-lag-byts` (FILE, line 3); did you mean `max-lag-bytes`?",
            ),
            (
                "max_lag_bytes = 1",
                "error: unknown key `max_lag_bytes` (FILE, line 1); did you mean `max-lag-bytes`?",
            ),
            (
                "\n[rooms]\nhistory = 1",
                "error: unknown key `rooms` (FILE, line 2); the file has no tables, \
                 write every key at the top",
            ),
            (
                "'' = 1",
                "error: unknown key `` (FILE, line 1); keys are the flags of `tidewheel --help`, \
                 without dashes in front",
            ),
            (
                "config = 'other.toml'",
                "error: unknown key `config` (FILE, line 1); a file cannot name another one",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(File::with(text).refusal(), expected);
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_its_place_and_what_to_write() {
        let cases = [
            (
                "history = 1\nmax-lag-bytes = '64K'",
                "error: invalid value '64K' for max-lag-bytes (FILE, line 2): not a size; write \
                 bytes as 1000, or with B, KiB, MiB, GiB, kB, MB or GB, such as 64KiB",
            ),
            (
                "heartbeat-interval = 25",
                "error: invalid value '25' for heartbeat-interval (FILE, line 1): a duration \
                 needs its unit: write 25s, 25ms or 25m",
            ),
            (
                "overflow = 'drop'",
                "error: invalid value 'drop' for overflow (FILE, line 1): write evict or skip or \
                 latest",
            ),
            (
                "history = 1.5",
                "error: invalid value 'a fraction' for history (FILE, line 1): write a string, a \
                 whole number, true or false",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(File::with(text).refusal(), expected);
        }
        assert_eq!(
            refusal(&[], &[("TIDEWHEEL_FLUSH_BUDGET", "0")]),
            "error: invalid value '0' for flush-budget (environment variable \
             TIDEWHEEL_FLUSH_BUDGET): out of range; write 1 to 100000000"
        );
        let on_the_command_line = refusal(&["--listen", ":9000"], &[]);
        assert!(
            on_the_command_line.starts_with(
                "error: invalid value ':9000' for '--listen <ADDRESS>': not an address; write an \
                 IP address and a port, such as 0.0.0.0:9000"
            ),
            "{on_the_command_line}"
        );
    }

    #[test]
    fn a_bad_value_is_refused_even_where_a_stronger_layer_hides_it() {
        let refusal = refusal(&["--history", "1"], &[("TIDEWHEEL_HISTORY", "many")]);
        assert!(refusal.contains("TIDEWHEEL_HISTORY"), "{refusal}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line() {
        let refusal = File::with("history = 1\nlisten = 127.0.0.1:80\n").refusal();
        assert!(refusal.starts_with("error: FILE, line 2: "), "{refusal}");
        let twice = File::with("history = 1\nhistory = 2\n").refusal();
        assert!(
            twice.starts_with("error: FILE, line 2: duplicate key"),
            "{twice}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_refused_by_name() {
        let refusal = refusal(&["--config", "/nowhere/tidewheel.toml"], &[]);
        let expected = "error: cannot read the configuration file /nowhere/tidewheel.toml: ";
        assert!(refusal.starts_with(expected), "{refusal}");
    }

    #[test]
    fn a_conflict_names_the_places_that_made_it() {
        let file = File::with("\nmax-message-bytes = '4MiB'\n");
        let error = parse(&["--config", file.path(), "--bus-backlog-bytes=4MiB"], &[]).unwrap_err();
        let CliError::Conflicts(conflicts) = &error else {
            panic!("{error}");
        };
        assert_eq!(conflicts.len(), 2);
        let first = error.to_string().replace(file.path(), "FILE");
        assert!(
            first.starts_with(
                "error: --max-lag-bytes 1MiB is below --max-message-bytes 4MiB: one message would \
                 make its reader slow; raise --max-lag-bytes to 4MiB or more, or lower \
                 --max-message-bytes\n  max-message-bytes is set in FILE, line 2\n"
            ),
            "{first}"
        );
        assert_eq!(error.exit_code(), EXIT_USAGE);
    }

    #[test]
    fn an_unknown_variable_is_a_warning_unless_kubernetes_made_it() {
        let env = [
            ("TIDEWHEEL_MAX_LAG_BITES", "1"),
            ("TIDEWHEEL_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("TIDEWHEEL_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
        ];
        let Parsed::Serve { warnings, .. } = parse(&[], &env).unwrap() else {
            panic!("not served");
        };
        assert_eq!(
            warnings,
            [
                "environment variable TIDEWHEEL_MAX_LAG_BITES is not known and has no effect; did \
              you mean TIDEWHEEL_MAX_LAG_BYTES?"
            ]
        );
    }

    #[test]
    fn help_and_version_are_printed_whatever_the_environment_says() {
        let env = [("TIDEWHEEL_HISTORY", "many")];
        for flags in [&["--help"][..], &["serve", "--help"], &["-h"]] {
            let Parsed::Print(help) = parse(flags, &env).unwrap() else {
                panic!("not printed");
            };
            let headings = [
                "Listeners:",
                "Connections:",
                "Messages:",
                "Rooms:",
                "Slow consumers:",
                "Heartbeat:",
                "Authentication:",
                "Shutdown:",
                "Logging:",
                "Tuning:",
            ];
            let places: Vec<_> = headings
                .iter()
                .map(|text| help.find(text).unwrap())
                .collect();
            assert!(places.is_sorted(), "{help}");
            assert!(help.contains("[default: 64KiB]"), "{help}");
        }
        let Parsed::Print(text) = parse(&["--version"], &env).unwrap() else {
            panic!("not printed");
        };
        assert_eq!(text, format!("tidewheel {}\n", version()));
    }

    #[test]
    fn an_unknown_flag_is_refused_with_the_one_that_was_meant() {
        let refusal = refusal(&["--max-conections", "5"], &NO_ENV);
        assert!(refusal.contains("'--max-connections'"), "{refusal}");
        assert!(parse(&["--history", "1", "--history", "2"], &[]).is_err());
        assert!(parse(&["server"], &[]).is_err());
    }
}
