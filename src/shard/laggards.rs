//! Connections whose sockets are full: what is held for them, and how long that may go on.

use crate::shard::Shard;
use crate::shard::closing::Lag;
use crate::shard::connection::{FeedId, Phase, Timer};
use crate::shard::flush::Transport;

impl Shard {
    /// The socket is full: its places in all rooms say so, what it needs is pinned, and the clock
    /// of its patience runs.
    pub(super) fn block(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if !std::mem::replace(&mut connection.blocked, true) {
            self.metrics.lag.laggards += 1;
        }
        let places = connection.subscriptions.iter().flat_map(|s| s.feeds());
        let elsewhere = places.count() > 1 || connection.queue.is_some();
        for (id, place) in connection.subscriptions.iter().flat_map(|s| s.feeds()) {
            let Some(feed) = Self::feed_in(&mut self.locals, id) else {
                continue;
            };
            if let Some(member) = feed.members.get_mut(place as usize) {
                member.blocked = true;
                member.elsewhere = elsewhere;
            }
            feed.pin(place);
        }
        self.arm_lag_age(index);
    }

    /// The socket takes bytes again.
    pub(super) fn unblock(&mut self, index: u32) {
        if !self.connections.get(index).is_some_and(|c| c.blocked) {
            return;
        }
        self.note_lag(index);
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.blocked = false;
        self.metrics.lag.laggards -= 1;
        for (id, member) in connection.subscriptions.iter().flat_map(|s| s.feeds()) {
            if let Some(feed) = Self::feed_in(&mut self.locals, id)
                && let Some(member) = feed.members.get_mut(member as usize)
            {
                member.blocked = false;
            }
        }
    }

    /// Counts how far behind a laggard is, at the end of one stretch of that.
    pub(super) fn note_lag(&mut self, index: u32) {
        // Where it has only answers to take, it is behind in nothing.
        if let Some(since) = self.oldest_pending(index) {
            let bytes = self.lag_bytes(index);
            self.metrics.lag.bytes.record(bytes);
            self.metrics.lag.age.record(self.now.mono - since);
        }
    }

    /// Starts the clock of a laggard's patience, unless it runs.
    pub(super) fn arm_lag_age(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        if !matches!(connection.phase, Phase::Native) || connection.deadline.is_some() {
            return;
        }
        let Some(since) = self.oldest_pending(index) else {
            return;
        };
        let (now, age_max) = (self.now.mono, self.config.lag_age_max);
        // What is too old when the socket fills for the first time was held up here, not there.
        let due = if since + age_max <= now { now } else { since } + age_max;
        let timer = self.wheel.insert(due, Timer::LagAge(index));
        if let Some(connection) = self.connections.get_mut(index) {
            connection.deadline = Some(timer);
        }
    }

    /// A blocked member fell behind in one more feed, or further behind in several.
    pub(super) fn watch_lag(&mut self, id: FeedId, index: u32) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let Some(member) = Self::member_index(connection, id) else {
            return;
        };
        if let Some(feed) = Self::feed_in(&mut self.locals, id) {
            feed.pin(member);
        }
        self.arm_lag_age(index);
    }

    /// Holds a laggard against the bound in bytes.
    pub(super) fn judge_lag(&mut self, index: u32, transport: &mut impl Transport) {
        if self.lag_bytes(index) <= self.relief.lag_bytes_max {
            return;
        }
        // The socket may have room again, and the news of it wait behind the messages that this
        // turn took in: nobody is judged without a last offer.
        self.unblock(index);
        self.flush_connection(index, transport);
        if self.lag_bytes(index) > self.relief.lag_bytes_max {
            self.overflow(index, Lag::Bytes);
        }
    }

    /// Where a socket is full and what it left behind is over the bound already, as a burst of one
    /// turn may be: lets a pass of the next turn judge it, once the poller had a chance to say that
    /// the peer takes it.
    pub(super) fn revisit_if_over(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        if !connection.blocked || self.lag_bytes(index) <= self.relief.lag_bytes_max {
            return;
        }
        let locals = &self.locals;
        let mut feeds = connection.subscriptions.iter().flat_map(|s| s.feeds());
        let behind = feeds.find(|(id, member)| {
            Self::feed_ref(locals, *id).is_some_and(|feed| feed.lag_bytes(*member) > 0)
        });
        match behind {
            Some((id, _)) => self.revisited.push(id),
            None => self.overflow(index, Lag::Bytes),
        }
    }

    /// Something changed about what a connection is behind in: where its socket is full, the flags
    /// of its places and its lag have to be looked at again.
    pub(super) fn look_again_if_blocked(&mut self, index: u32) {
        if self.connections.get(index).is_some_and(|c| c.blocked) {
            self.block(index);
            self.revisit_if_over(index);
        }
    }

    /// Notes whether a write ended in the middle of one of this feed's frames.
    pub(super) fn note_under_way(&mut self, id: FeedId, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let Some(member) = Self::member_index(connection, id) else {
            return;
        };
        let Some(feed) = Self::feed_in(&mut self.locals, id) else {
            return;
        };
        let Some(member) = feed.members.get(member as usize) else {
            return;
        };
        let within = feed.log.frame_end_within(member.cursor).is_some();
        connection.under_way = if within { id } else { FeedId::NONE };
    }
}
