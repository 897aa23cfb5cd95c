//! The sockets of one core, by the index of their connection.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ServerConfig;

use super::clock::Clock;
use super::tls::{Shared, Shook, TlsStream};
use crate::address::PeerAddress;
use crate::codec::proxy::{HEADER_BYTES_MAX, ProxyFault, decode_proxy};
use crate::metrics::Tls;
use crate::shard::{Sent, Transport};
use crate::time::Instant;

/// A byte stream to a peer.
#[derive(Debug)]
pub enum Stream {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS over it. In a box: the table of sockets is for the eyes of a flush.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Says a last thing on a fresh socket that gets no place among the others, as well as that goes
    /// without waiting, and closes it. A TLS peer is told nothing, which would cost a handshake.
    pub(super) fn say_last(self, bytes: &[u8], buffer: &mut [u8]) {
        if let Stream::Plain(mut stream) = self {
            // A socket that is closed with input unread resets, which may cost the peer these bytes.
            let _nothing_yet = stream.read(buffer);
            let _gone = stream.write(bytes);
        }
    }

    fn source(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.socket(),
        }
    }
}

/// What a read came to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// This many bytes, and there may be more.
    Some(usize),
    /// This many bytes, and nothing more for now.
    Last(usize),
    /// Nothing for now.
    Nothing,
    /// The peer's end, or the socket's.
    End,
    /// Bytes out of TLS records.
    Opened {
        /// How many.
        count: usize,
        /// How many were read for them, none where they were left over.
        read: usize,
        /// There is nothing more for now.
        is_last: bool,
    },
    /// Nothing was read: [`Sockets::shake`] comes first, which takes its time.
    Handshake,
}

/// What became of looking for a PROXY header.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Preface {
    /// Some of it is still to come.
    Awaited,
    /// It was taken; it says where the client is, or nothing of that.
    Read(Option<PeerAddress>),
    /// There will be none: the connection has ended, or begins with something else.
    Broken(Option<ProxyFault>),
}

#[derive(Debug)]
struct Socket {
    stream: Stream,
    /// The poller said that there is something, and we have not read until there was nothing.
    readable: bool,
    /// The peer has shut its side: a short read is not the last.
    ended: bool,
    /// It is on the list of those to be read.
    listed: bool,
    /// Its PROXY header is still to come.
    awaits_header: bool,
}

/// The table. Sockets stand apart from what a shard knows of their connections, so that a flush
/// over a large room touches little memory.
#[derive(Default, Debug)]
pub struct Sockets {
    slots: Vec<Option<Socket>>,
    open: usize,
    tls: Shared,
    /// For measuring.
    clock: Option<Clock>,
}

