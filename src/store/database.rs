//! SQLite as the store uses it: tables, settings, and statements by what they do.
//!
//! A message's row is named by its place, which counts up over all rooms: see
//! `docs/decisions/store.md`.

use std::path::Path;

use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use crate::bus::Durability;

/// In every file of ours: `TwHs`.
pub(super) const APPLICATION: i32 = 0x5477_4873;
const VERSION: i32 = 1;
/// A page of ours, in bytes.
pub(super) const PAGE_BYTES: usize = 4096;

/// The tables, made in this order, so that each begins on the same page in every file.
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID, STRICT;
    CREATE TABLE room (id INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
    CREATE TABLE message (place INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
    CREATE TABLE read (room INTEGER, user TEXT, record BLOB NOT NULL, PRIMARY KEY (room, user))
        WITHOUT ROWID, STRICT;
    CREATE TABLE ban (user TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID, STRICT;";

/// `journal_size_limit` and a cache of 16 MiB; freed space is overwritten where its page is written
/// anyway, so that what was deleted does not lie around.
const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA journal_size_limit = 67108864;
    PRAGMA cache_size = -16384;
    PRAGMA secure_delete = FAST;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;";

/// Numbers about the whole folder.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Meta {
    /// How many commits there were.
    Commits,
    /// The next message's place.
    NextPlace,
    /// Whether everything was committed at the end: 1, or 0.
    Clean,
    /// The durability with which it was last open: 1 async, 2 fsync.
    Mode,
}

impl Meta {
    fn name(self) -> &'static str {
        match self {
            Meta::Commits => "commits",
            Meta::NextPlace => "next_place",
            Meta::Clean => "clean",
            Meta::Mode => "mode",
        }
    }
}

/// The number of a durability in [`Meta::Mode`].
pub(super) fn mode(durability: Durability) -> i64 {
    match durability {
        Durability::Off | Durability::Async => 1,
        Durability::Fsync => 2,
    }
}

/// An open database.
pub(super) struct Database {
    connection: Connection,
}

impl Database {
    /// Opens the file; makes it where there is none, with its tables.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Database> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(SETTINGS)?;
        let database = Database { connection };
        if database.pragma("schema_version")? == 0 {
            let make = format!(
                "BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};
                 {SCHEMA} COMMIT;"
            );
            database.connection.execute_batch(&make)?;
        }
        Ok(database)
    }

    /// The version in the file where it is newer than ours.
    pub(super) fn newer_version(&self) -> Option<u32> {
        let version = self.pragma("user_version").ok()?;
        let is_ours = self.pragma("application_id").ok()? == i64::from(APPLICATION);
        let is_newer = is_ours && version > i64::from(VERSION);
        is_newer.then(|| u32::try_from(version).unwrap_or(u32::MAX))
    }

    fn pragma(&self, name: &str) -> rusqlite::Result<i64> {
        self.connection
            .pragma_query_value(None, name, |row| row.get(0))
    }

    /// Whether SQLite finds its pages in order; what they hold is not looked at.
    pub(super) fn is_sound(&self) -> bool {
        let check = self
            .connection
            .pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
        check.is_ok_and(|answer| answer == "ok")
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }

    /// Does `write` in one transaction. Whatever fails in it, or in its commit, leaves the file as
    /// it was.
    pub(super) fn transaction<T>(
        &mut self,
        write: impl FnOnce(&Database) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let result = write(self).and_then(|done| {
            self.connection.execute_batch("COMMIT")?;
            Ok(done)
        });
        if result.is_err() && !self.connection.is_autocommit() {
            // After a full disk SQLite may have rolled back by itself.
            let _already = self.connection.execute_batch("ROLLBACK");
        }
        result
    }

    /// Moves the journal into the file and empties it.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    pub(super) fn meta(&self, meta: Meta) -> rusqlite::Result<Option<i64>> {
        self.statement("SELECT value FROM meta WHERE name = ?")?
            .query_row([meta.name()], |row| row.get(0))
            .optional()
    }

    pub(super) fn set_meta(&self, meta: Meta, value: i64) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)";
        self.statement(sql)?.execute(params![meta.name(), value])?;
        Ok(())
    }

    pub(super) fn put_room(&self, id: i64, record: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO room VALUES (?, ?)";
        self.statement(sql)?.execute(params![id, record])?;
        Ok(())
    }

    /// Removes a room and how far its users have read. Its messages are removed by their places.
    pub(super) fn remove_room(&self, id: i64) -> rusqlite::Result<()> {
        let sqls = [
            "DELETE FROM room WHERE id = ?",
            "DELETE FROM read WHERE room = ?",
        ];
        for sql in sqls {
            self.statement(sql)?.execute([id])?;
        }
        Ok(())
    }

    pub(super) fn put_message(&self, place: i64, record: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT INTO message VALUES (?, ?)";
        self.statement(sql)?.execute(params![place, record])?;
        Ok(())
    }

    pub(super) fn remove_message(&self, place: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM message WHERE place = ?";
        self.statement(sql)?.execute([place])?;
        Ok(())
    }

    /// The record at a place.
    pub(super) fn message(&self, place: i64) -> rusqlite::Result<Option<Vec<u8>>> {
        self.statement("SELECT record FROM message WHERE place = ?")?
            .query_row([place], |row| row.get(0))
            .optional()
    }

    pub(super) fn put_read(&self, room: i64, user: &str, record: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO read VALUES (?, ?, ?)";
        self.statement(sql)?.execute(params![room, user, record])?;
        Ok(())
    }

    pub(super) fn remove_read(&self, room: i64, user: &str) -> rusqlite::Result<()> {
        let sql = "DELETE FROM read WHERE room = ? AND user = ?";
        self.statement(sql)?.execute(params![room, user])?;
        Ok(())
    }

    pub(super) fn put_ban(&self, user: &str, record: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO ban VALUES (?, ?)";
        self.statement(sql)?.execute(params![user, record])?;
        Ok(())
    }

    pub(super) fn remove_ban(&self, user: &str) -> rusqlite::Result<()> {
        let sql = "DELETE FROM ban WHERE user = ?";
        self.statement(sql)?.execute([user])?;
        Ok(())
    }

    /// Shows each room's record with its number, from the number `from` on.
    pub(super) fn rooms(&self, from: i64, each: impl FnMut(i64, &[u8])) -> rusqlite::Result<()> {
        let sql = "SELECT id, record FROM room WHERE id >= ? ORDER BY id";
        self.rows(sql, from, each)
    }

    /// Shows each message's record with its place, from the place `from` on.
    pub(super) fn messages(&self, from: i64, each: impl FnMut(i64, &[u8])) -> rusqlite::Result<()> {
        let sql = "SELECT place, record FROM message WHERE place >= ? ORDER BY place";
        self.rows(sql, from, each)
    }

    /// Shows each record of how far a user has read, forwards or backwards.
    pub(super) fn reads(
        &self,
        forward: bool,
        each: impl FnMut(i64, &[u8]),
    ) -> rusqlite::Result<()> {
        let sql = match forward {
            true => "SELECT ?, record FROM read ORDER BY room, user",
            false => "SELECT ?, record FROM read ORDER BY room DESC, user DESC",
        };
        self.rows(sql, 0, each)
    }

    /// Shows each ban's record, forwards or backwards.
    pub(super) fn bans(&self, forward: bool, each: impl FnMut(i64, &[u8])) -> rusqlite::Result<()> {
        let sql = match forward {
            true => "SELECT ?, record FROM ban ORDER BY user",
            false => "SELECT ?, record FROM ban ORDER BY user DESC",
        };
        self.rows(sql, 0, each)
    }

    /// Shows a number and a blob of each row. A record that is none is shown as an empty one.
    fn rows(
        &self,
        sql: &str,
        argument: i64,
        mut each: impl FnMut(i64, &[u8]),
    ) -> rusqlite::Result<()> {
        let mut statement = self.statement(sql)?;
        let mut rows = statement.query([argument])?;
        while let Some(row) = rows.next()? {
            let record = row.get_ref(1)?.as_blob().unwrap_or_default();
            each(row.get(0)?, record);
        }
        Ok(())
    }

    /// The file may not grow over so many pages: a full disk for tests.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: i64) {
        self.connection
            .pragma_update(None, "max_page_count", pages)
            .unwrap();
    }

    #[cfg(test)]
    pub(super) fn pages(&self) -> i64 {
        self.pragma("page_count").unwrap()
    }
}

/// Whether the error says that the file is damaged, and not that it cannot be used now.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => !matches!(
            failure.code,
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DiskFull
        ),
        // A value of another type than was written, a row that is missing.
        _ => true,
    }
}
