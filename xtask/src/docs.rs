//! The generated documents.
//!
//! `docs/flags.md` follows from the options of the server. The server's own unit test compares the
//! two, so that plain `cargo test` finds a stale page; asked to, the same test writes it.

use crate::process;
use crate::workspace::Workspace;

/// Writes what is generated. Answers whether that went well.
pub fn write(workspace: &Workspace) -> bool {
    run(workspace, true)
}

/// Answers whether everything generated is up to date.
pub fn check(workspace: &Workspace) -> bool {
    run(workspace, false)
}

fn run(workspace: &Workspace, update: bool) -> bool {
    let mut command = workspace.cargo(&["test", "--quiet", "--package", "tidewheel", "--lib"]);
    command.arg("cli::reference");
    if update {
        command.env("UPDATE_DOCS", "1");
    } else {
        command.env_remove("UPDATE_DOCS");
    }
    match process::run(&mut command) {
        Ok(()) => true,
        Err(fault) => {
            eprintln!("xtask: {fault}");
            false
        }
    }
}
