//! Reads everything that a database holds, and goes on behind what cannot be read.

use std::collections::HashMap;

use super::database::{Database, Meta, is_damage};
use super::record::{BanRecord, KeyRecord, MessageRecord, ReadRecord, RoomRecord};
use crate::bus::RecordKey;
use crate::protocol::{Epoch, UserId};

/// A room's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RoomRead {
    pub(super) name: Box<str>,
    pub(super) epoch: Epoch,
    pub(super) offset: u64,
    pub(super) kept_since: u64,
}

/// A message's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MessageRead {
    pub(super) offset: u64,
    pub(super) place: i64,
    pub(super) unix_ms: u64,
    pub(super) key: Option<RecordKey>,
    /// Empty where the message was not kept, or bodies were not asked for.
    pub(super) body: Box<[u8]>,
    pub(super) is_kept: bool,
}

/// Everything that was found, by the numbers of rooms.
#[derive(Default, Debug)]
pub(super) struct Reading {
    pub(super) rooms: HashMap<i64, RoomRead>,
    pub(super) messages: HashMap<i64, Vec<MessageRead>>,
    pub(super) reads: HashMap<(i64, UserId), u64>,
    pub(super) bans: HashMap<UserId, Option<u64>>,
    pub(super) commits: Option<i64>,
    pub(super) next_place: Option<i64>,
    pub(super) clean: Option<i64>,
    pub(super) mode: Option<i64>,
    /// Records with a wrong checksum.
    pub(super) broken: u64,
    /// Places at which SQLite could not read on.
    pub(super) gaps: u64,
    /// Some of these concern rooms' records.
    pub(super) rooms_are_lacking: bool,
}

/// After so many failures on end a table has no more that can be read.
const FAILURES_MAX: u32 = 4_000;
/// Behind a page that cannot be read we look again this far on at most: about a page of messages.
const STEP_MAX: i64 = 16;

impl Reading {
    /// Reads what is there.
    ///
    /// # Errors
    /// Those that say nothing about damage: somebody else has the file open, no memory.
    pub(super) fn of(database: &Database, bodies: bool) -> rusqlite::Result<Reading> {
        let mut reading = Reading::default();
        reading.read(database, bodies)?;
        Ok(reading)
    }

    /// Adds what is there to what was found elsewhere.
    pub(super) fn read(&mut self, database: &Database, bodies: bool) -> rusqlite::Result<()> {
        for meta in [Meta::Commits, Meta::NextPlace, Meta::Clean, Meta::Mode] {
            let value = match database.meta(meta) {
                Ok(value) => value,
                Err(error) => self.note(error).map(|()| None)?,
            };
            let cell = match meta {
                Meta::Commits => &mut self.commits,
                Meta::NextPlace => &mut self.next_place,
                Meta::Clean => &mut self.clean,
                Meta::Mode => &mut self.mode,
            };
            *cell = cell.or(value);
        }
        let gaps = (self.gaps, self.broken);
        scan(self, i64::from(u32::MAX), |reading, from, last| {
            database.rooms(from, |id, record| {
                *last = (*last).max(id);
                reading.room(id, record);
            })
        })?;
        self.rooms_are_lacking |= (self.gaps, self.broken) != gaps;
        let end = self.next_place.unwrap_or(i64::MAX);
        scan(self, end, |reading, from, last| {
            database.messages(from, |place, record| {
                *last = (*last).max(place);
                reading.message(place, record, bodies);
            })
        })?;
        for forward in [true, false] {
            let result = database.reads(forward, |_, record| self.user_read(record));
            let Err(error) = result else { break };
            self.note(error)?;
        }
        for forward in [true, false] {
            let result = database.bans(forward, |_, record| self.ban(record));
            let Err(error) = result else { break };
            self.note(error)?;
        }
        Ok(())
    }

    /// Whether everything could be read.
    pub(super) fn is_whole(&self) -> bool {
        self.broken == 0 && self.gaps == 0
    }

    fn note(&mut self, error: rusqlite::Error) -> rusqlite::Result<()> {
        if is_damage(&error) {
            self.gaps += 1;
            return Ok(());
        }
        Err(error)
    }

    fn room(&mut self, id: i64, record: &[u8]) {
        let Some(record) = RoomRecord::decode(record) else {
            self.broken += 1;
            return;
        };
        self.rooms.entry(id).or_insert_with(|| RoomRead {
            name: record.name.into(),
            epoch: record.epoch,
            offset: record.offset,
            kept_since: record.kept_since.min(record.offset),
        });
    }

    fn message(&mut self, place: i64, record: &[u8], bodies: bool) {
        let Some(record) = MessageRecord::decode(record) else {
            self.broken += 1;
            return;
        };
        let key = |key: KeyRecord<'_>| RecordKey {
            user: key.user.map(UserId::from_name),
            id: key.id.into(),
        };
        let body = if bodies { record.body } else { &[] };
        self.messages
            .entry(record.room)
            .or_default()
            .push(MessageRead {
                offset: record.offset,
                place,
                unix_ms: record.unix_ms,
                key: record.key.map(key),
                body: body.into(),
                is_kept: !record.body.is_empty(),
            });
    }

    fn user_read(&mut self, record: &[u8]) {
        match ReadRecord::decode(record) {
            Some(read) => {
                let user = UserId::from_name(read.user);
                self.reads.insert((read.room, user), read.offset);
            }
            None => self.broken += 1,
        }
    }

    fn ban(&mut self, record: &[u8]) {
        match BanRecord::decode(record) {
            Some(ban) => {
                let user = UserId::from_name(ban.user);
                self.bans.insert(user, ban.until_unix_ms);
            }
            None => self.broken += 1,
        }
    }
}

/// Reads a table from its beginning. `run` reads from a number on and notes the last that it saw;
/// where it fails, it is asked again for what lies behind.
fn scan(
    reading: &mut Reading,
    end: i64,
    mut run: impl FnMut(&mut Reading, i64, &mut i64) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let (mut from, mut step, mut failures) = (i64::MIN, 1, 0);
    loop {
        let mut last = i64::MIN;
        let Err(error) = run(reading, from, &mut last) else {
            return Ok(());
        };
        reading.note(error)?;
        let has_seen = last > i64::MIN;
        (step, failures) = match has_seen {
            true => (1, 0),
            false => ((step * 2).min(STEP_MAX), failures + 1),
        };
        // Numbers begin with 1.
        from = from.max(last).max(0).saturating_add(step);
        if from > end || failures > FAILURES_MAX {
            return Ok(());
        }
    }
}
