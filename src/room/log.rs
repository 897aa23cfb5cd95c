//! The log of one room on one core: bytes that are on their way, in order.
//!
//! ```text
//!   tail                     a laggard's cursor               floor          head
//!    │                               │                          │             │
//!    ▼                               ▼                          ▼             ▼
//!    [ segment, pins 0 ][ segment, pins 1 ][ segment, pins 0 ][ segment … free ]
//!    └ goes as soon as it is first, unpinned and before the floor
//! ```
//!
//! Frames lie end to end in segments of contiguous memory, so that everything between a cursor and
//! the head usually leaves in a single `send` of a single slice. A cursor is a position in that
//! byte stream: a write that was cut short moves it by what was taken, in the middle of a frame if
//! need be. The index beside the bytes knows where frames begin, for the few operations that ask.
//!
//! The log owns bytes and nothing else: who reads it is [`super::feed`]'s affair. It holds memory
//! only while somebody is behind; its buffers come from, and go back to, a [`Spares`] of the core.

use std::collections::VecDeque;

use crate::frame::Note;
use crate::room::feed::Exclusion;
use crate::time::Instant;

/// A position in the byte stream of a log: how many bytes were appended before it.
pub type Position = u64;

/// How much a segment takes before the next one begins, in bytes. A frame is never split, so a
/// segment that holds a single large frame may be longer. Larger ones make a member's write a single
/// slice more often; smaller ones let go of a laggard's past in finer steps.
const SEGMENT_BYTES: usize = 64 * 1024;

/// How many emptied logs' buffers a core keeps for the next room that becomes busy.
const SPARES_MAX: usize = 256;

/// How many frames of each kind lie before some position.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Room messages, which have offsets.
    pub messages: u64,
    /// Typing, receipts, presence, which have none.
    pub signals: u64,
}

impl Tally {
    /// What lies between `earlier` and this.
    pub fn since(self, earlier: Tally) -> Tally {
        Tally {
            messages: self.messages.saturating_sub(earlier.messages),
            signals: self.signals.saturating_sub(earlier.signals),
        }
    }

    /// Frames of both kinds.
    pub fn total(self) -> u64 {
        self.messages + self.signals
    }
}

/// What the index knows of one frame.
#[derive(Copy, Clone, Debug)]
pub struct Entry {
    /// The position right behind the frame; it begins where the one before it ends.
    pub end: Position,
    /// When the room accepted it.
    pub at: Instant,
    /// The message's offset in the room, 0 for a signal.
    pub offset: u64,
    /// What a reader that skips the frame has to know of it.
    pub note: Note,
    /// All frames up to and with this one.
    through: Tally,
}

#[derive(Default)]
struct Segment {
    start: Position,
    bytes: Vec<u8>,
    /// Cursors of laggards that stand in this segment.
    pins: u32,
}

impl Segment {
    fn end(&self) -> Position {
        self.start + self.bytes.len() as u64
    }
}

#[derive(Default)]
struct Body {
    segments: VecDeque<Segment>,
    entries: VecDeque<Entry>,
}

