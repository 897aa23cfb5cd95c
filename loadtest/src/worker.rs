//! One thread of receivers: its own poll, its own descriptor table, one read buffer for all.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Orders, Sender};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::connection::{Connection, upgrade_request};
use crate::receiver::{self, JoinBy, Receiver, RoomView, Stage, View};
use crate::sys;

/// The token under which orders arrive.
pub const WAKE: Token = Token(usize::MAX);
/// Read buffer: a receiver's whole backlog in the usual case, and small enough for the cache.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// Readiness events taken at once.
const EVENTS: usize = 1024;
/// Connections begun in one turn, so that answers are read in between.
const CONNECTS_PER_TURN: usize = 32;
/// How often a worker that finishes looks whether everyone is done.
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);

/// What a worker is to set up.
pub struct WorkerPlan {
    /// Where to.
    pub target: SocketAddrV4,
    /// From where, in turn; empty for the system's choice.
    pub sources: Vec<Ipv4Addr>,
    /// The room number of each of its receivers.
    pub seats: Vec<u32>,
    /// Names of all rooms.
    pub rooms: Arc<[String]>,
    /// How to get in.
    pub join: JoinBy,
    /// Handshakes and joins under way at once.
    pub handshakes_max: usize,
    /// Newest offsets whose completion is tracked, for each room.
    pub tracked_offsets: usize,
    /// Stop reading once joined, with a receive buffer this small.
    pub stalled_receive_buffer_bytes: Option<u32>,
}

/// What a worker is told.
pub enum Order {
    /// Connect and join everyone.
    Connect,
    /// Hand over the latencies so far and begin anew.
    Latencies,
    /// Read again (stalled receivers).
    Resume,
    /// Wait until everyone has these last offsets, at most until then, and end.
    Finish {
        last_offsets: Arc<[u64]>,
        deadline_ns: u64,
    },
}

/// What a worker tells.
pub enum Report {
    /// The descriptor table is split.
    Ready,
    /// Everyone is joined, or has failed; when the last upgrade and the last join were done.
    Joined { connected_ns: u64, joined_ns: u64 },
    /// The answer to [`Order::Latencies`].
    Latencies(Box<Histogram<u64>>),
    /// The worker gave up.
    Broken(String),
}

/// What a worker shows while it runs.
pub struct Shown {
    /// Upgrades done.
    pub connected: AtomicU64,
    /// Joins done.
    pub joined: AtomicU64,
    /// Messages delivered.
    pub delivered: AtomicU64,
    /// Bytes received.
    pub bytes: AtomicU64,
    /// Bytes of the newest message frame.
    pub frame_bytes: AtomicU64,
    /// For each room, the offset up to which every receiver here has everything; `u64::MAX` where
    /// none is here.
    pub completed: Box<[AtomicU64]>,
}

impl Shown {
    /// Nothing yet, in so many rooms.
    pub fn new(rooms: usize) -> Shown {
        Shown {
            connected: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            frame_bytes: AtomicU64::new(0),
            completed: (0..rooms).map(|_| AtomicU64::new(u64::MAX)).collect(),
        }
    }
}

/// What wakes a publisher that waits for completions.
pub struct Gate {
    /// Set by the publisher before it sleeps; whoever clears it wakes it.
    pub waiting: AtomicBool,
    /// Wakes the publisher's poll.
    pub waker: Waker,
}

/// What connects a worker with the thread that leads it.
pub struct Ties {
    /// Orders from there.
    pub orders: Orders<Order>,
    /// Reports to there.
    pub reports: Sender<Report>,
    /// Counters it may read at any time.
    pub shown: Arc<Shown>,
    /// The publisher.
    pub gate: Arc<Gate>,
    /// When the window of measurement begins.
    pub measure_from_ns: Arc<AtomicU64>,
    /// The run's clock.
    pub clock: Clock,
}

/// The state of one thread.
pub struct Worker {
    poll: Poll,
    plan: WorkerPlan,
    ties: Ties,
    view: View,
    requests: Vec<Vec<u8>>,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    bytes: u64,
    completed: Vec<u64>,
    handshakes: usize,
    connecting: bool,
    connected_ns: u64,
    joined_ns: u64,
    finish: Option<(Arc<[u64]>, u64)>,
}

