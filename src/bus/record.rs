//! What a core hands over to be kept on disk, and what it is given back at a start.
//!
//! The store mirrors what rooms' homes hold in memory. A core hands over one batch a turn, without
//! waiting, and hears later how far its batches are on disk.

use std::sync::Arc;

use thiserror::Error;

use crate::address::{CoreId, RoomKey};
use crate::frame::Frame;
use crate::protocol::{Epoch, UserId};

/// When a publish is answered.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Nothing is kept on disk.
    #[default]
    Off,
    /// Once its record was handed over. What was handed over within the flush interval may be lost.
    Async,
    /// Once its record is on disk; nobody gets the message before.
    Fsync,
}

/// One change of what is kept. Records of one core are kept in the order in which they were handed
/// over; those of one room come from one core.
#[derive(Clone, Debug)]
pub enum Record {
    /// A room was made. It has no messages.
    Opened {
        /// The room.
        room: RoomKey,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A room accepted a message: the one after the newest.
    Message {
        /// The room.
        room: RoomKey,
        /// Its epoch.
        epoch: Epoch,
        /// The message's offset, which is the room's newest from now on.
        offset: u64,
        /// The message as one whole frame; its [`Frame::body`] is the `message` object.
        frame: Frame,
        /// When the room accepted it.
        unix_ms: u64,
        /// The publisher's idempotency key.
        key: Option<RecordKey>,
        /// The room keeps messages after this offset only, up to `offset`; where it is `offset`, the
        /// message itself is not kept.
        kept_since: u64,
    },
    /// A room let go of messages: it keeps those after an offset.
    Trimmed {
        /// The room.
        room: RoomKey,
        /// The offset.
        kept_since: u64,
    },
    /// A user has read a room up to an offset.
    Read {
        /// The room.
        room: RoomKey,
        /// The user.
        user: UserId,
        /// The offset; 0: it is not known any more.
        offset: u64,
    },
    /// A room is no more.
    Forgotten {
        /// The room.
        room: RoomKey,
    },
    /// A user is banned, or banned for another time.
    Banned {
        /// The user.
        user: UserId,
        /// The end, by the wall clock; none where it has none.
        until_unix_ms: Option<u64>,
    },
    /// A ban is lifted or over.
    Unbanned {
        /// The user.
        user: UserId,
    },
}

/// An idempotency key: whose, and what it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordKey {
    /// Who published; none: the server's own API.
    pub user: Option<UserId>,
    /// The id that the publisher gave.
    pub id: Box<str>,
}

/// What one core hands over at the end of a turn.
#[derive(Debug)]
pub struct Records {
    /// The core.
    pub core: CoreId,
    /// Counts its batches, from 1.
    pub seq: u64,
    /// Counts the failures that the core has heard of. Where a batch could not be kept, messages in
    /// later batches of the same era are refused too: they would follow on a message that is not
    /// there.
    pub era: u32,
    /// The records, in order. Never empty.
    pub records: Vec<Record>,
    /// What the batch holds in memory, roughly, in bytes.
    pub weight: usize,
}

/// How far a core's records are on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// All batches up to this one have met their end.
    pub through: u64,
    /// Why the messages of the last batches are not kept: of all those after the last answer without
    /// a fault. A core in [`Durability::Fsync`] begins a new era then.
    pub fault: Option<StoreFault>,
}

/// Why records could not be kept.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct StoreFault(pub Arc<str>);

/// A room as it was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRoom {
    /// Its name.
    pub name: Box<str>,
    /// Its epoch.
    pub epoch: Epoch,
    /// The newest message's offset; 0 without any.
    pub offset: u64,
    /// Its messages, oldest first, without hole, the newest last; none where it keeps none.
    pub messages: Vec<StoredMessage>,
    /// Its idempotency keys, oldest first.
    pub keys: Vec<StoredKey>,
    /// How far its users have read.
    pub reads: Vec<(UserId, u64)>,
}

/// A message as it was kept. Its offset follows from its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMessage {
    /// When the room accepted it.
    pub unix_ms: u64,
    /// The `message` object.
    pub body: Box<[u8]>,
}

/// An idempotency key as it was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredKey {
    /// Whose, and what it is called.
    pub key: RecordKey,
    /// The offset of the message that was accepted under it.
    pub offset: u64,
    /// When it was.
    pub unix_ms: u64,
}

/// A ban as it was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredBan {
    /// Who is banned.
    pub user: UserId,
    /// The end, by the wall clock; none where it has none.
    pub until_unix_ms: Option<u64>,
}
