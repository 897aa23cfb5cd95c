//! The end of a day: what must be true when everything has come to rest, and when everyone has
//! gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidewheel::gate::Wish;
use tidewheel::metrics::{Eviction, MemoryKind};
use tidewheel::shard::{Footprint, Overflow, Pressure};

use crate::Check;
use crate::law::Standing;
use crate::peer::Peer;
use crate::session::Question;
use crate::world::World;

impl World {
    /// Ends the day and judges it.
    pub fn end(&mut self) -> Check {
        for peer in &mut self.peers {
            peer.stalled &= peer.for_good;
            if peer.for_good {
                // What still trickled from it would be a sign of life.
                peer.out.clear();
            }
        }
        let shard = &self.plan.shard;
        let long = shard.heartbeat_interval + shard.heartbeat_timeout + shard.lag_age_max;
        let long = long + shard.close_timeout + Duration::from_secs(1);
        // A ping, its verdict, the end of a close that nobody takes; kernels may hide some of them.
        for _ in 0..10 {
            self.advance(long)?;
        }
        self.wait_for_quiet()?;
        self.settle()?;
        self.trace.note(|| "the day is over".into());
        self.lift_rates();
        self.dead_are_gone()?;
        // Nobody is closed between what it is told and the verdict on that.
        self.relieves = false;
        self.inquire()?;
        self.settle()?;
        for id in 0..self.peers.len() {
            if self.peers[id].is_open() && self.peers[id].session.echoes.is_none() {
                self.judge_peer(id).map_err(|f| format!("peer {id}: {f}"))?;
            }
        }
        self.counts_agree()?;
        self.notices_agree()?;
        self.judge_directs()?;
        self.judge_backend()?;
        self.relieves = true;
        self.everyone_goes()?;
        self.nothing_is_left()?;
        self.truth.judge(&self.plan)
    }

    /// Tokens and lifetimes end at any moment: lets time pass until nobody left in the last of it,
    /// so that everyone was told.
    fn wait_for_quiet(&mut self) -> Check {
        let present = |world: &World| world.peers.iter().filter(|p| p.is_open()).count();
        loop {
            let before = present(self);
            self.advance(self.plan.shard.close_timeout + Duration::from_secs(2))?;
            self.settle()?;
            if present(self) == before {
                return Ok(());
            }
        }
    }

    fn dead_are_gone(&self) -> Check {
        let dead = |p: &Peer| p.index.is_some() && p.for_good;
        match self.peers.iter().position(dead) {
            Some(id) => Err(format!("peer {id} has stalled for good and is still here")),
            None => Ok(()),
        }
    }

    /// Everyone asks who is in each room, and where the room stands.
    fn inquire(&mut self) -> Check {
        for id in 0..self.peers.len() {
            if !self.peers[id].is_open() || self.peers[id].session.echoes.is_some() {
                continue;
            }
            for room in self.plan.rooms.clone() {
                self.ask(id, Question::Members { room: room.clone() });
                let (since, limit) = (None, Some(0));
                self.ask(id, Question::History { room, since, limit });
            }
        }
        Ok(())
    }

    /// The users of a room with their connections, as their clients know it.
    pub fn listing(&self, room: &str) -> BTreeMap<String, u64> {
        let mut users = BTreeMap::new();
        for peer in &self.peers {
            let is_in = peer.is_open() && peer.session.members.contains_key(room);
            if let (true, Some(user)) = (is_in, &peer.session.user) {
                *users.entry(user.clone()).or_default() += 1;
            }
        }
        users
    }

    fn judge_peer(&mut self, id: usize) -> Check {
        let session = &self.peers[id].session;
        let answerless = |q: &Question| matches!(q, Question::Signal { .. });
        if let Some((id, p)) = session
            .pending
            .iter()
            .find(|(_, p)| !answerless(&p.question))
        {
            return Err(format!("{id} was never answered: {:?}", p.question));
        }
        if !session.pings.is_empty() {
            return Err("a ping was never answered".into());
        }
        for room in &self.plan.rooms {
            let users = self.listing(room);
            let expected = (users.len() as u64, users);
            let law = &self.plan.law;
            let is_told = |wish| law.may_answer(room, wish, Standing::Outside);
            let is_listed = is_told(Wish::Members);
            if is_listed && session.listings.get(room) != Some(&expected) {
                let told = session.listings.get(room);
                return Err(format!("{room} has {expected:?}, and it was told {told:?}"));
            }
            let Some(member) = session.members.get(room) else {
                continue;
            };
            if !is_told(Wish::History) {
                continue;
            }
            let (epoch, newest) = self.truth.finals.get(room).ok_or("no final position")?;
            if *epoch != member.epoch {
                return Err(format!("{room} is at {epoch}, not {}", member.epoch));
            }
            let ghost = member.typing.iter().find(|u| !expected.1.contains_key(*u));
            if ghost.is_some() && law.overflow(room) == Overflow::Evict {
                return Err(format!("{room}: {ghost:?} left, and seems to type"));
            }
            if let Some(watch) = &member.watch {
                let (count, users) = &expected;
                let wrong = watch
                    .users
                    .iter()
                    .find(|(user, here)| users.contains_key(*user) != **here);
                if watch.count != *count || (wrong.is_some() && law.presence_is_exact(room)) {
                    return Err(format!(
                        "{room}: it saw {} users, {wrong:?}; there are {expected:?}",
                        watch.count
                    ));
                }
            }
            let (epoch, missing) = (epoch.clone(), (member.position + 1, *newest));
            self.truth.excuse(id, room, &epoch, missing)?;
        }
        Ok(())
    }

