//! What holds for every stream, and not only for the ones in the tables.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};

use super::client::encode_fragment;
use super::tests::{Seen, feed};
use super::{Control, Data, Limits, OpCode};

const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 20,
    fragments_max: 64,
};

/// A message as a client might send it.
#[derive(Clone, Debug)]
struct Sent {
    message: Seen,
    /// Where it is cut into fragments; ignored for control frames.
    cuts: Vec<prop::sample::Index>,
    /// A ping that goes out before each further fragment.
    between: Option<Vec<u8>>,
    mask: [u8; 4],
}

fn any_message() -> impl Strategy<Value = Seen> {
    let control = prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        4 => any::<String>().prop_map(Seen::Text),
        1 => "[a-zé€😀]{100,400}".prop_map(Seen::Text),
        2 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Seen::Binary),
        1 => (65_500usize..65_600).prop_map(|bytes| Seen::Binary(vec![0xa5; bytes])),
        2 => control.clone().prop_map(Seen::Ping),
        1 => control.prop_map(Seen::Pong),
    ]
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    let between = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    (any_message(), cuts, between, any::<[u8; 4]>()).prop_map(|(message, cuts, between, mask)| {
        Sent {
            message,
            cuts,
            between,
            mask,
        }
    })
}

/// The stream of `sent`, and what is to be seen of it.
fn encode(sent: &[Sent]) -> (Vec<u8>, Vec<Seen>) {
    let mut wire = Vec::new();
    let mut expected = Vec::new();
    for Sent {
        message,
        cuts,
        between,
        mask,
    } in sent
    {
        let control = |kind, payload: &[u8], wire: &mut Vec<u8>| {
            encode_fragment(OpCode::Control(kind), true, *mask, payload, wire);
        };
        let (mut kind, payload) = match message {
            Seen::Text(text) => (Data::Text, text.as_bytes()),
            Seen::Binary(bytes) => (Data::Binary, &bytes[..]),
            Seen::Ping(payload) => {
                control(Control::Ping, payload, &mut wire);
                expected.push(message.clone());
                continue;
            }
            Seen::Pong(payload) => {
                control(Control::Pong, payload, &mut wire);
                expected.push(message.clone());
                continue;
            }
            Seen::Close(_) => continue,
        };
        let mut ends: Vec<usize> = cuts
            .iter()
            .map(|cut| cut.index(payload.len() + 1))
            .collect();
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            encode_fragment(
                OpCode::Data(kind),
                false,
                *mask,
                &payload[start..end],
                &mut wire,
            );
            if let Some(ping) = between {
                control(Control::Ping, ping, &mut wire);
                expected.push(Seen::Ping(ping.clone()));
            }
            (kind, start) = (Data::Continue, end);
        }
        encode_fragment(
            OpCode::Data(kind),
            true,
            *mask,
            &payload[start..],
            &mut wire,
        );
        expected.push(message.clone());
    }
    (wire, expected)
}

/// A stream to read from, and a hole to write into.
struct Memory(Cursor<Vec<u8>>);

impl Read for Memory {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Memory {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite sees of `wire`, up to its end.
fn seen_by_tungstenite(wire: Vec<u8>) -> Vec<Seen> {
    let config = WebSocketConfig::default();
    let memory = Memory(Cursor::new(wire));
    let mut socket = WebSocket::from_raw_socket(memory, Role::Server, Some(config));
    let mut items = Vec::new();
    while let Ok(message) = socket.read() {
        items.push(match message {
            Message::Text(text) => Seen::Text(text.to_string()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(payload) => Seen::Ping(payload.to_vec()),
            Message::Pong(payload) => Seen::Pong(payload.to_vec()),
            Message::Close(_) | Message::Frame(_) => break,
        });
    }
    items
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_chopping_of_a_valid_stream_gives_what_was_sent(
        sent in prop::collection::vec(any_sent(), 1..6),
        chunk in prop_oneof![1usize..40, 1usize..70_000],
    ) {
        let (wire, expected) = encode(&sent);
        let (items, fault, decoder) = feed(&wire, chunk, &LIMITS);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(items, expected);
        prop_assert_eq!(decoder.heap_bytes(), 0);
    }

    #[test]
    fn a_valid_stream_is_seen_as_tungstenite_sees_it(
        sent in prop::collection::vec(any_sent(), 1..6),
    ) {
        let (wire, _) = encode(&sent);
        let (items, fault, _) = feed(&wire, wire.len(), &LIMITS);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(items, seen_by_tungstenite(wire));
    }

    #[test]
    fn a_damaged_stream_has_the_same_fault_in_any_chopping(
        sent in prop::collection::vec(any_sent(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        chunk in 1usize..200,
    ) {
        let (mut wire, _) = encode(&sent);
        for (at, octet) in damage {
            let at = at.index(wire.len());
            wire[at] ^= octet;
        }
        let (items, fault, _) = feed(&wire, wire.len(), &LIMITS);
        let (chopped_items, chopped_fault, _) = feed(&wire, chunk, &LIMITS);
        prop_assert_eq!((items, fault), (chopped_items, chopped_fault));
    }

    #[test]
    fn random_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..600)) {
        let (items, fault, _) = feed(&octets, octets.len().max(1), &LIMITS);
        prop_assert_eq!((items, fault), { let (i, f, _) = feed(&octets, 3, &LIMITS); (i, f) });
    }
}
