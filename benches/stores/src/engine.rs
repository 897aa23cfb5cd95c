//! What each store has to do, and the four ways in which it is done.

use std::collections::HashMap;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rusqlite::{Connection, params};

pub type Fault = Box<dyn std::error::Error>;

/// A message: where it belongs, and its bytes, of which the last four are a checksum of the others.
pub struct Message {
    pub room: u32,
    pub offset: u64,
    pub body: Vec<u8>,
}

pub trait Engine {
    /// Commits the group and waits for the disk.
    fn append(&mut self, group: &[Message]) -> Result<(), Fault>;
    /// The newest `count` messages of a room.
    fn tail(&mut self, room: u32, newest: u64, count: u64) -> Result<usize, Fault>;
    /// Everything there is.
    fn load(&mut self, each: &mut dyn FnMut(u32, u64, &[u8])) -> Result<(), Fault>;
    /// Deletes what lies below `offset` in each of the rooms, in one commit.
    fn expire(&mut self, rooms: u32, below: u64) -> Result<(), Fault>;
}

pub const NAMES: [&str; 4] = ["fjall", "redb", "sqlite-key", "sqlite-log"];

pub fn open(name: &str, folder: &Path) -> Result<Box<dyn Engine>, Fault> {
    Ok(match name {
        "fjall" => Box::new(Fjall::open(folder)?),
        "redb" => Box::new(Redb::open(folder)?),
        "sqlite-key" => Box::new(SqliteKey::open(folder)?),
        "sqlite-log" => Box::new(SqliteLog::open(folder)?),
        other => return Err(format!("no store is called {other}").into()),
    })
}

fn key(room: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&room.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

fn parts(key: &[u8]) -> (u32, u64) {
    let room = key.get(..4).and_then(|k| k.try_into().ok());
    let offset = key.get(4..12).and_then(|k| k.try_into().ok());
    (
        u32::from_be_bytes(room.unwrap_or_default()),
        u64::from_be_bytes(offset.unwrap_or_default()),
    )
}

/// A log-structured tree: (room, offset) → body.
struct Fjall {
    database: Database,
    messages: Keyspace,
}

impl Fjall {
    fn open(folder: &Path) -> Result<Fjall, Fault> {
        let database = Database::builder(folder.join("fjall")).open()?;
        let messages = database.keyspace("messages", KeyspaceCreateOptions::default)?;
        Ok(Fjall { database, messages })
    }
}

impl Engine for Fjall {
    fn append(&mut self, group: &[Message]) -> Result<(), Fault> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for message in group {
            batch.insert(
                &self.messages,
                key(message.room, message.offset),
                message.body.as_slice(),
            );
        }
        Ok(batch.commit()?)
    }

    fn tail(&mut self, room: u32, newest: u64, count: u64) -> Result<usize, Fault> {
        let from = key(room, (newest + 1).saturating_sub(count));
        let mut found = 0;
        for item in self.messages.range(from..=key(room, newest)) {
            found += usize::from(!item.value()?.is_empty());
        }
        Ok(found)
    }

    fn load(&mut self, each: &mut dyn FnMut(u32, u64, &[u8])) -> Result<(), Fault> {
        for item in self.messages.iter() {
            let (key, body) = item.into_inner()?;
            let (room, offset) = parts(&key);
            each(room, offset, &body);
        }
        Ok(())
    }

    fn expire(&mut self, rooms: u32, below: u64) -> Result<(), Fault> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for room in 0..rooms {
            for offset in 1..below {
                batch.remove(&self.messages, key(room, offset).as_slice());
            }
        }
        Ok(batch.commit()?)
    }
}

const MESSAGES: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("messages");

/// A tree that copies on write: (room, offset) → body.
struct Redb {
    database: redb::Database,
}

impl Redb {
    fn open(folder: &Path) -> Result<Redb, Fault> {
        let database = redb::Database::create(folder.join("redb"))?;
        let write = database.begin_write()?;
        write.open_table(MESSAGES)?;
        write.commit()?;
        Ok(Redb { database })
    }
}

