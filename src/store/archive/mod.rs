//! History as text, one JSON object a line: what `tidewheel history export` writes and `import`
//! reads.
//!
//! ```text
//! {"tidewheel_history":1,"whole":true}
//! {"ban":{"user_id":"mallory"}}
//! {"room":"chat:1","epoch":"0c3…","offset":2}
//! {"offset":1,"timestamp":"2026-01-31T23:59:59.123Z","key":{"id":"m1","user_id":"ada"}}
//! {"offset":2,"timestamp":"…","message_id":"m2","client_id":"4f…","user_id":"ada","payload":{"a":1}}
//! {"read":{"user_id":"ada","offset":2}}
//! ```
//!
//! A room's own line comes first, then its messages by offset, then how far users have read. A line
//! with a `key` and without a `payload` is an idempotency key whose message is not kept. Where
//! `whole` is false, clients may know of messages that are not there, and an import gives rooms new
//! epochs. One room at a time is in memory, and where each message lies; of a damaged folder all that
//! a repair would keep.

mod examine;
mod fault;
mod line;
mod reader;

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::contents::{Assembly, Contents, Damage};
use super::database::{Database, Meta};
use super::folder::Folder;
use super::mirror::Mirror;
use super::reading::Reading;
use super::record::MessageRecord;
use super::{Loaded, StoreError, is_damage, load, mode, open_database, repair};
use crate::bus::{Durability, StoredMessage, StoredRoom};
use crate::protocol::Epoch;
use reader::Lines;

pub use examine::examine;
pub use fault::LineFault;

/// Keys are kept however old they are.
const FOR_EVER: Duration = Duration::MAX;

/// What was written or read.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Rooms.
    pub rooms: u64,
    /// Messages of these.
    pub messages: u64,
    /// Bans.
    pub bans: u64,
    /// Records and places that could not be read.
    pub unreadable: u64,
    /// Rooms that lack messages which they should have.
    pub rooms_lacking: u64,
    /// Commits that were noted, and are not there: the last ones.
    pub commits_missing: u64,
}

/// Why history was not moved.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The text cannot be read or written.
    #[error("cannot read or write the text: {0}")]
    Text(#[from] io::Error),
    /// A message on disk is no `message` object.
    #[error("message {offset} of room {room:?} is none that Tidewheel writes")]
    Message {
        /// The room.
        room: Box<str>,
        /// The offset.
        offset: u64,
    },
    /// A line is not what it should be.
    #[error("line {number}: {fault}; nothing was imported")]
    Line {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// What is there already is damaged.
    #[error(
        "the history in {0} is damaged; start the server with it once, which keeps what is whole, and \
         import then"
    )]
    Damaged(String),
    /// The newest of what is there already may be missing.
    #[error(
        "the directory {0} lacks commits, or its history.mark, which would tell: start the server with it \
         once, which gives its rooms new epochs, stop it, and import then; nothing was imported"
    )]
    Lacking(String),
}

/// An open folder: its history, but for bodies.
struct Archive {
    folder: Folder,
    /// None where it is damaged: `contents` has the bodies then.
    database: Option<Database>,
    contents: Contents,
    mirror: Mirror,
    /// What is missing.
    damage: Damage,
    /// Every commit that the mark knows of is there; false also without a mark.
    has_all: bool,
    is_whole: bool,
    is_new: bool,
}

