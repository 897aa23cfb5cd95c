//! What the webhook counts: written by its one task, read by scrapes.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a question.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The backend knows the user.
    Granted,
    /// It does not let it in: 401 or 403.
    Denied,
    /// There was no answer in time.
    TimedOut,
    /// Nobody could be reached, or the connection broke.
    Unreachable,
    /// Another status.
    BadStatus,
    /// An answer that cannot be understood.
    Malformed,
    /// An answer that is longer than is read.
    TooLarge,
    /// The answer was known.
    Cached,
    /// The same was being asked.
    Shared,
    /// Too many waited.
    TooMany,
    /// The backend had failed too often to be asked.
    CircuitOpen,
}

const OUTCOMES: [(Outcome, &str); 11] = [
    (Outcome::Granted, "granted"),
    (Outcome::Denied, "denied"),
    (Outcome::TimedOut, "timed_out"),
    (Outcome::Unreachable, "unreachable"),
    (Outcome::BadStatus, "bad_status"),
    (Outcome::Malformed, "malformed"),
    (Outcome::TooLarge, "too_large"),
    (Outcome::Cached, "cached"),
    (Outcome::Shared, "shared"),
    (Outcome::TooMany, "too_many"),
    (Outcome::CircuitOpen, "circuit_open"),
];

/// The counters and gauges.
#[derive(Default, Debug)]
pub(in crate::control) struct Counters {
    outcomes: [AtomicU64; OUTCOMES.len()],
    in_flight: AtomicU64,
    waiting: AtomicU64,
    circuit_open: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, outcome: Outcome) {
        if let Some(cell) = self.outcomes.get(outcome as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn tell(&self, in_flight: usize, waiting: usize, circuit_open: bool) {
        self.in_flight.store(in_flight as u64, Ordering::Relaxed);
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        self.circuit_open
            .store(circuit_open.into(), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// The text for a scrape.
    pub(in crate::control) fn render(&self, out: &mut String) {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "# HELP tidewheel_auth_webhook_questions_total Questions about credentials, and what became of them.\n\
             # TYPE tidewheel_auth_webhook_questions_total counter"
        );
        for ((_, name), cell) in OUTCOMES.iter().zip(&self.outcomes) {
            let n = cell.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "tidewheel_auth_webhook_questions_total{{outcome=\"{name}\"}} {n}"
            );
        }
        let gauges = [
            (
                "in_flight",
                "Questions that the webhook is asked now.",
                &self.in_flight,
            ),
            (
                "waiting",
                "Connections that wait for its answers.",
                &self.waiting,
            ),
            (
                "circuit_open",
                "Whether the webhook failed too often to be asked just now.",
                &self.circuit_open,
            ),
        ];
        for (name, help, value) in gauges {
            let name = format!("tidewheel_auth_webhook_{name}");
            let value = value.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_line() {
        let counters = Counters::default();
        for (place, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, place);
            counters.count(*outcome);
        }
        counters.tell(2, 3, true);
        let mut text = String::new();
        counters.render(&mut text);
        assert_eq!(text.matches("\"} 1\n").count(), OUTCOMES.len());
        assert!(text.contains("\ntidewheel_auth_webhook_circuit_open 1\n"));
        let docs = include_str!("../../../docs/metrics.md");
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(docs.contains(&format!("| `{name}` | {kind} |")), "{name}");
        }
    }
}
