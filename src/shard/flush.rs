//! The flush: at the end of a turn everyone who is behind gets everything, in one write each.
//!
//! First the connections that have something of their own to get, with all their feeds beside it;
//! then each feed in which something was appended, member by member. The second is the hot path:
//! it touches a member's sixteen bytes and the socket, and nothing else, unless the socket is full
//! or something about the member is out of the ordinary.
//!
//! Where several feeds wait, a member whose connection reads other feeds too is only noted. When all
//! are visited, such a connection gets what is new in every feed of its in one write.

use std::io::IoSlice;

use smallvec::SmallVec;

use crate::metrics::{Kind, Metrics};
use crate::room::Feed;
use crate::room::feed::Member;
use crate::room::log::{Log, Position, Tally};
use crate::shard::Shard;
use crate::shard::connection::{FeedId, Phase, Timer};
use crate::time::{Instant, Now};

/// Slices that go into one vectored write at most (Linux takes 1,024).
const SLICES_MAX: usize = 64;

/// Parts that go into one write at most; more go into the next.
const PARTS_MAX: usize = 16;

/// What a socket did with bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It took this many from the start. Fewer than offered means that it is full now.
    Took(usize),
    /// It is full.
    Full,
    /// It is broken.
    Gone,
}

/// The way out: sockets by the index of their connection.
pub trait Transport {
    /// Offers bytes to a socket that was not full.
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent;
    /// Offers several slices, in order.
    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent;
    /// The moment, for measuring only: nothing is decided by it. None where there is no clock; then
    /// the turn's beginning stands for it.
    fn moment(&self) -> Option<Instant> {
        None
    }
}

/// How old a moment may be that stands for a first write, in writes: reading the clock for each of a
/// thousand rooms with one member would be some percent of their turn.
const MOMENT_WRITES: u64 = 8;

/// A moment within a flush.
#[derive(Copy, Clone, Default, Debug)]
pub(super) struct Moment {
    at: Instant,
    /// How many writes there had been then; none where it is none of this flush's.
    writes: Option<u64>,
}

/// What came up in a pass and is settled when the feed is back in its place.
#[derive(Copy, Clone, Debug)]
pub(super) enum Finding {
    /// The socket took only part, or nothing.
    Blocked(u32),
    /// The socket is broken.
    Gone(u32),
    /// A blocked member is behind: for the first time, in several rooms, or too far.
    Behind(u32),
    /// Something about the member is out of the ordinary.
    Careful(u32),
}

/// A member that was passed over, because its connection may have more to get from other feeds.
#[derive(Copy, Clone, Debug)]
pub(super) struct Shared {
    feed: FeedId,
    connection: u32,
}

/// A pass that has visited everyone, and ends when those that it passed over have theirs.
#[derive(Copy, Clone, Debug)]
pub(super) struct Visited {
    feed: FeedId,
    /// When the oldest frame that waited for it was accepted.
    waiting_since: Option<Instant>,
}

/// A part of one connection's write.
#[derive(Copy, Clone)]
enum Part {
    Queue,
    Feed {
        feed: FeedId,
        member: u32,
        from: Position,
        to: Position,
    },
}

/// From one place in a log to its head, kept while member after member stands there.
struct Stretch<'a> {
    from: Position,
    tally: Tally,
    /// The bytes, where they lie in one piece.
    bytes: Option<&'a [u8]>,
}

impl<'a> Stretch<'a> {
    fn new(log: &'a Log, from: Position) -> Stretch<'a> {
        Stretch {
            from,
            tally: log.appended().since(log.tally_at(from)),
            bytes: log.contiguous_from(from),
        }
    }
}

impl Shard {
    /// Writes what is waiting, for as many writes as `budget` allows. Says whether it is done;
    /// otherwise it wants to be called again, after the sockets have been looked at.
    pub fn poll_flush(&mut self, now: Now, transport: &mut impl Transport, budget: usize) -> bool {
        self.set_now(now);
        self.moment.writes = None;
        if !self.broadcasts.is_empty() {
            self.continue_broadcasts(budget);
        }
        // Neither list starves the other: while both wait, each gets half of the turn.
        let mut left = if self.queued_feeds.is_empty() {
            budget
        } else {
            budget.div_ceil(2)
        };
        let mut spent = 0;
        while left > 0 {
            let Some(index) = self.queued_connections.pop_front() else {
                break;
            };
            self.flush_connection(index, transport);
            self.revisit_if_over(index);
            left -= 1;
            spent += 1;
        }
        let mut left = budget.saturating_sub(spent).max(1);
        while left > 0 {
            let Some(feed) = self.queued_feeds.pop_front() else {
                break;
            };
            if !self.visit_feed(feed, transport, &mut left) {
                self.queued_feeds.push_front(feed);
            }
        }
        if !self.shared.is_empty() {
            self.flush_shared(transport);
        }
        if !self.visited.is_empty() {
            self.end_passes();
        }
        let mut revisited = std::mem::take(&mut self.revisited);
        for feed in revisited.drain(..) {
            // Where a pass is still under way, another one has to follow it.
            match Self::feed_ref(&self.locals, feed) {
                Some(known) if known.queued => self.revisited.push(feed),
                Some(_) => self.queue_feed(feed),
                None => {}
            }
        }
        revisited.append(&mut self.revisited);
        self.revisited = revisited;
        !self.wants_flush()
    }

