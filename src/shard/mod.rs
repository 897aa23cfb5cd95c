//! All the state of one core, without sockets and without a clock.
//!
//! `handle_*` takes the world in, `poll_*` gives it out, and the time is an argument:
//!
//! ```text
//!   handle_accept, handle_bytes, handle_writable,        poll_flush(transport)  bytes to sockets
//!   handle_end, handle_bus, handle_timeouts,       ─►    poll_action            sockets to shut
//!   handle_policy, handle_verdict, handle_query,         poll_bus               to other cores
//!   handle_stored                                        poll_question          who is this?
//!                                                        poll_answers           to the control plane
//!                                                        poll_notices           to the backend
//!                                                        poll_records           to the store
//!                                                        poll_timeout           when to come back
//! ```
//!
//! The same calls in the same order with the same times and the same seed give the same bytes, on
//! a reactor, in a simulation, under a fuzzer. This is where sessions and rooms meet: neither knows
//! the other, and the one `match` over what a peer asks is in `intake`.
//!
//! A shard plays three parts at once: the core of its connections, the home of some rooms, and the
//! home of some users. What one part has to say to another part of the same shard is a plain call;
//! to another shard it is a [`BusMessage`] with the same meaning. There is no second path.

mod arrival;
mod authentication;
mod backend;
mod bans;
mod closing;
mod config;
mod connection;
mod durable;
mod flush;
mod homes;
mod intake;
mod laggards;
mod limits;
mod members;
mod memory;
mod notices;
mod pass;
mod permission;
mod relief;
mod ruling;
mod telling;
mod timers;
mod users;

pub use backend::{
    BROADCAST_STEP, BROADCASTS_MAX, EVICTIONS_MAX, HISTORY_LISTED_MAX, PLACES_MAX, POSTS_MAX,
    POSTS_WAITING_MAX, ROOMS_LISTED_MAX, TOP_MAX,
};
pub use bans::BANS_MAX;
pub use config::{ECHO_FRAGMENTS_MAX, ECHO_MESSAGE_BYTES_MAX, Overflow, ShardConfig};
pub use connection::Phase;
pub use durable::STALL;
pub use flush::{Sent, Transport};
pub use memory::{CONNECTION_BYTES, HOME_BYTES, LOCAL_BYTES, Outside, PLACE_BYTES};
pub use relief::{Load, Pressure};

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::address::{ConnectionRef, CoreId, Placement, RoomKey};
use crate::blocks::Blocks;
use crate::bus::{Answer, Batch, Batches, BusMessage, Notice};
use crate::frame::SpareFrames;
use crate::gate::{Policy, Question};
use crate::metrics::{Dialect, Metrics, State};
use crate::protocol::json::Parser;
use crate::room::log::Spares;
use crate::room::{Feed, HomeRoom, RoomTable, UserMap};
use crate::session::SpareQueues;
use crate::shard::backend::{Broadcasts, Evictions, Posts};
use crate::shard::bans::Bans;
use crate::shard::connection::{Connection, FeedId, Timer};
use crate::shard::durable::Durable;
use crate::shard::flush::{Finding, Moment, Shared, Visited};
use crate::shard::memory::Memory;
use crate::shard::relief::Relief;
use crate::shard::ruling::Ruling;
use crate::time::{Instant, Now};
use crate::wheel::{TimerId, Wheel};

/// What the reactor has to do to a socket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Shut its sending side.
    ShutdownWrite(u32),
    /// Close it; the index is free.
    Close(u32),
    /// Close it with a reset; the index is free.
    Reset(u32),
    /// Read it again: what held its connection up is over. The shard first wants
    /// [`Shard::handle_resume`].
    Resume(u32),
}

/// A room as a core with members knows it.
#[derive(Default)]
struct LocalRoom {
    /// Subscriptions of connections here, those not yet let in included.
    references: u32,
    /// Users in the room, as last heard.
    user_count: u64,
    ruling: Ruling,
    messages: Feed,
    presence: Option<Box<Feed>>,
}

/// A room at home, with its timers.
struct Home {
    room: HomeRoom,
    /// The timer of what it keeps, and when that is due.
    upkeep: Option<(TimerId, Instant)>,
    summary: Option<TimerId>,
    ruling: Ruling,
}

/// How much a shard holds, in numbers that are zero when nobody is there.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// Connections, closing ones included.
    pub connections: usize,
    /// Rooms with members here.
    pub locals: usize,
    /// Rooms whose home is here.
    pub homes: usize,
    /// Users whose home is here.
    pub users: usize,
    /// Timers.
    pub timers: usize,
    /// Connections whose socket is full.
    pub laggards: usize,
    /// Bytes in logs and their members.
    pub log_bytes: usize,
    /// Frames in logs: none where everyone has caught up.
    pub log_frames: usize,
    /// Bytes of history.
    pub history_bytes: usize,
}