impl Worker {
    /// Splits the descriptor table off and gets ready; `poll` already knows the waker.
    pub fn new(poll: Poll, plan: WorkerPlan, ties: Ties) -> anyhow::Result<Worker> {
        sys::unshare_descriptors().context("unshare the descriptor table")?;
        let rooms = plan.rooms.iter();
        let views = rooms
            .clone()
            .map(|name| RoomView::new(name, plan.tracked_offsets))
            .collect();
        let view = View::new(views, plan.join)?;
        let requests = rooms
            .map(|name| upgrade_request(plan.target, plan.join, name))
            .collect();
        Ok(Worker {
            connections: Vec::with_capacity(plan.seats.len()),
            completed: vec![u64::MAX; plan.rooms.len()],
            buffer: vec![0; READ_BUFFER_BYTES],
            poll,
            plan,
            ties,
            view,
            requests,
            bytes: 0,
            handshakes: 0,
            connecting: false,
            connected_ns: 0,
            joined_ns: 0,
            finish: None,
        })
    }

    /// Runs until everything is finished, and returns what the receivers saw.
    pub fn run(mut self) -> anyhow::Result<Audit> {
        let mut events = Events::with_capacity(EVENTS);
        let mut settle_due_ns = 0;
        self.report(Report::Ready);
        loop {
            let more_to_connect = self.connecting && self.connect_some()?;
            let timeout = match (more_to_connect, &self.finish) {
                (true, _) => Some(Duration::ZERO),
                (_, Some(_)) => Some(SETTLE_INTERVAL),
                _ => None,
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            for event in &events {
                if event.token() == WAKE {
                    self.take_orders()?;
                } else {
                    self.handle_ready(event)?;
                }
            }
            self.show();
            if self.connecting {
                self.note_joins();
            }
            if self.finish.is_some() {
                let now_ns = self.ties.clock.now_ns();
                if now_ns >= settle_due_ns {
                    settle_due_ns = now_ns + SETTLE_INTERVAL.as_nanos() as u64;
                    if self.is_settled(now_ns) {
                        return Ok(self.settle());
                    }
                }
            }
        }
    }

    fn take_orders(&mut self) -> anyhow::Result<()> {
        while let Ok(order) = self.ties.orders.try_recv() {
            match order {
                Order::Connect => self.connecting = true,
                Order::Resume => self.resume()?,
                Order::Finish {
                    last_offsets,
                    deadline_ns,
                } => {
                    self.finish = Some((last_offsets, deadline_ns));
                }
                Order::Latencies => {
                    let fresh = receiver::latency_histogram()?;
                    let taken = std::mem::replace(&mut self.view.latency_us, fresh);
                    self.report(Report::Latencies(Box::new(taken)));
                }
            }
        }
        Ok(())
    }

    /// Begins some connections; true where more could begin at once.
    fn connect_some(&mut self) -> anyhow::Result<bool> {
        for _ in 0..CONNECTS_PER_TURN {
            let index = self.connections.len();
            let Some(&room) = self.plan.seats.get(index) else {
                return Ok(false);
            };
            if self.handshakes >= self.plan.handshakes_max {
                return Ok(false);
            }
            let source = match self.plan.sources.len() {
                0 => None,
                count => self.plan.sources.get(index % count).copied(),
            };
            let buffer_bytes = self.plan.stalled_receive_buffer_bytes;
            let stream = sys::connect_from(source, self.plan.target, buffer_bytes)
                .with_context(|| format!("open connection {index} of this worker"))?;
            let mut connection = Connection::new(stream, Receiver::new(room));
            // On loopback the handshake is often done when connect returns.
            let request = self.requests.get(room as usize);
            let is_up = connection
                .send_request(request.map(Vec::as_slice).unwrap_or_default())
                .context("send an upgrade request")?;
            let interest = if is_up {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            if let Some(stream) = &mut connection.stream {
                let registry = self.poll.registry();
                registry.register(stream, Token(index), interest)?;
            }
            self.handshakes += 1;
            self.connections.push(connection);
        }
        Ok(true)
    }

    fn note_joins(&mut self) {
        let clock = self.ties.clock;
        let all = self.plan.seats.len() as u64;
        if self.connected_ns == 0 && self.view.connected == all {
            self.connected_ns = clock.now_ns();
        }
        if self.connections.len() as u64 == all && self.handshakes == 0 {
            self.connecting = false;
            self.joined_ns = clock.now_ns();
            let (connected_ns, joined_ns) = (self.connected_ns, self.joined_ns);
            self.report(Report::Joined {
                connected_ns,
                joined_ns,
            });
        }
    }

    fn handle_ready(&mut self, event: &Event) -> anyhow::Result<()> {
        let Token(index) = event.token();
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        let stage = connection.receiver.stage;
        if stage == Stage::Connecting && event.is_writable() {
            let request = self.requests.get(connection.receiver.room());
            connection
                .send_request(request.map(Vec::as_slice).unwrap_or_default())
                .context("send an upgrade request")?;
        }
        if !event.is_readable() && !event.is_read_closed() && !event.is_error() {
            return Ok(());
        }
        self.view.measure_from_ns = self.ties.measure_from_ns.load(Ordering::Relaxed);
        let is_last_read = event.is_read_closed() || event.is_error();
        let room = connection.receiver.room();
        self.bytes += connection.read(
            &mut self.buffer,
            &mut self.view,
            self.ties.clock,
            is_last_read,
        );
        if !self.view.out.is_empty() {
            connection.reply(&mut self.view);
        }
        let after = connection.receiver.stage;
        if after != stage {
            self.handle_stage_change(index, stage, after)?;
        }
        self.show_completed(room);
        Ok(())
    }

    fn handle_stage_change(&mut self, index: usize, from: Stage, to: Stage) -> anyhow::Result<()> {
        let is_in_handshake =
            |stage| matches!(stage, Stage::Connecting | Stage::Upgrading | Stage::Joining);
        if is_in_handshake(from) && !is_in_handshake(to) {
            self.handshakes -= 1;
        }
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        if connection.receiver.is_ended() {
            connection.close();
        } else if to == Stage::Joined
            && self.plan.stalled_receive_buffer_bytes.is_some()
            && let Some(stream) = &mut connection.stream
        {
            self.poll.registry().deregister(stream)?;
        }
        Ok(())
    }

    fn resume(&mut self) -> anyhow::Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if let Some(stream) = &mut connection.stream {
                self.poll
                    .registry()
                    .register(stream, Token(index), Interest::READABLE)?;
            }
        }
        Ok(())
    }

