//! What goes to one connection alone: replies, direct messages, replayed history, control frames.
//!
//! A connection has such a queue only while something is in it. Small frames of one kind gather
//! into one buffer; shared frames are held by reference. What was written of the front chunk is
//! remembered, so a write that was cut short goes on in the middle of a frame.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use crate::frame::Frame;
use crate::metrics::Kind;
use crate::time::Instant;

/// Up to this size, frames of the same kind gather in one chunk, in bytes.
const GATHER_BYTES: usize = 16 * 1024;

/// How much memory emptied queues may hold for the next connections that need one, in bytes, on each
/// core.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// How the ledger and the bounds treat what is in a chunk.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Bytes that are no message to anyone: HTTP, control frames, `/echo`.
    Raw,
    /// An answer, or a replayed message that was asked for: counted, but never as lag.
    Answer(Kind),
    /// A message from others: counted, and as lag.
    Data(Kind),
}

impl Class {
    fn kind(self) -> Option<Kind> {
        match self {
            Class::Raw => None,
            Class::Answer(kind) | Class::Data(kind) => Some(kind),
        }
    }
}

enum Bytes {
    Own(Vec<u8>),
    Shared(Frame),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(frame) => frame,
        }
    }
}

struct Chunk {
    bytes: Bytes,
    class: Class,
    at: Instant,
    frames: u64,
    /// Memory that it is charged with: its own, or its share of a frame that others hold too.
    held: usize,
    /// It begins in the middle of a frame whose beginning the kernel has.
    is_rest: bool,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the front chunk that the kernel has.
    written: usize,
    answer_bytes: usize,
    data_bytes: usize,
    /// Memory of a chunk that was written, for the next one.
    buffer: Vec<u8>,
    /// Memory of all chunks, as they are charged with it.
    held: usize,
}

impl Queue {
    /// Appends bytes, which hold `frames` whole frames.
    pub fn push(&mut self, bytes: &[u8], frames: u64, class: Class, at: Instant) {
        self.account(class, bytes.len(), true);
        if let Some(last) = self.chunks.back_mut()
            && last.class == class
            && !last.is_rest
            && let Bytes::Own(own) = &mut last.bytes
            && own.len() + bytes.len() <= GATHER_BYTES
        {
            own.extend_from_slice(bytes);
            self.held += own.capacity() - last.held;
            last.held = own.capacity();
            last.frames += frames;
            return;
        }
        let mut own = std::mem::take(&mut self.buffer);
        own.extend_from_slice(bytes);
        let held = own.capacity();
        self.held += held;
        self.chunks.push_back(Chunk {
            bytes: Bytes::Own(own),
            class,
            at,
            frames,
            held,
            is_rest: false,
        });
    }

    /// Appends a shared frame.
    pub fn push_shared(&mut self, frame: Frame, class: Class, at: Instant) {
        self.account(class, frame.len(), true);
        // Whoever else holds the frame now, history first of all, may let go of it before this queue
        // does. A frame that a thousand queues hold is not a thousand frames, though: each later one
        // is charged with a smaller part, and all together with a few times the frame at the most.
        let held = frame.heap_bytes() / frame.holders().saturating_sub(1).max(1);
        self.held += held;
        self.chunks.push_back(Chunk {
            bytes: Bytes::Shared(frame),
            class,
            at,
            frames: 1,
            held,
            is_rest: false,
        });
    }

    /// Puts the rest of a frame that was written in part before everything else.
    ///
    /// Must not be called while the front of the queue itself is written in part: only one frame
    /// can be under way on a connection.
    pub fn push_rest(&mut self, rest: &[u8], class: Class, at: Instant) {
        debug_assert!(!self.is_mid_frame(), "two frames under way at once");
        self.account(class, rest.len(), true);
        let frames = u64::from(class.kind().is_some());
        let own = rest.to_vec();
        let held = own.capacity();
        self.held += held;
        let bytes = Bytes::Own(own);
        self.chunks.push_front(Chunk {
            bytes,
            class,
            at,
            frames,
            held,
            is_rest: true,
        });
    }

