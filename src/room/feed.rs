//! A log and the cursors that read it: one room's members on one core.
//!
//! A member is a connection's index and a cursor. Publishing touches no member at all; a flush
//! visits each of them once and hands everything from its cursor to the head to the kernel in one
//! write. The flush itself lives in `shard::flush`, because it needs the connections; this module
//! keeps the books: who stands where, what is pinned, how far a pass has come.
//!
//! A pass over the members may be interrupted and go on in a later turn. `floor` is what makes
//! that safe: the head at the moment the last whole pass began. Every member that is not pinned
//! was visited since, so no unpinned cursor is below it.

use std::collections::VecDeque;

use crate::frame::Note;
use crate::room::log::{Entry, Log, Position, Spares, Tally};
use crate::time::Instant;

/// One connection's place in a feed. Sixteen bytes: a pass over 100,000 members reads 1.6 MB.
#[derive(Copy, Clone, Debug)]
pub struct Member {
    /// Everything before it was given to the kernel, skipped, or never offered.
    pub cursor: Position,
    /// The connection's index on this core.
    pub connection: u32,
    /// The socket took less than it was offered; only WRITABLE or a verdict moves this cursor.
    pub blocked: bool,
    /// The connection reads other feeds too, or, where it is blocked, has a queue: its lag is a sum,
    /// and what is new to it may be in several places. May be true for longer than that holds.
    pub elsewhere: bool,
    /// The segment at the cursor is held for this member.
    pub pinned: bool,
    /// Some frame between the cursor and the head is not for this member.
    pub excluded: bool,
}

/// A frame that one member is not to get.
#[derive(Copy, Clone, Debug)]
pub(super) struct Exclusion {
    connection: u32,
    start: Position,
    end: Position,
}

/// What a member was offered and will not be given from this log any more.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Remainder {
    /// Whole frames, a partly written one included.
    pub frames: Tally,
    /// The first and the last message offset among them.
    pub offsets: Option<(u64, u64)>,
    /// Users that joined and left in presence updates among them.
    pub presence: (u32, u32),
}

/// The members of a room on this core, and the bytes on their way to them.
#[derive(Default)]
pub struct Feed {
    /// The bytes.
    pub log: Log,
    /// The readers, in no order that means anything.
    pub members: Vec<Member>,
    exclusions: VecDeque<Exclusion>,
    /// No unpinned cursor is below it.
    floor: Position,
    /// The members before this index have been visited in the pass that is under way.
    next: u32,
    /// The head when the pass under way began.
    pass_began_at: Option<Position>,
    /// Whether the core's list of feeds to flush has this one.
    pub queued: bool,
    /// When the last pass ended, for `--coalesce`.
    pub flushed_at: Instant,
}

impl Feed {
    /// Appends a frame for all members but those of `except`, and says how many it is offered to.
    /// A feed without members keeps nothing.
    pub fn append(
        &mut self,
        frame: &[u8],
        (offset, note): (u64, Note),
        at: Instant,
        except: &[u32],
        spares: &mut Spares,
    ) -> u64 {
        if self.members.is_empty() {
            return 0;
        }
        let start = self.log.head();
        self.log.append(frame, offset, note, at, spares);
        let end = self.log.head();
        let mut offered = self.members.len() as u64;
        for &index in except {
            if let Some(member) = self.members.get_mut(index as usize) {
                member.excluded = true;
                let connection = member.connection;
                if self.exclusions.capacity() == 0 {
                    self.exclusions = spares.take_exclusions();
                }
                self.exclusions.push_back(Exclusion {
                    connection,
                    start,
                    end,
                });
                offered -= 1;
            }
        }
        offered
    }

    /// Adds a member at the head: it gets what is appended from now on.
    pub fn add(&mut self, connection: u32, blocked: bool) -> u32 {
        if self.members.is_empty() {
            self.floor = self.log.head();
        }
        let cursor = self.log.head();
        self.members.push(Member {
            cursor,
            connection,
            blocked,
            elsewhere: true,
            pinned: false,
            excluded: false,
        });
        (self.members.len() - 1) as u32
    }

