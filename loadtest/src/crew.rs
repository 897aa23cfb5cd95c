//! All receivers of a run: threads, and what leads them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use mio::{Poll, Waker};

use crate::audit::Audit;
use crate::clock::{Clock, duration_ns};
use crate::receiver::{JoinBy, latency_histogram};
use crate::sys;
use crate::worker::{Gate, Order, Report, Shown, Ties, WAKE, Worker, WorkerPlan};

/// Receivers that one thread takes on by default: its descriptors, less some for itself.
const RECEIVERS_PER_THREAD: usize = 19_000;
/// Connections from one source address, as long as there are addresses. Linux tries every other
/// port first: past half the range (14,000 of 28,000) each connect searches the whole first half,
/// and connecting slows down from 49,000 to 700 a second.
const CONNECTIONS_PER_SOURCE: usize = 10_000;
/// Source addresses there may be: 127.0.0.2 to 127.0.0.60.
pub const SOURCES_MAX: u8 = 59;
/// Descriptors that a worker needs besides its receivers.
const DESCRIPTORS_SPARE: u64 = 64;

/// How to set up a crew.
#[derive(Clone, Debug)]
pub struct CrewPlan {
    /// Where to.
    pub target: SocketAddrV4,
    /// How many receivers, over all rooms.
    pub receivers: usize,
    /// Names of the rooms; receivers take them in turn.
    pub rooms: Arc<[String]>,
    /// Threads; by default as many as descriptors ask for.
    pub threads: Option<usize>,
    /// Source addresses; by default as many as ports ask for.
    pub sources: Option<u8>,
    /// Handshakes and joins under way at once.
    pub handshakes_max: usize,
    /// How to get in.
    pub join: JoinBy,
    /// Newest offsets whose completion is tracked, for each room.
    pub tracked_offsets: usize,
    /// Stop reading once joined, with a receive buffer this small.
    pub stalled_receive_buffer_bytes: Option<u32>,
}

/// When the crew was connected and joined.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When connecting began.
    pub began_ns: u64,
    /// When the last upgrade was done.
    pub connected_ns: u64,
    /// When the last join was done.
    pub joined_ns: u64,
}

struct Member {
    thread: JoinHandle<anyhow::Result<Audit>>,
    orders: Sender<Order>,
    waker: Arc<Waker>,
    shown: Arc<Shown>,
}

/// The receivers, on their threads.
pub struct Crew {
    members: Vec<Member>,
    reports: Receiver<Report>,
    measure_from_ns: Arc<AtomicU64>,
    clock: Clock,
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
    /// Starts the threads, each with a descriptor table of its own. Nothing is connected yet.
    pub fn assemble(plan: &CrewPlan, gate: &Arc<Gate>, clock: Clock) -> anyhow::Result<Crew> {
        let threads = plan
            .threads
            .unwrap_or(plan.receivers.div_ceil(RECEIVERS_PER_THREAD))
            .max(1);
        let threads = threads.min(plan.receivers.max(1));
        let sources = source_addresses(plan)?;
        check_limits(plan.receivers, threads, sources.len())?;
        let (report_sender, reports) = mpsc::channel();
        let measure_from_ns = Arc::new(AtomicU64::new(u64::MAX));
        let mut members = Vec::with_capacity(threads);
        for thread in 0..threads {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
            let (orders, order_receiver) = mpsc::channel();
            let shown = Arc::new(Shown::new(plan.rooms.len()));
            let ties = Ties {
                orders: order_receiver,
                reports: report_sender.clone(),
                shown: Arc::clone(&shown),
                gate: Arc::clone(gate),
                measure_from_ns: Arc::clone(&measure_from_ns),
                clock,
            };
            let worker_plan = worker_plan(plan, thread, threads, &sources);
            let thread = spawn(thread, poll, worker_plan, ties)?;
            members.push(Member {
                thread,
                orders,
                waker,
                shown,
            });
        }
        let crew = Crew {
            members,
            reports,
            measure_from_ns,
            clock,
        };
        for _ in &crew.members {
            crew.report(Duration::from_secs(10))?;
        }
        Ok(crew)
    }

