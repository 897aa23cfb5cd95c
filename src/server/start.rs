//! How the cores are started: one after the other, each on a thread with a descriptor table of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use anyhow::Context;
use rustls::ServerConfig;

use super::capacity::{Capacity, DESCRIPTORS_RESERVED};
use super::keeping::Portions;
use super::{Ended, Settings, cannot_listen};
use crate::address::CoreId;
use crate::bus::{Outlet, StoredBan, StoredRoom};
use crate::reactor::{
    self, Clock, Links, Listener, Mail, NodeMemory, Processors, Reactor, Seat, SocketOptions,
    Tuning,
};
use crate::shard::{Shard, ShardConfig};

/// Of the descriptors that each core keeps back, how many may be sockets that are told 503.
const REFUSALS_MAX: usize = DESCRIPTORS_RESERVED / 2;

/// What a core reports when it has opened its listener.
struct Opened {
    address: SocketAddr,
    has_own_table: bool,
}

/// What a core begins with, where history is kept.
struct Portion {
    rooms: Vec<StoredRoom>,
    bans: Arc<[StoredBan]>,
}

/// Makes the cores' pollers and mailboxes.
pub(super) fn seats(shards: usize) -> anyhow::Result<(Vec<Outlet<Mail>>, Vec<Seat>)> {
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

/// What is the same for all cores at a start.
pub(super) struct Plan<'a> {
    pub settings: &'a Settings,
    pub clock: Clock,
    pub tls: Option<Arc<ServerConfig>>,
    pub outlets: &'a [Outlet<Mail>],
    pub links: Links,
    pub ended: mpsc::Sender<Ended>,
    pub open_everywhere: Arc<AtomicUsize>,
    pub memory: Arc<NodeMemory>,
    pub processors: Option<Processors>,
}

impl Plan<'_> {
    /// Starts the cores, one after the other. Answers where they listen, and whether each has a
    /// descriptor table of its own.
    pub fn start_cores(
        self,
        seats: Vec<Seat>,
        portions: Option<Portions>,
    ) -> anyhow::Result<(SocketAddr, bool)> {
        let mut address = self.settings.listen;
        let mut has_own_tables = true;
        let bans = portions.as_ref().map(|portions| Arc::clone(&portions.bans));
        let mut rooms = portions
            .map_or(Vec::new(), |portions| portions.rooms)
            .into_iter();
        for (core, seat) in seats.into_iter().enumerate() {
            let core = CoreId(u16::try_from(core).context("more cores than can be numbered")?);
            let portion = bans.clone().map(|bans| Portion {
                rooms: rooms.next().unwrap_or_default(),
                bans,
            });
            let opened = self.start_core(core, (seat, portion), address)?;
            address = opened.address;
            has_own_tables &= opened.has_own_table;
        }
        Ok((address, has_own_tables))
    }

    fn start_core(
        &self,
        core: CoreId,
        begin: (Seat, Option<Portion>),
        address: SocketAddr,
    ) -> anyhow::Result<Opened> {
        let (report, reported) = mpsc::channel();
        let body = self.body(core, begin, address, report);
        thread::Builder::new()
            .name(format!("core-{}", core.0))
            .spawn(body)
            .with_context(|| format!("could not start the thread of core {}", core.0))?;
        let opened = reported
            .recv()
            .with_context(|| format!("core {} ended at its start", core.0))?;
        opened.with_context(|| cannot_listen("--listen", address))
    }

    /// The life of a core's thread.
    fn body(
        &self,
        core: CoreId,
        (seat, portion): (Seat, Option<Portion>),
        address: SocketAddr,
        report: mpsc::Sender<std::io::Result<Opened>>,
    ) -> impl FnOnce() + Send + 'static {
        let sockets = self.settings.sockets;
        let processor = self
            .processors
            .as_ref()
            .and_then(|all| all.of_core(core.index()));
        let outlets = self.outlets.to_vec();
        let (clock, ended) = (self.clock, self.ended.clone());
        let links = self.links.clone();
        let tls = self.tls.clone();
        let config = ShardConfig {
            core,
            cores: outlets.len() as u16,
            ..self.settings.shard.clone()
        };
        let tunings = [self.tuning(false), self.tuning(true)];
        let open_everywhere = Arc::clone(&self.open_everywhere);
        let memory = Arc::clone(&self.memory);
        move || {
            let has_own_table = take_own_table(core);
            let processor = processor.filter(|processor| stay_on(core, *processor));
            let started = open(address, sockets, processor).and_then(|(listener, address)| {
                let mut shard = Shard::new(config, clock.now());
                if let Some(Portion { rooms, bans }) = portion {
                    shard.restore(clock.now(), rooms, &bans);
                }
                let tuning = tunings[usize::from(has_own_table)];
                let world = (tuning, clock, open_everywhere, memory);
                let reactor = Reactor::new(seat, outlets, core, (listener, tls), shard, world)?;
                let reactor = reactor.with_links(links);
                Ok((
                    reactor,
                    Opened {
                        address,
                        has_own_table,
                    },
                ))
            });
            let reactor = match started {
                Ok((reactor, opened)) => {
                    drop(report.send(Ok(opened)));
                    reactor
                }
                Err(error) => return drop(report.send(Err(error))),
            };
            let run = std::panic::AssertUnwindSafe(|| reactor.run());
            drop(ended.send((core, std::panic::catch_unwind(run))));
        }
    }

    fn tuning(&self, has_own_table: bool) -> Tuning {
        let Settings {
            shards,
            descriptors,
            connections_max,
            ..
        } = *self.settings;
        let capacity = Capacity::of(shards, descriptors, connections_max, has_own_table);
        Tuning {
            connections_max: capacity.connections_of_shard,
            connections_everywhere_max: capacity.connections,
            refusals_max: REFUSALS_MAX,
            ..self.settings.tuning
        }
    }
}

/// Gives this core's thread a descriptor table of its own, where the system does.
fn take_own_table(core: CoreId) -> bool {
    let unshared = reactor::unshare();
    if let Err(error) = &unshared {
        tracing::warn!(
            core = core.0,
            %error,
            "no descriptor table of its own: the limit on open files holds for all cores together"
        );
    }
    unshared.is_ok()
}

/// Keeps this core's thread on a processor. Says whether it does.
fn stay_on(core: CoreId, processor: usize) -> bool {
    let pinned = reactor::pin(processor);
    if let Err(error) = &pinned {
        tracing::warn!(
            core = core.0,
            processor,
            %error,
            "--pin-cores: this core's thread could not be kept on its processor; it runs on any"
        );
    }
    pinned.is_ok()
}

/// The processors for the cores, where they are to be pinned.
pub(super) fn processors(settings: &Settings) -> Option<Processors> {
    if !settings.pin_cores {
        return None;
    }
    Processors::allowed()
        .inspect_err(|error| {
            tracing::warn!(%error, "--pin-cores: this system does not say which processors there are");
        })
        .ok()
}

fn open(
    address: SocketAddr,
    options: SocketOptions,
    processor: Option<usize>,
) -> std::io::Result<(Listener, SocketAddr)> {
    let listener = reactor::bind(address, options, processor)?;
    let address = listener.address()?;
    Ok((listener, address))
}
