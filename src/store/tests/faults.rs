//! A disk that takes no more: a database that may not grow.

use super::*;

/// Fills the store until a commit fails; answers how many messages were accepted.
fn fill(store: &mut Running, from: u64) -> u64 {
    for offset in from.. {
        store.send(vec![message("r", 1, offset, 0)]);
        if store.settle().is_some() {
            return offset - 1;
        }
        assert!(offset < 10_000, "the disk is never full");
    }
    0
}

#[test]
fn a_full_disk_refuses_messages_in_fsync_mode_and_leaves_no_hole() {
    let scratch = Scratch::new("full");
    let (store, _) = Store::open(settings(scratch.path(), Durability::Fsync), NOW).unwrap();
    store.database.limit_pages(store.database.pages() + 6);
    let mut store = Running::start(store);
    let accepted = fill(&mut store, 1);
    assert!(accepted > 3, "{accepted}");
    assert!(store.figures.is_failing());
    // What follows on a refused message is refused too, even where there would be room for it.
    store.send(vec![message("r", 1, accepted + 2, accepted + 2)]);
    assert!(store.settle().is_some());
    assert_eq!(store.figures.refused(), 2);
    // A ban needs no more room than what is there; a trim makes some.
    store.era = 1;
    store.send(vec![
        Record::Banned {
            user: UserId::from_name("ada"),
            until_unix_ms: None,
        },
        Record::Trimmed {
            room: room("r"),
            kept_since: accepted,
        },
    ]);
    store.settle();
    assert!(store.stop());
    let contents = load_again(scratch.path(), Durability::Fsync);
    let r = &contents.rooms[0];
    assert_eq!((r.epoch, r.offset), (Epoch(1), accepted));
    assert_eq!(contents.bans.len(), 1);
    assert!(!contents.renewed);
}

#[test]
fn a_new_era_takes_the_refused_offset_again() {
    let scratch = Scratch::new("era");
    let (store, _) = Store::open(settings(scratch.path(), Durability::Fsync), NOW).unwrap();
    store.database.limit_pages(store.database.pages() + 6);
    let mut store = Running::start(store);
    let accepted = fill(&mut store, 1);
    store.era = 1;
    store.send(vec![message("s", 2, 1, 1)]);
    let _full_or_not = store.settle();
    store.era = 2;
    store.send(vec![
        Record::Forgotten { room: room("s") },
        message("r", 1, accepted + 1, accepted + 1),
    ]);
    let fault = store.settle();
    assert!(store.stop());
    let contents = load_again(scratch.path(), Durability::Fsync);
    let expected = accepted + u64::from(fault.is_none());
    assert_eq!(contents.rooms[0].offset, expected);
    assert_eq!(contents.rooms.len(), 1);
}

#[test]
fn async_mode_keeps_what_fits_into_memory_and_tells_what_does_not() {
    let scratch = Scratch::new("backlog");
    let bounded = StoreSettings {
        backlog_bytes_max: 50 * 300,
        ..settings(scratch.path(), Durability::Async)
    };
    let (store, _) = Store::open(bounded, NOW).unwrap();
    store.database.limit_pages(store.database.pages());
    let mut store = Running::start(store);
    store.send((1..=20).map(|offset| message("r", 1, offset, 0)).collect());
    // Until the first commit has failed nothing is over the bound.
    wait_for(|| store.figures.is_failing());
    for offset in 21..=200 {
        store.send(vec![message("r", 1, offset, 0)]);
    }
    let mut last = 0;
    while last < 120 {
        let stored = store.answers.recv_timeout(PATIENCE).unwrap();
        assert!(stored.fault.is_some());
        last = stored.through;
    }
    assert!(!store.stop());
    let contents = load_again(scratch.path(), Durability::Async);
    assert!(contents.damage.is_none());
    assert!(contents.rooms.is_empty());
}

