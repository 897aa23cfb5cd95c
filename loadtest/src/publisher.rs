//! The one who publishes: k in flight for each room, or at a fixed rate.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use crate::clock::{Clock, until};
use crate::connection::upgrade_request;
use crate::crew::Crew;
use crate::frame;
use crate::message::{self, Notice, Publish};
use crate::receiver::{ACCEPT, JoinBy};
use crate::worker::Gate;

const SOCKET: Token = Token(0);
/// Answers are read into this; a longer one could not be split off.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// No completion for so long: the run has stuck.
const STUCK: Duration = Duration::from_secs(15);
/// How long to wait at the end for the last answers.
const ANSWERS_GRACE: Duration = Duration::from_secs(2);
/// Longest sleep between two looks at the answers.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// How publishes are paced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many in flight in each room: the next leaves when every receiver has the one that many
    /// before it.
    InFlight(u64),
    /// So many a second over all rooms, whatever the server does; stamped with the time at which
    /// each should have left, so that a late one counts as slow.
    PerSecond(f64),
}

/// What the publisher saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PublisherReport {
    /// Messages sent.
    pub published: u64,
    /// `message_sent` answers.
    pub answered: u64,
    /// `error` answers, by code.
    pub errors: BTreeMap<u64, u64>,
    /// Set where the server ended the connection.
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
            failures.push("the server ended the publisher's connection".to_owned());
        }
        let errors = self.errors.iter();
        failures.extend(errors.map(|(code, count)| format!("{count} publishes refused: {code}")));
        failures
    }
}

struct Room {
    publish: Publish,
    last_offset: u64,
}

/// A connection that publishes and is in no room.
pub struct Publisher {
    poll: Poll,
    gate: Arc<Gate>,
    stream: TcpStream,
    clock: Clock,
    rooms: Vec<Room>,
    out: Vec<u8>,
    /// Answers as they come; `filled` bytes of an incomplete one.
    input: Vec<u8>,
    filled: usize,
    report: PublisherReport,
}

impl Publisher {
    /// Connects. The rooms' newest offsets are taken from the crew, which has joined.
    pub fn connect(
        target: SocketAddrV4,
        rooms: &[String],
        payload_bytes: usize,
        crew: &Crew,
        (poll, gate): (Poll, Arc<Gate>),
        clock: Clock,
    ) -> anyhow::Result<Publisher> {
        let mut stream = upgrade(target).context("connect the publisher")?;
        poll.registry()
            .register(&mut stream, SOCKET, Interest::READABLE | Interest::WRITABLE)?;
        let rooms = rooms.iter().enumerate().map(|(index, name)| Room {
            publish: Publish::new(name, payload_bytes),
            last_offset: crew.completed(index).unwrap_or(0),
        });
        Ok(Publisher {
            poll,
            gate,
            stream,
            clock,
            rooms: rooms.collect(),
            out: Vec::new(),
            input: vec![0; READ_BUFFER_BYTES],
            filled: 0,
            report: PublisherReport::default(),
        })
    }

    /// Publishes at this pace until `end_ns`.
    pub fn run(&mut self, crew: &Crew, pace: Pace, end_ns: u64) -> anyhow::Result<()> {
        match pace {
            Pace::InFlight(count) => self.run_in_flight(crew, count, end_ns),
            Pace::PerSecond(rate) => self.run_at_rate(rate, end_ns),
        }
    }

    /// Publishes one message to each room.
    pub fn publish_once(&mut self) -> anyhow::Result<()> {
        let stamp_ns = self.clock.now_ns();
        for room in 0..self.rooms.len() {
            self.publish(room, stamp_ns);
        }
        self.flush()
    }

    /// The offset of the newest message of each room.
    pub fn last_offsets(&self) -> Vec<u64> {
        self.rooms.iter().map(|room| room.last_offset).collect()
    }

