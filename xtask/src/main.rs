//! Repository chores: the one test command and the generated documents.
//!
//! ```text
//! cargo xtask test               everything that CI checks, in its order
//! cargo xtask test clippy test   these steps alone
//! cargo xtask docs               write the generated documents
//! cargo xtask docs --check       fail where they are stale
//! cargo xtask instructions       count instructions, and hold them against the table
//! cargo xtask instructions --write   count them, and write the table
//! ```
//!
//! Only std is used, so that the command starts at once on a machine that has built nothing.

mod docs;
mod instructions;
mod process;
mod setup;
mod steps;
mod tally;
mod test;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let workspace = Workspace::find();
    let is_done = match arguments.as_slice() {
        ["test", names @ ..] => test::run(&workspace, names),
        ["docs"] => docs::write(&workspace),
        ["docs", "--check"] => docs::check(&workspace),
        ["instructions"] => is_well(instructions::check(&workspace)),
        ["instructions", "--write"] => is_well(instructions::write(&workspace)),
        _ => {
            eprintln!("{}", usage());
            return ExitCode::from(2);
        }
    };
    if is_done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn is_well(result: Result<(), String>) -> bool {
    if let Err(fault) = &result {
        eprintln!("xtask: {fault}");
    }
    result.is_ok()
}

fn usage() -> String {
    let mut text = String::from(
        "usage: cargo xtask test [STEP…]   run every check, or these alone\n\
        \x20      cargo xtask docs [--check] write the generated documents, or check them\n\
        \x20      cargo xtask instructions [--write] count instructions and check them, or write their table\n\
         \n\
         steps of test, in order:\n",
    );
    for step in &steps::STEPS {
        text.push_str(&format!("  {:<15} {}\n", step.name, step.about));
    }
    text
}
