//! What a group of records comes to: taken together first, written in one transaction, and only then
//! true in the mirror.

use std::collections::{HashMap, HashSet};

use super::database::{Database, Meta};
use super::mirror::{Mirror, Room, Row};
use super::record::{BanRecord, KeyRecord, MessageRecord, ReadRecord, RoomRecord};
use crate::bus::{Record, RecordKey};
use crate::protocol::{Epoch, UserId};

/// A room that the group changes, as it is after the group.
struct Touched<'a> {
    id: i64,
    is_new: bool,
    epoch: Epoch,
    offset: u64,
    kept_since: u64,
    added: Vec<Added<'a>>,
}

/// A message of the group.
struct Added<'a> {
    offset: u64,
    unix_ms: u64,
    key: Option<&'a RecordKey>,
    body: &'a [u8],
    /// Where it was written, if it was.
    place: Option<i64>,
}

/// What a group comes to.
pub(super) struct Change<'a> {
    /// Rooms by name; none where the room is no more.
    rooms: HashMap<&'a str, Option<Touched<'a>>>,
    /// Rooms of the mirror that end, by number.
    ended: Vec<i64>,
    /// How far users have read, by the room's number.
    reads: HashMap<i64, HashMap<&'a UserId, u64>>,
    /// Ends of bans; none where lifted.
    bans: HashMap<&'a UserId, Option<Option<u64>>>,
    /// Messages that do not follow on: they came twice.
    repeated: usize,
    /// Messages were lost before they came here: others do not follow on.
    has_holes: bool,
    next_room: i64,
    next_place: i64,
    deleted: Vec<i64>,
}

