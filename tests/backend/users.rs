//! What the backend does to all connections of one user.

use std::sync::Arc;

use serde_json::Value;
use tidewheel::address::RoomKey;
use tidewheel::bus::{ApiAnswer, ApiAsk};
use tidewheel::cli::policy::policy;
use tidewheel::cli::sources::options_from_text;
use tidewheel::gate::{Actions, Authentication, FixedTokens, Glob, Grant, Policy, RoomGrant};
use tidewheel::protocol::UserId;

use crate::node::{Node, Peer};
use crate::{Backend, code};

impl Backend {
    fn home_of_user(&self, user: &str) -> usize {
        let hash = self.placement.hash_one(UserId::from_name(user));
        self.placement.home_of(hash).index()
    }

    fn ask_about(&mut self, user: &str, ask: impl FnOnce(UserId) -> ApiAsk) -> ApiAnswer {
        let home = self.home_of_user(user);
        self.ask(home, ask(UserId::from_name(user)))
    }

    fn put(&mut self, user: &str, room: &str) -> u64 {
        let room = self.room(room);
        connections(self.ask_about(user, |user| ApiAsk::Join { user, room }))
    }

    fn take(&mut self, user: &str, room: &str) -> u64 {
        let room = self.room(room);
        connections(self.ask_about(user, |user| ApiAsk::Leave { user, room }))
    }

    /// The types of what a peer has heard, beginning with the `from`th; an error's code.
    fn told(&self, peer: Peer, from: usize) -> String {
        let texts = self.node.heard(peer).texts.into_iter().skip(from);
        let told = texts.map(|text| {
            let event: Value = serde_json::from_str(&text).unwrap();
            assert!(event["metadata"]["correlation_id"].is_null(), "{text}");
            match event["type"].as_str().unwrap() {
                "error" => event["payload"]["code"].to_string(),
                kind => kind.to_owned(),
            }
        });
        told.collect::<Vec<_>>().join(" ")
    }
}

fn connections(answer: ApiAnswer) -> u64 {
    match answer {
        ApiAnswer::Connections(count) => count,
        other => panic!("{other:?}"),
    }
}

fn direct(data: &str) -> impl FnOnce(UserId) -> ApiAsk {
    let data = data.as_bytes().into();
    |user| ApiAsk::Direct { user, data }
}

#[test]
fn a_message_reaches_every_connection_of_a_user_and_has_no_sender() {
    let mut backend = Backend::plain();
    let of_ann: Vec<Peer> = (0..3)
        .map(|core| backend.node.upgrade(core, "/ws?user_id=ann"))
        .collect();
    let bob = backend.node.upgrade(0, "/ws?user_id=bob");
    let answer = backend.ask_about("ann", direct("[1.50]"));
    assert_eq!(connections(answer), 3);
    for peer in of_ann {
        let heard = backend.node.heard(peer);
        let text = heard.texts.last().unwrap();
        assert!(
            text.contains("\"type\":\"direct_message\"") && text.contains("[1.50]"),
            "{text}"
        );
        assert!(
            text.contains("message_id") && !text.contains("user_id"),
            "{text}"
        );
    }
    assert_eq!(backend.node.heard(bob).count("direct_message"), 0);
    assert_eq!(connections(backend.ask_about("cy", direct("1"))), 0);
    let long = "1".repeat(1 << 20);
    assert_eq!(code(backend.ask_about("ann", direct(&long))), 4005);
    let home = backend.home_of_user("ann");
    let user = UserId::from_name("ann");
    assert_eq!(code(backend.ask((home + 1) % 3, direct("1")(user))), 4000);
}

#[test]
fn a_user_is_put_into_a_room_and_taken_out_again() {
    let mut backend = Backend::plain();
    let of_ann: Vec<Peer> = (0..3)
        .map(|core| backend.node.upgrade(core, "/ws?user_id=ann"))
        .collect();
    assert_eq!(backend.put("ann", "r"), 3);
    backend.publish(&[("r", "1", None)]);
    assert_eq!(backend.put("ann", "r"), 3);
    assert_eq!(backend.take("ann", "r"), 3);
    backend.publish(&[("r", "2", None)]);
    assert_eq!(backend.take("ann", "r"), 3);
    for peer in of_ann {
        assert_eq!(
            backend.told(peer, 1),
            "room_joined message room_joined room_left room_left"
        );
    }
    assert_eq!(backend.put("nobody", "r"), 0);
    let ApiAnswer::Room(Some(facts)) = backend.ask_home("r", ApiAsk::Room) else {
        panic!("no room");
    };
    assert_eq!((facts.members, facts.offset), (0, 2));
}