    /// Removes the member at `index`. Whoever took over another index as a result is handed to
    /// `moved` with that index.
    pub fn remove(&mut self, index: u32, spares: &mut Spares, mut moved: impl FnMut(u32, u32)) {
        let Some(member) = self.members.get(index as usize).copied() else {
            return;
        };
        self.unpin(index);
        if member.excluded {
            self.exclusions
                .retain(|e| e.connection != member.connection);
        }
        let mut hole = index as usize;
        if hole < self.next as usize {
            // Visited members stay in front: the last visited one fills the hole, and leaves one.
            self.next -= 1;
            let last_visited = self.next as usize;
            if hole != last_visited {
                self.members.swap(hole, last_visited);
                if let Some(m) = self.members.get(hole) {
                    moved(m.connection, hole as u32);
                }
            }
            hole = last_visited;
        }
        self.members.swap_remove(hole);
        if let Some(m) = self.members.get(hole) {
            moved(m.connection, hole as u32);
        }
        if self.members.is_empty() {
            self.members = Vec::new();
            self.end_pass_at(self.log.head(), spares);
        } else {
            self.trim(spares);
            if self.members.len() * 4 < self.members.capacity() {
                self.members.shrink_to(self.members.len() * 2);
            }
        }
    }

    /// Starts a pass over the members, or goes on with the one that is under way.
    pub fn begin_pass(&mut self) -> usize {
        self.pass_began_at.get_or_insert(self.log.head());
        self.next as usize
    }

    /// Whether a pass has begun and not ended.
    pub fn is_in_pass(&self) -> bool {
        self.pass_began_at.is_some()
    }

    /// Notes how far the pass has come.
    pub fn pause_pass(&mut self, next: usize) {
        self.next = next as u32;
    }

    /// Ends the pass: everyone was visited. Says whether more was appended meanwhile.
    pub fn end_pass(&mut self, now: Instant, spares: &mut Spares) -> bool {
        let began_at = self.pass_began_at.unwrap_or(self.log.head());
        self.flushed_at = now;
        self.end_pass_at(began_at, spares);
        self.log.head() > began_at
    }

    fn end_pass_at(&mut self, floor: Position, spares: &mut Spares) {
        self.pass_began_at = None;
        self.next = 0;
        self.floor = floor;
        self.trim(spares);
    }

