//! What is due: heartbeats, patience, deadlines, upkeep, and the drain.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::bus::{CREDITS, Durability};
use crate::codec::http::{Response, encode_response};
use crate::codec::websocket::{Control, OpCode};
use crate::metrics::Reject;
use crate::protocol::{Code, Event};
use crate::shard::Shard;
use crate::shard::closing::Lag;
use crate::shard::connection::{FeedId, Phase, Timer};
use crate::time::{Instant, Now};

/// How much longer than the drain clients wait before they come back, at least: the next process
/// has to start.
const RESTART: Duration = Duration::from_secs(1);

/// How soon it is looked again whether a connection that has to go has its answers.
const FAREWELL_AGAIN: Duration = Duration::from_millis(10);

/// Pings leave on a beat: a core with many idle connections wakes for some dozens of them at once,
/// and not for each. Late by so much at most, which is nothing to a heartbeat.
const BEAT: Duration = Duration::from_millis(20);

/// The first beat that is not before `due`.
pub(super) fn beat_from(due: Instant) -> Instant {
    let nanos = due.as_nanos();
    let beat = nanos.checked_next_multiple_of(BEAT.as_nanos() as u64);
    Instant::from_nanos(beat.unwrap_or(nanos))
}

impl Shard {
    /// Does everything that is due.
    pub fn handle_timeouts(&mut self, now: Now) {
        self.set_now(now);
        while let Some(timer) = self.wheel.expire(self.now.mono) {
            match timer {
                Timer::Handshake(index) => self.give_up_on_head(index),
                Timer::Auth(index) => self.give_up_on_auth(index),
                Timer::Expiry(index) => self.expire(index),
                Timer::Lifetime(index) => self.retire(index),
                Timer::Heartbeat(index) => self.beat(index),
                Timer::LagAge(index) => {
                    self.forget_deadline(index);
                    self.judge_age(index);
                }
                Timer::Close(index) => {
                    self.forget_deadline(index);
                    let code = self.connections.get(index).map_or(1006, |c| c.close_code);
                    self.drop_connection(index, code);
                }
                Timer::Farewell(index) => self.bid_farewell(index),
                Timer::Throttle(index) => self.end_throttle(index),
                Timer::Bans => self.sweep_bans(),
                Timer::Coalesce(feed) => self.end_of_gathering(feed),
                Timer::Upkeep(home) => self.upkeep(home),
                Timer::Summary(home) => self.tell_summary(home),
            }
        }
    }

