//! Everything there is, in tables: for those who want the rest.

use std::collections::BTreeSet;

use super::markup::escaped;
use crate::audit::Audit;
use crate::figures::grouped;
use crate::measures::{
    ALL, CLIENT_CPU, CONNECTS, DELIVERIES, Figure, Group, MESSAGES_PER_WRITE, SERVER_CPU,
    SERVER_RSS, Unit, digits, groups, per,
};
use crate::outcome::{Arrival, Latency, Outcome, Turn};

const ABSENT: &str = "–";

/// A column: its name, and a cell of it.
type Column<T> = (&'static str, fn(&T) -> String);

/// All tables that have a row.
pub fn section(outcome: &Outcome) -> String {
    if outcome.turns.is_empty() {
        return String::new();
    }
    [
        "<section class=\"tables\">\n<h2>In figures</h2>\n".to_owned(),
        turns(outcome),
        medians(outcome),
        arrivals(outcome),
        resources(outcome),
        times(outcome),
        counts(outcome),
        audit(outcome),
        ledger(outcome),
        "</section>\n".to_owned(),
    ]
    .concat()
}

fn turns(outcome: &Outcome) -> String {
    let columns: [Column<Turn>; 12] = [
        ("window", |turn| format!("{:.1} s", turn.seconds)),
        ("connections", |turn| count(turn.connections)),
        ("rooms", |turn| count(turn.rooms)),
        ("publishes", |turn| count(turn.publishes)),
        ("deliveries", |turn| count(turn.deliveries)),
        ("deliveries/s", |turn| cell(&DELIVERIES, turn)),
        ("received", |turn| rate_bytes(turn)),
        ("p50", |turn| time(turn, |it| it.p50_ms)),
        ("p90", |turn| time(turn, |it| it.p90_ms)),
        ("p99", |turn| time(turn, |it| it.p99_ms)),
        ("p99.9", |turn| time(turn, |it| it.p999_ms)),
        ("max", |turn| time(turn, |it| it.max_ms)),
    ];
    by_turn("Turns", outcome, &columns, |turn| Some(turn))
}

/// Medians, least and most of what was repeated.
fn medians(outcome: &Outcome) -> String {
    let groups = groups(outcome);
    if groups.iter().all(|group| group.turns.len() < 2) {
        return String::new();
    }
    let head: Vec<String> = groups.iter().map(Group::name).collect();
    let rows = ALL.iter().filter_map(|figure| {
        let cells: Vec<String> = groups.iter().map(|group| spread(group, figure)).collect();
        let is_known = cells.iter().any(|cell| cell != ABSENT);
        is_known.then(|| (figure.name.to_owned(), cells))
    });
    table(
        "Medians, and least to most",
        "figure",
        &head,
        rows.collect(),
    )
}

fn spread(group: &Group<'_>, figure: &Figure) -> String {
    let values = group.values(figure);
    let Some(median) = group.median(figure) else {
        return ABSENT.into();
    };
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let show = |value| figure.unit.show(value);
    format!("{} ({} to {})", show(median), show(least), show(most))
}

fn arrivals(outcome: &Outcome) -> String {
    let columns: [Column<Turn>; 8] = [
        ("connected", |turn| {
            arrival(turn, |it| Some(count(it.connected)))
        }),
        ("refused", |turn| {
            arrival(turn, |it| Some(count(it.refused)))
        }),
        ("all connected after", |turn| {
            arrival(turn, |it| Some(Unit::Milliseconds.show(it.connect_s * 1e3)))
        }),
        ("all joined after", |turn| {
            arrival(turn, |it| Some(Unit::Milliseconds.show(it.join_s * 1e3)))
        }),
        ("connections/s", |turn| cell(&CONNECTS, turn)),
        ("server CPU each", |turn| {
            arrival(turn, |it| {
                Some(Unit::Microseconds.show(it.server_cpu_us_each?))
            })
        }),
        ("server memory each", |turn| {
            arrival(turn, |it| Some(Unit::Bytes.show(it.server_bytes_each?)))
        }),
        ("kernel objects each, both ends", |turn| {
            arrival(turn, |it| Some(Unit::Bytes.show(it.kernel_bytes_each?)))
        }),
    ];
    by_turn("How everyone got in", outcome, &columns, |turn| {
        turn.arrival.map(|_| turn)
    })
}

fn resources(outcome: &Outcome) -> String {
    let columns: [Column<Turn>; 11] = [
        ("server CPU each", |turn| cell(&SERVER_CPU, turn)),
        ("server cores", |turn| {
            cores(turn.server.map(|side| side.cpu_ns), turn)
        }),
        ("client CPU each", |turn| cell(&CLIENT_CPU, turn)),
        ("client cores", |turn| cores(Some(turn.client.cpu_ns), turn)),
        ("messages per write", |turn| cell(&MESSAGES_PER_WRITE, turn)),
        ("server switches", |turn| {
            let switches = turn.server.map(|it| {
                it.switches_voluntary
                    .saturating_add(it.switches_involuntary)
            });
            switches.map_or(ABSENT.into(), count)
        }),
        ("server RSS", |turn| cell(&SERVER_RSS, turn)),
        ("server's own", |turn| {
            turn.server
                .map_or(ABSENT.into(), |it| bytes(it.rss_anon_bytes))
        }),
        ("machine's TCP sockets", |turn| {
            match turn.kernel.tcp_sockets {
                0 => ABSENT.into(),
                sockets => count(sockets),
            }
        }),
        ("machine's TCP buffers", |turn| {
            bytes(turn.kernel.tcp_buffer_bytes)
        }),
        ("machine's kernel objects", |turn| {
            bytes(turn.kernel.slab_bytes)
        }),
    ];
    by_turn("What it took", outcome, &columns, |turn| Some(turn))
}

/// Other times that a scenario took: a row for each turn and name.
fn times(outcome: &Outcome) -> String {
    let head = [
        "count", "least", "mean", "p50", "p90", "p99", "p99.9", "max",
    ]
    .map(str::to_owned);
    let turns = outcome.turns.iter().enumerate();
    let rows = turns.flat_map(|(index, turn)| {
        turn.times.iter().map(move |(name, times)| {
            let name = format!("{name}, {}", turn_name(index, turn));
            let of = |value: fn(&Latency) -> f64| Unit::Milliseconds.show(value(times));
            let cells = vec![
                count(times.count),
                of(|it| it.min_ms),
                of(|it| it.mean_ms),
                of(|it| it.p50_ms),
                of(|it| it.p90_ms),
                of(|it| it.p99_ms),
                of(|it| it.p999_ms),
                of(|it| it.max_ms),
            ];
            (name, cells)
        })
    });
    table("Other times", "time", &head, rows.collect())
}

fn counts(outcome: &Outcome) -> String {
    let names: BTreeSet<&String> = outcome
        .turns
        .iter()
        .flat_map(|turn| turn.counts.keys())
        .collect();
    let rows = names.into_iter().map(|name| {
        let cells = outcome
            .turns
            .iter()
            .map(|turn| turn.counts.get(name).map_or(ABSENT.into(), |it| count(*it)));
        (name.clone(), cells.collect())
    });
    table(
        "Other counts",
        "count",
        &turn_names(outcome),
        rows.collect(),
    )
}

fn audit(outcome: &Outcome) -> String {
    let lines: [Column<Audit>; 14] = [
        ("receivers that were joined", |audit| count(audit.receivers)),
        ("messages that arrived, in order", |audit| {
            count(audit.delivered)
        }),
        ("gaps in the offsets", |audit| count(audit.gaps)),
        ("messages missing in those gaps", |audit| {
            count(audit.missing_in_gaps)
        }),
        ("messages that came twice", |audit| count(audit.repeats)),
        ("messages out of order", |audit| count(audit.out_of_order)),
        ("messages that were altered", |audit| count(audit.altered)),
        ("messages missing at the end", |audit| {
            count(audit.missing_at_end)
        }),
        ("connections that ended without a close code", |audit| {
            count(audit.resets)
        }),
        ("messages not delivered because of that", |audit| {
            count(audit.undelivered_reset)
        }),
        ("messages announced as missed", |audit| {
            count(audit.announced_missed)
        }),
        ("announcements that do not follow on", |audit| {
            count(audit.announced_wrongly)
        }),
        ("messages not delivered because of a close code", |audit| {
            count(audit.undelivered_closed)
        }),
        ("faults against the protocol", |audit| count(audit.faults)),
    ];
    let mut rows: Vec<(String, Vec<String>)> = lines
        .iter()
        .map(|(name, value)| {
            let cells = outcome.turns.iter().map(|turn| value(&turn.audit));
            ((*name).to_owned(), cells.collect())
        })
        .collect();
    rows.extend(by_code(outcome, "closed with code", |audit| {
        audit
            .closes
            .iter()
            .map(|(code, count)| (u64::from(*code), *count))
            .collect()
    }));
    rows.extend(by_code(outcome, "errors with code", |audit| {
        audit
            .errors
            .iter()
            .map(|(code, count)| (*code, *count))
            .collect()
    }));
    if outcome
        .turns
        .iter()
        .any(|turn| turn.audit.first_fault.is_some())
    {
        let cells = outcome.turns.iter().map(|turn| {
            turn.audit
                .first_fault
                .clone()
                .unwrap_or_else(|| ABSENT.into())
        });
        rows.push(("the first fault".into(), cells.collect()));
    }
    table(
        "What the receivers saw",
        "audit",
        &turn_names(outcome),
        rows,
    )
}

fn by_code(
    outcome: &Outcome,
    what: &str,
    of: fn(&Audit) -> Vec<(u64, u64)>,
) -> Vec<(String, Vec<String>)> {
    let turns: Vec<Vec<(u64, u64)>> = outcome.turns.iter().map(|turn| of(&turn.audit)).collect();
    let codes: BTreeSet<u64> = turns.iter().flatten().map(|(code, _)| *code).collect();
    let rows = codes.into_iter().map(|code| {
        let cells = turns.iter().map(|turn| {
            let found = turn.iter().find(|(known, _)| *known == code);
            count(found.map_or(0, |(_, count)| *count))
        });
        (format!("{what} {code}"), cells.collect())
    });
    rows.collect()
}

fn ledger(outcome: &Outcome) -> String {
    let labels: BTreeSet<&str> = outcome
        .turns
        .iter()
        .flat_map(|turn| &turn.ledger)
        .map(|line| line.labels.as_str())
        .collect();
    let rows = labels.into_iter().map(|labels| {
        let cells = outcome.turns.iter().map(|turn| {
            let line = turn.ledger.iter().find(|line| line.labels == labels);
            line.map_or(ABSENT.into(), |line| grouped(line.count))
        });
        (labels.replace('"', "").replace(',', ", "), cells.collect())
    });
    table(
        "The server's ledger: what became of each message",
        "ledger",
        &turn_names(outcome),
        rows.collect(),
    )
}

fn by_turn(
    title: &str,
    outcome: &Outcome,
    columns: &[Column<Turn>],
    select: fn(&Turn) -> Option<&Turn>,
) -> String {
    let turns = outcome
        .turns
        .iter()
        .enumerate()
        .filter_map(|(index, turn)| Some((index, select(turn)?)));
    let mut rows: Vec<(String, Vec<String>)> = turns
        .map(|(index, turn)| {
            let cells = columns.iter().map(|(_, cell)| cell(turn));
            (turn_name(index, turn), cells.collect())
        })
        .collect();
    // A column that says nothing in any row is left out.
    let said: Vec<bool> = (0..columns.len())
        .map(|at| {
            rows.iter()
                .any(|(_, cells)| cells.get(at).is_some_and(|cell| cell != ABSENT))
        })
        .collect();
    for (_, cells) in &mut rows {
        let mut said = said.iter();
        cells.retain(|_| said.next().copied().unwrap_or(true));
    }
    let head = columns.iter().zip(&said).filter(|(_, said)| **said);
    let head: Vec<String> = head.map(|((name, _), _)| (*name).to_owned()).collect();
    table(title, "turn", &head, rows)
}

/// A table whose first column names its rows; nothing where there are none.
fn table(title: &str, first: &str, head: &[String], rows: Vec<(String, Vec<String>)>) -> String {
    if rows.is_empty() || head.is_empty() {
        return String::new();
    }
    let head: String = head
        .iter()
        .map(|name| format!("<th scope=\"col\">{}</th>", escaped(name)))
        .collect();
    let rows: String = rows
        .iter()
        .map(|(name, cells)| {
            let cells: String = cells.iter().map(|cell| marked_up(cell)).collect();
            format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escaped(name))
        })
        .collect();
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\"><table>\n<caption>{title}</caption>\n\
         <thead><tr><th scope=\"col\">{first}</th>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

/// Zero and absent recede, so that what there is stands out.
fn marked_up(cell: &str) -> String {
    let class = if cell == "0" || cell == ABSENT {
        " class=\"none\""
    } else {
        ""
    };
    format!("<td{class}>{}</td>", escaped(cell))
}

fn turn_names(outcome: &Outcome) -> Vec<String> {
    outcome
        .turns
        .iter()
        .enumerate()
        .map(|(index, turn)| turn_name(index, turn))
        .collect()
}

fn turn_name(index: usize, turn: &Turn) -> String {
    let phase = turn
        .phase
        .as_ref()
        .map_or(String::new(), |phase| format!(", {phase}"));
    format!("{} {}{phase}", index + 1, turn.subject)
}

fn cell(figure: &Figure, turn: &Turn) -> String {
    (figure.of)(turn).map_or(ABSENT.into(), |value| {
        if figure.unit == Unit::PerSecond {
            digits(value)
        } else {
            figure.unit.show(value)
        }
    })
}

fn time(turn: &Turn, of: fn(&Latency) -> f64) -> String {
    if turn.latency.count == 0 {
        return ABSENT.into();
    }
    Unit::Milliseconds.show(of(&turn.latency))
}

fn arrival(turn: &Turn, of: fn(Arrival) -> Option<String>) -> String {
    turn.arrival.and_then(of).unwrap_or_else(|| ABSENT.into())
}

fn cores(cpu_ns: Option<u64>, turn: &Turn) -> String {
    let cores = cpu_ns.and_then(|ns| per(ns as f64 / 1e9, turn.seconds));
    cores.map_or(ABSENT.into(), |cores| format!("{cores:.2}"))
}

fn rate_bytes(turn: &Turn) -> String {
    let rate = per(turn.bytes as f64, turn.seconds).filter(|rate| *rate > 0.0);
    rate.map_or(ABSENT.into(), |rate| {
        format!("{}/s", Unit::Bytes.show(rate))
    })
}

fn count(count: u64) -> String {
    grouped(count as f64)
}

fn bytes(bytes: u64) -> String {
    if bytes == 0 {
        ABSENT.into()
    } else {
        Unit::Bytes.show(bytes as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome_samples as samples;

    #[test]
    fn every_turn_has_a_row_and_repeats_have_medians() {
        let tables = section(&samples::beside_baseline(3));
        for name in [
            "1 tidewheel",
            "6 bare loop",
            "Medians, and least to most",
            "outcome=delivered",
        ] {
            assert!(tables.contains(name), "{name}");
        }
        assert!(!section(&samples::one_turn()).contains("Medians"));
    }

    #[test]
    fn a_table_without_rows_and_a_column_without_values_are_left_out() {
        let tables = section(&samples::idle());
        for absent in [
            "Other times",
            "Other counts",
            "ledger",
            ">p99<",
            "messages per write",
        ] {
            assert!(!tables.contains(absent), "{absent}");
        }
        assert!(tables.contains("all joined after"));
        assert_eq!(section(&samples::empty()), "");
    }

    #[test]
    fn times_counts_codes_and_the_first_fault_are_told() {
        let tables = section(&samples::failed());
        for part in [
            "recovery, 2 tidewheel, beside stalled readers",
            "reconnects",
            "closed with code 4101",
            "a message before room_joined",
        ] {
            assert!(tables.contains(part), "{part}");
        }
    }
}
