//! The layers that settings come from, and their order: flag, environment, file, default.
//!
//! Every layer is reduced to the same thing, `--flag=value`, and read by the same parser, so that
//! a value means the same wherever it is written.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use toml::de::{DeTable, DeValue};

use super::validate::{Conflict, conflicts};
use super::{CliError, Options};

const PREFIX: &str = "TIDEWHEEL_";

/// Where a value is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A variable of the environment.
    Environment(String),
    /// A line of the configuration file, counted from 1.
    File {
        /// The file, as named by the operator.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// The variables that are ours: `TIDEWHEEL_…`, without the empty ones.
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Picks our variables out of `env`.
    pub(super) fn read(
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Environment, CliError> {
        let mut ours = BTreeMap::new();
        for (name, value) in env {
            let Ok(name) = name.into().into_string() else {
                continue;
            };
            if !name.starts_with(PREFIX) {
                continue;
            }
            match value.into().into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => drop(ours.insert(name, value)),
                Err(_) => return Err(CliError::VariableNotUtf8(name)),
            }
        }
        Ok(Environment(ours))
    }
}

/// The variable of a flag: `max-lag-bytes` has `TIDEWHEEL_MAX_LAG_BYTES`.
pub(super) fn variable_name(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// The values of one layer by flag.
type Layer = BTreeMap<String, (String, Origin)>;

/// Merges the command line in `flags` with the environment and the file, and checks the whole.
/// Answers with the warnings about what was not understood but does no harm.
pub(super) fn resolve(
    flags: &ArgMatches,
    environment: &Environment,
) -> Result<(Options, Vec<String>), CliError> {
    let mut warnings = Vec::new();
    let from_environment = environment_layer(environment, &mut warnings)?;
    let from_file = match config_path(flags, environment) {
        Some(path) => file_layer(&path)?,
        None => Layer::new(),
    };

    let mut merged = Vec::new();
    let mut origins = BTreeMap::new();
    for flag in flag_names() {
        if let Some(value) = value_on_command_line(flags, &flag) {
            merged.push((flag, value));
        } else if let Some((value, origin)) =
            from_environment.get(&flag).or_else(|| from_file.get(&flag))
        {
            merged.push((flag.clone(), value.clone()));
            origins.insert(flag, origin.clone());
        }
    }
    let options = options_from(merged.into_iter())
        .map_err(|error| CliError::CommandLine(error.render().to_string()))?;

    let conflicts = conflicts(&options);
    if conflicts.is_empty() {
        return Ok((options, warnings));
    }
    let with_origins = |conflict: Conflict| {
        let named = conflict.flags.iter();
        let found = named.filter_map(|flag| Some((*flag, origins.get(*flag)?.clone())));
        let found = found.collect();
        (conflict, found)
    };
    Err(CliError::Conflicts(
        conflicts.into_iter().map(with_origins).collect(),
    ))
}

/// Options from flags and their values, defaults for the rest.
pub(super) fn options_from(
    settings: impl Iterator<Item = (String, String)>,
) -> Result<Options, clap::Error> {
    let arguments = settings.map(|(flag, value)| format!("--{flag}={value}"));
    let matches = options_command().try_get_matches_from(arguments)?;
    Options::from_arg_matches(&matches)
}

fn options_command() -> Command {
    Options::augment_args(
        Command::new("tidewheel")
            .no_binary_name(true)
            .disable_help_flag(true),
    )
}

fn flag_names() -> Vec<String> {
    let command = options_command();
    let names = command.get_arguments().filter_map(|arg| arg.get_long());
    names.map(str::to_owned).collect()
}

fn value_on_command_line(flags: &ArgMatches, flag: &str) -> Option<String> {
    let id = flag.replace('-', "_");
    if flags.value_source(&id) != Some(ValueSource::CommandLine) {
        return None;
    }
    let value = flags.get_raw(&id)?.next_back()?;
    value.to_str().map(str::to_owned)
}

fn config_path(flags: &ArgMatches, environment: &Environment) -> Option<PathBuf> {
    let flag = flags.get_one::<PathBuf>("config").cloned();
    flag.or_else(|| {
        environment
            .0
            .get(&variable_name("config"))
            .map(PathBuf::from)
    })
}

fn environment_layer(
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Result<Layer, CliError> {
    let known: BTreeMap<String, String> = flag_names()
        .into_iter()
        .map(|flag| (variable_name(&flag), flag))
        .collect();
    let mut layer = Layer::new();
    for (name, value) in &environment.0 {
        if let Some(flag) = known.get(name) {
            let origin = Origin::Environment(name.clone());
            check(flag, value, &origin)?;
            layer.insert(flag.clone(), (value.clone(), origin));
        } else if *name != variable_name("config") && !is_service_link(name) {
            warnings.push(unknown_variable(name));
        }
    }
    Ok(layer)
}

/// Whether Kubernetes sets this variable by itself in a namespace with a service `tidewheel`.
/// Because of these an unknown variable cannot be an error, as an unknown key of the file is.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

fn unknown_variable(name: &str) -> String {
    let key = name.strip_prefix(PREFIX).unwrap_or(name);
    let key = key.to_ascii_lowercase().replace('_', "-");
    match closest_flag(&key) {
        Some(flag) => format!(
            "environment variable {name} is not known and has no effect; did you mean {}?",
            variable_name(&flag)
        ),
        None => format!("environment variable {name} is not known and has no effect"),
    }
}

fn file_layer(path: &Path) -> Result<Layer, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::FileUnreadable {
        path: path.to_owned(),
        error,
    })?;
    let origin_at = |at: usize| Origin::File {
        path: path.to_owned(),
        line: line_of(&text, at),
    };
    let table = DeTable::parse(&text).map_err(|error| CliError::FileSyntax {
        origin: origin_at(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;

    let known = flag_names();
    let mut layer = Layer::new();
    for (key, value) in table.get_ref() {
        let origin = origin_at(key.span().start);
        let key: &str = key.get_ref();
        if !known.iter().any(|flag| flag == key) {
            let hint = unknown_key_hint(key, value.get_ref());
            let key = key.to_owned();
            return Err(CliError::UnknownKey { key, origin, hint });
        }
        let value = file_value(key, value.get_ref(), &origin)?;
        check(key, &value, &origin)?;
        layer.insert(key.to_owned(), (value, origin));
    }
    Ok(layer)
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

fn unknown_key_hint(key: &str, value: &DeValue<'_>) -> String {
    if key == "config" {
        return "; a file cannot name another one".to_owned();
    }
    if let DeValue::Table(_) = value {
        return "; the file has no tables, write every key at the top".to_owned();
    }
    match closest_flag(key) {
        Some(flag) => format!("; did you mean `{flag}`?"),
        None => "; keys are the flags of `tidewheel --help`, without dashes in front".to_owned(),
    }
}

fn file_value(key: &str, value: &DeValue<'_>, origin: &Origin) -> Result<String, CliError> {
    let kind = match value {
        DeValue::String(text) => return Ok(text.to_string()),
        DeValue::Integer(number) => return Ok(number.to_string()),
        DeValue::Boolean(truth) => return Ok(truth.to_string()),
        DeValue::Float(_) => "a fraction",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Err(CliError::Value {
        flag: key.to_owned(),
        value: kind.to_owned(),
        origin: origin.clone(),
        complaint: "write a string, a whole number, true or false".to_owned(),
    })
}

/// Reads one value by itself, so that a refusal can name its place.
fn check(flag: &str, value: &str, origin: &Origin) -> Result<(), CliError> {
    let setting = (flag.to_owned(), value.to_owned());
    match options_from(std::iter::once(setting)) {
        Ok(_) => Ok(()),
        Err(error) => Err(CliError::Value {
            flag: flag.to_owned(),
            value: value.to_owned(),
            origin: origin.clone(),
            complaint: complaint(&error),
        }),
    }
}

fn complaint(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => format!("write {}", values.join(" or ")),
        _ => error.kind().to_string(),
    }
}

/// The flag that was probably meant, by clap's own measure.
fn closest_flag(key: &str) -> Option<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if key.is_empty() || !key.chars().all(is_word) {
        return None;
    }
    let error = options_command()
        .try_get_matches_from([format!("--{key}")])
        .err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(flag) => Some(flag.trim_start_matches('-').to_owned()),
        _ => None,
    }
}
