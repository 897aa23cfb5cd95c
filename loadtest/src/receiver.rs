//! One client without its socket: bytes in, counts and replies out.
//!
//! ```text
//! Connecting ─▶ Upgrading ─▶ Joining ─▶ Joined ─▶ Closed | Reset
//!     ▲                        │ ▲        │
//!     │            Recovering ◀┘ └ Aside  ▼ (slow readers stay aside)
//!     └────────────────── Away ◀──── Leaving
//! ```

use crate::frame::{self, Header};
use crate::message::{self, Notice, Wish};
use crate::settings::JoinBy;
use crate::subs::{Sub, Subs};
use crate::tally::Timed;
use crate::view::{Dialect, View};

/// RFC 6455 §1.3's example key and its answer: the same for every connection, so that both ends
/// compare and do not compute.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A longer response head is taken for a fault.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads all it gets, may publish, may drop and come back.
    Member,
    /// Reads all it gets in the large room.
    Listener,
    /// Joins and stops reading.
    Stalled,
    /// Reads a few bytes at a time.
    Trickling,
    /// Stops reading midway.
    Stopping,
    /// Wants to be told who comes and goes.
    Watcher,
    /// Comes and goes.
    Visitor,
}

impl Role {
    /// True for those that may be cut off.
    pub fn is_slow(self) -> bool {
        matches!(self, Role::Stalled | Role::Trickling | Role::Stopping)
    }
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// TCP is not up, or the request has not left.
    Connecting,
    /// The request has left.
    Upgrading,
    /// A WebSocket connection that is not in all its rooms yet.
    Joining,
    /// Back in its rooms, and not up to date yet.
    Recovering,
    /// In its rooms.
    Joined,
    /// In its rooms as a slow reader: nobody waits for it, nothing is timed.
    Aside,
    /// We have sent a close frame.
    Leaving,
    /// Dropped by ourselves; it will come back.
    Away,
    /// Ended by the server's close frame.
    Closed,
    /// Ended without one.
    Reset,
}

impl Stage {
    /// True from the connect until the last room is joined.
    pub fn is_arriving(self) -> bool {
        matches!(self, Stage::Connecting | Stage::Upgrading | Stage::Joining)
    }

    /// True where no byte is to come any more.
    pub fn is_ended(self) -> bool {
        matches!(self, Stage::Closed | Stage::Reset)
    }
}

/// One client.
pub struct Receiver {
    /// Where it stands.
    pub stage: Stage,
    /// What it is there for.
    pub role: Role,
    /// Publishes that are not answered yet; of a visitor, 1 while a join or leave is not.
    pub in_flight: u16,
    joins_due: u16,
    /// Its number on this worker.
    pub number: u32,
    /// Its rooms.
    pub subs: Subs,
    /// Publishes sent.
    pub sent: u64,
    /// When its connect was due.
    pub since_ns: u64,
}

impl Receiver {
    /// A client-to-be.
    pub fn new(number: u32, role: Role, subs: Subs) -> Receiver {
        Receiver {
            stage: Stage::Connecting,
            role,
            in_flight: 0,
            joins_due: 0,
            number,
            subs,
            sent: 0,
            since_ns: 0,
        }
    }

    /// True where no byte is to come any more.
    pub fn is_ended(&self) -> bool {
        self.stage.is_ended()
    }

    /// True where it has every room's `last` already, or never will.
    pub fn is_settled(&self, last: impl Fn(u32) -> u64) -> bool {
        let has_all = |sub: &Sub| sub.next > last(sub.room);
        match self.stage {
            Stage::Joined if self.role == Role::Visitor => self.in_flight == 0,
            Stage::Joined | Stage::Aside => self.subs.as_slice().iter().all(has_all),
            stage => stage.is_ended(),
        }
    }

    /// Takes in what arrived at `now_ns`; returns how many bytes at the end await more.
    pub fn handle_bytes(&mut self, bytes: &[u8], now_ns: u64, view: &mut View) -> usize {
        let mut rest = bytes;
        if self.stage == Stage::Upgrading {
            match self.handle_head(bytes, now_ns, view) {
                Some(after_head) => rest = after_head,
                None => return if self.is_ended() { 0 } else { bytes.len() },
            }
        }
        while let Some((header, payload, after)) = frame::split(rest) {
            rest = after;
            self.handle_frame(header, payload, now_ns, view);
            if self.is_ended() || self.stage == Stage::Away {
                return 0;
            }
        }
        rest.len()
    }

