//! What a core counts about itself: plain numbers with one writer, and their text.
//!
//! A core owns its [`Metrics`] and writes to them without atomics. Who wants to read them sends a
//! [`SnapshotReply`] over the bus; the core answers with a copy when it comes to it. The control
//! plane adds the copies up ([`Metrics::merge`]) and writes them as text ([`mod@text`]), or tells what
//! happened between two of them ([`digest::Digest`]).
//!
//! A value that grows for ever is a counter; one that goes up and down is a gauge, and is either
//! kept up to date (connections) or set by the core when it answers (rooms, timers).

pub mod digest;
pub mod exposition;
pub mod labels;
pub mod latency;
pub mod ledger;
#[cfg(test)]
pub(crate) mod lint;
pub mod memory;
pub mod sizes;
pub mod store;
pub mod text;

pub use digest::Digest;
pub use exposition::{Exposition, Source, Sources};
pub use labels::{
    AskType, AuthRefusal, AuthWay, CodeCounts, CommandType, Counts, Dialect, Eviction, Kind, Label,
    Limited, MemoryKind, Origin, Phase, Reject, State, TlsFault, TlsVersion,
};
pub use latency::Latency;
pub use ledger::Ledger;
pub use memory::Memory;
pub use sizes::Sizes;
pub use store::Store;

/// Everything that one core counts, or all cores together after `merge`.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    /// Connections: those that are, and those that were.
    pub connections: Connections,
    /// Who met a limit.
    pub limits: Limits,
    /// What came in and what was answered.
    pub traffic: Traffic,
    /// What the operator's backend asked.
    pub api: Api,
    /// What was to go out, and how that ended.
    pub ledger: Ledger,
    /// Rooms and what they keep.
    pub rooms: Rooms,
    /// The turns of the event loop.
    pub turns: Turns,
    /// Exchange with other cores and the control plane.
    pub bus: Bus,
    /// Writes to sockets.
    pub flush: Flush,
    /// Connections that do not keep up.
    pub lag: Lag,
    /// TLS on the public listener.
    pub tls: Tls,
    /// What is held in memory, and what was given back to stay within the budget.
    pub memory: Memory,
    /// What is handed over to be kept on disk.
    pub store: Store,
    /// Gauge: timers waiting in the wheel.
    pub timers: u64,
}

impl Metrics {
    /// Adds another core's numbers to these.
    pub fn merge(&mut self, other: &Metrics) {
        // Taken apart in full, here and below: a new field that is not added up does not compile.
        let Metrics {
            connections,
            limits,
            traffic,
            api,
            ledger,
            rooms,
            turns,
            bus,
            flush,
            lag,
            tls,
            memory,
            store,
            timers,
        } = other;
        self.connections.merge(connections);
        self.limits.merge(limits);
        self.traffic.merge(traffic);
        self.api.merge(api);
        self.ledger.merge(ledger);
        self.rooms.merge(rooms);
        self.turns.merge(turns);
        self.bus.merge(bus);
        self.flush.merge(flush);
        self.lag.merge(lag);
        self.tls.merge(tls);
        self.memory.merge(memory);
        self.store.merge(store);
        self.timers += timers;
    }
}

/// Connections: those that are, and those that were.
#[derive(Clone, Default, Debug)]
pub struct Connections {
    /// Gauge: open connections, by dialect (`Dialect::index`) and state.
    pub open: [Counts<State>; Dialect::ALL.len()],
    /// Gauge: connections that this core may have.
    pub max: u64,
    /// Gauge: connections that all cores may have together, where that is less than what each may
    /// have. The node's.
    pub everywhere_max: u64,
    /// Sockets taken from the listener.
    pub accepted: u64,
    /// Sockets turned away before they were a connection.
    pub rejected: Counts<Reject>,
    /// Closed connections by the code of the close; 1006 where there was none (RFC 6455 §7.1.5).
    pub closed: CodeCounts,
    /// Slow consumers that were closed or made to jump ahead, by the bound they passed.
    pub evicted: Counts<Eviction>,
    /// Credentials that were accepted, by how they came. None where none is asked for.
    pub auth_accepted: Counts<AuthWay>,
    /// Connections that were not let in, or not any longer, because of who they are.
    pub auth_refused: Counts<AuthRefusal>,
}

