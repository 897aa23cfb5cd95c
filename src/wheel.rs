//! A hierarchical timer wheel: every deadline of one core, at a constant cost each.
//!
//! It owns the order of deadlines and nothing else: it reads no clock, and what a timer means is
//! the caller's value. A tick is one millisecond. A deadline's tick is a number of base 64, and the
//! highest digit in which it differs from the wheel's own tick says where the timer waits:
//!
//! ```text
//!            one slot is      64 slots are
//! level 0    1 ms             64 ms          fires: every timer of a slot has the same tick
//! level 1    64 ms            4.1 s          ┐
//! level 2    4.1 s            4.4 min        │ cascades: when the wheel's tick reaches a slot, its
//! level 3    4.4 min          4.7 h          │ timers move to lower levels
//!   …                                        │
//! level 7    139 years        8,900 years    ┘ more than an `Instant` holds, so nothing is clamped
//! ```
//!
//! Since the digit is compared with the wheel's own tick, every timer of a level is due before any
//! timer of the level above, and every slot before the slots after it. The next event is therefore
//! the lowest bit of the lowest level that has one: time without events costs nothing, however long
//! it is, and an early wake is two `trailing_zeros`.
//!
//! A timer is 16 bytes of links and deadline plus its value; the two lie apart, so that a cascade
//! does not read the values.
//!
//! ```
//! use std::time::Duration;
//! use tidewheel::time::Instant;
//! use tidewheel::wheel::Wheel;
//!
//! let start = Instant::ORIGIN;
//! let mut wheel = Wheel::new(start);
//! wheel.insert(start + Duration::from_millis(20), "late");
//! let early = wheel.insert(start + Duration::from_millis(10), "early");
//! wheel.rearm(early, start + Duration::from_millis(30));
//! assert_eq!(wheel.expire(start + Duration::from_millis(25)), Some("late"));
//! assert_eq!(wheel.expire(start + Duration::from_millis(25)), None);
//! ```

use std::mem;
use std::num::NonZeroU32;

use crate::time::Instant;

const TICK_NANOS: u64 = 1_000_000;
const DIGIT_BITS: u32 = 6;
const SLOTS: u32 = 1 << DIGIT_BITS;
/// 48 bits of milliseconds: an `Instant` has 45.
const LEVELS: u32 = 8;
/// The heads of all lists are the first links; timers follow.
const LISTS: u32 = LEVELS * SLOTS;

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const TICK_BITS: u32 = 56;
const TICK_MASK: u64 = (1 << TICK_BITS) - 1;
const NO_FREE: u32 = u32::MAX;
/// Stands in `prev` of a link that is in no list.
const FREE: u32 = u32::MAX;

/// Names a timer until it fires or is cancelled.
///
/// It carries eight bits of generation: a name kept for too long is recognised as dead, not taken
/// for the timer that has its place now, unless that place was reused a multiple of 256 times.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct TimerId(NonZeroU32);

impl TimerId {
    fn index(self) -> u32 {
        self.0.get() & INDEX_MASK
    }

    fn generation(self) -> u8 {
        (self.0.get() >> INDEX_BITS) as u8
    }
}

/// A place in a circular, doubly linked list: the head of a slot, or a timer.
#[derive(Copy, Clone)]
struct Link {
    prev: u32,
    next: u32,
    /// The generation in the highest byte, the tick below it.
    due: u64,
}

impl Link {
    fn tick(self) -> u64 {
        self.due & TICK_MASK
    }

    fn generation(self) -> u8 {
        (self.due >> TICK_BITS) as u8
    }

    fn set_tick(&mut self, tick: u64) {
        self.due = (self.due & !TICK_MASK) | tick;
    }
}

