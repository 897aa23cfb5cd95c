//! `tidewheel token make`.

use std::fmt::Write as _;

use super::{Make, TokenError, read_file};
use crate::cli::policy::Secret;
use crate::gate::token::claims::Claims;
use crate::gate::token::{Algorithm, Rules, Signer, key_file};
use crate::gate::{Action, Glob};
use crate::protocol::json::validate;

/// A token, and a newline.
pub(super) fn make(
    options: &Make,
    secret: Option<&Secret>,
    now_unix_ms: u64,
) -> Result<String, TokenError> {
    let signer = signer(options, secret)?;
    let claims = claims(options, now_unix_ms)?;
    check(options, &claims, now_unix_ms)?;
    let token = signer.sign(&claims, options.kid.as_deref())?;
    Ok(format!("{token}\n"))
}

fn signer(options: &Make, secret: Option<&Secret>) -> Result<Signer, TokenError> {
    match (&options.key, secret) {
        (Some(path), _) => Signer::read(&read_file(path)?).map_err(|fault| TokenError::Signer {
            path: path.clone(),
            fault,
        }),
        (None, Some(secret)) => {
            let bytes = secret.reveal().as_bytes();
            key_file::secret(bytes).map_err(TokenError::Secret)?;
            Ok(Signer::from_secret(bytes, Algorithm::HS256))
        }
        (None, None) => Err(TokenError::NoKey),
    }
}

fn claims(options: &Make, now_unix_ms: u64) -> Result<String, TokenError> {
    let now = now_unix_ms / 1_000;
    let expires = now.saturating_add(options.ttl.as_secs());
    let mut claims = format!(
        "{{\"sub\":{},\"iat\":{now},\"exp\":{expires}",
        quoted(&options.sub)
    );
    // Writing to a String cannot fail.
    if let Some(issuer) = &options.iss {
        let _ = write!(claims, ",\"iss\":{}", quoted(issuer));
    }
    match options.aud.as_slice() {
        [] => {}
        [one] => drop(write!(claims, ",\"aud\":{}", quoted(one))),
        many => {
            let many: Vec<String> = many.iter().map(|audience| quoted(audience)).collect();
            let _ = write!(claims, ",\"aud\":[{}]", many.join(","));
        }
    }
    if let Some(name) = &options.name {
        let _ = write!(claims, ",\"name\":{}", quoted(name));
    }
    if let Some(info) = &options.info {
        validate(info).map_err(TokenError::Info)?;
        let _ = write!(claims, ",\"info\":{}", info.trim());
    }
    if !options.room.is_empty() {
        let rooms: Result<Vec<String>, _> = options.room.iter().map(|text| room(text)).collect();
        let _ = write!(claims, ",\"rooms\":[{}]", rooms?.join(","));
    }
    claims.push('}');
    Ok(claims)
}

fn room(text: &str) -> Result<String, TokenError> {
    let bad = || TokenError::Room(text.to_owned());
    let (pattern, actions) = text.rsplit_once('=').ok_or_else(bad)?;
    Glob::new(pattern)?;
    let names = actions
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let known = |name| Action::from_name(name).map(|action| quoted(action.name()));
    let allow: Option<Vec<String>> = names.map(known).collect();
    let allow = allow.ok_or_else(bad)?.join(",");
    Ok(format!(
        "{{\"pattern\":{},\"allow\":[{allow}]}}",
        quoted(pattern)
    ))
}

/// Holds the claims against what a server would ask of them, so that nobody wonders there.
fn check(options: &Make, claims: &str, now_unix_ms: u64) -> Result<(), TokenError> {
    let rules = Rules {
        audiences: options.aud.clone(),
        ..Rules::default()
    };
    let granted = Claims::read(claims).and_then(|claims| claims.grant(&rules, now_unix_ms));
    granted.map(drop).map_err(TokenError::Refused)
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\0'..' ' => drop(write!(quoted, "\\u{:04x}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
