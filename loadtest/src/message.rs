//! Tidewheel's messages as a load client needs them.
//!
//! A delivered message is recognised by position:
//! `{"type":"message","room":"load","offset":17,"payload":"00000000001234567890….."…}`.
//! The payload is a JSON string that begins with the publish time, [`STAMP_DIGITS`] digits of
//! nanoseconds. Everything else is rare and goes through serde.

use std::borrow::Cow;

use serde::Deserialize;

use crate::frame;

/// Digits of the publish time at the head of each payload.
pub const STAMP_DIGITS: usize = 20;
/// The least payload: the stamp and its quotes.
pub const PAYLOAD_BYTES_MIN: usize = STAMP_DIGITS + 2;
/// What stands between an offset and the stamp.
const BEFORE_STAMP: &[u8] = b",\"payload\":\"";
/// How an answer to a publish begins: counted without a parse.
const SENT: &[u8] = b"{\"type\":\"message_sent\"";

/// What every message of one room begins with, up to the digits of its offset.
#[derive(Clone, Debug)]
pub struct Prefix(Vec<u8>);

impl Prefix {
    /// The prefix for `room`, whose name needs no JSON escapes.
    pub fn new(room: &str) -> Prefix {
        Prefix(format!("{{\"type\":\"message\",\"room\":\"{room}\",\"offset\":").into_bytes())
    }

    /// The offset of such a message, and what follows it.
    #[inline]
    pub fn offset<'a>(&self, payload: &'a [u8]) -> Option<(u64, &'a [u8])> {
        leading_number(payload.strip_prefix(self.0.as_slice())?)
    }
}

/// The publish time of a message, from the bytes after its offset.
pub fn stamp_ns(after_offset: &[u8]) -> Option<u64> {
    stamp_of(after_offset.strip_prefix(BEFORE_STAMP)?)
}

fn stamp_of(text: &[u8]) -> Option<u64> {
    leading_number(text.get(..STAMP_DIGITS)?).map(|(stamp, _)| stamp)
}

#[inline]
fn leading_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    let mut rest = bytes;
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        number = number
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
        rest = tail;
    }
    (rest.len() < bytes.len()).then_some((number, rest))
}

/// True for the answer to a publish.
pub fn is_message_sent(payload: &[u8]) -> bool {
    payload.starts_with(SENT)
}

/// What a server told us, other than a message in its usual form.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// We are in a room whose newest message has this offset.
    Joined { room: String, offset: u64 },
    /// A message whose members stand in another order than ours.
    Message { offset: u64, stamp_ns: Option<u64> },
    /// Offsets we will not get, both inclusive.
    Missed { from: u64, to: u64 },
    /// An error, by its code.
    Error { code: u64, message: String },
    /// Something that says nothing about deliveries.
    Other,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    room: Option<Cow<'a, str>>,
    offset: Option<u64>,
    payload: Option<serde_json::Value>,
}

/// Reads a server's message in any form; `None` where it is not one.
pub fn parse(payload: &[u8]) -> Option<Notice> {
    let envelope: Envelope<'_> = serde_json::from_slice(payload).ok()?;
    let body = envelope.payload.unwrap_or_default();
    let number = |name: &str| body.get(name).and_then(serde_json::Value::as_u64);
    Some(match &*envelope.kind {
        "room_joined" => Notice::Joined {
            room: envelope.room?.into_owned(),
            offset: number("offset")?,
        },
        "message" => Notice::Message {
            offset: envelope.offset?,
            stamp_ns: body.as_str().and_then(|text| stamp_of(text.as_bytes())),
        },
        "messages_missed" => Notice::Missed {
            from: number("from")?,
            to: number("to")?,
        },
        "error" => {
            let message = body.get("message").and_then(serde_json::Value::as_str);
            Notice::Error {
                code: number("code")?,
                message: message.unwrap_or_default().to_owned(),
            }
        }
        _ => Notice::Other,
    })
}

/// A publish of one room, all but its stamp.
#[derive(Clone, Debug)]
pub struct Publish {
    head: String,
    tail: String,
    scratch: Vec<u8>,
}

impl Publish {
    /// Publishes to `room` with a payload of `payload_bytes` (at least [`PAYLOAD_BYTES_MIN`]).
    pub fn new(room: &str, payload_bytes: usize) -> Publish {
        let filler = "x".repeat(payload_bytes.saturating_sub(PAYLOAD_BYTES_MIN));
        Publish {
            head: format!("{{\"type\":\"message\",\"room\":\"{room}\",\"payload\":\""),
            tail: format!("{filler}\"}}"),
            scratch: Vec::new(),
        }
    }