    fn account(&mut self, class: Class, bytes: usize, more: bool) {
        let counter = match class {
            Class::Data(_) => &mut self.data_bytes,
            Class::Raw | Class::Answer(_) => &mut self.answer_bytes,
        };
        *counter = if more {
            *counter + bytes
        } else {
            counter.saturating_sub(bytes)
        };
    }

    /// What is left to write, in order, one slice a chunk.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().enumerate().map(|(i, chunk)| {
            let skip = if i == 0 { self.written } else { 0 };
            chunk.bytes.as_slice().get(skip..).unwrap_or_default()
        })
    }

    /// Notes that `count` more bytes were written; hands each kind and number of frames that are
    /// wholly written to `delivered`. Answers what of `count` was beyond this queue.
    pub fn advance(&mut self, mut count: usize, mut delivered: impl FnMut(Kind, u64)) -> usize {
        while let Some(front) = self.chunks.front() {
            let left = front.bytes.as_slice().len() - self.written;
            if count < left {
                self.written += count;
                return 0;
            }
            count -= left;
            self.written = 0;
            let (class, len, frames) = (front.class, front.bytes.as_slice().len(), front.frames);
            self.account(class, len, false);
            if let Some(chunk) = self.chunks.pop_front() {
                self.held -= chunk.held;
                self.keep_buffer(chunk.bytes);
            }
            if let Some(kind) = class.kind() {
                delivered(kind, frames);
            }
        }
        count
    }

    fn keep_buffer(&mut self, bytes: Bytes) {
        if let Bytes::Own(mut own) = bytes
            && own.capacity() > self.buffer.capacity()
            && own.capacity() <= GATHER_BYTES
        {
            own.clear();
            self.buffer = own;
        }
    }

    /// Bytes of memory that an empty queue holds.
    fn spare_bytes(&self) -> usize {
        size_of::<Queue>() + self.chunks.capacity() * size_of::<Chunk>() + self.buffer.capacity()
    }

    /// Bytes of memory that the queue holds. A few loads.
    pub fn heap_bytes(&self) -> usize {
        self.spare_bytes() + self.held
    }

    /// The same, added up chunk by chunk: what the sum that is kept must be.
    pub fn recounted_bytes(&self) -> usize {
        self.spare_bytes() + self.chunks.iter().map(|chunk| chunk.held).sum::<usize>()
    }

    /// Drops all but the rest of a frame that is under way, or raw bytes at the front; hands what was
    /// delivered, and not yet counted, and what will not be to the two functions.
    ///
    /// The frame under way goes on waiting, and is no lag any more: the kernel may yet take it whole.
    pub fn abandon(
        &mut self,
        mut delivered: impl FnMut(Kind, u64),
        mut dropped: impl FnMut(Kind, u64),
    ) {
        let mut rest = None;
        for (i, chunk) in std::mem::take(&mut self.chunks).into_iter().enumerate() {
            let written = if i == 0 { self.written } else { 0 };
            let bytes = chunk.bytes.as_slice();
            let (whole, end) = match chunk.class {
                _ if chunk.is_rest => (0, bytes.len()),
                // Bytes that are no frames have no boundaries; what was begun is finished. At the
                // front they may be the HTTP response, without which no close frame is one.
                Class::Raw if i == 0 => (0, bytes.len()),
                Class::Raw => (0, 0),
                Class::Answer(_) | Class::Data(_) => frames_within(bytes, written),
            };
            let left = bytes.get(written..end).unwrap_or_default();
            if let Some(kind) = chunk.class.kind() {
                delivered(kind, whole);
                dropped(kind, chunk.frames - whole - u64::from(!left.is_empty()));
            }
            if !left.is_empty() {
                debug_assert!(rest.is_none(), "only the front can be under way");
                let class = chunk.class.kind().map_or(Class::Raw, Class::Answer);
                rest = Some((left.to_vec(), class));
            }
        }
        *self = Queue::default();
        if let Some((rest, class)) = rest {
            self.push_rest(&rest, class, Instant::ORIGIN);
        }
    }

    /// Frames that wait, by kind.
    pub fn pending(&self) -> impl Iterator<Item = (Kind, u64)> {
        self.chunks
            .iter()
            .filter_map(|chunk| Some((chunk.class.kind()?, chunk.frames)))
    }

    /// Whether part of a frame, or of other bytes, is written and the rest is not.
    fn is_mid_frame(&self) -> bool {
        self.written > 0 || self.chunks.front().is_some_and(|front| front.is_rest)
    }

    /// Whether nothing is left to write.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes of answers that wait.
    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Bytes of others' messages that wait: these are lag.
    pub fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// When the oldest of others' messages was accepted.
    pub fn oldest_data(&self) -> Option<Instant> {
        self.chunks
            .iter()
            .find(|c| matches!(c.class, Class::Data(_)))
            .map(|c| c.at)
    }
}

