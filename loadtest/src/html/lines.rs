//! What the charts draw: lines, legends and words, out of turns and samples.

use super::plot::Line;
use super::timeline::{Span, Timeline};
use crate::figures::median;
use crate::measures::{Unit, groups};
use crate::outcome::{Latency, Outcome, Sample, Turn};

/// Turns that are drawn with lines of full width.
pub const TURNS_WIDE_MAX: usize = 4;

/// A value of a sample; nothing where it lacks it.
pub type Value = fn(&Sample) -> Option<f64>;
/// What a style means.
pub type Legend = Vec<(String, String)>;

/// One line for each turn, in its group's colour; none where no turn has the value.
pub fn group_lines(timeline: &Timeline<'_>, value: Value) -> Vec<Line> {
    let lines = timeline
        .turns
        .iter()
        .map(|(span, turn)| line_of(span, Timeline::points(span, turn, value)));
    slimmed(lines.filter(|line| !line.runs.is_empty()).collect())
}

pub fn line_of(span: &Span, runs: Vec<Vec<(f64, f64)>>) -> Line {
    Line {
        name: format!("turn {}, {}", span.number, span.name),
        style: format!("c{}", span.group % 6),
        runs,
    }
}

/// Thin lines where there are many turns, whose curves would run together.
pub fn slimmed(mut lines: Vec<Line>) -> Vec<Line> {
    if lines.len() > TURNS_WIDE_MAX {
        lines.iter_mut().for_each(|line| line.style += " thin");
    }
    lines
}

pub fn runs(timeline: &Timeline<'_>, value: Value) -> Vec<Vec<(f64, f64)>> {
    let turns = timeline.turns.iter();
    turns
        .flat_map(|(span, turn)| Timeline::points(span, turn, value))
        .collect()
}

pub fn group_legend(outcome: &Outcome, is_shown: fn(&Turn) -> bool) -> Legend {
    let groups = groups(outcome);
    let shown = groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.turns.iter().any(|turn| is_shown(turn)));
    shown
        .map(|(number, group)| (format!("c{}", number % 6), group.name()))
        .collect()
}

pub fn turn_legend(timeline: &Timeline<'_>) -> Legend {
    let mut legend: Legend = Vec::new();
    for (span, turn) in &timeline.turns {
        let style = format!("c{}", span.group % 6);
        let name = match &turn.phase {
            Some(phase) => format!("{}, {phase}", turn.subject),
            None => turn.subject.clone(),
        };
        if !legend.iter().any(|(_, known)| *known == name) {
            legend.push((style, name));
        }
    }
    with_window(legend, timeline)
}

pub fn with_window(mut legend: Legend, timeline: &Timeline<'_>) -> Legend {
    if timeline.turns.iter().any(|(span, _)| span.window.is_some()) {
        legend.push(("window".into(), "window of measurement".into()));
    }
    legend
}

/// The median of each group within its windows, in words.
pub fn medians(timeline: &Timeline<'_>, unit: Unit, value: Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for (span, turn) in &timeline.turns {
        let has_window = span.window.is_some();
        let samples = turn
            .series
            .iter()
            .filter(|sample| sample.is_measured || !has_window);
        let middle = median(samples.filter_map(value).filter(|value| value.is_finite()));
        words.push(format!(
            "turn {}, {}: about {}",
            span.number,
            span.name,
            unit.show(middle)
        ));
    }
    words.join("; ")
}

/// When a turn had nearly all the connections it was to have, in seconds since it began. Where
/// clients drop from the beginning, all of them may be there at once only when it ends.
pub fn full_at_s(span: &Span, turn: &Turn) -> Option<f64> {
    let most = turn
        .series
        .iter()
        .map(|sample| sample.connected)
        .max()
        .filter(|most| *most > 0)?;
    let points = Timeline::points(span, turn, |sample| Some(sample.connected as f64));
    let mut points = points.into_iter().flatten();
    points
        .find(|point| point.1 >= most as f64 * 0.98)
        .map(|(at_s, _)| at_s - span.from_s)
}

/// The curve as it was recorded, or through the percentiles that are known.
pub fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    if latency.count == 0 {
        return Vec::new();
    }
    let known = [
        (0.0, latency.min_ms),
        (50.0, latency.p50_ms),
        (90.0, latency.p90_ms),
        (99.0, latency.p99_ms),
        (99.9, latency.p999_ms),
        (99.99, latency.p9999_ms),
    ];
    let points = if latency.curve.is_empty() {
        known.as_slice()
    } else {
        latency.curve.as_slice()
    };
    let highest = 100.0 * (1.0 - 1.0 / latency.count.max(2) as f64);
    // Above this there is less than one message, and a line would claim what was not seen.
    let points = points
        .iter()
        .filter(|(percentile, ms)| *percentile <= highest.min(99.9999) && ms.is_finite());
    points.copied().collect()
}

