//! A room at its home core: position, history, who is in it, what was accepted lately.
//!
//! The home gives every message its offset and serialises it, once. It knows members by name, not
//! by socket: connections appear as [`ConnectionRef`], cores as shares. What has to be sent where
//! is the shard's affair; nothing here sends.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::address::{ConnectionRef, CoreId};
use crate::frame::{Frame, SpareFrames};
use crate::protocol::json::encode;
use crate::protocol::{Epoch, Event, Member, MessageId, Offset, Recover, Sender, UserId};
use crate::room::history::History;
use crate::room::idempotency::Accepted;
use crate::room::users::UserMap;
use crate::time::{Instant, Now};

/// A start of typing passes at most this often for a user and room.
const TYPING_INTERVAL: Duration = Duration::from_secs(1);

/// How many users' read positions a room remembers; above it, those who have left are forgotten.
const READ_POSITIONS_MAX: usize = 10_000;

/// How many members an answer lists. The count beside the list is exact.
const MEMBERS_LISTED_MAX: usize = 1_000;

pub use crate::gate::RoomLimits;

/// What a user in a room costs there, in bytes: an entry of the table, its place in the index, its
/// connections. `tests/footprint.rs` measures it.
const MEMBER_BYTES: usize = 96;

/// Bytes of memory that a room holds, besides its own entry.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Held {
    /// Messages for those who come late.
    pub history: usize,
    /// Keys of accepted publishes.
    pub keys: usize,
    /// Who is in the room, what is told about them, who types, how far they have read.
    pub members: usize,
}

/// One connection's membership, as the home knows it.
#[derive(Copy, Clone, Debug)]
struct Occupancy {
    connection: ConnectionRef,
    presence: bool,
}

type Occupancies = SmallVec<[Occupancy; 1]>;

/// What is told about users: one JSON value for each.
struct Infos {
    of_users: UserMap<Option<Arc<[u8]>>>,
    /// Bytes of all values.
    bytes: usize,
}

/// What passes between users without being stored.
#[derive(Copy, Clone, Default, Debug)]
struct Signals {
    /// The highest offset that the user has read, 0 for none.
    read: u64,
    /// When the last start of typing passed.
    typing_at: Option<Instant>,
    /// A start passed, and no stop since.
    typing: bool,
}

/// A core with members of the room.
#[derive(Copy, Clone, Debug)]
pub struct Share {
    /// The core.
    pub core: CoreId,
    /// Its connections in the room.
    pub connections: u32,
    /// Those of them that asked for presence.
    pub presence: u32,
}

/// Joins and leaves that wait for the next summary.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Users that joined.
    pub joined: u32,
    /// Users that left.
    pub left: u32,
}

/// What a joining connection is told.
pub struct Joined {
    /// Every message after the asked position is in `replay`.
    pub recovered: bool,
    /// Users in the room, the joining one included.
    pub members: u64,
    /// Whether the connection wants presence updates.
    pub presence: bool,
    /// The connection was a member already.
    pub again: bool,
    /// The user had no other connection in the room.
    pub user_is_new: bool,
    /// Messages to send before the live ones, oldest first.
    pub replay: Vec<Frame>,
}

/// What became of a connection that leaves.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Departure {
    /// The user has no connection in the room any more.
    pub user_is_gone: bool,
    /// The user was typing: those who saw the start have to see a stop.
    pub was_typing: bool,
}

/// What became of a publish.
pub enum Published {
    /// The room accepted it under this offset.
    Accepted {
        /// The message's offset.
        offset: u64,
    },
    /// It was accepted before, under this offset.
    Repeat {
        /// The first one's offset.
        offset: u64,
    },
}

/// A room.
pub struct HomeRoom {
    epoch: Epoch,
    history: History,
    users: UserMap<Occupancies>,
    shares: SmallVec<[Share; 2]>,
    signals: Option<Box<UserMap<Signals>>>,
    accepted: Option<Box<Accepted>>,
    /// What is told about users that are here, where there is something to tell.
    infos: Option<Box<Infos>>,
    /// Joins and leaves not told yet, in a room above the presence limit.
    pub summary: Summary,
    /// Since when nobody is in the room.
    idle_since: Option<Instant>,
    /// Connections, of all users.
    connections: u64,
}

