//! What the backend sees of rooms.

use std::collections::BTreeSet;
use std::time::Duration;

use tidewheel::bus::{ApiAnswer, ApiAsk, Past};
use tidewheel::shard::PLACES_MAX;

use crate::node::Node;
use crate::{Backend, code};

fn past(backend: &mut Backend, room: &str, since: Option<u64>, limit: Option<u32>) -> Past {
    let ask = |room| ApiAsk::History { room, since, limit };
    match backend.ask_home(room, ask) {
        ApiAnswer::History(Some(past)) => past,
        other => panic!("{other:?}"),
    }
}

#[test]
fn history_is_the_newest_or_what_follows_an_offset() {
    let mut backend = Backend::plain();
    for n in ["1", "2", "3", "4"] {
        backend.publish(&[("r", n, None)]);
    }
    let offsets = |past: &Past| -> Vec<u64> {
        let bodies = past.messages.iter().map(|frame| frame.body());
        let message = bodies.map(|body| serde_json::from_slice::<serde_json::Value>(body).unwrap());
        message
            .map(|message| message["offset"].as_u64().unwrap())
            .collect()
    };
    let all = past(&mut backend, "r", None, None);
    assert_eq!(
        (all.offset, all.complete, offsets(&all)),
        (4, true, vec![1, 2, 3, 4])
    );
    let newest = past(&mut backend, "r", None, Some(2));
    assert_eq!(offsets(&newest), [3, 4]);
    let first = past(&mut backend, "r", Some(1), Some(2));
    assert_eq!((first.complete, offsets(&first)), (true, vec![2, 3]));
    let none = past(&mut backend, "r", Some(9), None);
    assert_eq!((none.complete, offsets(&none)), (true, vec![]));
}

#[test]
fn history_that_is_gone_is_said_to_be() {
    let mut backend = Backend::new(Node::new(1, |config, _| {
        config.room.history.messages_max = 2;
    }))
    .with_rules("[[rooms]]\npattern = 'r'\nallow = []\nhistory = 2");
    for n in ["1", "2", "3"] {
        backend.publish(&[("r", n, None)]);
    }
    let all = past(&mut backend, "r", Some(0), None);
    assert_eq!((all.messages.len(), all.complete), (2, false));
}

#[test]
fn a_room_that_is_not_there_is_not_made_by_a_look_at_it() {
    let mut backend = Backend::plain();
    let ask = |room| ApiAsk::History {
        room,
        since: None,
        limit: None,
    };
    assert!(matches!(
        backend.ask_home("r", ask),
        ApiAnswer::History(None)
    ));
    assert!(matches!(
        backend.ask_home("r", ApiAsk::Members),
        ApiAnswer::Members(None)
    ));
    assert!(matches!(
        backend.ask_home("r", ApiAsk::Room),
        ApiAnswer::Room(None)
    ));
    assert_eq!(backend.node.metrics().rooms.homed, 0);
    let room = backend.room("r");
    let elsewhere = (backend.home_of(&room) + 1) % 3;
    assert_eq!(code(backend.ask(elsewhere, ApiAsk::Room(room))), 4000);
}

#[test]
fn members_are_users_with_their_connections() {
    let mut backend = Backend::plain();
    backend.join(0, "ann", "r");
    let reader = backend.join(1, "ann", "r");
    backend.join(2, "bob", "r");
    backend.node.say(
        reader,
        r#"{"type":"read_receipt","room":"r","payload":{"offset":7}}"#,
    );
    let ApiAnswer::Members(Some(crowd)) = backend.ask_home("r", ApiAsk::Members) else {
        panic!("nobody");
    };
    let listed = crowd.members.iter();
    let listed: BTreeSet<_> = listed
        .map(|m| (m.user.to_string(), m.connections, m.read))
        .collect();
    let expected = [("ann".to_owned(), 2, 7), ("bob".to_owned(), 1, 0)];
    assert_eq!((crowd.count, listed), (2, expected.into()));
    let ApiAnswer::Room(Some(facts)) = backend.ask_home("r", ApiAsk::Room) else {
        panic!("no room");
    };
    assert_eq!((facts.members, facts.connections, facts.offset), (2, 3, 0));
    assert_eq!(facts.room.name(), "r");
}

/// Asks a core for its rooms until there are no more; how many questions that took.
fn all_rooms(backend: &mut Backend, core: usize, limit: u32) -> (Vec<String>, usize) {
    let (mut names, mut from, mut asked) = (Vec::new(), 0, 0);
    loop {
        asked += 1;
        match backend.ask(core, ApiAsk::Rooms { from, limit }) {
            ApiAnswer::Rooms { rooms, next } => {
                assert!(rooms.len() <= limit as usize);
                names.extend(rooms.iter().map(|facts| facts.room.name().to_owned()));
                match next {
                    Some(next) if next > from => from = next,
                    Some(next) => panic!("from {from} on to {next}"),
                    None => return (names, asked),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rooms_are_listed_once_each_page_by_page() {
    let mut backend = Backend::plain();
    assert_eq!(all_rooms(&mut backend, 0, 10), (vec![], 1));
    let made: BTreeSet<String> = (0..50).map(|n| format!("r{n}")).collect();
    for room in &made {
        backend.publish(&[(room, "1", None)]);
    }
    for limit in [1, 7, 1_000] {
        let mut names = Vec::new();
        for core in 0..3 {
            names.extend(all_rooms(&mut backend, core, limit).0);
        }
        assert_eq!(names.len(), made.len());
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), made);
    }
}

#[test]
fn a_query_looks_at_so_many_places_whatever_is_in_them() {
    let mut backend = Backend::new(Node::new(1, |config, _| {
        config.room.idle_ttl = Duration::from_secs(60);
    }));
    let names: Vec<String> = (0..3 * PLACES_MAX).map(|n| format!("r{n}")).collect();
    for names in names.chunks(1_000) {
        let posts: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), "1", None))
            .collect();
        backend.publish(&posts);
    }
    // Those with a member outlive the others: far behind in a table that is nearly empty.
    let last = names.last().unwrap();
    backend.join(0, "ann", last);
    backend.node.advance(Duration::from_secs(61));
    let (found, asked) = all_rooms(&mut backend, 0, 1_000);
    assert_eq!(found.as_slice(), std::slice::from_ref(last));
    assert!((3..10).contains(&asked), "{asked} questions");
}