/// Queues that were emptied, kept so that an answer allocates nothing; and the sum of what the queues
/// of all connections hold, because each comes from here, is changed through [`Lent`], and comes back.
#[derive(Default)]
pub struct SpareQueues {
    #[allow(clippy::vec_box, reason = "a connection takes the box as it is")]
    queues: Vec<Box<Queue>>,
    bytes: usize,
    /// Bytes of all queues that were taken.
    held: usize,
}

/// A queue that may be changed. Where it is dropped, the sum is put right.
pub struct Lent<'a> {
    queue: &'a mut Queue,
    sum: &'a mut usize,
    before: usize,
}

impl Deref for Lent<'_> {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        self.queue
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Queue {
        self.queue
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.sum = *self.sum + self.queue.heap_bytes() - self.before;
    }
}

impl SpareQueues {
    /// An empty queue.
    pub fn take(&mut self) -> Box<Queue> {
        let queue = match self.queues.pop() {
            None => Box::default(),
            Some(queue) => {
                self.bytes -= queue.spare_bytes();
                queue
            }
        };
        self.held += queue.heap_bytes();
        queue
    }

    /// Lends a queue that was taken from here.
    pub fn lend<'a>(&'a mut self, queue: &'a mut Queue) -> Lent<'a> {
        Lent {
            before: queue.heap_bytes(),
            queue,
            sum: &mut self.held,
        }
    }

    /// Bytes of memory that the queues hold which were taken.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Bytes of memory that wait here for the next connection.
    pub fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of what waits here.
    pub fn release(&mut self) {
        self.queues = Vec::new();
        self.bytes = 0;
    }

    /// Takes back a queue that was taken; keeps it if there is nothing in it, and what is kept is not
    /// enough.
    pub fn give(&mut self, queue: Box<Queue>) {
        self.held -= queue.heap_bytes();
        let bytes = queue.spare_bytes();
        if queue.is_empty() && self.bytes + bytes <= SPARE_BYTES_MAX {
            self.bytes += bytes;
            self.queues.push(queue);
        }
    }
}

/// How many of the frames in `bytes` end within the first `written`, and where the frame ends in
/// whose middle that is (`written` itself on a boundary).
fn frames_within(bytes: &[u8], written: usize) -> (u64, usize) {
    let (mut at, mut whole) = (0, 0);
    while at < written {
        let end = at + frame_len(bytes.get(at..).unwrap_or_default());
        if end > written {
            return (whole, end);
        }
        whole += 1;
        at = end;
    }
    (whole, at)
}

