//! What a core lets the operator's backend know: rooms that fill and empty, users that come and go.

use crate::address::RoomKey;
use crate::protocol::UserId;

/// Something that happened on a core, with the wall clock's time of it in milliseconds.
#[derive(Clone, Debug)]
pub struct Notice {
    /// When.
    pub unix_ms: u64,
    /// What.
    pub what: Noticed,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Noticed {
    /// The first user is in a room. Said by the room's home.
    RoomOccupied(RoomKey),
    /// The last user has left a room. Said by the room's home.
    RoomVacated(RoomKey),
    /// A user has a first connection. Said by the user's home.
    UserConnected(UserId),
    /// A user has no connection any more. Said by the user's home.
    UserDisconnected(UserId),
}
