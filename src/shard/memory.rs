//! What a core holds in memory, by kind: sums that are kept where memory is taken and given back.
//!
//! Reading them is some additions, so they can be looked at within a turn. [`Shard::recount`] adds
//! everything up anew, room by room and connection by connection; the simulation holds the two
//! against each other after every call.
//!
//! Counted is what grows with what peers do. What a core has in any case (its read buffer, its
//! tables while they are empty, its metrics) is not, nor is what the allocator wastes: see
//! `docs/decisions/memory-budget.md`.

use crate::metrics::{Counts, MemoryKind};
use crate::protocol::UserId;
use crate::room::home::Held as RoomHeld;
use crate::room::{Feed, HomeRoom};
use crate::shard::connection::{Connection, FeedId, Held};
use crate::shard::pass::{Pass, Waiting};
use crate::shard::{Home, LocalRoom, Shard};

/// What a connection costs without its places in rooms, in bytes: its entry, its socket's, its timer,
/// its user at the user's home. With one room it comes to 432, of which `tests/footprint.rs` finds
/// some 280 and resident memory shows some 400.
pub const CONNECTION_BYTES: usize = 288;

/// What a place in a room costs on the connection's core: a cursor in a vector that doubles, and the
/// connection's note of it.
pub const PLACE_BYTES: usize = 48;

/// A room's name, its place in the table's index, its timer.
const ROOM_NAME_BYTES: usize = 96;

/// What a room costs at its home before anything is in it. Its table doubles.
pub const HOME_BYTES: usize = 2 * size_of::<Home>() + ROOM_NAME_BYTES;

/// What a room costs on a core with members.
pub const LOCAL_BYTES: usize = 2 * size_of::<LocalRoom>() + ROOM_NAME_BYTES;

/// A timer beyond those that every connection and every room has.
pub(super) const TIMER_BYTES: usize = 32;

/// What is held outside of the shard on its behalf, as the reactor knows it, in bytes.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Outside {
    /// Messages of other cores that wait for this one.
    pub bus: usize,
    /// What sockets hold besides the kernel: TLS.
    pub tls: usize,
}

/// The sums that nobody else keeps.
#[derive(Default)]
pub(super) struct Memory {
    /// Heads, paused input, parts of messages, what waits until a connection is let in.
    input: usize,
    /// Who connections are, and what limits remember of them.
    standing: usize,
    /// What rooms at home hold.
    homes: RoomHeld,
    /// Cursors in feeds of messages and of presence.
    members: usize,
    watchers: usize,
    pub(super) outside: Outside,
}

impl Memory {
    /// What a connection holds of its peer's input was `before` and is `after`.
    pub(super) fn note_input(&mut self, before: usize, after: usize) {
        self.input = self.input + after - before;
    }

    /// What a connection's name, pass and guard take was `before` and is `after`.
    pub(super) fn note_standing(&mut self, before: usize, after: usize) {
        self.standing = self.standing + after - before;
    }

    /// What a room at home holds was `before` and is `after`.
    pub(super) fn note_home(&mut self, before: RoomHeld, after: RoomHeld) {
        let homes = &mut self.homes;
        homes.history = homes.history + after.history - before.history;
        homes.keys = homes.keys + after.keys - before.keys;
        homes.members = homes.members + after.members - before.members;
    }

    /// A feed had `before` members and has `after`.
    pub(super) fn note_places(&mut self, id: FeedId, before: usize, after: usize) {
        let places = if id.is_presence() {
            &mut self.watchers
        } else {
            &mut self.members
        };
        *places = *places + after - before;
    }

    /// Cursors in feeds of messages.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    fn places(&self) -> usize {
        self.members + self.watchers
    }

    /// Bytes of history of all rooms at home.
    pub(super) fn history(&self) -> usize {
        self.homes.history
    }

    /// Bytes of keys of all rooms at home.
    pub(super) fn keys(&self) -> usize {
        self.homes.keys
    }
}

/// What a connection holds of its peer's input, in bytes.
pub(super) fn input_bytes(connection: &Connection) -> usize {
    let waiting = connection.pass().and_then(|pass| pass.waiting.as_deref());
    connection.decoder.heap_bytes()
        + held_bytes(connection.known_held())
        + waiting.map_or(0, Waiting::heap_bytes)
}

/// What a connection's name, pass and guard take, in bytes. A grant that several connections share
/// counts for each.
pub(super) fn standing_bytes(connection: &Connection) -> usize {
    let name = match &connection.user {
        UserId::Named(name) => name.len(),
        UserId::Anonymous(_) => 0,
    };
    let guard = connection.guard.as_deref().map_or(0, size_of_val);
    name + connection.pass().map_or(0, Pass::heap_bytes) + guard
}

/// What a connection holds of its peer's input, without a part of a message, and without what waits
/// until it is let in.
pub(super) fn held_bytes(held: Option<&Held>) -> usize {
    held.map_or(0, |held| {
        size_of::<Held>() + held.head.capacity() + held.unread.capacity()
    })
}