    /// Whether something is waiting to be written.
    pub fn wants_flush(&self) -> bool {
        !self.queued_connections.is_empty()
            || !self.queued_feeds.is_empty()
            || !self.broadcasts.is_empty()
    }

    /// One pass over a feed, or a part of one. Says whether everyone was visited.
    fn visit_feed(
        &mut self,
        id: FeedId,
        transport: &mut impl Transport,
        budget: &mut usize,
    ) -> bool {
        let Some(mut feed) = self.take_feed(id) else {
            return true;
        };
        let mut findings = std::mem::take(&mut self.findings);
        let waiting_since = feed.waiting_since();
        if let Some(since) = waiting_since
            && !feed.is_in_pass()
        {
            let at = self.moment(transport);
            let first = &mut self.metrics.turns.publish_to_first_write;
            first.record(at - since);
        }
        let done = self.visit_members((id, &mut feed), transport, budget, &mut findings);
        self.put_feed(id, feed);
        for finding in findings.drain(..) {
            self.settle(id, finding, transport);
        }
        self.findings = findings;
        if done {
            self.visited.push(Visited {
                feed: id,
                waiting_since,
            });
        }
        done
    }

    /// About now.
    fn moment(&mut self, transport: &impl Transport) -> Instant {
        let writes = self.metrics.flush.writes;
        let is_fresh = |then: u64| writes - then < MOMENT_WRITES;
        if !self.moment.writes.is_some_and(is_fresh) {
            self.moment = Moment {
                at: transport.moment().unwrap_or(self.now.mono),
                writes: Some(writes),
            };
        }
        self.moment.at
    }

    /// Ends the passes that have visited everyone: no member that is not held by a pin needs what
    /// was there before any more.
    fn end_passes(&mut self) {
        let now = self.now.mono;
        let mut visited = std::mem::take(&mut self.visited);
        for Visited {
            feed: id,
            waiting_since,
        } in visited.drain(..)
        {
            let spares = &mut self.spares;
            let Some(feed) = Self::feed_in(&mut self.locals, id) else {
                continue;
            };
            feed.queued = false;
            let more = feed.end_pass(now, spares);
            if let Some(since) = waiting_since {
                self.flushed_since.push(since);
            }
            if more {
                self.queue_feed(id);
            }
        }
        self.visited = visited;
    }

    /// Writes to those that the passes of this turn left out, to each once.
    fn flush_shared(&mut self, transport: &mut impl Transport) {
        let mut shared = std::mem::take(&mut self.shared);
        for Shared { connection, .. } in &shared {
            let place = *connection as usize;
            if self.feeds_noted.len() <= place {
                self.feeds_noted.resize(place + 1, 0);
            }
            if let Some(noted) = self.feeds_noted.get_mut(place) {
                *noted = noted.saturating_add(1);
            }
        }
        for Shared { feed, connection } in shared.drain(..) {
            let noted = self.feeds_noted.get_mut(connection as usize);
            match noted.map_or(0, std::mem::take) {
                // It was there before, with another feed.
                0 => continue,
                1 => self.flush_place(feed, connection, transport),
                _ => self.flush_connection(connection, transport),
            }
            self.revisit_if_over(connection);
        }
        self.shared = shared;
        if self.connections.is_empty() {
            self.feeds_noted = Vec::new();
        }
    }

