//! `tidewheel token inspect`.

use std::fmt::{Display, Write as _};
use std::io::Read;

use super::{Inspect, Outcome, TokenError};
use crate::cli::policy::{self, Secret};
use crate::gate::token::claims::Claims;
use crate::gate::token::compact::{Compact, Header};
use crate::gate::token::{Keys, Rules, TokenFault, Verifier, algorithm, key_file};
use crate::gate::{Action, Actions, Grant};
use crate::protocol::json::members;
use crate::protocol::{Timestamp, UserId};

/// What is read from standard input at most: no server takes a longer token.
const STDIN_BYTES_MAX: u64 = 64 * 1024;

/// Claims that are times.
const TIMES: [&str; 3] = ["exp", "nbf", "iat"];

pub(super) fn inspect(
    options: &Inspect,
    secret: Option<&Secret>,
    now_unix_ms: u64,
    stdin: impl Read,
) -> Result<Outcome, TokenError> {
    let token = match options.token.as_deref() {
        None | Some("-") => read_token(stdin)?,
        Some(token) => token.trim().to_owned(),
    };
    let verifier = Verifier::new(keys(options, secret)?, rules(options));
    let mut page = Page::default();
    page.token(&token, &verifier, &options.room, now_unix_ms);
    Ok(Outcome {
        text: page.text,
        is_good: !page.has_failed,
    })
}

fn read_token(stdin: impl Read) -> Result<String, TokenError> {
    let mut text = String::new();
    let read = stdin.take(STDIN_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| TokenError::Stdin(error.to_string()))?;
    match text.trim() {
        "" => Err(TokenError::Stdin("it is empty".to_owned())),
        token => Ok(token.to_owned()),
    }
}

fn keys(options: &Inspect, secret: Option<&Secret>) -> Result<Keys, TokenError> {
    let mut keys = Keys::default();
    if let Some(secret) = secret {
        let key = key_file::secret(secret.reveal().as_bytes());
        key.and_then(|key| keys.add(key))
            .map_err(TokenError::Secret)?;
    }
    for source in &options.key_file {
        policy::add_file(&mut keys, source)?;
    }
    Ok(keys)
}

fn rules(options: &Inspect) -> Rules {
    Rules {
        issuers: options.issuer.clone(),
        audiences: options.audience.clone(),
        leeway_ms: u64::try_from(options.leeway.as_millis()).unwrap_or(u64::MAX),
        ..Rules::default()
    }
}

/// The text, as it grows.
#[derive(Default)]
struct Page {
    text: String,
    has_failed: bool,
}

