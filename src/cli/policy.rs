//! From options to the [`Policy`]: reads the files that the options name, at the start and whenever
//! the operator wants them read again. A file that cannot be used leaves everything as it was.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::Options;
use super::options::{self, AuthMethod};
use super::sources::JWT_SECRET_VARIABLE;
use crate::gate::token::key_file::{KEY_FILE_BYTES_MAX, secret};
use crate::gate::token::{KeyFault, KeyFile, Keys, Rules, Verifier};
use crate::gate::{Authentication, Policy, WebhookPolicy};

/// Why there is no policy. The text names the file, what is wrong in it, and what to do.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A file of keys cannot be read.
    #[error("--jwt-key-file: cannot read {path}: {error}", path = .path.display())]
    KeyFileUnreadable {
        /// The file, as named by the operator.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// A file of keys cannot be used.
    #[error("--jwt-key-file {path}: {fault}", path = .path.display())]
    KeyFile {
        /// The file, as named by the operator.
        path: PathBuf,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// The secret of the environment cannot be used.
    #[error("{JWT_SECRET_VARIABLE}: {0}")]
    Secret(KeyFault),
}

/// Reads what the options name.
///
/// # Errors
/// [`PolicyError`] where a file cannot be used.
pub fn policy(options: &Options) -> Result<Policy, PolicyError> {
    let authentication = &options.authentication;
    let mut origins = authentication.allow_origin.clone().unwrap_or_default();
    origins.loopback = options.listeners.listen.ip().to_canonical().is_loopback();
    let lifetime = authentication.max_connection_lifetime;
    Ok(Policy {
        authentication: match authentication.auth {
            AuthMethod::None => Authentication::Open,
            AuthMethod::Jwt => Authentication::Token(Arc::new(verifier(authentication)?)),
            AuthMethod::Webhook => {
                let headers = authentication.auth_webhook_header.clone();
                let headers = headers.unwrap_or_default().0;
                Authentication::Webhook(Arc::new(WebhookPolicy { headers }))
            }
        },
        limits: super::settings::limits(&options.limits),
        rules: super::rooms::rules(options),
        origins,
        token_in_url: authentication.allow_token_in_url,
        auth_timeout: authentication.auth_timeout,
        token_expiring_notice: authentication.token_expiring_notice,
        connection_lifetime: (!lifetime.is_zero()).then_some(lifetime),
    })
}

/// The files that a policy is made of: when one of them changes, so does the policy.
pub fn policy_files(options: &Options) -> Vec<&Path> {
    let keys = options.authentication.jwt_key_file.iter();
    keys.map(|source| source.path.as_path()).collect()
}

fn verifier(options: &options::Authentication) -> Result<Verifier, PolicyError> {
    let mut keys = Keys::default();
    if let Some(secret) = &options.jwt_secret {
        let added = self::secret(secret.reveal().as_bytes()).and_then(|key| keys.add(key));
        added.map_err(PolicyError::Secret)?;
    }
    for source in &options.jwt_key_file {
        add_file(&mut keys, source)?;
    }
    Ok(Verifier::new(keys, rules(options)))
}

/// What the options want of claims.
pub fn rules(options: &options::Authentication) -> Rules {
    Rules {
        issuers: options.jwt_issuer.clone(),
        audiences: options.jwt_audience.clone(),
        leeway_ms: u64::try_from(options.jwt_leeway.as_millis()).unwrap_or(u64::MAX),
        requires_expiry: options.jwt_require_exp,
        token_bytes_max: options.max_token_bytes,
    }
}

/// Adds the keys of a file.
///
/// # Errors
/// [`PolicyError`] where it cannot be read or used.
pub fn add_file(keys: &mut Keys, source: &KeySource) -> Result<(), PolicyError> {
    let path = &source.path;
    let bytes = read_bounded(path).map_err(|error| PolicyError::KeyFileUnreadable {
        path: path.clone(),
        error,
    })?;
    let in_file = |fault| PolicyError::KeyFile {
        path: path.clone(),
        fault,
    };
    let file = KeyFile::read(&bytes, source.kid.as_deref()).map_err(in_file)?;
    if file.passed_over > 0 {
        tracing::warn!(
            "--jwt-key-file {}: {} of its keys are not for checking signatures, or of a kind that \
             is not known, and are passed over",
            path.display(),
            file.passed_over
        );
    }
    file.keys
        .into_iter()
        .try_for_each(|key| keys.add(key).map_err(in_file))
}

/// All of a file, or one byte more than a file of keys may have.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bytes_max = KEY_FILE_BYTES_MAX as u64 + 1;
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of keys, and the name of the key in it where the file does not say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySource {
    /// The name: `kid` of tokens.
    pub kid: Option<String>,
    /// The file.
    pub path: PathBuf,
}

/// Reads `FILE` or `KID=FILE`. What has a slash before its first `=` is a file.
///
/// # Errors
/// A text that says what to write.
pub fn key_source(text: &str) -> Result<KeySource, String> {
    let (kid, path) = match text.split_once('=') {
        Some((kid, path)) if !kid.contains('/') => (Some(kid), path),
        _ => (None, text),
    };
    if path.is_empty() || kid.is_some_and(str::is_empty) {
        return Err("not a file; write FILE, or KID=FILE for the key that tokens call KID".into());
    }
    Ok(KeySource {
        kid: kid.map(str::to_owned),
        path: path.into(),
    })
}

/// A secret among the options, which no log and no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps it.
    pub fn new(secret: &str) -> Secret {
        Secret(secret.into())
    }

    /// What it is.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    fn file(name: &str) -> KeySource {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
        KeySource {
            kid: None,
            path: folder.join(name),
        }
    }

    fn policy_of(change: impl FnOnce(&mut options::Authentication)) -> Result<Policy, String> {
        let mut options = Options::default();
        options.authentication.auth = AuthMethod::Jwt;
        change(&mut options.authentication);
        policy(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn without_authentication_nothing_is_read() {
        let policy = policy(&Options::default()).unwrap();
        assert!(matches!(policy.authentication, Authentication::Open));
    }

    #[test]
    fn keys_come_from_files_and_from_the_environment() {
        let policy = policy_of(|options| {
            let named = KeySource {
                kid: Some("2026".into()),
                ..file("p256.pub.pem")
            };
            options.jwt_key_file = vec![file("ed25519.pub.pem"), named, file("secret")];
            options.jwt_secret = Some(Secret::new(SECRET));
            options.jwt_leeway = std::time::Duration::from_millis(1_500);
        });
        let Authentication::Token(verifier) = policy.unwrap().authentication else {
            panic!("no tokens");
        };
        assert_eq!(verifier.keys().iter().count(), 4);
        assert!(verifier.keys().named("2026").is_some());
        assert_eq!(verifier.rules().leeway_ms, 1_500);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_to_do() {
        let refusal = |source: KeySource| {
            let name = source.path.display().to_string();
            let error = policy_of(|options| options.jwt_key_file = vec![source]).unwrap_err();
            error.replace(&name, "FILE")
        };
        let table = [
            (
                "p256.pem",
                "--jwt-key-file FILE: it holds a private key, which belongs to the backend",
            ),
            (
                "certificate.pem",
                "--jwt-key-file FILE: it holds a certificate; give its public key: openssl",
            ),
            (
                "rsa-1024.pub.pem",
                "--jwt-key-file FILE: the RSA key has 1024 bits; use 2048",
            ),
            ("nowhere", "--jwt-key-file: cannot read FILE: No such file"),
        ];
        for (name, expected) in table {
            let refusal = refusal(file(name));
            assert!(refusal.starts_with(expected), "{refusal}");
        }
        let twice = policy_of(|options| {
            let named = |name| KeySource {
                kid: Some("a".into()),
                ..file(name)
            };
            options.jwt_key_file = vec![named("p256.pub.pem"), named("p384.pub.pem")];
        });
        assert!(
            twice
                .unwrap_err()
                .ends_with("a second key has the kid \"a\"; each needs its own")
        );
        let short = policy_of(|options| options.jwt_secret = Some(Secret::new("short")));
        let expected = "TIDEWHEEL_JWT_SECRET: the secret has 5 bytes and HS256 needs at least 32";
        assert!(short.unwrap_err().starts_with(expected));
    }

    #[test]
    fn a_key_source_is_a_file_with_or_without_a_name() {
        let read = |text| key_source(text).map(|source| (source.kid, source.path));
        let file = |kid: Option<&str>, path: &str| Ok((kid.map(str::to_owned), path.into()));
        assert_eq!(read("a.pem"), file(None, "a.pem"));
        assert_eq!(read("k1=a.pem"), file(Some("k1"), "a.pem"));
        assert_eq!(read("k1=/a=b.pem"), file(Some("k1"), "/a=b.pem"));
        assert_eq!(read("./a=b.pem"), file(None, "./a=b.pem"));
        for text in ["", "k1=", "=a.pem"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let mut options = Options::default();
        options.authentication.jwt_secret = Some(Secret::new(SECRET));
        assert!(!format!("{options:?}").contains(SECRET));
    }
}
