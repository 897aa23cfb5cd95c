//! One subscriber without its socket: bytes in, counts and replies out.
//!
//! ```text
//! Connecting ─▶ Upgrading ─▶ Joining ─▶ Joined ─▶ Closed | Reset
//! ```

use hdrhistogram::Histogram;

use crate::audit::Audit;
use crate::frame::{self, Header};
use crate::message::{self, Notice, Prefix};
use crate::progress::Progress;

/// RFC 6455 §1.3's example key and its answer: the same for every connection, so that both ends
/// compare and do not compute.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A longer response head is taken for a fault.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Latencies above this count as this: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// How a connection gets into its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum JoinBy {
    /// `GET /ws`, then a `join_room` message.
    Message,
    /// `GET /ws/{room}`.
    Path,
}

/// Where a subscriber stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// TCP is not up, or the request has not left.
    Connecting,
    /// The request has left.
    Upgrading,
    /// A WebSocket connection that is in no room yet.
    Joining,
    /// In its room.
    Joined,
    /// Ended by a close frame.
    Closed,
    /// Ended without one.
    Reset,
}

/// A room as one worker sees it.
pub struct RoomView {
    name: String,
    prefix: Prefix,
    /// How far this worker's receivers are.
    pub progress: Progress,
}

impl RoomView {
    /// A room nobody has joined yet, tracking the newest `slots` offsets.
    pub fn new(name: &str, slots: usize) -> RoomView {
        let prefix = Prefix::new(name);
        RoomView {
            name: name.to_owned(),
            prefix,
            progress: Progress::new(slots),
        }
    }
}

/// What the receivers of one worker share.
pub struct View {
    /// The rooms, in the order of the plan.
    pub rooms: Vec<RoomView>,
    /// What the receivers saw.
    pub audit: Audit,
    /// Latencies in microseconds of the messages sent at or after `measure_from_ns`.
    pub latency_us: Histogram<u64>,
    /// When the window of measurement began.
    pub measure_from_ns: u64,
    /// What the receiver at hand wants to send.
    pub out: Vec<u8>,
    /// Upgrades done so far.
    pub connected: u64,
    /// Joins done so far.
    pub joined: u64,
    /// Bytes of the newest message frame, header included.
    pub frame_bytes: usize,
    /// How connections get into their room.
    pub join: JoinBy,
}

impl View {
    /// A view in which nothing has happened.
    pub fn new(rooms: Vec<RoomView>, join: JoinBy) -> anyhow::Result<View> {
        Ok(View {
            rooms,
            audit: Audit::default(),
            latency_us: latency_histogram()?,
            measure_from_ns: u64::MAX,
            out: Vec::new(),
            connected: 0,
            joined: 0,
            frame_bytes: 0,
            join,
        })
    }
}

/// An empty histogram of microseconds up to a minute, to three digits.
pub fn latency_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

/// One subscriber.
///
/// Invariant: once joined, every offset below `next` was received or announced as missed, or the
/// audit has counted it.
pub struct Receiver {
    /// Where it stands.
    pub stage: Stage,
    room: u32,
    next: u64,
}

impl Receiver {
    /// A subscriber-to-be of the view's room number `room`.
    pub fn new(room: u32) -> Receiver {
        Receiver {
            stage: Stage::Connecting,
            room,
            next: 0,
        }
    }

    /// Index of its room in the view.
    pub fn room(&self) -> usize {
        self.room as usize
    }

    /// True where it has `last` already, or never will.
    pub fn is_settled(&self, last: u64) -> bool {
        self.is_ended() || (self.stage == Stage::Joined && self.next > last)
    }

    /// True where no byte is to come any more.
    pub fn is_ended(&self) -> bool {
        matches!(self.stage, Stage::Closed | Stage::Reset)
    }

