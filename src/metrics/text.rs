//! What the cores count, family by family: names, help, labels.
//!
//! Numbers are those of all cores together. Where the difference between cores is what one looks
//! for, there is a `core` label instead, and the sum is left to the query. `docs/metrics.md` has the
//! same list with what to do about it.

use std::fmt::Display;

use crate::metrics::exposition::{Exposition, Type, code_text};
use crate::metrics::{Api, Bus, Dialect, Kind, Label, Lag, Ledger, Memory, Metrics, Store};

/// A core as the text shows it; its number is its place in the list.
#[derive(Clone, Default, Debug)]
pub struct CoreReport {
    /// Whether the core answered in time.
    pub is_up: bool,
    /// Bytes that waited for it on the bus when it was asked.
    pub bus_bytes: u64,
    /// Its answer, or the last one before it fell silent: counters must not seem to start anew.
    pub metrics: Option<Box<Metrics>>,
}

/// Appends the families of these cores.
pub fn write(out: &mut Exposition, cores: &[CoreReport]) {
    let mut all = Metrics::default();
    for metrics in cores.iter().filter_map(|core| core.metrics.as_deref()) {
        all.merge(metrics);
    }
    write_cores(out, cores);
    write_connections(out, &all);
    write_limits(out, &all);
    write_traffic(out, &all);
    write_api(out, &all.api);
    write_ledger(out, &all.ledger);
    write_rooms(out, &all);
    write_memory(out, &all.memory);
    write_store(out, &all.store);
    write_flush(out, &all);
    write_lag(out, &all.lag);
    write_tls(out, &all);
}

