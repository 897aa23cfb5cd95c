//! What the clients of one worker share: rooms, counts, and what is to be sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::audit::Audit;
use crate::message::{Pen, Prefix};
use crate::progress::Progress;
use crate::receiver::Role;
use crate::settings::JoinBy;
use crate::subs::Sub;
use crate::tally::{Counts, Timed, Times, latency_histogram};

/// How messages look, and how a client gets into its rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Tidewheel's: rooms are joined so.
    Rooms(JoinBy),
    /// Bare messages that the harness has numbered; a room stands for a publisher.
    Numbered,
    /// The same, each client hearing itself alone.
    Echo,
}

/// A room as one worker sees it.
pub struct RoomView {
    /// Its name, which needs no escapes.
    pub name: Box<str>,
    /// Its number in the run.
    pub global: u32,
    /// What its messages begin with.
    pub prefix: Prefix,
    /// How far this worker's clients are.
    pub progress: Progress,
    /// The completion last noted in [`View::advanced`].
    noted: u64,
    /// The newest offset that an answer to a publish has told.
    pub newest: u64,
}

impl RoomView {
    /// A room nobody has joined yet, tracking the newest `slots` offsets.
    pub fn new(name: &str, global: u32, slots: usize) -> RoomView {
        RoomView {
            name: name.into(),
            global,
            prefix: Prefix::new(name),
            progress: Progress::new(slots),
            noted: 0,
            newest: 0,
        }
    }
}

/// What one visitor has done, for watchers on whichever worker.
#[derive(Debug, Default)]
pub struct Visit {
    /// When it last came or went: the intended time in nanoseconds, times two, plus one for a join.
    pub last: AtomicU64,
    /// How often it did.
    pub count: AtomicU64,
}

/// All visitors, by number.
pub type Visits = Arc<[Visit]>;

/// What the clients of one worker share.
pub struct View {
    /// The rooms in use here.
    pub rooms: Vec<RoomView>,
    /// Their numbers by name; empty where every client is in one room only.
    pub by_name: HashMap<Box<[u8]>, u32>,
    /// Names of epochs that the server has told, and their numbers.
    pub epochs: Vec<Box<str>>,
    epoch_numbers: HashMap<Box<str>, u32>,
    /// What those saw that are to get everything.
    pub audit: Audit,
    /// What slow readers saw.
    pub slow_audit: Audit,
    /// Latencies in microseconds of the messages sent at or after `measure_from_ns`.
    pub latency_us: Histogram<u64>,
    /// Other times.
    pub times: Times,
    /// Other counts.
    pub counts: Counts,
    /// When the window of measurement began.
    pub measure_from_ns: u64,
    /// What the client at hand wants to send.
    pub out: Vec<u8>,
    /// Upgrades done so far, returns included.
    pub upgrades: u64,
    /// Connections open.
    pub connected: u64,
    /// Subscriptions in force.
    pub joined: u64,
    /// Bytes of the newest message frame, header included.
    pub frame_bytes: usize,
    /// How messages look.
    pub dialect: Dialect,
    /// Writes what clients publish.
    pub pen: Pen,
    /// Clients publish anew as soon as an answer comes.
    pub refills: bool,
    /// Rooms whose completion has moved.
    pub advanced: Vec<u32>,
    /// Offsets up to which clients that came back must be served before they have caught up, by
    /// client: rooms and offsets.
    pub catching_up: HashMap<u32, Vec<(u32, u64)>>,
    /// When visitors came and went.
    pub visits: Visits,
}

impl View {
    /// A view in which nothing has happened.
    pub fn new(
        rooms: Vec<RoomView>,
        dialect: Dialect,
        payload_bytes: usize,
        visits: Visits,
    ) -> anyhow::Result<View> {
        Ok(View {
            rooms,
            by_name: HashMap::new(),
            epochs: Vec::new(),
            epoch_numbers: HashMap::new(),
            audit: Audit::default(),
            slow_audit: Audit::default(),
            latency_us: latency_histogram()?,
            times: Times::default(),
            counts: Counts::default(),
            measure_from_ns: u64::MAX,
            out: Vec::new(),
            upgrades: 0,
            connected: 0,
            joined: 0,
            frame_bytes: 0,
            dialect,
            pen: Pen::new(payload_bytes),
            refills: false,
            advanced: Vec::new(),
            catching_up: HashMap::new(),
            visits,
        })
    }

    /// Lets rooms be found by their names: for clients in several of them.
    pub fn name_rooms(&mut self) {
        let rooms = self.rooms.iter().enumerate();
        self.by_name = rooms
            .map(|(number, room)| (room.name.as_bytes().into(), number as u32))
            .collect();
    }

