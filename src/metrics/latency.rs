//! Durations as a histogram of bounded size and error.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The finest step, and the longest duration that is told apart from longer ones.
const STEP_NS: u64 = 1_000;
const LONGEST_NS: u64 = 60_000_000_000;
/// Two digits keep the error below 1 % in 21 KiB; three would take 250 KiB.
const DIGITS: u8 = 2;

/// How long something took, each time: from 1 µs to 1 min, to within 1 %.
///
/// What took longer than a minute counts as a minute, except in `sum`, which is exact.
#[derive(Clone, Debug)]
pub struct Latency {
    counts: Histogram<u64>,
    sum_ns: u64,
}

impl Latency {
    /// Counts one duration.
    pub fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts.saturating_record(nanos.min(LONGEST_NS));
        self.sum_ns = self.sum_ns.saturating_add(nanos);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The duration that the share `quantile` (0 to 1) of all did not exceed; zero without any.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.counts.value_at_quantile(quantile))
    }

    /// How many durations were at most `bound`, to within the histogram's error.
    pub fn count_up_to(&self, bound: Duration) -> u64 {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        self.counts.count_between(0, nanos)
    }

    /// What was counted after `earlier`, a copy of this one from before.
    ///
    /// Where that is not what `earlier` is, all that was counted.
    pub fn since(&self, earlier: &Latency) -> Latency {
        let mut counts = self.counts.clone();
        if counts.subtract(&earlier.counts).is_err() {
            return self.clone();
        }
        Latency {
            counts,
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// Adds another core's durations.
    pub fn merge(&mut self, other: &Latency) {
        let added = self.counts.add(&other.counts);
        debug_assert!(added.is_ok(), "all latencies have the same bounds");
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

impl Default for Latency {
    #[expect(clippy::expect_used, reason = "constants, and a test that runs this")]
    fn default() -> Latency {
        let counts = Histogram::new_with_bounds(STEP_NS, LONGEST_NS, DIGITS);
        Latency {
            counts: counts.expect("the bounds are valid"),
            sum_ns: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_told_to_within_one_percent() {
        for micros in [2u64, 10, 99, 1_234, 56_789, 1_000_001, 59_000_000] {
            let mut latency = Latency::default();
            latency.record(Duration::from_micros(micros));
            let told = latency.quantile(0.5).as_secs_f64() * 1e6;
            let error = (told - micros as f64).abs();
            assert!(
                error <= (0.01 * micros as f64).max(1.0),
                "{micros} µs told as {told}"
            );
            assert_eq!(latency.sum(), Duration::from_micros(micros));
        }
    }

    #[test]
    fn what_is_out_of_range_is_counted_all_the_same() {
        let mut latency = Latency::default();
        for took in [Duration::ZERO, Duration::from_secs(3600), Duration::MAX] {
            latency.record(took);
        }
        assert_eq!(latency.count(), 3);
        assert_eq!(latency.count_up_to(Duration::from_micros(1)), 1);
        assert_eq!(latency.count_up_to(Duration::from_secs(61)), 3);
    }

    #[test]
    fn what_was_counted_since_a_copy_was_made_is_told_apart() {
        let mut latency = Latency::default();
        latency.record(Duration::from_secs(5));
        let earlier = latency.clone();
        latency.record(Duration::from_millis(2));
        let since = latency.since(&earlier);
        assert_eq!((since.count(), since.sum()), (1, Duration::from_millis(2)));
        assert!(since.quantile(1.0) < Duration::from_millis(3));
        // The other way round there is nothing to tell apart.
        assert_eq!(earlier.since(&latency).count(), 1);
    }

    #[test]
    fn latencies_of_two_cores_add_up() {
        let mut one = Latency::default();
        one.record(Duration::from_millis(1));
        let mut two = Latency::default();
        two.record(Duration::from_millis(3));
        two.merge(&one);
        assert_eq!((two.count(), two.sum()), (2, Duration::from_millis(4)));
        assert_eq!(two.count_up_to(Duration::from_millis(2)), 1);
    }
}