    /// Sends what is left, waits for the last answers, and reports.
    pub fn finish(mut self, expects_answers: bool) -> anyhow::Result<PublisherReport> {
        let deadline_ns = self.clock.now_ns() + ANSWERS_GRACE.as_nanos() as u64;
        while !self.report.ended && self.clock.now_ns() < deadline_ns {
            self.flush()?;
            self.take_answers()?;
            let is_answered = !expects_answers
                || self.report.answered + self.report.errors.values().sum::<u64>()
                    >= self.report.published;
            if self.out.is_empty() && is_answered {
                break;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(self.report)
    }

    fn run_in_flight(&mut self, crew: &Crew, in_flight: u64, end_ns: u64) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(16);
        let mut moved_ns = self.clock.now_ns();
        loop {
            let now_ns = self.clock.now_ns();
            if now_ns >= end_ns {
                return Ok(());
            }
            // Announced before the look: a worker that completes after it will wake us.
            self.gate.waiting.store(true, Ordering::SeqCst);
            if self.publish_up_to(crew, in_flight, now_ns)? > 0 {
                moved_ns = now_ns;
                continue;
            }
            let stuck_ns = now_ns.saturating_sub(moved_ns);
            ensure!(
                Duration::from_nanos(stuck_ns) < STUCK,
                "nothing completed for {STUCK:?}"
            );
            let timeout = until(now_ns, end_ns).min(SLEEP_MAX);
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            self.flush()?;
            self.take_answers()?;
        }
    }

    /// Publishes what may leave; returns how much that was.
    fn publish_up_to(&mut self, crew: &Crew, in_flight: u64, now_ns: u64) -> anyhow::Result<u64> {
        ensure!(
            !self.report.ended,
            "the server ended the publisher's connection"
        );
        let mut published = 0;
        let mut is_anyone_left = false;
        for room in 0..self.rooms.len() {
            let Some(completed) = crew.completed(room) else {
                continue;
            };
            is_anyone_left = true;
            while self
                .rooms
                .get(room)
                .is_some_and(|it| it.last_offset < completed + in_flight)
            {
                self.publish(room, now_ns);
                published += 1;
            }
        }
        ensure!(is_anyone_left, "no receiver is left");
        self.flush()?;
        Ok(published)
    }

    fn run_at_rate(&mut self, rate: f64, end_ns: u64) -> anyhow::Result<()> {
        let began_ns = self.clock.now_ns();
        let mut turn = 0u64;
        loop {
            let due_ns = began_ns.saturating_add((turn as f64 * 1e9 / rate) as u64);
            if due_ns >= end_ns {
                return self.flush();
            }
            let now_ns = self.clock.now_ns();
            if now_ns >= due_ns {
                // All that are due leave together, each with the time at which it should have.
                self.publish(turn as usize % self.rooms.len().max(1), due_ns);
                turn += 1;
                continue;
            }
            self.flush()?;
            self.take_answers()?;
            ensure!(
                !self.report.ended,
                "the server ended the publisher's connection"
            );
            thread::park_timeout(until(self.clock.now_ns(), due_ns).min(SLEEP_MAX));
        }
    }

    fn publish(&mut self, room: usize, stamp_ns: u64) {
        if let Some(room) = self.rooms.get_mut(room) {
            // Zero stands for an unknown time.
            room.publish.write(stamp_ns.max(1), &mut self.out);
            room.last_offset += 1;
            self.report.published += 1;
        }
    }

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

    fn take_answers(&mut self) -> anyhow::Result<()> {
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
                    self.report.ended = true;
                    return Ok(());
                }
                Ok(read) => {
                    self.filled += read;
                    self.split_answers();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read answers to publishes"),
            }
        }
    }

    fn split_answers(&mut self) {
        let mut rest = self.input.get(..self.filled).unwrap_or_default();
        while let Some((header, payload, after)) = frame::split(rest) {
            rest = after;
            match header.first {
                frame::TEXT if message::is_message_sent(payload) => self.report.answered += 1,
                frame::TEXT => {
                    if let Some(Notice::Error { code, .. }) = message::parse(payload) {
                        *self.report.errors.entry(code).or_default() += 1;
                    }
                }
                frame::PING => frame::write_masked(frame::PONG, payload, &mut self.out),
                frame::CLOSE => self.report.ended = true,
                _ => {}
            }
        }
        let left = rest.len();
        self.input.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
    }
}

/// Connects and upgrades, waiting for each step; what follows the head stays in the socket.
fn upgrade(target: SocketAddrV4) -> anyhow::Result<TcpStream> {
    let mut stream = std::net::TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&upgrade_request(target, JoinBy::Message, ""))?;
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
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}
