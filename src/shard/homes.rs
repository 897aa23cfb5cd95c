//! The shard as the home of rooms: positions are given here, and what follows is told.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::address::{ConnectionRef, CoreId, RoomKey};
use crate::bus::{
    Append, Ask, BusMessage, Call, Full, Lane, PUBLISH_CREDITS, Peer, Position, Refused, Ticket,
    Unwelcome, Welcome,
};
use crate::frame::Note;
use crate::gate::Excess;
use crate::metrics::Origin;
use crate::protocol::json::encode;
use crate::protocol::{Code, Epoch, Event, Offset, Recover, Sender};
use crate::room::HomeRoom;
use crate::room::home::{Held, Published, Share, Upkeep};
use crate::shard::connection::Timer;
use crate::shard::ruling::Ruling;
use crate::shard::{Home, Shard, mix};

/// When a room is looked at again that would be forgotten, and has messages which wait for the disk.
const STAGED_AGAIN: Duration = Duration::from_millis(100);

/// What is published.
#[derive(Copy, Clone)]
pub(super) struct Publication<'a> {
    /// The application's JSON.
    pub payload: &'a [u8],
    /// The publisher's idempotency key.
    pub message_id: Option<&'a str>,
    /// Whether the publishing connection gets its own message.
    pub echo: bool,
}

/// Who publishes, and where the answer goes.
#[derive(Copy, Clone)]
pub(super) enum Publisher<'a> {
    /// A connection; what stands in the answer's metadata.
    Peer(&'a Peer, Option<&'a str>),
    /// The operator's backend: the message's place in a query.
    Backend(Ticket, u32),
}

/// How a connection is let into a room.
struct Entrance {
    /// How many messages to replay where nothing can be recovered.
    history: u32,
    /// The position from which to recover.
    recover: Option<Recover>,
    /// Whether presence updates are wanted; unchanged where not said.
    presence: Option<bool>,
    /// What others are told about the user: JSON.
    info: Option<Arc<[u8]>>,
    /// The credits that come back with the answer.
    credits: u16,
    /// The backend wants it.
    is_enlisted: bool,
}

impl Publisher<'_> {
    pub(super) fn sender(&self) -> Option<Sender<'_>> {
        match self {
            Publisher::Peer(peer, _) => Some(Sender {
                client_id: peer.client_id,
                user_id: &peer.user,
            }),
            Publisher::Backend(..) => None,
        }
    }

    /// As the metrics call it.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Publisher::Peer(..) => Origin::Connection,
            Publisher::Backend(..) => Origin::Backend,
        }
    }

    /// The publishing connection, where there is one.
    pub(super) fn connection(&self) -> Option<ConnectionRef> {
        match self {
            Publisher::Peer(peer, _) => Some(peer.connection),
            Publisher::Backend(..) => None,
        }
    }
}

impl Shard {
    /// Sends a question to a room's home on another core.
    pub(super) fn send_call(
        &mut self,
        home: CoreId,
        room: RoomKey,
        peer: Peer,
        correlation_id: Option<&str>,
        ask: Ask,
    ) {
        let correlation_id = correlation_id.map(Box::from);
        let call = Call {
            room,
            peer,
            correlation_id,
            ask,
        };
        self.send(home, |_| BusMessage::Call(Box::new(call)));
    }

