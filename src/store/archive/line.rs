//! The lines, one by one.

use std::borrow::Cow;

use super::ArchiveError;
use super::fault::{LineFault, ROOM_OFFSETS};
use crate::bus::{RecordKey, StoredBan, StoredMessage, StoredRoom};
use crate::protocol::ids::{is_key, is_room_name, is_user_id};
use crate::protocol::json::{DEPTH_MAX, Member, depth, encode_body, members, string, write_string};
use crate::protocol::{ClientId, Epoch, Event, MessageId, Offset, Sender, Timestamp, UserId};

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    Head {
        is_whole: bool,
    },
    Ban(StoredBan),
    Room {
        name: Box<str>,
        epoch: Epoch,
        offset: u64,
    },
    Message {
        offset: u64,
        unix_ms: u64,
        key: Option<RecordKey>,
        /// None where only the key is kept.
        body: Option<Box<[u8]>>,
    },
    Read(UserId, u64),
}

pub(super) fn head(is_whole: bool, out: &mut Vec<u8>) {
    let text = format!("{{\"tidewheel_history\":1,\"whole\":{is_whole}}}\n");
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn ban(ban: &StoredBan, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ban\":{\"user_id\":");
    write_string(&ban.user.to_string(), out);
    if let Some(until) = ban.until_unix_ms {
        let until = Timestamp::from_unix_ms(until);
        out.extend_from_slice(format!(",\"until\":\"{until}\"").as_bytes());
    }
    out.extend_from_slice(b"}}\n");
}

/// A room with all that belongs to it.
pub(super) fn room(room: &StoredRoom, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
    out.extend_from_slice(b"{\"room\":");
    write_string(&room.name, out);
    let position = format!(
        ",\"epoch\":\"{}\",\"offset\":{}}}\n",
        room.epoch, room.offset
    );
    out.extend_from_slice(position.as_bytes());
    let kept_since = room.offset.saturating_sub(room.messages.len() as u64);
    let mut keys = room.keys.iter().peekable();
    while let Some(stored) = keys.next_if(|key| key.offset <= kept_since) {
        place(stored.offset, stored.unix_ms, out);
        key(&stored.key, out);
        out.extend_from_slice(b"}\n");
    }
    for (offset, stored) in (kept_since + 1..).zip(&room.messages) {
        place(offset, stored.unix_ms, out);
        if message(stored, out).is_none() {
            let room = room.name.clone();
            return Err(ArchiveError::Message { room, offset });
        }
        if let Some(stored) = keys.next_if(|key| key.offset == offset) {
            key(&stored.key, out);
        }
        out.extend_from_slice(b"}\n");
    }
    for (user, offset) in &room.reads {
        out.extend_from_slice(b"{\"read\":{\"user_id\":");
        write_string(&user.to_string(), out);
        out.extend_from_slice(format!(",\"offset\":{offset}}}}}\n").as_bytes());
    }
    Ok(())
}

fn place(offset: u64, unix_ms: u64, out: &mut Vec<u8>) {
    let time = Timestamp::from_unix_ms(unix_ms);
    let text = format!("{{\"offset\":{offset},\"timestamp\":\"{time}\"");
    out.extend_from_slice(text.as_bytes());
}

fn key(key: &RecordKey, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"key\":{\"id\":");
    write_string(&key.id, out);
    if let Some(user) = &key.user {
        out.extend_from_slice(b",\"user_id\":");
        write_string(&user.to_string(), out);
    }
    out.push(b'}');
}

/// What a `message` object says; none where it is none.
fn message(stored: &StoredMessage, out: &mut Vec<u8>) -> Option<()> {
    let object = members(str::from_utf8(&stored.body).ok()?).ok()?;
    let metadata = members(value(&object, "metadata")?).ok()?;
    for name in ["message_id", "client_id", "user_id"] {
        if let Some(value) = value(&metadata, name) {
            out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
        }
    }
    out.extend_from_slice(b",\"payload\":");
    // Line ends between tokens are the publisher's layout; in strings they are escaped.
    let payload = value(&object, "payload")?.bytes();
    out.extend(payload.filter(|byte| !matches!(byte, b'\n' | b'\r')));
    Some(())
}

fn value<'a>(members: &[Member<'a>], name: &str) -> Option<&'a str> {
    let member = members.iter().find(|member| member.name == name)?;
    Some(member.value)
}

/// The members of a line, each taken once.
struct Members<'a>(Vec<Member<'a>>);

