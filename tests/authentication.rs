//! A shard, and clients in memory that come with all kinds of credentials.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::client::{ServerFrames, encode_masked};
use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::gate::{
    Action, Actions, Authentication, FixedTokens, Glob, Grant, Policy, RoomGrant, Rules, Verdict,
    WebhookPolicy,
};
use tidewheel::metrics::{AuthRefusal, AuthWay, Dialect, MemoryKind, State};
use tidewheel::protocol::UserId;
use tidewheel::shard::{self, Sent, Shard, Transport};
use tidewheel::time::{Instant, Now};

/// The longest message of a connection that has no user.
const AUTH_MESSAGE_BYTES_MAX: usize = 16 * 1024;

const UNIX_MS: u64 = 1_800_000_000_000;

/// What each connection was sent.
#[derive(Default)]
struct Wire(Vec<Vec<u8>>);

impl Transport for Wire {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        let place = connection as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, Vec::new());
        }
        self.0[place].extend_from_slice(bytes);
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        let count = slices.iter().map(|s| s.len()).sum();
        for slice in slices {
            self.send(connection, slice);
        }
        Sent::Took(count)
    }
}

struct Node {
    shard: Shard,
    wire: Wire,
    now: Now,
}

fn grant(user: &str, lives_ms: Option<u64>, rooms: &[(&str, &[Action])]) -> Grant {
    let room = |(pattern, allow): &(&str, &[Action])| RoomGrant {
        pattern: Glob::new(pattern).unwrap(),
        allow: allow.iter().copied().collect(),
    };
    Grant {
        user: UserId::from_name(user),
        info: Some(Arc::from(format!("{{\"is\":\"{user}\"}}").as_bytes())),
        expires_at_unix_ms: lives_ms.map(|ms| UNIX_MS + ms),
        rooms: (!rooms.is_empty()).then(|| rooms.iter().map(room).collect()),
    }
}

/// Tokens by the user's name, and some that are special.
fn tokens() -> Policy {
    let mut tokens = FixedTokens::default();
    let mut add = |token: &str, grant| tokens.0.insert(token.to_owned(), grant);
    add("ann", grant("ann", None, &[]));
    add("bob", grant("bob", None, &[]));
    add("ann-60s", grant("ann", Some(60_000), &[]));
    add("ann-600s", grant("ann", Some(600_000), &[]));
    add("ann-year", grant("ann", Some(365 * 86_400_000), &[]));
    add("ann-past", grant("ann", Some(0), &[]));
    add(
        "ann-reader",
        grant("ann", None, &[("news:*", &[Action::Join])]),
    );
    let all = Action::ALL.map(|(action, _)| action);
    add("ann-writer", grant("ann", None, &[("**", &all)]));
    Policy {
        authentication: Authentication::Fixed(Arc::new(tokens)),
        ..Policy::default()
    }
}

impl Node {
    fn new(policy: Policy) -> Node {
        let now = Now {
            mono: Instant::ORIGIN,
            unix_ms: UNIX_MS,
        };
        let mut config = shard_config(&Options::default(), CoreId(0), 1, 7);
        config.policy = Arc::new(policy);
        // Pings would only be in the way.
        config.heartbeat_interval = Duration::from_secs(86_400 * 1_000);
        Node {
            shard: Shard::new(config, now),
            wire: Wire::default(),
            now,
        }
    }

    /// A connection, upgraded.
    fn open(&mut self, target: &str, more: &str) -> u32 {
        let index = self.shard.handle_accept(self.now);
        let address = "192.0.2.7".parse().unwrap();
        self.shard.handle_address(self.now, index, address);
        if let Some(bytes) = self.wire.0.get_mut(index as usize) {
            bytes.clear();
        }
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        let mut head = head.into_bytes();
        self.shard.handle_bytes(self.now, index, &mut head);
        self.settle();
        index
    }