    /// A question to a room whose home is here.
    pub(super) fn home_call(
        &mut self,
        hash: u64,
        room: &str,
        peer: &Peer,
        correlation_id: Option<&str>,
        ask: Ask,
    ) {
        let credits = ask.credits();
        match ask {
            Ask::Join {
                history,
                recover,
                presence,
                info,
            } => {
                let Some(home) = self.home_or_new(hash, room) else {
                    return self.over_capacity(room, peer, correlation_id, credits);
                };
                let entrance = Entrance {
                    history,
                    recover,
                    presence,
                    info,
                    credits,
                    is_enlisted: false,
                };
                self.home_join(home, peer, correlation_id, entrance);
            }
            Ask::Enlist { info } => {
                let Some(home) = self.home_or_new(hash, room) else {
                    let why = Unwelcome::NoMoreRooms(self.no_more_rooms());
                    let key = self.key(hash, room);
                    return self.not_let_in(key, peer, correlation_id, why, credits);
                };
                let entrance = Entrance {
                    history: 0,
                    recover: None,
                    presence: None,
                    info,
                    credits,
                    is_enlisted: true,
                };
                self.home_join(home, peer, correlation_id, entrance);
            }
            Ask::Leave { answer: false } => self.home_leave_if_there(hash, room, peer),
            // The answer first: whoever leaves is not told of its own leaving.
            Ask::Leave { answer: true } | Ask::Expel => {
                self.home_left(hash, room, peer, correlation_id, credits);
                self.home_leave_if_there(hash, room, peer);
            }
            Ask::Typing { start } => {
                let Some(home) = self.homes.find(hash, room) else {
                    return;
                };
                let now = self.now.mono;
                let passes = self.change_home(home, |r| r.typing(&peer.user, start, now));
                if passes == Some(true) {
                    self.tell_typing(home, &peer.user, start);
                }
            }
            Ask::Read { offset } => {
                let Some(home) = self.homes.find(hash, room) else {
                    return;
                };
                let before = self.read_of(home, &peer.user);
                if self.change_home(home, |r| r.read(&peer.user, offset)) == Some(true) {
                    self.record_read(home, &peer.user, before);
                    let offset = Offset(offset);
                    let event = Event::ReadReceipt {
                        room,
                        offset,
                        user_id: &peer.user,
                    };
                    self.tell(home, Lane::Messages, &event, Note::Passing, &peer.user);
                }
            }
            Ask::Members => self.home_members(hash, room, peer, correlation_id, credits),
            Ask::History { since, limit } => {
                self.home_history(hash, room, peer, correlation_id, (since, limit), credits);
            }
        }
    }

    /// The room at home here, which is made if it is not there; none where there are too many.
    fn home_or_new(&mut self, hash: u64, room: &str) -> Option<u32> {
        if let Some(home) = self.homes.find(hash, room) {
            return Some(home);
        }
        if self.homes.len() >= self.config.rooms_max || self.refuses_newcomers() {
            return None;
        }
        let epoch = self.epoch_of(hash);
        let key = self.key(hash, room);
        let ruling = self.ruling_by_name(room);
        let room = HomeRoom::new(epoch, self.now.mono, &self.hasher);
        let home = self.homes.insert(
            key,
            Home {
                room,
                upkeep: None,
                summary: None,
                ruling,
            },
        );
        // By a timer even where it is due at once: whoever makes the room is about to use it.
        let due = self.now.mono + self.config.limits(ruling).idle_ttl;
        let timer = self.wheel.insert(due, Timer::Upkeep(home));
        if let Some(made) = self.homes.get_mut(home) {
            made.upkeep = Some((timer, due));
        }
        self.record_opened(home);
        Some(home)
    }

    /// The epoch with which a room that is not there would begin now. It changes whenever a room
    /// was forgotten, so no room begins twice with the same.
    fn epoch_of(&self, hash: u64) -> Epoch {
        Epoch(mix(self.config.seed
            ^ hash.rotate_left(17)
            ^ mix(self.rooms_forgotten)))
    }

    fn over_capacity(
        &mut self,
        room: &str,
        peer: &Peer,
        correlation_id: Option<&str>,
        credits: u16,
    ) {
        let code = Code::OverCapacity;
        let message = self.no_more_rooms();
        self.metrics.traffic.errors.count(code as u16);
        let event = Event::Error {
            code,
            message,
            room: Some(room),
        };
        self.reply(peer.connection, &event, correlation_id, credits);
        let close = BusMessage::Close {
            connection: peer.connection,
            code,
        };
        self.deliver_or_send(peer.connection.core, close);
    }

