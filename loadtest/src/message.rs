//! Tidewheel's messages as a load client needs them.
//!
//! A delivered message is recognised by position:
//! `{"type":"message","room":"load","offset":17,"payload":"00000000001234567890….."…}`.
//! The payload is a JSON string that begins with the publish time, [`STAMP_DIGITS`] digits of
//! nanoseconds. What fills it up follows from the room and from that time, so that a payload which
//! was altered, or put under another room, is known for it. Everything else is rare and goes through
//! serde.

use std::borrow::Cow;

use serde::Deserialize;

use crate::frame;

/// Digits of the publish time at the head of each payload.
pub const STAMP_DIGITS: usize = 20;
/// The least payload: the stamp and its quotes.
pub const PAYLOAD_BYTES_MIN: usize = STAMP_DIGITS + 2;
/// The least payload of a message that carries its publisher and number too.
pub const NUMBERED_BYTES_MIN: usize = STAMP_DIGITS + PUBLISHER_DIGITS + NUMBER_DIGITS + 1;
/// Digits of the publisher's number, for servers without rooms.
const PUBLISHER_DIGITS: usize = 6;
/// Digits of its message's number.
const NUMBER_DIGITS: usize = 12;
/// What stands between an offset and the stamp.
const BEFORE_STAMP: &[u8] = b",\"payload\":\"";
/// How an answer to a publish begins, up to its room: read without a parse.
const SENT: &[u8] = b"{\"type\":\"message_sent\",\"room\":\"";
/// What stands between its room and its offset.
const SENT_OFFSET: &[u8] = b",\"payload\":{\"offset\":";
/// How a message begins, up to its room.
const MESSAGE: &[u8] = b"{\"type\":\"message\",\"room\":\"";
/// What stands between its room and its offset.
const OFFSET: &[u8] = b",\"offset\":";

/// What every message of one room begins with, up to the digits of its offset.
#[derive(Clone, Debug)]
pub struct Prefix {
    text: Vec<u8>,
    /// What the room has to do with the filler of its messages.
    seed: u64,
}

impl Prefix {
    /// The prefix for `room`, whose name needs no JSON escapes.
    pub fn new(room: &str) -> Prefix {
        let text = format!("{{\"type\":\"message\",\"room\":\"{room}\",\"offset\":");
        Prefix {
            text: text.into_bytes(),
            seed: seed_of(room),
        }
    }

    /// The offset of such a message, and what follows it.
    #[inline]
    pub fn offset<'a>(&self, payload: &'a [u8]) -> Option<(u64, &'a [u8])> {
        leading_number(payload.strip_prefix(self.text.as_slice())?)
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

/// The answer to a publish: its room and offset, where they stand where Tidewheel puts them.
pub fn message_sent(payload: &[u8]) -> Option<(&[u8], u64)> {
    let (room, rest) = quoted(payload.strip_prefix(SENT)?)?;
    let (offset, _) = leading_number(rest.strip_prefix(SENT_OFFSET)?)?;
    Some((room, offset))
}

/// True for the answer to a publish.
pub fn is_message_sent(payload: &[u8]) -> bool {
    payload.starts_with(SENT)
}

/// A message of whichever room: its room, its offset, and what follows that.
#[inline]
pub fn any_room(payload: &[u8]) -> Option<(&[u8], u64, &[u8])> {
    let (room, rest) = quoted(payload.strip_prefix(MESSAGE)?)?;
    let (offset, rest) = leading_number(rest.strip_prefix(OFFSET)?)?;
    Some((room, offset, rest))
}

/// What stands before the next quote, and what after it.
#[inline]
fn quoted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'"')?;
    let (name, rest) = bytes.split_at_checked(end)?;
    Some((name, rest.get(1..)?))
}