/// What waits for one connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Backlog {
    /// Bytes of others' messages.
    pub lag_bytes: u64,
    /// Bytes of answers.
    pub answer_bytes: usize,
    /// Its socket is full.
    pub is_blocked: bool,
    /// How far it has come: the bounds hold for what is not closing.
    pub phase: Phase,
}

/// The state of one core.
pub struct Shard {
    config: ShardConfig,
    /// Counts the changes of the policy's rules, from 1: what was found by older ones is stale.
    rules_version: u32,
    /// Whether the rules can refuse anything or differ from the flags.
    rules_matter: bool,
    now: Now,
    rng: fastrand::Rng,
    hasher: ahash::RandomState,
    /// The same on all cores: it decides where a room or a user is at home.
    placement: Placement,
    /// Lent while a message is obeyed. A new one would allocate for each message.
    parser: Option<Box<Parser>>,
    scratch: Vec<u8>,

    connections: Blocks<Connection>,
    generations: Vec<u16>,
    clients_named: u64,
    messages_named: u64,
    locals: RoomTable<LocalRoom>,
    homes: RoomTable<Home>,
    rooms_forgotten: u64,
    users: UserMap<SmallVec<[ConnectionRef; 1]>>,
    bans: Bans,
    /// Connections that are on their way out because their address has too many.
    crowded: u32,
    wheel: Wheel<Timer>,

    queued_connections: VecDeque<u32>,
    queued_feeds: VecDeque<FeedId>,
    /// Feeds with a member that is too far behind and gets another turn.
    revisited: Vec<FeedId>,
    resumed: Vec<u32>,
    actions: VecDeque<Action>,
    /// For the operator's backend: at most one for each connection.
    questions: VecDeque<Question>,
    /// For the control plane.
    answers: Vec<Answer>,
    posts: Posts,
    broadcasts: Broadcasts,
    evictions: Evictions,
    /// For the operator's backend, where it wants to know.
    notices: Vec<Notice>,
    /// For the store, where there is one.
    durable: Option<Box<Durable>>,
    /// What is to go to each core, once there is something.
    outboxes: Vec<Option<Batch>>,
    batches: Batches,

    spares: Spares,
    queues: SpareQueues,
    frames: SpareFrames,
    findings: Vec<Finding>,
    /// Members that this turn's passes left for one write over several feeds.
    shared: Vec<Shared>,
    /// For each connection, how many of those it is. All zero between turns.
    feeds_noted: Vec<u8>,
    visited: Vec<Visited>,
    flushed_since: Vec<Instant>,
    moment: Moment,
    draining: bool,
    reading_suspended: bool,
    memory: Memory,
    relief: Relief,
    metrics: Metrics,
}

impl Shard {
    /// A shard without connections.
    pub fn new(config: ShardConfig, now: Now) -> Shard {
        let core = u64::from(config.core.0);
        let placement = Placement::new(config.seed, config.cores);
        let hasher = placement.hasher().clone();
        Shard {
            rules_version: 1,
            rules_matter: !config.policy.rules.are_trivial(),
            now,
            rng: fastrand::Rng::with_seed(config.seed ^ mix(core + 1)),
            placement,
            parser: Some(Box::default()),
            scratch: Vec::new(),
            connections: Blocks::default(),
            generations: Vec::new(),
            clients_named: 0,
            messages_named: 0,
            locals: RoomTable::default(),
            homes: RoomTable::default(),
            rooms_forgotten: 0,
            users: UserMap::new(hasher.clone()),
            bans: Bans::new(hasher.clone(), BANS_MAX),
            crowded: 0,
            posts: Posts::new(hasher.clone()),
            broadcasts: Broadcasts::default(),
            evictions: Evictions::default(),
            wheel: Wheel::new(now.mono),
            queued_connections: VecDeque::new(),
            queued_feeds: VecDeque::new(),
            revisited: Vec::new(),
            resumed: Vec::new(),
            actions: VecDeque::new(),
            questions: VecDeque::new(),
            answers: Vec::new(),
            notices: Vec::new(),
            durable: Durable::new(&config, &hasher),
            hasher,
            outboxes: (0..config.cores).map(|_| None).collect(),
            batches: Batches::default(),
            spares: Spares::default(),
            queues: SpareQueues::default(),
            frames: SpareFrames::default(),
            findings: Vec::new(),
            shared: Vec::new(),
            feeds_noted: Vec::new(),
            visited: Vec::new(),
            flushed_since: Vec::new(),
            moment: Moment::default(),
            draining: false,
            reading_suspended: false,
            memory: Memory::default(),
            relief: Relief::new(&config),
            metrics: Metrics::default(),
            config,
        }
    }

