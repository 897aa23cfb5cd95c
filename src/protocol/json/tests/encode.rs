//! Every event, held against the documented object, and the frames they stand in.

use serde_json::{Value, json};

use crate::frame::Frame;
use crate::protocol::codes::Code;
use crate::protocol::event::{Event, Member, PresenceChange, Sender};
use crate::protocol::ids::{ClientId, Epoch, MessageId, Offset, UserId};
use crate::protocol::json::{encode, encode_body};

fn body(event: &Event<'_>, correlation_id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(event, correlation_id, &mut out);
    let frame = Frame::new(&out);
    let mut alone = Vec::new();
    encode_body(event, correlation_id, &mut alone);
    assert_eq!(frame.body(), alone);
    alone
}

fn check(event: &Event<'_>, expected: &Value) {
    let found: Value = serde_json::from_slice(&body(event, None)).unwrap();
    assert_eq!(&found, expected);
    let mut with_id = expected.clone();
    with_id["metadata"]["correlation_id"] = json!("c\"\n");
    let found: Value = serde_json::from_slice(&body(event, Some("c\"\n"))).unwrap();
    assert_eq!(found, with_id);
}

const EPOCH: Epoch = Epoch(10);
const EPOCH_TEXT: &str = "000000000000a";
const ROOM: &str = "a \"room\"";

#[test]
fn events_about_the_connection_have_their_documented_form() {
    let (ada, anonymous) = (UserId::from_name("ada\\"), UserId::Anonymous(ClientId(1)));
    check(
        &Event::ConnectionEstablished {
            client_id: ClientId(1),
            user_id: &anonymous,
            server_time_unix_ms: 1_767_225_600_123,
            heartbeat_interval_ms: 25_000,
            max_message_bytes: 65_536,
        },
        &json!({"type": "connection_established", "payload": {
            "client_id": "0000000000001", "user_id": "anon-0000000000001",
            "server_time": "2026-01-01T00:00:00.123Z", "protocol": "tidewheel.v1.json",
            "heartbeat_interval_ms": 25000, "max_message_bytes": 65536}}),
    );
    check(
        &Event::AuthResponse {
            user_id: &ada,
            expires_at_unix_ms: Some(0),
        },
        &json!({"type": "auth_response",
            "payload": {"user_id": "ada\\", "expires_at": "1970-01-01T00:00:00.000Z"}}),
    );
    check(
        &Event::AuthResponse {
            user_id: &ada,
            expires_at_unix_ms: None,
        },
        &json!({"type": "auth_response", "payload": {"user_id": "ada\\"}}),
    );
    check(
        &Event::ServerShutdown {
            reconnect_after_ms: 5,
        },
        &json!({"type": "server_shutdown", "payload": {"reconnect_after_ms": 5}}),
    );
    check(
        &Event::TokenExpiring {
            expires_in_ms: 30_000,
        },
        &json!({"type": "token_expiring", "payload": {"expires_in_ms": 30000}}),
    );
    check(&Event::Pong { payload: None }, &json!({"type": "pong"}));
    check(
        &Event::Pong {
            payload: Some(b"[1]"),
        },
        &json!({"type": "pong", "payload": [1]}),
    );
    check(
        &Event::Broadcast { payload: b"{}" },
        &json!({"type": "broadcast", "payload": {}}),
    );
    check(
        &Event::Error {
            code: Code::RoomFull,
            message: "m\t",
            room: Some(ROOM),
        },
        &json!({"type": "error", "room": ROOM, "payload": {"code": 4008, "message": "m\t"}}),
    );
    check(
        &Event::Error {
            code: Code::InvalidMessageFormat,
            message: "m",
            room: None,
        },
        &json!({"type": "error", "payload": {"code": 4006, "message": "m"}}),
    );
}

#[test]
fn publications_have_their_documented_form() {
    let ada = UserId::from_name("ada");
    let sender = Some(Sender {
        client_id: ClientId(2),
        user_id: &ada,
    });
    check(
        &Event::Message {
            room: ROOM,
            offset: Offset(7),
            payload: b"{\"k\": [null]}",
            message_id: MessageId::Given("\"m"),
            unix_ms: 0,
            sender,
        },
        &json!({"type": "message", "room": ROOM, "offset": 7, "payload": {"k": [null]},
            "metadata": {"message_id": "\"m", "timestamp": "1970-01-01T00:00:00.000Z",
                "client_id": "0000000000002", "user_id": "ada"}}),
    );
    check(
        &Event::Message {
            room: ROOM,
            offset: Offset(7),
            payload: b"1",
            message_id: MessageId::Generated(EPOCH, Offset(7)),
            unix_ms: 0,
            sender: None,
        },
        &json!({"type": "message", "room": ROOM, "offset": 7, "payload": 1, "metadata": {
            "message_id": "000000000000a-7", "timestamp": "1970-01-01T00:00:00.000Z"}}),
    );
    let message_id = MessageId::Given("m");
    check(
        &Event::DirectMessage {
            data: b"null",
            message_id,
            unix_ms: 0,
            sender,
        },
        &json!({"type": "direct_message", "payload": {"data": null}, "metadata": {
            "message_id": "m", "timestamp": "1970-01-01T00:00:00.000Z",
            "client_id": "0000000000002", "user_id": "ada"}}),
    );
    check(
        &Event::MessageSent {
            room: Some(ROOM),
            position: Some((EPOCH, Offset(7))),
            message_id,
        },
        &json!({"type": "message_sent", "room": ROOM,
            "payload": {"offset": 7, "epoch": EPOCH_TEXT, "message_id": "m"}}),
    );
    check(
        &Event::MessageSent {
            room: None,
            position: None,
            message_id,
        },
        &json!({"type": "message_sent", "payload": {"message_id": "m"}}),
    );
}

