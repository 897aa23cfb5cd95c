//! What a peer asks, free of the dialect it was said in.

use crate::protocol::ids::Epoch;

/// One message of a client: what it wants and how it wants to be answered.
///
/// Everything borrows from the text that was received or from the parser that read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// What is asked.
    pub command: Command<'a>,
    /// Returned in the reply or the error: 1–64 bytes.
    pub correlation_id: Option<&'a str>,
    /// The idempotency key of a publish: 1–64 bytes.
    pub message_id: Option<&'a str>,
    /// Whether a member that publishes gets its own message too. Default true.
    pub echo: bool,
}

/// What a peer asks. Room names and user ids have been checked for their form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Says who the peer is.
    Auth {
        /// Not looked into here.
        token: &'a str,
    },
    /// Becomes a member of a room.
    JoinRoom {
        /// The room.
        room: &'a str,
        /// How many of the newest messages to replay.
        history: Option<u32>,
        /// The position from which to replay, if every message after it is still kept.
        recover: Option<Recover>,
        /// Whether to get presence updates.
        presence: Option<bool>,
    },
    /// Stops being a member of a room.
    LeaveRoom {
        /// The room.
        room: &'a str,
    },
    /// Publishes to a room.
    Message {
        /// The room.
        room: &'a str,
        /// Application data: valid JSON, byte for byte as it came.
        payload: &'a [u8],
    },
    /// Sends to every connection of one user.
    DirectMessage {
        /// The addressee.
        user_id: &'a str,
        /// Application data: valid JSON, byte for byte as it came.
        data: &'a [u8],
    },
    /// The user began to type.
    TypingStart {
        /// The room.
        room: &'a str,
    },
    /// The user stopped typing.
    TypingStop {
        /// The room.
        room: &'a str,
    },
    /// The user has read up to an offset.
    ReadReceipt {
        /// The room.
        room: &'a str,
        /// The newest offset that was read.
        offset: u64,
    },
    /// Asks who is in a room.
    PresenceQuery {
        /// The room.
        room: &'a str,
    },
    /// Asks for past messages.
    HistoryQuery {
        /// The room.
        room: &'a str,
        /// Only messages after this offset, oldest first; without it the newest.
        since: Option<u64>,
        /// How many at most; a greater number than `u32` holds is `u32::MAX`.
        limit: Option<u32>,
    },
    /// Asks for a sign of life.
    Ping {
        /// Returned in the `pong`: valid JSON, byte for byte as it came.
        payload: Option<&'a [u8]>,
    },
}

/// Where a client's knowledge of a room ends.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Recover {
    /// `None` where the text is no epoch that this server could have given out.
    pub epoch: Option<Epoch>,
    /// The last offset that the client has.
    pub offset: u64,
}

/// A message that is not of the documented form: error 4006.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// What was wrong, with what value, and what to send instead. It may quote up to 64 bytes of
    /// the peer's text, so it is for the peer and not for a log.
    pub message: String,
    /// The `correlation_id`, where it could be read all the same.
    pub correlation_id: Option<String>,
    /// The room that was meant, where its name could be read and is one.
    pub room: Option<String>,
}

impl<'a> Command<'a> {
    /// The `type` of every command in the native dialect.
    pub const TYPES: [&'static str; 11] = [
        "auth",
        "join_room",
        "leave_room",
        "message",
        "direct_message",
        "typing_start",
        "typing_stop",
        "read_receipt",
        "presence_query",
        "history_query",
        "ping",
    ];

    /// The room that the command is about, if it is about one.
    pub fn room(&self) -> Option<&'a str> {
        match *self {
            Command::JoinRoom { room, .. }
            | Command::LeaveRoom { room }
            | Command::Message { room, .. }
            | Command::TypingStart { room }
            | Command::TypingStop { room }
            | Command::ReadReceipt { room, .. }
            | Command::PresenceQuery { room }
            | Command::HistoryQuery { room, .. } => Some(room),
            Command::Auth { .. } | Command::DirectMessage { .. } | Command::Ping { .. } => None,
        }
    }
}
