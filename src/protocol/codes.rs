//! The one table of codes: the same numbers stand in `error` payloads and in close frames.
//!
//! The documentation and the clients' tables are generated from [`TABLE`], so a code is added
//! here and nowhere else.

use std::fmt;

/// Whether a connection is closed when a code applies to it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Closes {
    /// The connection stays open: the code appears in `error` only.
    Never,
    /// An `error` at first; a close once it has happened too often.
    AfterRepetition,
    /// The connection is closed.
    Always,
}

/// What a client should do about a code.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reconnect {
    /// The connection is still there and the code says nothing about it.
    NotApplicable,
    /// Do not connect again by itself: the same would happen.
    No,
    /// Connect again at once.
    AtOnce,
    /// Connect again, or try again, after a delay that grows with each attempt.
    WithBackOff,
    /// Connect again with a new token, never with the old one.
    WithNewToken,
    /// Connect again after the `reconnect_after_ms` of `server_shutdown`, counted from the close.
    AfterAnnouncedDelay,
    /// Stay, and publish the same message again with the same `message_id`.
    RetryPublish,
}

/// One row of the table.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// A short name, and the reason phrase in close frames (RFC 6455 §5.5.1: at most 123 bytes).
    pub name: &'static str,
    /// Whether the connection closes.
    pub closes: Closes,
    /// What the client should do.
    pub reconnect: Reconnect,
    /// When it happens, for the documentation.
    pub description: &'static str,
}

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $closes:ident, $reconnect:ident, $description:literal;)+) => {
        /// Why something was refused or a connection was closed.
        #[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $description] $variant = $number,)+
        }

        /// Every code that the server itself sends, in ascending order.
        pub const TABLE: &[Entry] = &[
            $(Code::$variant.entry(),)+
        ];

        impl Code {
            /// The row of this code.
            pub const fn entry(self) -> Entry {
                match self {
                    $(Code::$variant => Entry {
                        code: Code::$variant,
                        name: $name,
                        closes: Closes::$closes,
                        reconnect: Reconnect::$reconnect,
                        description: $description,
                    },)+
                }
            }

            /// The code of this number, if the table has one.
            pub const fn from_number(number: u16) -> Option<Code> {
                match number {
                    $($number => Some(Code::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    ProtocolError = 1002, "protocol error", Always, No,
        "The peer broke RFC 6455.";
    UnsupportedData = 1003, "unsupported data", Always, No,
        "The peer sent a binary message; only text is spoken here.";
    InvalidPayload = 1007, "invalid payload data", Always, No,
        "A text message was not UTF-8.";
    MessageTooBig = 1009, "message too big", Always, No,
        "A message was larger than `--max-message-bytes`.";
    UnknownError = 4000, "unknown error", Never, WithBackOff,
        "Something failed that has no code of its own.";
    AuthenticationRequired = 4001, "authentication required", Always, No,
        "No `auth` arrived within `--auth-timeout`, or another message came first.";
    AuthenticationFailed = 4002, "authentication failed", Always, WithNewToken,
        "The token was not accepted.";
    OriginNotAllowed = 4003, "origin not allowed", Always, No,
        "The page's origin is not on the list; closed right after the upgrade.";
    RateLimitExceeded = 4004, "rate limit exceeded", AfterRepetition, WithBackOff,
        "The peer sent more than its rate allows.";
    MessageTooLarge = 4005, "message too large", Never, NotApplicable,
        "The message is larger than the room's rule allows.";
    InvalidMessageFormat = 4006, "invalid message format", AfterRepetition, No,
        "The message is not an object of the documented form; more than `--max-protocol-errors` of them within a minute close.";
    RoomNotFound = 4007, "room not found", Never, NotApplicable,
        "Rooms are explicit and no rule means this one.";
    RoomFull = 4008, "room full", Never, NotApplicable,
        "The room has as many members as its rule allows.";
    UserBanned = 4009, "user banned", Always, No,
        "The user is banned; also right after the upgrade.";
    PermissionDenied = 4010, "permission denied", Never, NotApplicable,
        "The room's rule or the token does not allow it.";
    Replaced = 4011, "replaced by a newer connection", Always, No,
        "The same user connected again and `--one-connection-per-user` is on.";
    DisconnectedByApi = 4012, "disconnected by the server's API", Always, No,
        "An operator or the application closed the user's connections.";
    TooManyRooms = 4013, "too many rooms on this connection", Never, NotApplicable,
        "The connection is a member of as many rooms as it may be.";
    UserNotConnected = 4014, "user not connected", Never, NotApplicable,
        "A direct message names a user without a connection.";
    OverCapacity = 4100, "over capacity", Always, WithBackOff,
        "A limit on connections or the memory budget is reached.";
    SlowConsumerBytes = 4101, "slow consumer: too many bytes behind", Always, WithBackOff,
        "The connection left more than `--max-lag-bytes` untaken.";
    SlowConsumerAge = 4102, "slow consumer: too long behind", Always, WithBackOff,
        "The connection left something untaken for longer than `--max-lag-age`.";
    HeartbeatTimeout = 4103, "heartbeat timeout", Always, AtOnce,
        "No sign of life within `--heartbeat-timeout` after a ping.";
    BrokerUnavailable = 4104, "broker or store unavailable", Never, RetryPublish,
        "The publish was not accepted, because the broker or the store does not answer.";
    LifetimeReached = 4105, "connection lifetime reached", Always, AtOnce,
        "The connection is as old as it may become.";
    TokenExpired = 4106, "token expired", Always, WithNewToken,
        "The token ran out and was not refreshed.";
    ServerDraining = 4200, "server draining or restarting", Always, AfterAnnouncedDelay,
        "The server is going down; `server_shutdown` said so before.";
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The short name, as in close frames.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ascends_and_every_number_leads_back_to_its_code() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
        for entry in TABLE {
            assert_eq!(Code::from_number(entry.code.number()), Some(entry.code));
        }
        assert_eq!(Code::from_number(4015), None);
        assert_eq!(TABLE.len(), 27);
    }

    #[test]
    fn every_name_fits_the_reason_of_a_close_frame() {
        for entry in TABLE {
            assert!((1..=123).contains(&entry.name.len()), "{entry:?}");
        }
    }

    #[test]
    fn a_code_reads_as_number_and_name() {
        assert_eq!(Code::RoomFull.to_string(), "4008 room full");
    }
}
