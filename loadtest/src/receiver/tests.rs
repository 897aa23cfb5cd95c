//! A client fed by hand.

use super::*;
use crate::settings::JoinBy;
use crate::view::RoomView;

fn view() -> View {
    let rooms = vec![RoomView::new("load", 0, 64)];
    let dialect = Dialect::Rooms(JoinBy::Message);
    View::new(rooms, dialect, 22, [].into()).unwrap()
}

fn receiver() -> Receiver {
    let mut receiver = Receiver::new(0, Role::Member, Subs::new(vec![0]));
    receiver.stage = Stage::Upgrading;
    receiver
}

fn settle(receiver: &Receiver, last: u64, view: &mut View) {
    receiver.settle(|_| last, view);
}

fn text(json: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    frame::write_unmasked(frame::TEXT, json.as_bytes(), &mut wire);
    wire
}

fn head() -> Vec<u8> {
    format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n").into()
}

fn joined_at(offset: u64) -> Vec<u8> {
    text(&format!(
        r#"{{"type":"room_joined","room":"load","payload":{{"offset":{offset}}}}}"#
    ))
}

fn message(offset: u64) -> Vec<u8> {
    text(&format!(
        r#"{{"type":"message","room":"load","offset":{offset},"payload":"00000000000000001000"}}"#
    ))
}

fn joined_receiver(view: &mut View) -> Receiver {
    let mut receiver = receiver();
    assert_eq!(
        receiver.handle_bytes(&[head(), joined_at(4)].concat(), 0, view),
        0
    );
    assert_eq!(receiver.stage, Stage::Joined);
    receiver
}

fn feed(receiver: &mut Receiver, view: &mut View, offsets: &[u64]) {
    for offset in offsets {
        receiver.handle_bytes(&message(*offset), 5_000, view);
    }
}

#[test]
fn messages_in_order_pass_the_audit_and_are_timed() {
    let mut view = view();
    let mut receiver = joined_receiver(&mut view);
    view.measure_from_ns = 0;
    feed(&mut receiver, &mut view, &[5, 6, 7]);
    settle(&receiver, 7, &mut view);
    assert!(receiver.is_settled(|_| 7) && view.audit.failures(false).is_empty());
    assert_eq!(
        (
            view.audit.delivered,
            view.latency_us.len(),
            view.latency_us.max()
        ),
        (3, 3, 4)
    );
}

#[test]
fn bytes_may_be_cut_anywhere() {
    let wire = [head(), joined_at(0), message(1), message(2)].concat();
    for cut in 0..wire.len() {
        let mut view = view();
        let mut receiver = receiver();
        let left = receiver.handle_bytes(&wire[..cut], 0, &mut view);
        assert_eq!(receiver.handle_bytes(&wire[cut - left..], 0, &mut view), 0);
        settle(&receiver, 2, &mut view);
        assert!(
            view.audit.failures(false).is_empty(),
            "cut at {cut}: {:?}",
            view.audit
        );
    }
}

#[test]
fn a_gap_a_repeat_and_a_missing_end_fail_the_audit() {
    let cases: [&[u64]; 4] = [&[5, 7, 8], &[5, 6, 6, 7, 8], &[5, 6, 7, 8, 5], &[5, 6, 7]];
    for offsets in cases {
        let mut view = view();
        let mut receiver = joined_receiver(&mut view);
        feed(&mut receiver, &mut view, offsets);
        settle(&receiver, 8, &mut view);
        assert_eq!(
            view.audit.failures(false).len(),
            1,
            "{offsets:?}: {:?}",
            view.audit
        );
    }
}

#[test]
fn messages_missed_explains_a_gap_only_where_it_follows_on() {
    for (from, passes) in [(5, true), (4, false), (6, false)] {
        let mut view = view();
        let mut receiver = joined_receiver(&mut view);
        let missed = format!(
            r#"{{"type":"messages_missed","room":"load","payload":{{"from":{from},"to":8}}}}"#
        );
        receiver.handle_bytes(&text(&missed), 0, &mut view);
        feed(&mut receiver, &mut view, &[9]);
        settle(&receiver, 9, &mut view);
        assert_eq!(
            view.audit.failures(false).is_empty(),
            passes,
            "{:?}",
            view.audit
        );
    }
}

