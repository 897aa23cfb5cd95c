//! The fuzz targets on stable: every file of their corpus, and seeded mutations of it.
//!
//! `tests/corpus/<target>/` holds one file for each shape or fault worth keeping. A crash that
//! libFuzzer finds goes there, under a name that says what it was.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a corpus that cannot be read is a failed test

mod fuzz_bodies;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Enough to meet most branches in a second or two. `FUZZ_SECONDS` in the environment searches for
/// that long instead, from seeds of its own; the search that learns is libFuzzer's.
const MUTATIONS: u64 = 6_000;

/// One test for each target of `fuzz_bodies`.
macro_rules! targets {
    ($($target:ident),* $(,)?) => {
        $(#[test]
        fn $target() {
            smoke(stringify!($target), fuzz_bodies::$target::run);
        })*
    };
}

targets! {
    config_file,
    envelope,
    frame_decoder,
    http_head,
    key_file,
    proxy,
    shard_ops,
    token,
}

/// Runs `body` over the corpus of `target` and over mutations of it.
fn smoke(target: &str, body: fn(&[u8])) {
    let corpus = read_corpus(target);
    assert!(!corpus.is_empty(), "no corpus for {target}");
    for (name, data) in &corpus {
        run(body, data, || format!("{target}/{name}"));
    }
    for seed in seeds() {
        let data = mutate(&corpus, &mut fastrand::Rng::with_seed(seed));
        run(body, &data, || format!("{target}, mutation of seed {seed}"));
    }
    run(body, b"", || format!("{target}, nothing"));
}

/// The seeds of the mutations: the same ones every time, or new ones for as long as was asked for.
#[allow(clippy::disallowed_methods)] // how long to search is a matter of the real clock
fn seeds() -> Box<dyn Iterator<Item = u64>> {
    let seconds = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let Some(seconds) = seconds.map(Duration::from_secs) else {
        return Box::new(0..MUTATIONS);
    };
    let (began, first) = (Instant::now(), fastrand::u64(MUTATIONS..1 << 60));
    Box::new((first..).take_while(move |_| began.elapsed() < seconds))
}

/// Runs `body`, and says which input it was if it panics.
fn run(body: fn(&[u8]), data: &[u8], name: impl Fn() -> String) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(data))) {
        eprintln!("{}: {}", name(), data.escape_ascii());
        resume_unwind(panic);
    }
}

/// The files of a target's corpus, in the order of their names.
fn read_corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(target);
    let mut corpus: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect();
    corpus.sort();
    corpus
}

/// A file of the corpus with one to four changes.
fn mutate(corpus: &[(String, Vec<u8>)], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut data = corpus[rng.usize(..corpus.len())].1.clone();
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(..=data.len());
        let end = rng.usize(at..=data.len().min(at + 32));
        match rng.u8(..7) {
            0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
            1 if at < data.len() => data[at] = rng.u8(..),
            2 => data.truncate(at),
            3 => drop(data.drain(at..end)),
            4 => {
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy);
            }
            5 => {
                // Mostly short, sometimes longer than anything in the corpus.
                let longest = 2 << rng.u8(..9);
                let count = rng.usize(1..longest);
                let noise: Vec<u8> = (0..count).map(|_| rng.u8(..)).collect();
                data.splice(at..at, noise);
            }
            _ => {
                let other = &corpus[rng.usize(..corpus.len())].1;
                data.splice(at.., other.iter().copied());
            }
        }
    }
    data
}
