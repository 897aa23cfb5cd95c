//! Instructions on the paths of a message, counted by callgrind and held against a table.
//!
//! Timings on a shared machine say nothing about a change of some percent; instructions are the same
//! on a busy machine and an idle one. They follow from the compiler too, so the table names the one
//! that it was made with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{find_program, run};
use crate::workspace::Workspace;

/// How far a count may lie from the table, above or below: about what it moves when code elsewhere
/// makes the compiler inline something differently.
const TOLERANCE_PERCENT: f64 = 5.0;

/// The same where the table was made with another compiler.
const OTHER_COMPILER_TOLERANCE_PERCENT: f64 = 15.0;

const PACKAGE: &str = "tidewheel-instructions";

/// Callgrind counts while this function runs.
const COUNTED: &str = "--toggle-collect=tidewheel_instructions::measured";

/// One path, and the instructions of one operation on it.
#[derive(Clone, PartialEq, Debug)]
struct Count {
    path: String,
    instructions: f64,
}

/// Counts, and the compiler that made what was counted.
#[derive(Clone, PartialEq, Debug)]
struct Table {
    rustc: String,
    counts: Vec<Count>,
}

/// Why nothing is counted here, if it is not: the table is of one kind of processor, and callgrind is
/// Linux's.
pub fn absent() -> Option<String> {
    let is_here = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    (!is_here).then(|| "the table is for x86-64 and Linux".to_owned())
}

/// Counts, and holds the counts against the table.
pub fn check(workspace: &Workspace) -> Result<(), String> {
    let file = table_file(workspace);
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let table = Table::parse(&text).ok_or(format!("{} is not a table", file.display()))?;
    let counted = count(workspace)?;
    let tolerance = if table.rustc == counted.rustc {
        TOLERANCE_PERCENT
    } else {
        println!(
            "!!! THE TABLE IS ANOTHER COMPILER'S: it was made with\n!!!   {}\n!!! and this is\n\
             !!!   {}\n!!! so a count may be {OTHER_COMPILER_TOLERANCE_PERCENT} % off, and the \
             check is blunt. To sharpen it: {WRITE}",
            table.rustc, counted.rustc
        );
        OTHER_COMPILER_TOLERANCE_PERCENT
    };
    let faults = table.compare(&counted, tolerance);
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.join("\n       "))
}

