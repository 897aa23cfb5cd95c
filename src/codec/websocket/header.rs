//! The frame header, RFC 6455 §5.2, as a client sends it.
//!
//! ```text
//!  byte 0            byte 1              0, 2 or 8 bytes     4 bytes
//!  FIN RSV×3 opcode  MASK length (7 bit) length (16/64 bit)  masking key
//! ```

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::fault::Fault;

/// The longest header: two bytes, a 64-bit length, the masking key.
pub const HEADER_BYTES_MAX: usize = 14;

/// The longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// A client's frame header that broke no rule which can be seen from the header alone.
///
/// Invariant: `opcode` is not a reserved one; a control frame is final and not over 125 bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// FIN: this frame ends its message.
    pub is_final: bool,
    /// What the payload is.
    pub opcode: OpCode,
    /// The masking key.
    pub mask: [u8; 4],
    /// The length that the peer claims for the payload; below 2⁶³.
    pub payload_bytes: u64,
}

impl Header {
    /// Reads a header from the start of `bytes`, with its length; `None` while it is incomplete.
    ///
    /// Octets are judged in the order in which they arrive, so a fault shows as soon as the octet
    /// that holds it, and is the same one however the stream is chopped.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
        let [first, rest @ ..] = bytes else {
            return Ok(None);
        };
        let (is_final, opcode) = parse_first(*first)?;
        let [second, rest @ ..] = rest else {
            return Ok(None);
        };
        // RFC 6455 §5.1: a server closes on a frame that is not masked.
        if second & 0x80 == 0 {
            return Err(Fault::UnmaskedFrame);
        }
        let length = second & 0x7f;
        // RFC 6455 §5.5: a control frame carries at most 125 bytes.
        if matches!(opcode, OpCode::Control(_)) && usize::from(length) > CONTROL_BYTES_MAX {
            return Err(Fault::ControlTooLong);
        }
        let Some((payload_bytes, rest)) = parse_length(length, rest)? else {
            return Ok(None);
        };
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let header = Header {
            is_final,
            opcode,
            mask: *mask,
            payload_bytes,
        };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// FIN and opcode.
#[inline]
fn parse_first(first: u8) -> Result<(bool, OpCode), Fault> {
    // RFC 6455 §5.2: RSV bits are 0 unless an extension gives them a meaning, and none does here.
    if first & 0x70 != 0 {
        return Err(Fault::ReservedBits);
    }
    let is_final = first & 0x80 != 0;
    let opcode = OpCode::from(first & 0x0f);
    match opcode {
        // RFC 6455 §5.2: 0x3–0x7 and 0xB–0xF are reserved for frames yet to be defined.
        OpCode::Data(Data::Reserved(code)) | OpCode::Control(Control::Reserved(code)) => {
            Err(Fault::ReservedOpcode(code))
        }
        // RFC 6455 §5.5: a control frame must not be fragmented.
        OpCode::Control(_) if !is_final => Err(Fault::FragmentedControl),
        _ => Ok((is_final, opcode)),
    }
}

/// The payload length, and the bytes after it; `None` while it is incomplete.
#[inline]
fn parse_length(length: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Fault> {
    match length {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            let length = u64::from(u16::from_be_bytes(*bytes));
            // RFC 6455 §5.2: the minimal number of bytes must be used to encode the length.
            if length < 126 {
                return Err(Fault::LengthNotMinimal);
            }
            Ok(Some((length, rest)))
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(*bytes);
            // RFC 6455 §5.2: the most significant bit of a 64-bit length must be 0.
            if length >> 63 != 0 {
                return Err(Fault::LengthHighBit);
            }
            // RFC 6455 §5.2: as above, the shortest form.
            if length <= u64::from(u16::MAX) {
                return Err(Fault::LengthNotMinimal);
            }
            Ok(Some((length, rest)))
        }
        short => Ok(Some((u64::from(short), rest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_with_the_octet_that_holds_it() {
        let cases: &[(&[u8], Fault)] = &[
            (&[0xc1], Fault::ReservedBits),
            (&[0xa1], Fault::ReservedBits),
            (&[0x91], Fault::ReservedBits),
            (&[0x83], Fault::ReservedOpcode(3)),
            (&[0x87], Fault::ReservedOpcode(7)),
            (&[0x8b], Fault::ReservedOpcode(0xb)),
            (&[0x8f], Fault::ReservedOpcode(0xf)),
            (&[0x09], Fault::FragmentedControl),
            (&[0x81, 0x05], Fault::UnmaskedFrame),
            (&[0x89, 0xfe], Fault::ControlTooLong),
            (&[0x88, 0xff], Fault::ControlTooLong),
            (&[0x81, 0xfe, 0, 125], Fault::LengthNotMinimal),
            (
                &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                Fault::LengthNotMinimal,
            ),
            (
                &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
                Fault::LengthHighBit,
            ),
        ];
        for (bytes, fault) in cases {
            assert_eq!(Header::parse(bytes), Err(*fault), "{bytes:x?}");
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(Header::parse(before), Ok(None), "{before:x?}");
        }
    }

    #[test]
    fn every_length_form_is_read() {
        let mask = [1, 2, 3, 4];
        let cases: &[(&[u8], u64)] = &[
            (&[0x82, 0x80], 0),
            (&[0x82, 0xfd], 125),
            (&[0x82, 0xfe, 0, 126], 126),
            (&[0x82, 0xfe, 0xff, 0xff], 65_535),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            (
                &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                u64::MAX >> 1,
            ),
        ];
        for (bytes, payload_bytes) in cases {
            let mut bytes = bytes.to_vec();
            bytes.extend(mask);
            let (header, consumed) = Header::parse(&bytes).unwrap().unwrap();
            assert_eq!(header.payload_bytes, *payload_bytes);
            assert_eq!((header.mask, consumed), (mask, bytes.len()));
            for end in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..end]), Ok(None), "{end} bytes");
            }
        }
    }
}
