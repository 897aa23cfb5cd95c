//! Who may not come, and who has to go: bans and kicks.
//!
//! Every core holds all bans, so that a connection is turned away where it comes in. The user's home
//! closes the connections that are there. Orders reach the cores one after the other: a connection that
//! slips in on a core which has not heard of a ban yet is announced to the home, and the home, where it
//! has heard, closes it.

use std::sync::Arc;
use std::time::Duration;

use crate::address::ConnectionRef;
use crate::bus::{BusMessage, Obeyed, Order, OrderFault, StoredBan};
use crate::metrics::Limited;
use crate::protocol::{Code, UserId};
use crate::room::UserMap;
use crate::shard::Shard;
use crate::shard::connection::Timer;
use crate::time::{Instant, Now};
use crate::wheel::TimerId;

/// Users that may be banned at a time.
pub const BANS_MAX: usize = 1_000_000;

/// Bans that are over are looked for this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The end of a ban that has none.
const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// A ban's end.
#[derive(Copy, Clone)]
struct Ban {
    until: Instant,
}

impl Default for Ban {
    fn default() -> Ban {
        Ban { until: NEVER }
    }
}

/// The bans that a core knows.
pub(super) struct Bans {
    users: UserMap<Ban>,
    max: usize,
    sweep: Option<TimerId>,
}

