//! Puts the parts together: cores, control plane, signals, drain.
//!
//! [`Server::start`] answers when everything listens; [`Server::run`] returns when all is over.
//! What to do is in [`Settings`], plain data that the command line fills in.
//!
//! The order of a start is given by descriptor tables. Pollers and wakers are made first, those of the
//! control plane too, so that every table has them. Then each core's thread takes a table of its own and opens its listener
//! there, one core after the other: the first finds out the port. The admin listener comes last;
//! a copy of it in a core's table would keep its port open after it is closed.

mod capacity;
mod keeping;
mod memory;
mod start;
mod tls;
mod watch;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use capacity::{Capacity, DESCRIPTORS_RESERVED};
pub use keeping::Kept;
pub use memory::Available;
pub use tls::Certificates;

use crate::address::{ConnectionRef, CoreId, Placement};
use crate::bus::{Order, OrderReply, Outlet, Query};
use crate::control::{
    self, About, Access, AccessSettings, ControlHandle, Cores, HookSettings, Hooks, Phase,
    Readiness, Webhook, WebhookSettings,
};
use crate::gate::{Policy, Verdict};
use crate::metrics::{Kind, Metrics, SnapshotReply, Source};
use crate::reactor::tls::{Shown, TlsSettings};
use crate::reactor::{self, Clock, Links, Mail, NodeMemory, SocketOptions, Tuning};
use crate::server::keeping::Keeping;
use crate::server::start::{Plan, processors, seats};
use crate::server::tls::Expiry;
use crate::server::watch::Watch;
use crate::shard::ShardConfig;
use crate::store::StoreSettings;

/// The demo page, as it is served at `/`.
pub const PAGE: &[u8] = include_bytes!("../page/index.html");

/// Everything that the server is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin_listen: SocketAddr,
    /// Certificates of the public listener; without, it is not TLS.
    pub tls: Option<TlsSettings>,
    /// The same of the admin listener.
    pub admin_tls: Option<TlsSettings>,
    /// Who may use the admin listener.
    pub access: AccessSettings,
    /// How much it grants.
    pub control: control::Limits,
    /// What the kernel is told about sockets.
    pub sockets: SocketOptions,
    /// Whether each core's thread stays on a processor of its own.
    pub pin_cores: bool,
    /// Cores.
    pub shards: usize,
    /// Descriptors that a table holds.
    pub descriptors: usize,
    /// Connections on all cores, where fewer are wanted than descriptors allow.
    pub connections_max: Option<usize>,
    /// The time within which clients leave when the server is told to stop.
    pub drain_window: Duration,
    /// How the operator's backend is asked about credentials, where it judges them.
    pub webhook: Option<WebhookSettings>,
    /// What the operator's backend is told, where it is told something.
    pub hooks: Option<HookSettings>,
    /// How history is kept on disk, where it is.
    pub store: Option<StoreSettings>,
    /// What each core's shard is told; its number is filled in.
    pub shard: ShardConfig,
    /// Makes the allocator give free pages of the calling thread back to the system.
    pub collect: fn(),
    /// Bounds of a core's turn; how many connections it serves is filled in.
    pub tuning: Tuning,
}

/// How often files are looked at that may change while the server runs.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// How old what was kept may be to have its age on this run's clock: more than any time to live.
const PAST: Duration = Duration::from_secs(366 * 86_400);

/// How long nothing happens before it is looked which certificates are over.
const DAY: Duration = Duration::from_secs(86_400);

/// Why the server asks what it is told anew.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A signal (SIGHUP): everything may be another.
    Asked,
    /// A file that it was told of is another.
    FilesChanged,
}

impl Cause {
    fn text(self) -> &'static str {
        match self {
            Cause::Asked => "SIGHUP",
            Cause::FilesChanged => "a file of keys or certificates changed",
        }
    }
}

/// Reads anew what may change while the server runs. Where something of it cannot be used, all stays
/// as it is.
pub trait Reload: Send {
    /// Reads what the operator allows. It is not in force before [`Reload::take_over`].
    ///
    /// # Errors
    /// Where it cannot be used; what is wrong, and where.
    fn reload(&mut self, cause: Cause) -> anyhow::Result<Arc<Policy>>;

    /// What was read last is in force now.
    fn take_over(&mut self);

    /// The files of which it wants to know when they change.
    fn watched(&self) -> Vec<PathBuf>;
}

