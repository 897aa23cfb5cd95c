//! Memory is short: what is given back, in which order, and how much of it in a turn.
//!
//! ```text
//!   of the budget    what is done from there on, until it is 5 points below
//!        80 %        buffers that wait for the next turn go; rooms let go of history
//!        85 %        bounds of slow readers are a quarter; keys of accepted publishes go
//!        90 %        whoever holds the most is closed with 4100
//!        95 %        new connections get 503, new rooms 4100
//! ```
//!
//! A later step waits while an earlier one still finds something. The cores know of each other only
//! how much each holds: each gives back its own part of what is too much, by what it holds itself.
//!
//! A turn looks at some thousands of rooms and connections at the most, and goes on there in the next
//! one. So nothing is sorted that has a million entries: rooms with more history than the average are
//! halved, and connections are closed that hold more than a mark, which sinks by half every few
//! milliseconds while that is not enough, and more slowly among small ones. It does so on all cores
//! alike: who holds the most anywhere goes first, to within a factor of two.

use std::time::Duration;

use crate::metrics::{Eviction, Reject};
use crate::protocol::Code;
use crate::shard::connection::Phase;
use crate::shard::memory::{Outside, input_bytes};
use crate::shard::{Shard, ShardConfig};
use crate::time::{Instant, Now};

/// Rooms that a turn looks at.
const ROOMS_MAX: usize = 1024;

/// Messages or keys that a turn lets go of: a millisecond, about.
const PIECES_MAX: usize = 16 * 1024;

/// Connections that a turn looks at.
const CONNECTIONS_MAX: usize = 4096;

/// Places in rooms that are looked at for that.
const PLACES_MAX: usize = 16 * 1024;

/// Who holds less than this is not closed for it: it would change nothing.
const DEBT_MIN: usize = 256;

/// How long the mark stays before it sinks by half, and how long a core goes on with what it may take
/// in while memory is short: the other cores have their turns meanwhile.
const STEP: Duration = Duration::from_millis(5);

/// Who holds less than this is closed only when there was no other way for a while: the mark sinks in
/// longer steps then. A message that is coming in, or an answer on its way, is often so large.
const SMALL_DEBT: usize = 64 * 1024;

/// Those longer steps.
const LONG_STEP: Duration = Duration::from_millis(100);

/// How much more a byte weighs that is held for a connection which has not said who it is.
const STRANGER_WEIGHT: usize = 8;

/// For how long a part of a message counts as coming in, in milliseconds.
const STILL_COMING_MS: u32 = 200;

/// How much a connection may go on holding that is closed for what it held.
const REST_BYTES_MAX: usize = 16 * 1024;

/// How far below its threshold a step goes, in percent of the budget.
const HYSTERESIS: usize = 5;

/// What memory costs beyond what is counted: classes of sizes, pages that are in part free. In
/// percent; `tests/memory_budget.rs` measures it.
const OVERHEAD_PERCENT: usize = 125;

/// How much a core takes in within a step while memory is short: this part of the budget.
const STEP_PART: usize = 512;

/// How near the budget is. Each step includes those before it.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pressure {
    /// Nothing has to be given back.
    #[default]
    Calm,
    /// Rooms let go of history.
    Trim,
    /// Slow readers have tighter bounds; keys of accepted publishes go.
    Tighten,
    /// Whoever holds the most is closed.
    Evict,
    /// Newcomers are refused.
    Refuse,
}

/// The steps, and where they begin, in percent of the budget.
const STEPS: [(Pressure, usize); 4] = [
    (Pressure::Trim, 80),
    (Pressure::Tighten, 85),
    (Pressure::Evict, 90),
    (Pressure::Refuse, 95),
];

impl Pressure {
    /// The level for `used` bytes, where it was `self` so far.
    fn after(self, used: usize, budget: usize) -> Pressure {
        let is_on = |(step, percent): &&(Pressure, usize)| {
            let from = if *step <= self {
                percent - HYSTERESIS
            } else {
                *percent
            };
            used >= part_of(budget, from)
        };
        let highest = STEPS.iter().filter(is_on).map(|(step, _)| *step).max();
        highest.unwrap_or_default()
    }

    /// The level as a number, 0 to 4.
    pub fn number(self) -> u64 {
        self as u64
    }
}

/// What the rest of the node holds.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Load {
    /// What the other cores have counted, in bytes.
    pub others: usize,
    /// What is charged as it is measured: sockets in the kernel.
    pub measured: usize,
    /// What is held outside of the shard on its behalf.
    pub outside: Outside,
    /// Nothing new is to come in, whatever was counted: the process is near the end of what the
    /// system allows.
    pub refuse: bool,
}

