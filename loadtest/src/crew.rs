//! All clients of a run: threads, and what leads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use mio::{Poll, Waker};

use crate::audit::Audit;
use crate::clock::{Clock, duration_ns};
use crate::tally::{Counts, Times, latency_histogram};
use crate::worker::{Findings, Gate, Last, Order, Report, Shown, Ties, WAKE, Worker, WorkerPlan};

/// How long a worker may take for what it does at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// When the crew was connected and joined.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// When connecting began.
    pub began_ns: u64,
    /// When the last upgrade was done.
    pub connected_ns: u64,
    /// When the last join was done.
    pub joined_ns: u64,
}

struct Member {
    thread: JoinHandle<anyhow::Result<Findings>>,
    line: Line,
}

/// How one worker is reached, from whichever thread.
#[derive(Clone)]
struct Line {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    shown: Arc<Shown>,
}

/// The clients, on their threads.
pub struct Crew {
    members: Vec<Member>,
    reports: Receiver<Report>,
    measure_from_ns: Arc<AtomicU64>,
    clock: Clock,
}

/// What all clients together show at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Connections open.
    pub connected: u64,
    /// Subscriptions in force.
    pub joined: u64,
    /// Messages delivered so far.
    pub delivered: u64,
    /// Bytes received so far.
    pub bytes: u64,
}

/// Looks at a crew from another thread, once an interval.
#[derive(Clone)]
pub struct Observer {
    lines: Vec<Line>,
}

impl Observer {
    /// What there is to see now.
    pub fn counters(&self) -> Counters {
        let sum = |value: fn(&Shown) -> &AtomicU64| sum(self.lines.iter(), value);
        Counters {
            connected: sum(|it| &it.connected),
            joined: sum(|it| &it.joined),
            delivered: sum(|it| &it.delivered),
            bytes: sum(|it| &it.bytes),
        }
    }

    /// Within the window of measurement: latencies in microseconds since this was last asked. Costs
    /// each worker a new histogram, so this is for some times a second.
    pub fn interval_latency(&self) -> anyhow::Result<Histogram<u64>> {
        let mut all = latency_histogram()?;
        for part in ask(self.lines.iter(), Order::Interval)? {
            all.add(&part)?;
        }
        Ok(all)
    }
}

/// Makes the publisher's poll and the gate that wakes it: before the workers' tables are split.
pub fn gate() -> anyhow::Result<(Poll, Arc<Gate>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((
        poll,
        Arc::new(Gate {
            waiting: AtomicBool::new(false),
            waker,
        }),
    ))
}

impl Crew {
    /// Starts a thread for each plan, with a descriptor table of its own. Nothing is connected yet.
    pub fn assemble(
        plans: Vec<WorkerPlan>,
        gate: &Arc<Gate>,
        clock: Clock,
    ) -> anyhow::Result<Crew> {
        let (report_sender, reports) = mpsc::channel();
        let measure_from_ns = Arc::new(AtomicU64::new(u64::MAX));
        let mut members = Vec::with_capacity(plans.len());
        for (number, plan) in plans.into_iter().enumerate() {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
            let (orders, order_receiver) = mpsc::channel();
            // Publishers of our own feed the clients' rooms and the large one only.
            let fed = plan.rooms.main + usize::from(plan.rooms.hall.is_some());
            let shown = Arc::new(Shown::new(fed));
            let ties = Ties {
                orders: order_receiver,
                reports: report_sender.clone(),
                shown: Arc::clone(&shown),
                gate: Arc::clone(gate),
                measure_from_ns: Arc::clone(&measure_from_ns),
                clock,
            };
            let line = Line {
                orders,
                waker,
                shown,
            };
            let thread = spawn(number, poll, plan, ties)?;
            members.push(Member { thread, line });
        }
        let crew = Crew {
            members,
            reports,
            measure_from_ns,
            clock,
        };
        for _ in &crew.members {
            crew.report(AT_ONCE)?;
        }
        Ok(crew)
    }

