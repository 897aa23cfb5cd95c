//! What may be wrong with a line.

use thiserror::Error;

use crate::protocol::json::BadObject;

/// Rooms are imported with offsets below this one: clients count exactly up to 2^53, and 2^40 messages
/// may follow.
pub(super) const ROOM_OFFSETS: u64 = (1 << 53) - (1 << 40);

/// What is wrong with a line.
#[derive(Debug, Error)]
pub enum LineFault {
    /// It is no JSON object.
    #[error("{0}")]
    NotAnObject(#[from] BadObject),
    /// It is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// It is too long.
    #[error("a line has more than {0} bytes")]
    TooLong(usize),
    /// The first line is another.
    #[error(
        "this is no history of Tidewheel's: its first line is {{\"tidewheel_history\":1,\"whole\":true}}"
    )]
    NotAHistory,
    /// There is no line.
    #[error("the text is empty; a history begins with {{\"tidewheel_history\":1,\"whole\":true}}")]
    Empty,
    /// An editor's mark comes first.
    #[error("the text begins with a byte order mark (EF BB BF); save it as UTF-8 without one")]
    ByteOrderMark,
    /// A room that could not go on.
    #[error(
        "the room's \"offset\" is {0}, and what is published next could not be counted: it has to be \
         below {max} (2^53 - 2^40)", max = ROOM_OFFSETS
    )]
    TooHigh(u64),
    /// A member is not there.
    #[error("there is no {0:?}")]
    Missing(&'static str),
    /// A member is not of its form.
    #[error("{name:?} is {value}; write {expected}")]
    Bad {
        /// Its name.
        name: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// A member that no such line has.
    #[error("no such line has a {0:?}")]
    Unknown(String),
    /// A line that belongs to a room comes before any.
    #[error("it belongs to a room, and no room's line comes before it")]
    NoRoom,
    /// A ban behind a room.
    #[error("bans come before the rooms")]
    LateBan,
    /// An offset that does not follow.
    #[error("offset {found} does not follow on {before}")]
    Order {
        /// The offset.
        found: u64,
        /// The one before it.
        before: u64,
    },
    /// A room's last message is not its newest.
    #[error("room {room:?} has newest offset {offset}, and its last message is {last}")]
    Newest {
        /// The room.
        room: Box<str>,
        /// Its newest offset.
        offset: u64,
        /// That of its last message.
        last: u64,
    },
    /// A room that is there already.
    #[error("room {0:?} is in the data directory already, or twice in this text")]
    RoomExists(Box<str>),
}
