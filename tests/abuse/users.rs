//! Users that come too often, come back, or are not to come at all.

use std::time::Duration;

use tidewheel::bus::{Order, OrderFault};
use tidewheel::metrics::Limited;
use tidewheel::protocol::UserId;

use crate::node::{Node, Peer, head};

const ANN: &str = "/ws?user_id=ann";

fn ann() -> UserId {
    UserId::from_name("ann")
}

fn ban(lasts: Option<u64>) -> Order {
    Order::Ban {
        user: ann(),
        lasts: lasts.map(Duration::from_secs),
    }
}

fn disconnect(code: u16, reason: &str) -> Order {
    Order::Disconnect {
        user: ann(),
        code,
        reason: reason.into(),
    }
}

fn open(node: &Node, peers: &[Peer]) -> usize {
    let is_open = |peer: &&Peer| node.outcome(**peer) == "open";
    peers.iter().filter(is_open).count()
}

#[test]
fn a_user_over_its_connections_gets_4100_on_whichever_core() {
    let mut node = Node::new(3, |_, limits| limits.connections_per_user_max = Some(2));
    let peers: Vec<Peer> = (0..5).map(|n| node.upgrade(n % 3, ANN)).collect();
    assert_eq!(open(&node, &peers), 2);
    for peer in &peers[2..] {
        assert_eq!(node.outcome(*peer), "closed 4100");
    }
    let nobody: Vec<Peer> = (0..5).map(|n| node.upgrade(n % 3, "/ws")).collect();
    assert_eq!(open(&node, &nobody), 5, "each is a user of its own");
    node.end(peers[0]);
    let again = node.upgrade(1, ANN);
    assert_eq!(node.outcome(again), "open");
    let met = node.metrics().limits.met;
    assert_eq!(met.of(Limited::UserConnections), 3);
}

#[test]
fn a_connection_that_is_turned_away_joins_nothing_by_its_url() {
    let mut node = Node::new(2, |_, limits| limits.connections_per_user_max = Some(1));
    for core in 0..2 {
        let first = node.upgrade(core, ANN);
        let second = node.upgrade(core, "/ws/room?user_id=ann");
        assert_eq!(node.outcome(second), "closed 4100");
        node.say(first, r#"{"type":"presence_query","room":"room"}"#);
        assert_eq!(node.heard(first).count("\"count\":0"), 1);
        node.end(first);
        node.end(second);
    }
    assert_eq!(node.metrics().rooms.members, 0);
}

#[test]
fn a_newer_connection_replaces_the_older_one_with_4011() {
    let mut node = Node::new(2, |_, limits| limits.one_connection_per_user = true);
    for cores in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        let [older, newer] = cores.map(|core| node.upgrade(core, ANN));
        assert_eq!(node.outcome(older), "closed 4011", "{cores:?}");
        assert_eq!(node.outcome(newer), "open", "{cores:?}");
        let other = node.upgrade(0, "/ws?user_id=bob");
        node.say(
            other,
            r#"{"type":"direct_message","payload":{"user_id":"ann","data":1}}"#,
        );
        assert_eq!(node.heard(newer).count("\"type\":\"direct_message\""), 1);
        for peer in [older, newer, other] {
            node.end(peer);
        }
    }
}

/// Connections that come at the same time on two cores, with the announcements of both under way.
#[test]
fn of_connections_that_race_on_two_cores_exactly_one_stays() {
    for home_first in [false, true] {
        let mut node = Node::new(2, |_, limits| limits.one_connection_per_user = true);
        let peers: Vec<Peer> = (0..6).map(|n| node.accept(n % 2)).collect();
        let order: Vec<usize> = match home_first {
            true => vec![0, 1, 2, 3, 4, 5],
            false => vec![1, 3, 5, 0, 2, 4],
        };
        for n in order {
            // No mail passes between the cores before all of them are established.
            node.send_unsettled(peers[n], head(ANN).as_bytes());
        }
        node.settle();
        assert_eq!(open(&node, &peers), 1, "home first: {home_first}");
        let met = node.metrics().limits.met;
        assert_eq!(met.of(Limited::Replaced), 5);
    }
}

