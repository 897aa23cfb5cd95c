//! The delivery ledger: every frame that is offered to a connection, and how that ended.

use crate::metrics::labels::{CodeCounts, Kind, Label};

/// The account of one kind of frame.
#[derive(Clone, Default, Debug)]
pub struct Account {
    /// Frames that a connection was to get.
    pub offered: u64,
    /// Frames of which the kernel took the last byte.
    pub delivered: u64,
    /// Frames left out by the room's policy; the connection is told which.
    pub skipped: u64,
    /// Frames that a connection's close left over.
    pub undelivered: u64,
    /// The same, by the code of that close.
    pub undelivered_by_code: CodeCounts,
}

impl Account {
    /// Frames without an outcome so far. Below zero, frames ended that nobody offered.
    pub fn pending(&self) -> i64 {
        let settled = self.delivered + self.skipped + self.undelivered;
        self.offered as i64 - settled as i64
    }
}

/// Offered frames and their outcomes, by kind.
///
/// Every frame ends in exactly one of: delivered to the kernel, skipped by policy, undelivered
/// because the connection closed. One that has not ended is pending: a cursor is behind it, or it
/// waits in a connection's queue.
///
/// Invariant: for each kind, offered = delivered + skipped + undelivered + pending, pending ≥ 0.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    accounts: [Account; Kind::ALL.len()],
}

impl Ledger {
    /// `n` frames were appended where a connection is to get them.
    pub fn offer(&mut self, kind: Kind, n: u64) {
        self.accounts[kind.index()].offered += n;
    }

    /// The kernel took `n` frames whole.
    pub fn deliver(&mut self, kind: Kind, n: u64) {
        self.settle(kind, |account| account.delivered += n);
    }

    /// A policy left out `n` frames.
    pub fn skip(&mut self, kind: Kind, n: u64) {
        self.settle(kind, |account| account.skipped += n);
    }

    /// A connection closed with `code`, and `n` frames had not been delivered to it.
    pub fn undelivered(&mut self, kind: Kind, code: u16, n: u64) {
        self.settle(kind, |account| {
            account.undelivered += n;
            account.undelivered_by_code.add(code, n);
        });
    }

    /// The account of one kind.
    pub fn account(&self, kind: Kind) -> &Account {
        &self.accounts[kind.index()]
    }

    /// Frames of all kinds without an outcome so far.
    pub fn pending(&self) -> i64 {
        self.accounts.iter().map(Account::pending).sum()
    }

    /// Whether the books agree with `pending` frames found waiting, and no kind is below zero.
    pub fn balances(&self, pending: u64) -> bool {
        let is_sound = self.accounts.iter().all(|account| account.pending() >= 0);
        is_sound && i64::try_from(pending) == Ok(self.pending())
    }

    /// Adds another core's ledger.
    pub fn merge(&mut self, other: &Ledger) {
        for (account, more) in self.accounts.iter_mut().zip(&other.accounts) {
            let Account {
                offered,
                delivered,
                skipped,
                undelivered,
                undelivered_by_code,
            } = more;
            account.offered += offered;
            account.delivered += delivered;
            account.skipped += skipped;
            account.undelivered += undelivered;
            account.undelivered_by_code.merge(undelivered_by_code);
        }
    }

    fn settle(&mut self, kind: Kind, outcome: impl FnOnce(&mut Account)) {
        let account = &mut self.accounts[kind.index()];
        outcome(account);
        debug_assert!(
            account.pending() >= 0,
            "a {} frame ended twice",
            kind.text()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_balances_whatever_the_outcomes_are() {
        let mut ledger = Ledger::default();
        assert!(ledger.balances(0));
        ledger.offer(Kind::Message, 10);
        ledger.offer(Kind::Reply, 2);
        assert!(ledger.balances(12));
        ledger.deliver(Kind::Message, 4);
        ledger.skip(Kind::Message, 3);
        ledger.undelivered(Kind::Message, 4101, 2);
        ledger.deliver(Kind::Reply, 2);
        assert_eq!(ledger.pending(), 1);
        assert!(ledger.balances(1));
        assert!(!ledger.balances(0) && !ledger.balances(2) && !ledger.balances(u64::MAX));
        assert_eq!(
            ledger.account(Kind::Message).undelivered_by_code.of(4101),
            2
        );
    }

    #[test]
    fn one_kind_does_not_make_up_for_another() {
        let mut ledger = Ledger::default();
        ledger.offer(Kind::Direct, 1);
        ledger.accounts[Kind::Reply.index()].delivered = 1;
        assert_eq!(ledger.pending(), 0);
        assert!(!ledger.balances(0));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a signal frame ended twice")]
    fn an_outcome_without_an_offer_is_a_fault() {
        let mut ledger = Ledger::default();
        ledger.offer(Kind::Signal, 1);
        ledger.deliver(Kind::Signal, 1);
        ledger.skip(Kind::Signal, 1);
    }

    #[test]
    fn ledgers_of_two_cores_add_up() {
        let mut one = Ledger::default();
        one.offer(Kind::Message, 5);
        one.undelivered(Kind::Message, 1006, 5);
        let mut two = Ledger::default();
        two.offer(Kind::Message, 7);
        two.deliver(Kind::Message, 6);
        two.merge(&one);
        assert!(two.balances(1));
        assert_eq!(two.account(Kind::Message).undelivered_by_code.of(1006), 5);
    }
}