    /// For a thread that looks on.
    pub fn observer(&self) -> Observer {
        Observer {
            lines: self.lines().cloned().collect(),
        }
    }

    /// Connects and joins everyone, or those who come second.
    pub fn connect(&self, timeout: Duration) -> anyhow::Result<Arrived> {
        let began_ns = self.clock.now_ns();
        let mut arrived = Arrived {
            began_ns,
            connected_ns: began_ns,
            joined_ns: began_ns,
        };
        let deadline_ns = began_ns.saturating_add(duration_ns(timeout));
        self.order(|| Order::Connect)?;
        for _ in &self.members {
            let left = crate::clock::until(self.clock.now_ns(), deadline_ns);
            if let Report::Joined {
                connected_ns,
                joined_ns,
            } = self.report(left).with_context(|| self.progress())?
            {
                arrived.connected_ns = arrived.connected_ns.max(connected_ns);
                arrived.joined_ns = arrived.joined_ns.max(joined_ns);
            }
        }
        Ok(arrived)
    }

    /// Lets clients do what they do of themselves.
    pub fn begin(&self) -> anyhow::Result<()> {
        self.order(|| Order::Begin)
    }

    /// Clients that stop midway stop now.
    pub fn stop_midway(&self) -> anyhow::Result<()> {
        self.order(|| Order::Stop)
    }

    /// Ends what they do of themselves; returns the newest offset of each of `rooms` rooms.
    pub fn quiet(&self, rooms: usize, grace: Duration) -> anyhow::Result<Vec<u64>> {
        let deadline_ns = self.clock.now_ns().saturating_add(duration_ns(grace));
        self.order(|| Order::Quiet { deadline_ns })?;
        let mut newest = vec![0; rooms];
        for _ in &self.members {
            if let Report::Quiet(part) = self.report(grace + AT_ONCE)? {
                for (room, offset) in part {
                    if let Some(newest) = newest.get_mut(room as usize) {
                        *newest = offset.max(*newest);
                    }
                }
            }
        }
        Ok(newest)
    }

    /// Waits until everyone in good standing has these, at most for `grace`.
    pub fn settle(&self, last_offsets: &[u64], grace: Duration) -> anyhow::Result<()> {
        let last = self.last(last_offsets, grace);
        self.order(|| Order::Settle(last.clone()))?;
        for _ in &self.members {
            self.report(grace + AT_ONCE)?;
        }
        Ok(())
    }

