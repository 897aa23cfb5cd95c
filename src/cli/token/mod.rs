//! `tidewheel token`: makes keys and tokens for development, and says what a token gives.
//!
//! ```text
//! tidewheel token keygen --out dev              dev.pem for the backend, dev.pub.pem for the server
//! tidewheel token make --key dev.pem --sub ada | tidewheel token inspect --key-file dev.pub.pem
//! ```
//!
//! Private keys and secrets are read from files and the environment, never from flags, and are never
//! printed. Nothing here is part of a server that runs.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use thiserror::Error;

use super::policy::{KeySource, PolicyError, Secret, key_source, read_bounded};
use super::sources::JWT_SECRET_VARIABLE;
use super::units::{DURATION_MAX, duration};
use super::{EXIT_FAILURE, EXIT_USAGE};
use crate::gate::BadGlob;
use crate::gate::token::{KeyFault, SignerFault, TokenFault};
use crate::protocol::json::NotJson;

mod inspect;
mod keygen;
mod make;

pub use keygen::KeyAlgorithm;

/// What is to be done about tokens.
#[derive(Subcommand, Clone, PartialEq, Debug)]
pub enum TokenCommand {
    /// Make a key pair, or a secret: one half for the backend, one for the server
    Keygen(Keygen),
    /// Make a token for development: production tokens are made by a backend
    Make(Make),
    /// Show what a token says, whether a server would take it, and what it allows
    Inspect(Inspect),
}

/// `tidewheel token keygen`.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(after_help = "\
Example:
  tidewheel token keygen --out keys/2026-06
  tidewheel serve --auth jwt --jwt-key-file keys/2026-06.pub.pem

No file is overwritten. HS256 makes one secret that both sides need; all others make a pair, of which \
the server gets the public half only.")]
pub struct Keygen {
    /// What the key is for: EdDSA, ES256, ES384, RS256 or HS256
    #[arg(
        long,
        value_name = "ALG",
        value_enum,
        ignore_case = true,
        default_value = "EdDSA"
    )]
    #[arg(hide_possible_values = true)]
    pub alg: KeyAlgorithm,

    /// Where to write: PREFIX.pem and PREFIX.pub.pem, or PREFIX.secret
    #[arg(long, value_name = "PREFIX", default_value = "tidewheel")]
    pub out: PathBuf,
}

/// `tidewheel token make`.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(after_help = "\
Example:
  tidewheel token make --key dev.pem --sub ada --name 'Ada L.' --ttl 8h \\
      --room 'chat:*=join,publish,history' --room 'user:{user_id}=join'

Without --key the secret of TIDEWHEEL_JWT_SECRET signs. Without --room the server's defaults hold.")]
pub struct Make {
    /// Private key in PEM (PKCS#8), or file with a secret
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// The user: claim sub
    #[arg(long, value_name = "USER")]
    pub sub: String,

    /// Time for which the token holds
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    #[arg(value_parser = duration(Duration::from_secs(1)..=DURATION_MAX))]
    pub ttl: Duration,

    /// What others see in presence: {"name":NAME}, unless there is --info
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// What others see in presence: any JSON
    #[arg(long, value_name = "JSON")]
    pub info: Option<String>,

    /// Rooms and what is allowed there: join, publish, presence, history, direct; may be repeated
    #[arg(long, value_name = "PATTERN=ACTIONS", action = clap::ArgAction::Append)]
    pub room: Vec<String>,

    /// Who made it: claim iss
    #[arg(long, value_name = "ISSUER")]
    pub iss: Option<String>,

    /// Whom it is for: claim aud; may be repeated
    #[arg(long, value_name = "AUDIENCE", action = clap::ArgAction::Append)]
    pub aud: Vec<String>,

    /// Name of the key, where the server knows it by one
    #[arg(long, value_name = "KID")]
    pub kid: Option<String>,
}

/// `tidewheel token inspect`.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(after_help = "\
Example:
  tidewheel token inspect --key-file dev.pub.pem < token.txt

The flags mean what those of the server mean: --key-file is --jwt-key-file, and so on. The secret of \
TIDEWHEEL_JWT_SECRET counts as a key. Ends with 1 where a check failed.")]
pub struct Inspect {
    /// The token; without it, or with -, it is read from standard input
    #[arg(value_name = "TOKEN")]
    pub token: Option<String>,

