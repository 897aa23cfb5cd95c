//! Too much of what is allowed: commands, frames, connections, rooms.

use std::time::Duration;

use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::metrics::{Eviction, Limited, Reject};

use crate::node::{Node, Peer, frame, head, rate};

fn message(room: &str, n: usize) -> String {
    format!(
        r#"{{"type":"message","room":"{room}","payload":{n},"metadata":{{"correlation_id":"c{n}"}}}}"#
    )
}

#[test]
fn a_message_over_its_connections_rate_is_refused_by_name_and_not_obeyed() {
    let mut node = Node::limited(|limits| limits.connection_messages = rate(10, 5));
    let (peer, other) = (node.upgrade(0, "/ws/r"), node.upgrade(0, "/ws/r"));
    for n in 0..6 {
        node.say(peer, &message("r", n));
    }
    let heard = node.heard(peer);
    assert_eq!(heard.count("message_sent"), 5);
    let refused = heard.texts.last().unwrap();
    for part in [
        "\"type\":\"error\"",
        "\"room\":\"r\"",
        "\"code\":4004",
        "10/s:5",
        "\"correlation_id\":\"c5\"",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(node.heard(other).count("\"type\":\"message\""), 5);
    node.say(other, &message("r", 9));
    assert_eq!(node.heard(other).errors(4004), 0, "the other has its own");
    node.advance(Duration::from_millis(100));
    node.say(peer, &message("r", 7));
    assert_eq!(node.heard(peer).count("message_sent"), 6);
    let met = node.metrics().limits.met;
    assert_eq!(met.of(Limited::ConnectionMessages), 1);
}

#[test]
fn a_flood_of_messages_is_closed_with_4004_when_it_goes_on() {
    let mut node = Node::limited(|limits| {
        limits.connection_messages = rate(10, 5);
        limits.rate_errors_max = 20;
    });
    let peer = node.upgrade(0, "/ws");
    for n in 0..25 {
        node.say(peer, &message("r", n));
        assert_eq!(node.outcome(peer), "open");
    }
    node.say(peer, &message("r", 26));
    assert_eq!(node.outcome(peer), "closed 4004");
    assert_eq!(node.heard(peer).errors(4004), 21);
}

#[test]
fn a_user_has_one_rate_over_all_connections_and_cores() {
    let mut node = Node::new(3, |_, limits| limits.user_messages = rate(1, 30));
    let peers: Vec<Peer> = (0..3).map(|c| node.upgrade(c, "/ws?user_id=ann")).collect();
    let bob = node.upgrade(0, "/ws?user_id=bob");
    let nobody = node.upgrade(0, "/ws");
    for n in 0..15 {
        for peer in &peers {
            node.say(*peer, &message("r", n));
        }
        node.say(bob, &message("r", n));
        node.say(nobody, &message("r", n));
    }
    let sent: usize = peers
        .iter()
        .map(|p| node.heard(*p).count("message_sent"))
        .sum();
    assert_eq!(sent, 30);
    for peer in [bob, nobody] {
        assert_eq!(node.heard(peer).count("message_sent"), 15);
    }
}

#[test]
fn a_reconnect_does_not_fill_a_users_bucket() {
    let mut node = Node::limited(|limits| limits.user_messages = rate(1, 4));
    let mut sent = 0;
    for _ in 0..5 {
        let peer = node.upgrade(0, "/ws?user_id=ann");
        for n in 0..4 {
            node.say(peer, &message("r", n));
        }
        sent += node.heard(peer).count("message_sent");
        node.end(peer);
    }
    assert_eq!(sent, 4);
}

#[test]
fn too_many_bytes_are_read_no_faster_than_their_rate_and_nothing_is_lost() {
    let mut node = Node::limited(|limits| limits.connection_bytes = rate(1_000, 2_000));
    let peer = node.upgrade(0, "/ws");
    let text = format!(r#"{{"type":"ping","payload":"{}"}}"#, "x".repeat(450));
    let mut sent = 0;
    let began = node.now.mono;
    while sent < 40 {
        if node.wants_read(peer) {
            node.say(peer, &text);
            sent += 1;
        } else {
            node.advance(Duration::from_millis(100));
        }
    }
    let heard = node.heard(peer);
    assert_eq!((heard.count("pong"), heard.outcome()), (40, "open".into()));
    let seconds = (node.now.mono - began).as_secs();
    // 40 × 490 bytes at 1,000 a second, of which 2,000 and one message came at once.
    assert!((16..=19).contains(&seconds), "{seconds} s");
    assert!(node.metrics().limits.met.of(Limited::ConnectionBytes) > 10);
}

#[test]
fn one_that_is_read_slowly_is_not_taken_for_dead() {
    let mut node = Node::limited(|limits| limits.connection_bytes = rate(100, 1_000));
    let peer = node.upgrade(0, "/ws");
    let text = format!(r#"{{"type":"ping","payload":"{}"}}"#, "x".repeat(20_000));
    node.say(peer, &text);
    node.advance(Duration::from_secs(120));
    assert!(!node.wants_read(peer));
    assert_eq!(node.outcome(peer), "open");
    node.advance(Duration::from_secs(90));
    assert!(node.wants_read(peer));
}

/// Control frames are bounded without any flag.
#[test]
fn floods_of_control_frames_are_closed_with_4004() {
    for (what, opcode, payload, target) in [
        ("pings", Control::Ping, &b""[..], "/ws"),
        ("pings that are full", Control::Ping, &[7; 125], "/ws"),
        ("pongs that nobody asked for", Control::Pong, b"x", "/ws"),
        ("pings on /echo", Control::Ping, b"", "/echo"),
    ] {
        let mut node = Node::new(1, |config, _| config.echo = true);
        let peer = node.upgrade(0, target);
        let flood = frame(OpCode::Control(opcode), payload).repeat(1_000);
        node.send(peer, &flood);
        assert_eq!(node.outcome(peer), "open", "{what}");
        node.send(peer, &flood);
        assert_eq!(node.outcome(peer), "closed 4004", "{what}");
        let met = node.metrics().limits.met;
        assert_eq!(met.of(Limited::ConnectionControl), 1, "{what}");
    }
}

#[test]
fn pings_at_a_rate_that_makes_sense_go_on_for_ever() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    for _ in 0..1_000 {
        for _ in 0..10 {
            node.ping(peer);
        }
        node.advance(Duration::from_millis(100));
    }
    let heard = node.heard(peer);
    assert_eq!((heard.outcome(), heard.pongs), ("open".into(), 10_000));
}

#[test]
fn a_ping_flood_among_fragments_is_closed_too() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    let mut bytes = Vec::new();
    tidewheel::codec::websocket::client::encode_fragment(
        OpCode::Data(Data::Text),
        false,
        [1; 4],
        b"{",
        &mut bytes,
    );
    bytes.extend(frame(OpCode::Control(Control::Ping), b"").repeat(1_001));
    node.send(peer, &bytes);
    assert_eq!(node.outcome(peer), "closed 4004");
}

#[test]
fn a_storm_of_joins_and_leaves_is_refused_and_then_closed() {
    let mut node = Node::plain();
    let watcher = node.upgrade(0, "/ws?user_id=watcher");
    node.say(
        watcher,
        r#"{"type":"join_room","room":"r","payload":{"presence":true}}"#,
    );
    let peer = node.upgrade(0, "/ws?user_id=storm");
    for _ in 0..1_100 {
        node.say(peer, r#"{"type":"join_room","room":"r"}"#);
        node.say(peer, r#"{"type":"leave_room","room":"r"}"#);
    }
    let heard = node.heard(peer);
    assert_eq!(heard.outcome(), "closed 4004");
    assert_eq!(heard.count("room_joined") + heard.count("room_left"), 2_000);
    assert_eq!(heard.errors(4004), 51);
    assert!(node.heard(watcher).count("presence_update") <= 2_000);
    let met = node.metrics().limits.met;
    assert_eq!(met.of(Limited::ConnectionJoins), 51);
}

#[test]
fn in_a_large_room_a_storm_of_joins_is_one_summary_a_second() {
    let mut node = Node::new(1, |config, _| config.presence_limit = 2);
    let watchers: Vec<Peer> = (0..5)
        .map(|n| node.upgrade(0, &format!("/ws?user_id=w{n}")))
        .collect();
    for watcher in &watchers {
        node.say(
            *watcher,
            r#"{"type":"join_room","room":"r","payload":{"presence":true}}"#,
        );
    }
    let before = node.heard(watchers[0]).count("presence_update");
    let peer = node.upgrade(0, "/ws?user_id=storm");
    for _ in 0..30 {
        for _ in 0..3 {
            node.say(peer, r#"{"type":"join_room","room":"r"}"#);
            node.say(peer, r#"{"type":"leave_room","room":"r"}"#);
        }
        node.advance(Duration::from_millis(100));
    }
    let told = node.heard(watchers[0]).count("presence_update") - before;
    assert!(told <= 4, "{told} updates in three seconds");
}

#[test]
fn a_flood_of_room_names_ends_at_the_rooms_of_a_connection() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    for n in 0..300 {
        node.say(peer, &format!(r#"{{"type":"join_room","room":"r{n}"}}"#));
    }
    let heard = node.heard(peer);
    assert_eq!((heard.count("room_joined"), heard.errors(4013)), (256, 44));
    assert_eq!(node.metrics().rooms.homed, 256);
}

#[test]
fn a_flood_of_published_room_names_ends_at_the_rooms_of_the_node() {
    let mut node = Node::new(2, |config, _| config.rooms_max = 50);
    let peer = node.upgrade(0, "/ws");
    for n in 0..500 {
        node.say(peer, &message(&format!("r{n}"), n));
    }
    assert_eq!(node.outcome(peer), "closed 4100");
    assert!(node.metrics().rooms.homed <= 100);
}

#[test]
fn a_flood_of_published_room_names_ends_at_the_users_rate_of_new_rooms() {
    for user in ["?user_id=ann", ""] {
        let mut node = Node::new(3, |_, limits| limits.user_rooms = rate(1, 20));
        let peer = node.upgrade(0, &format!("/ws{user}"));
        for n in 0..100 {
            node.say(peer, &message(&format!("r{n}"), n));
        }
        let heard = node.heard(peer);
        assert_eq!((heard.count("message_sent"), heard.errors(4004)), (20, 80));
        assert_eq!(node.metrics().rooms.homed, 20, "on all cores together");
        assert_eq!(node.metrics().limits.met.of(Limited::UserRooms), 80);
        node.say(peer, &message("r0", 100));
        assert_eq!(node.heard(peer).count("message_sent"), 21, "it is there");
        node.advance(Duration::from_secs(1));
        node.say(peer, &message("r99", 101));
        assert_eq!(node.heard(peer).count("message_sent"), 22);
        assert_eq!(node.outcome(peer), "open");
    }
}

#[test]
fn a_flood_of_idempotency_keys_keeps_so_many() {
    let mut node = Node::new(1, |config, _| {
        config.room.idempotency_keys_max = 100;
        config.room.history.messages_max = 10;
    });
    let peer = node.upgrade(0, "/ws");
    for n in 0..5_000 {
        let key = format!("{n:064}");
        node.say(
            peer,
            &format!(
                r#"{{"type":"message","room":"r","payload":1,"metadata":{{"message_id":"{key}"}}}}"#
            ),
        );
    }
    assert_eq!(node.heard(peer).count("message_sent"), 5_000);
    // The oldest made room: it is a new message again. The newest is a repeat.
    for (key, offset) in [(0, 5_001), (4_999, 5_000)] {
        let text = format!(
            r#"{{"type":"message","room":"r","payload":1,"metadata":{{"message_id":"{key:064}"}}}}"#
        );
        node.say(peer, &text);
        let heard = node.heard(peer);
        let last = heard.texts.last().unwrap();
        assert!(last.contains(&format!("\"offset\":{offset},")), "{last}");
    }
}

#[test]
fn a_flood_of_typing_passes_once_a_second() {
    let mut node = Node::plain();
    let (peer, other) = (
        node.upgrade(0, "/ws/r?user_id=a"),
        node.upgrade(0, "/ws/r?user_id=b"),
    );
    for _ in 0..1_000 {
        node.say(peer, r#"{"type":"typing_start","room":"r"}"#);
        node.say(peer, r#"{"type":"typing_stop","room":"r"}"#);
    }
    assert_eq!(node.heard(other).count("typing_start"), 1);
    assert_eq!(node.heard(other).count("typing_stop"), 1);
    assert_eq!(node.outcome(peer), "open");
}

#[test]
fn floods_of_what_others_are_told_end_at_the_connections_rate() {
    for (what, text) in [
        (
            "read_receipt",
            r#"{"type":"read_receipt","room":"r","payload":{"offset":1}}"#,
        ),
        ("message", r#"{"type":"message","room":"r","payload":1}"#),
        (
            "direct_message",
            r#"{"type":"direct_message","payload":{"user_id":"b","data":1}}"#,
        ),
    ] {
        let mut node = Node::limited(|limits| limits.connection_messages = rate(10, 20));
        let peer = node.upgrade(0, "/ws/r?user_id=a");
        let other = node.upgrade(0, "/ws/r?user_id=b");
        for _ in 0..1_000 {
            node.say(peer, text);
        }
        let told = node.heard(other).count(&format!("\"type\":\"{what}\""));
        assert_eq!(told, 20, "{what}");
        assert_eq!(node.outcome(peer), "closed 4004", "{what}");
    }
}

#[test]
fn a_client_that_asks_for_history_and_never_reads_is_read_no_more() {
    let mut node = Node::plain();
    let writer = node.upgrade(0, "/ws");
    for n in 0..100 {
        let text = format!(
            r#"{{"type":"message","room":"r","payload":"{}","metadata":{{"message_id":"{n}"}}}}"#,
            "x".repeat(5_000)
        );
        node.say(writer, &text);
    }
    let peer = node.upgrade(0, "/ws");
    node.stall(peer);
    let mut asked = 0;
    while node.wants_read(peer) && asked < 1_000 {
        node.say(peer, r#"{"type":"history_query","room":"r"}"#);
        asked += 1;
    }
    assert!(asked <= 2, "{asked} queries of half a megabyte were taken");
    let waiting = node.shards[0].backlog(peer.index).unwrap().answer_bytes;
    assert!(waiting < 2 << 20, "{waiting} bytes wait");
    node.advance(Duration::from_secs(60));
    assert_eq!(node.heard(peer).end.map(|_| ()), Some(()), "it is gone");
}

#[test]
fn a_reader_that_never_reads_is_evicted_and_the_others_go_on() {
    let mut node = Node::plain();
    let (slow, quick) = (node.upgrade(0, "/ws/r"), node.upgrade(0, "/ws/r"));
    node.stall(slow);
    for n in 0..40 {
        let text = format!(
            r#"{{"type":"message","room":"r","payload":"{n}{}"}}"#,
            "x".repeat(50_000)
        );
        node.say(quick, &text);
    }
    assert_eq!(node.heard(quick).count("\"type\":\"message\""), 40);
    let evicted = node.metrics().connections.evicted;
    assert_eq!(evicted.of(Eviction::LagBytes), 1);
}

#[test]
fn an_address_that_connects_too_often_gets_429_and_a_wait() {
    let mut node = Node::new(2, |_, limits| limits.address_connects = rate(1, 3));
    let peers: Vec<Peer> = (0..4)
        .map(|n| node.accept_from(n % 2, "192.0.2.1"))
        .collect();
    for peer in &peers[..3] {
        node.send(*peer, head("/ws").as_bytes());
        assert_eq!(node.outcome(*peer), "open");
    }
    let heard = node.heard(peers[3]);
    assert_eq!(heard.outcome(), "http 429");
    assert!(
        heard.head.contains("\r\nRetry-After: 1\r\n"),
        "{}",
        heard.head
    );
    let other = node.accept_from(0, "192.0.2.2");
    node.send(other, head("/ws").as_bytes());
    assert_eq!(node.outcome(other), "open");
    let metrics = node.metrics();
    assert_eq!(metrics.connections.rejected.of(Reject::Rate), 1);
    assert_eq!(metrics.limits.met.of(Limited::AddressConnects), 1);
}

#[test]
fn an_address_has_so_many_connections_whether_or_not_they_say_anything() {
    let mut node = Node::new(2, |_, limits| limits.connections_per_address_max = Some(3));
    let silent: Vec<Peer> = (0..3)
        .map(|n| node.accept_from(n % 2, "2001:db8::1"))
        .collect();
    let neighbour = node.accept_from(0, "2001:db8::ffff:1");
    assert_eq!(node.outcome(neighbour), "http 429", "the same /64");
    let other = node.accept_from(0, "2001:db8:0:1::1");
    assert_eq!(node.outcome(other), "waits");
    // The silent ones are given up, and their places are free.
    node.advance(Duration::from_secs(13));
    assert_eq!(node.outcome(silent[0]), "http 408");
    let later = node.accept_from(1, "2001:db8::2");
    assert_eq!(node.outcome(later), "waits");
}

#[test]
fn a_flood_from_one_address_holds_few_places_while_it_is_turned_away() {
    let mut node = Node::limited(|limits| limits.connections_per_address_max = Some(10));
    let peers: Vec<Peer> = (0..5_000)
        .map(|_| node.accept_from(0, "192.0.2.1"))
        .collect();
    assert_eq!(node.metrics().connections.open_total(), 10 + 64);
    let answered = peers.iter().filter(|p| node.outcome(**p) == "http 429");
    assert_eq!(answered.count(), 64, "the others are hung up on");
    assert_eq!(
        node.metrics().limits.met.of(Limited::AddressConnections),
        4_990
    );
    node.advance(Duration::from_secs(3));
    assert_eq!(node.metrics().connections.open_total(), 10);
    let peer = node.accept_from(0, "192.0.2.1");
    assert_eq!(
        node.outcome(peer),
        "http 429",
        "there is time for an answer again"
    );
}

#[test]
fn whoever_is_no_proxy_cannot_lend_itself_another_address() {
    let mut node = Node::limited(|limits| {
        limits.connections_per_address_max = Some(1);
        limits.trusted_proxies = ["10.0.0.0/8".parse().unwrap()].into();
    });
    let says = |from: &str| format!("GET /ws HTTP/1.1\r\nX-Forwarded-For: {from}\r\n").into_bytes();
    let with = |from: &str| [says(from), crate::node::UPGRADE.into()].concat();
    let liar = node.accept_from(0, "203.0.113.9");
    node.send(liar, &with("198.51.100.1"));
    assert_eq!(node.outcome(liar), "open");
    let again = node.accept_from(0, "203.0.113.9");
    assert_eq!(node.outcome(again), "http 429", "it was counted as itself");
    // Behind the proxy each client counts by itself, and the client's own entries count for nothing.
    let table = [
        ("198.51.100.1", "open"),
        ("198.51.100.1", "http 429"),
        ("6.6.6.6, 198.51.100.1", "http 429"),
        ("198.51.100.2, 10.0.0.7", "open"),
        ("unknown", "http 400"),
    ];
    for (from, expected) in table {
        let peer = node.accept_from(0, "10.1.1.1");
        node.send(peer, &with(from));
        assert_eq!(node.outcome(peer), expected, "{from}");
    }
    let health = node.accept_from(0, "10.1.1.1");
    node.send(health, head("/ws").as_bytes());
    assert_eq!(node.outcome(health), "open");
}

#[test]
fn tiny_messages_cost_their_connections_rate_like_any_other() {
    let mut node = Node::limited(|limits| limits.connection_messages = rate(100, 100));
    let peer = node.upgrade(0, "/ws");
    let tiny = frame(OpCode::Data(Data::Text), b"{}").repeat(5_000);
    node.send(peer, &tiny);
    // Not the protocol's: eleven errors are enough.
    assert_eq!(node.outcome(peer), "closed 4006");
    assert_eq!(node.heard(peer).errors(4006), 11);
}
