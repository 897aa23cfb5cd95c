//! What a run found, as one value: the summary, `--json`, `--report` and `compare` are made from it.
//!
//! ```text
//! Outcome ── what was asked, where it ran
//!   └─ turns: one measurement each, of one subject (the server, a bare loop, …)
//!        ├─ arrival, throughput, cost, latency, audit, ledger
//!        └─ series: the same over time, one sample an interval
//! ```
//! Every number carries its unit in its name; what could not be had is absent, never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::Audit;

/// The version of this shape: a file of another one is refused by `compare`.
pub const VERSION: u32 = 1;

/// The subject of a turn that measured Tidewheel by its own protocol.
pub const TIDEWHEEL: &str = "tidewheel";

/// One run of one scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the scenario.
    pub scenario: String,
    /// The experiment in a few lines, from the scenario's file.
    pub about: String,
    /// The command line, so that anyone can repeat it.
    pub command: String,
    /// When it began, in milliseconds of Unix time.
    pub began_unix_ms: u64,
    /// What it ran on.
    pub machine: Machine,
    /// Every setting in force, by its flag's name without dashes.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// The measurements, in the order in which they were made.
    pub turns: Vec<Turn>,
    /// What nobody explained, over all turns; empty where the audit passed.
    pub failures: Vec<String>,
}

/// The machine, which both ends share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in all.
    pub memory_bytes: u64,
    /// Version of the kernel.
    pub kernel: String,
}

/// One measurement of one subject.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Turn {
    /// What was measured: `tidewheel`, `bare loop`, `bare loop, io_uring`, `broadcast`, …
    pub subject: String,
    /// The phase, where a scenario has several: `live alone`, `beside stalled readers`.
    pub phase: Option<String>,
    /// Length of the window of measurement.
    pub seconds: f64,
    /// Connections that were to be made.
    pub connections: u64,
    /// Rooms in use.
    pub rooms: u64,
    /// How everyone got in.
    pub arrival: Option<Arrival>,
    /// Publishes accepted within the window.
    pub publishes: u64,
    /// Messages that arrived within the window, in order, at one subscriber each.
    pub deliveries: u64,
    /// Bytes that arrived within the window.
    pub bytes: u64,
    /// Bytes of a message's frame on the wire.
    pub frame_bytes: u64,
    /// From the publish, at a fixed rate from the intended one, to the read.
    pub latency: Latency,
    /// Other times that a scenario measures: `join`, `recovery`, `echo`, `presence`, …
    pub times: BTreeMap<String, Latency>,
    /// Other counts that a scenario makes: `reconnects`, `recovered`, `presence events`, …
    pub counts: BTreeMap<String, u64>,
    /// The server's side of the window.
    pub server: Option<Side>,
    /// Our own side of the window.
    pub client: Side,
    /// What the kernel held for sockets of all processes at the end of the window.
    pub kernel: Kernel,
    /// What subscribers saw.
    pub audit: Audit,
    /// The server's own count of what became of each message.
    pub ledger: Vec<LedgerLine>,
    /// Messages in one write, by the server's metrics.
    pub messages_per_write: Option<f64>,
    /// What nobody explained in this turn.
    pub failures: Vec<String>,
    /// The run over time.
    pub series: Vec<Sample>,
}

/// How everyone got in.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Arrival {
    /// Connections that were upgraded.
    pub connected: u64,
    /// Connections that were refused or failed.
    pub refused: u64,
    /// From the first connect to the last upgrade.
    pub connect_s: f64,
    /// From the first connect to the last join.
    pub join_s: f64,
    /// CPU time of the server for each connection.
    pub server_cpu_us_each: Option<f64>,
    /// Growth of the server's own memory for each connection.
    pub server_bytes_each: Option<f64>,
    /// Growth of the kernel's objects for each connection, both ends together.
    pub kernel_bytes_each: Option<f64>,
}

/// What one process used within the window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Side {
    /// CPU time, user and system, of all threads.
    pub cpu_ns: u64,
    /// Times its threads gave the processor up.
    pub switches_voluntary: u64,
    /// Times it was taken from them.
    pub switches_involuntary: u64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Resident memory of its own (no files, not shared) at the end.
    pub rss_anon_bytes: u64,
}

/// What the kernel held for TCP, of all processes together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Kernel {
    /// Sockets, both ends.
    pub tcp_sockets: u64,
    /// Bytes in buffers.
    pub tcp_buffer_bytes: u64,
    /// The kernel's own objects.
    pub slab_bytes: u64,
}

/// Percentiles of a histogram, in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many values.
    pub count: u64,
    /// The least.
    pub min_ms: f64,
    /// The mean.
    pub mean_ms: f64,
    /// Half were less.
    pub p50_ms: f64,
    /// Nine in ten were less.
    pub p90_ms: f64,
    /// All but one in a hundred were less.
    pub p99_ms: f64,
    /// All but one in a thousand were less.
    pub p999_ms: f64,
    /// All but one in ten thousand were less.
    pub p9999_ms: f64,
    /// The most.
    pub max_ms: f64,
    /// The curve: percentile (0 to 100) and milliseconds, rising, for a plot over 1/(1-p).
    pub curve: Vec<(f64, f64)>,
}

/// One line of the server's ledger.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LedgerLine {
    /// Labels as the metrics give them: `kind="message",outcome="offered"`.
    pub labels: String,
    /// How much it grew from before the first join to after the audit.
    pub count: f64,
}

/// One moment of a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at_s: f64,
    /// True within the window of measurement.
    pub is_measured: bool,
    /// Connections open.
    pub connected: u64,
    /// Subscriptions in force.
    pub joined: u64,
    /// Connections opened a second, since the last sample.
    pub connects_per_s: f64,
    /// Messages delivered a second, since the last sample.
    pub deliveries_per_s: f64,
    /// Bytes received a second, since the last sample.
    pub bytes_per_s: f64,
    /// Median latency of the messages that arrived since the last sample; absent where none did.
    pub p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub p99_ms: Option<f64>,
    /// Their most.
    pub max_ms: Option<f64>,
    /// Cores' worth of CPU that the server used since the last sample.
    pub server_cores: Option<f64>,
    /// The server's resident memory.
    pub server_rss_bytes: Option<u64>,
    /// Bytes in the kernel's TCP buffers, of all processes.
    pub tcp_buffer_bytes: u64,
}
