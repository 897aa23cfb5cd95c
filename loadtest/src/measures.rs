//! The figures by which a turn is judged: which there are, how each is read off a [`Turn`] and shown.
//!
//! The report and `compare` take them from here, so that both speak of the same thing in the same
//! words. [`groups`] puts the repeats of one measurement together.

use crate::figures::{grouped, median};
use crate::outcome::{Outcome, Turn};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More of it.
    Higher,
    /// Less of it.
    Lower,
}

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things a second.
    PerSecond,
    /// Nanoseconds.
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// A bare number.
    Count,
}

/// One figure of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is called, everywhere.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// Its value; nothing where the turn did not measure it.
    pub of: fn(&Turn) -> Option<f64>,
}

/// Deliveries a second within the window.
pub const DELIVERIES: Figure = Figure {
    name: "deliveries/s",
    unit: Unit::PerSecond,
    better: Better::Higher,
    of: |turn| {
        let is_loaded = turn.publishes > 0 || turn.deliveries > 0;
        per(turn.deliveries as f64, turn.seconds).filter(|_| is_loaded)
    },
};
/// CPU time of the server for each delivery.
pub const SERVER_CPU: Figure = Figure {
    name: "server CPU per delivery",
    unit: Unit::Nanoseconds,
    better: Better::Lower,
    of: |turn| per(turn.server?.cpu_ns as f64, turn.deliveries as f64),
};
/// Our own CPU time for each delivery.
pub const CLIENT_CPU: Figure = Figure {
    name: "client CPU per delivery",
    unit: Unit::Nanoseconds,
    better: Better::Lower,
    of: |turn| per(turn.client.cpu_ns as f64, turn.deliveries as f64),
};
/// Median latency.
pub const P50: Figure = Figure {
    name: "latency p50",
    unit: Unit::Milliseconds,
    better: Better::Lower,
    of: |turn| timed(turn).then_some(turn.latency.p50_ms),
};
/// The latency that one message in a hundred exceeds.
pub const P99: Figure = Figure {
    name: "latency p99",
    unit: Unit::Milliseconds,
    better: Better::Lower,
    of: |turn| timed(turn).then_some(turn.latency.p99_ms),
};
/// The latency that one message in a thousand exceeds.
pub const P999: Figure = Figure {
    name: "latency p99.9",
    unit: Unit::Milliseconds,
    better: Better::Lower,
    of: |turn| timed(turn).then_some(turn.latency.p999_ms),
};
/// The longest latency.
pub const MAX: Figure = Figure {
    name: "latency max",
    unit: Unit::Milliseconds,
    better: Better::Lower,
    of: |turn| timed(turn).then_some(turn.latency.max_ms),
};
/// Connections a second, from the first connect to the last upgrade.
pub const CONNECTS: Figure = Figure {
    name: "connections/s",
    unit: Unit::PerSecond,
    better: Better::Higher,
    of: |turn| {
        let arrival = turn.arrival?;
        per(arrival.connected as f64, arrival.connect_s).filter(|rate| *rate > 0.0)
    },
};
/// CPU time of the server for each connection.
pub const CPU_PER_CONNECTION: Figure = Figure {
    name: "server CPU per connection",
    unit: Unit::Microseconds,
    better: Better::Lower,
    of: |turn| turn.arrival?.server_cpu_us_each.filter(|us| us.is_finite()),
};
/// The server's own memory for each connection.
pub const BYTES_PER_CONNECTION: Figure = Figure {
    name: "server memory per connection",
    unit: Unit::Bytes,
    better: Better::Lower,
    of: |turn| {
        turn.arrival?
            .server_bytes_each
            .filter(|bytes| bytes.is_finite())
    },
};
/// Resident memory of the server at the end.
pub const SERVER_RSS: Figure = Figure {
    name: "server memory (RSS)",
    unit: Unit::Bytes,
    better: Better::Lower,
    of: |turn| {
        turn.server
            .map(|side| side.rss_bytes as f64)
            .filter(|b| *b > 0.0)
    },
};
/// Messages in one write of the server.
pub const MESSAGES_PER_WRITE: Figure = Figure {
    name: "messages per write",
    unit: Unit::Count,
    better: Better::Higher,
    of: |turn| turn.messages_per_write.filter(|count| count.is_finite()),
};

/// All of them, in the order in which they are told.
pub const ALL: [Figure; 12] = [
    DELIVERIES,
    SERVER_CPU,
    CLIENT_CPU,
    P50,
    P99,
    P999,
    MAX,
    CONNECTS,
    CPU_PER_CONNECTION,
    BYTES_PER_CONNECTION,
    SERVER_RSS,
    MESSAGES_PER_WRITE,
];

/// Repeats of one measurement: same subject, same phase.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// What was measured.
    pub subject: &'a str,
    /// In which phase.
    pub phase: Option<&'a str>,
    /// The repeats, in the order in which they were made.
    pub turns: Vec<&'a Turn>,
}

/// The turns of a run, repeats together, in the order of their first ones.
pub fn groups(outcome: &Outcome) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for turn in &outcome.turns {
        match groups.iter_mut().find(|group| group.is_of(turn)) {
            Some(group) => group.turns.push(turn),
            None => groups.push(Group {
                subject: &turn.subject,
                phase: turn.phase.as_deref(),
                turns: vec![turn],
            }),
        }
    }
    groups
}

