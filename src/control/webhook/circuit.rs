//! A backend that fails again and again is left alone for a while: questions would only make it
//! worse, and their answers come no sooner.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which the backend is left alone.
const FAILURES_MAX: u32 = 8;

/// How long at first. Each failed try after that doubles it.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How long at most.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whether the backend is asked.
#[derive(Default, Debug)]
pub(super) struct Circuit {
    /// In a row.
    failures: u32,
    open: Option<Open>,
}

/// The backend is left alone.
#[derive(Debug)]
struct Open {
    pause: Duration,
    /// When it is tried again.
    until: Instant,
    /// It is being tried.
    is_tried: bool,
}

impl Circuit {
    /// Whether a question may be asked now. When a pause is over one may, and decides about the rest.
    pub(super) fn lets_through(&mut self, now: Instant) -> bool {
        let Some(open) = &mut self.open else {
            return true;
        };
        let is_due = open.until <= now && !open.is_tried;
        open.is_tried |= is_due;
        is_due
    }

    /// Whether the backend is left alone.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// It answered.
    pub(super) fn succeed(&mut self) {
        if self.is_open() {
            tracing::info!("the authentication webhook answers again");
        }
        *self = Circuit::default();
    }

    /// It did not.
    pub(super) fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = match &self.open {
            None if self.failures < FAILURES_MAX => return,
            None => PAUSE_MIN,
            // It was asked before it was left alone.
            Some(open) if !open.is_tried => return,
            Some(open) => (open.pause * 2).min(PAUSE_MAX),
        };
        self.open = Some(Open {
            pause,
            until: now + pause,
            is_tried: false,
        });
        let failures = self.failures;
        tracing::warn!(
            failures,
            ?pause,
            "the authentication webhook fails: nobody new is let in, and it is left alone for a while"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_fails_is_left_alone_and_tried_again_once_in_a_while() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut circuit = Circuit::default();
        for _ in 1..FAILURES_MAX {
            circuit.fail(at(0));
            assert!(circuit.lets_through(at(0)));
        }
        circuit.fail(at(0));
        // Others that had been asked.
        circuit.fail(at(500));
        assert!(circuit.is_open() && !circuit.lets_through(at(999)));
        assert!(circuit.lets_through(at(1_000)), "one is tried");
        assert!(!circuit.lets_through(at(1_000)), "and no other");
        circuit.fail(at(1_100));
        assert!(
            !circuit.lets_through(at(3_000)),
            "the pause is twice as long"
        );
        assert!(circuit.lets_through(at(3_100)));
        circuit.succeed();
        assert!(!circuit.is_open() && circuit.lets_through(at(3_100)));
        circuit.fail(at(3_200));
        assert!(circuit.lets_through(at(3_200)), "it is counted anew");
    }

    #[test]
    fn the_pause_has_an_end() {
        let mut now = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            assert!(circuit.lets_through(now));
            circuit.fail(now);
            now += PAUSE_MAX;
        }
        assert!(circuit.lets_through(now));
        circuit.fail(now);
        assert!(circuit.lets_through(now + PAUSE_MAX));
    }
}