impl Archive {
    fn open(path: &Path, create: bool, seed: u64, now_unix_ms: u64) -> Result<Archive, StoreError> {
        let folder = Folder::open(path, create)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut new_epoch = || Epoch(random.u64(..));
        let Some((database, reading)) = read_sound(&folder)? else {
            let loaded = load(&folder, FOR_EVER, now_unix_ms, &mut new_epoch)?;
            return Ok(Archive::salvaged(folder, loaded));
        };
        let was_async = reading.mode != Some(mode(Durability::Fsync));
        let commits = u64::try_from(reading.commits.unwrap_or(0)).unwrap_or(0);
        let marked = folder.marked();
        // An import that failed leaves files, and nothing in them.
        let is_new = commits == 0 && reading.rooms.is_empty() && marked.unwrap_or(0) == 0;
        let has_all = is_new || marked.is_some_and(|marked| marked <= commits);
        let is_clean = is_new || reading.clean == Some(1) || !was_async;
        let mirror = Mirror::new(FOR_EVER);
        let assembly = Assembly::of(reading, mirror, now_unix_ms, &mut new_epoch);
        let damage = Damage {
            rooms: assembly.lacking,
            commits_missing: marked.unwrap_or(0).saturating_sub(commits),
            ..Damage::default()
        };
        Ok(Archive {
            is_whole: is_clean && has_all && damage.rooms.is_empty(),
            has_all,
            contents: assembly.contents,
            mirror: assembly.mirror,
            folder,
            database: Some(database),
            damage,
            is_new,
        })
    }

    /// What a repair would keep.
    fn salvaged(folder: Folder, mut loaded: Loaded) -> Archive {
        let damage = loaded.contents.damage.take();
        Archive {
            folder,
            database: None,
            contents: loaded.contents,
            mirror: loaded.mirror,
            damage: damage.unwrap_or_default(),
            has_all: !loaded.may_lack_the_newest,
            is_whole: false,
            is_new: false,
        }
    }

    /// Refuses a folder that a start has to put in order first.
    fn can_take_more(&self) -> Result<(), ArchiveError> {
        let shown = || self.folder.path().display().to_string();
        if self.database.is_none() || !self.damage.rooms.is_empty() {
            return Err(ArchiveError::Damaged(shown()));
        }
        match self.has_all {
            true => Ok(()),
            // A new mark would hide it, and clients be given offsets again that they have seen.
            false => Err(ArchiveError::Lacking(shown())),
        }
    }

    /// Puts the bodies into a room that was read without.
    fn fill(&self, room: &mut StoredRoom) -> Result<(), ArchiveError> {
        let Some(database) = &self.database else {
            return Ok(());
        };
        let rows = self.mirror.rooms.get(&room.name).map(|room| &room.rows);
        for (message, row) in room.messages.iter_mut().zip(rows.into_iter().flatten()) {
            let record = database.message(row.place);
            let record = record.map_err(|error| StoreError::database(&self.folder, &error))?;
            let record = record.as_deref().and_then(MessageRecord::decode);
            let Some(record) = record else {
                let (room, offset) = (room.name.clone(), row.offset);
                return Err(ArchiveError::Message { room, offset });
            };
            *message = StoredMessage {
                unix_ms: record.unix_ms,
                body: record.body.into(),
            };
        }
        Ok(())
    }
}

/// Opens and reads a database without bodies; none where it is damaged.
fn read_sound(folder: &Folder) -> Result<Option<(Database, Reading)>, StoreError> {
    let fault = |error: &rusqlite::Error| StoreError::database(folder, error);
    let database = match open_database(folder) {
        Ok(database) => database,
        Err(error) if is_damage(&error) => return Ok(None),
        Err(error) => return Err(fault(&error)),
    };
    if let Some(found) = database.newer_version() {
        let folder = folder.path().to_owned();
        return Err(StoreError::NewerFormat { folder, found });
    }
    if !database.is_sound() {
        return Ok(None);
    }
    let reading = Reading::of(&database, false).map_err(|error| fault(&error))?;
    Ok(reading.is_whole().then_some((database, reading)))
}

/// Writes the rooms that `wanted` says yes to, and all bans where `with_bans`. What `out` gives is
/// written to; it is called once the folder is open, and not where that cannot be used.
///
/// # Errors
/// [`ArchiveError`], or that of `out`; what was written until then is not whole.
pub fn export<W: Write, E: From<ArchiveError>>(
    folder: &Path,
    now_unix_ms: u64,
    wanted: impl Fn(&str) -> bool,
    with_bans: bool,
    out: impl FnOnce() -> Result<W, E>,
) -> Result<Moved, E> {
    let archive = Archive::open(folder, false, 0, now_unix_ms).map_err(ArchiveError::from)?;
    Ok(write_all(archive, wanted, with_bans, &mut out()?)?)
}

