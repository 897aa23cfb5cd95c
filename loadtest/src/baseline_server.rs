//! The bare loop: what the kernel alone costs, behind the same receivers.
//!
//! Rooms, sessions and checks are left out. A publish is taken as it is, given an offset, and sent
//! to one receiver after the other with a blocking `send()`. Publishes found in one read go out as
//! one write for each receiver.

use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::str;

use anyhow::Context;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::frame;
use crate::receiver::ACCEPT;
use crate::sys;

const LISTENER: Token = Token(usize::MAX);
const READ_BUFFER_BYTES: usize = 256 * 1024;
const EVENTS: usize = 256;
/// Handshakes that may wait; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

enum Role {
    Handshaking,
    Unknown,
    Receiver,
}

struct Peer {
    stream: TcpStream,
    role: Role,
    input: Vec<u8>,
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    receivers: Vec<usize>,
    room: String,
    frame_bytes: usize,
    offset: u64,
    /// The frames found in one read.
    batch: Vec<u8>,
    buffer: Vec<u8>,
}

/// Listens on a free port, says so on the output, and serves until it is killed.
pub fn run(frame_bytes: usize) -> anyhow::Result<()> {
    sys::raise_descriptor_limit().context("raise the descriptor limit")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    sys::widen_backlog(&listener, BACKLOG)?;
    println!("listening on http://{}", listener.local_addr()?);
    let poll = Poll::new()?;
    let mut source = SourceFd(&listener.as_raw_fd());
    poll.registry()
        .register(&mut source, LISTENER, Interest::READABLE)?;
    let mut server = Server {
        poll,
        listener,
        peers: Vec::new(),
        receivers: Vec::new(),
        room: String::new(),
        frame_bytes,
        offset: 0,
        batch: Vec::new(),
        buffer: vec![0; READ_BUFFER_BYTES],
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        match server.poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                Token(index) => server.handle_readable(index),
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let index = self.peers.len();
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let mut source = SourceFd(&stream.as_raw_fd());
                    self.poll
                        .registry()
                        .register(&mut source, Token(index), Interest::READABLE)?;
                    let peer = Peer {
                        stream,
                        role: Role::Handshaking,
                        input: Vec::new(),
                    };
                    self.peers.push(Some(peer));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    /// Reads what is there, and sends on what each read has brought.
    fn handle_readable(&mut self, index: usize) {
        loop {
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else {
                return;
            };
            let read = match peer.stream.read(&mut self.buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            peer.input
                .extend_from_slice(self.buffer.get(..read).unwrap_or_default());
            if read == 0 || self.handle_input(index).is_err() {
                return self.remove(index);
            }
            self.send_batch();
            if read < READ_BUFFER_BYTES {
                return;
            }
        }
    }

    fn handle_input(&mut self, index: usize) -> io::Result<()> {
        let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        let mut input = std::mem::take(&mut peer.input);
        let mut used = 0;
        if matches!(peer.role, Role::Handshaking) {
            let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
                peer.input = input;
                return Ok(());
            };
            used = at + 4;
            peer.role = Role::Unknown;
            write!(
                peer.stream,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            )?;
        }
        while let Some(header) = input.get(used..).and_then(frame::decode_header) {
            let whole = used..used.saturating_add(header.frame_bytes());
            let Some(bytes) = input.get_mut(whole.clone()) else {
                break;
            };
            let (_, payload) = bytes.split_at_mut(header.bytes);
            frame::unmask(payload, header.mask.unwrap_or_default());
            self.handle_text(index, payload)?;
            used = whole.end;
        }
        input.drain(..used);
        if let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) {
            peer.input = input;
        }
        Ok(())
    }

    /// Our own client's messages, whose members stand in a known order.
    fn handle_text(&mut self, index: usize, text: &[u8]) -> io::Result<()> {
        let text = str::from_utf8(text).map_err(|_| ErrorKind::InvalidData)?;
        if let Some(rest) = text.strip_prefix("{\"type\":\"join_room\",\"room\":\"") {
            let room = rest.split('"').next().unwrap_or_default();
            room.clone_into(&mut self.room);
            self.receivers.push(index);
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else {
                return Ok(());
            };
            peer.role = Role::Receiver;
            let joined = format!(
                "{{\"type\":\"room_joined\",\"room\":\"{room}\",\"payload\":{{\"offset\":{}}}}}",
                self.offset
            );
            let mut wire = Vec::new();
            frame::write_unmasked(frame::TEXT, joined.as_bytes(), &mut wire);
            peer.stream.write_all(&wire)?;
            // From now on a write that has to wait, waits; and only an end is read.
            peer.stream.set_nonblocking(false)?;
        } else if let Some((_, rest)) = text.split_once("\"payload\":")
            && let Some(payload) = rest.strip_suffix('}')
        {
            self.append_message(payload);
        }
        Ok(())
    }

    /// Appends a message frame, filled up with spaces to the length asked for.
    fn append_message(&mut self, payload: &str) {
        self.offset += 1;
        let mut text = format!(
            "{{\"type\":\"message\",\"room\":\"{}\",\"offset\":{},\"payload\":{payload}",
            self.room, self.offset
        );
        let header_bytes = frame::unmasked_header_bytes(self.frame_bytes.saturating_sub(4));
        let text_bytes = self.frame_bytes.saturating_sub(header_bytes);
        text.extend(iter::repeat_n(
            ' ',
            text_bytes.saturating_sub(text.len() + 1),
        ));
        text.push('}');
        frame::write_unmasked(frame::TEXT, text.as_bytes(), &mut self.batch);
    }

    fn send_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let mut gone = Vec::new();
        for &index in &self.receivers {
            let peer = self.peers.get_mut(index).and_then(Option::as_mut);
            if let Some(peer) = peer
                && peer.stream.write_all(&batch).is_err()
            {
                gone.push(index);
            }
        }
        gone.into_iter().for_each(|index| self.remove(index));
        self.batch = batch;
        self.batch.clear();
    }

    fn remove(&mut self, index: usize) {
        if let Some(peer) = self.peers.get_mut(index).and_then(Option::take)
            && matches!(peer.role, Role::Receiver)
        {
            self.receivers.retain(|receiver| *receiver != index);
        }
    }
}