    fn enter(&mut self, token: &str) -> u32 {
        let index = self.open("/ws", &format!("Authorization: Bearer {token}\r\n"));
        let told = self.told(index);
        assert!(
            told[0].contains("connection_established"),
            "{token}: {told:?}"
        );
        index
    }

    fn say(&mut self, index: u32, text: &str) -> Vec<String> {
        let mut wire = Vec::new();
        let opcode = OpCode::Data(Data::Text);
        encode_masked(opcode, [1, 2, 3, 4], text.as_bytes(), &mut wire);
        self.shard.handle_bytes(self.now, index, &mut wire);
        self.settle();
        self.told(index)
    }

    fn auth(&mut self, index: u32, token: &str) -> Vec<String> {
        let text = format!(
            "{{\"type\":\"auth\",\"payload\":{{\"token\":\"{token}\"}},\
             \"metadata\":{{\"correlation_id\":\"c\"}}}}"
        );
        self.say(index, &text)
    }

    fn settle(&mut self) {
        for _ in 0..4 {
            while !self.shard.poll_flush(self.now, &mut self.wire, 100) {}
            while let Some(action) = self.shard.poll_action() {
                if let shard::Action::Resume(index) = action {
                    self.shard.handle_resume(self.now, index);
                }
            }
        }
        let (counted, found) = (self.shard.memory(), self.shard.recount());
        assert!(counted.iter().eq(found.iter()), "{counted:?}, {found:?}");
    }

    fn wait(&mut self, ms: u64) {
        self.now.mono = self.now.mono + Duration::from_millis(ms);
        self.now.unix_ms += ms;
        self.shard.handle_timeouts(self.now);
        self.settle();
    }

    /// What a connection was told since this was asked last: texts, and `4002 reason` for a close.
    fn told(&mut self, index: u32) -> Vec<String> {
        let Some(bytes) = self.wire.0.get_mut(index as usize) else {
            return Vec::new();
        };
        let bytes = std::mem::take(bytes);
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let (head, rest) = match head {
            Some(end) if bytes.starts_with(b"HTTP/") => bytes.split_at(end + 4),
            _ => (&[][..], &bytes[..]),
        };
        if !head.is_empty() && !head.starts_with(b"HTTP/1.1 101") {
            let status = String::from_utf8_lossy(&head[9..12]);
            return vec![format!("HTTP {status}")];
        }
        let mut frames = ServerFrames::default();
        frames.push(rest);
        let mut told = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            told.push(match frame.opcode {
                OpCode::Control(Control::Close) => {
                    let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                    format!("{code} {}", String::from_utf8_lossy(&frame.payload[2..]))
                }
                OpCode::Control(_) => continue,
                OpCode::Data(_) => String::from_utf8(frame.payload).unwrap(),
            });
        }
        told
    }

    fn state(&mut self) -> [u64; 3] {
        let open = &self.shard.metrics().connections.open;
        let native = &open[Dialect::Native as usize];
        let closing = open[Dialect::Unknown as usize].of(State::Closing);
        [
            native.of(State::Unauthenticated),
            native.of(State::Established),
            closing,
        ]
    }

    fn refused(&mut self, why: AuthRefusal) -> u64 {
        self.shard.metrics().connections.auth_refused.of(why)
    }

    fn accepted(&mut self, way: AuthWay) -> u64 {
        self.shard.metrics().connections.auth_accepted.of(way)
    }
}

/// The types of messages, and the codes of closes.
fn kinds(told: &[String]) -> Vec<&str> {
    told.iter()
        .map(|text| match text.strip_prefix("{\"type\":\"") {
            Some(rest) => rest.split('"').next().unwrap(),
            None => text.split(' ').next().unwrap(),
        })
        .collect()
}

