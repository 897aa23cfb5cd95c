//! The language that peers speak: what they may ask, what they are told, and how both look on
//! the wire in the native JSON dialect, `tidewheel.v1.json`.
//!
//! ```text
//!  text of one WebSocket message                            one whole WebSocket frame
//!        │                                                            ▲
//!        ▼                                                            │
//!  json::Parser ──► Request { Command, … }        Event ──► json::encode
//!        │                                          ▲
//!        └──► Malformed (error 4006)                └── codes::Code for what went wrong
//! ```
//!
//! Everything here is a pure function of its arguments: no clock, no sockets, no state that
//! outlives a call except reused memory. Who may ask what is `gate`'s affair; what the answer is,
//! `shard`'s. Other dialects translate to and from the same [`Command`] and [`Event`].
//!
//! Reading order: [`ids`], [`command`], [`event`], [`codes`], then [`json`].

pub mod codes;
pub mod command;
pub mod event;
pub mod ids;
pub mod json;
pub mod timestamp;

pub use codes::Code;
pub use command::{Command, Malformed, Recover, Request};
pub use event::{Event, Member, PresenceChange, Sender};
pub use ids::{ClientId, Epoch, KEY_BYTES_MAX, MessageId, Offset, UserId};
pub use timestamp::Timestamp;

/// The name of the native dialect in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "tidewheel.v1.json";