/// Where relief stands.
#[derive(Default)]
pub(super) struct Relief {
    pressure: Pressure,
    refuse: bool,
    /// What others held when this turn began.
    others: usize,
    measured: usize,
    /// What this core held when its step began, and when that was.
    began_with: usize,
    began_at: Instant,
    /// The bounds that hold now.
    pub(super) lag_bytes_max: u64,
    pub(super) answer_bytes_max: usize,
    /// The next room to look at, for its history and for its keys.
    next_room: [u32; 2],
    next_connection: u32,
    /// Who holds as much is closed.
    mark: usize,
    /// When the mark sank last.
    marked_at: Instant,
    debtors: Vec<(usize, u32)>,
}

impl Relief {
    pub(super) fn new(config: &ShardConfig) -> Relief {
        Relief {
            lag_bytes_max: config.lag_bytes_max,
            answer_bytes_max: config.answer_bytes_max,
            mark: usize::MAX,
            ..Relief::default()
        }
    }
}

fn part_of(budget: usize, percent: usize) -> usize {
    (budget as u128 * percent as u128 / 100) as usize
}

/// What counted bytes cost.
fn cost(bytes: usize) -> usize {
    bytes.saturating_add(part_of(bytes, OVERHEAD_PERCENT - 100))
}

impl Shard {
    /// How near the budget is, as of the last [`Shard::handle_pressure`].
    pub fn pressure(&self) -> Pressure {
        self.relief.pressure
    }

    /// Whether a newcomer gets no place, because memory is short.
    pub fn refuses_newcomers(&self) -> bool {
        self.relief.refuse || self.relief.pressure == Pressure::Refuse
    }

    /// Whether memory is short and so much was taken in lately that relief has to come first: nothing
    /// more should be read for some milliseconds.
    pub fn wants_relief(&self) -> bool {
        let budget = self.config.memory_budget_bytes;
        if budget == 0 {
            return false;
        }
        let held = self.memory_bytes();
        let grown = held.saturating_sub(self.relief.began_with);
        grown >= budget / STEP_PART && self.used() >= part_of(budget, 90)
    }

    /// What is held against the budget: of all cores, as far as this one knows.
    fn used(&self) -> usize {
        cost(self.memory_bytes().saturating_add(self.relief.others))
            .saturating_add(self.relief.measured)
    }

    /// Looks at what the node holds, and gives back this core's part of what is too much. Once a
    /// turn, after the flush: what is still there then is there because somebody does not take it.
    pub fn handle_pressure(&mut self, now: Now, load: Load) -> Pressure {
        self.set_now(now);
        self.memory.outside = load.outside;
        let relief = &mut self.relief;
        (relief.others, relief.measured) = (load.others, load.measured);
        relief.refuse = load.refuse;
        let budget = self.config.memory_budget_bytes;
        if budget > 0 {
            let used = self.used();
            let pressure = self.relief.pressure.after(used, budget);
            if pressure != self.relief.pressure {
                self.enter(pressure);
            }
            if pressure > Pressure::Calm {
                self.relieve(pressure);
            }
        }
        let held = self.memory_bytes();
        let relief = &mut self.relief;
        if held < relief.began_with || relief.began_at + STEP <= self.now.mono {
            (relief.began_with, relief.began_at) = (held, self.now.mono);
        }
        relief.pressure
    }

    fn enter(&mut self, pressure: Pressure) {
        // A node that keeps as much history as it may is at the first level again and again: there its
        // buffers go once, and a message finds some afterwards.
        if pressure > self.relief.pressure {
            self.release_spares();
        }
        let Shard {
            relief,
            config,
            now,
            ..
        } = self;
        relief.pressure = pressure;
        let is_tight = pressure >= Pressure::Tighten;
        let quarter = |bytes: usize| (bytes / 4).max(config.message_bytes_max.min(bytes));
        (relief.lag_bytes_max, relief.answer_bytes_max) = if is_tight {
            let lag = usize::try_from(config.lag_bytes_max).unwrap_or(usize::MAX);
            (quarter(lag) as u64, quarter(config.answer_bytes_max))
        } else {
            (config.lag_bytes_max, config.answer_bytes_max)
        };
        if pressure < Pressure::Evict {
            relief.mark = usize::MAX;
            relief.marked_at = now.mono;
            relief.debtors = Vec::new();
        }
    }

