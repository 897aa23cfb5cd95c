//! What was read becomes what rooms begin with: only what is whole, and what follows on.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::PathBuf;

use super::mirror::{Mirror, Room, Row};
use super::reading::{MessageRead, Reading, RoomRead};
use crate::bus::{StoredBan, StoredKey, StoredMessage, StoredRoom};
use crate::protocol::ids::is_room_name;
use crate::protocol::json::{members, string};
use crate::protocol::{Epoch, UserId};

/// What the store holds at a start.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Contents {
    /// The rooms, by name.
    pub rooms: Vec<StoredRoom>,
    /// The bans, by user.
    pub bans: Vec<StoredBan>,
    /// All rooms have new epochs: what clients were told of the last ones may be lost.
    pub renewed: bool,
    /// What was found damaged, if anything was.
    pub damage: Option<Damage>,
}

/// What is missing, and where the original is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The folder with the damaged files, or with copies of them as they were found.
    pub aside: Option<PathBuf>,
    /// Records whose checksum was wrong.
    pub broken: u64,
    /// Places where nothing could be read.
    pub gaps: u64,
    /// Rooms that lack messages which they should have, by name.
    pub rooms: Vec<Box<str>>,
    /// The last commits are missing.
    pub commits_missing: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// So many rooms are named.
        const NAMED: usize = 10;
        if self.commits_missing > 0 {
            write!(f, "the last {} commits are missing; ", self.commits_missing)?;
        }
        write!(
            f,
            "{} records had a wrong checksum, {} places could not be read; ",
            self.broken, self.gaps
        )?;
        match self.rooms.len() {
            0 if self.commits_missing > 0 => {
                write!(f, "which rooms lack messages is not known")?;
            }
            0 => write!(f, "no room lacks a message")?,
            1 => write!(f, "1 room lacks messages")?,
            n => write!(f, "{n} rooms lack messages")?,
        }
        for (n, room) in self.rooms.iter().take(NAMED).enumerate() {
            write!(f, "{} {room:?}", if n == 0 { ":" } else { "," })?;
        }
        if self.rooms.len() > NAMED {
            write!(f, " and {} more", self.rooms.len() - NAMED)?;
        }
        match &self.aside {
            Some(aside) => write!(f, "; the damaged files are kept in {}", aside.display()),
            None => Ok(()),
        }
    }
}

/// Puts together what was read.
pub(super) struct Assembly<'a> {
    pub(super) mirror: Mirror,
    pub(super) contents: Contents,
    /// Rooms that lack what they should have.
    pub(super) lacking: Vec<Box<str>>,
    now_unix_ms: u64,
    new_epoch: &'a mut dyn FnMut() -> Epoch,
}

