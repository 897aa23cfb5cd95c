//! Imports point down: reads every file under `src` and holds its paths against the layers.
//!
//! A module stands on one level and uses those below it. Whatever points up, or sideways to
//! another module of the same level, fails here, unless it stands in [`SIDEWAYS`] with a reason.
//! Up to the shard, nothing but tests may name a socket, a thread or a clock ([`FORBIDDEN`]).
//!
//! This is a reader of paths, no compiler: it knows `crate::`, `std::` and crate names, nested use
//! trees included. It relies on two habits of the house: other modules are named from `crate::`,
//! and a file's tests come last.

#![allow(clippy::unwrap_used)] // a source that cannot be read is a failed test

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the crate by level, highest first.
const LEVELS: [(u8, &[&str]); 8] = [
    (8, &["main", "cli"]),
    (7, &["server"]),
    (6, &["reactor", "control", "store"]),
    (5, &["shard"]),
    (4, &["session", "room", "bus"]),
    (3, &["protocol", "gate"]),
    (2, &["codec"]),
    (
        1,
        &["frame", "wheel", "metrics", "time", "address", "blocks"],
    ),
];

/// What may look sideways, at what, and why.
const SIDEWAYS: [(&str, &str, &str); 4] = [
    ("main", "cli", "the program is its command line and a run"),
    ("wheel", "time", "deadlines are instants"),
    ("wheel", "blocks", "its timers lie in chunks"),
    (
        "gate",
        "protocol",
        "what a handshake may name is the protocol's to say",
    ),
];

