//! Metrics as text for scrapers: Prometheus 0.0.4 or OpenMetrics 1.0, from the same description.
//!
//! Whoever counts something tells it here, family by family, and does not know which of the two is
//! written:
//!
//! ```
//! use tidewheel::metrics::exposition::{Exposition, Format};
//!
//! let mut out = Exposition::new(Format::OpenMetrics);
//! out.counter("tidewheel_example_bytes_total", "Bytes of examples.", 7);
//! let lines = [
//!     "# HELP tidewheel_example_bytes Bytes of examples.",
//!     "# TYPE tidewheel_example_bytes counter",
//!     "# UNIT tidewheel_example_bytes bytes",
//!     "tidewheel_example_bytes_total 7",
//!     "# EOF",
//! ];
//! assert!(out.finish().lines().eq(lines));
//! ```
//!
//! Names are given as they stand before a sample's value: counters with `_total`, infos with
//! `_info`. OpenMetrics leaves that out in the lines about the family, and the unit follows from the
//! name. Labels have fixed sets of values: nothing that a peer sends becomes one.

use std::fmt::{self, Display, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::{CodeCounts, Counts, Label, Latency, Sizes};

/// The upper bounds of the buckets of durations, in microseconds.
pub const BOUNDS_US: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// Units that a name may end in: base units only.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Labels of a sample.
pub type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// Something outside the cores that has numbers to tell. It is asked on the control plane's thread,
/// once for each scrape.
pub trait Source: Send + Sync {
    /// Appends its families. Must not block.
    fn write(&self, out: &mut Exposition);
}

/// Those who have something to tell, in the order of the text.
#[derive(Clone, Default)]
pub struct Sources(Vec<Arc<dyn Source>>);

impl Sources {
    /// Adds one.
    pub fn add(&mut self, source: Arc<dyn Source>) {
        self.0.push(source);
    }

    /// Appends the families of all.
    pub fn write(&self, out: &mut Exposition) {
        for source in &self.0 {
            source.write(out);
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sources({})", self.0.len())
    }
}

/// How the text is written.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics text, version 1.0.
    OpenMetrics,
}

impl Format {
    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a scraper with this `Accept` header gets: OpenMetrics where it names that, in the version
    /// that is written here, and does not like plain text more (RFC 9110 §12.5.1).
    pub fn accepted(accept: &str) -> Format {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut is_known) = (1.0, true);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.parse::<f64>().unwrap_or(0.0),
                    "version" => is_known = matches!(value, "1.0.0" | "1.0"),
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" if is_known => open = quality.max(open),
                "text/plain" => plain = quality.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain {
            Format::OpenMetrics
        } else {
            Format::Prometheus
        }
    }
}

/// What kind of numbers a family has.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Type {
    /// Grows until the process ends. Its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
    /// Always 1; the labels say it. Its name ends in `_info`.
    Info,
}

impl Type {
    fn suffix(self) -> &'static str {
        match self {
            Type::Counter => "_total",
            Type::Info => "_info",
            Type::Gauge | Type::Histogram => "",
        }
    }

    fn text(self, format: Format) -> &'static str {
        match (self, format) {
            (Type::Counter, _) => "counter",
            (Type::Info, Format::OpenMetrics) => "info",
            (Type::Gauge, _) | (Type::Info, Format::Prometheus) => "gauge",
            (Type::Histogram, _) => "histogram",
        }
    }
}

/// The text so far, and the family whose samples come next.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    format: Format,
    name: &'static str,
}

impl Exposition {
    /// An empty text.
    pub fn new(format: Format) -> Exposition {
        Exposition {
            text: String::new(),
            format,
            name: "",
        }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// Begins a family. Its help is one sentence or two.
    ///
    /// A counter's name ends in `_total`, an info's in `_info`; a duration's name says `_seconds`, a
    /// size's `_bytes`.
    pub fn family(&mut self, name: &'static str, of: Type, help: &str) {
        debug_assert!(name.ends_with(of.suffix()), "{name} is a {of:?}");
        self.name = name;
        let format = self.format;
        let family = match format {
            Format::Prometheus => name,
            Format::OpenMetrics => name.strip_suffix(of.suffix()).unwrap_or(name),
        };
        // Writing to a string does not fail, here and below.
        let _ = write!(self.text, "# HELP {family} ");
        self.escaped(help, format == Format::OpenMetrics);
        let _ = writeln!(self.text, "\n# TYPE {family} {}", of.text(format));
        let unit = UNITS.iter().find(|unit| {
            let stem = family.strip_suffix(**unit);
            stem.is_some_and(|stem| stem.ends_with('_'))
        });
        if format == Format::OpenMetrics
            && let Some(unit) = unit
        {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
    }

    /// One number of the family.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.sample_of("", labels, value);
    }

    /// A family of one gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Type::Gauge, help);
        self.sample(&[], value);
    }