#[test]
fn a_good_token_lets_in_by_each_of_the_ways() {
    let mut node = Node::new(Policy {
        token_in_url: true,
        ..tokens()
    });
    let ways = [
        ("/ws", "Authorization: Bearer ann\r\n", AuthWay::Header),
        (
            "/ws",
            "Sec-WebSocket-Protocol: tidewheel.v1.json, tidewheel.bearer.ann\r\n",
            AuthWay::Subprotocol,
        ),
        ("/ws?token=ann&user_id=eve", "", AuthWay::Url),
    ];
    for (target, more, way) in ways {
        let index = node.open(target, more);
        let head = String::from_utf8_lossy(&node.wire.0[index as usize]).into_owned();
        assert!(!head.contains("bearer"), "the entry is never selected");
        let told = node.told(index);
        assert_eq!(kinds(&told), ["connection_established"], "{way:?}");
        assert!(told[0].contains("\"user_id\":\"ann\""));
        assert_eq!(node.accepted(way), 1);
    }

    let index = node.open("/ws?user_id=eve", "");
    assert!(node.told(index).is_empty());
    assert_eq!(node.state(), [1, 3, 0]);
    let told = node.auth(index, "ann-60s");
    assert_eq!(kinds(&told), ["auth_response", "connection_established"]);
    assert!(told[0].contains("\"correlation_id\":\"c\"") && told[0].contains("expires_at"));
    assert_eq!(
        (node.accepted(AuthWay::Message), node.state()),
        (1, [0, 4, 0])
    );
}

#[test]
fn a_bad_token_is_upgraded_and_closed_with_4002_and_never_repeated() {
    let mut node = Node::new(tokens());
    let ways = [
        "Authorization: Bearer nonsense\r\n",
        "Authorization: Bearer\r\n",
        "Sec-WebSocket-Protocol: tidewheel.v1.json, tidewheel.bearer.nonsense\r\n",
    ];
    for more in ways {
        let index = node.open("/ws", more);
        let told = node.told(index);
        assert_eq!(kinds(&told), ["4002"], "{more}");
        assert!(!told[0].contains("nonsense"));
    }
    let index = node.open("/ws/r", "");
    let told = node.auth(index, "nonsense");
    assert_eq!(kinds(&told), ["4002"]);
    assert_eq!(node.refused(AuthRefusal::Signature), 3);
    assert_eq!(node.refused(AuthRefusal::Malformed), 1);
    assert_eq!(node.state(), [0, 0, 4]);

    let index = node.open("/ws", "Authorization: Bearer ann-past\r\n");
    assert_eq!(kinds(&node.told(index)), ["4002"]);
    assert_eq!(node.refused(AuthRefusal::Expired), 1);
    let twice = "Authorization: Bearer ann\r\nAuthorization: Bearer bob\r\n";
    let index = node.open("/ws", twice);
    assert_eq!(node.told(index), ["HTTP 400"]);
    let index = node.open("/ws?token=ann", "");
    assert_eq!(node.told(index), ["HTTP 400"]);
}

#[test]
fn whoever_does_not_say_who_it_is_is_closed_with_4001() {
    let mut node = Node::new(tokens());
    let first = [
        "{\"type\":\"ping\"}",
        "{\"type\":\"join_room\",\"room\":\"r\"}",
        "{\"type\":\"auth\"}",
        "{",
        "",
    ];
    for text in first {
        let index = node.open("/ws", "");
        assert_eq!(kinds(&node.say(index, text)), ["4001"], "{text}");
    }
    let index = node.open("/ws", "");
    let long = "x".repeat(AUTH_MESSAGE_BYTES_MAX + 1);
    assert_eq!(kinds(&node.say(index, &long)), ["1009"]);

    let index = node.open("/ws", "");
    let mut ping = Vec::new();
    encode_masked(OpCode::Control(Control::Ping), [0; 4], b"p", &mut ping);
    node.shard.handle_bytes(node.now, index, &mut ping);
    node.wait(9_990);
    assert!(node.told(index).is_empty(), "control frames are fine");
    node.wait(20);
    assert_eq!(kinds(&node.told(index)), ["4001"]);
    assert_eq!(node.refused(AuthRefusal::Missing), 6);
}

