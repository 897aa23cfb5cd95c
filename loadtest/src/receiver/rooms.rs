//! A client's rooms: joined, left for a while, joined anew and caught up with.

use crate::frame;
use crate::message::{self, Wish};
use crate::receiver::{Receiver, Role, Stage};
use crate::settings::JoinBy;
use crate::tally::Timed;
use crate::view::{Dialect, View};

impl Receiver {
    /// Leaves for a while: with a close frame in `view.out`, or without.
    pub fn drop_out(&mut self, with_close: bool, view: &mut View) {
        view.counts.unanswered_at_a_drop += u64::from(self.in_flight);
        self.in_flight = 0;
        self.leave_rooms(view);
        if with_close {
            view.counts.drops_closed += 1;
            frame::write_masked(frame::CLOSE, &1000u16.to_be_bytes(), &mut view.out);
            self.stage = Stage::Leaving;
        } else {
            view.counts.drops_reset += 1;
            self.stage = Stage::Away;
        }
    }

    pub(super) fn handle_upgraded(&mut self, now_ns: u64, view: &mut View) {
        self.stage = Stage::Joining;
        view.upgrades += 1;
        view.connected += 1;
        let is_first = self.subs.as_slice().iter().all(|sub| sub.next == 0);
        if is_first {
            view.times.record(Timed::Connect, self.since_ns, now_ns);
        }
        let Dialect::Rooms(join) = view.dialect else {
            for index in 0..self.subs.as_slice().len() {
                self.enter(index, 0, view);
            }
            return self.note_joins(now_ns, view);
        };
        if self.role == Role::Visitor {
            return self.note_joins(now_ns, view);
        }
        for (index, sub) in self.subs.as_slice().iter().enumerate() {
            self.joins_due += 1;
            let by_path = join == JoinBy::Path && index == 0 && self.joins_by_path();
            if let Some(room) = view.rooms.get(sub.room as usize).filter(|_| !by_path) {
                let epoch = view.epochs.get(sub.epoch as usize);
                let wish = match epoch {
                    _ if self.role == Role::Watcher => Wish::Presence,
                    Some(epoch) if sub.next > 0 => Wish::Recover {
                        epoch,
                        offset: sub.next - 1,
                    },
                    _ => Wish::Plain,
                };
                message::write_join(&room.name, wish, &mut view.out);
            }
        }
    }

    /// True where the path of the upgrade may join its first room: nothing else is asked for.
    pub fn joins_by_path(&self) -> bool {
        let is_first = self.subs.as_slice().first().is_none_or(|sub| sub.next == 0);
        is_first && !matches!(self.role, Role::Watcher | Role::Visitor)
    }

    pub(super) fn handle_joined(
        &mut self,
        name: &str,
        offset: u64,
        epoch: &str,
        recovered: bool,
        now_ns: u64,
        view: &mut View,
    ) {
        let room = view.room_number(name.as_bytes(), self.subs.as_slice());
        let subs = self.subs.as_slice();
        let index = subs.iter().position(|sub| Some(sub.room) == room);
        let Some(index) = index else {
            return view.audit.fault("room_joined for a room not asked for");
        };
        if self.role == Role::Visitor {
            // It reads no messages: its rooms have none.
            self.in_flight = 0;
            return;
        }
        if self.stage != Stage::Joining || self.joins_due == 0 {
            return view.audit.fault("room_joined without a join");
        }
        let number = view.epoch_number(epoch);
        let known = subs.get(index).copied().unwrap_or_default();
        if known.next == 0 {
            self.enter(index, offset, view);
        } else {
            self.reenter(index, offset, known.epoch != number, recovered, view);
        }
        if let Some(sub) = self.subs.as_mut_slice().get_mut(index) {
            sub.epoch = number;
        }
        self.joins_due -= 1;
        if self.joins_due == 0 {
            self.note_joins(now_ns, view);
        }
    }

    /// In a room for the first time, where `offset` is the newest.
    pub(super) fn enter(&mut self, index: usize, offset: u64, view: &mut View) {
        let Some(sub) = self.subs.as_mut_slice().get_mut(index) else {
            return;
        };
        sub.next = offset.saturating_add(1);
        view.joined += 1;
        if self.role.is_slow() {
            return;
        }
        if let Some(room) = view.rooms.get_mut(sub.room as usize) {
            room.progress.join(offset);
            view.advanced.push(sub.room);
        }
    }

