//! How cores name each other, each other's connections, and rooms.

use std::sync::Arc;

/// A core of the data plane: its index, from 0.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(pub u16);

impl CoreId {
    /// The core's place in tables of cores.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A connection, named so that another core may keep the name: once the slot is given to somebody
/// else the generation differs, and what was meant for the old peer is not handed to the new one.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionRef {
    /// The slot in its core's table.
    pub index: u32,
    /// Which use of the slot is meant, modulo 65,536.
    pub generation: u16,
    /// The core that owns the socket.
    pub core: CoreId,
}

/// A room's name with its seeded hash, which is the same on all cores of a node.
#[derive(Clone, Debug)]
pub struct RoomKey {
    hash: u64,
    name: Arc<str>,
}

impl RoomKey {
    /// Names a room; `hash` is its name's by the node's hasher.
    pub fn new(name: &str, hash: u64) -> RoomKey {
        RoomKey {
            hash,
            name: Arc::from(name),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of the name.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