#[test]
fn the_deadline_does_not_reach_who_was_let_in() {
    let mut node = Node::new(tokens());
    let by_header = node.enter("ann");
    let by_message = node.open("/ws", "");
    node.auth(by_message, "bob");
    node.told(by_message);
    node.wait(3_600_000);
    assert!(node.told(by_header).is_empty() && node.told(by_message).is_empty());
}

#[test]
fn the_room_of_the_path_is_joined_once_somebody_is_let_in() {
    let mut node = Node::new(tokens());
    let index = node.open("/ws/r", "Authorization: Bearer ann\r\n");
    let told = node.told(index);
    assert_eq!(kinds(&told), ["connection_established", "room_joined"]);
    let index = node.open("/ws/r", "");
    let told = node.auth(index, "bob");
    let expected = ["auth_response", "connection_established", "room_joined"];
    assert_eq!(kinds(&told), expected);

    let index = node.open("/ws/r", "Authorization: Bearer ann-reader\r\n");
    let told = node.told(index);
    assert_eq!(kinds(&told), ["connection_established", "error"]);
    assert!(told[1].contains("4010") && told[1].contains("\"room\":\"r\""));
}

#[test]
fn a_token_is_told_of_before_its_end_and_closes_with_4106() {
    let mut node = Node::new(tokens());
    let long = node.enter("ann-600s");
    // Half of a life that is not longer than the notice.
    let short = node.enter("ann-60s");
    node.wait(29_990);
    assert!(node.told(short).is_empty());
    node.wait(20);
    let told = node.told(short);
    assert_eq!(kinds(&told), ["token_expiring"]);
    assert!(told[0].contains("\"expires_in_ms\":29990"), "{told:?}");
    node.wait(29_980);
    assert!(node.told(short).is_empty());
    node.wait(10);
    assert_eq!(kinds(&node.told(short)), ["4106"]);

    node.wait(479_990);
    assert!(node.told(long).is_empty());
    node.wait(20);
    assert_eq!(kinds(&node.told(long)), ["token_expiring"]);
    node.wait(60_000);
    assert_eq!(kinds(&node.told(long)), ["4106"]);
}

#[test]
fn a_clock_that_is_set_moves_the_end_of_a_token_with_it() {
    let mut node = Node::new(tokens());
    let index = node.enter("ann-60s");
    node.now.unix_ms -= 50_000;
    node.wait(60_000);
    assert!(
        !kinds(&node.told(index)).contains(&"4106"),
        "it is not over yet"
    );
    node.wait(50_000);
    assert_eq!(kinds(&node.told(index)), ["4106"]);
    // Forward: noticed within a day at the latest.
    let mut node = Node::new(tokens());
    let index = node.enter("ann-year");
    node.now.unix_ms += 366 * 86_400_000;
    node.wait(86_400_000);
    assert_eq!(kinds(&node.told(index)), ["4106"]);
}

#[test]
fn a_refresh_puts_another_end_in_place_of_the_old_one() {
    let mut node = Node::new(tokens());
    let index = node.enter("ann-60s");
    node.wait(40_000);
    assert_eq!(kinds(&node.told(index)), ["token_expiring"]);
    let told = node.auth(index, "ann-600s");
    assert_eq!(kinds(&told), ["auth_response"]);
    assert!(told[0].contains("\"correlation_id\":\"c\""));
    node.wait(400_000);
    assert!(node.told(index).is_empty());
    assert_eq!(kinds(&node.auth(index, "ann")), ["auth_response"]);
    node.wait(86_400_000);
    assert!(node.told(index).is_empty());
    assert_eq!(node.accepted(AuthWay::Refresh), 2);
}

#[test]
fn a_refresh_that_is_no_good_is_an_error_and_closes() {
    let mut node = Node::new(tokens());
    let index = node.enter("ann");
    let told = node.auth(index, "nonsense");
    assert_eq!(kinds(&told), ["error", "4002"]);
    assert!(told[0].contains("\"correlation_id\":\"c\""));
    let index = node.enter("ann");
    let told = node.auth(index, "bob");
    assert_eq!(kinds(&told), ["error", "4002"]);
    assert!(told[1].contains("same user"), "{told:?}");
    assert_eq!(node.refused(AuthRefusal::OtherUser), 1);
}