fn write_cores(out: &mut Exposition, cores: &[CoreReport]) {
    out.family(
        "tidewheel_core_up",
        Type::Gauge,
        "Whether the core answered within the time-out.",
    );
    for (core, report) in cores.iter().enumerate() {
        out.sample(&[("core", &core)], u64::from(report.is_up));
    }
    let known: Vec<(usize, &Metrics)> = (cores.iter().enumerate())
        .filter_map(|(core, report)| Some((core, report.metrics.as_deref()?)))
        .collect();
    let mut gauge = |name, help, value: fn(&Metrics) -> u64| {
        out.family(name, Type::Gauge, help);
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
        "tidewheel_core_connections_max",
        "Connections that each core may have.",
        |m| m.connections.max,
    );
    gauge(
        "tidewheel_core_timers",
        "Timers waiting in each core's wheel.",
        |m| m.timers,
    );

    let help = "Bytes that waited for each core on the bus when it was asked.";
    out.family("tidewheel_bus_waiting_bytes", Type::Gauge, help);
    for (core, report) in cores.iter().enumerate() {
        out.sample(&[("core", &core)], report.bus_bytes);
    }
    let mut bus = |name, help, values: fn(&Bus) -> [u64; 2]| {
        out.family(name, Type::Counter, help);
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
    out.family("tidewheel_turn_seconds", Type::Histogram, help);
    for (core, metrics) in &known {
        out.latency(&[("core", core)], &metrics.turns.took);
    }
    let help = "What each core's event loop spends its time on; all phases together are the time \
                since its start, and all but `wait` its work.";
    out.family("tidewheel_loop_seconds_total", Type::Counter, help);
    for (core, metrics) in &known {
        for (phase, nanos) in metrics.turns.phases_ns.iter() {
            let labels: [(&str, &dyn Display); 2] = [("core", core), ("phase", &phase.text())];
            out.sample(&labels, nanos as f64 / 1e9);
        }
    }
}

fn write_connections(out: &mut Exposition, all: &Metrics) {
    let connections = &all.connections;
    out.family("tidewheel_connections", Type::Gauge, "Open connections.");
    for dialect in Dialect::ALL {
        for (state, n) in connections.open[dialect.index()].iter() {
            out.sample(&[("dialect", &dialect.text()), ("state", &state.text())], n);
        }
    }
    let help = "Connections that all cores may have together.";
    out.gauge(
        "tidewheel_connections_max",
        help,
        connections.everywhere_max,
    );
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
    let help = "Messages that rooms accepted and gave an offset, by who published them.";
    out.counts(
        "tidewheel_published_messages_total",
        help,
        "origin",
        &traffic.published,
    );
    let help = "Publishes that repeated an accepted one, by its message id, and were not published \
                again.";
    out.counter("tidewheel_repeated_messages_total", help, traffic.repeated);
    let help = "Errors told to peers that did not close the connection.";
    out.codes("tidewheel_errors_total", help, &traffic.errors);
    let help = "Offsets that members did not get, summed over the members.";
    out.counter(
        "tidewheel_skipped_offsets_total",
        help,
        traffic.skipped_offsets,
    );
    let help = "From the acceptance of a room's oldest waiting message to a core's first write of it, \
                once for each pass over the room's members on the core.";
    out.family(
        "tidewheel_publish_to_first_write_seconds",
        Type::Histogram,
        help,
    );
    out.latency(&[], &all.turns.publish_to_first_write);
    let help = "The same to the core's last write of it, when it has visited all members.";
    out.family(
        "tidewheel_publish_to_last_write_seconds",
        Type::Histogram,
        help,
    );
    out.latency(&[], &all.turns.publish_to_last_write);
}

fn write_api(out: &mut Exposition, api: &Api) {
    let help = "Questions of the admin API to cores; what concerns all cores counts on each.";
    out.counts("tidewheel_api_asks_total", help, "ask", &api.asks);
    let help = "Messages published by the admin API, repeats of the same included.";
    out.counter("tidewheel_api_messages_total", help, api.messages);
    let help = "Questions and messages of the admin API that a core refused, by code.";
    out.codes("tidewheel_api_refused_total", help, &api.refused);
}

fn write_ledger(out: &mut Exposition, ledger: &Ledger) {
    let help = "Frames offered to connections, and how they ended; undelivered by close code.";
    out.family("tidewheel_ledger_frames_total", Type::Counter, help);
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
    out.family("tidewheel_ledger_pending_frames", Type::Gauge, help);
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

fn write_store(out: &mut Exposition, store: &Store) {
    let counters = [
        (
            "tidewheel_durable_batches_total",
            "Batches that cores handed over to the store.",
            store.batches,
        ),
        (
            "tidewheel_durable_records_total",
            "Records in them.",
            store.records,
        ),
        (
            "tidewheel_durable_staged_messages_total",
            "Messages that had to wait for the disk before anybody saw them.",
            store.staged,
        ),
        (
            "tidewheel_durable_refused_messages_total",
            "Messages that were answered with 4104, because the disk failed or did not keep up.",
            store.refused,
        ),
        (
            "tidewheel_durable_lost_records_total",
            "Records that were not handed over, because too much waited for the disk.",
            store.lost,
        ),
        (
            "tidewheel_durable_faults_total",
            "Answers of the store that say that something is not kept.",
            store.faults,
        ),
    ];
    for (name, help, value) in counters {
        out.counter(name, help, value);
    }
    let help = "Time from handing a batch over to hearing what became of it.";
    out.family("tidewheel_durable_answer_seconds", Type::Histogram, help);
    out.latency(&[], &store.handed_to_stored);
}

fn write_memory(out: &mut Exposition, memory: &Memory) {
    let help = "Memory that is counted, by what it is held for.";
    out.family("tidewheel_memory_bytes", Type::Gauge, help);
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
    let help = "Bytes that a write gave to the kernel.";
    out.family("tidewheel_flush_write_bytes", Type::Histogram, help);
    out.sizes(&[], &flush.write_bytes, (6..=24).step_by(2));
    let help = "Frames that ended in a write: how many messages one system call carries.";
    out.family("tidewheel_flush_write_frames", Type::Histogram, help);
    out.sizes(&[], &flush.write_frames, 0..=10);
}

fn write_lag(out: &mut Exposition, lag: &Lag) {
    let help = "Connections whose socket is full.";
    out.gauge("tidewheel_laggards", help, lag.laggards);
    let help = "Bytes that a connection was behind, counted when its full socket had room again or \
                patience with it ended.";
    out.family("tidewheel_lag_bytes", Type::Histogram, help);
    out.sizes(&[], &lag.bytes, (8..=26).step_by(2));
    let help = "How old the oldest message was then that it had not taken.";
    out.family("tidewheel_lag_seconds", Type::Histogram, help);
    out.latency(&[], &lag.age);
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

#[cfg(test)]
mod tests;
