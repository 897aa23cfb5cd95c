//! The last messages of a room, kept at its home for those that come late or come back.

use std::collections::VecDeque;

use crate::frame::{Frame, SpareFrames};
use crate::time::Instant;

pub use crate::gate::HistoryLimits;

struct Kept {
    frame: Frame,
    at: Instant,
}

/// Invariant: what is kept are the messages with the offsets `newest - len + 1 ..= newest`.
#[derive(Default)]
pub struct History {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Memory of the frames: more than `bytes` by what lies behind each of them.
    held: usize,
    newest: u64,
}

impl History {
    /// Keeps the message that follows on, and lets go of what is over the bounds.
    pub fn push(
        &mut self,
        wire: &[u8],
        at: Instant,
        limits: &HistoryLimits,
        spares: &mut SpareFrames,
    ) {
        // The oldest goes first, and the newest takes its memory.
        if self.make_room(wire.len(), limits, spares) {
            let frame = spares.frame(wire);
            self.append(frame, at);
        }
    }

    /// The same for a message that has its memory already.
    pub fn push_frame(
        &mut self,
        frame: Frame,
        at: Instant,
        limits: &HistoryLimits,
        spares: &mut SpareFrames,
    ) {
        if self.make_room(frame.len(), limits, spares) {
            self.append(frame, at);
        }
    }

    /// Counts one message more, of so many bytes, and lets go of what would be over the bounds. Says
    /// whether the message is kept.
    #[inline]
    fn make_room(
        &mut self,
        bytes: usize,
        limits: &HistoryLimits,
        spares: &mut SpareFrames,
    ) -> bool {
        self.newest += 1;
        if limits.messages_max == 0 || bytes > limits.bytes_max {
            // What does not fit itself leaves nothing before it that could be replayed without gap.
            self.kept = VecDeque::new();
            (self.bytes, self.held) = (0, 0);
            return false;
        }
        self.bytes += bytes;
        while self.kept.len() >= limits.messages_max || self.bytes > limits.bytes_max {
            match self.pop_oldest() {
                Some(oldest) => spares.give(oldest),
                None => break,
            }
        }
        true
    }

    #[inline]
    fn append(&mut self, frame: Frame, at: Instant) {
        self.held += frame.heap_bytes();
        self.kept.push_back(Kept { frame, at });
    }

    /// A history whose newest message has this offset, and which keeps none.
    pub fn after_offset(offset: u64) -> History {
        History {
            newest: offset,
            ..History::default()
        }
    }

    /// The newest message, where it is kept.
    pub fn newest_frame(&self) -> Option<&Frame> {
        self.kept.back().map(|kept| &kept.frame)
    }

    /// Lets go of what is older than the bound; says when the next message will be.
    pub fn expire(&mut self, now: Instant, limits: &HistoryLimits) -> Option<Instant> {
        let ttl = limits.ttl?;
        while let Some(oldest) = self.kept.front() {
            let due = oldest.at + ttl;
            if due > now {
                return Some(due);
            }
            self.pop_oldest();
        }
        self.kept = VecDeque::new();
        None
    }

    /// Lets go of what is over bounds that have changed, but for those of age.
    pub fn narrow(&mut self, limits: &HistoryLimits) {
        while self.kept.len() > limits.messages_max || self.bytes > limits.bytes_max {
            if self.pop_oldest().is_none() {
                break;
            }
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    fn pop_oldest(&mut self) -> Option<Frame> {
        let Kept { frame, .. } = self.kept.pop_front()?;
        self.bytes -= frame.len();
        self.held -= frame.heap_bytes();
        Some(frame)
    }

    /// Lets go of the oldest messages, `count_max` at most, until those that are left have no more
    /// than `bytes_max`. Answers how many went. What is asked for later is then told as not whole.
    pub fn trim(&mut self, bytes_max: usize, count_max: usize) -> usize {
        let mut count = 0;
        while self.bytes > bytes_max && count < count_max && self.pop_oldest().is_some() {
            count += 1;
        }
        self.kept.shrink_to(self.kept.len() + self.kept.len() / 4);
        count
    }

    /// Bytes of memory that the history holds.
    pub fn heap_bytes(&self) -> usize {
        self.held + self.kept.capacity() * size_of::<Kept>()
    }

    /// The newest message's offset, kept or not.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The offset before the oldest kept message: recovery from here or later is whole.
    pub fn complete_since(&self) -> u64 {
        self.newest - self.kept.len() as u64
    }

    /// At most `limit` messages after the offset `since`, oldest first, of those that are kept.
    pub fn after(&self, since: u64, limit: usize) -> impl Iterator<Item = &Frame> {
        let skip = since.saturating_sub(self.complete_since());
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(self.kept.len());
        self.kept.range(skip..).take(limit).map(|kept| &kept.frame)
    }

    /// The newest `count` messages, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Frame> {
        let skip = self.kept.len().saturating_sub(count);
        self.kept.range(skip..).map(|kept| &kept.frame)
    }

    /// Bytes of the frames that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(messages_max: usize, bytes_max: usize, ttl_s: u64) -> HistoryLimits {
        let ttl = (ttl_s > 0).then(|| Duration::from_secs(ttl_s));
        HistoryLimits {
            messages_max,
            bytes_max,
            ttl,
        }
    }

