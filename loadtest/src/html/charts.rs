//! The six charts of a run.

use super::axis::Axis;
use super::lines::{
    Legend, TURNS_WIDE_MAX, Value, curve, cut, full_at_s, group_legend, group_lines, in_words,
    line_of, medians, range, rising, runs, slimmed, turn_legend, upper_range, with_window,
};
use super::plot::{Chart, Drawing, Line, Panel};
use super::timeline::Timeline;
use crate::figures::median;
use crate::measures::{Unit, groups};
use crate::outcome::Outcome;

const NO_SERIES: &str = "No samples over time are in this result: the run was shorter than one \
                         sampling interval, or it was made without a sampler.";
const NO_PROCESS: &str = "The server's process was not known to the harness, so nothing of it could \
                          be read (--server-pid names it).";
const TOO_QUICK: &str =
    "Everyone was in within a sample or two: the table below has the exact times.";
/// Ticks of a vertical axis in a chart of one panel, and of two.
const TICKS: usize = 5;
const TICKS_HALF: usize = 3;
/// From this ratio of the longest latency to the median on, latencies are drawn on a log scale.
const WIDE: f64 = 30.0;

/// All charts; those that have nothing to show come last.
pub fn section(outcome: &Outcome) -> String {
    let timeline = Timeline::of(outcome);
    let turns = outcome.turns.iter();
    let is_loaded = turns
        .clone()
        .any(|turn| turn.deliveries > 0 || turn.latency.count > 0);
    let mut charts = Vec::new();
    if is_loaded {
        charts.push(percentiles(outcome));
    } else {
        charts.push(Chart::Absent {
            title: "Latency and deliveries",
            why: "No message arrived in this run, so there is neither latency nor throughput to \
                  show."
                .into(),
        });
    }
    if timeline.turns.is_empty() {
        charts.push(Chart::Absent {
            title: "The run over time",
            why: NO_SERIES.into(),
        });
    } else {
        if is_loaded {
            charts.extend([latency(&timeline), throughput(&timeline)]);
        }
        charts.extend([cpu, ramp, memory].map(|chart| chart(&timeline)));
    }
    charts.sort_by_key(|chart| matches!(chart, Chart::Absent { .. }));
    let figures: String = charts.iter().map(Chart::markup).collect();
    format!("<section class=\"charts\" aria-label=\"Charts\">\n{figures}</section>\n")
}

/// Latency by percentile: a line for each turn, in its group's colour.
fn percentiles(outcome: &Outcome) -> Chart {
    const TITLE: &str = "Latency by percentile";
    let groups = groups(outcome);
    let has_repeats = groups.iter().any(|group| group.turns.len() > 1);
    let mut lines = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        for turn in &group.turns {
            let run = curve(&turn.latency);
            if !run.is_empty() {
                let thin = if has_repeats { " thin" } else { "" };
                lines.push(Line {
                    name: group.name(),
                    style: format!("c{}{thin}", number % 6),
                    runs: vec![run],
                });
            }
        }
    }
    if lines.is_empty() {
        return Chart::Absent {
            title: TITLE,
            why: "No message was timed in this run, so there is no latency to show.".into(),
        };
    }
    let points = lines.iter().flat_map(|line| line.runs.iter().flatten());
    let highest = points.map(|point| point.0).fold(99.0, f64::max);
    let (least, most) = upper_range(&lines);
    let summary: Vec<String> = groups
        .iter()
        .filter_map(|group| {
            group
                .turns
                .iter()
                .find(|turn| turn.latency.count > 0)
                .map(|turn| (group, turn))
        })
        .map(|(group, turn)| format!("{}: {}", group.name(), in_words(&turn.latency)))
        .collect();
    let y = if most / least > WIDE {
        Axis::log_ms(least / 2.0, most)
    } else {
        Axis::from_zero(most, Unit::Milliseconds, "", TICKS)
    };
    Chart::Drawn(Box::new(Drawing {
        title: TITLE,
        summary: summary.join("; "),
        x: Axis::percentiles(highest),
        x_unit: "%",
        panels: vec![Panel {
            y,
            unit: Unit::Milliseconds,
            lines,
        }],
        legend: group_legend(outcome, |turn| turn.latency.count > 0),
        spans: Vec::new(),
        note: has_repeats.then(|| "One line for each repeat.".into()),
    }))
}