impl<'a> Change<'a> {
    /// Takes the records together.
    pub(super) fn of(records: impl Iterator<Item = &'a Record>, mirror: &Mirror) -> Change<'a> {
        let mut change = Change {
            rooms: HashMap::new(),
            ended: Vec::new(),
            reads: HashMap::new(),
            bans: HashMap::new(),
            repeated: 0,
            has_holes: false,
            next_room: mirror.next_room,
            next_place: mirror.next_place,
            deleted: Vec::new(),
        };
        for record in records {
            change.take(record, mirror);
        }
        change
    }

    /// Messages that were left out because their offset had been taken already.
    pub(super) fn repeated(&self) -> usize {
        self.repeated
    }

    /// Whether messages were lost on the way here.
    pub(super) fn has_holes(&self) -> bool {
        self.has_holes
    }

    fn take(&mut self, record: &'a Record, mirror: &Mirror) {
        match record {
            Record::Opened { room, epoch } => {
                self.open(room.name(), *epoch, mirror);
            }
            Record::Message { .. } => self.take_message(record, mirror),
            Record::Trimmed { room, kept_since } => {
                if let Some(room) = self.touch(room.name(), mirror) {
                    room.kept_since = room.kept_since.max((*kept_since).min(room.offset));
                }
            }
            Record::Read { room, user, offset } => {
                if let Some(id) = self.touch(room.name(), mirror).map(|room| room.id) {
                    self.reads.entry(id).or_default().insert(user, *offset);
                }
            }
            Record::Forgotten { room } => self.end(room.name(), mirror),
            Record::Banned {
                user,
                until_unix_ms,
            } => {
                self.bans.insert(user, Some(*until_unix_ms));
            }
            Record::Unbanned { user } => {
                self.bans.insert(user, None);
            }
        }
    }

    fn take_message(&mut self, record: &'a Record, mirror: &Mirror) {
        let Record::Message {
            room,
            epoch,
            offset,
            frame,
            unix_ms,
            key,
            kept_since,
        } = record
        else {
            return;
        };
        let Some(room) = self.open(room.name(), *epoch, mirror) else {
            return;
        };
        if *offset <= room.offset {
            self.repeated += 1;
            return;
        }
        let mut has_hole = false;
        if *offset > room.offset + 1 {
            // Those between were lost: what was kept does not lead up to this one.
            room.kept_since = offset - 1;
            has_hole = true;
        }
        room.offset = *offset;
        room.kept_since = room.kept_since.max((*kept_since).min(*offset));
        room.added.push(Added {
            offset: *offset,
            unix_ms: *unix_ms,
            key: key.as_ref(),
            body: frame.body(),
            place: None,
        });
        self.has_holes |= has_hole;
    }

    /// The room as it is by now, if there is one.
    fn touch(&mut self, name: &'a str, mirror: &Mirror) -> Option<&mut Touched<'a>> {
        let known = || {
            mirror.rooms.get(name).map(|room| Touched {
                id: room.id,
                is_new: false,
                epoch: room.epoch,
                offset: room.offset,
                kept_since: room.kept_since,
                added: Vec::new(),
            })
        };
        self.rooms.entry(name).or_insert_with(known).as_mut()
    }

    /// The room of this epoch, made where there is none: one of another epoch ends.
    fn open(&mut self, name: &'a str, epoch: Epoch, mirror: &Mirror) -> Option<&mut Touched<'a>> {
        let is_there = self
            .touch(name, mirror)
            .is_some_and(|room| room.epoch == epoch);
        if !is_there {
            self.end(name, mirror);
            let id = self.next_room;
            self.next_room += 1;
            let room = Touched {
                id,
                is_new: true,
                epoch,
                offset: 0,
                kept_since: 0,
                added: Vec::new(),
            };
            self.rooms.insert(name, Some(room));
        }
        self.rooms.get_mut(name).and_then(Option::as_mut)
    }

    fn end(&mut self, name: &'a str, mirror: &Mirror) {
        let Some(room) = self.touch(name, mirror) else {
            return;
        };
        let (id, is_new) = (room.id, room.is_new);
        if !is_new {
            self.ended.push(id);
        }
        self.reads.remove(&id);
        self.rooms.insert(name, None);
    }

    /// Writes it, within a transaction, and deletes at least `swept` messages that wait for that.
    pub(super) fn write(
        &mut self,
        database: &Database,
        mirror: &Mirror,
        now_unix_ms: u64,
        swept: usize,
    ) -> rusqlite::Result<()> {
        let mut bytes = Vec::new();
        for id in &self.ended {
            database.remove_room(*id)?;
        }
        let mut added = 0;
        let (rooms, next_place) = (&mut self.rooms, &mut self.next_place);
        for (name, room) in rooms.iter_mut() {
            if let Some(room) = room {
                added += room.write(name, next_place, database, mirror, now_unix_ms, &mut bytes)?;
            }
        }
        self.write_reads(database, &mut bytes)?;
        self.write_bans(database, &mut bytes)?;
        self.deleted = mirror.due(added, swept);
        for place in &self.deleted {
            database.remove_message(*place)?;
        }
        database.set_meta(Meta::NextPlace, self.next_place)?;
        database.set_meta(Meta::Commits, mirror.commits + 1)
    }

    fn write_reads(&self, database: &Database, bytes: &mut Vec<u8>) -> rusqlite::Result<()> {
        let reads = self.reads.iter();
        let reads = reads.flat_map(|(room, users)| users.iter().map(move |read| (room, read)));
        for (room, (user, offset)) in reads {
            let name = user.to_string();
            if *offset == 0 {
                database.remove_read(*room, &name)?;
                continue;
            }
            let record = ReadRecord {
                room: *room,
                user: &name,
                offset: *offset,
            };
            record.encode(bytes);
            database.put_read(*room, &name, bytes)?;
        }
        Ok(())
    }

    fn write_bans(&self, database: &Database, bytes: &mut Vec<u8>) -> rusqlite::Result<()> {
        for (user, ban) in &self.bans {
            let name = user.to_string();
            let Some(until_unix_ms) = *ban else {
                database.remove_ban(&name)?;
                continue;
            };
            let record = BanRecord {
                user: &name,
                until_unix_ms,
            };
            record.encode(bytes);
            database.put_ban(&name, bytes)?;
        }
        Ok(())
    }

    /// It is committed.
    pub(super) fn enter(self, mirror: &mut Mirror, now_unix_ms: u64) {
        mirror.deleted(&self.deleted);
        mirror.commits += 1;
        mirror.next_room = self.next_room;
        mirror.next_place = self.next_place;
        let ended: HashSet<i64> = self.ended.into_iter().collect();
        for (name, room) in self.rooms {
            if mirror
                .rooms
                .get(name)
                .is_some_and(|room| ended.contains(&room.id))
            {
                mirror.remove(name);
            }
            if let Some(room) = room {
                room.enter(name, mirror, now_unix_ms);
            }
        }
    }
}

impl Touched<'_> {
    /// Writes what the room is and what it keeps of its new messages. Answers how many these are.
    fn write(
        &mut self,
        name: &str,
        next_place: &mut i64,
        database: &Database,
        mirror: &Mirror,
        now_unix_ms: u64,
        bytes: &mut Vec<u8>,
    ) -> rusqlite::Result<usize> {
        let before = mirror.rooms.get(name).filter(|room| room.id == self.id);
        let is_same =
            |room: &Room| (room.offset, room.kept_since) == (self.offset, self.kept_since);
        if !before.is_some_and(is_same) {
            let record = RoomRecord {
                name,
                epoch: self.epoch,
                offset: self.offset,
                kept_since: self.kept_since,
            };
            record.encode(bytes);
            database.put_room(self.id, bytes)?;
        }
        let mut count = 0;
        for message in &mut self.added {
            let is_kept = message.offset > self.kept_since;
            let key = message
                .key
                .filter(|_| is_kept || mirror.is_young(message.unix_ms, now_unix_ms));
            if !is_kept && key.is_none() {
                continue;
            }
            let user = key.and_then(|key| key.user.as_ref()).map(UserId::to_string);
            let record = MessageRecord {
                room: self.id,
                offset: message.offset,
                unix_ms: message.unix_ms,
                key: key.map(|key| KeyRecord {
                    user: user.as_deref(),
                    id: &key.id,
                }),
                body: if is_kept { message.body } else { &[] },
            };
            record.encode(bytes);
            database.put_message(*next_place, bytes)?;
            message.place = Some(*next_place);
            *next_place += 1;
            count += 1;
        }
        Ok(count)
    }

    fn enter(self, name: &str, mirror: &mut Mirror, now_unix_ms: u64) {
        let room = mirror.rooms.entry(name.into()).or_insert_with(|| Room {
            id: self.id,
            epoch: self.epoch,
            offset: 0,
            kept_since: 0,
            rows: Default::default(),
        });
        room.offset = self.offset;
        for message in self.added {
            if let Some(place) = message.place {
                mirror.rows += 1;
                room.rows.push_back(Row {
                    offset: message.offset,
                    place,
                    keyed_unix_ms: message.key.map(|_| message.unix_ms),
                });
            }
        }
        mirror.trim(name, self.kept_since, now_unix_ms);
    }
}
