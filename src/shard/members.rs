//! The shard as the core of members: logs are filled, cursors set and taken away.

use smallvec::SmallVec;

use crate::address::{ConnectionRef, RoomKey};
use crate::bus::{Ask, Batch, BusMessage, Full, Lane, Peer, Signal, Unwelcome, Welcome};
use crate::frame::{Frame, Note};
use crate::metrics::Kind;
use crate::protocol::{ClientId, Code, Event, Offset};
use crate::room::{Feed, RoomTable};
use crate::session::Class;
use crate::shard::connection::{Connection, FeedId, NONE, Phase, Subscription};
use crate::shard::homes::{Publication, Publisher};
use crate::shard::{LocalRoom, Shard};
use crate::time::{Instant, Now};

impl Shard {
    /// What another core sent, in the order in which it was sent.
    pub fn handle_bus(&mut self, now: Now, mut batch: Batch) {
        self.set_now(now);
        self.metrics.bus.batches_in += 1;
        self.metrics.bus.messages_in += batch.len() as u64;
        let (messages, bytes) = batch.open();
        for message in messages {
            self.deliver(message, bytes);
        }
    }

    /// Takes in a message; `bytes` are those of its batch.
    pub(super) fn deliver(&mut self, message: BusMessage, bytes: &[u8]) {
        match message {
            BusMessage::Publish(publish) => {
                let id = publish.correlation_id.as_ref();
                let message_id = publish.message_id.as_ref();
                let publication = Publication {
                    payload: publish.payload.read(bytes),
                    message_id: message_id.map(|id| id.read_text(bytes)),
                    echo: publish.echo,
                };
                let (hash, room) = (publish.room.hash(), publish.room.name());
                let id = id.map(|id| id.read_text(bytes));
                self.home_publish(hash, room, Publisher::Peer(&publish.peer, id), publication);
            }
            BusMessage::Call(call) => {
                let id = call.correlation_id.as_deref();
                self.home_call(call.room.hash(), call.room.name(), &call.peer, id, call.ask);
            }
            BusMessage::Joined(welcome) => self.joined(*welcome),
            BusMessage::Full(full) => self.not_joined(&full),
            BusMessage::Left {
                room,
                connection,
                correlation_id,
                credits,
            } => {
                self.left(&room, connection, correlation_id.as_deref(), credits);
            }
            BusMessage::Append(a) => {
                self.append_here(&a.room, a.frame.read(bytes), a.offset, a.at, a.except);
            }
            BusMessage::Signal(signal) => self.signal_here(&signal),
            BusMessage::Reply {
                connection,
                frame,
                credits,
            } => {
                if let Some(index) = self.resolve(connection) {
                    self.answer_with(index, frame.read(bytes));
                    self.give_back(index, credits);
                }
            }
            BusMessage::Close { connection, code } => {
                if let Some(index) = self.resolve(connection) {
                    self.close_with(index, code);
                }
            }
            BusMessage::Dismiss {
                connection,
                code,
                reason,
            } => self.dismiss(connection, code, &reason),
            BusMessage::Enlist { connection, room } => self.enlist(connection, &room),
            BusMessage::Expel { connection, room } => self.expel(connection, &room),
            BusMessage::Arrived { user, connection } => self.arrived(user, connection),
            BusMessage::Departed { user, connection } => self.departed(&user, connection),
            BusMessage::Direct(direct) => self.direct(&direct),
            BusMessage::Deliver {
                connection,
                frame,
                at,
            } => {
                self.deliver_direct(connection, frame, at);
            }
        }
    }

    /// A question to another core was answered.
    pub(super) fn give_back(&mut self, index: u32, credits: u16) {
        if let Some(connection) = self.connections.get_mut(index) {
            debug_assert!(
                connection.credits_held >= credits,
                "more answers than questions"
            );
            connection.credits_held = connection.credits_held.saturating_sub(credits);
        }
        self.pause_if_needed(index);
        self.resume_if_paused(index);
    }

    fn is_home_elsewhere(&self, room: &RoomKey) -> bool {
        self.home_of(room.hash()) != self.config.core
    }