    /// Back in a room, where `offset` is the newest.
    pub(super) fn reenter(
        &mut self,
        index: usize,
        offset: u64,
        is_other_epoch: bool,
        recovered: bool,
        view: &mut View,
    ) {
        let Some(sub) = self.subs.as_mut_slice().get_mut(index) else {
            return;
        };
        view.joined += 1;
        if recovered {
            view.counts.recovered += 1;
        } else {
            view.counts.not_recovered += 1;
            if !is_other_epoch && offset < sub.next {
                view.audit
                    .fault("recovered: false, though no message was missed");
            }
            view.counts.other_epoch += u64::from(is_other_epoch);
            view.counts.lost_to_history += (offset + 1).saturating_sub(sub.next);
            sub.next = offset.saturating_add(1);
        }
        let due = (sub.room, offset);
        view.catching_up.entry(self.number).or_default().push(due);
    }

    /// In all its rooms.
    pub(super) fn note_joins(&mut self, now_ns: u64, view: &mut View) {
        if view.catching_up.contains_key(&self.number) {
            self.stage = Stage::Recovering;
            return self.note_caught_up(now_ns, view);
        }
        view.times.record(Timed::Join, self.since_ns, now_ns);
        if self.role.is_slow() {
            self.stage = Stage::Aside;
            view.slow_audit.receivers += 1;
        } else {
            self.stage = Stage::Joined;
            view.audit.receivers += 1;
        }
    }

    /// Up to date again, where it is.
    pub(super) fn note_caught_up(&mut self, now_ns: u64, view: &mut View) {
        if self.stage != Stage::Recovering {
            return;
        }
        let subs = &mut self.subs;
        let has = |(room, until): &(u32, u64)| subs.of(*room).is_none_or(|sub| sub.next > *until);
        let due = view.catching_up.get(&self.number);
        if !due.is_none_or(|due| due.iter().all(has)) {
            return;
        }
        view.catching_up.remove(&self.number);
        view.times.record(Timed::Recovery, self.since_ns, now_ns);
        for sub in self.subs.as_slice() {
            if let Some(room) = view.rooms.get_mut(sub.room as usize) {
                room.progress.rejoin(sub.next);
                view.advanced.push(sub.room);
            }
        }
        self.stage = Stage::Joined;
    }

    pub(super) fn handle_missed(&mut self, room: Option<u32>, from: u64, to: u64, view: &mut View) {
        let is_joined = matches!(self.stage, Stage::Joined | Stage::Aside);
        let sub = room.and_then(|room| self.subs.of(room));
        let is_slow = self.role.is_slow();
        let audit = view.audit_of(self.role);
        let Some(sub) = sub.filter(|sub| is_joined && from == sub.next && to >= from) else {
            audit.announced_wrongly += 1;
            return;
        };
        audit.announced_missed += (to - from).saturating_add(1);
        sub.next = to.saturating_add(1);
        let room = sub.room;
        if !is_slow {
            view.skip(room, from, to);
        }
    }

    /// A message to a client that nobody waits for, or that is not everywhere yet.
    pub(super) fn deliver_aside(
        &mut self,
        room: u32,
        offset: u64,
        stamp_ns: Option<u64>,
        now_ns: u64,
        view: &mut View,
    ) {
        let Some(sub) = self.subs.of(room).filter(|sub| sub.next > 0) else {
            return view.audit.fault("a message before room_joined");
        };
        if self.stage == Stage::Joined || self.stage == Stage::Joining && !self.role.is_slow() {
            let is_return = view.catching_up.contains_key(&self.number);
            if !is_return {
                return view.deliver(sub, offset, || stamp_ns, now_ns);
            }
        }
        let audit = view.audit_of(self.role);
        if offset != sub.next {
            audit.out_of_sequence(sub.next, offset);
            if offset < sub.next {
                return;
            }
        }
        sub.next = offset.saturating_add(1);
        audit.delivered += 1;
        if matches!(self.stage, Stage::Recovering | Stage::Joining) {
            view.counts.replayed += 1;
            self.note_caught_up(now_ns, view);
        }
    }

    /// It counts no longer where others wait for it.
    pub(super) fn leave_rooms(&mut self, view: &mut View) {
        let subs = self.subs.as_slice();
        let is_in = matches!(self.stage, Stage::Joined | Stage::Aside | Stage::Recovering);
        if is_in && self.role != Role::Visitor {
            view.joined = view.joined.saturating_sub(subs.len() as u64);
        }
        view.connected = view.connected.saturating_sub(1);
        if self.stage == Stage::Joined {
            for sub in subs {
                view.leave(sub.room, sub.next);
            }
        }
    }
}