impl HomeRoom {
    /// An empty room at the beginning of an epoch.
    pub fn new(epoch: Epoch, now: Instant, hasher: &ahash::RandomState) -> HomeRoom {
        HomeRoom {
            epoch,
            history: History::default(),
            users: UserMap::new(hasher.clone()),
            shares: SmallVec::new(),
            signals: None,
            accepted: None,
            infos: None,
            summary: Summary::default(),
            idle_since: Some(now),
            connections: 0,
        }
    }

    /// A room as it was kept, without what is to be kept again: messages after the offset `newest`,
    /// keys, how far users have read. Nobody is there, and that counts from `idle_since`.
    pub fn restored(
        epoch: Epoch,
        newest: u64,
        idle_since: Instant,
        hasher: &ahash::RandomState,
    ) -> HomeRoom {
        HomeRoom {
            history: History::after_offset(newest),
            ..HomeRoom::new(epoch, idle_since, hasher)
        }
    }

    /// Remembers an accepted publish of an earlier run.
    pub fn remember(
        &mut self,
        (user, message_id): (Option<&UserId>, &str),
        offset: u64,
        at: Instant,
        limits: &RoomLimits,
        hasher: &ahash::RandomState,
    ) {
        if limits.idempotency_keys_max > 0 {
            let fresh = || Box::new(Accepted::new(hasher.clone()));
            let accepted = self.accepted.get_or_insert_with(fresh);
            accepted.insert(user, message_id, offset, at, limits.idempotency_keys_max);
        }
    }

    /// Whether a publish under this id was accepted and is remembered.
    pub fn has_accepted(&self, user: Option<&UserId>, message_id: &str) -> bool {
        let accepted = self.accepted.as_ref();
        accepted.is_some_and(|accepted| accepted.find(user, message_id).is_some())
    }

    /// Remembers how far a user that is not here has read.
    pub fn restore_read(&mut self, user: &UserId, offset: u64) {
        let hasher = self.users.hasher();
        let signals = self
            .signals
            .get_or_insert_with(|| Box::new(UserMap::new(hasher.clone())));
        if signals.len() <= READ_POSITIONS_MAX && offset > 0 {
            signals.with(user, |of_user| of_user.read = of_user.read.max(offset));
        }
    }

    /// The epoch of its position.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest message's offset.
    pub fn offset(&self) -> u64 {
        self.history.newest()
    }

    /// Users in the room.
    pub fn user_count(&self) -> u64 {
        self.users.len() as u64
    }

    /// Connections in the room.
    pub fn connection_count(&self) -> u64 {
        self.connections
    }

    /// Bytes that history holds.
    pub fn history_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// What the room holds, in bytes of memory. Some loads, whatever the room's size.
    pub fn held(&self) -> Held {
        let keys = self.accepted.as_ref().map_or(0, |keys| keys.heap_bytes());
        let signals = self.signals.as_ref().map_or(0, |signals| signals.len());
        let of_infos = |infos: &Infos| (infos.of_users.len(), infos.bytes);
        let (infos, info_bytes) = self.infos.as_deref().map_or((0, 0), of_infos);
        Held {
            history: self.history.heap_bytes(),
            keys,
            members: (self.connections as usize + signals + infos) * MEMBER_BYTES + info_bytes,
        }
    }

    /// Lets go of the older half of the history, in bytes, or of `count_max` messages. Answers how
    /// many went.
    pub fn trim_history(&mut self, count_max: usize) -> usize {
        self.history.trim(self.history.bytes() / 2, count_max)
    }

    /// Forgets the older half of the accepted publishes, or `count_max` of them. Answers how many
    /// went: a repeat of one of those is accepted once more.
    pub fn forget_keys(&mut self, count_max: usize) -> usize {
        let Some(accepted) = self.accepted.as_mut() else {
            return 0;
        };
        let count = accepted.forget_half(count_max);
        if accepted.is_empty() {
            self.accepted = None;
        }
        count
    }

    /// The cores with members.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The connections of a user in the room.
    pub fn connections_of(&self, user: &UserId) -> SmallVec<[ConnectionRef; 1]> {
        let occupancies = self.users.get(user).map_or(&[][..], |o| o.as_slice());
        occupancies.iter().map(|o| o.connection).collect()
    }

