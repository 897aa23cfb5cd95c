//! What one message costs to read and one event to write, on one core, without any I/O.
//!
//! The experiment: one parser and one output buffer, warm, as a core has them. `parse` starts
//! from UTF-8 text (decoding and unmasking are `codec`'s) and ends with the checked request.
//! `encode` clears the buffer, and ends with the whole frame, header included; the copy of the
//! payload into the frame is part of it. `validate` is the scanner alone, over the payload that
//! `parse` gets, to show what is left for the rest; `simd_json_alone` is that crate over the whole
//! message, which it would spoil, for comparison.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use simd_json::{Buffers, INPUT_PADDING, Tape, fill_tape_padded};
use tidewheel::protocol::json::{Parser, encode, validate};
use tidewheel::protocol::{ClientId, Epoch, Event, MessageId, Offset, Sender, UserId};

/// 198 bytes: a chat message as our own clients send it.
const MESSAGE: &str = concat!(
    r#"{"type":"message","room":"lobby","payload":{"text":"Hello, how is everyone doing today? "#,
    r#"I am fine.","lang":"en","reply_to":18276},"metadata":{"correlation_id":"c-10452","#,
    r#""message_id":"m-7f3a90c2d1"}}"#
);

const JOIN: &str = concat!(
    r#"{"type":"join_room","room":"lobby","payload":{"history":20,"#,
    r#""recover":{"epoch":"3n8k2v9qwzx4r","offset":18276},"presence":true},"#,
    r#""metadata":{"correlation_id":"c-10451"}}"#
);

/// JSON of about `len` bytes that looks like an application's: strings, keys, numbers.
fn payload(len: usize) -> String {
    let mut items = String::from("[");
    while items.len() + 64 < len {
        items.push_str(r#"{"id":48213,"name":"a name of some length","price":12.50},"#);
    }
    let rest = len.saturating_sub(items.len() + 3);
    items + "\"" + &"x".repeat(rest) + "\"]"
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let large = |len| {
        format!(
            r#"{{"type":"message","room":"lobby","payload":{}}}"#,
            payload(len)
        )
    };
    let escaped = MESSAGE.replace("lobby", r"caf\u00e9 \ud83d\ude00");
    for (name, text) in [
        ("message_200_bytes", MESSAGE.to_owned()),
        ("message_with_escapes", escaped),
        ("join_room", JOIN.to_owned()),
        (
            "typing_start",
            r#"{"type":"typing_start","room":"lobby"}"#.to_owned(),
        ),
        ("message_1_kib", large(1 << 10)),
        ("message_16_kib", large(16 << 10)),
        (
            "one_string_of_16_kib",
            format!(r#"{{"type":"ping","payload":"{}"}}"#, "x".repeat(16 << 10)),
        ),
    ] {
        let mut parser = Parser::new();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| black_box(parser.parse(black_box(&text)).is_ok()));
        });
    }
    group.finish();
}

fn validate_alone(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate");
    for (name, text) in [
        ("message_200_bytes", MESSAGE.to_owned()),
        ("message_1_kib", payload(1 << 10)),
        ("message_16_kib", payload(16 << 10)),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| validate(black_box(&text))));
    }
    group.finish();
}

fn simd_json_alone(c: &mut Criterion) {
    let mut group = c.benchmark_group("simd_json_alone");
    let large = format!(r#"{{"type":"ping","payload":{}}}"#, payload(16 << 10));
    for (name, text) in [("message_200_bytes", MESSAGE), ("message_16_kib", &large)] {
        let mut buffers = Buffers::default();
        let mut copy = Vec::new();
        let mut kept = Tape(Vec::new());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                copy.clear();
                copy.extend_from_slice(black_box(text).as_bytes());
                copy.resize(text.len() + INPUT_PADDING, 0);
                let mut tape = std::mem::replace(&mut kept, Tape(Vec::new())).reset();
                let read = fill_tape_padded(&mut copy, text.len(), &mut buffers, &mut tape);
                black_box(read.is_ok());
                kept = tape.reset();
            });
        });
    }
    group.finish();
}

fn encode_message(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let user_id = UserId::Anonymous(ClientId(0x9e37_79b9_7f4a_7c15));
    let sender = Some(Sender {
        client_id: ClientId(0x9e37_79b9_7f4a_7c15),
        user_id: &user_id,
    });
    for (name, len) in [("128_b", 128), ("1_kib", 1 << 10), ("16_kib", 16 << 10)] {
        let payload = payload(len);
        let event = Event::Message {
            room: "lobby",
            offset: Offset(18_276),
            payload: payload.as_bytes(),
            message_id: MessageId::Generated(Epoch(0x3a5c_11d0_77aa_0042), Offset(18_276)),
            unix_ms: 1_767_225_600_123,
            sender,
        };
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("message_{name}"), |b| {
            b.iter(|| {
                out.clear();
                encode(black_box(&event), None, &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(
    benches,
    parse,
    validate_alone,
    simd_json_alone,
    encode_message
);
criterion_main!(benches);