/// What a server told us, other than a message in its usual form.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// We are in a room whose newest message has this offset.
    Joined {
        room: String,
        offset: u64,
        epoch: String,
        recovered: bool,
    },
    /// We are out of a room.
    Left,
    /// Someone came or went.
    Presence { user_id: String, is_join: bool },
    /// So many came and went.
    Summary { joined: u64, left: u64 },
    /// A message whose members stand in another order than ours.
    Message {
        room: String,
        offset: u64,
        stamp_ns: Option<u64>,
    },
    /// Offsets we will not get, both inclusive.
    Missed { room: String, from: u64, to: u64 },
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
    let text = |name: &str| {
        let text = body.get(name).and_then(serde_json::Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Some(match &*envelope.kind {
        "room_joined" => Notice::Joined {
            room: envelope.room?.into_owned(),
            offset: number("offset")?,
            epoch: text("epoch"),
            recovered: body.get("recovered").is_some_and(|it| it == true),
        },
        "room_left" => Notice::Left,
        "presence_update" => match &*text("event") {
            "summary" => Notice::Summary {
                joined: number("joined")?,
                left: number("left")?,
            },
            event => Notice::Presence {
                user_id: text("user_id"),
                is_join: event == "join",
            },
        },
        "message" => Notice::Message {
            room: envelope.room?.into_owned(),
            offset: envelope.offset?,
            stamp_ns: body.as_str().and_then(|text| stamp_of(text.as_bytes())),
        },
        "messages_missed" => Notice::Missed {
            room: envelope.room?.into_owned(),
            from: number("from")?,
            to: number("to")?,
        },
        "error" => Notice::Error {
            code: number("code")?,
            message: text("message"),
        },
        _ => Notice::Other,
    })
}

/// Writes what we send, and knows it again.
#[derive(Clone, Debug)]
pub struct Pen {
    /// Letters without a pattern; a message has those from some place on.
    letters: Vec<u8>,
    /// How many of them are in a message.
    filler: usize,
    /// And in a numbered one.
    short_filler: usize,
    scratch: Vec<u8>,
}

/// At how many places a message's filler may begin, as a power of two.
const PLACES_BITS: u32 = 12;

/// Letters that follow from nothing but their place (an xorshift of fixed seed).
fn letters(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state >> 32) as u8 % 26
    };
    std::iter::repeat_with(letter).take(count).collect()
}

/// FNV-1a.
fn seed_of(room: &str) -> u64 {
    let bytes = room.bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Where the filler of a message begins that carries `stamp` in the room of `seed`.
#[inline]
fn place_of(seed: u64, stamp: &[u8; STAMP_DIGITS]) -> usize {
    let word = |at: usize| {
        let digits = stamp.get(at..).and_then(|rest| rest.first_chunk());
        u64::from_le_bytes(digits.copied().unwrap_or_default())
    };
    let mixed = seed ^ word(0).rotate_left(29) ^ word(8).rotate_left(11) ^ word(12);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES_BITS)) as usize
}

impl Pen {
    /// For payloads of `payload_bytes` (at least [`PAYLOAD_BYTES_MIN`]).
    pub fn new(payload_bytes: usize) -> Pen {
        Pen {
            letters: letters(payload_bytes + (1 << PLACES_BITS)),
            filler: payload_bytes.saturating_sub(PAYLOAD_BYTES_MIN),
            short_filler: payload_bytes.saturating_sub(NUMBERED_BYTES_MIN),
            scratch: Vec::new(),
        }
    }

    #[inline]
    fn filler(&self, seed: u64, stamp: &[u8; STAMP_DIGITS], bytes: usize) -> &[u8] {
        let place = place_of(seed, stamp);
        self.letters.get(place..place + bytes).unwrap_or_default()
    }

    /// Whether what follows the offset of a message of the room of `prefix` begins with a payload
    /// that [`Pen::publish`] wrote for that room, and ends as a message does.
    #[inline]
    pub fn is_intact(&self, prefix: &Prefix, after_offset: &[u8]) -> bool {
        let text = after_offset.strip_prefix(BEFORE_STAMP);
        let Some((stamp, rest)) = text.and_then(|text| text.split_first_chunk()) else {
            return false;
        };
        let filler = self.filler(prefix.seed, stamp, self.filler);
        let is_closed = |rest: &[u8]| rest.starts_with(b"\"") && rest.ends_with(b"}");
        stamp.iter().all(u8::is_ascii_digit) && rest.strip_prefix(filler).is_some_and(is_closed)
    }

