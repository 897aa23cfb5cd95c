//! Whether the node wants new connections.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where the node is in its life.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// The cores are not all listening so far.
    Starting,
    /// Connections are welcome.
    Ready,
    /// Connections are sent away.
    Draining,
}

/// The phase, shared by who sets it and who tells it. It starts as `Starting`.
#[derive(Default, Debug)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// A node that is starting.
    pub const fn new() -> Readiness {
        Readiness(AtomicU8::new(Phase::Starting as u8))
    }

    /// Moves on to `phase`. A node that drains does not become ready again: a start that ends only
    /// after the signal to stop changes nothing.
    pub fn set(&self, phase: Phase) {
        // The phases are numbered in the order of a node's life, and nothing else hangs on them.
        self.0.fetch_max(phase as u8, Ordering::Relaxed);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_drains_does_not_become_ready_again() {
        let readiness = Readiness::new();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.set(Phase::Ready);
        assert_eq!(readiness.phase(), Phase::Ready);
        readiness.set(Phase::Draining);
        readiness.set(Phase::Ready);
        assert_eq!(readiness.phase(), Phase::Draining);
    }
}
