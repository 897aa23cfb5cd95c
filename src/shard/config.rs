//! What a shard is told about itself and its bounds.

use std::sync::Arc;
use std::time::Duration;

use crate::address::CoreId;
use crate::bus::Durability;
use crate::gate::{Meters, Policy};
use crate::room::home::RoomLimits;

pub use crate::gate::Overflow;

/// Everything that a shard does not find out for itself. Plain data, the same on all cores of a
/// node but for `core`.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which core this is.
    pub core: CoreId,
    /// How many there are.
    pub cores: u16,
    /// From which the node's ids, epochs, jitter and hash keys come.
    pub seed: u64,
    /// Whether `/echo` is open.
    pub echo: bool,
    /// The page at `/`.
    pub page: &'static [u8],

    /// What may change while the shard runs: [`Shard::handle_policy`](crate::shard::Shard).
    pub policy: Arc<Policy>,
    /// What is counted for the whole node: the same on all its cores.
    pub meters: Arc<Meters>,

    /// How long an HTTP head may take.
    pub handshake_timeout: Duration,
    /// How long an HTTP head may be, in bytes.
    pub head_bytes_max: usize,
    /// How long a peer has to take a close frame.
    pub close_timeout: Duration,
    /// Payload of a message, in bytes.
    pub message_bytes_max: usize,
    /// Frames of a message.
    pub fragments_max: u32,
    /// Malformed messages within a minute that are answered; one more closes.
    pub protocol_errors_max: u32,

    /// Rooms that a connection may be in.
    pub rooms_per_connection_max: usize,
    /// Rooms whose home is this core.
    pub rooms_max: usize,
    /// Bounds of each room.
    pub room: RoomLimits,
    /// Users in a room above which presence is told in summaries.
    pub presence_limit: u64,

    /// What happens to a laggard.
    pub overflow: Overflow,
    /// How many bytes a connection may be behind.
    pub lag_bytes_max: u64,
    /// How old the oldest byte may be that a connection has not taken.
    pub lag_age_max: Duration,
    /// How long a busy room gathers before it flushes; zero flushes every turn.
    pub coalesce: Duration,
    /// Bytes of answers that may wait on a connection before it is read no more.
    pub answer_bytes_max: usize,

    /// Bytes of memory for what all cores hold together; 0: as much as there is.
    pub memory_budget_bytes: usize,

    /// When a publish is answered, where history is kept on disk.
    pub durability: Durability,
    /// Whether the operator's backend wants to know of rooms and users that come and go.
    pub gives_notice: bool,

    /// Time between two pings to a connection.
    pub heartbeat_interval: Duration,
    /// Time for a sign of life after a ping.
    pub heartbeat_timeout: Duration,
}

/// The longest message that `/echo` returns, in bytes.
pub const ECHO_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most fragments of such a message: 4 MiB in frames of 64 bytes and an empty last one, as
/// Autobahn's case 9.3.1 has it, are 65,537.
pub const ECHO_FRAGMENTS_MAX: u32 = 128 * 1024;
