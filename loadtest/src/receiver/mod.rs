//! One client without its socket: bytes in, counts and replies out.
//!
//! ```text
//! Connecting ─▶ Upgrading ─▶ Joining ─▶ Joined ─▶ Closed | Reset
//!     ▲                        │ ▲        │
//!     │            Recovering ◀┘ └ Aside  ▼ (slow readers stay aside)
//!     └────────────────── Away ◀──── Leaving
//! ```

mod rooms;
#[cfg(test)]
mod tests;

use crate::frame::{self, Header};
use crate::message::{self, Notice};
use crate::subs::{Sub, Subs};
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
        let audit = view.audit_of(self.role);
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

    #[inline]
    fn handle_frame(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        if header.first == frame::TEXT
            && self.stage == Stage::Joined
            && let Subs::One(sub) = &mut self.subs
            && let Some(room) = view.rooms.get(sub.room as usize)
            && let Some((offset, after)) = room.prefix.offset(payload)
        {
            view.frame_bytes = header.frame_bytes();
            if !view.pen.is_intact(&room.prefix, after) {
                view.audit.altered(offset);
            }
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
                    view.check_payload(self.role, room, offset, after);
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
                    if !view.pen.is_number_intact(payload) {
                        view.audit.altered(number);
                    }
                    let sub = self.subs.of(publisher);
                    match (sub, view.dialect) {
                        (Some(sub), Dialect::Echo) => {
                            view.deliver_own(sub, number, stamp_ns, now_ns);
                            self.handle_answer(now_ns, view);
                        }
                        (Some(sub), _) => view.deliver(sub, number, || Some(stamp_ns), now_ns),
                        (None, _) => view
                            .audit
                            .fault("a message of a publisher that is not ours"),
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
                let audit = view.audit_of(self.role);
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
            view.check_payload(self.role, room, offset, after);
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
        let audit = view.audit_of(self.role);
        *audit.errors.entry(code).or_default() += 1;
        audit
            .first_fault
            .get_or_insert(format!("error {code}: {message}"));
        if self.stage == Stage::Joining {
            // Refused: there is nothing to wait for.
            self.end(Stage::Reset, view);
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
