//! Records as bytes: each says whose it is, and ends with a checksum.
//!
//! SQLite does not check its pages, so that a flipped bit could come back as another message. The
//! checksum is CRC-32 over everything before it, led by a byte that says which table it is of.

use crate::protocol::Epoch;

/// A room, but for its messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RoomRecord<'a> {
    pub(super) name: &'a str,
    pub(super) epoch: Epoch,
    /// The newest message's offset.
    pub(super) offset: u64,
    /// Messages after this offset are kept.
    pub(super) kept_since: u64,
}

/// A message, or what is left of it: its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MessageRecord<'a> {
    /// The room's number in this folder.
    pub(super) room: i64,
    pub(super) offset: u64,
    pub(super) unix_ms: u64,
    /// The publisher's idempotency key: whose, and what it is called.
    pub(super) key: Option<KeyRecord<'a>>,
    /// The `message` object; empty where the room did not keep the message.
    pub(super) body: &'a [u8],
}

/// Whose key it is, none for the server's own API, and what it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyRecord<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) id: &'a str,
}

/// How far a user has read a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ReadRecord<'a> {
    pub(super) room: i64,
    pub(super) user: &'a str,
    pub(super) offset: u64,
}

/// A ban.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BanRecord<'a> {
    pub(super) user: &'a str,
    pub(super) until_unix_ms: Option<u64>,
}

/// The names of the tables in checksums.
const ROOM: u8 = b'R';
const MESSAGE: u8 = b'M';
const READ: u8 = b'D';
const BAN: u8 = b'B';

impl<'a> RoomRecord<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        number(out, self.epoch.0);
        number(out, self.offset);
        number(out, self.kept_since);
        text(out, self.name.as_bytes());
        seal(ROOM, out);
    }

    /// None where the bytes are not what was written.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<RoomRecord<'a>> {
        let mut rest = Reader(unseal(ROOM, bytes)?);
        let record = RoomRecord {
            epoch: Epoch(rest.number()?),
            offset: rest.number()?,
            kept_since: rest.number()?,
            name: rest.str()?,
        };
        rest.is_empty().then_some(record)
    }
}

impl<'a> MessageRecord<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        number(out, self.room as u64);
        number(out, self.offset);
        number(out, self.unix_ms);
        match &self.key {
            None => out.push(0),
            Some(KeyRecord { user, id }) => {
                out.push(if user.is_some() { 2 } else { 1 });
                text(out, id.as_bytes());
                if let Some(user) = user {
                    text(out, user.as_bytes());
                }
            }
        }
        out.extend_from_slice(self.body);
        seal(MESSAGE, out);
    }

    /// None where the bytes are not what was written.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<MessageRecord<'a>> {
        let mut rest = Reader(unseal(MESSAGE, bytes)?);
        let (room, offset, unix_ms) = (rest.number()?, rest.number()?, rest.number()?);
        let key = match rest.byte()? {
            0 => None,
            kind @ (1 | 2) => {
                let id = rest.str()?;
                let user = if kind == 2 { Some(rest.str()?) } else { None };
                Some(KeyRecord { user, id })
            }
            _ => return None,
        };
        Some(MessageRecord {
            room: room as i64,
            offset,
            unix_ms,
            key,
            body: rest.0,
        })
    }
}

impl<'a> ReadRecord<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        number(out, self.room as u64);
        number(out, self.offset);
        text(out, self.user.as_bytes());
        seal(READ, out);
    }

    /// None where the bytes are not what was written.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<ReadRecord<'a>> {
        let mut rest = Reader(unseal(READ, bytes)?);
        let (room, offset) = (rest.number()? as i64, rest.number()?);
        let user = rest.str()?;
        rest.is_empty().then_some(ReadRecord { room, user, offset })
    }
}

impl<'a> BanRecord<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(self.until_unix_ms.is_some().into());
        number(out, self.until_unix_ms.unwrap_or(0));
        text(out, self.user.as_bytes());
        seal(BAN, out);
    }

    /// None where the bytes are not what was written.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<BanRecord<'a>> {
        let mut rest = Reader(unseal(BAN, bytes)?);
        let (has_end, until) = (rest.byte()? == 1, rest.number()?);
        let user = rest.str()?;
        rest.is_empty().then_some(BanRecord {
            user,
            until_unix_ms: has_end.then_some(until),
        })
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Names and ids have at most 255 bytes; what is longer is cut by its length and fails its checksum.
fn text(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(text.len() <= usize::from(u16::MAX));
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

pub(super) fn checksum(table: u8, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[table]);
    sum.update(bytes);
    sum.finalize()
}

fn seal(table: u8, out: &mut Vec<u8>) {
    let sum = checksum(table, out);
    out.extend_from_slice(&sum.to_le_bytes());
}

fn unseal(table: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    (checksum(table, bytes).to_le_bytes() == *sum).then_some(bytes)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn str(&mut self) -> Option<&'a str> {
        let (len, rest) = self.0.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        self.0 = rest;
        str::from_utf8(text).ok()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    proptest! {
        #[test]
        fn a_record_leads_back_and_a_flipped_bit_does_not(
            name in ".{1,60}",
            user in prop::option::of(".{1,60}"),
            numbers in any::<(u64, u64, u64)>(),
            body in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<usize>(),
        ) {
            let (a, b, c) = numbers;
            let mut bytes = Vec::new();
            let room = RoomRecord { name: &name, epoch: Epoch(a), offset: b, kept_since: c };
            room.encode(&mut bytes);
            assert_eq!(RoomRecord::decode(&bytes).as_ref(), Some(&room));
            flip(&mut bytes, at);
            assert_eq!(RoomRecord::decode(&bytes), None);
            let key = Some(KeyRecord { user: user.as_deref(), id: &name });
            for key in [None, key] {
                let (room, body) = (a as i64, body.as_slice());
                let message = MessageRecord { room, offset: b, unix_ms: c, key, body };
                message.encode(&mut bytes);
                assert_eq!(MessageRecord::decode(&bytes).as_ref(), Some(&message));
                flip(&mut bytes, at);
                assert_eq!(MessageRecord::decode(&bytes), None);
            }
            let read = ReadRecord { room: a as i64, user: &name, offset: b };
            read.encode(&mut bytes);
            assert_eq!(ReadRecord::decode(&bytes).as_ref(), Some(&read));
            assert_eq!(RoomRecord::decode(&bytes), None, "another table's");
            let ban = BanRecord { user: &name, until_unix_ms: user.is_some().then_some(a) };
            ban.encode(&mut bytes);
            assert_eq!(BanRecord::decode(&bytes).as_ref(), Some(&ban));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut sealed = bytes;
            seal(MESSAGE, &mut sealed);
            let _ = MessageRecord::decode(&sealed);
            sealed.truncate(sealed.len() - 4);
            seal(ROOM, &mut sealed);
            let _ = RoomRecord::decode(&sealed);
        }
    }

    fn flip(bytes: &mut [u8], at: usize) {
        let at = at % bytes.len();
        bytes[at] ^= 1;
    }
}
