//! A feed by hand: members, passes, pins, exclusions.

#![allow(clippy::type_complexity, reason = "tables of cases")]

use super::*;

/// Longer than half a segment of the log: no two of them share one.
const LONG: usize = 40 * 1024;

/// A feed with members 0, 1, … of connections 10, 11, …, and the core's spares.
fn feed_of(members: u32) -> (Feed, Spares) {
    let mut feed = Feed::default();
    for index in 0..members {
        assert_eq!(feed.add(10 + index, false), index);
    }
    (feed, Spares::default())
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// Appends a message, accepted at second `offset`.
fn message(feed: &mut Feed, frame: &[u8], offset: u64, except: &[u32], spares: &mut Spares) {
    let offered = feed.append(frame, (offset, Note::Message), at(offset), except, spares);
    assert_eq!(offered, (feed.members.len() - except.len()) as u64);
}

/// A pass in which every member up to `until` takes everything, as the flush does it.
fn pass(feed: &mut Feed, until: usize) {
    let head = feed.log.head();
    let next = feed.begin_pass();
    for member in feed.members.iter_mut().take(until).skip(next) {
        if !member.pinned {
            member.cursor = head;
        }
    }
    feed.pause_pass(until);
}

fn whole_pass(feed: &mut Feed, spares: &mut Spares) -> bool {
    pass(feed, feed.members.len());
    feed.end_pass(at(9), spares)
}

fn owed(feed: &Feed, index: u32) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    feed.for_each_owed(index, |bytes, _| frames.push(bytes.to_vec()));
    frames
}

/// What the flush would write to a member, stretch by stretch.
fn stretches(feed: &mut Feed, index: u32, spares: &mut Spares) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((from, to)) = feed.stretch(index, spares) {
        feed.log
            .slices(from, to)
            .for_each(|slice| bytes.extend_from_slice(slice));
        feed.advance(index, to, spares);
    }
    bytes
}

/// Removes a member; answers who moved, and where to.
fn remove(feed: &mut Feed, index: u32, spares: &mut Spares) -> Vec<(u32, u32)> {
    let mut moved = Vec::new();
    feed.remove(index, spares, |connection, place| {
        moved.push((connection, place));
    });
    for &(connection, place) in &moved {
        assert_eq!(feed.members[place as usize].connection, connection);
    }
    moved
}

#[test]
fn nobody_is_offered_what_is_appended_without_members() {
    let (mut feed, mut spares) = feed_of(0);
    message(&mut feed, b"lost", 1, &[], &mut spares);
    assert!(feed.log.is_empty());
    assert_eq!(feed.log.head(), 0);
}

#[test]
fn a_member_gets_what_comes_after_it_and_the_log_is_empty_after_a_pass() {
    let (mut feed, mut spares) = feed_of(1);
    message(&mut feed, b"one", 1, &[], &mut spares);
    let late = feed.add(11, false);
    message(&mut feed, b"two", 2, &[], &mut spares);
    assert_eq!(owed(&feed, 0), [b"one", b"two"]);
    assert_eq!(owed(&feed, late), [b"two"]);
    assert_eq!((feed.lag_bytes(0), feed.lag_bytes(late)), (6, 3));
    assert_eq!(feed.waiting_since(), Some(at(1)));
    assert!(
        !whole_pass(&mut feed, &mut spares),
        "nothing came meanwhile"
    );
    assert!(feed.log.is_empty());
    assert_eq!((feed.waiting_since(), feed.flushed_at), (None, at(9)));
}

#[test]
fn a_pass_that_is_interrupted_keeps_what_the_unvisited_need() {
    let (mut feed, mut spares) = feed_of(4);
    message(&mut feed, b"one", 1, &[], &mut spares);
    pass(&mut feed, 2);
    message(&mut feed, b"two", 2, &[], &mut spares);
    assert_eq!(owed(&feed, 0), [b"two"]);
    assert_eq!(owed(&feed, 2), [b"one", b"two"]);
    assert_eq!(feed.begin_pass(), 2, "it goes on where it was");
    assert!(whole_pass(&mut feed, &mut spares), "the first two wait");
    assert_eq!(owed(&feed, 0), [b"two"]);
    assert!(!whole_pass(&mut feed, &mut spares));
    assert!(feed.log.is_empty());
}