impl Shard {
    /// What the core holds in memory, by kind, in bytes.
    pub fn memory(&self) -> Counts<MemoryKind> {
        let Memory {
            input,
            standing,
            homes,
            outside,
            ..
        } = &self.memory;
        let places = self.memory.places();
        let kinds = [
            (
                MemoryKind::Connections,
                self.connections.len() * CONNECTION_BYTES + places * PLACE_BYTES + standing,
            ),
            (
                MemoryKind::Rooms,
                self.homes.len() * HOME_BYTES + self.locals.len() * LOCAL_BYTES + homes.members,
            ),
            (MemoryKind::Logs, self.spares.held_bytes()),
            (MemoryKind::History, homes.history),
            (MemoryKind::Keys, homes.keys),
            (
                MemoryKind::Queues,
                self.queues.held_bytes() + self.broadcasts.heap_bytes(),
            ),
            (MemoryKind::Input, *input),
            (
                MemoryKind::Bus,
                outside.bus + self.outgoing_bytes() + self.posts.heap_bytes(),
            ),
            (MemoryKind::Store, self.store_bytes()),
            (MemoryKind::Tls, outside.tls),
            (
                MemoryKind::Spare,
                self.spares.kept_bytes() + self.queues.kept_bytes() + self.frames.kept_bytes(),
            ),
        ];
        let mut counts = Counts::default();
        for (kind, bytes) in kinds {
            counts.add(kind, bytes as u64);
        }
        counts
    }

    /// The same, added up anew: to check [`Shard::memory`], at the cost of a look at everything.
    pub fn recount(&self) -> Counts<MemoryKind> {
        let mut counts = self.memory();
        let mut set = |kind, bytes: usize| {
            let before = counts.of(kind);
            counts.sub(kind, before);
            counts.add(kind, bytes as u64);
        };
        let feeds = |local: &LocalRoom, of: fn(&Feed) -> usize| {
            of(&local.messages) + local.presence.as_deref().map_or(0, of)
        };
        let locals = |of| {
            self.locals
                .iter()
                .map(|(_, _, l)| feeds(l, of))
                .sum::<usize>()
        };
        let rooms: Vec<RoomHeld> = self.homes.iter().map(|(_, _, h)| h.room.held()).collect();
        let connections = || self.connections.iter().map(|(_, connection)| connection);
        let queues = connections().filter_map(|c| c.queue.as_ref());
        let places = locals(|feed| feed.members.len());
        set(
            MemoryKind::Connections,
            self.connections.len() * CONNECTION_BYTES
                + places * PLACE_BYTES
                + connections().map(standing_bytes).sum::<usize>(),
        );
        set(
            MemoryKind::Rooms,
            self.homes.len() * HOME_BYTES
                + self.locals.len() * LOCAL_BYTES
                + rooms.iter().map(|room| room.members).sum::<usize>(),
        );
        set(MemoryKind::Logs, locals(|feed| feed.log.heap_bytes()));
        set(MemoryKind::History, rooms.iter().map(|r| r.history).sum());
        set(MemoryKind::Keys, rooms.iter().map(|r| r.keys).sum());
        set(
            MemoryKind::Queues,
            queues.map(|q| q.recounted_bytes()).sum::<usize>() + self.broadcasts.recounted_bytes(),
        );
        set(MemoryKind::Input, connections().map(input_bytes).sum());
        set(
            MemoryKind::Bus,
            self.memory.outside.bus + self.outgoing_bytes() + self.posts.recounted_bytes(),
        );
        let store = self.durable.as_ref().map_or(0, |it| it.recounted_bytes());
        set(MemoryKind::Store, store);
        counts
    }

    /// All of it together, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let Memory {
            input,
            standing,
            homes,
            outside,
            ..
        } = &self.memory;
        let places = self.memory.places();
        let spare = self.spares.kept_bytes() + self.queues.kept_bytes() + self.frames.kept_bytes();
        self.connections.len() * CONNECTION_BYTES
            + (places * PLACE_BYTES + standing)
            + self.homes.len() * HOME_BYTES
            + self.locals.len() * LOCAL_BYTES
            + (homes.members + homes.history + homes.keys)
            + (self.spares.held_bytes() + self.queues.held_bytes() + input + spare)
            + self.broadcasts.heap_bytes()
            + (outside.bus + outside.tls + self.outgoing_bytes() + self.posts.heap_bytes())
            + self.store_bytes()
    }

    /// Bytes that wait for the store.
    fn store_bytes(&self) -> usize {
        self.durable.as_ref().map_or(0, |it| it.held_bytes())
    }

    /// Bytes of messages to other cores that this turn has made so far.
    fn outgoing_bytes(&self) -> usize {
        self.outboxes.iter().flatten().map(|b| b.weight()).sum()
    }

    /// Changes what a connection holds besides its entry, and keeps the sums of that. Not for each
    /// message: it looks at all that a grant allows.
    pub(super) fn change_connection<R>(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let connection = self.connections.get_mut(index)?;
        let before = (input_bytes(connection), standing_bytes(connection));
        let result = change(connection);
        self.memory.note_input(before.0, input_bytes(connection));
        self.memory
            .note_standing(before.1, standing_bytes(connection));
        Some(result)
    }

    /// Changes a room at home, and keeps the sum of what rooms hold.
    pub(super) fn change_home<R>(
        &mut self,
        home: u32,
        change: impl FnOnce(&mut HomeRoom) -> R,
    ) -> Option<R> {
        let kept_since = self.kept_since(home);
        let room = &mut self.homes.get_mut(home)?.room;
        let before = room.held();
        let result = change(room);
        self.memory.note_home(before, room.held());
        self.record_trimmed(home, kept_since);
        Some(result)
    }
}
