//! How often a message allocates, from its publisher's bytes to the last member's write: counted by
//! the allocator, on this thread. Not once, when buffers have their size, history is full and as many
//! keys are remembered as may be; on the way there a ring doubles now and then.
//!
//! Between two cores stands a channel too, which takes a block of memory for every 31 batches.

#![allow(clippy::unwrap_used)] // a room that cannot be set up is a failure

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, Write as _};
use std::sync::Arc;

use tidewheel::address::CoreId;
use tidewheel::bus::{Batches, Mailbox, Wake};
use tidewheel::cli::Options;
use tidewheel::cli::rates::RateLimit;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::gate::Rate;
use tidewheel::gate::rate::Per;
use tidewheel::metrics;
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::Now;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed to the system's allocator as it is. The count beside it is a plain
// cell that needs no memory and no destructor.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes everything.
struct Sink;

impl Transport for Sink {
    fn send(&mut self, _: u32, bytes: &[u8]) -> Sent {
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, _: u32, slices: &[IoSlice<'_>]) -> Sent {
        Sent::Took(slices.iter().map(|s| s.len()).sum())
    }
}

const HISTORY: usize = 64;
const KEYS: usize = 256;
const ROOM: &str = "lobby";

/// Shards joined in memory, with everybody in one room, and what the publisher sends next.
struct Node {
    shards: Vec<Shard>,
    wire: Vec<u8>,
    /// Publishes so far.
    published: u64,
}

impl Node {
    fn new(cores: u16, members_each: u32) -> Node {
        let now = Now::default();
        let mut options = Options::default();
        options.rooms.history = HISTORY;
        options.rooms.idempotency_keys = KEYS;
        // Limits that are counted and never met: the first message has made what they need.
        let rate = RateLimit(Rate::new(1_000_000_000, Per::Second, u32::MAX).ok());
        options.limits.limit_connection_messages = rate;
        options.limits.limit_connection_bytes = rate;
        options.limits.limit_user_messages = rate;
        options.limits.limit_user_rooms = rate;
        let shard = |core| Shard::new(shard_config(&options, CoreId(core), cores, 7), now);
        let mut node = Node {
            shards: (0..cores).map(shard).collect(),
            wire: Vec::new(),
            published: 0,
        };
        let head = b"GET /ws/lobby?user=ada HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        for shard in &mut node.shards {
            for index in 0..members_each {
                assert_eq!(shard.handle_accept(now), index);
                shard.handle_bytes(now, index, &mut head.to_vec());
            }
        }
        node.turn();
        for shard in &mut node.shards {
            assert_eq!(shard.metrics().rooms.members, u64::from(members_each));
        }
        node
    }

    /// The core where the room is at home.
    fn home(&self) -> usize {
        let is_home = |shard: &Shard| shard.footprint().homes > 0;
        self.shards.iter().position(is_home).unwrap()
    }

    fn turn(&mut self) {
        let now = Now::default();
        for _ in 0..4 {
            for from in 0..self.shards.len() {
                for to in 0..self.shards.len() {
                    if let Some(batch) = self.shards[from].poll_bus(CoreId(to as u16)) {
                        self.shards[to].handle_bus(now, batch);
                    }
                }
            }
        }
        for shard in &mut self.shards {
            while !shard.poll_flush(now, &mut Sink, 8192) {}
            shard.handle_turn_end(now.mono, now.mono);
        }
    }

