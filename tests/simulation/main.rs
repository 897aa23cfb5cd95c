//! A whole node in one thread: shards, clients that speak real bytes, and a seeded world between
//! them that chops, delays, stalls and resets; and an account of what everyone was owed.
//!
//! ```text
//!   seed ─► plan    bounds, rooms, clients
//!           law     rules, and what they make of an answer
//!           script  what clients do, step by step
//!           operator  what an operator orders meanwhile
//!           backend   what the operator's backend asks meanwhile
//!           world   the reactor's turns, the bus, the clock ── Shard × 1..4
//!           wire    sockets of some size; every frame is judged as it is written by
//!           session · member · unasked   what one connection was told and must be given
//!           doorman            what the operator's backend hears
//!           truth              what all of them together were shown
//!           verdict  the end of the day
//! ```
//!
//! The same seed gives the same day, to the byte. `SIM_SEED=7` runs one and tells every step;
//! `SIM_SEEDS=10000 SIM_START=0` runs many, on two threads (`SIM_THREADS`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // a simulation that cannot go on has failed

mod backend;
mod doorman;
mod law;
mod member;
mod operator;
mod peer;
mod plan;
mod script;
mod session;
mod truth;
mod unasked;
mod verdict;
mod wire;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use world::World;

/// What was wrong, if anything.
pub type Check = Result<(), String>;

/// Steps that a failure tells.
const STEPS_TOLD: usize = 400;

/// The last things that happened, and a hash of all bytes that were written.
pub struct Trace {
    lines: VecDeque<String>,
    echoing: bool,
    hash: u64,
}

impl Trace {
    fn new(echoing: bool) -> Trace {
        Trace {
            lines: VecDeque::new(),
            echoing,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Notes what happened.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        if self.echoing {
            eprintln!("{line}");
        }
        if self.lines.len() == STEPS_TOLD {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Takes bytes that were written to somebody into the hash (FNV-1a).
    pub fn digest(&mut self, to: u64, bytes: &[u8]) {
        let all = to.to_le_bytes().into_iter().chain(bytes.iter().copied());
        for byte in all {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// How often what was told to somebody.
type Told = BTreeMap<String, u64>;

/// Runs a day. Its hash and what was told, or what was wrong with the last steps.
fn run(seed: u64, echoing: bool) -> Result<(u64, Told), String> {
    let mut world = World::new(seed, echoing);
    let day = catch_unwind(AssertUnwindSafe(|| world.live().and_then(|()| world.end())));
    let fault = match day {
        Ok(Ok(())) => return Ok((world.trace.hash, world.truth.told)),
        Ok(Err(fault)) => fault,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            format!("a panic: {}", text.unwrap_or_default())
        }
    };
    let lines: Vec<&str> = world.trace.lines.iter().map(String::as_str).collect();
    Err(format!(
        "{}\n\nSEED {seed}: {fault}\nconfig {:?}",
        lines.join("\n"),
        world.plan.shard
    ))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What all threads together have found.
#[derive(Default)]
struct Found {
    fault: Option<String>,
    told: Told,
}

/// Runs seeds on some threads until one fails. What was told on all of them.
fn run_many(start: u64, count: u64) -> Told {
    let next = AtomicU64::new(0);
    let found = Mutex::new(Found::default());
    let lock = || -> MutexGuard<'_, Found> { found.lock().unwrap() };
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count || lock().fault.is_some() {
                return;
            }
            match run(start + n, false) {
                Ok((_, told)) => {
                    let mut found = lock();
                    for (what, times) in told {
                        *found.told.entry(what).or_default() += times;
                    }
                }
                Err(fault) => {
                    let fault = format!("{fault}\nafter {} seeds", n + 1);
                    lock().fault.get_or_insert(fault);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..number("SIM_THREADS").unwrap_or(2) {
            scope.spawn(work);
        }
    });
    let Found { fault, told } = std::mem::take(&mut *lock());
    if let Some(fault) = fault {
        panic!("{fault}");
    }
    told
}

/// What a few hundred days must have met, or they prove little.
const MET: [&str; 65] = [
    "auth_response",
    "broadcast",
    "by the backend 4008",
    "by the backend 4013",
    "by the backend room_joined",
    "by the backend room_left",
    "close 1000",
    "close 1001",
    "close 1002",
    "close 1003",
    "close 1005",
    "close 1007",
    "close 1009",
    "close 4001",
    "close 4002",
    "close 4004",
    "close 4006",
    "close 4009",
    "close 4011",
    "close 4012",
    "close 4100",
    "close 4101",
    "close 4102",
    "close 4103",
    "close 4105",
    "close 4106",
    "close 4200",
    "direct_message",
    "error 4002",
    "error 4004",
    "error 4005",
    "error 4006",
    "error 4007",
    "error 4008",
    "error 4010",
    "error 4013",
    "error 4014",
    "error 4100",
    "evicted for memory",
    "history",
    "history trimmed",
    "keys trimmed",
    "messages_missed",
    "pong",
    "presence join",
    "presence leave",
    "presence summary",
    "pressure 3",
    "pressure 4",
    "pressure and limits",
    "pressure and rules",
    "pressure and tokens",
    "read_receipt",
    "recovered",
    "room occupied",
    "room vacated",
    "room_joined",
    "room_left",
    "room_members",
    "server_shutdown",
    "token_expiring",
    "typing_start",
    "typing_stop",
    "user connected",
    "user disconnected",
];

#[test]
fn a_fixed_set_of_days_holds_and_meets_everything() {
    if let Some(seed) = number("SIM_SEED") {
        run(seed, true).unwrap();
        return;
    }
    let told = run_many(
        number("SIM_START").unwrap_or(0),
        number("SIM_SEEDS").unwrap_or(300),
    );
    eprintln!("{told:?}");
    let is_default = number("SIM_START").or(number("SIM_SEEDS")).is_none();
    let never = MET
        .iter()
        .find(|what| told.get(**what).is_none_or(|times| *times == 0));
    assert!(!is_default || never.is_none(), "never met: {never:?}");
}

#[test]
fn days_that_nobody_has_seen_hold() {
    if number("SIM_SEED").or(number("SIM_SEEDS")).is_none() {
        let start = u64::from(fastrand::u32(..)) << 16;
        eprintln!("fresh seeds from SIM_START={start}");
        run_many(start, 50);
    }
}

#[test]
fn a_seed_gives_the_same_day_to_the_byte() {
    for seed in [3, 5, 8] {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
