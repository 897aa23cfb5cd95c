//! Metrics as Prometheus text, version 0.0.4.
//!
//! Numbers are those of all cores together. Where the difference between cores is what one looks
//! for, there is a `core` label instead, and the sum is left to the query.

use std::fmt::{Display, Write};
use std::time::Duration;

use crate::metrics::{
    Bus, CodeCounts, Counts, Dialect, Kind, Label, Latency, Ledger, Memory, Metrics,
};

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The upper bounds of every histogram's buckets, in microseconds.
const BOUNDS_US: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// A core as the text shows it; its number is its place in the list.
#[derive(Clone, Default, Debug)]
pub struct CoreReport {
    /// Whether the core answered in time.
    pub is_up: bool,
    /// Its answer, or the last one before it fell silent: counters must not seem to start anew.
    pub metrics: Option<Box<Metrics>>,
}

/// The text for these cores.
pub fn render(cores: &[CoreReport]) -> String {
    let mut all = Metrics::default();
    for metrics in cores.iter().filter_map(|core| core.metrics.as_deref()) {
        all.merge(metrics);
    }
    let mut out = Exposition::default();
    out.family(
        "tidewheel_build_info",
        "gauge",
        "The version that runs; always 1.",
    );
    out.sample(&[("version", &env!("CARGO_PKG_VERSION"))], 1);
    write_cores(&mut out, cores);
    write_connections(&mut out, &all);
    write_limits(&mut out, &all);
    write_traffic(&mut out, &all);
    write_ledger(&mut out, &all.ledger);
    write_rooms(&mut out, &all);
    write_memory(&mut out, &all.memory);
    write_flush(&mut out, &all);
    write_tls(&mut out, &all);
    out.text
}

fn write_cores(out: &mut Exposition, cores: &[CoreReport]) {
    out.family(
        "tidewheel_core_up",
        "gauge",
        "Whether the core answered within the time-out.",
    );
    for (core, report) in cores.iter().enumerate() {
        out.sample(&[("core", &core)], u64::from(report.is_up));
    }
    let known: Vec<(usize, &Metrics)> = (cores.iter().enumerate())
        .filter_map(|(core, report)| Some((core, report.metrics.as_deref()?)))
        .collect();
    let mut gauge = |name, help, value: fn(&Metrics) -> u64| {
        out.family(name, "gauge", help);
        for (core, metrics) in &known {
            out.sample(&[("core", core)], value(metrics));
        }
    };
    gauge(
        "tidewheel_core_connections",
        "Open connections of each core.",
        |m| m.connections.open_total(),
    );
    gauge(
        "tidewheel_core_timers",
        "Timers waiting in each core's wheel.",
        |m| m.timers,
    );

    let mut bus = |name, help, values: fn(&Bus) -> [u64; 2]| {
        out.family(name, "counter", help);
        for (core, metrics) in &known {
            let [taken, put] = values(&metrics.bus);
            out.sample(&[("core", core), ("direction", &"in")], taken);
            out.sample(&[("core", core), ("direction", &"out")], put);
        }
    };
    bus(
        "tidewheel_bus_batches_total",
        "Batches that a core took from the bus or put on it.",
        |b| [b.batches_in, b.batches_out],
    );
    bus(
        "tidewheel_bus_messages_total",
        "Messages in those batches.",
        |b| [b.messages_in, b.messages_out],
    );

    let help = "Turns of each core's event loop, from the poll's return to the next poll.";
    out.family("tidewheel_turn_seconds", "histogram", help);
    for (core, metrics) in &known {
        out.histogram(&[("core", core)], &metrics.turns.took);
    }
}

