//! The result in a sentence, the audit's verdict in words, and the key figures side by side.

use super::markup::escaped;
use crate::measures::{
    BYTES_PER_CONNECTION, CONNECTS, CPU_PER_CONNECTION, DELIVERIES, Figure, Group, MAX, P50, P99,
    P999, SERVER_CPU, SERVER_RSS, Unit, groups, per,
};
use crate::outcome::{Outcome, TIDEWHEEL, Turn};

/// A figure and what it is called where there is room for a few words.
type Key = (&'static Figure, &'static str);

/// The key figures of a run that delivers, in the order in which they stand.
const KEY: [Key; 8] = [
    (&DELIVERIES, "deliveries a second"),
    (&P50, "latency, median"),
    (&P99, "latency, p99"),
    (&P999, "latency, p99.9"),
    (&MAX, "latency, maximum"),
    (&SERVER_CPU, "server CPU per delivery"),
    (&CONNECTS, "connections a second"),
    (&BYTES_PER_CONNECTION, "server memory per connection"),
];
/// Those of a run that only connects.
const KEY_IDLE: [Key; 4] = [
    (&CONNECTS, "connections a second"),
    (&CPU_PER_CONNECTION, "server CPU per connection"),
    (&BYTES_PER_CONNECTION, "server memory per connection"),
    (&SERVER_RSS, "server memory in all (RSS)"),
];

/// The result in a sentence or two.
pub fn headline(outcome: &Outcome) -> String {
    let groups = groups(outcome);
    let Some(main) = main_group(&groups) else {
        return "This run measured nothing.".into();
    };
    let mut sentences = vec![match main.median(&DELIVERIES) {
        Some(rate) => delivered(main, rate),
        None => arrived(main),
    }];
    sentences.extend(beside_phase(&groups, main));
    sentences.extend(beside_baseline(&groups, main));
    if !failures(outcome).is_empty() {
        sentences.push("The audit failed.".into());
    }
    sentences.join(" ")
}

/// Whether the audit passed, and what it found, in words.
pub fn verdict(outcome: &Outcome) -> String {
    let failures = failures(outcome);
    let (class, title, said) = if outcome.turns.is_empty() {
        (
            "failed",
            "Nothing was measured",
            "The result holds no turn.".to_owned(),
        )
    } else if failures.is_empty() {
        ("passed", "Audit passed", passed(outcome))
    } else {
        let said =
            "What follows was found by the receivers, and nothing the server said explains it.";
        ("failed", "Audit failed", said.to_owned())
    };
    let list: String = failures
        .iter()
        .map(|line| format!("<li>{}</li>", escaped(line)))
        .collect();
    let list = if list.is_empty() {
        list
    } else {
        format!("<ul>{list}</ul>\n")
    };
    let explained = explained(outcome);
    let explained = if explained.is_empty() {
        String::new()
    } else {
        format!(
            "<p class=\"explained\">Explained by the server: {}.</p>\n",
            escaped(&explained)
        )
    };
    format!(
        "<section class=\"verdict {class}\">\n<h2>{title}</h2>\n<p>{}</p>\n{list}{explained}</section>\n",
        escaped(&said)
    )
}

/// The key figures: the main group's large, the others' beneath.
pub fn strip(outcome: &Outcome) -> String {
    let groups = groups(outcome);
    let Some(main) = main_group(&groups) else {
        return String::new();
    };
    let is_idle = main.median(&DELIVERIES).is_none() && main.median(&P50).is_none();
    let key: &[Key] = if is_idle { &KEY_IDLE } else { &KEY };
    let tiles: String = key
        .iter()
        .filter_map(|(figure, label)| {
            let value = main.median(figure)?;
            let (number, unit) = figure.unit.parts(value);
            // The label says what a rate is of.
            let unit = if unit.starts_with('/') { "" } else { unit };
            let others = others(&groups, main, figure, value);
            Some(format!(
                "<div class=\"tile\"><dt>{label}</dt><dd><b>{number}</b> <span>{unit}</span>{others}</dd></div>\n"
            ))
        })
        .collect();
    if tiles.is_empty() {
        return String::new();
    }
    let caption = strip_caption(&groups, main);
    format!(
        "<section class=\"key\">\n<h2>Key figures</h2>\n{caption}<dl class=\"strip\">\n{tiles}</dl>\n</section>\n"
    )
}