/// The timers of one core, each with a value that is handed back when it fires.
///
/// Order: timers fire by the tick of their deadline, and within a tick in the order in which they
/// were inserted or last re-armed. A deadline that is already past counts as the wheel's tick.
///
/// Invariant: a timer is in the list `list_of(tick, elapsed)`, and tick ≥ elapsed.
/// Invariant: a bit of `occupied` is set exactly where that list has a timer.
pub struct Wheel<T> {
    /// Every event before this tick has been handled; it never goes back.
    elapsed: u64,
    /// A bit for each level that has a timer.
    levels: u8,
    /// A bit for each slot that has a timer.
    occupied: [u64; LEVELS as usize],
    links: Vec<Link>,
    /// The value of the timer `links[LISTS + i]`.
    values: Vec<T>,
    /// The first free link; `next` leads on.
    free: u32,
    len: usize,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel whose time is `now`.
    pub fn new(now: Instant) -> Wheel<T> {
        let heads = (0..LISTS).map(|head| Link {
            prev: head,
            next: head,
            due: 0,
        });
        Wheel {
            elapsed: tick_at(now),
            levels: 0,
            occupied: [0; LEVELS as usize],
            links: heads.collect(),
            values: Vec::new(),
            free: NO_FREE,
            len: 0,
        }
    }

    /// Adds a timer. A deadline that is not after the wheel's time fires at the next `expire`.
    ///
    /// # Panics
    /// With more than 16.7 million timers, some ten times the descriptors a core can have.
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerId {
        let index = self.take_link(value);
        self.arm(index, deadline);
        self.len += 1;
        let generation = u32::from(self.links[index as usize].generation());
        // The heads of the lists come first, so an index is never zero.
        TimerId(NonZeroU32::MIN.saturating_add((generation << INDEX_BITS | index) - 1))
    }

