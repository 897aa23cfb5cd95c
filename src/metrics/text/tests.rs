use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::metrics::exposition::Format;
use crate::metrics::lint;
use crate::metrics::{CommandType, State};

const FORMATS: [Format; 2] = [Format::Prometheus, Format::OpenMetrics];

fn render(cores: &[CoreReport], format: Format) -> String {
    let mut out = Exposition::new(format);
    write(&mut out, cores);
    out.finish()
}

fn busy() -> Metrics {
    let mut metrics = Metrics {
        timers: 12,
        ..Metrics::default()
    };
    metrics
        .connections
        .enter(Dialect::Native, State::Established);
    metrics.connections.accepted = 2;
    metrics.connections.closed.count(4101);
    metrics.connections.closed.count(4999);
    metrics.traffic.commands.add(CommandType::Message, 5);
    metrics.api.refused.count(4100);
    metrics.ledger.offer(Kind::Message, 10);
    metrics.ledger.deliver(Kind::Message, 6);
    metrics.ledger.undelivered(Kind::Message, 4101, 3);
    metrics.turns.took.record(Duration::from_micros(30));
    metrics.turns.took.record(Duration::from_millis(3));
    metrics.turns.took.record(Duration::from_secs(20));
    metrics
}

fn reports(cores: [Option<Metrics>; 2]) -> Vec<CoreReport> {
    let report = |m: Option<Metrics>| CoreReport {
        is_up: m.is_some(),
        bus_bytes: 64,
        metrics: m.map(Box::new),
    };
    cores.map(report).into()
}

#[test]
fn the_text_reads_back_as_what_was_counted() {
    let cases = [
        ("tidewheel_core_up{core=\"1\"}", 1.0),
        ("tidewheel_core_timers{core=\"0\"}", 12.0),
        ("tidewheel_core_connections{core=\"0\"}", 1.0),
        (
            "tidewheel_connections{dialect=\"native\",state=\"established\"}",
            2.0,
        ),
        (
            "tidewheel_connections{dialect=\"sse\",state=\"closing\"}",
            0.0,
        ),
        ("tidewheel_connections_accepted_total", 4.0),
        ("tidewheel_connections_closed_total{code=\"4101\"}", 2.0),
        ("tidewheel_connections_closed_total{code=\"other\"}", 2.0),
        ("tidewheel_commands_total{type=\"message\"}", 10.0),
        (
            "tidewheel_ledger_frames_total{kind=\"message\",outcome=\"offered\"}",
            20.0,
        ),
        (
            "tidewheel_ledger_frames_total{kind=\"message\",outcome=\"undelivered\",code=\"4101\"}",
            6.0,
        ),
        ("tidewheel_ledger_pending_frames{kind=\"message\"}", 2.0),
        (
            "tidewheel_turn_seconds_bucket{core=\"1\",le=\"0.000025\"}",
            0.0,
        ),
        (
            "tidewheel_turn_seconds_bucket{core=\"1\",le=\"0.00005\"}",
            1.0,
        ),
        (
            "tidewheel_turn_seconds_bucket{core=\"1\",le=\"0.005\"}",
            2.0,
        ),
        ("tidewheel_turn_seconds_bucket{core=\"1\",le=\"10.0\"}", 2.0),
        ("tidewheel_turn_seconds_bucket{core=\"1\",le=\"+Inf\"}", 3.0),
        ("tidewheel_turn_seconds_sum{core=\"1\"}", 20.00303),
        ("tidewheel_publish_to_last_write_seconds_count", 0.0),
    ];
    for format in FORMATS {
        let text = render(&reports([Some(busy()), Some(busy())]), format);
        let series = lint::check(&text, format);
        for (name, value) in cases {
            assert_eq!(series.get(name), Some(&value), "{name}");
        }
    }
}

#[test]
fn the_buckets_of_a_histogram_grow_up_to_its_count() {
    let cores = reports([Some(busy()), Some(Metrics::default())]);
    let text = render(&cores, Format::Prometheus);
    let mut last: HashMap<&str, u64> = HashMap::new();
    for line in text.lines().filter(|line| line.contains("_bucket")) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let (of, _) = name.split_once("le=").unwrap();
        let value = value.parse().unwrap();
        let before = last.insert(of, value).unwrap_or(0);
        assert!(before <= value, "{line}");
    }
    assert_eq!(last["tidewheel_turn_seconds_bucket{core=\"0\","], 3);
    assert_eq!(last.len(), 9);
}

#[test]
fn docs_metrics_md_has_every_name() {
    for format in FORMATS {
        lint::check_documented(&render(&reports([Some(busy()), None]), format));
    }
}

#[test]
fn a_core_that_never_answered_is_told_as_down_and_nothing_else() {
    let text = render(&reports([Some(busy()), None]), Format::Prometheus);
    let series = lint::check(&text, Format::Prometheus);
    assert_eq!(series["tidewheel_core_up{core=\"0\"}"], 1.0);
    assert_eq!(series["tidewheel_core_up{core=\"1\"}"], 0.0);
    assert_eq!(series["tidewheel_connections_accepted_total"], 2.0);
    // What waits for it is known without its answer.
    assert_eq!(series["tidewheel_bus_waiting_bytes{core=\"1\"}"], 64.0);
    assert_eq!(text.matches("core=\"1\"").count(), 2);
}
