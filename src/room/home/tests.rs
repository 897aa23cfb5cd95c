//! A room at home by hand: who is in, what it accepts, what it keeps.

#![allow(clippy::type_complexity, reason = "tables of cases")]

use super::*;
use crate::gate::HistoryLimits;
use crate::protocol::ClientId;

const EPOCH: Epoch = Epoch(5);

const LIMITS: RoomLimits = RoomLimits {
    history: HistoryLimits {
        messages_max: 3,
        bytes_max: 1 << 20,
        ttl: Some(Duration::from_secs(60)),
    },
    idle_ttl: Duration::from_secs(600),
    idempotency_window: Duration::from_secs(120),
    idempotency_keys_max: 100,
};

fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(1, 2, 3, 4)
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn room() -> HomeRoom {
    HomeRoom::new(EPOCH, at(0), &hasher())
}

fn user(name: &str) -> UserId {
    UserId::from_name(name)
}

/// The connection `index` of core `core`.
fn connection(core: u16, index: u32) -> ConnectionRef {
    ConnectionRef {
        index,
        generation: 0,
        core: CoreId(core),
    }
}

/// Joins without asking for anything.
fn join(room: &mut HomeRoom, connection: ConnectionRef, name: &str) -> Joined {
    room.join(connection, &user(name), None, 0, None)
}

/// Publishes at a second; answers the offset, and whether it was accepted now.
fn publish(room: &mut HomeRoom, name: &str, id: Option<&str>, seconds: u64) -> (u64, bool) {
    let user = user(name);
    let sender = Sender {
        client_id: ClientId(1),
        user_id: &user,
    };
    let now = Now {
        mono: at(seconds),
        unix_ms: 1_800_000_000_000,
    };
    let (mut spares, mut scratch) = (SpareFrames::default(), Vec::new());
    let tools = (&hasher(), &mut spares, &mut scratch);
    match room.publish("r", Some(sender), (b"1", id), now, &LIMITS, tools) {
        Published::Accepted { offset, .. } => (offset, true),
        Published::Repeat { offset } => (offset, false),
    }
}

/// The offsets in some frames.
fn offsets<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<u64> {
    let offset = |frame: &Frame| {
        let message: serde_json::Value = serde_json::from_slice(frame.body()).unwrap();
        message["offset"].as_u64().unwrap()
    };
    frames.into_iter().map(offset).collect()
}

/// Core, connections and those that want presence, of each core with members.
fn shares(room: &HomeRoom) -> Vec<(u16, u32, u32)> {
    let mut shares: Vec<_> = room
        .shares()
        .iter()
        .map(|s| (s.core.0, s.connections, s.presence))
        .collect();
    shares.sort_unstable();
    shares
}

#[test]
fn a_user_is_counted_once_however_many_connections_it_has() {
    let mut room = room();
    let first = join(&mut room, connection(0, 1), "ann");
    assert!(first.user_is_new && !first.again);
    let second = join(&mut room, connection(1, 1), "ann");
    assert!(!second.user_is_new && !second.again);
    let third = join(&mut room, connection(0, 2), "bob");
    assert_eq!((third.user_is_new, third.members), (true, 2));
    assert_eq!((room.user_count(), room.connection_count()), (2, 3));
    assert_eq!(
        room.connections_of(&user("ann"))[..],
        [connection(0, 1), connection(1, 1)]
    );
    assert!(room.connections_of(&user("eve")).is_empty());
    assert_eq!(shares(&room), [(0, 2, 0), (1, 1, 0)]);
}

#[test]
fn a_second_join_changes_presence_and_nothing_else() {
    let mut room = room();
    publish(&mut room, "bob", None, 0);
    let ann = user("ann");
    // (what is said of presence, whether it is wanted then, those that want it on the core)
    let cases = [
        (None, false, 0),
        (Some(true), true, 1),
        (None, true, 1),
        (Some(true), true, 1),
        (Some(false), false, 0),
        (Some(false), false, 0),
    ];
    for (n, (said, wanted, presence)) in cases.into_iter().enumerate() {
        let joined = room.join(connection(0, 1), &ann, said, 10, None);
        assert_eq!((joined.presence, joined.again), (wanted, n > 0), "join {n}");
        assert_eq!(joined.replay.is_empty(), n > 0, "only the first replays");
        assert_eq!(shares(&room), [(0, 1, presence)], "join {n}");
    }
    assert_eq!(room.connection_count(), 1);
}