    fn texts<'a>(frames: impl Iterator<Item = &'a Frame>) -> Vec<Vec<u8>> {
        frames.map(|f| f.to_vec()).collect()
    }

    fn filled(count: u8, limits: &HistoryLimits) -> History {
        let mut history = History::default();
        for i in 1..=count {
            let at = Instant::ORIGIN + Duration::from_secs(u64::from(i));
            history.push(&[i], at, limits, &mut SpareFrames::default());
        }
        history
    }

    #[test]
    fn the_count_bound_keeps_the_newest() {
        let history = filled(5, &limits(3, 100, 0));
        assert_eq!(texts(history.last(9)), [[3], [4], [5]]);
        assert_eq!(history.complete_since(), 2);
        assert_eq!(texts(history.after(3, 9)), [[4], [5]]);
        assert_eq!(texts(history.after(0, 2)), [[3], [4]]);
        assert_eq!(texts(history.after(99, 2)).len(), 0);
    }

    #[test]
    fn the_byte_bound_counts_frames() {
        let history = filled(5, &limits(100, 2, 0));
        assert_eq!(texts(history.last(9)), [[4], [5]]);
        assert_eq!(history.bytes(), 2);
    }

    #[test]
    fn a_message_over_the_byte_bound_ends_what_could_be_replayed() {
        let bounds = limits(100, 3, 0);
        let mut history = filled(2, &bounds);
        history.push(
            b"four",
            Instant::ORIGIN,
            &bounds,
            &mut SpareFrames::default(),
        );
        assert_eq!((history.newest(), history.complete_since()), (3, 3));
    }

    #[test]
    fn narrower_bounds_let_the_oldest_go() {
        let mut history = filled(5, &limits(100, 100, 0));
        history.narrow(&limits(100, 4, 0));
        assert_eq!((history.bytes(), history.complete_since()), (4, 1));
        history.narrow(&limits(2, 100, 0));
        assert_eq!(texts(history.last(9)), [[4], [5]]);
        history.narrow(&limits(0, 100, 0));
        assert_eq!((history.newest(), history.complete_since()), (5, 5));
    }

    #[test]
    fn a_trim_takes_the_oldest_and_what_is_left_is_whole() {
        let mut history = filled(5, &limits(100, 100, 0));
        let before = history.heap_bytes();
        assert_eq!(history.trim(3, 1), 1, "not more than asked for");
        assert_eq!(history.trim(3, 9), 1);
        assert_eq!(texts(history.last(9)), [[3], [4], [5]]);
        assert_eq!((history.newest(), history.complete_since()), (5, 2));
        assert!(history.heap_bytes() < before);
        assert_eq!(history.trim(0, 9), 3);
        assert_eq!(history.heap_bytes(), 0);
    }

    #[test]
    fn age_lets_go_and_names_the_next_moment() {
        let bounds = limits(100, 100, 10);
        let mut history = filled(3, &bounds);
        let at = |s| Instant::ORIGIN + Duration::from_secs(s);
        assert_eq!(history.expire(at(12), &bounds), Some(at(13)));
        assert_eq!(texts(history.last(9)), [[3]]);
        assert_eq!(history.expire(at(13), &bounds), None);
        assert_eq!((history.newest(), history.complete_since()), (3, 3));
    }
}