impl Bans {
    pub(super) fn new(hasher: ahash::RandomState, max: usize) -> Bans {
        Bans {
            users: UserMap::new(hasher),
            max,
            sweep: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    fn holds(&self, user: &UserId, now: Instant) -> bool {
        !self.users.is_empty() && self.users.get(user).is_some_and(|ban| ban.until > now)
    }

    /// The end of a user's ban, where one is in force; none of it has none.
    fn end_of(&self, user: &UserId, now: Instant) -> Option<Option<Instant>> {
        let ban = self.users.get(user).filter(|ban| ban.until > now)?;
        Some((ban.until < NEVER).then_some(ban.until))
    }

    /// Answers those whose bans went, because they were over and there was no other place.
    fn insert(
        &mut self,
        user: &UserId,
        until: Instant,
        now: Instant,
    ) -> Result<Vec<UserId>, OrderFault> {
        let is_full = |bans: &Bans| bans.users.len() >= bans.max && !bans.users.contains(user);
        let mut over = Vec::new();
        if is_full(self) {
            over = self.sweep(now);
        }
        if is_full(self) {
            return Err(OrderFault::TooManyBans { max: self.max });
        }
        self.users.with(user, |ban| ban.until = until);
        Ok(over)
    }

    /// Forgets the bans that are over, and says whose.
    fn sweep(&mut self, now: Instant) -> Vec<UserId> {
        let over = self.users.iter().filter(|(_, ban)| ban.until <= now);
        let over: Vec<UserId> = over.map(|(user, _)| user.clone()).collect();
        for user in &over {
            self.users.remove(user);
        }
        over
    }

    /// When the next ban is over that has an end.
    fn next_end(&self) -> Option<Instant> {
        let ends = self.users.iter().map(|(_, ban)| ban.until);
        ends.filter(|until| *until < NEVER).min()
    }
}

impl Shard {
    /// Carries out an order: how many of the user's connections are told to close, where the user's
    /// home is here; none otherwise.
    ///
    /// # Errors
    /// [`OrderFault`]: nothing was done.
    pub fn handle_order(&mut self, now: Now, order: Order) -> Obeyed {
        match order {
            Order::Ban { user, lasts } => self.handle_ban(now, &user, lasts),
            Order::Unban { user } => {
                self.handle_unban(now, &user);
                Ok(0)
            }
            Order::Disconnect { user, code, reason } => {
                self.handle_disconnect(now, &user, code, &reason)
            }
        }
    }

    /// Bans a user from now on. One who is banned already is banned for the new time.
    ///
    /// # Errors
    /// Where as many are banned as may be.
    pub fn handle_ban(&mut self, now: Now, user: &UserId, lasts: Option<Duration>) -> Obeyed {
        self.set_now(now);
        let until = lasts.map_or(NEVER, |lasts| self.now.mono + lasts);
        self.ban(user, until)?;
        let lasts_ms = lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        let until_unix_ms = lasts_ms.map(|lasts| self.now.unix_ms.saturating_add(lasts));
        self.record_ban(user, Some(until_unix_ms));
        let connections = self.connections_of(user);
        let limited = Limited::Banned;
        self.metrics
            .limits
            .met
            .add(limited, connections.len() as u64);
        for connection in &connections {
            self.order_close(*connection, Code::UserBanned);
        }
        Ok(connections.len())
    }

    fn ban(&mut self, user: &UserId, until: Instant) -> Result<(), OrderFault> {
        for over in self.bans.insert(user, until, self.now.mono)? {
            self.record_ban(&over, None);
        }
        self.metrics.limits.bans = self.bans.len() as u64;
        if until < NEVER && self.bans.sweep.is_none() {
            self.bans.sweep = Some(self.wheel.insert(until, Timer::Bans));
        }
        Ok(())
    }

    /// Takes in a ban of an earlier run, unless it is over.
    pub(super) fn restore_ban(&mut self, ban: &StoredBan) {
        let now = self.now;
        let left = |until: u64| Duration::from_millis(until.saturating_sub(now.unix_ms));
        let until = ban.until_unix_ms.map(|until| now.mono + left(until));
        let until = until.unwrap_or(NEVER);
        if until <= now.mono {
            self.record_ban(&ban.user, None);
        } else if self.ban(&ban.user, until).is_err() {
            // No more than this were kept, unless the bound was another then.
            debug_assert!(false, "more bans than may be");
        }
    }

    /// Lifts a ban. Says whether there was one.
    pub fn handle_unban(&mut self, now: Now, user: &UserId) -> bool {
        self.set_now(now);
        let was_banned = self.bans.holds(user, self.now.mono);
        if self.bans.users.remove(user).is_some() {
            self.record_ban(user, None);
        }
        self.metrics.limits.bans = self.bans.len() as u64;
        if self.bans.len() == 0
            && let Some(timer) = self.bans.sweep.take()
        {
            self.wheel.cancel(timer);
        }
        was_banned
    }

    /// Closes a user's connections.
    ///
    /// # Errors
    /// Where the code is none to close with.
    pub fn handle_disconnect(
        &mut self,
        now: Now,
        user: &UserId,
        code: u16,
        reason: &Arc<str>,
    ) -> Obeyed {
        self.set_now(now);
        if !matches!(code, 1000 | 4000..=4999) {
            return Err(OrderFault::BadCode(code));
        }
        let connections = self.connections_of(user);
        for connection in &connections {
            let message = BusMessage::Dismiss {
                connection: *connection,
                code,
                reason: Arc::clone(reason),
            };
            self.deliver_or_send(connection.core, message);
        }
        Ok(connections.len())
    }

    /// A connection is about to be established: closes it instead where its user is banned. Says
    /// whether it did.
    pub(super) fn turn_away_banned(&mut self, index: u32) -> bool {
        let now = self.now.mono;
        let connection = self.connections.get(index);
        if !connection.is_some_and(|connection| self.bans.holds(&connection.user, now)) {
            return false;
        }
        self.metrics.limits.met.count(Limited::Banned);
        self.close_with(index, Code::UserBanned);
        true
    }

    /// At the user's home: whether a connection that has just arrived may stay.
    pub(super) fn is_banned(&self, user: &UserId) -> bool {
        self.bans.holds(user, self.now.mono)
    }

    /// A user's ban, where one is in force: its end by the wall clock in milliseconds, none where it
    /// has none.
    pub(super) fn ban_of(&self, user: &UserId) -> Option<Option<u64>> {
        let Now { mono, unix_ms } = self.now;
        let end = self.bans.end_of(user, mono)?;
        Some(end.map(|end| unix_ms.saturating_add((end - mono).as_millis() as u64)))
    }

    /// Orders a connection, of whichever core, to be closed.
    pub(super) fn order_close(&mut self, connection: ConnectionRef, code: Code) {
        self.deliver_or_send(connection.core, BusMessage::Close { connection, code });
    }

    /// Some ban is over.
    pub(super) fn sweep_bans(&mut self) {
        self.bans.sweep = None;
        for over in self.bans.sweep(self.now.mono) {
            self.record_ban(&over, None);
        }
        self.metrics.limits.bans = self.bans.len() as u64;
        if let Some(end) = self.bans.next_end() {
            let due = end.max(self.now.mono + SWEEP_INTERVAL);
            self.bans.sweep = Some(self.wheel.insert(due, Timer::Bans));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_are_bounded_and_those_that_are_over_make_room() {
        let mut bans = Bans::new(ahash::RandomState::with_seeds(1, 2, 3, 4), 2);
        let user = |name: &str| UserId::from_name(name);
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        assert_eq!(bans.insert(&user("a"), at(5), at(0)), Ok(vec![]));
        assert_eq!(bans.insert(&user("b"), NEVER, at(0)), Ok(vec![]));
        let full = Err(OrderFault::TooManyBans { max: 2 });
        assert_eq!(bans.insert(&user("c"), NEVER, at(4)), full);
        assert_eq!(bans.insert(&user("a"), at(6), at(4)), Ok(vec![]), "known");
        assert!(bans.holds(&user("a"), at(5)) && !bans.holds(&user("a"), at(6)));
        assert_eq!(bans.next_end(), Some(at(6)));
        assert_eq!(bans.end_of(&user("a"), at(5)), Some(Some(at(6))));
        assert_eq!(bans.end_of(&user("a"), at(6)), None, "over");
        assert_eq!(bans.end_of(&user("b"), at(6)), Some(None), "without end");
        let over = Ok(vec![user("a")]);
        assert_eq!(bans.insert(&user("c"), at(9), at(6)), over);
        assert!(bans.holds(&user("b"), at(1_000_000)));
    }
}
