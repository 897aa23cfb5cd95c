//! What one core has for another at the end of a turn: messages, and their bytes end to end.
//!
//! A message that is small takes no memory of its own: what it carries stands in the batch, and the
//! batch's memory goes back to the core that filled it, whoever drops it.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::BusMessage;

/// What is longer than this is shared between the cores that get it, and not copied for each.
const APART_BYTES_MIN: usize = 4 * 1024;

/// How much memory for bytes a batch may have and still be used again.
const KEPT_BYTES_MAX: usize = 128 * 1024;

/// For how many messages.
const KEPT_MESSAGES_MAX: usize = 1024;

/// How many emptied batches a core keeps.
const SPARES_MAX: usize = 16;

/// Bytes that a message carries.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// In the message's batch.
    Here {
        /// Where they begin.
        at: u32,
        /// How many there are.
        len: u32,
    },
    /// Beside it.
    Apart(Arc<[u8]>),
}

impl Bytes {
    /// The bytes; `batch` are those of the message's batch.
    pub fn read<'a>(&'a self, batch: &'a [u8]) -> &'a [u8] {
        match *self {
            Bytes::Here { at, len } => {
                let (at, len) = (at as usize, len as usize);
                batch.get(at..at + len).unwrap_or_default()
            }
            Bytes::Apart(ref bytes) => bytes,
        }
    }

    /// The same where they are a text, which is all that [`Batch::keep_text`] keeps.
    pub fn read_text<'a>(&'a self, batch: &'a [u8]) -> &'a str {
        str::from_utf8(self.read(batch)).unwrap_or_default()
    }
}

#[derive(Default, Debug)]
struct Parts {
    messages: Vec<BusMessage>,
    bytes: Vec<u8>,
}

/// Messages from one core to another, in order.
#[derive(Default, Debug)]
pub struct Batch {
    parts: Parts,
    /// What its messages keep alive, in bytes, without those in `parts`.
    weight: usize,
    /// Where its memory came from, and goes back.
    home: Option<Sender<Parts>>,
}

impl Batch {
    /// Appends a message. Its bytes, if it has some, were kept here before.
    pub fn push(&mut self, message: BusMessage) {
        self.weight += message.weight();
        self.parts.messages.push(message);
    }

    /// Takes in bytes for a message that is pushed next.
    pub fn keep(&mut self, bytes: &[u8]) -> Bytes {
        let place = u32::try_from(self.parts.bytes.len()).ok();
        match place.filter(|_| bytes.len() < APART_BYTES_MIN) {
            Some(at) => {
                self.parts.bytes.extend_from_slice(bytes);
                let len = bytes.len() as u32;
                Bytes::Here { at, len }
            }
            None => Bytes::Apart(Arc::from(bytes)),
        }
    }

    /// The same for a text.
    pub fn keep_text(&mut self, text: &str) -> Bytes {
        self.keep(text.as_bytes())
    }

    /// The same for bytes that several cores get: `shared` is what the last of them got.
    pub fn keep_shared(&mut self, bytes: &[u8], shared: &mut Option<Bytes>) -> Bytes {
        if let Some(Bytes::Apart(bytes)) = shared {
            return Bytes::Apart(Arc::clone(bytes));
        }
        let kept = self.keep(bytes);
        *shared = Some(kept.clone());
        kept
    }

    /// Takes the messages out; their bytes are beside them.
    pub fn open(&mut self) -> (impl Iterator<Item = BusMessage>, &[u8]) {
        (self.parts.messages.drain(..), &self.parts.bytes)
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.parts.messages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.messages.is_empty()
    }

    /// Bytes that the batch keeps alive while it waits, roughly.
    pub fn weight(&self) -> usize {
        self.parts.bytes.len() + self.weight
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let Parts {
            mut messages,
            mut bytes,
        } = std::mem::take(&mut self.parts);
        messages.clear();
        bytes.clear();
        if messages.capacity() <= KEPT_MESSAGES_MAX && bytes.capacity() <= KEPT_BYTES_MAX {
            // Where the core has enough, or is gone, it goes.
            let _enough = home.try_send(Parts { messages, bytes });
        }
    }
}

/// The batches of one core: what it fills, and memory that came back.
#[derive(Debug)]
pub struct Batches {
    home: Sender<Parts>,
    spares: Receiver<Parts>,
}

impl Default for Batches {
    fn default() -> Batches {
        let (home, spares) = bounded(SPARES_MAX);
        Batches { home, spares }
    }
}

impl Batches {
    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch {
            parts: self.spares.try_recv().unwrap_or_default(),
            weight: 0,
            home: Some(self.home.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{ConnectionRef, CoreId};

    fn reply(batch: &mut Batch, frame: &[u8]) {
        let connection = ConnectionRef {
            index: 0,
            generation: 0,
            core: CoreId(0),
        };
        let frame = batch.keep(frame);
        batch.push(BusMessage::Reply {
            connection,
            frame,
            credits: 1,
        });
    }

    fn frames(batch: &mut Batch) -> Vec<Vec<u8>> {
        let (messages, bytes) = batch.open();
        let frame = |message| match message {
            BusMessage::Reply { frame, .. } => frame.read(bytes).to_vec(),
            _ => Vec::new(),
        };
        messages.map(frame).collect()
    }

    #[test]
    fn bytes_are_read_where_they_were_kept_short_or_long() {
        let long = vec![7; APART_BYTES_MIN];
        let mut batch = Batch::default();
        for frame in [b"ab", &long[..], b"", b"c"] {
            reply(&mut batch, frame);
        }
        assert!(batch.weight() > long.len() + 3);
        assert_eq!(frames(&mut batch), [b"ab", &long[..], b"", b"c"]);
    }

    #[test]
    fn what_is_long_is_shared_and_what_is_short_is_copied() {
        let (mut one, mut other) = (Batch::default(), Batch::default());
        for (bytes, is_shared) in [(vec![1; APART_BYTES_MIN], true), (vec![1; 8], false)] {
            let mut shared = None;
            let a = one.keep_shared(&bytes, &mut shared);
            let b = other.keep_shared(&bytes, &mut shared);
            let (a, b) = (a.read(&one.parts.bytes), b.read(&other.parts.bytes));
            assert_eq!((a, b), (&bytes[..], &bytes[..]));
            assert_eq!(a.as_ptr() == b.as_ptr(), is_shared);
        }
    }

    #[test]
    fn memory_comes_back_from_another_thread_and_the_pool_is_bounded() {
        let batches = Batches::default();
        let mut batch = batches.batch();
        reply(&mut batch, b"abc");
        let address = batch.parts.bytes.as_ptr();
        std::thread::spawn(move || drop(batch)).join().unwrap();
        let again = batches.batch();
        assert_eq!((again.weight(), again.parts.bytes.as_ptr()), (0, address));
        drop(again);

        let many: Vec<_> = (0..2 * SPARES_MAX).map(|_| batches.batch()).collect();
        drop(many);
        assert_eq!(batches.spares.len(), SPARES_MAX);
    }

    #[test]
    fn memory_of_an_unusual_batch_is_let_go() {
        let batches = Batches::default();
        let mut batch = batches.batch();
        for _ in 0..=KEPT_MESSAGES_MAX {
            reply(&mut batch, b"");
        }
        drop(batch);
        assert!(batches.spares.is_empty());
    }
}