    fn set_now(&mut self, now: Now) {
        // A clock that is read on several paths may hand in moments slightly out of order.
        self.now = Now {
            mono: now.mono.max(self.now.mono),
            unix_ms: now.unix_ms,
        };
    }

    /// Milliseconds on the shard's clock, in 32 bits: enough to tell 49 days apart.
    fn now_ms(&self) -> u32 {
        self.now.mono.as_millis() as u32
    }

    /// What the operator allows is another from now on. No room is visited: each follows the new
    /// rules when it is next looked at, or its next timer fires. Who is in stays in, and connections
    /// that are established keep what they were given.
    pub fn handle_policy(&mut self, now: Now, policy: Arc<Policy>) {
        self.set_now(now);
        if policy.rules != self.config.policy.rules {
            self.rules_version = self.rules_version.wrapping_add(1).max(1);
            self.rules_matter = !policy.rules.are_trivial();
        }
        self.config.policy = policy;
    }

    /// The next thing to do to a socket.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while let Some(index) = self.resumed.pop() {
            if self.connections.contains(index) {
                return Some(Action::Resume(index));
            }
        }
        None
    }

    /// What is to be sent to another core, all of it, in order.
    pub fn poll_bus(&mut self, core: CoreId) -> Option<Batch> {
        let batch = self.outboxes.get_mut(core.index())?.take()?;
        self.metrics.bus.batches_out += 1;
        self.metrics.bus.messages_out += batch.len() as u64;
        Some(batch)
    }

    /// When [`Shard::handle_timeouts`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// Whether input of this connection is welcome now.
    pub fn wants_read(&self, index: u32) -> bool {
        self.connections
            .get(index)
            .is_some_and(|connection| !connection.paused)
    }

    /// Tells that sockets are not read for a while, because a core has fallen behind: silence says
    /// nothing about a peer then.
    pub fn suspend_reading(&mut self, suspended: bool) {
        self.reading_suspended = suspended;
    }

    /// The counters, with what is counted only when asked for.
    pub fn metrics(&mut self) -> &Metrics {
        // None of this looks at rooms one by one: there may be a million of them.
        let rooms = &mut self.metrics.rooms;
        rooms.homed = self.homes.len() as u64;
        rooms.local = self.locals.len() as u64;
        rooms.members = self.memory.members() as u64;
        rooms.log_bytes = self.spares.held_bytes() as u64;
        rooms.history_bytes = self.memory.history() as u64;
        self.metrics.timers = self.wheel.len() as u64;
        self.metrics.memory.held = self.memory();
        self.metrics.memory.pressure = self.pressure().number();
        &self.metrics
    }

    /// The counters, to add what only the reactor sees.
    pub fn metrics_mut(&mut self) -> &mut Metrics {
        &mut self.metrics
    }

    /// Takes note that a turn is over, and how long it took.
    pub fn handle_turn_end(&mut self, began: Instant, ended: Instant) {
        self.metrics.turns.took.record(ended - began);
        self.handle_flush_end(ended);
    }

    /// Takes note of when a flush ended, for those rooms whose members have all been visited.
    pub fn handle_flush_end(&mut self, ended: Instant) {
        for since in self.flushed_since.drain(..) {
            self.metrics
                .turns
                .publish_to_last_write
                .record(ended - since);
        }
    }

    /// How much the shard holds.
    pub fn footprint(&self) -> Footprint {
        let logs = |local: &LocalRoom| {
            let presence = local
                .presence
                .as_ref()
                .map_or(0, |f| f.log.heap_bytes() + f.heap_bytes());
            presence + local.messages.log.heap_bytes() + local.messages.heap_bytes()
        };
        let frames = |local: &LocalRoom| {
            let presence = local.presence.as_ref().map_or(0, |f| f.log.frame_count());
            presence + local.messages.log.frame_count()
        };
        Footprint {
            connections: self.connections.len(),
            locals: self.locals.len(),
            homes: self.homes.len(),
            users: self.users.len(),
            timers: self.wheel.len(),
            laggards: self.connections.iter().filter(|(_, c)| c.blocked).count(),
            log_bytes: self.locals.iter().map(|(_, _, local)| logs(local)).sum(),
            log_frames: self.locals.iter().map(|(_, _, local)| frames(local)).sum(),
            history_bytes: self
                .homes
                .iter()
                .map(|(_, _, home)| home.room.history_bytes())
                .sum(),
        }
    }

    /// Frames that were offered and have met no end yet, counted one by one: what the ledger's
    /// balance must be.
    pub fn pending_frames(&self) -> u64 {
        let mut pending = 0;
        for (_, connection) in self.connections.iter() {
            pending += connection
                .queue
                .iter()
                .flat_map(|q| q.pending())
                .map(|(_, n)| n)
                .sum::<u64>();
            for (id, member) in connection.subscriptions.iter().flat_map(|s| s.feeds()) {
                if let Some(feed) = Self::feed_ref(&self.locals, id) {
                    pending += feed.remainder(member, feed.log.head()).frames.total();
                }
            }
        }
        pending
    }

    /// What waits for one connection, unless it is gone.
    pub fn backlog(&self, index: u32) -> Option<Backlog> {
        let connection = self.connections.get(index)?;
        Some(Backlog {
            lag_bytes: self.lag_bytes(index),
            answer_bytes: connection.queue.as_ref().map_or(0, |q| q.answer_bytes()),
            is_blocked: connection.blocked,
            phase: connection.phase,
        })
    }

    /// How long a closing connection may take.
    pub fn close_timeout(&self) -> std::time::Duration {
        self.config.close_timeout
    }

    /// Whether all connections are gone.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    fn reference(&self, index: u32) -> Option<ConnectionRef> {
        let generation = self.connections.get(index)?.generation;
        Some(ConnectionRef {
            index,
            generation,
            core: self.config.core,
        })
    }

    /// The index of a connection of this core, unless it is gone.
    fn resolve(&self, reference: ConnectionRef) -> Option<u32> {
        let connection = self.connections.get(reference.index)?;
        let same =
            connection.generation == reference.generation && reference.core == self.config.core;
        same.then_some(reference.index)
    }

    fn generations_retired(&mut self, index: u32, generation: u16) {
        if let Some(slot) = self.generations.get_mut(index as usize) {
            *slot = generation.wrapping_add(1);
        }
    }

    /// A room's name for another core; shared with the table where the room is known here.
    fn key(&self, hash: u64, room: &str) -> RoomKey {
        let known = self
            .locals
            .find(hash, room)
            .and_then(|index| self.locals.key(index));
        known.cloned().unwrap_or_else(|| RoomKey::new(room, hash))
    }

    /// The core where a hash is at home.
    fn home_of(&self, hash: u64) -> CoreId {
        self.placement.home_of(hash)
    }

    /// Puts a message into the batch for another core; `message` may keep bytes there.
    fn send(&mut self, core: CoreId, message: impl FnOnce(&mut Batch) -> BusMessage) {
        if let Some(outbox) = self.outboxes.get_mut(core.index()) {
            let batch = outbox.get_or_insert_with(|| self.batches.batch());
            let message = message(batch);
            batch.push(message);
        }
    }

    fn feed_in(locals: &mut RoomTable<LocalRoom>, id: FeedId) -> Option<&mut Feed> {
        let local = locals.get_mut(id.room())?;
        if id.is_presence() {
            local.presence.as_deref_mut()
        } else {
            Some(&mut local.messages)
        }
    }

    fn feed_ref(locals: &RoomTable<LocalRoom>, id: FeedId) -> Option<&Feed> {
        let local = locals.get(id.room())?;
        if id.is_presence() {
            local.presence.as_deref()
        } else {
            Some(&local.messages)
        }
    }

    fn take_feed(&mut self, id: FeedId) -> Option<Feed> {
        Self::feed_in(&mut self.locals, id).map(std::mem::take)
    }

    fn put_feed(&mut self, id: FeedId, feed: Feed) {
        if let Some(place) = Self::feed_in(&mut self.locals, id) {
            *place = feed;
        }
    }

    fn set_phase(&mut self, index: u32, phase: Phase) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut connection.phase, phase);
        let (dialect, state) = gauge(before);
        self.metrics.connections.leave(dialect, state);
        let (dialect, state) = gauge(phase);
        self.metrics.connections.enter(dialect, state);
    }
}

/// Under which gauge a connection counts.
fn gauge(phase: Phase) -> (Dialect, State) {
    match phase {
        Phase::Head => (Dialect::Unknown, State::Handshake),
        Phase::Awaiting => (Dialect::Native, State::Unauthenticated),
        Phase::Native => (Dialect::Native, State::Established),
        Phase::Echo => (Dialect::Unknown, State::Established),
        Phase::Closing | Phase::Lingering => (Dialect::Unknown, State::Closing),
    }
}

/// A bijection of 64 bits that leaves no pattern (the finaliser of SplitMix64, Steele et al. 2014):
/// distinct numbers give distinct ids that cannot be counted by looking at them.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