#[test]
fn credentials_shown_again_and_again_are_not_looked_at() {
    let mut policy = tokens();
    policy.limits.rate_errors_max = 50;
    let mut node = Node::new(policy);
    let index = node.enter("ann");
    for _ in 0..10 {
        assert_eq!(kinds(&node.auth(index, "ann")), ["auth_response"]);
    }
    let told = node.auth(index, "nonsense");
    assert_eq!(kinds(&told), ["error"], "not even looked at");
    assert!(told[0].contains("4004"), "{told:?}");
    node.wait(1_000);
    assert_eq!(kinds(&node.auth(index, "ann")), ["auth_response"]);
    for _ in 0..100 {
        node.auth(index, "ann");
    }
    assert_eq!(node.state()[1], 0, "it goes on, and is closed");
}

#[test]
fn a_refresh_with_fewer_rights_leaves_the_rooms_that_are_not_allowed() {
    let mut node = Node::new(tokens());
    let index = node.enter("ann-writer");
    for room in ["news:1", "news:2", "chat"] {
        let presence = room == "news:2";
        let text = format!(
            "{{\"type\":\"join_room\",\"room\":\"{room}\",\"payload\":{{\"presence\":{presence}}}}}"
        );
        assert_eq!(kinds(&node.say(index, &text)), ["room_joined"]);
    }
    let told = node.auth(index, "ann-reader");
    let expected = ["auth_response", "error", "room_left", "error", "room_left"];
    assert_eq!(kinds(&told), expected, "{told:?}");
    assert!(told[1..].iter().all(|text| !text.contains("news:1")));
    assert_eq!(node.shard.footprint().locals, 1);
    let published = node.say(
        index,
        "{\"type\":\"message\",\"room\":\"news:1\",\"payload\":1}",
    );
    assert!(published[0].contains("4010"));
}

fn allowing(default_allow: Actions) -> Rules {
    Rules {
        default_allow,
        ..Rules::default()
    }
}

#[test]
fn a_token_allows_what_it_says_and_the_defaults_the_rest() {
    use Action::{Direct, History, Join, Presence, Publish};
    let commands = [
        ("{\"type\":\"join_room\",\"room\":\"r\"}", &[Join][..]),
        (
            "{\"type\":\"join_room\",\"room\":\"r\",\"payload\":{\"history\":1}}",
            &[Join, History],
        ),
        (
            "{\"type\":\"join_room\",\"room\":\"r\",\"payload\":{\"recover\":{\"epoch\":\"e\",\"offset\":1}}}",
            &[Join, History],
        ),
        (
            "{\"type\":\"join_room\",\"room\":\"r\",\"payload\":{\"presence\":true}}",
            &[Join, Presence],
        ),
        (
            "{\"type\":\"join_room\",\"room\":\"r\",\"payload\":{\"presence\":false,\"history\":0}}",
            &[Join],
        ),
        (
            "{\"type\":\"message\",\"room\":\"r\",\"payload\":1}",
            &[Publish],
        ),
        ("{\"type\":\"typing_start\",\"room\":\"r\"}", &[Publish]),
        ("{\"type\":\"typing_stop\",\"room\":\"r\"}", &[Publish]),
        ("{\"type\":\"presence_query\",\"room\":\"r\"}", &[Presence]),
        ("{\"type\":\"history_query\",\"room\":\"r\"}", &[History]),
        (
            "{\"type\":\"direct_message\",\"payload\":{\"user_id\":\"ann\",\"data\":1}}",
            &[Direct],
        ),
        ("{\"type\":\"leave_room\",\"room\":\"r\"}", &[]),
        ("{\"type\":\"ping\"}", &[]),
    ];
    let all = Action::ALL.map(|(action, _)| action);
    for (text, needed) in commands {
        for lacking in [
            None,
            Some(Join),
            Some(Publish),
            Some(Presence),
            Some(History),
            Some(Direct),
        ] {
            let allowed: Vec<Action> = all.into_iter().filter(|a| Some(*a) != lacking).collect();
            let is_forbidden = lacking.is_some_and(|action| needed.contains(&action));
            let mut by_token = FixedTokens::default();
            let elsewhere: &[Action] = if allowed.contains(&Direct) {
                &[Direct]
            } else {
                &[]
            };
            let rooms = [("r", &allowed[..]), ("other", elsewhere)];
            by_token.0.insert("ann".into(), grant("ann", None, &rooms));
            let policies = [
                Policy {
                    authentication: Authentication::Fixed(Arc::new(by_token)),
                    rules: allowing(Actions::NONE),
                    ..Policy::default()
                },
                Policy {
                    rules: allowing(allowed.iter().copied().collect()),
                    ..tokens()
                },
                // Without authentication the defaults hold for everyone.
                Policy {
                    rules: allowing(allowed.iter().copied().collect()),
                    ..Policy::default()
                },
            ];
            for policy in policies {
                let mut node = Node::new(policy);
                let index = node.enter("ann");
                let told = node.say(index, text);
                let is_refused = told
                    .iter()
                    .any(|text| text.contains("4010") && text.contains("is not allowed"));
                assert_eq!(
                    is_refused, is_forbidden,
                    "{text} without {lacking:?}: {told:?}"
                );
                assert_eq!(node.state(), [0, 1, 0], "the connection stays");
                if is_refused {
                    let footprint = node.shard.footprint();
                    let traces = (footprint.locals, footprint.homes);
                    assert_eq!(traces, (0, 0), "{text} leaves no trace");
                }
            }
        }
    }
}

