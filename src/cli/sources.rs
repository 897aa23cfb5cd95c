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
use super::rooms::{self, RoomTable};
use super::validate::{Conflict, conflicts};
use super::{CliError, Options};

const PREFIX: &str = "TIDEWHEEL_";

/// The variable that may hold the secret of tokens. It is no flag: a command line is there for every
/// user of the machine to see.
pub const JWT_SECRET_VARIABLE: &str = "TIDEWHEEL_JWT_SECRET";
/// The file's key for tables of rules, and the flag's name that it shares.
const ROOMS: &str = "rooms";

/// The key in a file for that flag, beside tables.
const ROOM_NAMES: &str = "room-names";

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

    /// What [`JWT_SECRET_VARIABLE`] holds.
    pub(super) fn jwt_secret(&self) -> Option<Secret> {
        let secret = self.0.get(JWT_SECRET_VARIABLE);
        secret.map(|secret| Secret::new(secret))
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
    let (from_file, tables) = match config_path(flags, environment) {
        Some(path) => read_file(&path)?,
        None => Default::default(),
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
    options.authentication.jwt_secret = environment.jwt_secret();
    options.rooms.tables = tables;

    let conflicts = conflicts(&options);
    if conflicts.is_empty() {
        warnings.extend(rooms::warnings(&options));
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

/// The options of these settings, with what a file and the environment give besides.
///
/// # Errors
/// [`CliError`] where the server would not start with them.
pub(super) fn options_of(settings: &Settings, beside: &Options) -> Result<Options, CliError> {
    let merged = settings
        .iter()
        .flat_map(|(flag, values)| values.iter().map(|value| (flag.clone(), value.clone())));
    let mut options =
        options_from(merged).map_err(|error| CliError::CommandLine(error.render().to_string()))?;
    options.authentication.jwt_secret = beside.authentication.jwt_secret.clone();
    options.rooms.tables = beside.rooms.tables.clone();
    let conflicts = conflicts(&options);
    if conflicts.is_empty() {
        return Ok(options);
    }
    let without_places = conflicts.into_iter().map(|conflict| (conflict, Vec::new()));
    Err(CliError::Conflicts(without_places.collect()))
}

/// Options from the text of a file alone, which errors call `FILE`, and what there is to warn of.
///
/// # Errors
/// [`CliError`] where the server would not start with it.
pub fn options_from_text(text: &str) -> Result<(Options, Vec<String>), CliError> {
    let (layer, tables) = file_layer(Path::new("FILE"), text)?;
    let settings = layer.into_iter().flat_map(|(flag, (values, _))| {
        let named = move |value| (flag.clone(), value);
        values.into_iter().map(named)
    });
    let mut options = options_from(settings)
        .map_err(|error| CliError::CommandLine(error.render().to_string()))?;
    options.rooms.tables = tables;
    let conflicts = conflicts(&options);
    if !conflicts.is_empty() {
        let without_places = conflicts.into_iter().map(|conflict| (conflict, Vec::new()));
        return Err(CliError::Conflicts(without_places.collect()));
    }
    let warnings = rooms::warnings(&options);
    Ok((options, warnings))
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

/// Whether a flag's one value is a list whose parts are separated by commas.
fn takes_commas(flag: &str) -> bool {
    let command = options_command();
    let mut flags = command.get_arguments();
    flags.any(|arg| {
        let value = arg.get_value_names().and_then(|names| names.first());
        arg.get_long() == Some(flag)
            && value.is_some_and(|name| name == "LIST" || name == "NETWORKS")
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
            for value in &values {
                read_value(flag, flag, value, &origin)?;
            }
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

/// What is wrong with a file: all of it, each with its place.
pub(super) struct Faults<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<(usize, CliError)>,
}

impl Faults<'_> {
    /// The line of a byte of the text.
    pub(super) fn line_at(&self, at: usize) -> usize {
        line_of(self.text, at)
    }

    /// The place of a byte of the text.
    pub(super) fn origin_at(&self, at: usize) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line: self.line_at(at),
        }
    }

    /// How many were found so far.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Takes one in that was found at a byte of the text.
    pub(super) fn push(&mut self, at: usize, fault: CliError) {
        self.found.push((at, fault));
    }

    /// A value that is none of its key's.
    pub(super) fn value(&mut self, at: usize, key: &str, value: &str, complaint: &str) {
        let fault = CliError::Value {
            flag: key.to_owned(),
            value: value.to_owned(),
            origin: self.origin_at(at),
            complaint: complaint.to_owned(),
        };
        self.push(at, fault);
    }

    /// A key that there is not.
    pub(super) fn unknown_key(&mut self, at: usize, key: &str, hint: String) {
        let (key, origin) = (key.to_owned(), self.origin_at(at));
        self.push(at, CliError::UnknownKey { key, origin, hint });
    }

    /// Something that is not there or not as it should be.
    pub(super) fn syntax(&mut self, at: usize, message: &str) {
        let (origin, message) = (self.origin_at(at), message.to_owned());
        self.push(at, CliError::FileSyntax { origin, message });
    }

    /// Nothing, or all of them in the order of the text.
    fn into_result(self) -> Result<(), CliError> {
        let mut found = self.found;
        found.sort_by_key(|(at, _)| *at);
        let mut faults: Vec<CliError> = found.into_iter().map(|(_, fault)| fault).collect();
        match faults.len() {
            0 => Ok(()),
            1 => Err(faults.remove(0)),
            _ => Err(CliError::Several(faults)),
        }
    }
}

fn read_file(path: &Path) -> Result<(Layer, Vec<RoomTable>), CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::FileUnreadable {
        path: path.to_owned(),
        error,
    })?;
    file_layer(path, &text)
}

fn file_layer(path: &Path, text: &str) -> Result<(Layer, Vec<RoomTable>), CliError> {
    let mut faults = Faults {
        path,
        text,
        found: Vec::new(),
    };
    let table = DeTable::parse(text).map_err(|error| CliError::FileSyntax {
        origin: faults.origin_at(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;

    let known = flag_names();
    let (mut layer, mut tables) = (Layer::new(), Vec::new());
    for (key, value) in table.get_ref() {
        let at = key.span().start;
        let origin = faults.origin_at(at);
        let key: &str = key.get_ref();
        if key == ROOMS && !matches!(value.get_ref(), DeValue::String(_)) {
            tables = rooms::read(value.get_ref(), at, &mut faults);
            continue;
        }
        let flag = if key == ROOM_NAMES { ROOMS } else { key };
        if !known.iter().any(|name| name == flag) {
            let hint = unknown_key_hint(key, value.get_ref());
            faults.unknown_key(at, key, hint);
            continue;
        }
        match file_values(flag, key, value.get_ref(), &origin) {
            Ok(values) => drop(layer.insert(flag.to_owned(), (values, origin))),
            Err(fault) => faults.push(at, fault),
        }
    }
    faults.into_result()?;
    Ok((layer, tables))
}

/// What the file gives a flag, which it calls `key`: one value, or an array for a list.
fn file_values(
    flag: &str,
    key: &str,
    value: &DeValue<'_>,
    origin: &Origin,
) -> Result<Vec<String>, CliError> {
    let values = match value {
        DeValue::Array(values) if is_list(flag) => {
            let values = values.iter();
            let read = values.map(|value| file_value(key, value.get_ref(), origin));
            read.collect::<Result<Vec<_>, _>>()?
        }
        DeValue::Array(values) if takes_commas(flag) => {
            let values = values.iter();
            let read = values.map(|value| file_value(key, value.get_ref(), origin));
            vec![read.collect::<Result<Vec<_>, _>>()?.join(",")]
        }
        value => vec![file_value(key, value, origin)?],
    };
    for value in &values {
        read_value(flag, key, value, origin)?;
    }
    Ok(values)
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
        return "; the file has no tables but [[rooms]], write every other key at the top"
            .to_owned();
    }
    match closest_flag(key) {
        Some(flag) => format!("; did you mean `{flag}`?"),
        None => "; keys are the flags of `tidewheel --help`, without dashes in front".to_owned(),
    }
}

pub(super) fn file_value(
    key: &str,
    value: &DeValue<'_>,
    origin: &Origin,
) -> Result<String, CliError> {
    let kind = match value {
        DeValue::String(text) => return Ok(text.to_string()),
        DeValue::Integer(number) => return Ok(number.to_string()),
        DeValue::Boolean(truth) => return Ok(truth.to_string()),
        DeValue::Float(_) => "a fraction",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(items) if is_list(key) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            match texts.collect::<Option<Vec<String>>>() {
                Some(texts) => return Ok(texts.join(",")),
                None => "an array of something else than strings",
            }
        }
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

/// Reads one value by itself, so that a refusal can name its place; `key` is what it calls the flag.
pub(super) fn read_value(
    flag: &str,
    key: &str,
    value: &str,
    origin: &Origin,
) -> Result<Options, CliError> {
    let setting = (flag.to_owned(), value.to_owned());
    options_from(std::iter::once(setting)).map_err(|error| CliError::Value {
        flag: key.to_owned(),
        value: value.to_owned(),
        origin: origin.clone(),
        complaint: complaint(&error),
    })
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

/// The flag that was probably meant.
fn closest_flag(key: &str) -> Option<String> {
    closest_in(options_command(), key)
}

/// The name among some that was probably meant.
pub(super) fn closest(key: &str, names: impl Iterator<Item = &'static str>) -> Option<String> {
    let command = Command::new("tidewheel").no_binary_name(true);
    let arguments = names.map(|name| clap::Arg::new(name).long(name));
    closest_in(command.args(arguments), key)
}

/// By clap's own measure.
fn closest_in(command: Command, key: &str) -> Option<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if key.is_empty() || !key.chars().all(is_word) {
        return None;
    }
    let error = command.try_get_matches_from([format!("--{key}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(flag) => Some(flag.trim_start_matches('-').to_owned()),
        _ => None,
    }
}