impl Page {
    fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}", printable(&line.to_string()));
    }

    /// A check: what came of it, or why it failed.
    fn check(&mut self, name: &str, result: Result<String, TokenFault>) {
        match result {
            Ok(text) => self.line(format!("  ok    {name:<10} {text}")),
            Err(fault) => {
                self.has_failed = true;
                self.line(format!("  FAIL  {name:<10} {fault}"));
            }
        }
    }

    fn token(&mut self, token: &str, verifier: &Verifier, rooms: &[String], now_unix_ms: u64) {
        let rules = verifier.rules();
        let compact = match Compact::new(token, rules.token_bytes_max) {
            Ok(compact) => compact,
            Err(fault) => return self.check("form", Err(fault)),
        };
        let (header, claims) = (compact.header_text(), compact.claims_text());
        for (name, text) in [("header", &header), ("claims", &claims)] {
            self.line(name);
            if let Ok(text) = text {
                self.members(text);
            }
        }
        self.line("checks");
        let header = header.and_then(|text| Header::read(&text));
        let named = header.clone().map(|header| match header.kid {
            Some(kid) => format!("{}, key {kid:?}", algorithm::name(header.algorithm)),
            None => format!("{}, names no key", algorithm::name(header.algorithm)),
        });
        self.check("header", named);
        if let Ok(header) = header {
            self.signature(&compact, &header, verifier);
        }
        let text = match claims {
            Ok(text) => text,
            Err(fault) => return self.check("claims", Err(fault)),
        };
        match Claims::read(&text) {
            Ok(claims) => self.claims(&claims, rules, rooms, now_unix_ms),
            Err(fault) => self.check("claims", Err(fault)),
        }
    }

    fn members(&mut self, text: &str) {
        let Ok(members) = members(text) else {
            return self.line(format!("  {text}"));
        };
        for member in members {
            let (name, value) = (&*member.name, member.value);
            let seconds = value.parse::<u64>().ok().filter(|_| TIMES.contains(&name));
            match seconds.and_then(|seconds| seconds.checked_mul(1_000)) {
                Some(ms) => self.line(format!(
                    "  {name}: {value} ({})",
                    Timestamp::from_unix_ms(ms)
                )),
                None => self.line(format!("  {name}: {value}")),
            }
        }
    }

    fn signature(&mut self, compact: &Compact<'_>, header: &Header, verifier: &Verifier) {
        if verifier.keys().is_empty() {
            return self.line("  --    signature  not checked: give --key-file");
        }
        let signed = verifier.check_signature(compact, header);
        let by = |kid: Option<&str>| match kid {
            Some(kid) => format!("by key {kid:?}"),
            None => "by a key without a name".to_owned(),
        };
        self.check("signature", signed.map(|key| by(key.kid())));
    }

    fn claims(&mut self, claims: &Claims<'_>, rules: &Rules, rooms: &[String], now_unix_ms: u64) {
        let ends = |end: Option<u64>| match end {
            Some(end) => format!("until {}, leeway counted", Timestamp::from_unix_ms(end)),
            None => "for ever".to_owned(),
        };
        let any = |list: &[String], text: &str| match list.is_empty() {
            true => text.to_owned(),
            false => "as given".to_owned(),
        };
        let user = claims.user();
        self.check("sub", user.clone());
        self.check("times", claims.check_times(rules, now_unix_ms).map(ends));
        let issuer = claims.check_issuer(rules);
        self.check(
            "iss",
            issuer.map(|()| any(&rules.issuers, "any: no --issuer given")),
        );
        let audience = claims.check_audience(rules);
        self.check(
            "aud",
            audience.map(|()| any(&rules.audiences, "none: no --audience given")),
        );
        let info = claims.info();
        let shown = |info: Option<_>| {
            if info.is_some() {
                "shown to others"
            } else {
                "none"
            }
        };
        self.check("info", info.map(|info| shown(info).to_owned()));
        let granted = claims.rooms();
        let count = |rooms: Option<usize>| match rooms {
            Some(1) => "1 pattern".to_owned(),
            Some(count) => format!("{count} patterns"),
            None => "not there: the server's defaults hold".to_owned(),
        };
        self.check(
            "rooms",
            granted
                .clone()
                .map(|rooms| count(rooms.map(|rooms| rooms.len()))),
        );
        if let (Ok(user), Ok(granted)) = (user, granted) {
            let grant = Grant {
                user: UserId::from_name(&user),
                info: None,
                expires_at_unix_ms: None,
                rooms: granted,
            };
            self.grant(&grant, rooms);
        }
    }

    fn grant(&mut self, grant: &Grant, rooms: &[String]) {
        let Some(patterns) = &grant.rooms else {
            return;
        };
        self.line("allows");
        for granted in patterns {
            self.line(format!("  {}: {}", granted.pattern, list(granted.allow)));
        }
        self.line("  all other rooms: nothing");
        let direct = if grant.allows_direct() == Some(true) {
            "yes"
        } else {
            "no"
        };
        self.line(format!("  direct messages: {direct}"));
        for room in rooms {
            let allowed = grant.actions_in(room).unwrap_or(Actions::NONE);
            self.line(format!("  room {room}: {}", list(allowed)));
        }
    }
}

fn list(actions: Actions) -> String {
    let named = Action::ALL
        .iter()
        .filter(|(action, _)| actions.contains(*action));
    let names: Vec<&str> = named.map(|(_, name)| *name).collect();
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.join(", ")
}

/// Without what a terminal would obey: a token may come from anyone.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() || is_direction(char) {
            shown.extend(char.escape_unicode());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Characters that turn the direction of what follows.
fn is_direction(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
