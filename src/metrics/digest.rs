//! What happened between two looks at the cores, as plain figures: for people and for pages.
//!
//! Counters of the same core are subtracted from each other, and so are histograms: quantiles are
//! those of what happened in between, not of all since the start. The figures can be serialised;
//! they are for the control plane, off the path of any message.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::metrics::text::CoreReport;
use crate::metrics::{CommandType, Counts, Dialect, Kind, Label, Latency, Metrics, State};

/// The figures of an interval. Rates are for one second, durations in seconds, sizes in bytes.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Digest {
    /// How long the interval was.
    pub interval_seconds: f64,
    /// Open connections now.
    pub connections: u64,
    /// Connections that there may be.
    pub connections_max: u64,
    /// The same by state.
    pub connections_by_state: BTreeMap<&'static str, u64>,
    /// The same by dialect.
    pub connections_by_dialect: BTreeMap<&'static str, u64>,
    /// Sockets taken from the listener.
    pub accepted_per_second: f64,
    /// Sockets turned away before they were a connection.
    pub rejected_per_second: f64,
    /// Connections that ended.
    pub closed_per_second: f64,
    /// Messages that clients and the backend sent, to rooms, and those of clients to users.
    pub messages_in_per_second: f64,
    /// Messages that connections were given, those for one user among them.
    pub deliveries_per_second: f64,
    /// Bytes read from sockets.
    pub bytes_in_per_second: f64,
    /// Bytes written to sockets.
    pub bytes_out_per_second: f64,
    /// From a message's acceptance to a core's first write of it.
    pub publish_to_first_write: Quantiles,
    /// From a message's acceptance to a core's last write of it.
    pub publish_to_last_write: Quantiles,
    /// Turns of the cores' loops.
    pub turns: Quantiles,
    /// Connections whose socket is full now.
    pub laggards: u64,
    /// Slow consumers that were closed or made to jump ahead in the interval, by cause.
    pub evicted: BTreeMap<&'static str, u64>,
    /// Frames without an outcome so far.
    pub frames_pending: i64,
    /// Rooms now, each counted at its home.
    pub rooms: u64,
    /// Places in rooms now: a connection counts once for each room it is in.
    pub members: u64,
    /// Memory now.
    pub memory: MemoryDigest,
    /// The cores, by number.
    pub cores: Vec<CoreDigest>,
}

/// What share of durations did not exceed what, in seconds; zeros where nothing was counted.
#[derive(Copy, Clone, PartialEq, Default, Debug, Serialize)]
pub struct Quantiles {
    /// How many were counted.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: f64,
    /// Nine of ten took no longer.
    pub p90: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// None took longer, to within 1 %.
    pub max: f64,
}

/// Memory against its budget.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct MemoryDigest {
    /// Counted bytes by what they are held for.
    pub held: BTreeMap<&'static str, u64>,
    /// Their sum.
    pub held_bytes: u64,
    /// The budget; 0 for none.
    pub budget_bytes: u64,
    /// Resident memory of the process.
    pub resident_bytes: u64,
    /// How near the budget is, 0 to 4.
    pub pressure: u64,
}

/// One core.
#[derive(Copy, Clone, PartialEq, Default, Debug, Serialize)]
pub struct CoreDigest {
    /// Its number.
    pub core: usize,
    /// Whether it answered in time; if not, its gauges are old, and its rates are zero.
    pub is_up: bool,
    /// Open connections.
    pub connections: u64,
    /// Bytes that wait for it on the bus.
    pub bus_bytes: u64,
    /// The share of the interval in which it worked, 0 to 1.
    pub busy: f64,
    /// Turns of its loop.
    pub turns_per_second: f64,
    /// Messages that connections of it were given.
    pub deliveries_per_second: f64,
    /// The longest of 99 of 100 turns, in seconds.
    pub turn_p99: f64,
}

impl Digest {
    /// What happened between two looks, `interval` apart. Cores have their place in both lists.
    ///
    /// A core that `before` does not know adds to the gauges only: what it counted since its start
    /// is no rate.
    pub fn between(before: &[CoreReport], after: &[CoreReport], interval: Duration) -> Digest {
        let mut now = Metrics::default();
        let (mut old, mut new) = (Metrics::default(), Metrics::default());
        let mut cores = Vec::with_capacity(after.len());
        for (core, report) in after.iter().enumerate() {
            let known = before.get(core).and_then(|it| it.metrics.as_deref());
            cores.push(core_digest(core, report, known, interval));
            let Some(metrics) = report.metrics.as_deref() else {
                continue;
            };
            now.merge(metrics);
            if let Some(known) = known {
                old.merge(known);
                new.merge(metrics);
            }
        }
        let mut digest = gauges(&now);
        digest.cores = cores;
        digest.rate((&old, &new), interval);
        digest
    }

