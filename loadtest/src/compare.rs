//! Two runs side by side: what changed, and whether it changed beyond noise.
//!
//! ```text
//! a.json ─┐                     turns by subject and phase
//!         ├─ file ─ pairs ─ noise ─▶ a table, warnings, a sentence
//! b.json ─┘                     figure by figure
//! ```
//! A figure is compared by the medians of its repeats; [`noise`] says whether the difference is more
//! than the repeats differ among themselves.

mod file;
mod noise;
mod table;

use std::path::Path;

use crate::measures::{ALL, Better, Figure, Group, groups, per};
use crate::outcome::Outcome;
use noise::{Change, change};

/// Two runs, compared.
pub struct Comparison {
    /// Where the conditions differ, and what else makes the figures doubtful.
    pub warnings: Vec<String>,
    /// True where the audit passed in the old run and failed in the new one.
    pub audit_broke: bool,
    /// What was measured in both.
    pub pairs: Vec<Pair>,
}

/// One subject in one phase, in both runs.
pub struct Pair {
    /// Its name.
    pub name: String,
    /// Repeats in the old run, and in the new one.
    pub repeats: (usize, usize),
    /// What both measured.
    pub rows: Vec<Row>,
}

/// One figure of a pair.
pub struct Row {
    /// Which.
    pub figure: Figure,
    /// Median of the old run.
    pub old: f64,
    /// Median of the new one.
    pub new: f64,
    /// Whether that is more than noise.
    pub change: Change,
}

/// Compares two files and prints the result; true where something got worse beyond noise.
pub fn run(old: &Path, new: &Path) -> anyhow::Result<bool> {
    let comparison = Comparison::of(&file::read(old)?, &file::read(new)?);
    print!("{}", table::text(&comparison, old, new));
    anyhow::ensure!(
        !comparison.pairs.is_empty(),
        "{} and {} have no measurement in common; compare runs of the same scenario and target",
        old.display(),
        new.display()
    );
    Ok(comparison.is_worse())
}

impl Comparison {
    /// Pairs up what both measured, and lists what they do not have in common.
    pub fn of(old: &Outcome, new: &Outcome) -> Comparison {
        let mut warnings = file::differences(old, new);
        let (old_groups, new_groups) = (groups(old), groups(new));
        let mut pairs = Vec::new();
        for group in &old_groups {
            match new_groups.iter().find(|other| is_same(group, other)) {
                Some(other) => pairs.push(Pair::of(group, other)),
                None => warnings.push(format!("{} was measured in the old run only", group.name())),
            }
        }
        for group in &new_groups {
            if !old_groups.iter().any(|other| is_same(group, other)) {
                warnings.push(format!("{} was measured in the new run only", group.name()));
            }
        }
        Comparison {
            warnings,
            audit_broke: file::has_failed(new) && !file::has_failed(old),
            pairs,
        }
    }

    /// Every row, with the name of its pair.
    pub fn rows(&self) -> impl Iterator<Item = (&Pair, &Row)> {
        self.pairs
            .iter()
            .flat_map(|pair| pair.rows.iter().map(move |row| (pair, row)))
    }

    /// True where a figure got worse beyond noise, or the audit fails that passed.
    pub fn is_worse(&self) -> bool {
        self.audit_broke || self.rows().any(|(_, row)| row.is_worse())
    }
}

impl Pair {
    fn of(old: &Group<'_>, new: &Group<'_>) -> Pair {
        let rows = ALL.iter().filter_map(|figure| {
            let change = change(&old.values(figure), &new.values(figure));
            Some(Row {
                figure: *figure,
                old: old.median(figure)?,
                new: new.median(figure)?,
                change,
            })
        });
        Pair {
            name: old.name(),
            repeats: (old.turns.len(), new.turns.len()),
            rows: rows.collect(),
        }
    }
}

impl Row {
    /// New over old; nothing where the old one is zero.
    pub fn ratio(&self) -> Option<f64> {
        per(self.new, self.old)
    }

    /// True where it changed beyond noise, for the worse.
    pub fn is_worse(&self) -> bool {
        self.change.is_change() && self.new != self.old && !self.is_to_the_good()
    }

    /// True where it changed beyond noise, for the better.
    pub fn is_better(&self) -> bool {
        self.change.is_change() && self.new != self.old && self.is_to_the_good()
    }

    fn is_to_the_good(&self) -> bool {
        (self.new > self.old) == (self.figure.better == Better::Higher)
    }
}

fn is_same(a: &Group<'_>, b: &Group<'_>) -> bool {
    a.subject == b.subject && a.phase == b.phase
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    /// The same run, so much faster or slower.
    fn scaled(repeats: usize, speed: f64) -> Outcome {
        let mut run = samples::empty();
        for repeat in 0..repeats {
            let drift = 1.0 + 0.01 * (repeat as f64 * 2.3).sin();
            run.turns.push(samples::turn("tidewheel", speed * drift));
        }
        run
    }

    fn row<'a>(comparison: &'a Comparison, name: &str) -> &'a Row {
        let found = comparison.rows().find(|(_, row)| row.figure.name == name);
        found.map(|(_, row)| row).unwrap()
    }

    #[test]
    fn a_run_is_the_same_as_itself() {
        let run = samples::beside_baseline(5);
        let comparison = Comparison::of(&run, &run);
        assert_eq!(comparison.pairs.len(), 2);
        assert!(comparison.warnings.is_empty(), "{:?}", comparison.warnings);
        assert!(
            comparison
                .rows()
                .all(|(_, row)| !row.is_worse() && !row.is_better())
        );
    }

    #[test]
    fn slower_is_worse_for_rates_and_for_times() {
        let comparison = Comparison::of(&scaled(5, 1.0), &scaled(5, 0.9));
        for name in [
            "deliveries/s",
            "server CPU per delivery",
            "latency p99",
            "connections/s",
        ] {
            assert!(row(&comparison, name).is_worse(), "{name}");
        }
        assert!(comparison.is_worse());
        let back = Comparison::of(&scaled(5, 0.9), &scaled(5, 1.0));
        assert!(row(&back, "latency p99").is_better() && !back.is_worse());
    }

    #[test]
    fn one_turn_each_cannot_tell_unless_it_is_far() {
        let near = Comparison::of(&scaled(1, 1.0), &scaled(1, 0.9));
        assert_eq!(row(&near, "deliveries/s").change, Change::Unknown);
        assert!(!near.is_worse());
        let far = Comparison::of(&scaled(1, 1.0), &scaled(1, 0.5));
        assert!(matches!(row(&far, "deliveries/s").change, Change::Far));
        assert!(far.is_worse());
    }

    #[test]
    fn what_only_one_run_measured_is_named() {
        let comparison = Comparison::of(&samples::beside_baseline(1), &samples::failed());
        let text = comparison.warnings.join("\n");
        for part in [
            "bare loop was measured in the old run only",
            "live alone was measured in the new run only",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(comparison.pairs.is_empty());
    }

    #[test]
    fn an_audit_that_fails_now_is_worse_whatever_the_figures_say() {
        let (good, mut bad) = (samples::one_turn(), samples::one_turn());
        bad.turns[0].failures.push("5 gaps in the offsets".into());
        assert!(Comparison::of(&good, &bad).is_worse());
        assert!(!Comparison::of(&bad, &good).is_worse());
    }
}
