//! The cores, what lies between them, and the clock: everything around the shards, as the reactor
//! and the kernel would be, driven by one seeded generator.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use tidewheel::address::CoreId;
use tidewheel::bus::{Batch, Durability, Stored};
use tidewheel::metrics::Metrics;
use tidewheel::shard::{Action, Load, Outside, Overflow, Phase, Pressure, Shard, ShardConfig};
use tidewheel::time::{Instant, Now};

use crate::backend::Backend;
use crate::doorman::Doorman;
use crate::operator::Orders;
use crate::peer::Peer;
use crate::plan::{Plan, Temper};
use crate::truth::{BASE_UNIX_MS, Truth};
use crate::wire::{Stage, Wire};
use crate::{Check, Trace};

/// What a connection gets without asking, roughly: the HTTP response, `connection_established`.
const UNASKED_BYTES: usize = 1_000;

/// Rounds after which whoever is not at rest never will be; a flood takes some hundreds.
const ROUNDS_MAX: u32 = 10_000;

/// One core and its sockets.
pub struct Core {
    pub shard: Shard,
    /// The peer of each index.
    pub slots: Vec<Option<usize>>,
    /// When timers were last looked at.
    timed_at: Instant,
}

/// What a client was, for its next connection.
pub struct Client {
    pub name: Option<String>,
    pub temper: Temper,
    pub current: Option<usize>,
    pub read: std::collections::BTreeMap<String, (String, u64)>,
}

pub struct World {
    pub plan: Plan,
    pub rng: Rng,
    pub mono: Instant,
    pub cores: Vec<Core>,
    /// What is under way from one core to another: `from * cores + to`.
    links: Vec<VecDeque<Batch>>,
    pub clients: Vec<Client>,
    pub peers: Vec<Peer>,
    pub truth: Truth,
    pub trace: Trace,
    pub orders: Orders,
    pub doorman: Doorman,
    pub backend: Backend,
    /// How many times everything had come to rest.
    pub rests: u64,
    /// Batches of each core that are not on disk yet, by number.
    disk: Vec<VecDeque<u64>>,
    of_disk: Rng,
    pub questions: u64,
    /// Time that well-meaning clients may have been without a turn.
    unsettled: Duration,
    pub draining: bool,
    /// Memory is held against the budget.
    pub relieves: bool,
}

/// How much of what could happen in a turn does.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Some of it, by chance.
    Some,
    /// Everything that those do who keep at it.
    All,
}

/// Tells what a seed decides about the disk from what it decides otherwise.
const DISK: u64 = 0x6469_736b;

impl World {
    pub fn new(seed: u64, echoing: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        let mut plan = Plan::new(&mut rng);
        // By a generator of its own: what else a seed decides stays as it is.
        let mut of_disk = Rng::with_seed(seed ^ DISK);
        // The backend of these days wants its answers at once.
        let may_wait = plan.shard.memory_budget_bytes == 0 && !plan.backend;
        if may_wait && of_disk.u8(..3) == 0 {
            plan.shard.durability = Durability::Fsync;
        }
        let mono = Instant::from_nanos(plan.starts_at);
        let cores = usize::from(plan.shard.cores);
        let core = |core: usize| Core {
            shard: Shard::new(
                ShardConfig {
                    core: CoreId(core as u16),
                    ..plan.shard.clone()
                },
                Now {
                    mono,
                    unix_ms: BASE_UNIX_MS,
                },
            ),
            slots: Vec::new(),
            timed_at: mono,
        };
        let client = |(name, temper): &(Option<String>, Temper)| Client {
            name: name.clone(),
            temper: *temper,
            current: None,
            read: Default::default(),
        };
        World {
            rng,
            mono,
            cores: (0..cores).map(core).collect(),
            links: (0..cores * cores).map(|_| VecDeque::new()).collect(),
            clients: plan.clients.iter().map(client).collect(),
            peers: Vec::new(),
            truth: Truth::default(),
            orders: Orders::new(cores),
            doorman: Doorman::default(),
            backend: Backend::new(plan.shard.seed, plan.shard.cores),
            trace: Trace::new(echoing),
            disk: (0..cores).map(|_| VecDeque::new()).collect(),
            of_disk,
            rests: 0,
            questions: 0,
            unsettled: Duration::ZERO,
            draining: false,
            relieves: true,
            plan,
        }
    }