    /// Why a room cannot be made.
    fn no_more_rooms(&self) -> &'static str {
        if self.homes.len() >= self.config.rooms_max {
            "this node has as many rooms as --max-rooms allows; try again later"
        } else {
            "this node has no memory left for more rooms; try again later"
        }
    }

    /// A message would make one room too many.
    fn refuse_room(
        &mut self,
        excess: &Excess,
        room: &str,
        peer: &Peer,
        correlation_id: Option<&str>,
    ) {
        let code = Code::RateLimitExceeded;
        self.metrics.traffic.errors.count(code as u16);
        let event = Event::Error {
            code,
            message: &excess.to_string(),
            room: Some(room),
        };
        self.reply(peer.connection, &event, correlation_id, PUBLISH_CREDITS);
    }

    fn home_join(
        &mut self,
        home: u32,
        peer: &Peer,
        correlation_id: Option<&str>,
        entrance: Entrance,
    ) {
        let Entrance {
            history,
            recover,
            presence,
            info,
            credits,
            is_enlisted,
        } = entrance;
        let Some(key) = self.homes.key(home).cloned() else {
            return;
        };
        let ruling = self.home_ruling(home);
        let members_max = self.config.members_max(ruling);
        let Some(Home { room, .. }) = self.homes.get_mut(home) else {
            return;
        };
        if let Some(max) = members_max
            && room.user_count() >= max
            && !room.holds(&peer.user)
        {
            let why = Unwelcome::RoomFull(max);
            return self.not_let_in(key, peer, correlation_id, why, credits);
        }
        let before = room.held();
        let was_vacant = room.user_count() == 0;
        let joined = room.join(peer.connection, &peer.user, presence, history, recover);
        if let Some(info) = &info {
            room.describe(&peer.user, info);
        }
        self.memory.note_home(before, room.held());
        let welcome = Welcome {
            room: key,
            connection: peer.connection,
            user: peer.user.clone(),
            correlation_id: correlation_id.map(Box::from),
            offset: room.offset(),
            epoch: room.epoch(),
            recovered: joined.recovered,
            members: joined.members,
            presence: joined.presence,
            again: joined.again,
            replay: joined.replay,
            credits,
            is_enlisted,
        };
        // Before the answer, which may find that the connection has to go, and that it left.
        if was_vacant {
            self.room_occupied(&welcome.room);
        }
        if joined.user_is_new {
            self.tell_presence(home, &peer.user, true, info.as_deref());
        }
        self.deliver_or_send(peer.connection.core, BusMessage::Joined(Box::new(welcome)));
    }

    /// Tells a connection that a room does not let it in.
    fn not_let_in(
        &mut self,
        room: RoomKey,
        peer: &Peer,
        correlation_id: Option<&str>,
        why: Unwelcome,
        credits: u16,
    ) {
        let full = Full {
            room,
            connection: peer.connection,
            correlation_id: correlation_id.map(Box::from),
            why,
            credits,
        };
        self.deliver_or_send(peer.connection.core, BusMessage::Full(Box::new(full)));
    }

    fn home_leave_if_there(&mut self, hash: u64, room: &str, peer: &Peer) {
        if let Some(home) = self.homes.find(hash, room) {
            self.home_leave(home, peer);
        }
    }

    fn home_leave(&mut self, home: u32, peer: &Peer) {
        let now = self.now.mono;
        let read = self.read_of(home, &peer.user);
        let Some(Home { room, .. }) = self.homes.get_mut(home) else {
            return;
        };
        let info = room.info_of(&peer.user);
        let before = room.held();
        let departure = room.leave(peer.connection, &peer.user, now);
        self.memory.note_home(before, room.held());
        self.record_read(home, &peer.user, read);
        let Some(departure) = departure else {
            return;
        };
        if departure.was_typing {
            self.tell_typing(home, &peer.user, false);
        }
        if departure.user_is_gone {
            self.tell_presence(home, &peer.user, false, info.as_deref());
            if self
                .homes
                .get(home)
                .is_some_and(|h| h.room.user_count() == 0)
            {
                self.room_vacated(home);
                self.rearm_upkeep(home);
            }
        }
    }

    fn home_left(
        &mut self,
        hash: u64,
        room: &str,
        peer: &Peer,
        correlation_id: Option<&str>,
        credits: u16,
    ) {
        let left = BusMessage::Left {
            room: self.key(hash, room),
            connection: peer.connection,
            correlation_id: correlation_id.map(Box::from),
            credits,
        };
        self.deliver_or_send(peer.connection.core, left);
    }

    /// A message for a room whose home is here.
    pub(super) fn home_publish(
        &mut self,
        hash: u64,
        room: &str,
        publisher: Publisher<'_>,
        publication: Publication<'_>,
    ) {
        let Publication {
            payload,
            message_id,
            echo,
        } = publication;
        if let Publisher::Peer(peer, correlation_id) = publisher
            && self.homes.find(hash, room).is_none()
            && let Some(excess) = self.room_excess(&peer.user)
        {
            return self.refuse_room(&excess, room, peer, correlation_id);
        }
        if self.refuses_for_store((hash, room), publisher, message_id) {
            return;
        }
        let Some(home) = self.home_or_new(hash, room) else {
            return self.refuse_publisher(room, publisher);
        };
        let Some(key) = self.homes.key(home).cloned() else {
            return;
        };
        let ruling = self.home_ruling(home);
        if self.stages() {
            return self.stage((home, &key), ruling, publisher, publication);
        }
        let Shard {
            homes,
            scratch,
            hasher,
            frames,
            config,
            memory,
            now,
            ..
        } = self;
        let Some(Home { room, .. }) = homes.get_mut(home) else {
            return;
        };
        let before = room.held();
        let tools = (&*hasher, frames, scratch);
        let published = room.publish(
            key.name(),
            publisher.sender(),
            (payload, message_id),
            *now,
            config.limits(ruling),
            tools,
        );
        memory.note_home(before, room.held());
        let is_new = matches!(published, Published::Accepted { .. });
        let offset = match published {
            Published::Repeat { offset } => {
                self.metrics.traffic.repeated += 1;
                offset
            }
            Published::Accepted { offset } => {
                self.metrics.traffic.published.count(publisher.origin());
                let user = publisher.sender().map(|sender| sender.user_id);
                self.record_message(home, &key, user, message_id);
                let except = publisher.connection().filter(|_| !echo);
                let frame = std::mem::take(&mut self.scratch);
                self.fan_out(home, &key, &frame, offset, except);
                self.scratch = frame;
                offset
            }
        };
        self.answer_publisher(home, &key, publisher, offset, message_id);
        if is_new {
            self.arm_upkeep_of_message(home, ruling, message_id.is_some());
        }
    }

    /// Tells a publisher under which position its message was accepted.
    pub(super) fn answer_publisher(
        &mut self,
        home: u32,
        key: &RoomKey,
        publisher: Publisher<'_>,
        offset: u64,
        message_id: Option<&str>,
    ) {
        let Some(Home { room, .. }) = self.homes.get(home) else {
            return;
        };
        let epoch = room.epoch();
        match publisher {
            Publisher::Peer(peer, correlation_id) => {
                let event = Event::MessageSent {
                    room: Some(key.name()),
                    position: Some((epoch, Offset(offset))),
                    message_id: room.message_id(message_id, offset),
                };
                self.reply(peer.connection, &event, correlation_id, PUBLISH_CREDITS);
            }
            Publisher::Backend(ticket, place) => {
                self.answer_post(ticket, place, Ok(Position { epoch, offset }));
            }
        }
    }

    /// Tells a publisher that its room cannot be made.
    fn refuse_publisher(&mut self, room: &str, publisher: Publisher<'_>) {
        match publisher {
            Publisher::Peer(peer, correlation_id) => {
                self.over_capacity(room, peer, correlation_id, PUBLISH_CREDITS);
            }
            Publisher::Backend(ticket, place) => {
                let refused = Refused {
                    code: Code::OverCapacity,
                    message: Box::from(self.no_more_rooms()),
                };
                self.answer_post(ticket, place, Err(refused));
            }
        }
    }

    /// Sends an accepted message to every core with members.
    pub(super) fn fan_out(
        &mut self,
        home: u32,
        room: &RoomKey,
        frame: &[u8],
        offset: u64,
        except: Option<ConnectionRef>,
    ) {
        let at = self.now.mono;
        let mut shared = None;
        for share in self.shares(home) {
            if share.core == self.config.core {
                self.append_here(room, frame, offset, at, except);
            } else {
                self.send(share.core, |batch| {
                    BusMessage::Append(Append {
                        room: room.clone(),
                        frame: batch.keep_shared(frame, &mut shared),
                        offset,
                        at,
                        except,
                    })
                });
            }
        }
    }

    pub(super) fn shares(&self, home: u32) -> SmallVec<[Share; 4]> {
        self.homes
            .get(home)
            .map_or(SmallVec::new(), |h| SmallVec::from_slice(h.room.shares()))
    }

    fn home_members(
        &mut self,
        hash: u64,
        room: &str,
        peer: &Peer,
        correlation_id: Option<&str>,
        credits: u16,
    ) {
        let home = self
            .homes
            .find(hash, room)
            .and_then(|home| self.homes.get(home));
        let members = home.map(|h| h.room.members()).unwrap_or_default();
        let count = home.map_or(0, |h| h.room.user_count());
        let mut frame = Vec::new();
        encode(
            &Event::RoomMembers {
                room,
                count,
                members: &members,
            },
            correlation_id,
            &mut frame,
        );
        drop(members);
        self.reply_with(peer.connection, &frame, credits);
    }

    fn home_history(
        &mut self,
        hash: u64,
        room: &str,
        peer: &Peer,
        correlation_id: Option<&str>,
        (since, limit): (Option<u64>, Option<u32>),
        credits: u16,
    ) {
        let home = self.homes.find(hash, room);
        if let Some(home) = home {
            self.home_ruling(home);
        }
        let home = home.and_then(|home| self.homes.get(home));
        // A room that nobody made yet has no messages, and the epoch with which it would begin.
        let (epoch, offset) = home.map_or((self.epoch_of(hash), 0), |h| {
            (h.room.epoch(), h.room.offset())
        });
        let (frames, complete) = home.map_or((Vec::new(), true), |h| h.room.query(since, limit));
        let messages: Vec<&[u8]> = frames.iter().map(|frame| frame.body()).collect();
        let event = Event::History {
            room,
            messages: &messages,
            offset: Offset(offset),
            epoch,
            complete,
        };
        let mut answer = Vec::new();
        encode(&event, correlation_id, &mut answer);
        self.reply_with(peer.connection, &answer, credits);
    }

    /// Starts the clock of what a room keeps, for a message that was accepted now: one that runs
    /// may be for something that is due much later.
    pub(super) fn arm_upkeep_of_message(&mut self, home: u32, ruling: Ruling, has_key: bool) {
        let limits = self.config.limits(ruling);
        let has_key = has_key && limits.idempotency_keys_max > 0;
        let window = has_key.then_some(limits.idempotency_window);
        let ttl = limits.history.ttl;
        let ttl = ttl.filter(|_| limits.history.messages_max > 0);
        let keeps = ttl.into_iter().chain(window).min();
        let due = keeps.map(|keeps| self.now.mono + keeps);
        let armed = self
            .homes
            .get(home)
            .and_then(|h| h.upkeep)
            .map(|(_, at)| at);
        match (armed, due) {
            (None, _) => self.upkeep(home),
            (Some(armed), Some(due)) if due < armed => self.rearm_upkeep(home),
            (Some(_), _) => {}
        }
    }

    fn rearm_upkeep(&mut self, home: u32) {
        if let Some((timer, _)) = self.homes.get_mut(home).and_then(|h| h.upkeep.take()) {
            self.wheel.cancel(timer);
        }
        self.upkeep(home);
    }

    /// Lets go of what is over its time in a room, and of the room.
    pub(super) fn upkeep(&mut self, home: u32) {
        let now = self.now.mono;
        let ruling = self.follow_rules(home);
        let (kept_since, is_staged) = (self.kept_since(home), self.is_staged(home));
        let Some(Home {
            room,
            upkeep,
            summary,
            ..
        }) = self.homes.get_mut(home)
        else {
            return;
        };
        *upkeep = None;
        let before = room.held();
        let found = match room.upkeep(now, self.config.limits(ruling)) {
            // Its messages wait for the disk: it is looked at again when they are there.
            Upkeep::Forget if is_staged => Upkeep::At(now + STAGED_AGAIN),
            found => found,
        };
        let after = match found {
            Upkeep::Forget => Held::default(),
            Upkeep::Nothing | Upkeep::At(_) => room.held(),
        };
        self.memory.note_home(before, after);
        match found {
            Upkeep::Nothing => {}
            Upkeep::At(due) => {
                *upkeep = Some((self.wheel.insert(due, Timer::Upkeep(home)), due));
            }
            Upkeep::Forget => {
                if let Some(timer) = summary.take() {
                    self.wheel.cancel(timer);
                }
                self.record_forgotten(home);
                self.homes.remove(home);
                self.rooms_forgotten += 1;
                return;
            }
        }
        self.record_trimmed(home, kept_since);
    }
}
