//! Running commands in plain sight: each is printed, has no input, and is waited for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use crate::tally::Tally;

/// Runs `command`; its output is ours. The error says what to read above.
pub fn run(command: &mut Command) -> Result<(), String> {
    announce(command);
    let status = command.stdin(Stdio::null()).status();
    judge(command, status)
}

/// Runs `command`, passes its output on, and counts the tests that it reports.
pub fn run_counted(command: &mut Command) -> (Tally, Result<(), String>) {
    announce(command);
    let mut tally = Tally::default();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return (tally, judge(command, Err(error))),
    };
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            // Where nobody reads our output any more, the tests still run to their end.
            let _ = std::io::stdout().write_all(&line);
            tally += Tally::of_line(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    (tally, judge(command, child.wait()))
}

/// Whether `command` can be run and ends well; silent either way.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The first of `names` that is a program in `PATH`.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    names.iter().find_map(|name| {
        std::env::split_paths(&folders)
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    })
}

/// The command as one would type it.
pub fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

fn announce(command: &Command) {
    println!("$ {}", command_line(command));
}

fn judge(command: &Command, status: std::io::Result<ExitStatus>) -> Result<(), String> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{}` ended with {status}", command_line(command))),
        Err(error) => Err(format!("cannot run `{}`: {error}", command_line(command))),
    }
}
