//! The frame decoder as a fuzzing client sees it: every kind of frame, fault and chopping, after
//! the case list of the Autobahn test suite.

use super::client::{encode_fragment, encode_masked};
use super::{Control, Data, Decoder, Fault, Item, Limits, OpCode, Text};

const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);
const CONTINUE: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);
const PONG: OpCode = OpCode::Control(Control::Pong);
const CLOSE: OpCode = OpCode::Control(Control::Close);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 24,
    fragments_max: 1 << 20,
};

/// An item without its borrow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

fn seen(item: &Item<'_>) -> Seen {
    match item {
        Item::Text(payload) => Seen::Text(String::from_utf8(payload.to_vec()).unwrap()),
        Item::Binary(payload) => Seen::Binary(payload.to_vec()),
        Item::Ping(payload) => Seen::Ping(payload.to_vec()),
        Item::Pong(payload) => Seen::Pong(payload.to_vec()),
        Item::Close(close) => {
            Seen::Close(close.map(|c| (u16::from(c.code), c.reason().to_owned())))
        }
    }
}

/// Feeds `wire` in chunks of `chunk` bytes, up to a close or a fault.
pub(super) fn feed(
    wire: &[u8],
    chunk: usize,
    limits: &Limits,
) -> (Vec<Seen>, Option<Fault>, Decoder) {
    let mut decoder = Decoder::default();
    let mut items = Vec::new();
    for bytes in wire.chunks(chunk) {
        let mut input = bytes.to_vec();
        let mut at = 0;
        while at < input.len() {
            match decoder.decode(&mut input[at..], limits) {
                Err(fault) => return (items, Some(fault), decoder),
                Ok(decoded) => {
                    assert!(decoded.consumed > 0);
                    at += decoded.consumed;
                    match decoded.item {
                        None => assert_eq!(at, input.len(), "no item, and bytes left over"),
                        Some(item) => items.push(seen(&item)),
                    }
                }
            }
            if matches!(items.last(), Some(Seen::Close(_))) {
                return (items, None, decoder);
            }
        }
    }
    (items, None, decoder)
}

/// One after the other: (opcode, FIN, payload).
fn wire(frames: &[(OpCode, bool, &[u8])]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (opcode, is_final, payload) in frames {
        encode_fragment(*opcode, *is_final, MASK, payload, &mut wire);
    }
    wire
}

#[test]
fn an_idle_decoder_is_eight_bytes_and_owns_no_heap() {
    assert_eq!(size_of::<Decoder>(), 8);
    let stream = wire(&[
        (TEXT, true, b"one"),
        (PING, true, b"two"),
        (TEXT, false, b"thr"),
        (CONTINUE, true, b"ee"),
        (BINARY, true, &[4; 70_000]),
    ]);
    for chunk in [1, 7, 4096, stream.len()] {
        let (items, fault, decoder) = feed(&stream, chunk, &LIMITS);
        assert_eq!((items.len(), fault), (4, None));
        assert!(
            decoder.is_idle() && decoder.heap_bytes() == 0,
            "chunks of {chunk}"
        );
    }
}

#[test]
fn a_whole_frame_is_unmasked_where_it_lies() {
    let mut input = wire(&[(TEXT, true, b"in place"), (PING, true, b"")]);
    let range = input.as_ptr_range();
    let mut decoder = Decoder::default();
    let decoded = decoder.decode(&mut input, &LIMITS).unwrap();
    let Some(Item::Text(Text::InPlace(text))) = decoded.item else {
        panic!("a copy")
    };
    assert!(range.contains(&text.as_ptr()));
    assert_eq!((text, decoded.consumed), ("in place", 14));
}

#[test]
fn every_payload_length_arrives_in_every_chopping() {
    for bytes in [
        0, 1, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537,
    ] {
        let text = "*".repeat(bytes);
        let stream = wire(&[
            (TEXT, true, text.as_bytes()),
            (BINARY, true, text.as_bytes()),
        ]);
        for chunk in [1, 13, 64, 997, stream.len()] {
            let (items, fault, _) = feed(&stream, chunk, &LIMITS);
            assert_eq!(fault, None);
            assert_eq!(
                items,
                [
                    Seen::Text(text.clone()),
                    Seen::Binary(text.clone().into_bytes())
                ]
            );
        }
    }
}