#[test]
fn async_mode_goes_on_where_the_disk_has_room_again() {
    let scratch = Scratch::new("again");
    let (store, _) = Store::open(settings(scratch.path(), Durability::Async), NOW).unwrap();
    // Nobody can reach the database of a running store, so that the room that comes free is its own.
    store.database.limit_pages(store.database.pages() + 4);
    let mut store = Running::start(store);
    store.send((1..=60).map(|offset| message("r", 1, offset, 0)).collect());
    wait_for(|| store.figures.is_failing());
    // Taken together, these are a room with one message.
    store.send(vec![Record::Trimmed {
        room: room("r"),
        kept_since: 59,
    }]);
    assert_eq!(store.settle(), None);
    assert!(store.stop());
    let contents = load_again(scratch.path(), Durability::Async);
    assert!(!contents.renewed);
    assert_eq!(bodies(&contents.rooms[0]), [60]);
}

#[test]
fn an_unclean_end_gives_new_epochs_in_async_mode_only() {
    for (durability, renewed) in [(Durability::Async, true), (Durability::Fsync, false)] {
        let scratch = Scratch::new("unclean");
        let (mut store, _) = Running::open(settings(scratch.path(), durability));
        store.send(vec![message("r", 1, 1, 0)]);
        store.settle();
        assert!(store.stop());
        make_unclean(scratch.path());
        let contents = load_again(scratch.path(), Durability::Fsync);
        assert_eq!(contents.renewed, renewed);
        let r = &contents.rooms[0];
        assert_eq!((r.offset, r.epoch == Epoch(1)), (1, !renewed));
        let again = load_again(scratch.path(), Durability::Fsync);
        assert_eq!(again.rooms[0].epoch, r.epoch, "once");
    }
}

#[test]
fn commits_that_are_gone_are_told_and_give_new_epochs() {
    let scratch = Scratch::new("gone");
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    store.send(vec![message("r", 1, 1, 0)]);
    store.settle();
    assert!(store.stop());
    let copy = std::fs::read(scratch.path().join("history.db")).unwrap();
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    store.send(vec![message("r", 1, 2, 0)]);
    store.settle();
    assert!(store.stop());
    std::fs::write(scratch.path().join("history.db"), copy).unwrap();
    let contents = load_again(scratch.path(), Durability::Fsync);
    let damage = contents.damage.unwrap();
    assert_eq!(damage.commits_missing, 3);
    assert_ne!(contents.rooms[0].epoch, Epoch(1));
    let again = load_again(scratch.path(), Durability::Fsync);
    assert_eq!((again.damage, again.renewed), (None, false));
    // Files that were put back from a copy come without the count.
    std::fs::remove_file(scratch.path().join("history.mark")).unwrap();
    let contents = load_again(scratch.path(), Durability::Fsync);
    assert!(contents.renewed && contents.damage.is_none());
}

#[test]
fn files_that_are_gone_fail_commits_and_are_told_when_nothing_comes() {
    for gone in ["history.db", "history.db-wal", "lock"] {
        let scratch = Scratch::new("unlinked");
        let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
        store.send(vec![message("r", 1, 1, 0)]);
        assert_eq!(store.settle(), None);
        std::fs::remove_file(scratch.path().join(gone)).unwrap();
        store.send(vec![message("r", 1, 2, 0)]);
        let fault = store.settle().unwrap();
        assert!(fault.0.contains(gone), "{fault}");
        assert!(!store.stop());
    }
    let scratch = Scratch::new("moved");
    let (store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    let aside = Scratch::new("moved-to");
    std::fs::rename(scratch.path(), aside.path()).unwrap();
    wait_for(|| store.figures.is_failing());
    std::fs::rename(aside.path(), scratch.path()).unwrap();
    wait_for(|| !store.figures.is_failing());
    assert!(store.stop());
}

#[test]
fn what_history_let_go_of_is_deleted_where_nothing_else_comes() {
    let scratch = Scratch::new("swept");
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    store.send((1..=9).map(|offset| message("r", 1, offset, 0)).collect());
    store.send(vec![Record::Forgotten { room: room("r") }]);
    assert_eq!(store.settle(), None);
    let rows = |store: &Running| {
        let figures = format!("{:?}", store.figures);
        figures.contains(" messages: 0,")
    };
    wait_for(|| rows(&store));
    assert!(store.stop());
}

#[expect(clippy::disallowed_methods, reason = "patience of a test")]
fn wait_for(condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

fn make_unclean(folder: &Path) {
    let mut database = Database::open(&folder.join("history.db")).unwrap();
    database
        .transaction(|database| database.set_meta(Meta::Clean, 0))
        .unwrap();
}
