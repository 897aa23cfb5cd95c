//! Made-up outcomes of several shapes, for the tests of everything that reads one.

use std::f64::consts::PI;

use crate::audit::Audit;
use crate::outcome::{
    Arrival, Kernel, Latency, LedgerLine, Machine, Outcome, Sample, Side, Turn, VERSION,
};

/// An outcome without a single turn.
pub fn empty() -> Outcome {
    Outcome {
        version: VERSION,
        scenario: "fan-out".into(),
        about: "One message to every receiver of a room.\nEach receiver checks every offset.\n\
                The bare loop sends the same bytes with nothing around it."
            .into(),
        command: "tidewheel-load fan-out --receivers 1000 --in-flight 8 --against-baseline".into(),
        began_unix_ms: 1_790_000_000_000,
        machine: Machine {
            processor: "Intel(R) Xeon(R) Processor".into(),
            cores: 2,
            memory_bytes: 25_276_000_000,
            kernel: "Linux 6.1.0".into(),
        },
        settings: [
            ("receivers", serde_json::json!(1000)),
            ("in-flight", serde_json::json!(8)),
            ("duration", serde_json::json!("10s")),
            ("server-bin", serde_json::json!("target/release/tidewheel")),
            ("against-baseline", serde_json::json!(true)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        turns: Vec::new(),
        failures: Vec::new(),
    }
}

/// A turn in full: `speed` 1.0 is some 500,000 deliveries a second.
pub fn turn(subject: &str, speed: f64) -> Turn {
    let deliveries = (5_000_000.0 * speed) as u64;
    Turn {
        subject: subject.into(),
        seconds: 10.0,
        connections: 1_000,
        rooms: 1,
        arrival: Some(arrival(speed)),
        publishes: deliveries / 1_000,
        deliveries,
        bytes: deliveries * 239,
        frame_bytes: 239,
        latency: latency(2.0 / speed, deliveries),
        server: Some(side(1_700.0 / speed, deliveries)),
        client: side(650.0, deliveries),
        kernel: Kernel {
            tcp_sockets: 2_004,
            tcp_buffer_bytes: 4_300_000,
            slab_bytes: 91_000_000,
        },
        audit: Audit {
            receivers: 1_000,
            delivered: deliveries + 900_000,
            ..Audit::default()
        },
        ledger: ledger(deliveries),
        messages_per_write: Some(7.6),
        series: series(speed),
        ..Turn::default()
    }
}

/// A server and a bare loop by turns.
pub fn beside_baseline(repeats: usize) -> Outcome {
    let mut outcome = empty();
    for repeat in 0..repeats {
        let drift = 1.0 + 0.015 * (repeat as f64 * 2.1).sin();
        outcome.turns.push(turn("tidewheel", drift));
        outcome.turns.push(turn("bare loop", drift * 1.12));
    }
    outcome
}

/// One turn of the server alone.
pub fn one_turn() -> Outcome {
    Outcome {
        turns: vec![turn("tidewheel", 1.0)],
        ..empty()
    }
}

/// Connections alone: nothing published, no time series.
pub fn idle() -> Outcome {
    let audit = Audit {
        receivers: 30_000,
        ..Audit::default()
    };
    let idle = Turn {
        connections: 30_000,
        publishes: 0,
        deliveries: 0,
        bytes: 0,
        frame_bytes: 0,
        latency: Latency::default(),
        messages_per_write: None,
        series: Vec::new(),
        ledger: Vec::new(),
        audit,
        ..turn("tidewheel", 1.0)
    };
    Outcome {
        scenario: "idle".into(),
        turns: vec![idle],
        ..empty()
    }
}

/// Two phases, times, counts, and an audit that failed.
pub fn failed() -> Outcome {
    let failures = vec![
        "5 gaps in the offsets".to_owned(),
        "1 protocol faults".into(),
    ];
    let mut beside = turn("tidewheel", 0.9);
    beside.phase = Some("beside stalled readers".into());
    beside.audit.gaps = 5;
    beside.audit.missing_in_gaps = 12;
    beside.audit.closes = [(4101, 2_000)].into();
    beside.audit.faults = 1;
    beside.audit.first_fault = Some("a message before room_joined".into());
    beside.times.insert("recovery".into(), latency(12.0, 400));
    beside.counts.insert("reconnects".into(), 400);
    beside.failures.clone_from(&failures);
    let mut alone = turn("tidewheel", 1.0);
    alone.phase = Some("live alone".into());
    Outcome {
        scenario: "stall".into(),
        turns: vec![alone, beside],
        failures,
        ..empty()
    }
}

fn arrival(speed: f64) -> Arrival {
    Arrival {
        connected: 1_000,
        refused: 0,
        connect_s: 0.9 / speed,
        join_s: 1.1 / speed,
        server_cpu_us_each: Some(21.5 / speed),
        server_bytes_each: Some(512.0),
        kernel_bytes_each: Some(7_400.0),
    }
}

fn side(ns_each: f64, deliveries: u64) -> Side {
    Side {
        cpu_ns: (ns_each * deliveries as f64) as u64,
        switches_voluntary: 12_345,
        switches_involuntary: 678,
        rss_bytes: 38_000_000,
        rss_anon_bytes: 21_000_000,
    }
}

/// A long-tailed curve around a median.
fn latency(p50_ms: f64, count: u64) -> Latency {
    let at =
        |percentile: f64| p50_ms * (0.55 + 0.65 * (1.0 / (1.0 - percentile / 100.0)).log2() * 0.7);
    let steps = (0..=130).map(|step| 100.0 * (1.0 - 10f64.powf(-f64::from(step) / 30.0)));
    Latency {
        count,
        min_ms: at(0.0),
        mean_ms: p50_ms * 1.1,
        p50_ms: at(50.0),
        p90_ms: at(90.0),
        p99_ms: at(99.0),
        p999_ms: at(99.9),
        p9999_ms: at(99.99),
        max_ms: at(99.9999),
        curve: steps
            .map(|percentile| (percentile, at(percentile)))
            .collect(),
    }
}

fn ledger(deliveries: u64) -> Vec<LedgerLine> {
    let lines = [
        ("kind=\"message\",outcome=\"offered\"", deliveries as f64),
        ("kind=\"message\",outcome=\"delivered\"", deliveries as f64),
        ("kind=\"message\",outcome=\"skipped\"", 0.0),
    ];
    lines
        .map(|(labels, count)| LedgerLine {
            labels: labels.into(),
            count,
        })
        .into()
}

/// Connecting, two seconds of warm-up, ten of measurement.
fn series(speed: f64) -> Vec<Sample> {
    let arrives_s = 1.1 / speed;
    let sample = |step: u32| {
        let at_s = f64::from(step) * 0.25;
        let share = (at_s / arrives_s).min(1.0);
        let is_loaded = at_s > arrives_s;
        let wave = 1.0 + 0.06 * (at_s * 1.9 * PI).sin() + 0.03 * (at_s * 7.3).cos();
        let spike: f64 = if step % 17 == 9 { 3.5 } else { 1.0 };
        let latency = |ms: f64| is_loaded.then_some(ms / speed);
        let rate = if is_loaded {
            500_000.0 * speed * wave
        } else {
            0.0
        };
        Sample {
            at_s,
            is_measured: at_s > 3.25 && at_s <= 13.25,
            connected: (1_000.0 * share) as u64,
            joined: (1_000.0 * (share * 1.1 - 0.1).max(0.0)) as u64,
            connects_per_s: if share < 1.0 {
                1_000.0 / arrives_s * wave
            } else {
                0.0
            },
            deliveries_per_s: rate,
            bytes_per_s: rate * 239.0,
            p50_ms: latency(2.0 / wave),
            p99_ms: latency(5.2 * wave * spike.sqrt()),
            max_ms: latency(9.5 * wave * spike),
            server_cores: Some(if is_loaded { 0.86 * wave } else { 0.4 * share }),
            server_rss_bytes: Some((20_000_000.0 + 18_000_000.0 * share) as u64),
            tcp_buffer_bytes: if is_loaded {
                (4_300_000.0 * wave) as u64
            } else {
                120_000
            },
        }
    };
    (1..=54).map(sample).collect()
}