    // By itself, so that the loop has the registers whatever stands around the call: 56 instructions
    // for a member (`cargo xtask instructions`), where inlined it took 54 or 61, as code elsewhere
    // had it.
    #[inline(never)]
    fn visit_members(
        &mut self,
        (id, feed): (FeedId, &mut Feed),
        transport: &mut impl Transport,
        budget: &mut usize,
        findings: &mut Vec<Finding>,
    ) -> bool {
        let head = feed.log.head();
        let lag_bytes_max = self.relief.lag_bytes_max;
        // A connection with something of its own to get, which this turn's budget did not reach, must
        // not be given a room's messages before it: its last write may have ended within a frame, and
        // it may not have been told yet that it joined. Nobody is asked while nobody waits.
        let connections = &self.connections;
        let some_wait = !self.queued_connections.is_empty();
        let waits = |index: u32| connections.get(index).is_some_and(|c| c.queued);
        let is_alone = self.queued_feeds.is_empty() && self.shared.is_empty();
        let first = feed.begin_pass();
        let Feed { log, members, .. } = feed;
        let mut stretch = Stretch::new(log, head);
        // Members that took the whole stretch. What they took is counted for all of them at once, when
        // the next member stands elsewhere.
        let mut whole = 0u64;
        let mut left = *budget;
        let unvisited = members.get_mut(first..).unwrap_or_default();
        let mut visited = 0;
        for member in unvisited.iter_mut() {
            if left == 0 {
                break;
            }
            visited += 1;
            if member.cursor >= head {
                continue;
            }
            let is_plain = !(member.blocked | member.pinned | member.excluded);
            if !is_plain || (some_wait && waits(member.connection)) {
                left -= usize::from(!member.blocked);
                findings.extend(out_of_the_ordinary(member, head, lag_bytes_max));
                continue;
            }
            left -= 1;
            if member.elsewhere && !is_alone {
                self.shared.push(Shared {
                    feed: id,
                    connection: member.connection,
                });
                continue;
            }
            if stretch.from != member.cursor {
                let bytes = head - stretch.from;
                count_written(&mut self.metrics, bytes, stretch.tally, whole);
                whole = 0;
                stretch = Stretch::new(log, member.cursor);
            }
            let (sent, offered) = match stretch.bytes {
                Some(slice) => (transport.send(member.connection, slice), slice.len()),
                None => send_pieces(log, member, transport),
            };
            match sent {
                Sent::Took(count) if member.cursor + (count as u64) >= head => {
                    whole += 1;
                    member.cursor = head;
                }
                Sent::Took(count) => {
                    let is_full = count < offered;
                    let finding = take_part(log, member, (count, is_full), &mut self.metrics);
                    findings.push(finding);
                }
                Sent::Full => {
                    self.metrics.flush.would_block += 1;
                    findings.push(Finding::Blocked(member.connection));
                }
                Sent::Gone => findings.push(Finding::Gone(member.connection)),
            }
        }
        let done = visited == unvisited.len();
        let bytes = head - stretch.from;
        count_written(&mut self.metrics, bytes, stretch.tally, whole);
        feed.pause_pass(first + visited);
        *budget = left;
        done
    }

    fn settle(&mut self, id: FeedId, finding: Finding, transport: &mut impl Transport) {
        match finding {
            Finding::Blocked(index) => {
                self.note_under_way(id, index);
                self.block(index);
                self.revisit_if_over(index);
            }
            Finding::Behind(index) => {
                self.watch_lag(id, index);
                self.judge_lag(index, transport);
            }
            Finding::Gone(index) => self.drop_connection(index, 1006),
            Finding::Careful(index) => {
                self.flush_connection(index, transport);
                self.revisit_if_over(index);
            }
        }
    }

    /// Writes everything that one connection is owed: the rest of a frame under way, its own queue,
    /// its feeds.
    ///
    /// Whether the socket filled before all was written is left in the connection; what that means
    /// is the caller's to judge.
    pub(super) fn flush_connection(&mut self, index: u32, transport: &mut impl Transport) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.queued = false;
        loop {
            match self.connections.get(index) {
                Some(connection) if !connection.blocked => {}
                _ => return,
            }
            let parts = self.gather(index);
            if parts.is_empty() {
                break;
            }
            if !self.write(index, &parts, transport) {
                return;
            }
        }
        self.caught_up(index);
    }

