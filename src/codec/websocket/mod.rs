//! WebSocket frames (RFC 6455), the server's half.
//!
//! ```text
//!  bytes read ──► Decoder ──► Item::Text(InPlace)       a whole frame: unmasked where it lies
//!                    │   └──► Item::Text(Assembled)     chopped or fragmented: copied once
//!                    └──────► Fault ──► close_code()    the peer broke the protocol
//!  bytes to write ◄── encode_frame, encode_close, encode_upgrade
//! ```
//!
//! The decoder owns no heap between messages, so an idle connection costs the eight bytes of its
//! [`Decoder`]. No extension is spoken: a reserved bit is a fault. [`client`] is the other half of
//! the conversation, for simulations, tests and benches.
//!
//! Read on in this order: [`header`](self::Header), [`Decoder`], [`CloseFrame`], [`encode_frame`].

pub mod client;
mod close;
mod decoder;
mod encode;
mod fault;
mod handshake;
mod header;
mod item;
mod mask;
mod message;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod utf8;

pub use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

pub use close::CloseFrame;
pub use decoder::{Decoded, Decoder, Limits};
pub use encode::{encode_close, encode_frame, encode_header};
pub use fault::Fault;
pub use handshake::{accept_key, encode_upgrade};
pub use header::{CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header};
pub use item::{ControlPayload, Item, Payload, Text};
pub use mask::unmask;