    /// The home let a connection in: its cursor goes to the head, which is the offset that the home
    /// told, because everything before came the same way.
    fn joined(&mut self, welcome: Welcome) {
        let Some(index) = self
            .resolve(welcome.connection)
            .filter(|i| self.is_native(*i))
        else {
            // It went away meanwhile. Where its leaving overtook this, the home hears it again.
            let peer = Peer {
                connection: welcome.connection,
                client_id: ClientId(0),
                user: welcome.user,
            };
            return self.ask_home_to_leave(&welcome.room, peer);
        };
        let local = self.hold_for(index, &welcome.room);
        if welcome.is_enlisted {
            self.note_enlisted(index, local);
        }
        if welcome.again {
            self.detach_room(index, local);
        }
        let event = Event::RoomJoined {
            room: welcome.room.name(),
            offset: Offset(welcome.offset),
            epoch: welcome.epoch,
            recovered: welcome.recovered,
            members: welcome.members,
        };
        self.answer(index, &event, welcome.correlation_id.as_deref());
        self.replay(index, welcome.replay);
        if let Some(room) = self.locals.get_mut(local) {
            room.user_count = welcome.members;
        }
        self.enrol(index, local, welcome.presence);
        if welcome.presence {
            self.leave_if_unseeing(index, &welcome.room);
        }
        self.look_again_if_blocked(index);
        if self.is_home_elsewhere(&welcome.room) {
            self.give_back(index, welcome.credits);
        } else {
            self.pause_if_needed(index);
        }
    }

    /// The home did not let a connection in: what was held for the join is taken back.
    fn not_joined(&mut self, full: &Full) {
        let Full { room, why, .. } = full;
        let Some(index) = self.resolve(full.connection).filter(|i| self.is_native(*i)) else {
            return;
        };
        if let Some(local) = self.locals.find(room.hash(), room.name()) {
            let connection = self.connections.get_mut(index);
            let subscription = connection.and_then(|c| c.subscription(local));
            // A membership is none of this answer's: the home took one back before it refused.
            if subscription.is_some_and(|s| s.member == NONE) {
                self.withdraw(index, local);
            }
        }
        let (code, message) = match why {
            Unwelcome::RoomFull(max) => {
                let message = format!(
                    "this room has as many users as it takes (max-members: {max}); try again later"
                );
                (Code::RoomFull, message)
            }
            Unwelcome::NoMoreRooms(why) => (Code::OverCapacity, (*why).to_owned()),
        };
        let id = full.correlation_id.as_deref();
        self.refuse(index, code, &message, Some(room.name()), id);
        if self.is_home_elsewhere(room) {
            self.give_back(index, full.credits);
        } else {
            self.pause_if_needed(index);
        }
    }

    pub(super) fn is_native(&self, index: u32) -> bool {
        self.connections
            .get(index)
            .is_some_and(|c| c.phase == Phase::Native)
    }

    fn replay(&mut self, index: u32, frames: Vec<Frame>) {
        let now = self.now.mono;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        self.metrics
            .ledger
            .offer(Kind::Message, frames.len() as u64);
        for frame in frames {
            let mut queue = connection.queue_from(&mut self.queues);
            queue.push_shared(frame, Class::Answer(Kind::Message), now);
        }
    }

    /// The room as this connection holds it; held for it now if it does not yet.
    fn hold_for(&mut self, index: u32, room: &RoomKey) -> u32 {
        let known = self.locals.find(room.hash(), room.name());
        let subscribed = known.is_some_and(|local| {
            let connection = self.connections.get_mut(index);
            connection.is_some_and(|c| c.subscription(local).is_some())
        });
        if let (Some(local), true) = (known, subscribed) {
            return local;
        }
        let local = self.hold_local(room.hash(), room.name());
        if let Some(connection) = self.connections.get_mut(index) {
            connection.subscriptions.push(Subscription::pending(local));
        }
        local
    }

