//! How connections end, and what becomes of what they were still owed.
//!
//! ```text
//!   begin_close ──► Closing: the close frame is on its way, input is thrown away
//!                      │ all written
//!                      ▼
//!                   Lingering: sending side shut, waiting for the peer's end
//!                      │ end, or --close-timeout
//!                      ▼
//!   drop_connection ─► gone
//! ```
//!
//! A close frame only arrives if nothing of the peer's is left unread when the socket closes:
//! otherwise the kernel sends a reset, and the peer's kernel throws away what it had not read.

use std::cell::RefCell;

use crate::codec::websocket::encode_close;
use crate::frame::Note;
use crate::metrics::{Eviction, Kind};
use crate::protocol::json::encode;
use crate::protocol::{Code, Event, Offset, PresenceChange};
use crate::room::feed::Remainder;
use crate::session::Class;
use crate::shard::config::Overflow;
use crate::shard::connection::{FeedId, Phase, Timer};
use crate::shard::memory::{input_bytes, standing_bytes};
use crate::shard::{Action, Shard};

/// How many bytes of notices of what it missed may wait for a laggard beyond `--max-reply-bytes`.
const NOTICES_BYTES_MAX: usize = 64 * 1024;

/// Which bound a laggard passed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Lag {
    /// `--max-lag-bytes`.
    Bytes,
    /// `--max-lag-age`.
    Age,
}

impl Lag {
    pub(super) fn code(self) -> Code {
        match self {
            Lag::Bytes => Code::SlowConsumerBytes,
            Lag::Age => Code::SlowConsumerAge,
        }
    }

    pub(super) fn cause(self) -> Eviction {
        match self {
            Lag::Bytes => Eviction::LagBytes,
            Lag::Age => Eviction::LagAge,
        }
    }
}

impl Shard {
    /// Closes with one of the table's codes and its name as the reason.
    pub(super) fn close_with(&mut self, index: u32, code: Code) {
        let entry = code.entry();
        self.begin_close(index, code as u16, entry.name);
    }

    /// Sends a close frame behind what is under way, and nothing else any more.
    pub(super) fn begin_close(&mut self, index: u32, code: u16, reason: &str) {
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        encode_close(code, reason, &mut frame);
        self.begin_close_with(index, code, &frame);
        self.scratch = frame;
    }

    /// The same with a close frame, or an HTTP response, that is written already.
    ///
    /// Where the socket takes bytes, what the connection was owed goes before it. Where it does
    /// not, that is given up, but for the rest of a frame that is under way.
    pub(super) fn begin_close_with(&mut self, index: u32, code: u16, last_bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if matches!(connection.phase, Phase::Closing | Phase::Lingering) {
            return;
        }
        self.note_eviction(index, code);
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.close_code = code;
        let phase = connection.phase;
        let timers = self.change_connection(index, |connection| {
            drop(connection.take_held());
            connection.decoder = Default::default();
            connection.paused = false;
            connection.take_timers()
        });
        for timer in timers.into_iter().flatten() {
            self.wheel.cancel(timer);
        }
        if phase != Phase::Head {
            self.metrics.connections.closed.count(code);
        }
        self.leave_everything(index);
        self.set_phase(index, Phase::Closing);
        let now = self.now.mono;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.blocked {
            self.give_up_queue(index, code);
        }
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection
            .queue_from(&mut self.queues)
            .push(last_bytes, 0, Class::Raw, now);
        let due = now + self.config.close_timeout;
        connection.deadline = Some(self.wheel.insert(due, Timer::Close(index)));
        self.queue_connection(index);
        // Input that waited is thrown away now, and so is what comes.
        self.resumed.push(index);
    }

    /// Takes a connection out of every room and from its user's home. What it was owed is in its
    /// queue afterwards.
    fn leave_everything(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let subscriptions = connection.subscriptions.clone();
        for (id, member) in subscriptions.iter().flat_map(|s| s.feeds()) {
            self.detach_all(index, id, member);
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.subscriptions = Default::default();
        }
        for subscription in &subscriptions {
            for (id, member) in subscription.feeds() {
                self.remove_member(id, member);
            }
            self.ask_to_leave(index, subscription.room);
            self.release_local(subscription.room);
        }
        self.depart(index);
    }

