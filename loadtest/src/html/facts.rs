//! What one needs to do it again: machine, target, command, settings.

use serde_json::Value;

use super::markup::escaped;
use crate::measures::Unit;
use crate::outcome::Outcome;

const ABSENT: &str = "–";

/// How it was measured.
pub fn section(outcome: &Outcome) -> String {
    format!(
        "<section>\n<h2>How it was measured</h2>\n{}<p class=\"label\">Command</p>\n\
         <pre class=\"command\">{}</pre>\n{}</section>\n",
        machine(outcome),
        escaped(&outcome.command),
        settings(outcome),
    )
}

/// What it ran on.
fn machine(outcome: &Outcome) -> String {
    let machine = &outcome.machine;
    let or_absent = |text: &str| {
        if text.is_empty() {
            ABSENT.to_owned()
        } else {
            text.to_owned()
        }
    };
    let rows = [
        ("Processor", or_absent(&machine.processor)),
        ("Cores in use by both ends", machine.cores.to_string()),
        ("Memory", Unit::Bytes.show(machine.memory_bytes as f64)),
        ("Kernel", or_absent(&machine.kernel)),
        ("Target", target(outcome)),
    ];
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escaped(value)))
        .collect();
    format!("<dl class=\"facts\">{rows}</dl>\n")
}

/// Every setting in force.
fn settings(outcome: &Outcome) -> String {
    if outcome.settings.is_empty() {
        return String::new();
    }
    let rows: String = outcome
        .settings
        .iter()
        .map(|(name, value)| {
            format!(
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escaped(name),
                escaped(&setting(value))
            )
        })
        .collect();
    format!("<p class=\"label\">Settings in force</p>\n<dl class=\"facts settings\">{rows}</dl>\n")
}

/// The server by what is known of it: the program started for the run, or an address.
fn target(outcome: &Outcome) -> String {
    let known = |name: &str| {
        let value = outcome
            .settings
            .get(name)
            .filter(|value| !value.is_null())?;
        Some(setting(value)).filter(|text| !text.is_empty())
    };
    match (known("server-bin"), known("server-args"), known("url")) {
        (Some(program), Some(args), _) => format!("{program} {args}, started for the run"),
        (Some(program), None, _) => format!("{program}, started for the run"),
        (None, _, Some(url)) => url,
        _ => ABSENT.into(),
    }
}

fn setting(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => ABSENT.into(),
        Value::Bool(is_set) => if *is_set { "yes" } else { "no" }.into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    #[test]
    fn the_target_is_the_program_or_the_address() {
        let mut run = samples::empty();
        assert_eq!(
            target(&run),
            "target/release/tidewheel, started for the run"
        );
        run.settings.remove("server-bin");
        run.settings.insert("url".into(), "ws://127.0.0.1:1".into());
        assert_eq!(target(&run), "ws://127.0.0.1:1");
        run.settings.clear();
        assert_eq!(target(&run), ABSENT);
    }
}
