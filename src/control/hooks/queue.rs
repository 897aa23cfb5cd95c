//! Events on their way to the backend, in order, bounded in number and bytes: the oldest goes where
//! there are too many, and the next batch begins by saying how many went.

use std::collections::VecDeque;

use crate::control::hooks::event::{Event, What};

/// Bytes of events that may wait, whatever their number.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The events that wait.
#[derive(Debug)]
pub(super) struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    events_max: usize,
    /// Events that the backend was not told, and not told of.
    dropped: u64,
}

impl Queue {
    pub(super) fn new(events_max: usize) -> Queue {
        Queue {
            events: VecDeque::new(),
            bytes: 0,
            events_max,
            dropped: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }

    /// Puts an event behind the others. Answers how many had to go for it.
    pub(super) fn push(&mut self, event: Event) -> u64 {
        self.bytes += event.bytes();
        self.events.push_back(event);
        let mut gone = 0;
        while self.events.len() > self.events_max || self.bytes > BYTES_MAX {
            // The node's own events stay: there are two of them.
            let is_change = |event: &Event| matches!(event.what, What::Change { .. });
            let Some(oldest) = self.events.iter().position(is_change) else {
                break;
            };
            if let Some(event) = self.events.remove(oldest) {
                self.bytes -= event.bytes();
                gone += 1;
            }
        }
        self.dropped += gone;
        gone
    }

    /// Puts the start of the epoch first: what told it did not arrive.
    pub(super) fn begin_again(&mut self, unix_ms: u64) {
        let what = What::NodeStarted;
        let start = Event { unix_ms, what };
        self.bytes += start.bytes();
        self.events.push_front(start);
    }

    /// Takes note of events that were lost elsewhere.
    pub(super) fn lose(&mut self, count: u64) {
        self.dropped += count;
    }

    /// Whether the next batch says that events were lost.
    pub(super) fn has_losses(&self) -> bool {
        self.dropped > 0
    }

    /// What goes into the next batch: so many events at most, one more where some were dropped.
    pub(super) fn take(&mut self, events_max: usize, now_unix_ms: u64) -> Vec<Event> {
        let count = self.events.len().min(events_max);
        let mut batch: Vec<Event> = self.events.drain(..count).collect();
        self.bytes -= batch.iter().map(Event::bytes).sum::<usize>();
        if self.events.is_empty() {
            // A storm leaves no memory behind.
            self.events.shrink_to(1_024);
        }
        if self.dropped > 0 {
            let what = What::EventsDropped(std::mem::take(&mut self.dropped));
            // Behind the start of the epoch, where that was not told yet.
            let is_start = |event: &Event| matches!(event.what, What::NodeStarted);
            let place = usize::from(batch.first().is_some_and(is_start));
            let unix_ms = now_unix_ms;
            batch.insert(place, Event { unix_ms, what });
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hooks::event::tests::user;

    fn event(unix_ms: u64) -> Event {
        let (subject, is_there) = (user(&"x".repeat(255)), true);
        let what = What::Change { subject, is_there };
        Event { unix_ms, what }
    }

    #[test]
    fn the_oldest_goes_and_the_next_batch_says_so() {
        let mut queue = Queue::new(4);
        let what = What::NodeStarted;
        assert_eq!(queue.push(Event { unix_ms: 0, what }), 0);
        let gone: Vec<u64> = (1..=6).map(|n| queue.push(event(n))).collect();
        assert_eq!(gone, [0, 0, 0, 1, 1, 1]);
        queue.lose(10);
        let batch = queue.take(3, 99);
        let told = |event: &Event| match event.what {
            What::EventsDropped(count) => (2, count),
            ref what => (what.index(), event.unix_ms),
        };
        let told: Vec<_> = batch.iter().map(told).collect();
        assert_eq!(told, [(0, 0), (2, 13), (5, 4), (5, 5)]);
        assert_eq!(queue.take(3, 99).len(), 1);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_start_that_did_not_arrive_is_told_before_all_else() {
        let mut queue = Queue::new(4);
        queue.push(event(1));
        queue.lose(2);
        queue.begin_again(7);
        let batch = queue.take(9, 99);
        let told: Vec<_> = batch.iter().map(|event| event.what.index()).collect();
        assert_eq!(told, [0, 2, 5], "the start, what was lost, the event");
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn there_are_never_more_bytes_than_allowed() {
        let mut queue = Queue::new(usize::MAX);
        let each = event(0).bytes();
        let mut gone = 0;
        for n in 0..200_000 {
            gone += queue.push(event(n));
        }
        assert_eq!(queue.len(), BYTES_MAX / each);
        assert_eq!(gone, 200_000 - queue.len() as u64);
    }
}
