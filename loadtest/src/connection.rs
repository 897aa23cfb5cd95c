//! One client connection: a socket, what is left of the last read, and its subscriber.

use std::io::{self, Read, Write};
use std::net::SocketAddrV4;

use mio::net::TcpStream;

use crate::clock::Clock;
use crate::receiver::{self, JoinBy, Receiver, Stage, View};

/// A socket and its subscriber.
pub struct Connection {
    /// Nothing once the connection has ended.
    pub stream: Option<TcpStream>,
    /// The subscriber.
    pub receiver: Receiver,
    /// The incomplete frame at the end of the last read.
    tail: Vec<u8>,
}

impl Connection {
    /// A connection that has just been opened.
    pub fn new(stream: TcpStream, receiver: Receiver) -> Connection {
        Connection {
            stream: Some(stream),
            receiver,
            tail: Vec::new(),
        }
    }

    /// Lets its socket and its memory go.
    pub fn close(&mut self) {
        self.stream = None;
        self.tail = Vec::new();
    }

    /// Sends the upgrade request where the connection is up; false where it is not yet.
    pub fn send_request(&mut self, request: &[u8]) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else {
            return Ok(true);
        };
        match stream.write(request) {
            Ok(written) if written == request.len() => {
                self.receiver.stage = Stage::Upgrading;
                Ok(true)
            }
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
    /// Reads what is there; returns how many bytes that was.
    #[inline]
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        view: &mut View,
        clock: Clock,
        to_the_end: bool,
    ) -> u64 {
        let mut bytes = 0;
        while let Some(stream) = &mut self.stream {
            let kept = self.tail.len();
            if let Some(front) = buffer.get_mut(..kept) {
                front.copy_from_slice(&self.tail);
            }
            let Some(space) = buffer.get_mut(kept..).filter(|space| !space.is_empty()) else {
                view.audit.fault("a frame larger than the read buffer");
                self.receiver.handle_reset(view);
                break;
            };
            let space_bytes = space.len();
            match stream.read(space) {
                Ok(0) => {
                    self.receiver.handle_reset(view);
                    break;
                }
                Ok(read) => {
                    bytes += read as u64;
                    let filled = buffer.get(..kept + read).unwrap_or_default();
                    let left = self.receiver.handle_bytes(filled, clock.now_ns(), view);
                    self.tail.clear();
                    self.tail.extend_from_slice(&filled[filled.len() - left..]);
                    // A short read has emptied the socket; what comes later is an event of its own.
                    if self.receiver.is_ended() || (read < space_bytes && !to_the_end) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.receiver.handle_reset(view);
                    break;
                }
            }
        }
        bytes
    }

    /// Sends what the receiver has to say: some bytes, for which there is always room.
    pub fn reply(&mut self, view: &mut View) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        match stream.write(&view.out) {
            Ok(written) if written == view.out.len() => {}
            Ok(_) => view.audit.fault("a reply that the socket took in part"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                view.audit.fault("a reply that the socket did not take");
            }
            Err(_) => self.receiver.handle_reset(view),
        }
        view.out.clear();
    }
}

/// The request that upgrades a connection, and with [`JoinBy::Path`] joins a room too.
pub fn upgrade_request(target: SocketAddrV4, join: JoinBy, room: &str) -> Vec<u8> {
    let path = match join {
        JoinBy::Message => "/ws".to_owned(),
        JoinBy::Path => format!("/ws/{room}"),
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: tidewheel.v1.json\r\n\r\n",
        receiver::KEY
    )
    .into_bytes()
}
