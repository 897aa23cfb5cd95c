//! Tables that grow by blocks.
//!
//! A plain slab or vector doubles when it is full: at the worst it is half empty, and what it
//! outgrew lies about in the allocator. With 100,000 small entries that is most of what they cost.
//! Here memory follows the number of entries: [`Blocks`] is a slab, [`Chunks`] a vector.

use std::ops::{Index, IndexMut};

use slab::Slab;

/// Entries in a block.
const BLOCK: usize = 256;

/// A slab in blocks. Indices are dense, and given again once they are free, the lowest block first.
pub struct Blocks<T> {
    blocks: Vec<Slab<T>>,
    len: usize,
    /// No block before this one has a free place.
    first_free: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Blocks {
            blocks: Vec::new(),
            len: 0,
            first_free: 0,
        }
    }
}

impl<T> Blocks<T> {
    /// The index that the next entry gets.
    pub fn next_index(&mut self) -> u32 {
        while self
            .blocks
            .get(self.first_free)
            .is_some_and(|block| block.len() >= BLOCK)
        {
            self.first_free += 1;
        }
        let place = self.blocks.get(self.first_free).map_or(0, Slab::vacant_key);
        (self.first_free * BLOCK + place) as u32
    }

    /// Puts an entry at [`Blocks::next_index`], and answers that index.
    pub fn insert(&mut self, entry: T) -> u32 {
        let index = self.next_index();
        if self.blocks.len() == self.first_free {
            // The first block starts small: most tables of users stay so.
            let first = if self.blocks.is_empty() { 0 } else { BLOCK };
            self.blocks.push(Slab::with_capacity(first));
        }
        if let Some(block) = self.blocks.get_mut(self.first_free) {
            block.insert(entry);
            self.len += 1;
        }
        index
    }

    /// The entry at an index.
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.blocks.get(index / BLOCK)?.get(index % BLOCK)
    }

    /// The entry at an index, to change it.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let index = index as usize;
        self.blocks.get_mut(index / BLOCK)?.get_mut(index % BLOCK)
    }

    /// Takes an entry out; a block that is empty then gives its memory back.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (number, place) = (index as usize / BLOCK, index as usize % BLOCK);
        let block = self.blocks.get_mut(number)?;
        let entry = block.try_remove(place)?;
        if block.is_empty() {
            *block = Slab::new();
        }
        self.len -= 1;
        if self.len == 0 {
            self.blocks = Vec::new();
        }
        self.first_free = self.first_free.min(number);
        Some(entry)
    }

    /// Whether there is an entry at an index.
    pub fn contains(&self, index: u32) -> bool {
        self.get(index).is_some()
    }

    /// All entries with their indices, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.blocks.iter().enumerate().flat_map(|(number, block)| {
            block
                .iter()
                .map(move |(place, entry)| ((number * BLOCK + place) as u32, entry))
        })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Entries in a chunk.
const CHUNK: usize = 1024;

/// A vector in chunks: it only grows, and what is in it stays where it is.
pub struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Chunks {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Chunks<T> {
    /// Appends an entry.
    pub fn push(&mut self, entry: T) {
        if self.len == self.chunks.len() * CHUNK {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(entry);
            self.len += 1;
        }
    }

    /// The entry at an index.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that it holds.
    pub fn heap_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>()
    }
}

impl<T> Index<usize> for Chunks<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Chunks<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> FromIterator<T> for Chunks<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut chunks = Chunks::default();
        entries.into_iter().for_each(|entry| chunks.push(entry));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_given_again() {
        let mut table = Blocks::default();
        for i in 0..3 * BLOCK as u32 {
            assert_eq!(table.next_index(), i);
            assert_eq!(table.insert(i), i);
        }
        assert_eq!(table.len(), 3 * BLOCK);
        for i in (0..2 * BLOCK as u32).chain([2 * BLOCK as u32 + 7]) {
            assert_eq!(table.remove(i), Some(i));
            assert_eq!(table.remove(i), None);
        }
        assert_eq!(table.insert(1), 0);
        assert_eq!(table.iter().count(), table.len());
        assert!(table.contains(2 * BLOCK as u32) && !table.contains(5));
    }
}