fn latency(timeline: &Timeline<'_>) -> Chart {
    const TITLE: &str = "Latency over time";
    let metrics: [(&str, &str, Value); 3] = [
        ("max", "c4 thin", |sample| sample.max_ms),
        ("p99", "c1", |sample| sample.p99_ms),
        ("p50", "c0", |sample| sample.p50_ms),
    ];
    let lines: Vec<Line> = metrics
        .iter()
        .map(|(name, style, value)| Line {
            name: (*name).into(),
            style: if timeline.turns.len() > TURNS_WIDE_MAX {
                format!("{style} thin")
            } else {
                (*style).into()
            },
            runs: runs(timeline, *value),
        })
        .filter(|line| !line.runs.is_empty())
        .collect();
    if lines.is_empty() {
        let delivered = timeline.turns.iter().any(|(_, turn)| turn.deliveries > 0);
        let why = match (timeline.turns.is_empty(), delivered) {
            (true, _) => NO_SERIES,
            (_, true) => "The samples of this run carry no latencies, only counts.",
            _ => "No message was delivered while the run was sampled.",
        };
        return Chart::Absent {
            title: TITLE,
            why: why.into(),
        };
    }
    let (least, most) = range(&lines);
    let legend = lines
        .iter()
        .rev()
        .map(|line| (line.style.clone(), line.name.clone()));
    let legend = with_window(legend.collect(), timeline);
    let summary = lines.iter().rev().map(|line| {
        let values = line.runs.iter().flatten().map(|point| point.1);
        format!(
            "{} about {}",
            line.name,
            Unit::Milliseconds.show(median(values))
        )
    });
    let summary = summary.collect::<Vec<_>>().join(", ");
    over_time(
        TITLE,
        timeline,
        vec![Panel {
            y: Axis::log_ms(least, most),
            unit: Unit::Milliseconds,
            lines,
        }],
        legend,
        summary,
    )
}

fn throughput(timeline: &Timeline<'_>) -> Chart {
    const TITLE: &str = "Deliveries a second over time";
    let lines = group_lines(timeline, |sample| Some(sample.deliveries_per_s));
    let (_, most) = range(&lines);
    if most <= 0.0 {
        let why = if timeline.turns.is_empty() {
            NO_SERIES
        } else {
            "No message was delivered while the run was sampled."
        };
        return Chart::Absent {
            title: TITLE,
            why: why.into(),
        };
    }
    let panel = Panel {
        y: Axis::from_zero(most, Unit::PerSecond, "deliveries/s", TICKS),
        unit: Unit::PerSecond,
        lines,
    };
    let summary = medians(timeline, Unit::PerSecond, |sample| {
        Some(sample.deliveries_per_s)
    });
    over_time(TITLE, timeline, vec![panel], turn_legend(timeline), summary)
}

fn cpu(timeline: &Timeline<'_>) -> Chart {
    const TITLE: &str = "Server CPU over time";
    let lines = group_lines(timeline, |sample| sample.server_cores);
    if lines.is_empty() {
        let why = if timeline.turns.is_empty() {
            NO_SERIES
        } else {
            NO_PROCESS
        };
        return Chart::Absent {
            title: TITLE,
            why: why.into(),
        };
    }
    let (_, most) = range(&lines);
    let panel = Panel {
        y: Axis::from_zero(most, Unit::Count, "cores", TICKS),
        unit: Unit::Count,
        lines,
    };
    let summary = medians(timeline, Unit::Count, |sample| sample.server_cores);
    over_time(TITLE, timeline, vec![panel], turn_legend(timeline), summary)
}

/// How everyone got in: only the beginning of each turn, each from its own zero.
fn ramp(timeline: &Timeline<'_>) -> Chart {
    const TITLE: &str = "Connections while everyone gets in";
    let reach_s = timeline
        .turns
        .iter()
        .filter_map(|(span, turn)| full_at_s(span, turn))
        .fold(0.0, f64::max);
    if reach_s <= 0.0 {
        let why = if timeline.turns.is_empty() {
            NO_SERIES
        } else {
            "No sample of this run saw a connection being opened."
        };
        return Chart::Absent {
            title: TITLE,
            why: why.into(),
        };
    }
    // A little of the plateau, so that it is seen to be one.
    let end_s = reach_s * 1.25;
    let lines = |value: Value, start: fn(f64) -> f64| -> Vec<Line> {
        let lines = timeline.turns.iter().map(|(span, turn)| {
            let points: Vec<(f64, f64)> = Timeline::points(span, turn, value)
                .into_iter()
                .flatten()
                .map(|(at_s, value)| (at_s - span.from_s, value))
                .collect();
            line_of(span, vec![cut(&points, start, end_s)])
        });
        slimmed(lines.collect())
    };
    let connected = lines(|sample| Some(sample.connected as f64), |_| 0.0);
    let rate = lines(|sample| Some(sample.connects_per_s), |first| first);
    let rising = connected.iter().map(rising).min().unwrap_or(0);
    let (most, fastest) = (range(&connected).1, range(&rate).1);
    let panels = vec![
        Panel {
            y: Axis::from_zero(most, Unit::Count, "connected", TICKS_HALF),
            unit: Unit::Count,
            lines: connected,
        },
        Panel {
            y: Axis::from_zero(fastest, Unit::PerSecond, "connections opened/s", TICKS_HALF),
            unit: Unit::PerSecond,
            lines: rate,
        },
    ];
    Chart::Drawn(Box::new(Drawing {
        title: TITLE,
        summary: format!(
            "{} connected within {reach_s:.2} s, at most {} a second",
            Unit::Count.show(most),
            Unit::Count.show(fastest)
        ),
        x: Axis::seconds(0.0, end_s, "seconds since the first connect"),
        x_unit: "s",
        panels,
        legend: turn_legend(timeline)
            .into_iter()
            .filter(|(style, _)| style != "window")
            .collect(),
        spans: Vec::new(),
        note: (rising < 3).then(|| TOO_QUICK.into()),
    }))
}

