//! A message serialised once, into the bytes that go on the wire.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The bytes of one whole, unmasked WebSocket frame (RFC 6455 §5.2), shared and never changed.
///
/// Cloning counts a reference; the bytes are the same for every core and every member.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

impl Frame {
    /// Takes a copy of `wire`, which holds exactly one whole frame, header included.
    pub fn new(wire: &[u8]) -> Frame {
        Frame(Arc::from(wire))
    }

    /// The application data, without the frame header.
    pub fn body(&self) -> &[u8] {
        let header = match self.0.get(1).map(|b| b & 0x7f) {
            // RFC 6455 §5.2: 126 announces a 16-bit length, 127 a 64-bit one.
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        self.0.get(header..).unwrap_or_default()
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.0.len())
    }
}

/// What must be told instead, when a frame is skipped.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A message: its offset is reported.
    Message,
    /// A passing signal: nothing.
    Passing,
    /// A user joined.
    Joined,
    /// A user left.
    Left,
    /// A summary of several joins and leaves.
    Summary {
        /// Users that joined.
        joined: u32,
        /// Users that left.
        left: u32,
    },
}
