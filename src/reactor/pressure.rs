//! What all cores hold together, as each of them knows it: one number a core, written by that core
//! when it has changed by some, read by the others once a turn.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use crate::address::CoreId;
use crate::metrics::Memory;
use crate::shard::{Load, Outside, Pressure};

/// A core tells of a change once it is so large, in bytes. A thousand cores are off by 64 MiB at the
/// most.
const CHANGE_MIN: usize = 64 * 1024;

/// One core's number, on cache lines of its own: nobody else writes near it.
#[repr(align(128))]
#[derive(Default, Debug)]
struct Told {
    held: AtomicUsize,
    pressure: AtomicU8,
}

/// What is measured about the process as a whole, in bytes.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Measured {
    /// Resident memory.
    pub resident: usize,
    /// Sockets in the kernel.
    pub sockets: usize,
    /// The part of those that counts as this process's.
    pub charged: usize,
    /// The system is near the end of its memory, or the control group of its limit.
    pub is_near_end: bool,
}

/// The memory of the node. Nothing here is exact to the moment, and nothing has to be: a core that
/// sees an old number gives back somewhat more or less in this turn.
#[derive(Debug)]
pub struct NodeMemory {
    budget_bytes: usize,
    cores: Box<[Told]>,
    /// The highest level since it was asked for.
    peak: AtomicU8,
    resident: AtomicUsize,
    sockets: AtomicUsize,
    charged: AtomicUsize,
    is_near_end: AtomicBool,
    /// Makes the allocator give free pages of this thread back to the system.
    pub collect: fn(),
}

impl NodeMemory {
    /// A node of so many cores that hold nothing yet.
    pub fn new(cores: usize, budget_bytes: usize, collect: fn()) -> NodeMemory {
        NodeMemory {
            budget_bytes,
            cores: (0..cores).map(|_| Told::default()).collect(),
            peak: AtomicU8::new(0),
            resident: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            is_near_end: AtomicBool::new(false),
            collect,
        }
    }

    /// The rest of the node, as `core` has to know it.
    pub(super) fn load(&self, core: CoreId, outside: Outside) -> Load {
        let others = self.cores.iter().enumerate();
        let others = others.filter(|(index, _)| *index != core.index());
        Load {
            others: others
                .map(|(_, told)| told.held.load(Ordering::Relaxed))
                .sum(),
            measured: self.charged.load(Ordering::Relaxed),
            outside,
            refuse: self.is_near_end.load(Ordering::Relaxed),
        }
    }

    /// A core tells what it holds and how near it sees the budget.
    pub(super) fn tell(&self, core: CoreId, held: usize, pressure: Pressure) {
        let Some(told) = self.cores.get(core.index()) else {
            return;
        };
        if told.held.load(Ordering::Relaxed).abs_diff(held) >= CHANGE_MIN {
            told.held.store(held, Ordering::Relaxed);
        }
        let level = pressure.number() as u8;
        if told.pressure.load(Ordering::Relaxed) != level {
            told.pressure.store(level, Ordering::Relaxed);
            self.peak.fetch_max(level, Ordering::Relaxed);
        }
    }

    /// Takes note of what was measured.
    pub fn measure(&self, measured: Measured) {
        self.resident.store(measured.resident, Ordering::Relaxed);
        self.sockets.store(measured.sockets, Ordering::Relaxed);
        self.charged.store(measured.charged, Ordering::Relaxed);
        self.is_near_end
            .store(measured.is_near_end, Ordering::Relaxed);
    }

    /// The budget, in bytes; 0 for none.
    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// What all cores hold, as they told.
    pub fn held_bytes(&self) -> usize {
        let held = self.cores.iter().map(|c| c.held.load(Ordering::Relaxed));
        held.sum()
    }

    /// The highest level of all cores now, and the highest since this was asked last.
    pub fn levels(&self) -> (u8, u8) {
        let levels = self
            .cores
            .iter()
            .map(|c| c.pressure.load(Ordering::Relaxed));
        let now = levels.max().unwrap_or_default();
        (now, self.peak.swap(now, Ordering::Relaxed).max(now))
    }

    /// Puts what belongs to the node as a whole into one core's metrics.
    pub(super) fn write(&self, memory: &mut Memory) {
        memory.budget_bytes = self.budget_bytes as u64;
        memory.resident_bytes = self.resident.load(Ordering::Relaxed) as u64;
        memory.sockets_bytes = self.sockets.load(Ordering::Relaxed) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_hears_what_the_others_hold_once_it_is_enough_to_tell() {
        let node = NodeMemory::new(3, 0, || {});
        let load = |core| node.load(CoreId(core), Outside::default()).others;
        node.tell(CoreId(0), CHANGE_MIN, Pressure::Trim);
        node.tell(CoreId(1), CHANGE_MIN - 1, Pressure::Calm);
        node.tell(CoreId(2), 3 * CHANGE_MIN, Pressure::Calm);
        assert_eq!((load(0), load(1)), (3 * CHANGE_MIN, 4 * CHANGE_MIN));
        assert_eq!(node.held_bytes(), 4 * CHANGE_MIN);
        node.tell(CoreId(0), 0, Pressure::Calm);
        assert_eq!(
            (load(1), node.levels(), node.levels()),
            (3 * CHANGE_MIN, (0, 1), (0, 0))
        );
    }
}
