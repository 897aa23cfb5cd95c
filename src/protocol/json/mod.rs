//! The native JSON dialect: text to [`Request`](crate::protocol::Request), and
//! [`Event`](crate::protocol::Event) to a whole WebSocket frame.
//!
//! Who does what when a message is read:
//!
//! ```text
//! {"type":"message","room":"r\u00e9d","payload":{"big":1e999},"metadata":{"echo":false}}
//!  ── scan ───────── checks the grammar of all of it in one pass, changes nothing ───────
//! {"type":"message","room":"r\u00e9d","payload":0,"metadata":{"echo":0}}
//!  ── outline ────── the same without application data; remembers where each value was ──
//!  ── simd-json ──── reads the outline: unescapes names and strings, in place ───────────
//!  ── parse ──────── checks each member against what its command needs ──────────────────
//! ```
//!
//! simd-json alone could not do it: it rewrites strings where they stand, and refuses or rounds
//! numbers that are good JSON, while a payload must come out exactly as it went in. The scanner
//! takes no longer over a payload than simd-json would (`benches/protocol.rs`: about 0.8 GB/s of
//! dense JSON for either, and a long string at the speed of a block compare), so a large message
//! is not paid for twice: simd-json only sees the outline, some hundred bytes.

mod encode;
mod outline;
mod parse;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use encode::{encode, encode_body};
pub use parse::Parser;
pub use scan::{DEPTH_MAX, NotJson, validate};