    pub fn now(&self) -> Now {
        let since = self.mono.as_nanos() - self.plan.starts_at;
        Now {
            mono: self.mono,
            unix_ms: BASE_UNIX_MS + since / 1_000_000,
        }
    }

    /// Everything that was due before this has been done on all cores.
    pub fn floor_ms(&self) -> u64 {
        let floor = self.cores.iter().map(|c| c.timed_at).min();
        let since = floor.map_or(0, |f| f.as_nanos() - self.plan.starts_at);
        BASE_UNIX_MS + since / 1_000_000
    }

    /// Lets time pass; first, where it would be too long for clients that mean well, they get
    /// their turn.
    pub fn advance(&mut self, by: Duration) -> Check {
        let patience = self.plan.patience();
        if self.unsettled + by > patience {
            self.settle()?;
            if !self.plan.shard.coalesce.is_zero() {
                // What has gathered is as old as the room's acceptance of it: out with it first.
                self.mono = self.mono + self.plan.shard.coalesce + Duration::from_millis(1);
                self.settle()?;
            }
            self.unsettled = Duration::ZERO;
        } else {
            self.unsettled += by;
        }
        if by >= Duration::from_millis(100) {
            // No disk is so slow here that it is not waited for.
            for core in 0..self.cores.len() {
                self.store(core, usize::MAX, self.now())?;
            }
        }
        self.mono = self.mono + by;
        self.trace.note(|| format!("clock: {by:?} later"));
        Ok(())
    }

    /// One turn of one core, in the order in which a reactor does things.
    pub fn turn(&mut self, core: usize, turn: Turn) -> Check {
        self.trace.note(|| format!("turn of core {core}"));
        let now = self.now();
        self.note_writable(core, turn, now);
        self.audit(core, "writable")?;
        let suspended = turn == Turn::Some && self.rng.u8(..) < 4;
        self.cores[core].shard.suspend_reading(suspended);
        if !suspended {
            self.read(core, turn, now)?;
        }
        self.take_mail(core, turn, now)?;
        self.take_orders(core, turn, now)?;
        self.take_queries(core, turn, now)?;
        let batches = match turn {
            Turn::Some => self.of_disk.usize(..3),
            Turn::All => usize::MAX,
        };
        self.store(core, batches, now)?;
        self.cores[core].shard.handle_timeouts(now);
        self.cores[core].timed_at = now.mono;
        self.audit(core, "timeouts")?;
        self.send_mail(core);
        self.flush(core, turn, now)?;
        self.relieve(core, now)?;
        self.act(core, now)?;
        self.audit(core, "actions")?;
        self.send_mail(core);
        self.take_notices(core)?;
        self.accept(core, turn, now)?;
        let records = self.cores[core].shard.poll_records();
        self.disk[core].extend(records.map(|records| records.seq));
        self.cores[core].shard.handle_turn_end(now.mono, now.mono);
        Ok(())
    }

    /// Brings some batches of a core to the disk, and tells it.
    fn store(&mut self, core: usize, batches: usize, now: Now) -> Check {
        let count = batches.min(self.disk[core].len());
        let Some(through) = self.disk[core].drain(..count).next_back() else {
            return Ok(());
        };
        let fault = None;
        let shard = &mut self.cores[core].shard;
        shard.handle_stored(now, &Stored { through, fault });
        self.truth.count("stored");
        self.audit(core, "the store")
    }

    /// Tells a core what the others hold, as a reactor does, or nearly.
    fn relieve(&mut self, core: usize, now: Now) -> Check {
        if !self.relieves {
            return Ok(());
        }
        let held = |(_, other): (usize, &Core)| other.shard.memory_bytes();
        let others = self.cores.iter().enumerate().filter(|(i, _)| *i != core);
        let cores = self.cores.len();
        let links = (0..cores).flat_map(|from| &self.links[from * cores + core]);
        let load = Load {
            others: others.map(held).sum(),
            outside: Outside {
                bus: links.map(|batch| batch.weight()).sum(),
                tls: 0,
            },
            ..Load::default()
        };
        let shard = &mut self.cores[core].shard;
        let before = shard.pressure();
        let pressure = shard.handle_pressure(now, load);
        if pressure != before {
            self.trace
                .note(|| format!("  core {core} is under pressure {pressure:?}"));
            self.truth.count(format!("pressure {}", pressure.number()));
            for (is_so, what) in [
                (self.plan.law.has_rules(), "rules"),
                (self.plan.is_limited, "limits"),
                (self.plan.is_guarded, "tokens"),
            ] {
                if is_so && pressure >= Pressure::Evict {
                    self.truth.count(format!("pressure and {what}"));
                }
            }
        }
        self.audit(core, "relief")
    }

