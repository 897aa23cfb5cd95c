//! What goes out on a TLS stream.
//!
//! Bytes that the shard hands over count as taken when they are encrypted. Where the socket does not
//! take all of that, the rest waits in `pending`, and nothing more is encrypted until it is gone: so
//! at most [`PLAIN_MAX`] bytes and their overhead are between the shard and the kernel.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::unbuffered::ConnectionState;

use super::stream::{PLAIN_MAX, Shared, Stage, TlsStream, encode};
use crate::metrics::TlsFault;
use crate::shard::Sent;

impl TlsStream {
    /// Encrypts and writes what is offered, in order.
    pub fn push(&mut self, slices: &[IoSlice<'_>], shared: &mut Shared) -> Sent {
        let sent = self.offer(slices, shared);
        self.note_held(shared);
        sent
    }

    fn offer(&mut self, slices: &[IoSlice<'_>], shared: &mut Shared) -> Sent {
        match self.stage {
            // The shard is told that there is room when the handshake is over.
            Stage::Handshake => return Sent::Full,
            Stage::Shut | Stage::Failed => return Sent::Gone,
            Stage::Open => {}
        }
        if !self.flush(shared) {
            return match self.stage {
                Stage::Failed => Sent::Gone,
                _ => Sent::Full,
            };
        }
        let mut taken = 0;
        let mut rest = Rest { slices, at: 0 };
        loop {
            let mut gathered = std::mem::take(&mut shared.gathered);
            let chunk = rest.next(&mut gathered);
            if chunk.is_empty() {
                shared.gathered = gathered;
                return Sent::Took(taken);
            }
            let encrypted = self.encrypt(chunk, shared);
            let count = chunk.len();
            shared.gathered = gathered;
            let Ok(length) = encrypted else {
                self.stage = Stage::Failed;
                return Sent::Gone;
            };
            taken += count;
            match self.write_outgoing(length, shared) {
                Ok(true) => {}
                Ok(false) => return Sent::Took(taken),
                Err(()) => return Sent::Gone,
            }
        }
    }

    /// Encrypts into the shared buffer. Answers how many bytes came of it.
    fn encrypt(&mut self, chunk: &[u8], shared: &mut Shared) -> Result<usize, ()> {
        loop {
            // Part of a message may be known to rustls by its place in this buffer.
            let status = self.session.process_tls_records(&mut self.incoming);
            match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return traffic.encrypt(chunk, &mut shared.outgoing).map_err(drop);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let before = self.pending.len();
                    encode(&mut data, &mut shared.outgoing, &mut self.pending);
                    shared.metrics.pending_bytes += (self.pending.len() - before) as u64;
                }
                Ok(ConnectionState::TransmitTlsData(sending)) => sending.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                _ => return Err(()),
            }
        }
    }

    /// Writes the first `length` bytes of the shared buffer behind what is pending. Says whether the
    /// socket took everything; what it did not take is pending. An error: the socket is broken.
    fn write_outgoing(&mut self, length: usize, shared: &mut Shared) -> Result<bool, ()> {
        let bytes = shared.outgoing.get(..length).unwrap_or_default();
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            shared.metrics.pending_bytes += bytes.len() as u64;
            return Ok(self.flush(shared));
        }
        let Ok(count) = write(&mut self.socket, bytes) else {
            self.stage = Stage::Failed;
            return Err(());
        };
        let rest = bytes.get(count..).unwrap_or_default();
        self.pending.extend_from_slice(rest);
        shared.metrics.pending_bytes += rest.len() as u64;
        Ok(rest.is_empty())
    }

    /// Writes what is pending. Says whether nothing is pending any more.
    pub fn flush(&mut self, shared: &mut Shared) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        match write(&mut self.socket, &self.pending) {
            Ok(count) => {
                shared.metrics.pending_bytes =
                    shared.metrics.pending_bytes.saturating_sub(count as u64);
                self.pending.drain(..count);
            }
            Err(_) => {
                self.forget_pending(shared);
                if self.is_in_handshake() {
                    self.give_up(TlsFault::Abandoned, shared);
                }
                self.stage = Stage::Failed;
                return false;
            }
        }
        if !self.pending.is_empty() {
            return false;
        }
        self.pending = Vec::new();
        if self.shuts {
            let _gone = self.socket.shutdown(Shutdown::Write);
        }
        true
    }

    pub(super) fn forget_pending(&mut self, shared: &mut Shared) {
        let bytes = self.pending.len() as u64;
        shared.metrics.pending_bytes = shared.metrics.pending_bytes.saturating_sub(bytes);
        self.pending = Vec::new();
    }

    /// Says that nothing more comes from us (close_notify, RFC 8446 §6.1), and shuts the sending side
    /// behind it.
    pub fn shutdown_write(&mut self, shared: &mut Shared) {
        self.shuts = true;
        self.say_goodbye(shared);
        if self.flush(shared) {
            // A peer that has gone already makes this fail, and its end is told by the poller.
            let _gone = self.socket.shutdown(Shutdown::Write);
        }
    }

    fn say_goodbye(&mut self, shared: &mut Shared) {
        if self.stage != Stage::Open {
            return;
        }
        self.stage = Stage::Shut;
        let status = self.session.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
            && let Ok(length) = traffic.queue_close_notify(&mut shared.outgoing)
        {
            let _pending = self.write_outgoing(length, shared);
        }
    }

    /// Takes leave as well as that goes without waiting: the socket is closed next.
    pub fn close(&mut self, shared: &mut Shared) {
        if self.is_in_handshake() {
            self.give_up(TlsFault::Abandoned, shared);
        }
        self.say_goodbye(shared);
        self.forget_pending(shared);
        shared.held_bytes = shared.held_bytes.saturating_sub(self.noted as usize);
        self.noted = 0;
    }
}

/// Slices that are handed out in pieces of [`PLAIN_MAX`] bytes at most.
struct Rest<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// Bytes of the first slice that were handed out.
    at: usize,
}

impl Rest<'_, '_> {
    /// The next piece; empty at the end. Where it lies in several slices, `gathered` is where it lies
    /// in one.
    fn next<'c>(&'c mut self, gathered: &'c mut Vec<u8>) -> &'c [u8] {
        gathered.clear();
        let mut first: &[u8] = &[];
        while let Some((slice, others)) = self.slices.split_first() {
            let room = PLAIN_MAX - gathered.len().max(first.len());
            let bytes = slice.get(self.at..).unwrap_or_default();
            let count = bytes.len().min(room);
            let piece = bytes.get(..count).unwrap_or_default();
            if first.is_empty() {
                first = piece;
            } else {
                if gathered.is_empty() {
                    gathered.extend_from_slice(first);
                }
                gathered.extend_from_slice(piece);
            }
            if count < bytes.len() {
                self.at += count;
                break;
            }
            self.slices = others;
            self.at = 0;
        }
        if gathered.is_empty() { first } else { gathered }
    }
}

/// Writes once. A socket that is full has taken nothing.
fn write(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            other => return other,
        }
    }
}