    /// Connects and joins everyone.
    pub fn connect(&self, timeout: Duration) -> anyhow::Result<Arrival> {
        let began_ns = self.clock.now_ns();
        let mut arrival = Arrival {
            began_ns,
            connected_ns: began_ns,
            joined_ns: began_ns,
        };
        self.order(|| Order::Connect)?;
        for _ in &self.members {
            if let Report::Joined {
                connected_ns,
                joined_ns,
            } = self.report(timeout).with_context(|| self.arrived())?
            {
                arrival.connected_ns = arrival.connected_ns.max(connected_ns);
                arrival.joined_ns = arrival.joined_ns.max(joined_ns);
            }
        }
        Ok(arrival)
    }

    /// Times the messages that are sent from now on.
    pub fn measure_from_now(&self) {
        self.measure_from_ns
            .store(self.clock.now_ns(), Ordering::Relaxed);
    }

    /// Messages delivered so far.
    pub fn delivered(&self) -> u64 {
        self.members
            .iter()
            .map(|member| member.shown.delivered.load(Ordering::Relaxed))
            .sum()
    }

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.members
            .iter()
            .map(|member| member.shown.bytes.load(Ordering::Relaxed))
            .sum()
    }

    /// Bytes of the newest message frame.
    pub fn frame_bytes(&self) -> u64 {
        let bytes = self
            .members
            .iter()
            .map(|it| it.shown.frame_bytes.load(Ordering::Relaxed));
        bytes.max().unwrap_or(0)
    }

    /// The offset up to which every receiver of a room has everything; nothing where none is left.
    pub fn completed(&self, room: usize) -> Option<u64> {
        let shown = self
            .members
            .iter()
            .filter_map(|member| member.shown.completed.get(room));
        let completed = shown
            .map(|completed| completed.load(Ordering::SeqCst))
            .min();
        completed.filter(|completed| *completed != u64::MAX)
    }

    /// The latencies since the last call, in microseconds.
    pub fn take_latencies(&self) -> anyhow::Result<Histogram<u64>> {
        self.order(|| Order::Latencies)?;
        let mut all = latency_histogram()?;
        for _ in &self.members {
            if let Report::Latencies(part) = self.report(Duration::from_secs(10))? {
                all.add(&*part)?;
            }
        }
        Ok(all)
    }

    /// The same once everyone has the last offset of their room, or `grace` is over.
    pub fn settled_latencies(
        &self,
        last_offsets: &[u64],
        grace: Duration,
    ) -> anyhow::Result<Histogram<u64>> {
        let deadline_ns = self.clock.now_ns().saturating_add(duration_ns(grace));
        let is_settled = || {
            let mut rooms = last_offsets.iter().enumerate();
            rooms.all(|(room, last)| self.completed(room).is_none_or(|done| done >= *last))
        };
        while !is_settled() && self.clock.now_ns() < deadline_ns {
            thread::park_timeout(Duration::from_millis(1));
        }
        self.take_latencies()
    }

    /// Lets stalled receivers read again.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.order(|| Order::Resume)
    }

    /// Waits until everyone has the last offset of their room, at most for `grace`, and audits.
    pub fn finish(self, last_offsets: &[u64], grace: Duration) -> anyhow::Result<Audit> {
        let last_offsets: Arc<[u64]> = last_offsets.into();
        let deadline_ns = self.clock.now_ns().saturating_add(duration_ns(grace));
        self.order(|| Order::Finish {
            last_offsets: Arc::clone(&last_offsets),
            deadline_ns,
        })?;
        let mut audit = Audit::default();
        for member in self.members {
            match member.thread.join() {
                Ok(part) => audit.merge(&part?),
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(audit)
    }

    fn arrived(&self) -> String {
        let sum = |value: fn(&Shown) -> &AtomicU64| -> u64 {
            self.members
                .iter()
                .map(|it| value(&it.shown).load(Ordering::Relaxed))
                .sum()
        };
        format!(
            "{} upgraded, {} joined so far",
            sum(|it| &it.connected),
            sum(|it| &it.joined)
        )
    }

    fn order(&self, order: impl Fn() -> Order) -> anyhow::Result<()> {
        for member in &self.members {
            // A worker that is gone has reported why.
            let _ = member.orders.send(order());
            member.waker.wake()?;
        }
        Ok(())
    }

    fn report(&self, timeout: Duration) -> anyhow::Result<Report> {
        match self.reports.recv_timeout(timeout) {
            Ok(Report::Broken(why)) => bail!("a worker gave up: {why}"),
            Ok(report) => Ok(report),
            Err(_) => bail!("no report from a worker within {timeout:?}"),
        }
    }
}

fn spawn(
    number: usize,
    poll: Poll,
    plan: WorkerPlan,
    ties: Ties,
) -> anyhow::Result<JoinHandle<anyhow::Result<Audit>>> {
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
        .name(format!("receivers-{number}"))
        .spawn(run)?)
}

