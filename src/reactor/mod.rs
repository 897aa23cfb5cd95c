//! A core's loop: the edge between sockets, clock and channels on one side and a shard on the other.
//!
//! ```text
//!   a turn: poll ─► read every socket that has something ─► mail from other cores ─► timers
//!             ▲          (all into one buffer, a bounded amount each)                  │
//!             │                                                                       ▼
//!             └── accept ◄── close, shut, resume ◄── flush ◄── send mail to other cores
//! ```
//!
//! Everything that a turn finds is taken in before anything is flushed, so that messages which were
//! published close together leave in one write. Nothing in the loop waits, except for the poller.

mod accept;
mod clock;
mod descriptors;
mod listener;
mod pressure;
mod processors;
mod sockets;
pub mod tls;

pub use clock::Clock;
pub use descriptors::unshare;
pub use listener::{Listener, SocketOptions, bind, probe};
pub use pressure::{Measured, NodeMemory};
pub use processors::{Processors, pin};
pub use sockets::{Received, Sockets, Stream};

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use rustls::ServerConfig;
use tokio::sync::mpsc::{Sender, UnboundedSender};

use crate::address::{ConnectionRef, CoreId};
use crate::bus::{
    Answer, ApiAsk, Batch, Mailbox, NoticeSender, Order, OrderReply, Outlet, Query, Records,
    Stored, Wake,
};
use crate::gate::{Policy, Question, Verdict};
use crate::metrics::{Metrics, Phase, Reject, SnapshotReply};
use crate::shard::{Action, Outside, Pressure, Shard};
use crate::time::{Instant, Now};
use tls::Shook;

const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX);

/// Events that one poll reports at most. More wait in the kernel for the next turn.
const EVENTS_MAX: usize = 4096;

/// Batches of mail that one turn takes in at most.
const MAIL_MAX: usize = 4096;

/// How long sockets are left alone before it is looked again whether a core has caught up.
const PRESSURE_WAIT: Duration = Duration::from_millis(1);

/// How long nothing is accepted after the system had no descriptor or no memory for a connection.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// What may wait for one core is at most this part of the memory budget.
const BUS_PART: usize = 32;

/// How long a core sleeps at most while memory is short.
const RELIEF_WAIT: Duration = Duration::from_millis(10);

/// How often the log says that history is not kept.
const LOSS_INTERVAL: Duration = Duration::from_secs(10);

/// How often a core that has nobody left to drain looks whether the other cores have.
const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// What reaches a core from outside its sockets.
#[derive(Debug)]
pub enum Mail {
    /// From another core.
    Batch(Batch),
    /// From the control plane: the counters are asked for.
    Snapshot(SnapshotReply),
    /// From the server: memory is short, so a core that sleeps has to look at what it holds; and
    /// whether the allocator is to give back what is free.
    Memory {
        /// Whether it is.
        collect: bool,
    },
    /// From the server: what the operator allows is another.
    Policy(Arc<Policy>),
    /// From the control plane: what the operator's backend says about a connection.
    Verdict(ConnectionRef, Verdict),
    /// From the control plane: something about one user.
    Order(Order, OrderReply),
    /// From the control plane: what the operator's backend asks.
    Query(Query),
    /// From the store: how far it has come.
    Stored(Stored),
    /// From the server: new connections are shown another certificate.
    Tls(Arc<ServerConfig>),
    /// From the server: no more connections, and all are to go within the time.
    Drain(Duration),
}

/// Wakes a core's poller.
struct PollWaker(Waker);

impl Wake for PollWaker {
    fn wake(&self) {
        if let Err(error) = self.0.wake() {
            tracing::error!(%error, "a core could not be woken; it will look by itself");
        }
    }
}

/// The parts of a core that exist before its thread does, so that every descriptor table has them.
pub struct Seat {
    poll: Poll,
    mailbox: Mailbox<Mail>,
}