impl Sockets {
    /// With a clock, by which writes are measured.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Sockets {
        Sockets {
            clock: Some(clock),
            ..self
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// What is counted about TLS.
    pub fn tls(&self) -> &Tls {
        &self.tls.metrics
    }

    /// The same, to add what only the reactor sees.
    pub fn tls_mut(&mut self) -> &mut Tls {
        &mut self.tls.metrics
    }

    /// A fresh socket as a TLS stream that awaits its handshake.
    ///
    /// # Errors
    /// Where rustls refuses, which loading the configuration has ruled out.
    pub fn secure(&mut self, stream: Stream, config: &Arc<ServerConfig>) -> io::Result<Stream> {
        let Stream::Plain(socket) = stream else {
            return Ok(stream);
        };
        let stream = TlsStream::new(socket, Arc::clone(config), &mut self.tls);
        let mut stream = stream.map_err(io::Error::other)?;
        stream.note_held(&mut self.tls);
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Bytes of memory that streams hold beside the table and the kernel. TCP as it is holds none.
    pub fn heap_bytes(&self) -> usize {
        self.tls.held_bytes
    }

    /// Takes a socket in under its connection's index and registers it, once for all: the poller
    /// tells of each change, and what was not read stays noted here.
    ///
    /// # Errors
    /// Where the poller does not take it.
    pub fn insert(
        &mut self,
        index: u32,
        mut stream: Stream,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(stream.source(), token, interest) {
            if let Stream::Tls(stream) = &mut stream {
                stream.close(&mut self.tls);
            }
            return Err(error);
        }
        let place = index as usize;
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(place) {
            debug_assert!(slot.is_none(), "an index is given once");
            *slot = Some(Socket {
                stream,
                readable: false,
                ended: false,
                listed: false,
                awaits_header: false,
            });
            self.open += 1;
        }
        Ok(())
    }

    fn socket(&mut self, index: u32) -> Option<&mut Socket> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Notes that there is something to read. Says whether the caller has to put it on its list.
    pub fn note_readable(&mut self, index: u32, ended: bool) -> bool {
        let Some(socket) = self.socket(index) else {
            return false;
        };
        socket.readable = true;
        socket.ended |= ended;
        !std::mem::replace(&mut socket.listed, true)
    }

    /// Whether there may be something to read, for a connection that may be read again. Says
    /// whether the caller has to put it on its list.
    pub fn relist(&mut self, index: u32) -> bool {
        self.socket(index)
            .is_some_and(|s| s.readable && !std::mem::replace(&mut s.listed, true))
    }

    /// Notes that the socket is not on the list any more.
    pub fn unlist(&mut self, index: u32) {
        if let Some(socket) = self.socket(index) {
            socket.listed = false;
        }
    }

    /// Nothing is read before a PROXY header has been.
    pub(super) fn await_header(&mut self, index: u32) {
        if let Some(socket) = self.socket(index) {
            socket.awaits_header = true;
        }
    }

    /// Whether the PROXY header is still to come.
    pub(super) fn awaits_header(&mut self, index: u32) -> bool {
        self.socket(index).is_some_and(|s| s.awaits_header)
    }

    /// Takes the PROXY header off the beginning of a connection, and not one octet more: what follows,
    /// TLS or HTTP, is read as if it had come first. It is looked at where the kernel holds it, so
    /// nothing is kept here of one that trickles in.
    pub(super) fn take_header(&mut self, index: u32) -> Preface {
        let Some(socket) = self.socket(index) else {
            return Preface::Awaited;
        };
        let mut octets = [0; HEADER_BYTES_MAX];
        let count = match socket.stream.source().peek(&mut octets) {
            Ok(0) => return Preface::Broken(None),
            Ok(count) => count,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock if !socket.ended => {
                        Preface::Awaited
                    }
                    _ => Preface::Broken(None),
                };
            }
        };
        match decode_proxy(octets.get(..count).unwrap_or_default()) {
            Ok(Some(header)) => {
                let header_octets = octets.get_mut(..header.bytes).unwrap_or_default();
                // The kernel holds as many: it showed them.
                match socket.stream.source().read(header_octets) {
                    Ok(taken) if taken == header.bytes => {
                        socket.awaits_header = false;
                        Preface::Read(header.source)
                    }
                    _ => Preface::Broken(None),
                }
            }
            // More of it will be told anew, unless its end was told already.
            Ok(None) if socket.ended => Preface::Broken(None),
            Ok(None) => Preface::Awaited,
            Err(fault) => Preface::Broken(Some(fault)),
        }
    }

