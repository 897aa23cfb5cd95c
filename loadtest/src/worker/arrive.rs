//! How a worker's clients arrive, and come back.

use std::sync::atomic::Ordering;

use anyhow::Context;
use mio::{Interest, Token};

use super::{Report, Worker};
use crate::connection::{Connection, upgrade_request};
use crate::pacer::Pacer;
use crate::receiver::{Receiver, Role, Stage};
use crate::seats::Seat;
use crate::settings::JoinBy;
use crate::socket::Socket;
use crate::subs::Subs;
use crate::view::{Dialect, VISITOR};

/// Connections begun in one turn, so that answers are read in between.
const CONNECTS_PER_TURN: usize = 32;

impl Worker {
    pub(super) fn begin_to_connect(&mut self) {
        self.due = if self.connections.len() < self.plan.first_seats {
            self.plan.first_seats
        } else {
            self.plan.seats.len()
        };
        self.connecting = true;
        self.pacers.connects = Pacer::start(self.plan.connect_rate, self.ties.clock.now_ns());
    }

    /// Begins some connections; true where more could begin at once.
    pub(super) fn connect_some(&mut self) -> anyhow::Result<bool> {
        for _ in 0..CONNECTS_PER_TURN {
            let index = self.connections.len();
            let seat = self.plan.seats.get(index).copied();
            let Some(seat) = seat.filter(|_| index < self.due) else {
                self.pacers.connects = None;
                return Ok(false);
            };
            if self.handshakes >= self.plan.handshakes_max {
                return Ok(false);
            }
            let now_ns = self.ties.clock.now_ns();
            let since_ns = match &mut self.pacers.connects {
                Some(pacer) => match pacer.take(now_ns) {
                    Some(due_ns) => due_ns,
                    None => return Ok(false),
                },
                None => now_ns,
            };
            self.seat(index, seat, since_ns)?;
        }
        Ok(true)
    }

    fn seat(&mut self, index: usize, seat: Seat, since_ns: u64) -> anyhow::Result<()> {
        let subs = Subs::new(self.known.of(seat));
        let mut receiver = Receiver::new(index as u32, seat.role, subs);
        receiver.since_ns = since_ns;
        let buffer_bytes = seat.role.is_slow().then_some(self.plan.slow_buffer_bytes);
        let stream = self
            .plan
            .ports
            .connect(self.plan.target, buffer_bytes)
            .and_then(Socket::new)
            .with_context(|| format!("open connection {index} of this worker"))?;
        self.connections.push(Connection::new(stream, receiver));
        self.greet(index)
    }

    /// A client that was away connects anew.
    pub(super) fn bring_back(&mut self, index: usize, due_ns: u64) -> anyhow::Result<()> {
        let stream = self
            .plan
            .ports
            .connect(self.plan.target, None)
            .and_then(Socket::new)
            .context("connect anew")?;
        if let Some(connection) = self.connections.get_mut(index) {
            connection.stream = Some(stream);
            connection.receiver.stage = Stage::Connecting;
            connection.receiver.since_ns = due_ns;
        }
        self.greet(index)
    }

    /// Sends the request where the connection is up already, and watches it.
    fn greet(&mut self, index: usize) -> anyhow::Result<()> {
        // On loopback the handshake is often done when connect returns.
        let is_up = self.send_request(index)?;
        let interest = if is_up {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        if let Some(stream) = self
            .connections
            .get_mut(index)
            .and_then(|it| it.stream.as_mut())
        {
            self.poll
                .registry()
                .register(stream, Token(index), interest)?;
        }
        self.handshakes += 1;
        Ok(())
    }

    pub(super) fn send_request(&mut self, index: usize) -> anyhow::Result<bool> {
        let Some(seat) = self.plan.seats.get(index) else {
            return Ok(true);
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(true);
        };
        let first = connection.receiver.subs.as_slice().first();
        let room = first.and_then(|sub| self.view.rooms.get(sub.room as usize));
        let path = match (self.plan.dialect, room) {
            (Dialect::Rooms(_), _) if seat.role == Role::Visitor => {
                format!("/ws?user_id={VISITOR}{}", seat.number)
            }
            (Dialect::Rooms(JoinBy::Path), Some(room)) if connection.receiver.joins_by_path() => {
                format!("/ws/{}", room.name)
            }
            (Dialect::Rooms(_), _) => "/ws".to_owned(),
            (Dialect::Numbered | Dialect::Echo, _) => self.plan.path.clone(),
        };
        let request = upgrade_request(&self.host, &path, self.plan.dialect);
        connection
            .send_request(&request)
            .context("send an upgrade request")
    }

    /// Reports once everyone has arrived, or has failed to.
    pub(super) fn note_joins(&mut self) {
        let clock = self.ties.clock;
        if self.view.upgrades != self.upgrades_seen {
            self.upgrades_seen = self.view.upgrades;
            self.connected_ns = clock.now_ns();
        }
        if self.connections.len() == self.due && self.handshakes == 0 {
            self.connecting = false;
            self.report(Report::Joined {
                connected_ns: self.connected_ns,
                joined_ns: clock.now_ns(),
            });
        }
    }

    /// Time from which messages are measured.
    pub(super) fn load_window(&mut self) {
        self.view.measure_from_ns = self.ties.measure_from_ns.load(Ordering::Relaxed);
    }
}
