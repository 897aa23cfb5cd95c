//! What an operator watches: the cores' figures, once a second, to everyone who watches.
//!
//! ```text
//!              ┌─ each 5 s, always ────► Ring (15 min) ─┐
//! Scraper ──► sampler                                   ├─► watcher: `past`, then `now` each second
//!              └─ each 1 s, if watched ► event ─────────┘
//! Switchboard ─► a look around each core, if watched ──┘
//! ```
//! There is one sampler however many watch, and each event is made once. Unwatched it costs a copy of
//! every core's metrics (about 45 KB) each five seconds, so that a page opened after an incident shows
//! how it began. Rooms and connections are looked at only while somebody watches, a bounded number at
//! a time.

mod event;
mod parts;
mod ring;
mod sight;
mod stream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::address::CoreId;
use crate::control::readiness::Readiness;
use crate::control::scrape::Scraper;
use crate::control::{Cores, Switchboard};
use crate::metrics::Digest;
use crate::metrics::text::CoreReport;

use ring::{Point, Ring};
use sight::Found;
pub(super) use stream::routes;

/// How often watchers hear.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a point of the ring stands for.
const POINT_INTERVAL: Duration = Duration::from_secs(5);

/// How many may watch at a time; further ones are told 503.
const WATCHERS_MAX: usize = 32;

/// The cores, what was seen of them, and who watches.
pub(super) struct Live {
    scraper: Arc<Scraper>,
    cores: Arc<dyn Cores>,
    switchboard: Switchboard,
    readiness: Arc<Readiness>,
    started_at: Instant,
    places: Arc<Semaphore>,
    /// The newest event, as JSON. Its receivers are the watchers.
    newest: watch::Sender<Bytes>,
    past: Mutex<Ring>,
    /// What was found on each core, by number.
    found: Vec<Mutex<Found>>,
    /// True once the control plane stops.
    stopped: watch::Receiver<bool>,
}

/// What the cores said, and when they were asked.
#[derive(Clone)]
struct Look {
    reports: Arc<[CoreReport]>,
    asked_at: Instant,
}

impl Live {
    pub(super) fn new(
        scraper: Arc<Scraper>,
        (cores, switchboard): (Arc<dyn Cores>, Switchboard),
        readiness: Arc<Readiness>,
        stopped: watch::Receiver<bool>,
    ) -> Arc<Live> {
        let count = cores.count();
        Arc::new(Live {
            scraper,
            cores,
            switchboard,
            readiness,
            started_at: Instant::now(),
            places: Arc::new(Semaphore::new(WATCHERS_MAX)),
            newest: watch::Sender::default(),
            past: Mutex::default(),
            found: (0..count).map(|_| Mutex::default()).collect(),
            stopped,
        })
    }

    /// Samples until the control plane ends.
    pub(super) async fn serve(self: Arc<Live>) {
        let mut ticks = interval(EVENT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Of what was before the first look nothing is known: it has gauges and no rates.
        let mut last = Look {
            reports: Arc::default(),
            asked_at: Instant::now(),
        };
        let mut last_point = last.clone();
        loop {
            ticks.tick().await;
            let is_watched = self.is_watched();
            let is_due = last_point.asked_at.elapsed() >= POINT_INTERVAL;
            if !is_watched && !is_due {
                continue;
            }
            let look = self.look().await;
            if is_due {
                let digest = look.since(&last_point);
                self.past().push(Point::of(&digest, unix_ms()));
                last_point = look.clone();
            }
            if is_watched {
                self.look_around();
                self.tell(&look, &look.since(&last));
            }
            last = look;
        }
    }

    async fn look(&self) -> Look {
        let asked_at = Instant::now();
        let reports = self.scraper.reports().await.into();
        Look { reports, asked_at }
    }

    /// Makes the newest event.
    fn tell(&self, look: &Look, digest: &Digest) {
        let json = event::json(self, &look.reports, digest);
        self.newest.send_replace(json);
    }

    fn is_watched(&self) -> bool {
        self.newest.receiver_count() > 0
    }

    /// Sets out on a round of every core that is not on one.
    fn look_around(self: &Arc<Live>) {
        for core in 0..self.found.len() {
            if self.found(core).set_out() {
                let round = sight::round(Arc::clone(self), CoreId(core as u16));
                tokio::spawn(round);
            }
        }
    }

    fn past(&self) -> MutexGuard<'_, Ring> {
        lock(&self.past)
    }

    fn found(&self, core: usize) -> MutexGuard<'_, Found> {
        lock(&self.found[core])
    }
}

impl Look {
    fn since(&self, before: &Look) -> Digest {
        let interval = self.asked_at.saturating_duration_since(before.asked_at);
        Digest::between(&before.reports, &self.reports, interval)
    }
}

/// All locks here are held by one thread that changes nothing halfway.
fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "the control plane reads a clock")]
fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or(Duration::ZERO).as_millis() as u64
}