    /// Key to hold it against: PEM public key, JWKS, or a file with a secret; may be repeated
    #[arg(long, value_name = "[KID=]FILE", action = clap::ArgAction::Append)]
    #[arg(value_parser = key_source)]
    pub key_file: Vec<KeySource>,

    /// The iss that it must have; may be repeated
    #[arg(long, value_name = "ISSUER", action = clap::ArgAction::Append)]
    pub issuer: Vec<String>,

    /// The aud that it must have; may be repeated
    #[arg(long, value_name = "AUDIENCE", action = clap::ArgAction::Append)]
    pub audience: Vec<String>,

    /// Difference between clocks that is allowed for
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub leeway: Duration,

    /// A room to say what is allowed in; may be repeated
    #[arg(long, value_name = "ROOM", action = clap::ArgAction::Append)]
    pub room: Vec<String>,
}

/// Why nothing was made or shown. The text says what is wrong, where, and what to do.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Neither a file nor the environment has a key.
    #[error(
        "no key to sign with; name a private key or a secret with --key FILE, or set \
         {JWT_SECRET_VARIABLE}"
    )]
    NoKey,
    /// A file cannot be read.
    #[error("cannot read {path}: {error}", path = .path.display())]
    Unreadable {
        /// The file, as named by the operator.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error(
        "cannot write {path}: {error}; nothing is overwritten, choose another --out or move the old \
         file away", path = .path.display()
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// A file is no key to sign with.
    #[error("--key {path}: {fault}", path = .path.display())]
    Signer {
        /// The file, as named by the operator.
        path: PathBuf,
        /// What is wrong with it.
        fault: SignerFault,
    },
    /// The secret of the environment cannot be used.
    #[error("{JWT_SECRET_VARIABLE}: {0}")]
    Secret(KeyFault),
    /// A file is no key to check with.
    #[error(transparent)]
    Keys(#[from] PolicyError),
    /// Signing failed.
    #[error(transparent)]
    Signing(#[from] SignerFault),
    /// `--info` is no JSON.
    #[error("--info is not JSON: {0}; a text needs quotes of its own: '\"text\"'")]
    Info(NotJson),
    /// `--room` is not of its form.
    #[error(
        "--room {0}: write PATTERN=ACTIONS, with actions between commas from join, publish, \
         presence, history, direct, such as 'chat:*=join,publish'"
    )]
    Room(String),
    /// `--room` has no good pattern.
    #[error("--room: {0}")]
    Pattern(#[from] BadGlob),
    /// A server would not take what was asked for.
    #[error("a server would not take such a token: {0}")]
    Refused(TokenFault),
    /// The library that makes keys failed.
    #[error("the key could not be made: the cryptographic library failed")]
    Generation,
    /// Standard input cannot be read, or is no token.
    #[error("no token on standard input: {0}; give it as an argument, or write it there")]
    Stdin(String),
}

impl TokenError {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            TokenError::Unreadable { .. }
            | TokenError::Unwritable { .. }
            | TokenError::Signing(_)
            | TokenError::Generation
            | TokenError::Stdin(_) => EXIT_FAILURE,
            _ => EXIT_USAGE,
        }
    }
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What to print.
    pub text: String,
    /// Whether every check passed that was made.
    pub is_good: bool,
}

/// Does what was asked for at `now_unix_ms`. `secret` is the environment's; `stdin` is read where a
/// token is to come from there.
///
/// # Errors
/// [`TokenError`] where it cannot be done.
pub fn run(
    command: &TokenCommand,
    secret: Option<&Secret>,
    now_unix_ms: u64,
    stdin: impl Read,
) -> Result<Outcome, TokenError> {
    let text = match command {
        TokenCommand::Keygen(options) => keygen::keygen(options)?,
        TokenCommand::Make(options) => make::make(options, secret, now_unix_ms)?,
        TokenCommand::Inspect(options) => {
            return inspect::inspect(options, secret, now_unix_ms, stdin);
        }
    };
    let is_good = true;
    Ok(Outcome { text, is_good })
}

fn read_file(path: &Path) -> Result<Vec<u8>, TokenError> {
    read_bounded(path).map_err(|error| TokenError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;
