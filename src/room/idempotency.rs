//! Publishes that were accepted lately, so that a repeat is answered and not sent again.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;

use crate::protocol::{KEY_BYTES_MAX, UserId};
use crate::time::Instant;

/// An id that a publisher gave, where it stands: an entry owns no other memory.
struct Id {
    len: u8,
    bytes: [u8; KEY_BYTES_MAX],
}

impl Id {
    /// None for an id that is longer than any may be.
    fn new(id: &str) -> Option<Id> {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
        Some(Id {
            len: id.len() as u8,
            bytes,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// One accepted publish.
struct Entry {
    at: Instant,
    offset: u64,
    /// Who published; none: the server's own API.
    user: Option<UserId>,
    id: Id,
}

/// The keys of one room, in the order in which they came. A table beside them finds one by its name:
/// it holds their numbers.
pub struct Accepted {
    entries: VecDeque<Entry>,
    /// The number of the oldest entry. Numbers begin again after 2³².
    first: u32,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl Accepted {
    /// An empty table.
    pub fn new(hasher: ahash::RandomState) -> Accepted {
        Accepted {
            entries: VecDeque::new(),
            first: 0,
            index: HashTable::new(),
            hasher,
        }
    }

    fn hash(&self, user: Option<&UserId>, id: &[u8]) -> u64 {
        self.hasher.hash_one((user, id))
    }

    /// The offset under which a publish was accepted, where it is remembered.
    pub fn find(&self, user: Option<&UserId>, message_id: &str) -> Option<u64> {
        let entry = |number: u32| self.entries.get(number.wrapping_sub(self.first) as usize);
        let same = |number: &u32| {
            entry(*number).is_some_and(|entry| {
                entry.id.as_bytes() == message_id.as_bytes() && entry.user.as_ref() == user
            })
        };
        let known = self
            .index
            .find(self.hash(user, message_id.as_bytes()), same)?;
        entry(*known).map(|entry| entry.offset)
    }

    /// Remembers a publish under the offset that it will get; the oldest goes where there are more
    /// than `keys_max`. Answers the offset under which the same publish was accepted within the
    /// window, if it was, and remembers nothing then.
    pub fn insert(
        &mut self,
        user: Option<&UserId>,
        message_id: &str,
        offset: u64,
        now: Instant,
        keys_max: usize,
    ) -> Option<u64> {
        let hash = self.hash(user, message_id.as_bytes());
        let (entries, first) = (&self.entries, self.first);
        let entry = |number: u32| entries.get(number.wrapping_sub(first) as usize);
        let same = |number: &u32| {
            entry(*number).is_some_and(|entry| {
                entry.id.as_bytes() == message_id.as_bytes() && entry.user.as_ref() == user
            })
        };
        if let Some(known) = self.index.find(hash, same) {
            return entry(*known).map(|entry| entry.offset);
        }
        let number = first.wrapping_add(entries.len() as u32);
        let hasher = &self.hasher;
        let rehash = |number: &u32| {
            entry(*number).map_or(0, |entry| {
                hasher.hash_one((entry.user.as_ref(), entry.id.as_bytes()))
            })
        };
        let id = Id::new(message_id)?;
        self.index.insert_unique(hash, number, rehash);
        self.entries.push_back(Entry {
            at: now,
            offset,
            user: user.cloned(),
            id,
        });
        while self.entries.len() > keys_max {
            self.forget_oldest();
        }
        None
    }

    /// Forgets what is older than the window; says when the next key will be.
    pub fn expire(&mut self, now: Instant, window: Duration) -> Option<Instant> {
        while let Some(oldest) = self.entries.front() {
            let due = oldest.at + window;
            if due > now {
                return Some(due);
            }
            self.forget_oldest();
        }
        self.index = HashTable::new();
        self.entries = VecDeque::new();
        None
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.entries.pop_front() else {
            return;
        };
        let hash = self.hash(oldest.user.as_ref(), oldest.id.as_bytes());
        let first = self.first;
        if let Ok(entry) = self.index.find_entry(hash, |number| *number == first) {
            entry.remove();
        }
        self.first = first.wrapping_add(1);
    }

    /// Forgets the keys of publishes that came to nothing: those with an offset above `offset`, which
    /// are the newest.
    pub fn forget_after(&mut self, offset: u64) {
        while self.entries.back().is_some_and(|e| e.offset > offset) {
            let Some(newest) = self.entries.pop_back() else {
                return;
            };
            let hash = self.hash(newest.user.as_ref(), newest.id.as_bytes());
            let number = self.first.wrapping_add(self.entries.len() as u32);
            if let Ok(entry) = self.index.find_entry(hash, |known| *known == number) {
                entry.remove();
            }
        }
    }

    /// Forgets the older half, or `count_max` of it. Answers how many went.
    pub fn forget_half(&mut self, count_max: usize) -> usize {
        let count = self.entries.len().div_ceil(2).min(count_max);
        for _ in 0..count {
            self.forget_oldest();
        }
        self.entries.shrink_to_fit();
        let Accepted {
            entries,
            first,
            index,
            hasher,
        } = self;
        index.shrink_to_fit(|number| {
            let entry = entries.get(number.wrapping_sub(*first) as usize);
            entry.map_or(0, |entry| {
                hasher.hash_one((entry.user.as_ref(), entry.id.as_bytes()))
            })
        });
        count
    }

    /// Bytes of memory that the keys hold.
    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.index.allocation_size()
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Accepted {
        Accepted::new(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    fn at(second: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(second)
    }

    #[test]
    fn a_key_is_one_users_own() {
        let (ann, bob) = (UserId::from_name("ann"), UserId::from_name("bob"));
        let mut accepted = table();
        let mut insert = |user, offset| accepted.insert(user, "m1", offset, at(0), 10);
        assert_eq!(insert(Some(&ann), 7), None);
        assert_eq!(insert(Some(&bob), 8), None);
        assert_eq!(insert(None, 9), None);
        assert_eq!(insert(Some(&ann), 10), Some(7));
        assert_eq!(insert(None, 10), Some(9));
        assert_eq!(accepted.len(), 3);
    }

    #[test]
    fn keys_go_by_age_and_by_number() {
        let window = Duration::from_secs(120);
        let mut accepted = table();
        for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(accepted.insert(None, id, i as u64, at(i as u64), 2), None);
        }
        assert_eq!(accepted.len(), 2, "only two are kept");
        assert_eq!(accepted.expire(at(121), window), Some(at(122)));
        assert_eq!(accepted.insert(None, "c", 9, at(121), 2), Some(2));
        assert_eq!(accepted.expire(at(200), window), None);
        assert!(accepted.is_empty());
        assert_eq!(accepted.insert(None, "a", 9, at(200), 2), None);
    }

    #[test]
    fn keys_of_publishes_that_came_to_nothing_are_free_again() {
        let mut accepted = table();
        let ids = ["a", "b", "c", "d"];
        for (i, id) in ids.into_iter().enumerate() {
            assert_eq!(accepted.insert(None, id, i as u64 + 1, at(0), 3), None);
        }
        accepted.forget_after(2);
        assert_eq!(accepted.len(), 1, "the first went when there were four");
        assert_eq!(accepted.insert(None, "b", 9, at(1), 3), Some(2));
        assert_eq!(accepted.insert(None, "d", 3, at(1), 3), None);
        assert_eq!(accepted.insert(None, "c", 4, at(1), 3), None);
        assert_eq!(accepted.insert(None, "d", 9, at(1), 3), Some(3));
        accepted.forget_after(0);
        assert!(accepted.is_empty());
        assert_eq!(accepted.insert(None, "c", 1, at(1), 3), None);
    }

    #[test]
    fn a_key_is_found_among_thousands_after_thousands_went() {
        let mut accepted = table();
        for n in 0..10_000_u64 {
            assert_eq!(accepted.insert(None, &n.to_string(), n, at(0), 1000), None);
        }
        for n in 9_000..10_000_u64 {
            assert_eq!(
                accepted.insert(None, &n.to_string(), 0, at(0), 1000),
                Some(n)
            );
        }
        assert_eq!(accepted.insert(None, "8999", 1, at(0), 1000), None);
    }
}
