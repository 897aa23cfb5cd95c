//! What shards tell the operator's backend of rooms and users, on one core and on several.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use tidewheel::address::CoreId;
use tidewheel::bus::Noticed;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::gate::Policy;
use tidewheel::shard::{Sent, Shard, ShardConfig, Transport};
use tidewheel::time::{Instant, Now};

const FIELDS: &str = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const NOW: Now = Now {
    mono: Instant::ORIGIN,
    unix_ms: 1_800_000_000_000,
};

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

struct Node(Vec<Shard>);

impl Node {
    fn new(cores: u16, change: impl Fn(&mut ShardConfig)) -> Node {
        let shard = |core| {
            let mut config = shard_config(&Options::default(), CoreId(core), cores, 7);
            config.gives_notice = true;
            change(&mut config);
            Shard::new(config, NOW)
        };
        Node((0..cores).map(shard).collect())
    }

    fn connect(&mut self, core: usize, target: &str) -> (usize, u32) {
        let index = self.0[core].handle_accept(NOW);
        let mut head = format!("GET {target} HTTP/1.1\r\n{FIELDS}").into_bytes();
        self.0[core].handle_bytes(NOW, index, &mut head);
        (core, index)
    }

    fn end(&mut self, (core, index): (usize, u32)) {
        self.0[core].handle_end(NOW, index);
    }

    /// What was told since this was last asked, in the order of the cores.
    fn told(&mut self) -> Vec<String> {
        loop {
            let mut is_quiet = true;
            for from in 0..self.0.len() {
                for to in 0..self.0.len() {
                    if let Some(batch) = self.0[from].poll_bus(CoreId(to as u16)) {
                        self.0[to].handle_bus(NOW, batch);
                        is_quiet = false;
                    }
                }
            }
            if is_quiet {
                break;
            }
        }
        let mut told = Vec::new();
        for shard in &mut self.0 {
            while !shard.poll_flush(NOW, &mut Sink, 100) {}
            while shard.poll_action().is_some() {}
            for notice in shard.poll_notices().unwrap_or_default() {
                assert_eq!(notice.unix_ms, NOW.unix_ms);
                told.push(match notice.what {
                    Noticed::RoomOccupied(room) => format!("#{} occupied", room.name()),
                    Noticed::RoomVacated(room) => format!("#{} vacated", room.name()),
                    Noticed::UserConnected(user) => format!("{user} connected"),
                    Noticed::UserDisconnected(user) => format!("{user} disconnected"),
                });
            }
        }
        told.sort();
        told
    }
}

#[test]
fn the_first_to_come_and_the_last_to_go_are_told_of_whatever_the_core() {
    for cores in [1, 2, 4] {
        let mut node = Node::new(cores, |_| {});
        let last = usize::from(cores) - 1;
        let ann = node.connect(0, "/ws/lobby?user_id=ann");
        assert_eq!(node.told(), ["#lobby occupied", "ann connected"]);
        let again = node.connect(last, "/ws/lobby?user_id=ann");
        assert_eq!(node.told(), [""; 0], "a second connection is no news");
        let bob = node.connect(last, "/ws/lobby?user_id=bob");
        assert_eq!(node.told(), ["bob connected"]);
        node.end(ann);
        assert_eq!(node.told(), [""; 0]);
        node.end(again);
        assert_eq!(node.told(), ["ann disconnected"]);
        node.end(bob);
        assert_eq!(node.told(), ["#lobby vacated", "bob disconnected"]);
    }
}

#[test]
fn who_is_turned_away_or_replaced_never_came() {
    let mut node = Node::new(2, |config| {
        let mut policy = Policy::clone(&config.policy);
        policy.limits.one_connection_per_user = true;
        config.policy = Arc::new(policy);
    });
    node.connect(0, "/ws?user_id=ann");
    assert_eq!(node.told(), ["ann connected"]);
    let newest = node.connect(1, "/ws?user_id=ann");
    assert_eq!(node.told(), [""; 0], "the older one went for it");
    node.end(newest);
    assert_eq!(node.told(), ["ann disconnected"]);
}

#[test]
fn a_drain_tells_of_everyone_and_nobody_hears_who_does_not_ask() {
    for asks in [true, false] {
        let mut node = Node::new(1, |config| config.gives_notice = asks);
        for n in 0..10 {
            node.connect(0, &format!("/ws/lobby?user_id=u{n}"));
        }
        assert_eq!(node.told().len(), if asks { 11 } else { 0 });
        node.0[0].handle_drain(NOW, Duration::ZERO);
        let later = Now {
            mono: NOW.mono + Duration::from_secs(1),
            ..NOW
        };
        node.0[0].handle_timeouts(later);
        assert_eq!(node.told().len(), if asks { 11 } else { 0 });
    }
}
