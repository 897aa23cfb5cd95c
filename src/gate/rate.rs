//! How fast is fast enough: a rate, and buckets that hold somebody to it.
//!
//! A bucket is one number: the moment at which it would be full again (the generic cell rate
//! algorithm, ITU-T I.371). Whoever takes something moves that moment on; where it would come to lie
//! further ahead than a burst reaches, there is too little in the bucket and nothing is taken. So in
//! any span of time nobody gets more than the burst and what the rate adds in that span.
//!
//! ```text
//!         now              full again        now + burst
//!   ───────┼──────────────────┼──────────────────┼──────►
//!          │◄── taken lately ─►│◄─ left to take ─►│
//! ```

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;

use crate::time::Instant;

/// Ticks of a bucket's clock in a nanosecond. 64 bits of them are 36 years.
const TICKS_IN_NANO: u64 = 16;

/// Nanoseconds in a tick of a small bucket's clock: 16 to a millisecond. 32 bits are three days.
const NANOS_IN_SMALL_TICK: u64 = 62_500;

/// The longest time that an empty bucket may take to be full.
const FILLING_MAX: Duration = Duration::from_secs(86_400);

/// Over which time a rate counts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Per {
    /// `/s`.
    Second,
    /// `/m`.
    Minute,
    /// `/h`.
    Hour,
}

impl Per {
    const ALL: [(Per, &'static str, u64); 3] = [
        (Per::Second, "s", 1),
        (Per::Minute, "m", 60),
        (Per::Hour, "h", 3_600),
    ];

    /// The unit with this name: `s`, `m` or `h`.
    pub fn from_name(name: &str) -> Option<Per> {
        let known = Per::ALL.iter().find(|(_, known, _)| *known == name);
        known.map(|(per, ..)| *per)
    }

    fn row(self) -> (&'static str, u64) {
        let row = Per::ALL.iter().find(|(per, ..)| *per == self);
        row.map_or(("s", 1), |(_, name, seconds)| (name, *seconds))
    }
}

/// Why there is no such rate.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum BadRate {
    /// Nothing at all would pass.
    #[error("a rate and its burst are at least 1; write off for no limit")]
    Zero,
    /// The bucket would take too long to fill.
    #[error("so large a burst takes more than a day to be had again; lower it, or raise the rate")]
    FillsTooSlowly,
}

/// So many in a time, and so many at once.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Rate {
    count: u32,
    per: Per,
    burst: u32,
    /// What one costs, in ticks; rounded up, so that never more than the rate pass.
    ticks: u64,
}

impl Rate {
    /// `count` in a time `per`, and up to `burst` of them at once.
    ///
    /// # Errors
    /// [`BadRate`] where nothing would pass, or where the burst takes more than a day to be had
    /// again.
    pub fn new(count: u32, per: Per, burst: u32) -> Result<Rate, BadRate> {
        if count == 0 || burst == 0 {
            return Err(BadRate::Zero);
        }
        let (_, seconds) = per.row();
        let ticks = (seconds * 1_000_000_000 * TICKS_IN_NANO).div_ceil(u64::from(count));
        let filling = u128::from(ticks) * u128::from(burst) / u128::from(TICKS_IN_NANO);
        if filling > FILLING_MAX.as_nanos() {
            return Err(BadRate::FillsTooSlowly);
        }
        Ok(Rate {
            count,
            per,
            burst,
            ticks,
        })
    }

    /// Whether more than `count` a second pass.
    pub fn is_above(self, count: u32) -> bool {
        let (_, seconds) = self.per.row();
        u64::from(self.count) > u64::from(count) * seconds
    }

    /// How many pass at once.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// How far ahead a bucket's moment may lie, in ticks.
    fn reach(self) -> u64 {
        self.ticks.saturating_mul(u64::from(self.burst))
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, _) = self.per.row();
        write!(f, "{}/{unit}:{}", self.count, self.burst)
    }
}

fn ticks_at(now: Instant) -> u64 {
    now.as_nanos().saturating_mul(TICKS_IN_NANO)
}

/// Rounded up: who waits for so long is let through.
fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_IN_NANO))
}

