//! What the control plane asks of cores on behalf of the operator's backend, and their answers.
//!
//! A query goes to one core: a room's home, a user's home, or each core in turn. No answer is
//! awaited on a core; each query is answered once, in the turn in which it came, or later where a
//! publish waits for the disk.

use std::sync::Arc;

use thiserror::Error;

use crate::address::RoomKey;
use crate::frame::Frame;
use crate::metrics::Metrics;
use crate::protocol::{ClientId, Code, Epoch, UserId};

/// Names a query: its answer bears the same number.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub u64);

/// A question to one core.
#[derive(Debug)]
pub struct Query {
    /// Under which it is answered.
    pub ticket: Ticket,
    /// What is asked.
    pub ask: ApiAsk,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum ApiAsk {
    /// At the rooms' home: to publish, in this order. Answered with [`ApiAnswer::Published`].
    Publish(Vec<Post>),
    /// At a room's home: messages of the past. Answered with [`ApiAnswer::History`].
    History {
        /// The room.
        room: RoomKey,
        /// Those after this offset; the newest where not given.
        since: Option<u64>,
        /// How many at most.
        limit: Option<u32>,
    },
    /// At a room's home: who is there. Answered with [`ApiAnswer::Members`].
    Members(RoomKey),
    /// At a room's home: what is known of it. Answered with [`ApiAnswer::Room`].
    Room(RoomKey),
    /// At every core: the rooms at home there, in the order of their places in its table. Answered
    /// with [`ApiAnswer::Rooms`].
    Rooms {
        /// The place to begin at.
        from: u32,
        /// How many at most.
        limit: u32,
    },
    /// At every core: a `broadcast` to each established connection. Answered with
    /// [`ApiAnswer::Connections`] before all have it.
    Broadcast(Arc<[u8]>),
    /// At a user's home: a `direct_message`. Answered with [`ApiAnswer::Connections`].
    Direct {
        /// To whom.
        user: UserId,
        /// The application's JSON.
        data: Arc<[u8]>,
    },
    /// At a user's home: the user's connections join a room. Answered with
    /// [`ApiAnswer::Connections`].
    Join {
        /// Who.
        user: UserId,
        /// What.
        room: RoomKey,
    },
    /// At a user's home: the user's connections leave a room. Answered with
    /// [`ApiAnswer::Connections`].
    Leave {
        /// Who.
        user: UserId,
        /// What.
        room: RoomKey,
    },
    /// At a user's home: what is known of the user. Answered with [`ApiAnswer::User`].
    User(UserId),
    /// At every core: what an operator wants to see beside the metrics. Answered with
    /// [`ApiAnswer::Sight`]. A core looks at a bounded number of rooms and connections for it, and
    /// says where to go on.
    Look {
        /// The place in the table of rooms to begin at; none: not at rooms.
        rooms_from: Option<u32>,
        /// The place in the table of connections to begin at; none: not at connections.
        connections_from: Option<u32>,
        /// How many rooms and connections to report at most: the largest and the slowest.
        top: u32,
    },
    /// At every core: its metrics. Answered with [`ApiAnswer::Metrics`].
    Metrics,
}

/// A message that the backend publishes.
#[derive(Clone, Debug)]
pub struct Post {
    /// The room.
    pub room: RoomKey,
    /// The application's JSON.
    pub payload: Box<[u8]>,
    /// The idempotency key: 1–64 bytes.
    pub message_id: Option<Box<str>>,
}

/// A core's answer.
#[derive(Debug)]
pub struct Answer {
    /// To which query.
    pub ticket: Ticket,
    /// What it says.
    pub answer: ApiAnswer,
}

/// What a core says.
#[derive(Debug)]
pub enum ApiAnswer {
    /// What became of each message, in order.
    Published(Vec<Result<Position, Refused>>),
    /// Messages of the past; none where there is no such room.
    History(Option<Past>),
    /// Who is in a room; none where there is no such room.
    Members(Option<Crowd>),
    /// What is known of a room; none where there is no such room.
    Room(Option<RoomFacts>),
    /// Rooms.
    Rooms {
        /// Those found.
        rooms: Vec<RoomFacts>,
        /// The place to go on at; none where that was all.
        next: Option<u32>,
    },
    /// How many connections it reaches: 0 where the user has none.
    Connections(u64),
    /// What is known of a user.
    User(UserFacts),
    /// What an operator wants to see.
    Sight(Box<Sight>),
    /// A copy of the core's metrics.
    Metrics(Box<Metrics>),
    /// Nothing was done.
    Refused(Refused),
}

/// A position that a message was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    /// The room's epoch.
    pub epoch: Epoch,
    /// The message's offset.
    pub offset: u64,
}

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{message}")]
pub struct Refused {
    /// The protocol's code.
    pub code: Code,
    /// What was wrong, with what value, and what to do.
    pub message: Box<str>,
}