    fn peers_of(&self, core: usize) -> Vec<(usize, u32)> {
        let slots = self.cores[core].slots.iter().enumerate();
        slots
            .filter_map(|(index, id)| Some(((*id)?, index as u32)))
            .collect()
    }

    fn note_writable(&mut self, core: usize, turn: Turn, now: Now) {
        for (id, index) in self.peers_of(core) {
            let peer = &mut self.peers[id];
            let due = peer.socket.is_writable() && (turn == Turn::All || self.rng.bool());
            // A poller may say so without need.
            let spurious = turn == Turn::Some && self.rng.u8(..) < 5;
            if due || spurious {
                peer.socket.full = false;
                self.cores[core].shard.handle_writable(now, index);
            }
        }
    }

    fn read(&mut self, core: usize, turn: Turn, now: Now) -> Check {
        let mut peers = self.peers_of(core);
        self.rng.shuffle(&mut peers);
        for (id, index) in peers {
            let all = turn == Turn::All && self.peers[id].is_prompt();
            if !all && self.rng.bool() {
                continue;
            }
            let mut reads = if all {
                usize::MAX
            } else {
                self.rng.usize(1..4)
            };
            while reads > 0 && self.read_once(core, id, index, all, now)? {
                reads -= 1;
            }
        }
        Ok(())
    }

    /// Reads a connection once. Says whether there may be more.
    fn read_once(
        &mut self,
        core: usize,
        id: usize,
        index: u32,
        all: bool,
        now: Now,
    ) -> Result<bool, String> {
        let peer = &mut self.peers[id];
        let shard = &mut self.cores[core].shard;
        if !shard.wants_read(index) {
            return Ok(false);
        }
        let broken = peer.socket.broken;
        if broken || (peer.out.is_empty() && peer.leaving) {
            peer.ended = true;
            shard.handle_end(now, index);
            self.trace
                .note(|| format!("  peer {id} ended, broken {broken}"));
            self.audit(core, "an end")?;
            return Ok(false);
        }
        let len = match self.rng.u8(..4) {
            _ if all => peer.out.len(),
            0 => 1,
            1 => self.rng.usize(..64),
            _ => self.rng.usize(..4096),
        };
        let mut bytes: Vec<u8> = peer.out.drain(..len.min(peer.out.len())).collect();
        if bytes.is_empty() {
            return Ok(false);
        }
        self.trace
            .note(|| format!("  {} bytes from peer {id}", bytes.len()));
        shard.handle_bytes(now, index, &mut bytes);
        let answers = shard.backlog(index).map_or(0, |b| match b.phase {
            Phase::Native | Phase::Echo => b.answer_bytes,
            _ => 0,
        });
        // What comes unasked, as `messages_missed` does, pauses nobody before its next command.
        let law = &self.plan.law;
        let skips = law.has_overflow(Overflow::Skip) || law.has_overflow(Overflow::Latest);
        let max = if skips {
            usize::MAX
        } else {
            self.plan.shard.answer_bytes_max + UNASKED_BYTES
        };
        if answers > max && shard.wants_read(index) {
            return Err(format!(
                "peer {id} has {answers} bytes of answers, and is read"
            ));
        }
        self.audit(core, "bytes")?;
        Ok(true)
    }

    fn take_mail(&mut self, core: usize, turn: Turn, now: Now) -> Check {
        let cores = self.cores.len();
        let mut senders: Vec<usize> = (0..cores).collect();
        self.rng.shuffle(&mut senders);
        for from in senders {
            let waiting = self.links[from * cores + core].len();
            let count = match turn {
                Turn::All => waiting,
                Turn::Some => self.rng.usize(..=waiting),
            };
            for _ in 0..count {
                let Some(batch) = self.links[from * cores + core].pop_front() else {
                    break;
                };
                self.trace
                    .note(|| format!("  {} messages from core {from}", batch.len()));
                self.cores[core].shard.handle_bus(now, batch);
                self.audit(core, "mail")?;
            }
        }
        Ok(())
    }