    /// Gives a connection its places in a room's feeds, or takes away the one that it does not want.
    fn enrol(&mut self, index: u32, local: u32, presence: bool) {
        let Shard {
            connections,
            locals,
            memory,
            ..
        } = self;
        let Some(connection) = connections.get_mut(index) else {
            return;
        };
        let blocked = connection.blocked;
        let Some(subscription) = connection.subscription(local) else {
            return;
        };
        let Some(room) = locals.get_mut(local) else {
            return;
        };
        if subscription.member == NONE {
            subscription.member = room.messages.add(index, blocked);
            memory.note_places(FeedId::messages(local), 0, 1);
        }
        if presence && subscription.watcher == NONE {
            let feed = room.presence.get_or_insert_with(Box::<Feed>::default);
            subscription.watcher = feed.add(index, blocked);
            memory.note_places(FeedId::presence(local), 0, 1);
        } else if !presence && subscription.watcher != NONE {
            let watcher = std::mem::replace(&mut subscription.watcher, NONE);
            self.remove_member(FeedId::presence(local), watcher);
        }
        self.note_elsewhere(index);
    }

    /// Tells a connection's places whether it has others.
    fn note_elsewhere(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let places = || connection.subscriptions.iter().flat_map(|s| s.feeds());
        let count = places().count();
        // A new place takes it that there are others. By the fourth, the first ones know.
        if count > 3 {
            return;
        }
        for (id, place) in places() {
            let feed = Self::feed_in(&mut self.locals, id);
            if let Some(member) = feed.and_then(|feed| feed.members.get_mut(place as usize)) {
                member.elsewhere = count > 1;
            }
        }
    }

    /// The home let a connection out.
    fn left(
        &mut self,
        room: &RoomKey,
        connection: ConnectionRef,
        correlation_id: Option<&str>,
        credits: u16,
    ) {
        let Some(index) = self.resolve(connection).filter(|i| self.is_native(*i)) else {
            return;
        };
        if let Some(local) = self.locals.find(room.hash(), room.name()) {
            self.detach_room(index, local);
            self.withdraw(index, local);
        }
        self.answer(
            index,
            &Event::RoomLeft { room: room.name() },
            correlation_id,
        );
        self.look_again_if_blocked(index);
        if self.is_home_elsewhere(room) {
            self.give_back(index, credits);
        }
    }

    /// Moves what a connection is behind in a room into its own queue.
    fn detach_room(&mut self, index: u32, local: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let Some(subscription) = connection.subscription(local).map(|s| *s) else {
            return;
        };
        for (id, member) in subscription.feeds() {
            self.detach_all(index, id, member);
        }
        self.queue_connection(index);
    }

    /// Takes a connection's subscription away, and its places in the room.
    fn withdraw(&mut self, index: u32, local: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let place = connection
            .subscriptions
            .iter()
            .position(|s| s.room == local);
        let Some(place) = place else { return };
        let subscription = connection.subscriptions.swap_remove(place);
        connection.subscriptions.shrink_to_fit();
        for (id, member) in subscription.feeds() {
            self.remove_member(id, member);
        }
        self.release_local(local);
    }

    /// The room on this core, which one more subscription holds.
    pub(super) fn hold_local(&mut self, hash: u64, room: &str) -> u32 {
        let local = match self.locals.find(hash, room) {
            Some(local) => local,
            None => {
                let home = self
                    .homes
                    .find(hash, room)
                    .and_then(|home| self.homes.key(home));
                let key = home.cloned().unwrap_or_else(|| RoomKey::new(room, hash));
                self.locals.insert(key, LocalRoom::default())
            }
        };
        if let Some(room) = self.locals.get_mut(local) {
            room.references += 1;
        }
        local
    }

    /// One subscription less holds the room.
    pub(super) fn release_local(&mut self, local: u32) {
        let Some(room) = self.locals.get_mut(local) else {
            return;
        };
        room.references -= 1;
        if room.references == 0 {
            self.locals.remove(local);
        } else if room
            .presence
            .as_ref()
            .is_some_and(|feed| feed.members.is_empty())
        {
            room.presence = None;
        }
    }

    /// Takes a member out of a feed. Whoever moves to another place is told.
    pub(super) fn remove_member(&mut self, id: FeedId, member: u32) {
        let Shard {
            connections,
            locals,
            spares,
            memory,
            ..
        } = self;
        let Some(feed) = Self::feed_in(locals, id) else {
            return;
        };
        let before = feed.members.len();
        feed.remove(member, spares, |connection, place| {
            let moved = connections.get_mut(connection);
            if let Some(subscription) = moved.and_then(|c| c.subscription(id.room())) {
                *(if id.is_presence() {
                    &mut subscription.watcher
                } else {
                    &mut subscription.member
                }) = place;
            }
        });
        memory.note_places(id, before, feed.members.len());
    }

