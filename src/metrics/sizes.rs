//! Sizes as a histogram whose buckets are powers of two: what is counted for each write must be
//! cheap, and some percent more or less is not what one looks for.

/// Buckets: up to 2^0, 2^1, … 2^31, and what is larger.
const CELLS: usize = 33;

/// How large something was, each time.
#[derive(Clone, Debug)]
pub struct Sizes {
    cells: [u64; CELLS],
    sum: u64,
}

impl Sizes {
    /// Counts one size.
    pub fn record(&mut self, size: u64) {
        self.add(size, 1);
    }

    /// Counts `n` of the same size.
    pub fn add(&mut self, size: u64, n: u64) {
        if let Some(cell) = self.cells.get_mut(power_of(size).min(CELLS - 1)) {
            *cell += n;
        }
        self.sum += size * n;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// All sizes together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many were at most `2^power`, for a power up to 31.
    pub fn count_up_to(&self, power: u32) -> u64 {
        self.cells.iter().take(power as usize + 1).sum()
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &Sizes) {
        for (cell, more) in self.cells.iter_mut().zip(other.cells) {
            *cell += more;
        }
        self.sum += other.sum;
    }
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            cells: [0; CELLS],
            sum: 0,
        }
    }
}

/// The smallest power of two that is not below a size.
fn power_of(size: u64) -> usize {
    match size {
        0 => 0,
        size => (u64::BITS - (size - 1).leading_zeros()) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_counts_up_to_the_next_power_of_two() {
        let mut sizes = Sizes::default();
        for size in [
            0,
            1,
            2,
            3,
            4,
            5,
            1024,
            1025,
            1 << 31,
            (1 << 31) + 1,
            1 << 40,
        ] {
            sizes.record(size);
        }
        let cases = [(0, 2), (1, 3), (2, 5), (3, 6), (10, 7), (11, 8), (31, 9)];
        for (power, n) in cases {
            assert_eq!(sizes.count_up_to(power), n, "2^{power}");
        }
        assert_eq!(sizes.count(), 11);
        assert_eq!(sizes.sum(), 15 + 2049 + (2 << 31) + 1 + (1 << 40));
    }

    #[test]
    fn sizes_of_two_cores_add_up() {
        let mut one = Sizes::default();
        one.add(100, 3);
        let mut two = Sizes::default();
        two.record(100_000);
        two.merge(&one);
        assert_eq!(
            (two.count(), two.sum(), two.count_up_to(7)),
            (4, 100_300, 3)
        );
    }
}
