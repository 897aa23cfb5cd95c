//! The last quarter of an hour, so that a page that is opened now shows what was.

use std::collections::VecDeque;

use serde::Serialize;

use crate::metrics::Digest;

/// Points that are kept: 15 min of 5 s each.
const POINTS: usize = 180;

/// A few figures of five seconds. Rates are for one second, durations in seconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Point {
    /// The end of the five seconds, by the wall clock, in milliseconds.
    pub(super) unix_ms: u64,
    connections: u64,
    messages_in: f64,
    deliveries: f64,
    bytes_out: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    /// Deliveries were counted: without any, quantiles are no figures.
    count: u64,
    held_bytes: u64,
    resident_bytes: u64,
    evicted: u64,
}

impl Point {
    pub(super) fn of(digest: &Digest, unix_ms: u64) -> Point {
        let spread = digest.publish_to_last_write;
        Point {
            unix_ms,
            connections: digest.connections,
            messages_in: round(digest.messages_in_per_second),
            deliveries: round(digest.deliveries_per_second),
            bytes_out: round(digest.bytes_out_per_second),
            p50: spread.p50,
            p90: spread.p90,
            p99: spread.p99,
            count: spread.count,
            held_bytes: digest.memory.held_bytes,
            resident_bytes: digest.memory.resident_bytes,
            evicted: digest.evicted.values().sum(),
        }
    }
}

/// Points, oldest first.
#[derive(Default)]
pub(super) struct Ring(VecDeque<Point>);

impl Ring {
    pub(super) fn push(&mut self, point: Point) {
        if self.0.len() == POINTS {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// Those later than this, as a JSON array, and when the newest was; none where there are none.
    pub(super) fn since(&self, unix_ms: u64) -> Option<(Vec<u8>, u64)> {
        let newest = self.0.back().filter(|point| point.unix_ms > unix_ms)?;
        let later: Vec<&Point> = (self.0.iter())
            .skip_while(|point| point.unix_ms <= unix_ms)
            .collect();
        Some((serde_json::to_vec(&later).ok()?, newest.unix_ms))
    }
}

/// Two digits are enough for a rate, and a third of the bytes.
fn round(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_a_quarter_of_an_hour_and_tells_what_is_new() {
        let mut ring = Ring::default();
        assert!(ring.since(0).is_none());
        let digest = Digest {
            deliveries_per_second: 1.0 / 3.0,
            ..Digest::default()
        };
        for n in 1..=500 {
            ring.push(Point::of(&digest, n * 5_000));
        }
        let told = |since| -> (Vec<serde_json::Value>, u64) {
            let (json, newest) = ring.since(since).unwrap();
            (serde_json::from_slice(&json).unwrap(), newest)
        };
        let (points, newest) = told(0);
        assert_eq!((points.len(), newest), (180, 2_500_000));
        assert_eq!(points[0]["unix_ms"], 321 * 5_000);
        assert_eq!(points[0]["deliveries"], 0.33);
        assert_eq!(told(2_490_000).0.len(), 2);
        assert!(ring.since(newest).is_none());
    }
}
