//! `tidewheel check`: is the configuration good, what does it come to, and does this machine carry it.
//!
//! Whatever would keep the server from starting is told as the server would tell it, all at once,
//! and ends with exit code 2. Where there is nothing of that, the warnings follow, then the
//! machine, then what was asked about: one section each. Nothing is started.

mod bearer;
mod data;
pub mod machine;
mod rooms;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::exposure;
use super::host::Host;
use super::policy::policy;
use super::settings::{access, certificates, hooks, webhook};
use super::units::Count;
use super::{EXIT_FAILURE, EXIT_USAGE, Options};
use crate::control::{Access, Hooks, Webhook};
use crate::reactor::tls::{Shown, TlsLoader};
use crate::server::Capacity;
use machine::{Machine, Wanted, Weight, findings};

/// The names of rooms to explain.
const ROOM: &str = "room";
/// The file of a token to explain.
const TOKEN_FILE: &str = "token-file";
/// How many connections the machine is to carry.
const CONNECTIONS: &str = "connections";

/// What is to be checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    options: Box<Options>,
    warnings: Vec<String>,
    rooms: Vec<String>,
    token_file: Option<PathBuf>,
    connections: Option<u64>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// For the operator.
    pub text: String,
    /// 0 where all is well, 1 where the machine falls short or the token is refused, 2 where the
    /// server would not start.
    pub exit_code: u8,
}

/// Adds what the command takes besides the server's own flags.
pub(super) fn with_arguments(command: Command) -> Command {
    let room = Arg::new(ROOM)
        .long(ROOM)
        .value_name("NAME")
        .action(ArgAction::Append)
        .help("Room whose rule is explained, value by value; may be given again");
    let token = Arg::new(TOKEN_FILE)
        .long(TOKEN_FILE)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("File with a token: whether it is taken, and what it allows in the rooms named");
    let connections = Arg::new(CONNECTIONS)
        .long(CONNECTIONS)
        .value_name("COUNT")
        .value_parser(value_parser!(u64).range(1..))
        .help("Connections that this machine is to carry; without it --max-connections");
    command
        .about("Check the configuration and this machine, and explain what they come to")
        .args([room, token, connections])
}

impl Check {
    /// What the command line in `asked` wants to know about good options.
    pub(super) fn new(asked: &ArgMatches, options: Options, warnings: Vec<String>) -> Check {
        let rooms = asked.get_many::<String>(ROOM).into_iter().flatten();
        Check {
            options: Box::new(options),
            warnings,
            rooms: rooms.cloned().collect(),
            token_file: asked.get_one(TOKEN_FILE).cloned(),
            connections: asked.get_one(CONNECTIONS).copied(),
        }
    }

    /// Looks at everything. `root` is where the machine tells of itself: `/`.
    pub fn run(&self, host: &Host, root: &Path, now_unix_ms: u64) -> Report {
        let policy = match policy(&self.options) {
            Ok(policy) => policy,
            Err(error) => return useless(&error),
        };
        let shown = match load_files(&self.options, now_unix_ms) {
            Ok(shown) => shown,
            Err(error) => return useless(&format!("{error:#}")),
        };
        let of_folder = match &self.options.store.data_dir {
            Some(folder) => data::examine(folder, root),
            None => Ok(Vec::new()),
        };
        let of_folder = match of_folder {
            Ok(warnings) => warnings,
            Err(error) => return useless(&error),
        };
        let mut text = String::new();
        // Writing to a String cannot fail.
        let rules = self.options.rooms.tables.len();
        let _ = writeln!(text, "the configuration is good; room rules: {rules}");
        let exposed = exposure::warnings(&self.options);
        for warning in self.warnings.iter().chain(&exposed).chain(&of_folder) {
            let _ = writeln!(text, "warning: {warning}");
        }
        let unix_s = (now_unix_ms / 1_000) as i64;
        for certificate in shown {
            if let Some(warning) = certificate.warning(unix_s) {
                let _ = writeln!(text, "warning: {warning}");
            }
        }
        let (machine, is_enough) = self.judge_machine(host, root);
        let _ = write!(text, "\n{machine}");
        for name in &self.rooms {
            let _ = write!(text, "\n{}", rooms::explain(name, &self.options));
        }
        let mut is_good = is_enough;
        if let Some(file) = &self.token_file {
            let (bearer, is_taken) = bearer::explain(file, &policy, &self.rooms, now_unix_ms);
            let _ = write!(text, "\n{bearer}");
            is_good &= is_taken;
        }
        let exit_code = if is_good { 0 } else { EXIT_FAILURE };
        Report { text, exit_code }
    }

    /// What stands in the way of the wanted connections, and whether all of them can be had.
    fn judge_machine(&self, host: &Host, root: &Path) -> (String, bool) {
        let connections = &self.options.connections;
        let shards = connections.shards.unwrap_or(host.cores).max(1);
        let by_flag = match connections.max_connections {
            Count::Auto => None,
            Count::Exactly(count) => Some(count as u64),
        };
        let possible = || Capacity::of(shards, host.descriptors, None, true).connections as u64;
        let wanted = Wanted {
            connections: self.connections.or(by_flag).unwrap_or_else(possible),
            shards: shards as u64,
            backlog: self.options.listeners.backlog as u64,
        };
        let machine = Machine::inspect(root, host.descriptors as u64, None);
        let found = findings(&machine, &wanted);
        let is_enough = found
            .iter()
            .all(|finding| finding.weight < Weight::Shortage);
        let verdict = match (found.is_empty(), is_enough) {
            (true, _) => "has what it takes",
            (false, true) => "carries them; there is advice",
            (false, false) => "falls short",
        };
        let Wanted { connections, .. } = wanted;
        let mut text =
            format!("machine: for {connections} connections on {shards} shards it {verdict}\n");
        for finding in found {
            let _ = writeln!(text, "  {finding}");
        }
        (text, is_enough)
    }
}

/// Loads the files that the server would at its start, besides those of the policy. Answers the
/// certificates that it would show.
///
/// # Errors
/// Where one cannot be used.
pub fn load_files(options: &Options, now_unix_ms: u64) -> anyhow::Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for settings in certificates(options) {
        shown.extend(TlsLoader::new(settings, now_unix_ms / 1_000)?.load()?.shown);
    }
    if let Some(settings) = webhook(&options.authentication) {
        Webhook::new(&settings)?;
    }
    Access::open(access(options))?;
    if let Some(settings) = hooks(&options.hooks) {
        Hooks::new(&settings)?;
    }
    Ok(shown)
}

/// A configuration that the server would not start with.
fn useless(error: &dyn std::fmt::Display) -> Report {
    Report {
        text: format!("error: {error}\n"),
        exit_code: EXIT_USAGE,
    }
}