    /// A message of connection 0 of a core. Its frame is made without allocating, too.
    fn publish(&mut self, core: usize, kind: Kind) {
        let mut text = [0; 256];
        let mut place = &mut text[..];
        write!(
            place,
            r#"{{"type":"message","room":"{ROOM}","payload":"not a word more""#
        )
        .unwrap();
        match kind {
            Kind::Plain => write!(place, "}}").unwrap(),
            Kind::Named => {
                let n = self.published;
                let id = format_args!("d0ba4a7c-5b6d-4e4e-9f0a-{n:012}");
                let answer_to = format_args!(r#""correlation_id":"c{n}""#);
                write!(
                    place,
                    r#","metadata":{{"message_id":"{id}",{answer_to}}}}}"#
                )
                .unwrap();
            }
            Kind::NotToMyself => write!(place, r#","metadata":{{"echo":false}}}}"#).unwrap(),
        }
        let left = place.len();
        let text = &text[..text.len() - left];
        self.wire.clear();
        client::encode_masked(OpCode::Data(Data::Text), [1, 2, 3, 4], text, &mut self.wire);
        self.shards[core].handle_bytes(Now::default(), 0, &mut self.wire);
        self.published += 1;
    }

    /// Turns with so many messages each. They must all have been delivered and answered.
    fn turns(&mut self, turns: u64, messages: u64, core: usize, kind: Kind) {
        for _ in 0..turns {
            for _ in 0..messages {
                self.publish(core, kind);
            }
            self.turn();
        }
    }
}

/// How a message is published.
#[derive(Copy, Clone, PartialEq, Debug)]
enum Kind {
    Plain,
    /// With `message_id` and `correlation_id`.
    Named,
    /// With `echo: false`.
    NotToMyself,
}

const KINDS: [Kind; 3] = [Kind::Plain, Kind::Named, Kind::NotToMyself];

fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn delivered(node: &mut Node) -> u64 {
    let of = |shard: &mut Shard| {
        let ledger = &shard.metrics().ledger;
        ledger.account(metrics::Kind::Message).delivered
            + ledger.account(metrics::Kind::Reply).delivered
    };
    node.shards.iter_mut().map(of).sum()
}

/// Publishes from a core, warms up, and counts.
fn a_message_does_not_allocate(node: &mut Node, members: u64, core: usize) {
    for kind in KINDS {
        for messages in [1, 8, 64] {
            node.turns(8 * KEYS as u64 / messages, messages, core, kind);
            let before = delivered(node);
            let allocations = counted(|| node.turns(20, messages, core, kind));
            let readers = members - u64::from(kind == Kind::NotToMyself);
            let expected = 20 * messages * (readers + 1);
            assert_eq!(delivered(node) - before, expected, "with its answer");
            assert_eq!(
                allocations,
                0,
                "{kind:?}, {messages} a turn, from core {core} of {}",
                node.shards.len()
            );
        }
    }
}

#[test]
fn a_message_to_a_thousand_members_of_one_core_allocates_nothing() {
    let mut node = Node::new(1, 1000);
    a_message_does_not_allocate(&mut node, 1000, 0);
}

#[test]
fn a_message_across_two_cores_allocates_nothing_from_either() {
    let mut node = Node::new(2, 10);
    let home = node.home();
    a_message_does_not_allocate(&mut node, 20, home);
    a_message_does_not_allocate(&mut node, 20, 1 - home);
}

#[test]
fn a_repeat_allocates_nothing() {
    let mut node = Node::new(1, 10);
    let text = br#"{"type":"message","room":"lobby","payload":1,"metadata":{"message_id":"m"}}"#;
    let mut wire = Vec::new();
    client::encode_masked(OpCode::Data(Data::Text), [1, 2, 3, 4], text, &mut wire);
    let mut buffer = wire.clone();
    let mut publish = || {
        buffer.copy_from_slice(&wire);
        node.shards[0].handle_bytes(Now::default(), 0, &mut buffer);
        node.turn();
    };
    (0..10).for_each(|_| publish());
    assert_eq!(counted(|| (0..100).for_each(|_| publish())), 0);
}

struct NobodySleeps;

impl Wake for NobodySleeps {
    fn wake(&self) {}
}

#[test]
fn a_batch_between_cores_allocates_a_thirty_first_of_a_block() {
    let (outlet, mailbox) = Mailbox::new(Arc::new(NobodySleeps));
    let batches = Batches::default();
    let send = || {
        let batch = batches.batch();
        let weight = batch.weight();
        assert!(outlet.send(batch, weight));
        mailbox.begin();
        assert!(mailbox.receive().is_some());
    };
    (0..100).for_each(|_| send());
    let allocations = counted(|| (0..310).for_each(|_| send()));
    assert!(allocations <= 10, "{allocations} for 310 batches");
}
