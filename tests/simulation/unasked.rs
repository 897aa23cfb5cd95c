//! What a connection is told that it did not ask for, because the operator's backend said so.

use serde_json::Value;

use crate::Check;
use crate::law::Standing;
use crate::session::{Question, Session};
use crate::truth::Truth;

impl Session {
    pub fn broadcast(&mut self, text: &str, payload: &Value, truth: &Truth) -> Check {
        let n = payload["b"].as_u64().ok_or("not our payload")? as usize;
        let broadcast = truth.broadcasts.get(n).ok_or("never sent")?;
        let raw = &broadcast.raw;
        if text != format!("{{\"type\":\"broadcast\",\"payload\":{raw}}}") {
            return Err(format!("not {raw}"));
        }
        if self.broadcasts.last().is_some_and(|last| *last >= n) {
            return Err(format!("{n} after {:?}", self.broadcasts.last()));
        }
        self.broadcasts.insert(n);
        Ok(())
    }

    /// Whether something that it did not ask for comes of an order of the backend about its user and
    /// the room; no more may come than were given.
    pub fn is_ordered(&mut self, room: &str, truth: &Truth) -> bool {
        let user = self.user.as_deref().unwrap_or_default();
        let told = self.unasked.entry(room.to_owned()).or_default();
        let is_ordered = *told < truth.orders(user, room);
        *told += u32::from(is_ordered);
        is_ordered
    }

    /// `room_joined` or `room_left` that it did not ask for.
    pub fn moved(
        &mut self,
        kind: &str,
        room: &str,
        payload: &Value,
        truth: &mut Truth,
        now_ms: u64,
    ) -> Check {
        truth.count(format!("by the backend {kind}"));
        if kind == "room_left" {
            return match self.members.remove(room) {
                Some(member) => member.end(room, truth, true),
                None => Ok(()),
            };
        }
        let question = Question::Join {
            room: room.to_owned(),
            history: 0,
            recover: None,
            presence: None,
        };
        self.joined(room, &question, payload, now_ms, truth, now_ms)
    }

    /// Whether the room in the URL is this one, and nothing was heard of it yet.
    pub fn url_names(&self, room: &str) -> bool {
        let url = self.pending.get("url").map(|p| &p.question);
        matches!(url, Some(Question::Join { room: asked, .. }) if asked == room)
    }

    /// Whether an order to put it into a room may come to nothing for this reason.
    pub fn may_bar(&self, room: &str, code: u64) -> Check {
        let is_right = match code {
            4008 => self.law.members_max(room).is_some(),
            4013 => self.law.rooms_per_connection_max < 64,
            _ => self.law.may_be_full,
        };
        let fault = || format!("{code} keeps it out of {room}");
        is_right.then_some(()).ok_or_else(fault)
    }

    /// Where it may be a member of a room because the backend said so, or not, nobody can tell when it
    /// heard of it.
    pub fn standing_then(&self, standing: Standing, room: &str, truth: &Truth) -> Standing {
        let user = self.user.as_deref().unwrap_or_default();
        match truth.orders(user, room) {
            0 => standing,
            _ => Standing::Unknown,
        }
    }
}
