//! What the backend is told, and the JSON of it.

use std::hash::{Hash, Hasher};

use crate::address::RoomKey;
use crate::bus::Noticed;
use crate::protocol::json::write_string;
use crate::protocol::{Timestamp, UserId};

/// What an event holds in memory besides its name, in bytes, and roughly what it is as JSON.
const EVENT_BYTES: usize = 96;

/// Whom an event is about.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Room(RoomKey),
    User(UserId),
}

impl PartialEq for Subject {
    fn eq(&self, other: &Subject) -> bool {
        match (self, other) {
            (Subject::Room(a), Subject::Room(b)) => a.name() == b.name(),
            (Subject::User(a), Subject::User(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Subject {}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Subject::Room(room) => room.hash().hash(state),
            Subject::User(user) => user.hash(state),
        }
    }
}

impl Subject {
    /// A notice, taken apart: whom it is about, and whether there is somebody now.
    pub(super) fn of(what: Noticed) -> (Subject, bool) {
        match what {
            Noticed::RoomOccupied(room) => (Subject::Room(room), true),
            Noticed::RoomVacated(room) => (Subject::Room(room), false),
            Noticed::UserConnected(user) => (Subject::User(user), true),
            Noticed::UserDisconnected(user) => (Subject::User(user), false),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// The node began, and with it its epoch.
    NodeStarted,
    /// The node drains: of this epoch nothing more is told.
    NodeStopping,
    /// So many events could not be told here.
    EventsDropped(u64),
    /// Somebody is there now, or nobody.
    Change { subject: Subject, is_there: bool },
}

/// The types, in the order of [`What::index`].
pub(super) const TYPES: [&str; 7] = [
    "node_started",
    "node_stopping",
    "events_dropped",
    "room_occupied",
    "room_vacated",
    "user_connected",
    "user_disconnected",
];

impl What {
    /// The type's place in [`TYPES`].
    pub(super) fn index(&self) -> usize {
        match self {
            What::NodeStarted => 0,
            What::NodeStopping => 1,
            What::EventsDropped(_) => 2,
            What::Change { subject, is_there } => match (subject, is_there) {
                (Subject::Room(_), true) => 3,
                (Subject::Room(_), false) => 4,
                (Subject::User(_), true) => 5,
                (Subject::User(_), false) => 6,
            },
        }
    }
}

/// Something that the backend is to know.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// When it happened.
    pub unix_ms: u64,
    /// What.
    pub what: What,
}

impl Event {
    /// What it holds in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let name = match &self.what {
            What::Change { subject, .. } => match subject {
                Subject::Room(room) => room.name().len(),
                Subject::User(UserId::Named(name)) => name.len(),
                Subject::User(UserId::Anonymous(_)) => 0,
            },
            _ => 0,
        };
        EVENT_BYTES + name
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        let name = TYPES.get(self.what.index()).copied().unwrap_or_default();
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"at\":\"");
        out.extend_from_slice(Timestamp::from_unix_ms(self.unix_ms).as_bytes());
        out.push(b'"');
        match &self.what {
            What::NodeStarted | What::NodeStopping => {}
            What::EventsDropped(count) => {
                out.extend_from_slice(format!(",\"count\":{count}").as_bytes());
            }
            What::Change { subject, .. } => match subject {
                Subject::Room(room) => {
                    out.extend_from_slice(b",\"room\":");
                    write_string(room.name(), out);
                }
                Subject::User(user) => {
                    out.extend_from_slice(b",\"user_id\":");
                    write_string(&user.to_string(), out);
                }
            },
        }
        out.push(b'}');
    }
}

/// Writes the body of a request.
pub(super) fn write_batch(
    (node, epoch, sequence): (&str, u64, u64),
    sent_at_unix_ms: u64,
    events: &[Event],
) -> Vec<u8> {
    let bytes: usize = events.iter().map(Event::bytes).sum();
    let mut out = Vec::with_capacity(bytes + 256);
    out.extend_from_slice(b"{\"node\":");
    write_string(node, &mut out);
    out.extend_from_slice(
        format!(",\"epoch\":\"{epoch:016x}\",\"sequence\":{sequence}").as_bytes(),
    );
    out.extend_from_slice(b",\"sent_at\":\"");
    out.extend_from_slice(Timestamp::from_unix_ms(sent_at_unix_ms).as_bytes());
    out.extend_from_slice(b"\",\"events\":[");
    for (place, event) in events.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        event.write(&mut out);
    }
    out.extend_from_slice(b"]}");
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::address::Placement;

    pub(in crate::control::hooks) fn room(name: &str) -> Subject {
        Subject::Room(Placement::new(7, 1).room(name))
    }

    pub(in crate::control::hooks) fn user(name: &str) -> Subject {
        Subject::User(UserId::from_name(name))
    }

    #[test]
    fn a_batch_is_json_as_the_contract_has_it() {
        let change = |subject, is_there| What::Change { subject, is_there };
        let all = [
            What::NodeStarted,
            What::EventsDropped(12),
            change(room("a\"b"), true),
            change(room("räume"), false),
            change(user("ann"), true),
            change(user("anon-000000000000z"), false),
            What::NodeStopping,
        ];
        let events = all.map(|what| Event {
            unix_ms: 1_800_000_000_001,
            what,
        });
        let body = write_batch(("edge-1", 31, 4), 1_800_000_000_500, &events);
        let at = "\"at\":\"2027-01-15T08:00:00.001Z\"";
        assert_eq!(
            String::from_utf8(body).unwrap(),
            [
                r#"{"node":"edge-1","epoch":"000000000000001f","sequence":4,"#.to_owned(),
                r#""sent_at":"2027-01-15T08:00:00.500Z","events":["#.to_owned(),
                format!("{{\"type\":\"node_started\",{at}}},"),
                format!("{{\"type\":\"events_dropped\",{at},\"count\":12}},"),
                format!("{{\"type\":\"room_occupied\",{at},\"room\":\"a\\\"b\"}},"),
                format!("{{\"type\":\"room_vacated\",{at},\"room\":\"räume\"}},"),
                format!("{{\"type\":\"user_connected\",{at},\"user_id\":\"ann\"}},"),
                format!(
                    "{{\"type\":\"user_disconnected\",{at},\"user_id\":\"anon-000000000000z\"}},"
                ),
                format!("{{\"type\":\"node_stopping\",{at}}}]}}"),
            ]
            .concat()
        );
    }
}
