//! What survives a restart: rooms with their positions and messages, idempotency keys, how far users
//! have read, bans.
//!
//! The store mirrors what the homes of rooms hold in memory. It is read once, at the start, and
//! written to from then on; nothing on a core waits for it.
//!
//! ```text
//!   core 0 ──┐                       ┌─ gathers what has come, from all cores
//!   core 1 ──┼─ Records ──► keeper ──┤  one transaction, one wait for the disk
//!   core n ──┘   (channel)  (thread) └─ Stored ──► each core
//! ```
//!
//! A commit that fails changes nothing. With `--durability fsync` its messages are refused, and so
//! is everything that would follow on them, until the core has heard of it (`Records::era`); with
//! `async` it is tried again until it succeeds or memory for it runs out.
//!
//! The files are [`folder`]'s, the tables [`database`]'s; [`change`] says what records come to, and
//! [`reading`], [`contents`] and [`repair`] what is made of the files at a start. Clocks are read
//! here: the store is at the edge.

pub mod archive;
mod change;
mod contents;
mod database;
mod figures;
mod folder;
mod keeper;
mod mirror;
mod reading;
mod record;
mod repair;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use thiserror::Error;

pub use contents::{Contents, Damage};
pub use figures::StoreFigures;
pub use keeper::StoreHandle;

use crate::address::CoreId;
use crate::bus::{Durability, Records, Stored};
use crate::protocol::Epoch;
use contents::Assembly;
use database::{Database, Meta, is_damage, mode};
use folder::Folder;
use mirror::Mirror;
use reading::Reading;
use record::RoomRecord;

/// How history is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSettings {
    /// The folder: made where it is not there, for this process alone.
    pub folder: PathBuf,
    /// When records are answered. [`Durability::Off`] is taken for async.
    pub durability: Durability,
    /// In async mode, how long records are gathered before they are written together.
    pub flush_interval: Duration,
    /// How long idempotency keys are kept.
    pub key_window: Duration,
    /// How many bytes of memory may wait while the disk does not take them.
    pub backlog_bytes_max: usize,
    /// Where new epochs come from.
    pub seed: u64,
}

/// Memory in which records may wait while the disk fails, unless set otherwise.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What to do about a folder that the system does not let us write in.
pub const FOLDER_ADVICE: &str =
    "give it to the user that the server runs as, or name another directory";

/// Why a folder cannot be used. The text says what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Somebody else has it open.
    #[error(
        "the data directory {folder} is in use{by}; one process may have it open: stop the other, \
         or name another directory. Who has it: fuser -v {lock}",
        folder = .folder.display(), lock = .lock.display(),
        by = .holder.map_or(String::new(), |process| format!(" by process {process}"))
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The file that is locked.
        lock: PathBuf,
        /// The process, as it says itself.
        holder: Option<u32>,
    },
    /// There is no such folder, or nothing in it.
    #[error("{folder} is no data directory: it is not there, or empty", folder = .0.display())]
    NoFolder(PathBuf),
    /// Something else is in the folder.
    #[error(
        "{folder} is not empty, and no data directory of Tidewheel's (there is no file 'format' of \
         ours in it); name an empty directory, or one that is not there yet", folder = .0.display()
    )]
    Foreign(PathBuf),
    /// A later version wrote it.
    #[error(
        "the data directory {folder} has format {found}, and this version of Tidewheel reads no \
         later one than 1; use the version that wrote it, or move history over with its \
         'tidewheel history export'", folder = .folder.display()
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file or folder cannot be used.
    #[error("cannot use {path}: {error}; {FOLDER_ADVICE}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The database cannot be read or written.
    #[error("cannot use {path}: {error}", path = .path.display())]
    Database {
        /// The folder.
        path: PathBuf,
        /// The answer.
        error: String,
    },
    /// Files could not be read or moved during a repair.
    #[error(
        "the damaged history could not be repaired: {0}; the disk needs as much free space as history.db \
         and its journal take, and damaged-… may be moved elsewhere"
    )]
    Repair(#[from] io::Error),
    /// No thread.
    #[error("the store's thread could not be started: {0}")]
    Thread(io::Error),
}

impl StoreError {
    fn file(path: &Path, error: io::Error) -> StoreError {
        let path = path.to_owned();
        StoreError::File { path, error }
    }

