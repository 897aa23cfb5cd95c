//! The store as a whole: what comes back after a stop, a kill, a full disk and damage.

mod archive;
mod damage;
mod faults;
mod kill;
mod model;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::address::RoomKey;
use crate::bus::{Record, RecordKey, StoreFault, StoredRoom};
use crate::frame::Frame;
use crate::protocol::json::encode;
use crate::protocol::{Event, MessageId, Offset, UserId};

/// A moment at which nothing that the tests write is old, by the clock that the store reads.
const NOW: u64 = 4_000_000_000_000;
const WINDOW: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes away with its test.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidewheel-store-{name}-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn settings(folder: &Path, durability: Durability) -> StoreSettings {
    StoreSettings {
        folder: folder.to_owned(),
        durability,
        flush_interval: Duration::from_millis(5),
        key_window: WINDOW,
        backlog_bytes_max: BACKLOG_BYTES_MAX,
        seed: 7,
    }
}

fn room(name: &str) -> RoomKey {
    RoomKey::new(name, 1)
}

/// A message as a home makes it.
fn frame(room: &str, offset: u64, payload: &str) -> Frame {
    let event = Event::Message {
        room,
        offset: Offset(offset),
        payload: payload.as_bytes(),
        message_id: MessageId::Generated(Epoch(9), Offset(offset)),
        unix_ms: NOW,
        sender: None,
    };
    let mut wire = Vec::new();
    encode(&event, None, &mut wire);
    Frame::new(&wire)
}

fn message(name: &str, epoch: u64, offset: u64, kept_since: u64) -> Record {
    Record::Message {
        room: room(name),
        epoch: Epoch(epoch),
        offset,
        frame: frame(
            name,
            offset,
            &format!("{{\"n\":{offset},\"text\":\"{}\"}}", "x".repeat(180)),
        ),
        unix_ms: NOW,
        key: offset.is_multiple_of(2).then(|| RecordKey {
            user: offset.is_multiple_of(4).then(|| UserId::from_name("ada")),
            id: format!("m{offset}").into(),
        }),
        kept_since,
    }
}

/// A running store, and one core that hands over to it.
struct Running {
    records: crossbeam_channel::Sender<Records>,
    answers: Receiver<Stored>,
    handle: StoreHandle,
    figures: Arc<StoreFigures>,
    seq: u64,
    era: u32,
}

impl Running {
    fn start(store: Store) -> Running {
        let figures = store.figures();
        let (records, receiver) = crossbeam_channel::unbounded();
        let (sender, answers) = crossbeam_channel::unbounded();
        let answer = move |_, stored| {
            let _ = sender.send(stored);
        };
        let handle = store.spawn(receiver, answer).unwrap();
        Running {
            records,
            answers,
            handle,
            figures,
            seq: 0,
            era: 0,
        }
    }

    fn open(settings: StoreSettings) -> (Running, Contents) {
        let (store, contents) = Store::open(settings, NOW).unwrap();
        (Running::start(store), contents)
    }

    fn send(&mut self, records: Vec<Record>) {
        self.seq += 1;
        let weight = records.len() * 300;
        let batch = Records {
            core: CoreId(0),
            seq: self.seq,
            era: self.era,
            records,
            weight,
        };
        self.records.send(batch).unwrap();
    }

    /// Waits for the answer that covers the last batch; answers the last fault before it, or in it.
    fn settle(&self) -> Option<StoreFault> {
        let mut fault = None;
        loop {
            let stored = self.answers.recv_timeout(PATIENCE).unwrap();
            fault = stored.fault.or(fault);
            if stored.through >= self.seq {
                return fault;
            }
        }
    }

    fn stop(self) -> bool {
        drop(self.records);
        self.handle.stop()
    }
}

fn load_again(folder: &Path, durability: Durability) -> Contents {
    let (store, contents) = Store::open(settings(folder, durability), NOW).unwrap();
    assert!(Running::start(store).stop());
    contents
}

fn bodies(room: &StoredRoom) -> Vec<u64> {
    let first = room.offset - room.messages.len() as u64 + 1;
    (first..).take(room.messages.len()).collect()
}

