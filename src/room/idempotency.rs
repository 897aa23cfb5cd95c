//! Publishes that were accepted lately, so that a repeat is answered and not sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::protocol::UserId;
use crate::time::Instant;

/// Who published (none: the server's own API) and the id that they gave.
type Key = (Option<UserId>, Arc<str>);

/// The keys of one room.
pub struct Accepted {
    offsets: HashMap<Key, u64, ahash::RandomState>,
    order: VecDeque<(Instant, Key)>,
}

impl Accepted {
    /// An empty table.
    pub fn new(hasher: ahash::RandomState) -> Accepted {
        Accepted {
            offsets: HashMap::with_hasher(hasher),
            order: VecDeque::new(),
        }
    }

    /// The offset under which the same publish was accepted within the window.
    pub fn offset_of(&self, user: Option<&UserId>, message_id: &str) -> Option<u64> {
        if self.offsets.is_empty() {
            return None;
        }
        self.offsets
            .get(&(user.cloned(), Arc::from(message_id)))
            .copied()
    }

    /// Remembers an accepted publish; the oldest goes where there are more than `keys_max`.
    pub fn insert(
        &mut self,
        user: Option<&UserId>,
        message_id: &str,
        offset: u64,
        now: Instant,
        keys_max: usize,
    ) {
        let key: Key = (user.cloned(), Arc::from(message_id));
        self.offsets.insert(key.clone(), offset);
        self.order.push_back((now, key));
        while self.order.len() > keys_max {
            self.forget_oldest();
        }
    }

    /// Forgets what is older than the window; says when the next key will be.
    pub fn expire(&mut self, now: Instant, window: Duration) -> Option<Instant> {
        while let Some((at, _)) = self.order.front() {
            let due = *at + window;
            if due > now {
                return Some(due);
            }
            self.forget_oldest();
        }
        self.offsets.shrink_to_fit();
        self.order = VecDeque::new();
        None
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.offsets.remove(&key);
        }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Accepted {
        Accepted::new(ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_key_is_one_users_own() {
        let (ann, bob) = (UserId::from_name("ann"), UserId::from_name("bob"));
        let mut accepted = table();
        accepted.insert(Some(&ann), "m1", 7, Instant::ORIGIN, 10);
        assert_eq!(accepted.offset_of(Some(&ann), "m1"), Some(7));
        assert_eq!(accepted.offset_of(Some(&bob), "m1"), None);
        assert_eq!(accepted.offset_of(None, "m1"), None);
    }

    #[test]
    fn keys_go_by_age_and_by_number() {
        let window = Duration::from_secs(120);
        let mut accepted = table();
        for (i, id) in ["a", "b", "c"].into_iter().enumerate() {
            let at = Instant::ORIGIN + Duration::from_secs(i as u64);
            accepted.insert(None, id, i as u64, at, 2);
        }
        assert_eq!(accepted.offset_of(None, "a"), None, "only two are kept");
        let due = accepted.expire(Instant::ORIGIN + Duration::from_secs(121), window);
        assert_eq!(due, Some(Instant::ORIGIN + Duration::from_secs(122)));
        assert_eq!(accepted.offset_of(None, "c"), Some(2));
        assert_eq!(
            accepted.expire(Instant::ORIGIN + Duration::from_secs(200), window),
            None
        );
        assert!(accepted.is_empty());
    }
}
