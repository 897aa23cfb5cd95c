//! Many connections that do nothing.

use std::thread;

use serde::Serialize;

use crate::args::Idle;
use crate::audit::Audit;
use crate::clock::{Clock, duration_ns, until};
use crate::crew::{Crew, gate};
use crate::message::{self, PAYLOAD_BYTES_MIN};
use crate::proc_stat::{KernelMemory, Memory, Usage};
use crate::publisher::Publisher;
use crate::report::{Latency, Verdict, bytes, grouped, print_audit, ratio, write_json};
use crate::scenario::{crew_plan, open, open_baseline, room_names};

/// One message at most is on its way.
const TRACKED_OFFSETS: usize = 4;

#[derive(Debug, Serialize)]
struct Report {
    connections: usize,
    rooms: usize,
    connect_s: f64,
    join_s: f64,
    connects_per_s: f64,
    joins_per_s: f64,
    server_cpu_us_per_connection: Option<f64>,
    server_before: Option<Memory>,
    server_after: Option<Memory>,
    server_anon_bytes_per_connection: Option<f64>,
    kernel_before: KernelMemory,
    kernel_after: KernelMemory,
    kernel_slab_bytes_per_connection: f64,
    /// From the publish to each receiver: first is the least, last the most.
    publish: Option<Latency>,
    audit: Audit,
    failures: Vec<String>,
}

/// `idle`
pub fn run(args: &Idle) -> anyhow::Result<Verdict> {
    let rooms = room_names(&args.room, args.rooms);
    let frame_bytes = message::frame_bytes(&args.room, PAYLOAD_BYTES_MIN);
    let target = if args.baseline {
        open_baseline(frame_bytes)?
    } else {
        open(&args.server)?
    };
    let clock = Clock::start();
    let plan = crew_plan(
        &args.connections,
        &target,
        args.count,
        std::sync::Arc::clone(&rooms),
        TRACKED_OFFSETS,
    );
    let (poll, gate) = gate()?;
    let crew = Crew::assemble(&plan, &gate, clock)?;

    let usage_before = target.pid.map(Usage::of).transpose()?;
    let server_before = target.pid.map(Memory::of).transpose()?;
    let kernel_before = KernelMemory::now();
    let arrival = crew.connect(args.connections.connect_timeout)?;
    let server_after = target.pid.map(Memory::of).transpose()?;
    let kernel_after = KernelMemory::now();
    let usage_after = target.pid.map(Usage::of).transpose()?;

    let hold_ns = clock.now_ns().saturating_add(duration_ns(args.hold));
    while clock.now_ns() < hold_ns {
        thread::park_timeout(until(clock.now_ns(), hold_ns));
    }
    let mut last_offsets: Vec<u64> = (0..rooms.len())
        .map(|room| crew.completed(room).unwrap_or(0))
        .collect();
    let mut publish = None;
    if args.publish {
        let ties = (poll, gate);
        let mut publisher = Publisher::connect(
            target.address,
            &rooms,
            PAYLOAD_BYTES_MIN,
            &crew,
            ties,
            clock,
        )?;
        crew.measure_from_now();
        publisher.publish_once()?;
        last_offsets = publisher.last_offsets();
        publisher.finish(!args.baseline)?;
        let latencies = crew.settled_latencies(&last_offsets, args.connections.grace)?;
        publish = Some(Latency::of(&latencies));
    }
    let audit = crew.finish(&last_offsets, args.connections.grace)?;

    let count = args.count as f64;
    let connect_s = arrival.connected_ns.saturating_sub(arrival.began_ns) as f64 / 1e9;
    let join_s = arrival.joined_ns.saturating_sub(arrival.began_ns) as f64 / 1e9;
    let usage = usage_after
        .zip(usage_before)
        .map(|(after, before)| after.since(before));
    let anon_bytes = server_after
        .zip(server_before)
        .map(|(after, before)| after.rss_anon_bytes as f64 - before.rss_anon_bytes as f64);
    let slab_bytes = kernel_after.slab_bytes as f64 - kernel_before.slab_bytes as f64;
    let failures = audit.failures(false);
    let report = Report {
        connections: args.count,
        rooms: rooms.len(),
        connect_s,
        join_s,
        connects_per_s: ratio(count, connect_s),
        joins_per_s: ratio(count, join_s),
        server_cpu_us_per_connection: usage.map(|it| ratio(it.cpu_ns as f64 / 1e3, count)),
        server_before,
        server_after,
        server_anon_bytes_per_connection: anon_bytes.map(|bytes| ratio(bytes, count)),
        kernel_before,
        kernel_after,
        kernel_slab_bytes_per_connection: ratio(slab_bytes, count),
        publish,
        audit,
        failures,
    };
    write_json(args.output.json.as_deref(), &report)?;
    Ok(report.print())
}

impl Report {
    fn print(&self) -> Verdict {
        println!(
            "idle        {} connections, {} rooms",
            self.connections, self.rooms
        );
        println!(
            "arrival     {} connects/s, {} joins/s ({:.2} s)",
            grouped(self.connects_per_s),
            grouped(self.joins_per_s),
            self.join_s
        );
        if let Some(cpu_us) = self.server_cpu_us_per_connection {
            println!("CPU each    server {cpu_us:.1} µs");
        }
        if let (Some(before), Some(after), Some(each)) = (
            self.server_before,
            self.server_after,
            self.server_anon_bytes_per_connection,
        ) {
            println!(
                "memory      server RSS {} before, {} after; own memory {} each",
                bytes(before.rss_bytes as f64),
                bytes(after.rss_bytes as f64),
                bytes(each)
            );
        }
        println!(
            "kernel      {} TCP sockets, {} in buffers, {} of objects each (both ends)",
            self.kernel_after.tcp_sockets,
            bytes(self.kernel_after.tcp_buffer_bytes as f64),
            bytes(self.kernel_slab_bytes_per_connection)
        );
        if let Some(publish) = self.publish {
            println!(
                "publish     first after {:.2} ms, last after {:.2} ms",
                publish.min_ms, publish.max_ms
            );
        }
        print_audit(&self.audit, &self.failures)
    }
}