#[test]
fn the_last_connection_of_a_user_takes_the_user_along() {
    let mut room = room();
    for (connection, presence) in [(connection(0, 1), true), (connection(1, 1), false)] {
        room.join(connection, &user("ann"), Some(presence), 0, None);
    }
    let gone = |user_is_gone| {
        Some(Departure {
            user_is_gone,
            was_typing: false,
        })
    };
    // (who leaves, what comes of it, the shares then)
    let cases: [(_, _, _, &[(u16, u32, u32)]); 5] = [
        ("bob", connection(0, 1), None, &[(0, 1, 1), (1, 1, 0)]),
        ("ann", connection(0, 2), None, &[(0, 1, 1), (1, 1, 0)]),
        ("ann", connection(0, 1), gone(false), &[(1, 1, 0)]),
        ("ann", connection(1, 1), gone(true), &[]),
        ("ann", connection(1, 1), None, &[]),
    ];
    for (name, connection, expected, left) in cases {
        let departure = room.leave(connection, &user(name), at(1));
        assert_eq!(departure, expected, "{name} {connection:?}");
        assert_eq!(shares(&room), left, "{name} {connection:?}");
    }
    assert_eq!((room.user_count(), room.connection_count()), (0, 0));
}

#[test]
fn recovery_is_all_or_nothing() {
    let (ours, other) = (Some(EPOCH), Some(Epoch(6)));
    // (messages published, the position given, the newest asked for, recovered, what is replayed)
    let cases: [(u64, _, u32, bool, &[u64]); 11] = [
        (0, None, 10, false, &[]),
        (0, Some((ours, 0)), 0, true, &[]),
        (2, None, 0, false, &[]),
        (2, None, 1, false, &[2]),
        (2, Some((ours, 0)), 1, true, &[1, 2]),
        (2, Some((ours, 2)), 9, true, &[]),
        (2, Some((ours, 3)), 9, false, &[1, 2]),
        (2, Some((other, 1)), 1, false, &[2]),
        (2, Some((None, 1)), 0, false, &[]),
        (5, Some((ours, 2)), 0, true, &[3, 4, 5]),
        (5, Some((ours, 1)), 2, false, &[4, 5]),
    ];
    for (messages, position, history, recovered, replayed) in cases {
        let mut room = room();
        for offset in 1..=messages {
            assert_eq!(publish(&mut room, "bob", None, 0), (offset, true));
        }
        let recover = position.map(|(epoch, offset)| Recover { epoch, offset });
        let joined = room.join(connection(0, 1), &user("ann"), None, history, recover);
        let case = format!("{position:?} of {messages}");
        assert_eq!(joined.recovered, recovered, "{case}");
        assert_eq!(offsets(&joined.replay), replayed, "{case}");
    }
}

#[test]
fn a_query_says_what_is_kept_and_whether_that_is_all() {
    let mut room = room();
    for _ in 0..5 {
        publish(&mut room, "bob", None, 0);
    }
    // (since, limit, offsets, complete); 3, 4 and 5 are kept.
    let cases: [(_, _, &[u64], bool); 7] = [
        (None, None, &[3, 4, 5], true),
        (None, Some(2), &[4, 5], true),
        (Some(0), None, &[3, 4, 5], false),
        (Some(2), None, &[3, 4, 5], true),
        (Some(2), Some(1), &[3], true),
        (Some(5), None, &[], true),
        (Some(u64::MAX), Some(0), &[], true),
    ];
    for (since, limit, expected, complete) in cases {
        let (frames, whole) = room.query(since, limit);
        let case = format!("since {since:?}, at most {limit:?}");
        assert_eq!(
            (offsets(frames), whole),
            (expected.to_vec(), complete),
            "{case}"
        );
    }
}

#[test]
fn a_repeated_message_id_is_accepted_once_for_each_user_within_the_window() {
    let mut room = room();
    join(&mut room, connection(0, 1), "ann");
    // (second, user, id, offset, accepted now)
    let cases = [
        (0, "ann", Some("m1"), 1, true),
        (1, "ann", Some("m1"), 1, false),
        (1, "bob", Some("m1"), 2, true),
        (2, "ann", Some("m2"), 3, true),
        (2, "ann", None, 4, true),
        (2, "ann", None, 5, true),
        (119, "ann", Some("m1"), 1, false),
        (120, "ann", Some("m1"), 6, true),
        (121, "ann", Some("m2"), 3, false),
        (121, "ann", Some("m1"), 6, false),
    ];
    for (second, name, id, offset, accepted) in cases {
        room.upkeep(at(second), &LIMITS);
        let published = publish(&mut room, name, id, second);
        assert_eq!(published, (offset, accepted), "{name} {id:?} at {second} s");
    }
    assert_eq!(room.offset(), 6);
}

