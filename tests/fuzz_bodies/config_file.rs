//! Any text as a configuration file: it is taken, or refused with the line of every fault.

use tidewheel::cli::rooms::rules;
use tidewheel::cli::sources::options_from_text;

/// Beyond this an input only takes time.
const BYTES_MAX: usize = 4096;

/// Runs one input.
///
/// # Panics
/// When one of the properties does not hold.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if text.len() > BYTES_MAX {
        return;
    }
    let lines = 1 + text.matches('\n').count();
    match options_from_text(text) {
        Ok((options, warnings)) => {
            let rules = rules(&options);
            assert_eq!(rules.list.len(), options.rooms.tables.len());
            for (rule, table) in rules.list.iter().zip(&options.rooms.tables) {
                assert!(!rule.pattern.names_user());
                assert_eq!(*rule, table.rule(&options));
                assert!(table.lines.values().all(|line| (1..=lines).contains(line)));
            }
            for room in ["", "chat:1", "a:b:c", "ü"] {
                let found = rules.find(room);
                let first = |rule: &tidewheel::gate::RoomRule| rule.pattern.matches(room, "");
                assert_eq!(found, rules.list.iter().position(first));
            }
            // What is said to be shadowed never governs.
            for (later, earlier) in rules.shadowed() {
                assert!(earlier < later && later < rules.list.len());
            }
            assert!(warnings.iter().all(|warning| !warning.is_empty()));
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.starts_with("error: "), "{told}");
            for (_, rest) in told
                .match_indices("(FILE, line ")
                .map(|(at, found)| told.split_at(at + found.len()))
            {
                let digits = rest.split_once(|c: char| !c.is_ascii_digit());
                let line = digits.and_then(|(line, _)| line.parse::<usize>().ok());
                if let Some(line) = line {
                    assert!((1..=lines).contains(&line), "{told}");
                }
            }
        }
    }
}
