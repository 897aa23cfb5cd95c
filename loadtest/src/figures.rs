//! Figures for people: percentiles, medians, and numbers with their units.

use hdrhistogram::Histogram;

use crate::outcome::Latency;

/// Points of a latency curve between one halving of what is left and the next.
const POINTS_PER_HALVING: u32 = 5;

/// Percentiles of a histogram of microseconds.
pub fn latency(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    let ms = |us: u64| us as f64 / 1_000.0;
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    let curve = histogram.iter_quantiles(POINTS_PER_HALVING);
    Latency {
        count: histogram.len(),
        min_ms: ms(histogram.min()),
        mean_ms: histogram.mean() / 1_000.0,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        p9999_ms: at(0.9999),
        max_ms: ms(histogram.max()),
        curve: curve
            .map(|it| {
                (
                    it.quantile_iterated_to() * 100.0,
                    ms(it.value_iterated_to()),
                )
            })
            .collect(),
    }
}

/// The percentiles in one line.
pub fn percentiles(latency: &Latency) -> String {
    format!(
        "min {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  p99.99 {:.2}  max {:.2} ms",
        latency.min_ms,
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.p9999_ms,
        latency.max_ms
    )
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
    fn percentiles_come_in_milliseconds_and_rise_along_the_curve() {
        let mut histogram = crate::tally::latency_histogram().unwrap();
        (1..=1_000).for_each(|ms| histogram.record(ms * 1_000).unwrap());
        let latency = latency(&histogram);
        assert_eq!(latency.count, 1_000);
        assert!((latency.p50_ms - 500.0).abs() < 1.0 && (latency.p99_ms - 990.0).abs() < 1.0);
        assert!(latency.curve.is_sorted() && latency.curve.len() > 10);
    }

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
