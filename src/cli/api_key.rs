//! `tidewheel api-key`: makes keys for the admin API.
//!
//! ```text
//! tidewheel api-key make backend --scope publish,read
//! key   tw_9vA3…                                for the backend, shown this once
//! line  backend publish,read sha256:8f43…       for the file of --api-key-file
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use thiserror::Error;

use crate::control::access::{ApiKeys, KEY_PREFIX, Scopes, is_key_name};

/// Random bytes of a key.
const KEY_BYTES: usize = 32;

/// What is to be done about keys of the admin API.
#[derive(Subcommand, Clone, PartialEq, Debug)]
pub enum ApiKeyCommand {
    /// Make a key, and the line that lets it in
    Make(Make),
}

/// `tidewheel api-key make`.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(after_help = "\
Example:
  tidewheel api-key make backend --scope publish,read
  tidewheel serve --api-key-file keys

The key is printed once and kept nowhere: the line for the file of --api-key-file has its SHA-256 only. \
A running server takes the file over when it changes.")]
pub struct Make {
    /// Who the key is for: stands in the log beside what it did
    #[arg(value_name = "NAME", value_parser = key_name)]
    pub name: String,

    /// What it may do: publish, read, admin (everything), between commas
    #[arg(long, value_name = "SCOPES", value_parser = scopes)]
    pub scope: Scopes,
}

/// Why no key was made.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
#[error("the key could not be made: the cryptographic library failed")]
pub struct NoKey;

fn key_name(text: &str) -> Result<String, String> {
    if is_key_name(text) {
        return Ok(text.to_owned());
    }
    Err("write 1 to 64 letters, digits, dots, hyphens and underscores".to_owned())
}

fn scopes(text: &str) -> Result<Scopes, String> {
    let no_scope = |name| format!("{name:?} is no scope; write publish, read or admin");
    Scopes::from_text(text).map_err(no_scope)
}

/// Does what was asked for; the text is for the operator.
///
/// # Errors
/// [`NoKey`] where the system has no random numbers.
pub fn run(command: &ApiKeyCommand) -> Result<String, NoKey> {
    let ApiKeyCommand::Make(make) = command;
    let mut bytes = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoKey)?;
    let key = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let line = ApiKeys::line(&make.name, make.scope, &key);
    Ok(format!("key   {key}\nline  {line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Parsed, parse_from};
    use crate::control::access::Scope;

    fn parse(arguments: &[&str]) -> Result<ApiKeyCommand, String> {
        let all = ["tidewheel", "api-key", "make"].iter().chain(arguments);
        match parse_from(all, std::iter::empty::<(String, String)>()) {
            Ok(Parsed::ApiKey(command)) => Ok(command),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_key_that_is_made_is_let_in_by_its_line() {
        let command = parse(&["backend", "--scope", "read,publish"]).unwrap();
        let text = run(&command).unwrap();
        let word = |what| text.lines().find_map(|line| line.strip_prefix(what));
        let (key, line) = (word("key   ").unwrap(), word("line  ").unwrap());
        assert_eq!(key.len(), 46);
        assert!(!line.contains(key));
        let keys = ApiKeys::read(line.as_bytes()).unwrap();
        let caller = keys.caller(key.as_bytes()).unwrap();
        assert_eq!(&*caller.name, "backend");
        assert!(caller.scopes.allow(Scope::Publish) && !caller.scopes.allow(Scope::Admin));
        assert_ne!(run(&command).unwrap(), text);
    }

    #[test]
    fn what_cannot_stand_in_the_file_is_refused() {
        for (arguments, expected) in [
            (["a b", "--scope", "read"], "1 to 64 letters"),
            (["tw_x", "--scope", "read"], "1 to 64 letters"),
            (["a", "--scope", "write"], "\"write\" is no scope"),
        ] {
            let refusal = parse(&arguments).unwrap_err();
            assert!(refusal.contains(expected), "{refusal}");
        }
    }
}
