//! A client's stream, whole and chopped: the same items, the same fault, memory in bounds.

use tidewheel::codec::websocket::{Decoder, Fault, Item, Limits};

const LIMITS: Limits = Limits {
    message_bytes_max: 4096,
    fragments_max: 8,
};

/// More than the decoder's own struct for an unfinished frame takes.
const PARTIAL_BYTES_MAX: usize = 512;

/// Reads `data` as a client's stream.
pub fn run(data: &[u8]) {
    let whole = decode(data, data.len().max(1));
    for chunk in [1, 3, 64] {
        assert_eq!(decode(data, chunk), whole, "chunks of {chunk}");
    }
}

/// The items as text, and the fault, of `data` in chunks of `chunk` bytes.
fn decode(data: &[u8], chunk: usize) -> (Vec<String>, Option<Fault>) {
    let mut decoder = Decoder::default();
    let mut items = Vec::new();
    for bytes in data.chunks(chunk) {
        let mut input = bytes.to_vec();
        let mut at = 0;
        while at < input.len() {
            let decoded = match decoder.decode(&mut input[at..], &LIMITS) {
                Ok(decoded) => decoded,
                Err(fault) => return (items, Some(fault)),
            };
            assert!(decoded.consumed > 0, "no progress");
            at += decoded.consumed;
            match decoded.item {
                None => assert_eq!(at, bytes.len(), "input left over"),
                Some(item) => {
                    let is_close = matches!(item, Item::Close(_));
                    items.push(describe(&item));
                    if is_close {
                        return (items, None);
                    }
                }
            }
            assert!(decoder.heap_bytes() <= 2 * LIMITS.message_bytes_max + PARTIAL_BYTES_MAX);
        }
    }
    (items, None)
}

/// What an item holds, whether in place or assembled.
fn describe(item: &Item<'_>) -> String {
    match item {
        Item::Text(payload) => {
            assert!(payload.len() <= LIMITS.message_bytes_max);
            let text = std::str::from_utf8(payload);
            assert!(text.is_ok(), "text is not UTF-8");
            format!("text {text:?}")
        }
        Item::Binary(payload) => {
            assert!(payload.len() <= LIMITS.message_bytes_max);
            format!("binary {:?}", &payload[..])
        }
        control => format!("{control:?}"),
    }
}
