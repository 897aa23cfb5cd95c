//! The real clock, in the one place of the data plane that reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::{Instant, Now};

/// A clock whose origin is the moment it was made, or some time before; copies agree.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    origin: std::time::Instant,
    /// How far before the start its own origin lies.
    past: Duration,
}

impl Clock {
    /// Starts at the origin.
    #[allow(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn start() -> Clock {
        Clock {
            origin: std::time::Instant::now(),
            past: Duration::ZERO,
        }
    }

    /// The same with moments before the start, for what is older than the process.
    pub fn with_past(past: Duration) -> Clock {
        Clock {
            past,
            ..Clock::start()
        }
    }

    /// The monotonic clock, now: half the price of both.
    #[allow(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn mono(&self) -> Instant {
        Instant::ORIGIN + self.past + self.origin.elapsed()
    }

    /// Both clocks, now.
    #[allow(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = since_epoch.unwrap_or(Duration::ZERO).as_millis() as u64;
        Now {
            mono: self.mono(),
            unix_ms,
        }
    }
}