    /// Goes on with a TLS handshake, by one read.
    pub fn shake(&mut self, index: u32) -> Shook {
        let Some(socket) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return Shook::Waits;
        };
        let Stream::Tls(stream) = &mut socket.stream else {
            return Shook::Done;
        };
        if !stream.is_in_handshake() {
            return Shook::Done;
        }
        let (shook, is_drained) = stream.shake(socket.ended, &mut self.tls);
        stream.note_held(&mut self.tls);
        socket.readable = !is_drained;
        shook
    }

    /// Reads once.
    pub fn receive(&mut self, index: u32, buffer: &mut [u8]) -> Received {
        let Some(socket) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return Received::Nothing;
        };
        let stream = match &mut socket.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) if stream.is_in_handshake() => return Received::Handshake,
            Stream::Tls(stream) => {
                let pulled = stream.pull(buffer, socket.ended, &mut self.tls);
                stream.note_held(&mut self.tls);
                socket.readable = !pulled.is_drained;
                return if pulled.is_end {
                    Received::End
                } else {
                    Received::Opened {
                        count: pulled.count,
                        read: pulled.read,
                        is_last: pulled.is_drained,
                    }
                };
            }
        };
        loop {
            match stream.read(buffer) {
                Ok(0) => return Received::End,
                // A read that does not fill the buffer has emptied the socket: what comes later is
                // told anew (epoll(7), edge-triggered), except for an end that was told already.
                Ok(count) if count < buffer.len() && !socket.ended => {
                    socket.readable = false;
                    return Received::Last(count);
                }
                Ok(count) => return Received::Some(count),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => {
                        socket.readable = false;
                        return Received::Nothing;
                    }
                    _ => return Received::End,
                },
            }
        }
    }

    /// Notes that the socket takes bytes again. Says whether the shard's are welcome, too: what is
    /// encrypted already goes first.
    pub fn note_writable(&mut self, index: u32) -> bool {
        match self.slots.get_mut(index as usize) {
            Some(Some(Socket {
                stream: Stream::Tls(stream),
                ..
            })) => {
                let is_flushed = stream.flush(&mut self.tls);
                stream.note_held(&mut self.tls);
                is_flushed && !stream.is_in_handshake()
            }
            _ => true,
        }
    }

    /// Shuts the sending side.
    pub fn shutdown_write(&mut self, index: u32) {
        match self.slots.get_mut(index as usize).and_then(Option::as_mut) {
            Some(Socket {
                stream: Stream::Tls(stream),
                ..
            }) => stream.shutdown_write(&mut self.tls),
            // A peer that has gone already makes this fail, and its end is told by the poller.
            Some(socket) => drop(socket.stream.source().shutdown(Shutdown::Write)),
            None => {}
        }
    }

    /// Closes; with `abruptly`, by a reset that discards what the peer has not taken. Says whether
    /// there was such a socket.
    pub fn close(&mut self, index: u32, abruptly: bool) -> bool {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return false;
        };
        let Some(mut socket) = slot.take() else {
            return false;
        };
        self.open -= 1;
        if let Stream::Tls(stream) = &mut socket.stream {
            stream.close(&mut self.tls);
        }
        if abruptly {
            let socket = socket2::SockRef::from(&*socket.stream.source());
            // A socket that is broken already needs no reset.
            let _broken = socket.set_linger(Some(Duration::ZERO));
        }
        // Dropping it closes it, which takes it out of the poller too.
        if self.open == 0 {
            self.slots = Vec::new();
        }
        true
    }

    fn sent(result: io::Result<usize>) -> Option<Sent> {
        match result {
            Ok(count) => Some(Sent::Took(count)),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => None,
                ErrorKind::WouldBlock => Some(Sent::Full),
                _ => Some(Sent::Gone),
            },
        }
    }
}

impl Transport for Sockets {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        let slot = self.slots.get_mut(connection as usize);
        let Some(socket) = slot.and_then(Option::as_mut) else {
            return Sent::Gone;
        };
        match &mut socket.stream {
            Stream::Plain(stream) => loop {
                if let Some(sent) = Sockets::sent(stream.write(bytes)) {
                    return sent;
                }
            },
            Stream::Tls(stream) => stream.push(&[IoSlice::new(bytes)], &mut self.tls),
        }
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        let slot = self.slots.get_mut(connection as usize);
        let Some(socket) = slot.and_then(Option::as_mut) else {
            return Sent::Gone;
        };
        match &mut socket.stream {
            Stream::Plain(stream) => loop {
                if let Some(sent) = Sockets::sent(stream.write_vectored(slices)) {
                    return sent;
                }
            },
            Stream::Tls(stream) => stream.push(slices, &mut self.tls),
        }
    }

    fn moment(&self) -> Option<Instant> {
        Some(self.clock?.mono())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_table_is_small() {
        assert!(size_of::<Option<Socket>>() <= 24);
    }
}