#[test]
fn a_start_of_typing_passes_once_a_second_and_a_stop_after_it() {
    let mut room = room();
    join(&mut room, connection(0, 1), "ann");
    // (millisecond, user, start, passes)
    let cases = [
        (0, "eve", true, false),
        (0, "ann", false, false),
        (0, "ann", true, true),
        (999, "ann", true, false),
        (999, "ann", false, true),
        (999, "ann", false, false),
        (999, "ann", true, false),
        (999, "ann", false, false),
        (1000, "ann", true, true),
    ];
    for (ms, name, start, passes) in cases {
        let now = Instant::from_nanos(ms * 1_000_000);
        assert_eq!(
            room.typing(&user(name), start, now),
            passes,
            "{name} at {ms} ms"
        );
    }
}

#[test]
fn a_user_that_leaves_while_typing_is_said_to_have_typed() {
    let mut room = room();
    let ann = user("ann");
    for (typed, stopped) in [(false, false), (true, false), (true, true)] {
        join(&mut room, connection(0, 1), "ann");
        if typed {
            assert!(room.typing(&ann, true, at(0)), "a new visit starts anew");
        }
        if stopped {
            assert!(room.typing(&ann, false, at(0)));
        }
        let departure = room.leave(connection(0, 1), &ann, at(0)).unwrap();
        assert_eq!(departure.was_typing, typed && !stopped);
    }
}

#[test]
fn the_highest_offset_read_stays_with_the_user() {
    let mut room = room();
    let ann = user("ann");
    assert!(!room.read(&ann, 9), "not in the room");
    join(&mut room, connection(0, 1), "ann");
    join(&mut room, connection(0, 2), "ann");
    for (read, highest) in [(0, None), (4, Some(4)), (2, Some(4)), (7, Some(7))] {
        assert!(room.read(&ann, read));
        let [member] = room.members()[..] else {
            panic!("one user")
        };
        assert_eq!(member.read, highest.map(Offset), "after {read}");
        assert_eq!((member.user_id, member.connections), (&ann, 2));
    }
    for index in [1, 2] {
        room.leave(connection(0, index), &ann, at(1));
    }
    join(&mut room, connection(0, 3), "ann");
    assert_eq!(room.members()[0].read, Some(Offset(7)), "it came back");
}

#[test]
fn an_answer_lists_a_thousand_members_and_counts_all() {
    let mut room = room();
    for index in 0..1_200 {
        join(&mut room, connection(0, index), &format!("u{index}"));
    }
    assert_eq!((room.members().len(), room.user_count()), (1_000, 1_200));
}

#[test]
fn upkeep_names_the_next_end_and_forgets_a_room_that_nobody_is_in() {
    let mut room = room();
    let then = |seconds| Upkeep::At(at(seconds));
    assert_eq!(room.upkeep(at(0), &LIMITS), then(600), "nobody came yet");
    join(&mut room, connection(0, 1), "ann");
    assert_eq!(room.upkeep(at(10), &LIMITS), Upkeep::Nothing);
    publish(&mut room, "ann", Some("m1"), 20);
    assert_eq!(room.upkeep(at(20), &LIMITS), then(80), "history");
    assert_eq!(room.upkeep(at(80), &LIMITS), then(140), "idempotency");
    assert_eq!((room.history_bytes(), room.offset()), (0, 1));
    assert_eq!(room.upkeep(at(140), &LIMITS), Upkeep::Nothing);
    room.leave(connection(0, 1), &user("ann"), at(200));
    assert_eq!(room.upkeep(at(200), &LIMITS), then(800), "idle");
    publish(&mut room, "bob", None, 300);
    assert_eq!(
        room.upkeep(at(800), &LIMITS),
        then(900),
        "a publish is life"
    );
    assert_eq!(room.upkeep(at(900), &LIMITS), Upkeep::Forget);
}