    /// When the oldest frame that waits for a pass was accepted.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.log.entries_from(self.floor).next().map(|e| e.at)
    }

    /// Moves a member's cursor forward to `to`, with its pin.
    pub fn advance(&mut self, index: u32, to: Position, spares: &mut Spares) {
        let head = self.log.head();
        let Some(member) = self.members.get_mut(index as usize) else {
            return;
        };
        let from = std::mem::replace(&mut member.cursor, to);
        if to >= head {
            member.excluded = false;
        }
        if member.pinned {
            member.pinned = to < head;
            self.log.move_pin(from, to);
            self.trim(spares);
        }
    }

    /// Holds the log at a blocked member's cursor until it moves.
    pub fn pin(&mut self, index: u32) {
        let head = self.log.head();
        if let Some(member) = self.members.get_mut(index as usize)
            && !member.pinned
            && member.cursor < head
        {
            member.pinned = true;
            self.log.pin(member.cursor);
        }
    }

    fn unpin(&mut self, index: u32) {
        if let Some(member) = self.members.get_mut(index as usize)
            && std::mem::take(&mut member.pinned)
        {
            self.log.unpin(member.cursor);
        }
    }

    /// The next stretch for a member: from its cursor up to the head, or to the first frame that is
    /// not for it. A cursor that stands before such a frame is moved behind it first.
    pub fn stretch(&mut self, index: u32, spares: &mut Spares) -> Option<(Position, Position)> {
        let head = self.log.head();
        loop {
            let member = self.members.get(index as usize)?;
            let from = member.cursor;
            if from >= head {
                return None;
            }
            if !member.excluded {
                return Some((from, head));
            }
            let connection = member.connection;
            let first = self.exclusions.partition_point(|e| e.start < from);
            let next = self
                .exclusions
                .range(first..)
                .find(|e| e.connection == connection)
                .copied();
            match next {
                None => return Some((from, head)),
                Some(e) if e.start > from => return Some((from, e.start)),
                Some(e) => self.advance(index, e.end, spares),
            }
        }
    }

    /// How many bytes a member is behind.
    pub fn lag_bytes(&self, index: u32) -> u64 {
        self.members
            .get(index as usize)
            .map_or(0, |m| self.log.head() - m.cursor)
    }

    /// Bytes of the log that are there for this member and nobody else, or its part of them.
    pub fn held_alone_by(&self, index: u32) -> usize {
        let member = self.members.get(index as usize).filter(|m| m.pinned);
        member.map_or(0, |m| self.log.held_alone_at(m.cursor))
    }

    /// When the oldest frame that a member has not wholly taken was accepted.
    pub fn oldest_pending(&self, index: u32) -> Option<Instant> {
        let member = self.members.get(index as usize)?;
        self.log.entries_from(member.cursor).next().map(|e| e.at)
    }

    /// What a member would not get if it went from its cursor to `to` without a write.
    pub fn remainder(&self, index: u32, to: Position) -> Remainder {
        let mut remainder = Remainder::default();
        let Some(member) = self.members.get(index as usize) else {
            return remainder;
        };
        for entry in self
            .log
            .entries_from(member.cursor)
            .take_while(|e| e.end <= to)
        {
            let excluded = member.excluded && self.is_excluded(member.connection, entry.end);
            let (joined, left) = &mut remainder.presence;
            if excluded {
                continue;
            }
            match entry.note {
                Note::Message => {
                    remainder.frames.messages += 1;
                    let (first, last) = remainder.offsets.get_or_insert((entry.offset, 0));
                    *last = entry.offset.max(*first);
                }
                note => {
                    remainder.frames.signals += 1;
                    match note {
                        Note::Joined => *joined += 1,
                        Note::Left => *left += 1,
                        Note::Summary { joined: j, left: l } => {
                            *joined += j;
                            *left += l;
                        }
                        Note::Passing | Note::Message => {}
                    }
                }
            }
        }
        remainder
    }

    /// The frame in whose middle a member's cursor stands, and where it ends.
    pub fn entry_under_way(&self, index: u32) -> Option<(Note, Position)> {
        let cursor = self.members.get(index as usize)?.cursor;
        self.log.frame_end_within(cursor)?;
        self.log
            .entries_from(cursor)
            .next()
            .map(|entry| (entry.note, entry.end))
    }

    /// The bytes that are left of the frame in whose middle a member's cursor stands.
    pub fn rest_under_way(&self, index: u32) -> Vec<u8> {
        let Some(cursor) = self.members.get(index as usize).map(|m| m.cursor) else {
            return Vec::new();
        };
        let end = self.log.frame_end_within(cursor).unwrap_or(cursor);
        self.log.slices(cursor, end).flatten().copied().collect()
    }

    /// Hands every whole frame that a member is owed to `take`, oldest first.
    pub fn for_each_owed(&self, index: u32, mut take: impl FnMut(&[u8], &Entry)) {
        let Some(member) = self.members.get(index as usize) else {
            return;
        };
        let mut start = member.cursor;
        let mut frame = Vec::new();
        for entry in self.log.entries_from(member.cursor) {
            if !(member.excluded && self.is_excluded(member.connection, entry.end)) {
                frame.clear();
                self.log
                    .slices(start, entry.end)
                    .for_each(|bytes| frame.extend_from_slice(bytes));
                take(&frame, entry);
            }
            start = entry.end;
        }
    }

    fn is_excluded(&self, connection: u32, end: Position) -> bool {
        let first = self.exclusions.partition_point(|e| e.end < end);
        let frame = self.exclusions.range(first..).take_while(|e| e.end == end);
        frame.into_iter().any(|e| e.connection == connection)
    }

    fn trim(&mut self, spares: &mut Spares) {
        self.log.trim(self.floor, spares);
        let tail = self.log.tail();
        while self.exclusions.front().is_some_and(|e| e.end <= tail) {
            self.exclusions.pop_front();
        }
        if self.exclusions.is_empty() && self.exclusions.capacity() > 0 {
            spares.give_exclusions(std::mem::take(&mut self.exclusions));
        }
    }

    /// Bytes of memory that the feed holds beside its log.
    pub fn heap_bytes(&self) -> usize {
        self.members.capacity() * size_of::<Member>()
            + self.exclusions.capacity() * size_of::<Exclusion>()
    }
}

#[cfg(test)]
mod tests;
