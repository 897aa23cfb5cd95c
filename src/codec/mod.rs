//! Bytes on the wire, and nothing else: no sockets, no clock, no state beyond a half-read frame.
//!
//! - [`websocket`]: frames both ways and the opening handshake (RFC 6455).
//! - [`http`]: request heads and small responses (RFC 9112), as far as an upgrade needs them.
//! - [`proxy`]: what a proxy says first about whose connection it passes on.
//!
//! Everything here reads what a peer sent, so nothing here panics, and every length is held
//! against its limit before memory is taken for it.

pub mod http;
pub mod proxy;
pub mod websocket;