/// What stands before `end_s`, from `start` of the first value at zero, and level up to the end.
pub fn cut(points: &[(f64, f64)], start: fn(f64) -> f64, end_s: f64) -> Vec<(f64, f64)> {
    let Some((_, first)) = points.first() else {
        return Vec::new();
    };
    let mut run = vec![(0.0, start(*first))];
    run.extend(points.iter().filter(|(at_s, _)| *at_s < end_s));
    let after = points.iter().find(|(at_s, _)| *at_s >= end_s);
    if let Some((_, value)) = after.or(points.last()) {
        run.push((end_s, *value));
    }
    run
}

/// How many points of a line are higher than the one before.
pub fn rising(line: &Line) -> usize {
    let pairs = line.runs.iter().flat_map(|run| run.windows(2));
    pairs
        .filter(|pair| matches!(pair, [a, b] if b.1 > a.1))
        .count()
}

/// The least and the most from the median on: the least of all is often one lucky message.
pub fn upper_range(lines: &[Line]) -> (f64, f64) {
    let points = lines.iter().flat_map(|line| line.runs.iter().flatten());
    let upper = points.clone().filter(|point| point.0 >= 50.0);
    let (least, most) = upper.fold((f64::MAX, 0.0), |(least, most), point| {
        (f64::min(least, point.1), f64::max(most, point.1))
    });
    // A curve that ends below the median has all of its values in the lower half.
    let all = points.fold(most, |most, point| most.max(point.1));
    (least.min(all).max(1e-3), all)
}

/// Least above zero and most.
pub fn range(lines: &[Line]) -> (f64, f64) {
    let values = lines
        .iter()
        .flat_map(|line| line.runs.iter().flatten())
        .map(|point| point.1);
    values.fold((f64::MAX, 0.0), |(least, most), value| {
        let least = if value > 0.0 { least.min(value) } else { least };
        (least, f64::max(most, value))
    })
}

pub fn in_words(latency: &Latency) -> String {
    let show = |ms| Unit::Milliseconds.show(ms);
    format!(
        "p50 {}, p99 {}, p99.9 {}, max {}",
        show(latency.p50_ms),
        show(latency.p99_ms),
        show(latency.p999_ms),
        show(latency.max_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    #[test]
    fn a_curve_ends_where_there_is_less_than_one_message() {
        let mut run = samples::one_turn();
        run.turns[0].latency.count = 1_000;
        let points = curve(&run.turns[0].latency);
        assert!(points.last().unwrap().0 <= 99.9);
        run.turns[0].latency.curve.clear();
        assert_eq!(curve(&run.turns[0].latency).len(), 5);
    }

    #[test]
    fn many_turns_are_drawn_thin_and_few_are_not() {
        for (repeats, is_thin) in [(1, false), (2, false), (3, true)] {
            let run = samples::beside_baseline(repeats);
            let lines = group_lines(&Timeline::of(&run), |sample| sample.server_cores);
            assert_eq!(lines.len(), repeats * 2);
            assert!(
                lines
                    .iter()
                    .all(|line| line.style.ends_with("thin") == is_thin)
            );
        }
    }

    #[test]
    fn a_cut_line_begins_at_zero_and_is_level_to_the_end() {
        let points = [(0.25, 400.0), (0.5, 1_000.0), (2.0, 1_000.0)];
        let expected = [(0.0, 0.0), (0.25, 400.0), (0.5, 1_000.0), (0.7, 1_000.0)];
        assert_eq!(cut(&points, |_| 0.0, 0.7), expected);
        assert_eq!(cut(&points[..1], |first| first, 0.7)[0], (0.0, 400.0));
        assert!(cut(&[], |_| 0.0, 1.0).is_empty());
    }

    #[test]
    fn the_upper_range_leaves_the_quickest_out() {
        let line = |runs| Line {
            name: String::new(),
            style: String::new(),
            runs,
        };
        let whole = line(vec![vec![(0.0, 0.01), (50.0, 4.0), (99.0, 9.0)]]);
        assert_eq!(upper_range(&[whole]), (4.0, 9.0));
        let short = line(vec![vec![(0.0, 0.5), (20.0, 0.7)]]);
        assert_eq!(upper_range(&[short]), (0.7, 0.7));
    }

    #[test]
    fn the_range_knows_the_least_above_zero() {
        let line = Line {
            name: String::new(),
            style: String::new(),
            runs: vec![vec![(0.0, 0.0), (1.0, 3.0)], vec![(2.0, 7.0)]],
        };
        assert_eq!(range(&[line]), (3.0, 7.0));
    }
}