    /// Takes in what arrived at `now_ns`; returns how many bytes at the end await more.
    pub fn handle_bytes(&mut self, bytes: &[u8], now_ns: u64, view: &mut View) -> usize {
        let mut rest = bytes;
        if self.stage == Stage::Upgrading {
            match self.handle_head(bytes, view) {
                Some(after_head) => rest = after_head,
                None => return if self.is_ended() { 0 } else { bytes.len() },
            }
        }
        while let Some((header, payload, after)) = frame::split(rest) {
            rest = after;
            self.handle_frame(header, payload, now_ns, view);
            if self.is_ended() {
                return 0;
            }
        }
        rest.len()
    }

    /// The connection ended without a close frame.
    pub fn handle_reset(&mut self, view: &mut View) {
        self.end(Stage::Reset, view);
    }

    /// Counts what it lacks where its room's last offset was `last`.
    pub fn settle(&self, last: u64, audit: &mut Audit) {
        let lacking = (last + 1).saturating_sub(self.next);
        match self.stage {
            Stage::Joined => audit.missing_at_end += lacking,
            Stage::Closed => audit.undelivered_closed += lacking,
            Stage::Reset => {
                audit.resets += 1;
                audit.undelivered_reset += lacking;
            }
            Stage::Connecting | Stage::Upgrading | Stage::Joining => {
                audit.fault("a receiver never joined");
            }
        }
    }