    fn send_mail(&mut self, core: usize) {
        let cores = self.cores.len();
        for to in 0..cores {
            if let Some(batch) = self.cores[core].shard.poll_bus(CoreId(to as u16)) {
                self.links[core * cores + to].push_back(batch);
            }
        }
    }

    fn flush(&mut self, core: usize, turn: Turn, now: Now) -> Check {
        if turn == Turn::Some && self.rng.u8(..8) == 0 {
            return Ok(());
        }
        let Core { shard, slots, .. } = &mut self.cores[core];
        let mut wire = Wire {
            slots,
            peers: &mut self.peers,
            truth: &mut self.truth,
            rng: &mut self.rng,
            trace: &mut self.trace,
            unix_ms: now.unix_ms,
            fault: Ok(()),
        };
        let done = shard.poll_flush(now, &mut wire, self.plan.flush_budget);
        wire.fault?;
        if done == shard.wants_flush() {
            return Err("a flush that is done and is not".into());
        }
        self.audit(core, "flush")?;
        if done && self.plan.shard.coalesce.is_zero() {
            self.bound_lag(core)?;
        }
        Ok(())
    }

    /// After a flush nobody is further behind than the bound.
    fn bound_lag(&self, core: usize) -> Check {
        let lag_bytes_max = self.plan.shard.lag_bytes_max;
        let law = &self.plan.law;
        for (id, index) in self.peers_of(core) {
            let Some(backlog) = self.cores[core].shard.backlog(index) else {
                continue;
            };
            // The rest of a frame cannot be skipped; `latest` keeps a message in each room too.
            let frame = self.plan.shard.message_bytes_max as u64 + 1_000;
            let max = if law.has_overflow(Overflow::Latest) {
                lag_bytes_max + frame * (1 + self.plan.rooms.len() as u64)
            } else if law.has_overflow(Overflow::Skip) {
                lag_bytes_max.max(frame)
            } else {
                lag_bytes_max
            };
            // A closing one is bounded by --close-timeout.
            let counts = backlog.is_blocked && backlog.phase == Phase::Native;
            if counts && backlog.lag_bytes > max {
                let lag = backlog.lag_bytes;
                return Err(format!("peer {id} is {lag} bytes behind"));
            }
        }
        Ok(())
    }

    fn act(&mut self, core: usize, now: Now) -> Check {
        while let Some(action) = self.cores[core].shard.poll_action() {
            self.trace.note(|| format!("  {action:?} on core {core}"));
            match action {
                Action::ShutdownWrite(index) => self.shut(core, index)?,
                Action::Close(index) => self.close(core, index, false)?,
                Action::Reset(index) => self.close(core, index, true)?,
                Action::Resume(index) => {
                    self.cores[core].shard.handle_resume(now, index);
                    self.audit(core, "resume")?;
                }
            }
        }
        Ok(())
    }

    fn peer_at(&mut self, core: usize, index: u32) -> Result<usize, String> {
        let slot = self.cores[core].slots.get(index as usize).copied();
        slot.flatten()
            .ok_or_else(|| "an action for no socket".into())
    }

    fn shut(&mut self, core: usize, index: u32) -> Check {
        let id = self.peer_at(core, index)?;
        let Peer {
            socket, session, ..
        } = &mut self.peers[id];
        socket.shut = true;
        let said_why = session.closed.is_some() || matches!(socket.stage, Stage::Refused);
        if said_why && socket.is_on_boundary() {
            Ok(())
        } else {
            Err(format!("peer {id} was shut off without a close frame"))
        }
    }

    fn close(&mut self, core: usize, index: u32, abruptly: bool) -> Check {
        let id = self.peer_at(core, index)?;
        self.cores[core].slots[index as usize] = None;
        let peer = &mut self.peers[id];
        peer.index = None;
        let client = &mut self.clients[peer.client];
        client.current = None;
        client.read.append(&mut peer.read);
        for (room, member) in std::mem::take(&mut peer.session.members) {
            member.end(&room, &mut self.truth, false)?;
        }
        let vanished = peer.ended || peer.socket.found_broken;
        let in_order = if abruptly {
            vanished || peer.temper != Temper::Good
        } else {
            vanished || peer.socket.shut || (self.draining && peer.session.user.is_none())
        };
        if in_order {
            Ok(())
        } else {
            Err(format!("peer {id} was dropped, abruptly {abruptly}"))
        }
    }