    /// Shows how far a room is, and wakes the publisher where it waits for that.
    #[inline]
    fn show_completed(&mut self, room: usize) {
        let Some(view) = self.view.rooms.get(room) else {
            return;
        };
        let progress = &view.progress;
        let completed = if progress.has_members() {
            progress.completed()
        } else {
            u64::MAX
        };
        let Some(known) = self
            .completed
            .get_mut(room)
            .filter(|known| **known != completed)
        else {
            return;
        };
        *known = completed;
        if let Some(shown) = self.ties.shown.completed.get(room) {
            shown.store(completed, Ordering::SeqCst);
        }
        let gate = &self.ties.gate;
        if gate.waiting.load(Ordering::SeqCst) && gate.waiting.swap(false, Ordering::SeqCst) {
            // A wake that fails leaves the publisher to its time-out.
            let _ = gate.waker.wake();
        }
    }

    fn show(&self) {
        let shown = &self.ties.shown;
        shown
            .delivered
            .store(self.view.audit.delivered, Ordering::Relaxed);
        shown.bytes.store(self.bytes, Ordering::Relaxed);
        shown
            .frame_bytes
            .store(self.view.frame_bytes as u64, Ordering::Relaxed);
    }

    fn is_settled(&self, now_ns: u64) -> bool {
        let Some((last, deadline_ns)) = &self.finish else {
            return false;
        };
        now_ns >= *deadline_ns
            || self.connections.iter().all(|connection| {
                let last = last.get(connection.receiver.room()).copied().unwrap_or(0);
                connection.receiver.is_settled(last)
            })
    }

    fn settle(self) -> Audit {
        let mut audit = self.view.audit;
        let last_offsets = self.finish.map(|(last, _)| last);
        for connection in &self.connections {
            let last = last_offsets
                .as_ref()
                .and_then(|last| last.get(connection.receiver.room()))
                .copied();
            connection.receiver.settle(last.unwrap_or(0), &mut audit);
            if let Some(stream) = &connection.stream {
                // Without it the port stays in TIME_WAIT: a nuisance, not a failure.
                let _ = sys::reset_on_close(stream);
            }
        }
        audit
    }

    fn report(&self, report: Report) {
        // Nobody listens any more only where the run has failed already.
        let _ = self.ties.reports.send(report);
    }
}
