//! What it costs to get messages out of a client's bytes.
//!
//! Both sides are charged one copy of the bytes into their read buffer, where the kernel would put
//! them, then header, unmasking and the UTF-8 check of text. tungstenite reads from memory through
//! its whole socket; so its figure has what a server built on it would pay for each message.
#![allow(missing_docs)] // criterion's macros write public functions

use std::hint::black_box;
use std::io::{self, Read, Write};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tungstenite::protocol::{Role, WebSocket};

use tidewheel::codec::websocket::client::encode_masked;
use tidewheel::codec::websocket::{Data, Decoder, Item, Limits, OpCode, unmask};

const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 20,
    fragments_max: 64,
};
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A text frame with `bytes` of ASCII, as JSON mostly is.
fn text_frame(bytes: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..bytes).map(|i| b' ' + (i % 90) as u8).collect();
    let mut wire = Vec::new();
    encode_masked(OpCode::Data(Data::Text), MASK, &payload, &mut wire);
    wire
}

/// Fills the read buffer and decodes all of it; gives the number of messages.
fn decode_all(decoder: &mut Decoder, wire: &[u8], buffer: &mut [u8]) -> usize {
    buffer.copy_from_slice(wire);
    let (mut at, mut messages) = (0, 0);
    while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let Ok(decoded) = decoder.decode(rest, &LIMITS) else {
            return messages;
        };
        at += decoded.consumed;
        if let Some(Item::Text(text)) = decoded.item {
            black_box(&*text);
            messages += 1;
        }
    }
    messages
}

/// A peer that sends the same bytes for ever, at most all of them in one read.
struct Repeat {
    wire: Vec<u8>,
    at: usize,
}

impl Read for Repeat {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut rest = &self.wire[self.at..];
        let bytes = rest.read(buf)?;
        self.at = (self.at + bytes) % self.wire.len();
        Ok(bytes)
    }
}

impl Write for Repeat {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Both decoders over `wire`, which holds `messages` text frames.
fn bench_both(c: &mut Criterion, group: &str, name: &str, wire: &[u8], messages: usize) {
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(wire.len() as u64));
    group.bench_function(BenchmarkId::new("tidewheel", name), |b| {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; wire.len()];
        b.iter(|| {
            let decoded = decode_all(&mut decoder, black_box(wire), &mut buffer);
            assert_eq!(decoded, messages);
        });
    });
    group.bench_function(BenchmarkId::new("tungstenite", name), |b| {
        let peer = Repeat {
            wire: wire.to_vec(),
            at: 0,
        };
        let mut socket = WebSocket::from_raw_socket(peer, Role::Server, None);
        b.iter(|| {
            for _ in 0..messages {
                assert!(black_box(socket.read()).is_ok_and(|message| message.is_text()));
            }
        });
    });
    group.finish();
}

/// Experiment: one text frame is all that a read brings. How long from its bytes to the message?
fn one_frame(c: &mut Criterion) {
    for (name, bytes) in [("128 B", 128), ("1 KiB", 1024), ("64 KiB", 65_536)] {
        bench_both(c, "codec/one_frame", name, &text_frame(bytes), 1);
    }
}

/// Experiment: a read brings 64 KiB of text frames with 128 bytes of payload each, whole ones, as
/// from a peer that publishes as fast as it can. How long for all of them?
fn full_buffer(c: &mut Criterion) {
    let frame = text_frame(128);
    let messages = 65_536 / frame.len();
    bench_both(
        c,
        "codec/full_buffer",
        "128 B",
        &frame.repeat(messages),
        messages,
    );
}

/// Experiment: unmasking alone, of payloads that start 0 to 15 bytes into a cache line, as they do
/// behind headers of any length. Sets the step of `mask.rs`.
fn unmasking(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/unmask");
    for (name, bytes) in [
        ("31 B", 31),
        ("128 B", 128),
        ("1 KiB", 1024),
        ("64 KiB", 65_536),
    ] {
        let mut buffer = vec![0; bytes + 16];
        let mut start = 0;
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                start = (start + 7) % 16;
                unmask(
                    black_box(&mut buffer[start..start + bytes]),
                    black_box(MASK),
                );
            });
        });
    }
    group.finish();
}

criterion_group!(benches, one_frame, full_buffer, unmasking);
criterion_main!(benches);
