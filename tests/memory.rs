//! One shard that gets short of memory: who is closed, what goes first, what newcomers are told.

#![allow(clippy::unwrap_used)] // a shard that cannot be set up is a failure

use std::io::IoSlice;
use std::time::Duration;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::metrics::{Eviction, MemoryKind, Reject};
use tidewheel::shard::{Load, Overflow, Phase, Pressure, Sent, Shard, ShardConfig, Transport};
use tidewheel::time::{Instant, Now};

/// Takes everything, but from the connection after `full_from` nothing; keeps what the last one got.
#[derive(Default)]
struct Sink {
    full_from: Option<u32>,
    last: Vec<u8>,
}

impl Transport for Sink {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.send_vectored(connection, &[IoSlice::new(bytes)])
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        if self.full_from.is_some_and(|from| connection >= from) {
            return Sent::Full;
        }
        self.last = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        Sent::Took(self.last.len())
    }
}

fn at(ms: u64) -> Now {
    Now {
        mono: Instant::ORIGIN + Duration::from_millis(ms),
        unix_ms: 1_800_000_000_000 + ms,
    }
}

fn config() -> ShardConfig {
    let mut options = Options::default();
    options.messages.max_message_bytes = 1 << 20;
    options.rooms.history = 10_000;
    shard_config(&options, CoreId(0), 1, 7)
}

fn connect(shard: &mut Shard, sink: &mut Sink) -> u32 {
    let index = shard.handle_accept(at(0));
    let head = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    shard.handle_bytes(at(0), index, &mut head.to_vec());
    while !shard.poll_flush(at(0), sink, 100) {}
    index
}

fn wire(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    let opcode = OpCode::Data(Data::Text);
    client::encode_masked(opcode, [1, 2, 3, 4], text.as_bytes(), &mut wire);
    wire
}

