//! What a core hands over to be kept on disk, and how that goes.

use crate::metrics::Latency;

/// A core's side of the store. All zero where nothing is kept on disk.
#[derive(Clone, Default, Debug)]
pub struct Store {
    /// Batches handed over.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Messages that had to wait for the disk, repeats included.
    pub staged: u64,
    /// Publishes that were answered with 4104.
    pub refused: u64,
    /// Records of messages and receipts that were not handed over, because the store was too far
    /// behind: what they say is not kept.
    pub lost: u64,
    /// Answers of the store that say that something is not kept.
    pub faults: u64,
    /// Time from handing a batch over to the answer that it is on disk.
    pub handed_to_stored: Latency,
}

impl Store {
    pub(super) fn merge(&mut self, other: &Store) {
        let Store {
            batches,
            records,
            staged,
            refused,
            lost,
            faults,
            handed_to_stored,
        } = other;
        self.batches += batches;
        self.records += records;
        self.staged += staged;
        self.refused += refused;
        self.lost += lost;
        self.faults += faults;
        self.handed_to_stored.merge(handed_to_stored);
    }
}
