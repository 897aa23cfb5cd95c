//! Tables of messages and what is made of them.

use crate::protocol::command::{Command, Malformed, Recover};
use crate::protocol::ids::Epoch;
use crate::protocol::json::{DEPTH_MAX, Parser};

/// Parses `text` and hands over the command, which must be one.
fn check(text: &str, expected: &Command<'_>) {
    let mut parser = Parser::new();
    match parser.parse(text) {
        Ok(request) => assert_eq!(&request.command, expected, "{text}"),
        Err(malformed) => panic!("{text}: {}", malformed.message),
    }
}

fn refused(text: &str) -> Malformed {
    let mut parser = Parser::new();
    match parser.parse(text) {
        Ok(request) => panic!("{text} was taken for {request:?}"),
        Err(malformed) => malformed,
    }
}

#[test]
fn every_command_is_read_with_the_least_it_needs() {
    let room = "lobby";
    for (text, expected) in [
        (
            r#"{"type":"auth","payload":{"token":"t"}}"#,
            Command::Auth { token: "t" },
        ),
        (
            r#"{"type":"join_room","room":"lobby"}"#,
            Command::JoinRoom {
                room,
                history: None,
                recover: None,
                presence: None,
            },
        ),
        (
            r#"{"type":"leave_room","room":"lobby"}"#,
            Command::LeaveRoom { room },
        ),
        (
            r#"{"type":"message","room":"lobby","payload":1}"#,
            Command::Message {
                room,
                payload: b"1",
            },
        ),
        (
            r#"{"type":"direct_message","payload":{"user_id":"ada","data":{}}}"#,
            Command::DirectMessage {
                user_id: "ada",
                data: b"{}",
            },
        ),
        (
            r#"{"type":"typing_start","room":"lobby"}"#,
            Command::TypingStart { room },
        ),
        (
            r#"{"type":"typing_stop","room":"lobby"}"#,
            Command::TypingStop { room },
        ),
        (
            r#"{"type":"read_receipt","room":"lobby","payload":{"offset":18446744073709551615}}"#,
            Command::ReadReceipt {
                room,
                offset: u64::MAX,
            },
        ),
        (
            r#"{"type":"presence_query","room":"lobby"}"#,
            Command::PresenceQuery { room },
        ),
        (
            r#"{"type":"history_query","room":"lobby"}"#,
            Command::HistoryQuery {
                room,
                since: None,
                limit: None,
            },
        ),
        (r#"{"type":"ping"}"#, Command::Ping { payload: None }),
    ] {
        check(text, &expected);
    }
}

#[test]
fn options_are_read_where_they_are_given() {
    let room = "lobby";
    let recover = |epoch, offset| Command::JoinRoom {
        room,
        history: None,
        recover: Some(Recover { epoch, offset }),
        presence: None,
    };
    for (text, expected) in [
        (
            r#"{"type":"join_room","room":"lobby","payload":{"history":0,"presence":true,"later":[1]}}"#,
            Command::JoinRoom {
                room,
                history: Some(0),
                recover: None,
                presence: Some(true),
            },
        ),
        (
            r#"{"type":"join_room","room":"lobby","payload":{}}"#,
            Command::JoinRoom {
                room,
                history: None,
                recover: None,
                presence: None,
            },
        ),
        (
            r#"{"type":"join_room","room":"lobby","payload":{"recover":{"epoch":"000000000000a","offset":7}}}"#,
            recover(Some(Epoch(10)), 7),
        ),
        (
            r#"{"type":"join_room","room":"lobby","payload":{"recover":{"offset":0,"epoch":"what?"}}}"#,
            recover(None, 0),
        ),
        (
            r#"{"type":"history_query","room":"lobby","payload":{"since":3,"limit":99999999999999999999}}"#,
            Command::HistoryQuery {
                room,
                since: Some(3),
                limit: Some(u32::MAX),
            },
        ),
        (
            r#"{"type":"ping","payload":null}"#,
            Command::Ping {
                payload: Some(b"null"),
            },
        ),
        (
            r#"{"type":"message","room":"lobby","payload":null}"#,
            Command::Message {
                room,
                payload: b"null",
            },
        ),
        (
            r#"{"payload":{"data":null,"user_id":"anon-0"},"type":"direct_message"}"#,
            Command::DirectMessage {
                user_id: "anon-0",
                data: b"null",
            },
        ),
    ] {
        check(text, &expected);
    }
}

#[test]
fn metadata_is_read() {
    let mut parser = Parser::new();
    let text =
        r#"{"type":"ping","metadata":{"message_id":"m","echo":false,"correlation_id":"c\n"}}"#;
    let request = parser.parse(text).unwrap();
    assert_eq!(
        (request.correlation_id, request.message_id),
        (Some("c\n"), Some("m"))
    );
    assert!(!request.echo);
    let request = parser.parse(r#"{"type":"ping","metadata":{}}"#).unwrap();
    assert_eq!((request.correlation_id, request.message_id), (None, None));
    assert!(request.echo);
}

#[test]
fn names_and_strings_may_be_written_with_escapes() {
    check(
        r#" {"\u0074ype" : "mess\u0061ge" , "r\u006fom":"r\u00e9\ud83d\ude00d\/\"", "p\u0061yload":{"\u0061":"\u0061"}}"#,
        &Command::Message {
            room: "ré😀d/\"",
            payload: br#"{"\u0061":"\u0061"}"#,
        },
    );
    let mut parser = Parser::new();
    let text = r#"{"type":"ping","m\u0065tadata":{"\u0065cho":false}}"#;
    assert!(!parser.parse(text).unwrap().echo);
}

#[test]
#[rustfmt::skip]
fn a_payload_passes_byte_for_byte() {
    let mut parser = Parser::new();
    let deep = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    for payload in [
        "123456789012345678901234567890",
        "-0",
        "1e999",
        "-1.50E+00",
        "0.1000",
        "\"\"",
        r#""\ud800""#,
        r#""\udc00\ud800\u0041""#,
        r#"{"a":1,"a":2}"#,
        r#"{"\u0061":"\/"}"#,
        r#"{"type":"auth","metadata":{"echo":1},"payload":[]}"#,
        "[ 1 ,\n\t2 ]",
        "true",
        "null",
        "\"\u{7f}\u{2028}é🙂\"",
        deep.as_str(),
    ] {
        let text = format!(r#"{{"type":"message","room":"r","payload": {payload} }}"#);
        let request = parser.parse(&text).unwrap();
        let expected = Command::Message {
            room: "r",
            payload: payload.as_bytes(),
        };
        assert_eq!(request.command, expected);
        let text = format!(r#"{{"type":"ping","payload":{payload}}}"#);
        let expected = Command::Ping {
            payload: Some(payload.as_bytes()),
        };
        assert_eq!(parser.parse(&text).unwrap().command, expected);
        let text =
            format!(r#"{{"type":"direct_message","payload":{{"data":{payload},"user_id":"u"}}}}"#);
        match parser.parse(&text).map(|request| request.command) {
            // The data is one level down in the payload.
            Err(malformed) if payload == deep => assert!(malformed.message.contains("512")),
            found => {
                let expected = Command::DirectMessage {
                    user_id: "u",
                    data: payload.as_bytes(),
                };
                assert_eq!(found.unwrap(), expected);
            }
        }
    }
}

#[test]
fn unknown_members_are_ignored_whatever_they_hold() {
    let mut parser = Parser::new();
    for unknown in [
        "1e999",
        "123456789012345678901234567890",
        r#""\ud800""#,
        r#"{"a":1,"a":2}"#,
        "[[[]]]",
        r#"{"a":{"b":"\udfff"},"c":"d","e":-0.0}"#,
        "null",
    ] {
        for text in [
            format!(r#"{{"x":{unknown},"type":"ping"}}"#),
            format!(r#"{{"type":"ping","metadata":{{"x":{unknown}}}}}"#),
            format!(r#"{{"type":"ping","\ud800":{unknown},"\ud801":0}}"#),
            format!(r#"{{"type":"ping","room":{unknown}}}"#),
        ] {
            let request = parser.parse(&text).unwrap();
            assert_eq!(request.command, Command::Ping { payload: None }, "{text}");
        }
        let text = format!(r#"{{"type":"join_room","room":"r","payload":{{"x":{unknown}}}}}"#);
        assert!(parser.parse(&text).is_ok(), "{text}");
    }
}

#[test]
#[rustfmt::skip]
fn what_is_wrong_is_said_with_the_value_and_the_remedy() {
    for (text, message) in [
        (
            "",
            "not valid JSON: expected an object at byte 0, found the end of the text; send one",
        ),
        ("[1]", "expected an object at byte 0, found `[1]`"),
        (
            r#"{"type":"ping"} x"#,
            "expected the end of the text at byte 16, found `x`",
        ),
        (
            r#"{"type":"ping""#,
            "a comma or a closing brace at byte 14, found the end of the text",
        ),
        (r#"{"type":"ping","payload":01}"#, "at byte 26, found `1}`"),
        (
            "{}",
            "member `type` is missing; send a string that names the command",
        ),
        (r#"{"type":5}"#, "member `type` is `5`; send a string"),
        (r#"{"type":"\ud800"}"#, r"member `type` is `"),
        (
            r#"{"type":"pong"}"#,
            "unknown type `\"pong\"`; send one of auth, join_room, leave_room, ",
        ),
        (r#"{"type":""}"#, "unknown type `\"\"`; send"),
        (
            r#"{"type":"ping","type":"ping"}"#,
            "member `type` appears more than once; send it once",
        ),
        (
            r#"{"type":"ping","t\u0079pe":1}"#,
            "member `type` appears more than once",
        ),
        (
            r#"{"type":"ping","x":1,"x":1}"#,
            "member `x` appears more than once",
        ),
        (
            r#"{"type":"ping","metadata":{"echo":true,"echo":true}}"#,
            "`echo` appears more",
        ),
        (
            r#"{"type":"ping","metadata":null}"#,
            "member `metadata` is `null`; send an object",
        ),
        (
            r#"{"type":"ping","metadata":{"echo":0}}"#,
            "`metadata.echo` is `0`; send true or false",
        ),
        (
            r#"{"type":"ping","metadata":{"correlation_id":""}}"#,
            "is `\"\"`; send a string of 1",
        ),
        (
            r#"{"type":"ping","metadata":{"message_id":7}}"#,
            "`metadata.message_id` is `7`; send",
        ),
        (
            r#"{"type":"leave_room"}"#,
            "member `room` is missing; send a string of 1 to 255",
        ),
        (
            r#"{"type":"leave_room","room":null}"#,
            "member `room` is `null`; send a string",
        ),
        (
            r#"{"type":"leave_room","room":"a\u0000"}"#,
            r"member `room` is `",
        ),
        (
            r#"{"type":"leave_room","room":"\ud800"}"#,
            r#"member `room` is `"\ud800"`"#,
        ),
        (
            r#"{"type":"message","room":"r"}"#,
            "member `payload` is missing; send any JSON value",
        ),
        (
            r#"{"type":"direct_message"}"#,
            "member `payload` is missing; send an object",
        ),
        (
            r#"{"type":"direct_message","payload":{"user_id":"u"}}"#,
            "`payload.data` is missing",
        ),
        (
            r#"{"type":"direct_message","payload":{"data":1}}"#,
            "`payload.user_id` is missing",
        ),
        (
            r#"{"type":"direct_message","payload":{"data":1,"data":1}}"#,
            "`data` appears more",
        ),
        (
            r#"{"type":"direct_message","payload":[]}"#,
            "member `payload` is `[]`; send an object",
        ),
        (
            r#"{"type":"auth","payload":{}}"#,
            "`payload.token` is missing; send the token",
        ),
        (
            r#"{"type":"auth","payload":{"token":["s3cret"]}}"#,
            "`payload.token` is missing",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":null}"#,
            "`payload` is `null`; send an obj",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"history":-1}}"#,
            "is `-1`; send a whole",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"history":1.0}}"#,
            "is `1.0`; send a wh",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"history":"1"}}"#,
            "`\"1\"`; send a whole",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"presence":1}}"#,
            "is `1`; send true or",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"recover":1}}"#,
            "is `1`; send an object",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"recover":{}}}"#,
            "`payload.recover.epoch`",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"recover":{"epoch":1,"offset":1}}}"#,
            "`payload.recover.epoch` is `1`; send the epoch string of an earlier reply",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"recover":{"epoch":"e"}}}"#,
            "`payload.recover.offset` is missing; send a whole number",
        ),
        (
            r#"{"type":"join_room","room":"r","payload":{"recover":{"epoch":"e","epoch":"e","offset":1}}}"#,
            "member `epoch` appears more than once",
        ),
        (
            r#"{"type":"read_receipt","room":"r","payload":{"offset":1e3}}"#,
            "is `1e3`; send a",
        ),
        (
            r#"{"type":"read_receipt","room":"r","payload":{"offset":18446744073709551616}}"#,
            "is `18446744073709551616`; send a whole number from 0 to 18446744073709551615",
        ),
        (
            r#"{"type":"history_query","room":"r","payload":{"since":null}}"#,
            "`payload.since` is",
        ),
    ] {
        let found = refused(text).message;
        assert!(found.contains(message), "{text}\n{found}\n{message}");
    }
}

