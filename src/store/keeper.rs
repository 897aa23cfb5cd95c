//! The store's thread: gathers what cores hand over, commits it, answers.

use std::collections::{HashMap, VecDeque};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, never, select};

use super::Store;
use super::change::Change;
use super::database::Meta;
use super::figures::Gauges;
use super::folder::Folder;
use super::mirror::SWEPT_MAX;
use crate::address::CoreId;
use crate::bus::{Durability, Record, Records, StoreFault, Stored};

/// A transaction takes batches until they have so many bytes of memory.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The first wait after a failure, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a stop tries to bring to the disk what is left.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// What a record without a message takes in memory, roughly.
const RECORD_BYTES: usize = 128;
/// How often the files are looked for, and what history let go of is deleted, where nothing comes.
const SWEEP: Duration = Duration::from_secs(1);

/// The running store.
#[derive(Debug)]
pub struct StoreHandle {
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl StoreHandle {
    /// Commits what has been handed over, closes the folder and marks it as clean. Answers whether
    /// everything is on disk. To be called once cores are gone: what they hand over later is lost.
    pub fn stop(self) -> bool {
        drop(self.stop);
        self.thread.join().unwrap_or(false)
    }
}

pub(super) fn spawn(
    store: Store,
    records: Receiver<Records>,
    answer: impl Fn(CoreId, Stored) + Send + 'static,
) -> std::io::Result<StoreHandle> {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let keeper = Keeper {
        store,
        records,
        stopped,
        answer,
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        owed: Vec::new(),
        refused: HashMap::new(),
        retry: None,
        has_lost: false,
        swept: clock(),
    };
    // What is there counts before anything comes.
    keeper.tell();
    let body = move || keeper.run();
    let thread = thread::Builder::new().name("store".into()).spawn(body)?;
    Ok(StoreHandle { stop, thread })
}

struct Keeper<A> {
    store: Store,
    records: Receiver<Records>,
    /// Never says anything: its sender goes away.
    stopped: Receiver<()>,
    answer: A,
    /// What is not committed, oldest first.
    waiting: VecDeque<Records>,
    waiting_bytes: usize,
    /// What is left of batches that were answered: everything but messages. Older than all that
    /// waits.
    owed: Vec<Record>,
    /// The era of each core whose messages are refused.
    refused: HashMap<CoreId, u32>,
    /// After a failure: when to try again, and the wait after the next one.
    retry: Option<(Instant, Duration)>,
    /// Something will never be on disk, so that the folder is not clean.
    has_lost: bool,
    /// When messages that history let go of were last deleted without need.
    swept: Instant,
}

#[expect(clippy::disallowed_methods, reason = "the store is at the edge")]
fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the store is at the edge")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl<A: Fn(CoreId, Stored)> Keeper<A> {
    fn run(mut self) -> bool {
        while self.gather() {
            self.commit();
        }
        self.finish()
    }

    fn is_fsync(&self) -> bool {
        self.store.settings.durability == Durability::Fsync
    }

