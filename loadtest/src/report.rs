//! What a run found, on one screen.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::figures::{bytes, grouped, median, percentiles, ratio};
use crate::outcome::{Arrival, Outcome, TIDEWHEEL, Turn};

/// Whether the audit found everything explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every message arrived once and in order, or its absence was explained.
    Passed,
    /// Something is unexplained.
    Failed,
}

impl Verdict {
    /// Passed where there is no failure.
    pub fn of(failures: &[String]) -> Verdict {
        if failures.is_empty() {
            Verdict::Passed
        } else {
            Verdict::Failed
        }
    }
}

/// Finds out whether `path` can be written, and leaves it as it is.
pub fn check_writable(path: &Path) -> anyhow::Result<()> {
    let is_new = !path.exists();
    let opened = fs::OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("write {}", path.display()))?;
    if is_new {
        fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Writes the outcome as JSON where that is asked for.
pub fn write_json(path: Option<&Path>, outcome: &Outcome) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(outcome)?;
    fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// One turn, as text of some lines.
pub fn turn(turn: &Turn) -> String {
    let mut lines = vec![(turn.subject.as_str(), headline(turn))];
    if let Some(arrival) = &turn.arrival {
        lines.push(("arrival", arrived(arrival)));
    }
    if turn.deliveries > 0 {
        lines.push(("deliveries", deliveries(turn)));
    }
    if turn.seconds > 0.0 {
        lines.push(("CPU", cpu(turn)));
    }
    lines.push(("memory", memory(turn)));
    if turn.latency.count > 0 {
        lines.push(("latency", percentiles(&turn.latency)));
    }
    for (name, latency) in &turn.times {
        let count = grouped(latency.count as f64);
        lines.push((name, format!("{}  ({count})", percentiles(latency))));
    }
    let counts: Vec<String> = turn
        .counts
        .iter()
        .map(|(name, count)| format!("{} {name}", grouped(*count as f64)))
        .collect();
    lines.extend(counts.chunks(4).map(|chunk| ("counts", chunk.join(", "))));
    let failures = turn.failures.iter();
    lines.extend(failures.map(|failure| ("FAILED", failure.clone())));
    if turn.audit.receivers > 0 {
        lines.push(("audit", audited(turn)));
    }
    let lines = lines.iter();
    lines
        .map(|(name, rest)| format!("{name:<11} {rest}\n"))
        .collect()
}

fn headline(turn: &Turn) -> String {
    let phase = turn.phase.as_ref().map(|it| format!(", {it}"));
    let frame = match turn.frame_bytes {
        0 => String::new(),
        bytes => format!(", frame {bytes} B"),
    };
    format!(
        "{}, {}{frame}, {:.1} s{}",
        counted(turn.connections, "client"),
        counted(turn.rooms, "room"),
        turn.seconds,
        phase.unwrap_or_default()
    )
}

/// A count, and the noun for as many.
fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count as f64))
}

fn deliveries(turn: &Turn) -> String {
    format!(
        "{}/s  {}/s  publishes {}/s{}",
        grouped(ratio(turn.deliveries as f64, turn.seconds)),
        bytes(ratio(turn.bytes as f64, turn.seconds)),
        grouped(ratio(turn.publishes as f64, turn.seconds)),
        turn.messages_per_write
            .map_or(String::new(), |it| format!("  {it:.2} messages a write"))
    )
}

fn arrived(arrival: &Arrival) -> String {
    let connected = arrival.connected as f64;
    let mut text = format!(
        "{} connects/s, all joined after {:.2} s",
        grouped(ratio(connected, arrival.connect_s)),
        arrival.join_s
    );
    if arrival.refused > 0 {
        let _ = write!(text, ", {} refused", arrival.refused);
    }
    if let Some(cpu_us) = arrival.server_cpu_us_each {
        let _ = write!(text, "; each: server {cpu_us:.1} µs");
    }
    if let Some(each) = arrival.server_bytes_each {
        let _ = write!(text, ", {}", bytes(each));
    }
    if let Some(each) = arrival.kernel_bytes_each {
        let _ = write!(text, ", kernel objects {} (both ends)", bytes(each));
    }
    text
}

fn cpu(turn: &Turn) -> String {
    let cores = |cpu_ns: u64| ratio(cpu_ns as f64 / 1e9, turn.seconds);
    let each = |cpu_ns: u64| match turn.deliveries {
        0 => String::new(),
        deliveries => format!(
            "{} ns a delivery, ",
            grouped(ratio(cpu_ns as f64, deliveries as f64))
        ),
    };
    let switches = |it: &crate::outcome::Side| it.switches_voluntary + it.switches_involuntary;
    let server = turn.server.map_or_else(
        || "server unknown (give --server-pid)".to_owned(),
        |it| {
            format!(
                "server {}{:.3} cores, {} switches",
                each(it.cpu_ns),
                cores(it.cpu_ns),
                grouped(switches(&it) as f64)
            )
        },
    );
    format!(
        "{server}; clients {}{:.3} cores",
        each(turn.client.cpu_ns),
        cores(turn.client.cpu_ns)
    )
}

fn memory(turn: &Turn) -> String {
    let server = turn.server.map_or_else(String::new, |it| {
        format!(
            "server RSS {}, own {}; ",
            bytes(it.rss_bytes as f64),
            bytes(it.rss_anon_bytes as f64)
        )
    });
    format!(
        "{server}clients {}; whole machine: {} TCP sockets, {} in buffers",
        bytes(turn.client.rss_bytes as f64),
        grouped(turn.kernel.tcp_sockets as f64),
        bytes(turn.kernel.tcp_buffer_bytes as f64)
    )
}