#[test]
fn what_a_token_says_of_its_bearer_is_told_in_presence() {
    let mut node = Node::new(tokens());
    let watcher = node.enter("bob");
    node.say(
        watcher,
        "{\"type\":\"join_room\",\"room\":\"r\",\"payload\":{\"presence\":true}}",
    );
    let index = node.enter("ann");
    node.say(index, "{\"type\":\"join_room\",\"room\":\"r\"}");
    let told = node.told(watcher);
    assert!(
        told[0].contains("\"event\":\"join\"") && told[0].contains("\"info\":{\"is\":\"ann\"}")
    );
    let told = node.say(watcher, "{\"type\":\"presence_query\",\"room\":\"r\"}");
    for user in ["ann", "bob"] {
        assert!(
            told[0].contains(&format!("\"info\":{{\"is\":\"{user}\"}}")),
            "{told:?}"
        );
    }
    node.shard.handle_end(node.now, index);
    node.settle();
    let told = node.told(watcher);
    assert!(
        told[0].contains("\"event\":\"leave\"") && told[0].contains("\"info\":{\"is\":\"ann\"}")
    );
}

#[test]
fn a_connection_may_stay_for_its_lifetime_give_or_take_a_tenth() {
    let lifetime = Some(Duration::from_secs(100));
    for policy in [tokens(), Policy::default()] {
        let mut node = Node::new(Policy {
            connection_lifetime: lifetime,
            ..policy
        });
        let all: Vec<u32> = (0..20).map(|_| node.enter("ann")).collect();
        node.wait(89_990);
        assert_eq!(node.state(), [0, 20, 0]);
        node.wait(10_000);
        let some = node.state()[1];
        assert!((1..20).contains(&some), "{some} of 20 at the middle");
        node.wait(10_020);
        assert_eq!(node.state()[1], 0);
        for index in all {
            assert_eq!(kinds(&node.told(index)), ["4105"]);
        }
    }
}