    /// Tells a room's home that a connection is gone from it.
    pub(super) fn ask_to_leave(&mut self, index: u32, local: u32) {
        let Some(room) = self.locals.key(local).cloned() else {
            return;
        };
        if let Some(peer) = self.peer(index) {
            self.ask_home_to_leave(&room, peer);
        }
    }

    fn ask_home_to_leave(&mut self, room: &RoomKey, peer: Peer) {
        let home = self.home_of(room.hash());
        let ask = Ask::Leave { answer: false };
        if home == self.config.core {
            self.home_call(room.hash(), room.name(), &peer, None, ask);
        } else {
            self.send_call(home, room.clone(), peer, None, ask);
        }
    }

    /// A message for the members here.
    pub(super) fn append_here(
        &mut self,
        room: &RoomKey,
        frame: &[u8],
        offset: u64,
        at: Instant,
        except: Option<ConnectionRef>,
    ) {
        let Some(local) = self.locals.find(room.hash(), room.name()) else {
            return;
        };
        let except = except.into_iter();
        let id = FeedId::messages(local);
        self.append_to(
            id,
            frame,
            (offset, Note::Message),
            at,
            except,
            Kind::Message,
        );
    }

    fn signal_here(&mut self, signal: &Signal) {
        let Some(local) = self.locals.find(signal.room.hash(), signal.room.name()) else {
            return;
        };
        if let Some(room) = self.locals.get_mut(local) {
            room.user_count = signal.user_count;
        }
        let id = match signal.lane {
            Lane::Messages => FeedId::messages(local),
            Lane::Presence => FeedId::presence(local),
        };
        let except = signal.except.iter().copied();
        self.append_to(
            id,
            &signal.frame,
            (0, signal.note),
            signal.at,
            except,
            Kind::Signal,
        );
    }

    fn append_to(
        &mut self,
        id: FeedId,
        frame: &[u8],
        what: (u64, Note),
        at: Instant,
        except: impl Iterator<Item = ConnectionRef>,
        kind: Kind,
    ) {
        let places: SmallVec<[u32; 2]> = except
            .filter_map(|reference| self.resolve(reference))
            .filter_map(|index| Self::member_index(self.connections.get(index)?, id))
            .collect();
        let Shard {
            locals,
            spares,
            metrics,
            ..
        } = self;
        let Some(feed) = Self::feed_in(locals, id) else {
            return;
        };
        let before = feed.log.head();
        let offered = feed.append(frame, what, at, &places, spares);
        metrics.ledger.offer(kind, offered);
        if feed.log.head() > before {
            self.queue_feed(id);
        }
    }

    /// A connection's place in a feed.
    pub(super) fn member_index(connection: &Connection, id: FeedId) -> Option<u32> {
        let subscription = connection
            .subscriptions
            .iter()
            .find(|s| s.room == id.room())?;
        let place = if id.is_presence() {
            subscription.watcher
        } else {
            subscription.member
        };
        (place != NONE).then_some(place)
    }

    /// How many bytes of others' messages a connection has not taken, in all its rooms.
    pub(super) fn lag_bytes(&self, index: u32) -> u64 {
        let Some(connection) = self.connections.get(index) else {
            return 0;
        };
        let own = connection.queue.as_ref().map_or(0, |q| q.data_bytes()) as u64;
        let feeds = connection.subscriptions.iter().flat_map(|s| s.feeds());
        let behind = |(id, member)| {
            Self::feed_ref(&self.locals, id).map_or(0, |feed| feed.lag_bytes(member))
        };
        own + feeds.map(behind).sum::<u64>()
    }

    /// When the oldest of others' messages was accepted that a connection has not wholly taken.
    pub(super) fn oldest_pending(&self, index: u32) -> Option<Instant> {
        let connection = self.connections.get(index)?;
        let own = connection.queue.as_ref().and_then(|q| q.oldest_data());
        let locals: &RoomTable<LocalRoom> = &self.locals;
        let oldest_in = |(id, member)| Self::feed_ref(locals, id)?.oldest_pending(member);
        let feeds = connection
            .subscriptions
            .iter()
            .flat_map(|s| s.feeds())
            .filter_map(oldest_in);
        feeds.chain(own).min()
    }
}
