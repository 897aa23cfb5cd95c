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

use crate::blocks::Chunks;
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
    links: Chunks<Link>,
    /// The value of the timer `links[LISTS + i]`.
    values: Chunks<T>,
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
            values: Chunks::default(),
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
        self.links.heap_bytes() + self.values.heap_bytes()
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
mod tests;