fn write_all(
    mut archive: Archive,
    wanted: impl Fn(&str) -> bool,
    with_bans: bool,
    out: &mut impl Write,
) -> Result<Moved, ArchiveError> {
    let mut moved = Moved {
        unreadable: archive.damage.broken + archive.damage.gaps,
        rooms_lacking: archive.damage.rooms.len() as u64,
        commits_missing: archive.damage.commits_missing,
        ..Moved::default()
    };
    let mut text = Vec::new();
    line::head(archive.is_whole, &mut text);
    if with_bans {
        for ban in &archive.contents.bans {
            line::ban(ban, &mut text);
            moved.bans += 1;
        }
    }
    out.write_all(&text)?;
    let mut rooms = std::mem::take(&mut archive.contents.rooms);
    for room in rooms.iter_mut().filter(|room| wanted(&room.name)) {
        archive.fill(room)?;
        text.clear();
        line::room(room, &mut text)?;
        out.write_all(&text)?;
        moved.rooms += 1;
        moved.messages += room.messages.len() as u64;
        // One room at a time is in memory.
        (room.messages, room.keys, room.reads) = Default::default();
    }
    out.flush()?;
    Ok(moved)
}

/// Reads a whole text into a folder, which is made where it is not there. Nothing is kept unless
/// every line is good, and no room of the text is in the folder already.
///
/// # Errors
/// [`ArchiveError`].
pub fn import(
    folder: &Path,
    now_unix_ms: u64,
    seed: u64,
    input: impl BufRead,
) -> Result<Moved, ArchiveError> {
    let mut archive = Archive::open(folder, true, seed, now_unix_ms)?;
    archive.can_take_more()?;
    let Some(mut database) = archive.database.take() else {
        return Err(ArchiveError::Damaged(folder.display().to_string()));
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lines = Lines::new(input);
    let mut fault = None;
    let mut moved = Moved::default();
    let commits = archive.mirror.commits + 1;
    let (mirror, is_new) = (&mut archive.mirror, archive.is_new);
    let written = database.transaction(|database| {
        let read = read_all(&mut lines, database, mirror, now_unix_ms, &mut random);
        moved = match read {
            Ok(moved) => moved,
            Err(Stop::Database(error)) => return Err(error),
            Err(Stop::Text(error)) => {
                fault = Some(error);
                // Any error undoes the transaction.
                return Err(rusqlite::Error::InvalidQuery);
            }
        };
        database.set_meta(Meta::NextPlace, mirror.next_place)?;
        database.set_meta(Meta::Commits, commits)?;
        if is_new {
            database.set_meta(Meta::Clean, 1)?;
        }
        Ok(())
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    written.map_err(|error| StoreError::database(&archive.folder, &error))?;
    archive.folder.begin_marks(commits as u64)?;
    let _later = database.checkpoint();
    Ok(moved)
}

/// Why an import stops.
enum Stop {
    Database(rusqlite::Error),
    Text(ArchiveError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Database(error)
    }
}

impl From<ArchiveError> for Stop {
    fn from(error: ArchiveError) -> Stop {
        Stop::Text(error)
    }
}

fn read_all(
    lines: &mut Lines<impl BufRead>,
    database: &Database,
    mirror: &mut Mirror,
    now_unix_ms: u64,
    random: &mut fastrand::Rng,
) -> Result<Moved, Stop> {
    let mut moved = Moved::default();
    let is_whole = lines.head()?;
    while let Some(ban) = lines.ban()? {
        repair::put_ban(database, &ban)?;
        moved.bans += 1;
    }
    while let Some(mut room) = lines.room()? {
        if mirror.rooms.contains_key(&room.name) {
            return Err(lines.room_fault(LineFault::RoomExists(room.name)).into());
        }
        if !is_whole {
            room.epoch = Epoch(random.u64(..));
        }
        repair::put_room(database, &room, mirror, now_unix_ms)?;
        if let Some(kept) = mirror.rooms.get_mut(&room.name) {
            // What was read is not asked for again.
            kept.rows = Default::default();
        }
        moved.rooms += 1;
        moved.messages += room.messages.len() as u64;
    }
    Ok(moved)
}
