//! The native JSON dialect: text to [`Request`](crate::protocol::Request), and
//! [`Event`](crate::protocol::Event) to a whole WebSocket frame.
//!
//! Who does what when a message is read:
//!
//! ```text
//! {"type":"message","room":"r\u00e9d","payload":{"big":1e999},"metadata":{"echo":false}}
//!  ── scan ───────── checks the grammar of all of it in one pass, changes nothing ───────
//!  ── outline ────── marks where each name and value stands; looks into no payload ──────
//!  ── unescape ───── copies the names and strings that have escapes: `réd` ──────────────
//!  ── parse ──────── checks each member against what its command needs ──────────────────
//! ```
//!
//! simd-json could not do it alone: it rewrites strings where they stand, and refuses or rounds
//! numbers that are good JSON, while a payload must come out exactly as it went in. The scanner
//! takes no longer over a payload than simd-json would (`benches/protocol.rs`: about 0.8 GB/s of
//! dense JSON for either, and a long string at the speed of a block compare). What is left after it
//! is some hundred bytes of names and short strings, for which simd-json's set-up cost more than the
//! rest of the way (`docs/decisions/envelope-json.md`).

mod encode;
mod members;
mod outline;
mod parse;
mod scan;
#[cfg(test)]
mod tests;
mod unescape;
mod write;

pub use encode::{encode, encode_body};
pub use members::{BadObject, Member, depth, elements, members, string};
pub use parse::Parser;
pub use scan::{DEPTH_MAX, NotJson, validate};
pub use write::write_string;