fn strip_caption(groups: &[Group<'_>], main: &Group<'_>) -> String {
    let name = main.name();
    let repeats = match main.turns.len() {
        1 => String::new(),
        count => format!(", medians of {count} turns"),
    };
    let others: Vec<String> = groups
        .iter()
        .map(Group::name)
        .filter(|other| *other != name)
        .collect();
    let beneath = match others.as_slice() {
        [] => String::new(),
        [other] => format!(" Beneath each: {other}, and the value above as a multiple of that."),
        _ => " Beneath each: the others, and the value above as a multiple of theirs.".into(),
    };
    if repeats.is_empty() && beneath.is_empty() {
        return String::new();
    }
    let caption = format!("{}{repeats}.{beneath}", capitalised(&name));
    format!("<p class=\"caption\">{}</p>\n", escaped(&caption))
}

fn others(groups: &[Group<'_>], main: &Group<'_>, figure: &Figure, value: f64) -> String {
    let others = groups.iter().filter(|group| group.name() != main.name());
    let lines = others.take(3).filter_map(|group| {
        let theirs = group.median(figure)?;
        let ratio =
            per(value, theirs).map_or(String::new(), |ratio| format!(" <em>{ratio:.2}×</em>"));
        let name = escaped(
            group
                .phase
                .filter(|_| group.subject == main.subject)
                .unwrap_or(group.subject),
        );
        Some(format!(
            "<small>{name} {}{ratio}</small>",
            figure.unit.show(theirs)
        ))
    });
    lines.collect()
}

/// The server's, where there is one; else whatever came first.
fn main_group<'a, 'b>(groups: &'b [Group<'a>]) -> Option<&'b Group<'a>> {
    let is_server = |group: &&Group<'_>| group.subject.starts_with("tidewheel");
    groups.iter().find(is_server).or(groups.first())
}

fn delivered(group: &Group<'_>, rate: f64) -> String {
    let connections = group.turns.first().map_or(0, |turn| turn.connections);
    let receivers = if connections > 0 {
        format!(" to {}", counted(connections, "connection"))
    } else {
        String::new()
    };
    let show = |figure: &Figure| group.median(figure).map(|value| figure.unit.show(value));
    let latency = match (show(&P50), show(&P99)) {
        (Some(p50), Some(p99)) => format!(": half within {p50}, 99 in 100 within {p99}"),
        _ => String::new(),
    };
    let rate = Unit::Count.show(rate);
    let comma = if group.phase.is_some() { "," } else { "" };
    format!(
        "{}{comma} delivered {rate} messages a second{receivers}{latency}.",
        capitalised(&group.name())
    )
}

fn arrived(group: &Group<'_>) -> String {
    let arrival = group.turns.first().and_then(|turn| turn.arrival);
    let Some(arrival) = arrival.filter(|arrival| arrival.connected > 0) else {
        return format!(
            "{}: no message was published and no connection counted.",
            capitalised(&group.name())
        );
    };
    let show = |figure: &Figure| group.median(figure).map(|value| figure.unit.show(value));
    let mut sentence = format!("{} got in", counted(arrival.connected, "connection"));
    if let Some(rate) = group.median(&CONNECTS) {
        sentence += &format!(", {} a second", Unit::Count.show(rate));
    }
    if let Some(bytes) = show(&BYTES_PER_CONNECTION) {
        sentence += &format!(", for {bytes} of the server's own memory each");
    }
    sentence + "."
}

/// Another phase of the same subject, by the latency that stands out.
fn beside_phase(groups: &[Group<'_>], main: &Group<'_>) -> Option<String> {
    let other = groups
        .iter()
        .find(|group| group.subject == main.subject && group.phase != main.phase)?;
    let (ours, theirs) = (main.median(&P99)?, other.median(&P99)?);
    let ms = Unit::Milliseconds;
    let (first, second) = (
        main.phase.unwrap_or("at first"),
        other.phase.unwrap_or("later"),
    );
    Some(format!(
        "The 99th percentile was {} {first} and {} {second}.",
        ms.show(ours),
        ms.show(theirs)
    ))
}

/// What another subject needed for the same.
fn beside_baseline(groups: &[Group<'_>], main: &Group<'_>) -> Option<String> {
    let other = groups
        .iter()
        .find(|group| group.subject != main.subject && group.phase == main.phase)?;
    let (ours, theirs) = (main.median(&SERVER_CPU)?, other.median(&SERVER_CPU)?);
    let ratio = per(ours, theirs)?;
    let ns = Unit::Nanoseconds;
    Some(format!(
        "Each took {} of server CPU, {ratio:.2} times as much as {} ({}).",
        ns.show(ours),
        other.subject,
        ns.show(theirs),
    ))
}

/// Of the run and of its turns, each once.
fn failures(outcome: &Outcome) -> Vec<String> {
    let mut failures: Vec<String> = outcome.failures.clone();
    for (index, turn) in outcome.turns.iter().enumerate() {
        for failure in &turn.failures {
            if !failures
                .iter()
                .any(|known| known.contains(failure.as_str()))
            {
                failures.push(format!("turn {}: {failure}", index + 1));
            }
        }
    }
    failures
}

fn passed(outcome: &Outcome) -> String {
    let delivered = total(outcome, |turn| turn.audit.delivered);
    if delivered == 0 {
        return "No message was due to anyone, and no connection was lost.".into();
    }
    let explained = explained(outcome);
    let but = if explained.is_empty() {
        ""
    } else {
        ", and what did not arrive was accounted for"
    };
    let any = |is: fn(&Turn) -> bool| outcome.turns.iter().any(is);
    let ledger = if any(|turn| !turn.ledger.is_empty()) {
        " The server's own ledger agrees."
    } else if any(|turn| turn.subject == TIDEWHEEL) {
        " The server's own ledger was not checked."
    } else {
        ""
    };
    format!(
        "Every receiver checked every offset: {} arrived in order, none lost, repeated or reordered \
         without a word{but}.{ledger}",
        counted(delivered, "delivery")
    )
}

/// What the server itself accounted for.
fn explained(outcome: &Outcome) -> String {
    let mut words = Vec::new();
    let missed = total(outcome, |turn| turn.audit.announced_missed);
    if missed > 0 {
        words.push(format!(
            "{} announced as missed",
            counted(missed, "message")
        ));
    }
    let mut closes = std::collections::BTreeMap::<u16, u64>::new();
    for (code, count) in outcome.turns.iter().flat_map(|turn| &turn.audit.closes) {
        let sum = closes.entry(*code).or_default();
        *sum = sum.saturating_add(*count);
    }
    for (code, count) in closes {
        words.push(format!(
            "{} closed with code {code}",
            counted(count, "connection")
        ));
    }
    let undelivered = total(outcome, |turn| turn.audit.undelivered_closed);
    if undelivered > 0 {
        words.push(format!(
            "{} not delivered because of that",
            counted(undelivered, "message")
        ));
    }
    words.join(", ")
}

fn total(outcome: &Outcome, value: fn(&Turn) -> u64) -> u64 {
    outcome.turns.iter().map(value).fold(0, u64::saturating_add)
}

fn counted(count: u64, what: &str) -> String {
    let number = crate::figures::grouped(count as f64);
    match (count, what.strip_suffix('y')) {
        (1, _) => format!("{number} {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {what}s"),
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    #[test]
    fn the_headline_tells_rate_latency_and_the_price_beside_the_bare_loop() {
        assert_eq!(
            headline(&samples::beside_baseline(1)),
            "Tidewheel delivered 500,000 messages a second to 1,000 connections: half within \
             2.01 ms, 99 in 100 within 7.15 ms. Each took 1,700 ns of server CPU, 1.12 times as much \
             as bare loop (1,518 ns)."
        );
    }

    #[test]
    fn a_run_that_only_connects_tells_of_connections() {
        assert_eq!(
            headline(&samples::idle()),
            "1,000 connections got in, 1,111 a second, for 512 B of the server's own memory each."
        );
        assert!(strip(&samples::idle()).contains("connections a second"));
        assert!(!strip(&samples::idle()).contains("latency"));
    }

    #[test]
    fn a_failed_audit_is_said_first_and_with_each_reason() {
        let run = samples::failed();
        assert!(headline(&run).ends_with("The audit failed."));
        let verdict = verdict(&run);
        for part in [
            "Audit failed",
            "5 gaps in the offsets",
            "2,000 connections closed with code 4101",
        ] {
            assert!(verdict.contains(part), "{part}: {verdict}");
        }
        // Named by the run already.
        assert!(!verdict.contains("turn 2"), "{verdict}");
    }

    #[test]
    fn a_turn_that_failed_fails_the_page_even_where_the_run_forgot_to_say_so() {
        let mut run = samples::failed();
        run.failures.clear();
        assert!(verdict(&run).contains("turn 2: 5 gaps in the offsets"));
    }

    #[test]
    fn nothing_delivered_though_something_was_published_is_a_zero() {
        let mut run = samples::one_turn();
        run.turns[0].deliveries = 0;
        run.turns[0].latency = crate::outcome::Latency::default();
        assert!(headline(&run).contains("delivered 0 messages a second"));
    }

    #[test]
    fn counts_have_their_plural() {
        let cases = [
            (1, "delivery", "1 delivery"),
            (2_000, "delivery", "2,000 deliveries"),
            (0, "message", "0 messages"),
        ];
        for (count, what, text) in cases {
            assert_eq!(counted(count, what), text);
        }
    }
}
