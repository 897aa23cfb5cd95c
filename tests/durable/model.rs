//! A store in memory that may be slow, fail, and lose what it was not done with.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tidewheel::address::CoreId;
use tidewheel::bus::{
    Durability, Record, Records, StoreFault, Stored, StoredKey, StoredMessage, StoredRoom,
};
use tidewheel::protocol::Epoch;

/// A room on disk.
#[derive(Clone)]
pub struct Room {
    pub epoch: Epoch,
    pub offset: u64,
    kept_since: u64,
    messages: BTreeMap<u64, StoredMessage>,
    keys: Vec<StoredKey>,
    reads: BTreeMap<String, u64>,
    /// What every message that was ever stored said, by offset.
    pub ever: BTreeMap<u64, String>,
}

/// What is on disk, and what is on its way there.
pub struct Disk {
    durability: Durability,
    pub rooms: BTreeMap<String, Room>,
    queue: VecDeque<Records>,
    refused: HashMap<CoreId, u32>,
    pub failures: u64,
}

/// What a message's body says about itself.
pub fn id_of(body: &[u8]) -> String {
    let message: serde_json::Value = serde_json::from_slice(body).expect("a message is JSON");
    message["metadata"]["message_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

impl Disk {
    pub fn new(durability: Durability) -> Disk {
        Disk {
            durability,
            rooms: BTreeMap::new(),
            queue: VecDeque::new(),
            refused: HashMap::new(),
            failures: 0,
        }
    }

    pub fn take(&mut self, batch: Records) {
        assert!(!batch.records.is_empty());
        self.queue.push_back(batch);
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Commits the first batches, or fails to. Answers what the cores are told.
    pub fn commit(&mut self, batches: usize, fails: bool) -> Vec<(CoreId, Stored)> {
        let mut told = Vec::new();
        let count = batches.min(self.queue.len());
        let group: Vec<Records> = self.queue.drain(..count).collect();
        let fails = fails && self.durability == Durability::Fsync;
        self.failures += u64::from(fails);
        for batch in group {
            if fails
                && batch
                    .records
                    .iter()
                    .any(|r| matches!(r, Record::Message { .. }))
            {
                self.refused.insert(batch.core, batch.era);
            }
            let is_refused = self.refused.get(&batch.core) == Some(&batch.era);
            for record in &batch.records {
                if !is_refused || !matches!(record, Record::Message { .. }) {
                    self.apply(record);
                }
            }
            let fault = is_refused.then(|| StoreFault("no space".into()));
            let through = batch.seq;
            told.push((batch.core, Stored { through, fault }));
        }
        told
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Opened { room, epoch } => drop(self.room(room.name(), *epoch)),
            Record::Message {
                room,
                epoch,
                offset,
                frame,
                unix_ms,
                key,
                kept_since,
            } => {
                let room = self.room(room.name(), *epoch);
                assert_eq!(*offset, room.offset + 1, "messages follow on");
                room.offset = *offset;
                let id = id_of(frame.body());
                let is_new = room.ever.values().all(|known| *known != id);
                assert!(is_new, "{id} is on disk twice");
                room.ever.insert(*offset, id);
                let body = Box::from(frame.body());
                let unix_ms = *unix_ms;
                room.messages
                    .insert(*offset, StoredMessage { unix_ms, body });
                if let Some(key) = key.clone() {
                    let offset = *offset;
                    room.keys.push(StoredKey {
                        key,
                        offset,
                        unix_ms,
                    });
                }
                trim(room, *kept_since);
            }
            Record::Trimmed { room, kept_since } => {
                if let Some(room) = self.rooms.get_mut(room.name()) {
                    assert!(
                        *kept_since <= room.offset,
                        "only what is stored is let go of"
                    );
                    trim(room, *kept_since);
                }
            }
            Record::Read { room, user, offset } => {
                if let Some(room) = self.rooms.get_mut(room.name()) {
                    room.reads.insert(user.to_string(), *offset);
                }
            }
            Record::Forgotten { room } => {
                assert!(self.rooms.remove(room.name()).is_some(), "it was known");
            }
            Record::Banned { .. } | Record::Unbanned { .. } => {}
        }
    }

    fn room(&mut self, name: &str, epoch: Epoch) -> &mut Room {
        let fresh = Room {
            epoch,
            offset: 0,
            kept_since: 0,
            messages: BTreeMap::new(),
            keys: Vec::new(),
            reads: BTreeMap::new(),
            ever: BTreeMap::new(),
        };
        let room = self.rooms.entry(name.to_owned()).or_insert(fresh.clone());
        if room.epoch != epoch {
            *room = fresh;
        }
        room
    }

    /// The process is gone: what was on its way is lost. Where that may include what clients were
    /// told, rooms go on with new epochs.
    pub fn crash(&mut self, new_epoch: &mut dyn FnMut() -> u64) {
        let has_lost = !self.queue.is_empty();
        self.queue.clear();
        self.refused.clear();
        if has_lost && self.durability == Durability::Async {
            for room in self.rooms.values_mut() {
                room.epoch = Epoch(new_epoch());
            }
        }
    }

    /// What a start finds.
    pub fn contents(&self) -> Vec<StoredRoom> {
        let rooms = self.rooms.iter().map(|(name, room)| StoredRoom {
            name: name.as_str().into(),
            epoch: room.epoch,
            offset: room.offset,
            messages: room.messages.values().cloned().collect(),
            keys: room.keys.clone(),
            reads: (room.reads.iter())
                .map(|(user, offset)| (tidewheel::protocol::UserId::from_name(user), *offset))
                .collect(),
        });
        rooms.collect()
    }
}

fn trim(room: &mut Room, kept_since: u64) {
    room.kept_since = room.kept_since.max(kept_since);
    room.messages = room.messages.split_off(&(room.kept_since + 1));
}