#[test]
fn a_banned_user_is_closed_with_4009_and_so_is_every_new_connection() {
    let mut node = Node::new(3, |_, _| {});
    let peers: Vec<Peer> = (0..3).map(|core| node.upgrade(core, ANN)).collect();
    let bob = node.upgrade(0, "/ws?user_id=bob");
    assert_eq!(node.order(&ban(None)), Ok(3));
    for peer in &peers {
        assert_eq!(node.outcome(*peer), "closed 4009");
    }
    assert_eq!(node.outcome(bob), "open");
    for core in 0..3 {
        let again = node.upgrade(core, "/ws/room?user_id=ann");
        let heard = node.heard(again);
        assert_eq!(heard.outcome(), "closed 4009");
        assert_eq!(heard.texts, Vec::<String>::new(), "not even established");
    }
    assert_eq!(node.metrics().limits.bans, 1);
    let lift = Order::Unban { user: ann() };
    assert_eq!(node.order(&lift), Ok(0));
    let again = node.upgrade(0, ANN);
    assert_eq!(node.outcome(again), "open");
    assert_eq!(node.metrics().limits.bans, 0);
}

#[test]
fn a_ban_ends_when_its_time_is_over_and_leaves_nothing() {
    let mut node = Node::new(2, |_, _| {});
    assert_eq!(node.order(&ban(Some(30))), Ok(0));
    node.advance(Duration::from_millis(29_900));
    let early = node.upgrade(1, ANN);
    assert_eq!(node.outcome(early), "closed 4009");
    node.advance(Duration::from_millis(100));
    let later = node.upgrade(1, ANN);
    assert_eq!(node.outcome(later), "open");
    node.end(later);
    node.advance(Duration::from_secs(5));
    assert_eq!(node.metrics().limits.bans, 0);
    assert!(
        node.shards
            .iter()
            .all(|shard| shard.footprint().timers == 0)
    );
}

/// The core of the connection hears of the ban after the connection, the user's home before.
#[test]
fn a_connection_cannot_slip_in_while_a_ban_is_under_way() {
    for late in 0..2 {
        let mut node = Node::new(2, |_, _| {});
        let (now, early) = (node.now, 1 - late);
        node.shards[early].handle_order(now, ban(None)).unwrap();
        let peer = node.accept(late);
        node.send_unsettled(peer, head(ANN).as_bytes());
        node.settle();
        node.shards[late].handle_order(now, ban(None)).unwrap();
        node.settle();
        assert_eq!(node.outcome(peer), "closed 4009", "late on {late}");
    }
}

#[test]
fn a_kick_closes_with_the_code_and_reason_that_were_given() {
    let mut node = Node::new(2, |_, _| {});
    let peers: Vec<Peer> = (0..2).map(|core| node.upgrade(core, ANN)).collect();
    assert_eq!(node.order(&disconnect(4321, "maintenance")), Ok(2));
    for peer in &peers {
        assert_eq!(node.outcome(*peer), "closed 4321");
    }
    assert_eq!(node.order(&disconnect(4012, "")), Ok(0), "nobody is there");
    let again = node.upgrade(0, ANN);
    assert_eq!(node.outcome(again), "open", "a kick is no ban");
    for code in [0, 999, 1001, 1005, 1006, 1015, 3000, 3999, 5000] {
        let fault = Err(OrderFault::BadCode(code));
        assert_eq!(node.order(&disconnect(code, "")), fault);
    }
    let long = "é".repeat(200);
    assert_eq!(node.order(&disconnect(1000, &long)), Ok(1));
    assert_eq!(node.outcome(again), "closed 1000");
}