    /// Reads the response head; `None` where it is not all there, or refuses us.
    fn handle_head<'a>(&mut self, bytes: &'a [u8], view: &mut View) -> Option<&'a [u8]> {
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
        self.stage = Stage::Joining;
        view.connected += 1;
        if view.join == JoinBy::Message
            && let Some(room) = view.rooms.get(self.room as usize)
        {
            message::write_join(&room.name, &mut view.out);
        }
        Some(rest)
    }

    #[inline]
    fn handle_frame(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        if header.first == frame::TEXT
            && self.stage == Stage::Joined
            && let Some(room) = view.rooms.get(self.room as usize)
            && let Some((offset, after)) = room.prefix.offset(payload)
        {
            view.frame_bytes = header.frame_bytes();
            self.handle_message(offset, || message::stamp_ns(after), now_ns, view);
        } else {
            self.handle_rare_frame(header, payload, now_ns, view);
        }
    }

    #[inline]
    fn handle_message(
        &mut self,
        offset: u64,
        stamp: impl FnOnce() -> Option<u64>,
        now_ns: u64,
        view: &mut View,
    ) {
        let Some(room) = view.rooms.get_mut(self.room as usize) else {
            return;
        };
        if offset != self.next {
            view.audit.out_of_sequence(self.next, offset);
            if offset < self.next {
                return;
            }
            room.progress.skip(self.next, offset - 1);
        }
        self.next = offset.saturating_add(1);
        view.audit.delivered += 1;
        if let Some(sent_ns) = room.progress.receive(offset, stamp)
            && sent_ns >= view.measure_from_ns
        {
            view.latency_us
                .saturating_record(now_ns.saturating_sub(sent_ns) / 1_000);
        }
    }

    fn handle_rare_frame(&mut self, header: Header, payload: &[u8], now_ns: u64, view: &mut View) {
        match header.first {
            frame::TEXT => self.handle_notice(payload, now_ns, view),
            frame::PING => frame::write_masked(frame::PONG, payload, &mut view.out),
            frame::PONG => {}
            frame::CLOSE => {
                // RFC 6455 §7.1.5: a close frame without a body counts as 1005.
                let code = payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code));
                *view.audit.closes.entry(code).or_default() += 1;
                frame::write_masked(frame::CLOSE, payload, &mut view.out);
                self.end(Stage::Closed, view);
            }
            first => {
                let begin = payload.get(..payload.len().min(48)).unwrap_or_default();
                let next = self.next;
                view.audit.fault(&format!(
                    "a frame that begins with {first:#04x}, of {} bytes, before offset {next}: {}",
                    header.payload_bytes,
                    begin.escape_ascii()
                ));
                // Nothing after it can be trusted.
                self.end(Stage::Reset, view);
            }
        }
    }

    fn handle_notice(&mut self, payload: &[u8], now_ns: u64, view: &mut View) {
        match message::parse(payload) {
            Some(Notice::Joined { room, offset }) => self.handle_joined(&room, offset, view),
            Some(Notice::Message { offset, stamp_ns }) if self.stage == Stage::Joined => {
                view.audit.unusual_form += 1;
                self.handle_message(offset, || stamp_ns, now_ns, view);
            }
            Some(Notice::Message { .. }) => view.audit.fault("a message before room_joined"),
            Some(Notice::Missed { from, to }) => self.handle_missed(from, to, view),
            Some(Notice::Error { code, message }) => {
                *view.audit.errors.entry(code).or_default() += 1;
                view.audit
                    .first_fault
                    .get_or_insert(format!("error {code}: {message}"));
                if self.stage == Stage::Joining {
                    // Refused: there is nothing to wait for.
                    self.end(Stage::Reset, view);
                }
            }
            Some(Notice::Other) => {}
            None => view
                .audit
                .fault("a text frame that is no message of the protocol"),
        }
    }

    fn handle_joined(&mut self, name: &str, offset: u64, view: &mut View) {
        match view.rooms.get_mut(self.room as usize) {
            Some(room) if room.name == name && self.stage == Stage::Joining => {
                room.progress.join(offset);
                self.next = offset.saturating_add(1);
                self.stage = Stage::Joined;
                view.joined += 1;
                view.audit.receivers += 1;
            }
            _ => view.audit.fault("room_joined for a room not asked for"),
        }
    }

    fn handle_missed(&mut self, from: u64, to: u64, view: &mut View) {
        let Some(room) = view.rooms.get_mut(self.room as usize) else {
            return;
        };
        if self.stage != Stage::Joined || from != self.next || to < from {
            view.audit.announced_wrongly += 1;
            return;
        }
        view.audit.announced_missed += (to - from).saturating_add(1);
        room.progress.skip(from, to);
        self.next = to.saturating_add(1);
    }

    fn end(&mut self, stage: Stage, view: &mut View) {
        if self.stage == Stage::Joined
            && let Some(room) = view.rooms.get_mut(self.room as usize)
        {
            room.progress.leave(self.next);
        }
        if !self.is_ended() {
            self.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new(vec![RoomView::new("load", 64)], JoinBy::Message).unwrap()
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
        let mut receiver = Receiver::new(0);
        receiver.stage = Stage::Upgrading;
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
        receiver.settle(7, &mut view.audit);
        assert!(receiver.is_settled(7) && view.audit.failures(false).is_empty());
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
            let mut receiver = Receiver::new(0);
            receiver.stage = Stage::Upgrading;
            let left = receiver.handle_bytes(&wire[..cut], 0, &mut view);
            assert_eq!(receiver.handle_bytes(&wire[cut - left..], 0, &mut view), 0);
            receiver.settle(2, &mut view.audit);
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
            receiver.settle(8, &mut view.audit);
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
            receiver.settle(9, &mut view.audit);
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
        receiver.settle(9, &mut closed.audit);
        assert!(closed.audit.failures(false).is_empty());
        assert_eq!(
            (closed.audit.closes[&4101], closed.audit.undelivered_closed),
            (1, 5)
        );

        let mut reset = view();
        let mut receiver = joined_receiver(&mut reset);
        receiver.handle_reset(&mut reset);
        receiver.settle(9, &mut reset.audit);
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
        let mut receiver = Receiver::new(0);
        receiver.stage = Stage::Upgrading;
        let full =
            text(r#"{"type":"error","room":"load","payload":{"code":4008,"message":"full"}}"#);
        receiver.handle_bytes(&[head(), full].concat(), 0, &mut view);
        assert!(receiver.is_ended() && view.audit.errors[&4008] == 1);
    }

    #[test]
    fn a_refused_upgrade_ends_the_receiver_with_a_fault() {
        let mut view = view();
        let mut receiver = Receiver::new(0);
        receiver.stage = Stage::Upgrading;
        receiver.handle_bytes(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 0, &mut view);
        assert!(receiver.is_ended() && view.audit.faults == 1);
    }
}