    /// Buffers that wait for the next turn go.
    fn release_spares(&mut self) {
        self.spares.release();
        self.queues.release();
        self.frames.release();
    }

    fn relieve(&mut self, pressure: Pressure) {
        if pressure >= Pressure::Tighten {
            self.release_spares();
        }
        let found_history = self.trim_history();
        let mut found = found_history;
        if pressure >= Pressure::Tighten && !found_history {
            found = self.trim_keys();
        }
        if pressure >= Pressure::Evict && (!found || pressure == Pressure::Refuse) {
            self.evict_debtors(pressure);
        }
    }

    /// How much this core should hold at most, so that all together hold `percent` of the budget.
    fn aim(&self, percent: usize) -> usize {
        let own = self.memory_bytes();
        let budget = part_of(self.config.memory_budget_bytes, percent);
        let excess = self.used().saturating_sub(budget);
        let all = own.saturating_add(self.relief.others).max(1);
        // What is too much is what it costs; counted, it is less.
        let counted = excess as u128 * 100 / OVERHEAD_PERCENT as u128;
        let part = (counted * own as u128).div_ceil(all as u128);
        own.saturating_sub(part as usize)
    }

    /// Halves the history of rooms that have more than the average. Says whether it found some, and
    /// there may be more.
    fn trim_history(&mut self) -> bool {
        let aim = self.aim(80 - HYSTERESIS);
        let average = self.memory.history() / self.homes.len().max(1);
        let mut left = PIECES_MAX;
        let mut next = self.relief.next_room[0];
        for _ in 0..ROOMS_MAX.min(self.homes.len()) {
            if left == 0 || self.memory_bytes() <= aim {
                break;
            }
            let Some((home, after)) = self.homes.cycle(next) else {
                break;
            };
            next = after;
            let trimmed = self.change_home(home, |room| {
                let is_large = room.held().history >= average && room.history_bytes() > 0;
                if is_large { room.trim_history(left) } else { 0 }
            });
            let trimmed = trimmed.unwrap_or_default();
            self.metrics.memory.history_trimmed += trimmed as u64;
            left -= trimmed;
        }
        self.relief.next_room[0] = next;
        left < PIECES_MAX && self.memory_bytes() > aim
    }

    /// The same for keys of accepted publishes.
    fn trim_keys(&mut self) -> bool {
        let aim = self.aim(85 - HYSTERESIS);
        let average = self.memory.keys() / self.homes.len().max(1);
        let mut left = PIECES_MAX;
        let mut next = self.relief.next_room[1];
        for _ in 0..ROOMS_MAX.min(self.homes.len()) {
            if left == 0 || self.memory_bytes() <= aim {
                break;
            }
            let Some((home, after)) = self.homes.cycle(next) else {
                break;
            };
            next = after;
            let forgotten = self.change_home(home, |room| {
                let keys = room.held().keys;
                if keys > 0 && keys >= average {
                    room.forget_keys(left)
                } else {
                    0
                }
            });
            let forgotten = forgotten.unwrap_or_default();
            self.metrics.memory.keys_trimmed += forgotten as u64;
            left -= forgotten;
        }
        self.relief.next_room[1] = next;
        left < PIECES_MAX && self.memory_bytes() > aim
    }

    /// Closes those who hold the most, as many as it takes: whoever holds as much as a mark that sinks
    /// by half, on all cores alike, while it is not enough.
    fn evict_debtors(&mut self, pressure: Pressure) {
        let aim = self.aim(90 - HYSTERESIS);
        if self.memory_bytes() <= aim {
            return;
        }
        let mark = self.relief.mark.min(self.debt_max());
        let mut debtors = std::mem::take(&mut self.relief.debtors);
        self.find_debtors(&mut debtors, mark, pressure);
        for (_, index) in debtors.drain(..) {
            if self.memory_bytes() <= aim {
                break;
            }
            self.evict(index);
        }
        self.relief.debtors = debtors;
        let now = self.now.mono;
        let step = if mark > SMALL_DEBT { STEP } else { LONG_STEP };
        if self.relief.marked_at + step <= now && self.memory_bytes() > aim {
            self.relief.mark = (mark / 2).max(DEBT_MIN);
            self.relief.marked_at = now;
        }
    }

