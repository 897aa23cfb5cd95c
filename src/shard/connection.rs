//! One connection, as its core knows it: the session with its peer, and its places in rooms.

use smallvec::SmallVec;

use crate::codec::http::HeadReader;
use crate::codec::websocket::Decoder;
use crate::gate::rate::SmallBucket;
use crate::protocol::{ClientId, UserId};
use crate::session::{Budget, Lent, Queue, SpareQueues};
use crate::shard::limits::Guard;
use crate::shard::pass::Pass;
use crate::time::Instant;
use crate::wheel::TimerId;

/// No feed, no member: an index that no table reaches.
pub(super) const NONE: u32 = u32::MAX;

/// How far a connection has come.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Its HTTP head is awaited.
    Head,
    /// It was upgraded, and has no user yet.
    Awaiting,
    /// It speaks `tidewheel.v1.json`.
    Native,
    /// It is on `/echo`.
    Echo,
    /// Its last bytes are on their way: a close frame or an HTTP response. What it still sends is
    /// read and thrown away, so that these bytes arrive.
    Closing,
    /// They were handed to the kernel and the sending side is shut; its end is awaited.
    Lingering,
}

/// A connection's place in one room.
#[derive(Copy, Clone, Debug)]
pub(super) struct Subscription {
    /// The room's index on this core.
    pub room: u32,
    /// The place in the room's feed of messages; `NONE` until the home has let the connection in.
    pub member: u32,
    /// The place in the room's feed of presence updates; `NONE` where they are not wanted.
    pub watcher: u32,
    /// The backend put the connection there: its own credential has no say in it.
    pub is_enlisted: bool,
}

impl Subscription {
    /// The place of a connection that waits to be let in.
    pub(super) fn pending(room: u32) -> Subscription {
        Subscription {
            room,
            member: NONE,
            watcher: NONE,
            is_enlisted: false,
        }
    }

    /// Whether presence updates come.
    pub(super) fn is_watching(&self) -> bool {
        self.watcher != NONE
    }

    /// The feeds that it reads, and its places in them: who is there before what they say.
    pub(super) fn feeds(&self) -> impl Iterator<Item = (FeedId, u32)> + use<> {
        let watcher = (self.watcher != NONE).then_some((FeedId::presence(self.room), self.watcher));
        let member = (self.member != NONE).then_some((FeedId::messages(self.room), self.member));
        watcher.into_iter().chain(member)
    }
}

/// What a connection holds besides its entry, and only while it must.
#[derive(Default)]
pub(super) struct Held {
    /// The HTTP head so far.
    pub head: Vec<u8>,
    /// How far it was looked at.
    pub reader: HeadReader,
    /// Input that came before the connection was paused.
    pub unread: Vec<u8>,
}

impl Held {
    /// Holds the beginning of a head.
    pub(super) fn of_head(bytes: &[u8]) -> Held {
        Held {
            head: bytes.to_vec(),
            ..Held::default()
        }
    }
}

/// What few connections have, or not for long: one pointer stands for all of it.
#[derive(Default)]
struct Aside {
    held: Option<Box<Held>>,
    pass: Option<Pass>,
}

/// The entry of a connection. An idle one owns no other memory than its places in rooms.
pub(super) struct Connection {
    pub user: UserId,
    pub client_id: ClientId,
    pub subscriptions: SmallVec<[Subscription; 1]>,
    pub decoder: Decoder,
    pub queue: Option<Box<Queue>>,
    aside: Option<Box<Aside>>,
    /// The feed in the middle of whose frame the last write ended; `NONE` otherwise.
    pub under_way: FeedId,
    /// Pings and their answers; the moment to go during a drain.
    pub heartbeat: Option<TimerId>,
    /// The end of the handshake, of the wait for a credential, of patience with a laggard, or of the wait for a close.
    pub deadline: Option<TimerId>,
    /// When the peer last gave a sign of life, in milliseconds on the shard's clock.
    pub alive_at_ms: u32,
    /// When the ping was sent that awaits a sign of life.
    pub pinged_at_ms: Option<std::num::NonZeroU32>,
    pub faults: Budget,
    /// What limits remember of it, where they have to.
    pub guard: Option<Box<Guard>>,
    /// What it may still join and leave.
    pub joins: SmallBucket,
    /// What it may still ping.
    pub control: SmallBucket,
    /// Credits held by questions to other cores that are not answered.
    pub credits_held: u16,
    pub generation: u16,
    pub phase: Phase,
    /// The socket is full; only WRITABLE changes that.
    pub blocked: bool,
    /// It is on the list of connections to flush.
    pub queued: bool,
    /// It is not read until its answers have been taken.
    pub paused: bool,
    /// The peer sends nothing any more.
    pub ended: bool,
    /// The close code with which it ends, for the ledger.
    pub close_code: u16,
}

