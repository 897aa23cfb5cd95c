//! What readers that stopped do to those that go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use crate::args::Stall;
use crate::audit::Audit;
use crate::clock::{Clock, duration_ns};
use crate::crew::{Crew, CrewPlan, gate};
use crate::proc_stat::{KernelMemory, Memory};
use crate::publisher::{Pace, Publisher, PublisherReport};
use crate::report::{Latency, Verdict, bytes, grouped, print_audit, write_json};
use crate::scenario::{crew_plan, open, room_names};
use crate::sys;
use crate::target::{Target, samples};

/// How often the server's memory is read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Offsets tracked in the room: the pace does not wait for them.
const TRACKED_OFFSETS: usize = 4_096;
/// The ledger: where each frame offered to a connection ended.
const LEDGER: &str = "tidewheel_ledger_frames_total";

#[derive(Debug, Serialize)]
struct Sample {
    at_s: f64,
    rss_bytes: u64,
    /// TCP buffers of all processes.
    tcp_buffer_bytes: u64,
}

#[derive(Debug, Serialize)]
struct LedgerLine {
    labels: String,
    before: f64,
    after: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    live: usize,
    stalled: usize,
    rate: f64,
    payload_bytes: usize,
    without: Latency,
    with: Latency,
    /// When the stalled receivers had joined, on the samples' clock.
    stalled_at_s: f64,
    memory: Vec<Sample>,
    ledger: Vec<LedgerLine>,
    publisher: PublisherReport,
    live_audit: Audit,
    stalled_audit: Audit,
    failures: Vec<String>,
}

/// `stall`
pub fn run(args: &Stall) -> anyhow::Result<Verdict> {
    sys::sharpen_timers();
    let target = open(&args.server)?;
    let clock = Clock::start();
    let rooms = room_names(&args.room, 1);
    let plan = |receivers| {
        crew_plan(
            &args.connections,
            &target,
            receivers,
            Arc::clone(&rooms),
            TRACKED_OFFSETS,
        )
    };
    let stalled_plan = CrewPlan {
        stalled_receive_buffer_bytes: Some(u32::try_from(args.stalled_buffer)?),
        ..plan(args.stalled)
    };
    let (poll, gate) = gate()?;
    // Both before the first socket: none of it is copied into another table.
    let live = Crew::assemble(&plan(args.live), &gate, clock)?;
    let stalled = Crew::assemble(&stalled_plan, &gate, clock)?;
    live.connect(args.connections.connect_timeout)?;
    let ties = (poll, gate);
    let mut publisher =
        Publisher::connect(target.address, &rooms, args.payload, &live, ties, clock)?;
    let pace = Pace::PerSecond(args.rate);
    let duration_ns = duration_ns(args.duration);
    let ledger_before = ledger(&target);
    let sampler = Sampler::start(target.pid, clock)?;

    publisher.run(
        &live,
        pace,
        clock.now_ns() + crate::clock::duration_ns(args.warmup),
    )?;
    live.measure_from_now();
    publisher.run(&live, pace, clock.now_ns() + duration_ns)?;
    let grace = args.connections.grace;
    let without = live.settled_latencies(&publisher.last_offsets(), grace)?;

    stalled.connect(args.connections.connect_timeout)?;
    let stalled_at_s = clock.now_ns() as f64 / 1e9;
    live.measure_from_now();
    publisher.run(&live, pace, clock.now_ns() + duration_ns)?;
    let with = live.settled_latencies(&publisher.last_offsets(), grace)?;

    let memory = sampler.stop();
    let ledger = ledger_lines(ledger_before, ledger(&target));
    let last_offsets = publisher.last_offsets();
    let publisher = publisher.finish(true)?;
    let live_audit = live.finish(&last_offsets, grace)?;
    stalled.resume()?;
    let stalled_audit = stalled.finish(&last_offsets, grace)?;

    let mut failures = live_audit.failures(false);
    // A peer that does not read may lose the close frame: the reset after it is the rule.
    failures.extend(
        stalled_audit
            .failures(true)
            .iter()
            .map(|it| format!("stalled: {it}")),
    );
    failures.extend(publisher.failures(true));
    let report = Report {
        live: args.live,
        stalled: args.stalled,
        rate: args.rate,
        payload_bytes: args.payload,
        without: Latency::of(&without),
        with: Latency::of(&with),
        stalled_at_s,
        memory,
        ledger,
        publisher,
        live_audit,
        stalled_audit,
        failures,
    };
    write_json(args.output.json.as_deref(), &report)?;
    Ok(report.print())
}