#[test]
fn a_long_value_is_cut_in_the_error() {
    let message = refused(&format!(r#"{{"type":"{}"}}"#, "é".repeat(500))).message;
    assert!(
        message.starts_with(&format!("unknown type `\"{}…`;", "é".repeat(31))),
        "{message}"
    );
}

#[test]
fn the_error_carries_correlation_id_and_room_where_they_could_be_read() {
    let metadata = r#""metadata":{"correlation_id":"c"}"#;
    for (text, id, room) in [
        (
            format!(r#"{{"type":"x","room":"r",{metadata}}}"#),
            Some("c"),
            Some("r"),
        ),
        (
            format!(r#"{{"type":"message","room":"r",{metadata}}}"#),
            Some("c"),
            Some("r"),
        ),
        (
            format!(r#"{{"type":"message","room":"\n",{metadata}}}"#),
            Some("c"),
            None,
        ),
        (
            format!(r#"{{{metadata},"room":"r","type":"message","payload":1.}}"#),
            Some("c"),
            Some("r"),
        ),
        (
            format!(r#"{{{metadata},"type":"ping","type":"ping"}}"#),
            Some("c"),
            None,
        ),
        (
            format!(r#"{{{metadata},"payload":{}"#, "[".repeat(1000)),
            Some("c"),
            None,
        ),
        (format!(r#"{{"payload":}},{metadata}}}"#), None, None),
        (r#"{"metadata":{"correlation_id":""}}"#.into(), None, None),
        (
            format!(
                r#"{{"metadata":{{"correlation_id":"{}"}}}}"#,
                "x".repeat(65)
            ),
            None,
            None,
        ),
    ] {
        let malformed = refused(&text);
        assert_eq!(malformed.correlation_id.as_deref(), id, "{text}");
        assert_eq!(malformed.room.as_deref(), room, "{text}");
    }
}

#[test]
fn a_repeat_among_thousands_of_members_is_found() {
    let members: Vec<String> = (0..5000).map(|n| format!("\"m{n}\":{n}")).collect();
    let members = members.join(",");
    check(
        &format!("{{{members},\"type\":\"ping\"}}"),
        &Command::Ping { payload: None },
    );
    let malformed = refused(&format!("{{{members},\"type\":\"ping\",\"m77\":0}}"));
    assert!(
        malformed
            .message
            .starts_with("member `m77` appears more than once")
    );
}

#[test]
fn a_parser_keeps_nothing_from_one_message_to_the_next() {
    let mut parser = Parser::new();
    let good = r#"{"type":"message","room":"r","payload":[1],"metadata":{"message_id":"m"}}"#;
    for other in [
        good,
        "{",
        "",
        r#"{"type":"ping"}"#,
        "[[[[",
        "{\"type\":\"auth\",\"payload\":{}}",
    ] {
        let _ = parser.parse(other);
        let request = parser.parse(good).unwrap();
        assert_eq!(
            request.command,
            Command::Message {
                room: "r",
                payload: b"[1]"
            }
        );
        assert_eq!(request.message_id, Some("m"));
    }
}