fn worker_plan(plan: &CrewPlan, thread: usize, threads: usize, sources: &[Ipv4Addr]) -> WorkerPlan {
    let rooms = plan.rooms.len().max(1);
    let seats = (thread..plan.receivers).step_by(threads);
    // Each worker begins with another address, so that small crews use all of them too.
    let mut sources = sources.to_vec();
    let shift = thread % sources.len().max(1);
    sources.rotate_left(shift);
    WorkerPlan {
        target: plan.target,
        sources,
        seats: seats.map(|seat| (seat % rooms) as u32).collect(),
        rooms: Arc::clone(&plan.rooms),
        join: plan.join,
        handshakes_max: (plan.handshakes_max / threads).max(1),
        tracked_offsets: plan.tracked_offsets,
        stalled_receive_buffer_bytes: plan.stalled_receive_buffer_bytes,
    }
}

/// The addresses to connect from; none where the target is not on loopback.
fn source_addresses(plan: &CrewPlan) -> anyhow::Result<Vec<Ipv4Addr>> {
    if !plan.target.ip().is_loopback() {
        return Ok(Vec::new());
    }
    let wanted = plan
        .receivers
        .div_ceil(CONNECTIONS_PER_SOURCE)
        .clamp(1, usize::from(SOURCES_MAX));
    let count = match plan.sources {
        Some(count) => count,
        None => u8::try_from(wanted).unwrap_or(u8::MAX),
    };
    ensure!(
        (1..=SOURCES_MAX).contains(&count),
        "{count} source addresses: 1 to {SOURCES_MAX} are possible (127.0.0.2 and up)"
    );
    Ok((0..count)
        .map(|index| Ipv4Addr::new(127, 0, 0, 2 + index))
        .collect())
}

/// Says before the run what would fail in the middle of it.
fn check_limits(receivers: usize, threads: usize, sources: usize) -> anyhow::Result<()> {
    let descriptors = sys::raise_descriptor_limit().context("raise the descriptor limit")?;
    let wanted = receivers.div_ceil(threads) as u64 + DESCRIPTORS_SPARE;
    ensure!(
        wanted <= descriptors,
        "{receivers} receivers on {threads} threads need {wanted} descriptors each, the limit is \
         {descriptors}: give --threads {} or more, or raise `ulimit -n`",
        receivers as u64 / descriptors.saturating_sub(DESCRIPTORS_SPARE).max(1) + 1
    );
    let ports = local_ports();
    ensure!(
        sources == 0 || receivers.div_ceil(sources) <= ports,
        "{receivers} receivers from {sources} addresses need more than the {ports} ports each that \
         net.ipv4.ip_local_port_range gives: give --source-addrs {} or more",
        receivers.div_ceil(ports.max(1))
    );
    Ok(())
}

/// Ports that one address can connect from; Linux's default where that cannot be read.
fn local_ports() -> usize {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let bounds = range.unwrap_or_default();
    let mut bounds = bounds
        .split_whitespace()
        .map_while(|bound| bound.parse::<usize>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) if low <= high => high - low + 1,
        _ => 28_232,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_will_not_do_are_named_before_the_run() {
        let error = check_limits(10_000_000, 1, 1).unwrap_err();
        assert!(error.to_string().contains("--threads"), "{error}");
        let error = check_limits(1_000_000, 200, 1).unwrap_err();
        assert!(error.to_string().contains("--source-addrs"), "{error}");
        check_limits(100, 1, 1).unwrap();
    }
}
