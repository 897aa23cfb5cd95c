//! The state of the exchange with one peer: what waits to be written to it, and how much of its
//! nonsense is left unpunished.

mod queue;

pub use queue::{Class, Lent, Queue, SpareQueues};

use crate::time::Instant;

/// How many malformed messages a peer has sent in the running minute.
#[derive(Copy, Clone, Default, Debug)]
pub struct Budget {
    /// The minute's start, in seconds on the shard's clock.
    since_s: u32,
    count: u16,
}

/// The window of the budget, in seconds.
const WINDOW_S: u32 = 60;

impl Budget {
    /// Counts one more; says whether the peer is within `max` for the minute.
    pub fn spend(&mut self, now: Instant, max: u32) -> bool {
        let now_s = (now.as_millis() / 1_000) as u32;
        if self.count == 0 || now_s.wrapping_sub(self.since_s) >= WINDOW_S {
            *self = Budget {
                since_s: now_s,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        u32::from(self.count) <= max
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_budget_is_for_a_minute() {
        let mut budget = Budget::default();
        let at = |s| Instant::ORIGIN + Duration::from_secs(s);
        assert!((0..10).all(|i| budget.spend(at(i), 10)));
        assert!(!budget.spend(at(59), 10));
        assert!(budget.spend(at(60), 10), "a new minute");
    }
}
