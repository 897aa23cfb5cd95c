//! History as text and back.

use std::io::BufReader;

use super::*;
use crate::store::archive::{ArchiveError, Moved, examine, export, import};

fn filled(scratch: &Scratch) {
    let (mut store, _) = Running::open(settings(scratch.path(), Durability::Fsync));
    for offset in 1..=12 {
        store.send(
            (0..5)
                .map(|n| message(&format!("r:{n}"), n + 1, offset, 4))
                .collect(),
        );
    }
    store.send(vec![
        Record::Opened {
            room: room("empty \"é\""),
            epoch: Epoch(77),
        },
        Record::Read {
            room: room("r:1"),
            user: UserId::from_name("ada"),
            offset: 3,
        },
        Record::Banned {
            user: UserId::from_name("bob"),
            until_unix_ms: Some(NOW),
        },
        Record::Banned {
            user: UserId::from_name("carl"),
            until_unix_ms: None,
        },
    ]);
    store.settle();
    assert!(store.stop());
}

fn exported_to(
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
    with_bans: bool,
    text: &mut Vec<u8>,
) -> Result<Moved, ArchiveError> {
    export(folder, NOW, wanted, with_bans, || Ok(text))
}

fn exported(folder: &Path) -> (String, Moved) {
    let mut text = Vec::new();
    let moved = exported_to(folder, |_| true, true, &mut text).unwrap();
    (String::from_utf8(text).unwrap(), moved)
}

fn imported(folder: &Path, text: &str) -> Result<Moved, ArchiveError> {
    import(folder, NOW, 1, BufReader::new(text.as_bytes()))
}

#[test]
fn what_is_exported_and_imported_is_exported_as_the_same_bytes() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    filled(&one);
    let (text, moved) = exported(one.path());
    let expected = Moved {
        rooms: 6,
        messages: 40,
        bans: 2,
        ..Moved::default()
    };
    assert_eq!(moved, expected);
    assert_eq!(imported(other.path(), &text).unwrap(), expected);
    assert_eq!(exported(other.path()).0, text);
    let contents = load_again(other.path(), Durability::Fsync);
    let before = load_again(one.path(), Durability::Fsync);
    assert_eq!(contents.rooms.len(), 6);
    for (room, before) in contents.rooms.iter().zip(&before.rooms) {
        assert_eq!(room, before);
    }
    assert!(!contents.renewed);
    let mut some = Vec::new();
    let moved = exported_to(one.path(), |room| room == "r:2", false, &mut some).unwrap();
    assert_eq!((moved.rooms, moved.bans), (1, 0));
}

#[test]
fn a_bad_line_is_named_and_nothing_is_imported() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    filled(&one);
    let (text, _) = exported(one.path());
    let lines: Vec<&str> = text.lines().collect();
    let cases: [(usize, &str, &str); 5] = [
        (
            lines.len(),
            "{\"read\":{}}",
            "line 61: there is no \"user_id\"",
        ),
        (1, "{\"room\":1}", "line 1: this is no history"),
        (2, "nonsense", "line 2:"),
        (6, "", "offset 4 does not follow on 0"),
        (
            lines.len(),
            lines[4],
            "is in the data directory already, or twice",
        ),
    ];
    for (at, line, expected) in cases {
        let mut lines = lines.clone();
        match expected.contains("follow") {
            // The order of two lines.
            true => lines.swap(5, 7),
            false => lines.insert(at - usize::from(at < lines.len()), line),
        }
        let error = imported(other.path(), &lines.join("\n"))
            .unwrap_err()
            .to_string();
        let is_named =
            error.contains(expected) || expected.contains("follow") && error.contains("follow");
        assert!(is_named, "{expected}: {error}");
        assert_eq!(exported(other.path()).1, Moved::default());
    }
    imported(other.path(), &text).unwrap();
    let again = imported(other.path(), &text).unwrap_err().to_string();
    assert!(again.contains("already"), "{again}");
}

#[test]
fn a_folder_in_use_or_without_history_is_refused() {
    let scratch = Scratch::new("used");
    let mut text = Vec::new();
    let nothing = exported_to(scratch.path(), |_| true, true, &mut text).unwrap_err();
    assert!(matches!(
        nothing,
        ArchiveError::Store(StoreError::NoFolder(_))
    ));
    let (store, _) = Store::open(settings(scratch.path(), Durability::Async), NOW).unwrap();
    let used = exported_to(scratch.path(), |_| true, true, &mut text).unwrap_err();
    assert!(matches!(
        used,
        ArchiveError::Store(StoreError::Locked { .. })
    ));
    let process = Some(std::process::id());
    let examined = examine(scratch.path()).unwrap_err();
    assert!(matches!(examined, StoreError::Locked { holder, .. } if holder == process));
    drop(store);
    examine(scratch.path()).unwrap();
}

