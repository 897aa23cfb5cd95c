//! A comparison as text: aligned, and with a sentence at the end.

use std::path::Path;

use super::noise::Change;
use super::{Comparison, Pair, Row};

const HEAD: [&str; 5] = ["", "old", "new", "ratio", ""];
const TOO_FEW: &str = "cannot tell: give --repeat 5";

/// All of it.
pub fn text(comparison: &Comparison, old: &Path, new: &Path) -> String {
    let mut text = format!("old  {}\nnew  {}\n", old.display(), new.display());
    for warning in &comparison.warnings {
        text += &format!("warning: {}\n", plain(warning));
    }
    for pair in &comparison.pairs {
        text += &format!("\n{}, {}\n", plain(&pair.name), repeats(pair));
        text += &aligned(&pair.rows.iter().map(cells).collect::<Vec<_>>());
    }
    text + "\n" + &sentence(comparison) + "\n"
}

fn repeats(pair: &Pair) -> String {
    match pair.repeats {
        (1, 1) => "one turn each".into(),
        (old, new) if old == new => format!("medians of {old} turns each"),
        (old, new) => format!("medians of {old} and {new} turns"),
    }
}

fn cells(row: &Row) -> [String; 5] {
    let ratio = match row.ratio() {
        Some(ratio) => format!("{ratio:.3}"),
        None => "–".into(),
    };
    [
        row.figure.name.to_owned(),
        row.figure.unit.show(row.old),
        row.figure.unit.show(row.new),
        ratio,
        verdict(row),
    ]
}

fn verdict(row: &Row) -> String {
    let way = if row.is_better() { "better" } else { "WORSE" };
    match row.change {
        Change::Ranked(chance) => format!("{way} (by chance {:.1} %)", chance * 100.0),
        Change::Apart => format!("{way} (ranges do not touch)"),
        Change::Far => format!("{way} (beyond 25 %: a rule of thumb, too few repeats)"),
        Change::Noise => "within noise".into(),
        Change::Unknown => TOO_FEW.into(),
    }
}

/// Names to the left, numbers to the right, the verdict after them.
fn aligned(rows: &[[String; 5]]) -> String {
    let head = HEAD.map(str::to_owned);
    let all: Vec<&[String; 5]> = [&head].into_iter().chain(rows).collect();
    let widths: Vec<usize> = (0..4)
        .map(|at| {
            let cells = all.iter().filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in all {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = widths.get(at).copied().unwrap_or(0);
            line += &match at {
                0 => format!("  {cell:<width$}"),
                4 => format!("  {cell}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// What it comes to.
fn sentence(comparison: &Comparison) -> String {
    if comparison.pairs.is_empty() {
        return "The two runs have measured nothing in common.".into();
    }
    let named = |is_meant: fn(&Row) -> bool| -> Vec<String> {
        let rows = comparison.rows().filter(|(_, row)| is_meant(row));
        let name = |(pair, row): (&Pair, &Row)| match comparison.pairs.len() {
            1 => row.figure.name.to_owned(),
            _ => format!("{} of {}", row.figure.name, plain(&pair.name)),
        };
        rows.map(name).collect()
    };
    let (worse, better) = (named(Row::is_worse), named(Row::is_better));
    let unknown = comparison
        .rows()
        .any(|(_, row)| row.change == Change::Unknown);
    let found = match (worse.as_slice(), better.as_slice()) {
        ([], []) if unknown => {
            "Nothing changed so much that these few repeats could tell".to_owned()
        }
        ([], []) => "Nothing changed beyond noise".to_owned(),
        (worse, []) => format!("Worse beyond noise: {}", worse.join(", ")),
        ([], better) => format!("Better beyond noise: {}", better.join(", ")),
        (worse, better) => format!(
            "Worse beyond noise: {}; better: {}",
            worse.join(", "),
            better.join(", ")
        ),
    };
    let advice = match (unknown, comparison.warnings.is_empty()) {
        (true, true) => "; measure both with --repeat 5 to know.",
        (true, false) => "; measure both with --repeat 5, under the same conditions, to know.",
        (false, true) => ".",
        (false, false) => "; mind the warnings.",
    };
    let audit = if comparison.audit_broke {
        "The audit passed in the old run and fails in the new one. "
    } else {
        ""
    };
    format!("{audit}{found}{advice}")
}

/// Names come from a file: nothing in them may steer the terminal.
fn plain(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::outcome_samples as samples;

    fn compared(old: &Outcome, new: &Outcome) -> String {
        text(
            &Comparison::of(old, new),
            Path::new("a.json"),
            Path::new("b.json"),
        )
    }

    fn of_speed(speed: f64, repeats: usize) -> Outcome {
        Outcome {
            turns: vec![samples::turn("tidewheel", speed); repeats],
            ..samples::empty()
        }
    }

    #[test]
    fn columns_stand_beneath_one_another() {
        let text = compared(&of_speed(1.0, 5), &of_speed(0.8, 5));
        let ends: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with("  ") && line.contains(" (by chance"))
            .map(|line| line[..line.find(" WORSE").unwrap()].chars().count())
            .collect();
        assert!(
            ends.len() > 5 && ends.iter().all(|end| *end == ends[0]),
            "{text}"
        );
    }

    #[test]
    fn the_last_sentence_says_what_it_comes_to() {
        let cases = [
            (
                of_speed(1.0, 5),
                of_speed(0.8, 5),
                "Worse beyond noise: deliveries/s, server CPU",
            ),
            (
                of_speed(0.8, 5),
                of_speed(1.0, 5),
                "Better beyond noise: deliveries/s, server CPU",
            ),
            (
                of_speed(1.0, 5),
                of_speed(1.001, 5),
                "Nothing changed beyond noise.",
            ),
            (of_speed(1.0, 1), of_speed(1.1, 1), "to know."),
            (of_speed(1.0, 1), samples::empty(), "nothing in common."),
        ];
        for (old, new, mentions) in cases {
            let text = compared(&old, &new);
            assert!(text.lines().last().unwrap().contains(mentions), "{text}");
        }
    }

    #[test]
    fn single_turns_are_told_to_be_repeated() {
        let text = compared(&of_speed(1.0, 1), &of_speed(1.1, 1));
        assert!(
            text.contains(TOO_FEW) && text.contains("one turn each"),
            "{text}"
        );
        let text = compared(&of_speed(1.0, 1), &of_speed(0.5, 2));
        assert!(
            text.contains("rule of thumb") && text.contains("medians of 1 and 2"),
            "{text}"
        );
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut run = of_speed(1.0, 1);
        run.turns[0].subject = "a\u{1b}[2Jb".into();
        assert!(!compared(&run, &run).contains('\u{1b}'));
    }
}
