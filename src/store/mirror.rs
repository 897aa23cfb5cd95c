//! What the database holds, in memory: rooms with their positions, and where their messages lie.
//!
//! Bodies are not in it. It changes only after a commit, so that it is right whatever fails.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::protocol::Epoch;

/// A row of the table of messages.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) offset: u64,
    pub(super) place: i64,
    /// When the message was accepted, if an idempotency key came with it.
    pub(super) keyed_unix_ms: Option<u64>,
}

/// A room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// Its number in the database.
    pub(super) id: i64,
    pub(super) epoch: Epoch,
    pub(super) offset: u64,
    pub(super) kept_since: u64,
    /// Its rows, by offset, all after `kept_since`.
    pub(super) rows: VecDeque<Row>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) rooms: HashMap<Box<str>, Room>,
    /// Places of messages that are to be deleted. In the order of places, those that are deleted
    /// together lie on few pages.
    doomed: BTreeSet<i64>,
    /// Messages that are not kept, whose keys are young: until when, and their places.
    lingering: BTreeSet<(u64, i64)>,
    pub(super) next_room: i64,
    pub(super) next_place: i64,
    pub(super) commits: i64,
    /// How many rows the table of messages has.
    pub(super) rows: usize,
    /// How long idempotency keys are kept.
    key_window: Duration,
}

/// So many messages may wait for their deletion.
const DOOMED_MAX: usize = 8192;
/// So many are deleted with a commit at least, where more wait.
const DELETED_MIN: usize = 256;
/// So many are deleted at a time where a second has passed: all within 16 s.
pub(super) const SWEPT_MAX: usize = 512;

impl Mirror {
    pub(super) fn new(key_window: Duration) -> Mirror {
        Mirror {
            rooms: HashMap::new(),
            doomed: BTreeSet::new(),
            lingering: BTreeSet::new(),
            next_room: 1,
            next_place: 1,
            commits: 0,
            rows: 0,
            key_window,
        }
    }

    /// Forgets everything but how many commits there were: a new database is written.
    pub(super) fn begin_again(&mut self) {
        *self = Mirror {
            commits: self.commits,
            ..Mirror::new(self.key_window)
        };
    }

    /// Until when a key is kept, by the wall clock. One from the future counts as new.
    fn key_until(&self, unix_ms: u64, now_unix_ms: u64) -> u64 {
        let window = u64::try_from(self.key_window.as_millis()).unwrap_or(u64::MAX);
        unix_ms.min(now_unix_ms).saturating_add(window)
    }

    /// Whether a key is still needed.
    pub(super) fn is_young(&self, unix_ms: u64, now_unix_ms: u64) -> bool {
        self.key_until(unix_ms, now_unix_ms) > now_unix_ms
    }

    /// A message is not kept any more: its row goes now, or once its key is old.
    pub(super) fn let_go(&mut self, row: Row, now_unix_ms: u64) {
        match row.keyed_unix_ms {
            Some(unix_ms) if self.is_young(unix_ms, now_unix_ms) => {
                let until = self.key_until(unix_ms, now_unix_ms);
                self.lingering.insert((until, row.place));
            }
            _ => self.doom(row.place),
        }
    }

    /// The row at a place is of no use.
    pub(super) fn doom(&mut self, place: i64) {
        self.doomed.insert(place);
    }

    /// A room is no more; nor are its rows.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(room) = self.rooms.remove(name) {
            self.doomed.extend(room.rows.iter().map(|row| row.place));
        }
    }

    /// Sets what a room keeps, and lets go of what it does not.
    pub(super) fn trim(&mut self, name: &str, kept_since: u64, now_unix_ms: u64) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        room.kept_since = kept_since;
        let count = room.rows.partition_point(|row| row.offset <= kept_since);
        let gone: Vec<Row> = room.rows.drain(..count).collect();
        if room.rows.is_empty() {
            room.rows = VecDeque::new();
        }
        for row in gone {
            self.let_go(row, now_unix_ms);
        }
    }

    /// Moves what lingered for long enough to what is to be deleted.
    pub(super) fn age(&mut self, now_unix_ms: u64) {
        while let Some((until, place)) = self.lingering.first().copied() {
            if until > now_unix_ms {
                break;
            }
            self.lingering.pop_first();
            self.doom(place);
        }
    }

    /// The places to delete with a commit that adds so many messages, lowest first.
    /// At least `swept` of them, whether or not many wait.
    pub(super) fn due(&self, added: usize, swept: usize) -> Vec<i64> {
        let over = self.doomed.len().saturating_sub(DOOMED_MAX);
        let count = over.min(DELETED_MIN.max(2 * added)).max(swept);
        self.doomed.iter().take(count).copied().collect()
    }

    /// Whether messages wait for their deletion.
    pub(super) fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// The rows at these places are deleted.
    pub(super) fn deleted(&mut self, places: &[i64]) {
        self.rows = self.rows.saturating_sub(places.len());
        for place in places {
            self.doomed.remove(place);
        }
    }
}