#[test]
fn a_page_of_another_origin_is_told_so_after_the_upgrade() {
    for policy in [tokens(), Policy::default()] {
        let mut node = Node::new(policy);
        let index = node.open(
            "/ws",
            "Origin: https://evil.org\r\nAuthorization: Bearer ann\r\n",
        );
        let told = node.told(index);
        assert_eq!(kinds(&told), ["4003"]);
        assert!(told[0].contains("origin not allowed"));
        assert_eq!(node.refused(AuthRefusal::Origin), 1);
        let index = node.open("/ws", "Origin: https://x\r\nHost: x\r\n");
        assert_eq!(node.told(index), ["HTTP 400"], "two hosts");
        let own = "Origin: http://x\r\nAuthorization: Bearer ann\r\n";
        let index = node.open("/ws", own);
        assert_eq!(kinds(&node.told(index)), ["connection_established"]);
    }
}

#[test]
fn no_timer_outlives_its_connection_and_a_drain_closes_who_waits() {
    let mut node = Node::new(Policy {
        connection_lifetime: Some(Duration::from_secs(1_000)),
        ..tokens()
    });
    let waiting = node.open("/ws", "");
    let let_in = node.enter("ann-600s");
    let gone = node.enter("ann-600s");
    node.shard.handle_end(node.now, gone);
    // The deadline; heartbeat, expiry and lifetime.
    assert_eq!(node.shard.footprint().timers, 4);
    node.shard.handle_drain(node.now, Duration::ZERO);
    node.settle();
    assert_eq!(kinds(&node.told(waiting)), ["4200"]);
    node.wait(1);
    assert_eq!(kinds(&node.told(let_in)), ["server_shutdown", "4200"]);
    node.wait(3_000);
    assert_eq!(node.shard.footprint().timers, 0);
}

fn webhook(headers: &[&str]) -> Policy {
    let headers = headers.iter().map(|name| Box::from(*name)).collect();
    Policy {
        authentication: Authentication::Webhook(Arc::new(WebhookPolicy { headers })),
        ..Policy::default()
    }
}

#[test]
fn the_backend_is_asked_and_what_was_sent_meanwhile_waits_for_its_verdict() {
    let mut node = Node::new(webhook(&["cookie"]));
    let more = "Authorization: Bearer t\r\nUser-Agent: a\r\nCookie: c=1\r\nX-Other: o\r\n";
    let index = node.open("/ws/r", more);
    let question = node.shard.poll_question().unwrap();
    assert_eq!(question.token.as_deref(), Some("t"));
    assert_eq!(question.room.as_deref(), Some("r"));
    assert_eq!(&*question.address, "192.0.2.7");
    let passed: Vec<_> = question.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(passed, [("cookie", "c=1"), ("user-agent", "a")]);
    assert!(!format!("{question:?}").contains("c=1"));

    let early = node.say(index, "{\"type\":\"message\",\"room\":\"r\",\"payload\":1}");
    assert!(early.is_empty() && !node.shard.wants_read(index));
    let granted = Verdict::Granted(Arc::new(grant("ann", None, &[])));
    node.shard
        .handle_verdict(node.now, question.connection, granted.clone());
    node.settle();
    let expected = [
        "connection_established",
        "room_joined",
        "message_sent",
        "message",
    ];
    let mut told = node.told(index);
    told.sort_by_key(|text| expected.iter().position(|kind| text.contains(kind)));
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(node.shard.wants_read(index) && node.shard.poll_question().is_none());
    assert_eq!(node.accepted(AuthWay::Header), 1);

    // A verdict that nobody asked for changes nothing.
    node.shard
        .handle_verdict(node.now, question.connection, Verdict::Denied);
    node.settle();
    assert_eq!(node.state(), [0, 1, 0]);

    // A refresh: nothing but a no closes.
    let outcomes = [
        (granted, "auth_response"),
        (Verdict::Unavailable, "error"),
        (Verdict::Denied, "error"),
    ];
    for (verdict, kind) in outcomes {
        assert!(node.auth(index, "u").is_empty());
        let question = node.shard.poll_question().unwrap();
        node.shard
            .handle_verdict(node.now, question.connection, verdict);
        node.settle();
        let told = node.told(index);
        assert_eq!(kinds(&told)[0], kind, "{told:?}");
    }
    assert_eq!(node.state(), [0, 0, 1]);
}

