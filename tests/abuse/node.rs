//! A node without sockets: shards, the bus between them, and peers that are bytes.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use tidewheel::address::{CoreId, PeerAddress};
use tidewheel::bus::{Obeyed, Order};
use tidewheel::cli::Options;
use tidewheel::cli::policy::policy;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::client::{ServerFrames, encode_masked};
use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::gate::rate::Per;
use tidewheel::gate::{Limits, Policy, Rate};
use tidewheel::metrics::Metrics;
use tidewheel::shard::{Action, Sent, Shard, ShardConfig, Transport};
use tidewheel::time::{Instant, Now};

/// A request for an upgrade, but for its first line.
pub const UPGRADE: &str = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A head that asks for an upgrade at `target`.
pub fn head(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{UPGRADE}")
}

pub fn rate(count: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(count, Per::Second, burst).unwrap())
}

pub fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked(opcode, [7, 1, 9, 3], payload, &mut bytes);
    bytes
}

/// A connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub core: usize,
    pub index: u32,
}

/// What one socket was given, and what became of it.
#[derive(Default)]
struct Socket {
    written: Vec<u8>,
    /// It takes nothing.
    stalls: bool,
    end: Option<Action>,
}

#[derive(Default)]
struct Sockets(HashMap<u32, Socket>);

impl Transport for Sockets {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        let socket = self.0.entry(connection).or_default();
        if socket.stalls {
            return Sent::Full;
        }
        socket.written.extend_from_slice(bytes);
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.send(connection, &bytes)
    }
}

/// What a peer has heard since it connected.
#[derive(Default, Debug)]
pub struct Heard {
    pub status: u16,
    /// The whole HTTP response.
    pub head: String,
    pub texts: Vec<String>,
    pub pongs: usize,
    /// The code of the close frame.
    pub closed: Option<u16>,
    pub end: Option<Action>,
}

impl Heard {
    pub fn count(&self, part: &str) -> usize {
        self.texts.iter().filter(|text| text.contains(part)).count()
    }

    pub fn errors(&self, code: u16) -> usize {
        self.count(&format!("\"code\":{code}"))
    }

    /// In a word: how the server left it.
    pub fn outcome(&self) -> String {
        match (self.status, self.closed, self.end) {
            (101, Some(code), _) => format!("closed {code}"),
            (101, None, Some(Action::Reset(_))) => "reset".into(),
            (101, None, _) => "open".into(),
            (0, ..) => "waits".into(),
            (status, ..) => format!("http {status}"),
        }
    }
}

pub struct Node {
    pub shards: Vec<Shard>,
    sockets: Vec<Sockets>,
    pub now: Now,
}

impl Node {
    /// A node with the defaults of the command line and these changes.
    pub fn new(cores: u16, change: impl FnOnce(&mut ShardConfig, &mut Limits)) -> Node {
        let now = Now {
            mono: Instant::from_nanos(5_000_000_000),
            unix_ms: 1_800_000_000_000,
        };
        let options = Options::default();
        let mut config = shard_config(&options, CoreId(0), cores, 7);
        let policy = policy(&options).unwrap();
        let mut limits = policy.limits.clone();
        // The rates that are always on, at a tenth: floods are met sooner.
        let tenth = |burst| Rate::new(100, Per::Second, burst).ok();
        limits.connection_joins = tenth(2_000);
        limits.connection_control = tenth(1_000);
        change(&mut config, &mut limits);
        config.policy = Arc::new(Policy { limits, ..policy });
        let shard = |core| {
            let config = ShardConfig {
                core: CoreId(core),
                ..config.clone()
            };
            Shard::new(config, now)
        };
        Node {
            shards: (0..cores).map(shard).collect(),
            sockets: (0..cores).map(|_| Sockets::default()).collect(),
            now,
        }
    }

    /// One core, and these limits.
    pub fn limited(change: impl FnOnce(&mut Limits)) -> Node {
        Node::new(1, |_, limits| change(limits))
    }

    pub fn plain() -> Node {
        Node::limited(|_| {})
    }

    pub fn accept(&mut self, core: usize) -> Peer {
        let index = self.shards[core].handle_accept(self.now);
        self.sockets[core].0.insert(index, Socket::default());
        Peer { core, index }
    }

    /// Accepts a connection from an address.
    pub fn accept_from(&mut self, core: usize, address: &str) -> Peer {
        let peer = self.accept(core);
        let address: PeerAddress = address.parse().unwrap();
        self.shards[core].handle_address(self.now, peer.index, address);
        self.settle();
        peer
    }

    /// An upgraded connection.
    pub fn upgrade(&mut self, core: usize, target: &str) -> Peer {
        let peer = self.accept(core);
        self.send(peer, head(target).as_bytes());
        peer
    }

    pub fn send(&mut self, peer: Peer, bytes: &[u8]) {
        self.send_unsettled(peer, bytes);
        self.settle();
    }

