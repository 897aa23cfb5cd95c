//! One message to everyone.

use std::io::IoSlice;

use tidewheel::bus::{ApiAnswer, ApiAsk, Query, Ticket};
use tidewheel::metrics::MemoryKind;
use tidewheel::shard::{BROADCAST_STEP, BROADCASTS_MAX, Sent, Shard, Transport};

use crate::node::{Node, Peer, head};
use crate::{Backend, code};

fn payload(text: &str) -> ApiAsk {
    ApiAsk::Broadcast(text.as_bytes().into())
}

fn count(answer: ApiAnswer) -> u64 {
    match answer {
        ApiAnswer::Connections(count) => count,
        other => panic!("{other:?}"),
    }
}

/// What came of broadcasts to a peer, in order.
fn heard(backend: &Backend, peer: Peer) -> Vec<String> {
    let texts = backend.node.heard(peer).texts.into_iter();
    let broadcasts = texts.filter(|text| text.contains("\"broadcast\""));
    broadcasts
        .map(|text| {
            let rest = text.strip_prefix("{\"type\":\"broadcast\",\"payload\":");
            rest.and_then(|rest| rest.strip_suffix('}'))
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn everyone_who_is_established_gets_it_once() {
    let mut backend = Backend::plain();
    let peers: Vec<Peer> = (0..7).map(|n| backend.join(n % 3, "ann", "r")).collect();
    let stranger = backend.node.accept(0);
    let gone = backend.join(1, "bob", "r");
    backend.node.end(gone);
    let counts: Vec<u64> = (0..3)
        .map(|core| count(backend.ask(core, payload("[1.50]"))))
        .collect();
    assert_eq!(counts, [3, 2, 2]);
    for peer in peers {
        assert_eq!(heard(&backend, peer), ["[1.50]"]);
    }
    assert_eq!(backend.node.outcome(stranger), "waits");
    let long = "1".repeat(1 << 20);
    assert_eq!(code(backend.ask(0, payload(&long))), 4005);
}

#[test]
fn nobody_is_told_twice_whoever_takes_whose_place() {
    let mut backend = Backend::new(Node::new(1, |_, _| {}));
    let first = backend.join(0, "ann", "r");
    let second = backend.join(0, "bob", "r");
    backend.ask_unsettled(0, payload("1"));
    // The newcomer has the place of one that was there.
    backend.node.shards[0].handle_end(backend.node.now, first.index);
    let newcomer = backend.join(0, "cy", "r");
    let told = [heard(&backend, second), heard(&backend, newcomer)];
    assert_eq!(told[0], ["1"]);
    assert!(told[1].len() <= 1);
}

#[test]
fn broadcasts_keep_their_order_and_are_bounded_in_number() {
    let mut backend = Backend::new(Node::new(1, |_, _| {}));
    let peer = backend.join(0, "ann", "r");
    let texts: Vec<String> = (0..BROADCASTS_MAX).map(|n| n.to_string()).collect();
    for text in &texts {
        assert_eq!(count(backend.ask_unsettled(0, payload(text))), 1);
    }
    let queues = backend.node.shards[0].memory().of(MemoryKind::Queues);
    assert!(queues as usize > 20 * BROADCASTS_MAX, "{queues} bytes");
    assert_eq!(code(backend.ask_unsettled(0, payload("too many"))), 4100);
    backend.node.settle();
    assert_eq!(heard(&backend, peer), texts);
    assert_eq!(backend.node.shards[0].memory().of(MemoryKind::Queues), 0);
    assert_eq!(count(backend.ask(0, payload("again"))), 1);
}

#[test]
fn a_slow_consumer_is_closed_with_4101_by_broadcasts_alone() {
    let mut backend = Backend::new(Node::new(1, |config, _| config.lag_bytes_max = 1_000));
    let slow = backend.join(0, "ann", "r");
    let quick = backend.join(0, "bob", "r");
    backend.node.stall(slow);
    let text = format!("\"{}\"", "x".repeat(300));
    for _ in 0..8 {
        backend.ask(0, payload(&text));
    }
    assert_eq!(heard(&backend, quick).len(), 8);
    let metrics = backend.node.metrics();
    assert_eq!(metrics.connections.closed.of(4101), 1);
    assert!(
        metrics
            .ledger
            .balances(backend.node.shards[0].pending_frames())
    );
}

/// Sockets without memory, and how often they were written to.
#[derive(Default)]
struct Writes(usize);

impl Transport for Writes {
    fn send(&mut self, _: u32, bytes: &[u8]) -> Sent {
        self.0 += 1;
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, _: u32, slices: &[IoSlice<'_>]) -> Sent {
        self.0 += 1;
        Sent::Took(slices.iter().map(|s| s.len()).sum())
    }
}

fn connected(count: usize) -> (Shard, Backend) {
    let mut backend = Backend::new(Node::new(1, |_, _| {}));
    let now = backend.node.now;
    let mut shard = backend.node.shards.remove(0);
    for n in 0..count {
        let index = shard.handle_accept(now);
        let mut head = head(&format!("/ws?user_id=u{n}")).into_bytes();
        shard.handle_bytes(now, index, &mut head);
    }
    while !shard.poll_flush(now, &mut Writes::default(), 8_192) {}
    (shard, backend)
}

#[test]
fn a_turn_tells_a_bounded_number_of_connections() {
    let connections = 5 * BROADCAST_STEP / 2;
    let (mut shard, backend) = connected(connections);
    let now = backend.node.now;
    for ticket in 0..2 {
        let (ticket, ask) = (Ticket(ticket), payload("1"));
        shard.handle_query(now, Query { ticket, ask });
    }
    assert_eq!(shard.poll_answers().map(|answers| answers.len()), Some(2));
    let mut turns = Vec::new();
    while shard.wants_flush() {
        let mut writes = Writes::default();
        shard.poll_flush(now, &mut writes, 8_192);
        turns.push(writes.0);
    }
    let step = BROADCAST_STEP;
    assert_eq!(
        turns, [step; 5],
        "two broadcasts to two and a half times as many"
    );
    // A turn with few writes tells few.
    let ask = payload("1");
    shard.handle_query(
        now,
        Query {
            ticket: Ticket(3),
            ask,
        },
    );
    let mut writes = Writes::default();
    shard.poll_flush(now, &mut writes, 10);
    assert!(writes.0 <= 10);
}

/// `cargo test --profile quick --test backend a_large -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: 100,000 connections"]
fn a_large_broadcast_takes_short_turns() {
    let (mut shard, backend) = connected(100_000);
    let now = backend.node.now;
    let text = format!("\"{}\"", "x".repeat(200));
    let ask = payload(&text);
    #[allow(clippy::disallowed_methods, reason = "it is measured")]
    let clock = std::time::Instant::now;
    let began = clock();
    shard.handle_query(
        now,
        Query {
            ticket: Ticket(1),
            ask,
        },
    );
    println!("the call: {:?}", began.elapsed());
    let mut turns = Vec::new();
    while shard.wants_flush() {
        let began = clock();
        shard.poll_flush(now, &mut Writes::default(), 8_192);
        turns.push(began.elapsed());
    }
    turns.sort_unstable();
    let all: std::time::Duration = turns.iter().sum();
    println!(
        "{} turns, {all:?}; median {:?}, longest {:?}",
        turns.len(),
        turns[turns.len() / 2],
        turns[turns.len() - 1]
    );
}
