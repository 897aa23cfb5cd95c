//! `tidewheel-load`: loads a server, verifies every delivery, reports what each cost.
//!
//! ```text
//!  scenario + flags ─▶ settings ─▶ engine ─▶ outcome ─▶ terminal, JSON, page
//!                                    │
//!  publishers (main thread) ──▶ server ──▶ workers: clients, one poll and descriptor table each
//!        ▲                                   │
//!        └──── offsets that are complete ────┘
//! ```
//! Reading order: `scenario`, `settings` and `args` (what is asked), `run` and `engine` (what is
//! done), `crew`, `worker` and `connection` (clients on threads), `receiver` and `view` (one of
//! them, without its socket), `progress`, `audit` and `ledger` (what is counted), `publisher`,
//! `outcome`, `report`, `html` and `compare` (what is told), `series` and `bars` (what is seen while
//! it runs), `baseline_server` (what to compare with).

mod args;
mod audit;
mod bars;
mod baseline_server;
mod clock;
mod compare;
mod connection;
mod crew;
mod engine;
mod figures;
mod frame;
mod html;
mod ledger;
mod limits;
mod machine;
mod measures;
mod message;
mod outcome;
#[cfg(test)]
mod outcome_samples;
mod pacer;
mod proc_stat;
mod progress;
mod publisher;
mod receiver;
mod report;
mod run;
mod scenario;
mod seats;
mod series;
mod settings;
mod socket;
mod subs;
mod sys;
mod tally;
mod target;
mod view;
mod watch;
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
        Task::Compare {
            old,
            new,
            fail_on_regression,
        } => {
            let is_worse = compare::run(old, new)?;
            Ok(if is_worse && *fail_on_regression {
                Verdict::Failed
            } else {
                Verdict::Passed
            })
        }
        Task::ServeBaseline {
            frame_bytes,
            uring,
            loops,
        } => baseline_server::run(*frame_bytes, *uring, *loops).map(|()| Verdict::Passed),
    }
}