/// What somebody may still take at a rate. A new one is full.
#[derive(Copy, Clone, Default, Debug)]
pub struct Bucket {
    /// The moment at which it is full again, in ticks.
    full_at: u64,
}

impl Bucket {
    /// Takes `count` out, all or nothing.
    ///
    /// # Errors
    /// How long to wait until they can be had; for ever, nearly, where the burst is smaller.
    pub fn take(&mut self, rate: Rate, count: u32, now: Instant) -> Result<(), Duration> {
        self.full_at = taken(self.full_at, rate, count, now)?;
        Ok(())
    }

    /// Takes `count` out although there may be fewer: answers how long it takes until the debt is
    /// paid, zero where there is none.
    pub fn charge(&mut self, rate: Rate, count: u32, now: Instant) -> Duration {
        let now = ticks_at(now);
        let cost = rate.ticks.saturating_mul(u64::from(count));
        self.full_at = self.full_at.max(now).saturating_add(cost);
        duration(
            self.full_at
                .saturating_sub(now.saturating_add(rate.reach())),
        )
    }
}

/// The moment after `count` were taken from a bucket that is full again at `full_at`.
fn taken(full_at: u64, rate: Rate, count: u32, now: Instant) -> Result<u64, Duration> {
    let now = ticks_at(now);
    let cost = rate.ticks.saturating_mul(u64::from(count));
    let after = full_at.max(now).saturating_add(cost);
    match after.saturating_sub(now.saturating_add(rate.reach())) {
        0 => Ok(after),
        missing => Err(duration(missing)),
    }
}

/// A bucket that several cores take from, without a lock: together they get no more than one would.
#[derive(Default, Debug)]
pub struct SharedBucket {
    full_at: AtomicU64,
}

impl SharedBucket {
    /// As [`Bucket::take`]. The cores' clocks may differ by the length of a turn.
    ///
    /// # Errors
    /// As [`Bucket::take`].
    pub fn take(&self, rate: Rate, count: u32, now: Instant) -> Result<(), Duration> {
        let mut before = self.full_at.load(Ordering::Relaxed);
        loop {
            let after = taken(before, rate, count, now)?;
            match self.full_at.compare_exchange_weak(
                before,
                after,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(newer) => before = newer,
            }
        }
    }

    /// Whether all that was taken has come back.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Ordering::Relaxed) <= ticks_at(now)
    }
}

/// A bucket in half the memory, for what every connection has: its ticks are a sixteenth of a
/// millisecond, so a rate is at most 16,000 a second here.
#[derive(Copy, Clone, Debug)]
pub struct SmallBucket {
    /// The moment at which it is full again, modulo 2³² ticks.
    full_at: u32,
}

impl SmallBucket {
    /// A full one.
    pub fn new(now: Instant) -> SmallBucket {
        SmallBucket {
            full_at: small_ticks_at(now),
        }
    }

    /// Takes one out. Says whether there was one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let now = small_ticks_at(now);
        let cost = rate.ticks.div_ceil(TICKS_IN_NANO * NANOS_IN_SMALL_TICK);
        let reach = cost.saturating_mul(u64::from(rate.burst));
        let ahead = u64::from(self.full_at.wrapping_sub(now));
        // A moment further ahead than a burst reaches has passed: the clock went round.
        let ahead = if ahead > reach { 0 } else { ahead };
        let after = ahead + cost;
        if after > reach {
            return false;
        }
        self.full_at = now.wrapping_add(after as u32);
        true
    }
}