impl Report {
    fn print(&self) -> Verdict {
        println!(
            "stall       {} live, {} stalled, {} a second, payload {} B",
            self.live, self.stalled, self.rate, self.payload_bytes
        );
        println!("without     {}", self.without);
        println!("with        {}", self.with);
        self.print_memory();
        self.print_ledger();
        println!(
            "stalled     delivered {}, announced missed {}, closes {:?}, resets {}",
            self.stalled_audit.delivered,
            self.stalled_audit.announced_missed,
            self.stalled_audit.closes,
            self.stalled_audit.resets
        );
        print_audit(&self.live_audit, &self.failures)
    }
}

impl Report {
    fn print_memory(&self) {
        let most = |from_s: f64, to_s: f64, value: fn(&Sample) -> u64| {
            let within = self
                .memory
                .iter()
                .filter(|it| (from_s..to_s).contains(&it.at_s));
            bytes(within.map(value).max().unwrap_or(0) as f64)
        };
        let rss: fn(&Sample) -> u64 = |it| it.rss_bytes;
        let buffers: fn(&Sample) -> u64 = |it| it.tcp_buffer_bytes;
        let last = self.memory.last().map_or(0, rss);
        let at_s = self.stalled_at_s;
        println!(
            "memory      server RSS at most {} without, {} with, {} at the end",
            most(0.0, at_s, rss),
            most(at_s, f64::MAX, rss),
            bytes(last as f64)
        );
        println!(
            "kernel      TCP buffers at most {} without, {} with",
            most(0.0, at_s, buffers),
            most(at_s, f64::MAX, buffers)
        );
    }

    fn print_ledger(&self) {
        let mut open = 0.0;
        for line in &self.ledger {
            let count = line.after - line.before;
            if count == 0.0 {
                continue;
            }
            println!("ledger      {} {}", line.labels, grouped(count));
            // What was offered is in one outcome each, or still to come.
            open += if line.labels.contains("\"offered\"") {
                count
            } else {
                -count
            };
        }
        println!("ledger      {} offered and still open", grouped(open));
    }
}

/// The ledger's samples; none where the server has no such metric or cannot be asked.
fn ledger(target: &Target) -> Vec<(String, f64)> {
    match target.metrics() {
        Ok(metrics) => {
            let lines = samples(&metrics, LEDGER);
            lines
                .into_iter()
                .map(|(labels, value)| (labels.to_owned(), value))
                .collect()
        }
        Err(error) => {
            eprintln!("no metrics: {error:#}");
            Vec::new()
        }
    }
}

fn ledger_lines(before: Vec<(String, f64)>, after: Vec<(String, f64)>) -> Vec<LedgerLine> {
    let line = |(labels, after): (String, f64)| {
        let before = before
            .iter()
            .find(|(name, _)| *name == labels)
            .map_or(0.0, |(_, value)| *value);
        LedgerLine {
            labels,
            before,
            after,
        }
    };
    after.into_iter().map(line).collect()
}

/// Reads the server's memory over time.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    fn start(pid: Option<u32>, clock: Clock) -> anyhow::Result<Sampler> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("sampler".into())
            .spawn(move || {
                let mut samples = Vec::new();
                while let Some(pid) = pid.filter(|_| !stopped.load(Ordering::Relaxed)) {
                    if let Ok(memory) = Memory::of(pid) {
                        let at_s = clock.now_ns() as f64 / 1e9;
                        samples.push(Sample {
                            at_s,
                            rss_bytes: memory.rss_bytes,
                            tcp_buffer_bytes: KernelMemory::now().tcp_buffer_bytes,
                        });
                    }
                    thread::park_timeout(SAMPLE_INTERVAL);
                }
                samples
            })?;
        Ok(Sampler { stop, thread })
    }

    fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_appears_during_the_run_counts_from_zero() {
        let before = vec![("{outcome=\"a\"}".to_owned(), 2.0)];
        let after = vec![
            ("{outcome=\"a\"}".to_owned(), 5.0),
            ("{outcome=\"b\"}".to_owned(), 1.0),
        ];
        let lines = ledger_lines(before, after);
        let deltas: Vec<f64> = lines.iter().map(|line| line.after - line.before).collect();
        assert_eq!(deltas, [3.0, 1.0]);
    }
}
