//! WebSocket framing for a load client: no copy, no allocation for each frame, nothing rare.
//!
//! Ours and not a library's because a delivered frame may cost some nanoseconds only: a receiver
//! needs the length to step over a frame, and the first bytes of its payload.

/// First byte of an unfragmented text frame.
pub const TEXT: u8 = 0x81;
/// First byte of a close frame.
pub const CLOSE: u8 = 0x88;
/// First byte of a ping.
pub const PING: u8 = 0x89;
/// First byte of a pong.
pub const PONG: u8 = 0x8a;

/// The mask of every frame the harness writes: not zero, so that the server has to unmask.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A header's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN, reserved bits and opcode, as they came.
    pub first: u8,
    /// The masking key, in a client's frame.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the header itself.
    pub bytes: usize,
    /// Bytes of payload that follow.
    pub payload_bytes: usize,
}

impl Header {
    /// Bytes of header and payload together.
    pub fn frame_bytes(&self) -> usize {
        self.bytes.saturating_add(self.payload_bytes)
    }
}

/// Reads a header, or `None` where it is not all there yet.
#[inline]
pub fn decode_header(bytes: &[u8]) -> Option<Header> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    // RFC 6455 §5.2: 126 announces a 16-bit length, 127 a 64-bit one.
    let (length_bytes, payload_bytes, rest) = match second & 0x7f {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (2, usize::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (
                8,
                usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX),
                rest,
            )
        }
        short => (0, usize::from(short), rest),
    };
    if second & 0x80 == 0 {
        return Some(Header {
            first,
            mask: None,
            bytes: 2 + length_bytes,
            payload_bytes,
        });
    }
    let mask = Some(*rest.first_chunk()?);
    Some(Header {
        first,
        mask,
        bytes: 6 + length_bytes,
        payload_bytes,
    })
}

/// Splits the first whole frame off: its header, its payload, and what follows it.
///
/// `None` where the frame is not all there yet.
#[inline]
pub fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let header = decode_header(bytes)?;
    let (_, rest) = bytes.split_at_checked(header.bytes)?;
    let (payload, rest) = rest.split_at_checked(header.payload_bytes)?;
    Some((header, payload, rest))
}

/// Appends a masked frame, as a client must send it (RFC 6455 §5.3).
pub fn write_masked(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    write_header(first, 0x80, payload.len(), out);
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// Appends an unmasked frame, as a server sends it.
pub fn write_unmasked(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    write_header(first, 0, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Header bytes of an unmasked frame with such a payload.
pub fn unmasked_header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Undoes a mask in place.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

fn write_header(first: u8, mask_bit: u8, payload_bytes: usize, out: &mut Vec<u8>) {
    out.push(first);
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(short), _) if short <= 125 => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_any_length_comes_back_as_it_was_written() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut wire = Vec::new();
            write_unmasked(TEXT, &payload, &mut wire);
            assert_eq!(wire.len(), unmasked_header_bytes(length) + length);
            let (header, found, rest) = split(&wire).unwrap();
            assert_eq!(
                (header.first, header.mask, header.frame_bytes()),
                (TEXT, None, wire.len())
            );
            assert!(found == payload && rest.is_empty());
        }
    }

    #[test]
    fn a_masked_frame_is_masked_and_unmasks_to_its_payload() {
        let mut wire = Vec::new();
        write_masked(TEXT, b"{\"type\":\"ping\"}", &mut wire);
        let (header, payload, _) = split(&wire).unwrap();
        assert_ne!(payload, b"{\"type\":\"ping\"}");
        let mut payload = payload.to_vec();
        unmask(&mut payload, header.mask.unwrap());
        assert_eq!(payload, b"{\"type\":\"ping\"}");
    }

    #[test]
    fn no_prefix_of_a_frame_counts_as_a_frame() {
        for length in [5, 300, 70_000] {
            let mut wire = Vec::new();
            write_masked(TEXT, &vec![b'x'; length], &mut wire);
            for cut in 0..wire.len() {
                assert!(split(&wire[..cut]).is_none());
            }
        }
    }
}
