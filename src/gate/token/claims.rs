//! What a token says (RFC 7519 §4), and what it has to say here.
//!
//! | claim | form | meaning |
//! |---|---|---|
//! | `sub` | string, 1–255 bytes, no control characters; required | the user |
//! | `exp` | seconds since 1970, a fraction allowed; required unless told otherwise | taken until then, leeway added |
//! | `nbf` | as `exp` | taken from then on, leeway taken off |
//! | `iat` | as `exp` | refused where it lies in the future, leeway taken off |
//! | `iss` | string; required where issuers are given | must be one of them |
//! | `aud` | string or list of them; required where audiences are given, refused where not | must have one of them |
//! | `name` | string, 1–255 bytes | `info` of one that has none: `{"name":…}` |
//! | `info` | any JSON, at most 4 KiB and 32 levels deep | passed on in presence, byte for byte |
//! | `rooms` | list of `{"pattern": glob, "allow": [action, …]}`, at most 256 | what the user may do where; the server's defaults hold where it is not there |
//!
//! All other claims are ignored.

use std::sync::Arc;

use super::compact::{members_of, value};
use super::fault::{Part, TokenFault};
use crate::gate::grant::{Action, Actions, Grant, RoomGrant};
use crate::gate::pattern::Glob;
use crate::protocol::UserId;
use crate::protocol::ids::is_user_id;
use crate::protocol::json::{Member, depth, elements, members, string};

/// The most entries of `rooms`.
pub const ROOMS_MAX: usize = 256;

/// The longest `info`, in bytes.
pub const INFO_BYTES_MAX: usize = 4 * 1024;

/// How deep `info` may nest: deeper than people write, and far from what clients take.
pub const INFO_DEPTH_MAX: usize = 32;

/// The last second of the year 9999. What lies beyond is a number in other units: JavaScript counts
/// milliseconds.
const UNIX_S_MAX: f64 = 253_402_300_799.0;

const WANTED_TIME: &str =
    "a number of seconds since 1970, up to the year 9999; JavaScript's Date.now() is milliseconds";

/// What claims have to fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Whom tokens may be from; empty: anyone who has a key.
    pub issuers: Vec<String>,
    /// What this server is called in `aud`; empty: nothing, and tokens for someone are refused.
    pub audiences: Vec<String>,
    /// By how much clocks may differ, in milliseconds.
    pub leeway_ms: u64,
    /// Whether a token must end.
    pub requires_expiry: bool,
    /// The longest token that is looked at, in bytes.
    pub token_bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway_ms: 5_000,
            requires_expiry: true,
            token_bytes_max: 8 * 1024,
        }
    }
}

/// The claims of a token.
#[derive(Debug)]
pub struct Claims<'a>(Vec<Member<'a>>);

impl<'a> Claims<'a> {
    /// Reads the text of a token's claims.
    ///
    /// # Errors
    /// [`TokenFault`] where it is not an object that can be read in one way only.
    pub fn read(text: &'a str) -> Result<Claims<'a>, TokenFault> {
        members_of(text, Part::Claims).map(Claims)
    }

    /// What the claims give the token's bearer at `now_unix_ms`.
    ///
    /// # Errors
    /// [`TokenFault`] where they give nothing.
    pub fn grant(&self, rules: &Rules, now_unix_ms: u64) -> Result<Grant, TokenFault> {
        self.check_issuer(rules)?;
        self.check_audience(rules)?;
        let expires_at_unix_ms = self.check_times(rules, now_unix_ms)?;
        Ok(Grant {
            user: UserId::from_name(&self.user()?),
            info: self.info()?,
            expires_at_unix_ms,
            rooms: self.rooms()?,
        })
    }

    fn value(&self, claim: &str) -> Option<&'a str> {
        value(&self.0, claim)
    }

    /// `sub`.
    ///
    /// # Errors
    /// [`TokenFault`] where it is missing, or no user id.
    pub fn user(&self) -> Result<String, TokenFault> {
        const WANTED: &str =
            "a string of 1 to 255 bytes without control characters, the id of the user";
        let (claim, wanted) = ("sub", WANTED);
        let Some(sub) = self.value(claim) else {
            return Err(TokenFault::NoClaim { claim, wanted });
        };
        let name = string(sub).filter(|name| is_user_id(name));
        let name = name.ok_or(TokenFault::BadClaim { claim, wanted })?;
        Ok(name.into_owned())
    }

    /// `exp`, `nbf` and `iat`. Answers with the moment at which the token is no longer taken.
    ///
    /// # Errors
    /// [`TokenFault`] where `now_unix_ms` is not between them.
    pub fn check_times(&self, rules: &Rules, now_unix_ms: u64) -> Result<Option<u64>, TokenFault> {
        let now = now_unix_ms;
        let expires = self.time("exp", f64::floor)?;
        if expires.is_none() && rules.requires_expiry {
            let (claim, wanted) = ("exp", "let the backend write when the token ends");
            return Err(TokenFault::NoClaim { claim, wanted });
        }
        let ends = expires.map(|at| at.saturating_add(rules.leeway_ms));
        if let (Some(at), Some(end)) = (expires, ends)
            && now >= end
        {
            let ago_ms = now - at;
            return Err(TokenFault::Expired { ago_ms });
        }
        let latest = now.saturating_add(rules.leeway_ms);
        if let Some(at) = self.time("nbf", f64::ceil)?
            && at > latest
        {
            let in_ms = at - now;
            return Err(TokenFault::NotYetValid { in_ms });
        }
        if let Some(at) = self.time("iat", f64::ceil)?
            && at > latest
        {
            let in_ms = at - now;
            return Err(TokenFault::IssuedInFuture { in_ms });
        }
        Ok(ends)
    }