    /// Lets a connection in, or answers one that is in already.
    pub fn join(
        &mut self,
        connection: ConnectionRef,
        user: &UserId,
        presence: Option<bool>,
        history: u32,
        recover: Option<Recover>,
    ) -> Joined {
        self.idle_since = None;
        let user_is_new = !self.users.contains(user);
        let known = self.users.with(user, |occupancies| {
            if let Some(known) = occupancies.iter_mut().find(|o| o.connection == connection) {
                let before = known.presence;
                known.presence = presence.unwrap_or(before);
                return Some((before, known.presence));
            }
            let presence = presence.unwrap_or(false);
            occupancies.push(Occupancy {
                connection,
                presence,
            });
            None
        });
        if let Some((before, presence)) = known {
            let change = i64::from(presence) - i64::from(before);
            self.share_out(connection.core, 0, change);
            return Joined {
                recovered: false,
                members: self.user_count(),
                presence,
                again: true,
                user_is_new: false,
                replay: Vec::new(),
            };
        }
        let presence = presence.unwrap_or(false);
        self.connections += 1;
        self.share_out(connection.core, 1, i64::from(presence));
        let recovered = recover.is_some_and(|from| self.can_recover(from));
        let replay = match recover {
            Some(from) if recovered => self
                .history
                .after(from.offset, usize::MAX)
                .cloned()
                .collect(),
            _ => self.history.last(history as usize).cloned().collect(),
        };
        Joined {
            recovered,
            members: self.user_count(),
            presence,
            again: false,
            user_is_new,
            replay,
        }
    }

    fn can_recover(&self, from: Recover) -> bool {
        from.epoch == Some(self.epoch)
            && from.offset >= self.history.complete_since()
            && from.offset <= self.history.newest()
    }

    /// Lets a connection out; none if it was not in.
    pub fn leave(
        &mut self,
        connection: ConnectionRef,
        user: &UserId,
        now: Instant,
    ) -> Option<Departure> {
        let occupancies = self.users.get_mut(user)?;
        let place = occupancies
            .iter()
            .position(|o| o.connection == connection)?;
        let presence = occupancies.remove(place).presence;
        let user_is_gone = occupancies.is_empty();
        let mut departure = Departure {
            user_is_gone,
            was_typing: false,
        };
        if user_is_gone {
            self.users.remove(user);
            if let Some(infos) = self.infos.as_mut() {
                let info = infos.of_users.remove(user).flatten();
                infos.bytes -= info.map_or(0, |info| info.len());
            }
            departure.was_typing = self.forget_signals(user);
        }
        self.connections -= 1;
        self.share_out(connection.core, -1, -i64::from(presence));
        if self.users.is_empty() {
            self.infos = None;
            self.idle_since = Some(now);
            self.summary = Summary::default();
        }
        Some(departure)
    }

    /// Takes note of what is told about a user that is here: the newest word counts.
    pub fn describe(&mut self, user: &UserId, info: &Arc<[u8]>) {
        if !self.users.contains(user) {
            return;
        }
        let hasher = self.users.hasher();
        let infos = self.infos.get_or_insert_with(|| {
            Box::new(Infos {
                of_users: UserMap::new(hasher.clone()),
                bytes: 0,
            })
        });
        let newest = Some(Arc::clone(info));
        let before = infos
            .of_users
            .with(user, |known| std::mem::replace(known, newest));
        infos.bytes = infos.bytes + info.len() - before.map_or(0, |info| info.len());
    }

    /// What is told about a user that is here.
    pub fn info_of(&self, user: &UserId) -> Option<Arc<[u8]>> {
        self.infos.as_ref()?.of_users.get(user)?.clone()
    }

    /// Forgets what a user that left was doing; says whether it was typing.
    fn forget_signals(&mut self, user: &UserId) -> bool {
        let Some(signals) = self.signals.as_mut() else {
            return false;
        };
        let crowded = signals.len() > READ_POSITIONS_MAX;
        let Some(of_user) = signals.get_mut(user) else {
            return false;
        };
        let was_typing = std::mem::take(&mut of_user.typing);
        of_user.typing_at = None;
        if of_user.read == 0 || crowded {
            signals.remove(user);
        }
        was_typing
    }