/// What a running server hears of.
enum Happening {
    Signal(i32),
    FilesChanged,
    /// All cores have ended.
    Ended(anyhow::Result<Box<Metrics>>),
}

/// How a core ended.
type Ended = (CoreId, thread::Result<std::io::Result<Metrics>>);

/// The cores, as the control plane reaches them.
struct Outlets {
    outlets: Vec<Outlet<Mail>>,
    placement: Placement,
}

impl Cores for Outlets {
    fn count(&self) -> usize {
        self.outlets.len()
    }

    fn request_snapshot(&self, core: usize, reply: SnapshotReply) {
        if let Some(outlet) = self.outlets.get(core) {
            // Where the core is gone the reply is dropped with the mail, which says so.
            outlet.send(Mail::Snapshot(reply), 0);
        }
    }

    fn deliver_verdict(&self, connection: ConnectionRef, verdict: Verdict) {
        if let Some(outlet) = self.outlets.get(connection.core.index()) {
            // Where the core is gone, so is the connection.
            outlet.send(Mail::Verdict(connection, verdict), 0);
        }
    }

    fn order(&self, core: usize, order: Order, reply: OrderReply) {
        if let Some(outlet) = self.outlets.get(core) {
            outlet.send(Mail::Order(order, reply), 0);
        }
    }

    fn query(&self, core: CoreId, query: Query, weight_bytes: usize) -> bool {
        self.outlets
            .get(core.index())
            .is_some_and(|outlet| outlet.send(Mail::Query(query), weight_bytes))
    }

