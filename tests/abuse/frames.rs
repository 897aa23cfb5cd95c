//! Frames that break RFC 6455, and messages that break the protocol.

use tidewheel::codec::websocket::client::encode_fragment;
use tidewheel::codec::websocket::{Data, OpCode};

use crate::node::{Node, frame};

/// How a server leaves a peer that sends this behind its upgrade, in one piece and octet by octet.
fn answers(bytes: &[u8]) -> [String; 2] {
    let mut node = Node::plain();
    let (whole, chopped) = (node.upgrade(0, "/ws"), node.upgrade(0, "/ws"));
    node.send(whole, bytes);
    for octet in bytes {
        node.send(chopped, &[*octet]);
    }
    [node.outcome(whole), node.outcome(chopped)]
}

/// A masked frame with any first octet, any claimed length, and a mask of zeros.
fn raw(first: u8, claimed: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match claimed {
        0..126 => bytes.push(0x80 | claimed as u8),
        126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((claimed as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(claimed.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn fragment(data: Data, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_fragment(OpCode::Data(data), is_final, [9; 4], payload, &mut bytes);
    bytes
}

#[test]
fn frames_that_break_the_rules_close_with_the_code_of_the_rule() {
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a frame without a mask",
            vec![0x81, 2, b'{', b'}'],
            "closed 1002",
        ),
        ("RSV1", raw(0xc1, 2, b"{}"), "closed 1002"),
        ("RSV2", raw(0xa1, 2, b"{}"), "closed 1002"),
        ("RSV3", raw(0x91, 2, b"{}"), "closed 1002"),
        (
            "all reserved bits on a ping",
            raw(0xf9, 0, b""),
            "closed 1002",
        ),
        ("a reserved data opcode", raw(0x83, 0, b""), "closed 1002"),
        (
            "a reserved control opcode",
            raw(0x8b, 0, b""),
            "closed 1002",
        ),
        (
            "a ping of 126 bytes",
            raw(0x89, 126, &[0; 126]),
            "closed 1002",
        ),
        ("a ping in fragments", raw(0x09, 0, b""), "closed 1002"),
        (
            "a continuation of nothing",
            raw(0x80, 0, b""),
            "closed 1002",
        ),
        (
            "a message within a message",
            [raw(0x01, 1, b"{"), raw(0x81, 2, b"{}")].concat(),
            "closed 1002",
        ),
        (
            "2⁶³ bytes announced",
            raw(0x81, 1 << 63, b""),
            "closed 1002",
        ),
        (
            "2⁶³-1 bytes announced",
            raw(0x81, (1 << 63) - 1, b""),
            "closed 1009",
        ),
        (
            "one byte over the limit announced",
            raw(0x81, 65_537, b""),
            "closed 1009",
        ),
        (
            "a length in more octets than it needs",
            vec![0x81, 0xfe, 0, 2, 0, 0, 0, 0, b'{', b'}'],
            "closed 1002",
        ),
        (
            "a small length in eight octets",
            [
                vec![0x81, 0xff],
                vec![0; 7],
                vec![2, 0, 0, 0, 0, b'{', b'}'],
            ]
            .concat(),
            "closed 1002",
        ),
        (
            "fragments over the limit together",
            [raw(0x01, 40_000, &[b' '; 40_000]), raw(0x80, 40_000, b"")].concat(),
            "closed 1009",
        ),
        ("a close of one byte", raw(0x88, 1, b"x"), "closed 1002"),
        (
            "a close with 1005",
            raw(0x88, 2, &1005_u16.to_be_bytes()),
            "closed 1002",
        ),
        (
            "a close with 1006",
            raw(0x88, 2, &1006_u16.to_be_bytes()),
            "closed 1002",
        ),
        (
            "a close with 5000",
            raw(0x88, 2, &5000_u16.to_be_bytes()),
            "closed 1002",
        ),
        (
            "a close whose reason is no UTF-8",
            raw(0x88, 4, &[3, 232, 0xc3, 0x28]),
            "closed 1007",
        ),
        (
            "text that is no UTF-8",
            raw(0x81, 2, b"\xc3\x28"),
            "closed 1007",
        ),
        (
            "text with a surrogate",
            raw(0x81, 3, b"\xed\xa0\x80"),
            "closed 1007",
        ),
        (
            "text in too many octets",
            raw(0x81, 2, b"\xc0\xaf"),
            "closed 1007",
        ),
        (
            "text that ends within a character",
            raw(0x81, 1, b"\xe2"),
            "closed 1007",
        ),
        (
            "bad UTF-8 in a fragment whose end never comes",
            raw(0x01, 100, b"\xff"),
            "closed 1007",
        ),
        ("a binary message", raw(0x82, 2, b"{}"), "closed 1003"),
        (
            "frames behind a close",
            [raw(0x88, 2, &1000_u16.to_be_bytes()), raw(0x81, 2, b"{}")].concat(),
            "closed 1000",
        ),
    ];
    for (what, bytes, expected) in table {
        let expected = [expected; 2].map(String::from);
        assert_eq!(answers(&bytes), expected, "{what}");
    }
}

#[test]
fn a_length_that_is_announced_takes_no_memory() {
    let mut node = Node::plain();
    let peers: Vec<_> = (0..100).map(|_| node.upgrade(0, "/ws")).collect();
    for peer in &peers {
        node.send(*peer, &raw(0x81, 65_536, b"{"));
    }
    for peer in &peers {
        assert_eq!(node.outcome(*peer), "open");
        assert!(node.wants_read(*peer));
    }
}

#[test]
fn floods_of_fragments_end_at_the_fragments_of_a_message() {
    for (what, payload) in [("empty ones", &b""[..]), ("of one byte", b" ")] {
        let mut node = Node::plain();
        let peer = node.upgrade(0, "/ws");
        let first = fragment(Data::Text, false, payload);
        let more = fragment(Data::Continue, false, payload);
        node.send(peer, &[first, more.repeat(1_023)].concat());
        assert_eq!(node.outcome(peer), "open", "{what}: 1,024");
        node.send(peer, &more);
        assert_eq!(node.outcome(peer), "closed 1009", "{what}: one more");
    }
}

#[test]
fn floods_of_empty_messages_are_errors_and_then_a_close() {
    for (what, bytes) in [
        ("in one frame", frame(OpCode::Data(Data::Text), b"")),
        (
            "in two",
            [
                fragment(Data::Text, false, b""),
                fragment(Data::Continue, true, b""),
            ]
            .concat(),
        ),
    ] {
        let mut node = Node::plain();
        let peer = node.upgrade(0, "/ws");
        node.send(peer, &bytes.repeat(10_000));
        let heard = node.heard(peer);
        assert_eq!(
            (heard.outcome(), heard.errors(4006)),
            ("closed 4006".into(), 11),
            "{what}"
        );
    }
}

#[test]
fn messages_that_are_none_are_answered_and_not_obeyed() {
    let deep = |open: &str, close: &str, n: usize| {
        format!(
            r#"{{"type":"message","room":"r","payload":{}0{}}}"#,
            open.repeat(n),
            close.repeat(n)
        )
    };
    let name = |bytes: usize| format!(r#"{{"type":"join_room","room":"{}"}}"#, "r".repeat(bytes));
    let key = |n: usize| {
        format!(
            r#"{{"type":"message","room":"r","payload":1,"metadata":{{"message_id":"{}"}}}}"#,
            "k".repeat(n)
        )
    };
    let table: Vec<(&str, String)> = vec![
        ("a number", "1".into()),
        ("nothing but space", "   ".into()),
        ("an array", "[]".into()),
        ("no type", "{}".into()),
        ("a type that is no string", r#"{"type":1}"#.into()),
        ("a type that nobody knows", r#"{"type":"shutdown"}"#.into()),
        (
            "what only the server says",
            r#"{"type":"broadcast","payload":1}"#.into(),
        ),
        ("a type twice", r#"{"type":"ping","type":"message"}"#.into()),
        (
            "a type twice, one in escapes",
            r#"{"type":"ping","typ\u0065":"message"}"#.into(),
        ),
        (
            "a room twice",
            r#"{"type":"join_room","room":"a","room":"b"}"#.into(),
        ),
        (
            "a payload twice",
            r#"{"type":"message","room":"r","payload":1,"payload":2}"#.into(),
        ),
        (
            "a key twice in metadata",
            r#"{"type":"message","room":"r","payload":1,"metadata":{"echo":true,"echo":false}}"#
                .into(),
        ),
        ("arrays 513 deep", deep("[", "]", 513)),
        ("objects 513 deep", deep(r#"{"a":"#, "}", 513)),
        ("arrays 30,000 deep", deep("[", "]", 30_000)),
        (
            "arrays that never close",
            format!(
                r#"{{"type":"message","room":"r","payload":{}"#,
                "[".repeat(60_000)
            ),
        ),
        ("two values", r#"{"type":"ping"} {"type":"ping"}"#.into()),
        ("a comma too many", r#"{"type":"ping",}"#.into()),
        (
            "a number that is none",
            r#"{"type":"message","room":"r","payload":01}"#.into(),
        ),
        (
            "NaN",
            r#"{"type":"message","room":"r","payload":NaN}"#.into(),
        ),
        (
            "half of a surrogate as a room",
            r#"{"type":"join_room","room":"\ud800"}"#.into(),
        ),
        (
            "a control character in a room",
            r#"{"type":"join_room","room":"a\u0000"}"#.into(),
        ),
        (
            "a line's end in a room",
            r#"{"type":"join_room","room":"a\n"}"#.into(),
        ),
        ("an empty room", name(0)),
        ("a room of 256 bytes", name(256)),
        ("a room of 60,000 bytes", name(60_000)),
        ("an empty message_id", key(0)),
        ("a message_id of 65 bytes", key(65)),
        (
            "an offset below zero",
            r#"{"type":"read_receipt","room":"r","payload":{"offset":-1}}"#.into(),
        ),
        (
            "an offset beyond 64 bits",
            r#"{"type":"read_receipt","room":"r","payload":{"offset":18446744073709551616}}"#
                .into(),
        ),
        ("a byte order mark", "\u{feff}{\"type\":\"ping\"}".into()),
    ];
    for (what, text) in table {
        let mut node = Node::plain();
        let peer = node.upgrade(0, "/ws");
        node.say(peer, &text);
        let heard = node.heard(peer);
        assert_eq!(
            (heard.outcome(), heard.errors(4006)),
            ("open".into(), 1),
            "{what}"
        );
        assert_eq!(heard.texts.len(), 2, "{what}: {:?}", heard.texts);
        assert_eq!(node.metrics().rooms.homed, 0, "{what}");
    }
}

#[test]
fn what_is_at_the_bound_is_obeyed() {
    for text in [
        format!(r#"{{"type":"join_room","room":"{}"}}"#, "r".repeat(255)),
        format!(
            r#"{{"type":"message","room":"r","payload":{}{}}}"#,
            "[".repeat(512),
            "]".repeat(512)
        ),
        format!(
            r#"{{"type":"history_query","room":"r","payload":{{"limit":{}}}}}"#,
            u64::MAX
        ),
    ] {
        let mut node = Node::plain();
        let peer = node.upgrade(0, "/ws");
        node.say(peer, &text);
        assert_eq!(node.heard(peer).errors(4006), 0, "{text}");
    }
}

#[test]
fn nobody_types_or_reads_where_it_is_no_member() {
    let mut node = Node::plain();
    let (member, peer) = (node.upgrade(0, "/ws/r"), node.upgrade(0, "/ws"));
    for text in [
        r#"{"type":"typing_start","room":"r"}"#,
        r#"{"type":"typing_stop","room":"r"}"#,
        r#"{"type":"read_receipt","room":"r","payload":{"offset":1}}"#,
    ] {
        node.say(peer, text);
    }
    assert_eq!(node.heard(peer).errors(4010), 3);
    assert_eq!(node.heard(member).texts.len(), 2, "established and joined");
}