    /// Takes a timer out before it fires; `None` where it has fired or was cancelled.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let index = self.live(id)?;
        self.unlink(index);
        Some(self.release(index))
    }

    /// Gives a timer another deadline, earlier or later; false where it has fired or was cancelled.
    pub fn rearm(&mut self, id: TimerId, deadline: Instant) -> bool {
        let Some(index) = self.live(id) else {
            return false;
        };
        self.unlink(index);
        self.arm(index, deadline);
        true
    }

    /// The next timer that is due at `now`, which is thereby gone; call it until it says `None`.
    ///
    /// Fires never before the deadline, and less than a tick after it. Timers may be inserted,
    /// cancelled and re-armed between the calls; one that is inserted with a deadline not after
    /// `now` fires in the same round. A `now` before an earlier one counts as that one.
    pub fn expire(&mut self, now: Instant) -> Option<T> {
        let target = tick_at(now).max(self.elapsed);
        while let Some((list, tick)) = self.next_event() {
            if tick > target {
                break;
            }
            self.elapsed = tick;
            if list < SLOTS {
                let index = self.links[list as usize].next;
                self.unlink(index);
                return Some(self.release(index));
            }
            self.cascade(list);
        }
        // No event lies between, so every timer stays in the list that is right for it.
        self.elapsed = target;
        None
    }

    /// When to call `expire` next; `None` without timers.
    ///
    /// Never later than the next timer. It may be earlier, by less than one slot of the level where
    /// that timer waits: the wheel then cascades, once for each level at most. After an
    /// `expire(now)` that said `None` it is later than `now`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, tick) = self.next_event()?;
        Some(Instant::from_nanos(tick.saturating_mul(TICK_NANOS)))
    }

    /// How many timers are waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is waiting.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap, room for further timers included.
    pub fn heap_bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>() + self.values.capacity() * size_of::<T>()
    }

    /// The first list that has a timer, and the tick at which the wheel has to look at it.
    fn next_event(&self) -> Option<(u32, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let slot = self.occupied[level as usize].trailing_zeros();
        let shift = level * DIGIT_BITS;
        let above = self.elapsed >> (shift + DIGIT_BITS);
        Some((
            level * SLOTS + slot,
            (above << DIGIT_BITS | u64::from(slot)) << shift,
        ))
    }

    /// Spreads a slot over the levels below, now that the wheel's tick is the slot's first.
    fn cascade(&mut self, list: u32) {
        let head = &mut self.links[list as usize];
        let mut index = mem::replace(&mut head.next, list);
        head.prev = list;
        self.mark_empty(list);
        while index != list {
            let next = self.links[index as usize].next;
            self.append(index);
            index = next;
        }
    }

    fn arm(&mut self, index: u32, deadline: Instant) {
        // A deadline that is past counts as the wheel's own tick.
        let tick = deadline.as_nanos().div_ceil(TICK_NANOS).max(self.elapsed);
        self.links[index as usize].set_tick(tick);
        self.append(index);
    }

    /// Puts a link that is in no list at the end of the one where its tick belongs.
    fn append(&mut self, index: u32) {
        let tick = self.links[index as usize].tick();
        debug_assert!(tick >= self.elapsed);
        let list = list_of(tick, self.elapsed);
        let last = mem::replace(&mut self.links[list as usize].prev, index);
        self.links[last as usize].next = index;
        let link = &mut self.links[index as usize];
        link.prev = last;
        link.next = list;
        self.occupied[(list / SLOTS) as usize] |= 1 << (list % SLOTS);
        self.levels |= 1 << (list / SLOTS);
    }

    fn unlink(&mut self, index: u32) {
        let Link { prev, next, .. } = self.links[index as usize];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
        // Only the last timer of a list has the same neighbour on both sides: the list's head.
        if prev == next {
            self.mark_empty(prev);
        }
    }

    fn mark_empty(&mut self, list: u32) {
        debug_assert!(list < LISTS);
        let slots = &mut self.occupied[(list / SLOTS) as usize];
        *slots &= !(1 << (list % SLOTS));
        if *slots == 0 {
            self.levels &= !(1 << (list / SLOTS));
        }
    }

    /// A link for a new timer: a free one, else a new one.
    fn take_link(&mut self, value: T) -> u32 {
        if self.free != NO_FREE {
            let index = self.free;
            self.free = self.links[index as usize].next;
            self.values[(index - LISTS) as usize] = value;
            return index;
        }
        // A quarter more instead of twice as much: an idle connection pays for the slack.
        if self.values.len() == self.values.capacity() {
            let more = (self.values.len() / 4).max(64);
            self.links.reserve_exact(more);
            self.values.reserve_exact(more);
        }
        let index = self.links.len() as u32;
        assert!(index <= INDEX_MASK, "more timers than a wheel can name");
        self.links.push(Link {
            prev: FREE,
            next: NO_FREE,
            due: 0,
        });
        self.values.push(value);
        index
    }

    /// Hands an unlinked link to the free list; every id of it is dead from here on.
    fn release(&mut self, index: u32) -> T {
        let link = &mut self.links[index as usize];
        let generation = u64::from(link.generation().wrapping_add(1));
        *link = Link {
            prev: FREE,
            next: self.free,
            due: generation << TICK_BITS,
        };
        self.free = index;
        self.len -= 1;
        self.values[(index - LISTS) as usize]
    }

    fn live(&self, id: TimerId) -> Option<u32> {
        let index = id.index();
        let link = self.links.get(index as usize)?;
        let is_live = index >= LISTS && link.prev != FREE && link.generation() == id.generation();
        is_live.then_some(index)
    }
}

/// The tick that `now` lies in.
fn tick_at(now: Instant) -> u64 {
    now.as_nanos() / TICK_NANOS
}