    fn share_out(&mut self, core: CoreId, connections: i64, presence: i64) {
        let place = match self.shares.iter().position(|s| s.core == core) {
            Some(place) => place,
            None => {
                self.shares.push(Share {
                    core,
                    connections: 0,
                    presence: 0,
                });
                self.shares.len() - 1
            }
        };
        if let Some(share) = self.shares.get_mut(place) {
            share.connections = (i64::from(share.connections) + connections) as u32;
            share.presence = (i64::from(share.presence) + presence) as u32;
            if share.connections == 0 {
                self.shares.swap_remove(place);
            }
        }
    }

    /// Accepts a message: gives it the next offset and serialises it, once for everyone, into the
    /// scratch buffer.
    pub fn publish(
        &mut self,
        room: &str,
        sender: Option<Sender<'_>>,
        (payload, message_id): (&[u8], Option<&str>),
        now: Now,
        limits: &RoomLimits,
        (hasher, spares, scratch): (&ahash::RandomState, &mut SpareFrames, &mut Vec<u8>),
    ) -> Published {
        match self.accept(
            room,
            sender,
            (payload, message_id),
            now,
            limits,
            0,
            (hasher, scratch),
        ) {
            Published::Accepted { offset } => {
                self.history
                    .push(scratch, now.mono, &limits.history, spares);
                self.note_life(now.mono);
                Published::Accepted { offset }
            }
            repeat => repeat,
        }
    }

    /// The first half of [`HomeRoom::publish`]: gives a message the offset after the newest and
    /// `ahead` others, and serialises it. It is not in the history before [`HomeRoom::keep`].
    #[allow(clippy::too_many_arguments, reason = "those of `publish`, and one")]
    #[inline]
    pub fn accept(
        &mut self,
        room: &str,
        sender: Option<Sender<'_>>,
        (payload, message_id): (&[u8], Option<&str>),
        now: Now,
        limits: &RoomLimits,
        ahead: u64,
        (hasher, scratch): (&ahash::RandomState, &mut Vec<u8>),
    ) -> Published {
        let user = sender.map(|s| s.user_id);
        let offset = self.history.newest() + ahead + 1;
        if let Some(id) = message_id.filter(|_| limits.idempotency_keys_max > 0) {
            let fresh = || Box::new(Accepted::new(hasher.clone()));
            let accepted = self.accepted.get_or_insert_with(fresh);
            let keys_max = limits.idempotency_keys_max;
            if let Some(offset) = accepted.insert(user, id, offset, now.mono, keys_max) {
                return Published::Repeat { offset };
            }
        }
        let message_id = self.message_id(message_id, offset);
        let event = Event::Message {
            room,
            offset: Offset(offset),
            payload,
            message_id,
            unix_ms: now.unix_ms,
            sender,
        };
        scratch.clear();
        encode(&event, None, scratch);
        Published::Accepted { offset }
    }

    /// The second half: the message after the newest is one of the room's from now on.
    pub fn keep(
        &mut self,
        frame: Frame,
        at: Instant,
        limits: &RoomLimits,
        spares: &mut SpareFrames,
    ) {
        self.history.push_frame(frame, at, &limits.history, spares);
    }

    /// Messages that were accepted and are not kept have come to nothing: whoever tries again under
    /// the same id is no repeat.
    pub fn roll_back(&mut self) {
        let newest = self.history.newest();
        if let Some(accepted) = self.accepted.as_mut() {
            accepted.forget_after(newest);
            if accepted.is_empty() {
                self.accepted = None;
            }
        }
    }

    /// Something happened in the room: where nobody is there, its time begins anew.
    pub fn note_life(&mut self, now: Instant) {
        if self.users.is_empty() {
            self.idle_since = Some(now);
        }
    }

    /// The offset before the oldest message that is kept.
    pub fn complete_since(&self) -> u64 {
        self.history.complete_since()
    }

    /// The newest message, where it is kept.
    pub fn newest_frame(&self) -> Option<&Frame> {
        self.history.newest_frame()
    }

    /// How far a user has read; 0: not known.
    pub fn read_of(&self, user: &UserId) -> u64 {
        let signals = self.signals.as_ref().and_then(|s| s.get(user));
        signals.map_or(0, |of_user| of_user.read)
    }