#[test]
fn control_frames_pass_between_fragments() {
    let stream = wire(&[
        (TEXT, false, b"frag\xc3"),
        (PING, true, &[7; 125]),
        (CONTINUE, false, b""),
        (PONG, true, b"unasked"),
        (CONTINUE, true, b"\xa9ment"),
        (CLOSE, true, b"\x03\xe8bye"),
        (TEXT, true, b"never seen"),
    ]);
    let expected = [
        Seen::Ping(vec![7; 125]),
        Seen::Pong(b"unasked".to_vec()),
        Seen::Text("fragément".to_owned()),
        Seen::Close(Some((1000, "bye".to_owned()))),
    ];
    for chunk in 1..=stream.len() {
        let (items, fault, _) = feed(&stream, chunk, &LIMITS);
        assert_eq!(fault, None, "chunks of {chunk}");
        assert_eq!(items, expected, "chunks of {chunk}");
    }
}

#[test]
fn every_fault_is_the_same_in_every_chopping() {
    let unmasked = vec![0x81, 0x02, b'h', b'i'];
    let long_ping = [&[0x89, 0xfe, 0, 126][..], &[0; 130]].concat();
    let cases: &[(Vec<u8>, Fault, u16)] = &[
        (unmasked, Fault::UnmaskedFrame, 1002),
        (long_ping, Fault::ControlTooLong, 1002),
        (wire(&[(PING, false, b"")]), Fault::FragmentedControl, 1002),
        (
            wire(&[(OpCode::from(3), true, b"")]),
            Fault::ReservedOpcode(3),
            1002,
        ),
        (
            wire(&[(OpCode::from(11), true, b"")]),
            Fault::ReservedOpcode(11),
            1002,
        ),
        (
            wire(&[(CONTINUE, true, b"x")]),
            Fault::UnexpectedContinuation,
            1002,
        ),
        (
            wire(&[(CONTINUE, false, b"x")]),
            Fault::UnexpectedContinuation,
            1002,
        ),
        (
            wire(&[
                (TEXT, false, b"a"),
                (CONTINUE, true, b"b"),
                (CONTINUE, false, b"c"),
            ]),
            Fault::UnexpectedContinuation,
            1002,
        ),
        (
            wire(&[(TEXT, false, b"a"), (TEXT, true, b"b")]),
            Fault::ExpectedContinuation,
            1002,
        ),
        (
            wire(&[(TEXT, false, b"a"), (BINARY, false, b"b")]),
            Fault::ExpectedContinuation,
            1002,
        ),
        (
            wire(&[(CLOSE, true, b"\x03")]),
            Fault::BadClosePayload,
            1002,
        ),
        (
            wire(&[(CLOSE, true, b"\x03\xed")]),
            Fault::BadCloseCode(1005),
            1002,
        ),
        (
            wire(&[(CLOSE, true, b"\x03\xe8\xff")]),
            Fault::ReasonNotUtf8,
            1007,
        ),
        (
            wire(&[(TEXT, true, b"ok\xed\xa0\x80ok")]),
            Fault::TextNotUtf8 { at: 2 },
            1007,
        ),
        (
            wire(&[(TEXT, true, b"ok\xe2\x82")]),
            Fault::TextNotUtf8 { at: 2 },
            1007,
        ),
        (
            wire(&[(TEXT, false, b"\xe2\x82"), (CONTINUE, true, b"")]),
            Fault::TextNotUtf8 { at: 0 },
            1007,
        ),
        (
            wire(&[
                (TEXT, false, b"a\xf4"),
                (CONTINUE, false, b"\x90"),
                (CONTINUE, true, b""),
            ]),
            Fault::TextNotUtf8 { at: 1 },
            1007,
        ),
    ];
    for (stream, expected, code) in cases {
        for chunk in 1..=stream.len() {
            let (_, fault, _) = feed(stream, chunk, &LIMITS);
            assert_eq!(fault, Some(*expected), "chunks of {chunk}");
            assert_eq!(expected.close_code(), *code);
        }
    }
}

#[test]
fn bad_text_fails_before_its_frame_has_ended() {
    let mut stream = wire(&[(
        TEXT,
        true,
        &[b"good \xf4\x90\x80\x80", &[b'x'; 5000][..]].concat(),
    )]);
    // Header of 8 bytes, 5 good octets, and the first two of the bad sequence.
    stream.truncate(8 + 7);
    for chunk in [1, 8, 14, 15] {
        let (_, fault, _) = feed(&stream, chunk, &LIMITS);
        assert_eq!(
            fault,
            Some(Fault::TextNotUtf8 { at: 5 }),
            "chunks of {chunk}"
        );
    }
}