impl Engine for Redb {
    fn append(&mut self, group: &[Message]) -> Result<(), Fault> {
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(MESSAGES)?;
            for message in group {
                table.insert((message.room, message.offset), message.body.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }

    fn tail(&mut self, room: u32, newest: u64, count: u64) -> Result<usize, Fault> {
        let read = self.database.begin_read()?;
        let table = read.open_table(MESSAGES)?;
        let from = (newest + 1).saturating_sub(count);
        let mut found = 0;
        for item in table.range((room, from)..=(room, newest))? {
            found += usize::from(!item?.1.value().is_empty());
        }
        Ok(found)
    }

    fn load(&mut self, each: &mut dyn FnMut(u32, u64, &[u8])) -> Result<(), Fault> {
        let read = self.database.begin_read()?;
        let table = read.open_table(MESSAGES)?;
        for item in table.iter()? {
            let (key, body) = item?;
            let (room, offset) = key.value();
            each(room, offset, body.value());
        }
        Ok(())
    }

    fn expire(&mut self, rooms: u32, below: u64) -> Result<(), Fault> {
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(MESSAGES)?;
            for room in 0..rooms {
                table.retain_in((room, 0)..(room, below), |_, _| false)?;
            }
        }
        Ok(write.commit()?)
    }
}

fn connect(folder: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open(folder.join("sqlite.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16000;
         PRAGMA locking_mode = EXCLUSIVE;",
    )?;
    Ok(connection)
}

/// SQLite's tree in the order of (room, offset).
struct SqliteKey {
    connection: Connection,
}

impl SqliteKey {
    fn open(folder: &Path) -> Result<SqliteKey, Fault> {
        let connection = connect(folder)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS messages (room INTEGER, offset INTEGER, body BLOB,
             PRIMARY KEY (room, offset)) WITHOUT ROWID, STRICT",
        )?;
        Ok(SqliteKey { connection })
    }
}

impl Engine for SqliteKey {
    fn append(&mut self, group: &[Message]) -> Result<(), Fault> {
        let write = self.connection.transaction()?;
        {
            let mut insert = write.prepare_cached("INSERT INTO messages VALUES (?, ?, ?)")?;
            for message in group {
                insert.execute(params![message.room, message.offset, message.body])?;
            }
        }
        Ok(write.commit()?)
    }

    fn tail(&mut self, room: u32, newest: u64, count: u64) -> Result<usize, Fault> {
        let sql = "SELECT body FROM messages WHERE room = ? AND offset > ?";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut rows = select.query(params![room, newest.saturating_sub(count)])?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            found += usize::from(!row.get_ref(0)?.as_blob()?.is_empty());
        }
        Ok(found)
    }

    fn load(&mut self, each: &mut dyn FnMut(u32, u64, &[u8])) -> Result<(), Fault> {
        let mut select = self.connection.prepare("SELECT * FROM messages")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            each(row.get(0)?, row.get(1)?, row.get_ref(2)?.as_blob()?);
        }
        Ok(())
    }

    fn expire(&mut self, rooms: u32, below: u64) -> Result<(), Fault> {
        let write = self.connection.transaction()?;
        {
            let sql = "DELETE FROM messages WHERE room = ? AND offset < ?";
            let mut delete = write.prepare_cached(sql)?;
            for room in 0..rooms {
                delete.execute(params![room, below])?;
            }
        }
        Ok(write.commit()?)
    }
}

/// SQLite's tree in the order of arrival; where each room's messages lie is known in memory only,
/// 24 bytes for each.
struct SqliteLog {
    connection: Connection,
    places: HashMap<u32, Vec<(u64, i64)>>,
}

impl SqliteLog {
    fn open(folder: &Path) -> Result<SqliteLog, Fault> {
        let connection = connect(folder)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS messages (place INTEGER PRIMARY KEY AUTOINCREMENT,
             room INTEGER, offset INTEGER, body BLOB) STRICT",
        )?;
        let places = HashMap::new();
        Ok(SqliteLog { connection, places })
    }
}

impl Engine for SqliteLog {
    fn append(&mut self, group: &[Message]) -> Result<(), Fault> {
        let write = self.connection.transaction()?;
        {
            let sql = "INSERT INTO messages (room, offset, body) VALUES (?, ?, ?)";
            let mut insert = write.prepare_cached(sql)?;
            for message in group {
                insert.execute(params![message.room, message.offset, message.body])?;
                let place = (message.offset, write.last_insert_rowid());
                self.places.entry(message.room).or_default().push(place);
            }
        }
        Ok(write.commit()?)
    }

    fn tail(&mut self, room: u32, newest: u64, count: u64) -> Result<usize, Fault> {
        let sql = "SELECT body FROM messages WHERE place = ?";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut found = 0;
        let places = self.places.get(&room).map_or(&[][..], Vec::as_slice);
        for (_, place) in places.iter().filter(|(o, _)| o + count > newest) {
            let mut rows = select.query([place])?;
            while let Some(row) = rows.next()? {
                found += usize::from(!row.get_ref(0)?.as_blob()?.is_empty());
            }
        }
        Ok(found)
    }

    fn load(&mut self, each: &mut dyn FnMut(u32, u64, &[u8])) -> Result<(), Fault> {
        self.places.clear();
        let mut select = self.connection.prepare("SELECT * FROM messages")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (room, offset) = (row.get(1)?, row.get(2)?);
            let place = (offset, row.get(0)?);
            self.places.entry(room).or_default().push(place);
            each(room, offset, row.get_ref(3)?.as_blob()?);
        }
        Ok(())
    }

    fn expire(&mut self, _rooms: u32, below: u64) -> Result<(), Fault> {
        let mut old = Vec::new();
        for places in self.places.values_mut() {
            let keep = places.partition_point(|(offset, _)| *offset < below);
            old.extend(places.drain(..keep).map(|(_, place)| place));
        }
        old.sort_unstable();
        let write = self.connection.transaction()?;
        {
            let mut delete = write.prepare_cached("DELETE FROM messages WHERE place = ?")?;
            for place in old {
                delete.execute([place])?;
            }
        }
        Ok(write.commit()?)
    }
}