    fn backlog_bytes(&self, core: CoreId) -> usize {
        self.outlets
            .get(core.index())
            .map_or(0, Outlet::backlog_bytes)
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// A server that listens.
pub struct Server {
    /// Where clients connect: the port is real, even where port 0 was asked for.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin_listen: SocketAddr,
    /// Whether each core has a descriptor table of its own.
    pub has_own_tables: bool,
    /// The certificates that the public listener shows.
    pub shown: Vec<Shown>,
    /// Loads certificates again when they have changed.
    pub certificates: Arc<Certificates>,
    access: Access,
    /// What was found on disk, where history is kept there.
    pub kept: Option<Kept>,
    keeping: Option<Keeping>,
    outlets: Vec<Outlet<Mail>>,
    cores: Arc<dyn Cores>,
    ended: mpsc::Receiver<Ended>,
    control: ControlHandle,
    readiness: Arc<Readiness>,
    signals: Signals,
    drain_window: Duration,
    /// Dropped when all is over: what measures memory ends then.
    _measuring: mpsc::Sender<()>,
}

impl Server {
    /// Starts everything. SIGTERM and SIGINT are the server's from here on.
    ///
    /// # Errors
    /// Where something could not be had: an address, a poller, a thread.
    pub fn start(settings: &Settings) -> anyhow::Result<Server> {
        // Before anything listens: a signal that comes while the server starts must not kill it.
        let signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP]).context("could not listen for signals")?;
        let Settings {
            shards,
            descriptors,
            connections_max,
            ..
        } = *settings;
        if Capacity::of(shards, descriptors, connections_max, true).connections == 0 {
            return Err(anyhow!(
                "the limit of {descriptors} open files leaves nothing for connections; raise it (ulimit -n)"
            ));
        }
        if settings.store.is_some() {
            // A file that may not grow is an error of that write (RLIMIT_FSIZE), not the end of the
            // process, once there is a handler.
            let ignored = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(libc::SIGXFSZ, ignored)
                .context("could not mask SIGXFSZ")?;
        }
        let clock = match settings.store {
            // What was kept may be older than this process.
            Some(_) => Clock::with_past(PAST),
            None => Clock::start(),
        };
        let public = tls::Listening::start(settings.tls.as_ref(), clock)
            .context("TLS of the public listener")?;
        let secured = tls::Listening::start(settings.admin_tls.as_ref(), clock)
            .context("TLS of the admin listener")?;
        let access = Access::open(settings.access.clone())?;
        reactor::probe(settings.listen)
            .with_context(|| cannot_listen("--listen", settings.listen))?;
        let (outlets, seats) = seats(shards)?;
        let placement = Placement::new(settings.shard.seed, shards as u16);
        let opened = match &settings.store {
            Some(store) => Some(keeping::open(store, &placement, shards, clock)?),
            None => None,
        };
        let (opened, portions) = opened.unzip();
        let kept = opened.as_ref().map(|opened| opened.kept.clone());
        let figures = opened.as_ref().map(|opened| Arc::clone(&opened.figures));
        let running = opened.map(|opened| opened.run(&outlets)).transpose()?;
        // From here on it is closed wherever this ends early.
        let (keeping, records) = running.unzip();
        let plane = control::Plane::new().context("could not make the control plane's poller")?;
        // The cores may ask before the control plane runs: questions wait in the channel.
        let webhook = settings.webhook.as_ref().map(Webhook::new).transpose()?;
        let (questions, webhook) = webhook.unzip();
        let hooks = settings.hooks.as_ref().map(Hooks::new).transpose()?;
        let (notices, hooks) = hooks.unzip();
        let (ended_sender, ended) = mpsc::channel();
        let budget = settings.shard.memory_budget_bytes;
        let memory = Arc::new(NodeMemory::new(shards, budget, settings.collect));
        let plan = Plan {
            settings,
            clock,
            tls: public.as_ref().map(|it| Arc::clone(&it.config)),
            outlets: &outlets,
            links: Links {
                questions,
                answers: Some(plane.answers()),
                notices,
                records,
            },
            ended: ended_sender,
            open_everywhere: Arc::new(AtomicUsize::new(0)),
            memory: Arc::clone(&memory),
            processors: processors(settings),
        };
        let (listen, has_own_tables) = plan.start_cores(seats, portions)?;

        let address = settings.admin_listen;
        let admin =
            TcpListener::bind(address).with_context(|| cannot_listen("--admin-listen", address))?;
        let readiness = Arc::new(Readiness::new());
        let cores: Arc<dyn Cores> = Arc::new(Outlets {
            outlets: outlets.clone(),
            placement,
        });
        if let Some(secured) = &secured {
            plane.secured().set(Arc::clone(&secured.config));
        }
        let plane_secured = plane.secured();
        let expiry = Arc::new(Expiry::of(public.as_ref(), secured.as_ref()));
        let plane = match figures {
            Some(figures) => plane.with_source(figures),
            None => plane,
        };
        let control = plane
            .with_webhook(webhook)
            .with_source(Arc::clone(&expiry) as Arc<dyn Source>)
            .with_hooks(hooks)
            .with_access(access.clone())
            .with_about(About {
                listen: Some(listen),
                durability: settings.shard.durability,
                message_bytes_max: settings.shard.message_bytes_max,
            })
            .spawn(
                admin,
                Arc::clone(&cores),
                Arc::clone(&readiness),
                settings.control,
            )
            .context("could not start the control plane")?;
        let measuring = measure(memory, outlets.clone())?;
        readiness.set(Phase::Ready);
        let admin_listen = control.address();
        let drain_window = settings.drain_window;
        let shown = public.as_ref().map_or(Vec::new(), |it| it.shown.clone());
        let all = outlets.clone();
        let certificates = Certificates::new(public, secured, all, plane_secured, (clock, expiry));
        Ok(Server {
            shown,
            certificates: Arc::new(certificates),
            access,
            kept,
            keeping,
            listen,
            admin_listen,
            has_own_tables,
            outlets,
            cores,
            ended,
            control,
            readiness,
            signals,
            drain_window,
            _measuring: measuring,
        })
    }

    /// The cores, to ask and to order.
    pub fn cores(&self) -> Arc<dyn Cores> {
        Arc::clone(&self.cores)
    }

