//! The folder on disk: who may open it, what it is, which files it has.
//!
//! ```text
//! format             "tidewheel history 1"
//! lock               held by the process that has the folder open; its number stands in it
//! history.db         SQLite's, with history.db-wal beside it while it is open
//! history.mark       how many commits there were: more than history.db knows of, some are gone
//! damaged-<time>/    a history.db that was not whole, kept for the operator
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::database::PAGE_BYTES;
use super::record::checksum;
use crate::protocol::Timestamp;

/// The version of everything in the folder.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const FORMAT_NAME: &str = "tidewheel history";
const LOCK_FILE: &str = "lock";
const MARK_FILE: &str = "history.mark";
const DATABASE: &str = "history.db";
/// A new database that is being written, and one that is whole and has to be put in its place.
const REBUILDING: &str = "history.rebuilding";
const REBUILT: &str = "history.rebuilt";

/// A folder that this process alone has open.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
    mark: File,
    /// Which files were opened, by their paths: device and number.
    opened: Vec<(PathBuf, (u64, u64))>,
}

impl Folder {
    /// Locks the folder, and makes it where `create` says so and nothing is there.
    pub(super) fn open(path: &Path, create: bool) -> Result<Folder, StoreError> {
        if create {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| StoreError::file(path, error))?;
        } else if !path.is_dir() {
            return Err(StoreError::NoFolder(path.to_owned()));
        }
        check_format(path, create)?;
        let lock = lock(path)?;
        let mark = open_private(&path.join(MARK_FILE))?;
        let folder = Folder {
            path: path.to_owned(),
            _lock: lock,
            mark,
            opened: Vec::new(),
        };
        let finished = folder.finish_repair();
        finished.map_err(|error| StoreError::file(path, error))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// A place for a new database, with nothing there.
    pub(super) fn rebuilding(&self) -> io::Result<PathBuf> {
        let path = self.path.join(REBUILDING);
        remove(&path)?;
        Ok(path)
    }

    /// Removes what a repair that failed has written.
    pub(super) fn remove_rebuilding(&self) {
        let _left = remove(&self.path.join(REBUILDING));
    }

    /// Puts the database that was rebuilt in its place, and the old one aside. Answers where.
    pub(super) fn replace(&self, now_unix_ms: u64) -> io::Result<PathBuf> {
        fs::rename(self.path.join(REBUILDING), self.path.join(REBUILT))?;
        let aside = self.aside(now_unix_ms)?;
        // The journal first: without it the old file is older, with a foreign one it is nothing.
        for name in companions(DATABASE).into_iter().rev() {
            let from = self.path.join(&name);
            if from.exists() {
                fs::rename(from, aside.join(&name))?;
            }
        }
        self.finish_repair()?;
        Ok(aside)
    }

    /// Whether commits were made of which none is in the database's file yet, so that opening it makes
    /// tables, over the journal where that cannot be read.
    pub(super) fn is_all_in_journal(&self) -> bool {
        let is_short = |meta: fs::Metadata| meta.len() <= PAGE_BYTES as u64;
        self.marked().is_some_and(|commits| commits > 0)
            && fs::metadata(self.database()).is_ok_and(is_short)
    }

    /// Copies the database and its journal aside as they are. Answers where.
    pub(super) fn copy_aside(&self, now_unix_ms: u64) -> io::Result<PathBuf> {
        let aside = self.aside(now_unix_ms)?;
        let copy = |name: &String| {
            let from = self.path.join(name);
            if from.exists() {
                fs::copy(from, aside.join(name))?;
                File::open(aside.join(name))?.sync_all()?;
            }
            Ok(())
        };
        // SQLite makes the third one anew.
        let copied = companions(DATABASE).iter().take(2).try_for_each(copy);
        if let Err(error) = copied {
            // Half a copy is of no use, and each start would leave another one.
            let _left = fs::remove_dir_all(&aside);
            return Err(error);
        }
        Ok(aside)
    }

