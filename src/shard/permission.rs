//! What a connection's own credential allows, where no room's rule has a say: messages to single
//! users, and what becomes of its rooms when it gets another credential. The rest is decided where
//! rules and grants meet: [`ruling`](super::ruling).

use crate::address::RoomKey;
use crate::bus::Ask;
use crate::gate::{Action, Grant, Wish};
use crate::protocol::Code;
use crate::shard::Shard;

impl Shard {
    /// What a connection's credential gives it.
    pub(super) fn grant(&self, index: u32) -> Option<&Grant> {
        let pass = self.connections.get(index)?.pass()?;
        pass.grant.as_deref()
    }

    /// Whether a connection may write to single users; where it may not, it is told.
    pub(super) fn may_write_or_refuse(&mut self, index: u32, correlation_id: Option<&str>) -> bool {
        let own = self.grant(index).and_then(Grant::allows_direct);
        let defaults = self.config.policy.rules.default_allow;
        if own.unwrap_or_else(|| defaults.contains(Action::Direct)) {
            return true;
        }
        let message = "`direct` is not allowed to you; ask for a token that grants it";
        let code = Code::PermissionDenied;
        self.refuse(index, code, message, None, correlation_id);
        false
    }

    /// Joins the room that a connection's path names.
    pub(super) fn join_by_path(&mut self, index: u32, room: &str) {
        let ask = Ask::Join {
            history: 0,
            recover: None,
            presence: None,
            info: self.info_of(index),
        };
        self.join(index, room, ask, None);
    }

    /// After a refresh: a connection leaves the rooms in which its new credential does not let it be,
    /// or not see who else is there where it does.
    pub(super) fn leave_forbidden(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        // Where the backend put it is none of the credential's affair.
        let places = connection.subscriptions.iter().filter(|s| !s.is_enlisted);
        let places = places.filter_map(|s| {
            let room = self.locals.key(s.room)?.clone();
            Some((room, s.is_watching()))
        });
        for (room, is_watching) in places.collect::<Vec<_>>() {
            let wish = Wish::Join {
                history: false,
                presence: is_watching,
            };
            let place = (room.hash(), room.name());
            if !self.permits_or_refuses(index, place, wish, None) {
                self.ask(index, room.name(), Ask::Leave { answer: true }, None);
            }
        }
    }

    /// The home let a connection in that may have got another credential, or the room another rule,
    /// since it asked: one that may not see who is there any more does not stay to see it.
    pub(super) fn leave_if_unseeing(&mut self, index: u32, room: &RoomKey) {
        let place = (room.hash(), room.name());
        let (history, presence) = (false, true);
        let seeing = Wish::Join { history, presence };
        let member = Wish::Join {
            history,
            presence: false,
        };
        // Who may not even be there has been asked to leave already.
        if self.permits(index, place, member)
            && !self.permits_or_refuses(index, place, seeing, None)
        {
            self.ask(index, room.name(), Ask::Leave { answer: true }, None);
        }
    }
}