    /// The connection ended without a close frame.
    pub fn handle_reset(&mut self, view: &mut View) {
        if self.stage == Stage::Leaving {
            // We had said farewell: whether the answer came does not matter.
            self.stage = Stage::Away;
            return;
        }
        self.end(Stage::Reset, view);
    }

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

    /// Appends a publish to one of its rooms, which it takes in turn.
    pub fn publish(&mut self, stamp_ns: u64, view: &mut View) {
        // Zero stands for an unknown time.
        let stamp_ns = stamp_ns.max(1);
        let subs = self.subs.as_slice();
        let turn = usize::try_from(self.sent).unwrap_or(0) % subs.len().max(1);
        self.sent += 1;
        self.in_flight = self.in_flight.saturating_add(1);
        view.counts.published += 1;
        if view.dialect == Dialect::Echo {
            view.pen.number(0, self.sent, stamp_ns, &mut view.out);
        } else if let Some(sub) = subs.get(turn)
            && let Some(room) = view.rooms.get(sub.room as usize)
        {
            view.pen.publish(&room.name, stamp_ns, &mut view.out);
        }
    }

    /// Counts what it lacks where its rooms' last offsets were `last`.
    pub fn settle(&self, last: impl Fn(u32) -> u64, view: &mut View) {
        let is_echo = view.dialect == Dialect::Echo;
        let audit = if self.role.is_slow() {
            &mut view.slow_audit
        } else {
            &mut view.audit
        };
        let due = |sub: &Sub| if is_echo { self.sent } else { last(sub.room) };
        let rooms = self.subs.as_slice().iter().filter(|sub| sub.next > 0);
        let lacking: u64 = rooms
            .map(|sub| (due(sub) + 1).saturating_sub(sub.next))
            .sum();
        match self.stage {
            Stage::Joined if self.role == Role::Visitor => {}
            Stage::Joined | Stage::Aside => audit.missing_at_end += lacking,
            Stage::Closed => audit.undelivered_closed += lacking,
            Stage::Reset => {
                audit.resets += 1;
                audit.undelivered_reset += lacking;
            }
            Stage::Connecting | Stage::Upgrading | Stage::Joining => {
                audit.fault("a client never joined");
            }
            Stage::Recovering => audit.fault("a client that came back never caught up"),
            Stage::Leaving | Stage::Away => audit.fault("a client never came back"),
        }
    }

