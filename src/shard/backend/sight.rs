//! What an operator wants to see beside the metrics: the largest rooms, the slowest connections, and
//! who had to go lately.
//!
//! A query looks at a bounded number of places of both tables, and says where to go on. Evictions are
//! noted as they happen; nothing else is kept for this.

use std::collections::VecDeque;

use crate::address::ConnectionRef;
use crate::bus::{Evicted, Laggard, RoomFacts, Sight};
use crate::protocol::Code;
use crate::shard::Shard;
use crate::shard::backend::PLACES_MAX;
use crate::shard::backend::views::facts_of;
use crate::shard::connection::Phase;

/// Rooms, and connections, in one answer.
pub const TOP_MAX: u32 = 100;

/// Evictions that a core remembers.
pub const EVICTIONS_MAX: usize = 64;

/// Places in rooms that are looked at for the slowest connections.
const SUBSCRIPTIONS_MAX: usize = 16 * 1024;

/// The last evictions. Where there are too many, the oldest one of the most frequent code goes: a wave
/// of dead peers does not hide the one slow consumer.
#[derive(Default)]
pub(in crate::shard) struct Evictions {
    last: VecDeque<Evicted>,
}

impl Evictions {
    fn note(&mut self, evicted: Evicted) {
        if self.last.len() >= EVICTIONS_MAX {
            let same = |code: u16| self.last.iter().filter(|e| e.code == code).count();
            let commonest = self.last.iter().map(|e| e.code).max_by_key(|c| same(*c));
            let oldest = self.last.iter().position(|e| Some(e.code) == commonest);
            self.last.remove(oldest.unwrap_or_default());
        }
        self.last.push_back(evicted);
    }
}

/// Whether an operator wants to see who was closed with a code. A replaced connection is none: its user
/// is there. Nor is a drain, a token's or a lifetime's end.
fn is_eviction(code: u16) -> bool {
    const CODES: [Code; 7] = [
        Code::RateLimitExceeded,
        Code::UserBanned,
        Code::DisconnectedByApi,
        Code::OverCapacity,
        Code::SlowConsumerBytes,
        Code::SlowConsumerAge,
        Code::HeartbeatTimeout,
    ];
    CODES.iter().any(|known| *known as u16 == code)
}

impl Shard {
    /// A connection is about to be closed: notes it where an operator wants to see it.
    pub(in crate::shard) fn note_eviction(&mut self, index: u32, code: u16) {
        if is_eviction(code) {
            self.remember_evicted(index, code);
        }
    }

    /// The backend disconnects a connection, with whatever code it likes.
    pub(in crate::shard) fn dismiss(&mut self, connection: ConnectionRef, code: u16, reason: &str) {
        let Some(index) = self.resolve(connection) else {
            return;
        };
        if !is_eviction(code) {
            self.remember_evicted(index, code);
        }
        self.begin_close(index, code, reason);
    }

    fn remember_evicted(&mut self, index: u32, code: u16) {
        // A stranger has no name to show, and may come again and again.
        if !self.is_native(index) {
            return;
        }
        let lag_bytes = self.lag_bytes(index);
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let answers = connection.queue.as_ref().map_or(0, |q| q.answer_bytes());
        self.evictions.note(Evicted {
            unix_ms: self.now.unix_ms,
            client_id: connection.client_id,
            user: connection.user.clone(),
            code,
            lag_bytes: lag_bytes + answers as u64,
        });
    }

    /// The largest rooms and the slowest connections of a part of the tables.
    pub(super) fn tell_sight(
        &self,
        rooms_from: Option<u32>,
        connections_from: Option<u32>,
        top: u32,
    ) -> Sight {
        let top = top.min(TOP_MAX) as usize;
        let mut sight = Sight {
            evictions: self.evictions.last.iter().cloned().collect(),
            ..Sight::default()
        };
        if let Some(from) = rooms_from {
            (sight.rooms, sight.rooms_next) = self.largest_rooms(from, top);
        }
        if let Some(from) = connections_from {
            (sight.laggards, sight.connections_next) = self.slowest_connections(from, top);
        }
        sight
    }

