//! One thread of clients: its own poll, its own descriptor table, one read buffer for all.

mod act;
mod arrive;
mod ties;
mod wait;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::connection::Connection;
use crate::pacer::Pacer;
use crate::receiver::{Role, Stage};
use crate::seats::Known;
use crate::sys::{self, Alarm};
use crate::tally::latency_histogram;
use crate::view::{RoomView, View};

pub use ties::{Findings, Gate, Last, Order, Report, Shown, Ties, WorkerPlan};

/// The token under which orders arrive.
pub const WAKE: Token = Token(usize::MAX);
/// The token of what is due.
pub const ALARM: Token = Token(usize::MAX - 1);
/// Read buffer: a client's whole backlog in the usual case, and small enough for the cache.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// Readiness events taken at once.
const EVENTS: usize = 1024;
/// How often a worker that waits for the end of something looks whether it has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What clients do of themselves, each at its rate.
#[derive(Default)]
struct Pacers {
    connects: Option<Pacer>,
    speak: Option<Pacer>,
    churn: Option<Pacer>,
    visits: Option<Pacer>,
    trickle: Option<Pacer>,
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    speak: usize,
    churn: usize,
    visit: usize,
    trickle: usize,
}

/// What a worker waits for.
enum Wait {
    Quiet { deadline_ns: u64 },
    Settle(Last),
    Finish(Last),
}

/// The state of one thread.
pub struct Worker {
    poll: Poll,
    alarm: Alarm,
    alarm_ns: u64,
    plan: WorkerPlan,
    ties: Ties,
    known: Known,
    host: String,
    view: View,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    bytes: u64,
    /// Latencies that [`Order::Interval`] has handed over within the window.
    handed_over: Histogram<u64>,
    handshakes: usize,
    /// Connections that there are to be.
    due: usize,
    connecting: bool,
    upgrades_seen: u64,
    connected_ns: u64,
    pacers: Pacers,
    turns: Turns,
    /// Clients whom the poll does not watch, each read in its turn.
    tricklers: Vec<usize>,
    /// Clients that are away, and when they are due back.
    away: VecDeque<(u64, usize)>,
    wait: Option<Wait>,
}

impl Worker {
    /// Splits the descriptor table off and gets ready; `poll` already knows the waker.
    pub fn new(poll: Poll, plan: WorkerPlan, ties: Ties) -> anyhow::Result<Worker> {
        sys::unshare_descriptors().context("unshare the descriptor table")?;
        sys::sharpen_timers();
        let alarm = Alarm::new().context("make a timer")?;
        poll.registry()
            .register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
        let mut known = Known::new(Arc::clone(&plan.rooms));
        // Rooms get their numbers in the order in which clients will ask for them.
        for seat in &plan.seats {
            known.of(*seat);
        }
        let rooms = known.globals.iter().map(|global| {
            let name = plan.rooms.names.get(*global as usize);
            let name = name.map(String::as_str).unwrap_or_default();
            RoomView::new(name, *global, plan.tracked_offsets)
        });
        let visits = Arc::clone(&plan.visits);
        let mut view = View::new(rooms.collect(), plan.dialect, plan.payload_bytes, visits)?;
        if plan.rooms.per_client > 1 {
            view.name_rooms();
        }
        Ok(Worker {
            host: plan.target.to_string(),
            connections: Vec::with_capacity(plan.seats.len()),
            buffer: vec![0; READ_BUFFER_BYTES],
            poll,
            alarm,
            alarm_ns: 0,
            plan,
            ties,
            known,
            view,
            bytes: 0,
            handed_over: latency_histogram()?,
            handshakes: 0,
            due: 0,
            connecting: false,
            upgrades_seen: 0,
            connected_ns: 0,
            pacers: Pacers::default(),
            turns: Turns::default(),
            tricklers: Vec::new(),
            away: VecDeque::new(),
            wait: None,
        })
    }