    /// Reads the response head; `None` where it is not all there, or refuses us.
    fn handle_head<'a>(
        &mut self,
        bytes: &'a [u8],
        now_ns: u64,
        view: &mut View,
    ) -> Option<&'a [u8]> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some((head, rest)) = end.and_then(|at| bytes.split_at_checked(at + 4)) else {
            if bytes.len() > HEAD_BYTES_MAX {
                view.audit.fault("a response head that does not end");
                self.end(Stage::Reset, view);
            }
            return None;
        };
        let head = String::from_utf8_lossy(head);
        if !head.starts_with("HTTP/1.1 101") || !head.contains(ACCEPT) {
            view.audit.fault(&format!(
                "upgrade refused: {}",
                head.lines().next().unwrap_or("")
            ));
            self.end(Stage::Reset, view);
            return None;
        }
        self.handle_upgraded(now_ns, view);
        Some(rest)
    }

    fn handle_upgraded(&mut self, now_ns: u64, view: &mut View) {
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

    #[inline]
    fn handle_frame(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        if header.first == frame::TEXT
            && self.stage == Stage::Joined
            && let Subs::One(sub) = &mut self.subs
            && let Some(room) = view.rooms.get(sub.room as usize)
            && let Some((offset, after)) = room.prefix.offset(payload)
        {
            view.frame_bytes = header.frame_bytes();
            view.deliver(sub, offset, || message::stamp_ns(after), now_ns);
        } else if header.first == frame::TEXT && self.stage == Stage::Joined {
            self.handle_text(header, payload, now_ns, view);
        } else {
            self.handle_rare_frame(header, payload, now_ns, view);
        }
    }

    /// A message of one of several rooms, or of a server without rooms, or an answer.
    fn handle_text(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        match view.dialect {
            Dialect::Rooms(_) => {
                if let Subs::Many(subs) = &self.subs
                    && let Some((name, offset, after)) = message::any_room(payload)
                    && let Some(room) = view.room_number(name, subs)
                    && let Some(sub) = self.subs.of(room).filter(|sub| sub.next > 0)
                {
                    view.frame_bytes = header.frame_bytes();
                    view.deliver(sub, offset, || message::stamp_ns(after), now_ns);
                } else if message::is_message_sent(payload) {
                    self.handle_sent(payload, now_ns, view);
                } else {
                    self.handle_notice(payload, now_ns, view);
                }
            }
            Dialect::Numbered | Dialect::Echo => match message::numbered(payload) {
                Some((publisher, number, stamp_ns)) => {
                    view.frame_bytes = header.frame_bytes();
                    if let Some(sub) = self.subs.of(publisher) {
                        view.deliver(sub, number, || Some(stamp_ns), now_ns);
                    }
                    if view.dialect == Dialect::Echo {
                        self.handle_answer(now_ns, view);
                    }
                }
                None => view.audit.fault("a message that is none of ours"),
            },
        }
    }

    fn handle_sent(&mut self, payload: &[u8], now_ns: u64, view: &mut View) {
        if let Some((name, offset)) = message::message_sent(payload)
            && let Some(room) = view.room_number(name, self.subs.as_slice())
            && let Some(room) = view.rooms.get_mut(room as usize)
        {
            room.newest = room.newest.max(offset);
        } else {
            view.audit.fault("an answer to a publish of unknown form");
        }
        self.handle_answer(now_ns, view);
    }

    fn handle_answer(&mut self, now_ns: u64, view: &mut View) {
        view.counts.answered += 1;
        self.in_flight = self.in_flight.saturating_sub(1);
        if view.refills && self.role == Role::Member && self.stage == Stage::Joined {
            self.publish(now_ns, view);
        }
    }

    fn handle_rare_frame(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        match header.first {
            frame::TEXT => self.handle_rare_text(header, payload, now_ns, view),
            frame::PING => frame::write_masked(frame::PONG, payload, &mut view.out),
            frame::PONG => {}
            frame::CLOSE if self.stage == Stage::Leaving => self.stage = Stage::Away,
            frame::CLOSE => {
                // RFC 6455 §7.1.5: a close frame without a body counts as 1005.
                let code = payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code));
                let audit = if self.role.is_slow() {
                    &mut view.slow_audit
                } else {
                    &mut view.audit
                };
                *audit.closes.entry(code).or_default() += 1;
                frame::write_masked(frame::CLOSE, payload, &mut view.out);
                self.end(Stage::Closed, view);
            }
            first => {
                let begin = payload.get(..payload.len().min(48)).unwrap_or_default();
                view.audit.fault(&format!(
                    "a frame that begins with {first:#04x}, of {} bytes: {}",
                    header.payload_bytes,
                    begin.escape_ascii()
                ));
                // Nothing after it can be trusted.
                self.end(Stage::Reset, view);
            }
        }
    }

    /// Text to a client that is not simply joined.
    fn handle_rare_text(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        if view.dialect == Dialect::Numbered && self.stage != Stage::Leaving {
            return self.handle_text(header, payload, now_ns, view);
        }
        if let Some((name, offset, after)) = message::any_room(payload)
            && let Some(room) = view.room_number(name, self.subs.as_slice())
        {
            return self.deliver_aside(room, offset, message::stamp_ns(after), now_ns, view);
        }
        if message::is_message_sent(payload) {
            if self.stage != Stage::Leaving {
                self.handle_sent(payload, now_ns, view);
            }
            return;
        }
        self.handle_notice(payload, now_ns, view);
    }

    fn handle_notice(&mut self, payload: &[u8], now_ns: u64, view: &mut View) {
        match message::parse(payload) {
            Some(Notice::Joined {
                room,
                offset,
                epoch,
                recovered,
            }) => self.handle_joined(&room, offset, &epoch, recovered, now_ns, view),
            Some(Notice::Message {
                room,
                offset,
                stamp_ns,
            }) => {
                view.audit.unusual_form += 1;
                match view.room_number(room.as_bytes(), self.subs.as_slice()) {
                    Some(room) => self.deliver_aside(room, offset, stamp_ns, now_ns, view),
                    None => view.audit.fault("a message of a room not asked for"),
                }
            }
            Some(Notice::Missed { room, from, to }) => {
                let room = view.room_number(room.as_bytes(), self.subs.as_slice());
                self.handle_missed(room, from, to, view);
            }
            Some(Notice::Error { code, message }) => self.handle_error(code, &message, view),
            Some(Notice::Presence { user_id, is_join }) => {
                view.note_presence(&user_id, is_join, now_ns);
            }
            Some(Notice::Summary { joined, left }) => {
                view.counts.presence_summaries += 1;
                view.counts.presence_summed += joined + left;
            }
            Some(Notice::Left) => self.in_flight = 0,
            Some(Notice::Other) => {}
            None => view
                .audit
                .fault("a text frame that is no message of the protocol"),
        }
    }

    fn handle_error(&mut self, code: u64, message: &str, view: &mut View) {
        let audit = if self.role.is_slow() {
            &mut view.slow_audit
        } else {
            &mut view.audit
        };
        *audit.errors.entry(code).or_default() += 1;
        audit
            .first_fault
            .get_or_insert(format!("error {code}: {message}"));
        if self.stage == Stage::Joining {
            // Refused: there is nothing to wait for.
            self.end(Stage::Reset, view);
        }
    }

    /// A message to a client that nobody waits for, or that is not everywhere yet.
    fn deliver_aside(
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
        let audit = if self.role.is_slow() {
            &mut view.slow_audit
        } else {
            &mut view.audit
        };
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

    fn handle_joined(
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
    fn enter(&mut self, index: usize, offset: u64, view: &mut View) {
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
    fn reenter(
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
            view.counts.other_epoch += u64::from(is_other_epoch);
            view.counts.lost_to_history += (offset + 1).saturating_sub(sub.next);
            sub.next = offset.saturating_add(1);
        }
        let due = (sub.room, offset);
        view.catching_up.entry(self.number).or_default().push(due);
    }

    /// In all its rooms.
    fn note_joins(&mut self, now_ns: u64, view: &mut View) {
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
    fn note_caught_up(&mut self, now_ns: u64, view: &mut View) {
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

    fn handle_missed(&mut self, room: Option<u32>, from: u64, to: u64, view: &mut View) {
        let is_joined = matches!(self.stage, Stage::Joined | Stage::Aside);
        let sub = room.and_then(|room| self.subs.of(room));
        let is_slow = self.role.is_slow();
        let audit = if is_slow {
            &mut view.slow_audit
        } else {
            &mut view.audit
        };
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

    /// It counts no longer where others wait for it.
    fn leave_rooms(&mut self, view: &mut View) {
        let subs = self.subs.as_slice();
        if matches!(self.stage, Stage::Joined | Stage::Aside) {
            view.joined = view.joined.saturating_sub(subs.len() as u64);
        }
        view.connected = view.connected.saturating_sub(1);
        if self.stage == Stage::Joined {
            for sub in subs {
                view.leave(sub.room, sub.next);
            }
        }
    }

    fn end(&mut self, stage: Stage, view: &mut View) {
        if self.is_ended() {
            return;
        }
        if !matches!(self.stage, Stage::Connecting | Stage::Upgrading) {
            self.leave_rooms(view);
        }
        view.counts.ended += 1;
        view.catching_up.remove(&self.number);
        self.stage = stage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::RoomView;

    fn view() -> View {
        let rooms = vec![RoomView::new("load", 0, 64)];
        let dialect = Dialect::Rooms(JoinBy::Message);
        View::new(rooms, dialect, 64, [].into()).unwrap()
    }

    fn receiver() -> Receiver {
        let mut receiver = Receiver::new(0, Role::Member, Subs::new(vec![0]));
        receiver.stage = Stage::Upgrading;
        receiver
    }

    fn settle(receiver: &Receiver, last: u64, view: &mut View) {
        receiver.settle(|_| last, view);
    }

    fn text(json: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        frame::write_unmasked(frame::TEXT, json.as_bytes(), &mut wire);
        wire
    }

    fn head() -> Vec<u8> {
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n").into()
    }

    fn joined_at(offset: u64) -> Vec<u8> {
        text(&format!(
            r#"{{"type":"room_joined","room":"load","payload":{{"offset":{offset}}}}}"#
        ))
    }

    fn message(offset: u64) -> Vec<u8> {
        text(&format!(
            r#"{{"type":"message","room":"load","offset":{offset},"payload":"00000000000000001000"}}"#
        ))
    }

    fn joined_receiver(view: &mut View) -> Receiver {
        let mut receiver = receiver();
        assert_eq!(
            receiver.handle_bytes(&[head(), joined_at(4)].concat(), 0, view),
            0
        );
        assert_eq!(receiver.stage, Stage::Joined);
        receiver
    }

    fn feed(receiver: &mut Receiver, view: &mut View, offsets: &[u64]) {
        for offset in offsets {
            receiver.handle_bytes(&message(*offset), 5_000, view);
        }
    }

    #[test]
    fn messages_in_order_pass_the_audit_and_are_timed() {
        let mut view = view();
        let mut receiver = joined_receiver(&mut view);
        view.measure_from_ns = 0;
        feed(&mut receiver, &mut view, &[5, 6, 7]);
        settle(&receiver, 7, &mut view);
        assert!(receiver.is_settled(|_| 7) && view.audit.failures(false).is_empty());
        assert_eq!(
            (
                view.audit.delivered,
                view.latency_us.len(),
                view.latency_us.max()
            ),
            (3, 3, 4)
        );
    }

    #[test]
    fn bytes_may_be_cut_anywhere() {
        let wire = [head(), joined_at(0), message(1), message(2)].concat();
        for cut in 0..wire.len() {
            let mut view = view();
            let mut receiver = receiver();
            let left = receiver.handle_bytes(&wire[..cut], 0, &mut view);
            assert_eq!(receiver.handle_bytes(&wire[cut - left..], 0, &mut view), 0);
            settle(&receiver, 2, &mut view);
            assert!(
                view.audit.failures(false).is_empty(),
                "cut at {cut}: {:?}",
                view.audit
            );
        }
    }

    #[test]
    fn a_gap_a_repeat_and_a_missing_end_fail_the_audit() {
        let cases: [&[u64]; 4] = [&[5, 7, 8], &[5, 6, 6, 7, 8], &[5, 6, 7, 8, 5], &[5, 6, 7]];
        for offsets in cases {
            let mut view = view();
            let mut receiver = joined_receiver(&mut view);
            feed(&mut receiver, &mut view, offsets);
            settle(&receiver, 8, &mut view);
            assert_eq!(
                view.audit.failures(false).len(),
                1,
                "{offsets:?}: {:?}",
                view.audit
            );
        }
    }

    #[test]
    fn messages_missed_explains_a_gap_only_where_it_follows_on() {
        for (from, passes) in [(5, true), (4, false), (6, false)] {
            let mut view = view();
            let mut receiver = joined_receiver(&mut view);
            let missed = format!(
                r#"{{"type":"messages_missed","room":"load","payload":{{"from":{from},"to":8}}}}"#
            );
            receiver.handle_bytes(&text(&missed), 0, &mut view);
            feed(&mut receiver, &mut view, &[9]);
            settle(&receiver, 9, &mut view);
            assert_eq!(
                view.audit.failures(false).is_empty(),
                passes,
                "{:?}",
                view.audit
            );
        }
    }

    #[test]
    fn a_close_code_explains_what_was_not_delivered_and_a_reset_does_not() {
        let mut close = Vec::new();
        frame::write_unmasked(frame::CLOSE, &4101u16.to_be_bytes(), &mut close);
        let mut closed = view();
        let mut receiver = joined_receiver(&mut closed);
        receiver.handle_bytes(&close, 0, &mut closed);
        settle(&receiver, 9, &mut closed);
        assert!(closed.audit.failures(false).is_empty());
        assert_eq!(
            (closed.audit.closes[&4101], closed.audit.undelivered_closed),
            (1, 5)
        );

        let mut reset = view();
        let mut receiver = joined_receiver(&mut reset);
        receiver.handle_reset(&mut reset);
        settle(&receiver, 9, &mut reset);
        assert_eq!(reset.audit.failures(false).len(), 1);
    }

    #[test]
    fn a_ping_is_answered_with_its_payload() {
        let mut view = view();
        let mut receiver = joined_receiver(&mut view);
        view.out.clear();
        let mut ping = Vec::new();
        frame::write_unmasked(frame::PING, b"abc", &mut ping);
        receiver.handle_bytes(&ping, 0, &mut view);
        let (header, _, _) = frame::split(&view.out).unwrap();
        assert_eq!((header.first, header.payload_bytes), (frame::PONG, 3));
    }

    #[test]
    fn a_refused_join_ends_the_receiver_with_its_code() {
        let mut view = view();
        let mut receiver = receiver();
        let full =
            text(r#"{"type":"error","room":"load","payload":{"code":4008,"message":"full"}}"#);
        receiver.handle_bytes(&[head(), full].concat(), 0, &mut view);
        assert!(receiver.is_ended() && view.audit.errors[&4008] == 1);
    }

    #[test]
    fn a_refused_upgrade_ends_the_receiver_with_a_fault() {
        let mut view = view();
        let mut receiver = receiver();
        receiver.handle_bytes(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 0, &mut view);
        assert!(receiver.is_ended() && view.audit.faults == 1);
    }
}