fn small_ticks_at(now: Instant) -> u32 {
    (now.as_nanos() / NANOS_IN_SMALL_TICK) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn rate(count: u32, per: Per, burst: u32) -> Rate {
        Rate::new(count, per, burst).unwrap()
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let rate = rate(10, Per::Second, 3);
        let mut bucket = Bucket::default();
        let mut small = SmallBucket::new(at(0));
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, 1, at(0)), Ok(()));
            assert!(small.take(rate, at(0)));
        }
        assert_eq!(bucket.take(rate, 1, at(0)), Err(Duration::from_millis(100)));
        assert!(!small.take(rate, at(99_000_000)));
        assert_eq!(
            bucket.take(rate, 1, at(99_000_000)),
            Err(Duration::from_millis(1))
        );
        assert_eq!(bucket.take(rate, 1, at(100_000_000)), Ok(()));
        assert!(small.take(rate, at(100_000_000)));
        assert!(bucket.take(rate, 4, at(10_000_000_000)).is_err(), "never");
    }

    #[test]
    fn a_charge_makes_a_debt_that_time_pays() {
        let rate = rate(1_000, Per::Second, 500);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.charge(rate, 500, at(0)), Duration::ZERO);
        assert_eq!(bucket.charge(rate, 250, at(0)), Duration::from_millis(250));
        assert!(bucket.take(rate, 1, at(250_000_000)).is_err());
        assert_eq!(bucket.take(rate, 1, at(251_000_000)), Ok(()));
    }

    #[test]
    fn rates_that_are_none_are_refused() {
        assert_eq!(Rate::new(0, Per::Second, 1), Err(BadRate::Zero));
        assert_eq!(Rate::new(1, Per::Second, 0), Err(BadRate::Zero));
        assert_eq!(Rate::new(1, Per::Hour, 25), Err(BadRate::FillsTooSlowly));
        assert!(Rate::new(1, Per::Hour, 24).is_ok());
        assert!(Rate::new(u32::MAX, Per::Second, u32::MAX).is_ok());
        assert_eq!(rate(5, Per::Minute, 7).to_string(), "5/m:7");
    }

    #[test]
    fn a_small_bucket_that_was_long_left_alone_is_full() {
        let rate = rate(1, Per::Second, 2);
        let mut small = SmallBucket::new(at(0));
        let day = 86_400_000_000_000;
        for days in [0, 1, 2, 3, 4, 25, 50, 400] {
            let now = at(days * day);
            assert!(small.take(rate, now) && small.take(rate, now), "{days}");
            assert!(!small.take(rate, now), "{days}");
        }
    }

    #[test]
    fn cores_that_share_a_bucket_get_no_more_than_one() {
        let bucket = SharedBucket::default();
        let rate = rate(1, Per::Hour, 20);
        let taken = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        if bucket.take(rate, 1, at(7)).is_ok() {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(taken.load(Ordering::Relaxed), 20);
        assert!(!bucket.is_full(at(7)));
        assert!(bucket.is_full(at(21 * 3_600 * 1_000_000_000)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// In every span: at most the burst and what the rate adds. And nobody waits longer than
        /// was said.
        #[test]
        fn no_span_of_time_lets_more_through_than_its_share(
            count in 1..5_000_u32, burst in 1..50_u32,
            steps in proptest::collection::vec((0..500_000_000_u64, 1..5_u32), 1..60),
        ) {
            let rate = rate(count, Per::Second, burst);
            let (mut bucket, shared, mut small) =
                (Bucket::default(), SharedBucket::default(), SmallBucket::new(at(0)));
            let (mut now, mut passed, mut passed_small) = (0, Vec::new(), Vec::new());
            for (pause, wanted) in steps {
                now += pause;
                let verdict = bucket.take(rate, wanted, at(now));
                prop_assert_eq!(shared.take(rate, wanted, at(now)), verdict);
                match verdict {
                    Ok(()) => passed.push((now, wanted)),
                    Err(wait) if wanted <= burst => {
                        let mut later = bucket;
                        let then = at(now) + wait;
                        prop_assert_eq!(later.take(rate, wanted, then), Ok(()));
                        let sooner = at(then.as_nanos() - 1);
                        prop_assert!(bucket.take(rate, wanted, sooner).is_err() || wait.is_zero());
                    }
                    Err(_) => {}
                }
                if small.take(rate, at(now)) {
                    passed_small.push((now, 1));
                }
            }
            for passed in [passed, passed_small] {
                for (i, (from, _)) in passed.iter().enumerate() {
                    let mut sum = 0;
                    for (to, taken) in &passed[i..] {
                        sum += u64::from(*taken);
                        // A small tick more, by which a small bucket's clock is coarse.
                        let span = to - from + NANOS_IN_SMALL_TICK;
                        let share = u128::from(span) * u128::from(count) / 1_000_000_000;
                        prop_assert!(u128::from(sum) <= u128::from(burst) + share + 1);
                    }
                }
            }
        }
    }
}
