//! What the settings mean for each part of the engine.

use std::sync::Arc;

use crate::limits::{self, Ports};
use crate::outcome::TIDEWHEEL;
use crate::publisher::Feed;
use crate::receiver::Role;
use crate::seats::{Rooms, Seat};
use crate::settings::{Pace, Profile, Settings};
use crate::target::Target;
use crate::view::{Dialect, Visit, Visits};
use crate::worker::WorkerPlan;

/// Offsets tracked over all rooms where publishes do not wait for completion.
const TRACKED_OFFSETS: usize = 4_096;

/// What one run is to be.
pub(super) struct Plan {
    pub(super) subject: &'static str,
    pub(super) rooms: Arc<Rooms>,
    pub(super) threads: usize,
    pub(super) dialect: Dialect,
    pub(super) path: String,
    pub(super) visits: Visits,
    watchers: usize,
}

impl Plan {
    pub(super) fn new(settings: &Settings, target: &Target) -> anyhow::Result<Plan> {
        check(settings)?;
        let (subject, dialect) = match settings.target {
            Profile::Tidewheel => (TIDEWHEEL, Dialect::Rooms(settings.join)),
            Profile::BareLoop if settings.uring => {
                ("bare loop, io_uring", Dialect::Rooms(settings.join))
            }
            Profile::BareLoop => ("bare loop", Dialect::Rooms(settings.join)),
            Profile::Broadcast => ("broadcast", Dialect::Numbered),
            Profile::Echo => ("echo", Dialect::Echo),
        };
        let path = match dialect {
            Dialect::Rooms(_) => "/ws".to_owned(),
            Dialect::Numbered | Dialect::Echo => target.path.clone(),
        };
        Ok(Plan {
            subject,
            rooms: Arc::new(Rooms::plan(settings)),
            threads: limits::threads(settings.connections(), settings.threads),
            dialect,
            path,
            visits: (0..settings.visitors).map(|_| Visit::default()).collect(),
            watchers: settings.watchers,
        })
    }

    /// One for each thread; rates are divided by how many of the clients concerned it has.
    pub(super) fn workers(
        &self,
        settings: &Settings,
        target: &Target,
    ) -> anyhow::Result<Vec<WorkerPlan>> {
        let clients = settings.connections();
        let ports = Ports::plan(target.address, clients, settings.source_addrs)?;
        let ports = Arc::new(ports);
        let workers = (0..self.threads).map(|thread| {
            let (mut seats, mut second) = self.rooms.seats(settings, thread, self.threads);
            let count = |role| seats.iter().filter(|seat| seat.role == role).count() as f64;
            let share = |rate: f64, role, all: usize| rate * count(role) / all.max(1) as f64;
            let members = |rate| share(rate, Role::Member, settings.clients);
            let speak = settings.pace().filter(|_| settings.clients_speak());
            let speak = speak.map(|pace| match pace {
                Pace::PerSecond(rate) => Pace::PerSecond(members(rate)),
                in_flight @ Pace::InFlight(_) => in_flight,
            });
            let churn_rate = members(settings.churn_rate);
            let visit_rate = share(settings.presence_rate, Role::Visitor, settings.visitors);
            let first_seats = seats.len();
            seats.append(&mut second);
            WorkerPlan {
                target: target.address,
                path: self.path.clone(),
                ports: Arc::clone(&ports),
                connect_rate: settings.connect_rate * seats.len() as f64 / clients.max(1) as f64,
                seats,
                first_seats,
                rooms: Arc::clone(&self.rooms),
                dialect: self.dialect,
                handshakes_max: (settings.connect_concurrency / self.threads).max(1),
                tracked_offsets: self.tracked_offsets(settings),
                payload_bytes: settings.payload,
                speak,
                slow_buffer_bytes: u32::try_from(settings.stalled_buffer).unwrap_or(u32::MAX),
                trickle_bytes: settings.trickle_bytes,
                trickle_interval: settings.trickle_interval,
                churn_rate,
                away: settings.away,
                visit_rate,
                visits: Arc::clone(&self.visits),
            }
        });
        Ok(workers.collect())
    }

    /// What the connections that only publish send.
    pub(super) fn feeds(&self, settings: &Settings) -> Vec<Feed> {
        let main = settings.pace().filter(|_| !settings.clients_speak());
        let main = main.map(|pace| Feed {
            rooms: 0..self.rooms.main,
            pace,
        });
        let hall = self.rooms.hall.filter(|_| settings.hall_rate > 0.0);
        let hall = hall.map(|room| Feed {
            rooms: room..room + 1,
            pace: Pace::PerSecond(settings.hall_rate),
        });
        main.into_iter().chain(hall).collect()
    }

    /// Connections that only publish.
    pub(super) fn publishers(&self, settings: &Settings) -> usize {
        if self.feeds(settings).is_empty() && !settings.publish {
            0
        } else {
            settings.publishers.max(1)
        }
    }

    /// Watchers in the room of a visitor.
    pub(super) fn watchers_of_visitor(&self, number: usize) -> u64 {
        let room = |role, number: usize| {
            let number = number as u32;
            self.rooms.of(Seat { role, number })
        };
        let here = room(Role::Visitor, number);
        let watchers = (0..self.watchers).filter(|number| room(Role::Watcher, *number) == here);
        watchers.count() as u64
    }

    fn tracked_offsets(&self, settings: &Settings) -> usize {
        match settings.pace() {
            Some(Pace::InFlight(count)) if !settings.clients_speak() => {
                let wanted = usize::try_from(count.saturating_mul(4)).unwrap_or(usize::MAX);
                wanted.max(TRACKED_OFFSETS / self.rooms.names.len().max(16))
            }
            _ => (TRACKED_OFFSETS / self.rooms.names.len().max(1)).max(8),
        }
    }
}

/// Refuses what does not go together.
fn check(settings: &Settings) -> anyhow::Result<()> {
    let beside = settings.hall
        + settings.slow()
        + settings.watchers
        + settings.visitors
        + usize::from(settings.churn_rate > 0.0);
    let has_rooms = settings.target == Profile::Tidewheel;
    anyhow::ensure!(
        has_rooms || beside == 0,
        "--target {:?} knows no rooms to come back to, no presence and no slow readers: leave \
         --hall, --stalled, --trickling, --stopping, --churn-rate, --watchers and --visitors out",
        settings.target
    );
    anyhow::ensure!(
        settings.target != Profile::Broadcast || settings.publishers > 0,
        "--target broadcast needs --publishers 1 or more: each numbers its own messages"
    );
    anyhow::ensure!(
        settings.target != Profile::BareLoop || settings.rooms == 1 && !settings.clients_speak(),
        "the bare loop has one room and takes publishes of --publishers only: give --rooms 1"
    );
    anyhow::ensure!(
        has_rooms || settings.rooms_per_client == 1,
        "--rooms-per-client is for --target tidewheel"
    );
    anyhow::ensure!(
        matches!(settings.target, Profile::Tidewheel | Profile::BareLoop)
            || settings.payload >= crate::message::NUMBERED_BYTES_MIN,
        "--payload {} or more: sender, number and time stand in it",
        crate::message::NUMBERED_BYTES_MIN
    );
    anyhow::ensure!(
        settings.connections() > 0,
        "--clients 1 or more: nobody is to connect"
    );
    Ok(())
}
