//! What stands under `deploy/` asks for numbers that the server has: every name, label and label
//! value in the alerts, the recording rules and the dashboard is held against `docs/metrics.md`, which
//! unit tests hold against the server, and against what the cores tell.
//!
//! This reads queries as a list of words, no more: `promtool check rules` and Grafana read the rest.

#![allow(clippy::unwrap_used)] // a file that cannot be read is a failed test

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tidewheel::metrics::exposition::{Exposition, Format};
use tidewheel::metrics::text::{self, CoreReport};
use tidewheel::metrics::{Kind, Label, Metrics};

/// Labels that a scrape adds, and the one of buckets.
const OUTSIDE: [&str; 3] = ["instance", "job", "le"];

/// Labels whose values are not the same on every node, so the text of an idle core has not all.
const OPEN_LABELS: [&str; 5] = ["core", "code", "listener", "version", "epoch"];

/// A family as the docs have it.
struct Family {
    is_histogram: bool,
    labels: BTreeSet<String>,
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn documented() -> BTreeMap<String, Family> {
    let docs = read("docs/metrics.md");
    let rows = docs.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells.get(1)?.trim_matches('`');
        let is_metric = name.starts_with("tidewheel_") || name.starts_with("process_");
        let labels = cells
            .get(3)?
            .split(',')
            .map(|it| it.trim().trim_matches('`'));
        let labels = labels.filter(|it| !it.is_empty()).map(str::to_owned);
        is_metric.then(|| {
            let is_histogram = cells[2] == "histogram";
            let labels = labels.collect();
            (
                name.to_owned(),
                Family {
                    is_histogram,
                    labels,
                },
            )
        })
    })
    .collect()
}

/// What a core tells that has closed one connection before its time: every series with fixed labels.
fn told() -> String {
    let mut metrics = Metrics::default();
    for kind in Kind::ALL {
        metrics.ledger.offer(*kind, 1);
        metrics.ledger.undelivered(*kind, 1006, 1);
    }
    let report = CoreReport {
        is_up: true,
        bus_bytes: 0,
        metrics: Some(Box::new(metrics)),
    };
    let mut out = Exposition::new(Format::Prometheus);
    text::write(&mut out, &[report]);
    out.finish()
}

/// Queries of the files, each with the place where it stands; and the names that rules record.
fn queries() -> (Vec<(String, String)>, BTreeSet<String>) {
    let mut queries = Vec::new();
    let mut recorded = BTreeSet::new();
    for file in ["alerts.yml", "recording.yml"] {
        let text = read(&format!("deploy/prometheus/{file}"));
        // Comments and texts for people name no series.
        let lines = text.lines().filter(|line| {
            let line = line.trim_start();
            let is_prose = ["#", "summary:", "runbook:", "severity:", "- alert:"];
            !is_prose.iter().any(|start| line.starts_with(start))
        });
        for line in lines {
            if let Some(name) = line.trim_start().strip_prefix("- record: ") {
                recorded.insert(name.to_owned());
            } else {
                queries.push((file.to_owned(), line.to_owned()));
            }
        }
    }
    let dashboard = read("deploy/grafana/tidewheel.json");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    collect_queries(&dashboard, &mut queries);
    (queries, recorded)
}

fn collect_queries(value: &serde_json::Value, into: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                match value.as_str() {
                    Some(text) if key == "expr" || key == "query" || key == "definition" => {
                        into.push(("tidewheel.json".to_owned(), text.to_owned()));
                    }
                    _ => collect_queries(value, into),
                }
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| collect_queries(item, into));
        }
        _ => {}
    }
}

/// The words of a query with what stands directly behind each.
fn words(query: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut words = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        rest = &word[end..];
        words.push((&word[..end], rest));
    }
    words
}

