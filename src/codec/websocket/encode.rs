//! Frames from the server: never masked (RFC 6455 §5.1), lengths in their shortest form.

use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::header::CONTROL_BYTES_MAX;

/// The longest reason of a close frame: the code takes two bytes of the payload.
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Appends the header of a final, unmasked frame.
pub fn encode_header(opcode: OpCode, payload_bytes: usize, out: &mut Vec<u8>) {
    encode_header_with(0x80 | u8::from(opcode), 0, payload_bytes, out);
}

/// Appends a final, unmasked frame.
pub fn encode_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    encode_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a close frame. A reason longer than 123 bytes is cut, at the end of a character.
///
/// 1005 stands for "no code" and must not be on the wire (RFC 6455 §7.4.1): it gives a close frame
/// without payload.
pub fn encode_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let opcode = OpCode::Control(Control::Close);
    if code == 1005 {
        encode_header(opcode, 0, out);
        return;
    }
    let reason = cut(reason, REASON_BYTES_MAX);
    encode_header(opcode, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a header's first byte, and a length whose byte also carries `mask_bit`.
pub(super) fn encode_header_with(first: u8, mask_bit: u8, payload_bytes: usize, out: &mut Vec<u8>) {
    // RFC 6455 §5.2: the shortest of the three forms.
    if let Ok(short @ 0..126) = u8::try_from(payload_bytes) {
        out.extend_from_slice(&[first, mask_bit | short]);
    } else if let Ok(medium) = u16::try_from(payload_bytes) {
        let [high, low] = medium.to_be_bytes();
        out.extend_from_slice(&[first, mask_bit | 126, high, low]);
    } else {
        out.extend_from_slice(&[first, mask_bit | 127]);
        out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
    }
}

/// The longest start of `text` that is at most `bytes_max` long and ends with a whole character.
fn cut(text: &str, bytes_max: usize) -> &str {
    // `str::floor_char_boundary` is younger than our oldest compiler.
    (0..=bytes_max)
        .rev()
        .find_map(|end| text.get(..end))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::FrameHeader;
    use tungstenite::protocol::frame::coding::Data;

    use super::*;

    #[test]
    fn lengths_are_in_their_shortest_form() {
        for (bytes, header_bytes) in [
            (0, 2),
            (125, 2),
            (126, 4),
            (65_535, 4),
            (65_536, 10),
            (1 << 24, 10),
        ] {
            let mut wire = Vec::new();
            encode_header(OpCode::Data(Data::Text), bytes, &mut wire);
            assert_eq!(wire.len(), header_bytes, "{bytes} bytes");
            let (header, length) = FrameHeader::parse(&mut std::io::Cursor::new(&wire))
                .unwrap()
                .unwrap();
            assert_eq!(length, bytes as u64);
            assert_eq!(header.opcode, OpCode::Data(Data::Text));
            assert!(header.is_final && header.mask.is_none());
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_the_end_of_a_character() {
        for (reason, kept) in [
            ("gone".to_owned(), "gone".to_owned()),
            ("x".repeat(123), "x".repeat(123)),
            ("x".repeat(124), "x".repeat(123)),
            ("é".repeat(62), "é".repeat(61)),
            (
                "x".to_owned() + &"😀".repeat(31),
                "x".to_owned() + &"😀".repeat(30),
            ),
        ] {
            let mut wire = Vec::new();
            encode_close(4101, &reason, &mut wire);
            assert_eq!(wire[..4], [0x88, 2 + kept.len() as u8, 0x10, 0x05]);
            assert_eq!(wire[4..], *kept.as_bytes());
        }
    }

    #[test]
    fn no_code_is_no_payload() {
        let mut wire = Vec::new();
        encode_close(1005, "ignored", &mut wire);
        assert_eq!(wire, [0x88, 0]);
    }
}