#[test]
fn a_close_code_explains_what_was_not_delivered_and_a_reset_does_not() {
    let mut close = Vec::new();
    frame::write_unmasked(frame::CLOSE, &4101u16.to_be_bytes(), &mut close);
    let mut closed = view();
    let mut receiver = joined_receiver(&mut closed);
    receiver.handle_bytes(&close, 0, &mut closed);
    settle(&receiver, 9, &mut closed);
    assert!(closed.audit.failures(false).is_empty());
    assert_eq!(
        (closed.audit.closes[&4101], closed.audit.undelivered_closed),
        (1, 5)
    );

    let mut reset = view();
    let mut receiver = joined_receiver(&mut reset);
    receiver.handle_reset(&mut reset);
    settle(&receiver, 9, &mut reset);
    assert_eq!(reset.audit.failures(false).len(), 1);
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let mut view = view();
    let mut receiver = joined_receiver(&mut view);
    view.out.clear();
    let mut ping = Vec::new();
    frame::write_unmasked(frame::PING, b"abc", &mut ping);
    receiver.handle_bytes(&ping, 0, &mut view);
    let (header, _, _) = frame::split(&view.out).unwrap();
    assert_eq!((header.first, header.payload_bytes), (frame::PONG, 3));
}

#[test]
fn a_refused_join_ends_the_receiver_with_its_code() {
    let mut view = view();
    let mut receiver = receiver();
    let full = text(r#"{"type":"error","room":"load","payload":{"code":4008,"message":"full"}}"#);
    receiver.handle_bytes(&[head(), full].concat(), 0, &mut view);
    assert!(receiver.is_ended() && view.audit.errors[&4008] == 1);
}

#[test]
fn a_refused_upgrade_ends_the_receiver_with_a_fault() {
    let mut view = view();
    let mut receiver = receiver();
    receiver.handle_bytes(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 0, &mut view);
    assert!(receiver.is_ended() && view.audit.faults == 1);
}

/// A reply to a join of one who was away, who has all up to 6 and is told of `newest`.
fn rejoined(newest: u64, recovered: bool) -> Vec<u8> {
    text(&format!(
        r#"{{"type":"room_joined","room":"load","payload":{{"offset":{newest},"epoch":"e","recovered":{recovered}}}}}"#
    ))
}

/// A client that was in the room up to offset 6, dropped, and is upgraded again.
fn returning_receiver(view: &mut View) -> Receiver {
    let mut receiver = joined_receiver(view);
    feed(&mut receiver, view, &[5, 6]);
    receiver.drop_out(false, view);
    assert_eq!(receiver.stage, Stage::Away);
    receiver.stage = Stage::Upgrading;
    view.out.clear();
    receiver.handle_bytes(&head(), 0, view);
    receiver
}

#[test]
fn one_who_comes_back_asks_for_what_came_after_its_last_message() {
    let mut view = view();
    returning_receiver(&mut view);
    let (header, payload, _) = frame::split(&view.out).unwrap();
    let mut payload = payload.to_vec();
    frame::unmask(&mut payload, header.mask.unwrap());
    let asked = String::from_utf8(payload).unwrap();
    assert!(
        asked.contains(r#""recover":{"epoch":"","offset":6}"#),
        "{asked}"
    );
}

#[test]
fn a_recovery_that_follows_on_passes_and_is_timed_until_it_has_caught_up() {
    let mut view = view();
    let mut receiver = returning_receiver(&mut view);
    receiver.handle_bytes(&rejoined(8, true), 0, &mut view);
    assert_eq!(receiver.stage, Stage::Recovering);
    feed(&mut receiver, &mut view, &[7, 8]);
    assert_eq!(receiver.stage, Stage::Joined);
    feed(&mut receiver, &mut view, &[9]);
    settle(&receiver, 9, &mut view);
    assert!(view.audit.failures(false).is_empty(), "{:?}", view.audit);
    assert_eq!((view.counts.recovered, view.counts.replayed), (1, 2));
    let timed: Vec<_> = view
        .times
        .named()
        .map(|(name, it)| (name, it.len()))
        .collect();
    assert!(timed.contains(&("recovery", 1)), "{timed:?}");
}

#[test]
fn a_recovery_with_a_gap_or_a_repeat_fails() {
    let cases: [&[u64]; 3] = [&[8], &[6, 7, 8], &[7, 7, 8]];
    for offsets in cases {
        let mut view = view();
        let mut receiver = returning_receiver(&mut view);
        receiver.handle_bytes(&rejoined(8, true), 0, &mut view);
        feed(&mut receiver, &mut view, offsets);
        settle(&receiver, 8, &mut view);
        assert_eq!(view.audit.failures(false).len(), 1, "{offsets:?}");
    }
}

#[test]
fn a_recovery_that_never_comes_to_its_end_fails() {
    let mut view = view();
    let mut receiver = returning_receiver(&mut view);
    receiver.handle_bytes(&rejoined(8, true), 0, &mut view);
    feed(&mut receiver, &mut view, &[7]);
    settle(&receiver, 8, &mut view);
    assert!(!view.audit.failures(false).is_empty());
}

#[test]
fn what_the_server_no_longer_keeps_is_counted_and_no_failure() {
    let mut view = view();
    let mut receiver = returning_receiver(&mut view);
    receiver.handle_bytes(&rejoined(300, false), 0, &mut view);
    feed(&mut receiver, &mut view, &[301]);
    settle(&receiver, 301, &mut view);
    assert!(view.audit.failures(false).is_empty());
    let counts = &view.counts;
    assert_eq!((counts.not_recovered, counts.lost_to_history), (1, 294));
}

#[test]
fn a_slow_reader_has_an_audit_of_its_own_and_is_not_timed() {
    let mut view = view();
    let mut receiver = receiver();
    receiver.role = Role::Stalled;
    receiver.handle_bytes(&[head(), joined_at(4)].concat(), 0, &mut view);
    assert_eq!(receiver.stage, Stage::Aside);
    view.measure_from_ns = 0;
    feed(&mut receiver, &mut view, &[5, 7]);
    assert_eq!((view.slow_audit.delivered, view.slow_audit.gaps), (2, 1));
    assert!(view.audit.failures(false).is_empty() && view.latency_us.is_empty());
}

#[test]
fn an_answer_ends_what_is_in_flight_and_brings_the_next_publish() {
    let mut view = view();
    let mut receiver = joined_receiver(&mut view);
    view.out.clear();
    receiver.publish(1_000, &mut view);
    let sent = text(r#"{"type":"message_sent","room":"load","payload":{"offset":5,"epoch":"e"}}"#);
    view.refills = true;
    receiver.handle_bytes(&sent, 2_000, &mut view);
    assert_eq!(
        (
            receiver.in_flight,
            view.counts.answered,
            view.counts.published
        ),
        (1, 1, 2)
    );
    assert_eq!(view.rooms[0].newest, 5);
}

#[test]
fn a_message_that_comes_back_from_an_echo_is_in_order_once() {
    let mut view = view();
    view.dialect = Dialect::Echo;
    let mut receiver = receiver();
    receiver.handle_bytes(&head(), 0, &mut view);
    assert_eq!(receiver.stage, Stage::Joined);
    for _ in 0..2 {
        receiver.publish(1_000, &mut view);
    }
    let mut echoed = Vec::new();
    let mut rest = &view.out[..];
    while let Some((header, payload, after)) = frame::split(rest) {
        let mut payload = payload.to_vec();
        frame::unmask(&mut payload, header.mask.unwrap());
        frame::write_unmasked(frame::TEXT, &payload, &mut echoed);
        rest = after;
    }
    receiver.handle_bytes(&echoed, 3_000, &mut view);
    settle(&receiver, 0, &mut view);
    assert!(view.audit.failures(false).is_empty() && receiver.in_flight == 0);
    receiver.handle_bytes(&echoed, 3_000, &mut view);
    assert!(!view.audit.failures(false).is_empty());
}

#[test]
fn an_echo_is_timed_by_its_own_stamp_whoever_had_that_number_before() {
    let mut view = view();
    view.dialect = Dialect::Echo;
    view.measure_from_ns = 0;
    // Both have a message number 1, sent at 1 ms and at 500 ms, and back a millisecond later.
    for sent_ns in [1_000_000, 500_000_000] {
        let mut receiver = receiver();
        receiver.handle_bytes(&head(), 0, &mut view);
        view.out.clear();
        receiver.publish(sent_ns, &mut view);
        let (header, payload, _) = frame::split(&view.out).unwrap();
        let mut payload = payload.to_vec();
        frame::unmask(&mut payload, header.mask.unwrap());
        let mut echoed = Vec::new();
        frame::write_unmasked(frame::TEXT, &payload, &mut echoed);
        receiver.handle_bytes(&echoed, sent_ns + 1_000_000, &mut view);
    }
    assert_eq!((view.latency_us.len(), view.latency_us.max()), (2, 1_000));
}

#[test]
fn a_recovery_refused_where_nothing_was_missed_is_a_fault() {
    let mut view = view();
    let mut receiver = returning_receiver(&mut view);
    // Of the epoch that it knew, which has no name here.
    let refused =
        r#"{"type":"room_joined","room":"load","payload":{"offset":6,"recovered":false}}"#;
    receiver.handle_bytes(&text(refused), 0, &mut view);
    assert_eq!((view.audit.faults, view.counts.other_epoch), (1, 0));
}