impl<'a> Members<'a> {
    fn of(text: &'a str) -> Result<Members<'a>, LineFault> {
        Ok(Members(members(text)?))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|member| member.name == name)
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|member| member.name == name)?;
        Some(self.0.swap_remove(at).value)
    }

    /// The member, as `read` understands it.
    fn read<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, LineFault> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        /// So much of a bad value is shown.
        const SHOWN: usize = 80;
        let bad = || LineFault::Bad {
            name,
            value: value.chars().take(SHOWN).collect(),
            expected,
        };
        read(value).ok_or_else(bad).map(Some)
    }

    fn offset(&mut self) -> Result<u64, LineFault> {
        self.read("offset", "a number below 2^64", |value| value.parse().ok())?
            .ok_or(LineFault::Missing("offset"))
    }

    fn text(
        &mut self,
        name: &'static str,
        expected: &'static str,
        is_good: impl FnOnce(&str) -> bool,
    ) -> Result<Option<Cow<'a, str>>, LineFault> {
        self.read(name, expected, |value| {
            string(value).filter(|text| is_good(text))
        })
    }

    fn user(&mut self) -> Result<Option<UserId>, LineFault> {
        let user = self.text("user_id", "a text of 1 to 255 bytes", is_user_id)?;
        Ok(user.map(|user| UserId::from_name(&user)))
    }

    fn time(&mut self, name: &'static str) -> Result<Option<u64>, LineFault> {
        self.read(
            name,
            "a time such as \"2026-01-31T23:59:59.123Z\"",
            |value| unix_ms(&string(value)?),
        )
    }

    fn end(self) -> Result<(), LineFault> {
        match self.0.into_iter().next() {
            Some(member) => Err(LineFault::Unknown(member.name.into_owned())),
            None => Ok(()),
        }
    }
}

/// Reads a line; `room` is the one that it belongs to.
pub(super) fn parse(text: &str, room: Option<&str>) -> Result<Line, LineFault> {
    let mut members = Members::of(text)?;
    let line = if members.has("tidewheel_history") {
        parse_head(&mut members)?
    } else if let Some(ban) = members.take("ban") {
        let mut ban = Members::of(ban)?;
        let user = ban.user()?.ok_or(LineFault::Missing("user_id"))?;
        let until_unix_ms = ban.time("until")?;
        ban.end()?;
        Line::Ban(StoredBan {
            user,
            until_unix_ms,
        })
    } else if members.has("room") {
        parse_room(&mut members)?
    } else if let Some(read) = members.take("read") {
        let mut read = Members::of(read)?;
        let user = read.user()?.ok_or(LineFault::Missing("user_id"))?;
        let offset = read.offset()?;
        read.end()?;
        Line::Read(user, offset)
    } else {
        parse_message(&mut members, room.ok_or(LineFault::NoRoom)?)?
    };
    members.end()?;
    Ok(line)
}

fn parse_head(members: &mut Members<'_>) -> Result<Line, LineFault> {
    if members.take("tidewheel_history") != Some("1") {
        return Err(LineFault::NotAHistory);
    }
    let is_whole = members.read("whole", "true or false", |value| value.parse().ok())?;
    let is_whole = is_whole.ok_or(LineFault::Missing("whole"))?;
    Ok(Line::Head { is_whole })
}

fn parse_room(members: &mut Members<'_>) -> Result<Line, LineFault> {
    let expected = "a text of 1 to 255 bytes without control characters";
    let name = members.text("room", expected, is_room_name)?;
    let epoch = members.read("epoch", "13 digits of base 32, as exported", |value| {
        Epoch::parse(&string(value)?)
    })?;
    Ok(Line::Room {
        name: name.ok_or(LineFault::Missing("room"))?.into(),
        epoch: epoch.ok_or(LineFault::Missing("epoch"))?,
        offset: room_offset(members.offset()?)?,
    })
}

/// A room goes on from its offset, so that there has to be room for what is published next.
fn room_offset(offset: u64) -> Result<u64, LineFault> {
    match offset < ROOM_OFFSETS {
        true => Ok(offset),
        false => Err(LineFault::TooHigh(offset)),
    }
}