    /// The id of a message: the given one, or one made of its position.
    pub fn message_id<'a>(&self, given: Option<&'a str>, offset: u64) -> MessageId<'a> {
        match given {
            Some(id) => MessageId::Given(id),
            None => MessageId::Generated(self.epoch, Offset(offset)),
        }
    }

    /// Whether a start or stop of typing passes on. A start does once in a while, a stop does after
    /// a start that passed.
    pub fn typing(&mut self, user: &UserId, start: bool, now: Instant) -> bool {
        if !start {
            let of_user = self.signals.as_mut().and_then(|s| s.get_mut(user));
            return of_user.is_some_and(|s| std::mem::take(&mut s.typing));
        }
        let passed = self.with_signals(user, |of_user| {
            let passes = of_user
                .typing_at
                .is_none_or(|at| now - at >= TYPING_INTERVAL);
            if passes {
                of_user.typing_at = Some(now);
                of_user.typing = true;
            }
            passes
        });
        passed.unwrap_or(false)
    }

    /// Notes how far a user has read. Says whether the user is in the room.
    pub fn read(&mut self, user: &UserId, offset: u64) -> bool {
        self.with_signals(user, |of_user| of_user.read = of_user.read.max(offset))
            .is_some()
    }

    fn with_signals<R>(
        &mut self,
        user: &UserId,
        change: impl FnOnce(&mut Signals) -> R,
    ) -> Option<R> {
        if !self.users.contains(user) {
            return None;
        }
        let hasher = self.users.hasher();
        let signals = self
            .signals
            .get_or_insert_with(|| Box::new(UserMap::new(hasher.clone())));
        Some(signals.with(user, change))
    }

    /// Who is in the room: as many as an answer lists, in no order that means anything.
    pub fn members(&self) -> Vec<Member<'_>> {
        let signals = self.signals.as_ref();
        let infos = self.infos.as_ref();
        let member = |(user_id, occupancies): (_, &Occupancies)| {
            let read = signals.and_then(|s| s.get(user_id)).map_or(0, |s| s.read);
            let read = (read > 0).then_some(Offset(read));
            Member {
                user_id,
                connections: occupancies.len() as u64,
                read,
                info: infos.and_then(|i| i.of_users.get(user_id)?.as_deref()),
            }
        };
        self.users
            .iter()
            .take(MEMBERS_LISTED_MAX)
            .map(member)
            .collect()
    }

    /// The messages for a `history_query`, oldest first, and whether none after `since` is lost.
    pub fn query(&self, since: Option<u64>, limit: Option<u32>) -> (Vec<&Frame>, bool) {
        let limit = limit.map_or(usize::MAX, |l| l as usize);
        match since {
            Some(since) => {
                let complete = since >= self.history.complete_since();
                (self.history.after(since, limit).collect(), complete)
            }
            None => (self.history.last(limit).collect(), true),
        }
    }

    /// Whether a user is in the room.
    pub fn holds(&self, user: &UserId) -> bool {
        self.users.contains(user)
    }

    /// Lets go of what is over bounds that have changed.
    pub fn follow(&mut self, now: Instant, limits: &RoomLimits) {
        self.history.narrow(&limits.history);
        self.history.expire(now, &limits.history);
        if limits.idempotency_keys_max == 0 {
            self.accepted = None;
        }
    }

    /// Lets go of what is over its time. Says when there will be more to let go, and whether the
    /// whole room is.
    pub fn upkeep(&mut self, now: Instant, limits: &RoomLimits) -> Upkeep {
        if let Some(since) = self.idle_since
            && since + limits.idle_ttl <= now
        {
            return Upkeep::Forget;
        }
        let idle_due = self.idle_since.map(|since| since + limits.idle_ttl);
        let history_due = self.history.expire(now, &limits.history);
        let accepted_due = self
            .accepted
            .as_mut()
            .and_then(|a| a.expire(now, limits.idempotency_window));
        if self.accepted.as_ref().is_some_and(|a| a.is_empty()) {
            self.accepted = None;
        }
        match [idle_due, history_due, accepted_due]
            .into_iter()
            .flatten()
            .min()
        {
            Some(due) => Upkeep::At(due),
            None => Upkeep::Nothing,
        }
    }
}

/// What [`HomeRoom::upkeep`] found.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Upkeep {
    /// Nothing in the room has an end.
    Nothing,
    /// Something will be over its time then.
    At(Instant),
    /// Nobody was in the room for so long that it goes away.
    Forget,
}

#[cfg(test)]
mod tests;
