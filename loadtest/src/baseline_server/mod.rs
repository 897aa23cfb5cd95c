//! The bare loop: what the kernel alone costs, behind the same receivers.
//!
//! Rooms, sessions and checks are left out. A publish is taken as it is, given an offset, and sent
//! to one receiver after the other with a blocking `send()`. Publishes found in one read go out as
//! one write for each receiver.
//!
//! A second kind differs in one thing: it hands its sends to io_uring, in batches.
//!
//! Where there are more receivers than one descriptor table holds there are several loops, each on a
//! thread with a table of its own; the loop that reads a publish hands its bytes to the others.

mod uring;

use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::str;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::frame;
use crate::receiver::ACCEPT;
use crate::sys;
use uring::Ring;

const LISTENER: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
const READ_BUFFER_BYTES: usize = 256 * 1024;
const EVENTS: usize = 256;
/// Receivers that a loop may be given; the kernel deals them out with some spread.
pub const RECEIVERS_PER_LOOP: usize = 19_000;
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

/// Frames that one loop has read, for all of them.
#[derive(Clone)]
struct Batch {
    bytes: Arc<[u8]>,
    /// The offset of the last frame.
    offset: u64,
}

/// What reaches a loop from the others.
struct Inbox {
    batches: Receiver<Batch>,
}

/// The way to a loop's inbox.
struct Outbox {
    batches: Sender<Batch>,
    waker: Waker,
}

/// What the loops share. The lock is held while a batch is numbered and handed out, so that it
/// reaches all of them in the same order.
struct Common {
    offset: Mutex<u64>,
    outboxes: Vec<Outbox>,
    frame_bytes: usize,
    uring: bool,
    /// Loops that listen.
    listening: AtomicU64,
}

struct Server {
    poll: Poll,
    common: Arc<Common>,
    inbox: Inbox,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    receivers: Vec<usize>,
    /// Their sockets, in the same order.
    sockets: Vec<RawFd>,
    /// Where sends go through io_uring.
    ring: Option<Ring>,
    /// The room of the newest publish: there is one.
    room: String,
    /// The last one that was sent from here.
    offset: u64,
    /// Payloads found in one read.
    payloads: Vec<String>,
    buffer: Vec<u8>,
}

/// Listens on a free port, says so on the output, and serves until it is killed. Each of the `loops`
/// has a thread and a descriptor table. With `uring` they send through io_uring, or fail at once
/// where there is none.
pub fn run(frame_bytes: usize, uring: bool, loops: usize) -> anyhow::Result<()> {
    sys::raise_descriptor_limit().context("raise the descriptor limit")?;
    // Before any table is split off: every loop wakes every other.
    let mut outboxes = Vec::new();
    let mut seats = Vec::new();
    for _ in 0..loops.max(1) {
        let poll = Poll::new()?;
        let (batches, inbox) = mpsc::channel();
        let waker = Waker::new(poll.registry(), WAKE)?;
        outboxes.push(Outbox { batches, waker });
        seats.push((poll, Inbox { batches: inbox }));
    }
    let common = Arc::new(Common {
        offset: Mutex::new(0),
        outboxes,
        frame_bytes,
        uring,
        listening: AtomicU64::new(0),
    });
    let mut address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut threads = Vec::new();
    for (poll, inbox) in seats {
        let (opened, is_open) = mpsc::channel();
        let common = Arc::clone(&common);
        threads.push(thread::spawn(move || {
            let server = Server::open(poll, inbox, common, address);
            let server = server.and_then(|server| {
                opened.send(server.listener.local_addr()?)?;
                Ok(server)
            });
            // Whoever waits hears of a failure by the end of the channel.
            server.and_then(Server::serve)
        }));
        match is_open.recv() {
            Ok(SocketAddr::V4(opened)) => address = opened,
            _ => break,
        }
    }
    if common.listening.load(Ordering::Relaxed) == loops.max(1) as u64 {
        println!("listening on http://{address}");
    }
    for thread in threads {
        match thread.join() {
            Ok(ended) => ended?,
            Err(_) => anyhow::bail!("a loop panicked"),
        }
    }
    Ok(())
}

/// Whether `run` could send through io_uring here.
pub fn check_uring() -> anyhow::Result<()> {
    Ring::new().map(drop)
}

impl Server {
    fn open(
        poll: Poll,
        inbox: Inbox,
        common: Arc<Common>,
        address: SocketAddrV4,
    ) -> anyhow::Result<Server> {
        if common.outboxes.len() > 1 {
            sys::unshare_descriptors().context("split the descriptor table")?;
        }
        let ring = common.uring.then(Ring::new).transpose()?;
        let listener =
            sys::listen_shared(address, BACKLOG).with_context(|| format!("listen on {address}"))?;
        let mut source = SourceFd(&listener.as_raw_fd());
        poll.registry()
            .register(&mut source, LISTENER, Interest::READABLE)?;
        common.listening.fetch_add(1, Ordering::Relaxed);
        Ok(Server {
            poll,
            common,
            inbox,
            listener,
            peers: Vec::new(),
            receivers: Vec::new(),
            sockets: Vec::new(),
            ring,
            room: String::new(),
            offset: 0,
            payloads: Vec::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
        })
    }

