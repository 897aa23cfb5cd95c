//! How often a message allocates, from its publisher's bytes to the last member's write: counted by
//! the allocator, on this thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::Now;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed to the system's allocator as it is. The count beside it is a plain
// cell that needs no memory and no destructor.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(block, layout, bytes) }
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

    fn send_vectored(&mut self, _: u32, slices: &[IoSlice<'_>]) -> Sent {
        Sent::Took(slices.iter().map(|s| s.len()).sum())
    }
}

fn flush(shard: &mut Shard, now: Now) {
    while !shard.poll_flush(now, &mut Sink, 8192) {}
    shard.handle_turn_end(now.mono, now.mono);
}

fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_message_allocates_for_its_frame_and_its_answer_and_for_no_member() {
    let now = Now::default();
    let mut shard = Shard::new(shard_config(&Options::default(), CoreId(0), 1, 7), now);
    let head =
        b"GET /ws/lobby HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for index in 0..1000 {
        assert_eq!(shard.handle_accept(now), index);
        shard.handle_bytes(now, index, &mut head.to_vec());
    }
    flush(&mut shard, now);
    let text = br#"{"type":"message","room":"lobby","payload":"not a word more than this"}"#;
    let mut wire = Vec::new();
    client::encode_masked(OpCode::Data(Data::Text), [1, 2, 3, 4], text, &mut wire);
    let mut buffer = wire.clone();
    let mut publish = |shard: &mut Shard| {
        buffer.copy_from_slice(&wire);
        shard.handle_bytes(now, 0, &mut buffer);
    };
    // Until the history is full and every buffer has its size.
    for _ in 0..10 {
        for _ in 0..64 {
            publish(&mut shard);
        }
        flush(&mut shard, now);
    }

    let first = counted(|| publish(&mut shard));
    let others = counted(|| (1..64).for_each(|_| publish(&mut shard)));
    let pass = counted(|| flush(&mut shard, now));
    println!("allocations: first of a turn {first}, 63 more {others}, pass over 1,000 {pass}");
    // Its frame; for the answer a queue, its list and its bytes.
    assert!(first <= 4, "{first} for the first message of a turn");
    // A frame each, and the answers' bytes growing.
    assert!(others <= 63 + 8, "{others} for 63 more");
    assert_eq!(pass, 0);
}
