//! What the operator's backend is told unasked: rooms that fill and empty, users that come and go.
//!
//! A room's home says so of rooms and a user's home of users, each when there is the first and when
//! the last is gone. So of one room or user the two alternate, whatever happens on other cores.

use crate::address::RoomKey;
use crate::bus::{Notice, Noticed};
use crate::protocol::UserId;
use crate::shard::Shard;

impl Shard {
    /// What the operator's backend is to know, where it wants to.
    pub fn poll_notices(&mut self) -> Option<Vec<Notice>> {
        (!self.notices.is_empty()).then(|| std::mem::take(&mut self.notices))
    }

    /// A first user is in a room at home here.
    pub(super) fn room_occupied(&mut self, room: &RoomKey) {
        if self.config.gives_notice {
            self.notice(Noticed::RoomOccupied(room.clone()));
        }
    }

    /// Nobody is in a room at home here any more.
    pub(super) fn room_vacated(&mut self, home: u32) {
        if self.config.gives_notice
            && let Some(room) = self.homes.key(home).cloned()
        {
            self.notice(Noticed::RoomVacated(room));
        }
    }

    /// A user at home here has a connection.
    pub(super) fn user_connected(&mut self, user: &UserId) {
        if self.config.gives_notice {
            self.notice(Noticed::UserConnected(user.clone()));
        }
    }

    /// A user at home here has none any more.
    pub(super) fn user_disconnected(&mut self, user: &UserId) {
        if self.config.gives_notice {
            self.notice(Noticed::UserDisconnected(user.clone()));
        }
    }

    fn notice(&mut self, what: Noticed) {
        let unix_ms = self.now.unix_ms;
        self.notices.push(Notice { unix_ms, what });
    }
}
