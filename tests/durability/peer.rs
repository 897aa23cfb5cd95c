//! A client over a socket: writes texts, reads what has come.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tidewheel::codec::websocket::{Data, OpCode, client};

pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Peer {
    /// An established connection; none where the server is not there, or goes meanwhile.
    pub fn connect(address: SocketAddr, user: &str) -> Option<Peer> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_nodelay(true).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(2)))
            .ok()?;
        let head = format!(
            "GET /ws?user_id={user} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let unread = Vec::new();
        let mut peer = Peer { stream, unread };
        for _ in 0..2_000 {
            peer.fill()?;
            let end = peer.unread.windows(4).position(|w| w == b"\r\n\r\n");
            if let Some(end) = end {
                peer.unread.drain(..end + 4);
                return Some(peer);
            }
        }
        None
    }

    /// Sends a text; none where the connection is gone.
    pub fn say(&mut self, text: &str) -> Option<()> {
        let mut wire = Vec::new();
        let opcode = OpCode::Data(Data::Text);
        client::encode_masked(opcode, [1, 2, 3, 4], text.as_bytes(), &mut wire);
        self.stream.write_all(&wire).ok()
    }

    /// What has come within some milliseconds; none where the connection is gone and nothing came.
    pub fn hear(&mut self) -> Option<Vec<Value>> {
        let is_there = self.fill().is_some();
        let texts = self.take();
        (is_there || !texts.is_empty()).then_some(texts)
    }

    fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                Some(())
            }
            Err(error) => {
                let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                waits.then_some(())
            }
        }
    }

    /// The texts of frames that have come whole.
    fn take(&mut self) -> Vec<Value> {
        let mut texts = Vec::new();
        let mut at = 0;
        while let Some((opcode, body, end)) = frame(&self.unread, at) {
            if opcode == 1 {
                texts.push(serde_json::from_slice(&self.unread[body..end]).expect("JSON"));
            }
            at = end;
        }
        self.unread.drain(..at);
        texts
    }
}

/// The opcode of the frame at a place, and where its body begins and ends.
fn frame(bytes: &[u8], at: usize) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.get(at)?, *bytes.get(at + 1)?);
    let (len, body) = match second {
        126 => {
            let len = bytes.get(at + 2..at + 4)?.try_into().ok()?;
            (usize::from(u16::from_be_bytes(len)), at + 4)
        }
        127 => {
            let len = bytes.get(at + 2..at + 10)?.try_into().ok()?;
            (u64::from_be_bytes(len) as usize, at + 10)
        }
        len => (usize::from(len), at + 2),
    };
    (bytes.len() >= body + len).then_some((first & 0x0f, body, body + len))
}
