//! Those who only publish: k in flight for each room, or at a fixed rate.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::clock::{Clock, until};
use crate::connection::upgrade_request;
use crate::crew::Crew;
use crate::frame;
use crate::message::{self, Notice, Pen};
use crate::pacer::Pacer;
use crate::receiver::ACCEPT;
use crate::settings::Pace;
use crate::socket::Socket;
use crate::sys::Alarm;
use crate::view::Dialect;
use crate::worker::{ALARM, Gate};

/// Answers are read into this; a longer one could not be split off.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// No completion for so long: the run has stuck.
const STUCK: Duration = Duration::from_secs(15);
/// How long to wait at the end for the last answers.
const ANSWERS_GRACE: Duration = Duration::from_secs(5);
/// Longest sleep between two looks at the answers.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// What publishers saw.
#[derive(Clone, Debug, Default)]
pub struct PublisherReport {
    /// Messages sent.
    pub published: u64,
    /// `message_sent` answers.
    pub answered: u64,
    /// `error` answers, by code.
    pub errors: BTreeMap<u64, u64>,
    /// Set where the server ended a connection.
    pub ended: bool,
}

impl PublisherReport {
    /// What was not as it should be; `expects_answers` of a server that gives them.
    pub fn failures(&self, expects_answers: bool) -> Vec<String> {
        let mut failures = Vec::new();
        if expects_answers && self.answered != self.published {
            failures.push(format!(
                "{} publishes, {} answers",
                self.published, self.answered
            ));
        }
        if self.ended {
            failures.push("the server ended a publisher's connection".to_owned());
        }
        let errors = self.errors.iter();
        failures.extend(errors.map(|(code, count)| format!("{count} publishes refused: {code}")));
        failures
    }
}

/// What is published to some of the rooms.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Which rooms, by number.
    pub rooms: Range<usize>,
    /// How.
    pub pace: Pace,
}

struct Room {
    name: String,
    last_offset: u64,
}

/// A feed that is going on.
struct Flow {
    rooms: Range<usize>,
    in_flight: Option<u64>,
    pacer: Option<Pacer>,
    turn: usize,
}

/// A connection that publishes.
struct Line {
    stream: Socket,
    out: Vec<u8>,
    /// Answers as they come; `filled` bytes of an incomplete one.
    input: Vec<u8>,
    filled: usize,
}

/// Connections that publish and are in no room.
pub struct Publishers {
    poll: Poll,
    alarm: Alarm,
    /// What it is set for.
    alarm_ns: u64,
    gate: Arc<Gate>,
    clock: Clock,
    dialect: Dialect,
    pen: Pen,
    rooms: Vec<Room>,
    lines: Vec<Line>,
    report: PublisherReport,
}

/// How publishers are set up.
pub struct PublishersPlan<'a> {
    /// Where to.
    pub target: SocketAddrV4,
    /// The path of the upgrade.
    pub path: &'a str,
    /// How messages look.
    pub dialect: Dialect,
    /// Names of all rooms that they may publish to.
    pub rooms: &'a [String],
    /// How many connections.
    pub count: usize,
    /// Bytes of payload in a message.
    pub payload_bytes: usize,
}

