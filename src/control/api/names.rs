//! What a request says in its URL: names of rooms and users, and the query.
//!
//! Names are read from the path as it was sent. A router that decodes by itself lets bad sequences
//! pass as they are, and a name that is guessed may be another's.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};

use crate::codec::http::{decode_component, query_pairs};
use crate::control::Problem;
use crate::protocol::UserId;
use crate::protocol::ids::{is_room_name, is_user_id};

/// The places of names in `/api/v1/rooms/{room}` and `/api/v1/users/{user}/rooms/{room}`, counted
/// between slashes.
const FIRST: usize = 4;
const SECOND: usize = 6;

/// The room of `/api/v1/rooms/{room}`.
pub(super) struct RoomName(pub String);

/// The user of `/api/v1/users/{user}`.
pub(super) struct UserName(pub UserId);

/// The room of `/api/v1/users/{user}/rooms/{room}`.
pub(super) struct UsersRoom(pub String);

impl<S: Sync> FromRequestParts<S> for RoomName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        name(&parts.uri, FIRST, "room").map(RoomName)
    }
}

impl<S: Sync> FromRequestParts<S> for UserName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let name = name(&parts.uri, FIRST, "user")?;
        Ok(UserName(UserId::from_name(&name)))
    }
}

impl<S: Sync> FromRequestParts<S> for UsersRoom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        name(&parts.uri, SECOND, "room").map(UsersRoom)
    }
}

fn name(uri: &Uri, place: usize, what: &str) -> Result<String, Problem> {
    let segment = uri.path().split('/').nth(place).unwrap_or_default();
    let name = decode_component(segment)
        .map_err(|bad| bad_request(format!("the {what} in the path: {bad}")))?;
    let is_good = match what {
        "room" => is_room_name(&name),
        _ => is_user_id(&name),
    };
    if is_good {
        return Ok(name.into_owned());
    }
    Err(bad_name(what))
}

/// A name that is none, or is missing.
pub(in crate::control) fn bad_name(what: &str) -> Problem {
    bad_request(format!(
        "the {what} in the path is not a {what} name: 1 to 255 bytes of UTF-8 without control \
         characters, percent-encoded"
    ))
}

pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// The parameters of a request's query. Unknown ones are nobody's, as unknown members of a body are.
pub(super) struct Query(String);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Query(parts.uri.query().unwrap_or_default().to_owned()))
    }
}

impl Query {
    /// The value of a parameter that may be there once.
    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'_, str>>, Problem> {
        let is_it = |key: &str| decode_component(key).is_ok_and(|key| key == name);
        let mut found = query_pairs(&self.0).filter(|(key, _)| is_it(key));
        let Some((_, value)) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(bad_request(format!("{name} is given more than once")));
        }
        let value = decode_component(value);
        let value = value.map_err(|bad| bad_request(format!("{name}: {bad}")))?;
        Ok(Some(value))
    }

    /// The value of a parameter that is a number from `min` to `max`.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_digits);
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(bad_request(format!(
                "{name} is {text:?}, and has to be a whole number from {min} to {max}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_and_bad_ones_refused() {
        let room = |path: &str| name(&path.parse().unwrap(), FIRST, "room");
        let long = format!("/api/v1/rooms/{}", "x".repeat(256));
        for (path, expected) in [
            ("/api/v1/rooms/lobby", "lobby"),
            ("/api/v1/rooms/a%2Fb%20%C3%A9/messages", "a/b é"),
            ("/api/v1/rooms/a+b", "a+b"),
        ] {
            assert_eq!(room(path).unwrap(), expected);
        }
        for path in [
            "/api/v1/rooms/%",
            "/api/v1/rooms/%zz",
            "/api/v1/rooms/%ff",
            "/api/v1/rooms/%00",
            "/api/v1/rooms/a%0Ab",
            "/api/v1/rooms//messages",
            &long,
        ] {
            assert!(room(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_parameter_is_a_number_within_bounds_or_not_there() {
        let number = |query: &str| Query(query.to_owned()).number("limit", 1, 1_000);
        assert_eq!(number(""), Ok(None));
        assert_eq!(number("limits=0&x"), Ok(None));
        assert_eq!(number("limit=7"), Ok(Some(7)));
        assert_eq!(number("l%69mit=%37"), Ok(Some(7)));
        for query in [
            "limit",
            "limit=",
            "limit=0",
            "limit=1001",
            "limit=+7",
            "limit=7.0",
            "limit=99999999999999999999999",
            "limit=7&limit=7",
            "limit=%zz",
        ] {
            assert!(number(query).is_err(), "{query}");
        }
    }
}
