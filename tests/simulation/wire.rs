//! Sockets in memory: what a shard writes, cut into frames as it is written.
//!
//! Frames are judged when the last byte of theirs is given to the "kernel", so that a fault is
//! seen in the step that makes it; a client learns of them when it reads.

use std::collections::VecDeque;
use std::io::IoSlice;

use fastrand::Rng;
use tidewheel::codec::websocket::client::{ServerFrame, ServerFrames};
use tidewheel::shard::{Sent, Transport};

use crate::peer::Peer;
use crate::truth::Truth;
use crate::{Check, Trace};

/// How far a server's stream is understood.
pub enum Stage {
    /// The HTTP response so far.
    Head(Vec<u8>),
    /// After a 101.
    Frames(ServerFrames),
    /// After another status: the rest is a body.
    Refused,
}

/// One socket: a kernel buffer of some size, and the server's view of it.
pub struct Socket {
    /// How much the kernel takes before the client reads.
    pub room: usize,
    /// How much it holds.
    pub held: usize,
    /// The server was told that it is full, and not yet that it is not.
    pub full: bool,
    /// The server has shut its side.
    pub shut: bool,
    /// The client has reset it.
    pub broken: bool,
    /// A write found it broken.
    pub found_broken: bool,
    /// Takes writes whole, as long as there is room.
    pub whole: bool,
    /// The stream so far.
    pub stage: Stage,
    written: u64,
    read: u64,
    unread: VecDeque<(u64, ServerFrame)>,
}

impl Socket {
    pub fn new(room: usize, whole: bool) -> Socket {
        Socket {
            room,
            held: 0,
            full: false,
            shut: false,
            broken: false,
            found_broken: false,
            whole,
            stage: Stage::Head(Vec::new()),
            written: 0,
            read: 0,
            unread: VecDeque::new(),
        }
    }

    /// Whether the poller would say that it is writable.
    pub fn is_writable(&self) -> bool {
        self.full && (self.broken || self.held < self.room)
    }

    /// How much of a write is taken.
    fn take(&mut self, offered: usize, rng: &mut Rng) -> Result<Sent, String> {
        // A full one may be tried: a laggard gets a last offer before it is judged.
        if self.shut {
            return Err("a write to a socket whose sending side is shut".into());
        }
        if offered == 0 {
            return Err("an empty write".into());
        }
        if self.broken {
            self.found_broken = true;
            return Ok(Sent::Gone);
        }
        let wish = match rng.u8(..10) {
            _ if self.whole => offered,
            0 => 0,
            1 | 2 => 1,
            3 | 4 => rng.usize(..=offered),
            _ => offered,
        };
        let taken = wish.min(self.room - self.held).min(offered);
        self.held += taken;
        self.full = taken < offered;
        Ok(if taken == 0 {
            Sent::Full
        } else {
            Sent::Took(taken)
        })
    }

    /// Takes bytes into the stream; the frames that are whole with them.
    fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<ServerFrame>, String> {
        self.written += bytes.len() as u64;
        if let Stage::Head(head) = &mut self.stage {
            let before = head.len();
            head.extend_from_slice(bytes);
            let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(Vec::new());
            };
            bytes = &bytes[end + 4 - before..];
            let status = String::from_utf8_lossy(head).get(9..12).map(str::to_owned);
            let status: u16 = status
                .and_then(|s| s.parse().ok())
                .ok_or_else(|| format!("no status line: {}", head.escape_ascii()))?;
            self.stage = match status {
                101 => Stage::Frames(ServerFrames::default()),
                _ => Stage::Refused,
            };
        }
        let Stage::Frames(frames) = &mut self.stage else {
            return Ok(Vec::new());
        };
        frames.push(bytes);
        let mut whole = Vec::new();
        while let Some(frame) = frames.next_frame().map_err(|e| e.to_string())? {
            let end = self.written - frames.pending_bytes() as u64;
            self.unread.push_back((end, frame.clone()));
            whole.push(frame);
        }
        Ok(whole)
    }

    /// The client reads up to `count` bytes: the frames that it has whole then.
    pub fn drain(&mut self, count: usize) -> Vec<ServerFrame> {
        let count = count.min(self.held);
        self.held -= count;
        self.read += count as u64;
        let mut frames = Vec::new();
        while self
            .unread
            .front()
            .is_some_and(|(end, _)| *end <= self.read)
        {
            frames.extend(self.unread.pop_front().map(|(_, frame)| frame));
        }
        frames
    }

    /// Whether the stream stands between two frames.
    pub fn is_on_boundary(&self) -> bool {
        match &self.stage {
            Stage::Head(_) => false,
            Stage::Frames(frames) => frames.pending_bytes() == 0,
            Stage::Refused => true,
        }
    }
}

/// The sockets of one core, as its shard writes to them.
pub struct Wire<'a> {
    pub slots: &'a [Option<usize>],
    pub peers: &'a mut [Peer],
    pub truth: &'a mut Truth,
    pub rng: &'a mut Rng,
    pub trace: &'a mut Trace,
    pub unix_ms: u64,
    /// The first thing that was wrong.
    pub fault: Check,
}

impl Wire<'_> {
    fn write(&mut self, connection: u32, slices: &[&[u8]]) -> Result<Sent, String> {
        let Some(id) = self.slots.get(connection as usize).copied().flatten() else {
            return Err(format!("a write to no socket, {connection}"));
        };
        let peer = &mut self.peers[id];
        let offered = slices.iter().map(|s| s.len()).sum();
        let sent = peer.socket.take(offered, self.rng)?;
        self.trace
            .note(|| format!("  write to peer {id}: {offered} bytes, {sent:?}"));
        let Sent::Took(taken) = sent else {
            return Ok(sent);
        };
        let bytes = slices.concat();
        self.trace.digest(id as u64, &bytes[..taken]);
        for frame in peer.socket.push(&bytes[..taken])? {
            peer.session
                .take_frame(&frame, self.truth, self.unix_ms)
                .map_err(|fault| {
                    let text = String::from_utf8_lossy(&frame.payload).into_owned();
                    let text: String = text.chars().take(300).collect();
                    format!("peer {id}: {fault}\n  in frame {:?} {text}", frame.opcode)
                })?;
        }
        Ok(sent)
    }
}

impl Transport for Wire<'_> {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.send_vectored(connection, &[IoSlice::new(bytes)])
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        let slices: Vec<&[u8]> = slices.iter().map(|s| &**s).collect();
        match self.write(connection, &slices) {
            Ok(sent) => sent,
            Err(fault) => {
                if self.fault.is_ok() {
                    self.fault = Err(fault);
                }
                Sent::Full
            }
        }
    }
}