/// The list of a timer that is due at `tick`, seen from `elapsed`.
fn list_of(tick: u64, elapsed: u64) -> u32 {
    let highest_bit = ((tick ^ elapsed) | 1).ilog2();
    let level = highest_bit / DIGIT_BITS;
    let slot = (tick >> (level * DIGIT_BITS)) as u32 % SLOTS;
    level * SLOTS + slot
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * TICK_NANOS)
    }

    fn drain<T: Copy>(wheel: &mut Wheel<T>, now: Instant) -> Vec<T> {
        let fired = std::iter::from_fn(|| wheel.expire(now)).collect();
        if let Some(next) = wheel.next_deadline() {
            assert!(next > now, "{next:?} would have a sleeper spin at {now:?}");
        }
        fired
    }

    /// Sleeps as a reactor does, to the wheel's own bound each time; the wakes until something
    /// fires, and when it does.
    fn sleep_until_fired(wheel: &mut Wheel<u64>) -> (u32, Instant) {
        for wakes in 1.. {
            let now = wheel.next_deadline().unwrap();
            if wheel.expire(now).is_some() {
                return (wakes, now);
            }
        }
        unreachable!()
    }

    #[test]
    fn an_optional_id_takes_four_bytes_and_a_timer_twenty_four() {
        assert_eq!(size_of::<Option<TimerId>>(), 4);
        let mut wheel = Wheel::new(at(0));
        let empty = wheel.heap_bytes();
        for n in 0..100_000u64 {
            wheel.insert(at(n), n);
        }
        let each = (wheel.heap_bytes() - empty) as f64 / 100_000.0;
        assert!((24.0..=30.0).contains(&each), "{each} bytes for each timer");
    }

    #[test]
    fn a_timer_fires_at_its_tick_and_never_before_it() {
        // Around every boundary of levels 0 to 5, from ticks on and beside a boundary.
        for start in [0u64, 1, 63, 64, 4095, 4096, 262_143, 1 << 30, (1 << 36) - 1] {
            for level in 0..6 {
                for offset in [-1i64, 0, 1, 37] {
                    let delay = (1u64 << (6 * level)).saturating_add_signed(offset);
                    let mut wheel = Wheel::new(at(start));
                    wheel.insert(at(start + delay), 7u64);
                    if delay > 0 {
                        assert_eq!(drain(&mut wheel, at(start + delay - 1)), []);
                    }
                    assert_eq!(drain(&mut wheel, at(start + delay)), [7]);
                    assert!(wheel.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_deadline_within_a_tick_fires_at_the_end_of_that_tick() {
        let mut wheel = Wheel::new(Instant::ORIGIN);
        wheel.insert(Instant::from_nanos(5_000_001), 1);
        assert_eq!(drain(&mut wheel, Instant::from_nanos(5_999_999)), []);
        assert_eq!(drain(&mut wheel, Instant::from_nanos(6_000_000)), [1]);
    }

    #[test]
    fn a_deadline_that_is_past_fires_at_once() {
        let mut wheel = Wheel::new(at(1000));
        wheel.insert(at(3), 1);
        assert_eq!(wheel.next_deadline(), Some(at(1000)));
        assert_eq!(drain(&mut wheel, at(1000)), [1]);
    }

    #[test]
    fn timers_of_one_tick_fire_in_the_order_of_their_insertion() {
        let mut wheel = Wheel::new(at(0));
        // One tick, reached from level 2, level 1 and level 0.
        wheel.insert(at(5000), 0);
        wheel.insert(at(5001), 9);
        let moved = wheel.insert(at(5000), 4);
        assert_eq!(drain(&mut wheel, at(4100)), []);
        wheel.insert(at(5000), 1);
        assert_eq!(drain(&mut wheel, at(4999)), []);
        wheel.insert(at(5000), 2);
        wheel.rearm(moved, at(5000));
        assert_eq!(drain(&mut wheel, at(9000)), [0, 1, 2, 4, 9]);
    }

    #[test]
    fn a_sleeper_wakes_at_most_once_for_each_level() {
        for ms in [1, 64, 100, 25_000, 600_000, 86_400_000, 30 * 86_400_000] {
            let mut wheel = Wheel::new(at(999_999));
            wheel.insert(at(999_999 + ms), ms);
            let (wakes, fired) = sleep_until_fired(&mut wheel);
            assert_eq!(fired, at(999_999 + ms));
            assert!(wakes <= LEVELS, "{wakes} wakes for {ms} ms");
        }
    }

    #[test]
    fn one_call_may_jump_over_years() {
        let mut wheel = Wheel::new(at(17));
        for days in (1..4000u32).rev() {
            wheel.insert(at(17) + DAY * days, days);
        }
        let fired = drain(&mut wheel, at(17) + DAY * 3650);
        assert_eq!(fired, (1..=3650).collect::<Vec<_>>());
        assert_eq!(wheel.len(), 3999 - 3650);
    }

    #[test]
    fn the_end_of_the_clock_is_a_deadline_like_any_other() {
        let mut wheel = Wheel::new(at(0));
        let never = wheel.insert(Instant::from_nanos(u64::MAX), 1);
        assert_eq!(drain(&mut wheel, at(0) + DAY * 36_500), []);
        assert!(wheel.rearm(never, at(0) + DAY * 36_501));
        assert_eq!(drain(&mut wheel, at(0) + DAY * 36_501), [1]);
    }

    #[test]
    fn a_clock_that_goes_back_is_no_progress() {
        let mut wheel = Wheel::new(at(1000));
        wheel.insert(at(1500), 1);
        assert_eq!(drain(&mut wheel, at(1400)), []);
        assert_eq!(drain(&mut wheel, at(10)), []);
        wheel.insert(at(1300), 2);
        wheel.insert(at(1450), 3);
        assert_eq!(wheel.expire(at(10)), Some(2));
        assert_eq!(drain(&mut wheel, at(1449)), []);
        assert_eq!(drain(&mut wheel, at(1500)), [3, 1]);
    }

    #[test]
    fn a_timer_may_be_cancelled_or_moved_while_others_of_its_tick_fire() {
        let mut wheel = Wheel::new(at(0));
        let ids: Vec<_> = (0..5).map(|n| wheel.insert(at(100), n)).collect();
        assert_eq!(wheel.expire(at(200)), Some(0));
        assert_eq!(wheel.cancel(ids[1]), Some(1));
        assert!(wheel.rearm(ids[2], at(150)));
        assert!(wheel.rearm(ids[3], at(300)));
        wheel.insert(at(120), 5);
        assert_eq!(drain(&mut wheel, at(200)), [4, 5, 2]);
        assert_eq!(drain(&mut wheel, at(300)), [3]);
    }

    #[test]
    fn an_id_is_dead_once_its_timer_fired_or_was_cancelled() {
        let mut wheel = Wheel::new(at(0));
        let fired = wheel.insert(at(1), 1);
        assert_eq!(drain(&mut wheel, at(1)), [1]);
        assert_eq!(wheel.cancel(fired), None);
        let next = wheel.insert(at(9), 2);
        assert_eq!(next.index(), fired.index());
        assert_eq!(wheel.cancel(fired), None);
        assert!(!wheel.rearm(fired, at(2)));
        assert_eq!(wheel.cancel(next), Some(2));
        assert_eq!(wheel.cancel(next), None);
        assert_eq!(wheel.next_deadline(), None);
    }

    /// What a wheel should do, told by a sorted map.
    #[derive(Default)]
    struct Model {
        elapsed: u64,
        sequence: u64,
        by_order: BTreeMap<(u64, u64), u64>,
        keys: BTreeMap<u64, ((u64, u64), TimerId)>,
    }

    impl Model {
        fn put(&mut self, deadline: Instant, value: u64, id: TimerId) {
            self.sequence += 1;
            let tick = deadline.as_nanos().div_ceil(TICK_NANOS).max(self.elapsed);
            let key = (tick, self.sequence);
            self.by_order.insert(key, value);
            if let Some((old, _)) = self.keys.insert(value, (key, id)) {
                self.by_order.remove(&old);
            }
        }

        fn expire(&mut self, now: Instant) -> Option<u64> {
            let target = tick_at(now).max(self.elapsed);
            match self.by_order.first_entry() {
                Some(first) if first.key().0 <= target => {
                    self.elapsed = first.key().0;
                    let value = first.remove();
                    self.keys.remove(&value);
                    Some(value)
                }
                _ => {
                    self.elapsed = target;
                    None
                }
            }
        }

        fn pick(&self, random: &mut fastrand::Rng) -> Option<(u64, TimerId)> {
            let from = random.u64(0..=self.keys.last_key_value().map_or(0, |(v, _)| *v));
            self.keys
                .range(from..)
                .next()
                .map(|(value, (_, id))| (*value, *id))
        }
    }

    /// A span whose magnitude, not whose size, is drawn evenly: from nanoseconds to `bits`.
    fn span(random: &mut fastrand::Rng, bits: u32) -> u64 {
        random.u64(..) >> random.u32(64 - bits..64)
    }

    fn random_operations(seed: u64, operations: u32) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = Instant::from_nanos(span(&mut random, 60));
        let mut wheel = Wheel::new(now);
        let mut model = Model {
            elapsed: tick_at(now),
            ..Model::default()
        };
        let mut dead = Vec::new();
        for value in 0..u64::from(operations) {
            let around = now.as_nanos().saturating_add(span(&mut random, 54));
            let deadline = Instant::from_nanos(around.saturating_sub(span(&mut random, 34)));
            match random.u8(0..16) {
                0..7 => model.put(deadline, value, wheel.insert(deadline, value)),
                choice @ 7..12 => {
                    let Some((value, id)) = model.pick(&mut random) else {
                        continue;
                    };
                    if choice < 10 {
                        assert!(wheel.rearm(id, deadline), "seed {seed}");
                        model.put(deadline, value, id);
                    } else {
                        assert_eq!(wheel.cancel(id), Some(value), "seed {seed}");
                        let (key, id) = model.keys.remove(&value).unwrap();
                        model.by_order.remove(&key);
                        dead.push(id);
                    }
                }
                choice => {
                    let step = span(&mut random, if choice == 12 { 50 } else { 33 });
                    now = match choice {
                        13 => Instant::from_nanos(now.as_nanos().saturating_sub(step / 8)),
                        _ => Instant::from_nanos(now.as_nanos() + step),
                    };
                    loop {
                        let fired = wheel.expire(now);
                        assert_eq!(fired, model.expire(now), "seed {seed}");
                        if fired.is_none() {
                            assert!(
                                wheel.next_deadline().is_none_or(|at| at > now),
                                "seed {seed}"
                            );
                            break;
                        }
                        // Sometimes the handler gives up half-way and comes back later.
                        if random.u8(..) == 0 {
                            break;
                        }
                    }
                }
            }
            assert_eq!(wheel.len(), model.keys.len(), "seed {seed}");
            let next = wheel.next_deadline().map(tick_at);
            let truth = model.by_order.first_key_value().map(|(key, _)| key.0);
            assert_eq!(next.is_some(), truth.is_some(), "seed {seed}");
            assert!(next <= truth, "seed {seed}");
        }
        // Reuse has long moved on from most of these; an id of the newest generation is dead too.
        if let Some(id) = dead.last() {
            let is_alive = model.keys.values().any(|(_, alive)| alive == id);
            assert_eq!(wheel.cancel(*id).is_some(), is_alive, "seed {seed}");
        }
    }

    #[test]
    fn a_wheel_does_what_a_sorted_list_does() {
        let (seeds, operations) = if cfg!(debug_assertions) {
            (20, 10_000)
        } else {
            (40, 100_000)
        };
        for seed in 0..seeds {
            random_operations(seed, operations);
        }
    }
}
