//! What is counted for a whole node: how much users send, and how addresses connect.
//!
//! A connection finds its meter once, under a short lock of one of many tables, and keeps it: a
//! message touches the meter's atomics alone. A meter that nobody holds and that says nothing any
//! more is forgotten. The number of meters has a bound; where it is reached, those that nobody holds
//! go first, and who is refused because all are held is told.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::address::{PeerAddress, PlaceKey};
use crate::gate::limits::Limits;
use crate::gate::rate::SharedBucket;
use crate::protocol::UserId;
use crate::time::Instant;

/// Tables among which the meters are spread, so that two cores seldom want the same.
const TABLES: usize = 64;

/// Meters of users, and as many of addresses, on a node.
pub const METERS_MAX: usize = 1 << 20;

/// A table this small is never looked through.
const SWEPT_FROM: usize = 64;

/// How much one user sends.
#[derive(Default, Debug)]
pub struct UserMeter {
    /// Messages.
    pub messages: SharedBucket,
    /// Rooms that they made.
    pub rooms: SharedBucket,
}

/// How often one address connects, and how many connections it has.
#[derive(Default, Debug)]
pub struct AddressMeter {
    connects: SharedBucket,
    open: AtomicU32,
}

trait Meter: Default {
    /// Whether it says nothing more than a new one would.
    fn is_idle(&self, now: Instant) -> bool;
}

impl Meter for UserMeter {
    fn is_idle(&self, now: Instant) -> bool {
        self.messages.is_full(now) && self.rooms.is_full(now)
    }
}

impl Meter for AddressMeter {
    fn is_idle(&self, now: Instant) -> bool {
        self.connects.is_full(now)
    }
}

/// One connection's place among those of its address. Given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AddressMeter>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an address gets no connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Crowded {
    /// It connects too often: how long to wait.
    Rate(Duration),
    /// It has as many connections as it may.
    Connections,
    /// There are more addresses than can be counted.
    Meters,
}

struct Table<K, M> {
    meters: HashMap<K, Arc<M>, ahash::RandomState>,
    /// With so many it is looked which can go.
    sweep_at: usize,
    max: usize,
}

impl<K: Hash + Eq, M: Meter> Table<K, M> {
    /// The meter of `key`; none where as many as may be are held. Counts those that went although
    /// they said something.
    fn meter(&mut self, key: K, now: Instant) -> (Option<Arc<M>>, u64) {
        if let Some(meter) = self.meters.get(&key) {
            return (Some(Arc::clone(meter)), 0);
        }
        let forgotten = if self.meters.len() >= self.sweep_at.min(self.max) {
            self.sweep(now)
        } else {
            0
        };
        if self.meters.len() >= self.max {
            return (None, forgotten);
        }
        let meter = Arc::new(M::default());
        self.meters.insert(key, Arc::clone(&meter));
        (Some(meter), forgotten)
    }

    /// Lets go of the meters that say nothing; where that does not make enough room, of others that
    /// nobody holds, an eighth at once, so that it is rarely done.
    fn sweep(&mut self, now: Instant) -> u64 {
        self.meters
            .retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_idle(now));
        let enough = self.max - self.max / 8;
        let mut excess = if self.meters.len() >= self.max {
            self.meters.len() - enough.min(self.meters.len())
        } else {
            0
        };
        let before = self.meters.len();
        self.meters.retain(|_, meter| {
            let goes = excess > 0 && Arc::strong_count(meter) == 1;
            excess -= usize::from(goes);
            !goes
        });
        self.sweep_at = (self.meters.len() * 2).max(SWEPT_FROM);
        if self.meters.capacity() > 4 * self.sweep_at {
            self.meters.shrink_to(self.sweep_at);
        }
        (before - self.meters.len()) as u64
    }
}

/// The meters of a node, which all its cores share.
pub struct Meters {
    users: Vec<Mutex<Table<UserId, UserMeter>>>,
    addresses: Vec<Mutex<Table<PlaceKey, AddressMeter>>>,
    hasher: ahash::RandomState,
}

