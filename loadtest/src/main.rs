//! `tidewheel-load`: loads a server, verifies every delivery, reports what each cost.
//!
//! ```text
//!  scenario + flags ─▶ settings ─▶ engine ─▶ outcome ─▶ terminal, JSON
//!                                    │
//!  publishers (main thread) ──▶ server ──▶ workers: clients, one poll and descriptor table each
//!        ▲                                   │
//!        └──── offsets that are complete ────┘
//! ```
//! Reading order: `scenario`, `settings` and `args` (what is asked), `run` and `engine` (what is
//! done), `crew`, `worker` and `connection` (clients on threads), `receiver` and `view` (one of
//! them, without its socket), `progress`, `audit` and `ledger` (what is counted), `publisher`,
//! `outcome` and `report` (what is told), `baseline_server` (what to compare with).

mod args;
mod audit;
mod baseline_server;
mod clock;
mod connection;
mod crew;
mod engine;
mod figures;
mod frame;
mod ledger;
mod limits;
mod machine;
mod message;
mod outcome;
mod pacer;
mod proc_stat;
mod progress;
mod publisher;
mod receiver;
mod report;
mod run;
mod scenario;
mod seats;
mod settings;
mod subs;
mod sys;
mod tally;
mod target;
mod view;
mod worker;

use std::process::ExitCode;

use crate::args::Task;
use crate::report::Verdict;

fn main() -> ExitCode {
    match args::parse().and_then(|task| perform(&task)) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn perform(task: &Task) -> anyhow::Result<Verdict> {
    match task {
        Task::Run {
            name,
            about,
            settings,
        } => run::run(name, about, settings),
        Task::List => {
            for name in scenario::names() {
                let about = scenario::about(scenario::text(name).unwrap_or_default());
                println!("{name:<10} {}", about.lines().next().unwrap_or_default());
            }
            Ok(Verdict::Passed)
        }
        Task::ServeBaseline { frame_bytes } => {
            baseline_server::run(*frame_bytes).map(|()| Verdict::Passed)
        }
    }
}