#[test]
fn without_a_credential_the_backend_is_asked_about_headers_or_the_first_message() {
    let mut node = Node::new(webhook(&["cookie"]));
    node.open("/ws", "Cookie: c=1\r\n");
    let question = node.shard.poll_question().unwrap();
    assert!(question.token.is_none());

    let index = node.open("/ws", "User-Agent: a\r\n");
    assert!(node.shard.poll_question().is_none());
    assert!(node.auth(index, "t").is_empty());
    let question = node.shard.poll_question().unwrap();
    assert_eq!(question.token.as_deref(), Some("t"));
    let granted = Verdict::Granted(Arc::new(grant("ann", None, &[])));
    node.shard
        .handle_verdict(node.now, question.connection, granted);
    node.settle();
    let told = node.told(index);
    assert_eq!(kinds(&told), ["auth_response", "connection_established"]);
}

#[test]
fn a_no_closes_with_4002_and_no_answer_with_4100() {
    let mut node = Node::new(webhook(&[]));
    for (verdict, code) in [(Verdict::Denied, "4002"), (Verdict::Unavailable, "4100")] {
        let index = node.open("/ws", "Authorization: Bearer t\r\n");
        let question = node.shard.poll_question().unwrap();
        node.shard
            .handle_verdict(node.now, question.connection, verdict);
        node.settle();
        assert_eq!(kinds(&node.told(index)), [code]);
    }
    // Nor for ever.
    let index = node.open("/ws", "Authorization: Bearer t\r\n");
    let question = node.shard.poll_question().unwrap();
    node.wait(10_000);
    assert_eq!(kinds(&node.told(index)), ["4100"]);
    let granted = Verdict::Granted(Arc::new(grant("ann", None, &[])));
    node.shard
        .handle_verdict(node.now, question.connection, granted);
    node.settle();
    assert_eq!(node.state()[..2], [0, 0], "too late");
    assert_eq!(node.refused(AuthRefusal::Unavailable), 2);
}

#[test]
fn what_waits_for_a_verdict_and_what_a_credential_gives_count_for_the_budget() {
    let mut node = Node::new(webhook(&["cookie"]));
    let cookie = "c".repeat(5_000);
    let index = node.open("/ws/r", &format!("Cookie: {cookie}\r\n"));
    let question = node.shard.poll_question().unwrap();
    // Once in the connection's pass, and once in the question.
    let waiting = node.shard.memory().of(MemoryKind::Input);
    assert!((10_000..11_000).contains(&waiting), "{waiting}");

    let before = node.shard.memory();
    let patterns: Vec<_> = (0..100).map(|n| format!("room:{n}:*")).collect();
    let rooms = patterns
        .iter()
        .map(|pattern| (pattern.as_str(), &[Action::Join][..]));
    let rooms: Vec<_> = rooms.chain([("r", &[Action::Join][..])]).collect();
    let mut granted = grant("ann", None, &rooms);
    granted.info = Some(Arc::from(format!("\"{}\"", "i".repeat(998)).as_bytes()));
    node.shard.handle_verdict(
        node.now,
        question.connection,
        Verdict::Granted(Arc::new(granted)),
    );
    node.settle();
    let after = node.shard.memory();
    assert_eq!(after.of(MemoryKind::Input), 0);
    let grew = |kind| after.of(kind) - before.of(kind);
    // Each pattern with its text and its tokens, and what others are told of the user.
    let connections = grew(MemoryKind::Connections);
    assert!((6_000..12_000).contains(&connections), "{connections}");
    // The info once more at the home of the room, and the room.
    let rooms = grew(MemoryKind::Rooms);
    assert!((1_000..3_000).contains(&rooms), "{rooms}");

    node.shard.handle_end(node.now, index);
    node.settle();
    assert_eq!(node.shard.memory().of(MemoryKind::Connections), 0);
}
