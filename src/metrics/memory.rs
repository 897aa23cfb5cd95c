//! What is held in memory, and what was given back to stay within the budget.

use crate::metrics::{Counts, MemoryKind};

/// Memory of one core, or of all together. What belongs to the node as a whole is told by one core.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    /// Gauge: counted bytes.
    pub held: Counts<MemoryKind>,
    /// Gauge: `--memory-budget`, 0 for none. The node's.
    pub budget_bytes: u64,
    /// Gauge: resident memory of the process, as last measured. The node's.
    pub resident_bytes: u64,
    /// Gauge: sockets' memory in the kernel, as last measured. The node's.
    pub sockets_bytes: u64,
    /// Gauge: how near the budget is, 0 to 4; all together, the highest.
    pub pressure: u64,
    /// Messages that rooms let go of before their time.
    pub history_trimmed: u64,
    /// Accepted publishes that were forgotten before their time.
    pub keys_trimmed: u64,
}

impl Memory {
    pub(super) fn merge(&mut self, other: &Memory) {
        let Memory {
            held,
            budget_bytes,
            resident_bytes,
            sockets_bytes,
            pressure,
            history_trimmed,
            keys_trimmed,
        } = other;
        self.held.merge(held);
        self.budget_bytes += budget_bytes;
        self.resident_bytes += resident_bytes;
        self.sockets_bytes += sockets_bytes;
        self.pressure = self.pressure.max(*pressure);
        self.history_trimmed += history_trimmed;
        self.keys_trimmed += keys_trimmed;
    }
}