fn write_connections(out: &mut Exposition, all: &Metrics) {
    let connections = &all.connections;
    out.family("tidewheel_connections", "gauge", "Open connections.");
    for dialect in Dialect::ALL {
        for (state, n) in connections.open[dialect.index()].iter() {
            out.sample(&[("dialect", &dialect.text()), ("state", &state.text())], n);
        }
    }
    let help = "Sockets taken from the listener.";
    out.counter(
        "tidewheel_connections_accepted_total",
        help,
        connections.accepted,
    );
    let help = "Sockets turned away before they were a connection.";
    out.counts(
        "tidewheel_connections_rejected_total",
        help,
        "reason",
        &connections.rejected,
    );
    let help = "Closed connections by close code; 1006 where there was none.";
    out.codes(
        "tidewheel_connections_closed_total",
        help,
        &connections.closed,
    );
    let help = "Slow consumers closed or made to jump ahead, by the bound they passed.";
    out.counts(
        "tidewheel_evictions_total",
        help,
        "cause",
        &connections.evicted,
    );
    let help = "Credentials that were accepted, by how they came.";
    out.counts(
        "tidewheel_auth_accepted_total",
        help,
        "way",
        &connections.auth_accepted,
    );
    let help = "Connections not let in, or not any longer, because of who they are.";
    out.counts(
        "tidewheel_auth_refused_total",
        help,
        "reason",
        &connections.auth_refused,
    );
}

fn write_limits(out: &mut Exposition, all: &Metrics) {
    let limits = &all.limits;
    let help = "What was refused, slowed or closed because of a limit.";
    out.counts("tidewheel_limited_total", help, "limit", &limits.met);
    let help =
        "Meters of users and addresses that were forgotten early, because there were too many.";
    out.counter(
        "tidewheel_meters_forgotten_total",
        help,
        limits.meters_forgotten,
    );
    out.gauge("tidewheel_bans", "Bans in force.", limits.bans);
}

fn write_traffic(out: &mut Exposition, all: &Metrics) {
    let traffic = &all.traffic;
    let help = "Bytes read from sockets.";
    out.counter("tidewheel_received_bytes_total", help, traffic.bytes_in);
    let help = "Bytes written to sockets.";
    out.counter("tidewheel_sent_bytes_total", help, traffic.bytes_out);
    out.counts(
        "tidewheel_commands_total",
        "Commands of peers.",
        "type",
        &traffic.commands,
    );
    let help = "Errors told to peers that did not close the connection.";
    out.codes("tidewheel_errors_total", help, &traffic.errors);
    let help = "Offsets that members did not get, summed over the members.";
    out.counter(
        "tidewheel_skipped_offsets_total",
        help,
        traffic.skipped_offsets,
    );
    let help = "From a message's acceptance to a core's last write of it.";
    out.family("tidewheel_publish_to_last_write_seconds", "histogram", help);
    out.histogram(&[], &all.turns.publish_to_last_write);
}

fn write_ledger(out: &mut Exposition, ledger: &Ledger) {
    let help = "Frames offered to connections, and how they ended; undelivered by close code.";
    out.family("tidewheel_ledger_frames_total", "counter", help);
    for kind in Kind::ALL {
        let account = ledger.account(*kind);
        let kind: (&str, &dyn Display) = ("kind", &kind.text());
        out.sample(&[kind, ("outcome", &"offered")], account.offered);
        out.sample(&[kind, ("outcome", &"delivered")], account.delivered);
        out.sample(&[kind, ("outcome", &"skipped")], account.skipped);
        for (code, n) in account.undelivered_by_code.iter() {
            let code = code_text(code);
            out.sample(&[kind, ("outcome", &"undelivered"), ("code", &code)], n);
        }
    }
    let help = "Frames without an outcome so far: offered, less all outcomes.";
    out.family("tidewheel_ledger_pending_frames", "gauge", help);
    for kind in Kind::ALL {
        out.sample(&[("kind", &kind.text())], ledger.account(*kind).pending());
    }
}

