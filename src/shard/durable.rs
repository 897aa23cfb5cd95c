//! What is handed over to be kept on disk, and what comes back from there.
//!
//! The store mirrors what the homes of this core hold. What changes there becomes a [`Record`], and
//! a turn's records one batch. Nothing here waits for the disk:
//!
//! ```text
//!   --durability async   accepted ─► history, members, answer
//!                            └────► record ─► store                       (its answer is only counted)
//!
//!   --durability fsync   accepted ─► staged ............ on disk ─► history, members, answer
//!                            └────► record ─► store ────────┘    or: 4104, as if it had never come
//! ```
//!
//! What the store has not answered is bounded in bytes. Past the bound this node's sockets are not
//! read, as where another core has fallen behind; a store that has said nothing for [`STALL`] is not
//! waited for: messages are refused (`fsync`) or not kept (`async`) until it has caught up.

mod restore;
mod staging;

use std::collections::VecDeque;
use std::time::Duration;

use crate::address::RoomKey;
use crate::bus::{Durability, Record, RecordKey, Records, Stored};
use crate::frame::Frame;
use crate::protocol::UserId;
use crate::shard::durable::staging::Staging;
use crate::shard::{Shard, ShardConfig};
use crate::time::{Instant, Now};

/// Bytes that may wait for the store, for each core, before publishers are paused. With a memory
/// budget, this part of it at most.
const BACKLOG_BYTES: usize = 32 * 1024 * 1024;

/// The part of a memory budget that may wait for the store.
const BACKLOG_PART: usize = 64;

/// How long the store may say nothing before it is not waited for any more.
pub const STALL: Duration = Duration::from_secs(5);

/// A record's place in its batch, and what it costs besides its bytes.
const RECORD_BYTES: usize = size_of::<Record>() + 32;

/// A batch that was handed over.
struct Unanswered {
    seq: u64,
    weight: usize,
    at: Instant,
}

/// What a shard holds on behalf of its store.
pub(super) struct Durable {
    waits: bool,
    backlog_bytes: usize,
    /// The last batch that was handed over.
    seq: u64,
    era: u32,
    /// The first batch of the era.
    era_from: u64,
    /// Of the next batch.
    records: Vec<Record>,
    weight: usize,
    unanswered: VecDeque<Unanswered>,
    /// Bytes of those.
    unanswered_bytes: usize,
    staging: Staging,
}

impl Durable {
    /// None where nothing is kept on disk.
    pub(super) fn new(config: &ShardConfig, hasher: &ahash::RandomState) -> Option<Box<Durable>> {
        let waits = match config.durability {
            Durability::Off => return None,
            Durability::Async => false,
            Durability::Fsync => true,
        };
        let part = match config.memory_budget_bytes {
            0 => usize::MAX,
            budget => budget / BACKLOG_PART / usize::from(config.cores.max(1)),
        };
        Some(Box::new(Durable {
            waits,
            backlog_bytes: BACKLOG_BYTES.min(part),
            seq: 0,
            era: 0,
            era_from: 1,
            records: Vec::new(),
            weight: 0,
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            staging: Staging::new(hasher.clone()),
        }))
    }

    /// Bytes of memory that wait for the store.
    pub(super) fn held_bytes(&self) -> usize {
        self.weight + self.unanswered_bytes + self.staging.held_bytes()
    }

    /// The same, added up anew.
    pub(super) fn recounted_bytes(&self) -> usize {
        let records = self.records.iter().map(weight_of).sum::<usize>();
        let unanswered = self.unanswered.iter().map(|batch| batch.weight);
        records + unanswered.sum::<usize>() + self.staging.recounted_bytes()
    }

    /// Whether so much waits for the store that nothing should be read which adds to it.
    fn is_behind(&self) -> bool {
        self.held_bytes() > self.backlog_bytes
    }

    /// Whether the store has said nothing for so long that it is not waited for.
    fn is_stalled(&self, now: Instant) -> bool {
        let oldest = self.unanswered.front();
        oldest.is_some_and(|batch| batch.at + STALL <= now)
    }

