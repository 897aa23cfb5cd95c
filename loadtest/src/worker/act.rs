//! What a worker's clients do of themselves: publish, drop and come back, come and go, trickle.

use std::sync::atomic::Ordering;

use mio::{Interest, Token};

use super::Worker;
use crate::clock::until;
use crate::message;
use crate::pacer::Pacer;
use crate::receiver::{Role, Stage};
use crate::settings::Pace;
use crate::sys;

/// Actions of one kind in one turn, so that sockets are read in between.
const ACTIONS_PER_TURN: usize = 64;

impl Worker {
    /// Does what is due and sets the alarm for what comes next; true where more is due already.
    pub(super) fn act(&mut self) -> anyhow::Result<bool> {
        let mut has_more = self.connecting && self.connect_some()?;
        let now_ns = self.ties.clock.now_ns_if(self.is_paced());
        has_more |= self.speak(now_ns)?;
        has_more |= self.churn(now_ns)?;
        has_more |= self.visit(now_ns)?;
        has_more |= self.trickle(now_ns)?;
        has_more |= self.bring_back_due(now_ns)?;
        if !has_more {
            self.set_alarm()?;
        }
        Ok(has_more)
    }

    /// Begins with what clients do of themselves.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        let now_ns = self.ties.clock.now_ns();
        self.load_window();
        self.pacers.churn = Pacer::start(self.plan.churn_rate, now_ns);
        self.pacers.visits = Pacer::start(self.plan.visit_rate, now_ns);
        match self.plan.speak {
            Some(Pace::PerSecond(rate)) => self.pacers.speak = Pacer::start(rate, now_ns),
            Some(Pace::InFlight(_)) => {
                self.view.refills = true;
                for index in 0..self.connections.len() {
                    self.fill(index)?;
                }
            }
            None => {}
        }
        self.pace_tricklers(now_ns);
        Ok(())
    }

    /// Ends it; who is away still comes back.
    pub(super) fn quieten(&mut self) {
        self.view.refills = false;
        self.pacers.speak = None;
        self.pacers.churn = None;
        self.pacers.visits = None;
    }

    /// Publishes as much as a client may have in flight.
    pub(super) fn fill(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(Pace::InFlight(count)) = self.plan.speak else {
            return Ok(());
        };
        let now_ns = self.ties.clock.now_ns();
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        let receiver = &mut connection.receiver;
        if receiver.role != Role::Member || receiver.stage != Stage::Joined {
            return Ok(());
        }
        while u64::from(receiver.in_flight) < count {
            receiver.publish(now_ns, &mut self.view);
        }
        self.send_after(index)
    }

    fn speak(&mut self, now_ns: u64) -> anyhow::Result<bool> {
        for _ in 0..ACTIONS_PER_TURN {
            let due = self.pacers.speak.as_mut().and_then(|it| it.take(now_ns));
            let Some(due_ns) = due else { return Ok(false) };
            let turn = self.turns.speak;
            let Some(index) = self.next(turn, |_, it| {
                it.receiver.role == Role::Member
                    && it.receiver.stage == Stage::Joined
                    && it.takes_more()
            }) else {
                continue;
            };
            self.turns.speak = index + 1;
            if let Some(connection) = self.connections.get_mut(index) {
                connection.receiver.publish(due_ns, &mut self.view);
            }
            self.send_after(index)?;
        }
        Ok(true)
    }

    fn churn(&mut self, now_ns: u64) -> anyhow::Result<bool> {
        for _ in 0..ACTIONS_PER_TURN {
            let due = self.pacers.churn.as_mut().and_then(|it| it.take(now_ns));
            if due.is_none() {
                return Ok(false);
            }
            let turn = self.turns.churn;
            let Some(index) = self.next(turn, |_, it| {
                it.receiver.role == Role::Member && it.receiver.stage == Stage::Joined
            }) else {
                continue;
            };
            self.turns.churn = index + 1;
            self.drop_out(index)?;
        }
        Ok(true)
    }

    fn drop_out(&mut self, index: usize) -> anyhow::Result<()> {
        let counts = &self.view.counts;
        let with_close = counts.drops_closed <= counts.drops_reset;
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        if !with_close && let Some(stream) = &connection.stream {
            sys::reset_on_close(stream)?;
        }
        let before = connection.receiver.stage;
        connection.receiver.drop_out(with_close, &mut self.view);
        self.follow_up(index, before)
    }

    fn bring_back_due(&mut self, now_ns: u64) -> anyhow::Result<bool> {
        for _ in 0..ACTIONS_PER_TURN {
            let due = self.away.front().filter(|(due_ns, _)| *due_ns <= now_ns);
            let Some(&(due_ns, index)) = due else {
                return Ok(false);
            };
            self.away.pop_front();
            self.bring_back(index, due_ns)?;
        }
        Ok(true)
    }

    /// The next visitor comes, or goes.
    fn visit(&mut self, now_ns: u64) -> anyhow::Result<bool> {
        for _ in 0..ACTIONS_PER_TURN {
            let due = self.pacers.visits.as_mut().and_then(|it| it.take(now_ns));
            let Some(due_ns) = due else { return Ok(false) };
            let turn = self.turns.visit;
            let Some(index) = self.next(turn, |_, it| {
                let receiver = &it.receiver;
                receiver.role == Role::Visitor
                    && receiver.stage == Stage::Joined
                    && receiver.in_flight == 0
            }) else {
                continue;
            };
            self.turns.visit = index + 1;
            self.turn_round(index, due_ns);
            self.send_after(index)?;
        }
        Ok(true)
    }

    fn turn_round(&mut self, index: usize, due_ns: u64) {
        let (Some(connection), Some(seat)) =
            (self.connections.get_mut(index), self.plan.seats.get(index))
        else {
            return;
        };
        let receiver = &mut connection.receiver;
        let comes = receiver.sent.is_multiple_of(2);
        receiver.sent += 1;
        receiver.in_flight = 1;
        let view = &mut self.view;
        view.counts.visits += 1;
        if let Some(visit) = self.plan.visits.get(seat.number as usize) {
            let last = due_ns << 1 | u64::from(comes);
            visit.last.store(last, Ordering::Relaxed);
            visit.count.fetch_add(1, Ordering::Relaxed);
        }
        let first = receiver.subs.as_slice().first();
        if let Some(room) = first.and_then(|sub| view.rooms.get(sub.room as usize)) {
            if comes {
                message::write_join(&room.name, message::Wish::Plain, &mut view.out);
            } else {
                message::write_leave(&room.name, &mut view.out);
            }
        }
    }

    fn pace_tricklers(&mut self, now_ns: u64) {
        let interval_s = self.plan.trickle_interval.as_secs_f64().max(0.001);
        self.pacers.trickle = Pacer::start(self.tricklers.len() as f64 / interval_s, now_ns);
    }

    fn trickle(&mut self, now_ns: u64) -> anyhow::Result<bool> {
        for _ in 0..ACTIONS_PER_TURN {
            let due = self.pacers.trickle.as_mut().and_then(|it| it.take(now_ns));
            if due.is_none() {
                return Ok(false);
            }
            self.turns.trickle = (self.turns.trickle + 1) % self.tricklers.len().max(1);
            let Some(&index) = self.tricklers.get(self.turns.trickle) else {
                return Ok(false);
            };
            if let Some(connection) = self.connections.get_mut(index) {
                let before = connection.receiver.stage;
                let (limit, clock) = (self.plan.trickle_bytes, self.ties.clock);
                let (buffer, view) = (&mut self.buffer, &mut self.view);
                self.bytes += connection.read_some(buffer, limit, view, clock);
                self.follow_up(index, before)?;
            }
        }
        Ok(true)
    }

    /// Clients that stop midway stop reading.
    pub(super) fn stop_midway(&mut self) -> anyhow::Result<()> {
        for connection in &mut self.connections {
            if connection.receiver.role == Role::Stopping
                && connection.receiver.stage == Stage::Aside
                && let Some(stream) = &mut connection.stream
            {
                self.poll.registry().deregister(stream)?;
            }
        }
        Ok(())
    }

    /// Slow readers read again, as fast as anyone.
    pub(super) fn resume(&mut self) -> anyhow::Result<()> {
        self.pacers.trickle = None;
        self.tricklers.clear();
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if connection.receiver.stage == Stage::Aside
                && let Some(stream) = &mut connection.stream
            {
                let registry = self.poll.registry();
                // One that had not stopped is known there; either way it is watched afterwards.
                if registry
                    .register(stream, Token(index), Interest::READABLE)
                    .is_err()
                {
                    registry.reregister(stream, Token(index), Interest::READABLE)?;
                }
            }
        }
        Ok(())
    }

    /// The first client from `turn` on, round and round, that will do.
    fn next(
        &self,
        turn: usize,
        will_do: impl Fn(usize, &crate::connection::Connection) -> bool,
    ) -> Option<usize> {
        let count = self.connections.len();
        let first = if turn < count { turn } else { 0 };
        (first..count).chain(0..first).find(|index| {
            let connection = self.connections.get(*index);
            connection.is_some_and(|it| will_do(*index, it))
        })
    }

    fn send_after(&mut self, index: usize) -> anyhow::Result<()> {
        let before = self.connections.get(index).map(|it| it.receiver.stage);
        match before {
            Some(before) => self.follow_up(index, before),
            None => Ok(()),
        }
    }

    fn is_paced(&self) -> bool {
        let pacers = &self.pacers;
        !self.away.is_empty()
            || [pacers.speak, pacers.churn, pacers.visits, pacers.trickle]
                .iter()
                .any(Option::is_some)
    }

    fn set_alarm(&mut self) -> anyhow::Result<()> {
        let pacers = &self.pacers;
        let paced = [
            pacers.connects,
            pacers.speak,
            pacers.churn,
            pacers.visits,
            pacers.trickle,
        ];
        let due = paced.iter().flatten().map(Pacer::due_ns);
        let back = self.away.front().map(|(due_ns, _)| *due_ns);
        let Some(due_ns) = due.chain(back).min() else {
            return Ok(());
        };
        if due_ns != self.alarm_ns {
            self.alarm_ns = due_ns;
            self.alarm.set(until(self.ties.clock.now_ns(), due_ns))?;
        }
        Ok(())
    }
}
