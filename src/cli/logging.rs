//! The log: which lines, in which form, always to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::options::{LogFormat, Logging};
use super::units::UnitError;

/// Installs the log of this process. A second call changes nothing: the first one stays.
pub fn init(logging: &Logging) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&logging.log_level))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let installed = match logging.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Tests start several servers in one process, each of which asks for a log.
    drop(installed);
}

/// Checks a log filter, and keeps its text.
pub(super) fn log_filter(text: &str) -> Result<String, UnitError> {
    // The filter's own parser takes `inof` for the name of a target, and would log nothing at all.
    let misspelt = text.split(',').map(str::trim).find(|directive| {
        let is_bare = !directive.contains(['=', '[', ']', '{', '}']);
        is_bare && (directive.is_empty() || directive.parse::<LevelFilter>().is_err())
    });
    if let Some(directive) = misspelt {
        return Err(UnitError::NotALogFilter(format!(
            "`{directive}` is no level"
        )));
    }
    EnvFilter::try_new(text).map_err(|error| UnitError::NotALogFilter(error.to_string()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_targets_with_levels() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,tidewheel::reactor=debug",
            "tidewheel[conn]=trace",
        ] {
            assert_eq!(log_filter(text), Ok(text.to_owned()));
        }
        for text in ["inof", "", "info,", "tidewheel=loud", "info debug"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
    }
}
