//! What is counted of events on their way to the backend: written by one task, read by scrapes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::control::hooks::event::TYPES;
use crate::metrics::Latency;
use crate::metrics::exposition::{Exposition, Source, Type};

/// Why a request was no delivery.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// There was no answer in time.
    TimedOut,
    /// Nobody could be reached, or the connection broke.
    Unreachable,
    /// The backend said that it cannot just now: 408, 429, 5xx.
    Unwell,
    /// It did not want it: any other status.
    Refused,
}

const FAILURES: [(Failure, &str); 4] = [
    (Failure::TimedOut, "timed_out"),
    (Failure::Unreachable, "unreachable"),
    (Failure::Unwell, "unwell"),
    (Failure::Refused, "refused"),
];

/// Why an event was not told.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// A core could not give it away: too many waited.
    Core,
    /// It was the oldest of too many that waited for the backend.
    Queue,
    /// The backend did not want the batch.
    Refused,
    /// The batch failed for too long.
    GivenUp,
    /// The node ended first.
    Stopped,
}

const LOSSES: [(Loss, &str); 5] = [
    (Loss::Core, "core"),
    (Loss::Queue, "queue"),
    (Loss::Refused, "refused"),
    (Loss::GivenUp, "given_up"),
    (Loss::Stopped, "stopped"),
];

/// The counters and gauges.
#[derive(Default, Debug)]
pub(in crate::control) struct Counters {
    events: [AtomicU64; TYPES.len()],
    came_to_nothing: AtomicU64,
    delivered: AtomicU64,
    retries: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
    dropped: [AtomicU64; LOSSES.len()],
    waiting: AtomicU64,
    queued: AtomicU64,
    queued_bytes: AtomicU64,
    failing: AtomicU64,
    /// From a batch's first request to its delivery.
    took: Mutex<Latency>,
}

fn add(cell: Option<&AtomicU64>, n: u64) {
    if let Some(cell) = cell {
        cell.fetch_add(n, Ordering::Relaxed);
    }
}

impl Counters {
    /// So many events of each type were told.
    pub(super) fn count_events(&self, told: &[u64; TYPES.len()]) {
        for (cell, n) in self.events.iter().zip(told) {
            cell.fetch_add(*n, Ordering::Relaxed);
        }
    }

    /// Two changes took each other back.
    pub(super) fn count_nothing(&self) {
        add(Some(&self.came_to_nothing), 2);
    }

    pub(super) fn count_retry(&self) {
        add(Some(&self.retries), 1);
    }

    pub(super) fn count_failure(&self, failure: Failure) {
        add(self.failures.get(failure as usize), 1);
    }

    pub(super) fn count_loss(&self, loss: Loss, n: u64) {
        add(self.dropped.get(loss as usize), n);
    }

    /// A batch was delivered so long after it was first sent.
    pub(super) fn count_delivery(&self, took: Duration) {
        add(Some(&self.delivered), 1);
        let mut all = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        all.record(took);
    }

    /// Whether the backend fails just now.
    pub(super) fn tell_failing(&self, is_failing: bool) {
        self.failing.store(is_failing.into(), Ordering::Relaxed);
    }

    pub(super) fn tell(&self, waiting: usize, queued: usize, queued_bytes: usize) {
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        self.queued.store(queued as u64, Ordering::Relaxed);
        self.queued_bytes
            .store(queued_bytes as u64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn lost(&self, loss: Loss) -> u64 {
        self.dropped[loss as usize].load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn failed(&self, failure: Failure) -> u64 {
        self.failures[failure as usize].load(Ordering::Relaxed)
    }
}

impl Source for Counters {
    fn write(&self, out: &mut Exposition) {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let help = "Events that the backend was told.";
        out.family("tidewheel_hook_events_total", Type::Counter, help);
        for (name, cell) in TYPES.iter().zip(&self.events) {
            out.sample(&[("type", name)], read(cell));
        }
        let help = "Changes that were not told, because their opposite came soon.";
        let name = "tidewheel_hook_coalesced_total";
        out.counter(name, help, read(&self.came_to_nothing));
        let help = "Batches of events that were delivered.";
        let name = "tidewheel_hook_batches_total";
        out.counter(name, help, read(&self.delivered));
        let help = "Requests that were not the first with their batch.";
        let name = "tidewheel_hook_retries_total";
        out.counter(name, help, read(&self.retries));
        let help = "Requests with events that were no delivery.";
        out.family("tidewheel_hook_failures_total", Type::Counter, help);
        for ((_, name), cell) in FAILURES.iter().zip(&self.failures) {
            out.sample(&[("reason", name)], read(cell));
        }
        let help = "Events that the backend was not told; it is told their number.";
        let name = "tidewheel_hook_events_dropped_total";
        out.family(name, Type::Counter, help);
        for ((_, name), cell) in LOSSES.iter().zip(&self.dropped) {
            out.sample(&[("reason", name)], read(cell));
        }
        let help = "Changes that wait in case their opposite comes.";
        out.gauge("tidewheel_hook_waiting", help, read(&self.waiting));
        let help = "Events that wait for the backend, with those on the way to it.";
        out.gauge("tidewheel_hook_queue_events", help, read(&self.queued));
        let help = "Memory of events that wait for the backend, or are on the way to it.";
        out.gauge("tidewheel_hook_queue_bytes", help, read(&self.queued_bytes));
        let help = "Whether the last request with events failed.";
        out.gauge("tidewheel_hook_failing", help, read(&self.failing));
        let help = "From a batch's first request to its delivery.";
        let name = "tidewheel_hook_delivery_seconds";
        out.family(name, Type::Histogram, help);
        let took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        out.latency(&[], &took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn everything_that_is_counted_has_its_own_line() {
        let counters = Counters::default();
        for (place, (failure, _)) in FAILURES.iter().enumerate() {
            assert_eq!(*failure as usize, place);
            counters.count_failure(*failure);
        }
        for (place, (loss, _)) in LOSSES.iter().enumerate() {
            assert_eq!(*loss as usize, place);
            counters.count_loss(*loss, 1);
        }
        counters.count_events(&[1; TYPES.len()]);
        for ms in [0, 7, 1_000_000] {
            counters.count_delivery(Duration::from_millis(ms));
        }
        counters.tell(2, 3, 4);
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let mut out = Exposition::new(format);
            counters.write(&mut out);
            let text = out.finish();
            let series = lint::check(&text, format);
            let ones = FAILURES.len() + LOSSES.len() + TYPES.len();
            let counted = text.lines().filter(|line| line.ends_with("\"} 1"));
            let counted = counted.filter(|line| !line.contains("le="));
            assert_eq!(counted.count(), ones, "{text}");
            assert_eq!(series["tidewheel_hook_queue_events"], 3.0);
            assert_eq!(series["tidewheel_hook_delivery_seconds_count"], 3.0);
            lint::check_documented(&text);
        }
    }
}
