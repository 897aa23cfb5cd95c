//! Reading a run from its file, and what two runs do not have in common.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::outcome::{Outcome, VERSION};

/// Settings that say where a server listens or results go: two runs may differ in these.
const INDIFFERENT: [&str; 6] = [
    "json",
    "report",
    "quiet",
    "server-log",
    "server-pid",
    "repeat",
];
/// Settings that say what was loaded.
const TARGET: [&str; 4] = ["url", "admin-url", "server-bin", "server-args"];

/// Reads an outcome, or says which file is at fault, how, and what to do.
pub fn read(path: &Path) -> anyhow::Result<Outcome> {
    let name = path.display();
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {name}: give two files written with --json"))?;
    parse(&text).with_context(|| format!("cannot compare {name}"))
}

fn parse(text: &str) -> anyhow::Result<Outcome> {
    let value: Value = serde_json::from_str(text)
        .context("it is not JSON all the way: was the run that wrote it cut off? Measure again")?;
    match value.get("version").map(Value::as_u64) {
        Some(Some(version)) if version == u64::from(VERSION) => {}
        Some(Some(version)) => bail!(
            "it has version {version} of the result's shape, and this program reads version \
             {VERSION}: measure again with this program, or compare with the one that wrote it"
        ),
        _ => bail!(
            "it has no version, so it is no result of this program: give files that \
             `tidewheel-load … --json FILE` wrote"
        ),
    }
    serde_json::from_value(value).context(
        "it lacks something that every result has: it was changed by hand, or written by a \
         development version. Measure again",
    )
}

/// Where the conditions of two runs differ, one line each.
pub fn differences(old: &Outcome, new: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differ = |what: &str, old: &str, new: &str| {
        if old != new {
            lines.push(format!("{what}: {old} → {new}"));
        }
    };
    differ("the scenarios differ", &old.scenario, &new.scenario);
    let (a, b) = (&old.machine, &new.machine);
    differ("the machines differ, processor", &a.processor, &b.processor);
    differ(
        "the machines differ, cores",
        &a.cores.to_string(),
        &b.cores.to_string(),
    );
    differ(
        "the machines differ, memory in bytes",
        &a.memory_bytes.to_string(),
        &b.memory_bytes.to_string(),
    );
    differ("the machines differ, kernel", &a.kernel, &b.kernel);
    let names: BTreeSet<&String> = old.settings.keys().chain(new.settings.keys()).collect();
    for name in names {
        if INDIFFERENT.contains(&name.as_str()) {
            continue;
        }
        let of = |run: &Outcome| match run.settings.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) if !value.is_null() => value.to_string(),
            _ => "not given".to_owned(),
        };
        let is_target = TARGET.contains(&name.as_str());
        let whose = if is_target {
            "the targets differ"
        } else {
            "the settings differ"
        };
        differ(&format!("{whose}, {name}"), &of(old), &of(new));
    }
    for (run, which) in [(old, "old"), (new, "new")] {
        if has_failed(run) {
            lines.push(format!(
                "the audit of the {which} run failed: its figures may be those of a fault"
            ));
        }
    }
    lines
}

/// True where the audit of a run, or of one of its turns, failed.
pub fn has_failed(run: &Outcome) -> bool {
    !run.failures.is_empty() || run.turns.iter().any(|turn| !turn.failures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    #[test]
    fn an_outcome_comes_back_as_it_was_written() {
        for run in [
            samples::beside_baseline(2),
            samples::failed(),
            samples::idle(),
        ] {
            let back = parse(&serde_json::to_string(&run).unwrap()).unwrap();
            assert_eq!(back.turns.len(), run.turns.len());
            for (back, turn) in back.turns.iter().zip(&run.turns) {
                assert_eq!(back.deliveries, turn.deliveries);
                assert_eq!(back.audit.closes, turn.audit.closes);
                assert_eq!(back.latency.curve.len(), turn.latency.curve.len());
                assert_eq!(back.series.len(), turn.series.len());
                assert!((back.latency.p99_ms - turn.latency.p99_ms).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_bad_file_is_told_by_what_is_wrong_and_what_to_do() {
        let mut future = serde_json::to_value(samples::one_turn()).unwrap();
        future["version"] = 99.into();
        let mut lacking = serde_json::to_value(samples::one_turn()).unwrap();
        lacking.as_object_mut().unwrap().remove("machine");
        let cases = [
            ("{\"version\": 1, \"turns\": [".to_owned(), "cut off"),
            ("[1, 2]".to_owned(), "no result of this program"),
            (
                "{\"version\": \"one\"}".to_owned(),
                "no result of this program",
            ),
            (future.to_string(), "version 99"),
            (lacking.to_string(), "missing field `machine`"),
        ];
        for (text, mentions) in cases {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(mentions), "{error}");
        }
        let error = format!("{:#}", read(Path::new("/no/such.json")).unwrap_err());
        assert!(
            error.contains("/no/such.json") && error.contains("--json"),
            "{error}"
        );
    }

    #[test]
    fn every_difference_of_conditions_is_named_and_indifferent_ones_are_not() {
        let old = samples::one_turn();
        let mut new = samples::one_turn();
        assert!(differences(&old, &new).is_empty());
        new.scenario = "stall".into();
        new.machine.cores = 64;
        new.settings.insert("receivers".into(), 2.into());
        new.settings.insert("payload".into(), 512.into());
        new.settings.insert("server-bin".into(), "other".into());
        new.settings.insert("json".into(), "b.json".into());
        new.failures.push("5 gaps".into());
        let text = differences(&old, &new).join("\n");
        for part in [
            "the scenarios differ: fan-out → stall",
            "cores: 2 → 64",
            "receivers: 1000 → 2",
            "payload: not given → 512",
            "the targets differ, server-bin: target/release/tidewheel → other",
            "the audit of the new run failed",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("b.json"));
    }
}
