//! What a worker is given, what it is told, and what it tells.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver as Orders, Sender};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::Waker;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::limits::Ports;
use crate::seats::{Rooms, Seat};
use crate::settings::Pace;
use crate::tally::{Counts, Times};
use crate::view::{Dialect, Visits};

/// What a worker is to set up; rates are its share.
pub struct WorkerPlan {
    /// Where to.
    pub target: SocketAddrV4,
    /// The path of the upgrade, where rooms do not make it.
    pub path: String,
    /// From where.
    pub ports: Arc<Ports>,
    /// Its clients, in order of arrival.
    pub seats: Vec<Seat>,
    /// How many of them come at the first order to connect; the others at the second.
    pub first_seats: usize,
    /// All rooms.
    pub rooms: Arc<Rooms>,
    /// How messages look.
    pub dialect: Dialect,
    /// Handshakes and joins under way at once.
    pub handshakes_max: usize,
    /// Connects begun a second; zero for as fast as they go.
    pub connect_rate: f64,
    /// Newest offsets whose completion is tracked, for each room.
    pub tracked_offsets: usize,
    /// Bytes of payload in what clients publish.
    pub payload_bytes: usize,
    /// How clients publish themselves.
    pub speak: Option<Pace>,
    /// Receive buffer of slow readers.
    pub slow_buffer_bytes: u32,
    /// Bytes a trickling client reads at once.
    pub trickle_bytes: usize,
    /// How often each of them does.
    pub trickle_interval: Duration,
    /// Drops a second.
    pub churn_rate: f64,
    /// How long a client stays away.
    pub away: Duration,
    /// Joins and leaves of visitors a second.
    pub visit_rate: f64,
    /// When visitors came and went.
    pub visits: Visits,
}

/// What a worker is told.
pub enum Order {
    /// Connect and join everyone, or those who come second.
    Connect,
    /// Begin with what clients do of themselves.
    Begin,
    /// Clients that stop midway stop now.
    Stop,
    /// Hand over the latencies since the last such order.
    #[allow(dead_code, reason = "for onlookers on other threads")]
    Interval(Sender<Histogram<u64>>),
    /// Hand over the latencies so far and begin anew.
    Latencies(Sender<Histogram<u64>>),
    /// End what clients do of themselves: who is away comes back, and all is answered.
    Quiet { deadline_ns: u64 },
    /// Wait until everyone has these last offsets, at most until then.
    Settle(Last),
    /// Slow readers read again.
    Resume,
    /// The same as [`Order::Settle`], and end.
    Finish(Last),
}

/// What everyone is to have, and until when.
#[derive(Clone)]
pub struct Last {
    /// The last offset of each room of the run.
    pub offsets: Arc<[u64]>,
    /// When to wait no longer.
    pub deadline_ns: u64,
}

/// What a worker tells.
pub enum Report {
    /// The descriptor table is split.
    Ready,
    /// Everyone is joined, or has failed; when the last upgrade and the last join were done.
    Joined { connected_ns: u64, joined_ns: u64 },
    /// The answer to [`Order::Quiet`]: the newest offset known of each room here.
    Quiet(Vec<(u32, u64)>),
    /// The answer to [`Order::Settle`].
    Settled,
    /// The worker gave up.
    Broken(String),
}

/// What a worker has found.
pub struct Findings {
    /// What those saw that are to get everything.
    pub audit: Audit,
    /// What slow readers saw.
    pub slow_audit: Audit,
    /// Times besides latencies.
    pub times: Times,
    /// Counts besides deliveries.
    pub counts: Counts,
}

/// What a worker shows while it runs.
pub struct Shown {
    /// Upgrades done.
    pub upgrades: AtomicU64,
    /// Connections open.
    pub connected: AtomicU64,
    /// Subscriptions in force.
    pub joined: AtomicU64,
    /// Messages delivered, to slow readers too.
    pub delivered: AtomicU64,
    /// Publishes of clients that were answered.
    pub answered: AtomicU64,
    /// Bytes received.
    pub bytes: AtomicU64,
    /// Bytes of the newest message frame.
    pub frame_bytes: AtomicU64,
    /// Joins and leaves that watchers were told of.
    pub told: AtomicU64,
    /// For each room of the clients and the large one, the offset up to which everyone here has
    /// everything; `u64::MAX` where none is here.
    pub completed: Box<[AtomicU64]>,
}

impl Shown {
    /// Nothing yet, in so many rooms.
    pub fn new(rooms: usize) -> Shown {
        Shown {
            upgrades: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            frame_bytes: AtomicU64::new(0),
            told: AtomicU64::new(0),
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
