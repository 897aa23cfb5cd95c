//! The scenarios, and how each gets its server and its receivers.

mod fan_out;
mod idle;
mod stall;

use std::sync::Arc;

use anyhow::Context;

use crate::args::{Arguments, Connections, Scenario, Server};
use crate::baseline_server;
use crate::crew::CrewPlan;
use crate::report::Verdict;
use crate::target::Target;

/// Runs what the command line asks for.
pub fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    match arguments.scenario {
        Scenario::FanOut(args) => fan_out::run(&args),
        Scenario::Baseline(args) => fan_out::run_baseline(&args),
        Scenario::CompareBaseline(mut args) => {
            args.against_baseline = true;
            fan_out::run(&args)
        }
        Scenario::Stall(args) => stall::run(&args),
        Scenario::Idle(args) => idle::run(&args),
        Scenario::ServeBaseline(args) => {
            baseline_server::run(args.frame_bytes).map(|()| Verdict::Passed)
        }
    }
}

/// Starts the server, or finds the one that runs.
fn open(server: &Server) -> anyhow::Result<Target> {
    let Some(program) = &server.server_bin else {
        return Target::running(&server.url, Some(&server.admin_url), server.server_pid);
    };
    let args: Vec<String> = server
        .server_args
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Target::spawn(program, &args, server.server_log.as_deref(), true)
}

/// Starts the bare loop as a process of its own, so that its CPU time is counted apart.
fn open_baseline(frame_bytes: usize) -> anyhow::Result<Target> {
    let program = std::env::current_exe().context("find this program")?;
    let args = ["serve-baseline", "--frame-bytes", &frame_bytes.to_string()].map(str::to_owned);
    Target::spawn(&program, &args, None, false)
}

/// One room by its name, or several that begin with it.
fn room_names(name: &str, rooms: usize) -> Arc<[String]> {
    match rooms {
        0 | 1 => [name.to_owned()].into(),
        rooms => (0..rooms)
            .map(|index| format!("{name}-{index:05}"))
            .collect(),
    }
}

fn crew_plan(
    connections: &Connections,
    target: &Target,
    receivers: usize,
    rooms: Arc<[String]>,
    tracked_offsets: usize,
) -> CrewPlan {
    CrewPlan {
        target: target.address,
        receivers,
        rooms,
        threads: connections.threads,
        sources: connections.source_addrs,
        handshakes_max: connections.connect_concurrency,
        join: connections.join,
        tracked_offsets,
        stalled_receive_buffer_bytes: None,
    }
}