#[test]
fn a_claimed_length_is_judged_on_the_header_and_takes_no_memory() {
    let limits = Limits {
        message_bytes_max: 1000,
        fragments_max: 3,
    };
    let claim = |bytes: u64| [&[0x82, 0xff][..], &bytes.to_be_bytes(), &MASK].concat();
    for bytes in [1 << 20, u64::MAX >> 1] {
        let (_, fault, decoder) = feed(&claim(bytes), 5, &limits);
        assert_eq!(
            fault,
            Some(Fault::MessageTooLarge {
                claimed: bytes,
                max: 1000
            })
        );
        assert!(decoder.heap_bytes() < 512);
    }
    let generous = Limits {
        message_bytes_max: usize::MAX,
        fragments_max: 3,
    };
    let (_, fault, decoder) = feed(&claim(1 << 40), 5, &generous);
    assert_eq!(fault, None);
    assert!(
        decoder.heap_bytes() < 512,
        "{} bytes for a claim",
        decoder.heap_bytes()
    );
}

#[test]
fn the_fragments_of_a_message_count_together() {
    let limits = Limits {
        message_bytes_max: 10,
        fragments_max: 3,
    };
    let exact = wire(&[(BINARY, false, &[1; 6]), (CONTINUE, true, &[2; 4])]);
    assert_eq!(feed(&exact, 3, &limits).1, None);
    let over = wire(&[(BINARY, false, &[1; 6]), (CONTINUE, true, &[2; 5])]);
    let fault = Fault::MessageTooLarge {
        claimed: 11,
        max: 10,
    };
    assert_eq!(feed(&over, 3, &limits).1, Some(fault));
    assert_eq!(fault.close_code(), 1009);
    let many = wire(&[
        (TEXT, false, b""),
        (CONTINUE, false, b""),
        (CONTINUE, false, b""),
    ]);
    assert_eq!(feed(&many, 3, &limits).1, None);
    let more = [many, wire(&[(CONTINUE, true, b"")])].concat();
    assert_eq!(
        feed(&more, 3, &limits).1,
        Some(Fault::TooManyFragments { max: 3 })
    );
    // The next message starts from nothing.
    let again = [&exact[..], &exact].concat();
    assert_eq!(feed(&again, 3, &limits).1, None);
}

#[test]
fn memory_follows_what_arrived() {
    let stream = wire(&[(BINARY, true, &[9; 100_000])]);
    let mut decoder = Decoder::default();
    let mut arrived = 0;
    for bytes in stream.chunks(1000) {
        if decoder
            .decode(&mut bytes.to_vec(), &LIMITS)
            .unwrap()
            .item
            .is_some()
        {
            break;
        }
        arrived += bytes.len();
        let heap = decoder.heap_bytes();
        assert!(
            heap <= 2 * arrived + 512,
            "{heap} bytes of heap for {arrived}"
        );
        assert!(
            heap <= 100_000 + 512,
            "{heap} bytes of heap, more than the message"
        );
    }
    assert!(decoder.is_idle());
}

#[test]
fn sixteen_mebibytes_pass_in_small_chops_and_small_fragments() {
    let payload = vec![b'x'; 1 << 24];
    let single = wire(&[(TEXT, true, &payload)]);
    let (items, fault, _) = feed(&single, 64, &LIMITS);
    assert_eq!((items.len(), fault), (1, None));

    let mut fragmented = Vec::new();
    let fragments = payload.len() / 64;
    for (i, part) in payload.chunks(64).enumerate() {
        let opcode = if i == 0 { TEXT } else { CONTINUE };
        encode_fragment(opcode, i + 1 == fragments, MASK, part, &mut fragmented);
    }
    for chunk in [64, 65_536] {
        let (items, fault, decoder) = feed(&fragmented, chunk, &LIMITS);
        assert_eq!(fault, None);
        assert!(matches!(&items[..], [Seen::Text(text)] if text.len() == payload.len()));
        assert!(decoder.is_idle());
    }
}

#[test]
fn a_buffer_full_of_frames_is_taken_frame_by_frame() {
    let mut stream = Vec::new();
    for i in 0..500u32 {
        encode_masked(BINARY, i.to_ne_bytes(), &i.to_be_bytes(), &mut stream);
    }
    let (items, fault, _) = feed(&stream, stream.len(), &LIMITS);
    assert_eq!(fault, None);
    let expected: Vec<Seen> = (0..500u32)
        .map(|i| Seen::Binary(i.to_be_bytes().to_vec()))
        .collect();
    assert_eq!(items, expected);
}