impl Connections {
    /// A connection begins in this state.
    pub fn enter(&mut self, dialect: Dialect, state: State) {
        self.open[dialect.index()].count(state);
    }

    /// A connection leaves this state, for another (`enter`) or for good.
    pub fn leave(&mut self, dialect: Dialect, state: State) {
        self.open[dialect.index()].sub(state, 1);
    }

    /// All open connections.
    pub fn open_total(&self) -> u64 {
        self.open.iter().map(Counts::total).sum()
    }

    fn merge(&mut self, other: &Connections) {
        let Connections {
            open,
            max,
            everywhere_max,
            accepted,
            rejected,
            closed,
            evicted,
            auth_accepted,
            auth_refused,
        } = other;
        for (states, more) in self.open.iter_mut().zip(open) {
            states.merge(more);
        }
        self.max += max;
        self.everywhere_max += everywhere_max;
        self.accepted += accepted;
        self.rejected.merge(rejected);
        self.closed.merge(closed);
        self.evicted.merge(evicted);
        self.auth_accepted.merge(auth_accepted);
        self.auth_refused.merge(auth_refused);
    }
}

/// Who met a limit.
#[derive(Clone, Default, Debug)]
pub struct Limits {
    /// What was refused, slowed or closed because of a limit.
    pub met: Counts<Limited>,
    /// Meters of users and addresses that were forgotten although they still said something, because
    /// there were too many: whoever they were about begins anew.
    pub meters_forgotten: u64,
    /// Gauge: bans in force, as one core knows them; each core knows all.
    pub bans: u64,
}

impl Limits {
    fn merge(&mut self, other: &Limits) {
        let Limits {
            met,
            meters_forgotten,
            bans,
        } = other;
        self.met.merge(met);
        self.meters_forgotten += meters_forgotten;
        self.bans = self.bans.max(*bans);
    }
}

/// What came in and what was answered.
#[derive(Clone, Default, Debug)]
pub struct Traffic {
    /// Bytes read from sockets, framing included; of TLS what was in its records.
    pub bytes_in: u64,
    /// Bytes written to sockets, framing included; of TLS what went into its records.
    pub bytes_out: u64,
    /// Commands of peers.
    pub commands: Counts<CommandType>,
    /// Messages that rooms accepted, which got an offset.
    pub published: Counts<Origin>,
    /// Publishes that repeated an accepted one, and were answered as that one was.
    pub repeated: u64,
    /// Errors told to peers that did not close the connection, by code.
    pub errors: CodeCounts,
    /// Offsets that members did not get, summed over the members.
    pub skipped_offsets: u64,
}

impl Traffic {
    fn merge(&mut self, other: &Traffic) {
        let Traffic {
            bytes_in,
            bytes_out,
            commands,
            published,
            repeated,
            errors,
            skipped_offsets,
        } = other;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.commands.merge(commands);
        self.published.merge(published);
        self.repeated += repeated;
        self.errors.merge(errors);
        self.skipped_offsets += skipped_offsets;
    }
}

/// What the operator's backend asked of cores, and what was refused it.
#[derive(Clone, Default, Debug)]
pub struct Api {
    /// Questions that a core took in; what concerns all cores counts on each.
    pub asks: Counts<AskType>,
    /// Messages published, repeats of the same included.
    pub messages: u64,
    /// Questions and messages that were refused, by code.
    pub refused: CodeCounts,
}

impl Api {
    fn merge(&mut self, other: &Api) {
        let Api {
            asks,
            messages,
            refused,
        } = other;
        self.asks.merge(asks);
        self.messages += messages;
        self.refused.merge(refused);
    }
}

