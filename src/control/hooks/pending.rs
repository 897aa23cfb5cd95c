//! Changes that wait a while, because their opposite may come: a user that is back at once was never
//! away.
//!
//! ```text
//!   user ann disconnects ──► waits 5 s ──┬─ nothing came: told
//!                                        └─ ann connects: neither is told
//! ```
//!
//! Of one room or user the changes alternate. So what waits is the opposite of what was told last,
//! and who is not in here is as was told: nothing is kept of those.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::control::hooks::event::{Event, Subject, What};

/// How many more entries than changes a line may have before those that were taken back go.
const SLACK: usize = 1_024;

/// How long changes wait.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Delays {
    /// Of those that come: a room is occupied, a user connects.
    pub arrival: Duration,
    /// Of those that go.
    pub departure: Duration,
}

#[derive(Debug)]
struct Waiting {
    is_there: bool,
    unix_ms: u64,
    /// Its entry's number in the line.
    number: u64,
}

/// Subjects in the order in which their time comes: all in one line wait equally long.
#[derive(Default, Debug)]
struct Line(VecDeque<(Instant, u64, Subject)>);

/// The changes that wait.
#[derive(Debug)]
pub(super) struct Pending {
    delays: Delays,
    /// Above this the oldest is told before its time.
    changes_max: usize,
    changes: HashMap<Subject, Waiting>,
    arrivals: Line,
    departures: Line,
    numbered: u64,
}

/// What became of a change.
#[derive(Debug)]
pub(super) enum Taken {
    /// It waits.
    Waits,
    /// It is to be told at once.
    Tell(Event),
    /// It took back what waited: neither is told.
    CameToNothing,
    /// The same waits already, which is so where something between was lost.
    Known,
}

