//! Whether two sets of repeats differ by more than they scatter.
//!
//! With four repeats or more on each side: the Mann–Whitney U test, two-sided, at 5 %. It asks how
//! often the repeats, dealt out to the two sides by chance, would fall as far apart in rank as they
//! did. It assumes no shape of the scatter, which latencies and throughput do not have, and one wild
//! repeat moves one rank only. The distribution is counted out exactly, ties included; for many
//! repeats it is the normal one with the correction for ties. With 4 against 4 the ranges have to be
//! all but disjoint for 5 % (of 70 ways to deal, 2 are as far apart as that); 5 against 5 can say
//! more.
//!
//! With three on one side the ranks cannot reach 5 %; the ranges are compared instead: a change is
//! one where they do not touch, which chance alone does in 10 % of cases for 3 against 3.
//!
//! With fewer there is no telling. A ratio beyond 25 % is still called a change: a rule of thumb, as
//! turns on a quiet machine rarely differ by that much.
//!
//! Three things temper this. A difference under 2 % is never called a change: turns of one file
//! scatter less than the same thing measured an hour later. A dozen figures are looked at, so with
//! nothing changed at all about every other comparison has one that seems to. And the repeats of
//! one file share a machine's mood: what matters is worth measuring by turns.

use std::collections::BTreeMap;

use crate::figures::median;

/// The chance of a false alarm that is put up with, for each figure.
const LEVEL: f64 = 0.05;
/// Repeats on each side from which ranks can tell.
const RANKED_MIN: usize = 4;
/// Repeats on each side from which ranges can tell.
const RANGES_MIN: usize = 3;
/// Below this, a difference is not called a change.
const RATIO_LEAST: f64 = 1.02;
/// Beyond this, even single turns tell of one.
const RATIO_FAR: f64 = 1.25;
/// Repeats in all up to which the distribution is counted out.
const EXACT_MAX: usize = 60;

/// What the repeats say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Changed, by rank: how probable that is by chance.
    Ranked(f64),
    /// Changed: the ranges do not touch.
    Apart,
    /// Changed by more than 25 %, which is the only sign with so few repeats.
    Far,
    /// Within noise.
    Noise,
    /// Too few repeats to tell.
    Unknown,
}

impl Change {
    /// True where something changed.
    pub fn is_change(self) -> bool {
        matches!(self, Change::Ranked(_) | Change::Apart | Change::Far)
    }
}

/// Compares the repeats of one figure.
pub fn change(old: &[f64], new: &[f64]) -> Change {
    let (from, to) = (median(old.iter().copied()), median(new.iter().copied()));
    let ratio = how_far(from, to);
    let is_far = ratio > RATIO_FAR;
    let repeats = old.len().min(new.len());
    if repeats < RANGES_MIN {
        return if is_far { Change::Far } else { Change::Unknown };
    }
    if ratio < RATIO_LEAST {
        return Change::Noise;
    }
    if repeats < RANKED_MIN {
        return if are_apart(old, new) {
            Change::Apart
        } else {
            Change::Noise
        };
    }
    let chance = by_chance(old, new);
    if chance <= LEVEL {
        Change::Ranked(chance)
    } else {
        Change::Noise
    }
}

/// The larger over the smaller; from zero, or across it, is further than any ratio.
fn how_far(a: f64, b: f64) -> f64 {
    if a == b {
        return 1.0;
    }
    let has_ratio = a * b > 0.0;
    let (a, b) = (a.abs(), b.abs());
    if has_ratio {
        a.max(b) / a.min(b)
    } else {
        f64::INFINITY
    }
}