    /// A family of one counter.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Type::Counter, help);
        self.sample(&[], value);
    }

    /// A family of a counter for each value of a label, which is called `key`.
    pub fn counts<L: Label>(
        &mut self,
        name: &'static str,
        help: &str,
        key: &str,
        counts: &Counts<L>,
    ) {
        self.family(name, Type::Counter, help);
        for (value, n) in counts.iter() {
            self.sample(&[(key, &value.text())], n);
        }
    }

    /// A family of a counter for each code.
    pub fn codes(&mut self, name: &'static str, help: &str, counts: &CodeCounts) {
        self.family(name, Type::Counter, help);
        for (code, n) in counts.iter() {
            self.sample(&[("code", &code_text(code))], n);
        }
    }

    /// One histogram of the family, of durations: in seconds, with the buckets of [`BOUNDS_US`].
    pub fn latency(&mut self, labels: Labels<'_>, latency: &Latency) {
        for micros in BOUNDS_US {
            let n = latency.count_up_to(Duration::from_micros(micros));
            self.bucket(labels, &Bound(micros as f64 / 1e6), n);
        }
        self.bucket(labels, &"+Inf", latency.count());
        self.sample_of("_sum", labels, latency.sum().as_secs_f64());
        self.sample_of("_count", labels, latency.count());
    }

    /// One histogram of the family, of sizes: with buckets up to these powers of two.
    pub fn sizes(&mut self, labels: Labels<'_>, sizes: &Sizes, powers: impl Iterator<Item = u32>) {
        for power in powers {
            let bound = Bound((1u64 << power) as f64);
            self.bucket(labels, &bound, sizes.count_up_to(power));
        }
        self.bucket(labels, &"+Inf", sizes.count());
        self.sample_of("_sum", labels, sizes.sum());
        self.sample_of("_count", labels, sizes.count());
    }

    fn bucket(&mut self, labels: Labels<'_>, bound: &dyn Display, n: u64) {
        let with_bound: Vec<(&str, &dyn Display)> =
            labels.iter().copied().chain([("le", bound)]).collect();
        self.sample_of("_bucket", &with_bound, n);
    }

    fn sample_of(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (place, (key, label)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{key}=\"");
            self.escaped(&label.to_string(), true);
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// Writes a text between the quotes of a label, or behind a family's name.
    fn escaped(&mut self, text: &str, with_quotes: bool) {
        for c in text.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '"' if with_quotes => self.text.push_str("\\\""),
                c => self.text.push(c),
            }
        }
    }
}

/// A code as it stands in a label.
pub(super) fn code_text(code: Option<u16>) -> String {
    code.map_or_else(|| "other".to_owned(), |code| code.to_string())
}

/// A bucket's upper bound, as OpenMetrics wants it: `1.0`, not `1`. The same in both formats, so that
/// a series does not change its name with the format.
struct Bound(f64);

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.0.fract() == 0.0 { ".0" } else { "" };
        write!(f, "{}{end}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let (plain, open) = (Format::Prometheus, Format::OpenMetrics);
        let cases = [
            ("", plain),
            ("*/*", plain),
            ("text/html, */*;q=0.8", plain),
            ("application/openmetrics-text", open),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", open),
            ("application/openmetrics-text;version=0.0.1", plain),
            ("application/openmetrics-text;q=0", plain),
            ("application/openmetrics-text;q=nonsense", plain),
            ("application/openmetrics-text;q=0.3,text/plain;q=0.9", plain),
            // What Prometheus 2 and 3 send.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                open,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                open,
            ),
        ];
        for (accept, format) in cases {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn both_formats_tell_the_same_samples() {
        let write = |format| {
            let mut out = Exposition::new(format);
            let help = "What \"x\" is: \\ and\nmore.";
            out.family("tidewheel_x_info", Type::Info, help);
            out.sample(&[("of", &"a\\b\"c\nd")], 1);
            out.counter("tidewheel_y_total", "Ys.", 3);
            out.gauge("tidewheel_z_bytes", "Size of z.", 4);
            out.finish()
        };
        assert_eq!(
            write(Format::Prometheus),
            "# HELP tidewheel_x_info What \"x\" is: \\\\ and\\nmore.\n\
             # TYPE tidewheel_x_info gauge\n\
             tidewheel_x_info{of=\"a\\\\b\\\"c\\nd\"} 1\n\
             # HELP tidewheel_y_total Ys.\n# TYPE tidewheel_y_total counter\n\
             tidewheel_y_total 3\n\
             # HELP tidewheel_z_bytes Size of z.\n# TYPE tidewheel_z_bytes gauge\n\
             tidewheel_z_bytes 4\n"
        );
        assert_eq!(
            write(Format::OpenMetrics),
            "# HELP tidewheel_x What \\\"x\\\" is: \\\\ and\\nmore.\n\
             # TYPE tidewheel_x info\n\
             tidewheel_x_info{of=\"a\\\\b\\\"c\\nd\"} 1\n\
             # HELP tidewheel_y Ys.\n# TYPE tidewheel_y counter\n\
             tidewheel_y_total 3\n\
             # HELP tidewheel_z_bytes Size of z.\n# TYPE tidewheel_z_bytes gauge\n\
             # UNIT tidewheel_z_bytes bytes\n\
             tidewheel_z_bytes 4\n# EOF\n"
        );
    }

    #[test]
    fn a_bound_is_written_as_a_float() {
        let cases = [
            (1.0, "1.0"),
            (0.00001, "0.00001"),
            (2.5, "2.5"),
            (1_048_576.0, "1048576.0"),
        ];
        for (bound, text) in cases {
            assert_eq!(Bound(bound).to_string(), text);
        }
    }
}