fn parse_message(members: &mut Members<'_>, room: &str) -> Result<Line, LineFault> {
    let offset = members.offset()?;
    let unix_ms = members.time("timestamp")?;
    let unix_ms = unix_ms.ok_or(LineFault::Missing("timestamp"))?;
    let key = match members.take("key") {
        Some(key) => {
            let mut key = Members::of(key)?;
            let user = key.user()?;
            let id = key.text("id", "a text of 1 to 64 bytes", is_key)?;
            key.end()?;
            let id = id.ok_or(LineFault::Missing("id"))?.into();
            Some(RecordKey { user, id })
        }
        None => None,
    };
    let payload = members.read("payload", "JSON that nests at most 512 levels", |value| {
        (depth(value) <= DEPTH_MAX).then_some(value)
    })?;
    let body = match payload {
        Some(payload) => Some(parse_body(members, room, offset, unix_ms, payload)?),
        None if key.is_some() => None,
        None => return Err(LineFault::Missing("payload")),
    };
    Ok(Line::Message {
        offset,
        unix_ms,
        key,
        body,
    })
}

/// The `message` object again.
fn parse_body(
    members: &mut Members<'_>,
    room: &str,
    offset: u64,
    unix_ms: u64,
    payload: &str,
) -> Result<Box<[u8]>, LineFault> {
    let id = members.text("message_id", "a text of 1 to 64 bytes", is_key)?;
    let id = id.ok_or(LineFault::Missing("message_id"))?;
    let user = members.user()?;
    let client_id = members.read("client_id", "13 digits of base 32, as exported", |value| {
        ClientId::parse(&string(value)?)
    })?;
    let sender = match (client_id, &user) {
        (Some(client_id), Some(user_id)) => Some(Sender { client_id, user_id }),
        (None, None) => None,
        (Some(_), None) => return Err(LineFault::Missing("user_id")),
        (None, Some(_)) => return Err(LineFault::Missing("client_id")),
    };
    let event = Event::Message {
        room,
        offset: Offset(offset),
        payload: payload.as_bytes(),
        message_id: MessageId::Given(&id),
        unix_ms,
        sender,
    };
    let mut body = Vec::new();
    encode_body(&event, None, &mut body);
    Ok(body.into())
}

/// The time that [`Timestamp`] writes so; none for any other text.
fn unix_ms(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Days before the year and month: years begin in March, so that the leap day is the last.
    let (year, month) = match month {
        1 | 2 => (year.checked_sub(1)?, month + 9),
        _ => (year, month.checked_sub(3)?),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let unix_ms = seconds * 1_000 + number(20, 23)?;
    // Whatever else is wrong with it gives another text.
    (Timestamp::from_unix_ms(unix_ms).as_str() == text).then_some(unix_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    proptest! {
        #[test]
        fn a_time_leads_back(ms in 0..253_402_300_800_000_u64) {
            assert_eq!(unix_ms(Timestamp::from_unix_ms(ms).as_str()), Some(ms));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,60}") {
            let _ = unix_ms(&text);
            let _ = parse(&text, Some("r"));
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let cases = [
            ("[]", "an object"),
            ("{\"tidewheel_history\":2}", "no history of Tidewheel's"),
            (
                "{\"room\":\"a\",\"epoch\":\"x\",\"offset\":1}",
                "\"epoch\" is \"x\"",
            ),
            (
                "{\"room\":\"a\",\"epoch\":\"000000000000a\"}",
                "there is no \"offset\"",
            ),
            (
                "{\"offset\":1,\"timestamp\":\"2026-02-30T00:00:00.000Z\",\"payload\":1}",
                "\"timestamp\"",
            ),
            (
                "{\"offset\":1,\"timestamp\":\"2026-02-03T00:00:00.000Z\"}",
                "no \"payload\"",
            ),
            (
                "{\"offset\":-1,\"timestamp\":\"2026-02-03T00:00:00.000Z\"}",
                "\"offset\" is -1",
            ),
            (
                "{\"read\":{\"user_id\":\"a\",\"offset\":1,\"x\":1}}",
                "no such line has a \"x\"",
            ),
            ("{\"ban\":{}}", "there is no \"user_id\""),
            (
                "{\"room\":\"a\",\"epoch\":\"000000000000a\",\"offset\":9007199254740991}",
                "below 9006099743113216",
            ),
        ];
        for (text, expected) in cases {
            let fault = parse(text, Some("r")).unwrap_err().to_string();
            assert!(fault.contains(expected), "{text}: {fault}");
        }
        let fault = parse("{\"offset\":1}", None).unwrap_err();
        assert!(matches!(fault, LineFault::NoRoom));
    }
}