impl Default for Meters {
    fn default() -> Meters {
        Meters::new(0, METERS_MAX)
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Meters {
    /// None so far, and never many more than `max` of a kind. Peers choose names, so the tables' hash
    /// is seeded.
    pub fn new(seed: u64, max: usize) -> Meters {
        let hasher = ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x6d65_7465);
        let max = max.div_ceil(TABLES);
        Meters {
            users: tables(&hasher, max),
            addresses: tables(&hasher, max),
            hasher,
        }
    }

    /// The meter of a user, and how many others were forgotten for it. A connection without a name is
    /// a user of its own, and so is one for which there is no room: its meter is nobody else's.
    pub fn user(&self, user: &UserId, now: Instant) -> (Arc<UserMeter>, u64) {
        if matches!(user, UserId::Anonymous(_)) {
            return (Arc::default(), 0);
        }
        self.user_everywhere(user, now)
    }

    /// The same, whoever it is: for what is counted elsewhere than where the connection is.
    pub fn user_everywhere(&self, user: &UserId, now: Instant) -> (Arc<UserMeter>, u64) {
        let (meter, forgotten) = self.lock(&self.users, user).meter(user.clone(), now);
        match meter {
            Some(meter) => (meter, forgotten),
            None => (Arc::default(), forgotten + 1),
        }
    }

    /// A place for one more connection from an address, and how many meters were forgotten for it.
    ///
    /// # Errors
    /// [`Crowded`] where it may have none.
    pub fn enter(
        &self,
        address: PeerAddress,
        limits: &Limits,
        now: Instant,
    ) -> (Result<Place, Crowded>, u64) {
        let key = address.place();
        let (meter, forgotten) = self.lock(&self.addresses, &key).meter(key, now);
        let place = meter
            .ok_or(Crowded::Meters)
            .and_then(|meter| take_place(meter, limits, now));
        (place, forgotten)
    }

    /// How many meters there are, of users and of addresses.
    pub fn len(&self) -> (usize, usize) {
        let users = self.users.iter().map(|table| lock(table).meters.len());
        let addresses = self.addresses.iter().map(|table| lock(table).meters.len());
        (users.sum(), addresses.sum())
    }

    fn lock<'t, K: Hash, M>(
        &self,
        tables: &'t [Mutex<Table<K, M>>],
        key: &K,
    ) -> MutexGuard<'t, Table<K, M>> {
        let number = self.hasher.hash_one(key) >> 32;
        // The tables are made in `new`: there are as many as are counted on.
        lock(&tables[number as usize % TABLES])
    }
}

fn take_place(meter: Arc<AddressMeter>, limits: &Limits, now: Instant) -> Result<Place, Crowded> {
    let max = limits.connections_per_address_max.unwrap_or(u32::MAX);
    // Counted before it is judged: two cores cannot both take the last place.
    let place = Place(meter);
    if place.0.open.fetch_add(1, Ordering::Relaxed) >= max {
        return Err(Crowded::Connections);
    }
    match limits.address_connects {
        Some(rate) => match place.0.connects.take(rate, 1, now) {
            Ok(()) => Ok(place),
            Err(wait) => Err(Crowded::Rate(wait)),
        },
        None => Ok(place),
    }
}

fn tables<K, M>(hasher: &ahash::RandomState, max: usize) -> Vec<Mutex<Table<K, M>>> {
    let table = || Table {
        meters: HashMap::with_hasher(hasher.clone()),
        sweep_at: SWEPT_FROM,
        max,
    };
    (0..TABLES).map(|_| Mutex::new(table())).collect()
}