#[test]
fn events_about_a_room_have_their_documented_form() {
    let ada = UserId::from_name("ada");
    check(
        &Event::RoomJoined {
            room: ROOM,
            offset: Offset(0),
            epoch: EPOCH,
            recovered: true,
            members: 3,
        },
        &json!({"type": "room_joined", "room": ROOM, "payload": {
            "offset": 0, "epoch": EPOCH_TEXT, "recovered": true, "members": 3}}),
    );
    check(
        &Event::RoomLeft { room: ROOM },
        &json!({"type": "room_left", "room": ROOM, "payload": {}}),
    );
    check(
        &Event::MessagesMissed {
            room: ROOM,
            from: Offset(1),
            to: Offset(u64::MAX),
        },
        &json!({"type": "messages_missed", "room": ROOM,
            "payload": {"from": 1, "to": u64::MAX}}),
    );
    for (start, kind) in [(true, "typing_start"), (false, "typing_stop")] {
        check(
            &Event::Typing {
                room: ROOM,
                start,
                user_id: &ada,
            },
            &json!({"type": kind, "room": ROOM, "metadata": {"user_id": "ada"}}),
        );
    }
    check(
        &Event::ReadReceipt {
            room: ROOM,
            offset: Offset(9),
            user_id: &ada,
        },
        &json!({"type": "read_receipt", "room": ROOM, "payload": {"offset": 9},
            "metadata": {"user_id": "ada"}}),
    );
    for (change, expected) in [
        (
            PresenceChange::Join {
                user_id: &ada,
                info: Some(b"{\"n\":1}"),
            },
            json!({"event": "join", "user_id": "ada", "info": {"n": 1}, "count": 4}),
        ),
        (
            PresenceChange::Leave {
                user_id: &ada,
                info: None,
            },
            json!({"event": "leave", "user_id": "ada", "count": 4}),
        ),
        (
            PresenceChange::Summary { joined: 5, left: 6 },
            json!({"event": "summary", "joined": 5, "left": 6, "count": 4}),
        ),
    ] {
        check(
            &Event::PresenceUpdate {
                room: ROOM,
                change,
                count: 4,
            },
            &json!({"type": "presence_update", "room": ROOM, "payload": expected}),
        );
    }
}

#[test]
fn lists_have_their_documented_form() {
    let (ada, bob) = (UserId::from_name("ada"), UserId::from_name("bob"));
    let members = [
        Member {
            user_id: &ada,
            connections: 2,
            read: Some(Offset(3)),
            info: Some(b"[]"),
        },
        Member {
            user_id: &bob,
            connections: 1,
            read: None,
            info: None,
        },
    ];
    check(
        &Event::RoomMembers {
            room: ROOM,
            count: 9,
            members: &members,
        },
        &json!({"type": "room_members", "room": ROOM, "payload": {"count": 9, "members": [
            {"user_id": "ada", "connections": 2, "read": 3, "info": []},
            {"user_id": "bob", "connections": 1}]}}),
    );
    check(
        &Event::RoomMembers {
            room: ROOM,
            count: 0,
            members: &[],
        },
        &json!({"type": "room_members", "room": ROOM, "payload": {"count": 0, "members": []}}),
    );
    for messages in [&[b"{\"a\":1}".as_slice(), b"{}"][..], &[]] {
        let expected: Vec<Value> = messages
            .iter()
            .map(|message| serde_json::from_slice(message).unwrap())
            .collect();
        check(
            &Event::History {
                room: ROOM,
                messages,
                offset: Offset(4),
                epoch: EPOCH,
                complete: false,
            },
            &json!({"type": "history", "room": ROOM, "payload": {"messages": expected,
                "offset": 4, "epoch": EPOCH_TEXT, "complete": false}}),
        );
    }
}

#[test]
fn a_frame_has_the_shortest_header_and_follows_what_was_there() {
    // `{"type":"pong","payload":""}` takes 28 bytes.
    for body_len in [
        28, 125, 126, 127, 400, 65_535, 65_536, 65_537, 65_800, 200_000,
    ] {
        let payload = format!("\"{}\"", "x".repeat(body_len - 28));
        let mut out = b"before".to_vec();
        encode(
            &Event::Pong {
                payload: Some(payload.as_bytes()),
            },
            None,
            &mut out,
        );
        let frame = out.strip_prefix(b"before").unwrap();
        let header: Vec<u8> = match body_len {
            0..126 => vec![0x81, body_len as u8],
            126..65_536 => [&[0x81, 126], &(body_len as u16).to_be_bytes()[..]].concat(),
            _ => [&[0x81, 127], &(body_len as u64).to_be_bytes()[..]].concat(),
        };
        let body = frame.strip_prefix(header.as_slice()).unwrap();
        assert_eq!(
            body,
            format!("{{\"type\":\"pong\",\"payload\":{payload}}}").as_bytes()
        );
        assert_eq!(body.len(), body_len);
    }
}

#[test]
fn a_body_that_grows_past_the_expected_header_is_moved() {
    // The text of an error is not among the data that the guess looks at.
    let message = "\u{1}".repeat(20_000);
    let mut out = Vec::new();
    let event = Event::Error {
        code: Code::UnknownError,
        message: &message,
        room: None,
    };
    encode(&event, None, &mut out);
    let found: Value = serde_json::from_slice(Frame::new(&out).body()).unwrap();
    assert_eq!(found["payload"]["message"], message);
    assert_eq!(out[1], 127);
}
