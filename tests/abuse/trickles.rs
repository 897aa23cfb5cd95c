//! Peers that are slow on purpose: in the head, in a frame, in the close, and in taking what is theirs.

use std::time::Duration;

use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::metrics::Reject;

use crate::node::{Node, frame, head};

#[test]
fn a_head_that_trickles_is_answered_with_408_in_its_time() {
    let mut node = Node::plain();
    let peer = node.accept(0);
    let request = head("/ws");
    let mut seconds = 0;
    for octet in request.bytes() {
        if node.outcome(peer) != "waits" {
            break;
        }
        node.send(peer, &[octet]);
        node.advance(Duration::from_secs(1));
        seconds += 1;
    }
    assert_eq!((node.outcome(peer), seconds), ("http 408".into(), 10));
    node.advance(Duration::from_secs(3));
    assert!(node.heard(peer).end.is_some(), "it does not linger");
    assert_eq!(node.metrics().connections.rejected.of(Reject::Timeout), 1);
}

#[test]
fn a_peer_that_says_nothing_is_given_up_in_the_same_time() {
    let mut node = Node::plain();
    let peer = node.accept(0);
    node.advance(Duration::from_millis(9_900));
    assert_eq!(node.outcome(peer), "waits");
    node.advance(Duration::from_millis(200));
    assert_eq!(node.outcome(peer), "http 408");
}

#[test]
fn five_thousand_heads_that_trickle_hold_nobody_up_and_go() {
    let mut node = Node::plain();
    let slow: Vec<_> = (0..5_000).map(|_| node.accept(0)).collect();
    for peer in &slow {
        node.send_unsettled(*peer, b"GET /ws HT");
    }
    let honest = node.upgrade(0, "/ws");
    assert_eq!(node.outcome(honest), "open");
    node.advance(Duration::from_secs(13));
    assert_eq!(node.metrics().connections.open_total(), 1);
}

/// Each octet is a sign of life, so it may take as long as it likes; what it holds is bounded.
#[test]
fn a_frame_that_trickles_holds_no_more_than_a_message() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    let text = format!(r#"{{"type":"ping","payload":"{}"}}"#, "x".repeat(100));
    for octet in frame(OpCode::Data(Data::Text), text.as_bytes()) {
        node.send(peer, &[octet]);
        node.advance(Duration::from_secs(1));
    }
    let heard = node.heard(peer);
    assert_eq!((heard.outcome(), heard.count("pong")), ("open".into(), 1));
}

#[test]
fn a_frame_that_stops_is_closed_with_4103_by_the_heartbeat() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    node.send(peer, &frame(OpCode::Data(Data::Text), b"{}")[..3]);
    node.advance(Duration::from_secs(63));
    assert_eq!(node.outcome(peer), "closed 4103");
}

#[test]
fn a_peer_that_never_answers_pings_is_closed_with_4103() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    node.advance(Duration::from_secs(63));
    let heard = node.heard(peer);
    assert_eq!(heard.outcome(), "closed 4103");
    assert!(heard.end.is_some());
}

#[test]
fn a_close_that_nobody_answers_is_cut() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    node.send(peer, &frame(OpCode::Data(Data::Binary), b"x"));
    assert_eq!(node.heard(peer).end, None, "it may still answer");
    node.advance(Duration::from_millis(2_100));
    assert_eq!(node.outcome(peer), "closed 1003");
    assert!(node.heard(peer).end.is_some());
}

#[test]
fn a_close_that_nobody_takes_ends_in_a_reset() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    node.stall(peer);
    node.send(peer, &frame(OpCode::Data(Data::Binary), b"x"));
    node.advance(Duration::from_millis(2_100));
    assert_eq!(node.outcome(peer), "reset");
}

#[test]
fn what_comes_after_the_close_is_thrown_away_and_prolongs_nothing() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    node.send(peer, &frame(OpCode::Data(Data::Binary), b"x"));
    for _ in 0..21 {
        let more = frame(OpCode::Control(Control::Ping), b"still here");
        if node.heard(peer).end.is_none() {
            node.send(peer, &more.repeat(100));
        }
        node.advance(Duration::from_millis(100));
    }
    let heard = node.heard(peer);
    assert!(heard.end.is_some() && heard.pongs == 0);
}

/// Replies are no lag: the connection is read no more until it takes them, and its silence is judged
/// by the heartbeat.
#[test]
fn a_peer_that_asks_and_never_takes_the_answers_is_read_no_more() {
    let mut node = Node::plain();
    let peer = node.upgrade(0, "/ws");
    node.stall(peer);
    let text = format!(r#"{{"type":"ping","payload":"{}"}}"#, "x".repeat(50_000));
    let mut asked = 0;
    while node.wants_read(peer) && asked < 1_000 {
        node.say(peer, &text);
        asked += 1;
    }
    assert!(asked < 10, "{asked} × 50 kB were taken");
    node.advance(Duration::from_secs(70));
    assert!(node.heard(peer).end.is_some());
    assert_eq!(node.metrics().connections.open_total(), 0);
}
