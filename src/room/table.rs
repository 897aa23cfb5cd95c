//! Rooms by name: one hash of the name serves to find its home core, its home state and its log.

use hashbrown::HashTable;
use slab::Slab;

use crate::address::RoomKey;

/// A table of rooms; an index stays valid until its room is removed.
pub struct RoomTable<T> {
    rooms: Slab<(RoomKey, T)>,
    index: HashTable<u32>,
}

impl<T> Default for RoomTable<T> {
    fn default() -> Self {
        RoomTable {
            rooms: Slab::new(),
            index: HashTable::new(),
        }
    }
}

impl<T> RoomTable<T> {
    /// The index of the room with this name and hash.
    pub fn find(&self, hash: u64, name: &str) -> Option<u32> {
        let same = |i: &u32| {
            self.key(*i)
                .is_some_and(|k| k.hash() == hash && k.name() == name)
        };
        self.index.find(hash, same).copied()
    }

    /// Adds a room that is not there yet.
    pub fn insert(&mut self, key: RoomKey, room: T) -> u32 {
        let hash = key.hash();
        let index = self.rooms.insert((key, room)) as u32;
        let rooms = &self.rooms;
        let rehash = |i: &u32| rooms.get(*i as usize).map_or(0, |(k, _)| k.hash());
        self.index.insert_unique(hash, index, rehash);
        index
    }

    /// Removes a room, and gives back memory when the table has become much too large.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (key, room) = self.rooms.try_remove(index as usize)?;
        if let Ok(entry) = self.index.find_entry(key.hash(), |i| *i == index) {
            entry.remove();
        }
        if self.index.is_empty() {
            *self = RoomTable::default();
        }
        Some(room)
    }

    /// A room's name.
    pub fn key(&self, index: u32) -> Option<&RoomKey> {
        self.rooms.get(index as usize).map(|(key, _)| key)
    }

    /// A room.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.rooms.get(index as usize).map(|(_, room)| room)
    }

    /// A room, to change it.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.rooms.get_mut(index as usize).map(|(_, room)| room)
    }

    /// The first room at `index` or behind it, where to look next, and on from the start when the end
    /// is reached; none in an empty table. At most a few hundred free places are passed over in a call:
    /// then the room is one that is not there.
    pub fn cycle(&self, index: u32) -> Option<(u32, u32)> {
        const PASSED_MAX: u32 = 256;
        if self.rooms.is_empty() {
            return None;
        }
        let end = self.rooms.capacity() as u32;
        let mut at = if index < end { index } else { 0 };
        for _ in 0..PASSED_MAX {
            let next = if at + 1 < end { at + 1 } else { 0 };
            if self.rooms.contains(at as usize) {
                return Some((at, next));
            }
            at = next;
        }
        Some((at, at))
    }

    /// The rooms at `from` and behind it, as far as `places` places go, and where to look next; none
    /// at the end of the table.
    pub fn stretch(
        &self,
        from: u32,
        places: u32,
    ) -> (impl Iterator<Item = (u32, &RoomKey, &T)>, Option<u32>) {
        let end = self.rooms.capacity() as u32;
        let next = from.saturating_add(places);
        let at = move |place: u32| {
            let (key, room) = self.rooms.get(place as usize)?;
            Some((place, key, room))
        };
        let found = (from.min(end)..next.min(end)).filter_map(at);
        (found, (next < end).then_some(next))
    }

    /// All rooms with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &RoomKey, &T)> {
        self.rooms
            .iter()
            .map(|(index, (key, room))| (index as u32, key, room))
    }

    /// How many rooms there are.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }
}
