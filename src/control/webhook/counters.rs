//! What the webhook counts: written by its one task, read by scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::exposition::{Exposition, Source, Type};

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
    /// Whoever it was about went away before it was asked.
    Withdrawn,
}

const OUTCOMES: [(Outcome, &str); 12] = [
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
    (Outcome::Withdrawn, "withdrawn"),
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
}

impl Source for Counters {
    fn write(&self, out: &mut Exposition) {
        let help = "Questions about credentials, and what became of them.";
        let name = "tidewheel_auth_webhook_questions_total";
        out.family(name, Type::Counter, help);
        for ((_, name), cell) in OUTCOMES.iter().zip(&self.outcomes) {
            out.sample(&[("outcome", name)], cell.load(Ordering::Relaxed));
        }
        let mut gauge = |name, help, value: &AtomicU64| {
            out.gauge(name, help, value.load(Ordering::Relaxed));
        };
        let help = "Questions that the webhook is asked now.";
        gauge("tidewheel_auth_webhook_in_flight", help, &self.in_flight);
        let help = "Connections that wait for its answers.";
        gauge("tidewheel_auth_webhook_waiting", help, &self.waiting);
        let help = "Whether the webhook failed too often to be asked just now.";
        let name = "tidewheel_auth_webhook_circuit_open";
        gauge(name, help, &self.circuit_open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn every_outcome_has_its_own_line() {
        let counters = Counters::default();
        for (place, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, place);
            counters.count(*outcome);
        }
        counters.tell(2, 3, true);
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let mut out = Exposition::new(format);
            counters.write(&mut out);
            let text = out.finish();
            let series = lint::check(&text, format);
            assert_eq!(text.matches("\"} 1\n").count(), OUTCOMES.len());
            assert_eq!(series["tidewheel_auth_webhook_circuit_open"], 1.0);
            lint::check_documented(&text);
        }
    }
}