    /// Appends one masked frame that carries `stamp_ns`.
    pub fn write(&mut self, stamp_ns: u64, out: &mut Vec<u8>) {
        self.scratch.clear();
        self.scratch.extend_from_slice(self.head.as_bytes());
        write_digits(stamp_ns, STAMP_DIGITS, &mut self.scratch);
        self.scratch.extend_from_slice(self.tail.as_bytes());
        frame::write_masked(frame::TEXT, &self.scratch, out);
    }
}

/// Appends `number` with leading zeros up to `digits`.
fn write_digits(number: u64, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let mut rest = number;
    for _ in 0..digits {
        out.push(b'0' + (rest % 10) as u8);
        rest /= 10;
    }
    if let Some(written) = out.get_mut(start..) {
        written.reverse();
    }
}

/// The frame that asks to join `room`.
pub fn write_join(room: &str, out: &mut Vec<u8>) {
    let text = format!("{{\"type\":\"join_room\",\"room\":\"{room}\",\"payload\":{{}}}}");
    frame::write_masked(frame::TEXT, text.as_bytes(), out);
}

/// The bytes of a message frame around a payload, by the protocol's shape.
///
/// The lengths of the identifiers are the server's choice; a run against a server replaces this
/// estimate with what it saw.
pub fn frame_bytes(room: &str, payload_bytes: usize) -> usize {
    let metadata = ",\"metadata\":{\"message_id\":\"0h6n8ejqzxah1-1234567\",\
         \"timestamp\":\"2025-01-01T00:00:00.000Z\",\"client_id\":\"ae2svvdx54g9x\",\
         \"user_id\":\"anon-ae2svvdx54g9x\"}}";
    let payload_bytes = bare_bytes(room, payload_bytes) - 1 + metadata.len();
    frame::unmasked_header_bytes(payload_bytes) + payload_bytes
}

/// The bytes of a message without metadata, with an offset of seven digits.
pub fn bare_bytes(room: &str, payload_bytes: usize) -> usize {
    // The stamp's opening quote is part of the payload.
    Prefix::new(room).0.len() + 7 + BEFORE_STAMP.len() - 1 + payload_bytes + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_and_stamp_are_read_by_position() {
        let text =
            br#"{"type":"message","room":"load","offset":1203,"payload":"00000000000000004711xx"}"#;
        let (offset, rest) = Prefix::new("load").offset(text).unwrap();
        assert_eq!((offset, stamp_ns(rest)), (1203, Some(4711)));
        assert!(Prefix::new("lead").offset(text).is_none());
    }

    #[test]
    fn a_number_that_is_none_or_too_long_is_refused() {
        let cases: [&[u8]; 4] = [b"", b",", b"x1", b"99999999999999999999999"];
        for case in cases {
            assert!(leading_number(case).is_none());
        }
    }

    #[test]
    fn a_message_in_another_order_is_still_understood() {
        let text = br#"{"offset":3,"type":"message","payload":"00000000000000000042y","room":"r"}"#;
        assert_eq!(
            parse(text),
            Some(Notice::Message {
                offset: 3,
                stamp_ns: Some(42)
            })
        );
    }

    #[test]
    fn the_rare_messages_are_told_apart() {
        let cases: [(&str, Option<Notice>); 6] = [
            (
                r#"{"type":"room_joined","room":"r","payload":{"offset":9,"epoch":"e"}}"#,
                Some(Notice::Joined {
                    room: "r".into(),
                    offset: 9,
                }),
            ),
            (
                r#"{"type":"messages_missed","room":"r","payload":{"from":2,"to":5}}"#,
                Some(Notice::Missed { from: 2, to: 5 }),
            ),
            (
                r#"{"type":"error","payload":{"code":4006,"message":"no"}}"#,
                Some(Notice::Error {
                    code: 4006,
                    message: "no".into(),
                }),
            ),
            (r#"{"type":"pong"}"#, Some(Notice::Other)),
            (r#"{"type":"room_joined","payload":{}}"#, None),
            ("[]", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_publish_has_the_payload_asked_for_and_carries_its_stamp() {
        for payload_bytes in [PAYLOAD_BYTES_MIN, 128, 4_096] {
            let mut wire = Vec::new();
            Publish::new("load", payload_bytes).write(77, &mut wire);
            let (header, payload, _) = frame::split(&wire).unwrap();
            let mut payload = payload.to_vec();
            frame::unmask(&mut payload, header.mask.unwrap());
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            let text = value["payload"].as_str().unwrap();
            assert_eq!(
                (text.len() + 2, stamp_of(text.as_bytes())),
                (payload_bytes, Some(77))
            );
        }
    }
}