    /// Whether a message without rooms is one that [`Pen::number`] wrote.
    pub fn is_number_intact(&self, payload: &[u8]) -> bool {
        let Some((stamp, rest)) = payload.split_first_chunk() else {
            return false;
        };
        let filler = rest.get(PUBLISHER_DIGITS + NUMBER_DIGITS..);
        let filler = filler.and_then(|it| it.strip_prefix(b" "));
        filler == Some(self.filler(0, stamp, self.short_filler))
    }

    /// Appends one masked frame that publishes to `room` and carries `stamp_ns`.
    pub fn publish(&mut self, room: &str, stamp_ns: u64, out: &mut Vec<u8>) {
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.extend_from_slice(b"{\"type\":\"message\",\"room\":\"");
        scratch.extend_from_slice(room.as_bytes());
        scratch.extend_from_slice(b"\",\"payload\":\"");
        let stamp = write_stamp(stamp_ns, scratch);
        let place = place_of(seed_of(room), &stamp);
        let filler = self.letters.get(place..place + self.filler);
        scratch.extend_from_slice(filler.unwrap_or_default());
        scratch.extend_from_slice(b"\"}");
        frame::write_masked(frame::TEXT, scratch, out);
    }

    /// Appends one masked frame for a server without rooms: publisher, number and stamp as bare
    /// digits.
    pub fn number(&mut self, publisher: u32, number: u64, stamp_ns: u64, out: &mut Vec<u8>) {
        let scratch = &mut self.scratch;
        scratch.clear();
        let stamp = write_stamp(stamp_ns, scratch);
        write_digits(u64::from(publisher), PUBLISHER_DIGITS, scratch);
        write_digits(number, NUMBER_DIGITS, scratch);
        scratch.push(b' ');
        let place = place_of(0, &stamp);
        let filler = self.letters.get(place..place + self.short_filler);
        scratch.extend_from_slice(filler.unwrap_or_default());
        frame::write_masked(frame::TEXT, scratch, out);
    }
}

/// Publisher, number and stamp of a message that [`Pen::number`] wrote.
#[inline]
pub fn numbered(payload: &[u8]) -> Option<(u32, u64, u64)> {
    let (stamp, rest) = payload.split_at_checked(STAMP_DIGITS)?;
    let (publisher, rest) = rest.split_at_checked(PUBLISHER_DIGITS)?;
    let number = rest.get(..NUMBER_DIGITS)?;
    let all = |digits| match leading_number(digits) {
        Some((number, [])) => Some(number),
        _ => None,
    };
    let publisher = u32::try_from(all(publisher)?).ok()?;
    Some((publisher, all(number)?, all(stamp)?))
}