    /// A new folder for what is damaged.
    fn aside(&self, now_unix_ms: u64) -> io::Result<PathBuf> {
        let time = Timestamp::from_unix_ms(now_unix_ms).to_string();
        let name = format!("damaged-{}", time.replace(':', "-"));
        let mut aside = self.path.join(&name);
        for n in 2..1000 {
            match DirBuilder::new().mode(0o700).create(&aside) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    aside = self.path.join(format!("{name}-{n}"));
                }
                other => return other.map(|()| aside),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// What a repair that was broken off had left to do.
    fn finish_repair(&self) -> io::Result<()> {
        remove(&self.path.join(REBUILDING))?;
        let rebuilt = self.path.join(REBUILT);
        if rebuilt.exists() {
            if self.database().exists() {
                // The old one was not put aside yet: it is looked at again.
                return remove(&rebuilt);
            }
            fs::rename(&rebuilt, self.database())?;
            File::open(&self.path)?.sync_all()?;
        }
        Ok(())
    }

    /// Notes how many commits there were at a start. A folder without this note is taken for one
    /// that was put back from a copy.
    pub(super) fn begin_marks(&self, commits: u64) -> Result<(), StoreError> {
        let noted = self.mark.write_all_at(&mark(commits), 0);
        // The names of new files have to survive a power cut too.
        let noted = noted
            .and_then(|()| self.mark.sync_all())
            .and_then(|()| File::open(&self.path)?.sync_all());
        noted.map_err(|error| StoreError::file(&self.path.join(MARK_FILE), error))
    }

    /// Notes how many commits there were, after each of them. Where that fails, nothing is lost but
    /// that a journal without its end goes unnoticed.
    pub(super) fn mark(&self, commits: u64) {
        let _unnoticed = self.mark.write_all_at(&mark(commits), 0);
    }

    /// How many commits there were; none where it is not known.
    pub(super) fn marked(&self) -> Option<u64> {
        let mut bytes = [0; 12];
        self.mark.read_exact_at(&mut bytes, 0).ok()?;
        let (commits, _) = bytes.split_first_chunk::<8>()?;
        let commits = u64::from_le_bytes(*commits);
        (mark(commits) == bytes).then_some(commits)
    }

    /// Notes which files are open now, for [`Folder::missing`].
    pub(super) fn note_opened(&mut self) {
        let names = [LOCK_FILE, DATABASE, "history.db-wal"];
        let paths = names.into_iter().map(|name| self.path.join(name));
        self.opened = paths
            .filter_map(|path| identity(&path).map(|found| (path, found)))
            .collect();
    }

    /// A file that is open but no longer at its path: what is written to it is gone with the process.
    pub(super) fn missing(&self) -> Option<&Path> {
        let is_gone = |(path, opened): &&(PathBuf, _)| identity(path) != Some(*opened);
        self.opened
            .iter()
            .find(is_gone)
            .map(|(path, _)| path.as_path())
    }

    /// Bytes of the database and its journal.
    pub(super) fn bytes(&self) -> u64 {
        let size = |name: String| fs::metadata(self.path.join(name)).map_or(0, |meta| meta.len());
        companions(DATABASE).into_iter().map(size).sum()
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

fn mark(commits: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    let number = commits.to_le_bytes();
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&checksum(b'K', &number).to_le_bytes());
    bytes
}

/// A database's file and those that SQLite may keep beside it.
pub(super) fn companions(name: &str) -> [String; 4] {
    ["", "-wal", "-shm", "-journal"].map(|end| format!("{name}{end}"))
}

fn remove(path: &Path) -> io::Result<()> {
    for name in companions(&path.to_string_lossy()) {
        match fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Opens a file that nobody else may read, and makes it where there is none.
pub(super) fn open_private(path: &Path) -> Result<File, StoreError> {
    let open = || {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    };
    open().map_err(|error| StoreError::file(path, error))
}

/// Whether the folder is ours, and of a version that we read; says so in an empty one.
fn check_format(path: &Path, create: bool) -> Result<(), StoreError> {
    let file = path.join(FORMAT_FILE);
    let mut text = String::new();
    let read = File::open(&file).and_then(|file| file.take(256).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return begin_format(path, &file, create);
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
        Err(error) => return Err(StoreError::file(&file, error)),
    }
    let version = text.strip_prefix(FORMAT_NAME).map(str::trim);
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(StoreError::NewerFormat {
            folder: path.to_owned(),
            found,
        }),
        // Nothing else was ever written there by us: it is the file that is damaged, if the rest is
        // ours.
        _ if path.join(DATABASE).exists() && path.join(MARK_FILE).exists() => write_format(&file),
        _ => Err(StoreError::Foreign(path.to_owned())),
    }
}

fn begin_format(path: &Path, file: &Path, create: bool) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|error| StoreError::file(path, error))?;
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let is_ours = |name: &str| names.iter().any(|found| found == name);
    if names.is_empty() && !create {
        return Err(StoreError::NoFolder(path.to_owned()));
    }
    // A new disk has a folder of its own in it.
    let is_empty = names.iter().all(|name| name == "lost+found");
    let is_without_format = is_ours(DATABASE) && is_ours(MARK_FILE);
    if !is_empty && !is_without_format {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    write_format(file)
}

fn write_format(file: &Path) -> Result<(), StoreError> {
    let write = |mut out: File| {
        out.set_len(0)?;
        out.write_all(format!("{FORMAT_NAME} {FORMAT}\n").as_bytes())?;
        out.sync_all()
    };
    write(open_private(file)?).map_err(|error| StoreError::file(file, error))
}

/// Takes the folder's lock, which ends with the process. Not for folders that machines share.
#[allow(unsafe_code, reason = "flock(2), which std has from Rust 1.89 on")]
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK_FILE);
    let mut file = open_private(&path)?;
    // SAFETY: the descriptor is open for as long as `file` lives; the call takes numbers only.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(StoreError::file(&path, error));
        }
        let mut holder = String::new();
        let _unknown = (&mut file).take(20).read_to_string(&mut holder);
        return Err(StoreError::Locked {
            folder: folder.to_owned(),
            lock: path,
            holder: holder.trim().parse().ok(),
        });
    }
    let number = format!("{}\n", std::process::id());
    // Only for whoever asks who has it.
    let _unknown = file
        .set_len(0)
        .and_then(|()| file.write_all_at(number.as_bytes(), 0));
    Ok(file)
}