    fn database(folder: &Folder, error: &rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly};
        let advice = match error.sqlite_error_code() {
            Some(DiskFull) => format!(
                "; free some space on the disk of {}: a repair needs as much as history.db and its \
                 journal take, {} bytes",
                folder.path().display(),
                folder.bytes()
            ),
            Some(CannotOpen | PermissionDenied | ReadOnly) => format!("; {FOLDER_ADVICE}"),
            _ => String::new(),
        };
        StoreError::Database {
            path: folder.database(),
            error: format!("{error}{advice}"),
        }
    }
}

/// An open folder, before records come.
pub struct Store {
    settings: StoreSettings,
    folder: Folder,
    database: Database,
    mirror: Mirror,
    figures: Arc<StoreFigures>,
}

impl Store {
    /// Opens the folder, reads everything, and repairs what is damaged. The folder is marked as
    /// open from here on.
    ///
    /// # Errors
    /// [`StoreError`], where the folder is in use, foreign or newer, or cannot be written.
    pub fn open(
        settings: StoreSettings,
        now_unix_ms: u64,
    ) -> Result<(Store, Contents), StoreError> {
        let folder = Folder::open(&settings.folder, true)?;
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let mut new_epoch = || Epoch(random.u64(..));
        let mut loaded = load(&folder, settings.key_window, now_unix_ms, &mut new_epoch)?;
        if loaded.may_lack_the_newest {
            loaded.contents.renewed = true;
            for room in &mut loaded.contents.rooms {
                room.epoch = new_epoch();
                if let Some(kept) = loaded.mirror.rooms.get_mut(&room.name) {
                    kept.epoch = room.epoch;
                }
            }
        }
        if loaded.needs_rebuilding {
            drop(loaded.database.take());
            let (contents, mirror) = (&loaded.contents, &mut loaded.mirror);
            let rebuilt = repair::rebuild(&folder, contents, mirror, now_unix_ms);
            // Half a file would keep the space that is missing.
            let aside = rebuilt.inspect_err(|_| folder.remove_rebuilding())?;
            if let Some(damage) = &mut loaded.contents.damage {
                // A copy that was made before is nearer to what was found.
                damage.aside.get_or_insert(aside);
            }
        }
        if let Some(damage) = &loaded.contents.damage {
            tracing::error!("history was damaged, and what is whole was kept: {damage}");
        }
        if loaded.contents.renewed && !loaded.contents.rooms.is_empty() {
            tracing::warn!(
                rooms = loaded.contents.rooms.len(),
                "the newest messages may be missing: history was not closed cleanly, or was put back from a \
                 copy; rooms go on with new epochs"
            );
        }
        let database = match loaded.database {
            Some(database) => Ok(database),
            None => open_database(&folder),
        };
        let mut store = Store {
            settings,
            database: database.map_err(|error| StoreError::database(&folder, &error))?,
            folder,
            mirror: loaded.mirror,
            figures: Arc::default(),
        };
        store.begin(&loaded.contents)?;
        Ok((store, loaded.contents))
    }

    /// Marks the folder as open; writes new epochs.
    fn begin(&mut self, contents: &Contents) -> Result<(), StoreError> {
        let rooms = &self.mirror.rooms;
        let (commits, next_place) = (self.mirror.commits + 1, self.mirror.next_place);
        let mode = mode(self.settings.durability);
        let marked = self.database.transaction(|database| {
            let mut bytes = Vec::new();
            for (name, room) in rooms.iter().filter(|_| contents.renewed) {
                let record = RoomRecord {
                    name,
                    epoch: room.epoch,
                    offset: room.offset,
                    kept_since: room.kept_since,
                };
                record.encode(&mut bytes);
                database.put_room(room.id, &bytes)?;
            }
            database.set_meta(Meta::Clean, 0)?;
            database.set_meta(Meta::Mode, mode)?;
            database.set_meta(Meta::NextPlace, next_place)?;
            database.set_meta(Meta::Commits, commits)
        });
        marked.map_err(|error| StoreError::database(&self.folder, &error))?;
        self.mirror.commits = commits;
        self.folder.note_opened();
        self.folder.begin_marks(commits as u64)
    }

    /// What the store counts.
    pub fn figures(&self) -> Arc<StoreFigures> {
        Arc::clone(&self.figures)
    }