    fn largest_rooms(&self, from: u32, top: usize) -> (Vec<RoomFacts>, Option<u32>) {
        let (homes, next) = self.homes.stretch(from, PLACES_MAX);
        let mut largest: Vec<(u64, u32)> = homes
            .map(|(place, _, home)| (home.room.connection_count(), place))
            .collect();
        keep_largest(&mut largest, top);
        let facts = largest.into_iter().filter_map(|(_, place)| {
            let (key, home) = self.homes.key(place).zip(self.homes.get(place))?;
            Some(facts_of(key, &home.room))
        });
        (facts.collect(), next)
    }

    fn slowest_connections(&self, from: u32, top: usize) -> (Vec<Laggard>, Option<u32>) {
        let end = self.generations.len() as u32;
        let mut left = SUBSCRIPTIONS_MAX;
        let mut slowest: Vec<(u64, u32)> = Vec::new();
        let mut next = from.min(end);
        let last = next.saturating_add(PLACES_MAX).min(end);
        while next < last && left > 0 {
            let index = next;
            next += 1;
            let Some(connection) = self.connections.get(index) else {
                continue;
            };
            // What is written next is no lag, nor is what a closing one does not take.
            if !connection.blocked || connection.phase != Phase::Native {
                continue;
            }
            left = left.saturating_sub(connection.subscriptions.len());
            let lag = self.lag_bytes(index);
            if lag > 0 {
                slowest.push((lag, index));
            }
        }
        keep_largest(&mut slowest, top);
        let laggards = slowest.into_iter().filter_map(|(lag, index)| {
            let connection = self.connections.get(index)?;
            let since = self.oldest_pending(index).unwrap_or(self.now.mono);
            Some(Laggard {
                client_id: connection.client_id,
                user: connection.user.clone(),
                lag_bytes: lag,
                lag_ms: self.now.mono.saturating_since(since).as_millis() as u64,
                rooms: connection.subscriptions.len() as u32,
            })
        });
        (laggards.collect(), (next < end).then_some(next))
    }
}

/// Keeps the largest, in order.
fn keep_largest(found: &mut Vec<(u64, u32)>, top: usize) {
    let larger_first = |one: &(u64, u32), other: &(u64, u32)| other.cmp(one);
    if found.len() > top && top > 0 {
        found.select_nth_unstable_by(top - 1, larger_first);
    }
    found.truncate(top);
    found.sort_unstable_by(larger_first);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ClientId, UserId};

    fn evicted(code: Code, number: u64) -> Evicted {
        Evicted {
            unix_ms: number,
            client_id: ClientId(number),
            user: UserId::Anonymous(ClientId(number)),
            code: code as u16,
            lag_bytes: 0,
        }
    }

    #[test]
    fn a_wave_of_one_kind_does_not_hide_the_others() {
        let mut evictions = Evictions::default();
        evictions.note(evicted(Code::SlowConsumerBytes, 0));
        for number in 1..1_000 {
            evictions.note(evicted(Code::HeartbeatTimeout, number));
        }
        let last = &evictions.last;
        assert_eq!(last.len(), EVICTIONS_MAX);
        assert_eq!(last[0].code, 4101);
        let rest = last.iter().skip(1).map(|e| e.unix_ms);
        assert!(
            rest.eq(937..1_000),
            "the newest of the others, oldest first"
        );
    }

    #[test]
    fn the_largest_are_kept_in_order() {
        let all = [(3, 1), (9, 2), (1, 3), (9, 4), (5, 5)];
        let expected: [(usize, &[(u64, u32)]); 4] = [
            (0, &[]),
            (1, &[(9, 4)]),
            (3, &[(9, 4), (9, 2), (5, 5)]),
            (9, &[(9, 4), (9, 2), (5, 5), (3, 1), (1, 3)]),
        ];
        for (top, kept) in expected {
            let mut found = all.to_vec();
            keep_largest(&mut found, top);
            assert_eq!(found, kept);
        }
    }
}