fn write_rooms(out: &mut Exposition, all: &Metrics) {
    let rooms = &all.rooms;
    out.gauge(
        "tidewheel_rooms",
        "Rooms, each counted at its home core.",
        rooms.homed,
    );
    let help = "Logs: a room counts once for each core that has members of it.";
    out.gauge("tidewheel_room_logs", help, rooms.local);
    let help = "Cursors: a connection counts once for each room it is in.";
    out.gauge("tidewheel_room_members", help, rooms.members);
    let help =
        "Memory of logs: of frames that a member still waits for, and what stands beside them.";
    out.gauge("tidewheel_log_bytes", help, rooms.log_bytes);
    out.gauge(
        "tidewheel_history_bytes",
        "Memory of history: of frames, and what stands beside them.",
        rooms.history_bytes,
    );
}

fn write_memory(out: &mut Exposition, memory: &Memory) {
    let help = "Memory that is counted, by what it is held for.";
    out.family("tidewheel_memory_bytes", "gauge", help);
    for (kind, bytes) in memory.held.iter() {
        out.sample(&[("kind", &kind.text())], bytes);
    }
    let help = "The budget that this is held against, with what the allocator adds; 0: none.";
    out.gauge("tidewheel_memory_budget_bytes", help, memory.budget_bytes);
    let help = "How near the budget is: 0 calm, 1 history is trimmed, 2 bounds are tighter, \
                3 debtors are closed, 4 newcomers are refused.";
    out.gauge("tidewheel_memory_pressure", help, memory.pressure);
    let help = "Resident memory of the process, as the system tells it.";
    out.gauge(
        "tidewheel_memory_resident_bytes",
        help,
        memory.resident_bytes,
    );
    let help = "Memory of sockets in the kernel: of this control group where it has a limit, \
                else of the machine.";
    out.gauge("tidewheel_memory_sockets_bytes", help, memory.sockets_bytes);
    let help = "Messages that rooms let go of before their time, for the budget.";
    out.counter(
        "tidewheel_history_trimmed_messages_total",
        help,
        memory.history_trimmed,
    );
    let help = "Accepted publishes forgotten before their time, for the budget.";
    out.counter(
        "tidewheel_idempotency_trimmed_keys_total",
        help,
        memory.keys_trimmed,
    );
}

fn write_flush(out: &mut Exposition, all: &Metrics) {
    let flush = &all.flush;
    let help = "Vectored writes that the kernel took something of.";
    out.counter("tidewheel_flush_writes_total", help, flush.writes);
    out.counter(
        "tidewheel_flush_bytes_total",
        "Bytes that it took.",
        flush.bytes,
    );
    let help = "Writes that it took nothing of.";
    out.counter("tidewheel_flush_would_block_total", help, flush.would_block);
    let help = "Writes that it took a part of.";
    out.counter("tidewheel_flush_partial_total", help, flush.partial);
}

fn write_tls(out: &mut Exposition, all: &Metrics) {
    let tls = &all.tls;
    let help = "Completed TLS handshakes of the public listener.";
    out.counts(
        "tidewheel_tls_handshakes_total",
        help,
        "version",
        &tls.handshakes,
    );
    let help = "Those of them that resumed a session.";
    out.counter("tidewheel_tls_resumed_total", help, tls.resumed);
    let help = "TLS streams that failed, most of them in the handshake.";
    out.counts("tidewheel_tls_failed_total", help, "reason", &tls.failed);
    let help = "Handshakes put off to a core's next turn by --tls-handshake-budget.";
    out.counter("tidewheel_tls_deferred_total", help, tls.deferred);
    let help = "TLS handshakes under way.";
    out.gauge("tidewheel_tls_in_progress", help, tls.in_progress);
    let help = "Encrypted bytes that sockets have not taken.";
    out.gauge("tidewheel_tls_pending_bytes", help, tls.pending_bytes);
}

fn code_text(code: Option<u16>) -> String {
    code.map_or_else(|| "other".to_owned(), |code| code.to_string())
}

