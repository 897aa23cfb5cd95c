//! Shards in memory, and rooms in them.

use std::hint::black_box;
use std::io::IoSlice;

use tidewheel::address::CoreId;
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::shard::{Sent, Shard, Transport};
use tidewheel::time::{Instant, Now};

/// The time of everything.
pub const NOW: Now = Now {
    mono: Instant::ORIGIN,
    unix_ms: 1_767_225_600_123,
};

const FIELDS: &str = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Takes everything, and touches nothing of it.
#[derive(Default)]
pub struct Sink {
    /// How often it was written to.
    pub writes: u64,
}

impl Transport for Sink {
    fn send(&mut self, _: u32, bytes: &[u8]) -> Sent {
        self.writes += 1;
        Sent::Took(black_box(bytes).len())
    }

    fn send_vectored(&mut self, _: u32, slices: &[IoSlice<'_>]) -> Sent {
        self.writes += 1;
        Sent::Took(black_box(slices).iter().map(|s| s.len()).sum())
    }
}

/// A client's text message on the wire.
pub fn masked(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    let key = [0x37, 0xfa, 0x21, 0x3d];
    client::encode_masked(OpCode::Data(Data::Text), key, text.as_bytes(), &mut wire);
    wire
}

/// A publish of 128 bytes, or of some more with the metadata.
pub fn message(room: &str, metadata: &str) -> Vec<u8> {
    let start = format!(r#"{{"type":"message","room":"{room}","payload":""#);
    let payload = "x".repeat(126 - start.len());
    masked(&format!(r#"{start}{payload}"{metadata}}}"#))
}

/// Some shards, and the wires between them.
pub struct Node {
    shards: Vec<Shard>,
    /// Where writes go.
    pub sink: Sink,
    buffer: Vec<u8>,
}

impl Node {
    /// A node without connections.
    pub fn new(cores: u16) -> Node {
        let options = Options::default();
        let shard = |core| Shard::new(shard_config(&options, CoreId(core), cores, 7), NOW);
        Node {
            shards: (0..cores).map(shard).collect(),
            sink: Sink::default(),
            buffer: Vec::with_capacity(1024),
        }
    }

    /// A node of one core with `members` connections in the room `lobby`.
    pub fn of_members(members: u32) -> Node {
        let mut node = Node::new(1);
        for _ in 0..members {
            node.connect(0, "/ws/lobby");
        }
        node.turn();
        node
    }

    /// One more connection of a core, upgraded; its index.
    pub fn connect(&mut self, core: usize, target: &str) -> u32 {
        let index = self.shards.get_mut(core).map(|s| s.handle_accept(NOW));
        let index = index.unwrap_or_default();
        self.take(
            core,
            index,
            format!("GET {target} HTTP/1.1\r\n{FIELDS}").as_bytes(),
        );
        index
    }

    /// Bytes from a connection.
    pub fn take(&mut self, core: usize, index: u32, wire: &[u8]) {
        self.buffer.clear();
        self.buffer.extend_from_slice(wire);
        if let Some(shard) = self.shards.get_mut(core) {
            shard.handle_bytes(NOW, index, black_box(&mut self.buffer));
        }
    }

    /// How many rooms are at home on a core.
    pub fn homes(&self, core: usize) -> usize {
        self.shards.get(core).map_or(0, |s| s.footprint().homes)
    }

    /// Carries what the cores say to each other until they have nothing more to say, and flushes.
    pub fn turn(&mut self) {
        while self.carry() {}
        for shard in &mut self.shards {
            while !shard.poll_flush(NOW, &mut self.sink, 8192) {}
            while shard.poll_action().is_some() {}
            shard.handle_turn_end(NOW.mono, NOW.mono);
        }
    }

    fn carry(&mut self) -> bool {
        let mut carried = false;
        for from in 0..self.shards.len() {
            for to in 0..self.shards.len() {
                let batch = self.shards.get_mut(from);
                let batch = batch.and_then(|shard| shard.poll_bus(CoreId(to as u16)));
                if let (Some(batch), Some(shard)) = (batch, self.shards.get_mut(to)) {
                    shard.handle_bus(NOW, batch);
                    carried = true;
                }
            }
        }
        carried
    }

    /// A room at home on core 1, with one member on each of two cores: connection 0.
    pub fn of_two_cores() -> (Node, String) {
        let mut node = Node::new(2);
        for n in 0.. {
            let room = format!("room-{n}");
            let homes = node.homes(1);
            node.connect(1, &format!("/ws/{room}"));
            node.turn();
            if node.homes(1) > homes {
                node.connect(0, &format!("/ws/{room}"));
                node.turn();
                return (node, room);
            }
            // Nobody is left in a room at home elsewhere: names are tried until one fits.
            node = Node::new(2);
        }
        (node, String::new())
    }
}