    /// Those of the next connections who hold as much as `mark`, the largest first.
    fn find_debtors(&mut self, debtors: &mut Vec<(usize, u32)>, mark: usize, pressure: Pressure) {
        debtors.clear();
        let table = self.generations.len();
        let mut places = PLACES_MAX;
        for _ in 0..CONNECTIONS_MAX.min(table) {
            let index = self.relief.next_connection;
            let next = index as usize + 1;
            self.relief.next_connection = if next < table { next as u32 } else { 0 };
            let debt = self.debt(index, pressure, &mut places);
            if debt >= mark {
                debtors.push((debt, index));
            }
            if places == 0 {
                break;
            }
        }
        debtors.sort_unstable_by(|one, other| other.cmp(one));
    }

    /// About the most that a connection may hold.
    fn debt_max(&self) -> usize {
        let lag = usize::try_from(self.config.lag_bytes_max).unwrap_or(usize::MAX);
        let history = self.config.room.history.bytes_max;
        lag.saturating_add(self.config.answer_bytes_max)
            .saturating_add(history)
            .saturating_add(self.config.message_bytes_max)
    }

    /// What would be free soon if a connection were gone. What is written next to a socket that takes
    /// it is no debt.
    fn debt(&self, index: u32, pressure: Pressure, places: &mut usize) -> usize {
        let Some(connection) = self.connections.get(index) else {
            return 0;
        };
        let silent_ms = self.now_ms().wrapping_sub(connection.alive_at_ms);
        // A message that is coming in is no debt, until there is no other way.
        let comes_in = silent_ms < STILL_COMING_MS && pressure < Pressure::Refuse;
        let input = match connection.phase {
            // A stranger goes before anyone whom the server knows.
            Phase::Head | Phase::Awaiting => input_bytes(connection) * STRANGER_WEIGHT,
            _ if comes_in => 0,
            _ => input_bytes(connection),
        };
        if !connection.blocked {
            return input;
        }
        let queue = connection.queue.as_ref().map_or(0, |q| q.heap_bytes());
        let mut log = 0;
        for (id, member) in connection.subscriptions.iter().flat_map(|s| s.feeds()) {
            let feed = Self::feed_ref(&self.locals, id);
            log += feed.map_or(0, |feed| feed.held_alone_by(member));
            *places = places.saturating_sub(1);
        }
        input + queue + log
    }

    fn evict(&mut self, index: u32) {
        let Some(phase) = self.connections.get(index).map(|c| c.phase) else {
            return;
        };
        match phase {
            Phase::Awaiting | Phase::Native | Phase::Echo => {
                self.metrics.connections.evicted.count(Eviction::Memory);
                self.close_with(index, Code::OverCapacity);
                let queue = self.connections.get(index).and_then(|c| c.queue.as_ref());
                if queue.is_some_and(|queue| queue.heap_bytes() > REST_BYTES_MAX) {
                    // The close frame stands behind the rest of a frame that is not taken, and which
                    // is what this is about.
                    self.drop_connection(index, 1006);
                }
            }
            Phase::Head => {
                self.metrics.connections.evicted.count(Eviction::Memory);
                let refusal = Self::refusal_for_memory(Duration::from_secs(1));
                self.begin_close_with(index, 1000, &refusal);
            }
            // It was told why already, and does not take it.
            Phase::Closing | Phase::Lingering => self.drop_connection(index, 1006),
        }
    }

    /// A socket was accepted that there is no memory for: it is told so.
    pub fn handle_refused_for_memory(&mut self, now: Now, retry_after: Duration) -> u32 {
        let index = self.handle_accept(now);
        self.metrics.connections.rejected.count(Reject::Memory);
        self.begin_close_with(index, 1000, &Self::refusal_for_memory(retry_after));
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_five_points_below_where_it_began() {
        let cases = [
            (Pressure::Calm, 79, Pressure::Calm),
            (Pressure::Calm, 80, Pressure::Trim),
            (Pressure::Trim, 75, Pressure::Trim),
            (Pressure::Trim, 74, Pressure::Calm),
            (Pressure::Calm, 91, Pressure::Evict),
            (Pressure::Refuse, 90, Pressure::Refuse),
            (Pressure::Refuse, 89, Pressure::Evict),
            (Pressure::Evict, 81, Pressure::Tighten),
            (Pressure::Evict, 60, Pressure::Calm),
            (Pressure::Calm, 300, Pressure::Refuse),
        ];
        for (before, used, after) in cases {
            assert_eq!(before.after(used, 100), after, "{before:?} at {used}");
        }
    }

    #[test]
    fn parts_of_a_large_budget_do_not_overflow() {
        assert_eq!(part_of(usize::MAX, 100), usize::MAX);
        assert_eq!(cost(usize::MAX), usize::MAX);
        assert_eq!(cost(100), 125);
    }
}