#[test]
fn what_may_lack_the_newest_gets_new_epochs_where_it_is_imported() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    let (mut store, _) = Running::open(settings(one.path(), Durability::Async));
    store.send(vec![message("r", 1, 1, 0)]);
    store.settle();
    assert!(store.stop());
    // Opened, and not closed.
    drop(Store::open(settings(one.path(), Durability::Async), NOW).unwrap());
    let (text, _) = exported(one.path());
    assert!(text.starts_with("{\"tidewheel_history\":1,\"whole\":false}\n"));
    imported(other.path(), &text).unwrap();
    let contents = load_again(other.path(), Durability::Async);
    assert_eq!(contents.rooms[0].offset, 1);
    assert_ne!(contents.rooms[0].epoch, Epoch(1));
    assert!(!contents.renewed, "once");
}

#[test]
fn a_folder_that_lacks_commits_is_exported_with_a_word_and_takes_no_more() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    filled(&one);
    let (text, _) = exported(one.path());
    let (room, other_text) = (text.replace("r:", "s:"), text);
    std::fs::remove_file(one.path().join("history.mark")).unwrap();
    let refused = imported(one.path(), &room).unwrap_err();
    assert!(matches!(refused, ArchiveError::Lacking(_)), "{refused}");
    assert!(load_again(one.path(), Durability::Fsync).renewed);
    imported(other.path(), &other_text).unwrap();
    std::fs::write(other.path().join("history.db"), "").unwrap();
    let (text, moved) = exported(other.path());
    assert!(text.contains("\"whole\":false") && moved.commits_missing > 0);
    let refused = imported(other.path(), &other_text).unwrap_err();
    assert!(matches!(refused, ArchiveError::Lacking(_)), "{refused}");
}

#[test]
fn an_import_that_failed_does_not_cost_the_next_one_its_positions() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    filled(&one);
    let (text, _) = exported(one.path());
    imported(other.path(), &format!("{text}nonsense")).unwrap_err();
    imported(other.path(), &text).unwrap();
    assert_eq!(exported(other.path()).0, text);
    assert!(!load_again(other.path(), Durability::Async).renewed);
}

#[test]
fn a_damaged_folder_gives_what_a_repair_would_keep() {
    let one = Scratch::new("one");
    filled(&one);
    let (_, whole) = exported(one.path());
    let file = one.path().join("history.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..100].fill(0);
    std::fs::write(&file, &bytes).unwrap();
    let (text, moved) = exported(one.path());
    assert!(text.starts_with("{\"tidewheel_history\":1,\"whole\":false}\n"));
    assert!(moved.unreadable > 0);
    assert_eq!((moved.rooms, moved.messages), (whole.rooms, whole.messages));
    let refused = imported(one.path(), &text).unwrap_err();
    assert!(matches!(refused, ArchiveError::Damaged(_)), "{refused}");
}

#[test]
fn a_payload_of_several_lines_and_a_read_beyond_everything_come_back() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    let (mut store, _) = Running::open(settings(one.path(), Durability::Fsync));
    store.send(vec![
        Record::Message {
            room: room("r"),
            epoch: Epoch(1),
            offset: 1,
            frame: frame("r", 1, "{\r\n \"a\": \"x\\n\"\n}"),
            unix_ms: NOW,
            key: None,
            kept_since: 0,
        },
        Record::Read {
            room: room("r"),
            user: UserId::from_name("ada"),
            offset: u64::MAX,
        },
    ]);
    store.settle();
    assert!(store.stop());
    let (text, _) = exported(one.path());
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("\"payload\":{ \"a\": \"x\\n\"}}\n"));
    imported(other.path(), &text).unwrap();
    assert_eq!(exported(other.path()).0, text);
}

#[test]
fn an_empty_text_and_one_with_a_byte_order_mark_are_told_so() {
    let scratch = Scratch::new("one");
    let empty = imported(scratch.path(), "").unwrap_err().to_string();
    assert!(empty.starts_with("line 1: the text is empty"), "{empty}");
    let marked = imported(scratch.path(), "\u{feff}{}").unwrap_err();
    assert!(marked.to_string().contains("byte order mark"), "{marked}");
}
