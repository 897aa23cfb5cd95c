//! The control plane: one thread that answers operators over HTTP, off the path of any message.
//!
//! It owns the admin listener, what is said there, and the time a caller may take. It does not own
//! the cores: it asks them through [`Cores`], over the bus, and none of them ever waits for it.
//!
//! ```text
//! listener ── connections (bounded in number and age) ── routes ─┬─ Readiness   an atomic
//!                                                                ├─ Scraper ──► Cores ──► bus
//!                                                                │     ▲                   │
//!                                                                │     └── SnapshotReply ──┤
//!                                                                ├─ Live        the dashboard's stream,
//!                                                                │              asks the two others
//!                                                                └─ Switchboard ──► Query ─┤
//!                                                                      ▲                   │
//!                                                                      └────── Answer ─────┘
//! ```
//! It also asks the operator's backend about credentials, where that is to judge them ([`webhook`]),
//! and tells it of rooms and users that come and go ([`hooks`]).

pub mod access;
pub mod api;
mod dashboard;
pub mod hooks;
mod listen;
mod live;
mod node;
mod outbound;
mod problem;
mod process;
mod readiness;
mod routes;
mod scrape;
mod secured;
mod switchboard;
pub mod webhook;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

pub use access::{Access, AccessError, AccessSettings};
pub use api::About;
pub use hooks::{HookSettings, Hooks};
pub use outbound::EndpointError;
pub use problem::Problem;
pub use readiness::{Phase, Readiness};
pub use scrape::Cores;
pub use secured::Secured;
pub use switchboard::{Switchboard, Unanswered};
pub use webhook::{Webhook, WebhookError, WebhookSettings};

use crate::bus::Answer;
use crate::control::api::Api;
use crate::control::hooks::Stage;
use crate::control::live::Live;
use crate::control::node::Node;
use crate::control::process::Process;
use crate::control::scrape::Scraper;
use crate::metrics::{Source, Sources};

/// What the admin listener grants a caller.
#[derive(Copy, Clone, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the listener's backlog. Default 256.
    pub connections_max: u32,
    /// From the connect to the end of the first request's head, and for TLS. Default 5 s.
    pub head_timeout: Duration,
    /// From an answer to the end of the next request's head: how long a connection may be kept
    /// without use. Default 75 s, which is more than what clients keep theirs for.
    pub idle_timeout: Duration,
    /// Bytes of a request's head. Default 16 KiB.
    pub head_bytes_max: usize,
    /// The age at which a connection is closed after the answer under way. Default 10 min.
    pub age_max: Duration,
    /// How long that last answer may take, also when the control plane stops. Default 5 s.
    pub close_timeout: Duration,
    /// Bytes of a request's body. Default 1 MiB.
    pub body_bytes_max: usize,
    /// How long a body may take to come. Default 10 s.
    pub body_timeout: Duration,
    /// Messages of one batch. Default 1,000.
    pub batch_max: usize,
    /// How long a core may take to hand over its metrics. Default 1 s.
    pub snapshot_timeout: Duration,
    /// How long a core, and the disk where that is waited for, may take to answer. Default 10 s.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 256,
            head_timeout: Duration::from_secs(5),
            head_bytes_max: 16 * 1024,
            idle_timeout: Duration::from_secs(75),
            age_max: Duration::from_secs(600),
            close_timeout: Duration::from_secs(5),
            body_bytes_max: 1 << 20,
            body_timeout: Duration::from_secs(10),
            batch_max: 1_000,
            snapshot_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// The running control plane. Dropping it stops it, without waiting for the end.
#[derive(Debug)]
pub struct ControlHandle {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    stage: watch::Sender<Stage>,
    thread: JoinHandle<()>,
}

impl ControlHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes note that clients are told to leave: of that the backend is told once, and not of each.
    pub fn drain(&self) {
        self.stage.send_replace(Stage::Draining);
    }

    /// Takes no more connections, finishes the answers under way (within
    /// [`Limits::close_timeout`]), tells the backend what is on the way and returns when the thread
    /// has ended; an error if it panicked.
    pub fn stop(self) -> thread::Result<()> {
        self.stage.send_replace(Stage::Stopping);
        self.stop.send_replace(true);
        self.thread.join()
    }
}

/// A control plane that does not run yet.
///
/// Cores wake it when they answer, by a descriptor of its own: a core that has a descriptor table
/// of its own must have got it after this was made.
#[derive(Debug)]
pub struct Plane {
    runtime: Runtime,
    webhook: Option<Webhook>,
    node: Arc<Node>,
    sources: Sources,
    access: Access,
    about: About,
    hooks: Option<Hooks>,
    secured: Secured,
    answers: UnboundedSender<Vec<Answer>>,
    answered: UnboundedReceiver<Vec<Answer>>,
}

