//! What it costs to cross from one core to another.
//!
//! Two threads, each with a mailbox and a poller of its own that it sleeps on, as reactors do: the
//! wake is mio's, so an eventfd and an `epoll_wait` are part of every figure of a sleeping reader.
//! A batch is one item of the channel and a vector of messages, made anew each time as a shard makes
//! it. The last group has no threads: it is what the two shards themselves do for a message whose
//! room is at home on the other core.
#![allow(missing_docs)] // criterion's macros write public functions
#![allow(clippy::unwrap_used)] // a bench that cannot be set up is over

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mimalloc::MiMalloc;
use mio::{Events, Poll, Token, Waker};

use tidewheel::address::{ConnectionRef, CoreId};
use tidewheel::bus::{Batch, BusMessage, Mailbox, Outlet, Wake};
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::protocol::Code;
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::{Instant, Now};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Bytes on the way above which the writer of a stream waits, as a reactor stops reading.
const BACKLOG_BYTES: usize = 1 << 20;

/// What is sent: a batch, and whether it is to be sent back.
struct Mail {
    batch: Batch,
    returns: bool,
}

struct PollWaker(Waker);

impl Wake for PollWaker {
    fn wake(&self) {
        self.0.wake().unwrap();
    }
}

/// A thread's own end: what it sleeps on and what it was sent.
struct Seat {
    poll: Poll,
    events: Events,
    mailbox: Mailbox<Mail>,
}

impl Seat {
    fn new() -> (Outlet<Mail>, Seat) {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        let (outlet, mailbox) = Mailbox::new(Arc::new(PollWaker(waker)));
        let events = Events::with_capacity(8);
        let seat = Seat {
            poll,
            events,
            mailbox,
        };
        (outlet, seat)
    }

    /// Sleeps until somebody sent something.
    fn sleep(&mut self) {
        while self.poll.poll(&mut self.events, None).is_err() {}
        self.mailbox.begin();
    }
}

/// A core at the other end: takes what it is sent, and sends back what is to return. An empty batch
/// ends it.
fn other_core(to_us: Outlet<Mail>) -> (Outlet<Mail>, JoinHandle<()>) {
    let (to_it, mut seat) = Seat::new();
    let body = move || {
        loop {
            seat.sleep();
            while let Some(mail) = seat.mailbox.receive() {
                if mail.batch.is_empty() {
                    return;
                }
                if mail.returns {
                    to_us.send(mail, 0);
                } else {
                    drop(black_box(mail));
                }
            }
        }
    };
    (to_it, std::thread::spawn(body))
}

fn batch(messages: usize, returns: bool) -> (Mail, usize) {
    let mut batch = Batch::default();
    for index in 0..messages {
        let connection = ConnectionRef {
            index: index as u32,
            generation: 0,
            core: CoreId(1),
        };
        let code = Code::ServerDraining;
        batch.push(BusMessage::Close { connection, code });
    }
    let weight = batch.weight();
    (Mail { batch, returns }, weight)
}

/// Experiment: a batch goes to a core that sleeps, wakes it, and comes back to one that sleeps.
/// Half of it is a hop. An element is one message of the batch, there and back.
fn hop(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus/there_and_back_to_sleepers");
    for messages in [1, 16, 256] {
        let (to_us, mut seat) = Seat::new();
        let (to_it, thread) = other_core(to_us);
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            b.iter(|| {
                let (mail, weight) = batch(messages, true);
                to_it.send(mail, weight);
                loop {
                    seat.sleep();
                    if let Some(mail) = seat.mailbox.receive() {
                        break black_box(mail.batch.len());
                    }
                }
            });
        });
        to_it.send(batch(0, false).0, 0);
        thread.join().unwrap();
    }
    group.finish();
}

/// Experiment: one core sends batch after batch, never more than 1 MiB ahead; only the last comes
/// back, and ends the measurement. The flag spares most wakes. An element is one message.
fn stream(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus/stream");
    for messages in [1, 16, 256] {
        let (to_us, mut seat) = Seat::new();
        let (to_it, thread) = other_core(to_us);
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            b.iter_custom(|iters| {
                let start = WallTime.start();
                for left in (0..iters).rev() {
                    let (mail, weight) = batch(messages, left == 0);
                    to_it.send(mail, weight);
                    while to_it.backlog_bytes() > BACKLOG_BYTES {
                        std::thread::yield_now();
                    }
                }
                while seat.mailbox.receive().is_none() {
                    seat.sleep();
                }
                WallTime.end(start)
            });
        });
        to_it.send(batch(0, false).0, 0);
        thread.join().unwrap();
    }
    group.finish();
}

