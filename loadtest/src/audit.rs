//! Whether everyone got everything, or was told why not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What receivers saw, summed over a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    /// Receivers that were joined.
    pub receivers: u64,
    /// Messages that arrived, in order.
    pub delivered: u64,
    /// Places where offsets were left out without a word.
    pub gaps: u64,
    /// Messages left out there.
    pub missing_in_gaps: u64,
    /// Offsets that came once more.
    pub repeats: u64,
    /// Offsets older than the last one, other than that one itself.
    pub out_of_order: u64,
    /// Messages announced as missed by `messages_missed`.
    pub announced_missed: u64,
    /// Messages with a payload that nobody published to their room. Results from before this was
    /// looked at lack it.
    #[serde(default)]
    pub altered: u64,
    /// Announcements that do not follow on from the last message.
    pub announced_wrongly: u64,
    /// Messages that an open connection still lacked at the end.
    pub missing_at_end: u64,
    /// Closes by the server, by code.
    pub closes: BTreeMap<u16, u64>,
    /// Messages not delivered because of such a close.
    pub undelivered_closed: u64,
    /// Connections that ended without a close frame.
    pub resets: u64,
    /// Messages not delivered because of that.
    pub undelivered_reset: u64,
    /// Messages of a room other than in the expected form (they count, at a cost).
    pub unusual_form: u64,
    /// `error` messages, by code.
    pub errors: BTreeMap<u64, u64>,
    /// Anything the protocol does not allow.
    pub faults: u64,
    /// The first of them.
    pub first_fault: Option<String>,
}

impl Audit {
    /// `offset` came where `expected` was due.
    #[cold]
    pub fn out_of_sequence(&mut self, expected: u64, offset: u64) {
        if offset > expected {
            self.gaps += 1;
            self.missing_in_gaps += offset - expected;
        } else if offset.saturating_add(1) == expected {
            self.repeats += 1;
        } else {
            self.out_of_order += 1;
        }
    }

    /// The message of this offset does not carry what was published.
    #[cold]
    pub fn altered(&mut self, offset: u64) {
        self.altered += 1;
        self.first_fault.get_or_insert_with(|| {
            format!("the message of offset {offset} carries what nobody published to its room")
        });
    }

    /// Something the protocol does not allow.
    #[cold]
    pub fn fault(&mut self, what: &str) {
        self.faults += 1;
        self.first_fault.get_or_insert_with(|| what.to_owned());
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: &Audit) {
        self.receivers += other.receivers;
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.missing_in_gaps += other.missing_in_gaps;
        self.repeats += other.repeats;
        self.out_of_order += other.out_of_order;
        self.announced_missed += other.announced_missed;
        self.altered += other.altered;
        self.announced_wrongly += other.announced_wrongly;
        self.missing_at_end += other.missing_at_end;
        self.undelivered_closed += other.undelivered_closed;
        self.resets += other.resets;
        self.undelivered_reset += other.undelivered_reset;
        self.unusual_form += other.unusual_form;
        self.faults += other.faults;
        for (code, count) in &other.closes {
            *self.closes.entry(*code).or_default() += count;
        }
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
        if self.first_fault.is_none() {
            self.first_fault.clone_from(&other.first_fault);
        }
    }

    /// What nobody explained; empty where the audit passes.
    ///
    /// A slow reader that was cut off may lose the close frame with the rest, so `resets_explained`
    /// accepts an end without one.
    pub fn failures(&self, resets_explained: bool) -> Vec<String> {
        let resets = if resets_explained { 0 } else { self.resets };
        let counts = [
            (self.gaps, "gaps in the offsets"),
            (self.repeats, "repeated messages"),
            (self.out_of_order, "messages out of order"),
            (self.altered, "messages that were altered"),
            (
                self.announced_wrongly,
                "messages_missed that do not follow on",
            ),
            (self.missing_at_end, "messages missing at the end"),
            (resets, "connections ended without a close code"),
            (self.faults, "protocol faults"),
        ];
        let mut failures: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        failures.extend(
            self.errors
                .iter()
                .map(|(code, count)| format!("{count} errors {code}")),
        );
        if let Some(fault) = &self.first_fault {
            failures.push(format!("the first fault: {fault}"));
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_run_and_a_run_with_explained_losses_pass() {
        let audit = Audit {
            delivered: 10,
            announced_missed: 3,
            undelivered_closed: 2,
            closes: [(4101, 1)].into(),
            ..Audit::default()
        };
        assert!(audit.failures(false).is_empty());
    }

    #[test]
    fn every_unexplained_loss_fails() {
        let mut audit = Audit::default();
        audit.out_of_sequence(5, 8);
        audit.out_of_sequence(9, 8);
        audit.out_of_sequence(9, 2);
        assert_eq!((audit.gaps, audit.missing_in_gaps), (1, 3));
        assert_eq!((audit.repeats, audit.out_of_order), (1, 1));
        assert_eq!(audit.failures(false).len(), 3);
    }

    #[test]
    fn an_altered_message_fails_and_older_results_are_read_without_the_count() {
        let mut audit = Audit::default();
        audit.altered(7);
        assert_eq!(audit.failures(false).len(), 2);
        let mut older = serde_json::to_value(Audit::default()).unwrap();
        older.as_object_mut().unwrap().remove("altered");
        assert_eq!(serde_json::from_value::<Audit>(older).unwrap().altered, 0);
    }

    #[test]
    fn a_reset_passes_only_where_it_is_explained() {
        let audit = Audit {
            resets: 1,
            ..Audit::default()
        };
        assert_eq!(audit.failures(false).len(), 1);
        assert!(audit.failures(true).is_empty());
    }
}