#[test]
fn a_leaver_moves_nobody_from_the_unvisited_to_the_visited() {
    // (members visited, who leaves, who moves where); connections are 10 to 14.
    let cases: [(usize, u32, &[(u32, u32)]); 6] = [
        (0, 1, &[(14, 1)]),
        (0, 4, &[]),
        (3, 0, &[(12, 0), (14, 2)]),
        (3, 2, &[(14, 2)]),
        (3, 3, &[(14, 3)]),
        (5, 1, &[(14, 1)]),
    ];
    for (visited, leaver, expected) in cases {
        let (mut feed, mut spares) = feed_of(5);
        message(&mut feed, b"one", 1, &[], &mut spares);
        pass(&mut feed, visited);
        let moved = remove(&mut feed, leaver, &mut spares);
        assert_eq!(moved, expected, "{leaver} leaves after {visited}");
        let next = feed.begin_pass();
        assert_eq!(next, visited - usize::from((leaver as usize) < visited));
        for (index, member) in feed.members.iter().enumerate() {
            assert_eq!(member.cursor == feed.log.head(), index < next);
        }
        assert!(!whole_pass(&mut feed, &mut spares));
        assert!(feed.log.is_empty(), "{leaver} leaves after {visited}");
    }
}

#[test]
fn the_last_to_leave_takes_the_log_along() {
    let (mut feed, mut spares) = feed_of(2);
    message(&mut feed, b"one", 1, &[1], &mut spares);
    feed.pin(0);
    assert_eq!(remove(&mut feed, 0, &mut spares), [(11, 0)]);
    assert!(!feed.log.is_empty());
    remove(&mut feed, 0, &mut spares);
    assert!(feed.log.is_empty());
    assert_eq!(feed.heap_bytes(), 0);
    assert_eq!(remove(&mut feed, 0, &mut spares), [], "nobody is there");
}

#[test]
fn a_pin_keeps_a_laggards_bytes_and_moves_with_its_cursor() {
    let (mut feed, mut spares) = feed_of(2);
    feed.pin(0);
    assert!(!feed.members[0].pinned, "who has everything needs no pin");
    for offset in 1..=3 {
        message(&mut feed, &[offset as u8; LONG], offset, &[], &mut spares);
    }
    feed.pin(0);
    feed.pin(0);
    assert!(!whole_pass(&mut feed, &mut spares));
    assert_eq!(feed.lag_bytes(0), 3 * LONG as u64);
    assert_eq!(feed.oldest_pending(0), Some(at(1)));
    feed.advance(0, LONG as u64 + 1, &mut spares);
    assert_eq!(feed.log.tail(), LONG as u64, "the first message went");
    assert_eq!(feed.oldest_pending(0), Some(at(2)));
    feed.advance(0, feed.log.head(), &mut spares);
    assert!(feed.log.is_empty());
    assert!(!feed.members[0].pinned);
}

#[test]
fn a_laggard_that_leaves_takes_its_pin_along() {
    let (mut feed, mut spares) = feed_of(2);
    message(&mut feed, b"one", 1, &[], &mut spares);
    feed.pin(0);
    assert!(!whole_pass(&mut feed, &mut spares));
    assert!(!feed.log.is_empty());
    remove(&mut feed, 0, &mut spares);
    assert!(feed.log.is_empty());
}