/// Matchers in the braces behind a name: label, operator, value.
fn matchers(behind: &str) -> Vec<(&str, &str, &str)> {
    let Some(list) = behind.strip_prefix('{') else {
        return Vec::new();
    };
    let list = list.split_once('}').unwrap().0;
    let matchers = list.split("\",").filter(|it| !it.trim().is_empty());
    matchers
        .map(|matcher| {
            let (left, value) = matcher.split_once('"').unwrap();
            let label = left.trim_end_matches(['=', '!', '~']).trim();
            let operator = left.trim()[label.len()..].trim();
            (label, operator, value.trim_end_matches('"'))
        })
        .collect()
}

#[test]
fn queries_under_deploy_ask_for_what_the_server_tells() {
    let (families, told) = (documented(), told());
    let (queries, recorded) = queries();
    let mut asked = BTreeSet::new();
    for (file, query) in &queries {
        for (word, behind) in words(query) {
            if word.contains(":tidewheel_") {
                assert!(
                    recorded.contains(word),
                    "{file}: {word} is recorded by no rule"
                );
            }
            if !word.starts_with("tidewheel_") && !word.starts_with("process_") {
                continue;
            }
            let parts = ["_bucket", "_sum", "_count"];
            let base = parts.iter().find_map(|part| word.strip_suffix(part));
            let histogram = base.filter(|base| families.get(*base).is_some_and(|f| f.is_histogram));
            let name = histogram.unwrap_or(word);
            let family = families.get(name);
            let family = family.unwrap_or_else(|| panic!("{file}: nobody tells {word}: {query}"));
            let is_whole = family.is_histogram == histogram.is_some();
            assert!(is_whole, "{file}: {word} is a histogram, or part of none");
            asked.insert(name.to_owned());
            for (label, operator, value) in matchers(behind) {
                let is_known = family.labels.contains(label) || OUTSIDE.contains(&label);
                assert!(is_known, "{file}: {name} has no label {label}");
                let is_fixed = !OPEN_LABELS.contains(&label) && !OUTSIDE.contains(&label);
                let is_cores = told.contains(&format!("# TYPE {name} "));
                if !is_fixed || !is_cores || value.starts_with('$') {
                    continue;
                }
                let values: Vec<&str> = match operator {
                    "=~" | "!~" => value.split('|').collect(),
                    _ => vec![value],
                };
                for value in values {
                    let pair = format!("{label}=\"{value}\"");
                    let mut series = told.lines().filter(|line| line.starts_with(name));
                    let is_told = series.any(|line| line.contains(&pair));
                    assert!(is_told, "{file}: {name} is never told with {pair}");
                }
            }
        }
    }
    assert!(
        asked.len() > 50,
        "only {} families are asked for",
        asked.len()
    );
}

#[test]
fn queries_group_by_labels_that_there_are() {
    let families = documented();
    let mut known: BTreeSet<&str> = OUTSIDE.into();
    known.extend(
        families
            .values()
            .flat_map(|f| f.labels.iter().map(String::as_str)),
    );
    for (file, query) in queries().0 {
        for (word, behind) in words(&query) {
            if ![
                "by",
                "on",
                "without",
                "ignoring",
                "group_left",
                "group_right",
            ]
            .contains(&word)
            {
                continue;
            }
            let Some(list) = behind.trim_start().strip_prefix('(') else {
                continue;
            };
            for label in list.split_once(')').unwrap().0.split(',').map(str::trim) {
                let is_known = label.is_empty() || known.contains(label);
                assert!(is_known, "{file}: no series has a label {label}: {query}");
            }
        }
    }
}

#[test]
fn every_alert_says_how_long_how_bad_and_what_to_do() {
    let text = read("deploy/prometheus/alerts.yml");
    let docs = read("docs/metrics.md");
    let alerts: Vec<&str> = text.split("      - alert: ").skip(1).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let has = |word: &str| {
            alert
                .lines()
                .any(|line| line.trim_start().starts_with(word))
        };
        for word in ["expr:", "for:", "severity:", "summary:", "runbook:"] {
            assert!(has(word), "{name} has no {word}");
        }
        let is_graded = has("severity: critical") || has("severity: warning");
        assert!(is_graded, "{name}: how bad is it?");
        assert!(
            docs.contains(&format!("| `{name}` |")),
            "docs/metrics.md has no {name}"
        );
    }
}
