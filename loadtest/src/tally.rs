//! Times and counts that a worker keeps besides deliveries.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Latencies above this count as this: five minutes.
const LATENCY_US_MAX: u64 = 300_000_000;

/// An empty histogram of microseconds up to five minutes, to three digits.
pub fn latency_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

/// What is timed besides deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// From the connect, at a fixed rate from the intended one, to the upgrade.
    Connect,
    /// From there too, to the last of the client's rooms.
    Join,
    /// From the reconnect to the last message missed.
    Recovery,
    /// From the intended join or leave to each watcher.
    Presence,
}

impl Timed {
    /// All of them, with their names in the outcome.
    pub const ALL: [(Timed, &'static str); 4] = [
        (Timed::Connect, "connect"),
        (Timed::Join, "join"),
        (Timed::Recovery, "recovery"),
        (Timed::Presence, "presence"),
    ];
}

/// A histogram for each of them, made when it is first needed.
#[derive(Default)]
pub struct Times([Option<Box<Histogram<u64>>>; Timed::ALL.len()]);

impl Times {
    /// Something took from `from_ns` to `to_ns`.
    pub fn record(&mut self, what: Timed, from_ns: u64, to_ns: u64) {
        if let Some(histogram) = self.slot(what) {
            histogram.saturating_record(to_ns.saturating_sub(from_ns) / 1_000);
        }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Times) {
        for ((what, _), more) in Timed::ALL.into_iter().zip(&other.0) {
            if let Some(more) = more
                && let Some(histogram) = self.slot(what)
            {
                // Both have the same bounds.
                let _ = histogram.add(&**more);
            }
        }
    }

    /// Those that have values, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        let all = Timed::ALL.into_iter().zip(&self.0);
        all.filter_map(|((_, name), histogram)| Some((name, &**histogram.as_ref()?)))
    }

    fn slot(&mut self, what: Timed) -> Option<&mut Histogram<u64>> {
        let slot = self.0.get_mut(what as usize)?;
        if slot.is_none() {
            *slot = latency_histogram().ok().map(Box::new);
        }
        slot.as_deref_mut()
    }
}

/// What is counted besides deliveries.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Publishes sent.
    pub published: u64,
    /// Publishes answered.
    pub answered: u64,
    /// Publishes whose answer a drop of our own left behind: accepted or not.
    pub unanswered_at_a_drop: u64,
    /// Drops with a close frame.
    pub drops_closed: u64,
    /// Drops with a reset.
    pub drops_reset: u64,
    /// Rooms joined anew where everything missed followed.
    pub recovered: u64,
    /// Rooms joined anew where the server no longer had everything.
    pub not_recovered: u64,
    /// The same, because the room had begun another epoch.
    pub other_epoch: u64,
    /// Messages that were lost so.
    pub lost_to_history: u64,
    /// Messages that followed a recovery.
    pub replayed: u64,
    /// Joins and leaves that visitors did.
    pub visits: u64,
    /// Joins and leaves that watchers were told of one by one.
    pub presence_events: u64,
    /// Messages that told watchers of several at once.
    pub presence_summaries: u64,
    /// Joins and leaves in those.
    pub presence_summed: u64,
    /// Connections that ended while the run went on, other than by our own drops.
    pub ended: u64,
}

impl Counts {
    /// Each with its name in the outcome.
    pub fn named(&self) -> [(&'static str, u64); 15] {
        [
            ("publishes", self.published),
            ("publishes answered", self.answered),
            ("publishes unanswered at a drop", self.unanswered_at_a_drop),
            ("drops with a close frame", self.drops_closed),
            ("drops with a reset", self.drops_reset),
            ("recovered", self.recovered),
            ("not recovered", self.not_recovered),
            ("not recovered: another epoch", self.other_epoch),
            ("messages no longer kept at a return", self.lost_to_history),
            ("messages replayed", self.replayed),
            ("joins and leaves", self.visits),
            ("presence events", self.presence_events),
            ("presence summaries", self.presence_summaries),
            ("joins and leaves in summaries", self.presence_summed),
            ("connections ended by the server", self.ended),
        ]
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Counts) {
        let Counts {
            published,
            answered,
            unanswered_at_a_drop,
            drops_closed,
            drops_reset,
            recovered,
            not_recovered,
            other_epoch,
            lost_to_history,
            replayed,
            visits,
            presence_events,
            presence_summaries,
            presence_summed,
            ended,
        } = other;
        self.published += published;
        self.answered += answered;
        self.unanswered_at_a_drop += unanswered_at_a_drop;
        self.drops_closed += drops_closed;
        self.drops_reset += drops_reset;
        self.recovered += recovered;
        self.not_recovered += not_recovered;
        self.other_epoch += other_epoch;
        self.lost_to_history += lost_to_history;
        self.replayed += replayed;
        self.visits += visits;
        self.presence_events += presence_events;
        self.presence_summaries += presence_summaries;
        self.presence_summed += presence_summed;
        self.ended += ended;
    }

    /// Drops of our own.
    pub fn drops(&self) -> u64 {
        self.drops_closed + self.drops_reset
    }

    /// Those that are not zero, by name.
    pub fn to_map(&self) -> BTreeMap<String, u64> {
        let counts = self.named().into_iter().filter(|(_, count)| *count > 0);
        counts
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_two_workers_add_up() {
        let (mut one, mut other) = (Times::default(), Times::default());
        one.record(Timed::Join, 0, 5_000);
        other.record(Timed::Join, 0, 7_000);
        other.record(Timed::Recovery, 9_000, 10_000);
        one.merge(&other);
        let found: Vec<_> = one.named().map(|(name, it)| (name, it.len())).collect();
        assert_eq!(found, [("join", 2), ("recovery", 1)]);
    }

    #[test]
    fn only_counts_that_are_not_zero_have_a_name() {
        let mut counts = Counts::default();
        counts.merge(&Counts {
            recovered: 2,
            ..Counts::default()
        });
        assert_eq!(counts.to_map(), [("recovered".to_owned(), 2)].into());
    }
}