    /// Counts what waits for a connection as not delivered, because it closed with `code`: all but
    /// a frame that is under way.
    fn give_up_queue(&mut self, index: u32, code: u16) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let Some(queue) = connection.queue.as_mut() else {
            return;
        };
        let ledger = RefCell::new(&mut self.metrics.ledger);
        self.queues.lend(queue).abandon(
            |kind, n| ledger.borrow_mut().deliver(kind, n),
            |kind, n| ledger.borrow_mut().undelivered(kind, code, n),
        );
    }

    /// Everything was handed to the kernel: shuts the sending side and waits for the peer's end.
    pub(super) fn linger(&mut self, index: u32) {
        if let Some(connection) = self.connections.get(index) {
            debug_assert!(connection.queue.is_none());
            if connection.ended {
                return self.drop_connection(index, connection.close_code);
            }
            self.set_phase(index, Phase::Lingering);
            self.actions.push_back(Action::ShutdownWrite(index));
        }
    }

    /// Ends a connection at once, with what it was owed counted under `code` (1006 where the peer
    /// vanished, RFC 6455 §7.4.1), unless it is closing with another already.
    pub(super) fn drop_connection(&mut self, index: u32, code: u16) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let code = if connection.close_code == 1006 {
            code
        } else {
            connection.close_code
        };
        let phase = connection.phase;
        let unsent = connection.queue.is_some();
        if !matches!(phase, Phase::Closing | Phase::Lingering) {
            self.leave_everything(index);
            if phase != Phase::Head {
                self.metrics.connections.closed.count(code);
            }
        }
        self.give_up_queue(index, code);
        // The rest of a frame that was under way.
        if let Some(queue) = self.connections.get(index).and_then(|it| it.queue.as_ref()) {
            for (kind, n) in queue.pending() {
                self.metrics.ledger.undelivered(kind, code, n);
            }
        }
        let (dialect, state) = super::gauge(phase);
        self.metrics.connections.leave(dialect, state);
        let Some(mut connection) = self.connections.remove(index) else {
            return;
        };
        self.metrics.lag.laggards -= u64::from(connection.blocked);
        self.memory.note_input(input_bytes(&connection), 0);
        self.memory.note_standing(standing_bytes(&connection), 0);
        if let Some(queue) = connection.queue.take() {
            self.queues.give(queue);
        }
        for timer in connection.take_timers() {
            self.wheel.cancel(timer);
        }
        self.forget_crowded(&connection);
        self.generations_retired(index, connection.generation);
        // A peer that did not take its close frame gets a reset.
        let abrupt = phase == Phase::Closing && unsent;
        self.actions.push_back(if abrupt {
            Action::Reset(index)
        } else {
            Action::Close(index)
        });
    }

    /// A laggard passed a bound: its rooms' policy applies.
    pub(super) fn overflow(&mut self, index: u32, lag: Lag) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        if connection.phase != Phase::Native {
            return;
        }
        self.note_lag(index);
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let queued = connection.queue.as_ref().map_or(0, |q| q.data_bytes()) as u64;
        // What was for this connection alone cannot be skipped: nobody could say what it missed.
        let must_go = match lag {
            Lag::Bytes => queued > self.relief.lag_bytes_max,
            Lag::Age => connection
                .queue
                .as_ref()
                .and_then(|q| q.oldest_data())
                .is_some_and(|at| at + self.config.lag_age_max <= self.now.mono),
        };
        if must_go || self.lags_where_laggards_go(index) {
            self.metrics.connections.evicted.count(lag.cause());
            self.close_with(index, lag.code());
            return;
        }
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let subscriptions = connection.subscriptions.clone();
        for (id, member) in subscriptions.iter().flat_map(|s| s.feeds()) {
            let ruling = self.local_ruling(id.room());
            let keeps_newest = self.config.overflow(ruling) == Overflow::Latest;
            self.skip(index, id, member, keeps_newest);
        }
        if self.is_buried_in_notices(index) {
            self.metrics.connections.evicted.count(lag.cause());
            return self.close_with(index, lag.code());
        }
        // What is left is the rest of a frame, in the queue now, and perhaps one newest message.
        if self.connections.get(index).is_some_and(|c| c.blocked) {
            self.block(index);
        }
        self.rearm_lag_age(index);
    }

    /// Whether one of the rooms in which a connection is behind evicts. The bounds hold for a
    /// connection, not for each of its rooms, so one such room is enough: what it owes there cannot
    /// be left out, and skipping elsewhere would not bound it.
    fn lags_where_laggards_go(&mut self, index: u32) -> bool {
        let Some(connection) = self.connections.get(index) else {
            return false;
        };
        let subscriptions = connection.subscriptions.clone();
        subscriptions.iter().any(|subscription| {
            let is_behind = subscription.feeds().any(|(id, member)| {
                Self::feed_ref(&self.locals, id).is_some_and(|feed| feed.lag_bytes(member) > 0)
            });
            let ruling = self.local_ruling(subscription.room);
            is_behind && self.config.overflow(ruling) == Overflow::Evict
        })
    }

    /// Whether a connection that reads nothing has been told so much unasked (what it missed, again and
    /// again, or where the backend put it) that this itself is too much.
    pub(super) fn is_buried_in_notices(&self, index: u32) -> bool {
        let queue = self.connections.get(index).and_then(|c| c.queue.as_ref());
        let max = self
            .relief
            .answer_bytes_max
            .saturating_add(NOTICES_BYTES_MAX);
        queue.is_some_and(|queue| queue.answer_bytes() > max)
    }

    /// Moves a laggard's cursor in one feed to the newest, or to the newest message, and tells it
    /// what it missed.
    fn skip(&mut self, index: u32, id: FeedId, member: u32, keeps_newest: bool) {
        self.detach_under_way(index, id, member);
        let keep_newest = keeps_newest && !id.is_presence();
        let Some(feed) = Self::feed_in(&mut self.locals, id) else {
            return;
        };
        let head = feed.log.head();
        let Some(cursor) = feed.members.get(member as usize).map(|m| m.cursor) else {
            return;
        };
        let newest = feed.log.newest_message().map(|(start, _)| start);
        let to = newest
            .filter(|start| keep_newest && *start >= cursor)
            .unwrap_or(head);
        let missed = feed.remainder(member, to);
        feed.advance(member, to, &mut self.spares);
        self.metrics
            .ledger
            .skip(Kind::Message, missed.frames.messages);
        self.metrics
            .ledger
            .skip(Kind::Signal, missed.frames.signals);
        self.tell_missed(index, id, missed);
    }

    fn tell_missed(&mut self, index: u32, id: FeedId, missed: Remainder) {
        let Some(room) = self.locals.key(id.room()).cloned() else {
            return;
        };
        let room = room.name();
        if let Some((from, to)) = missed.offsets {
            self.metrics.traffic.skipped_offsets += to - from + 1;
            let event = Event::MessagesMissed {
                room,
                from: Offset(from),
                to: Offset(to),
            };
            self.answer(index, &event, None);
        }
        let (joined, left) = missed.presence;
        if (joined, left) != (0, 0) {
            let count = self.locals.get(id.room()).map_or(0, |r| r.user_count);
            let change = PresenceChange::Summary {
                joined: u64::from(joined),
                left: u64::from(left),
            };
            self.answer(
                index,
                &Event::PresenceUpdate {
                    room,
                    change,
                    count,
                },
                None,
            );
        }
    }

    /// Moves the rest of a feed's frame that is under way to the front of the connection's queue,
    /// so that the cursor stands on a boundary.
    pub(super) fn detach_under_way(&mut self, index: u32, id: FeedId, member: u32) {
        let Shard {
            connections,
            locals,
            spares,
            queues,
            now,
            ..
        } = self;
        let Some(connection) = connections.get_mut(index) else {
            return;
        };
        if connection.under_way != id {
            return;
        }
        connection.under_way = FeedId::NONE;
        let Some(feed) = Self::feed_in(locals, id) else {
            return;
        };
        let Some((entry, end)) = feed.entry_under_way(member) else {
            return;
        };
        let rest = feed.rest_under_way(member);
        feed.advance(member, end, spares);
        let class = Class::Data(kind_of(entry));
        connection
            .queue_from(queues)
            .push_rest(&rest, class, now.mono);
    }

    /// Moves everything that a member is behind in a feed into the connection's queue, so that an
    /// answer which follows comes after it.
    pub(super) fn detach_all(&mut self, index: u32, id: FeedId, member: u32) {
        self.detach_under_way(index, id, member);
        let Shard {
            connections,
            locals,
            spares,
            queues,
            ..
        } = self;
        let Some(connection) = connections.get_mut(index) else {
            return;
        };
        let Some(feed) = Self::feed_in(locals, id) else {
            return;
        };
        feed.for_each_owed(member, |bytes, entry| {
            let mut queue = connection.queue_from(queues);
            queue.push(bytes, 1, Class::Data(kind_of(entry.note)), entry.at);
        });
        let head = feed.log.head();
        feed.advance(member, head, spares);
    }

    /// Serialises an event and puts it into a connection's queue as an answer.
    pub(super) fn answer(&mut self, index: u32, event: &Event<'_>, correlation_id: Option<&str>) {
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        encode(event, correlation_id, &mut frame);
        self.answer_with(index, &frame);
        self.scratch = frame;
    }

    /// Puts an answer's frame into a connection's queue.
    pub(super) fn answer_with(&mut self, index: u32, frame: &[u8]) {
        let now = self.now.mono;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.phase != Phase::Native {
            return;
        }
        connection
            .queue_from(&mut self.queues)
            .push(frame, 1, Class::Answer(Kind::Reply), now);
        self.metrics.ledger.offer(Kind::Reply, 1);
        self.queue_connection(index);
    }
}

fn kind_of(note: Note) -> Kind {
    match note {
        Note::Message => Kind::Message,
        _ => Kind::Signal,
    }
}
