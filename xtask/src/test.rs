//! The test command: runs the steps, times them, and sums up.

use std::time::{Duration, Instant};

use crate::steps::{STEPS, Step, Verdict};
use crate::tally::Tally;
use crate::workspace::Workspace;

/// A step that has had its turn.
struct Entry {
    name: &'static str,
    result: &'static str,
    took: Duration,
}

/// Runs all steps, or those named. Answers whether everything went well.
///
/// A failed step keeps only those from running that need it: the others still have something to
/// say, and a run in CI should say all of it.
pub fn run(workspace: &Workspace, names: &[&str]) -> bool {
    if let Some(unknown) = names
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        eprintln!(
            "xtask: no step is called `{unknown}`; there are: {}",
            known.join(", ")
        );
        return false;
    }
    let chosen = |step: &&Step| names.is_empty() || names.contains(&step.name);

    let mut entries: Vec<Entry> = Vec::new();
    let mut faults = Vec::new();
    let mut tally = Tally::default();
    for step in STEPS.iter().filter(chosen) {
        println!("\n=== {}: {}", step.name, step.about);
        let missing = step.needs.iter().find(|need| has_failed(&entries, need));
        if let Some(missing) = missing {
            println!("--- {} cannot run without {missing}", step.name);
            entries.push(Entry {
                name: step.name,
                result: NOT_RUN,
                took: Duration::ZERO,
            });
            continue;
        }
        let start = now();
        let outcome = (step.run)(workspace);
        let took = now().duration_since(start);
        tally += outcome.tally;
        let result = match outcome.verdict {
            Verdict::Passed => "ok",
            Verdict::Absent(reason) => {
                println!("--- {} has nothing to run: {reason}", step.name);
                "absent"
            }
            Verdict::Failed(reason) => {
                // A step that fails without a failed test counts as one.
                tally.failed += u64::from(outcome.tally.failed == 0);
                println!("--- {} FAILED: {reason}", step.name);
                faults.push((step.name, reason));
                FAILED
            }
        };
        entries.push(Entry {
            name: step.name,
            result,
            took,
        });
    }

    print!("{}", table(&entries));
    for (name, reason) in &faults {
        println!("FAILED {name}: {reason}\n       repeat it alone: cargo xtask test {name}");
    }
    println!("{tally}");
    faults.is_empty()
}

const FAILED: &str = "FAILED";
const NOT_RUN: &str = "not run";

fn has_failed(entries: &[Entry], name: &str) -> bool {
    let is_bad = |entry: &Entry| matches!(entry.result, FAILED | NOT_RUN);
    entries
        .iter()
        .any(|entry| entry.name == name && is_bad(entry))
}

fn table(entries: &[Entry]) -> String {
    let mut text = format!("\n{:<15} {:<8} {:>8}\n", "step", "result", "seconds");
    for entry in entries {
        text.push_str(&row(entry.name, entry.result, entry.took));
    }
    let total = entries.iter().map(|entry| entry.took).sum();
    text.push_str(&row("total", "", total));
    text
}

fn row(name: &str, result: &str, took: Duration) -> String {
    format!("{name:<15} {result:<8} {:>8.1}\n", took.as_secs_f64())
}

#[allow(clippy::disallowed_methods, reason = "timing the steps is the purpose")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &'static str, result: &'static str, millis: u64) -> Entry {
        Entry {
            name,
            result,
            took: Duration::from_millis(millis),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_step_and_the_sum() {
        let entries = [
            entry("fmt", "ok", 900),
            entry("clients-python", FAILED, 100_250),
        ];
        let expected = "
step            result    seconds
fmt             ok            0.9
clients-python  FAILED      100.2
total                       101.2
";
        assert_eq!(table(&entries), expected);
    }

    #[test]
    fn what_failed_or_could_not_run_stops_what_needs_it() {
        let entries = [
            entry("build", FAILED, 1),
            entry("npm", NOT_RUN, 0),
            entry("fmt", "ok", 1),
        ];
        assert!(has_failed(&entries, "build"));
        assert!(has_failed(&entries, "npm"));
        assert!(!has_failed(&entries, "fmt"));
        assert!(!has_failed(&entries, "clippy"));
    }
}