    /// Serves until a signal says to stop and all clients have gone, or the time for that is over.
    /// A second signal ends it at once. SIGHUP reads anew what may change.
    ///
    /// # Errors
    /// Where a core failed.
    pub fn run(self, mut reload: impl Reload) -> anyhow::Result<ExitCode> {
        let Server {
            outlets,
            ended,
            control,
            readiness,
            signals,
            drain_window,
            certificates,
            access,
            mut keeping,
            ..
        } = self;
        let watch = Watch::default();
        watch.set(reload.watched());
        let shown = (&*certificates, &access);
        let mut reload_all = |cause| match apply(&mut reload, cause, &outlets, shown) {
            Ok(()) => {
                watch.set(reload.watched());
                tracing::info!(cause = cause.text(), "reloaded");
            }
            Err(error) => {
                let cause = cause.text();
                tracing::error!(cause, "nothing is reloaded, all stays as it was: {error:#}");
            }
        };
        let heard = listen_to_the_world(signals, ended, outlets.len(), &watch)?;
        let mut draining = false;
        let outcome = loop {
            let happening = match heard.recv_timeout(DAY) {
                Ok(happening) => happening,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    certificates.check_dates();
                    continue;
                }
                Err(error) => return Err(error).context("nobody is left to say what happens"),
            };
            match happening {
                Happening::Ended(outcome) => break outcome,
                Happening::FilesChanged => reload_all(Cause::FilesChanged),
                Happening::Signal(SIGHUP) => reload_all(Cause::Asked),
                Happening::Signal(signal) if draining => {
                    let signal = signal_name(signal);
                    tracing::warn!(signal, "second signal: leaving at once");
                    if let Some(keeping) = keeping.take() {
                        keeping.abandon();
                    }
                    return Ok(ExitCode::from(130));
                }
                Happening::Signal(signal) => {
                    draining = true;
                    let signal = signal_name(signal);
                    tracing::info!(signal, window = ?drain_window, "draining");
                    readiness.set(Phase::Draining);
                    control.drain();
                    for outlet in &outlets {
                        outlet.send(Mail::Drain(drain_window), 0);
                    }
                }
            }
        };
        if control.stop().is_err() {
            tracing::error!("the control plane panicked while it stopped");
        }
        let is_kept = match (keeping.take(), &outcome) {
            (Some(keeping), Ok(metrics)) => keeping.close(metrics.store.lost),
            (Some(keeping), Err(_)) => {
                // It may have told clients more than it has handed over.
                keeping.abandon();
                false
            }
            (None, _) => true,
        };
        let metrics = outcome?;
        let messages = metrics.ledger.account(Kind::Message);
        tracing::info!(
            delivered = messages.delivered,
            pending = metrics.ledger.pending(),
            "drained"
        );
        Ok(ExitCode::from(u8::from(!is_kept)))
    }
}

/// Puts all that a running server hears of into one channel.
fn listen_to_the_world(
    mut signals: Signals,
    ended: mpsc::Receiver<Ended>,
    shards: usize,
    watch: &Watch,
) -> anyhow::Result<mpsc::Receiver<Happening>> {
    let (sender, heard) = mpsc::channel();
    let handle = signals.handle();
    let of_signals = sender.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if of_signals.send(Happening::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    let of_watch = sender.clone();
    watch.start(WATCH_INTERVAL, move || {
        of_watch.send(Happening::FilesChanged).is_ok()
    })?;
    thread::Builder::new()
        .name("supervisor".into())
        .spawn(move || {
            let outcome = await_cores(&ended, shards);
            handle.close();
            // Where nobody listens the server has left already.
            let _left = sender.send(Happening::Ended(outcome.map(Box::new)));
        })?;
    Ok(heard)
}

/// Reads anew what may change, and tells the cores: all of it or nothing.
fn apply(
    reload: &mut impl Reload,
    cause: Cause,
    outlets: &[Outlet<Mail>],
    (certificates, access): (&Certificates, &Access),
) -> anyhow::Result<()> {
    let policy = reload.reload(cause)?;
    let keys = access.read()?;
    certificates.reload()?;
    access.replace(keys);
    reload.take_over();
    for outlet in outlets {
        outlet.send(Mail::Policy(Arc::clone(&policy)), 0);
    }
    Ok(())
}

/// Measures memory on a thread of its own, until what this answers is dropped.
fn measure(
    memory: Arc<NodeMemory>,
    outlets: Vec<Outlet<Mail>>,
) -> anyhow::Result<mpsc::Sender<()>> {
    let (measuring, stop) = mpsc::channel();
    thread::Builder::new()
        .name("memory".into())
        .spawn(move || memory::Monitor::new(memory, outlets).run(&stop))
        .context("could not start the thread that measures memory")?;
    Ok(measuring)
}

/// Says what could not be had, and how to find out who has it.
fn cannot_listen(flag: &str, address: SocketAddr) -> String {
    let port = address.port();
    format!(
        "could not listen on {flag} {address}; choose another address, or see who listens there: \
         ss -ltnp 'sport = :{port}'"
    )
}

/// A signal by its name.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "another signal",
    }
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