#[test]
fn what_was_kept_comes_back() {
    let scratch = Scratch::new("back");
    let (mut store, contents) = Running::open(settings(scratch.path(), Durability::Async));
    assert_eq!(contents, Contents::default());
    let user = || UserId::from_name("ada");
    store.send(vec![
        Record::Opened {
            room: room("b"),
            epoch: Epoch(5),
        },
        message("b", 5, 1, 0),
        message("b", 5, 2, 0),
        Record::Read {
            room: room("b"),
            user: user(),
            offset: 2,
        },
        Record::Opened {
            room: room("a"),
            epoch: Epoch(6),
        },
        Record::Opened {
            room: room("gone"),
            epoch: Epoch(7),
        },
        message("gone", 7, 1, 0),
    ]);
    store.send(vec![
        message("b", 5, 3, 1),
        Record::Banned {
            user: user(),
            until_unix_ms: Some(77),
        },
        Record::Forgotten { room: room("gone") },
    ]);
    assert_eq!(store.settle(), None);
    assert!(store.stop());
    let contents = load_again(scratch.path(), Durability::Async);
    assert!(!contents.renewed && contents.damage.is_none());
    let names: Vec<_> = contents.rooms.iter().map(|room| &*room.name).collect();
    assert_eq!(names, ["a", "b"]);
    let b = &contents.rooms[1];
    assert_eq!((b.epoch, b.offset, bodies(b)), (Epoch(5), 3, vec![2, 3]));
    assert_eq!(b.messages[1].body.as_ref(), {
        let Record::Message { frame, .. } = message("b", 5, 3, 1) else {
            unreachable!()
        };
        frame.body().to_vec()
    });
    assert_eq!(b.keys.len(), 1);
    assert_eq!((&*b.keys[0].key.id, b.keys[0].offset), ("m2", 2));
    assert_eq!(b.reads, [(user(), 2)]);
    assert_eq!(contents.bans.len(), 1);
    assert_eq!(contents.rooms[0].offset, 0);
}

#[test]
fn keys_outlive_their_messages_for_the_window_only() {
    let scratch = Scratch::new("keys");
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Async));
    store.send(
        (1..=8)
            .map(|offset| message("r", 1, offset, offset))
            .collect(),
    );
    store.settle();
    assert!(store.stop());
    let contents = load_again(scratch.path(), Durability::Async);
    let offsets: Vec<_> = contents.rooms[0]
        .keys
        .iter()
        .map(|key| key.offset)
        .collect();
    assert_eq!(offsets, [2, 4, 6, 8]);
    assert!(contents.rooms[0].messages.is_empty());
    let later = NOW + WINDOW.as_millis() as u64;
    let (_, contents) = Store::open(settings(scratch.path(), Durability::Async), later).unwrap();
    assert_eq!(contents.rooms[0].keys, []);
    assert_eq!(contents.rooms[0].offset, 8);
}

#[test]
fn a_folder_is_open_once_and_ours() {
    let scratch = Scratch::new("lock");
    let open = || Store::open(settings(scratch.path(), Durability::Async), NOW).map(|_| ());
    let first = Store::open(settings(scratch.path(), Durability::Async), NOW).unwrap();
    let refused = open().unwrap_err().to_string();
    assert!(
        refused.contains(&format!("by process {}", std::process::id())),
        "{refused}"
    );
    drop(first);
    open().unwrap();
    let format = scratch.path().join("format");
    std::fs::write(&format, "tidewheel history 2\n").unwrap();
    assert!(matches!(
        open(),
        Err(StoreError::NewerFormat { found: 2, .. })
    ));
    std::fs::write(&format, "tid\0wheel").unwrap();
    open().unwrap();
    assert_eq!(
        std::fs::read_to_string(&format).unwrap(),
        "tidewheel history 1\n"
    );
    let other = Scratch::new("foreign");
    std::fs::create_dir_all(other.path()).unwrap();
    std::fs::write(other.path().join("letters"), "dear").unwrap();
    let foreign = Store::open(settings(other.path(), Durability::Async), NOW).map(|_| ());
    assert!(matches!(foreign, Err(StoreError::Foreign(_))));
}

#[test]
fn what_is_there_counts_before_anything_comes() {
    use crate::metrics::exposition::{Exposition, Format, Source};
    let scratch = Scratch::new("gauges");
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Async));
    store.send(vec![message("r", 1, 1, 0), message("r", 1, 2, 0)]);
    store.settle();
    assert!(store.stop());
    let (store, _) = Running::open(settings(scratch.path(), Durability::Async));
    let mut out = Exposition::new(Format::Prometheus);
    store.figures.write(&mut out);
    let text = out.finish();
    assert!(text.contains("\ntidewheel_store_rooms 1\n"), "{text}");
    assert!(text.contains("\ntidewheel_store_messages 2\n"), "{text}");
    assert!(!text.contains("\ntidewheel_store_disk_bytes 0\n"), "{text}");
    assert!(store.stop());
}

#[test]
fn a_folder_that_cannot_be_used_is_named_with_the_systems_answer_and_what_to_do() {
    let file = std::env::current_exe().unwrap();
    let folder = file.join("data");
    let open = Store::open(settings(&folder, Durability::Async), NOW).map(|_| ());
    let told = open.unwrap_err().to_string();
    let begins = format!("cannot use {}: ", folder.display());
    assert!(told.starts_with(&begins), "{told}");
    assert!(told.contains("Not a directory"), "{told}");
    assert!(told.ends_with(FOLDER_ADVICE), "{told}");
}

#[test]
fn files_are_this_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("modes");
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Async));
    store.send(vec![message("r", 1, 1, 0)]);
    store.settle();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(scratch.path()), 0o700);
    let names: Vec<_> = std::fs::read_dir(scratch.path())
        .unwrap()
        .flatten()
        .collect();
    assert!(
        names
            .iter()
            .any(|entry| entry.file_name() == "history.db-wal")
    );
    for entry in names {
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
    }
    assert!(store.stop());
}
