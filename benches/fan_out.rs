//! What a message to a room costs on one core: to publish, and to get it to everyone.
//!
//! One shard, driven as the reactor drives it, in a room of 10 to 100,000 members. Publishing is
//! charged from the bytes of the publisher's frame (one copy of them into a buffer included, where
//! the kernel would put them): decoding, parsing, position, history, serialising once, the answer to
//! the publisher, the log. **A fan-out ends when every byte of it is written to every member**, and
//! the bench checks that: each member gets one write in each pass. Writing is into a sink that
//! counts, so the figures are what the server adds to the kernel's own work, which costs some
//! hundred times as much for each member.
//!
//! The allocator is the program's. How often a message allocates is counted in `tests/allocations.rs`.
#![allow(missing_docs)] // criterion's macros write public functions
#![allow(clippy::unwrap_used)] // a bench that cannot be set up is over

use std::hint::black_box;
use std::io::IoSlice;
use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mimalloc::MiMalloc;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::{Instant, Now};

const NOW: Now = Now {
    mono: Instant::ORIGIN,
    unix_ms: 1_767_225_600_123,
};

const HEAD: &[u8] = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Publishes between two flushes where flushing is not what is measured.
const BURST: u64 = 64;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Takes everything and counts it, but for every tenth connection's while those are `stalled`.
#[derive(Default)]
struct Sink {
    writes: u64,
    bytes: u64,
    stalled: bool,
}

impl Sink {
    fn take(&mut self, connection: u32, bytes: usize) -> Sent {
        if self.stalled && is_laggard(connection) {
            return Sent::Full;
        }
        self.writes += 1;
        self.bytes += bytes as u64;
        Sent::Took(bytes)
    }
}

impl Transport for Sink {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.take(connection, black_box(bytes).len())
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        self.take(connection, black_box(slices).iter().map(|s| s.len()).sum())
    }
}

fn is_laggard(connection: u32) -> bool {
    connection % 10 == 9
}

fn masked(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    client::encode_masked(
        OpCode::Data(Data::Text),
        [0x37, 0xfa, 0x21, 0x3d],
        text.as_bytes(),
        &mut wire,
    );
    wire
}

/// A shard with one room; connection 0, a member itself, publishes.
struct Room {
    shard: Shard,
    sink: Sink,
    members: u32,
    /// A message of 128 bytes, as it comes from the publisher.
    message: Vec<u8>,
    buffer: Vec<u8>,
    flush_budget: usize,
}

impl Room {
    fn of(members: u32) -> Room {
        let options = Options::default();
        let shard = Shard::new(shard_config(&options, CoreId(0), 1, 7), NOW);
        let empty = r#"{"type":"message","room":"lobby","payload":""}"#;
        let payload = "x".repeat(128 - empty.len());
        let message = masked(&empty.replace(r#""""#, &format!(r#""{payload}""#)));
        let mut room = Room {
            shard,
            sink: Sink::default(),
            members,
            buffer: vec![0; message.len()],
            message,
            flush_budget: options.tuning.flush_budget,
        };
        let join = masked(r#"{"type":"join_room","room":"lobby"}"#);
        for index in 0..members {
            assert_eq!(room.shard.handle_accept(NOW), index);
            room.shard.handle_bytes(NOW, index, &mut HEAD.to_vec());
            room.shard.handle_bytes(NOW, index, &mut join.clone());
        }
        room.flush();
        assert_eq!(room.shard.metrics().rooms.members, u64::from(members));
        room
    }

    fn publish(&mut self) {
        self.buffer.copy_from_slice(&self.message);
        self.shard.handle_bytes(NOW, 0, black_box(&mut self.buffer));
    }

    /// The end of a turn, and of as many more as a large room takes.
    fn flush(&mut self) {
        while !self
            .shard
            .poll_flush(NOW, &mut self.sink, self.flush_budget)
        {}
        self.shard.handle_turn_end(NOW.mono, NOW.mono);
    }

    /// Publishes `messages` and flushes, and holds the number of writes against that of readers.
    fn fan_out(&mut self, messages: u64, readers: u32) {
        let before = self.sink.writes;
        for _ in 0..messages {
            self.publish();
        }
        self.flush();
        assert_eq!(self.sink.writes - before, u64::from(readers));
    }

    /// Lets the laggards take what waits, and stalls them again with one message behind.
    fn stall_anew(&mut self) {
        self.sink.stalled = false;
        for index in (0..self.members).filter(|index| is_laggard(*index)) {
            self.shard.handle_writable(NOW, index);
        }
        self.flush();
        assert_eq!(self.shard.pending_frames(), 0);
        self.sink.stalled = true;
        self.publish();
        self.flush();
    }
}

/// The sum of what `iters` rounds take, in bursts: `before` each burst is not timed.
fn time_bursts(
    iters: u64,
    room: &mut Room,
    before: impl Fn(&mut Room),
    timed: impl Fn(&mut Room),
) -> Duration {
    let mut sum = WallTime.zero();
    let mut left = iters;
    while left > 0 {
        let burst = left.min(BURST);
        before(room);
        let start = WallTime.start();
        for _ in 0..burst {
            timed(room);
        }
        sum = WallTime.add(&sum, &WallTime.end(start));
        left -= burst;
    }
    sum
}

/// Experiment: one message of 128 bytes is handed in, and nobody is written to. Does it matter how
/// many members the room has? Flushing, after every 64 messages, is not timed.
fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out/publish");
    for members in [10, 1_000, 10_000, 100_000] {
        let mut room = Room::of(members);
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.iter_custom(|iters| time_bursts(iters, &mut room, Room::flush, Room::publish));
        });
    }
    group.finish();
}

/// Experiment: one message of 128 bytes, from the publisher's bytes to the last member's write. How
/// does it grow with the room? An element is one member.
fn publish_and_flush(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out/publish_and_flush");
    for members in [10, 1_000, 10_000, 100_000] {
        let mut room = Room::of(members);
        group.throughput(Throughput::Elements(u64::from(members)));
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.iter(|| room.fan_out(1, members));
        });
    }
    group.finish();
}

/// Experiment: 64 messages come in one turn; then each member gets them in one write. An element is
/// one message to one member.
fn burst_and_flush(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out/burst_of_64_and_flush");
    for members in [1_000, 10_000] {
        let mut room = Room::of(members);
        group.throughput(Throughput::Elements(BURST * u64::from(members)));
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.iter(|| room.fan_out(BURST, members));
        });
    }
    group.finish();
}

/// Experiment: a tenth of the members take nothing. What does one message cost the others? The
/// laggards catch up, untimed, after every 64 messages, before the bound on their lag is met. An
/// element is one member that reads.
fn laggards(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out/a_tenth_is_blocked");
    for members in [1_000, 10_000] {
        let mut room = Room::of(members);
        let readers = members - members / 10;
        group.throughput(Throughput::Elements(u64::from(readers)));
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.iter_custom(|iters| {
                time_bursts(iters, &mut room, Room::stall_anew, |room| {
                    room.fan_out(1, readers);
                })
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = publish, publish_and_flush, burst_and_flush, laggards
}
criterion_main!(benches);
