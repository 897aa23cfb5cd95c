//! The JSON of a question, and of its answer.

use std::sync::Arc;

use thiserror::Error;

use crate::gate::token::{TokenFault, claims::Claims};
use crate::gate::{Grant, Question};
use crate::protocol::UserId;
use crate::protocol::ids::is_user_id;
use crate::protocol::json::{members, string, write_string};

/// The last second of the year 9999. What lies beyond is a number in other units.
const UNIX_S_MAX: f64 = 253_402_300_799.0;

/// What is wrong with an answer. It names no part of it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum BadAnswer {
    /// It is no text.
    #[error("the answer is not UTF-8")]
    NotUtf8,
    /// It is no object.
    #[error("the answer is not a JSON object with each member once")]
    NotAnObject,
    /// It does not say who the user is.
    #[error("user_id has to be a string of 1 to 255 bytes without control characters")]
    NoUser,
    /// Its end is no time.
    #[error("expires_at has to be a number of seconds since 1970, or null")]
    BadExpiry,
    /// `info` or `rooms`, which are those of tokens.
    #[error("what the answer says is not as in tokens: {0}")]
    AsInTokens(TokenFault),
}

/// Writes a question.
pub(super) fn write_question(question: &Question) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    if let Some(token) = &question.token {
        out.extend_from_slice(b"\"token\":");
        write_string(token, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"headers\":{");
    write_headers(&question.headers, &mut out);
    out.extend_from_slice(b"},");
    if let Some(room) = &question.room {
        out.extend_from_slice(b"\"room\":");
        write_string(room, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"client_id\":\"");
    out.extend_from_slice(question.client_id.text().as_bytes());
    out.extend_from_slice(b"\",\"address\":");
    write_string(&question.address, &mut out);
    out.push(b'}');
    out
}

/// Fields of the same name become one, with commas between their values (RFC 9110 §5.2); cookies
/// with semicolons (RFC 9113 §8.2.3).
fn write_headers(headers: &[(Box<str>, Box<str>)], out: &mut Vec<u8>) {
    for (place, (name, value)) in headers.iter().enumerate() {
        let (before, rest) = headers.split_at(place);
        if before.iter().any(|(known, _)| known == name) {
            continue;
        }
        let separator = if &**name == "cookie" { "; " } else { ", " };
        let more = rest.iter().skip(1).filter(|(other, _)| other == name);
        let all = more.fold(value.to_string(), |all, (_, v)| all + separator + v);
        if place > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write_string(&all, out);
    }
}

/// Reads an answer that lets somebody in.
pub(super) fn read_answer(body: &[u8]) -> Result<Grant, BadAnswer> {
    let text = str::from_utf8(body).map_err(|_| BadAnswer::NotUtf8)?;
    let answer = members(text).map_err(|_| BadAnswer::NotAnObject)?;
    let value = |name: &str| {
        let found = answer.iter().find(|member| member.name == name);
        found.map(|member| member.value)
    };
    let user = value("user_id").and_then(string);
    let user = user
        .filter(|name| is_user_id(name))
        .ok_or(BadAnswer::NoUser)?;
    let expires_at_unix_ms = match value("expires_at").filter(|text| *text != "null") {
        Some(text) => Some(unix_ms(text).ok_or(BadAnswer::BadExpiry)?),
        None => None,
    };
    // The two have the form that they have in tokens, and the bounds.
    let claims = Claims::read(text).map_err(BadAnswer::AsInTokens)?;
    let info = claims.info().map_err(BadAnswer::AsInTokens)?;
    let rooms = claims.rooms().map_err(BadAnswer::AsInTokens)?;
    Ok(Grant {
        user: UserId::from_name(&user),
        info: info.filter(|info: &Arc<[u8]>| **info != *b"null"),
        expires_at_unix_ms,
        rooms,
    })
}

fn unix_ms(text: &str) -> Option<u64> {
    // Rust's parser takes more than JSON's numbers, `inf` and `nan` among it.
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let seconds: f64 = text.parse().ok().filter(|_| is_number)?;
    (seconds.abs() <= UNIX_S_MAX).then_some((seconds * 1_000.0).floor() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{ConnectionRef, CoreId};
    use crate::gate::Action;
    use crate::protocol::ClientId;

    #[test]
    fn a_question_says_what_there_is_and_no_more() {
        let mut question = Question {
            connection: ConnectionRef {
                index: 3,
                generation: 4,
                core: CoreId(5),
            },
            client_id: ClientId(31),
            token: None,
            headers: Vec::new(),
            room: None,
            address: "127.0.0.2".into(),
            asker: Default::default(),
        };
        let written = |question: &Question| String::from_utf8(write_question(question)).unwrap();
        assert_eq!(
            written(&question),
            r#"{"headers":{},"client_id":"000000000000z","address":"127.0.0.2"}"#
        );
        question.token = Some("t\"\\\n".into());
        question.room = Some("räume".into());
        let headers = [("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("x", "2")];
        let header = |(name, value): (&str, &str)| (name.into(), value.into());
        question.headers = headers.into_iter().map(header).collect();
        assert_eq!(
            written(&question),
            r#"{"token":"t\"\\\n","headers":{"cookie":"a=1; b=2","x":"1, 2"},"room":"räume","client_id":"000000000000z","address":"127.0.0.2"}"#
        );
    }

    #[test]
    fn an_answer_gives_a_grant() {
        let text = r#"{"user_id":"ada","info":{"a": 1},"expires_at":1800000000.5,"more":[],
            "rooms":[{"pattern":"chat:*","allow":["join"]}]}"#;
        let grant = read_answer(text.as_bytes()).unwrap();
        assert_eq!(grant.user, UserId::from_name("ada"));
        assert_eq!(grant.info.as_deref(), Some(&b"{\"a\": 1}"[..]));
        assert_eq!(grant.expires_at_unix_ms, Some(1_800_000_000_500));
        let allowed = grant.actions_in("chat:1").unwrap();
        assert!(allowed.contains(Action::Join) && !allowed.contains(Action::Publish));

        let least = read_answer(br#"{"user_id":"ada","info":null,"expires_at":null}"#).unwrap();
        assert_eq!(least.info, None);
        assert_eq!((least.expires_at_unix_ms, least.rooms), (None, None));
    }

    #[test]
    fn an_answer_that_is_not_as_it_must_be_lets_nobody_in() {
        let bad = [
            "",
            "null",
            "[]",
            "{",
            "{}",
            r#"{"user_id":1}"#,
            r#"{"user_id":""}"#,
            r#"{"user_id":"a\u0000"}"#,
            r#"{"user_id":"a","user_id":"b"}"#,
            r#"{"user_id":"a"} x"#,
            r#"{"user_id":"a","expires_at":"soon"}"#,
            r#"{"user_id":"a","expires_at":1800000000000}"#,
            r#"{"user_id":"a","rooms":null}"#,
            r#"{"user_id":"a","rooms":{}}"#,
            r#"{"user_id":"a","rooms":[{"pattern":"a","allow":["fly"]}]}"#,
        ];
        for text in bad {
            assert!(read_answer(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(read_answer(b"\xff"), Err(BadAnswer::NotUtf8));
        let long = format!(r#"{{"user_id":"a","info":"{}"}}"#, "x".repeat(5_000));
        assert!(read_answer(long.as_bytes()).is_err());
    }
}
