//! Rooms by rule on shards that are driven by hand: what the simulation, whose rules never change,
//! does not see.

#![allow(clippy::unwrap_used)] // a node that cannot be set up is a failure

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidewheel::address::CoreId;
use tidewheel::cli::policy::policy;
use tidewheel::cli::settings::shard_config;
use tidewheel::cli::sources::options_from_text;
use tidewheel::codec::websocket::client::{ServerFrames, encode_masked};
use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::shard::{Sent, Shard, ShardConfig, Transport};
use tidewheel::time::{Instant, Now};

/// Sockets that take everything, or nothing where they are full.
#[derive(Default)]
struct Sockets {
    received: BTreeMap<u32, ServerFrames>,
    full: Vec<u32>,
}

impl Transport for Sockets {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.send_vectored(connection, &[IoSlice::new(bytes)])
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        if self.full.contains(&connection) {
            return Sent::Full;
        }
        let mut count = 0;
        for slice in slices {
            // The response to the upgrade is no frame.
            if !slice.starts_with(b"HTTP/1.1 101") {
                self.received.entry(connection).or_default().push(slice);
            }
            count += slice.len();
        }
        Sent::Took(count)
    }
}

/// Cores joined in memory. A connection is its core and its index there.
struct Node {
    cores: Vec<(Shard, Sockets)>,
    now: Now,
}

type Client = (usize, u32);

impl Node {
    fn new(cores: u16, file: &str) -> Node {
        let now = Now {
            mono: Instant::ORIGIN + Duration::from_secs(1),
            unix_ms: 1_800_000_000_000,
        };
        let (options, _) = options_from_text(file).unwrap();
        let core = |core| {
            let config = ShardConfig {
                policy: Arc::new(policy(&options).unwrap()),
                ..shard_config(&options, CoreId(core), cores, 7)
            };
            (Shard::new(config, now), Sockets::default())
        };
        Node {
            cores: (0..cores).map(core).collect(),
            now,
        }
    }

    fn reload(&mut self, file: &str) {
        let (options, _) = options_from_text(file).unwrap();
        let policy = Arc::new(policy(&options).unwrap());
        for (shard, _) in &mut self.cores {
            shard.handle_policy(self.now, Arc::clone(&policy));
        }
    }

    fn connect(&mut self, core: usize, target: &str) -> Client {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let shard = &mut self.cores[core].0;
        let index = shard.handle_accept(self.now);
        shard.handle_bytes(self.now, index, &mut head.into_bytes());
        self.turn();
        (core, index)
    }

