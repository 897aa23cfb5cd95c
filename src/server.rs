//! Puts the parts together: cores, control plane, signals, drain.
//!
//! The order of a start is given by descriptor tables. Pollers and wakers are made first, those of the
//! control plane too, so that every table has them. Then each core's thread takes a table of its own and opens its listener
//! there, one core after the other: the first finds out the port. The admin listener comes last;
//! a copy of it in a core's table would keep its port open after it is closed.

use std::hash::{BuildHasher, Hasher};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::address::CoreId;
use crate::bus::Outlet;
use crate::cli::Options;
use crate::cli::host::{Host, raise_descriptor_limit};
use crate::cli::options::Overflow as OverflowOption;
use crate::cli::startup::{Capacity, DESCRIPTORS_RESERVED, Startup};
use crate::control::{self, Cores, Phase, Readiness};
use crate::metrics::{Metrics, SnapshotReply};
use crate::reactor::{self, Clock, Listener, Mail, Reactor, Seat, Tuning};
use crate::room::history::HistoryLimits;
use crate::room::home::RoomLimits;
use crate::shard::{Overflow, Shard, ShardConfig};

/// The demo page, as it is served at `/`.
const PAGE: &[u8] = include_bytes!("page/index.html");

/// Of the descriptors that each core keeps back, how many may be sockets that are told 503.
const REFUSALS_MAX: usize = DESCRIPTORS_RESERVED / 2;

/// What a core reports when it has opened its listener.
struct Opened {
    address: SocketAddr,
    has_own_table: bool,
}

/// How a core ended.
type Ended = (CoreId, thread::Result<std::io::Result<Metrics>>);

/// The cores, as the control plane reaches them.
struct Outlets(Vec<Outlet<Mail>>);

impl Cores for Outlets {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn request_snapshot(&self, core: usize, reply: SnapshotReply) {
        if let Some(outlet) = self.0.get(core) {
            // Where the core is gone the reply is dropped with the mail, which says so.
            outlet.send(Mail::Snapshot(reply), 0);
        }
    }
}

/// Runs the server until it has been drained.
///
/// # Errors
/// Where it could not start, or a core failed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit().context("could not raise the limit on open files")?;
    let host = Host::inspect().context("could not find out what this machine allows")?;
    // Before anything listens: a signal that comes while the server starts must not kill it.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("could not listen for signals")?;

    let clock = Clock::start();
    let shards = Capacity::of(options, &host, true).shards;
    let (outlets, seats) = seats(shards)?;
    let plane = control::Plane::new().context("could not make the control plane's poller")?;
    let (ended_sender, ended) = mpsc::channel();
    let plan = Plan {
        options,
        host: &host,
        clock,
        outlets: &outlets,
        ended: ended_sender,
        seed: random_seed(),
        open_everywhere: Arc::new(AtomicUsize::new(0)),
    };
    let (listen, has_own_tables) = plan.start_cores(seats)?;

    let admin = TcpListener::bind(options.listeners.admin_listen).with_context(|| {
        format!(
            "could not listen on --admin-listen {}",
            options.listeners.admin_listen
        )
    })?;
    let readiness = Arc::new(Readiness::new());
    let cores = Arc::new(Outlets(outlets.clone()));
    let limits = control::Limits::default();
    let control = plane
        .spawn(admin, cores, Arc::clone(&readiness), limits)
        .context("could not start the control plane")?;

    let startup = Startup {
        options,
        host: &host,
        has_own_tables,
        listen,
        admin_listen: control.address(),
    };
    print!("{startup}");
    println!("listening on http://{listen}");
    println!("admin on http://{}", control.address());
    readiness.set(Phase::Ready);

    let handle = signals.handle();
    let supervisor = thread::Builder::new()
        .name("supervisor".into())
        .spawn(move || {
            let outcome = await_cores(&ended, shards);
            handle.close();
            outcome
        })?;
    let mut draining = false;
    for signal in signals.forever() {
        if draining {
            tracing::warn!(signal, "second signal: leaving at once");
            return Ok(ExitCode::from(130));
        }
        draining = true;
        tracing::info!(signal, window = ?options.shutdown.drain_window, "draining");
        readiness.set(Phase::Draining);
        for outlet in &outlets {
            outlet.send(Mail::Drain(options.shutdown.drain_window), 0);
        }
    }
    let outcome = supervisor
        .join()
        .map_err(|_| anyhow!("the supervisor panicked"))?;
    let stopped = control.stop();
    if stopped.is_err() {
        tracing::error!("the control plane panicked while it stopped");
    }
    let metrics = outcome?;
    tracing::info!(
        delivered = metrics
            .ledger
            .account(crate::metrics::Kind::Message)
            .delivered,
        pending = metrics.ledger.pending(),
        "drained"
    );
    Ok(ExitCode::SUCCESS)
}

