//! Files that are not what was written: bits flipped, ends cut off, parts gone.

use super::*;

const ROOMS: u64 = 40;
const MESSAGES: u64 = 25;

fn name(n: u64) -> String {
    format!("room {n}")
}

/// A folder with some rooms, stopped cleanly or as if it had been killed.
fn filled(scratch: &Scratch, clean: bool) -> Contents {
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    for offset in 1..=MESSAGES {
        store.send(
            (0..ROOMS)
                .map(|n| message(&name(n), n + 1, offset, 0))
                .collect(),
        );
    }
    store.send(vec![
        Record::Read {
            room: room(&name(1)),
            user: UserId::from_name("ada"),
            offset: 3,
        },
        Record::Banned {
            user: UserId::from_name("bob"),
            until_unix_ms: None,
        },
    ]);
    store.settle();
    if clean {
        assert!(store.stop());
    } else {
        let copy = Scratch::new("copy");
        copy_folder(scratch.path(), copy.path());
        assert!(store.stop());
        std::fs::remove_dir_all(scratch.path()).unwrap();
        copy_folder(copy.path(), scratch.path());
    }
    let copy = Scratch::new("whole");
    copy_folder(scratch.path(), copy.path());
    load_again(copy.path(), Durability::Fsync)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Whatever is loaded is what was written; answers how many messages are.
fn hold_against(contents: &Contents, whole: &Contents) -> usize {
    let mut messages = 0;
    for room in &contents.rooms {
        let original = whole
            .rooms
            .iter()
            .find(|original| original.name == room.name);
        let original = original.unwrap_or_else(|| panic!("{:?} was never there", room.name));
        assert!(room.offset <= original.offset);
        if room.offset < original.offset {
            assert_ne!(room.epoch, original.epoch, "offsets are given again");
        }
        let first = room.offset - room.messages.len() as u64;
        for (n, message) in room.messages.iter().enumerate() {
            assert_eq!(message, &original.messages[first as usize + n]);
        }
        messages += room.messages.len();
    }
    messages
}

#[test]
fn a_damaged_file_costs_what_was_hit_and_never_the_start() {
    let scratch = Scratch::new("damage");
    let whole = filled(&scratch, true);
    let mut random = fastrand::Rng::with_seed(17);
    let total = (ROOMS * MESSAGES) as usize;
    let (mut kept, trials) = (0, 60);
    for trial in 0..trials {
        let copy = Scratch::new("spoilt");
        copy_folder(scratch.path(), copy.path());
        let file = copy.path().join("history.db");
        let mut bytes = std::fs::read(&file).unwrap();
        let at = random.usize(0..bytes.len());
        let page = at / database::PAGE_BYTES * database::PAGE_BYTES;
        match trial % 4 {
            0 => bytes.truncate(at),
            1 => bytes[page..page + database::PAGE_BYTES].fill(0),
            // The first page, which everything hangs on.
            2 => bytes[at % database::PAGE_BYTES] ^= 1 << random.u8(0..8),
            _ => bytes[at] ^= 1 << random.u8(0..8),
        }
        std::fs::write(&file, &bytes).unwrap();
        let contents = load_again(copy.path(), Durability::Fsync);
        let messages = hold_against(&contents, &whole);
        if trial % 4 != 0 {
            kept += messages;
        }
        if let Some(damage) = &contents.damage {
            let aside = damage.aside.as_ref().map(|aside| aside.join("history.db"));
            assert!(aside.is_none_or(|aside| aside.exists()));
        } else {
            assert_eq!(messages, total, "trial {trial}: nothing is lost in silence");
        }
        let again = load_again(copy.path(), Durability::Fsync);
        assert_eq!(again.damage, None, "trial {trial}: mended once");
        assert_eq!(hold_against(&again, &whole), messages);
    }
    let expected = total * trials * 3 / 4;
    assert!(kept * 100 > expected * 85, "{kept} of {expected}");
}

#[test]
fn a_damaged_journal_is_told() {
    let scratch = Scratch::new("journal");
    let whole = filled(&scratch, false);
    let mut random = fastrand::Rng::with_seed(19);
    for trial in 0..20 {
        let copy = Scratch::new("spoilt");
        copy_folder(scratch.path(), copy.path());
        let file = copy.path().join("history.db-wal");
        let mut bytes = std::fs::read(&file).unwrap();
        assert!(bytes.len() > 100_000);
        let at = random.usize(0..bytes.len());
        match trial % 2 {
            0 => bytes.truncate(at),
            _ => bytes[at] ^= 1,
        }
        std::fs::write(&file, &bytes).unwrap();
        let contents = load_again(copy.path(), Durability::Fsync);
        let messages = hold_against(&contents, &whole);
        let is_whole = messages == (ROOMS * MESSAGES) as usize;
        if let Some(damage) = contents.damage.as_ref().filter(|d| d.commits_missing > 0) {
            let told = damage.to_string();
            assert!(!told.contains("no room lacks"), "{told}");
            let kept = damage.aside.as_ref().unwrap().join("history.db-wal");
            assert!(std::fs::read(kept).unwrap() == bytes, "trial {trial}");
        }
        assert!(
            is_whole || contents.damage.is_some(),
            "trial {trial}: {messages}"
        );
    }
}

#[test]
fn of_two_rooms_of_one_name_the_later_one_comes_back() {
    let scratch = Scratch::new("twice");
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    store.send(vec![message("r", 1, 1, 0)]);
    store.send(vec![
        Record::Forgotten { room: room("r") },
        message("r", 2, 1, 0),
    ]);
    store.settle();
    assert!(store.stop());
    // A row that was deleted, as an old page has it.
    let mut bytes = Vec::new();
    let dead = RoomRecord {
        name: "r",
        epoch: Epoch(1),
        offset: 9,
        kept_since: 9,
    };
    dead.encode(&mut bytes);
    let file = scratch.path().join("history.db");
    let mut database = Database::open(&file).unwrap();
    database
        .transaction(|database| database.put_room(0, &bytes))
        .unwrap();
    drop(database);
    let contents = load_again(scratch.path(), Durability::Fsync);
    assert_eq!(contents.rooms.len(), 1);
    let r = &contents.rooms[0];
    assert_eq!((r.epoch, r.offset), (Epoch(2), 1));
}

#[test]
fn a_repair_that_was_broken_off_is_begun_again() {
    let scratch = Scratch::new("broken-off");
    let whole = filled(&scratch, true);
    let file = |name: &str| scratch.path().join(name);
    // The new one is whole, the old one was put aside.
    std::fs::rename(file("history.db"), file("history.rebuilt")).unwrap();
    assert_eq!(load_again(scratch.path(), Durability::Fsync), whole);
    // The new one is not whole.
    std::fs::write(file("history.rebuilding"), "half").unwrap();
    assert_eq!(load_again(scratch.path(), Durability::Fsync), whole);
    // The new one is whole, the old one still in its place.
    std::fs::write(file("history.rebuilt"), "half").unwrap();
    assert_eq!(load_again(scratch.path(), Durability::Fsync), whole);
    assert!(!file("history.rebuilding").exists() && !file("history.rebuilt").exists());
}