/// What nothing up to [`PURE_LEVEL`] may use: sockets, threads, clocks.
const FORBIDDEN: [&str; 7] = [
    "mio",
    "rustls",
    "libc",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// The highest level without sockets and without a clock: the shard's.
const PURE_LEVEL: u8 = 5;

fn level(module: &str) -> Option<u8> {
    let of = |(level, modules): &(u8, &[&str])| modules.contains(&module).then_some(*level);
    LEVELS.iter().find_map(of)
}

#[test]
fn imports_point_down() {
    let mut faults = Vec::new();
    let mut sideways = BTreeSet::new();
    for (path, module, code) in sources() {
        for used in modules_used(&code) {
            if used == module {
                continue;
            }
            let place = SIDEWAYS
                .iter()
                .position(|(from, to, _)| (*from, *to) == (module.as_str(), used.as_str()));
            if let Some(place) = place {
                sideways.insert(place);
            } else if let Err(fault) = judge(&module, &used) {
                faults.push(format!("{}: {fault}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for (place, (from, to, _)) in SIDEWAYS.iter().enumerate() {
        assert!(
            sideways.contains(&place),
            "{from} does not use {to} any more: take it out of SIDEWAYS"
        );
        assert_eq!(level(from), level(to), "SIDEWAYS lets nothing point up");
        assert!(
            !SIDEWAYS.iter().any(|(a, b, _)| (a, b) == (to, from)),
            "{from} and {to} use each other"
        );
    }
}

#[test]
fn nothing_up_to_the_shard_names_a_socket_a_thread_or_a_clock() {
    let mut faults = Vec::new();
    for (path, module, code) in sources() {
        if is_test_file(&path) || level(&module).is_none_or(|level| level > PURE_LEVEL) {
            continue;
        }
        for named in forbidden(without_tests(&code)) {
            faults.push(format!("{}: {named}", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_module_has_a_level_and_every_level_its_modules() {
    let found: BTreeSet<String> = sources().into_iter().map(|(_, module, _)| module).collect();
    let listed: BTreeSet<String> = LEVELS
        .iter()
        .flat_map(|(_, modules)| modules.iter().copied().map(String::from))
        .collect();
    assert_eq!(found, listed);
}

/// Whether `module` may use `used` without being excepted.
fn judge(module: &str, used: &str) -> Result<(), String> {
    let (Some(from), Some(to)) = (level(module), level(used)) else {
        return Err(format!("{module} uses {used}, which has no level"));
    };
    match to.cmp(&from) {
        std::cmp::Ordering::Less => Ok(()),
        std::cmp::Ordering::Equal => Err(format!("{module} uses {used} beside it")),
        std::cmp::Ordering::Greater => Err(format!("{module} uses {used} above it")),
    }
}

/// The modules of this crate that some code names.
fn modules_used(code: &str) -> BTreeSet<String> {
    ["crate", "tidewheel"]
        .iter()
        .flat_map(|root| paths(code, root))
        .filter_map(|path| path.split("::").nth(1).map(String::from))
        .collect()
}

/// Which of the forbidden names some code uses.
fn forbidden(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for name in FORBIDDEN {
        let root = name.split("::").next().unwrap_or(name);
        for path in paths(code, root) {
            // A parent that is imported whole gives its children away: `use std::time;`.
            let within = path == name || path.starts_with(&format!("{name}::"));
            let whole = path != root && name.starts_with(&format!("{path}::"));
            if within || whole {
                named.insert(path);
            }
        }
    }
    named
}

/// Every path in `code` that begins with `root`, each leaf of a use tree on its own.
fn paths(code: &str, root: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(root) {
        let (before, rest) = (&code[..at], &code[at + root.len()..]);
        let starts = !before.ends_with(is_part) && !before.ends_with("::");
        if starts && rest.starts_with("::") {
            spread(root, rest, &mut paths);
        } else if starts && rest.starts_with([';', ' ']) && before.ends_with("use ") {
            paths.push(root.to_owned());
        }
    }
    paths
}

/// Follows `rest`, what stands behind `prefix`, to the leaves; answers what stands behind them.
fn spread<'a>(prefix: &str, rest: &'a str, paths: &mut Vec<String>) -> &'a str {
    let Some(rest) = rest.strip_prefix("::") else {
        paths.push(prefix.to_owned());
        return rest;
    };
    let Some(mut tree) = rest.strip_prefix('{') else {
        let len = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        return spread(&join(prefix, &rest[..len]), &rest[len..], paths);
    };
    loop {
        tree = tree.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if let Some(rest) = tree.strip_prefix('}') {
            return rest;
        }
        let len = tree
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(tree.len());
        let behind = spread(&join(prefix, &tree[..len]), &tree[len..], paths);
        // What is left of an item is a new name for it: `as _`.
        let Some(end) = behind.find([',', '}']) else {
            return "";
        };
        tree = &behind[end..];
    }
}

fn join(prefix: &str, name: &str) -> String {
    match name {
        "self" | "" => prefix.to_owned(),
        name => format!("{prefix}::{name}"),
    }
}

/// All files under `src` but the crate's root, with their modules, without comments.
fn sources() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let source = |path: PathBuf| {
        let path = path.strip_prefix(&root).unwrap().to_owned();
        let module = path.iter().next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs").to_owned();
        let code = without_comments(&fs::read_to_string(root.join(&path)).unwrap());
        (path, module, code)
    };
    let mut sources: Vec<_> = files.into_iter().map(source).collect();
    sources.retain(|(_, module, _)| module != "lib");
    assert!(!sources.is_empty());
    sources
}

fn is_test_file(path: &Path) -> bool {
    let is_test = |part: &str| matches!(part, "tests" | "tests.rs" | "properties.rs");
    path.iter().any(|part| part.to_str().is_some_and(is_test))
}

/// The code before a file's module of tests, which comes last.
fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod tests {")
        .map_or(code, |at| &code[..at])
}

/// The code without what stands behind `//`, except within a string.
fn without_comments(code: &str) -> String {
    let cut = |line: &str| {
        let is_outside = |at: &usize| line[..*at].matches('"').count().is_multiple_of(2);
        let at = line.match_indices("//").map(|(at, _)| at).find(is_outside);
        line[..at.unwrap_or(line.len())].to_owned() + "\n"
    };
    code.lines().map(cut).collect()
}

#[test]
fn the_reader_of_paths_sees_what_the_compiler_sees() {
    let cases: [(&str, &str, &[&str]); 10] = [
        ("use crate::time::Now;", "crate", &["crate::time::Now"]),
        (
            "use crate::{bus, room::{self, log::{Log, Entry as E}}, time::Now};",
            "crate",
            &[
                "crate::bus",
                "crate::room",
                "crate::room::log::Log",
                "crate::room::log::Entry",
                "crate::time::Now",
            ],
        ),
        (
            "use crate::{\n    bus,\n    time::{\n        Now,\n    },\n};",
            "crate",
            &["crate::bus", "crate::time::Now"],
        ),
        (
            "fn of(at: crate::time::Now) -> crate::bus::Ask<'_>",
            "crate",
            &["crate::time::Now", "crate::bus::Ask"],
        ),
        ("pub(crate) struct A;", "crate", &[]),
        ("some_crate::time::Now", "crate", &[]),
        ("a::crate::time::Now", "crate", &[]),
        ("use std::time;", "std", &["std::time"]),
        ("use mio;", "mio", &["mio"]),
        ("let a = b\"x\"; // crate::shard", "crate", &[]),
    ];
    for (code, root, expected) in cases {
        assert_eq!(paths(&without_comments(code), root), expected, "{code}");
    }
}

#[test]
fn what_points_up_or_sideways_or_outside_is_refused() {
    let cases = [
        ("room", "time", true),
        ("room", "bus", false),
        ("session", "room", false),
        ("codec", "protocol", false),
        ("shard", "reactor", false),
        ("shard", "newcomer", false),
    ];
    for (module, used, expected) in cases {
        assert_eq!(judge(module, used).is_ok(), expected, "{module} → {used}");
    }
    let cases = [
        ("use std::time::{Duration, Instant};", true),
        ("use std::time::Duration;", false),
        ("use std::time as t;", true),
        ("use libc as c;", true),
        ("use std::{net::SocketAddr, sync::Arc};", true),
        ("std::thread::spawn(f)", true),
        ("unsafe { libc::getpid() }", true),
        ("use crate::time::Instant;", false),
        ("let mio = 1;", false),
    ];
    for (code, expected) in cases {
        assert_eq!(!forbidden(code).is_empty(), expected, "{code}");
    }
}