    fn counts_agree(&mut self) -> Check {
        for core in 0..self.cores.len() {
            let here = |p: &&Peer| p.core == core && p.index.is_some();
            // One that was told of its close is in no room any more, though its socket may stay.
            let is_member = |p: &&Peer| here(p) && p.session.closed.is_none();
            let rooms = self.peers.iter().filter(is_member);
            let rooms: BTreeSet<&String> = rooms.flat_map(|p| p.session.members.keys()).collect();
            let locals = self.cores[core].shard.footprint().locals;
            if locals != rooms.len() {
                return Err(format!(
                    "core {core} holds {locals} rooms; its peers are in {rooms:?}"
                ));
            }
            let here = self.peers.iter().filter(here).count();
            let shard = &mut self.cores[core].shard;
            let counted = shard.footprint().connections;
            let gauge = shard.metrics().connections.open_total();
            if counted != here || gauge != here as u64 {
                return Err(format!(
                    "core {core} has {counted} connections, its gauge {gauge}; there are {here}"
                ));
            }
        }
        Ok(())
    }

    fn judge_directs(&self) -> Check {
        for (n, direct) in self.truth.directs.iter().enumerate() {
            let refused = direct.refused || direct.not_taken;
            if refused && !direct.got.is_empty() {
                return Err(format!("direct {n} was refused and delivered"));
            }
            for (id, peer) in self.peers.iter().enumerate() {
                let known = peer.known_since.is_some_and(|r| r <= direct.rests);
                let owed =
                    known && peer.is_open() && peer.session.user.as_ref() == Some(&direct.to);
                let missed = direct.accepted && !direct.got.contains_key(&id);
                if owed && (missed || direct.refused) {
                    return Err(format!(
                        "direct {n} of peer {} never came to peer {id}",
                        direct.from
                    ));
                }
            }
        }
        Ok(())
    }

    fn everyone_goes(&mut self) -> Check {
        if self.rng.bool() {
            self.drain()?;
        } else {
            for id in 0..self.peers.len() {
                let peer = &mut self.peers[id];
                match self.rng.u8(..3) {
                    0 if !peer.silent => peer.close(1001, &mut self.rng),
                    1 => peer.socket.broken = true,
                    _ => peer.leaving = true,
                }
            }
        }
        let close_timeout = self.plan.shard.close_timeout;
        self.settle()?;
        for _ in 0..2 {
            self.advance(close_timeout + Duration::from_millis(2))?;
            self.settle()?;
        }
        match self.peers.iter().position(|p| p.index.is_some()) {
            Some(id) => Err(format!("peer {id} is still here after everyone left")),
            None => Ok(()),
        }
    }

    fn drain(&mut self) -> Check {
        self.draining = true;
        let window = Duration::from_millis(self.rng.u64(..10_000));
        self.trace.note(|| format!("a drain within {window:?}"));
        for peer in &mut self.peers {
            peer.session.allowed.insert(4200);
        }
        let now = self.now();
        for core in &mut self.cores {
            core.shard.handle_drain(now, window);
        }
        self.settle()?;
        let ends = self.mono + window + Duration::from_millis(2);
        while self.mono < ends {
            self.advance(window / 10 + Duration::from_millis(1))?;
        }
        self.settle()?;
        let warned = |p: &Peer| p.session.warned || p.session.echoes.is_some();
        let unwarned =
            |p: &Peer| p.session.closed == Some(4200) && p.session.user.is_some() && !warned(p);
        if let Some(id) = self.peers.iter().position(unwarned) {
            return Err(format!("peer {id} was not told of the shutdown"));
        }
        match self.peers.iter().position(Peer::is_open) {
            Some(id) => Err(format!("peer {id} is open after the drain")),
            None => Ok(()),
        }
    }

    /// Once nobody is there and all times are over, nothing is held.
    fn nothing_is_left(&mut self) -> Check {
        self.lift_bans();
        let times = self.plan.law.all_limits().map(|room| {
            room.idle_ttl + room.history.ttl.unwrap_or_default() + room.idempotency_window
        });
        let long = times.max().unwrap_or_default();
        for _ in 0..3 {
            self.advance(long + Duration::from_secs(2))?;
        }
        self.settle()?;
        self.notices_are_over()?;
        for core in 0..self.cores.len() {
            let shard = &mut self.cores[core].shard;
            let footprint = shard.footprint();
            let pending = shard.pending_frames();
            if footprint != Footprint::default() || pending > 0 || shard.wants_flush() {
                return Err(format!(
                    "core {core} still holds {footprint:?}, {pending} frames"
                ));
            }
            let memory = shard.memory();
            let spare = memory.of(MemoryKind::Spare);
            let metrics = shard.metrics();
            for (what, count) in [
                ("history trimmed", metrics.memory.history_trimmed),
                ("keys trimmed", metrics.memory.keys_trimmed),
                (
                    "evicted for memory",
                    metrics.connections.evicted.of(Eviction::Memory),
                ),
            ] {
                *self.truth.told.entry(what.to_owned()).or_default() += count;
            }
            if memory.total() > spare || shard.pressure() != Pressure::Calm {
                return Err(format!(
                    "core {core} is {:?} and holds {memory:?} for nobody",
                    shard.pressure()
                ));
            }
            if !shard.metrics().ledger.balances(0) {
                return Err(format!("core {core}'s ledger has something pending"));
            }
        }
        Ok(())
    }
}