    /// Writes to a member what is new in one feed, where nothing else waits for its connection.
    fn flush_place(&mut self, id: FeedId, index: u32, transport: &mut impl Transport) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let is_plain = !connection.blocked && !connection.queued && connection.queue.is_none();
        let Some(member) = Self::member_index(connection, id).filter(|_| is_plain) else {
            return self.flush_connection(index, transport);
        };
        let spares = &mut self.spares;
        let stretch = Self::feed_in(&mut self.locals, id).and_then(|f| f.stretch(member, spares));
        let Some((from, to)) = stretch else {
            return;
        };
        let part = Part::Feed {
            feed: id,
            member,
            from,
            to,
        };
        if self.write(index, &[part], transport) {
            let feed = Self::feed_ref(&self.locals, id);
            if feed.is_some_and(|feed| feed.lag_bytes(member) > 0) {
                // More than one write can hold.
                self.flush_connection(index, transport);
            }
        }
    }

    /// Makes one write of the parts. Says whether the socket may take more.
    fn write(&mut self, index: u32, parts: &[Part], transport: &mut impl Transport) -> bool {
        let (sent, offered) = self.offer(index, parts, transport);
        match sent {
            Sent::Took(count) => {
                self.metrics.traffic.bytes_out += count as u64;
                let frames = self.take_off(index, parts, count);
                let flush = &mut self.metrics.flush;
                flush.writes += 1;
                flush.bytes += count as u64;
                flush.note_sizes(count as u64, frames, 1);
                if count > 0 && self.is_lagging(index) {
                    self.note_alive(index);
                }
                if count < offered {
                    self.metrics.flush.partial += 1;
                    self.block(index);
                }
                true
            }
            Sent::Full => {
                self.metrics.flush.would_block += 1;
                self.block(index);
                true
            }
            Sent::Gone => {
                self.drop_connection(index, 1006);
                false
            }
        }
    }

    /// Whether patience with it is running out.
    fn is_lagging(&self, index: u32) -> bool {
        let connection = self.connections.get(index);
        connection.is_some_and(|c| c.deadline.is_some())
    }

    /// What a connection is owed, in the order in which it must be written.
    fn gather(&mut self, index: u32) -> SmallVec<[Part; PARTS_MAX]> {
        let mut parts = SmallVec::new();
        let Some(connection) = self.connections.get(index) else {
            return parts;
        };
        let under_way = connection.under_way;
        let spares = &mut self.spares;
        let locals = &mut self.locals;
        let mut add = |parts: &mut SmallVec<[Part; PARTS_MAX]>, feed: FeedId, member: u32| {
            let stretch = Self::feed_in(locals, feed).and_then(|f| f.stretch(member, spares));
            if let Some((from, to)) = stretch {
                parts.push(Part::Feed {
                    feed,
                    member,
                    from,
                    to,
                });
            }
        };
        if under_way != FeedId::NONE
            && let Some(member) = Self::member_index(connection, under_way)
        {
            add(&mut parts, under_way, member);
        }
        if connection.queue.as_ref().is_some_and(|q| !q.is_empty()) {
            parts.push(Part::Queue);
        }
        for (feed, member) in connection.subscriptions.iter().flat_map(|s| s.feeds()) {
            if parts.len() == PARTS_MAX {
                break;
            }
            if feed != under_way {
                add(&mut parts, feed, member);
            }
        }
        parts
    }

    /// Makes one write of the parts. Answers what the socket said and how much it was offered.
    fn offer(
        &mut self,
        index: u32,
        parts: &[Part],
        transport: &mut impl Transport,
    ) -> (Sent, usize) {
        let mut slices: SmallVec<[IoSlice<'_>; 8]> = SmallVec::new();
        for part in parts {
            let room = SLICES_MAX.saturating_sub(slices.len());
            match *part {
                Part::Queue => {
                    let queue = self.connections.get(index).and_then(|c| c.queue.as_ref());
                    slices.extend(
                        queue
                            .iter()
                            .flat_map(|q| q.slices())
                            .take(room)
                            .map(IoSlice::new),
                    );
                }
                Part::Feed { feed, from, to, .. } => {
                    let feed = Self::feed_ref(&self.locals, feed);
                    let bytes = feed.into_iter().flat_map(|f| f.log.slices(from, to));
                    slices.extend(bytes.take(room).map(IoSlice::new));
                }
            }
        }
        let offered = slices.iter().map(|s| s.len()).sum();
        let sent = match &slices[..] {
            [one] => transport.send(index, one),
            many => transport.send_vectored(index, many),
        };
        (sent, offered)
    }

    /// Moves the queue and the cursors forward by what was written. Answers how many frames ended
    /// in it.
    fn take_off(&mut self, index: u32, parts: &[Part], mut count: usize) -> u64 {
        let mut frames = 0;
        let Shard {
            connections,
            locals,
            spares,
            queues,
            metrics,
            ..
        } = self;
        let Some(connection) = connections.get_mut(index) else {
            return frames;
        };
        for part in parts {
            if count == 0 {
                break;
            }
            match *part {
                Part::Queue => {
                    if let Some(queue) = connection.queue.as_mut() {
                        let mut queue = queues.lend(queue);
                        count = queue.advance(count, |kind, n| {
                            frames += n;
                            metrics.ledger.deliver(kind, n);
                        });
                    }
                }
                Part::Feed {
                    feed: id,
                    member,
                    from,
                    to,
                } => {
                    let Some(feed) = Self::feed_in(locals, id) else {
                        continue;
                    };
                    let taken = (to - from).min(count as u64);
                    count -= taken as usize;
                    let reached = from + taken;
                    let tally = feed.log.tally_at(reached).since(feed.log.tally_at(from));
                    metrics.ledger.deliver(Kind::Message, tally.messages);
                    metrics.ledger.deliver(Kind::Signal, tally.signals);
                    frames += tally.total();
                    let within = feed.log.frame_end_within(reached).is_some();
                    connection.under_way = if within { id } else { FeedId::NONE };
                    feed.advance(member, reached, spares);
                }
            }
        }
        frames
    }

    /// Nothing is left to write.
    fn caught_up(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if let Some(queue) = connection.queue.take() {
            self.queues.give(queue);
        }
        if connection.phase == Phase::Native
            && let Some(timer) = connection.deadline.take()
        {
            self.wheel.cancel(timer);
        }
        if connection.phase == Phase::Closing {
            self.linger(index);
        } else {
            self.resume_if_paused(index);
        }
    }

    /// Puts a connection on the list of those that have something of their own to be written.
    pub(super) fn queue_connection(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.queued_connections.push_back(index);
        }
    }

    /// Puts a feed on the list of those that are flushed at the end of the turn, or lets it gather.
    pub(super) fn queue_feed(&mut self, id: FeedId) {
        let (now, coalesce) = (self.now.mono, self.config.coalesce);
        let Some(feed) = Self::feed_in(&mut self.locals, id) else {
            return;
        };
        if std::mem::replace(&mut feed.queued, true) {
            return;
        }
        let due = feed.flushed_at + coalesce;
        if coalesce.is_zero() || due <= now {
            self.queued_feeds.push_back(id);
        } else {
            self.wheel.insert(due, Timer::Coalesce(id));
        }
    }
}