    /// Whether a message cannot be taken in. What other cores had sent before they saw that this one
    /// is behind still finds room.
    fn is_full(&self, now: Instant) -> bool {
        let held = self.held_bytes();
        held > 2 * self.backlog_bytes || (held > self.backlog_bytes && self.is_stalled(now))
    }

    /// Puts a record into the next batch.
    fn note(&mut self, record: Record) {
        self.weight += weight_of(&record);
        self.records.push(record);
    }

    /// The batch of a turn.
    fn batch(&mut self, now: Instant, core: crate::address::CoreId) -> Option<Records> {
        if self.records.is_empty() {
            return None;
        }
        self.seq += 1;
        let weight = std::mem::take(&mut self.weight);
        self.unanswered.push_back(Unanswered {
            seq: self.seq,
            weight,
            at: now,
        });
        self.unanswered_bytes += weight;
        Some(Records {
            core,
            seq: self.seq,
            era: self.era,
            records: std::mem::take(&mut self.records),
            weight,
        })
    }

    /// Forgets batches that have met their end. Answers when the first of them was handed over.
    fn settle(&mut self, through: u64) -> Option<Instant> {
        let first = self.unanswered.front().filter(|b| b.seq <= through)?.at;
        while let Some(batch) = self.unanswered.front()
            && batch.seq <= through
        {
            self.unanswered_bytes -= batch.weight;
            self.unanswered.pop_front();
        }
        Some(first)
    }

    /// What was handed over under this era so far, and failed, is not followed by anything.
    fn begin_era(&mut self) {
        self.era = self.era.wrapping_add(1);
        self.era_from = self.seq + 1;
    }
}

/// Bytes of memory that a record keeps, roughly.
fn weight_of(record: &Record) -> usize {
    let held = match record {
        Record::Message { frame, key, .. } => {
            frame.heap_bytes() + key.as_ref().map_or(0, |key| key.id.len())
        }
        _ => 0,
    };
    RECORD_BYTES + held
}

impl Shard {
    /// What is to be handed over to the store at the end of a turn.
    pub fn poll_records(&mut self) -> Option<Records> {
        let batch = self
            .durable
            .as_mut()?
            .batch(self.now.mono, self.config.core)?;
        self.metrics.store.batches += 1;
        self.metrics.store.records += batch.records.len() as u64;
        Some(batch)
    }

    /// How far the store has come.
    pub fn handle_stored(&mut self, now: Now, stored: &Stored) {
        self.set_now(now);
        let Some(durable) = self.durable.as_mut() else {
            return;
        };
        if let Some(since) = durable.settle(stored.through) {
            self.metrics
                .store
                .handed_to_stored
                .record(self.now.mono - since);
        }
        let waits = durable.waits;
        if stored.fault.is_none() {
            if waits {
                self.release_staged(stored.through);
            }
            return;
        }
        self.metrics.store.faults += 1;
        // An answer about batches before the era tells nothing new: their messages are given up.
        if stored.through >= durable.era_from {
            durable.begin_era();
            if waits {
                self.give_up_staged();
            }
        }
    }