    /// Starts the thread that keeps what comes through `records`. `answer` is called on that thread,
    /// in the order of each core's batches; it must not block.
    ///
    /// # Errors
    /// [`StoreError::Thread`].
    pub fn spawn(
        self,
        records: Receiver<Records>,
        answer: impl Fn(CoreId, Stored) + Send + 'static,
    ) -> Result<StoreHandle, StoreError> {
        keeper::spawn(self, records, answer).map_err(StoreError::Thread)
    }
}

/// Opens the database, for this user alone.
fn open_database(folder: &Folder) -> rusqlite::Result<Database> {
    // SQLite gives its journal the mode of the file.
    folder::open_private(&folder.database()).map_err(|error| {
        let answer = match error {
            StoreError::File { error, .. } => error.to_string(),
            other => other.to_string(),
        };
        let cannot = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        rusqlite::Error::SqliteFailure(cannot, Some(answer))
    })?;
    Database::open(&folder.database())
}

/// What was loaded.
struct Loaded {
    /// None where it could not be opened.
    database: Option<Database>,
    contents: Contents,
    mirror: Mirror,
    needs_rebuilding: bool,
    /// Clients may have been told of messages that are not there.
    may_lack_the_newest: bool,
}

/// How many commits there were of which nothing was read.
fn missing(folder: &Folder, reading: &Reading) -> u64 {
    let commits = u64::try_from(reading.commits.unwrap_or(0)).unwrap_or(0);
    folder.marked().unwrap_or(0).saturating_sub(commits)
}

/// Reads everything; what is damaged is only told, not mended.
fn load(
    folder: &Folder,
    key_window: Duration,
    now_unix_ms: u64,
    new_epoch: &mut dyn FnMut() -> Epoch,
) -> Result<Loaded, StoreError> {
    let fault = |error: &rusqlite::Error| StoreError::database(folder, error);
    let is_new = !folder.database().exists();
    let mut reading = Reading::default();
    let copy_aside = || {
        let copied = folder.copy_aside(now_unix_ms);
        copied.map_err(|error| StoreError::file(folder.path(), error))
    };
    let (mut is_sound, mut aside) = (true, None);
    if folder.is_all_in_journal() {
        aside = Some(copy_aside()?);
    }
    let database = match open_database(folder) {
        Ok(database) => {
            if let Some(found) = database.newer_version() {
                let folder = folder.path().to_owned();
                return Err(StoreError::NewerFormat { folder, found });
            }
            is_sound = database.is_sound();
            reading = Reading::of(&database, true).map_err(|error| fault(&error))?;
            // Whole commits may lie behind a broken one: the journal is written over, or emptied, from
            // here on.
            match (missing(folder, &reading) > 0, &aside) {
                (true, None) => aside = Some(copy_aside()?),
                (false, Some(copy)) => {
                    let _left = std::fs::remove_dir_all(copy);
                    aside = None;
                }
                _ => {}
            }
            Some(database)
        }
        Err(error) if is_damage(&error) => {
            reading.gaps += 1;
            None
        }
        Err(error) => return Err(fault(&error)),
    };
    let mut database = database;
    if !is_sound || reading.gaps > 0 {
        reading.gaps = reading.gaps.max(1);
        // Closed, so that its journal is in the file.
        database = None;
        let read = repair::read_again(folder, &mut reading);
        read.inspect_err(|_| folder.remove_rebuilding())?;
    }
    let (broken, gaps, is_whole) = (reading.broken, reading.gaps, reading.is_whole());
    let (clean, was_async) = (
        reading.clean == Some(1),
        reading.mode != Some(mode(Durability::Fsync)),
    );
    let (marked, commits_missing) = (folder.marked(), missing(folder, &reading));
    let mirror = Mirror::new(key_window);
    let assembly = Assembly::of(reading, mirror, now_unix_ms, new_epoch);
    let (mut contents, mut mirror) = (assembly.contents, assembly.mirror);
    let lacking = assembly.lacking;
    let needs_rebuilding = !is_whole || !lacking.is_empty();
    if needs_rebuilding || commits_missing > 0 {
        mirror.commits += i64::try_from(commits_missing).unwrap_or(0);
        contents.damage = Some(Damage {
            aside,
            broken,
            gaps,
            rooms: lacking,
            commits_missing,
        });
    }
    // Without a mark these may be old files that somebody put back.
    let is_unclean = !is_new && (marked.is_none() || (!clean && was_async));
    Ok(Loaded {
        database,
        contents,
        mirror,
        needs_rebuilding,
        may_lack_the_newest: is_unclean || commits_missing > 0,
    })
}