    /// Lets slow readers read again.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.order(|| Order::Resume)
    }

    /// Waits until everyone has the last offset of their rooms, at most for `grace`, and ends.
    pub fn finish(self, last_offsets: &[u64], grace: Duration) -> anyhow::Result<Findings> {
        let last = self.last(last_offsets, grace);
        self.order(|| Order::Finish(last.clone()))?;
        let mut findings = Findings {
            audit: Audit::default(),
            slow_audit: Audit::default(),
            times: Times::default(),
            counts: Counts::default(),
        };
        for member in self.members {
            match member.thread.join() {
                Ok(part) => {
                    let part = part?;
                    findings.audit.merge(&part.audit);
                    findings.slow_audit.merge(&part.slow_audit);
                    findings.times.merge(&part.times);
                    findings.counts.merge(&part.counts);
                }
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(findings)
    }

    /// Times the messages that are sent from now on.
    pub fn measure_from_now(&self) {
        self.measure_from_ns
            .store(self.clock.now_ns(), Ordering::Relaxed);
    }

    /// Times no message any more.
    pub fn measure_no_more(&self) {
        self.measure_from_ns.store(u64::MAX, Ordering::Relaxed);
    }

    /// Messages delivered so far.
    pub fn delivered(&self) -> u64 {
        sum(self.lines(), |it| &it.delivered)
    }

    /// Publishes of clients that were answered so far.
    pub fn answered(&self) -> u64 {
        sum(self.lines(), |it| &it.answered)
    }

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        sum(self.lines(), |it| &it.bytes)
    }

    /// Joins and leaves that watchers were told of so far.
    pub fn told(&self) -> u64 {
        sum(self.lines(), |it| &it.told)
    }

    /// Upgrades done so far.
    pub fn upgrades(&self) -> u64 {
        sum(self.lines(), |it| &it.upgrades)
    }

    /// Bytes of the newest message frame.
    pub fn frame_bytes(&self) -> u64 {
        let bytes = self
            .lines()
            .map(|it| it.shown.frame_bytes.load(Ordering::Relaxed));
        bytes.max().unwrap_or(0)
    }

    /// The offset up to which every client of a room has everything; nothing where none is left.
    pub fn completed(&self, room: usize) -> Option<u64> {
        let shown = self.lines().filter_map(|it| it.shown.completed.get(room));
        let completed = shown
            .map(|completed| completed.load(Ordering::SeqCst))
            .min();
        completed.filter(|completed| *completed != u64::MAX)
    }

    /// The latencies since the last call, in microseconds.
    pub fn take_latencies(&self) -> anyhow::Result<Histogram<u64>> {
        let mut all = latency_histogram()?;
        for part in ask(self.lines(), Order::Latencies)? {
            all.add(&part)?;
        }
        Ok(all)
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.members.iter().map(|member| &member.line)
    }

    fn last(&self, offsets: &[u64], grace: Duration) -> Last {
        Last {
            offsets: offsets.into(),
            deadline_ns: self.clock.now_ns().saturating_add(duration_ns(grace)),
        }
    }

    fn progress(&self) -> String {
        format!(
            "{} upgraded, {} rooms joined so far",
            self.upgrades(),
            sum(self.lines(), |it| &it.joined)
        )
    }

    fn order(&self, order: impl Fn() -> Order) -> anyhow::Result<()> {
        for line in self.lines() {
            line.send(order())?;
        }
        Ok(())
    }

    fn report(&self, timeout: Duration) -> anyhow::Result<Report> {
        match self.reports.recv_timeout(timeout) {
            Ok(Report::Broken(why)) => bail!("a worker gave up: {why}"),
            Ok(report) => Ok(report),
            Err(_) => bail!("no report from a worker within {timeout:.1?}"),
        }
    }
}

impl Line {
    fn send(&self, order: Order) -> anyhow::Result<()> {
        // A worker that is gone has reported why.
        let _ = self.orders.send(order);
        Ok(self.waker.wake()?)
    }
}

fn sum<'a>(lines: impl Iterator<Item = &'a Line>, value: fn(&Shown) -> &AtomicU64) -> u64 {
    lines
        .map(|line| value(&line.shown).load(Ordering::Relaxed))
        .sum()
}

/// Gives all workers an order that they answer with a histogram.
fn ask<'a>(
    lines: impl Iterator<Item = &'a Line>,
    order: fn(Sender<Histogram<u64>>) -> Order,
) -> anyhow::Result<Vec<Histogram<u64>>> {
    let (sender, answers) = mpsc::channel();
    let mut asked = 0;
    for line in lines {
        line.send(order(sender.clone()))?;
        asked += 1;
    }
    (0..asked)
        .map(|_| {
            answers
                .recv_timeout(AT_ONCE)
                .context("a worker does not answer")
        })
        .collect()
}

fn spawn(
    number: usize,
    poll: Poll,
    plan: WorkerPlan,
    ties: Ties,
) -> anyhow::Result<JoinHandle<anyhow::Result<Findings>>> {
    let reports = ties.reports.clone();
    let run = move || {
        let result = Worker::new(poll, plan, ties).and_then(Worker::run);
        if let Err(error) = &result {
            // Nobody listens any more only where the run has failed already.
            let _ = reports.send(Report::Broken(format!("{error:#}")));
        }
        result
    };
    Ok(thread::Builder::new()
        .name(format!("clients-{number}"))
        .spawn(run)?)
}