    fn turn(&mut self) {
        for _ in 0..4 {
            for from in 0..self.cores.len() {
                for to in 0..self.cores.len() {
                    if let Some(batch) = self.cores[from].0.poll_bus(CoreId(to as u16)) {
                        self.cores[to].0.handle_bus(self.now, batch);
                    }
                }
                let (shard, sockets) = &mut self.cores[from];
                shard.handle_timeouts(self.now);
                while !shard.poll_flush(self.now, sockets, 1_000) {}
                while shard.poll_action().is_some() {}
                let (counted, found) = (shard.memory(), shard.recount());
                assert!(counted.iter().eq(found.iter()), "{counted:?}, {found:?}");
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.turn();
    }

    /// Everything that came to a connection since it was last asked; a close as its code.
    fn heard(&mut self, (core, index): Client) -> Vec<Value> {
        let mut heard = Vec::new();
        let frames = self.cores[core].1.received.entry(index).or_default();
        while let Some(frame) = frames.next_frame().unwrap() {
            match frame.opcode {
                OpCode::Control(Control::Close) => {
                    let code = [frame.payload[0], frame.payload[1]];
                    heard.push(json!(u16::from_be_bytes(code)));
                }
                OpCode::Control(_) => {}
                OpCode::Data(_) => heard.push(serde_json::from_slice(&frame.payload).unwrap()),
            }
        }
        heard
    }

    fn say(&mut self, (core, index): Client, message: &Value) {
        let mut wire = Vec::new();
        let text = message.to_string();
        encode_masked(
            OpCode::Data(Data::Text),
            [1, 2, 3, 4],
            text.as_bytes(),
            &mut wire,
        );
        self.cores[core].0.handle_bytes(self.now, index, &mut wire);
    }

    /// Says something, and gives what is heard.
    fn ask(&mut self, client: Client, message: &Value) -> Vec<Value> {
        self.heard(client);
        self.say(client, message);
        self.turn();
        self.heard(client)
    }

    /// The type of the one answer; an error's code.
    fn answer(&mut self, client: Client, kind: &str, room: &str, payload: Value) -> String {
        let heard = self.ask(client, &message(kind, room, payload));
        let told: Vec<String> = heard.iter().map(told).collect();
        told.join(" ")
    }
}

fn message(kind: &str, room: &str, payload: Value) -> Value {
    json!({"type": kind, "room": room, "payload": payload})
}

fn told(event: &Value) -> String {
    match event["type"].as_str() {
        Some("error") => {
            assert!(event["room"].is_string(), "{event}");
            event["payload"]["code"].to_string()
        }
        Some(kind) => kind.to_owned(),
        None => format!("close {event}"),
    }
}

#[test]
fn a_reload_shrinks_history_when_the_room_is_next_looked_at() {
    let mut node = Node::new(1, "");
    let ann = node.connect(0, "/ws/chat:1");
    for n in 0..5 {
        node.answer(ann, "message", "chat:1", json!(n));
    }
    let kept = |node: &mut Node| {
        let heard = node.ask(ann, &message("history_query", "chat:1", json!({})));
        heard[0]["payload"]["messages"].as_array().unwrap().len()
    };
    assert_eq!(kept(&mut node), 5);
    node.reload("[[rooms]]\npattern = 'chat:*'\nhistory = 2");
    assert_eq!(kept(&mut node), 2);
    node.reload("[[rooms]]\npattern = 'chat:*'\nhistory-ttl = '5s'");
    assert_eq!(kept(&mut node), 2);
    node.pass(Duration::from_secs(6));
    assert_eq!(node.cores[0].0.footprint().history_bytes, 0, "by its timer");
    node.reload("[[rooms]]\npattern = 'chat:*'\nephemeral = true");
    assert_eq!(
        node.answer(ann, "leave_room", "chat:1", json!({})),
        "room_left"
    );
    assert_eq!(node.cores[0].0.footprint().homes, 0, "with its last member");
}

#[test]
fn a_room_that_is_no_longer_allowed_keeps_its_members_and_refuses_everything() {
    let mut node = Node::new(1, "");
    let (ann, bob) = (node.connect(0, "/ws/old"), node.connect(0, "/ws"));
    let explicit = "room-names = 'explicit'\n[[rooms]]\npattern = 'new'";
    node.reload(explicit);
    let asked = [
        ("join_room", json!({})),
        ("message", json!(1)),
        ("typing_start", json!({})),
        ("read_receipt", json!({"offset": 1})),
        ("presence_query", json!({})),
        ("history_query", json!({})),
    ];
    for (kind, payload) in asked {
        for client in [ann, bob] {
            let told = node.answer(client, kind, "old", payload.clone());
            assert_eq!(told, "4007", "{kind}");
        }
    }
    assert_eq!(node.cores[0].0.metrics().rooms.members, 1);
    assert_eq!(
        node.answer(bob, "join_room", "new", json!({})),
        "room_joined"
    );
    assert_eq!(
        node.answer(ann, "leave_room", "old", json!({})),
        "room_left"
    );
    let cy = node.connect(0, "/ws/old");
    let heard: Vec<String> = node.heard(cy).iter().map(told).collect();
    assert_eq!(heard, ["connection_established", "4007"]);
    node.reload("");
    assert_eq!(
        node.answer(ann, "join_room", "old", json!({})),
        "room_joined"
    );
}

#[test]
fn a_full_room_refuses_users_and_no_connections_and_holds_nothing_of_the_refused() {
    let mut node = Node::new(2, "[[rooms]]\npattern = 'r*'\nmax-members = 1");
    for room in ["r1", "r2", "r3", "r4"] {
        let ann = node.connect(0, "/ws?user_id=ann");
        let other_ann = node.connect(1, "/ws?user_id=ann");
        let bob = node.connect(1, "/ws?user_id=bob");
        let joins = |node: &mut Node, who| node.answer(who, "join_room", room, json!({}));
        assert_eq!(joins(&mut node, ann), "room_joined");
        assert_eq!(joins(&mut node, other_ann), "room_joined");
        // A connection to another core has credits for sixteen joins that are not answered.
        for _ in 0..40 {
            assert_eq!(joins(&mut node, bob), "4008");
        }
        assert_eq!(joins(&mut node, ann), "room_joined", "again");
        let members = node.cores[1].0.metrics().rooms.members;
        node.answer(ann, "leave_room", room, json!({}));
        assert_eq!(joins(&mut node, bob), "4008");
        node.answer(other_ann, "leave_room", room, json!({}));
        assert_eq!(joins(&mut node, bob), "room_joined");
        assert_eq!(node.cores[1].0.metrics().rooms.members, members);
    }
}

#[test]
fn who_asked_for_presence_before_it_was_switched_off_does_not_stay_to_see_it() {
    let seeing = message("join_room", "r", json!({"presence": true}));
    for core in 0..2 {
        let mut node = Node::new(2, "[[rooms]]\npattern = 'r'");
        let ann = node.connect(core, "/ws?user_id=ann");
        node.say(ann, &seeing);
        node.reload("[[rooms]]\npattern = 'r'\npresence = false");
        node.turn();
        let heard: Vec<String> = node.heard(ann).iter().skip(1).map(told).collect();
        if heard.len() > 1 {
            // Its home is the other core, which let it in when the rule was another already.
            assert_eq!(heard, ["room_joined", "4010", "room_left"], "core {core}");
            assert_eq!(node.cores[core].0.footprint().locals, 0);
        } else {
            assert_eq!(heard, ["room_joined"], "core {core}: it was in before");
        }
    }
}

#[test]
fn joins_and_leaves_in_one_breath_leave_no_half_member() {
    let mut node = Node::new(2, "[[rooms]]\npattern = 'r*'\nmax-members = 1");
    for room in ["r1", "r2", "r3", "r4"] {
        let (ann, bob) = (
            node.connect(0, "/ws?user_id=ann"),
            node.connect(1, "/ws?user_id=bob"),
        );
        node.answer(ann, "join_room", room, json!({}));
        for kind in ["join_room", "leave_room", "join_room", "join_room"] {
            node.say(bob, &message(kind, room, json!({})));
        }
        node.turn();
        let heard: Vec<String> = node.heard(bob).iter().skip(1).map(told).collect();
        assert_eq!(heard, ["4008", "room_left", "4008", "4008"], "{room}");
        assert_eq!(node.cores[1].0.footprint().locals, 0);
        node.answer(ann, "leave_room", room, json!({}));
    }
}

#[test]
fn an_ephemeral_room_goes_with_its_last_member_and_remembers_no_key() {
    let mut node = Node::new(1, "[[rooms]]\npattern = 'r'\nephemeral = true");
    let ann = node.connect(0, "/ws");
    let epoch = |node: &mut Node| {
        let heard = node.ask(ann, &message("join_room", "r", json!({"history": 9})));
        assert_eq!(heard.len(), 1, "nothing is replayed: {heard:?}");
        heard[0]["payload"]["epoch"].clone()
    };
    let first = epoch(&mut node);
    let keyed = json!({"type": "message", "room": "r", "payload": 1,
        "metadata": {"message_id": "m", "echo": false}});
    for offset in 1..=3 {
        let heard = node.ask(ann, &keyed);
        assert_eq!(heard[0]["payload"]["offset"], offset, "{heard:?}");
    }
    node.pass(Duration::from_secs(20));
    assert_eq!(epoch(&mut node), first, "while somebody is there");
    node.answer(ann, "leave_room", "r", json!({}));
    assert_eq!(node.cores[0].0.footprint().homes, 0);
    assert_ne!(epoch(&mut node), first);
    node.answer(ann, "leave_room", "r", json!({}));
    let heard = node.ask(ann, &keyed);
    assert_eq!(heard[0]["payload"]["offset"], 1, "{heard:?}");
    assert_eq!(node.cores[0].0.footprint().homes, 0, "nobody was in it");
}

#[test]
fn a_room_whose_idle_time_is_zero_can_be_joined() {
    let mut node = Node::new(1, "room-idle-ttl = '0'");
    let ann = node.connect(0, "/ws");
    assert_eq!(node.answer(ann, "join_room", "r", json!({})), "room_joined");
    assert_eq!(node.answer(ann, "leave_room", "r", json!({})), "room_left");
    assert_eq!(node.answer(ann, "message", "r", json!(1)), "message_sent");
}

/// Rooms that skip and one that evicts, a publisher, and a reader in two of them whose socket is
/// full.
fn mixed(rooms: [&str; 2]) -> (Node, Client, Client) {
    let file = "\
max-lag-bytes = '4KiB'
max-message-bytes = '2KiB'
overflow = 'evict'
[[rooms]]
pattern = 'skip:*'
overflow = 'skip'
[[rooms]]
pattern = 'latest:*'
overflow = 'latest'
";
    let mut node = Node::new(1, file);
    let (publisher, reader) = (node.connect(0, "/ws"), node.connect(0, "/ws"));
    for room in rooms {
        assert_eq!(
            node.answer(reader, "join_room", room, json!({})),
            "room_joined"
        );
    }
    node.cores[0].1.full.push(reader.1);
    (node, publisher, reader)
}

fn publish(node: &mut Node, publisher: Client, room: &str, count: u32) {
    for _ in 0..count {
        node.say(
            publisher,
            &message("message", room, json!("x".repeat(1_000))),
        );
        node.turn();
    }
}

fn read_on(node: &mut Node, reader: Client) -> Vec<String> {
    node.cores[0].1.full.clear();
    let now = node.now;
    node.cores[0].0.handle_writable(now, reader.1);
    node.turn();
    node.heard(reader).iter().map(told).collect()
}

#[test]
fn a_laggard_skips_in_each_room_by_that_rooms_policy() {
    let (mut node, publisher, reader) = mixed(["skip:1", "latest:1"]);
    publish(&mut node, publisher, "skip:1", 2);
    publish(&mut node, publisher, "latest:1", 2);
    let heard = read_on(&mut node, reader);
    let expected = ["messages_missed", "messages_missed", "message"];
    assert_eq!(heard, expected, "the newest of one, none of the other");
}

#[test]
fn a_laggard_goes_where_any_room_that_it_lags_in_evicts() {
    let (mut node, publisher, reader) = mixed(["skip:1", "plain"]);
    publish(&mut node, publisher, "plain", 1);
    publish(&mut node, publisher, "skip:1", 5);
    assert_eq!(read_on(&mut node, reader), ["close 4101"]);
}

#[test]
fn a_laggard_stays_where_it_lags_in_rooms_that_skip_alone() {
    let (mut node, publisher, reader) = mixed(["skip:1", "plain"]);
    publish(&mut node, publisher, "skip:1", 9);
    let heard = read_on(&mut node, reader);
    assert_eq!(heard.first().map(String::as_str), Some("messages_missed"));
    assert!(!heard.contains(&"close 4101".to_owned()), "{heard:?}");
}

#[test]
fn each_rule_has_its_code() {
    let file = "\
[[rooms]]
pattern = 'members:*'
publish = 'members'
max-message-bytes = 5
[[rooms]]
pattern = 'server:*'
publish = 'server'
presence = false
[[rooms]]
pattern = 'quiet:*'
typing = false
receipts = false
allow = ['join']
";
    let mut node = Node::new(2, file);
    let ann = node.connect(0, "/ws?user_id=ann");
    let join = || json!({});
    let table: &[(&str, &str, Value, &str)] = &[
        ("message", "members:1", json!(1), "4010"),
        ("join_room", "members:1", join(), "room_joined"),
        ("message", "members:1", json!("abcde"), "4005"),
        ("message", "members:1", json!("abc"), "message message_sent"),
        ("leave_room", "members:1", join(), "room_left"),
        ("message", "members:1", json!(1), "4010"),
        ("join_room", "server:1", json!({"presence": true}), "4010"),
        (
            "join_room",
            "server:1",
            json!({"presence": false}),
            "room_joined",
        ),
        ("message", "server:1", json!(1), "4010"),
        ("presence_query", "server:1", join(), "4010"),
        ("typing_start", "server:1", join(), "4010"),
        ("history_query", "server:1", join(), "history"),
        ("join_room", "quiet:1", json!({"history": 1}), "4010"),
        ("join_room", "quiet:1", join(), "room_joined"),
        ("typing_start", "quiet:1", join(), "4010"),
        ("read_receipt", "quiet:1", json!({"offset": 1}), "4010"),
        ("message", "quiet:1", json!(1), "4010"),
        ("history_query", "quiet:1", join(), "4010"),
        (
            "join_room",
            "free",
            json!({"presence": true, "history": 3}),
            "room_joined",
        ),
        ("message", "free:2", json!("long enough"), "message_sent"),
    ];
    for (kind, room, payload, expected) in table {
        let told = node.answer(ann, kind, room, payload.clone());
        let mut words: Vec<&str> = told.split(' ').collect();
        words.sort_unstable();
        assert_eq!(words.join(" "), *expected, "{kind} {room} {payload}");
    }
}