#[test]
fn who_is_put_into_a_room_may_publish_and_leave_as_one_who_asked() {
    let mut backend = Backend::plain()
        .with_rules("[[rooms]]\npattern = 'r'\npublish = 'members'\nallow = ['publish']");
    let ann = backend.node.upgrade(0, "/ws?user_id=ann");
    backend.node.say(ann, r#"{"type":"join_room","room":"r"}"#);
    backend.put("ann", "r");
    backend
        .node
        .say(ann, r#"{"type":"message","room":"r","payload":1}"#);
    backend.node.say(ann, r#"{"type":"leave_room","room":"r"}"#);
    let told = backend.told(ann, 1);
    assert!(told.starts_with("4010 room_joined message"), "{told}");
    assert!(
        told.contains("message_sent") && told.ends_with("room_left"),
        "{told}"
    );
}

#[test]
fn another_token_does_not_put_a_user_out_of_where_the_backend_put_it() {
    let mut backend = Backend::plain();
    let (options, _) = options_from_text(
        "[[rooms]]\npattern = 'managed'\nallow = []\n[[rooms]]\npattern = 'open'",
    )
    .unwrap();
    let grant = |rooms: Option<&str>| Grant {
        user: UserId::from_name("ann"),
        info: None,
        expires_at_unix_ms: None,
        rooms: rooms.map(|pattern| {
            let (pattern, allow) = (Glob::new(pattern).unwrap(), Actions::ALL);
            Box::from([RoomGrant { pattern, allow }])
        }),
    };
    let tokens = [
        ("all", grant(Some("open"))),
        ("none", grant(Some("nothing"))),
    ];
    let tokens = tokens
        .map(|(token, grant)| (token.to_owned(), grant))
        .into();
    let policy = Arc::new(Policy {
        authentication: Authentication::Fixed(Arc::new(FixedTokens(tokens))),
        ..policy(&options).unwrap()
    });
    for shard in &mut backend.node.shards {
        shard.handle_policy(backend.node.now, Arc::clone(&policy));
    }
    let ann = backend.node.upgrade(0, "/ws");
    let show = |token: &str| format!(r#"{{"type":"auth","payload":{{"token":"{token}"}}}}"#);
    backend.node.say(ann, &show("all"));
    backend
        .node
        .say(ann, r#"{"type":"join_room","room":"open"}"#);
    assert_eq!(backend.put("ann", "managed"), 1);
    backend.node.say(ann, &show("none"));
    let told = backend.told(ann, 2);
    assert_eq!(told, "room_joined room_joined auth_response 4010 room_left");
    backend.publish(&[("managed", "1", None)]);
    assert_eq!(backend.node.heard(ann).count("\"type\":\"message\""), 1);
}

#[test]
fn bounds_of_connections_and_rooms_hold_for_those_who_are_put_in_too() {
    let mut backend = Backend::new(Node::new(2, |config, _| {
        config.rooms_per_connection_max = 1;
    }))
    .with_rules("[[rooms]]\npattern = 'small'\nmax-members = 1");
    let ann = backend.node.upgrade(0, "/ws?user_id=ann");
    let bob = backend.node.upgrade(1, "/ws?user_id=bob");
    assert_eq!(backend.put("ann", "small"), 1);
    assert_eq!(backend.put("bob", "small"), 1);
    assert_eq!(backend.put("ann", "another"), 1);
    assert_eq!(
        backend.put("bob", "another"),
        1,
        "nothing is held of the room that was full"
    );
    assert_eq!(backend.told(ann, 1), "room_joined 4013");
    assert_eq!(backend.told(bob, 1), "4008 room_joined");
}

#[test]
fn a_room_that_cannot_be_made_costs_nobody_the_connection() {
    let mut backend = Backend::new(Node::new(2, |config, _| config.rooms_max = 0));
    let peers: Vec<Peer> = (0..2)
        .map(|core| backend.node.upgrade(core, "/ws?user_id=ann"))
        .collect();
    assert_eq!(backend.put("ann", "r"), 2);
    for peer in peers {
        assert_eq!(backend.told(peer, 1), "4100");
        assert_eq!(backend.node.outcome(peer), "open");
    }
    let locals = backend
        .node
        .shards
        .iter()
        .map(|shard| shard.footprint().locals);
    assert_eq!(
        locals.sum::<usize>(),
        0,
        "the place that was held is given back"
    );
}

#[test]
fn a_room_that_no_rule_names_is_refused_where_rooms_are_explicit() {
    let mut backend =
        Backend::plain().with_rules("room-names = 'explicit'\n[[rooms]]\npattern = 'known'");
    let ann = backend.node.upgrade(0, "/ws?user_id=ann");
    let room = backend.room("other");
    let answer = backend.ask_about("ann", |user| ApiAsk::Join { user, room });
    assert_eq!(code(answer), 4007);
    let bad: RoomKey = backend.room("bad\nname");
    let answer = backend.ask_about("ann", |user| ApiAsk::Join { user, room: bad });
    assert_eq!(code(answer), 4006);
    assert_eq!(backend.put("ann", "known"), 1);
    assert_eq!(backend.told(ann, 1), "room_joined");
}

#[test]
fn a_flood_of_orders_does_not_spend_what_a_connection_may_ask() {
    let mut backend = Backend::plain();
    let ann = backend.node.upgrade(0, "/ws?user_id=ann");
    let home = backend.home_of_user("ann");
    let user = UserId::from_name("ann");
    // A room of another core: nothing is answered before the shards talk.
    let names = (0..).map(|n| format!("r{n}"));
    let mut rooms = names.map(|name| backend.placement.room(&name));
    let room = rooms.find(|room| backend.home_of(room) == 1).unwrap();
    for _ in 0..2_000 {
        let (user, room) = (user.clone(), room.clone());
        backend.ask_unsettled(home, ApiAsk::Join { user, room });
    }
    backend.node.settle();
    assert!(backend.node.wants_read(ann));
    assert_eq!(backend.node.heard(ann).count("room_joined"), 2_000);
    backend.node.say(ann, r#"{"type":"ping"}"#);
    assert_eq!(backend.node.heard(ann).count("pong"), 1);
}