impl Pending {
    pub(super) fn new(delays: Delays, changes_max: usize) -> Pending {
        Pending {
            delays,
            changes_max,
            changes: HashMap::new(),
            arrivals: Line::default(),
            departures: Line::default(),
            numbered: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Takes a change. With `held_back` false it does not wait.
    pub(super) fn take(
        &mut self,
        now: Instant,
        (subject, is_there): (Subject, bool),
        unix_ms: u64,
        held_back: bool,
    ) -> Taken {
        if let Some(waiting) = self.changes.get(&subject) {
            if waiting.is_there == is_there {
                return Taken::Known;
            }
            self.changes.remove(&subject);
            return Taken::CameToNothing;
        }
        let (line, delay) = match is_there {
            true => (&mut self.arrivals, self.delays.arrival),
            false => (&mut self.departures, self.delays.departure),
        };
        if delay.is_zero() || !held_back {
            return Taken::Tell(Event {
                unix_ms,
                what: What::Change { subject, is_there },
            });
        }
        let number = self.numbered;
        self.numbered += 1;
        line.0.push_back((now + delay, number, subject.clone()));
        let waiting = Waiting {
            is_there,
            unix_ms,
            number,
        };
        self.changes.insert(subject, waiting);
        if line.0.len() > 2 * self.changes.len() + SLACK {
            let changes = &self.changes;
            let is_waiting = |(_, number, subject): &(Instant, u64, Subject)| {
                changes.get(subject).is_some_and(|w| w.number == *number)
            };
            line.0.retain(is_waiting);
        }
        Taken::Waits
    }

    /// When the next change's time comes, or an entry's whose change was taken back.
    pub(super) fn due(&self) -> Option<Instant> {
        let heads = [&self.arrivals, &self.departures];
        let heads = heads.into_iter().filter_map(|line| line.0.front());
        heads.map(|(due, ..)| *due).min()
    }

    /// The next change whose time has come, or that has to go for others' sake.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Event> {
        while self.due()? <= now || self.changes.len() > self.changes_max {
            if let Some(event) = self.pop() {
                return Some(event);
            }
        }
        None
    }

    /// The next change, whether its time has come or not.
    pub(super) fn poll_early(&mut self) -> Option<Event> {
        while self.due().is_some() {
            if let Some(event) = self.pop() {
                return Some(event);
            }
        }
        None
    }

    /// Takes the entry off whose time comes first; its change, unless that was taken back.
    fn pop(&mut self) -> Option<Event> {
        let head = |line: &Line| line.0.front().map(|(due, ..)| *due);
        let line = match (head(&self.arrivals), head(&self.departures)) {
            (Some(arrival), Some(departure)) if departure < arrival => &mut self.departures,
            (Some(_), _) => &mut self.arrivals,
            (None, _) => &mut self.departures,
        };
        let (_, number, subject) = line.0.pop_front()?;
        let waiting = self.changes.get(&subject)?;
        if waiting.number != number {
            return None;
        }
        let Waiting {
            is_there, unix_ms, ..
        } = self.changes.remove(&subject)?;
        Some(Event {
            unix_ms,
            what: What::Change { subject, is_there },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hooks::event::tests::{room, user};

    const DELAYS: Delays = Delays {
        arrival: Duration::from_secs(1),
        departure: Duration::from_secs(5),
    };

    fn told(event: Option<Event>) -> Option<(usize, u64)> {
        event.map(|event| (event.what.index(), event.unix_ms))
    }

    #[test]
    fn a_change_is_told_when_its_time_is_over_and_not_where_it_was_taken_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pending = Pending::new(DELAYS, 100);
        pending.take(at(0), (user("ann"), false), 1, true);
        pending.take(at(10), (user("bob"), false), 2, true);
        pending.take(at(20), (room("a"), true), 3, true);
        let back = pending.take(at(4_000), (user("ann"), true), 4, true);
        assert!(matches!(back, Taken::CameToNothing));
        assert_eq!(told(pending.poll(at(1_019))), None);
        assert_eq!(told(pending.poll(at(1_020))), Some((3, 3)));
        // Away again: its five seconds begin anew.
        pending.take(at(4_500), (user("ann"), false), 5, true);
        assert_eq!(told(pending.poll(at(5_010))), Some((6, 2)));
        assert_eq!(told(pending.poll(at(9_499))), None);
        assert_eq!(told(pending.poll(at(9_500))), Some((6, 5)));
        assert_eq!((pending.len(), pending.due()), (0, None));
    }

    #[test]
    fn without_a_delay_everything_is_told_at_once() {
        let now = Instant::now();
        let none = Delays {
            arrival: Duration::ZERO,
            ..DELAYS
        };
        let mut pending = Pending::new(none, 100);
        for unix_ms in 0..3 {
            let taken = pending.take(now, (user("ann"), true), unix_ms, true);
            assert!(matches!(taken, Taken::Tell(event) if event.unix_ms == unix_ms));
        }
        let taken = pending.take(now, (user("ann"), false), 4, false);
        assert!(matches!(taken, Taken::Tell(_)));
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_is_told_before_its_time() {
        let now = Instant::now();
        let mut pending = Pending::new(DELAYS, 10);
        for n in 0..25 {
            pending.take(now, (user(&format!("u{n}")), false), n, true);
        }
        let early: Vec<_> = std::iter::from_fn(|| told(pending.poll(now))).collect();
        assert_eq!(early, (0..15).map(|n| (6, n)).collect::<Vec<_>>());
        assert_eq!(pending.len(), 10);
        let rest: Vec<_> = std::iter::from_fn(|| told(pending.poll_early())).collect();
        assert_eq!(rest.len(), 10);
    }

    #[test]
    fn one_that_comes_and_goes_for_ever_takes_no_memory() {
        let now = Instant::now();
        let mut pending = Pending::new(DELAYS, 10);
        for n in 0..100_000 {
            pending.take(now, (user("ann"), n % 2 == 1), n, true);
            assert!(pending.departures.0.len() <= SLACK + 4);
        }
        assert_eq!(pending.len(), 0);
        assert_eq!(told(pending.poll(now + DELAYS.departure)), None);
        assert_eq!(pending.due(), None);
    }
}
