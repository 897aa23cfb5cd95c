//! One event as JSON.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde::Serialize;

use crate::address::CoreId;
use crate::bus::{Evicted, Laggard, RoomFacts};
use crate::control::live::parts::{self, Figures};
use crate::control::live::sight::{EVICTIONS, TOP};
use crate::control::live::{Live, unix_ms};
use crate::control::readiness::Phase;
use crate::metrics::text::CoreReport;
use crate::metrics::{Digest, Kind, Label, Ledger};
use crate::protocol::Code;

/// What a watcher hears each second.
#[derive(Serialize)]
struct Event<'a> {
    /// When, by the wall clock, in milliseconds.
    unix_ms: u64,
    node: Node,
    digest: &'a Digest,
    /// Frames since the start by how they ended; of each kind.
    ledger: BTreeMap<&'static str, Account>,
    /// Bytes that wait for each core.
    bus_bytes: Vec<u64>,
    rooms: Vec<Room>,
    laggards: Vec<Slow>,
    /// The newest first.
    evictions: Vec<Eviction>,
    /// The figures of parts that only some nodes have.
    parts: BTreeMap<&'static str, Figures>,
}

#[derive(Serialize)]
struct Node {
    version: &'static str,
    /// `starting`, `ready` or `draining`.
    phase: &'static str,
    uptime_seconds: u64,
    watchers: usize,
}

#[derive(Default, Serialize)]
struct Account {
    offered: u64,
    delivered: u64,
    skipped: u64,
    undelivered: u64,
    pending: i64,
}

#[derive(Serialize)]
struct Room {
    room: String,
    members: u64,
    connections: u64,
    offset: u64,
    epoch: String,
}

#[derive(Serialize)]
struct Slow {
    client_id: String,
    user_id: String,
    lag_bytes: u64,
    lag_ms: u64,
    rooms: u32,
    core: usize,
}

#[derive(Serialize)]
struct Eviction {
    unix_ms: u64,
    user_id: String,
    client_id: String,
    code: u16,
    /// The code's name; none for one that is not the server's.
    cause: Option<&'static str>,
    lag_bytes: u64,
    core: usize,
}

/// The event of now.
pub(super) fn json(live: &Live, reports: &[CoreReport], digest: &Digest) -> Bytes {
    let (mut rooms, mut laggards, mut evictions) = (Vec::new(), Vec::new(), Vec::new());
    for core in 0..live.found.len() {
        let found = live.found(core);
        rooms.extend(found.rooms.iter().map(room));
        laggards.extend(found.laggards.iter().map(|it| slow(core, it)));
        evictions.extend(found.evictions.iter().map(|it| eviction(core, it)));
    }
    rooms.sort_by_key(|it| std::cmp::Reverse((it.members, it.connections)));
    rooms.truncate(TOP);
    laggards.sort_by_key(|it| std::cmp::Reverse((it.lag_bytes, it.lag_ms)));
    laggards.truncate(TOP);
    evictions.sort_by_key(|it| std::cmp::Reverse(it.unix_ms));
    evictions.truncate(EVICTIONS);
    let backlog = |core| live.cores.backlog_bytes(CoreId(core as u16)) as u64;
    let event = Event {
        unix_ms: unix_ms(),
        node: node(live),
        digest,
        ledger: ledger(reports),
        bus_bytes: (0..live.found.len()).map(backlog).collect(),
        rooms,
        laggards,
        evictions,
        parts: parts::read(&live.scraper.sources_text()),
    };
    // Numbers, strings and keys that are strings: it does not fail.
    serde_json::to_vec(&event).unwrap_or_default().into()
}

fn node(live: &Live) -> Node {
    let phase = match live.readiness.phase() {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
    };
    Node {
        version: env!("CARGO_PKG_VERSION"),
        phase,
        uptime_seconds: live.started_at.elapsed().as_secs(),
        watchers: live.newest.receiver_count(),
    }
}

fn ledger(reports: &[CoreReport]) -> BTreeMap<&'static str, Account> {
    let mut all = Ledger::default();
    for metrics in reports.iter().filter_map(|it| it.metrics.as_deref()) {
        all.merge(&metrics.ledger);
    }
    let account = |kind: &Kind| {
        let account = all.account(*kind);
        let told = Account {
            offered: account.offered,
            delivered: account.delivered,
            skipped: account.skipped,
            undelivered: account.undelivered,
            pending: account.pending(),
        };
        (kind.text(), told)
    };
    Kind::ALL.iter().map(account).collect()
}

fn room(facts: &RoomFacts) -> Room {
    Room {
        room: facts.room.name().to_owned(),
        members: facts.members,
        connections: facts.connections,
        offset: facts.offset,
        epoch: facts.epoch.to_string(),
    }
}

fn slow(core: usize, laggard: &Laggard) -> Slow {
    Slow {
        client_id: laggard.client_id.to_string(),
        user_id: laggard.user.to_string(),
        lag_bytes: laggard.lag_bytes,
        lag_ms: laggard.lag_ms,
        rooms: laggard.rooms,
        core,
    }
}

fn eviction(core: usize, evicted: &Evicted) -> Eviction {
    Eviction {
        unix_ms: evicted.unix_ms,
        user_id: evicted.user.to_string(),
        client_id: evicted.client_id.to_string(),
        code: evicted.code,
        cause: Code::from_number(evicted.code).map(|code| code.entry().name),
        lag_bytes: evicted.lag_bytes,
        core,
    }
}
