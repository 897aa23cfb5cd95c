//! What is handed over to be kept on disk, and what comes back from there.

use crate::bus::{Records, Stored, StoredBan, StoredRoom};
use crate::shard::Shard;
use crate::time::Now;

impl Shard {
    /// What is to be handed over to the store at the end of a turn.
    pub fn poll_records(&mut self) -> Option<Records> {
        None
    }

    /// How far the store has come.
    pub fn handle_stored(&mut self, now: Now, _stored: &Stored) {
        self.set_now(now);
    }

    /// Takes in what was kept of the rooms that are at home here, and of all bans. To be called
    /// before anything else.
    pub fn restore(&mut self, now: Now, _rooms: Vec<StoredRoom>, _bans: &[StoredBan]) {
        self.set_now(now);
    }
}