/// The length of the server frame at the start of `bytes`, header included (RFC 6455 §5.2).
fn frame_len(bytes: &[u8]) -> usize {
    match *bytes {
        [_, 126, a, b, ..] => 4 + usize::from(u16::from_be_bytes([a, b])),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            10 + u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize
        }
        [_, len, ..] => 2 + usize::from(len),
        _ => bytes.len().max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: Class = Class::Answer(Kind::Reply);

    fn contents(queue: &Queue) -> Vec<u8> {
        queue.slices().flatten().copied().collect()
    }

    #[test]
    fn small_replies_gather_and_are_counted_when_wholly_written() {
        let mut queue = Queue::default();
        queue.push(b"\x81\x01a", 1, REPLY, Instant::ORIGIN);
        queue.push(b"\x81\x01b", 1, REPLY, Instant::ORIGIN);
        queue.push(b"\x81\x01c", 1, Class::Data(Kind::Direct), Instant::ORIGIN);
        let mut done = Vec::new();
        assert_eq!(queue.slices().count(), 2);
        assert_eq!(queue.advance(4, |kind, n| done.push((kind, n))), 0);
        assert_eq!(contents(&queue), b"\x01b\x81\x01c");
        assert_eq!(
            queue.advance(9, |kind, n| done.push((kind, n))),
            4,
            "four were not ours"
        );
        assert_eq!(done, [(Kind::Reply, 2), (Kind::Direct, 1)]);
        assert!(queue.is_empty());
        assert_eq!((queue.answer_bytes(), queue.data_bytes()), (0, 0));
    }

    #[test]
    fn abandoning_finishes_the_frame_under_way_and_counts_the_rest() {
        let mut queue = Queue::default();
        for text in [b"\x81\x01a", b"\x81\x01b", b"\x81\x01c"] {
            queue.push(text, 1, REPLY, Instant::ORIGIN);
        }
        queue.advance(4, |_, _| {});
        let (mut delivered, mut dropped) = (0, 0);
        queue.abandon(|_, n| delivered += n, |_, n| dropped += n);
        assert_eq!(contents(&queue), b"\x01b");
        assert_eq!((delivered, dropped), (1, 1));
        assert_eq!(queue.data_bytes(), 0);
        queue.advance(2, |_, n| delivered += n);
        assert_eq!((delivered, dropped), (2, 1));
    }

    #[test]
    fn abandoning_keeps_the_response_that_a_close_frame_needs() {
        let mut queue = Queue::default();
        queue.push(b"HTTP/1.1 101", 0, Class::Raw, Instant::ORIGIN);
        queue.push(b"\x81\x01a", 1, REPLY, Instant::ORIGIN);
        queue.push(b"\x8a\x00", 0, Class::Raw, Instant::ORIGIN);
        queue.abandon(|_, _| {}, |_, _| {});
        assert_eq!(contents(&queue), b"HTTP/1.1 101");
    }

    #[test]
    fn spares_are_empty_and_bounded() {
        let mut spares = SpareQueues::default();
        let queues: Vec<_> = (0..100)
            .map(|_| {
                let mut queue = spares.take();
                let mut lent = spares.lend(&mut queue);
                lent.push(&[0; 10_000], 1, REPLY, Instant::ORIGIN);
                lent.advance(10_000, |_, _| {});
                drop(lent);
                assert_eq!(queue.heap_bytes(), queue.recounted_bytes());
                queue
            })
            .collect();
        let held: usize = queues.iter().map(|queue| queue.heap_bytes()).sum();
        assert_eq!(spares.held_bytes(), held);
        queues.into_iter().for_each(|queue| spares.give(queue));
        assert_eq!(spares.held_bytes(), 0);
        assert!(spares.bytes <= SPARE_BYTES_MAX && spares.queues.len() > 20);
        while !spares.queues.is_empty() {
            assert!(spares.take().is_empty());
        }
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn what_one_connection_was_owed_never_comes_to_the_next() {
        let mut spares = SpareQueues::default();
        let mut unsent = spares.take();
        spares
            .lend(&mut unsent)
            .push(b"\x81\x06secret", 1, REPLY, Instant::ORIGIN);
        spares.give(unsent);
        let mut sent = spares.take();
        let mut lent = spares.lend(&mut sent);
        lent.push(b"\x81\x06secret", 1, REPLY, Instant::ORIGIN);
        lent.advance(8, |_, _| {});
        drop(lent);
        spares.give(sent);
        for _ in 0..2 {
            let mut queue = spares.take();
            assert!(queue.is_empty() && !queue.is_mid_frame());
            queue.push(b"\x81\x01b", 1, REPLY, Instant::ORIGIN);
            assert_eq!(contents(&queue), b"\x81\x01b");
            assert_eq!((queue.answer_bytes(), queue.data_bytes()), (3, 0));
        }
    }

    #[test]
    fn abandoning_on_a_boundary_leaves_nothing() {
        let mut queue = Queue::default();
        queue.push(b"\x81\x01a", 1, REPLY, Instant::ORIGIN);
        queue.push(b"\x81\x01b", 1, REPLY, Instant::ORIGIN);
        queue.advance(3, |_, _| {});
        queue.abandon(|_, _| {}, |_, _| {});
        assert!(queue.is_empty());
    }
}
