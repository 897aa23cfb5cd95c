//! Flushes of one shard that an ordinary room does not see.

use std::io::IoSlice;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::Now;

/// Takes everything, and notes the most slices that it was offered at once.
#[derive(Default)]
struct Sink {
    slices_max: usize,
}

impl Transport for Sink {
    fn send(&mut self, _: u32, bytes: &[u8]) -> Sent {
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, _: u32, slices: &[IoSlice<'_>]) -> Sent {
        self.slices_max = self.slices_max.max(slices.len());
        Sent::Took(slices.iter().map(|s| s.len()).sum())
    }
}

#[test]
fn a_burst_of_more_slices_than_one_write_takes_blocks_nobody() {
    let now = Now::default();
    let config = shard_config(&Options::default(), CoreId(0), 1, 7);
    let mut shard = Shard::new(config, now);
    let mut sink = Sink::default();
    let head = b"GET /ws/r HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for index in 0..3 {
        assert_eq!(shard.handle_accept(now), index);
        shard.handle_bytes(now, index, &mut head.to_vec());
    }
    while !shard.poll_flush(now, &mut sink, 100) {}

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