fn seats(shards: usize) -> anyhow::Result<(Vec<Outlet<Mail>>, Vec<Seat>)> {
    let mut outlets = Vec::new();
    let mut seats = Vec::new();
    for core in 0..shards {
        let (outlet, seat) =
            reactor::seat().with_context(|| format!("could not make a poller for core {core}"))?;
        outlets.push(outlet);
        seats.push(seat);
    }
    Ok((outlets, seats))
}

/// Waits until all cores have ended; adds up their counters.
fn await_cores(ended: &mpsc::Receiver<Ended>, shards: usize) -> anyhow::Result<Metrics> {
    let mut all = Metrics::default();
    for _ in 0..shards {
        let (core, outcome) = ended.recv().context("a core ended without a word")?;
        match outcome {
            Ok(Ok(metrics)) => all.merge(&metrics),
            Ok(Err(error)) => {
                return Err(error).with_context(|| format!("core {} failed", core.0));
            }
            Err(_) => {
                return Err(anyhow!(
                    "core {} panicked; its connections are lost",
                    core.0
                ));
            }
        }
    }
    Ok(all)
}

/// What is the same for all cores at a start.
struct Plan<'a> {
    options: &'a Options,
    host: &'a Host,
    clock: Clock,
    outlets: &'a [Outlet<Mail>],
    ended: mpsc::Sender<Ended>,
    seed: u64,
    open_everywhere: Arc<AtomicUsize>,
}

impl Plan<'_> {
    /// Starts the cores, one after the other. Answers where they listen, and whether each has a
    /// descriptor table of its own.
    fn start_cores(self, seats: Vec<Seat>) -> anyhow::Result<(SocketAddr, bool)> {
        let mut address = self.options.listeners.listen;
        let mut has_own_tables = true;
        for (core, seat) in seats.into_iter().enumerate() {
            let core = CoreId(u16::try_from(core).context("more cores than can be numbered")?);
            let opened = self.start_core(core, seat, address)?;
            address = opened.address;
            has_own_tables &= opened.has_own_table;
        }
        Ok((address, has_own_tables))
    }

    fn start_core(&self, core: CoreId, seat: Seat, address: SocketAddr) -> anyhow::Result<Opened> {
        let (report, reported) = mpsc::channel();
        let backlog = self.options.listeners.backlog;
        let unsent = self.options.slow_consumers.max_unsent_bytes;
        let outlets = self.outlets.to_vec();
        let (clock, ended) = (self.clock, self.ended.clone());
        let config = shard_config(self.options, core, outlets.len(), self.seed);
        let tuning_of = |has_own_table| tuning(self.options, self.host, has_own_table);
        let tunings = [tuning_of(false), tuning_of(true)];
        let open_everywhere = Arc::clone(&self.open_everywhere);
        let body = move || {
            let unshared = reactor::unshare();
            if let Err(error) = &unshared {
                let core = core.0;
                tracing::warn!(
                    core, %error,
                    "no descriptor table of its own: the limit on open files holds for all cores together"
                );
            }
            let has_own_table = unshared.is_ok();
            let (listener, address) = match open(address, backlog, unsent) {
                Ok(opened) => opened,
                Err(error) => return drop(report.send(Err(error))),
            };
            let tuning = tunings[usize::from(has_own_table)];
            let shard = Shard::new(config, clock.now());
            let made = Reactor::new(
                seat,
                outlets,
                core,
                listener,
                shard,
                (tuning, clock, open_everywhere),
            );
            let reactor = match made {
                Ok(reactor) => reactor,
                Err(error) => return drop(report.send(Err(error))),
            };
            drop(report.send(Ok(Opened {
                address,
                has_own_table,
            })));
            let run = std::panic::AssertUnwindSafe(|| reactor.run());
            drop(ended.send((core, std::panic::catch_unwind(run))));
        };
        thread::Builder::new()
            .name(format!("core-{}", core.0))
            .spawn(body)
            .with_context(|| format!("could not start the thread of core {}", core.0))?;
        let opened = reported
            .recv()
            .with_context(|| format!("core {} ended at its start", core.0))?;
        opened.with_context(|| format!("could not listen on --listen {address}"))
    }
}

