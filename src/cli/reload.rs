//! What may change while the server runs, read anew: on SIGHUP everything, and where a file of keys
//! or certificates changed, those.
//!
//! What is not in [`RELOADABLE`] keeps its value until the next start, and is named in the log when
//! it was changed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::AuthMethod;
use super::policy::{policy, policy_files};
use super::sources::options_of;
use super::{Options, Parsed, Settings, parse_from};
use crate::gate::Policy;
use crate::server::{Cause, Reload};

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
    /// As they are in force.
    options: Options,
    /// What would be in force if the reload that is under way is taken over.
    next: Option<(Options, Settings)>,
    /// Whether the server was started with a backend to ask.
    knows_webhook: bool,
    /// As they were when the server was started: what cannot be reloaded still has these.
    started: Settings,
    /// As they were taken over last.
    settings: Settings,
}

impl Reloader {
    /// One for a server that was started with these options.
    pub fn new(options: Options, settings: Settings) -> Reloader {
        Reloader {
            arguments: std::env::args_os().collect(),
            environment: std::env::vars_os().collect(),
            knows_webhook: options.authentication.auth == AuthMethod::Webhook,
            options,
            next: None,
            started: settings.clone(),
            settings,
        }
    }

    /// Reads the options anew. What cannot be reloaded is what it was at the start, so that nothing is
    /// held against an address at which nobody listens; it is named.
    fn options_anew(&self) -> anyhow::Result<(Options, Settings)> {
        let environment = self.environment.iter().cloned();
        let Parsed::Serve {
            options,
            settings,
            warnings,
        } = parse_from(&self.arguments, environment)?
        else {
            // The same arguments made a server before.
            anyhow::bail!("the command line is no server's any more");
        };
        let merged = merge(&self.started, settings.clone());
        let merged_options = options_of(&merged, &options)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        for flag in changes(&self.started, &settings) {
            if !RELOADABLE.contains(&flag) {
                tracing::warn!("--{flag} is another, which takes effect at the next start");
            }
        }
        let mut changed: Vec<&str> = changes(&self.settings, &merged);
        if options.rooms.tables != self.options.rooms.tables {
            changed.push("[[rooms]]");
        }
        let changed = changed.join(", ");
        tracing::info!(changed, "settings were read");
        Ok((merged_options, merged))
    }
}

impl Reload for Reloader {
    fn reload(&mut self, cause: Cause) -> anyhow::Result<Arc<Policy>> {
        let (options, settings) = match cause {
            Cause::Asked => self.options_anew()?,
            Cause::FilesChanged => (self.options.clone(), self.settings.clone()),
        };
        if options.authentication.auth == AuthMethod::Webhook && !self.knows_webhook {
            anyhow::bail!(
                "--auth webhook cannot begin while the server runs, which was started without; \
                 restart it"
            );
        }
        let policy = policy(&options)?;
        self.next = Some((options, settings));
        Ok(policy.into())
    }

    fn take_over(&mut self) {
        let Some((options, settings)) = self.next.take() else {
            return;
        };
        let is_open = options.authentication.auth == AuthMethod::None;
        if is_open && self.options.authentication.auth != AuthMethod::None {
            tracing::warn!("--auth none from now on: everyone is let in under the name they give");
        }
        (self.options, self.settings) = (options, settings);
    }

    fn watched(&self) -> Vec<PathBuf> {
        let files = policy_files(&self.options).into_iter();
        let certificates = self.options.tls.files().into_iter();
        let api_keys = self.options.admin.api_key_file.as_deref();
        let all = files.chain(certificates).chain(api_keys);
        all.map(Path::to_owned).collect()
    }
}

/// The settings that would be in force: those that can be reloaded as they are now, the others as
/// they were at the start.
fn merge(started: &Settings, now: Settings) -> Settings {
    let is_reloadable = |flag: &str| RELOADABLE.contains(&flag);
    let fixed = started.iter().filter(|(flag, _)| !is_reloadable(flag));
    let fixed = fixed.map(|(flag, values)| (flag.clone(), values.clone()));
    let reloaded = now.into_iter().filter(|(flag, _)| is_reloadable(flag));
    reloaded.chain(fixed).collect()
}

/// The flags whose values differ.
fn changes<'a>(before: &'a Settings, after: &'a Settings) -> Vec<&'a str> {
    let flags = before.keys().chain(after.keys());
    let mut changed: Vec<&str> = flags
        .filter(|flag| before.get(*flag) != after.get(*flag))
        .map(String::as_str)
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

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let pair = |(flag, value): &(&str, &str)| (flag.to_string(), vec![value.to_string()]);
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_differs_is_named() {
        let before = settings(&[
            ("history", "1"),
            ("jwt-leeway", "1s"),
            ("listen", "[::1]:1"),
        ]);
        let after = settings(&[("echo", "true"), ("history", "2"), ("listen", "[::1]:1")]);
        assert_eq!(changes(&before, &after), ["echo", "history", "jwt-leeway"]);
        assert_eq!(changes(&before, &before), [""; 0]);
    }

    #[test]
    fn what_cannot_be_reloaded_stays_what_it_was() {
        let started = settings(&[("auth", "jwt"), ("listen", "0.0.0.0:1"), ("history", "1")]);
        let now = settings(&[
            ("jwt-leeway", "1s"),
            ("listen", "127.0.0.1:1"),
            ("echo", "true"),
        ]);
        let merged = merge(&started, now);
        let expected = [
            ("history", "1"),
            ("jwt-leeway", "1s"),
            ("listen", "0.0.0.0:1"),
        ];
        assert_eq!(merged, settings(&expected));
        // Held against the address at which the server listens, and not the one in the file.
        let refused = options_of(&merged, &Options::default()).unwrap_err();
        assert!(
            refused.to_string().contains("--auth none lets everyone"),
            "{refused}"
        );
    }
}
