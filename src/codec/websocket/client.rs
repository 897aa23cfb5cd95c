//! The client's half: masked frames out, a server's frames in.
//!
//! For simulations, tests and benches, which talk to the server in memory; the server itself uses
//! nothing of it. It is lenient where the [`Decoder`](super::Decoder) is strict, for it must be
//! able to send what a broken client would.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

use super::encode::encode_header_with;
use super::mask::unmask;

/// Appends a final, masked frame.
pub fn encode_masked(opcode: OpCode, mask: [u8; 4], payload: &[u8], out: &mut Vec<u8>) {
    encode_fragment(opcode, true, mask, payload, out);
}

/// Appends a masked frame; without `is_final` it is a fragment that others follow.
pub fn encode_fragment(
    opcode: OpCode,
    is_final: bool,
    mask: [u8; 4],
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let fin = if is_final { 0x80 } else { 0 };
    encode_header_with(fin | u8::from(opcode), 0x80, payload.len(), out);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(out.get_mut(start..).unwrap_or_default(), mask);
}

/// A frame from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerFrame {
    /// What the payload is.
    pub opcode: OpCode,
    /// FIN.
    pub is_final: bool,
    /// The application data.
    pub payload: Vec<u8>,
}

/// Cuts the stream of a server, chopped at will, into frames.
#[derive(Default, Debug)]
pub struct ServerFrames {
    received: Vec<u8>,
    /// Where the next frame starts.
    at: usize,
}

/// A frame that no server may send: masked, or with a reserved opcode.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a server's frame: {0}")]
pub struct NotAServerFrame(String);

impl ServerFrames {
    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        // What was read is dropped once it is the larger half, so bytes are moved once on average.
        if self.at > self.received.len() / 2 {
            self.received.drain(..self.at);
            self.at = 0;
        }
        self.received.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    pub fn next_frame(&mut self) -> Result<Option<ServerFrame>, NotAServerFrame> {
        let rest = self.received.get(self.at..).unwrap_or_default();
        let mut cursor = Cursor::new(rest);
        let parsed =
            FrameHeader::parse(&mut cursor).map_err(|error| NotAServerFrame(error.to_string()))?;
        let Some((header, length)) = parsed else {
            return Ok(None);
        };
        // RFC 6455 §5.1: a client closes on a frame that is masked.
        if header.mask.is_some() {
            return Err(NotAServerFrame("masked".to_owned()));
        }
        let start = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let Some(payload) = rest.get(start..end) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.at += end;
        Ok(Some(ServerFrame {
            opcode: header.opcode,
            is_final: header.is_final,
            payload,
        }))
    }

    /// Bytes of a frame that is not complete.
    pub fn pending_bytes(&self) -> usize {
        self.received.len() - self.at
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::{Control, Data};

    use super::*;
    use crate::codec::websocket::{encode_close, encode_frame};

    #[test]
    fn a_chopped_stream_gives_every_frame_once() {
        let mut wire = Vec::new();
        encode_frame(OpCode::Data(Data::Text), &[b'a'; 300], &mut wire);
        encode_frame(OpCode::Control(Control::Ping), b"", &mut wire);
        encode_close(1000, "bye", &mut wire);
        for chunk in [1, 3, 64, wire.len()] {
            let mut frames = ServerFrames::default();
            let mut seen = Vec::new();
            for bytes in wire.chunks(chunk) {
                frames.push(bytes);
                while let Some(frame) = frames.next_frame().unwrap() {
                    seen.push((frame.opcode, frame.payload.len()));
                }
            }
            assert_eq!(frames.pending_bytes(), 0);
            assert_eq!(
                seen,
                [
                    (OpCode::Data(Data::Text), 300),
                    (OpCode::Control(Control::Ping), 0),
                    (OpCode::Control(Control::Close), 5),
                ]
            );
        }
    }

    #[test]
    fn a_masked_frame_is_no_servers() {
        let mut frames = ServerFrames::default();
        let mut wire = Vec::new();
        encode_masked(OpCode::Data(Data::Text), [1; 4], b"x", &mut wire);
        frames.push(&wire);
        assert!(frames.next_frame().is_err());
    }
}