/// Rooms and what they keep. All are gauges.
#[derive(Clone, Default, Debug)]
pub struct Rooms {
    /// Rooms whose home is this core.
    pub homed: u64,
    /// Rooms with members on this core, each with a log.
    pub local: u64,
    /// Cursors: a connection counts once for each room it is in.
    pub members: u64,
    /// Bytes of frames in logs that a member still waits for.
    pub log_bytes: u64,
    /// Bytes of frames kept as history.
    pub history_bytes: u64,
}

impl Rooms {
    fn merge(&mut self, other: &Rooms) {
        let Rooms {
            homed,
            local,
            members,
            log_bytes,
            history_bytes,
        } = other;
        self.homed += homed;
        self.local += local;
        self.members += members;
        self.log_bytes += log_bytes;
        self.history_bytes += history_bytes;
    }
}

/// The turns of the event loop, and what they are for.
#[derive(Clone, Default, Debug)]
pub struct Turns {
    /// From the poll's return to the next poll; its count is the number of turns.
    pub took: Latency,
    /// What the loop spent its time on, in nanoseconds; all phases together are its whole life.
    pub phases_ns: Counts<Phase>,
    /// From the acceptance of the oldest message that waits in a room to the core's first write of
    /// it, once for each pass over the room's members.
    pub publish_to_first_write: Latency,
    /// The same to its last write.
    pub publish_to_last_write: Latency,
}

impl Turns {
    fn merge(&mut self, other: &Turns) {
        let Turns {
            took,
            phases_ns,
            publish_to_first_write,
            publish_to_last_write,
        } = other;
        self.took.merge(took);
        self.phases_ns.merge(phases_ns);
        self.publish_to_first_write.merge(publish_to_first_write);
        self.publish_to_last_write.merge(publish_to_last_write);
    }
}

/// Exchange with other cores and the control plane.
#[derive(Clone, Default, Debug)]
pub struct Bus {
    /// Batches taken from the bus.
    pub batches_in: u64,
    /// Messages in them.
    pub messages_in: u64,
    /// Batches put on the bus.
    pub batches_out: u64,
    /// Messages in them.
    pub messages_out: u64,
}

impl Bus {
    fn merge(&mut self, other: &Bus) {
        let Bus {
            batches_in,
            messages_in,
            batches_out,
            messages_out,
        } = other;
        self.batches_in += batches_in;
        self.messages_in += messages_in;
        self.batches_out += batches_out;
        self.messages_out += messages_out;
    }
}

/// Writes to sockets.
#[derive(Clone, Default, Debug)]
pub struct Flush {
    /// Vectored writes that the kernel took something of.
    pub writes: u64,
    /// Bytes it took.
    pub bytes: u64,
    /// Writes it took nothing of.
    pub would_block: u64,
    /// Writes it took a part of.
    pub partial: u64,
    /// Bytes of each write.
    pub write_bytes: Sizes,
    /// Frames that ended in each write.
    pub write_frames: Sizes,
}

impl Flush {
    /// Counts the sizes of `n` writes, which took as much each.
    pub fn note_sizes(&mut self, bytes: u64, frames: u64, n: u64) {
        self.write_bytes.add(bytes, n);
        self.write_frames.add(frames, n);
    }

    fn merge(&mut self, other: &Flush) {
        let Flush {
            writes,
            bytes,
            would_block,
            partial,
            write_bytes,
            write_frames,
        } = other;
        self.writes += writes;
        self.bytes += bytes;
        self.would_block += would_block;
        self.partial += partial;
        self.write_bytes.merge(write_bytes);
        self.write_frames.merge(write_frames);
    }
}

/// Connections that do not keep up.
#[derive(Clone, Default, Debug)]
pub struct Lag {
    /// Gauge: connections whose socket is full.
    pub laggards: u64,
    /// Bytes that such a connection had not taken, when its socket had room again or patience with
    /// it ended.
    pub bytes: Sizes,
    /// How old the oldest message among them was then.
    pub age: Latency,
}

