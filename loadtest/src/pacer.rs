//! One stream of actions at a fixed rate: when the next is due, and for whom.

/// So many actions a second since it began.
///
/// The time of an action is when it was due, not when it was done: a late one counts as slow.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    began_ns: u64,
    interval_ns: f64,
    turn: u64,
}

impl Pacer {
    /// Begins at `began_ns`; nothing where the rate is zero.
    pub fn start(per_second: f64, began_ns: u64) -> Option<Pacer> {
        (per_second > 0.0).then_some(Pacer {
            began_ns,
            interval_ns: 1e9 / per_second,
            turn: 0,
        })
    }

    /// When the next action is due.
    pub fn due_ns(&self) -> u64 {
        self.began_ns
            .saturating_add((self.turn as f64 * self.interval_ns) as u64)
    }

    /// The due time of the next action where that has come; the one after it is next then.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.due_ns();
        (due_ns <= now_ns).then(|| {
            self.turn += 1;
            due_ns
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_due_evenly_and_a_late_one_keeps_its_time() {
        let mut pacer = Pacer::start(1_000.0, 5).unwrap();
        assert_eq!((pacer.take(4), pacer.take(5)), (None, Some(5)));
        assert_eq!(pacer.due_ns(), 1_000_005);
        assert_eq!(pacer.take(9_000_000), Some(1_000_005));
        assert_eq!(pacer.take(9_000_000), Some(2_000_005));
    }

    #[test]
    fn no_rate_is_no_pacer() {
        assert!(Pacer::start(0.0, 0).is_none());
    }
}
