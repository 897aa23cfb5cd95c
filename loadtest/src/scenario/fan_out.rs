//! One message to many: `fan-out`, `baseline`, and both by turns.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::args::{Baseline, Connections, FanOut, Load};
use crate::audit::Audit;
use crate::clock::{Clock, duration_ns};
use crate::crew::{Crew, gate};
use crate::message::{self, PAYLOAD_BYTES_MIN};
use crate::proc_stat::{Memory, Usage};
use crate::publisher::{Pace, Publisher, PublisherReport};
use crate::report::{Latency, Verdict, bytes, grouped, median, print_audit, ratio, write_json};
use crate::scenario::{crew_plan, open, open_baseline, room_names};
use crate::sys;
use crate::target::Target;

/// Offsets tracked in each room where publishes do not wait for completion.
const TRACKED_OFFSETS: usize = 4_096;
/// The payload where neither it nor the frame is given.
const PAYLOAD_BYTES: usize = 128;

struct Setup<'a> {
    connections: &'a Connections,
    receivers: usize,
    rooms: Arc<[String]>,
    payload_bytes: usize,
    pace: Pace,
    warmup: Duration,
    duration: Duration,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    server: &'static str,
    receivers: usize,
    rooms: usize,
    payload_bytes: usize,
    frame_bytes: u64,
    in_flight: Option<u64>,
    rate: Option<f64>,
    seconds: f64,
    joins_per_s: f64,
    deliveries: u64,
    deliveries_per_s: f64,
    bytes_per_s: f64,
    server_cpu_ns_per_delivery: Option<f64>,
    server_cpu_cores: Option<f64>,
    server_switches: Option<u64>,
    server_memory: Option<Memory>,
    client_cpu_ns_per_delivery: f64,
    client_switches: u64,
    latency: Latency,
    publisher: PublisherReport,
    audit: Audit,
    failures: Vec<String>,
}

/// Medians of several measurements.
#[derive(Debug, Serialize)]
struct Medians {
    deliveries_per_s: f64,
    server_cpu_ns_per_delivery: f64,
    client_cpu_ns_per_delivery: f64,
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    server: Vec<Measured>,
    server_medians: Medians,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    baseline: Vec<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_medians: Option<Medians>,
    /// Server over baseline: above 1 is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries_ratio: Option<f64>,
    /// Server over baseline: below 1 is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ratio: Option<f64>,
}

/// `fan-out`, and with `--against-baseline` `compare-baseline`.
pub fn run(args: &FanOut) -> anyhow::Result<Verdict> {
    let setup = Setup {
        connections: &args.connections,
        receivers: args.receivers,
        rooms: room_names(&args.room, args.rooms),
        payload_bytes: args.payload,
        pace: pace(&args.load),
        warmup: args.load.warmup,
        duration: args.load.duration,
    };
    anyhow::ensure!(
        !args.against_baseline || args.rooms == 1,
        "the baseline has one room: give --rooms 1"
    );
    let mut verdict = Verdict::Passed;
    let (mut server, mut baseline) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let measured = measure("server", &open(&args.server)?, &setup)?;
        verdict = measured.print(verdict);
        let frame_bytes = measured.frame_bytes as usize;
        server.push(measured);
        if args.against_baseline {
            let measured = measure("baseline", &open_baseline(frame_bytes)?, &setup)?;
            verdict = measured.print(verdict);
            baseline.push(measured);
        }
    }
    let report = Report::new(server, baseline);
    report.print();
    write_json(args.output.json.as_deref(), &report)?;
    Ok(verdict)
}

/// `baseline`
pub fn run_baseline(args: &Baseline) -> anyhow::Result<Verdict> {
    let room = "load";
    let overhead_bytes = message::frame_bytes(room, PAYLOAD_BYTES) - PAYLOAD_BYTES;
    let bare_bytes = message::bare_bytes(room, 0) + 4;
    let (payload_bytes, frame_bytes) = match (args.payload, args.frame_bytes) {
        (payload, None) => {
            let payload = payload.unwrap_or(PAYLOAD_BYTES);
            (payload, payload + overhead_bytes)
        }
        (None, Some(frame)) => (frame.saturating_sub(bare_bytes).min(PAYLOAD_BYTES), frame),
        (Some(payload), Some(frame)) => (payload, frame),
    };
    let least = bare_bytes + payload_bytes.max(PAYLOAD_BYTES_MIN);
    anyhow::ensure!(
        frame_bytes >= least,
        "--frame-bytes {least} or more, for this payload"
    );
    let setup = Setup {
        connections: &args.connections,
        receivers: args.receivers,
        rooms: room_names(room, 1),
        payload_bytes,
        pace: pace(&args.load),
        warmup: args.load.warmup,
        duration: args.load.duration,
    };
    let mut verdict = Verdict::Passed;
    let mut baseline = Vec::new();
    for _ in 0..args.repeat {
        let measured = measure("baseline", &open_baseline(frame_bytes)?, &setup)?;
        verdict = measured.print(verdict);
        baseline.push(measured);
    }
    let report = Report::new(baseline, Vec::new());
    report.print();
    write_json(args.output.json.as_deref(), &report)?;
    Ok(verdict)
}

