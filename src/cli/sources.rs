//! The layers that settings come from, and their order: flag, environment, file, default.
//!
//! Every layer is reduced to the same thing, `--flag=value`, and read by the same parser, so that
//! a value means the same wherever it is written. A flag that may be repeated is a list: in a
//! variable its values stand between commas, in a file in an array. A stronger layer replaces the
//! list of a weaker one, it does not add to it.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use toml::de::{DeTable, DeValue};

use super::policy::Secret;
use super::validate::{Conflict, conflicts};
use super::{CliError, Options};

const PREFIX: &str = "TIDEWHEEL_";

/// The variable that may hold the secret of tokens. It is no flag: a command line is there for every
/// user of the machine to see.
pub const JWT_SECRET_VARIABLE: &str = "TIDEWHEEL_JWT_SECRET";

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

/// The values of one layer by flag: one, or several of a list.
type Layer = BTreeMap<String, (Vec<String>, Origin)>;

/// The values that were given, by flag. What is not there has its default.
pub type Settings = BTreeMap<String, Vec<String>>;

/// What all layers come to.
pub(super) struct Resolved {
    pub options: Options,
    pub settings: Settings,
    /// What was not understood, but does no harm.
    pub warnings: Vec<String>,
}

/// Merges the command line in `flags` with the environment and the file, and checks the whole.
pub(super) fn resolve(flags: &ArgMatches, environment: &Environment) -> Result<Resolved, CliError> {
    let mut warnings = Vec::new();
    let from_environment = environment_layer(environment, &mut warnings)?;
    let from_file = match config_path(flags, environment) {
        Some(path) => file_layer(&path)?,
        None => Layer::new(),
    };

    let mut settings = Settings::new();
    let mut origins = BTreeMap::new();
    for flag in flag_names() {
        let values = if let Some(values) = values_on_command_line(flags, &flag) {
            values
        } else if let Some((values, origin)) =
            from_environment.get(&flag).or_else(|| from_file.get(&flag))
        {
            origins.insert(flag.clone(), origin.clone());
            values.clone()
        } else {
            continue;
        };
        settings.insert(flag, values);
    }
    let merged = settings
        .iter()
        .flat_map(|(flag, values)| values.iter().map(|value| (flag.clone(), value.clone())));
    let mut options =
        options_from(merged).map_err(|error| CliError::CommandLine(error.render().to_string()))?;
    let secret = environment.0.get(JWT_SECRET_VARIABLE);
    options.authentication.jwt_secret = secret.map(|secret| Secret::new(secret));

    let conflicts = conflicts(&options);
    if conflicts.is_empty() {
        return Ok(Resolved {
            options,
            settings,
            warnings,
        });
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

/// Whether a flag may be repeated.
fn is_list(flag: &str) -> bool {
    let command = options_command();
    let mut flags = command.get_arguments();
    flags.any(|arg| {
        arg.get_long() == Some(flag) && matches!(arg.get_action(), clap::ArgAction::Append)
    })
}

fn values_on_command_line(flags: &ArgMatches, flag: &str) -> Option<Vec<String>> {
    let id = flag.replace('-', "_");
    if flags.value_source(&id) != Some(ValueSource::CommandLine) {
        return None;
    }
    let values = flags.get_raw(&id)?;
    values
        .map(|value| value.to_str().map(str::to_owned))
        .collect()
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
            let values = variable_values(flag, value);
            check(flag, &values, &origin)?;
            layer.insert(flag.clone(), (values, origin));
        } else if !is_no_flag(name) && !is_service_link(name) {
            warnings.push(unknown_variable(name));
        }
    }
    Ok(layer)
}

/// A variable's value, or the values between its commas where the flag is a list.
fn variable_values(flag: &str, value: &str) -> Vec<String> {
    if !is_list(flag) {
        return vec![value.to_owned()];
    }
    let values = value.split(',').map(str::trim);
    values
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether a variable is ours and stands for no flag.
fn is_no_flag(name: &str) -> bool {
    name == variable_name("config") || name == JWT_SECRET_VARIABLE
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
        let values = match value.get_ref() {
            DeValue::Array(values) if is_list(key) => {
                let values = values.iter();
                let read = values.map(|value| file_value(key, value.get_ref(), &origin));
                read.collect::<Result<_, _>>()?
            }
            value => vec![file_value(key, value, &origin)?],
        };
        check(key, &values, &origin)?;
        layer.insert(key.to_owned(), (values, origin));
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
    if key == "jwt-secret" {
        return format!(
            "; a secret stands in a file of its own, which jwt-key-file names, or in the variable \
             {JWT_SECRET_VARIABLE}"
        );
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
    let complaint = match is_list(key) {
        true => "write a string, or a list of them",
        false => "write a string, a whole number, true or false",
    };
    Err(CliError::Value {
        flag: key.to_owned(),
        value: kind.to_owned(),
        origin: origin.clone(),
        complaint: complaint.to_owned(),
    })
}

/// Reads each value by itself, so that a refusal can name its place.
fn check(flag: &str, values: &[String], origin: &Origin) -> Result<(), CliError> {
    for value in values {
        let setting = (flag.to_owned(), value.clone());
        options_from(std::iter::once(setting)).map_err(|error| CliError::Value {
            flag: flag.to_owned(),
            value: value.clone(),
            origin: origin.clone(),
            complaint: complaint(&error),
        })?;
    }
    Ok(())
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