    fn rate(&mut self, (old, new): (&Metrics, &Metrics), interval: Duration) {
        let rate = |count: fn(&Metrics) -> u64| per_second(count(old), count(new), interval);
        self.interval_seconds = interval.as_secs_f64();
        self.accepted_per_second = rate(|m| m.connections.accepted);
        self.rejected_per_second = rate(|m| m.connections.rejected.total());
        self.closed_per_second = rate(|m| m.connections.closed.total());
        self.messages_in_per_second = rate(messages_in);
        self.deliveries_per_second = rate(deliveries);
        self.bytes_in_per_second = rate(|m| m.traffic.bytes_in);
        self.bytes_out_per_second = rate(|m| m.traffic.bytes_out);
        let spread = |of: fn(&Metrics) -> &Latency| Quantiles::of(&of(new).since(of(old)));
        self.publish_to_first_write = spread(|m| &m.turns.publish_to_first_write);
        self.publish_to_last_write = spread(|m| &m.turns.publish_to_last_write);
        self.turns = spread(|m| &m.turns.took);
        let (earlier, evicted) = (&old.connections.evicted, &new.connections.evicted);
        self.evicted = (evicted.iter())
            .map(|(cause, n)| (cause.text(), n.saturating_sub(earlier.of(cause))))
            .collect();
    }
}

