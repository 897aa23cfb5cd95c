//! Flushes of one shard that an ordinary room does not see.

use std::io::IoSlice;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::Now;

/// Takes everything, and notes the most slices that it was offered at once, and how often each
/// connection was written to.
#[derive(Default)]
struct Sink {
    slices_max: usize,
    writes: [u32; 3],
}

impl Sink {
    fn note(&mut self, connection: u32, slices: usize) {
        self.slices_max = self.slices_max.max(slices);
        self.writes[connection as usize] += 1;
    }
}

impl Transport for Sink {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.note(connection, 1);
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        self.note(connection, slices.len());
        Sent::Took(slices.iter().map(|s| s.len()).sum())
    }
}

/// A shard with three connections in the room `r`.
fn room_of_three(sink: &mut Sink) -> Shard {
    let now = Now::default();
    let config = shard_config(&Options::default(), CoreId(0), 1, 7);
    let mut shard = Shard::new(config, now);
    let head = b"GET /ws/r HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for index in 0..3 {
        assert_eq!(shard.handle_accept(now), index);
        shard.handle_bytes(now, index, &mut head.to_vec());
    }
    while !shard.poll_flush(now, sink, 100) {}
    shard
}

fn say(shard: &mut Shard, connection: u32, text: &str) {
    let mut wire = Vec::new();
    let opcode = OpCode::Data(Data::Text);
    client::encode_masked(opcode, [1, 2, 3, 4], text.as_bytes(), &mut wire);
    shard.handle_bytes(Now::default(), connection, &mut wire);
}

#[test]
fn what_is_new_in_several_rooms_reaches_a_connection_in_one_write() {
    let (now, mut sink) = (Now::default(), Sink::default());
    let mut shard = room_of_three(&mut sink);
    // More rooms than one write has parts, and a connection that is in one room alone.
    for room in 0..40 {
        let join = format!(r#"{{"type":"join_room","room":"s{room}"}}"#);
        say(&mut shard, 1, &join);
    }
    while !shard.poll_flush(now, &mut sink, 100) {}

    for (rooms, writes) in [(1, 1), (2, 1), (15, 1), (39, 3)] {
        sink.writes = [0; 3];
        say(
            &mut shard,
            0,
            r#"{"type":"message","room":"r","payload":1,"metadata":{"echo":false}}"#,
        );
        for room in 0..rooms {
            let message = format!(r#"{{"type":"message","room":"s{room}","payload":1}}"#);
            say(&mut shard, 0, &message);
        }
        while !shard.poll_flush(now, &mut sink, 100) {}
        // The publisher has its answers, the others what was said.
        assert_eq!(
            sink.writes,
            [1, writes, 1],
            "{rooms} rooms and the common one"
        );
        assert_eq!(shard.pending_frames(), 0);
    }
}

#[test]
fn a_burst_of_more_slices_than_one_write_takes_blocks_nobody() {
    let (now, mut sink) = (Now::default(), Sink::default());
    let mut shard = room_of_three(&mut sink);

    // Each is longer than half a segment of the log, so it has one to itself.
    let payload = "x".repeat(40 * 1024);
    let text = format!(r#"{{"type":"message","room":"r","payload":"{payload}"}}"#);
    let mut wire = Vec::new();
    let opcode = OpCode::Data(Data::Text);
    client::encode_masked(opcode, [1, 2, 3, 4], text.as_bytes(), &mut wire);
    for _ in 0..80 {
        shard.handle_bytes(now, 0, &mut wire.clone());
    }
    while !shard.poll_flush(now, &mut sink, 100) {}

    assert!(sink.slices_max < 80, "it was more than one write takes");
    for index in 0..3 {
        let backlog = shard.backlog(index);
        assert!(
            backlog.is_some_and(|b| !b.is_blocked),
            "{index}: {backlog:?}"
        );
    }
    assert_eq!(shard.pending_frames(), 0);
}
