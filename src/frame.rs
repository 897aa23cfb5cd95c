//! A message serialised once, into the bytes that go on the wire.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The bytes of one whole, unmasked WebSocket frame (RFC 6455 §5.2), shared and never changed.
///
/// Cloning counts a reference; the bytes are the same for every core and every member.
#[derive(Clone)]
pub struct Frame {
    /// The frame, and what room its memory has behind it.
    memory: Arc<[u8]>,
    len: usize,
}

impl Frame {
    /// Takes a copy of `wire`, which holds exactly one whole frame, header included.
    pub fn new(wire: &[u8]) -> Frame {
        Frame {
            memory: Arc::from(wire),
            len: wire.len(),
        }
    }

    /// Bytes of memory that the frame holds, whoever shares it.
    pub fn heap_bytes(&self) -> usize {
        // The two counts of an `Arc` stand before what it holds.
        self.memory.len() + 2 * size_of::<usize>()
    }

    /// How many hold the frame. Another core may let go of it at any moment.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.memory)
    }

    /// The application data, without the frame header.
    pub fn body(&self) -> &[u8] {
        let header = match self.get(1).map(|b| b & 0x7f) {
            // RFC 6455 §5.2: 126 announces a 16-bit length, 127 a 64-bit one.
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        self.get(header..).unwrap_or_default()
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        **self == **other
    }
}

impl Eq for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len)
    }
}

/// Memory of frames that nobody holds any more, by size, kept so that a message allocates nothing.
#[derive(Default)]
pub struct SpareFrames {
    /// Those of [`STEP`], of twice that, and so on.
    sizes: Vec<Vec<Frame>>,
    bytes: usize,
}

/// The sizes of spare frames are this many bytes apart.
const STEP: usize = 64;

/// Larger frames are not kept: what they cost is not their memory.
const SPARE_FRAME_BYTES_MAX: usize = 16 * 1024;

/// How much is kept in all, on each core.
const SPARE_BYTES_MAX: usize = 256 * 1024;

impl SpareFrames {
    /// A frame with a copy of `wire`, as [`Frame::new`] makes it, in memory that was kept if there
    /// is such.
    pub fn frame(&mut self, wire: &[u8]) -> Frame {
        let len = wire.len();
        if len > SPARE_FRAME_BYTES_MAX {
            return Frame::new(wire);
        }
        let size = len.div_ceil(STEP);
        let spare = self.sizes.get_mut(size).and_then(Vec::pop);
        let mut memory = match spare {
            Some(spare) => {
                self.bytes -= spare.memory.len();
                spare.memory
            }
            None => std::iter::repeat_n(0, size * STEP).collect(),
        };
        match Arc::get_mut(&mut memory).and_then(|memory| memory.get_mut(..len)) {
            Some(place) => place.copy_from_slice(wire),
            // Somebody holds it still.
            None => return Frame::new(wire),
        }
        Frame { memory, len }
    }

    /// Bytes of memory that are kept.
    pub fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of what is kept.
    pub fn release(&mut self) {
        *self = SpareFrames::default();
    }

    /// Keeps a frame's memory, unless it is of an odd size or what is kept is enough.
    pub fn give(&mut self, frame: Frame) {
        let bytes = frame.memory.len();
        let is_fit = bytes.is_multiple_of(STEP) && bytes <= SPARE_FRAME_BYTES_MAX;
        if !is_fit || self.bytes + bytes > SPARE_BYTES_MAX {
            return;
        }
        let size = bytes / STEP;
        if self.sizes.len() <= size {
            self.sizes.resize_with(size + 1, Vec::new);
        }
        if let Some(frames) = self.sizes.get_mut(size) {
            self.bytes += bytes;
            frames.push(frame);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_nobody_holds_it() {
        let mut spares = SpareFrames::default();
        let frame = spares.frame(b"\x81\x03abc");
        let held = frame.clone();
        let address = frame.as_ptr();
        spares.give(frame);
        assert_ne!(spares.frame(b"\x81\x01x").as_ptr(), address);
        assert_eq!(&*held, b"\x81\x03abc");
        spares.give(held);
        let again = spares.frame(b"\x81\x01y");
        assert_eq!((&*again, again.as_ptr()), (&b"\x81\x01y"[..], address));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = SpareFrames::default();
        let frames: Vec<_> = (0..100).map(|_| spares.frame(&[0; 10_000])).collect();
        frames.into_iter().for_each(|frame| spares.give(frame));
        assert!(spares.bytes <= SPARE_BYTES_MAX && spares.bytes > SPARE_BYTES_MAX / 2);
        spares.give(Frame::new(&[0; 64 * 1024]));
        assert!(spares.bytes <= SPARE_BYTES_MAX);
    }

    #[test]
    fn a_body_begins_behind_its_header() {
        let long = [&[0x81, 126, 0, 200][..], &[b'x'; 200]].concat();
        assert_eq!(Frame::new(b"\x81\x03abc").body(), b"abc");
        assert_eq!(SpareFrames::default().frame(&long).body(), &[b'x'; 200]);
    }
}