    /// Waits until there is something to commit. False once nothing more will come.
    fn gather(&mut self) -> bool {
        let mut deadline = None;
        loop {
            let due = match (self.retry, deadline) {
                // New messages are tried at once: their cores wait for the answer.
                (Some(_), _) if self.is_fsync() && !self.waiting.is_empty() => {
                    return self.receive_all();
                }
                (Some((at, _)), _) => Some(at),
                (None, None) if self.waiting.is_empty() => Some(self.swept + SWEEP),
                (None, None) if self.is_fsync() => return self.receive_all(),
                (None, None) => {
                    deadline = Some(clock() + self.store.settings.flush_interval);
                    deadline
                }
                (None, deadline) => deadline,
            };
            let is_full = self.retry.is_none() && self.waiting_bytes >= GROUP_BYTES_MAX;
            if is_full || due.is_some_and(|due| due <= clock()) {
                self.receive_all();
                if self.waiting.is_empty() && self.retry.is_none() && !self.has_idle_work() {
                    self.swept = clock();
                    continue;
                }
                return true;
            }
            match self.receive(due) {
                Ok(batch) => self.take(batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Whether a commit is needed although nothing came: one that tells that files are gone, or one
    /// that deletes.
    fn has_idle_work(&mut self) -> bool {
        self.store.mirror.age(unix_ms());
        self.store.mirror.has_doomed() || self.store.folder.missing().is_some()
    }

    /// The next batch. Disconnected once the store is to stop, or nobody can send any more.
    fn receive(&self, due: Option<Instant>) -> Result<Records, RecvTimeoutError> {
        let timeout = due.map_or_else(never, crossbeam_channel::at);
        select! {
            recv(self.records) -> batch => batch.map_err(|_| RecvTimeoutError::Disconnected),
            recv(self.stopped) -> _ => Err(RecvTimeoutError::Disconnected),
            recv(timeout) -> _ => Err(RecvTimeoutError::Timeout),
        }
    }

    /// Takes what is there, up to what one transaction takes. Always true.
    fn receive_all(&mut self) -> bool {
        while self.waiting_bytes < GROUP_BYTES_MAX {
            match self.records.try_recv() {
                Ok(batch) => self.take(batch),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        true
    }

    fn take(&mut self, batch: Records) {
        self.waiting_bytes += batch.weight;
        self.waiting.push_back(batch);
        if self.retry.is_some() && !self.is_fsync() {
            self.bound();
        }
    }

    /// Commits the oldest of what waits, and answers.
    fn commit(&mut self) {
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(batch) = self.waiting.pop_front()
        {
            bytes += batch.weight;
            group.push(batch);
        }
        self.waiting_bytes -= bytes;
        let is_refused: Vec<bool> = group.iter_mut().map(|batch| self.refuse(batch)).collect();
        let records = group.iter().map(|batch| batch.records.len()).sum();
        // A commit may take long: what it holds waits too.
        self.tell_with(records, bytes);
        let began = clock();
        match self.write(&group) {
            Ok(()) => {
                let records = records + self.owed.len();
                self.store
                    .figures
                    .committed(records, bytes, began.elapsed());
                self.owed = Vec::new();
                if self.retry.take().is_some() {
                    tracing::warn!("history is written again");
                }
                let fault = self.store.figures.last_fault();
                let faults = is_refused
                    .iter()
                    .map(|refused| fault.clone().filter(|_| *refused));
                self.answer(group.iter().zip(faults));
            }
            Err(error) => self.fail(group, bytes, &error),
        }
        self.tell();
    }

    /// In fsync mode, takes the messages out of a batch that would follow on refused ones. Answers
    /// whether it did.
    fn refuse(&mut self, batch: &mut Records) -> bool {
        match self.refused.get(&batch.core) {
            Some(era) if *era == batch.era => {
                let before = batch.records.len();
                batch.records.retain(is_no_message);
                self.store.figures.refuse(before - batch.records.len());
                true
            }
            Some(_) => {
                self.refused.remove(&batch.core);
                false
            }
            None => false,
        }
    }

    fn write(&mut self, group: &[Records]) -> rusqlite::Result<()> {
        let now = clock();
        let swept = match now.duration_since(self.swept) >= SWEEP {
            true => SWEPT_MAX,
            false => 0,
        };
        let store = &mut self.store;
        let now_unix_ms = unix_ms();
        store.mirror.age(now_unix_ms);
        let records = group.iter().flat_map(|batch| &batch.records);
        let mut change = Change::of(self.owed.iter().chain(records), &store.mirror);
        let mirror = &store.mirror;
        store.database.transaction(|database| {
            change.write(database, mirror, now_unix_ms, swept)?;
            check_place(&store.folder)
        })?;
        if swept > 0 {
            self.swept = now;
        }
        if change.repeated() > 0 {
            tracing::error!(
                messages = change.repeated(),
                "messages were left out of the history: their offsets had been taken"
            );
            store.figures.lose(change.repeated());
        }
        self.has_lost |= change.has_holes();
        change.enter(&mut store.mirror, now_unix_ms);
        store.folder.mark(store.mirror.commits as u64);
        Ok(())
    }

    fn fail(&mut self, group: Vec<Records>, bytes: usize, error: &rusqlite::Error) {
        let fault = StoreFault(fault_text(error).into());
        self.store.figures.failed(&fault);
        let wait = self.retry.map_or(RETRY_MIN, |(_, wait)| wait);
        if self.retry.is_none() {
            tracing::error!(
                folder = %self.store.folder.path().display(),
                "history cannot be written: {fault}; it is tried again"
            );
        }
        self.retry = Some((clock() + wait, (wait * 2).min(RETRY_MAX)));
        if !self.is_fsync() {
            self.waiting_bytes += bytes;
            group
                .into_iter()
                .rev()
                .for_each(|batch| self.waiting.push_front(batch));
            return self.bound();
        }
        let mut answers = Vec::new();
        for mut batch in group {
            let messages = self.owe(&mut batch);
            self.store.figures.refuse(messages);
            if messages > 0 {
                self.refused.insert(batch.core, batch.era);
            }
            let is_refused = self.refused.get(&batch.core) == Some(&batch.era);
            answers.push((batch, is_refused.then(|| fault.clone())));
        }
        self.answer(answers.iter().map(|(batch, fault)| (batch, fault.clone())));
    }

    /// Keeps what is no message of a batch for later. Answers how many messages it had.
    fn owe(&mut self, batch: &mut Records) -> usize {
        let before = batch.records.len();
        batch.records.retain(is_no_message);
        let messages = before - batch.records.len();
        self.owed.append(&mut batch.records);
        let owed_max = self.store.settings.backlog_bytes_max / RECORD_BYTES;
        if self.owed.len() > owed_max {
            let count = self.owed.len() - owed_max;
            self.owed.drain(..count);
            self.lose(count);
        }
        messages
    }

    /// Lets go of the oldest messages that wait for a disk that fails, over the bound.
    fn bound(&mut self) {
        let mut answers = Vec::new();
        while self.waiting_bytes > self.store.settings.backlog_bytes_max
            && let Some(mut batch) = self.waiting.pop_front()
        {
            self.waiting_bytes -= batch.weight;
            let messages = self.owe(&mut batch);
            self.lose(messages);
            answers.push(batch);
        }
        if !answers.is_empty() {
            let fault = self.store.figures.last_fault();
            self.answer(answers.iter().map(|batch| (batch, fault.clone())));
        }
    }

    /// So many records will never be on disk.
    fn lose(&mut self, records: usize) {
        if records == 0 {
            return;
        }
        if !self.has_lost {
            tracing::error!(
                backlog_bytes_max = self.store.settings.backlog_bytes_max,
                "history is being lost: what waits for the disk takes more memory than it may"
            );
        }
        self.has_lost = true;
        self.store.figures.lose(records);
    }

    /// Tells cores what became of batches: once for each row of batches that met the same end.
    fn answer<'b>(&self, batches: impl Iterator<Item = (&'b Records, Option<StoreFault>)>) {
        let mut last: HashMap<CoreId, Stored> = HashMap::new();
        for (batch, fault) in batches {
            let stored = Stored {
                through: batch.seq,
                fault,
            };
            let before = last.insert(batch.core, stored.clone());
            if let Some(before) = before
                && before.fault != stored.fault
            {
                (self.answer)(batch.core, before);
            }
        }
        for (core, stored) in last {
            (self.answer)(core, stored);
        }
    }

    fn tell(&self) {
        self.tell_with(0, 0);
    }

    /// Tells what is there, with what is being committed.
    fn tell_with(&self, records: usize, bytes: usize) {
        let store = &self.store;
        let waiting = self.waiting.iter().map(|batch| batch.records.len());
        store.figures.tell(Gauges {
            queue_records: waiting.sum::<usize>() + records + self.owed.len(),
            queue_bytes: self.waiting_bytes + bytes + self.owed.len() * RECORD_BYTES,
            disk_bytes: store.folder.bytes(),
            rooms: store.mirror.rooms.len(),
            messages: store.mirror.rows,
        });
    }

    /// Commits what is left, and marks the folder as clean. Answers whether it is.
    fn finish(mut self) -> bool {
        let patience = clock() + STOP_PATIENCE;
        loop {
            self.receive_all();
            if self.waiting.is_empty() && self.owed.is_empty() {
                break;
            }
            if let Some((at, _)) = self.retry {
                if at > patience {
                    break;
                }
                let _timeout = crossbeam_channel::at(at).recv();
            }
            self.commit();
        }
        let left = self.waiting.iter().map(|batch| batch.records.len());
        let left = left.sum::<usize>() + self.owed.len();
        self.store.figures.lose(left);
        if self.has_lost || self.store.figures.lost() > 0 {
            let lost = self.store.figures.lost();
            tracing::error!(
                records = lost,
                "history is not whole: the disk did not take it"
            );
            return false;
        }
        let commits = self.store.mirror.commits + 1;
        self.store.mirror.age(unix_ms());
        let gone = self.store.mirror.due(0, usize::MAX);
        let folder = &self.store.folder;
        let closed = self.store.database.transaction(|database| {
            for place in &gone {
                database.remove_message(*place)?;
            }
            check_place(folder)?;
            database.set_meta(Meta::Commits, commits)?;
            database.set_meta(Meta::Clean, 1)
        });
        if let Err(error) = closed {
            tracing::error!("history could not be closed cleanly: {error}");
            return false;
        }
        self.store.folder.mark(commits as u64);
        // Where that fails the journal is used at the next start.
        let _later = self.store.database.checkpoint();
        true
    }
}

fn is_no_message(record: &Record) -> bool {
    !matches!(record, Record::Message { .. })
}

/// Fails where what is written would be gone with the process.
fn check_place(folder: &Folder) -> rusqlite::Result<()> {
    let Some(path) = folder.missing() else {
        return Ok(());
    };
    let text = format!(
        "{} was deleted, moved or replaced while the server runs; put the directory back as it was, or \
         restart the server",
        path.display()
    );
    let moved = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY_DBMOVED);
    Err(rusqlite::Error::SqliteFailure(moved, Some(text)))
}

fn fault_text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            format!("{error} (SQLite's code {})", failure.extended_code)
        }
        other => other.to_string(),
    }
}
