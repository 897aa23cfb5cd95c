//! What a run found, for people and as JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::audit::Audit;

/// Whether the audit found everything explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every message arrived once and in order, or its absence was explained.
    Passed,
    /// Something is unexplained.
    Failed,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many deliveries.
    pub count: u64,
    /// The quickest.
    pub min_ms: f64,
    /// Half were quicker.
    pub p50_ms: f64,
    /// Nine in ten were quicker.
    pub p90_ms: f64,
    /// All but one in a hundred were quicker.
    pub p99_ms: f64,
    /// All but one in a thousand were quicker.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// From a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        if histogram.is_empty() {
            return Latency::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Latency {
            count: histogram.len(),
            min_ms: histogram.min() as f64 / 1_000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1_000.0,
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.max_ms
        )
    }
}

/// Prints what the audit found and returns its verdict.
pub fn print_audit(audit: &Audit, failures: &[String]) -> Verdict {
    let mut explained = Vec::new();
    if audit.announced_missed > 0 {
        explained.push(format!("{} announced as missed", audit.announced_missed));
    }
    for (code, count) in &audit.closes {
        explained.push(format!("{count} closed with {code}"));
    }
    if audit.undelivered_closed > 0 {
        explained.push(format!("{} undelivered by that", audit.undelivered_closed));
    }
    if audit.unusual_form > 0 {
        explained.push(format!("{} of unusual form", audit.unusual_form));
    }
    let explained = if explained.is_empty() {
        String::new()
    } else {
        format!(" ({})", explained.join(", "))
    };
    if failures.is_empty() {
        println!(
            "audit       passed: {} deliveries in order{explained}",
            audit.delivered
        );
        Verdict::Passed
    } else {
        println!("audit       FAILED: {}{explained}", failures.join("; "));
        Verdict::Failed
    }
}

/// Writes the report as JSON where that is asked for.
pub fn write_json(path: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// The middle value; the mean of the two where there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => at(middle),
        _ => f64::midpoint(at(middle - 1), at(middle)),
    }
}

/// `part / whole`, or nothing where there is no whole.
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

/// A number with separators: `1,234,567`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that suits them.
pub fn bytes(bytes: f64) -> String {
    match bytes.abs() {
        small if small < 10_000.0 => format!("{bytes:.0} B"),
        medium if medium < 10_000_000.0 => format!("{:.1} kB", bytes / 1e3),
        _ => format!("{:.1} MB", bytes / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases = [
            (0.0, "0"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (-123_456.0, "-123,456"),
        ];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