    fn accept(&mut self, core: usize, turn: Turn, now: Now) -> Check {
        let waiting = |p: &Peer| p.core == core && !p.accepted;
        let ids: Vec<usize> = (0..self.peers.len())
            .filter(|id| waiting(&self.peers[*id]))
            .collect();
        for id in ids {
            if turn == Turn::Some && self.rng.bool() {
                break;
            }
            let Core { shard, slots, .. } = &mut self.cores[core];
            let index = shard.handle_accept(now);
            if slots.len() <= index as usize {
                slots.resize(index as usize + 1, None);
            }
            if let Some(other) = slots[index as usize].replace(id) {
                return Err(format!("index {index} is still peer {other}'s"));
            }
            let peer = &mut self.peers[id];
            (peer.index, peer.accepted) = (Some(index), true);
            self.trace
                .note(|| format!("  peer {id} accepted as {index} on core {core}"));
        }
        Ok(())
    }

    /// The ledger balances after every call, and memory is what it is counted as.
    pub fn audit(&mut self, core: usize, after: &str) -> Check {
        let shard = &mut self.cores[core].shard;
        let (counted, found) = (shard.memory(), shard.recount());
        let is_same = counted.iter().eq(found.iter());
        if !is_same || shard.memory_bytes() as u64 != counted.total() {
            return Err(format!(
                "core {core}'s memory after {after}: {counted:?} in the books, {found:?} found"
            ));
        }
        let blocked = shard.footprint().laggards as u64;
        let Metrics { flush, lag, .. } = shard.metrics();
        let sizes = (flush.write_bytes.count(), flush.write_bytes.sum());
        if lag.laggards != blocked || sizes != (flush.writes, flush.bytes) {
            return Err(format!(
                "core {core} after {after}: {blocked} sockets are full, {lag:?}; {flush:?}"
            ));
        }
        let pending = shard.pending_frames();
        let ledger = &shard.metrics().ledger;
        if ledger.balances(pending) {
            Ok(())
        } else {
            Err(format!(
                "core {core}'s ledger after {after}: {} pending in the books, {pending} found",
                ledger.pending()
            ))
        }
    }

    /// Everyone who keeps at it gets and gives everything, until nothing is left to do.
    pub fn settle(&mut self) -> Check {
        self.trace.note(|| "settling".into());
        for _ in 0..ROUNDS_MAX {
            for core in 0..self.cores.len() {
                self.turn(core, Turn::All)?;
            }
            for peer in &mut self.peers {
                if peer.is_prompt() {
                    peer.drain(usize::MAX, &mut self.rng);
                }
            }
            if self.is_settled() {
                self.rest();
                self.users_are_within_limits()?;
                self.notices_count_users()?;
                return self.logs_are_empty();
            }
        }
        let busy = self.peers.iter().position(|p| !p.is_settled());
        Err(format!(
            "it never comes to rest; flushes wait: {:?}, peer {busy:?} is busy",
            self.cores
                .iter()
                .map(|c| c.shard.wants_flush())
                .collect::<Vec<_>>()
        ))
    }

    /// Where nobody is behind, no log holds anything.
    fn logs_are_empty(&self) -> Check {
        for (core, Core { shard, .. }) in self.cores.iter().enumerate() {
            let blocked = |(_, index)| shard.backlog(index).is_some_and(|b| b.is_blocked);
            let is_behind = self.peers_of(core).into_iter().any(blocked);
            let frames = shard.footprint().log_frames;
            if frames > 0 && !is_behind && self.plan.shard.coalesce.is_zero() {
                return Err(format!("core {core} keeps {frames} frames for nobody"));
            }
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.links.iter().all(VecDeque::is_empty)
            && self.cores.iter().all(|c| !c.shard.has_staged())
            && self.orders.are_heard()
            && self.backend.is_heard()
            && self.cores.iter().all(|c| !c.shard.wants_flush())
            && self.peers.iter().all(Peer::is_settled)
    }

    fn rest(&mut self) {
        self.rests += 1;
        for peer in &mut self.peers {
            if peer.known_since.is_none() && peer.session.user.is_some() {
                peer.known_since = Some(self.rests);
            }
        }
    }
}