/// Makes a core's poller and mailbox.
///
/// # Errors
/// Where the system refuses a poller.
pub fn seat() -> io::Result<(Outlet<Mail>, Seat)> {
    let poll = Poll::new()?;
    let waker = PollWaker(Waker::new(poll.registry(), WAKER)?);
    let (outlet, mailbox) = Mailbox::new(Arc::new(waker));
    Ok((outlet, Seat { poll, mailbox }))
}

/// Bounds of a turn.
#[derive(Copy, Clone, Debug)]
pub struct Tuning {
    /// Connections that this core serves.
    pub connections_max: usize,
    /// Connections that all cores serve together.
    pub connections_everywhere_max: usize,
    /// Sockets beyond that which are told so, by 503.
    pub refusals_max: usize,
    /// What 503 asks clients to wait.
    pub retry_after: Duration,
    /// The read buffer, in bytes.
    pub read_buffer_bytes: usize,
    /// Bytes read from one connection in a turn.
    pub read_budget_bytes: usize,
    /// Writes of a flush before sockets are looked at again.
    pub flush_budget: usize,
    /// Connections accepted in a turn.
    pub accept_batch: usize,
    /// Whether a PROXY header begins each connection, which a trusted proxy writes.
    pub proxy_headers: bool,
    /// Time that a turn spends on TLS handshakes before the others have theirs.
    pub handshake_budget: Duration,
    /// Time that is spent looking for work before the thread sleeps.
    pub spin: Duration,
    /// Bytes that may wait for a core before publishers are paused.
    pub bus_backlog_bytes: usize,
}

/// Where a core sends what is not for another core. None of them makes it wait.
#[derive(Clone, Default, Debug)]
pub struct Links {
    /// Takes questions for the operator's backend, where that judges credentials. Nobody is let in
    /// whom there is no place to ask about.
    pub questions: Option<Sender<Question>>,
    /// Takes answers to the control plane's questions.
    pub answers: Option<UnboundedSender<Vec<Answer>>>,
    /// Takes what the operator's backend is to know. Where it is full, that is dropped and counted.
    pub notices: Option<NoticeSender>,
    /// Takes what is to be kept on disk.
    pub records: Option<crossbeam_channel::Sender<Records>>,
}

/// One core's loop.
pub struct Reactor {
    poll: Poll,
    mailbox: Mailbox<Mail>,
    outlets: Vec<Outlet<Mail>>,
    core: CoreId,
    clock: Clock,
    tuning: Tuning,
    shard: Shard,
    sockets: Sockets,
    listener: Option<Listener>,
    /// What TLS connections are told; none where connections are plain.
    tls: Option<Arc<ServerConfig>>,
    /// What is left of a turn's time for handshakes.
    handshakes_left: Duration,
    /// There may be connections to accept, from this moment on.
    accept_at: Option<Instant>,
    buffer: Vec<u8>,
    to_read: Vec<u32>,
    drain_ends: Option<Instant>,
    /// When the phase of the loop began that is under way.
    lapped_at: Instant,
    links: Links,
    /// Who asked for the counters in this turn.
    snapshots: Vec<SnapshotReply>,
    /// Connections on all cores. Written when one is accepted or closed, never for a message.
    open_everywhere: Arc<AtomicUsize>,
    memory: Arc<NodeMemory>,
    /// How many records the store was not given, as the log says so far, and when it may say more.
    lost_told: u64,
    lost_told_at: Instant,
}

