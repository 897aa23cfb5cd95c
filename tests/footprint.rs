//! What an idle connection costs in memory: bytes that are allocated, counted by the allocator.
//!
//! Two shards, joined in memory, take 10,000 connections through the handshake and into one room.
//! What is allocated then, beyond what was before, divided by the number, is the figure. Some come
//! before those: what a core keeps for its next turn, however many are there, is held against a bound
//! of its own. The figure leaves out, too, what the allocator wastes, sockets' table (24 bytes
//! each) and the kernel.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::gate::{Authentication, FixedTokens, Grant, Policy};
use tidewheel::protocol::UserId;
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::{Instant, Now};

struct Counting;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is; only sizes are counted.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes everything.
struct Sink;

impl Transport for Sink {
    fn send(&mut self, _: u32, bytes: &[u8]) -> Sent {
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, _: u32, slices: &[std::io::IoSlice<'_>]) -> Sent {
        Sent::Took(slices.iter().map(|s| s.len()).sum())
    }
}

fn turn(shards: &mut [Shard], now: Now) {
    for _ in 0..6 {
        for from in 0..shards.len() {
            for to in 0..shards.len() {
                if let Some(batch) = shards[from].poll_bus(CoreId(to as u16)) {
                    shards[to].handle_bus(now, batch);
                }
            }
            while !shards[from].poll_flush(now, &mut Sink, 8192) {}
            while shards[from].poll_action().is_some() {}
        }
    }
}

/// A token for each of the users, who all have something to tell. Their names and what they tell are
/// the table's already: with signed tokens these come on top.
fn with_tokens(users: usize) -> Policy {
    let grant = |user: usize| Grant {
        user: UserId::from_name(&format!("user-{user:05}")),
        info: Some(Arc::from(&br#"{"name":"Somebody"}"#[..])),
        expires_at_unix_ms: Some(1_800_000_600_000),
        rooms: None,
    };
    let tokens = (0..users).map(|user| (format!("{user}"), grant(user)));
    let tokens = FixedTokens(tokens.collect());
    Policy {
        authentication: Authentication::Fixed(Arc::new(tokens)),
        ..Policy::default()
    }
}

#[test]
fn an_idle_joined_connection_allocates_less_than_400_bytes() {
    let (each, both, counted) = idle_joined(&Policy::default());
    assert!(each < 400, "{each} bytes");
    assert!(both < 512 * 1024);
    assert!(
        (each..2 * each).contains(&counted),
        "{counted} bytes are counted, {each} are allocated"
    );
    // A user with a name, a grant that ends, and something to tell others.
    let (each, _, counted) = idle_joined(&with_tokens(10_200));
    assert!(each < 800, "{each} bytes with a token");
    assert!(
        (each..2 * each).contains(&counted),
        "{counted} bytes are counted, {each} are allocated with a token"
    );
}

/// Bytes for each connection, for both cores with the first few, and counted for each connection.
fn idle_joined(policy: &Policy) -> (isize, isize, isize) {
    const CONNECTIONS: usize = 10_000;
    const BEFORE: usize = 200;
    let now = Now {
        mono: Instant::ORIGIN,
        unix_ms: 1_800_000_000_000,
    };
    let options = Options::default();
    let mut shards: Vec<Shard> = (0..2)
        .map(|core| {
            let mut config = shard_config(&options, CoreId(core), 2, 7);
            config.policy = Arc::new(policy.clone());
            Shard::new(config, now)
        })
        .collect();
    let head = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut join = Vec::new();
    let text = br#"{"type":"join_room","room":"idle"}"#;
    client::encode_masked(OpCode::Data(Data::Text), [1, 2, 3, 4], text, &mut join);

    let nobody = ALLOCATED.load(Ordering::Relaxed);
    let mut before = nobody;
    let counted = |shards: &[Shard]| shards.iter().map(Shard::memory_bytes).sum::<usize>();
    let mut counted_before = 0;
    for i in 0..BEFORE + CONNECTIONS {
        if i == BEFORE {
            before = ALLOCATED.load(Ordering::Relaxed);
            counted_before = counted(&shards);
        }
        let shard = &mut shards[i % 2];
        let index = shard.handle_accept(now);
        let head = format!("{head}Authorization: Bearer {i}\r\n\r\n");
        shard.handle_bytes(now, index, &mut head.into_bytes());
        shard.handle_bytes(now, index, &mut join.clone());
        if i % 100 == 99 {
            turn(&mut shards, now);
        }
    }
    turn(&mut shards, now);
    let each = (ALLOCATED.load(Ordering::Relaxed) - before) / CONNECTIONS as isize;
    println!("allocated bytes for each idle joined connection: {each}");
    println!(
        "for both cores with the first {BEFORE}: {}",
        before - nobody
    );

    let members: u64 = shards.iter_mut().map(|s| s.metrics().rooms.members).sum();
    assert_eq!(members, (BEFORE + CONNECTIONS) as u64);
    let both = before - nobody;
    let counted = ((counted(&shards) - counted_before) / CONNECTIONS) as isize;
    println!("counted for the memory budget: {counted}");
    let later = Now {
        mono: Instant::ORIGIN + Duration::from_millis(1),
        ..now
    };
    for (core, shard) in shards.iter_mut().enumerate() {
        for index in 0..(BEFORE + CONNECTIONS) / 2 {
            shard.handle_end(later, index as u32);
        }
        assert!(shard.is_empty(), "core {core}");
    }
    turn(&mut shards, later);
    let left: u64 = shards.iter_mut().map(|s| s.metrics().rooms.members).sum();
    assert_eq!(left, 0, "everyone left");
    (each, both, counted)
}