    /// Runs until everything is finished, and returns what the clients saw.
    pub fn run(mut self) -> anyhow::Result<Findings> {
        let mut events = Events::with_capacity(EVENTS);
        self.report(Report::Ready);
        loop {
            let has_more = self.act()?;
            let timeout = match &self.wait {
                _ if has_more => Some(Duration::ZERO),
                Some(_) => Some(LOOK_INTERVAL),
                None => None,
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    WAKE => self.take_orders()?,
                    // What is due is done before the next poll.
                    ALARM => {}
                    Token(index) => self.handle_ready(index, event)?,
                }
            }
            self.show();
            if self.connecting {
                self.note_joins();
            }
            if self.look()? {
                return Ok(self.settle());
            }
        }
    }

    fn take_orders(&mut self) -> anyhow::Result<()> {
        while let Ok(order) = self.ties.orders.try_recv() {
            match order {
                Order::Connect => self.begin_to_connect(),
                Order::Begin => self.begin()?,
                Order::Stop => self.stop_midway()?,
                Order::Resume => self.resume()?,
                Order::Quiet { deadline_ns } => {
                    self.quieten();
                    self.wait = Some(Wait::Quiet { deadline_ns });
                }
                Order::Settle(last) => self.wait = Some(Wait::Settle(last)),
                Order::Finish(last) => self.wait = Some(Wait::Finish(last)),
                Order::Interval(reply) => {
                    let taken = self.take_latencies()?;
                    self.handed_over.add(&taken)?;
                    // Nobody waits any more only where the run is over.
                    let _ = reply.send(taken);
                }
                Order::Latencies(reply) => {
                    let mut taken = self.take_latencies()?;
                    taken.add(&self.handed_over)?;
                    self.handed_over.reset();
                    let _ = reply.send(taken);
                }
            }
        }
        Ok(())
    }

    fn take_latencies(&mut self) -> anyhow::Result<Histogram<u64>> {
        let fresh = latency_histogram()?;
        Ok(std::mem::replace(&mut self.view.latency_us, fresh))
    }

    fn handle_ready(&mut self, index: usize, event: &Event) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        let stage = connection.receiver.stage;
        if stage == Stage::Connecting && event.is_writable() {
            self.send_request(index)?;
        } else if event.is_writable() && connection.has_unsent() {
            connection.send_unsent(&mut self.view);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(index, event.is_read_closed() || event.is_error());
        }
        self.follow_up(index, stage)
    }

    #[inline]
    fn read(&mut self, index: usize, is_last_read: bool) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        self.view.measure_from_ns = self.ties.measure_from_ns.load(Ordering::Relaxed);
        self.bytes += connection.read(
            &mut self.buffer,
            &mut self.view,
            self.ties.clock,
            is_last_read,
        );
    }

    /// Sends what a client has to say, and follows where it stands now.
    #[inline]
    fn follow_up(&mut self, index: usize, before: Stage) -> anyhow::Result<()> {
        if !self.view.out.is_empty() {
            self.send(index)?;
        }
        let after = self.connections.get(index).map(|it| it.receiver.stage);
        if let Some(after) = after.filter(|after| *after != before) {
            self.handle_stage_change(index, before, after)?;
        }
        while let Some(room) = self.view.advanced.pop() {
            self.show_completed(room);
        }
        Ok(())
    }

    fn send(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        connection.reply(&mut self.view);
        if connection.has_unsent()
            && let Some(stream) = &mut connection.stream
        {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .reregister(stream, Token(index), both)?;
        }
        Ok(())
    }

    fn handle_stage_change(&mut self, index: usize, from: Stage, to: Stage) -> anyhow::Result<()> {
        if from.is_arriving() && !to.is_arriving() {
            self.handshakes = self.handshakes.saturating_sub(1);
        }
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(());
        };
        match to {
            Stage::Closed | Stage::Reset => connection.close(),
            Stage::Away => {
                if let Some(stream) = &connection.stream {
                    // Both ends are through; TIME_WAIT would only hold the port.
                    sys::reset_on_close(stream)?;
                }
                connection.close();
                let now_ns = self.ties.clock.now_ns();
                let due_ns = now_ns.saturating_add(self.plan.away.as_nanos() as u64);
                self.away.push_back((due_ns, index));
            }
            Stage::Aside if connection.receiver.role != Role::Stopping => {
                if let Some(stream) = &mut connection.stream {
                    self.poll.registry().deregister(stream)?;
                }
                if connection.receiver.role == Role::Trickling {
                    self.tricklers.push(index);
                }
            }
            Stage::Joined if self.view.refills => self.fill(index)?,
            _ => {}
        }
        Ok(())
    }

    /// Shows how far a room is, and wakes the publisher where it waits for that.
    #[inline]
    fn show_completed(&mut self, room: u32) {
        let Some(view) = self.view.rooms.get(room as usize) else {
            return;
        };
        let completed = if view.progress.has_members() {
            view.progress.completed()
        } else {
            u64::MAX
        };
        let Some(shown) = self.ties.shown.completed.get(view.global as usize) else {
            return;
        };
        // Written by this thread alone.
        if shown.load(Ordering::Relaxed) == completed {
            return;
        }
        shown.store(completed, Ordering::SeqCst);
        let gate = &self.ties.gate;
        if gate.waiting.load(Ordering::SeqCst) && gate.waiting.swap(false, Ordering::SeqCst) {
            // A wake that fails leaves the publisher to its time-out.
            let _ = gate.waker.wake();
        }
    }

    fn show(&self) {
        let (shown, view) = (&self.ties.shown, &self.view);
        let delivered = view.audit.delivered + view.slow_audit.delivered;
        let told = view.counts.presence_events + view.counts.presence_summed;
        shown.upgrades.store(view.upgrades, Ordering::Relaxed);
        shown.connected.store(view.connected, Ordering::Relaxed);
        shown.joined.store(view.joined, Ordering::Relaxed);
        shown.delivered.store(delivered, Ordering::Relaxed);
        shown
            .answered
            .store(view.counts.answered, Ordering::Relaxed);
        shown.bytes.store(self.bytes, Ordering::Relaxed);
        shown
            .frame_bytes
            .store(view.frame_bytes as u64, Ordering::Relaxed);
        shown.told.store(told, Ordering::Relaxed);
    }

    fn report(&self, report: Report) {
        // Nobody listens any more only where the run has failed already.
        let _ = self.ties.reports.send(report);
    }
}
