//! The one clock of a run: publishers stamp with it, receivers and the pacing read it.

use std::thread;
use std::time::{Duration, Instant};

/// Nanoseconds since the run began, from the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts counting now.
    #[allow(clippy::disallowed_methods, reason = "the harness measures real time")]
    pub fn start() -> Clock {
        Clock {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(self) -> u64 {
        duration_ns(self.origin.elapsed())
    }

    /// Sleeps until then.
    pub fn wait_until(self, due_ns: u64) {
        loop {
            match until(self.now_ns(), due_ns) {
                Duration::ZERO => return,
                left => thread::park_timeout(left),
            }
        }
    }

    /// The time where it `is_needed`, and 0 otherwise.
    pub fn now_ns_if(self, is_needed: bool) -> u64 {
        if is_needed { self.now_ns() } else { 0 }
    }
}

/// A duration in nanoseconds; 584 years and more are all the same.
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How long until `due_ns`; nothing where that is past.
pub fn until(now_ns: u64, due_ns: u64) -> Duration {
    Duration::from_nanos(due_ns.saturating_sub(now_ns))
}