/// What is to be looked at with a member that does not simply get what there is.
fn out_of_the_ordinary(member: &Member, head: Position, lag_bytes_max: u64) -> Option<Finding> {
    let is_over = head - member.cursor > lag_bytes_max;
    if !member.blocked {
        Some(Finding::Careful(member.connection))
    } else if !member.pinned || member.elsewhere || is_over {
        Some(Finding::Behind(member.connection))
    } else {
        None
    }
}

/// Offers a member what does not lie in one piece. Answers how much that was, too.
fn send_pieces(log: &Log, member: &Member, transport: &mut impl Transport) -> (Sent, usize) {
    let slices: SmallVec<[IoSlice<'_>; 8]> = log
        .slices(member.cursor, log.head())
        .take(SLICES_MAX)
        .map(IoSlice::new)
        .collect();
    let offered = slices.iter().map(|s| s.len()).sum();
    (transport.send_vectored(member.connection, &slices), offered)
}

/// Moves a cursor forward, but not to the head. Answers what is to be done about the rest.
#[cold]
fn take_part(
    log: &Log,
    member: &mut Member,
    (count, is_full): (usize, bool),
    metrics: &mut Metrics,
) -> Finding {
    let from = member.cursor;
    member.cursor += count as u64;
    let tally = log.tally_at(member.cursor).since(log.tally_at(from));
    count_written(metrics, count as u64, tally, 1);
    metrics.flush.partial += u64::from(is_full);
    if is_full {
        Finding::Blocked(member.connection)
    } else {
        // More than one write can hold: the rest goes by the careful way.
        Finding::Careful(member.connection)
    }
}

/// Counts `n` writes of the same.
#[inline(never)]
fn count_written(metrics: &mut Metrics, bytes: u64, frames: Tally, n: u64) {
    if n == 0 {
        return;
    }
    let Metrics {
        flush,
        traffic,
        ledger,
        ..
    } = metrics;
    flush.writes += n;
    flush.bytes += bytes * n;
    flush.note_sizes(bytes, frames.total(), n);
    traffic.bytes_out += bytes * n;
    ledger.deliver(Kind::Message, frames.messages * n);
    ledger.deliver(Kind::Signal, frames.signals * n);
}