fn publish(shard: &mut Shard, index: u32, room: &str, bytes: usize) {
    let payload = "x".repeat(bytes);
    let text = format!(r#"{{"type":"message","room":"{room}","payload":"{payload}"}}"#);
    shard.handle_bytes(at(0), index, &mut wire(&text));
}

/// A budget of which the shard, as it is, uses so many percent.
fn budget_for(shard: &Shard, percent: usize) -> usize {
    shard.memory_bytes() * 125 / percent
}

/// A shard with three connections that have sent parts of messages, of so many bytes.
fn half_sent(budget: usize, sizes: [usize; 3]) -> Shard {
    let config = ShardConfig {
        memory_budget_bytes: budget,
        ..config()
    };
    let (mut shard, mut sink) = (Shard::new(config, at(0)), Sink::default());
    for bytes in sizes {
        let index = connect(&mut shard, &mut sink);
        let mut wire = wire(&"y".repeat(bytes));
        wire.pop();
        shard.handle_bytes(at(0), index, &mut wire);
    }
    shard
}

fn open(shard: &Shard) -> Vec<u32> {
    let is_open = |index: &u32| {
        shard
            .backlog(*index)
            .is_some_and(|b| b.phase == Phase::Native)
    };
    (0..3).filter(is_open).collect()
}

#[test]
fn whoever_holds_the_most_is_closed_first_and_nobody_for_nothing() {
    let sizes = [150_000, 600_000, 400_000];
    let budget = budget_for(&half_sent(0, sizes), 92);
    let mut shard = half_sent(budget, sizes);
    assert_eq!(
        shard.handle_pressure(at(10), Load::default()),
        Pressure::Evict
    );
    assert_eq!(
        open(&shard),
        [0, 1, 2],
        "messages that are coming in are waited for"
    );
    for ms in (300..600).step_by(5) {
        shard.handle_pressure(at(ms), Load::default());
    }
    assert_eq!(open(&shard), [0, 2]);
    assert_eq!(shard.pressure(), Pressure::Calm);
    let metrics = shard.metrics();
    assert_eq!(metrics.connections.evicted.of(Eviction::Memory), 1);
    assert_eq!(metrics.connections.closed.of(4100), 1);
}

#[test]
fn what_others_hold_is_theirs_to_give_back() {
    let sizes = [1_000, 2_000, 3_000];
    let mut shard = half_sent(10 << 20, sizes);
    let load = Load {
        others: 8 << 20,
        ..Load::default()
    };
    assert_eq!(shard.handle_pressure(at(300), load), Pressure::Refuse);
    for ms in (300..320).step_by(5) {
        shard.handle_pressure(at(ms), load);
    }
    assert_eq!(
        open(&shard),
        [0, 1, 2],
        "the mark has not come down to such small ones"
    );
}

#[test]
fn newcomers_are_refused_at_the_end_of_the_budget_and_told_why() {
    let sizes = [1_000; 3];
    let mut shard = half_sent(1 << 20, sizes);
    let load = Load {
        others: 1 << 20,
        ..Load::default()
    };
    shard.handle_pressure(at(1), load);
    assert!(shard.refuses_newcomers());
    let mut sink = Sink::default();
    shard.handle_refused_for_memory(at(1), Duration::from_secs(3));
    while !shard.poll_flush(at(1), &mut sink, 100) {}
    let told = String::from_utf8(sink.last.clone()).unwrap();
    assert!(
        told.starts_with("HTTP/1.1 503") && told.contains("Retry-After: 3"),
        "{told}"
    );
    assert!(told.contains("memory"), "{told}");
    assert_eq!(shard.metrics().connections.rejected.of(Reject::Memory), 1);

    shard.handle_pressure(at(2), Load::default());
    assert!(
        !shard.refuses_newcomers(),
        "it is over when there is memory again"
    );
    let index = connect(&mut shard, &mut sink);
    shard.handle_pressure(at(3), load);
    publish(&mut shard, index, "new", 10);
    assert_ne!(
        shard.backlog(index).unwrap().phase,
        Phase::Native,
        "a new room is 4100"
    );
}

#[test]
fn rooms_above_the_average_let_go_of_history_and_say_so() {
    let filled = |budget| {
        let config = ShardConfig {
            memory_budget_bytes: budget,
            ..config()
        };
        let (mut shard, mut sink) = (Shard::new(config, at(0)), Sink::default());
        let index = connect(&mut shard, &mut sink);
        for _ in 0..200 {
            publish(&mut shard, index, "large", 4_000);
        }
        publish(&mut shard, index, "small", 4_000);
        while !shard.poll_flush(at(0), &mut sink, 100) {}
        (shard, sink, index)
    };
    let (unbounded, ..) = filled(0);
    let (mut shard, mut sink, index) = filled(budget_for(&unbounded, 83));
    let history = shard.memory().of(MemoryKind::History);
    assert_eq!(
        shard.handle_pressure(at(1), Load::default()),
        Pressure::Trim
    );
    assert!(shard.memory().of(MemoryKind::History) < history * 9 / 10);
    assert!(shard.metrics().memory.history_trimmed > 0);
    for (room, complete) in [("large", "false"), ("small", "true")] {
        let query =
            format!(r#"{{"type":"history_query","room":"{room}","payload":{{"since":0}}}}"#);
        shard.handle_bytes(at(1), index, &mut wire(&query));
        while !shard.poll_flush(at(1), &mut sink, 100) {}
        let told = String::from_utf8_lossy(&sink.last).into_owned();
        assert!(
            told.contains(&format!(r#""complete":{complete}"#)),
            "{room}"
        );
    }
    assert!(shard.memory().iter().eq(shard.recount().iter()));
}

#[test]
fn a_laggard_that_is_told_of_gaps_and_reads_nothing_is_closed() {
    let config = ShardConfig {
        overflow: Overflow::Skip,
        lag_bytes_max: 128,
        answer_bytes_max: 1_000,
        ..config()
    };
    let (mut shard, mut sink) = (Shard::new(config, at(0)), Sink::default());
    let publisher = connect(&mut shard, &mut sink);
    let laggard = connect(&mut shard, &mut sink);
    let join = r#"{"type":"join_room","room":"busy"}"#;
    shard.handle_bytes(at(0), laggard, &mut wire(join));
    while !shard.poll_flush(at(0), &mut sink, 100) {}
    sink.full_from = Some(laggard);
    let mut most = 0;
    for _ in 0..2_000 {
        publish(&mut shard, publisher, "busy", 100);
        for _ in 0..3 {
            shard.poll_flush(at(0), &mut sink, 100);
        }
        most = most.max(shard.backlog(laggard).map_or(0, |b| b.answer_bytes));
    }
    assert!(most < 70_000, "{most} bytes of notices");
    assert_eq!(shard.metrics().connections.closed.of(4101), 1);
}