impl<'a> Assembly<'a> {
    /// Takes everything out of `reading`; `mirror` is new.
    pub(super) fn of(
        mut reading: Reading,
        mirror: Mirror,
        now_unix_ms: u64,
        new_epoch: &'a mut dyn FnMut() -> Epoch,
    ) -> Assembly<'a> {
        let mut assembly = Assembly {
            mirror,
            contents: Contents::default(),
            lacking: Vec::new(),
            now_unix_ms,
            new_epoch,
        };
        assembly.number(&reading);
        let mut reads: HashMap<i64, Vec<_>> = HashMap::new();
        for ((room, user), offset) in std::mem::take(&mut reading.reads) {
            reads.entry(room).or_default().push((user, offset));
        }
        // Of rooms of one name the last one counts: the others were forgotten before it was opened.
        let mut rooms: Vec<_> = std::mem::take(&mut reading.rooms).into_iter().collect();
        rooms.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (id, room) in rooms {
            if assembly.mirror.rooms.contains_key(&room.name) {
                let found = reading.messages.remove(&id).unwrap_or_default();
                found
                    .iter()
                    .for_each(|found| assembly.mirror.doom(found.place));
                continue;
            }
            let found = reading.messages.remove(&id).unwrap_or_default();
            let reads = reads.remove(&id).unwrap_or_default();
            assembly.room(id, room, found, reads);
        }
        let mut orphans: Vec<_> = reading.messages.into_iter().collect();
        orphans.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (id, found) in orphans {
            match reading.rooms_are_lacking.then(|| name_of(&found)).flatten() {
                Some(name) => assembly.orphans(id, &name, found),
                // Of a room that is no more: not deleted yet.
                None => found
                    .iter()
                    .for_each(|found| assembly.mirror.doom(found.place)),
            }
        }
        let contents = &mut assembly.contents;
        contents.rooms.sort_by(|a, b| a.name.cmp(&b.name));
        let ban = |(user, until_unix_ms)| StoredBan {
            user,
            until_unix_ms,
        };
        contents.bans = reading.bans.into_iter().map(ban).collect();
        contents.bans.sort_by_cached_key(|ban| ban.user.to_string());
        assembly.lacking.sort();
        assembly
    }

    /// The numbers that are given next.
    fn number(&mut self, reading: &Reading) {
        let mirror = &mut self.mirror;
        mirror.rows = reading.messages.values().map(Vec::len).sum();
        mirror.commits = reading.commits.unwrap_or(0);
        let rooms = reading.rooms.keys().chain(reading.messages.keys());
        let rooms = rooms.chain(reading.reads.keys().map(|(room, _)| room));
        mirror.next_room = rooms.max().map_or(1, |max| max.saturating_add(1));
        let places = reading.messages.values().flatten();
        let next = places.map(|found| found.place.saturating_add(1)).max();
        mirror.next_place = next.unwrap_or(1).max(reading.next_place.unwrap_or(1));
    }

    fn room(
        &mut self,
        id: i64,
        room: RoomRead,
        mut found: Vec<MessageRead>,
        mut reads: Vec<(UserId, u64)>,
    ) {
        self.order(&mut found, room.offset);
        let mut at = room.clone();
        let mut first = run(&found, at.offset, at.kept_since);
        let mut kept = (found.len() - first) as u64;
        let expected = room.offset - room.kept_since;
        if kept < expected {
            self.lacking.push(room.name);
        }
        let last = found.iter().rev().find(|found| found.is_kept);
        if kept == 0
            && expected > 0
            && let Some(last) = last
        {
            // The newest messages are gone, those before them are not: the room goes on from there.
            // Its offsets are given again, so it needs another epoch.
            at.offset = last.offset;
            at.epoch = (self.new_epoch)();
            self.order(&mut found, at.offset);
            at.kept_since = at.kept_since.min(at.offset);
            first = run(&found, at.offset, at.kept_since);
            kept = (found.len() - first) as u64;
        }
        at.kept_since = at.offset - kept;
        reads.sort_by_cached_key(|(user, _)| user.to_string());
        self.enter(id, at, found, first, reads);
    }

    /// By offset, each once, none above the newest: that one is the room's to say.
    fn order(&mut self, found: &mut Vec<MessageRead>, newest: u64) {
        found.sort_by_key(|found| found.offset);
        found.dedup_by_key(|found| found.offset);
        let above = found.partition_point(|found| found.offset <= newest);
        for found in found.drain(above..) {
            self.mirror.doom(found.place);
        }
    }

    /// Messages of a room whose own record is lost.
    fn orphans(&mut self, id: i64, name: &str, mut found: Vec<MessageRead>) {
        let newest = found.iter().filter(|found| found.is_kept);
        let offset = newest.map(|found| found.offset).max().unwrap_or(0);
        if self.mirror.rooms.contains_key(name) {
            return found.iter().for_each(|found| self.mirror.doom(found.place));
        }
        self.order(&mut found, offset);
        self.lacking.push(name.into());
        let first = run(&found, offset, 0);
        let room = RoomRead {
            name: name.into(),
            epoch: (self.new_epoch)(),
            offset,
            kept_since: offset - (found.len() - first) as u64,
        };
        self.enter(id, room, found, first, Vec::new());
    }

    /// The messages from `first` on are kept.
    fn enter(
        &mut self,
        id: i64,
        room: RoomRead,
        found: Vec<MessageRead>,
        first: usize,
        reads: Vec<(UserId, u64)>,
    ) {
        let mut rows = VecDeque::new();
        let (mut messages, mut keys) = (Vec::new(), Vec::new());
        for (n, found) in found.into_iter().enumerate() {
            let row = Row {
                offset: found.offset,
                place: found.place,
                keyed_unix_ms: found.key.as_ref().map(|_| found.unix_ms),
            };
            if let Some(key) = found.key
                && self.mirror.is_young(found.unix_ms, self.now_unix_ms)
            {
                keys.push(StoredKey {
                    key,
                    offset: found.offset,
                    unix_ms: found.unix_ms,
                });
            }
            if n < first {
                self.mirror.let_go(row, self.now_unix_ms);
                continue;
            }
            rows.push_back(row);
            messages.push(StoredMessage {
                unix_ms: found.unix_ms,
                body: found.body,
            });
        }
        let kept = Room {
            id,
            epoch: room.epoch,
            offset: room.offset,
            kept_since: room.kept_since,
            rows,
        };
        self.mirror.rooms.insert(room.name.clone(), kept);
        self.contents.rooms.push(StoredRoom {
            name: room.name,
            epoch: room.epoch,
            offset: room.offset,
            messages,
            keys,
            reads,
        });
    }
}

/// The place in `found` where the longest run without hole begins that ends with the newest offset
/// and holds only what is kept; its end where there is none.
fn run(found: &[MessageRead], newest: u64, kept_since: u64) -> usize {
    let mut expected = newest;
    let mut first = found.len();
    for (n, found) in found.iter().enumerate().rev() {
        if found.offset != expected || !found.is_kept || found.offset <= kept_since {
            break;
        }
        (first, expected) = (n, expected - 1);
    }
    first
}

/// The room that a message says it is of.
fn name_of(found: &[MessageRead]) -> Option<String> {
    let body = found.iter().rev().find(|found| found.is_kept)?;
    let text = str::from_utf8(&body.body).ok()?;
    let members = members(text).ok()?;
    let room = members.iter().find(|member| member.name == "room")?;
    let name = string(room.value)?.into_owned();
    is_room_name(&name).then_some(name)
}
