//! The fuzz targets on stable: every file of their corpus, and seeded mutations of it.
//!
//! `tests/corpus/<target>/` holds one file for each shape or fault worth keeping. A crash that
//! libFuzzer finds goes there, under a name that says what it was.

#![allow(clippy::unwrap_used)] // a corpus that cannot be read is a failed test

mod fuzz_bodies;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Enough to meet most branches in a second or two; the long search is libFuzzer's.
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
    frame_decoder,
    http_head,
}

/// Runs `body` over the corpus of `target` and over mutations of it.
fn smoke(target: &str, body: fn(&[u8])) {
    let corpus = read_corpus(target);
    assert!(!corpus.is_empty(), "no corpus for {target}");
    for (name, data) in &corpus {
        run(body, data, || format!("{target}/{name}"));
    }
    for seed in 0..MUTATIONS {
        let data = mutate(&corpus, &mut fastrand::Rng::with_seed(seed));
        run(body, &data, || format!("{target}, mutation of seed {seed}"));
    }
    run(body, b"", || format!("{target}, nothing"));
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
                let noise: Vec<u8> = (0..rng.usize(1..8)).map(|_| rng.u8(..)).collect();
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
