//! What the decoder hands out.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::close::CloseFrame;
use super::header::CONTROL_BYTES_MAX;

/// The unmasked payload of a binary message, to be changed at will.
#[derive(PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    /// Where it lies in the input: the usual case.
    InPlace(&'a mut [u8]),
    /// Put together from several reads or fragments.
    Assembled(Vec<u8>),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Assembled(bytes) => bytes,
        }
    }
}

impl DerefMut for Payload<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Assembled(bytes) => bytes,
        }
    }
}

/// The text of a message, which was found to be UTF-8.
#[derive(PartialEq, Eq, Debug)]
pub enum Text<'a> {
    /// Where it lies in the input: the usual case.
    InPlace(&'a str),
    /// Put together from several reads or fragments.
    Assembled(Vec<u8>),
}

impl Text<'_> {
    /// The text. One that was assembled was checked in pieces, and is looked at again as a whole.
    pub fn as_str(&self) -> &str {
        match self {
            Text::InPlace(text) => text,
            Text::Assembled(bytes) => simdutf8::basic::from_utf8(bytes).unwrap_or_default(),
        }
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Text::InPlace(text) => text.as_bytes(),
            Text::Assembled(bytes) => bytes,
        }
    }
}

/// The payload of a control frame: at most 125 bytes, without heap.
#[derive(Copy, Clone)]
pub struct ControlPayload {
    /// Invariant: at most [`CONTROL_BYTES_MAX`].
    len: u8,
    bytes: [u8; CONTROL_BYTES_MAX],
}

impl ControlPayload {
    /// Copies `bytes`, as far as a control frame can hold them.
    pub fn new(bytes: &[u8]) -> ControlPayload {
        let mut payload = ControlPayload {
            len: 0,
            bytes: [0; CONTROL_BYTES_MAX],
        };
        payload.append(bytes);
        payload
    }

    /// Appends `more`, as far as there is room.
    pub(super) fn append(&mut self, more: &[u8]) {
        let room = self
            .bytes
            .get_mut(usize::from(self.len)..)
            .unwrap_or_default();
        let mut copied = 0;
        for (to, from) in room.iter_mut().zip(more) {
            *to = *from;
            copied += 1;
        }
        self.len = self.len.saturating_add(copied);
    }
}

impl Deref for ControlPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &ControlPayload) -> bool {
        **self == **other
    }
}

impl Eq for ControlPayload {}

impl fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Something whole that the peer sent.
#[derive(PartialEq, Eq, Debug)]
// A control payload is 126 bytes; in a box it would cost an allocation for each heartbeat.
#[allow(clippy::large_enum_variant)]
pub enum Item<'a> {
    /// A text message.
    Text(Text<'a>),
    /// A binary message.
    Binary(Payload<'a>),
    /// To be answered with a pong of the same payload (RFC 6455 §5.5.2).
    Ping(ControlPayload),
    /// An answer to a ping, or a sign of life by itself (RFC 6455 §5.5.3).
    Pong(ControlPayload),
    /// The peer closes, with or without a code. Whatever follows in the stream is to be ignored
    /// (RFC 6455 §1.4): the caller does so by not decoding any further.
    Close(Option<CloseFrame>),
}