/// The answer to a question about the past.
#[derive(Debug)]
pub struct Past {
    /// The room's epoch.
    pub epoch: Epoch,
    /// The room's newest offset.
    pub offset: u64,
    /// Messages, oldest first: the body of each is a whole `message` object.
    pub messages: Vec<Frame>,
    /// False where messages that were asked for are no longer kept.
    pub complete: bool,
}

/// Who is in a room.
#[derive(Debug)]
pub struct Crowd {
    /// Users, listed or not.
    pub count: u64,
    /// Those that are listed.
    pub members: Vec<MemberFacts>,
}

/// A user in a room.
#[derive(Debug)]
pub struct MemberFacts {
    /// Who.
    pub user: UserId,
    /// The user's connections in the room.
    pub connections: u64,
    /// The highest offset that the user has read; 0 for none.
    pub read: u64,
    /// What is told about the user: JSON.
    pub info: Option<Arc<[u8]>>,
}

/// What is known of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserFacts {
    /// The user's connections to this node; 0 for one who is not there.
    pub connections: u64,
    /// The ban in force: its end by the wall clock in milliseconds, none where it has none.
    pub ban: Option<Option<u64>>,
}

/// What is known of a room.
#[derive(Clone, Debug)]
pub struct RoomFacts {
    /// Its name.
    pub room: RoomKey,
    /// Users in it.
    pub members: u64,
    /// Their connections.
    pub connections: u64,
    /// The newest message's offset.
    pub offset: u64,
    /// The epoch of it.
    pub epoch: Epoch,
}

/// What an operator wants to see of one core.
#[derive(Default, Debug)]
pub struct Sight {
    /// The largest rooms among those looked at.
    pub rooms: Vec<RoomFacts>,
    /// Where to go on in the table of rooms.
    pub rooms_next: Option<u32>,
    /// The slowest connections among those looked at: only such whose sockets are full, and that have
    /// others' messages waiting.
    pub laggards: Vec<Laggard>,
    /// Where to go on in the table of connections.
    pub connections_next: Option<u32>,
    /// Evictions on this core, oldest first: the last ones, of each kind some.
    pub evictions: Vec<Evicted>,
}

/// A connection that is behind.
#[derive(Clone, Debug)]
pub struct Laggard {
    /// Its id.
    pub client_id: ClientId,
    /// Its user.
    pub user: UserId,
    /// Bytes of others' messages that it has not taken: what `--max-lag-bytes` bounds.
    pub lag_bytes: u64,
    /// How old the oldest of them is, in milliseconds.
    pub lag_ms: u64,
    /// Rooms that it is in.
    pub rooms: u32,
}

/// A connection that was closed because it was slow, dead, or too much, or because somebody said so.
#[derive(Clone, Debug)]
pub struct Evicted {
    /// When, by the wall clock.
    pub unix_ms: u64,
    /// Its id.
    pub client_id: ClientId,
    /// Its user.
    pub user: UserId,
    /// The close code.
    pub code: u16,
    /// Bytes that it had not taken: others' messages and answers.
    pub lag_bytes: u64,
}
