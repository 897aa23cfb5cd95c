//! What the backend does to all connections of one user: a message, into a room, out of a room.
//!
//! ```text
//!   user's home ── Deliver ─────────► the user's connections, each at its core
//!               ── Enlist, Expel ──► ── Ask::Enlist, Ask::Expel ──► room's home ──► room_joined, room_left
//! ```
//!
//! A connection that is put into a room is in as if it had asked itself: it may be asked out again,
//! leave, and join once more. What it could not have asked for because of its token or the room's rule
//! does not matter, also when it gets another token; what bounds the node does, and then the connection
//! is told by an error.

use crate::address::{ConnectionRef, RoomKey};
use crate::bus::{ApiAnswer, Ask, BusMessage, Refused, UserFacts};
use crate::protocol::{Code, Event, MessageId, UserId};
use crate::shard::Shard;
use crate::shard::backend::refused;
use crate::shard::closing::Lag;

impl Shard {
    /// Sends a message to each of a user's connections.
    pub(super) fn tell_user(&mut self, user: &UserId, data: &[u8]) -> Result<ApiAnswer, Refused> {
        self.expect_users_home(user)?;
        self.expect_size(data.len())?;
        let connections = self.connections_of(user);
        if !connections.is_empty() {
            let id = self.name_message();
            self.direct_to(&connections, data, MessageId::Given(&id), None);
        }
        Ok(ApiAnswer::Connections(connections.len() as u64))
    }

    /// What is known of a user.
    pub(super) fn user_facts(&self, user: &UserId) -> Result<ApiAnswer, Refused> {
        self.expect_users_home(user)?;
        let connections = self.connections_of(user).len() as u64;
        let ban = self.ban_of(user);
        Ok(ApiAnswer::User(UserFacts { connections, ban }))
    }

    /// Puts each of a user's connections into a room.
    pub(super) fn enlist_user(
        &mut self,
        user: &UserId,
        room: &RoomKey,
    ) -> Result<ApiAnswer, Refused> {
        self.expect_users_home(user)?;
        self.expect_room_name(room.name())?;
        self.rule_for_backend((room.hash(), room.name()))?;
        self.tell_connections(user, |connection| BusMessage::Enlist {
            connection,
            room: room.clone(),
        })
    }

    /// Takes each of a user's connections out of a room.
    pub(super) fn expel_user(
        &mut self,
        user: &UserId,
        room: &RoomKey,
    ) -> Result<ApiAnswer, Refused> {
        self.expect_users_home(user)?;
        self.expect_room_name(room.name())?;
        self.tell_connections(user, |connection| BusMessage::Expel {
            connection,
            room: room.clone(),
        })
    }

    fn tell_connections(
        &mut self,
        user: &UserId,
        message: impl Fn(ConnectionRef) -> BusMessage,
    ) -> Result<ApiAnswer, Refused> {
        let connections = self.connections_of(user);
        for connection in &connections {
            self.deliver_or_send(connection.core, message(*connection));
        }
        Ok(ApiAnswer::Connections(connections.len() as u64))
    }

    fn expect_users_home(&self, user: &UserId) -> Result<(), Refused> {
        let home = self.user_home(user);
        if home == self.config.core {
            return Ok(());
        }
        let message = format!("this user is at home on core {}; ask there", home.0);
        Err(refused(Code::UnknownError, message))
    }

    /// The connection that the backend wants something of, unless it is gone. One that has not taken
    /// what it was told before goes: it cannot be paused, because it is not the one who asks.
    fn ordered(&mut self, connection: ConnectionRef) -> Option<u32> {
        let index = self.resolve(connection).filter(|i| self.is_native(*i))?;
        if !self.is_buried_in_notices(index) {
            return Some(index);
        }
        self.metrics.connections.evicted.count(Lag::Bytes.cause());
        self.close_with(index, Lag::Bytes.code());
        None
    }

    /// At the connection's core: the backend puts it into a room.
    pub(in crate::shard) fn enlist(&mut self, connection: ConnectionRef, room: &RoomKey) {
        let Some(index) = self.ordered(connection) else {
            return;
        };
        let info = self.info_of(index);
        let place = (room.hash(), room.name());
        self.ask_to_join(index, place, Ask::Enlist { info }, None);
        // At once, because it may get another credential before the room's home answers.
        if let Some(local) = self.locals.find(room.hash(), room.name()) {
            self.note_enlisted(index, local);
        }
        self.look_again_if_blocked(index);
        self.pause_if_needed(index);
    }

    /// A connection is in a room because the backend put it there.
    pub(in crate::shard) fn note_enlisted(&mut self, index: u32, local: u32) {
        let connection = self.connections.get_mut(index);
        if let Some(subscription) = connection.and_then(|c| c.subscription(local)) {
            subscription.is_enlisted = true;
        }
    }

    /// At the connection's core: the backend takes it out of a room. It is told also where it was not
    /// in.
    pub(in crate::shard) fn expel(&mut self, connection: ConnectionRef, room: &RoomKey) {
        let Some(index) = self.ordered(connection) else {
            return;
        };
        if self.is_subscribed(index, room.name()) {
            self.ask(index, room.name(), Ask::Expel, None);
        } else {
            self.answer(index, &Event::RoomLeft { room: room.name() }, None);
        }
        self.pause_if_needed(index);
    }
}
