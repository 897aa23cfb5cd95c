//! One client connection: a socket, what is left of the last read and write, and its client.

use std::io::{self, Read, Write};

use crate::clock::Clock;
use crate::receiver::{self, Receiver, Stage};
use crate::socket::Socket;
use crate::view::{Dialect, View};

/// More unsent bytes than this, and a client publishes no more until they have left.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// What only some connections need, and only at times.
#[derive(Default)]
struct Spill {
    /// The incomplete frame at the end of the last read.
    tail: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
}

/// A socket and its client.
pub struct Connection {
    /// Nothing once the connection has ended.
    pub stream: Option<Socket>,
    /// The client.
    pub receiver: Receiver,
    spill: Option<Box<Spill>>,
}

impl Connection {
    /// A connection that has just been opened.
    pub fn new(stream: Socket, receiver: Receiver) -> Connection {
        Connection {
            stream: Some(stream),
            receiver,
            spill: None,
        }
    }

    /// Lets its socket and its memory go.
    pub fn close(&mut self) {
        self.stream = None;
        self.spill = None;
    }

    /// True where the socket has not taken everything.
    pub fn has_unsent(&self) -> bool {
        self.spill.as_ref().is_some_and(|it| !it.unsent.is_empty())
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
        while let Some(read) = self.read_once(buffer, view, clock) {
            bytes += read.bytes;
            // A short read has emptied the socket; what comes later is an event of its own.
            if read.is_last || (!read.is_full && !to_the_end) {
                break;
            }
        }
        bytes
    }

    /// Reads `limit` bytes at most; returns how many it was.
    pub fn read_some(
        &mut self,
        buffer: &mut [u8],
        limit: usize,
        view: &mut View,
        clock: Clock,
    ) -> u64 {
        let kept = self.spill.as_ref().map_or(0, |it| it.tail.len());
        let end = kept.saturating_add(limit).min(buffer.len());
        let space = buffer.get_mut(..end).unwrap_or_default();
        self.read_once(space, view, clock)
            .map_or(0, |read| read.bytes)
    }

    #[inline]
    fn read_once(&mut self, buffer: &mut [u8], view: &mut View, clock: Clock) -> Option<ReadOnce> {
        let stream = self.stream.as_mut()?;
        let tail = self.spill.as_ref().map_or(&[][..], |it| &it.tail);
        let kept = tail.len();
        if let Some(front) = buffer.get_mut(..kept) {
            front.copy_from_slice(tail);
        }
        let Some(space) = buffer.get_mut(kept..).filter(|space| !space.is_empty()) else {
            view.audit.fault("a frame larger than the read buffer");
            self.receiver.handle_reset(view);
            return None;
        };
        let space_bytes = space.len();
        match stream.read(space) {
            Ok(0) => {
                self.receiver.handle_reset(view);
                None
            }
            Ok(read) => {
                let filled = buffer.get(..kept + read).unwrap_or_default();
                let left = self.receiver.handle_bytes(filled, clock.now_ns(), view);
                let tail = filled.get(filled.len() - left..).unwrap_or_default();
                if !tail.is_empty() || kept > 0 {
                    let spill = self.spill.get_or_insert_default();
                    spill.tail.clear();
                    spill.tail.extend_from_slice(tail);
                }
                Some(ReadOnce {
                    bytes: read as u64,
                    is_full: read == space_bytes,
                    is_last: self.receiver.is_ended() || self.receiver.stage == Stage::Away,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(ReadOnce {
                bytes: 0,
                is_full: true,
                is_last: false,
            }),
            Err(_) => {
                self.receiver.handle_reset(view);
                None
            }
        }
    }

    /// Sends what the client has to say, after what the socket did not take before.
    pub fn reply(&mut self, view: &mut View) {
        if self.has_unsent() {
            let spill = self.spill.get_or_insert_default();
            spill.unsent.append(&mut view.out);
            return self.send_unsent(view);
        }
        let Some(stream) = &mut self.stream else {
            return view.out.clear();
        };
        match stream.write(&view.out) {
            Ok(written) if written == view.out.len() => {}
            Ok(written) => self.keep(view.out.get(written..).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.keep(&view.out),
            Err(_) => self.receiver.handle_reset(view),
        }
        view.out.clear();
    }

    /// Sends what the socket did not take before.
    pub fn send_unsent(&mut self, view: &mut View) {
        let (Some(stream), Some(spill)) = (&mut self.stream, &mut self.spill) else {
            return;
        };
        while !spill.unsent.is_empty() {
            match stream.write(&spill.unsent) {
                Ok(written) => {
                    spill.unsent.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    spill.unsent = Vec::new();
                    return self.receiver.handle_reset(view);
                }
            }
        }
        spill.unsent = Vec::new();
    }

    /// True where it may publish: the server takes what it sends.
    pub fn takes_more(&self) -> bool {
        let unsent = self.spill.as_ref().map_or(0, |it| it.unsent.len());
        unsent < UNSENT_BYTES_MAX
    }

    fn keep(&mut self, unsent: &[u8]) {
        let spill = self.spill.get_or_insert_default();
        spill.unsent.extend_from_slice(unsent);
    }
}

struct ReadOnce {
    bytes: u64,
    is_full: bool,
    is_last: bool,
}

/// The request that upgrades a connection.
pub fn upgrade_request(host: &str, path: &str, dialect: Dialect) -> Vec<u8> {
    let protocol = match dialect {
        Dialect::Rooms(_) => "Sec-WebSocket-Protocol: tidewheel.v1.json\r\n",
        Dialect::Numbered | Dialect::Echo => "",
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n{protocol}\r\n",
        receiver::KEY
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_in_one_room_takes_less_than_a_hundred_bytes() {
        assert!(size_of::<Connection>() <= 96, "{}", size_of::<Connection>());
    }
}