/// Counts, and writes the table.
pub fn write(workspace: &Workspace) -> Result<(), String> {
    let file = table_file(workspace);
    let table = count(workspace)?;
    fs::write(&file, table.text())
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

const WRITE: &str = "cargo xtask instructions --write";

fn table_file(workspace: &Workspace) -> PathBuf {
    workspace.root.join("benches/instructions/counts.toml")
}

fn count(workspace: &Workspace) -> Result<Table, String> {
    let build = [
        "build",
        "--profile",
        "quick",
        "--package",
        PACKAGE,
        "--locked",
    ];
    run(&mut workspace.cargo(&build))?;
    if find_program(&["valgrind"]).is_none() {
        return Err("valgrind is missing: `cargo xtask test system` installs it".to_owned());
    }
    let program = workspace.target.join("quick").join(PACKAGE);
    let folder = workspace.target.join("instructions");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let mut counts = Vec::new();
    for line in output(&mut workspace.command(&program))?.lines() {
        let mut words = line.split(' ');
        let (Some(path), Some(times)) = (words.next(), words.next()) else {
            return Err(format!("{PACKAGE} lists no path in `{line}`"));
        };
        let times: f64 = times
            .parse()
            .map_err(|_| format!("{PACKAGE} tells no number in `{line}`"))?;
        let total = count_one(workspace, &program, path, &folder)?;
        counts.push(Count {
            path: path.to_owned(),
            instructions: (total / times * 10.0).round() / 10.0,
        });
    }
    let rustc = output(workspace.command("rustc").arg("--version"))?;
    Ok(Table {
        rustc: rustc.trim().to_owned(),
        counts,
    })
}

/// All instructions of one path. What callgrind noted stays in `folder`, for `callgrind_annotate`.
fn count_one(
    workspace: &Workspace,
    program: &Path,
    path: &str,
    folder: &Path,
) -> Result<f64, String> {
    let notes = folder.join(format!("{path}.callgrind"));
    let mut valgrind = workspace.command("valgrind");
    valgrind
        .args(["--quiet", "--tool=callgrind", COUNTED])
        .arg(format!("--callgrind-out-file={}", notes.display()))
        .arg(program)
        .arg(path);
    run(&mut valgrind)?;
    let text = fs::read_to_string(&notes)
        .map_err(|error| format!("cannot read {}: {error}", notes.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    match total.and_then(|total| total.trim().parse().ok()) {
        Some(total) if total > 0.0 => Ok(total),
        _ => Err(format!("callgrind counted nothing on the path {path}")),
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("a command ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

impl Table {
    /// Reads what [`Table::text`] wrote; comments and empty lines aside, `name = value`.
    fn parse(text: &str) -> Option<Table> {
        let mut rustc = None;
        let mut counts = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.split_once(" = ") else {
                continue;
            };
            if name == "rustc" {
                rustc = Some(value.trim_matches('"').to_owned());
                continue;
            }
            counts.push(Count {
                path: name.to_owned(),
                instructions: value.parse().ok()?,
            });
        }
        Some(Table {
            rustc: rustc?,
            counts,
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# Instructions for one operation on each path, as callgrind counts them in the profile `quick`.\n\
             # Written by `{WRITE}`, checked by `cargo xtask instructions`.\n\
             rustc = \"{}\"\n\n[instructions]\n",
            self.rustc
        );
        for Count { path, instructions } in &self.counts {
            text.push_str(&format!("{path} = {instructions:.1}\n"));
        }
        text
    }

    fn of(&self, path: &str) -> Option<f64> {
        let count = self.counts.iter().find(|count| count.path == path);
        count.map(|count| count.instructions)
    }

    /// Prints both, and answers what is wrong.
    fn compare(&self, counted: &Table, tolerance_percent: f64) -> Vec<String> {
        let mut faults = Vec::new();
        println!("{:<15} {:>9} {:>9} {:>8}", "path", "table", "counted", "%");
        for Count { path, instructions } in &counted.counts {
            let Some(expected) = self.of(path) else {
                faults.push(format!("{path} is not in the table; to add it: {WRITE}"));
                continue;
            };
            let percent = (instructions / expected - 1.0) * 100.0;
            println!("{path:<15} {expected:>9.1} {instructions:>9.1} {percent:>+8.1}");
            let moved = format!("{path}: {expected:.1} -> {instructions:.1}, {percent:+.1} %");
            if percent > tolerance_percent {
                faults.push(format!(
                    "{moved}, SLOWER by more than {tolerance_percent} %; if that has to be: {WRITE}"
                ));
            } else if percent < -tolerance_percent {
                faults.push(format!(
                    "{moved}, better by more than {tolerance_percent} %; so that it stays so, lower \
                     the figure: {WRITE}"
                ));
            }
        }
        let gone = |count: &&Count| counted.of(&count.path).is_none();
        for count in self.counts.iter().filter(gone) {
            let path = &count.path;
            faults.push(format!(
                "{path} is in the table and was not counted: {WRITE}"
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: &[(&str, f64)]) -> Table {
        let count = |(path, instructions): &(&str, f64)| Count {
            path: (*path).to_owned(),
            instructions: *instructions,
        };
        Table {
            rustc: "rustc 1.95.0 (59807616e 2026-04-14)".to_owned(),
            counts: counts.iter().map(count).collect(),
        }
    }

    #[test]
    fn a_table_reads_back_as_it_was_written() {
        let table = table(&[("publish", 6651.0), ("flush_1", 53.7)]);
        assert_eq!(Table::parse(&table.text()), Some(table));
        assert_eq!(Table::parse("publish = 6651.0\n"), None, "no compiler");
        assert_eq!(Table::parse("rustc = \"x\"\npublish = many\n"), None);
    }

    #[test]
    fn what_moved_too_far_is_a_fault_in_both_directions() {
        let expected = table(&[("a", 100.0)]);
        for (counted, word) in [
            (105.1, Some("SLOWER")),
            (104.9, None),
            (95.1, None),
            (94.9, Some("lower the figure")),
        ] {
            let faults = expected.compare(&table(&[("a", counted)]), 5.0);
            match word {
                None => assert_eq!(faults, [""; 0], "{counted}"),
                Some(word) => assert!(faults.concat().contains(word), "{faults:?}"),
            }
        }
    }

    #[test]
    fn a_path_that_only_one_side_has_is_a_fault() {
        let (one, other) = (table(&[("a", 1.0), ("b", 1.0)]), table(&[("a", 1.0)]));
        for (expected, counted) in [(&one, &other), (&other, &one)] {
            let faults = expected.compare(counted, 5.0);
            assert!(faults.concat().starts_with("b is "), "{faults:?}");
        }
    }
}
