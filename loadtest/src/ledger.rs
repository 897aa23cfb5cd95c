//! The server's own books: what it says became of each message, held against what arrived.

use anyhow::Context;

use crate::outcome::LedgerLine;
use crate::target::{Target, samples};

const FRAMES: &str = "tidewheel_ledger_frames_total";
const PENDING: &str = "tidewheel_ledger_pending_frames";
const WRITES: &str = "tidewheel_flush_writes_total";
/// A core that is busy with closing thousands of connections may answer too late for a scrape, which
/// then has its last known figures.
const CORE_UP: &str = "tidewheel_core_up";
/// Room messages, beside replies, signals and direct messages.
const MESSAGES: &str = "kind=\"message\"";

/// The books at one moment.
#[derive(Clone, Debug, Default)]
pub struct Books {
    frames: Vec<(String, f64)>,
    pending: f64,
    writes: f64,
    /// Cores whose figures are old.
    silent_cores: usize,
}

/// What the clients counted, and what may make the server's count another.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// Messages that arrived.
    pub delivered: u64,
    /// Connections that ended during the run: what the kernel had taken may be lost with them.
    pub some_ended: bool,
}

impl Books {
    /// As the server's metrics have them now.
    pub fn read(target: &Target) -> anyhow::Result<Books> {
        Books::parse(&target.metrics()?).context("this server's metrics have no ledger")
    }

    fn parse(metrics: &str) -> Option<Books> {
        let of = |name| {
            let lines = samples(metrics, name).into_iter();
            lines.map(|(labels, value)| (labels.to_owned(), value))
        };
        let frames: Vec<(String, f64)> = of(FRAMES).collect();
        (!frames.is_empty()).then(|| Books {
            frames,
            pending: of(PENDING)
                .filter(|(labels, _)| labels.contains(MESSAGES))
                .map(|(_, value)| value)
                .sum(),
            writes: of(WRITES).map(|(_, value)| value).sum(),
            silent_cores: of(CORE_UP).filter(|(_, value)| *value == 0.0).count(),
        })
    }

    /// True where every core has answered, and every message has an outcome.
    pub fn are_settled(&self) -> bool {
        self.pending == 0.0 && self.silent_cores == 0
    }

    /// Messages for each write since `earlier`.
    pub fn messages_per_write(&self, earlier: &Books) -> Option<f64> {
        let writes = self.writes - earlier.writes;
        let messages = self.outcome("delivered") - earlier.outcome("delivered");
        (writes > 0.0).then(|| messages / writes)
    }

    /// How much each line has grown since `earlier`.
    pub fn since(&self, earlier: &Books) -> Vec<LedgerLine> {
        let line = |(labels, after): &(String, f64)| {
            let before = earlier.frames.iter().find(|(name, _)| name == labels);
            LedgerLine {
                labels: labels.trim_matches(['{', '}']).to_owned(),
                count: after - before.map_or(0.0, |(_, value)| *value),
            }
        };
        let lines = self.frames.iter().map(line);
        lines.filter(|line| line.count != 0.0).collect()
    }

    /// What does not balance, since `earlier`; empty where all does.
    pub fn failures(&self, earlier: &Books, ours: Ours) -> Vec<String> {
        let grown = |outcome| self.outcome(outcome) - earlier.outcome(outcome);
        let (offered, delivered) = (grown("offered"), grown("delivered"));
        let (skipped, undelivered) = (grown("skipped"), grown("undelivered"));
        let mut failures = Vec::new();
        if self.silent_cores > 0 {
            return vec![format!(
                "{} of the server's cores did not answer for its ledger in time; a longer --grace \
                 waits for them",
                self.silent_cores
            )];
        }
        if self.pending != 0.0 {
            failures.push(format!(
                "the server's ledger still has {} messages pending",
                self.pending
            ));
        }
        if offered != delivered + skipped + undelivered {
            failures.push(format!(
                "the server's ledger does not balance: {offered} offered, {delivered} delivered, \
                 {skipped} skipped, {undelivered} undelivered"
            ));
        }
        let counted = ours.delivered as f64;
        let agrees = if ours.some_ended {
            delivered >= counted
        } else {
            delivered == counted
        };
        if !agrees {
            failures.push(format!(
                "the server's ledger has {delivered} messages delivered, {counted} arrived"
            ));
        }
        failures
    }

    fn outcome(&self, outcome: &str) -> f64 {
        let outcome = format!("outcome=\"{outcome}\"");
        let lines = self.frames.iter();
        lines
            .filter(|(labels, _)| labels.contains(MESSAGES) && labels.contains(&outcome))
            .map(|(_, value)| value)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(offered: u32, delivered: u32, undelivered: u32, pending: u32) -> Books {
        let metrics = format!(
            "tidewheel_ledger_frames_total{{kind=\"message\",outcome=\"offered\"}} {offered}\n\
             tidewheel_ledger_frames_total{{kind=\"message\",outcome=\"delivered\"}} {delivered}\n\
             tidewheel_ledger_frames_total{{kind=\"reply\",outcome=\"delivered\"}} 77\n\
             tidewheel_ledger_frames_total{{kind=\"message\",outcome=\"undelivered\",code=\"4101\"}} \
             {undelivered}\n\
             tidewheel_ledger_pending_frames{{kind=\"message\"}} {pending}\n\
             tidewheel_flush_writes_total 5\n"
        );
        Books::parse(&metrics).unwrap()
    }

    fn ours(delivered: u64, some_ended: bool) -> Ours {
        Ours {
            delivered,
            some_ended,
        }
    }

    #[test]
    fn books_that_balance_and_agree_pass() {
        let before = books(10, 10, 0, 0);
        let after = books(30, 28, 2, 0);
        assert!(after.failures(&before, ours(18, false)).is_empty());
        assert!(after.failures(&before, ours(17, true)).is_empty());
        let lines = after.since(&before);
        let counts: Vec<f64> = lines.iter().map(|line| line.count).collect();
        assert_eq!(counts, [20.0, 18.0, 2.0]);
    }

    #[test]
    fn books_in_which_a_core_is_silent_are_not_settled_and_say_so() {
        let before = books(10, 10, 0, 0);
        let after = Books {
            silent_cores: 1,
            ..books(30, 30, 0, 0)
        };
        assert!(before.are_settled() && !after.are_settled());
        let failures = after.failures(&before, ours(20, false));
        assert!(failures.len() == 1 && failures[0].contains("did not answer"));
    }

    #[test]
    fn a_message_pending_lost_or_made_up_fails() {
        let before = books(0, 0, 0, 0);
        let cases = [
            (books(10, 9, 0, 1), ours(9, false)),
            (books(10, 9, 0, 0), ours(9, false)),
            (books(10, 10, 0, 0), ours(9, false)),
            (books(10, 10, 0, 0), ours(11, true)),
        ];
        for (after, ours) in cases {
            assert!(!after.failures(&before, ours).is_empty(), "{after:?}");
        }
    }

    #[test]
    fn metrics_without_a_ledger_are_none() {
        assert!(Books::parse("up 1\n").is_none());
    }
}