    fn forget_deadline(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.deadline = None;
        }
    }

    fn end_of_gathering(&mut self, id: FeedId) {
        if Self::feed_ref(&self.locals, id).is_some_and(|feed| feed.queued) {
            self.queued_feeds.push_back(id);
        }
    }

    fn give_up_on_head(&mut self, index: u32) {
        self.forget_deadline(index);
        self.metrics.connections.rejected.count(Reject::Timeout);
        let mut bytes = Vec::new();
        let response = Response {
            status: 408,
            content_type: "text/plain; charset=utf-8",
            headers: &[],
            body: b"the request head did not arrive within --handshake-timeout\n",
        };
        encode_response(&response, false, &mut bytes);
        self.begin_close_with(index, 1000, &bytes);
    }

    /// Sends a ping, or looks whether the last one was followed by a sign of life.
    fn beat(&mut self, index: u32) {
        let now_ms = self.now_ms();
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.heartbeat = None;
        let interval = self.config.heartbeat_interval;
        let due = match connection.pinged_at_ms.take() {
            None => {
                connection.pinged_at_ms = NonZeroU32::new(now_ms.max(1));
                self.push_raw(index, OpCode::Control(Control::Ping), b"");
                self.now.mono + self.config.heartbeat_timeout
            }
            Some(pinged) => {
                let since = connection.alive_at_ms.wrapping_sub(pinged.get()) as i32;
                // Where we do not read, or another core owes the answer, silence is ours.
                let ours = self.reading_suspended
                    || connection.credits_held > 0
                    || connection.is_throttled();
                if since < 0 && !ours {
                    return self.close_with(index, Code::HeartbeatTimeout);
                }
                let waited = Duration::from_millis(u64::from(now_ms.wrapping_sub(pinged.get())));
                self.now.mono + interval.saturating_sub(waited)
            }
        };
        let timer = self.wheel.insert(beat_from(due), Timer::Heartbeat(index));
        if let Some(connection) = self.connections.get_mut(index) {
            connection.heartbeat = Some(timer);
        }
    }

    /// Looks how old the oldest byte is that a laggard has not taken.
    fn judge_age(&mut self, index: u32) {
        let Some(since) = self.oldest_pending(index) else {
            return;
        };
        if since + self.config.lag_age_max <= self.now.mono {
            self.overflow(index, Lag::Age);
        } else {
            self.arm_lag_age(index);
        }
    }

    /// A laggard's rooms were skipped: what is left of a frame gets the time anew.
    pub(super) fn rearm_lag_age(&mut self, index: u32) {
        let due = self.now.mono + self.config.lag_age_max;
        let pending = self.oldest_pending(index).is_some();
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if let Some(timer) = connection.deadline.take() {
            self.wheel.cancel(timer);
        }
        if pending && connection.phase == Phase::Native {
            connection.deadline = Some(self.wheel.insert(due, Timer::LagAge(index)));
        }
    }

    /// The node goes: tells every client at once, and closes each at a moment of its own within
    /// `window`.
    pub fn handle_drain(&mut self, now: Now, window: Duration) {
        self.set_now(now);
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        let indices: Vec<u32> = self.connections.iter().map(|(index, _)| index).collect();
        for index in indices {
            match self.connections.get(index).map(|c| c.phase) {
                Some(Phase::Native) => self.announce_drain(index, window),
                Some(Phase::Echo | Phase::Awaiting) => {
                    self.close_with(index, Code::ServerDraining);
                }
                Some(Phase::Head) => self.drop_connection(index, 1006),
                Some(Phase::Closing | Phase::Lingering) | None => {}
            }
        }
    }

    /// A connection's moment in a drain has come. One whose messages wait for the disk is read no
    /// more, and stays until it has its answers, or the drain is over.
    fn bid_farewell(&mut self, index: u32) {
        let stages = self.config.durability == Durability::Fsync;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.heartbeat = None;
        if connection.credits_held % CREDITS == 0 || !stages {
            return self.close_with(index, Code::ServerDraining);
        }
        // So many more than it may hold: answers do not make it be read again.
        if connection.credits_held < CREDITS {
            connection.credits_held += CREDITS;
        }
        connection.paused = true;
        let due = self.now.mono + FAREWELL_AGAIN;
        connection.heartbeat = Some(self.wheel.insert(due, Timer::Farewell(index)));
    }

    fn announce_drain(&mut self, index: u32, window: Duration) {
        // Everyone comes back after the window, when this process is gone, spread over as long.
        let slot = window.mul_f64(self.rng.f64());
        let wait = window - slot + RESTART + window.mul_f64(self.rng.f64());
        let event = Event::ServerShutdown {
            reconnect_after_ms: wait.as_millis() as u64,
        };
        self.answer(index, &event, None);
        self.forget_lifetime(index);
        let timer = self
            .wheel
            .insert(self.now.mono + slot, Timer::Farewell(index));
        if let Some(connection) = self.connections.get_mut(index)
            && let Some(heartbeat) = connection.heartbeat.replace(timer)
        {
            self.wheel.cancel(heartbeat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_the_first_that_is_not_before_its_time() {
        let ms = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        for (due, beat) in [(0, 0), (1, 20), (20, 20), (21, 40)] {
            assert_eq!(beat_from(ms(due)), ms(beat));
        }
        let last = Instant::from_nanos(u64::MAX);
        assert_eq!(beat_from(last), last);
    }
}