fn pace(load: &Load) -> Pace {
    load.rate
        .map_or(Pace::InFlight(load.in_flight), Pace::PerSecond)
}

fn measure(name: &'static str, target: &Target, setup: &Setup<'_>) -> anyhow::Result<Measured> {
    sys::sharpen_timers();
    let clock = Clock::start();
    let tracked_offsets = match setup.pace {
        Pace::InFlight(count) => usize::try_from(count.saturating_mul(4))?.max(256),
        Pace::PerSecond(_) => TRACKED_OFFSETS,
    };
    let rooms = Arc::clone(&setup.rooms);
    let plan = crew_plan(
        setup.connections,
        target,
        setup.receivers,
        rooms,
        tracked_offsets,
    );
    let (poll, gate) = gate()?;
    let crew = Crew::assemble(&plan, &gate, clock)?;
    let arrival = crew.connect(setup.connections.connect_timeout)?;
    let mut publisher = Publisher::connect(
        target.address,
        &setup.rooms,
        setup.payload_bytes,
        &crew,
        (poll, gate),
        clock,
    )?;
    publisher.run(
        &crew,
        setup.pace,
        clock.now_ns() + duration_ns(setup.warmup),
    )?;
    crew.measure_from_now();
    let before = Snapshot::take(target, &crew, clock)?;
    publisher.run(
        &crew,
        setup.pace,
        clock.now_ns() + duration_ns(setup.duration),
    )?;
    let after = Snapshot::take(target, &crew, clock)?;

    let last_offsets = publisher.last_offsets();
    let publisher = publisher.finish(name != "baseline")?;
    let server_memory = target.pid.map(Memory::of).transpose()?;
    let latency = crew.settled_latencies(&last_offsets, setup.connections.grace)?;
    let frame_bytes = crew.frame_bytes();
    let audit = crew.finish(&last_offsets, setup.connections.grace)?;
    let mut failures = audit.failures(false);
    failures.extend(publisher.failures(name != "baseline"));

    let seconds = (after.at_ns - before.at_ns) as f64 / 1e9;
    let deliveries = after.delivered - before.delivered;
    let server = after
        .server
        .zip(before.server)
        .map(|(after, before)| after.since(before));
    let client = after.client.since(before.client);
    let joined_s = (arrival.joined_ns - arrival.began_ns) as f64 / 1e9;
    Ok(Measured {
        server: name,
        receivers: setup.receivers,
        rooms: setup.rooms.len(),
        payload_bytes: setup.payload_bytes,
        frame_bytes,
        in_flight: if let Pace::InFlight(count) = setup.pace {
            Some(count)
        } else {
            None
        },
        rate: if let Pace::PerSecond(rate) = setup.pace {
            Some(rate)
        } else {
            None
        },
        seconds,
        joins_per_s: ratio(setup.receivers as f64, joined_s),
        deliveries,
        deliveries_per_s: ratio(deliveries as f64, seconds),
        bytes_per_s: ratio((after.bytes - before.bytes) as f64, seconds),
        server_cpu_ns_per_delivery: server.map(|it| ratio(it.cpu_ns as f64, deliveries as f64)),
        server_cpu_cores: server.map(|it| ratio(it.cpu_ns as f64 / 1e9, seconds)),
        server_switches: server.map(|it| it.switches_voluntary + it.switches_involuntary),
        server_memory,
        client_cpu_ns_per_delivery: ratio(client.cpu_ns as f64, deliveries as f64),
        client_switches: client.switches_voluntary + client.switches_involuntary,
        latency: Latency::of(&latency),
        publisher,
        audit,
        failures,
    })
}

