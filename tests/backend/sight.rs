//! What an operator sees of a core beside its metrics.

use std::sync::Arc;
use std::time::Duration;

use tidewheel::bus::{ApiAnswer, ApiAsk, Order, Sight};
use tidewheel::protocol::UserId;
use tidewheel::shard::{EVICTIONS_MAX, PLACES_MAX};

use crate::Backend;
use crate::node::Node;

fn look(backend: &mut Backend, core: usize, top: u32) -> Sight {
    let ask = ApiAsk::Look {
        rooms_from: Some(0),
        connections_from: Some(0),
        top,
    };
    match backend.ask(core, ask) {
        ApiAnswer::Sight(sight) => *sight,
        other => panic!("{other:?}"),
    }
}

fn one_core() -> Backend {
    Backend::new(Node::new(1, |config, _| {
        config.lag_bytes_max = 1_000;
        config.lag_age_max = Duration::from_secs(3_600);
    }))
}

#[test]
fn the_largest_rooms_come_first() {
    let mut backend = one_core();
    for (room, members) in [("a", 1), ("b", 3), ("c", 2), ("d", 0)] {
        backend.publish(&[(room, "1", None)]);
        for _ in 0..members {
            backend.join(0, "ann", room);
        }
    }
    let sight = look(&mut backend, 0, 3);
    let rooms = sight
        .rooms
        .iter()
        .map(|facts| (facts.room.name(), facts.connections));
    assert_eq!(rooms.collect::<Vec<_>>(), [("b", 3), ("c", 2), ("a", 1)]);
    assert_eq!((sight.rooms_next, sight.connections_next), (None, None));
    assert!(sight.laggards.is_empty() && sight.evictions.is_empty());
    assert_eq!(look(&mut backend, 0, 0).rooms.len(), 0);
}

#[test]
fn the_slowest_connections_are_those_that_take_nothing() {
    let mut backend = one_core();
    let slow = backend.join(0, "slow", "r");
    let slower = backend.join(0, "slower", "r");
    backend.join(0, "quick", "r");
    backend.node.stall(slower);
    backend.publish(&[("r", "\"first\"", None)]);
    backend.node.advance(Duration::from_millis(1_500));
    backend.node.stall(slow);
    backend.publish(&[("r", "\"second\"", None)]);
    let sight = look(&mut backend, 0, 9);
    let laggards: Vec<_> = sight
        .laggards
        .iter()
        .map(|l| (l.user.to_string(), l.lag_ms, l.rooms))
        .collect();
    assert_eq!(
        laggards,
        [("slower".to_owned(), 1_500, 1), ("slow".to_owned(), 0, 1)]
    );
    assert!(sight.laggards[0].lag_bytes > sight.laggards[1].lag_bytes);
    let lag = backend.node.shards[0]
        .backlog(slower.index)
        .unwrap()
        .lag_bytes;
    assert_eq!(sight.laggards[0].lag_bytes, lag);
}

#[test]
fn a_look_at_many_connections_goes_on_where_it_ended() {
    let mut backend = one_core();
    for _ in 0..PLACES_MAX + 1 {
        let peer = backend.node.accept(0);
        backend
            .node
            .send_unsettled(peer, crate::node::head("/ws").as_bytes());
    }
    backend.node.settle();
    let sight = look(&mut backend, 0, 9);
    assert_eq!(sight.connections_next, Some(PLACES_MAX));
}

#[test]
fn evictions_are_remembered_with_who_and_why() {
    let mut backend = one_core();
    let slow = backend.join(0, "slow", "r");
    let kicked = backend.join(0, "kicked", "r");
    let banned = backend.join(0, "banned", "r");
    backend.node.stall(slow);
    for _ in 0..20 {
        backend.publish(&[("r", "\"a message that waits, and waits, and waits\"", None)]);
    }
    let user = UserId::from_name("kicked");
    let reason: Arc<str> = "because".into();
    let order = Order::Disconnect {
        user,
        code: 4_777,
        reason,
    };
    assert_eq!(backend.node.order(&order), Ok(1));
    let user = UserId::from_name("banned");
    let order = Order::Ban { user, lasts: None };
    assert_eq!(backend.node.order(&order), Ok(1));
    // One that is turned away at the door is nobody who had to go.
    backend.join(0, "banned", "r");
    let sight = look(&mut backend, 0, 9);
    let evictions: Vec<_> = sight
        .evictions
        .iter()
        .map(|e| (e.user.to_string(), e.code))
        .collect();
    let expected = [("slow", 4101), ("kicked", 4777), ("banned", 4009)];
    assert_eq!(
        evictions,
        expected.map(|(user, code)| (user.to_owned(), code))
    );
    assert!(sight.evictions[0].lag_bytes > 1_000);
    assert_eq!(sight.evictions[1].unix_ms, backend.node.now.unix_ms);
    assert_eq!(backend.node.outcome(kicked), "closed 4777");
    assert_eq!(backend.node.outcome(banned), "closed 4009");
    assert!(sight.evictions.len() <= EVICTIONS_MAX);
}
