//! How a worker waits for the end of something: quiet, the last messages, the run.

use super::{Findings, Last, Report, Wait, Worker};
use crate::receiver::{Receiver, Role, Stage};
use crate::sys;
use crate::view::Dialect;

impl Worker {
    /// Looks whether what is waited for has come; true at the end of the run.
    pub(super) fn look(&mut self) -> anyhow::Result<bool> {
        let Some(wait) = &self.wait else {
            return Ok(false);
        };
        let now_ns = self.ties.clock.now_ns();
        let is_over = match wait {
            Wait::Quiet { deadline_ns } => now_ns >= *deadline_ns || self.is_quiet(),
            Wait::Settle(last) | Wait::Finish(last) => {
                now_ns >= last.deadline_ns || self.is_settled(last, matches!(wait, Wait::Finish(_)))
            }
        };
        if !is_over || matches!(wait, Wait::Finish(_)) {
            return Ok(is_over);
        }
        let report = match self.wait.take() {
            Some(Wait::Quiet { .. }) => Report::Quiet(self.newest()),
            _ => Report::Settled,
        };
        self.report(report);
        Ok(false)
    }

    /// True where everyone is back and everything is answered.
    fn is_quiet(&self) -> bool {
        let is_at_rest = |receiver: &Receiver| {
            let is_in = matches!(receiver.stage, Stage::Joined | Stage::Aside);
            receiver.is_ended() || is_in && receiver.in_flight == 0
        };
        self.away.is_empty()
            && self.handshakes == 0
            && self
                .connections
                .iter()
                .all(|connection| is_at_rest(&connection.receiver))
    }

    /// The newest offset of each room that an answer has told or anyone has got.
    fn newest(&self) -> Vec<(u32, u64)> {
        let rooms = self.view.rooms.iter();
        let mut newest: Vec<(u32, u64)> = rooms.map(|it| (it.global, it.newest)).collect();
        for connection in &self.connections {
            if connection.receiver.role == Role::Visitor {
                continue;
            }
            for sub in connection.receiver.subs.as_slice() {
                if let Some((_, offset)) = newest.get_mut(sub.room as usize) {
                    *offset = (*offset).max(sub.next.saturating_sub(1));
                }
            }
        }
        newest
    }

    fn last_offset(&self, last: &Last, room: u32) -> u64 {
        let global = self.view.rooms.get(room as usize).map(|it| it.global);
        let offset = global.and_then(|global| last.offsets.get(global as usize));
        offset.copied().unwrap_or(0)
    }

    /// True where everyone has everything; slow readers count only at the end.
    fn is_settled(&self, last: &Last, is_end: bool) -> bool {
        let is_echo = self.view.dialect == Dialect::Echo;
        self.connections.iter().all(|connection| {
            let receiver = &connection.receiver;
            if is_echo {
                return receiver.is_ended() || receiver.in_flight == 0;
            }
            (receiver.role.is_slow() && !is_end)
                || receiver.is_settled(|room| self.last_offset(last, room))
        })
    }

    /// Counts what everyone lacks, and lets all connections go.
    pub(super) fn settle(mut self) -> Findings {
        if let Some(Wait::Finish(last)) = self.wait.take() {
            let connections = std::mem::take(&mut self.connections);
            let offsets: Vec<u64> = (0..self.view.rooms.len() as u32)
                .map(|room| self.last_offset(&last, room))
                .collect();
            let offset = |room: u32| offsets.get(room as usize).copied().unwrap_or(0);
            for connection in &connections {
                connection.receiver.settle(offset, &mut self.view);
                if let Some(stream) = &connection.stream {
                    // Without it the port stays in TIME_WAIT: a nuisance, not a failure.
                    let _ = sys::reset_on_close(stream);
                }
            }
        }
        Findings {
            audit: self.view.audit,
            slow_audit: self.view.slow_audit,
            times: self.view.times,
            counts: self.view.counts,
        }
    }
}