/// The counters at one moment.
struct Snapshot {
    at_ns: u64,
    delivered: u64,
    bytes: u64,
    server: Option<Usage>,
    client: Usage,
}

impl Snapshot {
    fn take(target: &Target, crew: &Crew, clock: Clock) -> anyhow::Result<Snapshot> {
        Ok(Snapshot {
            at_ns: clock.now_ns(),
            delivered: crew.delivered(),
            bytes: crew.bytes(),
            server: target.pid.map(Usage::of).transpose()?,
            client: Usage::of(std::process::id())?,
        })
    }
}

impl Measured {
    /// Prints this measurement; the verdict is that of all so far.
    fn print(&self, so_far: Verdict) -> Verdict {
        let pace = match (self.in_flight, self.rate) {
            (Some(count), _) => format!("{count} in flight"),
            (_, Some(rate)) => format!("{rate} a second"),
            _ => String::new(),
        };
        println!(
            "{:<11} {} receivers, {} rooms, {pace}, payload {} B, frame {} B, {:.1} s",
            self.server,
            self.receivers,
            self.rooms,
            self.payload_bytes,
            self.frame_bytes,
            self.seconds
        );
        println!(
            "deliveries  {}/s  {}/s  joins {}/s",
            grouped(self.deliveries_per_s),
            bytes(self.bytes_per_s),
            grouped(self.joins_per_s)
        );
        let server = match (self.server_cpu_ns_per_delivery, self.server_cpu_cores) {
            (Some(each), Some(cores)) => format!("server {each:.0} ns ({cores:.2} cores)"),
            _ => "server unknown (give --server-pid)".to_owned(),
        };
        println!(
            "CPU each    {server}  client {:.0} ns  switches {} / {}",
            self.client_cpu_ns_per_delivery,
            self.server_switches.unwrap_or(0),
            self.client_switches
        );
        if let Some(memory) = self.server_memory {
            let anon = bytes(memory.rss_anon_bytes as f64);
            println!(
                "memory      server RSS {}, own {anon}",
                bytes(memory.rss_bytes as f64)
            );
        }
        println!("latency     {}", self.latency);
        let verdict = print_audit(&self.audit, &self.failures);
        println!();
        if so_far == Verdict::Failed {
            so_far
        } else {
            verdict
        }
    }
}

impl Medians {
    fn of(runs: &[Measured]) -> Medians {
        let over = |value: fn(&Measured) -> f64| median(runs.iter().map(value));
        Medians {
            deliveries_per_s: over(|it| it.deliveries_per_s),
            server_cpu_ns_per_delivery: over(|it| it.server_cpu_ns_per_delivery.unwrap_or(0.0)),
            client_cpu_ns_per_delivery: over(|it| it.client_cpu_ns_per_delivery),
            p50_ms: over(|it| it.latency.p50_ms),
            p99_ms: over(|it| it.latency.p99_ms),
        }
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<9} {:>11}/s  server {:>7.0} ns  client {:>7.0} ns  p50 {:.2}  p99 {:.2} ms",
            grouped(self.deliveries_per_s),
            self.server_cpu_ns_per_delivery,
            self.client_cpu_ns_per_delivery,
            self.p50_ms,
            self.p99_ms
        );
    }
}

impl Report {
    fn new(server: Vec<Measured>, baseline: Vec<Measured>) -> Report {
        let server_medians = Medians::of(&server);
        let baseline_medians = (!baseline.is_empty()).then(|| Medians::of(&baseline));
        let over = |value: fn(&Medians) -> f64| {
            baseline_medians
                .as_ref()
                .map(|it| ratio(value(&server_medians), value(it)))
        };
        Report {
            deliveries_ratio: over(|it| it.deliveries_per_s),
            cpu_ratio: over(|it| it.server_cpu_ns_per_delivery),
            server,
            server_medians,
            baseline,
            baseline_medians,
        }
    }

    fn print(&self) {
        if self.server.len() < 2 && self.baseline.is_empty() {
            return;
        }
        println!("medians of {}", self.server.len());
        self.server_medians
            .print(self.server.first().map_or("server", |it| it.server));
        if let Some(baseline) = &self.baseline_medians {
            baseline.print("baseline");
        }
        if let (Some(deliveries), Some(cpu)) = (self.deliveries_ratio, self.cpu_ratio) {
            println!("ratio     deliveries {deliveries:.2}  server CPU per delivery {cpu:.2}");
        }
    }
}