    /// The number of a room that one of a client's `subs` is of.
    #[inline]
    pub fn room_number(&self, name: &[u8], subs: &[Sub]) -> Option<u32> {
        if let Some(number) = self.by_name.get(name) {
            return Some(*number);
        }
        let mut numbers = subs.iter().map(|sub| sub.room);
        numbers.find(|number| {
            let room = self.rooms.get(*number as usize);
            room.is_some_and(|room| room.name.as_bytes() == name)
        })
    }

    /// Where a client of this role is audited.
    pub fn audit_of(&mut self, role: Role) -> &mut Audit {
        if role.is_slow() {
            &mut self.slow_audit
        } else {
            &mut self.audit
        }
    }

    /// The number of an epoch.
    pub fn epoch_number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.epoch_numbers.get(name) {
            return *number;
        }
        let number = self.epochs.len() as u32;
        self.epochs.push(name.into());
        self.epoch_numbers.insert(name.into(), number);
        number
    }

    /// Holds what follows the offset of a message against what is published to its room.
    #[inline]
    pub fn check_payload(&mut self, role: Role, room: u32, offset: u64, after_offset: &[u8]) {
        let prefix = self.rooms.get(room as usize).map(|room| &room.prefix);
        if !prefix.is_some_and(|prefix| self.pen.is_intact(prefix, after_offset)) {
            self.audit_of(role).altered(offset);
        }
    }

    /// A client in good standing got `offset` in the room of `sub`.
    #[inline]
    pub fn deliver(
        &mut self,
        sub: &mut Sub,
        offset: u64,
        stamp: impl FnOnce() -> Option<u64>,
        now_ns: u64,
    ) {
        let Some(room) = self.rooms.get_mut(sub.room as usize) else {
            return;
        };
        if offset != sub.next {
            self.audit.out_of_sequence(sub.next, offset);
            if offset < sub.next {
                return;
            }
            room.progress.skip(sub.next, offset - 1);
        }
        sub.next = offset.saturating_add(1);
        self.audit.delivered += 1;
        if let Some(sent_ns) = room.progress.receive(offset, stamp)
            && sent_ns >= self.measure_from_ns
        {
            self.latency_us
                .saturating_record(now_ns.saturating_sub(sent_ns) / 1_000);
        }
        if room.progress.completed() != room.noted {
            room.noted = room.progress.completed();
            self.advanced.push(sub.room);
        }
    }

    /// A client got back what it sent itself: its numbers are its own, so that the room, in which
    /// others have the same numbers for other messages, says nothing about it.
    pub fn deliver_own(&mut self, sub: &mut Sub, number: u64, stamp_ns: u64, now_ns: u64) {
        if number != sub.next {
            self.audit.out_of_sequence(sub.next, number);
            if number < sub.next {
                return;
            }
        }
        sub.next = number.saturating_add(1);
        self.audit.delivered += 1;
        if stamp_ns >= self.measure_from_ns {
            self.latency_us
                .saturating_record(now_ns.saturating_sub(stamp_ns) / 1_000);
        }
    }

    /// Announced: a client in good standing will not get `from..=to`.
    pub fn skip(&mut self, room: u32, from: u64, to: u64) {
        if let Some(view) = self.rooms.get_mut(room as usize) {
            view.progress.skip(from, to);
            self.advanced.push(room);
        }
    }

    /// A client in good standing that had everything below `next` is gone.
    pub fn leave(&mut self, room: u32, next: u64) {
        if let Some(view) = self.rooms.get_mut(room as usize) {
            view.progress.leave(next);
            self.advanced.push(room);
        }
    }

    /// A watcher was told that a visitor came or went.
    pub fn note_presence(&mut self, user_id: &str, is_join: bool, now_ns: u64) {
        let number = user_id.strip_prefix(VISITOR).and_then(|it| it.parse().ok());
        let Some(visit) = number.and_then(|number: usize| self.visits.get(number)) else {
            // A watcher or a stranger.
            return;
        };
        self.counts.presence_events += 1;
        let visit = visit.last.load(Ordering::Relaxed);
        // The visitor may have turned round since: then nobody knows the time any more.
        if (visit & 1 == 1) == is_join && visit >> 1 >= self.measure_from_ns {
            self.times.record(Timed::Presence, visit >> 1, now_ns);
        }
    }
}

/// What the user names of visitors begin with; their number follows.
pub const VISITOR: &str = "visitor-";