fn audited(turn: &Turn) -> String {
    let audit = &turn.audit;
    let verdict = match turn.failures.len() {
        0 => "passed",
        _ => "FAILED",
    };
    let mut notes = vec![match (audit.delivered, turn.failures.len()) {
        (0, 0) => format!("{verdict}: no message was due to anyone"),
        (delivered, _) => format!(
            "{verdict}: {} deliveries in order",
            grouped(delivered as f64)
        ),
    }];
    if audit.announced_missed > 0 {
        notes.push(format!("{} announced as missed", audit.announced_missed));
    }
    for (code, count) in &audit.closes {
        notes.push(format!("{count} closed with {code}"));
    }
    if audit.undelivered_closed > 0 {
        notes.push(format!("{} undelivered by that", audit.undelivered_closed));
    }
    if audit.resets > 0 {
        notes.push(format!("{} slow readers reset", audit.resets));
    }
    if audit.unusual_form > 0 {
        notes.push(format!("{} of unusual form", audit.unusual_form));
    }
    if turn.failures.is_empty() {
        if !turn.ledger.is_empty() {
            notes.push("the server's ledger agrees".to_owned());
        } else if turn.subject == TIDEWHEEL {
            notes.push("the server's ledger was not checked".to_owned());
        }
    }
    notes.join(", ")
}

/// Medians over the turns of each subject, and the ratio of two subjects; empty for one turn.
pub fn summary(outcome: &Outcome) -> String {
    let mut subjects: Vec<&str> = Vec::new();
    for turn in outcome.turns.iter().filter(|turn| turn.phase.is_none()) {
        if !subjects.contains(&&*turn.subject) {
            subjects.push(&turn.subject);
        }
    }
    let measured = outcome.turns.iter().filter(|turn| turn.phase.is_none());
    if measured.count() < 2 {
        return String::new();
    }
    let medians: Vec<Medians> = subjects
        .iter()
        .map(|subject| Medians::of(outcome, subject))
        .collect();
    let mut text = String::new();
    for (subject, it) in subjects.iter().zip(&medians) {
        let _ = writeln!(
            text,
            "{:<11} medians of {}: {}/s  server {:.0} ns  clients {:.0} ns  p50 {:.2}  p99 {:.2} ms",
            subject,
            it.turns,
            grouped(it.deliveries_per_s),
            it.server_ns,
            it.client_ns,
            it.p50_ms,
            it.p99_ms
        );
    }
    if let [first, others @ ..] = &medians[..] {
        for (subject, other) in subjects[1..].iter().zip(others) {
            let _ = writeln!(
                text,
                "ratio       deliveries {:.2}  server CPU per delivery {:.2}  to {subject}",
                ratio(first.deliveries_per_s, other.deliveries_per_s),
                ratio(first.server_ns, other.server_ns)
            );
        }
    }
    text
}

struct Medians {
    turns: usize,
    deliveries_per_s: f64,
    server_ns: f64,
    client_ns: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Medians {
    fn of(outcome: &Outcome, subject: &str) -> Medians {
        let turns = || outcome.turns.iter().filter(|it| it.subject == subject);
        let over = |value: fn(&Turn) -> f64| median(turns().map(value));
        Medians {
            turns: turns().count(),
            deliveries_per_s: over(|it| ratio(it.deliveries as f64, it.seconds)),
            server_ns: over(|it| {
                let cpu_ns = it.server.map_or(0, |side| side.cpu_ns);
                ratio(cpu_ns as f64, it.deliveries as f64)
            }),
            client_ns: over(|it| ratio(it.client.cpu_ns as f64, it.deliveries as f64)),
            p50_ms: over(|it| it.latency.p50_ms),
            p99_ms: over(|it| it.latency.p99_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_subject_has_its_ratio() {
        let turn = |subject: &str, deliveries| Turn {
            subject: subject.into(),
            seconds: 1.0,
            deliveries,
            ..Turn::default()
        };
        let mut outcome = crate::outcome_samples::empty();
        outcome.turns = vec![turn("a", 300), turn("b", 200), turn("c", 100)];
        let text = summary(&outcome);
        assert!(
            text.contains("deliveries 1.50") && text.contains("to b"),
            "{text}"
        );
        assert!(
            text.contains("deliveries 3.00") && text.contains("to c"),
            "{text}"
        );
    }

    #[test]
    fn a_headline_counts_in_words_that_fit() {
        let mut one = Turn {
            connections: 1,
            rooms: 2,
            ..Turn::default()
        };
        assert_eq!(headline(&one), "1 client, 2 rooms, 0.0 s");
        one.frame_bytes = 300;
        assert!(headline(&one).contains("frame 300 B"));
    }

    #[test]
    fn a_turn_tells_its_failures_or_that_it_passed() {
        let mut one = Turn {
            subject: "tidewheel".into(),
            ..Turn::default()
        };
        one.audit.receivers = 1;
        one.audit.delivered = 1_234;
        assert!(turn(&one).contains("passed: 1,234 deliveries"));
        one.failures.push("5 gaps in the offsets".into());
        let text = turn(&one);
        assert!(text.contains("FAILED      5 gaps") && !text.contains("passed"));
        assert!(text.contains("FAILED: 1,234 deliveries"));
    }
}