impl Reactor {
    /// A core with its listener. `outlets` are those of all cores, by index.
    ///
    /// # Errors
    /// Where the poller does not take the listener.
    pub fn new(
        seat: Seat,
        outlets: Vec<Outlet<Mail>>,
        core: CoreId,
        (mut listener, tls): (Listener, Option<Arc<ServerConfig>>),
        shard: Shard,
        (tuning, clock, open_everywhere, memory): (
            Tuning,
            Clock,
            Arc<AtomicUsize>,
            Arc<NodeMemory>,
        ),
    ) -> io::Result<Reactor> {
        listener.register(seat.poll.registry(), LISTENER)?;
        Ok(Reactor {
            poll: seat.poll,
            mailbox: seat.mailbox,
            outlets,
            core,
            clock,
            tuning,
            shard,
            sockets: Sockets::default().with_clock(clock),
            lapped_at: clock.mono(),
            listener: Some(listener),
            tls,
            handshakes_left: Duration::ZERO,
            accept_at: Some(Instant::ORIGIN),
            buffer: vec![0; tuning.read_buffer_bytes],
            to_read: Vec::new(),
            drain_ends: None,
            links: Links::default(),
            snapshots: Vec::new(),
            open_everywhere,
            memory,
            lost_told: 0,
            lost_told_at: Instant::ORIGIN,
        })
    }

    /// With somebody to talk to outside the cores.
    #[must_use]
    pub fn with_links(self, links: Links) -> Reactor {
        Reactor { links, ..self }
    }