    /// Whether so much waits for the store that sockets should not be read. A store that has said
    /// nothing for [`STALL`] holds nobody up: publishers are told instead.
    pub fn awaits_store(&self) -> bool {
        let now = self.now.mono;
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| durable.is_behind() && !durable.is_stalled(now))
    }

    /// Whether messages wait for the disk whose publishers have no answer yet.
    pub fn has_staged(&self) -> bool {
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| !durable.staging.is_empty())
    }

    /// A room was made.
    #[inline]
    pub(super) fn record_opened(&mut self, home: u32) {
        let Some(durable) = self.durable.as_mut() else {
            return;
        };
        let made = self.homes.key(home).zip(self.homes.get(home));
        // Where that is not kept, the room's first message says the same.
        if let Some((key, home)) = made
            && !durable.is_full(self.now.mono)
        {
            durable.note(Record::Opened {
                room: key.clone(),
                epoch: home.room.epoch(),
            });
        }
    }

    /// A room has accepted a message that is in its history, or is not to be.
    #[inline]
    pub(super) fn record_message(
        &mut self,
        home: u32,
        key: &RoomKey,
        publisher: Option<&UserId>,
        message_id: Option<&str>,
    ) {
        let Some(durable) = self.durable.as_mut() else {
            return;
        };
        if durable.is_full(self.now.mono) {
            // The next message that is kept does not follow on: the store sees that by its offset.
            self.metrics.store.lost += 1;
            return;
        }
        let Some(home) = self.homes.get(home) else {
            return;
        };
        let room = &home.room;
        let frame = room.newest_frame().cloned();
        let keeps_keys = self.config.limits(home.ruling).idempotency_keys_max > 0;
        durable.note(Record::Message {
            room: key.clone(),
            epoch: room.epoch(),
            offset: room.offset(),
            frame: frame.unwrap_or_else(|| Frame::new(&self.scratch)),
            unix_ms: self.now.unix_ms,
            key: record_key(publisher, message_id.filter(|_| keeps_keys)),
            kept_since: room.complete_since(),
        });
    }

    /// The offset before what a room keeps, to be handed to [`Shard::record_trimmed`] afterwards.
    #[inline]
    pub(super) fn kept_since(&self, home: u32) -> u64 {
        if self.durable.is_none() {
            return 0;
        }
        self.homes.get(home).map_or(0, |h| h.room.complete_since())
    }

    /// A room may have let go of messages: it kept those after `before` so far.
    #[inline]
    pub(super) fn record_trimmed(&mut self, home: u32, before: u64) {
        let Some(durable) = self.durable.as_mut() else {
            return;
        };
        let Some((key, home)) = self.homes.key(home).zip(self.homes.get(home)) else {
            return;
        };
        let kept_since = home.room.complete_since();
        // Where that is not kept, the room's next message says it, or a start does.
        if kept_since != before && !durable.is_full(self.now.mono) {
            durable.note(Record::Trimmed {
                room: key.clone(),
                kept_since,
            });
        }
    }

    /// A room is about to go.
    pub(super) fn record_forgotten(&mut self, home: u32) {
        if let Some(durable) = self.durable.as_mut()
            && let Some(key) = self.homes.key(home)
        {
            let room = key.clone();
            durable.note(Record::Forgotten { room });
        }
    }

    /// How far a user has read in a room, to be handed to [`Shard::record_read`] afterwards.
    #[inline]
    pub(super) fn read_of(&self, home: u32, user: &UserId) -> u64 {
        if self.durable.is_none() {
            return 0;
        }
        self.homes.get(home).map_or(0, |h| h.room.read_of(user))
    }

    /// A user may have read on in a room, or that may be forgotten: it was `before` so far.
    #[inline]
    pub(super) fn record_read(&mut self, home: u32, user: &UserId, before: u64) {
        let Some(durable) = self.durable.as_mut() else {
            return;
        };
        let Some((key, home)) = self.homes.key(home).zip(self.homes.get(home)) else {
            return;
        };
        let offset = home.room.read_of(user);
        if offset == before {
            return;
        }
        if durable.is_full(self.now.mono) {
            self.metrics.store.lost += 1;
            return;
        }
        durable.note(Record::Read {
            room: key.clone(),
            user: user.clone(),
            offset,
        });
    }

    /// A user is banned until then, or no more. Of all cores that hear of it, the user's home keeps it.
    pub(super) fn record_ban(&mut self, user: &UserId, ban: Option<Option<u64>>) {
        let hash = self.placement.hash_one(user);
        let is_home = self.home_of(hash) == self.config.core;
        if let Some(durable) = self.durable.as_mut().filter(|_| is_home) {
            let user = user.clone();
            durable.note(match ban {
                Some(until_unix_ms) => Record::Banned {
                    user,
                    until_unix_ms,
                },
                None => Record::Unbanned { user },
            });
        }
    }
}

/// An idempotency key as it is kept.
fn record_key(user: Option<&UserId>, id: Option<&str>) -> Option<RecordKey> {
    id.map(|id| RecordKey {
        user: user.cloned(),
        id: Box::from(id),
    })
}