impl Group<'_> {
    /// True where the turn is one of these repeats.
    pub fn is_of(&self, turn: &Turn) -> bool {
        self.subject == turn.subject && self.phase == turn.phase.as_deref()
    }

    /// `tidewheel, beside stalled readers`.
    pub fn name(&self) -> String {
        match self.phase {
            Some(phase) => format!("{}, {phase}", self.subject),
            None => self.subject.to_owned(),
        }
    }

    /// A figure of every repeat that has it.
    pub fn values(&self, figure: &Figure) -> Vec<f64> {
        let values = self.turns.iter().filter_map(|turn| (figure.of)(turn));
        values.filter(|value| value.is_finite()).collect()
    }

    /// The median over the repeats; nothing where none has it.
    pub fn median(&self, figure: &Figure) -> Option<f64> {
        let values = self.values(figure);
        (!values.is_empty()).then(|| median(values))
    }
}

impl Unit {
    /// A value with its unit, in three digits or so: `1,234,567/s`, `1.86 ms`, `52.4 MB`.
    pub fn show(self, value: f64) -> String {
        let (number, unit) = self.parts(value);
        let space = if unit.is_empty() || unit.starts_with('/') {
            ""
        } else {
            " "
        };
        format!("{number}{space}{unit}")
    }

    /// Number and unit apart.
    pub fn parts(self, value: f64) -> (String, &'static str) {
        let magnitude = value.abs();
        let (scale, unit) = match self {
            Unit::PerSecond => (1.0, "/s"),
            Unit::Count => (1.0, ""),
            Unit::Nanoseconds if magnitude < 100_000.0 => (1.0, "ns"),
            Unit::Nanoseconds => (1e3, "µs"),
            Unit::Microseconds if magnitude < 100_000.0 => (1.0, "µs"),
            Unit::Microseconds => (1e3, "ms"),
            Unit::Milliseconds if magnitude > 0.0 && magnitude < 0.9995 => (1e-3, "µs"),
            Unit::Milliseconds if magnitude < 9_999.5 => (1.0, "ms"),
            Unit::Milliseconds => (1e3, "s"),
            Unit::Bytes if magnitude < 999.5 => (1.0, "B"),
            Unit::Bytes if magnitude < 999_500.0 => (1e3, "kB"),
            Unit::Bytes if magnitude < 999_500_000.0 => (1e6, "MB"),
            Unit::Bytes => (1e9, "GB"),
        };
        (digits(value / scale), unit)
    }
}

/// Three digits, or all that stand before the point; `–` for what is no number.
pub fn digits(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = match value.abs() {
        0.0 => 0,
        large if large >= 99.95 => return grouped(value),
        large if large >= 9.995 => 1,
        large if large >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// `part / whole`; nothing where that is no number.
pub fn per(part: f64, whole: f64) -> Option<f64> {
    let ratio = part / whole;
    (whole > 0.0 && ratio.is_finite()).then_some(ratio)
}

fn timed(turn: &Turn) -> bool {
    turn.latency.count > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Side;

    fn turn(subject: &str, phase: Option<&str>, deliveries: u64) -> Turn {
        Turn {
            subject: subject.into(),
            phase: phase.map(str::to_owned),
            seconds: 2.0,
            deliveries,
            server: Some(Side {
                cpu_ns: 1_000_000,
                ..Side::default()
            }),
            ..Turn::default()
        }
    }

    #[test]
    fn a_figure_that_was_not_measured_is_absent_and_never_zero() {
        let nothing = Turn::default();
        for figure in ALL {
            assert_eq!((figure.of)(&nothing), None, "{}", figure.name);
        }
        let measured = turn("a", None, 1_000);
        assert_eq!((DELIVERIES.of)(&measured), Some(500.0));
        assert_eq!((SERVER_CPU.of)(&measured), Some(1_000.0));
    }

    #[test]
    fn repeats_of_a_subject_in_a_phase_are_one_group_with_a_median() {
        let outcome = Outcome {
            turns: vec![
                turn("a", None, 100),
                turn("b", None, 400),
                turn("a", None, 300),
                turn("a", Some("later"), 900),
                turn("a", None, 200),
            ],
            ..crate::outcome_samples::empty()
        };
        let groups = groups(&outcome);
        let names: Vec<String> = groups.iter().map(Group::name).collect();
        assert_eq!(names, ["a", "b", "a, later"]);
        assert_eq!(groups[0].values(&DELIVERIES), [50.0, 150.0, 100.0]);
        assert_eq!(groups[0].median(&DELIVERIES), Some(100.0));
        assert_eq!(groups[0].median(&P50), None);
    }

    #[test]
    fn values_are_shown_in_three_digits_with_a_unit_that_suits_them() {
        let cases = [
            (Unit::PerSecond, 1_234_567.8, "1,234,568/s"),
            (Unit::Nanoseconds, 812.4, "812 ns"),
            (Unit::Nanoseconds, 250_000.0, "250 µs"),
            (Unit::Microseconds, 18.25, "18.2 µs"),
            (Unit::Milliseconds, 0.85, "850 µs"),
            (Unit::Milliseconds, 1.857, "1.86 ms"),
            (Unit::Milliseconds, 12_345.0, "12.3 s"),
            (Unit::Milliseconds, 0.0, "0 ms"),
            (Unit::Bytes, 512.0, "512 B"),
            (Unit::Bytes, 999_600.0, "1.00 MB"),
            (Unit::Bytes, -2_500.0, "-2.50 kB"),
            (Unit::Count, 0.25, "0.250"),
            (Unit::PerSecond, 1e15, "1,000,000,000,000,000/s"),
            (Unit::Count, f64::NAN, "–"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(unit.show(value), text);
        }
    }
}