fn memory(timeline: &Timeline<'_>) -> Chart {
    const TITLE: &str = "Memory over time";
    let rss = group_lines(timeline, |sample| {
        sample.server_rss_bytes.map(|bytes| bytes as f64)
    });
    let buffers = group_lines(timeline, |sample| Some(sample.tcp_buffer_bytes as f64));
    if buffers.is_empty() {
        return Chart::Absent {
            title: TITLE,
            why: NO_SERIES.into(),
        };
    }
    let has_rss = !rss.is_empty();
    let mut panels = Vec::new();
    let mut summary = Vec::new();
    for (lines, what, name) in [
        (rss, "of the server (RSS)", "server"),
        (buffers, "in TCP buffers, all processes", "TCP buffers"),
    ] {
        if lines.is_empty() {
            continue;
        }
        let most = range(&lines).1;
        summary.push(format!("{name} up to {}", Unit::Bytes.show(most)));
        let ticks = if has_rss { TICKS_HALF } else { TICKS };
        panels.push(Panel {
            y: Axis::from_zero(most, Unit::Bytes, what, ticks),
            unit: Unit::Bytes,
            lines,
        });
    }
    let chart = over_time(
        TITLE,
        timeline,
        panels,
        turn_legend(timeline),
        summary.join(", "),
    );
    match chart {
        Chart::Drawn(mut drawing) if !has_rss => {
            drawing.note = Some(NO_PROCESS.into());
            Chart::Drawn(drawing)
        }
        chart => chart,
    }
}

fn over_time(
    title: &'static str,
    timeline: &Timeline<'_>,
    panels: Vec<Panel>,
    legend: Legend,
    summary: String,
) -> Chart {
    // A run that begins shortly after its clock is drawn from zero.
    let from_s = timeline.turns.first().map_or(0.0, |(span, _)| span.from_s);
    let from_s = if from_s < timeline.end_s * 0.2 {
        0.0
    } else {
        from_s
    };
    let has_turns = timeline.turns.len() > 1;
    let x = if has_turns {
        "seconds, one turn after another"
    } else {
        "seconds since the run began"
    };
    Chart::Drawn(Box::new(Drawing {
        title,
        summary,
        x: Axis::seconds(from_s, timeline.end_s, x),
        x_unit: "s",
        panels,
        legend,
        spans: timeline
            .turns
            .iter()
            .map(|(span, _)| span.clone())
            .collect(),
        note: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    fn why(chart: &Chart) -> &str {
        match chart {
            Chart::Absent { why, .. } => why,
            Chart::Drawn(_) => panic!("it is drawn"),
        }
    }

    fn drawing(chart: Chart) -> Box<Drawing> {
        match chart {
            Chart::Drawn(drawing) => drawing,
            Chart::Absent { why, .. } => panic!("{why}"),
        }
    }

    #[test]
    fn what_is_missing_is_said_and_not_drawn_empty() {
        let idle = samples::idle();
        let timeline = Timeline::of(&idle);
        assert!(why(&percentiles(&idle)).contains("No message was timed"));
        for chart in [latency, throughput, cpu, ramp, memory] {
            assert_eq!(why(&chart(&timeline)), NO_SERIES);
        }
        let mut unknown = samples::one_turn();
        for sample in &mut unknown.turns[0].series {
            (sample.server_cores, sample.server_rss_bytes) = (None, None);
            (sample.p50_ms, sample.p99_ms, sample.max_ms) = (None, None, None);
        }
        let timeline = Timeline::of(&unknown);
        assert_eq!(why(&cpu(&timeline)), NO_PROCESS);
        assert!(why(&latency(&timeline)).contains("no latencies"));
        let memory = drawing(memory(&timeline));
        assert_eq!(
            (memory.panels.len(), memory.note.as_deref()),
            (1, Some(NO_PROCESS))
        );
    }

    #[test]
    fn repeats_share_a_colour_and_subjects_do_not() {
        let run = samples::beside_baseline(3);
        let drawing = drawing(percentiles(&run));
        let styles: Vec<&str> = drawing.panels[0]
            .lines
            .iter()
            .map(|line| line.style.as_str())
            .collect();
        assert_eq!(
            styles,
            [
                "c0 thin", "c0 thin", "c0 thin", "c1 thin", "c1 thin", "c1 thin"
            ]
        );
        assert_eq!(drawing.legend.len(), 2);
    }

    #[test]
    fn the_ramp_ends_soon_after_everyone_is_in() {
        let run = samples::one_turn();
        let drawing = drawing(ramp(&Timeline::of(&run)));
        assert!(
            drawing.summary.contains("1,000 connected within 1.25 s"),
            "{}",
            drawing.summary
        );
        assert!(drawing.x.position(1.5) < 1.0 && drawing.x.position(1.6) == 1.0);
    }
}