impl Lag {
    fn merge(&mut self, other: &Lag) {
        let Lag {
            laggards,
            bytes,
            age,
        } = other;
        self.laggards += laggards;
        self.bytes.merge(bytes);
        self.age.merge(age);
    }
}

/// TLS on the public listener. The sockets count it, and the core sets it when it answers.
#[derive(Clone, Default, Debug)]
pub struct Tls {
    /// Completed handshakes.
    pub handshakes: Counts<TlsVersion>,
    /// Those of them that resumed a session.
    pub resumed: u64,
    /// Streams that failed.
    pub failed: Counts<TlsFault>,
    /// Handshakes put off to the next turn, because this one's time for them was over.
    pub deferred: u64,
    /// Gauge: handshakes under way.
    pub in_progress: u64,
    /// Gauge: encrypted bytes that sockets have not taken.
    pub pending_bytes: u64,
}

impl Tls {
    fn merge(&mut self, other: &Tls) {
        let Tls {
            handshakes,
            resumed,
            failed,
            deferred,
            in_progress,
            pending_bytes,
        } = other;
        self.handshakes.merge(handshakes);
        self.resumed += resumed;
        self.failed.merge(failed);
        self.deferred += deferred;
        self.in_progress += in_progress;
        self.pending_bytes += pending_bytes;
    }
}

/// Where a core sends a copy of its metrics, once.
///
/// It knows no channel, so that the bus can carry it without knowing who asks. A reply that is
/// dropped tells the other side at once that nothing will come.
pub struct SnapshotReply(Box<dyn FnOnce(Box<Metrics>) + Send>);

impl SnapshotReply {
    /// A reply that hands the copy to `deliver`, on the core's thread: it must not block.
    pub fn new(deliver: impl FnOnce(Box<Metrics>) + Send + 'static) -> SnapshotReply {
        SnapshotReply(Box::new(deliver))
    }

    /// Answers with a copy.
    pub fn answer(self, metrics: &Metrics) {
        (self.0)(Box::new(metrics.clone()));
    }
}

impl std::fmt::Debug for SnapshotReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotReply")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn metrics_of_two_cores_add_up() {
        let mut one = Metrics {
            timers: 3,
            ..Metrics::default()
        };
        one.connections.enter(Dialect::Native, State::Established);
        one.connections.closed.count(1000);
        one.traffic.bytes_in = 10;
        one.ledger.offer(Kind::Message, 4);
        one.rooms.members = 2;
        one.turns.took.record(Duration::from_micros(50));
        one.bus.messages_out = 7;
        one.flush.writes = 9;
        let mut both = one.clone();
        both.connections.enter(Dialect::Sse, State::Closing);
        both.merge(&one);
        assert_eq!(both.timers, 6);
        assert_eq!(both.connections.open_total(), 3);
        assert_eq!(
            both.connections.open[Dialect::Native.index()].of(State::Established),
            2
        );
        assert_eq!(both.connections.closed.of(1000), 2);
        assert_eq!(both.traffic.bytes_in, 20);
        assert!(both.ledger.balances(8));
        assert_eq!(both.rooms.members, 4);
        assert_eq!(both.turns.took.count(), 2);
        assert_eq!((both.bus.messages_out, both.flush.writes), (14, 18));
    }

    #[test]
    fn a_connection_is_counted_in_one_state_at_a_time() {
        let mut connections = Connections::default();
        connections.enter(Dialect::Unknown, State::Handshake);
        connections.leave(Dialect::Unknown, State::Handshake);
        connections.enter(Dialect::Native, State::Established);
        assert_eq!(connections.open_total(), 1);
        connections.leave(Dialect::Native, State::Established);
        assert_eq!(connections.open_total(), 0);
    }

    #[test]
    fn an_idle_core_s_metrics_are_small() {
        let histograms = 4 * 21 * 128 * 8;
        assert!(size_of::<Metrics>() + histograms < 96_000);
    }
}
