//! Reads an exposition back as a strict scraper does, for tests: whatever the formats or the naming
//! rules of Prometheus forbid is a panic.

use std::collections::{BTreeMap, HashSet};

use crate::metrics::exposition::Format;

/// Each series with its value.
pub(crate) fn check(text: &str, format: Format) -> BTreeMap<String, f64> {
    let is_open = format == Format::OpenMetrics;
    assert_eq!(text.ends_with("\n# EOF\n"), is_open);
    let text = text.strip_suffix("# EOF\n").unwrap_or(text);
    assert!(text.ends_with('\n') && !text.contains("# EOF"));
    let mut series = BTreeMap::new();
    let mut seen = HashSet::new();
    let (mut family, mut kind) = ("", "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(seen.insert(name), "{name} stands in two places");
            check_help(name, help);
            family = name;
        } else if let Some(of_type) = line.strip_prefix("# TYPE ") {
            let (name, told) = of_type.split_once(' ').unwrap();
            assert_eq!(name, family, "the type stands behind the help");
            check_name(name, told, is_open);
            kind = told;
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').unwrap();
            assert!(is_open && name == family, "{line}");
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
            assert!(["seconds", "bytes"].contains(&unit), "{line}: a base unit");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            check_sample(name, (family, kind), is_open);
            let value: f64 = value.parse().unwrap();
            assert!(
                value.is_finite() && (value >= 0.0 || kind == "gauge"),
                "{line}"
            );
            let before = series.insert(name.to_owned(), value);
            assert!(before.is_none(), "{name} twice");
        }
    }
    series
}

/// Whether `docs/metrics.md` has every family, with its type and its labels.
pub(crate) fn check_documented(text: &str) {
    let docs = include_str!("../../docs/metrics.md");
    let (mut name, mut row) = (String::new(), None);
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (base, kind) = family.split_once(' ').unwrap();
            // The page has names as they are in queries.
            let is_open = text.ends_with("# EOF\n");
            name = match kind {
                "counter" if is_open => format!("{base}_total"),
                "info" => format!("{base}_info"),
                _ => base.to_owned(),
            };
            let kind = if kind == "info" { "gauge" } else { kind };
            let start = format!("| `{name}` | {kind} |");
            row = docs.lines().find(|line| line.starts_with(&start));
            assert!(row.is_some(), "docs/metrics.md has no row {start}");
        } else if !line.starts_with('#') {
            let cells: Vec<&str> = row.unwrap().split('|').map(str::trim).collect();
            for (key, _) in labels(line) {
                let is_told = key == "le" || cells[3].contains(&format!("`{key}`"));
                assert!(is_told, "docs/metrics.md: {name} has a label {key}");
            }
        }
    }
}

fn check_help(name: &str, help: &str) {
    assert!(
        help.ends_with('.') && !help.ends_with(".."),
        "{name}: {help}"
    );
    assert!(help.len() > 10 && !help.contains('\\'), "{name}: {help}");
}

fn check_name(name: &str, kind: &str, is_open: bool) {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    assert!(name.bytes().all(plain), "{name}");
    let is_ours = name.starts_with("tidewheel_") || name.starts_with("process_");
    assert!(is_ours, "{name}");
    match (kind, is_open) {
        ("counter", false) => assert!(name.ends_with("_total"), "{name}"),
        ("gauge" | "histogram" | "counter", _) => assert!(!name.ends_with("_total"), "{name}"),
        ("info", true) => assert!(!name.ends_with("_info"), "{name}"),
        _ => panic!("{name} is a {kind}"),
    }
    // What `promtool check metrics` says of names.
    for forbidden in ["_count", "_sum", "_bucket", "counter", "gauge", "histogram"] {
        assert!(!name.ends_with(forbidden), "{name}");
    }
    let units = [
        "_ms",
        "_us",
        "_ns",
        "_milliseconds",
        "_microseconds",
        "_minutes",
        "_hours",
    ];
    let larger = [
        "_days",
        "_kb",
        "_kilobytes",
        "_megabytes",
        "_bits",
        "_percent",
    ];
    for unit in units.iter().chain(&larger) {
        assert!(
            !name.contains(unit),
            "{name}: base units are seconds and bytes"
        );
    }
    if kind == "histogram" {
        let has_unit = ["_seconds", "_bytes", "_frames"].iter();
        assert!(has_unit.clone().any(|unit| name.ends_with(unit)), "{name}");
    }
}

fn check_sample(name: &str, (family, kind): (&str, &str), is_open: bool) {
    let base = name.split('{').next().unwrap();
    let suffixes: &[&str] = match kind {
        "histogram" => &["_bucket", "_sum", "_count"],
        "counter" if is_open => &["_total"],
        "info" => &["_info"],
        _ => &[""],
    };
    let suffix = base.strip_prefix(family).unwrap_or("?");
    assert!(suffixes.contains(&suffix), "{name} in {family}");
    let mut keys = HashSet::new();
    for (key, value) in labels(name) {
        assert!(keys.insert(key), "{name}: {key} twice");
        assert!(
            key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        assert!(
            !value.is_empty() && !value.contains(['"', '\\', '\n']),
            "{name}"
        );
    }
    assert_eq!(keys.contains("le"), suffix == "_bucket", "{name}");
}

/// Labels of a series; values have no commas in them here.
fn labels(series: &str) -> impl Iterator<Item = (&str, &str)> {
    let list = series
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let list = list.map_or("", |(list, _)| list);
    list.split_terminator(',').map(|label| {
        let (key, quoted) = label.split_once('=').unwrap();
        let value = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
        (key, value.unwrap())
    })
}