    fn serve(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKE => self.take_batches()?,
                    Token(index) => self.handle_readable(index)?,
                }
            }
        }
    }

    /// Sends what was handed out, by others or by this loop itself: all that waits in one go.
    fn take_batches(&mut self) -> anyhow::Result<()> {
        let mut waiting: Vec<Batch> = self.inbox.batches.try_iter().collect();
        let Some(last) = waiting.pop() else {
            return Ok(());
        };
        self.offset = last.offset;
        if waiting.is_empty() {
            return self.send(&last.bytes);
        }
        let all = waiting.iter().chain([&last]);
        let bytes: Vec<u8> = all.flat_map(|batch| batch.bytes.iter().copied()).collect();
        self.send(&bytes)
    }

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
    fn handle_readable(&mut self, index: usize) -> anyhow::Result<()> {
        loop {
            let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut) else {
                return Ok(());
            };
            let read = match peer.stream.read(&mut self.buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            peer.input
                .extend_from_slice(self.buffer.get(..read).unwrap_or_default());
            if read == 0 || self.handle_input(index).is_err() {
                self.remove(index);
                return Ok(());
            }
            self.hand_out()?;
            if read < READ_BUFFER_BYTES {
                return Ok(());
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
            self.sockets.push(peer.stream.as_raw_fd());
        } else if let Some(rest) = text.strip_prefix("{\"type\":\"message\",\"room\":\"")
            && let Some((room, rest)) = rest.split_once("\",\"payload\":")
            && let Some(payload) = rest.strip_suffix('}')
        {
            room.clone_into(&mut self.room);
            self.payloads.push(payload.to_owned());
        }
        Ok(())
    }

    /// Numbers what was read and hands it to every loop, this one included.
    fn hand_out(&mut self) -> anyhow::Result<()> {
        if self.payloads.is_empty() {
            return Ok(());
        }
        let common = Arc::clone(&self.common);
        let mut offset = common.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        for payload in self.payloads.drain(..) {
            *offset += 1;
            append_message(
                &self.room,
                *offset,
                &payload,
                common.frame_bytes,
                &mut bytes,
            );
        }
        let batch = Batch {
            bytes: bytes.into(),
            offset: *offset,
        };
        for outbox in &common.outboxes {
            // A loop that is gone has failed, and `run` says so.
            let _ = outbox.batches.send(batch.clone());
        }
        if common.outboxes.len() > 1 {
            drop(offset);
            for outbox in &common.outboxes {
                outbox.waker.wake()?;
            }
            return Ok(());
        }
        // Alone: as bare as can be, without the way around the poller.
        drop(offset);
        self.take_batches()
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let gone = match &mut self.ring {
            Some(ring) => {
                let failed = ring.send_to_all(&self.sockets, bytes)?;
                let index = |position: usize| self.receivers.get(position).copied();
                failed.into_iter().filter_map(index).collect()
            }
            None => self.send_to_each(bytes),
        };
        gone.into_iter().for_each(|index| self.remove(index));
        Ok(())
    }

    /// Sends to one receiver after the other. Answers whom it did not reach.
    fn send_to_each(&mut self, bytes: &[u8]) -> Vec<usize> {
        let mut gone = Vec::new();
        for &index in &self.receivers {
            let peer = self.peers.get_mut(index).and_then(Option::as_mut);
            if let Some(peer) = peer
                && peer.stream.write_all(bytes).is_err()
            {
                gone.push(index);
            }
        }
        gone
    }

    fn remove(&mut self, index: usize) {
        if let Some(peer) = self.peers.get_mut(index).and_then(Option::take)
            && matches!(peer.role, Role::Receiver)
        {
            let socket = peer.stream.as_raw_fd();
            self.receivers.retain(|receiver| *receiver != index);
            self.sockets.retain(|other| *other != socket);
        }
    }
}

/// Appends a message frame, filled up with spaces to `frame_bytes`.
fn append_message(room: &str, offset: u64, payload: &str, frame_bytes: usize, out: &mut Vec<u8>) {
    let mut text = format!(
        "{{\"type\":\"message\",\"room\":\"{room}\",\"offset\":{offset},\"payload\":{payload}"
    );
    let header_bytes = frame::unmasked_header_bytes(frame_bytes.saturating_sub(4));
    let text_bytes = frame_bytes.saturating_sub(header_bytes);
    text.extend(iter::repeat_n(
        ' ',
        text_bytes.saturating_sub(text.len() + 1),
    ));
    text.push('}');
    frame::write_unmasked(frame::TEXT, text.as_bytes(), out);
}