#[test]
fn a_frame_that_is_not_for_a_member_is_left_out_for_it_alone() {
    // Which of the messages a, b, c, d are not for member 0, and what it gets.
    let cases: [(&str, &[u8]); 6] = [
        ("", b"aabbccdd"),
        ("a", b"bbccdd"),
        ("d", b"aabbcc"),
        ("bc", b"aadd"),
        ("ac", b"bbdd"),
        ("abcd", b""),
    ];
    for (excluded, expected) in cases {
        let (mut feed, mut spares) = feed_of(2);
        for (offset, name) in (1..).zip("abcd".chars()) {
            let frame = [name as u8; 2];
            let except = excluded.contains(name).then_some(0);
            message(&mut feed, &frame, offset, except.as_slice(), &mut spares);
        }
        assert_eq!(owed(&feed, 0).concat(), expected, "without {excluded}");
        assert_eq!(owed(&feed, 1).concat(), b"aabbccdd");
        let head = feed.log.head();
        let counted = feed.remainder(0, head).frames.messages;
        assert_eq!(counted, expected.len() as u64 / 2);
        assert_eq!(stretches(&mut feed, 0, &mut spares), expected);
        assert!(!feed.members[0].excluded, "nothing is left to leave out");
        assert_eq!(stretches(&mut feed, 1, &mut spares), b"aabbccdd");
        assert!(!whole_pass(&mut feed, &mut spares));
        assert_eq!(feed.exclusions.capacity(), 0, "they went with the log");
    }
}

#[test]
fn a_remainder_counts_frames_offsets_and_presence_up_to_a_position() {
    let (mut feed, mut spares) = feed_of(2);
    let notes = [
        (7, Note::Message),
        (0, Note::Joined),
        (0, Note::Passing),
        (8, Note::Message),
        (0, Note::Left),
        (0, Note::Summary { joined: 3, left: 4 }),
        (9, Note::Message),
    ];
    for what in notes {
        feed.append(b"ab", what, at(1), &[], &mut spares);
    }
    // (cursor, up to, messages, signals, offsets, presence)
    let cases = [
        (0, 14, 3, 4, Some((7, 9)), (4, 5)),
        (0, 0, 0, 0, None, (0, 0)),
        (0, 3, 1, 0, Some((7, 7)), (0, 0)),
        (1, 4, 1, 1, Some((7, 7)), (1, 0)),
        (2, 6, 0, 2, None, (1, 0)),
        (8, 14, 1, 2, Some((9, 9)), (3, 5)),
        (14, 14, 0, 0, None, (0, 0)),
    ];
    for (cursor, to, messages, signals, offsets, presence) in cases {
        feed.members[0].cursor = cursor;
        let expected = Remainder {
            frames: Tally { messages, signals },
            offsets,
            presence,
        };
        assert_eq!(feed.remainder(0, to), expected, "from {cursor} to {to}");
    }
    assert_eq!(
        feed.remainder(2, 14),
        Remainder::default(),
        "no such member"
    );
}

#[test]
fn a_cursor_within_a_frame_knows_what_is_left_of_it() {
    let (mut feed, mut spares) = feed_of(1);
    message(&mut feed, b"abc", 1, &[], &mut spares);
    feed.append(b"de", (0, Note::Passing), at(2), &[], &mut spares);
    // (cursor, the frame's note and end, the bytes that are left of it)
    let cases: [(u64, Option<(Note, u64)>, &[u8]); 6] = [
        (0, None, b""),
        (1, Some((Note::Message, 3)), b"bc"),
        (2, Some((Note::Message, 3)), b"c"),
        (3, None, b""),
        (4, Some((Note::Passing, 5)), b"e"),
        (5, None, b""),
    ];
    for (cursor, entry, rest) in cases {
        feed.members[0].cursor = cursor;
        assert_eq!(feed.entry_under_way(0), entry, "at {cursor}");
        assert_eq!(feed.rest_under_way(0), rest, "at {cursor}");
    }
}

#[test]
fn members_that_left_give_their_memory_back() {
    let (mut feed, mut spares) = feed_of(1000);
    for index in (1..1000).rev() {
        remove(&mut feed, index, &mut spares);
    }
    assert!(feed.heap_bytes() <= 8 * size_of::<Member>());
}