fn open(
    address: SocketAddr,
    backlog: usize,
    unsent: usize,
) -> std::io::Result<(Listener, SocketAddr)> {
    let listener = reactor::bind(address, backlog, unsent)?;
    let address = listener.address()?;
    Ok((listener, address))
}

/// A number that nobody outside can guess: the standard library's hasher is keyed by the system's
/// random source.
fn random_seed() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

fn tuning(options: &Options, host: &Host, has_own_table: bool) -> Tuning {
    let capacity = Capacity::of(options, host, has_own_table);
    let table = if has_own_table {
        host.descriptors
    } else {
        host.descriptors / capacity.shards
    };
    Tuning {
        connections_max: table.saturating_sub(DESCRIPTORS_RESERVED),
        connections_everywhere_max: capacity.connections,
        refusals_max: REFUSALS_MAX,
        retry_after: options.connections.retry_after,
        read_buffer_bytes: options.tuning.read_buffer_bytes,
        read_budget_bytes: options.tuning.read_budget,
        flush_budget: options.tuning.flush_budget,
        accept_batch: options.tuning.accept_batch,
        bus_backlog_bytes: options.tuning.bus_backlog_bytes,
    }
}

/// The bounds of one core's shard, as the options have them.
pub fn shard_config(options: &Options, core: CoreId, cores: usize, seed: u64) -> ShardConfig {
    let Options {
        connections,
        messages,
        rooms,
        slow_consumers,
        heartbeat,
        ..
    } = options;
    ShardConfig {
        core,
        cores: cores as u16,
        seed,
        echo: options.listeners.echo,
        page: PAGE,
        handshake_timeout: connections.handshake_timeout,
        head_bytes_max: connections.max_head_bytes,
        close_timeout: connections.close_timeout,
        message_bytes_max: messages.max_message_bytes,
        fragments_max: u32::try_from(messages.max_fragments).unwrap_or(u32::MAX),
        protocol_errors_max: u32::try_from(messages.max_protocol_errors).unwrap_or(u32::MAX),
        rooms_per_connection_max: rooms.max_rooms_per_connection,
        rooms_max: rooms.max_rooms.div_ceil(cores),
        room: RoomLimits {
            history: HistoryLimits {
                messages_max: rooms.history,
                bytes_max: rooms.history_bytes,
                ttl: (!rooms.history_ttl.is_zero()).then_some(rooms.history_ttl),
            },
            idle_ttl: rooms.room_idle_ttl,
            idempotency_window: rooms.idempotency_window,
            idempotency_keys_max: rooms.idempotency_keys,
        },
        presence_limit: rooms.presence_limit as u64,
        overflow: match slow_consumers.overflow {
            OverflowOption::Evict => Overflow::Evict,
            OverflowOption::Skip => Overflow::Skip,
            OverflowOption::Latest => Overflow::Latest,
        },
        lag_bytes_max: slow_consumers.max_lag_bytes as u64,
        lag_age_max: slow_consumers.max_lag_age,
        coalesce: slow_consumers.coalesce,
        answer_bytes_max: options.tuning.max_reply_bytes,
        heartbeat_interval: heartbeat.heartbeat_interval,
        heartbeat_timeout: heartbeat.heartbeat_timeout,
    }
}
