//! What a peer is told, free of the dialect it is said in.

use crate::protocol::codes::Code;
use crate::protocol::ids::{ClientId, Epoch, MessageId, Offset, UserId};

/// Something to tell a peer. Byte slices are valid JSON that goes out as it is.
#[derive(Copy, Clone, Debug)]
pub enum Event<'a> {
    /// The connection may be used.
    ConnectionEstablished {
        /// The connection's own id.
        client_id: ClientId,
        /// Who the server takes the peer for.
        user_id: &'a UserId,
        /// The server's wall clock.
        server_time_unix_ms: u64,
        /// How often the server pings.
        heartbeat_interval_ms: u64,
        /// The largest message that the peer may send.
        max_message_bytes: u64,
    },
    /// The token was accepted.
    AuthResponse {
        /// Who the server takes the peer for.
        user_id: &'a UserId,
        /// When the token runs out, if it does.
        expires_at_unix_ms: Option<u64>,
    },
    /// The peer is a member.
    RoomJoined {
        /// The room.
        room: &'a str,
        /// The room's newest offset.
        offset: Offset,
        /// The room's epoch.
        epoch: Epoch,
        /// Whether every message after the position that was asked for follows.
        recovered: bool,
        /// How many users are members, the peer included.
        members: u64,
    },
    /// The peer is no member.
    RoomLeft {
        /// The room.
        room: &'a str,
    },
    /// A message of a room.
    Message {
        /// The room.
        room: &'a str,
        /// Its place in the room.
        offset: Offset,
        /// Application data.
        payload: &'a [u8],
        /// Its name.
        message_id: MessageId<'a>,
        /// When the room accepted it.
        unix_ms: u64,
        /// Who published it; `None` where the server's API did.
        sender: Option<Sender<'a>>,
    },
    /// A message to this user alone.
    DirectMessage {
        /// Application data.
        data: &'a [u8],
        /// Its name.
        message_id: MessageId<'a>,
        /// When the server accepted it.
        unix_ms: u64,
        /// Who sent it; `None` where the server's API did.
        sender: Option<Sender<'a>>,
    },
    /// The peer's message was accepted.
    MessageSent {
        /// The room; `None` for a direct message.
        room: Option<&'a str>,
        /// Its position; `None` for a direct message.
        position: Option<(Epoch, Offset)>,
        /// Its name.
        message_id: MessageId<'a>,
    },
    /// Users came or went.
    PresenceUpdate {
        /// The room.
        room: &'a str,
        /// What changed.
        change: PresenceChange<'a>,
        /// How many users are members now.
        count: u64,
    },
    /// Offsets that this connection did not get and will not get, both inclusive.
    MessagesMissed {
        /// The room.
        room: &'a str,
        /// The first.
        from: Offset,
        /// The last.
        to: Offset,
    },
    /// The server is going down.
    ServerShutdown {
        /// How long to wait after the close before connecting again.
        reconnect_after_ms: u64,
    },
    /// The token runs out soon.
    TokenExpiring {
        /// How long it is still good for.
        expires_in_ms: u64,
    },
    /// A user began to type, or stopped.
    Typing {
        /// The room.
        room: &'a str,
        /// Began, or stopped.
        start: bool,
        /// The user.
        user_id: &'a UserId,
    },
    /// A user has read up to an offset.
    ReadReceipt {
        /// The room.
        room: &'a str,
        /// The newest offset that was read.
        offset: Offset,
        /// The user.
        user_id: &'a UserId,
    },
    /// Who is in a room.
    RoomMembers {
        /// The room.
        room: &'a str,
        /// How many users are members, listed or not.
        count: u64,
        /// Those that are listed.
        members: &'a [Member<'a>],
    },
    /// Past messages of a room.
    History {
        /// The room.
        room: &'a str,
        /// Whole `message` objects ([`Event::Message`] as it was encoded, without the frame
        /// header), oldest first.
        messages: &'a [&'a [u8]],
        /// The room's newest offset.
        offset: Offset,
        /// The room's epoch.
        epoch: Epoch,
        /// False where messages that were asked for are no longer kept.
        complete: bool,
    },
    /// What the peer asked was refused.
    Error {
        /// Why.
        code: Code,
        /// What was wrong, with what value, and what to do.
        message: &'a str,
        /// The room that it concerns.
        room: Option<&'a str>,
    },
    /// The answer to `ping`.
    Pong {
        /// The payload of the ping.
        payload: Option<&'a [u8]>,
    },
    /// Said to everyone by the server's API.
    Broadcast {
        /// Application data.
        payload: &'a [u8],
    },
}

/// Whom a message came from.
#[derive(Copy, Clone, Debug)]
pub struct Sender<'a> {
    /// The connection.
    pub client_id: ClientId,
    /// The user behind it.
    pub user_id: &'a UserId,
}

/// How the users of a room changed.
#[derive(Copy, Clone, Debug)]
pub enum PresenceChange<'a> {
    /// A user's first connection joined.
    Join {
        /// The user.
        user_id: &'a UserId,
        /// What the token says about the user.
        info: Option<&'a [u8]>,
    },
    /// A user's last connection left.
    Leave {
        /// The user.
        user_id: &'a UserId,
        /// What the token says about the user.
        info: Option<&'a [u8]>,
    },
    /// Many users came and went, in a room too large to name them.
    Summary {
        /// How many came since the last summary.
        joined: u64,
        /// How many left since the last summary.
        left: u64,
    },
}

/// One user in the answer to `presence_query`.
#[derive(Copy, Clone, Debug)]
pub struct Member<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// How many of the user's connections are members.
    pub connections: u64,
    /// The highest offset that the user has read, if known.
    pub read: Option<Offset>,
    /// What the token says about the user.
    pub info: Option<&'a [u8]>,
}
