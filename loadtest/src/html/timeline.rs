//! The turns of a run on one axis of time, each after the one before.

use crate::measures::groups;
use crate::outcome::{Outcome, Sample, Turn};

/// Room between two turns, as a share of the whole.
const GAP: f64 = 0.012;

/// One turn on the axis.
#[derive(Clone, Debug)]
pub struct Span {
    /// Number of the turn, from 1.
    pub number: usize,
    /// Number of its group, which gives its colour.
    pub group: usize,
    /// What was measured.
    pub name: String,
    /// Where it begins.
    pub from_s: f64,
    /// Where it ends.
    pub to_s: f64,
    /// Its window of measurement.
    pub window: Option<(f64, f64)>,
    /// What is added to the time of its samples.
    shift_s: f64,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Timeline<'a> {
    /// Each turn that has samples.
    pub turns: Vec<(Span, &'a Turn)>,
    /// Where the last one ends.
    pub end_s: f64,
}

impl Timeline<'_> {
    /// Lays the turns out. Where their times follow on from one another they are kept; where each
    /// begins at zero again they are put one after the other.
    pub fn of(outcome: &Outcome) -> Timeline<'_> {
        let groups = groups(outcome);
        let total_s: f64 = outcome
            .turns
            .iter()
            .map(|turn| length_s(&turn.series))
            .sum();
        let mut end_s = 0.0;
        let mut turns = Vec::new();
        for (index, turn) in outcome.turns.iter().enumerate() {
            let Some((first, last)) = turn.series.first().zip(turn.series.last()) else {
                continue;
            };
            // The first sample tells of the interval before it.
            let begin_s = first.at_s - interval_s(&turn.series).min(first.at_s);
            let least_s = if turns.is_empty() {
                0.0
            } else {
                end_s + total_s * GAP
            };
            let shift_s = if begin_s >= end_s {
                0.0
            } else {
                least_s - begin_s
            };
            let (from_s, to_s) = (begin_s + shift_s, last.at_s + shift_s);
            let group = groups.iter().position(|group| group.is_of(turn));
            end_s = to_s;
            let span = Span {
                number: index + 1,
                group: group.unwrap_or(0),
                name: turn.phase.clone().unwrap_or_else(|| turn.subject.clone()),
                from_s,
                to_s,
                window: window(&turn.series).map(|(from, to)| (from + shift_s, to + shift_s)),
                shift_s,
            };
            turns.push((span, turn));
        }
        Timeline { turns, end_s }
    }

    /// One value of each sample of a turn, split where samples lack it.
    pub fn points(
        span: &Span,
        turn: &Turn,
        value: impl Fn(&Sample) -> Option<f64>,
    ) -> Vec<Vec<(f64, f64)>> {
        let mut runs: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        for sample in &turn.series {
            match value(sample).filter(|value| value.is_finite()) {
                Some(value) => {
                    if let Some(run) = runs.last_mut() {
                        run.push((sample.at_s + span.shift_s, value));
                    }
                }
                None => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }
}

/// The window within the series: from the first measured sample's interval to the last one's end.
fn window(series: &[Sample]) -> Option<(f64, f64)> {
    let first = series.iter().position(|sample| sample.is_measured)?;
    let last = series.iter().rfind(|sample| sample.is_measured)?;
    let before = first.checked_sub(1).and_then(|before| series.get(before));
    Some((before.map_or(0.0, |it| it.at_s), last.at_s))
}

fn interval_s(series: &[Sample]) -> f64 {
    match series {
        [first, second, ..] => (second.at_s - first.at_s).max(0.0),
        [only] => only.at_s,
        [] => 0.0,
    }
}

fn length_s(series: &[Sample]) -> f64 {
    let ends = series.first().zip(series.last());
    ends.map_or(0.0, |(first, last)| {
        last.at_s - first.at_s + interval_s(series)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    #[test]
    fn turns_that_each_begin_at_zero_follow_one_another() {
        let run = samples::beside_baseline(2);
        let timeline = Timeline::of(&run);
        assert_eq!(timeline.turns.len(), 4);
        for pair in timeline.turns.windows(2) {
            assert!(pair[0].0.to_s < pair[1].0.from_s);
        }
        assert_eq!(
            [0, 1, 2, 3].map(|index| timeline.turns[index].0.group),
            [0, 1, 0, 1]
        );
        let window = timeline.turns[0].0.window.unwrap();
        assert_eq!(window, (3.25, 13.25));
    }

    #[test]
    fn turns_on_one_clock_keep_their_times() {
        let mut run = samples::beside_baseline(1);
        for sample in &mut run.turns[1].series {
            sample.at_s += 20.0;
        }
        let timeline = Timeline::of(&run);
        assert_eq!(timeline.turns[1].0.from_s, 20.0);
        assert_eq!(timeline.end_s, 33.5);
    }

    #[test]
    fn a_value_that_is_missing_splits_the_line() {
        let mut run = samples::one_turn();
        for (index, sample) in run.turns[0].series.iter_mut().enumerate() {
            sample.p50_ms = (index != 20).then_some(1.0);
        }
        let timeline = Timeline::of(&run);
        let (span, turn) = &timeline.turns[0];
        let points = Timeline::points(span, turn, |sample| sample.p50_ms);
        assert_eq!(points.iter().map(Vec::len).collect::<Vec<_>>(), [20, 33]);
    }

    #[test]
    fn no_series_and_a_single_sample_make_no_trouble() {
        assert!(Timeline::of(&samples::idle()).turns.is_empty());
        let mut run = samples::one_turn();
        run.turns[0].series.truncate(1);
        let timeline = Timeline::of(&run);
        assert_eq!((timeline.turns[0].0.from_s, timeline.end_s), (0.0, 0.25));
    }
}