impl Publishers {
    /// Connects. The rooms' newest offsets are taken from the crew, which has joined.
    pub fn connect(
        plan: &PublishersPlan<'_>,
        crew: &Crew,
        (poll, gate): (Poll, Arc<Gate>),
        clock: Clock,
    ) -> anyhow::Result<Publishers> {
        let mut lines = Vec::new();
        for number in 0..plan.count {
            let mut stream = upgrade(plan).context("connect a publisher")?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, Token(number), interest)?;
            lines.push(Line {
                stream,
                out: Vec::new(),
                input: vec![0; READ_BUFFER_BYTES],
                filled: 0,
            });
        }
        let alarm = Alarm::new().context("make a timer")?;
        poll.registry()
            .register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
        let rooms = plan.rooms.iter().enumerate().map(|(index, name)| Room {
            name: name.clone(),
            last_offset: crew.completed(index).unwrap_or(0),
        });
        Ok(Publishers {
            poll,
            alarm,
            alarm_ns: 0,
            gate,
            clock,
            dialect: plan.dialect,
            pen: Pen::new(plan.payload_bytes),
            rooms: rooms.collect(),
            lines,
            report: PublisherReport::default(),
        })
    }

    /// Messages sent so far.
    pub fn published(&self) -> u64 {
        self.report.published
    }

    /// Publishes these feeds until `end_ns`.
    pub fn run(&mut self, crew: &Crew, feeds: &[Feed], end_ns: u64) -> anyhow::Result<()> {
        let began_ns = self.clock.now_ns();
        let mut flows: Vec<Flow> = feeds.iter().map(|feed| Flow::new(feed, began_ns)).collect();
        let mut events = Events::with_capacity(64);
        let mut moved_ns = began_ns;
        loop {
            let now_ns = self.clock.now_ns();
            if now_ns >= end_ns {
                return self.flush();
            }
            ensure!(
                !self.report.ended,
                "the server ended a publisher's connection"
            );
            // Announced before the look: a worker that completes after it will wake us.
            self.gate.waiting.store(true, Ordering::SeqCst);
            let mut published = 0;
            for flow in &mut flows {
                published += self.publish_flow(crew, flow, now_ns.min(end_ns))?;
            }
            self.flush()?;
            if published > 0 {
                moved_ns = now_ns;
                continue;
            }
            let is_closed_loop = flows.iter().all(|flow| flow.in_flight.is_some());
            let stuck = Duration::from_nanos(now_ns.saturating_sub(moved_ns));
            ensure!(
                flows.is_empty() || !is_closed_loop || stuck < STUCK,
                "nothing completed for {STUCK:?}"
            );
            self.sleep(&flows, end_ns, &mut events)?;
            self.flush()?;
            self.take_answers()?;
        }
    }

    /// Publishes one message to each room.
    pub fn publish_once(&mut self) -> anyhow::Result<()> {
        let stamp_ns = self.clock.now_ns();
        for room in 0..self.rooms.len() {
            self.publish(room, room, stamp_ns);
        }
        self.flush()
    }

    /// The offset of the newest message of each room.
    pub fn last_offsets(&self) -> Vec<u64> {
        self.rooms.iter().map(|room| room.last_offset).collect()
    }

    /// Sends what is left and waits for the last answers.
    pub fn settle(&mut self, expects_answers: bool) -> anyhow::Result<()> {
        let deadline_ns = self.clock.now_ns() + ANSWERS_GRACE.as_nanos() as u64;
        while !self.report.ended && self.clock.now_ns() < deadline_ns {
            self.flush()?;
            self.take_answers()?;
            let answers = self.report.answered + self.report.errors.values().sum::<u64>();
            let is_answered = !expects_answers || answers >= self.report.published;
            if is_answered && self.lines.iter().all(|line| line.out.is_empty()) {
                break;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    /// What they saw.
    pub fn finish(self) -> PublisherReport {
        self.report
    }

    /// Publishes what may leave; returns how much that was.
    fn publish_flow(&mut self, crew: &Crew, flow: &mut Flow, now_ns: u64) -> anyhow::Result<u64> {
        let mut published = 0;
        if let Some(in_flight) = flow.in_flight {
            let mut is_anyone_left = false;
            for room in flow.rooms.clone() {
                let Some(completed) = crew.completed(room) else {
                    continue;
                };
                is_anyone_left = true;
                while self
                    .rooms
                    .get(room)
                    .is_some_and(|it| it.last_offset < completed + in_flight)
                {
                    self.publish(room, flow.turn, now_ns);
                    flow.turn += 1;
                    published += 1;
                }
            }
            ensure!(is_anyone_left, "no client is left");
        }
        // All that are due leave together, each with the time at which it should have.
        while let Some(due_ns) = flow.pacer.as_mut().and_then(|it| it.take(now_ns)) {
            let room = flow.rooms.start + flow.turn % flow.rooms.len().max(1);
            self.publish(room, flow.turn, due_ns);
            flow.turn += 1;
            published += 1;
        }
        Ok(published)
    }

    fn sleep(&mut self, flows: &[Flow], end_ns: u64, events: &mut Events) -> anyhow::Result<()> {
        let due = flows.iter().filter_map(|flow| flow.pacer);
        let due_ns = due
            .map(|pacer| pacer.due_ns())
            .min()
            .unwrap_or(end_ns)
            .min(end_ns);
        if due_ns != self.alarm_ns {
            self.alarm_ns = due_ns;
            self.alarm.set(until(self.clock.now_ns(), due_ns))?;
        }
        match self.poll.poll(events, Some(SLEEP_MAX)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn publish(&mut self, room: usize, turn: usize, stamp_ns: u64) {
        // Without rooms a room is a publisher, and its messages leave by its own line.
        let by = match self.dialect {
            Dialect::Numbered => room,
            Dialect::Rooms(_) | Dialect::Echo => turn,
        };
        let count = self.lines.len().max(1);
        let (Some(line), Some(room_state)) =
            (self.lines.get_mut(by % count), self.rooms.get_mut(room))
        else {
            return;
        };
        room_state.last_offset += 1;
        // Zero stands for an unknown time.
        let stamp_ns = stamp_ns.max(1);
        if self.dialect == Dialect::Numbered {
            let number = room_state.last_offset;
            self.pen
                .number(room as u32, number, stamp_ns, &mut line.out);
        } else {
            self.pen.publish(&room_state.name, stamp_ns, &mut line.out);
        }
        self.report.published += 1;
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.lines.iter_mut().try_for_each(Line::flush)
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        let report = &mut self.report;
        self.lines
            .iter_mut()
            .try_for_each(|line| line.take_answers(report))
    }
}

impl Flow {
    fn new(feed: &Feed, began_ns: u64) -> Flow {
        let (in_flight, pacer) = match feed.pace {
            Pace::InFlight(count) => (Some(count), None),
            Pace::PerSecond(rate) => (None, Pacer::start(rate, began_ns)),
        };
        Flow {
            rooms: feed.rooms.clone(),
            in_flight,
            pacer,
            turn: 0,
        }
    }
}

impl Line {
    fn flush(&mut self) -> anyhow::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) => {
                    self.out.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("publish"),
            }
        }
        Ok(())
    }

    fn take_answers(&mut self, report: &mut PublisherReport) -> anyhow::Result<()> {
        loop {
            let Some(space) = self
                .input
                .get_mut(self.filled..)
                .filter(|it| !it.is_empty())
            else {
                bail!("an answer larger than {READ_BUFFER_BYTES} bytes");
            };
            match self.stream.read(space) {
                Ok(0) => {
                    report.ended = true;
                    return Ok(());
                }
                Ok(read) => {
                    self.filled += read;
                    self.split_answers(report);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read answers to publishes"),
            }
        }
    }

    fn split_answers(&mut self, report: &mut PublisherReport) {
        let mut rest = self.input.get(..self.filled).unwrap_or_default();
        while let Some((header, payload, after)) = frame::split(rest) {
            rest = after;
            match header.first {
                frame::TEXT if message::is_message_sent(payload) => report.answered += 1,
                frame::TEXT => {
                    if let Some(Notice::Error { code, .. }) = message::parse(payload) {
                        *report.errors.entry(code).or_default() += 1;
                    }
                }
                frame::PING => frame::write_masked(frame::PONG, payload, &mut self.out),
                frame::CLOSE => report.ended = true,
                _ => {}
            }
        }
        let left = rest.len();
        self.input.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
    }
}

/// Connects and upgrades, waiting for each step; what follows the head stays in the socket.
fn upgrade(plan: &PublishersPlan<'_>) -> anyhow::Result<Socket> {
    let stream = std::net::TcpStream::connect(plan.target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // A second handle on the same socket, which waits until all is said.
    let handle = stream.try_clone()?;
    let mut stream = Socket::new(TcpStream::from_std(stream))?;
    let host = plan.target.to_string();
    stream.write_all(&upgrade_request(&host, plan.path, plan.dialect))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        ensure!(head.len() < 8 * 1024, "a response head that does not end");
    }
    let head = String::from_utf8_lossy(&head);
    if !head.starts_with("HTTP/1.1 101") || !head.contains(ACCEPT) {
        bail!(
            "upgrade refused: {}",
            head.lines().next().unwrap_or_default()
        );
    }
    handle.set_nonblocking(true)?;
    Ok(stream)
}