impl Plane {
    /// Makes the runtime, with its poller.
    ///
    /// # Errors
    /// Where the system refuses the poller.
    pub fn new() -> io::Result<Plane> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_io().enable_time().build()?;
        let (answers, answered) = mpsc::unbounded_channel();
        Ok(Plane {
            runtime,
            answers,
            answered,
            webhook: None,
            node: Arc::new(Node::start()),
            sources: Sources::default(),
            access: Access::default(),
            about: About::default(),
            hooks: None,
            secured: Secured::default(),
        })
    }

    /// With the operator's backend as the judge of credentials.
    #[must_use]
    pub fn with_webhook(self, webhook: Option<Webhook>) -> Plane {
        Plane { webhook, ..self }
    }

    /// A random number of this run of the node: another one says that it was started anew.
    pub fn epoch(&self) -> u64 {
        self.node.epoch()
    }

    /// With numbers that no core has, for `/metrics`. Each is asked once for each scrape, in the order
    /// in which they were added.
    #[must_use]
    pub fn with_source(mut self, source: Arc<dyn Source>) -> Plane {
        self.sources.add(source);
        self
    }

    /// With keys that callers have to show.
    #[must_use]
    pub fn with_access(self, access: Access) -> Plane {
        Plane { access, ..self }
    }

    /// With what the API tells of the node.
    #[must_use]
    pub fn with_about(self, about: About) -> Plane {
        Plane { about, ..self }
    }

    /// With the operator's backend as somebody to tell what happens.
    #[must_use]
    pub fn with_hooks(self, hooks: Option<Hooks>) -> Plane {
        Plane { hooks, ..self }
    }

    /// Where cores send their answers. There is at most one for each question, so what may wait is
    /// bounded by what may be asked.
    pub fn answers(&self) -> UnboundedSender<Vec<Answer>> {
        self.answers.clone()
    }

    /// Where it is told to speak TLS, before it runs or while it does.
    pub fn secured(&self) -> Secured {
        self.secured.clone()
    }

    /// Starts it on a bound listener.
    ///
    /// # Errors
    /// Where the system refuses the listener or the thread.
    pub fn spawn(
        self,
        listener: TcpListener,
        cores: Arc<dyn Cores>,
        readiness: Arc<Readiness>,
        limits: Limits,
    ) -> io::Result<ControlHandle> {
        let Plane {
            runtime,
            webhook,
            node,
            mut sources,
            access,
            about,
            hooks,
            secured,
            answered,
            // The cores have theirs.
            answers: _,
        } = self;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = watch::channel(false);
        sources.add(Arc::clone(&node) as Arc<dyn Source>);
        let (stage, staged) = watch::channel(Stage::Serving);
        let epoch = node.epoch();
        sources.add(Arc::new(Process));
        sources.add(access.refusals());
        if let Some(webhook) = &webhook {
            sources.add(webhook.counters());
        }
        if let Some(hooks) = &hooks {
            sources.add(hooks.counters());
        }
        let scraper = Scraper::new(Arc::clone(&cores), limits.snapshot_timeout, sources);
        let scraper = Arc::new(scraper);
        let switchboard = Switchboard::new(Arc::clone(&cores), limits.answer_timeout);
        let asked = (Arc::clone(&cores), switchboard.clone());
        let (seen, ready) = (Arc::clone(&scraper), Arc::clone(&readiness));
        let live = Live::new(seen, asked, ready, stopped.clone());
        let watched = live::routes(access.clone(), Arc::clone(&live));
        let api = Api::new(api::Parts {
            access: access.clone(),
            switchboard: switchboard.clone(),
            cores: Arc::clone(&cores),
            readiness: Arc::clone(&readiness),
            admin_listen: address,
            node,
            about,
            limits,
        });
        let router = routes::router(access.clone(), scraper, readiness)
            .merge(api::routes(api))
            .merge(dashboard::routes())
            .merge(watched);
        let router = routes::with_fallbacks(router, access);
        let thread = thread::Builder::new()
            .name("tidewheel-control".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(switchboard.serve(answered));
                    tokio::spawn(live.serve());
                    if let Some(webhook) = webhook {
                        tokio::spawn(webhook.serve(cores));
                    }
                    let hooks = hooks.map(|hooks| tokio::spawn(hooks.serve(staged, epoch)));
                    listen::serve((listener, secured), router, limits, stopped).await;
                    if let Some(hooks) = hooks {
                        // Bounded in time by itself.
                        let _ended = hooks.await;
                    }
                });
            })?;
        Ok(ControlHandle {
            address,
            stop,
            stage,
            thread,
        })
    }
}

#[cfg(test)]
mod tests;