type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// The text so far, and the family whose samples come next.
///
/// Names, help and label values are this program's own and need no escapes.
#[derive(Default)]
struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.sample_of("", labels, value);
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(&[], value);
    }

    fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(&[], value);
    }

    fn counts<L: Label>(&mut self, name: &'static str, help: &str, key: &str, counts: &Counts<L>) {
        self.family(name, "counter", help);
        for (value, n) in counts.iter() {
            self.sample(&[(key, &value.text())], n);
        }
    }

    fn codes(&mut self, name: &'static str, help: &str, counts: &CodeCounts) {
        self.family(name, "counter", help);
        for (code, n) in counts.iter() {
            self.sample(&[("code", &code_text(code))], n);
        }
    }

    fn histogram(&mut self, labels: Labels<'_>, latency: &Latency) {
        let mut bucket = |bound: &dyn Display, n| {
            let with_bound: Vec<(&str, &dyn Display)> =
                labels.iter().copied().chain([("le", bound)]).collect();
            self.sample_of("_bucket", &with_bound, n);
        };
        for micros in BOUNDS_US {
            let n = latency.count_up_to(Duration::from_micros(micros));
            bucket(&(micros as f64 / 1e6), n);
        }
        bucket(&"+Inf", latency.count());
        self.sample_of("_sum", labels, latency.sum().as_secs_f64());
        self.sample_of("_count", labels, latency.count());
    }

    fn sample_of(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let mut list = String::new();
        for (key, label) in labels {
            let before = if list.is_empty() { '{' } else { ',' };
            // Writing to a string does not fail.
            let _ = write!(list, "{before}{key}=\"{label}\"");
        }
        let end = if list.is_empty() { "" } else { "}" };
        let name = self.name;
        self.line(format_args!("{name}{suffix}{list}{end} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};

    use super::*;
    use crate::metrics::{CommandType, State};

    fn busy() -> Metrics {
        let mut metrics = Metrics {
            timers: 12,
            ..Metrics::default()
        };
        metrics
            .connections
            .enter(Dialect::Native, State::Established);
        metrics.connections.accepted = 2;
        metrics.connections.closed.count(4101);
        metrics.connections.closed.count(4999);
        metrics.traffic.commands.add(CommandType::Message, 5);
        metrics.ledger.offer(Kind::Message, 10);
        metrics.ledger.deliver(Kind::Message, 6);
        metrics.ledger.undelivered(Kind::Message, 4101, 3);
        metrics.turns.took.record(Duration::from_micros(30));
        metrics.turns.took.record(Duration::from_millis(3));
        metrics.turns.took.record(Duration::from_secs(20));
        metrics
    }

    /// Reads the text back as a scraper does: each series with its value. What 0.0.4 or the naming
    /// rules forbid is a panic.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        let mut seen = HashSet::new();
        let (mut family, mut kind) = ("", "");
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(seen.insert(name), "{name} stands in two places");
                assert!(help.ends_with('.') && !help.contains('\\'), "{help}");
                family = name;
            } else if let Some(of_type) = line.strip_prefix("# TYPE ") {
                let (name, told) = of_type.split_once(' ').unwrap();
                assert_eq!(name, family);
                assert_eq!(told == "counter", name.ends_with("_total"), "{name}");
                assert_eq!(told == "histogram", name.ends_with("_seconds"), "{name}");
                kind = told;
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let (base, labels) = name.split_once('{').unwrap_or((name, "}"));
                let suffixes: &[&str] = if kind == "histogram" {
                    &["_bucket", "_sum", "_count"]
                } else {
                    &[""]
                };
                assert!(
                    suffixes.contains(&base.strip_prefix(family).unwrap()),
                    "{line}"
                );
                assert!(
                    base.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{line}"
                );
                for label in labels.strip_suffix('}').unwrap().split_terminator(',') {
                    let (key, quoted) = label.split_once('=').unwrap();
                    assert!(key.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
                    let text = quoted
                        .strip_prefix('"')
                        .and_then(|q| q.strip_suffix('"'))
                        .unwrap();
                    assert!(!text.is_empty() && !text.contains(['"', '\\']), "{line}");
                }
                let value = value.parse().unwrap();
                assert!(
                    series.insert(name.to_owned(), value).is_none(),
                    "{name} twice"
                );
            }
        }
        series
    }

    fn reports(cores: [Option<Metrics>; 2]) -> Vec<CoreReport> {
        let report = |m: Option<Metrics>| CoreReport {
            is_up: m.is_some(),
            metrics: m.map(Box::new),
        };
        cores.map(report).into()
    }

    #[test]
    fn the_text_reads_back_as_what_was_counted() {
        let series = parse(&render(&reports([Some(busy()), Some(busy())])));
        let cases = [
            ("tidewheel_core_up{core=\"1\"}", 1.0),
            ("tidewheel_core_timers{core=\"0\"}", 12.0),
            ("tidewheel_core_connections{core=\"0\"}", 1.0),
            (
                "tidewheel_connections{dialect=\"native\",state=\"established\"}",
                2.0,
            ),
            (
                "tidewheel_connections{dialect=\"sse\",state=\"closing\"}",
                0.0,
            ),
            ("tidewheel_connections_accepted_total", 4.0),
            ("tidewheel_connections_closed_total{code=\"4101\"}", 2.0),
            ("tidewheel_connections_closed_total{code=\"other\"}", 2.0),
            ("tidewheel_commands_total{type=\"message\"}", 10.0),
            (
                "tidewheel_ledger_frames_total{kind=\"message\",outcome=\"offered\"}",
                20.0,
            ),
            (
                "tidewheel_ledger_frames_total{kind=\"message\",outcome=\"undelivered\",code=\"4101\"}",
                6.0,
            ),
            ("tidewheel_ledger_pending_frames{kind=\"message\"}", 2.0),
            (
                "tidewheel_turn_seconds_bucket{core=\"1\",le=\"0.000025\"}",
                0.0,
            ),
            (
                "tidewheel_turn_seconds_bucket{core=\"1\",le=\"0.00005\"}",
                1.0,
            ),
            (
                "tidewheel_turn_seconds_bucket{core=\"1\",le=\"0.005\"}",
                2.0,
            ),
            ("tidewheel_turn_seconds_bucket{core=\"1\",le=\"10\"}", 2.0),
            ("tidewheel_turn_seconds_bucket{core=\"1\",le=\"+Inf\"}", 3.0),
            ("tidewheel_turn_seconds_sum{core=\"1\"}", 20.00303),
            ("tidewheel_publish_to_last_write_seconds_count", 0.0),
        ];
        for (name, value) in cases {
            assert_eq!(series.get(name), Some(&value), "{name}");
        }
    }

    #[test]
    fn the_buckets_of_a_histogram_grow_up_to_its_count() {
        let text = render(&reports([Some(busy()), Some(Metrics::default())]));
        parse(&text);
        let mut last: HashMap<&str, u64> = HashMap::new();
        for line in text.lines().filter(|line| line.contains("_bucket")) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let (of, _) = name.split_once("le=").unwrap();
            let value = value.parse().unwrap();
            let before = last.insert(of, value).unwrap_or(0);
            assert!(before <= value, "{line}");
        }
        assert_eq!(last["tidewheel_turn_seconds_bucket{core=\"0\","], 3);
        assert_eq!(last.len(), 3);
    }

    #[test]
    fn docs_metrics_md_has_every_name() {
        let docs = include_str!("../../docs/metrics.md");
        let text = render(&reports([Some(busy()), None]));
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = family.split_once(' ').unwrap();
            let row = format!("| `{name}` | {kind} |");
            assert!(docs.contains(&row), "docs/metrics.md has no row {row}");
        }
    }

    #[test]
    fn a_core_that_never_answered_is_told_as_down_and_nothing_else() {
        let text = render(&reports([Some(busy()), None]));
        let series = parse(&text);
        assert_eq!(series["tidewheel_core_up{core=\"0\"}"], 1.0);
        assert_eq!(series["tidewheel_core_up{core=\"1\"}"], 0.0);
        assert_eq!(series["tidewheel_connections_accepted_total"], 2.0);
        assert_eq!(text.matches("core=\"1\"").count(), 1);
    }
}
