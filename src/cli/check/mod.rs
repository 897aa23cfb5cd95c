//! `tidewheel check`: is the configuration good, and what does it come to.
//!
//! Whatever would keep the server from starting is told as the server would tell it, all at once,
//! and ends with exit code 2. Where there is nothing of that, the warnings follow, then what was
//! asked about: one section each, a function of the options and of what the command line names.

pub mod machine;
mod rooms;

use std::fmt::Write as _;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Options;

/// The names of rooms to explain.
const ROOM: &str = "room";

/// Adds what the command takes besides the server's own flags.
pub(super) fn with_arguments(command: Command) -> Command {
    let room = Arg::new(ROOM)
        .long(ROOM)
        .value_name("NAME")
        .action(ArgAction::Append)
        .help("Room whose rule is explained, value by value; may be given again");
    command
        .about("Check the configuration, and explain what it comes to")
        .arg(room)
}

/// The text for options that are good.
pub(super) fn report(asked: &ArgMatches, options: &Options, warnings: &[String]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let rules = options.rooms.tables.len();
    let _ = writeln!(text, "the configuration is good; room rules: {rules}");
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for name in asked.get_many::<String>(ROOM).into_iter().flatten() {
        let _ = write!(text, "\n{}", rooms::explain(name, options));
    }
    text
}