impl Body {
    fn heap_bytes(&self) -> usize {
        let segments = self.segments.iter().map(|s| s.bytes.capacity());
        segments.sum::<usize>() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// Buffers of emptied logs, kept so that a busy core allocates nothing for a message; and the sum of
/// what the core's logs hold, because every log comes by here when it takes memory or gives it back.
#[derive(Default)]
pub struct Spares {
    #[allow(clippy::vec_box, reason = "a log takes the box as it is")]
    bodies: Vec<Box<Body>>,
    /// Emptied lists of [`super::feed`].
    exclusions: Vec<VecDeque<Exclusion>>,
    /// Bytes of all logs.
    held: usize,
    /// Bytes of `bodies`.
    kept: usize,
}

impl Spares {
    fn take(&mut self) -> Box<Body> {
        let Some(body) = self.bodies.pop() else {
            return Box::default();
        };
        let bytes = body.heap_bytes();
        self.kept -= bytes;
        self.held += bytes;
        body
    }

    /// Bytes of memory that all logs hold which were filled and trimmed with these spares.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Bytes of memory that wait here for the next log.
    pub fn kept_bytes(&self) -> usize {
        self.kept
    }

    /// Lets go of what waits here.
    pub fn release(&mut self) {
        self.bodies = Vec::new();
        self.exclusions = Vec::new();
        self.kept = 0;
    }

    fn give(&mut self, mut body: Box<Body>) {
        self.held -= body.heap_bytes();
        if self.bodies.len() >= SPARES_MAX {
            return;
        }
        body.entries.clear();
        body.entries.shrink_to(4096);
        body.segments.truncate(1);
        for segment in &mut body.segments {
            segment.bytes.clear();
            segment.bytes.shrink_to(SEGMENT_BYTES);
            segment.pins = 0;
        }
        self.kept += body.heap_bytes();
        self.bodies.push(body);
    }

    pub(super) fn take_exclusions(&mut self) -> VecDeque<Exclusion> {
        self.exclusions.pop().unwrap_or_default()
    }

    /// Keeps an empty list for the next turn in which somebody is left out.
    pub(super) fn give_exclusions(&mut self, exclusions: VecDeque<Exclusion>) {
        const LISTS_MAX: usize = 64;
        const LENGTH_MAX: usize = 256;
        if self.exclusions.len() < LISTS_MAX && exclusions.capacity() <= LENGTH_MAX {
            self.exclusions.push(exclusions);
        }
    }
}

/// The log. Invariant: `tail ≤ every pinned cursor < head`.
#[derive(Default)]
pub struct Log {
    body: Option<Box<Body>>,
    head: Position,
    /// What was appended in all the log's life.
    appended: Tally,
    /// What was appended before the first entry of the index.
    before: Tally,
}

impl Log {
    /// The position behind the newest byte.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The position of the oldest byte that is kept.
    pub fn tail(&self) -> Position {
        let first = self.body.as_ref().and_then(|body| body.segments.front());
        first.map_or(self.head, |s| s.start)
    }

    /// Whether no bytes are kept.
    pub fn is_empty(&self) -> bool {
        self.body.is_none()
    }

    /// Frames that are kept.
    pub fn frame_count(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.entries.len())
    }

    /// Bytes of memory that the log holds.
    pub fn heap_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.heap_bytes())
    }

    /// Bytes that would be free soon if nobody held the log at `cursor`: the segments from there to
    /// the next one that is held, divided among those who hold the first. None where others hold
    /// what lies before it.
    pub fn held_alone_at(&self, cursor: Position) -> usize {
        let Some(body) = &self.body else { return 0 };
        let Some(first) = body.segments.front().filter(|s| cursor < s.end()) else {
            return 0;
        };
        let after = body.segments.iter().skip(1).take_while(|s| s.pins == 0);
        let bytes = after.map(|s| s.bytes.capacity()).sum::<usize>() + first.bytes.capacity();
        bytes / (first.pins.max(1) as usize)
    }

    /// Appends one frame.
    pub fn append(
        &mut self,
        frame: &[u8],
        offset: u64,
        note: Note,
        at: Instant,
        spares: &mut Spares,
    ) {
        match note {
            Note::Message => self.appended.messages += 1,
            _ => self.appended.signals += 1,
        }
        let start = self.head;
        self.head += frame.len() as u64;
        let body = self.body.get_or_insert_with(|| {
            let mut body = spares.take();
            if let Some(segment) = body.segments.front_mut() {
                segment.start = start;
            }
            body
        });
        match body.segments.back_mut() {
            Some(last)
                if last.bytes.is_empty() || last.bytes.len() + frame.len() <= SEGMENT_BYTES =>
            {
                let before = last.bytes.capacity();
                last.bytes.extend_from_slice(frame);
                spares.held += last.bytes.capacity() - before;
            }
            _ => {
                let bytes = frame.to_vec();
                spares.held += bytes.capacity();
                body.segments.push_back(Segment {
                    start,
                    bytes,
                    pins: 0,
                });
            }
        }
        let before = body.entries.capacity();
        body.entries.push_back(Entry {
            end: self.head,
            at,
            offset,
            note,
            through: self.appended,
        });
        spares.held += (body.entries.capacity() - before) * size_of::<Entry>();
    }

    /// The bytes from `from` to `to` (at most the head), as slices in order. Empty where nothing is
    /// kept there, which the invariant rules out for any member's cursor.
    pub fn slices(&self, from: Position, to: Position) -> impl Iterator<Item = &[u8]> {
        let segments = self.body.as_ref().map(|body| &body.segments);
        let first = segments.map_or(0, |s| Self::segment_index(s, from));
        let count = segments.map_or(0, VecDeque::len);
        (first..count).map_while(move |index| {
            let segment = segments?.get(index)?;
            if segment.start >= to {
                return None;
            }
            let begin = from.saturating_sub(segment.start) as usize;
            let end = to.min(segment.end()).saturating_sub(segment.start) as usize;
            segment.bytes.get(begin..end)
        })
    }

    /// The bytes from `from` to the head where they lie in one piece.
    pub fn contiguous_from(&self, from: Position) -> Option<&[u8]> {
        let last = self.body.as_ref()?.segments.back()?;
        last.bytes
            .get(usize::try_from(from.checked_sub(last.start)?).ok()?..)
    }

    /// Holds the segment at `cursor`, which is below the head.
    pub fn pin(&mut self, cursor: Position) {
        debug_assert!(cursor < self.head);
        if let Some(segment) = self.segment_mut(cursor) {
            segment.pins += 1;
        }
    }

    /// Undoes one [`Log::pin`] at the same cursor, or at any other in the same segment.
    pub fn unpin(&mut self, cursor: Position) {
        if let Some(segment) = self.segment_mut(cursor) {
            debug_assert!(segment.pins > 0, "unpinned more often than pinned");
            segment.pins = segment.pins.saturating_sub(1);
        }
    }

    /// Moves a pin from `old` to `new`; to nowhere when `new` is the head.
    pub fn move_pin(&mut self, old: Position, new: Position) {
        self.unpin(old);
        if new < self.head {
            self.pin(new);
        }
    }

    /// Lets go of what lies before `floor` and is pinned by nobody.
    pub fn trim(&mut self, floor: Position, spares: &mut Spares) {
        let Some(body) = self.body.as_mut() else {
            return;
        };
        while let Some(first) = body.segments.front() {
            if first.pins > 0 || first.end() > floor {
                break;
            }
            if body.segments.len() == 1 {
                // The head's own segment: everything was taken, the log is empty.
                self.before = self.appended;
                if let Some(body) = self.body.take() {
                    spares.give(body);
                }
                return;
            }
            spares.held -= first.bytes.capacity();
            body.segments.pop_front();
        }
        let tail = body.segments.front().map_or(self.head, |s| s.start);
        while let Some(entry) = body.entries.front() {
            if entry.end > tail {
                break;
            }
            self.before = entry.through;
            body.entries.pop_front();
        }
    }

    /// Everything appended up to the head.
    pub fn appended(&self) -> Tally {
        self.appended
    }

    /// The frames that end at or before `position`.
    pub fn tally_at(&self, position: Position) -> Tally {
        if position >= self.head {
            return self.appended;
        }
        let Some(body) = self.body.as_ref() else {
            return self.appended;
        };
        let index = body.entries.partition_point(|e| e.end <= position);
        index
            .checked_sub(1)
            .and_then(|i| body.entries.get(i))
            .map_or(self.before, |e| e.through)
    }

    /// The entries that end behind `position`, oldest first: the first one is the frame in which
    /// the position stands, or which begins there.
    pub fn entries_from(&self, position: Position) -> impl Iterator<Item = &Entry> {
        let entries = self.body.as_ref().map(|body| &body.entries);
        let first = entries.map_or(0, |e| e.partition_point(|entry| entry.end <= position));
        entries.into_iter().flat_map(move |e| e.range(first..))
    }

    /// The newest message's entry and the position where it begins.
    pub fn newest_message(&self) -> Option<(Position, Entry)> {
        let entries = &self.body.as_ref()?.entries;
        let index = entries.iter().rposition(|e| e.note == Note::Message)?;
        let start = match index.checked_sub(1).and_then(|i| entries.get(i)) {
            Some(previous) => previous.end,
            None => self.body.as_ref()?.segments.front()?.start,
        };
        Some((start, *entries.get(index)?))
    }

    /// The end of the frame in whose middle `position` stands; none on a frame's boundary.
    pub fn frame_end_within(&self, position: Position) -> Option<Position> {
        let body = self.body.as_ref()?;
        let index = body.entries.partition_point(|e| e.end <= position);
        let start = match index.checked_sub(1).and_then(|i| body.entries.get(i)) {
            Some(previous) => previous.end,
            None => body.segments.front()?.start,
        };
        (start < position)
            .then(|| body.entries.get(index).map(|e| e.end))
            .flatten()
    }

    fn segment_index(segments: &VecDeque<Segment>, position: Position) -> usize {
        match segments.back() {
            Some(last) if position >= last.start => segments.len() - 1,
            _ => segments.partition_point(|s| s.end() <= position),
        }
    }

    fn segment_mut(&mut self, position: Position) -> Option<&mut Segment> {
        let segments = &mut self.body.as_mut()?.segments;
        let index = Self::segment_index(segments, position);
        segments.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_with(frames: &[&[u8]], spares: &mut Spares) -> Log {
        let mut log = Log::default();
        for (i, frame) in frames.iter().enumerate() {
            log.append(frame, i as u64 + 1, Note::Message, Instant::ORIGIN, spares);
        }
        log
    }

    fn bytes(log: &Log, from: u64, to: u64) -> Vec<u8> {
        log.slices(from, to).flatten().copied().collect()
    }

    #[test]
    fn frames_lie_end_to_end() {
        let mut spares = Spares::default();
        let log = log_with(&[b"abc", b"de", b"f"], &mut spares);
        assert_eq!(bytes(&log, 0, 6), b"abcdef");
        assert_eq!(bytes(&log, 2, 4), b"cd");
        assert_eq!(log.contiguous_from(3), Some(&b"def"[..]));
        assert_eq!(log.contiguous_from(6), Some(&b""[..]));
    }

    #[test]
    fn a_position_inside_a_frame_knows_its_end() {
        let mut spares = Spares::default();
        let log = log_with(&[b"abc", b"de"], &mut spares);
        let ends: Vec<_> = (0..5).map(|p| log.frame_end_within(p)).collect();
        assert_eq!(ends, [None, Some(3), Some(3), None, Some(5)]);
    }

    #[test]
    fn a_pinned_segment_outlives_the_floor_and_nothing_else_does() {
        let mut spares = Spares::default();
        let big = vec![7u8; SEGMENT_BYTES];
        let mut log = log_with(&[&big, &big, &big], &mut spares);
        log.pin(10);
        log.trim(log.head(), &mut spares);
        assert_eq!(bytes(&log, 10, 12), [7, 7], "the laggard's bytes are kept");
        log.move_pin(10, SEGMENT_BYTES as u64 + 1);
        log.trim(log.head(), &mut spares);
        assert_eq!(log.entries_from(0).count(), 2, "the first segment went");
        log.move_pin(SEGMENT_BYTES as u64 + 1, log.head());
        log.trim(log.head(), &mut spares);
        assert!(log.is_empty());
        assert_eq!(log.heap_bytes(), 0);
    }

    #[test]
    fn tallies_survive_a_trim() {
        let mut spares = Spares::default();
        let mut log = log_with(&[b"abc", b"de"], &mut spares);
        assert_eq!(log.tally_at(2).messages, 0);
        assert_eq!(log.tally_at(3).messages, 1);
        log.trim(5, &mut spares);
        log.append(b"xyz", 0, Note::Passing, Instant::ORIGIN, &mut spares);
        assert_eq!(
            log.tally_at(5),
            Tally {
                messages: 2,
                signals: 0
            }
        );
        assert_eq!(
            log.tally_at(8),
            Tally {
                messages: 2,
                signals: 1
            }
        );
    }

    #[test]
    fn an_emptied_log_starts_again_where_it_ended() {
        let mut spares = Spares::default();
        let mut log = log_with(&[b"abc"], &mut spares);
        log.trim(3, &mut spares);
        log.append(b"de", 2, Note::Message, Instant::ORIGIN, &mut spares);
        assert_eq!(bytes(&log, 3, 5), b"de");
        assert_eq!(
            log.newest_message().map(|(start, e)| (start, e.offset)),
            Some((3, 2))
        );
    }
}
