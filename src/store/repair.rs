//! Makes a whole database of what a damaged one still gives.
//!
//! The damaged file is read as it is first. Where SQLite could not read on, a copy of it is read
//! once more with a first page of ours: that page says where tables begin, and is the same in every
//! file that we make.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::contents::Contents;
use super::database::{Database, Meta, PAGE_BYTES, is_damage};
use super::folder::{Folder, companions, open_private};
use super::mirror::{Mirror, Room, Row};
use super::reading::Reading;
use super::record::{BanRecord, KeyRecord, MessageRecord, ReadRecord, RoomRecord};
use crate::bus::{StoredBan, StoredKey, StoredRoom};
use crate::protocol::UserId;

/// Adds to `reading` what a copy of the database with a new first page gives.
pub(super) fn read_again(folder: &Folder, reading: &mut Reading) -> Result<(), StoreError> {
    let copy = folder.rebuilding()?;
    let fresh = first_page(&copy, folder)?;
    for with_journal in [true, false] {
        let copy = folder.rebuilding()?;
        copy_database(&folder.database(), &copy, with_journal)?;
        transplant(&copy, &fresh)?;
        let read = Database::open(&copy).and_then(|database| reading.read(&database, true));
        match read {
            Ok(()) => break,
            Err(error) if is_damage(&error) => reading.gaps += 1,
            Err(error) => return Err(StoreError::database(folder, &error)),
        }
    }
    folder.rebuilding()?;
    Ok(())
}

/// The first page of a new database.
fn first_page(path: &Path, folder: &Folder) -> Result<[u8; PAGE_BYTES], StoreError> {
    open_private(path)?;
    drop(Database::open(path).map_err(|error| StoreError::database(folder, &error))?);
    let mut page = [0; PAGE_BYTES];
    fs::File::open(path)?.read_exact(&mut page)?;
    Ok(page)
}

fn copy_database(from: &Path, to: &Path, with_journal: bool) -> io::Result<()> {
    let names = [from, to].map(|path| companions(&path.to_string_lossy()));
    let [[from, from_journal, ..], [to, to_journal, ..]] = names;
    copy(&from, &to)?;
    if with_journal && Path::new(&from_journal).exists() {
        copy(&from_journal, &to_journal)?;
    }
    Ok(())
}

/// Copies page by page: what the disk does not give is zeros in the copy.
fn copy(from: &str, to: &str) -> io::Result<()> {
    let (from, to) = (fs::File::open(from)?, open_private(Path::new(to)));
    let to = to.map_err(io::Error::other)?;
    let mut page = [0; PAGE_BYTES];
    let pages = from.metadata()?.len().div_ceil(PAGE_BYTES as u64);
    for n in 0..pages {
        let at = n * PAGE_BYTES as u64;
        page.fill(0);
        let len = from.read_at(&mut page, at).unwrap_or(PAGE_BYTES);
        let is_last = n + 1 == pages;
        let page = if is_last {
            page.get(..len)
        } else {
            Some(&page[..])
        };
        to.write_all_at(page.unwrap_or_default(), at)?;
    }
    Ok(())
}

/// Gives the file the first page of a new database, and whole pages.
fn transplant(path: &Path, fresh: &[u8; PAGE_BYTES]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let pages = file.metadata()?.len().div_ceil(PAGE_BYTES as u64).max(1);
    file.set_len(pages * PAGE_BYTES as u64)?;
    let mut page = *fresh;
    // The file format's §1.3: the size in pages stands at byte 28, big-endian.
    let count = u32::try_from(pages).unwrap_or(u32::MAX);
    page[28..32].copy_from_slice(&count.to_be_bytes());
    file.write_all_at(&page, 0)
}

/// Writes a new database, puts it in the place of the damaged one, and says where that one is.
pub(super) fn rebuild(
    folder: &Folder,
    contents: &Contents,
    mirror: &mut Mirror,
    now_unix_ms: u64,
) -> Result<PathBuf, StoreError> {
    let path = folder.rebuilding()?;
    open_private(&path)?;
    let written = Database::open(&path).and_then(|mut database| {
        database.transaction(|database| write_all(database, contents, mirror, now_unix_ms))?;
        database.checkpoint()
    });
    written.map_err(|error| StoreError::database(folder, &error))?;
    Ok(folder.replace(now_unix_ms)?)
}

/// Writes everything, and makes the mirror what was written.
fn write_all(
    database: &Database,
    contents: &Contents,
    mirror: &mut Mirror,
    now_unix_ms: u64,
) -> rusqlite::Result<()> {
    mirror.begin_again();
    for room in &contents.rooms {
        put_room(database, room, mirror, now_unix_ms)?;
    }
    for ban in &contents.bans {
        put_ban(database, ban)?;
    }
    database.set_meta(Meta::NextPlace, mirror.next_place)?;
    database.set_meta(Meta::Commits, mirror.commits)
}

/// Writes a whole room, under the next number.
pub(super) fn put_room(
    database: &Database,
    room: &StoredRoom,
    mirror: &mut Mirror,
    now_unix_ms: u64,
) -> rusqlite::Result<()> {
    let id = mirror.next_room;
    mirror.next_room += 1;
    let mut bytes = Vec::new();
    let kept_since = room.offset.saturating_sub(room.messages.len() as u64);
    let record = RoomRecord {
        name: &room.name,
        epoch: room.epoch,
        offset: room.offset,
        kept_since,
    };
    record.encode(&mut bytes);
    database.put_room(id, &bytes)?;
    for (user, offset) in &room.reads {
        let user = user.to_string();
        let record = ReadRecord {
            room: id,
            user: &user,
            offset: *offset,
        };
        record.encode(&mut bytes);
        database.put_read(id, &user, &bytes)?;
    }
    let mut put = |offset, unix_ms, key: Option<&StoredKey>, body: &[u8]| {
        let user = key.and_then(|key| key.key.user.as_ref());
        let user = user.map(UserId::to_string);
        let record = MessageRecord {
            room: id,
            offset,
            unix_ms,
            key: key.map(|key| KeyRecord {
                user: user.as_deref(),
                id: &key.key.id,
            }),
            body,
        };
        record.encode(&mut bytes);
        let place = mirror.next_place;
        mirror.next_place += 1;
        mirror.rows += 1;
        database.put_message(place, &bytes)?;
        Ok::<_, rusqlite::Error>(Row {
            offset,
            place,
            keyed_unix_ms: key.map(|key| key.unix_ms),
        })
    };
    let mut keys = room.keys.iter().peekable();
    let mut lingering = Vec::new();
    while let Some(key) = keys.next_if(|key| key.offset <= kept_since) {
        lingering.push(put(key.offset, key.unix_ms, Some(key), &[])?);
    }
    let mut rows = VecDeque::with_capacity(room.messages.len());
    for (offset, message) in (kept_since + 1..).zip(&room.messages) {
        let key = keys.next_if(|key| key.offset == offset);
        rows.push_back(put(offset, message.unix_ms, key, &message.body)?);
    }
    for row in lingering {
        mirror.let_go(row, now_unix_ms);
    }
    let kept = Room {
        id,
        epoch: room.epoch,
        offset: room.offset,
        kept_since,
        rows,
    };
    mirror.rooms.insert(room.name.clone(), kept);
    Ok(())
}

pub(super) fn put_ban(database: &Database, ban: &StoredBan) -> rusqlite::Result<()> {
    let mut bytes = Vec::new();
    let user = ban.user.to_string();
    let record = BanRecord {
        user: &user,
        until_unix_ms: ban.until_unix_ms,
    };
    record.encode(&mut bytes);
    database.put_ban(&user, &bytes)
}