impl Quantiles {
    /// The quantiles of these durations.
    pub fn of(latency: &Latency) -> Quantiles {
        let at = |quantile| latency.quantile(quantile).as_secs_f64();
        Quantiles {
            count: latency.count(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// What does not need a look before.
fn gauges(now: &Metrics) -> Digest {
    let open = &now.connections.open;
    let in_state = |state: &State| (state.text(), open.iter().map(|of| of.of(*state)).sum());
    let in_dialect = |dialect: &Dialect| (dialect.text(), open[dialect.index()].total());
    let held = &now.memory.held;
    Digest {
        connections: now.connections.open_total(),
        connections_max: now.connections.everywhere_max,
        connections_by_state: State::ALL.iter().map(in_state).collect(),
        connections_by_dialect: Dialect::ALL.iter().map(in_dialect).collect(),
        laggards: now.lag.laggards,
        frames_pending: now.ledger.pending(),
        rooms: now.rooms.homed,
        members: now.rooms.members,
        memory: MemoryDigest {
            held: named(held),
            held_bytes: held.total(),
            budget_bytes: now.memory.budget_bytes,
            resident_bytes: now.memory.resident_bytes,
            pressure: now.memory.pressure,
        },
        ..Digest::default()
    }
}

fn core_digest(
    core: usize,
    report: &CoreReport,
    before: Option<&Metrics>,
    interval: Duration,
) -> CoreDigest {
    let mut digest = CoreDigest {
        core,
        is_up: report.is_up,
        bus_bytes: report.bus_bytes,
        ..CoreDigest::default()
    };
    let Some(metrics) = report.metrics.as_deref() else {
        return digest;
    };
    digest.connections = metrics.connections.open_total();
    if let Some(before) = before {
        let turns = metrics.turns.took.since(&before.turns.took);
        if !interval.is_zero() {
            let busy = turns.sum().as_secs_f64() / interval.as_secs_f64();
            digest.busy = busy.min(1.0);
        }
        digest.turns_per_second = per_second(0, turns.count(), interval);
        digest.turn_p99 = turns.quantile(0.99).as_secs_f64();
        digest.deliveries_per_second =
            per_second(deliveries(before), deliveries(metrics), interval);
    }
    digest
}

fn named<L: Label>(counts: &Counts<L>) -> BTreeMap<&'static str, u64> {
    counts.iter().map(|(label, n)| (label.text(), n)).collect()
}

fn messages_in(metrics: &Metrics) -> u64 {
    let commands = &metrics.traffic.commands;
    let of_clients = commands.of(CommandType::Message) + commands.of(CommandType::DirectMessage);
    of_clients + metrics.api.messages
}

fn deliveries(metrics: &Metrics) -> u64 {
    let ledger = &metrics.ledger;
    ledger.account(Kind::Message).delivered + ledger.account(Kind::Direct).delivered
}

/// How much a counter grew in a second; zero where no time went by.
fn per_second(before: u64, after: u64, interval: Duration) -> f64 {
    if interval.is_zero() {
        return 0.0;
    }
    after.saturating_sub(before) as f64 / interval.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Eviction, MemoryKind};

    fn report(metrics: Metrics) -> CoreReport {
        CoreReport {
            is_up: true,
            bus_bytes: 0,
            metrics: Some(Box::new(metrics)),
        }
    }

    fn core(turns: u64, messages: u64) -> Metrics {
        let mut metrics = Metrics::default();
        let connections = &mut metrics.connections;
        connections.enter(Dialect::Native, State::Established);
        connections.accepted = 10 + messages;
        metrics.traffic.commands.add(CommandType::Message, messages);
        metrics.traffic.bytes_in = 100 * messages;
        metrics.ledger.offer(Kind::Message, 4 * messages);
        metrics.ledger.deliver(Kind::Message, 3 * messages);
        for _ in 0..turns {
            metrics.turns.took.record(Duration::from_millis(10));
        }
        metrics
    }

    #[test]
    fn rates_are_those_of_the_interval_and_gauges_those_of_its_end() {
        let before = [report(core(10, 100)), report(core(0, 0))];
        let mut busy = core(60, 300);
        busy.connections.evicted.count(Eviction::LagAge);
        busy.memory.held.add(MemoryKind::Logs, 4096);
        let after = [report(busy), report(core(0, 50))];
        let digest = Digest::between(&before, &after, Duration::from_secs(2));
        assert_eq!(digest.interval_seconds, 2.0);
        assert_eq!(digest.connections, 2);
        assert_eq!(digest.connections_by_state["established"], 2);
        assert_eq!(digest.connections_by_dialect["native"], 2);
        assert_eq!(digest.messages_in_per_second, 125.0);
        assert_eq!(digest.accepted_per_second, 125.0);
        assert_eq!(digest.deliveries_per_second, 375.0);
        assert_eq!(digest.bytes_in_per_second, 12_500.0);
        assert_eq!(digest.frames_pending, 350);
        assert_eq!(digest.evicted["lag_age"], 1);
        assert_eq!(digest.memory.held["logs"], 4096);
        assert_eq!(digest.memory.held_bytes, 4096);
        let [one, two] = &digest.cores[..] else {
            panic!("two cores");
        };
        assert_eq!((one.busy, one.turns_per_second), (0.25, 25.0));
        assert_eq!((two.busy, two.deliveries_per_second), (0.0, 75.0));
    }

    #[test]
    fn quantiles_are_those_of_the_interval() {
        let mut old = Metrics::default();
        let mut slow = |n, took| {
            for _ in 0..n {
                old.turns.publish_to_last_write.record(took);
            }
            old.clone()
        };
        let before = slow(1000, Duration::from_secs(3));
        slow(98, Duration::from_millis(1));
        let after = slow(2, Duration::from_millis(50));
        let digest = Digest::between(&[report(before)], &[report(after)], Duration::from_secs(1));
        let told = digest.publish_to_last_write;
        let is_near = |told: f64, truth: f64| (told - truth).abs() <= 0.01 * truth;
        assert_eq!(told.count, 100);
        assert!(
            is_near(told.p50, 0.001) && is_near(told.p90, 0.001),
            "{told:?}"
        );
        assert!(
            is_near(told.p99, 0.050) && is_near(told.max, 0.050),
            "{told:?}"
        );
    }

    #[test]
    fn a_core_without_a_look_before_has_gauges_and_no_rates() {
        let after = [report(core(5, 100)), CoreReport::default()];
        for before in [&[][..], &[CoreReport::default(), CoreReport::default()]] {
            let digest = Digest::between(before, &after, Duration::from_secs(1));
            assert_eq!((digest.connections, digest.frames_pending), (1, 100));
            assert_eq!(digest.deliveries_per_second, 0.0);
            assert_eq!(digest.publish_to_last_write, Quantiles::default());
            assert!(digest.cores[0].is_up && !digest.cores[1].is_up);
            assert_eq!(digest.cores[0].busy, 0.0);
        }
    }

    #[test]
    fn no_time_gives_no_rates() {
        let same = [report(core(5, 100))];
        let digest = Digest::between(&same, &same, Duration::ZERO);
        assert_eq!(digest.deliveries_per_second, 0.0);
        assert_eq!(digest.cores[0].busy, 0.0);
    }
}