    /// As much as is read of it; what is not welcome is kept back by the kernel.
    pub fn send_unsettled(&mut self, peer: Peer, bytes: &[u8]) {
        let shard = &mut self.shards[peer.core];
        if shard.wants_read(peer.index) {
            shard.handle_bytes(self.now, peer.index, &mut bytes.to_vec());
        }
    }

    pub fn say(&mut self, peer: Peer, text: &str) {
        self.send(peer, &frame(OpCode::Data(Data::Text), text.as_bytes()));
    }

    pub fn ping(&mut self, peer: Peer) {
        self.send(peer, &frame(OpCode::Control(Control::Ping), b""));
    }

    /// The peer takes nothing any more.
    pub fn stall(&mut self, peer: Peer) {
        let socket = self.sockets[peer.core].0.get_mut(&peer.index);
        socket.unwrap().stalls = true;
    }

    pub fn end(&mut self, peer: Peer) {
        self.shards[peer.core].handle_end(self.now, peer.index);
        self.settle();
    }

    pub fn wants_read(&self, peer: Peer) -> bool {
        self.shards[peer.core].wants_read(peer.index)
    }

    /// Lets time pass, and everything happen that is due, in steps of a tenth of a second.
    pub fn advance(&mut self, by: Duration) {
        let ends = self.now.mono + by;
        while self.now.mono < ends {
            let step = (ends - self.now.mono).min(Duration::from_millis(100));
            self.now.mono = self.now.mono + step;
            self.now.unix_ms += step.as_millis() as u64;
            for shard in &mut self.shards {
                shard.handle_timeouts(self.now);
            }
            self.settle();
        }
    }

    /// Until nothing is left to do.
    pub fn settle(&mut self) {
        loop {
            let mut idle = true;
            for from in 0..self.shards.len() {
                for to in 0..self.shards.len() {
                    if let Some(batch) = self.shards[from].poll_bus(CoreId(to as u16)) {
                        self.shards[to].handle_bus(self.now, batch);
                        idle = false;
                    }
                }
                while self.shards[from].wants_flush() {
                    self.shards[from].poll_flush(self.now, &mut self.sockets[from], 8192);
                }
                while let Some(action) = self.shards[from].poll_action() {
                    self.act(from, action);
                    idle = false;
                }
            }
            if idle {
                break;
            }
        }
        for shard in &self.shards {
            let (counted, found) = (shard.memory(), shard.recount());
            assert!(counted.iter().eq(found.iter()), "{counted:?}, {found:?}");
        }
    }

    fn act(&mut self, core: usize, action: Action) {
        match action {
            Action::Resume(index) => self.shards[core].handle_resume(self.now, index),
            Action::ShutdownWrite(_) => {}
            Action::Close(index) | Action::Reset(index) => {
                let socket = self.sockets[core].0.get_mut(&index);
                socket.unwrap().end = Some(action);
            }
        }
    }

    /// What a peer has heard so far.
    pub fn heard(&self, peer: Peer) -> Heard {
        let socket = &self.sockets[peer.core].0[&peer.index];
        let mut heard = Heard {
            end: socket.end,
            ..Heard::default()
        };
        let end = socket.written.windows(4).position(|w| w == b"\r\n\r\n");
        let Some(end) = end else {
            return heard;
        };
        let (head, body) = socket.written.split_at(end + 4);
        heard.head = String::from_utf8_lossy(&socket.written).into_owned();
        heard.status = String::from_utf8_lossy(&head[9..12]).parse().unwrap();
        if heard.status != 101 {
            return heard;
        }
        let mut frames = ServerFrames::default();
        frames.push(body);
        while let Some(frame) = frames.next_frame().unwrap() {
            assert_eq!(heard.closed, None, "a frame after the close frame");
            match frame.opcode {
                OpCode::Control(Control::Close) => {
                    let code = frame.payload.first_chunk::<2>();
                    heard.closed = Some(code.map_or(1005, |code| u16::from_be_bytes(*code)));
                }
                OpCode::Control(Control::Pong) => heard.pongs += 1,
                OpCode::Control(_) => {}
                OpCode::Data(_) => heard.texts.push(String::from_utf8(frame.payload).unwrap()),
            }
        }
        heard
    }

    /// How the server has left a peer.
    pub fn outcome(&self, peer: Peer) -> String {
        self.heard(peer).outcome()
    }

    /// Has an order carried out on all cores. How many connections were told to close.
    pub fn order(&mut self, order: &Order) -> Obeyed {
        let mut told = 0;
        for core in 0..self.shards.len() {
            told += self.shards[core].handle_order(self.now, order.clone())?;
        }
        self.settle();
        Ok(told)
    }

    pub fn metrics(&mut self) -> Metrics {
        let mut all = Metrics::default();
        for shard in &mut self.shards {
            all.merge(shard.metrics());
        }
        all
    }
}