    /// A NumericDate (RFC 7519 §2) in milliseconds; what lies before 1970 counts as 1970.
    fn time(&self, claim: &'static str, round: fn(f64) -> f64) -> Result<Option<u64>, TokenFault> {
        let bad = TokenFault::BadClaim {
            claim,
            wanted: WANTED_TIME,
        };
        let Some(text) = self.value(claim) else {
            return Ok(None);
        };
        // Rust's parser takes more than JSON's numbers, `inf` and `nan` among it.
        if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return Err(bad);
        }
        let seconds: f64 = text.parse().map_err(|_| bad.clone())?;
        if seconds.abs() > UNIX_S_MAX {
            return Err(bad);
        }
        // Within its bounds a product fits, and a conversion from below zero gives zero.
        Ok(Some(round(seconds * 1_000.0) as u64))
    }

    /// `iss`.
    ///
    /// # Errors
    /// [`TokenFault::WrongIssuer`] where it is none of the issuers, if there are any.
    pub fn check_issuer(&self, rules: &Rules) -> Result<(), TokenFault> {
        if rules.issuers.is_empty() {
            return Ok(());
        }
        let issuer = self.value("iss").and_then(string);
        let is_known = |issuer| rules.issuers.iter().any(|known| *known == issuer);
        if issuer.is_some_and(is_known) {
            Ok(())
        } else {
            Err(TokenFault::WrongIssuer)
        }
    }

    /// `aud`. RFC 7519 §4.1.3: a token for someone is refused by everyone else.
    ///
    /// # Errors
    /// [`TokenFault`] where it has none of the audiences.
    pub fn check_audience(&self, rules: &Rules) -> Result<(), TokenFault> {
        let Some(audience) = self.value("aud") else {
            return match rules.audiences.is_empty() {
                true => Ok(()),
                false => Err(TokenFault::WrongAudience),
            };
        };
        if rules.audiences.is_empty() {
            return Err(TokenFault::AudienceNotExpected);
        }
        let bad = TokenFault::BadClaim {
            claim: "aud",
            wanted: "a string, or a list of strings",
        };
        let list = match string(audience) {
            Some(_) => vec![audience],
            None => elements(audience).map_err(|_| bad.clone())?,
        };
        let mut is_ours = false;
        for element in list {
            let name = string(element).ok_or_else(|| bad.clone())?;
            is_ours |= rules.audiences.iter().any(|known| *known == name);
        }
        if is_ours {
            Ok(())
        } else {
            Err(TokenFault::WrongAudience)
        }
    }

    /// `info`, or what `name` makes of it.
    ///
    /// # Errors
    /// [`TokenFault`] where one of them is not as it must be.
    pub fn info(&self) -> Result<Option<Arc<[u8]>>, TokenFault> {
        if let Some(name) = self.value("name")
            && !string(name).is_some_and(|name| is_user_id(&name))
        {
            return Err(TokenFault::BadClaim {
                claim: "name",
                wanted: "a string of 1 to 255 bytes without control characters",
            });
        }
        match (self.value("info"), self.value("name")) {
            (Some(info), _) if info.len() > INFO_BYTES_MAX || depth(info) > INFO_DEPTH_MAX => {
                Err(TokenFault::BadClaim {
                    claim: "info",
                    wanted: "JSON of at most 4 KiB and 32 levels",
                })
            }
            (Some(info), _) => Ok(Some(info.as_bytes().into())),
            (None, Some(name)) => Ok(Some(format!("{{\"name\":{name}}}").into_bytes().into())),
            (None, None) => Ok(None),
        }
    }

    /// `rooms`.
    ///
    /// # Errors
    /// [`TokenFault`] where one of its entries cannot be understood: what is meant as a bound must
    /// not turn into none.
    pub fn rooms(&self) -> Result<Option<Box<[RoomGrant]>>, TokenFault> {
        let Some(rooms) = self.value("rooms") else {
            return Ok(None);
        };
        let entries = elements(rooms).map_err(|_| TokenFault::BadClaim {
            claim: "rooms",
            wanted: r#"a list of {"pattern": "chat:*", "allow": ["join"]}"#,
        })?;
        if entries.len() > ROOMS_MAX {
            let (entries, max) = (entries.len(), ROOMS_MAX);
            return Err(TokenFault::TooManyRooms { entries, max });
        }
        let read = |(at, entry): (usize, &&str)| {
            let entry_number = at + 1;
            room(entry).map_err(|wanted| TokenFault::BadRoom {
                entry: entry_number,
                wanted,
            })
        };
        let rooms: Result<Box<[RoomGrant]>, _> = entries.iter().enumerate().map(read).collect();
        rooms.map(Some)
    }
}

