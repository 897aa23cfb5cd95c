//! Something for each of many users.

use hashbrown::HashTable;

use crate::blocks::Blocks;
use crate::protocol::UserId;

/// A map by user: entries in [`Blocks`], found through a hash table of four-byte indices. The hasher
/// is seeded, because peers name users.
pub struct UserMap<V> {
    entries: Blocks<(UserId, V)>,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl<V> UserMap<V> {
    /// An empty map, without memory of its own.
    pub fn new(hasher: ahash::RandomState) -> UserMap<V> {
        UserMap {
            entries: Blocks::default(),
            index: HashTable::new(),
            hasher,
        }
    }

    /// The hasher of its keys.
    pub fn hasher(&self) -> &ahash::RandomState {
        &self.hasher
    }

    fn find(&self, user: &UserId) -> Option<u32> {
        let hash = self.hasher.hash_one(user);
        let is_same = |i: &u32| self.entries.get(*i).is_some_and(|(known, _)| known == user);
        self.index.find(hash, is_same).copied()
    }

    /// What there is for a user.
    pub fn get(&self, user: &UserId) -> Option<&V> {
        self.entries.get(self.find(user)?).map(|(_, value)| value)
    }

    /// What there is for a user, to change it.
    pub fn get_mut(&mut self, user: &UserId) -> Option<&mut V> {
        let index = self.find(user)?;
        self.entries.get_mut(index).map(|(_, value)| value)
    }

    /// Whether there is something for a user.
    pub fn contains(&self, user: &UserId) -> bool {
        self.find(user).is_some()
    }

    /// Changes what there is for a user; the default, put there now, where there was nothing.
    pub fn with<R>(&mut self, user: &UserId, change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        let index = match self.find(user) {
            Some(index) => index,
            None => {
                let index = self.entries.insert((user.clone(), V::default()));
                let UserMap {
                    entries, hasher, ..
                } = self;
                let rehash = |i: &u32| {
                    entries
                        .get(*i)
                        .map_or(0, |(known, _)| hasher.hash_one(known))
                };
                self.index
                    .insert_unique(hasher.hash_one(user), index, rehash);
                index
            }
        };
        match self.entries.get_mut(index) {
            Some((_, value)) => change(value),
            None => change(&mut V::default()),
        }
    }

    /// Takes a user out.
    pub fn remove(&mut self, user: &UserId) -> Option<V> {
        let index = self.find(user)?;
        let hash = self.hasher.hash_one(user);
        if let Ok(entry) = self.index.find_entry(hash, |i| *i == index) {
            entry.remove();
        }
        if self.index.is_empty() {
            self.index = HashTable::new();
        } else if self.index.capacity() > 1024 && self.index.len() * 4 < self.index.capacity() {
            let UserMap {
                entries, hasher, ..
            } = self;
            let rehash = |i: &u32| {
                entries
                    .get(*i)
                    .map_or(0, |(known, _)| hasher.hash_one(known))
            };
            self.index.shrink_to(0, rehash);
        }
        self.entries.remove(index).map(|(_, value)| value)
    }

    /// All users, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&UserId, &V)> {
        self.entries.iter().map(|(_, (user, value))| (user, value))
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_and_go() {
        let mut map: UserMap<usize> = UserMap::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        let users: Vec<UserId> = (0..5000)
            .map(|i| UserId::from_name(&format!("u{i}")))
            .collect();
        for (i, user) in users.iter().enumerate() {
            map.with(user, |value| *value = i);
        }
        assert!(
            users
                .iter()
                .enumerate()
                .all(|(i, user)| map.get(user) == Some(&i))
        );
        for user in users.iter().skip(1) {
            assert!(map.remove(user).is_some());
            assert!(!map.contains(user));
        }
        assert_eq!((map.len(), map.get(&users[0])), (1, Some(&0)));
        assert!(map.index.capacity() < 2048, "it shrank");
        map.remove(&users[0]);
        assert_eq!(map.index.capacity(), 0);
    }
}
