//! The scenarios: sets of values for the one engine, each a file that tells its experiment first.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use clap::{ArgMatches, Command, FromArgMatches};

use crate::settings::Settings;

/// A set of values for the engine.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// The experiment, in the comment lines that open its file.
    pub about: String,
    /// Where its text is from, for error messages.
    origin: String,
    /// Its keys as flags.
    flags: Vec<String>,
}

/// Those that come with the program: name and file.
const BUILT_IN: [(&str, &str); 11] = [
    ("connect", include_str!("../scenarios/connect.toml")),
    ("idle", include_str!("../scenarios/idle.toml")),
    ("fan-out", include_str!("../scenarios/fan-out.toml")),
    ("chat", include_str!("../scenarios/chat.toml")),
    ("ticker", include_str!("../scenarios/ticker.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("slow", include_str!("../scenarios/slow.toml")),
    ("presence", include_str!("../scenarios/presence.toml")),
    ("echo", include_str!("../scenarios/echo.toml")),
    ("mixed", include_str!("../scenarios/mixed.toml")),
    ("soak", include_str!("../scenarios/soak.toml")),
];

/// The names of the scenarios that come with the program.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The file of a scenario that comes with the program.
pub fn text(name: &str) -> Option<&'static str> {
    let found = BUILT_IN.iter().find(|(built_in, _)| *built_in == name);
    found.map(|(_, text)| *text)
}

/// The comment lines that open a scenario's file, without their `#`.
pub fn about(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix('#'));
    lines.map(str::trim).collect::<Vec<_>>().join("\n")
}

impl Scenario {
    /// One that comes with the program.
    pub fn built_in(name: &str) -> anyhow::Result<Scenario> {
        let text = text(name).with_context(|| format!("there is no scenario {name:?}"))?;
        Scenario::parse(name, &format!("scenarios/{name}.toml"), text)
    }

    /// Anyone's file.
    pub fn read(path: &Path) -> anyhow::Result<Scenario> {
        let origin = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("read {origin}"))?;
        let name = path.file_stem().unwrap_or(path.as_os_str());
        Scenario::parse(&name.to_string_lossy(), &origin, &text)
    }

    fn parse(name: &str, origin: &str, text: &str) -> anyhow::Result<Scenario> {
        let table: toml::Table = text.parse().with_context(|| origin.to_owned())?;
        let known = keys();
        let mut flags = Vec::new();
        for (key, value) in &table {
            ensure!(
                known.contains(key),
                "{origin}: there is no key {key:?}; the keys are: {}",
                known.join(", ")
            );
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(truth) => truth.to_string(),
                other => {
                    return Err(anyhow!(
                        "{origin}: {key} = {other:?}: text, a number, true or false are allowed"
                    ));
                }
            };
            let flag = format!("--{key}={value}");
            parse_flags([flag.clone()])
                .map_err(|error| anyhow!("{origin}: {key} = {value}: {}", reason(&error)))?;
            flags.push(flag);
        }
        Ok(Scenario {
            name: name.to_owned(),
            about: about(text),
            origin: origin.to_owned(),
            flags,
        })
    }

    /// Its values, with those of the command line over them.
    pub fn settings(&self, flags: &[String]) -> anyhow::Result<Settings> {
        let all = self.flags.iter().chain(flags).cloned();
        let matches = parse_flags(all)
            .map_err(|error| anyhow!("{} with these flags: {}", self.origin, reason(&error)))?;
        Ok(Settings::from_arg_matches(&matches)?)
    }
}

/// The keys that a scenario's file may have.
fn keys() -> Vec<String> {
    let command = settings_command();
    let longs = command.get_arguments().filter_map(clap::Arg::get_long);
    longs
        .filter(|name| !["help", "version"].contains(name))
        .map(str::to_owned)
        .collect()
}

fn settings_command() -> Command {
    <Settings as clap::Args>::augment_args(Command::new("settings").no_binary_name(true))
}

fn parse_flags(flags: impl IntoIterator<Item = String>) -> Result<ArgMatches, clap::Error> {
    settings_command().try_get_matches_from(flags)
}

/// What clap has to say about a value, without its frame.
fn reason(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.trim_start_matches("error: ");
    let end = text.find("\n\nFor more").or_else(|| text.find("\n\nUsage"));
    let text = text.get(..end.unwrap_or(text.len())).unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_tells_its_experiment_and_has_values_that_hold() {
        for name in names() {
            let scenario = Scenario::built_in(name).unwrap();
            assert_eq!(scenario.about.lines().count(), 3, "{name}");
            scenario.settings(&[]).unwrap();
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let scenario = Scenario::parse("s", "s.toml", "rate = 50\nclients = 7\n").unwrap();
        let settings = scenario.settings(&[]).unwrap();
        assert_eq!((settings.rate, settings.clients), (Some(50.0), 7));
        let flags = ["--in-flight".to_owned(), "4".to_owned()];
        let settings = scenario.settings(&flags).unwrap();
        assert_eq!((settings.rate, settings.in_flight), (None, Some(4)));
    }

    #[test]
    fn a_key_or_value_that_will_not_do_is_named_with_its_file_and_what_is_allowed() {
        let cases = [
            ("speed = 3", ["s.toml", "speed", "keys are", "rate"]),
            ("duration = 3", ["s.toml", "duration", "3", "10s"]),
            ("target = \"x\"", ["s.toml", "target", "x", "broadcast"]),
            ("clients = [1]", ["s.toml", "clients", "1", "a number"]),
        ];
        for (text, mentions) in cases {
            let error = Scenario::parse("s", "s.toml", text)
                .unwrap_err()
                .to_string();
            for mention in mentions {
                assert!(error.contains(mention), "{mention}: {error}");
            }
        }
    }
}