/// Reads an entry of `rooms`, or says what is wrong with it.
fn room(entry: &str) -> Result<RoomGrant, &'static str> {
    let entry = members(entry).map_err(|_| "not an object with each member once")?;
    if entry
        .iter()
        .any(|member| !matches!(&*member.name, "pattern" | "allow"))
    {
        return Err("a member that is neither pattern nor allow");
    }
    let pattern = value(&entry, "pattern").and_then(string);
    let pattern = pattern.ok_or("no pattern that is a string")?;
    let pattern = Glob::new(&pattern)
        .map_err(|_| "the pattern is none: 1 to 255 bytes, with *, ** and {user_id}")?;
    let allow = value(&entry, "allow").and_then(|list| elements(list).ok());
    let allow = allow.ok_or("no allow that is a list")?;
    let action = |text: &&str| string(text).and_then(|name| Action::from_name(&name));
    let allow: Option<Actions> = allow.iter().map(action).collect();
    let allow = allow.ok_or("allow may have join, publish, presence, history, direct")?;
    Ok(RoomGrant { pattern, allow })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn grant(claims: &str, rules: &Rules) -> Result<Grant, TokenFault> {
        Claims::read(claims)?.grant(rules, NOW_MS)
    }

    fn granted(more: &str) -> Grant {
        let claims = format!(r#"{{"sub":"ada","exp":1800000060{more}}}"#);
        grant(&claims, &Rules::default()).unwrap()
    }

    #[test]
    fn a_token_that_says_the_least_gives_its_user_alone() {
        let expected = Grant {
            user: UserId::from_name("ada"),
            info: None,
            expires_at_unix_ms: Some(1_800_000_065_000),
            rooms: None,
        };
        assert_eq!(granted(""), expected);
        assert_eq!(granted(r#","admin":true,"scope":"x","azp":{}"#), expected);
    }

    #[test]
    fn info_is_passed_on_byte_for_byte_and_name_stands_in_for_it() {
        let table = [
            (
                r#","info":{"big":1e999,"a":"\u0061", "z" : [ ]}"#,
                r#"{"big":1e999,"a":"\u0061", "z" : [ ]}"#,
            ),
            (r#","info":null"#, "null"),
            (r#","name":"Ad\u0061 L.""#, r#"{"name":"Ad\u0061 L."}"#),
            (r#","name":"Ada","info":7"#, "7"),
        ];
        for (more, expected) in table {
            let info = granted(more).info.unwrap();
            assert_eq!(str::from_utf8(&info), Ok(expected), "{more}");
        }
        let longest = format!(r#","info":"{}""#, "x".repeat(INFO_BYTES_MAX - 2));
        assert_eq!(granted(&longest).info.unwrap().len(), INFO_BYTES_MAX);
        let deepest = format!(
            r#","info":{}{}"#,
            "[".repeat(INFO_DEPTH_MAX),
            "]".repeat(INFO_DEPTH_MAX)
        );
        assert!(granted(&deepest).info.is_some());
    }

    #[test]
    fn rooms_say_what_is_allowed_where() {
        let rooms = r#","rooms":[{"pattern":"chat:*","allow":["join","publish"]},{"allow":["direct"],"pattern":"**"}]"#;
        let grant = granted(rooms);
        let expected: Actions = [Action::Join, Action::Publish, Action::Direct]
            .into_iter()
            .collect();
        assert_eq!(grant.actions_in("chat:1"), Some(expected));
        assert_eq!(grant.allows_direct(), Some(true));
        assert_eq!(
            granted(r#","rooms":[]"#).actions_in("chat:1"),
            Some(Actions::NONE)
        );
    }

    #[test]
    fn a_token_may_hold_for_ever_where_the_operator_says_so() {
        let rules = Rules {
            requires_expiry: false,
            leeway_ms: 0,
            ..Rules::default()
        };
        let for_ever = grant(r#"{"sub":"ada"}"#, &rules).unwrap();
        assert_eq!(for_ever.expires_at_unix_ms, None);
        let still = grant(r#"{"sub":"ada","exp":1800000000.001}"#, &rules).unwrap();
        assert_eq!(still.expires_at_unix_ms, Some(NOW_MS + 1));
        let over = grant(r#"{"sub":"ada","exp":1800000000}"#, &rules);
        assert_eq!(over, Err(TokenFault::Expired { ago_ms: 0 }));
    }

    #[test]
    fn no_time_and_no_leeway_overflows() {
        let rules = Rules {
            leeway_ms: u64::MAX,
            ..Rules::default()
        };
        for text in ["-253402300799", "253402300799", "0", "-0.0", "1e-999"] {
            let claims = format!(r#"{{"sub":"a","exp":{text},"nbf":{text},"iat":{text}}}"#);
            let claims = Claims::read(&claims).unwrap();
            for now in [0, NOW_MS, u64::MAX] {
                let _ = claims.check_times(&Rules::default(), now);
                let _ = claims.check_times(&rules, now);
            }
        }
    }
}
