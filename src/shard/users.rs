//! The shard as the home of users: where a user's connections are, and what is sent to one user.

use smallvec::SmallVec;

use crate::address::ConnectionRef;
use crate::bus::{BusMessage, Direct};
use crate::frame::Frame;
use crate::metrics::{Kind, Limited};
use crate::protocol::json::encode;
use crate::protocol::{ClientId, Code, Event, MessageId, Sender, UserId};
use crate::session::Class;
use crate::shard::closing::Lag;
use crate::shard::connection::Phase;
use crate::shard::{Shard, mix};
use crate::time::Instant;

impl Shard {
    pub(super) fn user_home(&self, user: &UserId) -> crate::address::CoreId {
        self.home_of(self.placement.hash_one(user))
    }

    /// Tells a user's home of an established connection.
    pub(super) fn arrive(&mut self, index: u32) {
        let Some(peer) = self.peer(index) else { return };
        let home = self.user_home(&peer.user);
        let (user, connection) = (peer.user, peer.connection);
        self.deliver_or_send(home, BusMessage::Arrived { user, connection });
    }

    /// Tells a user's home that a connection is gone.
    pub(super) fn depart(&mut self, index: u32) {
        if self
            .connections
            .get(index)
            .is_none_or(|c| c.phase != Phase::Native)
        {
            return;
        }
        let Some(peer) = self.peer(index) else { return };
        let home = self.user_home(&peer.user);
        let (user, connection) = (peer.user, peer.connection);
        self.deliver_or_send(home, BusMessage::Departed { user, connection });
    }

    /// A connection of the user was established. The home decides whether it may stay, and who goes
    /// for it: whatever happens on other cores meanwhile, it is the only one that does.
    pub(super) fn arrived(&mut self, user: UserId, connection: ConnectionRef) {
        if self.is_banned(&user) {
            self.metrics.limits.met.count(Limited::Banned);
            return self.order_close(connection, Code::UserBanned);
        }
        let limits = &self.config.policy.limits;
        let is_alone = limits.one_connection_per_user;
        let max = limits.connections_per_user_max;
        let max = max.map_or(usize::MAX, |max| max as usize);
        let others = self.users.get(&user).map_or(0, SmallVec::len);
        if is_alone && others > 0 {
            self.replace(&user, connection);
        } else if others < max {
            self.users
                .with(&user, |connections| connections.push(connection));
            if others == 0 {
                self.user_connected(&user);
            }
        } else {
            self.metrics.limits.met.count(Limited::UserConnections);
            self.order_close(connection, Code::OverCapacity);
        }
    }

    /// The newest connection takes the place of the others.
    fn replace(&mut self, user: &UserId, newest: ConnectionRef) {
        let olders = self.users.with(user, |connections| {
            std::mem::replace(connections, SmallVec::from_buf([newest]))
        });
        for older in olders {
            self.metrics.limits.met.count(Limited::Replaced);
            self.order_close(older, Code::Replaced);
        }
    }

    /// The user's connections, where the user's home is here.
    pub(super) fn connections_of(&self, user: &UserId) -> SmallVec<[ConnectionRef; 1]> {
        self.users.get(user).cloned().unwrap_or_default()
    }

    pub(super) fn departed(&mut self, user: &UserId, connection: ConnectionRef) {
        let Some(connections) = self.users.get_mut(user) else {
            return;
        };
        connections.retain(|c| *c != connection);
        if connections.is_empty() {
            self.users.remove(user);
            self.user_disconnected(user);
        }
    }

    /// Sends a direct message on its way to the user's home.
    pub(super) fn send_direct(
        &mut self,
        index: u32,
        to: &str,
        data: &[u8],
        message_id: Option<&str>,
        correlation_id: Option<&str>,
    ) {
        let Some(peer) = self.peer(index) else { return };
        let message_id = match message_id {
            Some(id) => Box::from(id),
            None => self.name_message(),
        };
        let to = UserId::from_name(to);
        let home = self.user_home(&to);
        let correlation_id = correlation_id.map(Box::from);
        let direct = Direct {
            to,
            peer,
            data: Box::from(data),
            message_id,
            correlation_id,
        };
        if home != self.config.core
            && let Some(connection) = self.connections.get_mut(index)
        {
            connection.credits_held += 1;
        }
        self.deliver_or_send(home, BusMessage::Direct(Box::new(direct)));
    }

    /// An id for a message that has no position to be named by.
    pub(super) fn name_message(&mut self) -> Box<str> {
        let number =
            self.messages_named * u64::from(self.config.cores) + u64::from(self.config.core.0);
        self.messages_named += 1;
        // Another sequence than that of client ids, written the same way.
        let id = ClientId(mix(self.config.seed.rotate_left(32).wrapping_add(number)));
        Box::from(id.text().as_str())
    }

    /// At the user's home: serialises once, and sends to each of the user's connections.
    pub(super) fn direct(&mut self, direct: &Direct) {
        let Direct {
            to,
            peer,
            data,
            message_id,
            correlation_id,
        } = direct;
        let id = correlation_id.as_deref();
        let Some(connections) = self.users.get(to).cloned() else {
            let code = Code::UserNotConnected;
            let message = format!("user {to} has no connection; nothing was sent");
            self.metrics.traffic.errors.count(code as u16);
            let event = Event::Error {
                code,
                message: &message,
                room: None,
            };
            return self.reply(peer.connection, &event, id, 1);
        };
        let message_id = MessageId::Given(message_id);
        let sender = Some(Sender {
            client_id: peer.client_id,
            user_id: &peer.user,
        });
        self.direct_to(&connections, data, message_id, sender);
        let sent = Event::MessageSent {
            room: None,
            position: None,
            message_id,
        };
        self.reply(peer.connection, &sent, id, 1);
    }

    /// Sends a direct message to connections of one user.
    pub(super) fn direct_to(
        &mut self,
        connections: &[ConnectionRef],
        data: &[u8],
        message_id: MessageId<'_>,
        sender: Option<Sender<'_>>,
    ) {
        let unix_ms = self.now.unix_ms;
        self.scratch.clear();
        encode(
            &Event::DirectMessage {
                data,
                message_id,
                unix_ms,
                sender,
            },
            None,
            &mut self.scratch,
        );
        let frame = Frame::new(&self.scratch);
        let at = self.now.mono;
        for connection in connections.iter().copied() {
            let deliver = BusMessage::Deliver {
                connection,
                frame: frame.clone(),
                at,
            };
            self.deliver_or_send(connection.core, deliver);
        }
    }

    /// At the connection's core.
    pub(super) fn deliver_direct(&mut self, to: ConnectionRef, frame: Frame, at: Instant) {
        let Some(index) = self.resolve(to).filter(|index| self.is_native(*index)) else {
            // It went away while the message was under way.
            self.metrics.ledger.offer(Kind::Direct, 1);
            return self.metrics.ledger.undelivered(Kind::Direct, 1006, 1);
        };
        self.push_direct(index, frame, at);
    }

    /// Puts what is for an established connection alone behind everything else that waits for it.
    pub(super) fn push_direct(&mut self, index: u32, frame: Frame, at: Instant) {
        self.metrics.ledger.offer(Kind::Direct, 1);
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection
            .queue_from(&mut self.queues)
            .push_shared(frame, Class::Data(Kind::Direct), at);
        if connection.blocked {
            self.block(index);
            if self.lag_bytes(index) > self.relief.lag_bytes_max {
                self.overflow(index, Lag::Bytes);
            }
        } else {
            self.queue_connection(index);
        }
    }
}