impl Connection {
    pub(super) fn new(generation: u16, client_id: ClientId, now: Instant) -> Connection {
        Connection {
            user: UserId::Anonymous(client_id),
            client_id,
            subscriptions: SmallVec::new(),
            decoder: Decoder::default(),
            queue: None,
            aside: None,
            under_way: FeedId::NONE,
            heartbeat: None,
            deadline: None,
            alive_at_ms: now.as_millis() as u32,
            pinged_at_ms: None,
            faults: Budget::default(),
            guard: None,
            joins: SmallBucket::new(now),
            control: SmallBucket::new(now),
            credits_held: 0,
            generation,
            phase: Phase::Head,
            blocked: false,
            queued: false,
            paused: false,
            ended: false,
            close_code: 1006,
        }
    }

    /// What it holds until it goes on.
    pub(super) fn held(&mut self) -> &mut Held {
        let aside = self.aside.get_or_insert_with(Box::default);
        aside.held.get_or_insert_with(Box::default)
    }

    /// The same, if there is something.
    pub(super) fn known_held(&self) -> Option<&Held> {
        self.aside.as_ref()?.held.as_deref()
    }

    /// Takes out what it holds.
    pub(super) fn take_held(&mut self) -> Option<Box<Held>> {
        let held = self.aside.as_mut()?.held.take();
        self.tidy();
        held
    }

    /// Puts back what it holds.
    pub(super) fn put_held(&mut self, held: Box<Held>) {
        self.aside.get_or_insert_with(Box::default).held = Some(held);
    }

    /// What it holds because of who it is, if there is something.
    pub(super) fn pass(&self) -> Option<&Pass> {
        self.aside.as_ref()?.pass.as_ref()
    }

    /// The same, to change it.
    pub(super) fn pass_mut(&mut self) -> Option<&mut Pass> {
        self.aside.as_mut()?.pass.as_mut()
    }

    /// The same, made where there is none.
    pub(super) fn pass_or_new(&mut self) -> &mut Pass {
        let aside = self.aside.get_or_insert_with(Box::default);
        aside.pass.get_or_insert_with(Pass::default)
    }

    /// Takes it away, for good.
    pub(super) fn take_pass(&mut self) -> Option<Pass> {
        let pass = self.aside.as_mut()?.pass.take();
        self.tidy();
        pass
    }

    /// Lets go of the memory of what it does not hold any more.
    fn tidy(&mut self) {
        let is_empty = |aside: &mut Box<Aside>| aside.held.is_none() && aside.pass.is_none();
        self.aside.take_if(is_empty);
    }

    /// Its queue, which it has while something is in it.
    pub(super) fn queue_from<'a>(&'a mut self, spares: &'a mut SpareQueues) -> Lent<'a> {
        let queue = self.queue.get_or_insert_with(|| spares.take());
        spares.lend(queue)
    }

    /// Takes what is due for it, because it ends.
    pub(super) fn take_timers(&mut self) -> impl Iterator<Item = TimerId> + use<> {
        let throttle = self.guard.as_mut().and_then(|guard| guard.throttle.take());
        let pass = self.take_pass().map(|mut pass| pass.take_timers());
        let timers = [self.heartbeat.take(), self.deadline.take(), throttle];
        let of_pass = pass.into_iter().flatten();
        timers.into_iter().chain(of_pass).flatten()
    }

    pub(super) fn subscription(&mut self, room: u32) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|s| s.room == room)
    }
}

/// One of the two feeds of a room on this core.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct FeedId(u32);

impl FeedId {
    pub(super) const NONE: FeedId = FeedId(NONE);

    pub(super) fn messages(room: u32) -> FeedId {
        FeedId(room << 1)
    }

    pub(super) fn presence(room: u32) -> FeedId {
        FeedId(room << 1 | 1)
    }

    pub(super) fn room(self) -> u32 {
        self.0 >> 1
    }

    pub(super) fn is_presence(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Something that will be due. One line and one default each.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    /// The HTTP head is not there: `--handshake-timeout`, 10 s.
    Handshake(u32),
    /// An upgraded connection has no user: `--auth-timeout`, 10 s.
    Auth(u32),
    /// A token's notice or its end: `--token-expiring-notice`, 60 s before it.
    Expiry(u32),
    /// A connection has been there long enough: `--max-connection-lifetime`, off.
    Lifetime(u32),
    /// A ping goes out, or its answer is missed: `--heartbeat-interval`, 25 s, and
    /// `--heartbeat-timeout`, 10 s.
    Heartbeat(u32),
    /// The oldest byte not taken is too old: `--max-lag-age`, 10 s.
    LagAge(u32),
    /// The peer did not take the close: `--close-timeout`, 2 s.
    Close(u32),
    /// The connection's moment in a drain: within `--drain-window`, 10 s.
    Farewell(u32),
    /// A connection that sent too many bytes is read again: `--limit-connection-bytes`, off.
    Throttle(u32),
    /// Some ban is over: when its order said.
    Bans,
    /// A feed has gathered: `--coalesce`, off.
    Coalesce(FeedId),
    /// Something in a room at home is over its time: `--history-ttl`, `--idempotency-window`,
    /// `--room-idle-ttl`.
    Upkeep(u32),
    /// Joins and leaves of a large room are told: every second.
    Summary(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(
            size_of::<Connection>() <= 128,
            "{} bytes",
            size_of::<Connection>()
        );
    }
}
