//! Instants as plain numbers, so that everything below the reactor is handed its time.
//!
//! Nothing here reads a clock: the reactor, the simulation and the tests make a [`Now`] and pass
//! it down. Two clocks travel together because they answer different questions: the monotonic one
//! says how long something took, the wall clock says what to print in a timestamp. Deadlines use
//! the monotonic one alone, so a wall clock that jumps moves no timer.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the monotonic clock, in nanoseconds since an origin of the process's own choice.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ORIGIN: Instant = Instant(0);

    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the end of the clock, some 584 years after its origin.
    fn add(self, after: Duration) -> Instant {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_since(earlier)
    }
}

/// Both clocks, read once at the start of a turn and valid for all of it.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Now {
    /// The monotonic clock: deadlines and durations.
    pub mono: Instant,
    /// The wall clock in milliseconds since the Unix epoch, UTC: timestamps for people.
    pub unix_ms: u64,
}
