//! Requests that two parsers could read in two ways, that are too long, or that lie.

use tidewheel::codec::websocket::{Data, OpCode};
use tidewheel::metrics::Reject;

use crate::node::{Node, UPGRADE, frame, head};

/// What the whole of `bytes` on a new connection comes to, in one piece and octet by octet.
fn answers(bytes: &[u8]) -> [String; 2] {
    let mut node = Node::plain();
    let (whole, chopped) = (node.accept(0), node.accept(0));
    node.send(whole, bytes);
    for octet in bytes {
        node.send(chopped, &[*octet]);
    }
    [node.outcome(whole), node.outcome(chopped)]
}

/// An upgrade with more fields, or with other ones.
fn with(more: &str) -> String {
    format!("GET /ws HTTP/1.1\r\n{more}{UPGRADE}")
}

fn without(field: &str) -> String {
    let fields = UPGRADE.split_inclusive("\r\n");
    let kept: String = fields.filter(|f| !f.starts_with(field)).collect();
    format!("GET /ws HTTP/1.1\r\n{kept}")
}

fn instead(field: &str, other: &str) -> String {
    without(field).replace("HTTP/1.1\r\n", &format!("HTTP/1.1\r\n{other}\r\n"))
}

#[test]
fn requests_that_could_be_smuggled_are_refused_or_harmless() {
    let table: Vec<(&str, String, &str)> = vec![
        (
            "two lengths",
            with("Content-Length: 5\r\nContent-Length: 6\r\n"),
            "http 400",
        ),
        (
            "one length twice, of a body",
            with("Content-Length: 5, 5\r\n"),
            "http 400",
        ),
        (
            "a length with a sign",
            with("Content-Length: +0\r\n"),
            "http 400",
        ),
        (
            "a length in hex",
            with("Content-Length: 0x0\r\n"),
            "http 400",
        ),
        (
            "a length beyond 64 bits",
            with("Content-Length: 18446744073709551616\r\n"),
            "http 400",
        ),
        (
            "a body on an upgrade",
            with("Content-Length: 4\r\n") + "POST",
            "http 400",
        ),
        (
            "no body, said twice",
            with("Content-Length: 0\r\nContent-Length: 0\r\n"),
            "open",
        ),
        (
            "chunks on an upgrade",
            with("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            "http 400",
        ),
        (
            "chunks and a length",
            with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
            "http 400",
        ),
        (
            "an odd encoding",
            with("Transfer-Encoding: xchunked\r\n"),
            "http 400",
        ),
        (
            "an encoding with a tab",
            with("Transfer-Encoding:\tchunked\r\n"),
            "http 400",
        ),
        (
            "chunks in HTTP/1.0",
            with("Transfer-Encoding: chunked\r\n").replace("1.1", "1.0"),
            "http 400",
        ),
        ("a folded field", with("X: a\r\n b\r\n"), "http 400"),
        (
            "a folded length",
            with("X: a\r\n\tContent-Length: 9\r\n"),
            "http 400",
        ),
        ("a space before the colon", with("X : a\r\n"), "http 400"),
        (
            "a space before a length's colon",
            with("Content-Length : 0\r\n"),
            "http 400",
        ),
        (
            "a space before the first field",
            with(" X: a\r\n"),
            "http 400",
        ),
        ("a bare LF", with("X: a\n"), "http 400"),
        (
            "a bare LF as the end",
            head("/ws").replace("\r\n\r\n", "\n\n"),
            "http 400",
        ),
        ("a bare CR", with("X: a\rY: b\r\n"), "http 400"),
        ("a NUL in a value", with("X: a\0b\r\n"), "http 400"),
        ("a NUL in a name", with("X\0: a\r\n"), "http 400"),
        ("a NUL in the target", head("/ws\0"), "http 400"),
        ("a DEL in a value", with("X: a\x7f\r\n"), "http 400"),
        ("a field without a colon", with("X\r\n"), "http 400"),
        ("a field without a name", with(": a\r\n"), "http 400"),
        ("a second host", with("Host: y\r\n"), "http 400"),
        ("the same host again", with("Host: x\r\n"), "http 400"),
        ("no host", without("Host"), "http 400"),
        (
            "two hosts in one",
            instead("Host", "Host: x, y"),
            "http 400",
        ),
        (
            "a host with a path",
            instead("Host", "Host: x/ws"),
            "http 400",
        ),
        (
            "a host with a user",
            instead("Host", "Host: a@x"),
            "http 400",
        ),
        ("the absolute form", head("http://x/ws"), "open"),
        (
            "the absolute form of another host",
            head("ws://elsewhere.example/ws"),
            "open",
        ),
        ("another scheme", head("gopher://x/ws"), "http 400"),
        ("a fragment", head("/ws#a"), "http 400"),
        ("a target without a slash", head("ws"), "http 400"),
        ("a target that is not ASCII", head("/ws/é"), "http 400"),
        ("a target with a space", head("/ws/a b"), "http 505"),
        ("a path that climbs", head("/ws/../admin"), "open"),
        (
            "an encoded path that climbs",
            head("/%2e%2e/ws"),
            "http 404",
        ),
        ("a NUL in a room", head("/ws/%00"), "http 400"),
        (
            "a line's end in a room",
            head("/ws/a%0d%0aSet-Cookie:b"),
            "http 400",
        ),
        ("a room that is no UTF-8", head("/ws/%ff"), "http 400"),
        ("a sequence cut off", head("/ws/%4"), "http 400"),
        (
            "a room of 256 bytes",
            head(&format!("/ws/{}", "r".repeat(256))),
            "http 400",
        ),
        ("a token in the URL", head("/ws?token=t"), "http 400"),
        (
            "a line's end in a user",
            head("/ws?user_id=a%0ab"),
            "http 400",
        ),
        ("a user that is empty", head("/ws?user_id="), "http 400"),
        (
            "a tunnel",
            "CONNECT x:22 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            "http 400",
        ),
        (
            "TRACE",
            "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            "http 405",
        ),
        (
            "HTTP/2 without asking",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            "http 505",
        ),
        ("HTTP/0.9", "GET /ws\r\n\r\n".into(), "http 400"),
        ("two spaces", head("/ws").replacen(' ', "  ", 1), "http 400"),
        (
            "an empty line too many",
            format!("\r\n\r\n{}", head("/ws")),
            "http 400",
        ),
        ("a TLS hello", "\x16\x03\x01\x02\x00\x01".into(), "http 400"),
        ("SSH", "SSH-2.0-OpenSSH_9.6\r\n\r\n".into(), "http 400"),
        (
            "a PROXY header that nobody asked for",
            format!("PROXY TCP4 1.2.3.4 1.1.1.1 1 2\r\n{}", head("/ws")),
            "http 505",
        ),
    ];
    for (what, request, expected) in table {
        let expected = [expected; 2].map(String::from);
        assert_eq!(answers(request.as_bytes()), expected, "{what}: {request:?}");
    }
}

#[test]
fn upgrades_that_are_none_are_refused() {
    let key = |key: &str| instead("Sec-WebSocket-Key", &format!("Sec-WebSocket-Key: {key}"));
    let table: Vec<(&str, String, &str)> = vec![
        ("no key", without("Sec-WebSocket-Key"), "http 400"),
        ("an empty key", key(""), "http 400"),
        ("a key of 15 bytes", key("AAAAAAAAAAAAAAAAAAAA"), "http 400"),
        (
            "a key of 17 bytes",
            key("AAAAAAAAAAAAAAAAAAAAAAA="),
            "http 400",
        ),
        (
            "a key that is no base64",
            key("!!!!!!!!!!!!!!!!!!!!!!=="),
            "http 400",
        ),
        (
            "a key with bits left over",
            key("dGhlIHNhbXBsZSBub25jZR=="),
            "open",
        ),
        (
            "a second key",
            with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            "http 400",
        ),
        (
            "a key as long as a head",
            key(&"A".repeat(4_096)),
            "http 400",
        ),
        (
            "another version",
            instead("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"),
            "http 426",
        ),
        ("no version", without("Sec-WebSocket-Version"), "http 426"),
        (
            "two versions",
            with("Sec-WebSocket-Version: 13\r\n"),
            "http 426",
        ),
        ("no upgrade", without("Upgrade"), "http 426"),
        ("no connection", without("Connection"), "http 426"),
        (
            "an upgrade to HTTP/2",
            instead("Upgrade", "Upgrade: h2c"),
            "http 426",
        ),
        ("POST", head("/ws").replace("GET", "POST"), "http 405"),
        ("HTTP/1.0", head("/ws").replace("1.1", "1.0"), "http 505"),
        (
            "a subprotocol that is no token",
            with("Sec-WebSocket-Protocol: a b\r\n"),
            "http 400",
        ),
        (
            "a subprotocol that is not spoken",
            with("Sec-WebSocket-Protocol: mqtt\r\n"),
            "http 400",
        ),
        (
            "a thousand subprotocols",
            with(&format!(
                "Sec-WebSocket-Protocol: {}\r\n",
                "a,".repeat(1_000)
            )),
            "http 400",
        ),
    ];
    for (what, request, expected) in table {
        let expected = [expected; 2].map(String::from);
        assert_eq!(answers(request.as_bytes()), expected, "{what}");
    }
}

#[test]
fn a_head_is_as_long_as_it_may_be_and_no_longer() {
    let of = |bytes: usize| {
        let rest = head("/ws").len() + "X: \r\n".len();
        let request = with(&format!("X: {}\r\n", "x".repeat(bytes - rest)));
        assert_eq!(request.len(), bytes);
        request
    };
    assert_eq!(answers(of(8_192).as_bytes()), ["open", "open"]);
    assert_eq!(answers(of(8_193).as_bytes()), ["http 431", "http 431"]);
    let endless = format!("GET /{}", "x".repeat(1 << 20));
    let mut node = Node::plain();
    let peer = node.accept(0);
    node.send(peer, endless.as_bytes());
    assert_eq!(node.outcome(peer), "http 431", "a megabyte of target");
}

#[test]
fn a_hundred_fields_are_read_and_no_more() {
    let of = |fields: usize| with(&"a:b\r\n".repeat(fields - 5));
    assert_eq!(answers(of(100).as_bytes()), ["open", "open"]);
    assert_eq!(answers(of(101).as_bytes()), ["http 431", "http 431"]);
    let flood = with(&"a:b\r\n".repeat(1_500));
    assert_eq!(answers(flood.as_bytes()), ["http 431", "http 431"]);
}

/// What follows the head belongs to the WebSocket, whatever it looks like: there is no second request.
#[test]
fn a_request_behind_an_upgrade_is_no_request() {
    let mut node = Node::plain();
    let peer = node.accept(0);
    node.send(peer, (head("/ws") + &head("/ws")).as_bytes());
    assert_eq!(node.outcome(peer), "closed 1002");
    let peer = node.accept(0);
    let ping = br#"{"type":"ping"}"#;
    let eager = [
        head("/ws").as_bytes(),
        &frame(OpCode::Data(Data::Text), ping),
    ]
    .concat();
    node.send(peer, &eager);
    assert_eq!(node.heard(peer).count("pong"), 1, "frames are welcome");
}

#[test]
fn a_request_behind_a_refusal_is_never_answered() {
    for first in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /no HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut node = Node::plain();
        let peer = node.accept(0);
        node.send(peer, (first.to_owned() + &head("/ws")).as_bytes());
        let heard = node.heard(peer);
        assert_eq!(heard.head.matches("HTTP/1.1 ").count(), 1, "{first}");
        assert!(heard.head.contains("\r\nConnection: close\r\n"));
        assert_eq!(node.metrics().connections.accepted, 1);
    }
}

#[test]
fn what_a_request_says_never_becomes_a_field_of_the_answer() {
    for target in [
        "/ws/%0d%0aX-Evil:1",
        "/ws?user_id=%0d%0aX-Evil:1",
        "/%0d%0aX-Evil:1",
    ] {
        let mut node = Node::plain();
        let peer = node.accept(0);
        node.send(peer, head(target).as_bytes());
        let answer = node.heard(peer).head;
        let (fields, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!fields.contains("X-Evil"), "{fields}");
        assert_eq!(node.metrics().connections.rejected.total(), 1);
    }
}

#[test]
fn refusals_are_counted_by_reason() {
    let mut node = Node::plain();
    for (request, reason) in [
        (head("/nowhere"), Reject::NotFound),
        (head("/ws?token=t"), Reject::Credentials),
        (
            with("Sec-WebSocket-Protocol: mqtt\r\n"),
            Reject::Subprotocol,
        ),
        (with("Host: x\r\n"), Reject::BadRequest),
    ] {
        let peer = node.accept(0);
        node.send(peer, request.as_bytes());
        assert_eq!(node.metrics().connections.rejected.of(reason), 1);
    }
}
