//! The command line: a scenario by its name or file, and the flags that change its values.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, value_parser};

use crate::scenario::{self, Scenario};
use crate::settings::{Profile, Settings};

/// What the program is to do.
#[derive(Debug)]
pub enum Task {
    /// Run a scenario with these settings.
    Run {
        /// Its name.
        name: String,
        /// Its experiment.
        about: String,
        /// What is in force.
        settings: Box<Settings>,
    },
    /// Print the scenarios.
    List,
    /// Hold one result against another.
    Compare {
        /// The older result.
        old: PathBuf,
        /// The newer one.
        new: PathBuf,
        /// Whether a change for the worse is a failure.
        fail_on_regression: bool,
    },
    /// Be the bare loop.
    ServeBaseline {
        /// Bytes of a message's frame.
        frame_bytes: usize,
        /// Send through io_uring.
        uring: bool,
        /// Threads, each with a descriptor table of its own.
        loops: usize,
    },
}

/// Reads the command line; ends the program where it is wrong, or help is all that is asked for.
pub fn parse() -> anyhow::Result<Task> {
    let all: Vec<OsString> = std::env::args_os().collect();
    let matches = command().get_matches_from(&all);
    let text = |arg: &OsString| arg.to_string_lossy().into_owned();
    task(&matches, &all.iter().map(text).collect::<Vec<_>>())
}

fn task(matches: &ArgMatches, all: &[String]) -> anyhow::Result<Task> {
    let (name, matches) = matches.subcommand().unwrap_or(("list", matches));
    // The name comes right after the program.
    let flags = all.get(2..).unwrap_or_default();
    match name {
        "list" => Ok(Task::List),
        "serve-baseline" => Ok(Task::ServeBaseline {
            frame_bytes: matches
                .get_one("frame-bytes")
                .copied()
                .unwrap_or(Settings::FRAME_BYTES),
            uring: matches.get_flag("uring"),
            loops: matches.get_one("loops").copied().unwrap_or(1),
        }),
        "compare" => {
            let path = |name| {
                matches
                    .get_one::<PathBuf>(name)
                    .cloned()
                    .unwrap_or_default()
            };
            Ok(Task::Compare {
                old: path("old"),
                new: path("new"),
                fail_on_regression: matches.get_flag("fail-on-regression"),
            })
        }
        "run" => {
            let file: Option<&PathBuf> = matches.get_one("file");
            let file = file.cloned().unwrap_or_default();
            // The file is among the flags: it is the one that clap took for it.
            let position = flags.iter().position(|it| file.as_os_str() == it.as_str());
            let mut flags = flags.to_vec();
            if let Some(position) = position {
                flags.remove(position);
            }
            run(&Scenario::read(&file)?, &flags, |_| {})
        }
        "baseline" => run(&Scenario::built_in("fan-out")?, flags, |settings| {
            settings.target = Profile::BareLoop;
        }),
        "compare-baseline" => run(&Scenario::built_in("fan-out")?, flags, |settings| {
            settings.against_baseline = true;
        }),
        name => run(&Scenario::built_in(name)?, flags, |_| {}),
    }
}

fn run(
    scenario: &Scenario,
    flags: &[String],
    change: impl FnOnce(&mut Settings),
) -> anyhow::Result<Task> {
    let mut settings = scenario.settings(flags)?;
    change(&mut settings);
    Ok(Task::Run {
        name: scenario.name.clone(),
        about: scenario.about.clone(),
        settings: Box::new(settings),
    })
}

fn command() -> Command {
    let mut command = Command::new("tidewheel-load")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Load harness for Tidewheel: verifies every delivery while it measures")
        .after_help(
            "Exits with 1 where a message was lost, repeated or reordered without an explanation, \
             with 2 where the run could not be done.\nTimes are of one machine's CLOCK_MONOTONIC: \
             publishers and receivers are this one process. A message at a fixed rate is timed \
             from the moment at which it should have left.",
        )
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true);
    for name in scenario::names() {
        let text = scenario::text(name).unwrap_or_default();
        let about = scenario::about(text);
        let first = about.lines().next().unwrap_or_default().to_owned();
        let scenario = Command::new(name).after_help(format!(
            "This scenario's values, which flags change:\n{text}"
        ));
        command = command.subcommand(with_settings(scenario, &first));
    }
    let file = Arg::new("file")
        .value_name("FILE")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("A scenario: keys named like the flags, after a comment that tells the experiment");
    let own = Command::new("run").arg(file);
    let bare = "The bare loop of send() behind the same clients: what the kernel alone costs";
    let compare = "fan-out and the bare loop by turns: medians and their ratio";
    let number = |name| Arg::new(name).long(name).value_parser(value_parser!(usize));
    let flag = |name| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let result = |name, label, help| {
        Arg::new(name)
            .value_name(label)
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    command
        .subcommand(with_settings(own, "A scenario of one's own"))
        .subcommand(Command::new("list").about("The scenarios, a line each"))
        .subcommand(with_settings(Command::new("baseline"), bare))
        .subcommand(with_settings(Command::new("compare-baseline"), compare))
        .subcommand(
            Command::new("compare")
                .about("Two results side by side: what changed, and whether beyond noise")
                .arg(result("old", "OLD", "The older result, as --json wrote it"))
                .arg(result("new", "NEW", "The newer one"))
                .arg(flag("fail-on-regression").help(
                    "Exit with 1 where something got worse beyond noise, or an audit fails that passed",
                )),
        )
        .subcommand(
            Command::new("serve-baseline")
                .about("The bare loop itself, started by the others")
                .hide(true)
                .args([number("frame-bytes"), number("loops"), flag("uring")]),
        )
}

/// Adds the flags of a run, which would give the command an `about` of their own.
fn with_settings(command: Command, about: &str) -> Command {
    Settings::augment_args(command).about(about.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_and_scenario_says_in_a_line_what_it_is() {
        for name in scenario::names() {
            let about = scenario::about(scenario::text(name).unwrap());
            assert!(about.lines().next().unwrap().ends_with('.'), "{about}");
        }
        let mut abouts: Vec<String> = command()
            .get_subcommands()
            .map(|it| it.get_about().unwrap().to_string())
            .collect();
        let all = abouts.len();
        abouts.sort();
        abouts.dedup();
        assert_eq!(abouts.len(), all, "{abouts:?}");
    }

    fn parse(line: &str) -> anyhow::Result<Task> {
        let all: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let matches = command().try_get_matches_from(&all)?;
        task(&matches, &all)
    }

    fn settings(line: &str) -> Settings {
        match parse(line).unwrap() {
            Task::Run { settings, .. } => *settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_scenario_has_its_files_values_and_flags_win_over_them() {
        let idle = settings("tidewheel-load idle --connections 5");
        assert_eq!((idle.clients, idle.warmup.as_secs()), (5, 0));
        assert_eq!(settings("tidewheel-load idle").clients, 10_000);
    }

    #[test]
    fn baselines_are_fan_outs_of_another_target() {
        assert_eq!(settings("t baseline").target, Profile::BareLoop);
        assert!(settings("t compare-baseline --receivers 3").against_baseline);
    }

    #[test]
    fn a_file_of_ones_own_is_run_wherever_it_stands_among_the_flags() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/idle.toml");
        for line in [
            format!("t run {file} --clients 7"),
            format!("t run --clients 7 {file}"),
        ] {
            assert_eq!(settings(&line).clients, 7);
        }
        let missing = parse("t run /nowhere.toml").unwrap_err();
        assert!(format!("{missing:#}").contains("/nowhere.toml"));
    }
}