/// A table whose last user panicked is as good as before: what it does is one step.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::rate::{Per, Rate};

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    fn limits(connects: Option<Rate>, open: Option<u32>) -> Limits {
        Limits {
            address_connects: connects,
            connections_per_address_max: open,
            ..Limits::default()
        }
    }

    fn address(n: u32) -> PeerAddress {
        core::net::IpAddr::from(n.to_be_bytes()).into()
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let meters = Meters::new(7, 1_000);
        let limits = limits(None, Some(2));
        let enter = |n| meters.enter(address(n), &limits, at(0)).0;
        let (one, two) = (enter(1).unwrap(), enter(1).unwrap());
        assert_eq!(enter(1).unwrap_err(), Crowded::Connections);
        assert_eq!(enter(1).unwrap_err(), Crowded::Connections);
        assert!(enter(2).is_ok(), "another address is not concerned");
        drop(one);
        let three = enter(1).unwrap();
        assert_eq!(enter(1).unwrap_err(), Crowded::Connections);
        drop((two, three));
        assert!(enter(1).is_ok());
    }

    #[test]
    fn an_address_connects_so_often_and_learns_how_long_to_wait() {
        let meters = Meters::new(7, 1_000);
        let limits = limits(Some(Rate::new(1, Per::Second, 2).unwrap()), None);
        let enter = |n, seconds| meters.enter(address(n), &limits, at(seconds)).0;
        assert!(enter(1, 0).is_ok() && enter(1, 0).is_ok());
        let wait = Duration::from_secs(1);
        assert_eq!(enter(1, 0).unwrap_err(), Crowded::Rate(wait));
        assert!(enter(2, 0).is_ok());
        assert!(enter(1, 1).is_ok());
    }

    #[test]
    fn a_user_has_one_meter_whichever_core_asks() {
        let meters = Meters::new(7, 1_000);
        let ann = UserId::from_name("ann");
        let (one, _) = meters.user(&ann, at(0));
        let (two, _) = meters.user(&ann, at(0));
        assert!(Arc::ptr_eq(&one, &two));
        let nobody = UserId::Anonymous(crate::protocol::ClientId(1));
        let (three, _) = meters.user(&nobody, at(0));
        assert!(!Arc::ptr_eq(&three, &meters.user(&nobody, at(0)).0));
        assert_eq!(meters.len(), (1, 0), "nameless users take no room");
    }

    #[test]
    fn meters_are_bounded_and_the_held_ones_stay() {
        let meters = Meters::new(7, 64 * 16);
        let limits = limits(Some(Rate::new(1, Per::Hour, 1).unwrap()), None);
        let held = meters.enter(address(0), &limits, at(0)).0.unwrap();
        let mut forgotten = 0;
        for n in 1..100_000 {
            let (entered, gone) = meters.enter(address(n), &limits, at(0));
            assert!(entered.is_ok(), "{n}");
            forgotten += gone;
        }
        assert!(meters.len().1 <= 64 * 16, "{:?}", meters.len());
        assert!(forgotten > 90_000, "none of it in silence: {forgotten}");
        let again = meters.enter(address(0), &limits, at(0)).0;
        assert!(matches!(again, Err(Crowded::Rate(_))), "it was remembered");
        drop(held);
    }

    #[test]
    fn where_all_meters_are_held_nobody_else_comes_in() {
        let meters = Meters::new(7, 64);
        let limits = limits(None, Some(1));
        let entered: Vec<_> = (0..5_000)
            .map(|n| meters.enter(address(n), &limits, at(0)).0)
            .collect();
        let places = entered.iter().filter(|entered| entered.is_ok()).count();
        assert_eq!(places, 64);
        let refused = |e: &Result<Place, Crowded>| matches!(e, Err(Crowded::Meters));
        assert_eq!(entered.iter().filter(|e| refused(e)).count(), 5_000 - 64);
        drop(entered);
        assert!(meters.enter(address(9_999), &limits, at(0)).0.is_ok());
    }

    #[test]
    fn what_says_nothing_any_more_is_forgotten() {
        let meters = Meters::new(7, METERS_MAX);
        let limits = limits(Some(Rate::new(1, Per::Second, 1).unwrap()), None);
        for n in 0..200_000 {
            let seconds = u64::from(n) / 100;
            assert!(meters.enter(address(n), &limits, at(seconds)).0.is_ok());
        }
        assert!(meters.len().1 < 20_000, "{:?}", meters.len());
    }
}
