//! What the store counts: written by its one thread, read by scrapes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::bus::StoreFault;
use crate::metrics::Latency;
use crate::metrics::exposition::{Exposition, Source, Type};

/// Counters and gauges of the store.
#[derive(Default, Debug)]
pub struct StoreFigures {
    commits: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    queue_records: AtomicU64,
    queue_bytes: AtomicU64,
    disk_bytes: AtomicU64,
    rooms: AtomicU64,
    messages: AtomicU64,
    failing: AtomicBool,
    slow: Mutex<Slow>,
}

/// What is written once a commit, and too large for an atomic.
#[derive(Default, Debug)]
struct Slow {
    commit: Latency,
    fault: Option<StoreFault>,
}

/// What waits in memory for the disk, and what is on it.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Gauges {
    pub(super) queue_records: usize,
    pub(super) queue_bytes: usize,
    pub(super) disk_bytes: u64,
    pub(super) rooms: usize,
    pub(super) messages: usize,
}

impl StoreFigures {
    /// Commits that are on disk.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Commits that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Messages that were refused since they could not be kept: with `--durability fsync`.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Records that are lost: their memory was needed before the disk took them.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes of memory in which records wait for the disk.
    pub fn queue_bytes(&self) -> u64 {
        self.queue_bytes.load(Ordering::Relaxed)
    }

    /// Whether the last commit failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Why the last commit that failed did so.
    pub fn last_fault(&self) -> Option<StoreFault> {
        self.slow().fault.clone()
    }

    /// How long commits took.
    pub fn commit_latency(&self) -> Latency {
        self.slow().commit.clone()
    }

    fn slow(&self) -> std::sync::MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn committed(&self, records: usize, bytes: usize, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
        self.slow().commit.record(took);
    }

    pub(super) fn failed(&self, fault: &StoreFault) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
        self.slow().fault = Some(fault.clone());
    }

    pub(super) fn refuse(&self, messages: usize) {
        self.refused.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Counts records that a core could not hand over at all: the folder is not marked as clean at
    /// the end then. To be called before [`super::StoreHandle::stop`].
    pub fn admit_loss(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn lose(&self, records: usize) {
        self.lost.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn tell(&self, gauges: Gauges) {
        let set = |cell: &AtomicU64, value: u64| cell.store(value, Ordering::Relaxed);
        set(&self.queue_records, gauges.queue_records as u64);
        set(&self.queue_bytes, gauges.queue_bytes as u64);
        set(&self.disk_bytes, gauges.disk_bytes);
        set(&self.rooms, gauges.rooms as u64);
        set(&self.messages, gauges.messages as u64);
    }
}

impl Source for StoreFigures {
    fn write(&self, out: &mut Exposition) {
        let mut counter = |name, help, cell: &AtomicU64| {
            out.counter(name, help, cell.load(Ordering::Relaxed));
        };
        let help = "Commits of history that are on disk.";
        counter("tidewheel_store_commits_total", help, &self.commits);
        let help = "Records that are on disk.";
        counter("tidewheel_store_records_total", help, &self.records);
        let help = "Bytes of memory that these records took.";
        counter("tidewheel_store_record_bytes_total", help, &self.bytes);
        let name = "tidewheel_store_commit_failures_total";
        counter(name, "Commits that failed.", &self.failures);
        let name = "tidewheel_store_refused_messages_total";
        let help = "Messages that were not accepted since they could not be kept.";
        counter(name, help, &self.refused);
        let name = "tidewheel_store_lost_records_total";
        let help = "Records that the disk did not take before their memory was needed.";
        counter(name, help, &self.lost);

        let failing = u64::from(self.is_failing());
        let help = "Whether the last commit failed.";
        out.gauge("tidewheel_store_failing", help, failing);
        let mut gauge = |name, help, cell: &AtomicU64| {
            out.gauge(name, help, cell.load(Ordering::Relaxed));
        };
        let help = "Records that wait for the disk.";
        gauge("tidewheel_store_queue_records", help, &self.queue_records);
        let help = "Bytes of memory in which they wait.";
        gauge("tidewheel_store_queue_bytes", help, &self.queue_bytes);
        let help = "Bytes of the database and its journal.";
        gauge("tidewheel_store_disk_bytes", help, &self.disk_bytes);
        gauge("tidewheel_store_rooms", "Rooms that are kept.", &self.rooms);
        let help = "Messages that are kept, and those whose key is.";
        gauge("tidewheel_store_messages", help, &self.messages);

        let help = "How long commits took, the wait for the disk included.";
        out.family("tidewheel_store_commit_seconds", Type::Histogram, help);
        out.latency(&[], &self.commit_latency());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn every_figure_has_its_line() {
        let figures = StoreFigures::default();
        figures.committed(3, 900, Duration::from_millis(2));
        figures.failed(&StoreFault("disk full".into()));
        figures.refuse(4);
        figures.lose(5);
        figures.tell(Gauges {
            queue_records: 6,
            queue_bytes: 7,
            disk_bytes: 8,
            rooms: 9,
            messages: 10,
        });
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let mut out = Exposition::new(format);
            figures.write(&mut out);
            let text = out.finish();
            lint::check(&text, format);
            lint::check_documented(&text);
        }
        let mut out = Exposition::new(Format::Prometheus);
        figures.write(&mut out);
        let text = out.finish();
        for line in [
            "tidewheel_store_commits_total 1",
            "tidewheel_store_records_total 3",
            "tidewheel_store_record_bytes_total 900",
            "tidewheel_store_commit_failures_total 1",
            "tidewheel_store_refused_messages_total 4",
            "tidewheel_store_lost_records_total 5",
            "tidewheel_store_failing 1",
            "tidewheel_store_queue_records 6",
            "tidewheel_store_queue_bytes 7",
            "tidewheel_store_disk_bytes 8",
            "tidewheel_store_rooms 9",
            "tidewheel_store_messages 10",
            "tidewheel_store_commit_seconds_bucket{le=\"0.001\"} 0",
            "tidewheel_store_commit_seconds_bucket{le=\"0.0025\"} 1",
            "tidewheel_store_commit_seconds_count 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} in {text}");
        }
        assert_eq!(figures.last_fault(), Some(StoreFault("disk full".into())));
        figures.committed(1, 1, Duration::ZERO);
        assert!(!figures.is_failing());
    }
}
