//! What may change while the server runs, read anew: on SIGHUP everything, and where a file of keys
//! or certificates changed, those.
//!
//! What is not in [`RELOADABLE`] keeps its value until the next start, and is named in the log when
//! it was changed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::options::AuthMethod;
use super::policy::{policy, policy_files};
use super::{Options, Parsed, Settings, parse_from};
use crate::server::{Cause, Reload, Reloaded};

/// The flags whose values a running server takes over, by the names they have in the file.
pub const RELOADABLE: [&str; 27] = [
    "allow-origin",
    "allow-token-in-url",
    "auth",
    "auth-timeout",
    "auth-webhook-header",
    "default-allow",
    "jwt-audience",
    "jwt-issuer",
    "jwt-key-file",
    "jwt-leeway",
    "jwt-require-exp",
    "limit-address-connects",
    "limit-connection-bytes",
    "limit-connection-control",
    "limit-connection-joins",
    "limit-connection-messages",
    "limit-user-messages",
    "limit-user-rooms",
    "max-connection-lifetime",
    "max-connections-per-address",
    "max-connections-per-user",
    "max-rate-errors",
    "max-token-bytes",
    "one-connection-per-user",
    "rooms",
    "token-expiring-notice",
    "trusted-proxies",
];

/// Reads the options of this process again.
pub struct Reloader {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    options: Options,
    /// Whether the server was started with a backend to ask.
    knows_webhook: bool,
    /// As they were when the server was started: what cannot be reloaded still has these.
    started: Settings,
}

impl Reloader {
    /// One for a server that was started with these options.
    pub fn new(options: Options, settings: Settings) -> Reloader {
        Reloader {
            arguments: std::env::args_os().collect(),
            environment: std::env::vars_os().collect(),
            knows_webhook: options.authentication.auth == AuthMethod::Webhook,
            options,
            started: settings,
        }
    }

    /// Reads the options anew; says what cannot be taken over.
    fn options_anew(&self) -> anyhow::Result<(Options, Settings)> {
        let environment = self.environment.iter().cloned();
        match parse_from(&self.arguments, environment)? {
            Parsed::Serve {
                options,
                settings,
                warnings,
            } => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                Ok((*options, settings))
            }
            // The same arguments made a server before.
            other => anyhow::bail!("the command line is no server's any more: {other:?}"),
        }
    }
}

impl Reload for Reloader {
    fn reload(&mut self, cause: Cause) -> anyhow::Result<Reloaded> {
        let options = match cause {
            Cause::Asked => {
                let (options, settings) = self.options_anew()?;
                for flag in fixed_changes(&self.started, &settings) {
                    tracing::warn!("--{flag} is another, which takes effect at the next start");
                }
                options
            }
            Cause::FilesChanged => self.options.clone(),
        };
        if options.authentication.auth == AuthMethod::Webhook && !self.knows_webhook {
            anyhow::bail!(
                "--auth webhook cannot begin while the server runs, which was started without; restart it"
            );
        }
        let policy = policy(&options)?;
        self.options = options;
        Ok(Reloaded {
            policy: policy.into(),
            watched: self.watched(),
        })
    }

    fn watched(&self) -> Vec<PathBuf> {
        let files = policy_files(&self.options).into_iter();
        let certificates = self.options.tls.files().into_iter();
        files.chain(certificates).map(Path::to_owned).collect()
    }
}

/// The flags whose values differ and that a running server does not take over.
fn fixed_changes<'a>(before: &'a Settings, after: &'a Settings) -> Vec<&'a str> {
    let flags = before.keys().chain(after.keys());
    let mut changed: Vec<&str> = flags
        .filter(|flag| before.get(*flag) != after.get(*flag))
        .map(String::as_str)
        .filter(|flag| !RELOADABLE.contains(flag))
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reference;

    #[test]
    fn what_can_be_reloaded_is_a_flag() {
        let reference = reference::markdown();
        for flag in RELOADABLE {
            assert!(reference.contains(&format!("`--{flag}`")), "--{flag}");
        }
    }

    #[test]
    fn what_cannot_be_reloaded_is_named_where_it_differs() {
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            let pair = |(flag, value): &(&str, &str)| (flag.to_string(), vec![value.to_string()]);
            pairs.iter().map(pair).collect()
        };
        let before = settings(&[
            ("history", "1"),
            ("jwt-leeway", "1s"),
            ("listen", "[::1]:1"),
        ]);
        let after = settings(&[("echo", "true"), ("history", "2"), ("listen", "[::1]:1")]);
        assert_eq!(fixed_changes(&before, &after), ["echo", "history"]);
        assert_eq!(fixed_changes(&before, &before), [""; 0]);
    }
}