fn are_apart(a: &[f64], b: &[f64]) -> bool {
    let least = |values: &[f64]| values.iter().copied().fold(f64::MAX, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(f64::MIN, f64::max);
    least(a) > most(b) || least(b) > most(a)
}

/// How probable it is that ranks dealt out by chance are as far from even as these.
fn by_chance(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.sort_by(f64::total_cmp);
    // Ranks are doubled, so that those shared by ties stay whole numbers.
    let rank = |value: f64| {
        let below = all.iter().filter(|other| **other < value).count();
        let same = all.iter().filter(|other| **other == value).count();
        2 * below + same + 1
    };
    let ranks: Vec<usize> = all.iter().map(|value| rank(*value)).collect();
    let sum: usize = a.iter().map(|value| rank(*value)).sum();
    if all.len() <= EXACT_MAX {
        exact(&ranks, a.len(), sum)
    } else {
        normal(&ranks, a.len(), sum)
    }
}

/// Counts the ways to deal `count` of the ranks, by their sum.
fn exact(ranks: &[usize], count: usize, sum: usize) -> f64 {
    // For each number of ranks dealt: sum, and in how many ways.
    let mut ways: Vec<BTreeMap<usize, f64>> = vec![BTreeMap::new(); count + 1];
    if let Some(none) = ways.first_mut() {
        none.insert(0, 1.0);
    }
    for rank in ranks {
        for dealt in (1..=count).rev() {
            let fewer = ways.get(dealt - 1).cloned().unwrap_or_default();
            if let Some(with) = ways.get_mut(dealt) {
                for (sum, ways) in fewer {
                    *with.entry(sum + rank).or_default() += ways;
                }
            }
        }
    }
    let sums = ways.pop().unwrap_or_default();
    // The mean sum, times ranks.len() to stay whole.
    let middle = count * ranks.iter().sum::<usize>();
    let distance = (sum * ranks.len()).abs_diff(middle);
    let all: f64 = sums.values().sum();
    let far = sums
        .iter()
        .filter(|(sum, _)| (*sum * ranks.len()).abs_diff(middle) >= distance);
    far.map(|(_, ways)| ways).sum::<f64>() / all
}

/// The same by the normal distribution that the sum of ranks approaches.
fn normal(ranks: &[usize], count: usize, sum: usize) -> f64 {
    let (all, a) = (ranks.len() as f64, count as f64);
    let mean = ranks.iter().sum::<usize>() as f64 / all;
    let squares: f64 = ranks.iter().map(|rank| (*rank as f64 - mean).powi(2)).sum();
    let variance = a * (all - a) / (all * (all - 1.0)) * squares;
    if variance == 0.0 {
        return 1.0;
    }
    // Two units of doubled ranks are one step of the sum; half a step makes it continuous.
    let distance = ((sum as f64 - a * mean).abs() - 1.0).max(0.0);
    erfc(distance / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// The complementary error function for x ≥ 0, to within 1.5e-7 (Abramowitz and Stegun 7.1.26).
fn erfc(x: f64) -> f64 {
    const A: [f64; 5] = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ];
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    A.iter().fold(0.0, |sum, a| (sum + a) * t) * (-x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: i32, count: i32) -> Vec<f64> {
        (from..from + count)
            .map(|value| 100.0 + f64::from(value))
            .collect()
    }

    #[test]
    fn chances_are_those_of_the_published_tables() {
        // U = 0 for 4 and 4, 5 and 5; U = 2 for 5 and 5; U = 5 for 6 and 6: two-sided.
        let cases = [
            (run(0, 4), run(10, 4), 2.0 / 70.0),
            (run(0, 5), run(10, 5), 2.0 / 252.0),
            (
                vec![1.0, 2.0, 3.0, 4.0, 7.0],
                vec![5.0, 6.0, 8.0, 9.0, 10.0],
                8.0 / 252.0,
            ),
        ];
        for (a, b, chance) in cases {
            assert!((by_chance(&a, &b) - chance).abs() < 1e-12, "{a:?} {b:?}");
            assert!((by_chance(&b, &a) - chance).abs() < 1e-12, "{b:?} {a:?}");
        }
    }

    #[test]
    fn ties_share_their_ranks() {
        assert_eq!(by_chance(&[5.0; 4], &[5.0; 4]), 1.0);
        // Of 70 ways to deal four 1s and four 2s, the 2 that part them are as far apart.
        assert!((by_chance(&[1.0; 4], &[2.0; 4]) - 2.0 / 70.0).abs() < 1e-12);
    }

    #[test]
    fn many_repeats_are_judged_as_when_they_are_counted_out() {
        let a: Vec<f64> = (0..30).map(|at| f64::from(at * 37 % 61)).collect();
        let b: Vec<f64> = (0..30).map(|at| f64::from(at * 23 % 59) + 9.0).collect();
        let mut all: Vec<f64> = a.iter().chain(&b).copied().collect();
        all.sort_by(f64::total_cmp);
        let rank = |value: f64| {
            let below = all.iter().filter(|other| **other < value).count();
            2 * below + all.iter().filter(|other| **other == value).count() + 1
        };
        let ranks: Vec<usize> = all.iter().map(|value| rank(*value)).collect();
        let sum = a.iter().map(|value| rank(*value)).sum();
        let (counted, approached) = (exact(&ranks, 30, sum), normal(&ranks, 30, sum));
        assert!((0.001..0.9).contains(&counted), "{counted}");
        assert!(
            (counted - approached).abs() < 0.005,
            "{counted} {approached}"
        );
    }

    #[test]
    fn each_number_of_repeats_has_its_rule() {
        let cases = [
            (run(0, 1), run(10, 1), Change::Unknown),
            (run(0, 2), run(40, 5), Change::Far),
            (run(0, 3), run(10, 3), Change::Apart),
            (run(0, 3), run(2, 5), Change::Noise),
            (run(0, 5), run(10, 5), Change::Ranked(2.0 / 252.0)),
            (run(0, 5), run(2, 5), Change::Noise),
            // Apart, but by less than 2 %.
            (vec![100.0; 5], vec![101.0; 5], Change::Noise),
            (vec![0.0; 5], vec![0.0; 5], Change::Noise),
            (vec![0.0; 1], vec![1.0; 1], Change::Far),
            (vec![0.0; 1], vec![0.0; 1], Change::Unknown),
            (vec![-100.0; 1], vec![-101.0; 1], Change::Unknown),
            (vec![-100.0; 1], vec![101.0; 1], Change::Far),
        ];
        for (old, new, expected) in cases {
            assert_eq!(change(&old, &new), expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn noise_alone_is_called_a_change_in_one_case_of_twenty() {
        let mut seed = 7u64;
        let mut random = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            1.0 + (seed >> 40) as f64 / (1 << 24) as f64
        };
        let mut alarms = 0;
        for _ in 0..2_000 {
            let (a, b): (Vec<f64>, Vec<f64>) = (0..6).map(|_| (random(), random())).unzip();
            alarms += u32::from(change(&a, &b).is_change());
        }
        assert!((20..=110).contains(&alarms), "{alarms} of 2,000");
    }
}
