//! Scales and their ticks: steps of 1, 2 and 5, and no more ticks than there is room for.

use crate::figures::grouped;
use crate::measures::Unit;

/// Values beyond this are drawn at the edge.
const VALUE_MAX: f64 = 1e18;

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
    /// 90, 99, 99.9 % at equal distances.
    Percentile,
}

/// A place on an axis that is named.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// From 0, where the axis begins, to 1.
    pub position: f64,
    /// Its name.
    pub label: String,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    scale: Scale,
    /// What stands along it.
    pub ticks: Vec<Tick>,
    /// What it is counted in.
    pub title: String,
}

impl Axis {
    /// From zero to the next tick above `high`.
    pub fn from_zero(high: f64, unit: Unit, what: &str, ticks: usize) -> Axis {
        let high = clean(high).max(0.0);
        let (factor, name) = magnitude(high, unit);
        // An axis of nothing but zeros is drawn to one.
        let top = if high > 0.0 { high / factor } else { 1.0 };
        let step = step(top / ticks.max(1) as f64);
        let count = (top / step).ceil().max(1.0);
        let ticks = (0..=count as usize).map(|index| Tick {
            position: index as f64 / count,
            label: label(index as f64 * step, step),
        });
        Axis {
            low: 0.0,
            high: count * step * factor,
            scale: Scale::Linear,
            ticks: ticks.collect(),
            title: [name, what]
                .iter()
                .filter(|it| !it.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    /// From `low` to `high` exactly, in seconds.
    pub fn seconds(low: f64, high: f64, what: &str) -> Axis {
        let (low, high) = (clean(low), clean(high).max(clean(low) + 1e-3));
        let step = step((high - low) / 8.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let ticks = (first..=last).map(|index| {
            let value = index as f64 * step;
            Tick {
                position: (value - low) / (high - low),
                label: label(value, step),
            }
        });
        Axis {
            low,
            high,
            scale: Scale::Linear,
            ticks: ticks.collect(),
            title: what.to_owned(),
        }
    }

    /// Around values from `low` to `high`, each above zero, in milliseconds.
    pub fn log_ms(low: f64, high: f64) -> Axis {
        let low = clean(low).max(1e-3);
        let high = clean(high).max(low);
        let bottom = below(low);
        let mut top = above(high);
        if top / bottom < 9.9 {
            top = bottom * 10.0;
        }
        let decades = (top / bottom).log10();
        let mantissas: &[f64] = if decades <= 3.2 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let stride = (decades / 7.0).ceil().max(1.0) as i32;
        let (first, last) = (bottom.log10().floor() as i32, top.log10().ceil() as i32);
        let ticks = (first..=last)
            .filter(|exponent| exponent % stride == 0)
            .flat_map(|exponent| mantissas.iter().map(move |it| it * 10f64.powi(exponent)))
            .filter(|value| *value >= bottom * 0.999 && *value <= top * 1.001)
            .map(|value| Tick {
                position: (value / bottom).log10() / decades,
                label: label(value, value),
            });
        Axis {
            low: bottom,
            high: top,
            scale: Scale::Log,
            ticks: ticks.collect(),
            title: "ms, log scale".into(),
        }
    }

    /// Percentiles over 1/(1-p), from 0 to at least 99 %.
    pub fn percentiles(highest: f64) -> Axis {
        let nines = nines(highest).clamp(2.0, 6.0);
        let names = [
            (0.0, "0"),
            (50.0, "50"),
            (90.0, "90"),
            (99.0, "99"),
            (99.9, "99.9"),
            (99.99, "99.99"),
            (99.999, "99.999"),
            (99.9999, "99.9999"),
        ];
        let ticks = names
            .iter()
            .map(|(percentile, label)| Tick {
                position: self::nines(*percentile) / nines,
                label: (*label).to_owned(),
            })
            .filter(|tick| tick.position <= 1.001);
        Axis {
            low: 0.0,
            high: nines,
            scale: Scale::Percentile,
            ticks: ticks.collect(),
            title: "percentile, %".into(),
        }
    }

    /// Where a value stands, from 0 to 1.
    pub fn position(&self, value: f64) -> f64 {
        let value = clean(value);
        let position = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
            Scale::Percentile => nines(value) / self.high,
        };
        position.clamp(0.0, 1.0)
    }
}

/// How many nines a percentile has: 0 for 0, 1 for 90, 2 for 99.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile.clamp(0.0, 99.999_999) / 100.0).log10()
}

fn clean(value: f64) -> f64 {
    if value.is_nan() {
        0.0
    } else {
        value.clamp(-VALUE_MAX, VALUE_MAX)
    }
}

/// The least of 1, 2, 5, 10, … that is not below `rough`.
fn step(rough: f64) -> f64 {
    above(rough.max(1e-9))
}

fn above(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|it| value <= it * decade * 1.000_001);
    factor.unwrap_or(10.0) * decade
}

fn below(value: f64) -> f64 {
    let decade = 10f64.powf((value.log10() + 1e-9).floor());
    let factor = [5.0, 2.0]
        .into_iter()
        .find(|it| value >= it * decade * 0.999_999);
    factor.unwrap_or(1.0) * decade
}

/// What the numbers on an axis are multiplied with, and how that is called.
fn magnitude(high: f64, unit: Unit) -> (f64, &'static str) {
    let index = match high {
        small if small < 1e4 && unit != Unit::Bytes => 0,
        small if small < 1e3 => 0,
        thousands if thousands < 1e6 => 1,
        millions if millions < 1e9 => 2,
        _ => 3,
    };
    let names = match unit {
        Unit::Bytes => ["B", "kB", "MB", "GB"],
        Unit::Milliseconds => ["ms", "s", "thousand s", "million s"],
        _ => ["", "thousand", "million", "billion"],
    };
    (
        1_000f64.powi(index),
        names.get(index as usize).unwrap_or(&""),
    )
}

/// A number on an axis, with no more decimals than its step has.
fn label(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    if decimals == 0 {
        grouped(value)
    } else {
        format!("{value:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_go_by_ones_twos_and_fives() {
        let cases: [(f64, &[&str], &str); 5] = [
            (0.93, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"], "x"),
            (1_850.0, &["0", "500", "1,000", "1,500", "2,000"], "x"),
            (512_000.0, &["0", "200", "400", "600"], "thousand x"),
            (0.0, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"], "x"),
            (
                1e300,
                &[
                    "0",
                    "200,000,000",
                    "400,000,000",
                    "600,000,000",
                    "800,000,000",
                    "1,000,000,000",
                ],
                "billion x",
            ),
        ];
        for (high, ticks, title) in cases {
            let axis = Axis::from_zero(high, Unit::Count, "x", 5);
            assert_eq!(
                (labels(&axis).as_slice(), axis.title.as_str()),
                (ticks, title)
            );
        }
    }

    #[test]
    fn bytes_are_named_by_their_own_units() {
        let axis = Axis::from_zero(38_000_000.0, Unit::Bytes, "", 4);
        assert_eq!(
            (labels(&axis).as_slice(), axis.title.as_str()),
            (["0", "10", "20", "30", "40"].as_slice(), "MB")
        );
    }

    #[test]
    fn a_log_axis_spans_a_decade_at_least_and_thins_out_over_many() {
        assert_eq!(labels(&Axis::log_ms(2.0, 3.0)), ["2", "5", "10", "20"]);
        assert_eq!(
            labels(&Axis::log_ms(0.08, 4.5)),
            ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]
        );
        assert_eq!(
            labels(&Axis::log_ms(0.5, 90_000.0)),
            ["1", "10", "100", "1,000", "10,000", "100,000"]
        );
        assert!(Axis::log_ms(0.001, 1e18).ticks.len() <= 8);
        assert!(Axis::log_ms(0.0, f64::NAN).ticks.len() > 1);
    }

    #[test]
    fn percentiles_stand_at_equal_distances_for_each_nine() {
        let axis = Axis::percentiles(99.99);
        assert_eq!(labels(&axis), ["0", "50", "90", "99", "99.9", "99.99"]);
        for (index, percentile) in [0.0, 90.0, 99.0, 99.9, 99.99].into_iter().enumerate() {
            assert!((axis.position(percentile) - index as f64 / 4.0).abs() < 1e-9);
        }
        assert_eq!(axis.position(99.999), 1.0);
    }

    #[test]
    fn positions_stay_on_the_axis_whatever_comes() {
        let axes = [
            Axis::from_zero(5.0, Unit::Count, "", 4),
            Axis::seconds(1.0, 1.0, ""),
            Axis::log_ms(1.0, 10.0),
            Axis::percentiles(99.0),
        ];
        for axis in axes {
            for value in [0.0, -1.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(
                    (0.0..=1.0).contains(&axis.position(value)),
                    "{axis:?} {value}"
                );
            }
        }
    }

    #[test]
    fn a_time_axis_ends_where_the_run_ended() {
        let axis = Axis::seconds(0.0, 13.5, "s");
        assert_eq!(labels(&axis), ["0", "2", "4", "6", "8", "10", "12"]);
        assert_eq!(axis.position(13.5), 1.0);
    }
}