const NOW: Now = Now {
    mono: Instant::ORIGIN,
    unix_ms: 1_767_225_600_123,
};

const HEAD: &[u8] = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Takes everything.
#[derive(Default)]
struct Sink {
    writes: u64,
}

impl Transport for Sink {
    fn send(&mut self, _: u32, bytes: &[u8]) -> Sent {
        self.writes += 1;
        Sent::Took(black_box(bytes).len())
    }

    fn send_vectored(&mut self, _: u32, slices: &[IoSlice<'_>]) -> Sent {
        self.writes += 1;
        Sent::Took(black_box(slices).iter().map(|s| s.len()).sum())
    }
}

/// Two shards joined in memory, and a room with one member on each.
struct Pair {
    shards: [Shard; 2],
    sink: Sink,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Pair {
    /// The room is at home on core 1.
    fn new() -> Pair {
        let options = Options::default();
        let shard = |core| Shard::new(shard_config(&options, CoreId(core), 2, 7), NOW);
        let mut pair = Pair {
            shards: [shard(0), shard(1)],
            sink: Sink::default(),
            message: Vec::new(),
            buffer: Vec::new(),
        };
        for core in 0..2 {
            let shard = &mut pair.shards[core];
            assert_eq!(shard.handle_accept(NOW), 0);
            shard.handle_bytes(NOW, 0, &mut HEAD.to_vec());
            pair.turns();
        }
        // Names are tried until one is at home on core 1; the others are left again.
        for n in 0.. {
            let room = format!("room-{n}");
            let ask = |kind| masked(&format!(r#"{{"type":"{kind}","room":"{room}"}}"#));
            let homes = pair.shards[1].footprint().homes;
            for core in 0..2 {
                pair.shards[core].handle_bytes(NOW, 0, &mut ask("join_room"));
                pair.turns();
            }
            if pair.shards[1].footprint().homes > homes {
                let text = format!(r#"{{"type":"message","room":"{room}","payload":""}}"#);
                let payload = format!(r#""{}""#, "x".repeat(128 - text.len()));
                pair.message = masked(&text.replace(r#""""#, &payload));
                break;
            }
            for core in 0..2 {
                pair.shards[core].handle_bytes(NOW, 0, &mut ask("leave_room"));
                pair.turns();
            }
        }
        pair.buffer = vec![0; pair.message.len()];
        pair
    }

    /// Carries what the cores say to each other until they have nothing more to say, and flushes.
    fn turns(&mut self) {
        let [a, b] = &mut self.shards;
        loop {
            let there = a.poll_bus(CoreId(1));
            let back = b.poll_bus(CoreId(0));
            if there.is_none() && back.is_none() {
                break;
            }
            there.into_iter().for_each(|batch| b.handle_bus(NOW, batch));
            back.into_iter().for_each(|batch| a.handle_bus(NOW, batch));
        }
        for shard in &mut self.shards {
            while !shard.poll_flush(NOW, &mut self.sink, 8192) {}
            shard.handle_turn_end(NOW.mono, NOW.mono);
        }
    }

    /// One message from a connection of `core` to the members on both cores, and the answer.
    fn publish(&mut self, core: usize) {
        let before = self.sink.writes;
        self.buffer.copy_from_slice(&self.message);
        self.shards[core].handle_bytes(NOW, 0, black_box(&mut self.buffer));
        self.turns();
        assert_eq!(self.sink.writes - before, 2, "one write for each member");
    }
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

/// Experiment: a room has a member on each of two cores, and a message of 128 bytes is published,
/// once on the room's home core and once on the other. Charged is what both cores do, flushes
/// included, without the hop itself: call, home, append here, append and answer there.
fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus/publish_to_both_cores");
    let mut pair = Pair::new();
    for (name, core) in [("from the home core", 1), ("from the other core", 0)] {
        group.bench_function(name, |b| b.iter(|| pair.publish(core)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = hop, stream, publish
}
criterion_main!(benches);
