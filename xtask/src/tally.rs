//! Counting tests by the lines in which they report themselves.

use std::fmt::{self, Display};
use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
}

impl Tally {
    /// What `line` reports: a summary of Rust's test harness (`test result: ok. 3 passed; 0
    /// failed; …`), or the plain line of the clients' tests (`3 passed, 0 failed`).
    pub fn of_line(line: &str) -> Tally {
        Tally::parse(line.trim_end()).unwrap_or_default()
    }

    fn parse(line: &str) -> Option<Tally> {
        let (counts, separator) = match line.strip_prefix("test result: ") {
            Some(rest) => (rest.split_once(". ")?.1, "; "),
            None => (line, ", "),
        };
        let (passed, rest) = counts.split_once(separator)?;
        let failed = rest.split(separator).next()?;
        Some(Tally {
            passed: passed.strip_suffix(" passed")?.parse().ok()?,
            failed: failed.strip_suffix(" failed")?.parse().ok()?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_summary_are_counted() {
        let cases = [
            (
                "test result: ok. 27 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
                27,
                0,
            ),
            (
                "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured\n",
                2,
                3,
            ),
            ("12 passed, 1 failed\n", 12, 1),
        ];
        for (line, passed, failed) in cases {
            assert_eq!(Tally::of_line(line), Tally { passed, failed }, "{line}");
        }
    }

    #[test]
    fn a_line_that_only_speaks_of_tests_counts_nothing() {
        let lines = [
            "",
            "test cli::a_test ... ok",
            "all 3 passed, none failed",
            "  note: 3 passed, 1 failed",
            "test result: 3",
        ];
        for line in lines {
            assert_eq!(Tally::of_line(line), Tally::default(), "{line}");
        }
    }

    #[test]
    fn a_tally_reads_back_as_itself() {
        let mut tally = Tally::of_line("3 passed, 1 failed");
        tally += Tally::of_line("test result: ok. 4 passed; 0 failed");
        assert_eq!(tally.to_string(), "7 passed, 1 failed");
        assert_eq!(Tally::of_line(&tally.to_string()), tally);
    }
}