/// Appends the digits of a publish time, and tells them.
fn write_stamp(stamp_ns: u64, out: &mut Vec<u8>) -> [u8; STAMP_DIGITS] {
    write_digits(stamp_ns, STAMP_DIGITS, out);
    out.last_chunk().copied().unwrap_or([b'0'; STAMP_DIGITS])
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

/// What a join asks for besides the room.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// Nothing.
    Plain,
    /// To be told who comes and goes.
    Presence,
    /// What came after this position.
    Recover { epoch: &'a str, offset: u64 },
}

/// Appends the frame that asks to join `room`.
pub fn write_join(room: &str, wish: Wish<'_>, out: &mut Vec<u8>) {
    let payload = match wish {
        Wish::Plain => String::new(),
        Wish::Presence => "\"presence\":true".to_owned(),
        Wish::Recover { epoch, offset } => {
            format!("\"recover\":{{\"epoch\":\"{epoch}\",\"offset\":{offset}}}")
        }
    };
    let text = format!("{{\"type\":\"join_room\",\"room\":\"{room}\",\"payload\":{{{payload}}}}}");
    frame::write_masked(frame::TEXT, text.as_bytes(), out);
}

/// Appends the frame that asks to leave `room`.
pub fn write_leave(room: &str, out: &mut Vec<u8>) {
    let text = format!("{{\"type\":\"leave_room\",\"room\":\"{room}\"}}");
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
    Prefix::new(room).text.len() + 7 + BEFORE_STAMP.len() - 1 + payload_bytes + 1
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
                room: "r".into(),
                offset: 3,
                stamp_ns: Some(42)
            })
        );
    }

    #[test]
    fn the_rare_messages_are_told_apart() {
        let cases: [(&str, Option<Notice>); 8] = [
            (
                r#"{"type":"room_joined","room":"r","payload":{"offset":9,"epoch":"e"}}"#,
                Some(Notice::Joined {
                    room: "r".into(),
                    offset: 9,
                    epoch: "e".into(),
                    recovered: false,
                }),
            ),
            (
                r#"{"type":"messages_missed","room":"r","payload":{"from":2,"to":5}}"#,
                Some(Notice::Missed {
                    room: "r".into(),
                    from: 2,
                    to: 5,
                }),
            ),
            (
                r#"{"type":"error","payload":{"code":4006,"message":"no"}}"#,
                Some(Notice::Error {
                    code: 4006,
                    message: "no".into(),
                }),
            ),
            (
                r#"{"type":"presence_update","room":"r","payload":{"event":"leave","user_id":"v1"}}"#,
                Some(Notice::Presence {
                    user_id: "v1".into(),
                    is_join: false,
                }),
            ),
            (
                r#"{"type":"presence_update","payload":{"event":"summary","joined":1,"left":2}}"#,
                Some(Notice::Summary { joined: 1, left: 2 }),
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
            Pen::new(payload_bytes).publish("load", 77, &mut wire);
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

    #[test]
    fn a_payload_that_was_altered_or_is_of_another_room_is_known_for_it() {
        let mut pen = Pen::new(64);
        let mut delivered = |room: &str, stamp_ns| {
            let mut wire = Vec::new();
            pen.publish(room, stamp_ns, &mut wire);
            let (header, payload, _) = frame::split(&wire).unwrap();
            let mut payload = payload.to_vec();
            frame::unmask(&mut payload, header.mask.unwrap());
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            format!(",\"payload\":{},\"metadata\":{{}}}}", value["payload"])
        };
        let prefix = Prefix::new("load-1");
        let good = delivered("load-1", 123_456_789_012);
        let other_room = delivered("load-2", 123_456_789_012);
        let stamp = good.replace("0123456789012", "0123456789013");
        let pen = Pen::new(64);
        assert!(pen.is_intact(&prefix, good.as_bytes()));
        assert!(!pen.is_intact(&prefix, other_room.as_bytes()));
        assert!(!pen.is_intact(&prefix, stamp.as_bytes()));
        assert!(!pen.is_intact(&prefix, &good.as_bytes()[..good.len() - 2]));
        for at in 0..",\"payload\":\"".len() + 62 {
            let mut spoilt = good.clone().into_bytes();
            spoilt[at] ^= 1;
            assert!(!pen.is_intact(&prefix, &spoilt), "{at}");
        }
    }

    #[test]
    fn the_room_of_a_message_and_of_an_answer_is_found() {
        let text =
            br#"{"type":"message","room":"a-1","offset":12,"payload":"00000000000000000042"}"#;
        let (room, offset, after) = any_room(text).unwrap();
        assert_eq!((room, offset, stamp_ns(after)), (&b"a-1"[..], 12, Some(42)));
        let text = br#"{"type":"message_sent","room":"a","payload":{"offset":7,"epoch":"e"}}"#;
        assert_eq!(message_sent(text), Some((&b"a"[..], 7)));
    }

    #[test]
    fn a_numbered_message_comes_back_as_it_was_written() {
        let mut wire = Vec::new();
        Pen::new(64).number(3, 1_000_000, 77, &mut wire);
        let (header, payload, _) = frame::split(&wire).unwrap();
        let mut payload = payload.to_vec();
        frame::unmask(&mut payload, header.mask.unwrap());
        assert_eq!(numbered(&payload), Some((3, 1_000_000, 77)));
        assert_eq!(numbered(b"00000000000000000042x"), None);
    }
}
