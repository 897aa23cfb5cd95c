//! `tidewheel-load`: loads a server, verifies every delivery, reports what each cost.
//!
//! ```text
//!  publisher (main thread) ──▶ server ──▶ workers: receivers, one poll and descriptor table each
//!        ▲                                   │
//!        └──── offsets that are complete ────┘
//! ```
//! Reading order: `scenario` (what is measured), `crew`, `worker` and `connection` (receivers on
//! threads), `receiver` (one of them, without its socket), `progress` and `audit` (what is
//! counted), `publisher`, `baseline_server` (what to compare with).

mod args;
mod audit;
mod baseline_server;
mod clock;
mod connection;
mod crew;
mod frame;
mod message;
mod outcome;
mod proc_stat;
mod progress;
mod publisher;
mod receiver;
mod report;
mod scenario;
mod sys;
mod target;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::report::Verdict;

fn main() -> ExitCode {
    match scenario::run(args::Arguments::parse()) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