    /// Runs until the core has been drained. Answers its last counters.
    ///
    /// # Errors
    /// Where the poller fails, which nothing else can be done about.
    pub fn run(mut self) -> io::Result<Metrics> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut pending = false;
        self.lapped_at = self.clock.mono();
        loop {
            // The end of the last turn.
            let began = self.lapped_at;
            if self.is_over(began) {
                self.count_what_is_outside();
                return Ok(self.shard.metrics().clone());
            }
            let wait = if pending {
                Some(Duration::ZERO)
            } else {
                self.wait(began)
            };
            if pending || !self.spin(&mut events, began, wait)? {
                self.poll(&mut events, wait)?;
            }
            pending = self.turn(&events);
        }
    }

    /// Puts what the shard does not see into its counters: the sockets' own, what the core may hold,
    /// and, on the first core, what the node may.
    fn count_what_is_outside(&mut self) {
        let metrics = self.shard.metrics_mut();
        metrics.tls.clone_from(self.sockets.tls());
        metrics.connections.max = self.tuning.connections_max as u64;
        if self.core.index() == 0 {
            metrics.connections.everywhere_max = self.tuning.connections_everywhere_max as u64;
            self.memory.write(&mut metrics.memory);
        }
    }

    fn poll(&mut self, events: &mut Events, wait: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    /// Looks for events again and again, for a while that begins at `from`: a thread that has slept
    /// is late by the time its waking takes. Says whether there were any. Never longer than `wait`,
    /// which is how long nothing else is due.
    fn spin(
        &mut self,
        events: &mut Events,
        from: Instant,
        wait: Option<Duration>,
    ) -> io::Result<bool> {
        let most = wait.map_or(self.tuning.spin, |wait| wait.min(self.tuning.spin));
        if most.is_zero() {
            return Ok(false);
        }
        loop {
            self.poll(events, Some(Duration::ZERO))?;
            if !events.is_empty() {
                return Ok(true);
            }
            if self.clock.mono().saturating_since(from) >= most {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        // What waits for the disk has to meet its end, and whoever asked to hear of it.
        let is_done = || self.is_everyone_gone() && !self.shard.has_staged();
        self.drain_ends.is_some_and(|ends| is_done() || ends <= now)
    }

    /// Rooms and users may be at home on a core without connections: it stays for the others'.
    fn is_everyone_gone(&self) -> bool {
        self.shard.is_empty() && self.open_everywhere.load(Ordering::Relaxed) == 0
    }

    /// How long the poller may wait for something to happen.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let pressure = (!self.to_read.is_empty()).then(|| now + PRESSURE_WAIT);
        let is_idle_in_drain = self.drain_ends.is_some() && self.shard.is_empty();
        let others = is_idle_in_drain.then(|| now + DRAIN_WAIT);
        let is_short = self.shard.pressure() > Pressure::Calm;
        let relief = is_short.then(|| now + RELIEF_WAIT);
        let due = [
            relief,
            self.shard.poll_timeout(),
            self.accept_at,
            self.drain_ends,
            pressure,
            others,
        ];
        due.into_iter().flatten().min().map(|due| {
            // Rounded up: epoll counts whole milliseconds, and a wait that ends early is a turn
            // for nothing.
            let nanos = due.saturating_since(now).as_nanos();
            Duration::from_millis(nanos.div_ceil(1_000_000) as u64)
        })
    }

    /// One turn. Says whether there is more to do at once.
    fn turn(&mut self, events: &Events) -> bool {
        let began = self.clock.now();
        self.note_lap(Phase::Wait, began.mono);
        let may_have_read = !events.is_empty() || !self.to_read.is_empty();
        for event in events {
            match event.token() {
                LISTENER => self.accept_at = Some(self.accept_at.unwrap_or(began.mono)),
                WAKER => {}
                Token(index) => self.note(index as u32, event, began),
            }
        }
        let suspended = self.is_under_pressure();
        self.shard.suspend_reading(suspended);
        if !suspended {
            self.read_all(began);
        }
        if may_have_read {
            self.lap(Phase::Read);
        }
        let more_mail = self.take_mail(began);
        self.lap(Phase::Mail);
        self.shard.handle_timeouts(began);
        self.ask(began);
        self.send_mail();
        self.lap(Phase::Timers);
        let flushed = self
            .shard
            .poll_flush(began, &mut self.sockets, self.tuning.flush_budget);
        self.lap(Phase::Flush);
        self.shard.handle_flush_end(self.lapped_at);
        self.look_at_memory(began);
        self.act(began);
        self.ask(began);
        self.send_mail();
        self.send_out();
        self.answer_snapshots();
        let may_accept = self.accept_at.is_some_and(|at| at <= began.mono);
        if may_accept {
            self.lap(Phase::Act);
        }
        let more_to_accept = self.accept(began);
        let may_read = !suspended && !self.shard.wants_relief();
        let more_to_read = may_read && !self.to_read.is_empty();
        self.lap(if may_accept {
            Phase::Accept
        } else {
            Phase::Act
        });
        self.shard.handle_turn_end(began.mono, self.lapped_at);
        !flushed || more_mail || more_to_accept || more_to_read || self.shard.wants_flush()
    }

    /// A phase of the loop ends now. Reading a clock costs some 25 ns, so it is read where a phase
    /// may have had something to do, and the last reading of a turn serves the wait that follows.
    fn lap(&mut self, phase: Phase) {
        self.note_lap(phase, self.clock.mono());
    }

    fn note_lap(&mut self, phase: Phase, now: Instant) {
        let took = (now - self.lapped_at).as_nanos() as u64;
        self.lapped_at = now;
        self.shard.metrics_mut().turns.phases_ns.add(phase, took);
    }

    /// Holds what is there after the flush against the budget, and gives back what is too much.
    fn look_at_memory(&mut self, now: Now) {
        let outlet = self.outlets.get(self.core.index());
        let outside = Outside {
            bus: outlet.map_or(0, Outlet::backlog_bytes),
            tls: self.sockets.heap_bytes(),
        };
        let load = self.memory.load(self.core, outside);
        let pressure = self.shard.handle_pressure(now, load);
        let held = self.shard.memory_bytes();
        self.memory.tell(self.core, held, pressure);
    }

    fn note(&mut self, index: u32, event: &mio::event::Event, now: Now) {
        if event.is_writable() && self.sockets.note_writable(index) {
            self.shard.handle_writable(now, index);
        }
        let ended = event.is_read_closed() || event.is_error();
        if (event.is_readable() || ended) && self.sockets.note_readable(index, ended) {
            self.to_read.push(index);
        }
    }

    /// Whether this core or another has so much waiting, for itself or for the disk, that nothing
    /// should be read that adds to it.
    fn is_under_pressure(&self) -> bool {
        let awaits_store = self.shard.awaits_store();
        if let Some(own) = self.outlets.get(self.core.index()) {
            own.set_full(awaits_store);
        }
        if awaits_store {
            return true;
        }
        // What waits between cores is part of the budget, and nobody can be closed for it.
        let part = match self.memory.budget_bytes() {
            0 => usize::MAX,
            budget => budget / BUS_PART,
        };
        let max = self.tuning.bus_backlog_bytes.min(part);
        let others = self
            .outlets
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != self.core.index());
        let mut others = others.map(|(_, outlet)| outlet);
        others.any(|outlet| outlet.backlog_bytes() > max || outlet.is_full())
    }

    fn read_all(&mut self, now: Now) {
        self.handshakes_left = self.tuning.handshake_budget;
        let list = std::mem::take(&mut self.to_read);
        let mut list = list.into_iter();
        while !self.shard.wants_relief() {
            let Some(index) = list.next() else { break };
            self.sockets.unlist(index);
            self.read(index, now);
        }
        self.to_read.extend(list);
    }

    fn read(&mut self, index: u32, now: Now) {
        if self.tuning.proxy_headers
            && self.sockets.awaits_header(index)
            && !self.take_header(index, now)
        {
            return;
        }
        let mut budget = self.tuning.read_budget_bytes;
        while self.shard.wants_read(index) {
            if budget == 0 {
                if self.sockets.relist(index) {
                    self.to_read.push(index);
                }
                return;
            }
            let room = self.buffer.len().min(budget);
            let Some(buffer) = self.buffer.get_mut(..room) else {
                return;
            };
            let received = self.sockets.receive(index, buffer);
            let (count, cost) = match received {
                Received::Some(count) | Received::Last(count) => (count, count),
                // Records of a byte each cost what their headers do, too.
                Received::Opened { count, read, .. } => (count, count.max(read)),
                Received::Nothing => return,
                Received::End => return self.shard.handle_end(now, index),
                Received::Handshake if self.shake(index, now) => continue,
                Received::Handshake => return,
            };
            budget = budget.saturating_sub(cost);
            self.shard
                .handle_bytes(now, index, buffer.get_mut(..count).unwrap_or_default());
            match received {
                Received::Last(_) | Received::Opened { is_last: true, .. } => return,
                _ => {}
            }
        }
    }

    /// Goes on with a TLS handshake, as far as this turn's time for that goes. Says whether there is
    /// something to read behind it.
    fn shake(&mut self, index: u32, now: Now) -> bool {
        if self.handshakes_left.is_zero() {
            self.sockets.tls_mut().deferred += 1;
            // Behind those that wait already: the oldest is the first in the next turn.
            if self.sockets.relist(index) {
                self.to_read.push(index);
            }
            return false;
        }
        let began = self.clock.mono();
        let shook = self.sockets.shake(index);
        let took = self.clock.mono() - began;
        self.handshakes_left = self.handshakes_left.saturating_sub(took);
        match shook {
            Shook::Steps => true,
            Shook::Waits => false,
            Shook::Done => {
                // Whatever it was to be told had to wait for this.
                self.shard.handle_writable(now, index);
                true
            }
            Shook::Failed => {
                let rejected = &mut self.shard.metrics_mut().connections.rejected;
                rejected.count(Reject::Tls);
                self.shard.handle_end(now, index);
                false
            }
        }
    }

    fn take_mail(&mut self, now: Now) -> bool {
        self.mailbox.begin();
        for _ in 0..MAIL_MAX {
            match self.mailbox.receive() {
                None => return false,
                Some(Mail::Batch(batch)) => self.shard.handle_bus(now, batch),
                Some(Mail::Snapshot(reply)) => self.snapshots.push(reply),
                Some(Mail::Memory { collect }) => {
                    if collect {
                        (self.memory.collect)();
                    }
                }
                Some(Mail::Policy(policy)) => self.shard.handle_policy(now, policy),
                Some(Mail::Verdict(connection, verdict)) => {
                    self.shard.handle_verdict(now, connection, verdict);
                }
                Some(Mail::Order(order, reply)) => {
                    reply.answer(self.shard.handle_order(now, order));
                }
                Some(Mail::Query(query)) => {
                    if matches!(query.ask, ApiAsk::Metrics) {
                        self.count_what_is_outside();
                    }
                    self.shard.handle_query(now, query);
                }
                Some(Mail::Stored(stored)) => self.shard.handle_stored(now, &stored),
                Some(Mail::Tls(config)) => self.tls = Some(config),
                Some(Mail::Drain(window)) => self.drain(now, window),
            }
            if self.shard.wants_relief() {
                break;
            }
        }
        true
    }

    /// Answers who asked for the counters: after the flush, so that what this turn wrote anyway is not
    /// told as waiting.
    fn answer_snapshots(&mut self) {
        for reply in std::mem::take(&mut self.snapshots) {
            self.count_what_is_outside();
            reply.answer(self.shard.metrics());
        }
    }

    /// Gives the shard's questions to the control plane, which answers by mail.
    fn ask(&mut self, now: Now) {
        while let Some(question) = self.shard.poll_question() {
            let connection = question.connection;
            let questions = self.links.questions.as_ref();
            let is_asked = questions.is_some_and(|questions| questions.try_send(question).is_ok());
            if !is_asked {
                let verdict = Verdict::Unavailable;
                self.shard.handle_verdict(now, connection, verdict);
            }
        }
    }

    /// Gives away what is for the control plane, the backend and the store.
    fn send_out(&mut self) {
        if let Some(answers) = self.shard.poll_answers()
            && let Some(link) = &self.links.answers
        {
            // Nobody waits for them any more once the control plane has stopped.
            let _stopped = link.send(answers);
        }
        if let Some(notices) = self.shard.poll_notices()
            && let Some(link) = &self.links.notices
        {
            link.send(notices);
        }
        if let Some(records) = self.shard.poll_records()
            && let Some(link) = &self.links.records
        {
            // The store outlives the cores.
            let _gone = link.send(records);
        }
        let lost = self.shard.metrics().store.lost;
        if lost > self.lost_told && self.lapped_at >= self.lost_told_at {
            let records = lost - self.lost_told;
            let core = self.core.0;
            tracing::error!(
                core,
                records,
                "the disk is too far behind: records of history are not kept"
            );
            self.lost_told = lost;
            self.lost_told_at = self.lapped_at + LOSS_INTERVAL;
        }
    }

    fn send_mail(&mut self) {
        for (index, outlet) in self.outlets.iter().enumerate() {
            if let Some(batch) = self.shard.poll_bus(CoreId(index as u16)) {
                let weight = batch.weight();
                // A core that has drained hears nothing any more, and has nobody to tell it.
                let _drained = outlet.send(Mail::Batch(batch), weight);
            }
        }
    }

    /// Does to sockets what the shard decided.
    fn act(&mut self, now: Now) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::ShutdownWrite(index) => self.sockets.shutdown_write(index),
                Action::Close(index) => self.close(index, false),
                Action::Reset(index) => self.close(index, true),
                Action::Resume(index) => {
                    self.shard.handle_resume(now, index);
                    if self.shard.wants_read(index) && self.sockets.relist(index) {
                        self.to_read.push(index);
                    }
                }
            }
        }
    }

    fn close(&mut self, index: u32, abruptly: bool) {
        if self.sockets.close(index, abruptly) {
            self.open_everywhere.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn drain(&mut self, now: Now, window: Duration) {
        self.listener = None;
        self.accept_at = None;
        self.shard.handle_drain(now, window);
        self.drain_ends = Some(now.mono + window + self.shard.close_timeout());
    }
}
