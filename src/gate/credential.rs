//! Where a request carries its credential: the first of three places that has one.

use std::borrow::Cow;
use std::fmt;

use crate::codec::http::{BadPercent, Head, query_value};
use crate::gate::route::Refusal;
use crate::metrics::{AuthWay, Reject};

/// A subprotocol entry that carries a token for browsers; it is never selected.
pub(super) const BEARER_PREFIX: &str = "tidewheel.bearer.";

/// A token, and how it came. What is no token at all is an empty one, which nobody accepts.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// How it came.
    pub way: AuthWay,
    /// The token.
    pub token: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token itself is shown to nobody.
        write!(f, "Credential({:?})", self.way)
    }
}

/// The credential of a request: of its `Authorization` header, of an entry in `offered`, or of its
/// query, which was refused before where that is not allowed.
///
/// Another scheme than Bearer is none of ours: a proxy in front may ask for it.
pub(super) fn credential(head: &Head<'_>, offered: &[&str]) -> Result<Option<Credential>, Refusal> {
    let found = |way, token: &str| {
        let token = token.to_owned();
        Ok(Some(Credential { way, token }))
    };
    if let Some(token) = authorization(head)? {
        return found(AuthWay::Header, token);
    }
    let mut entries = offered.iter().filter_map(|n| n.strip_prefix(BEARER_PREFIX));
    if let Some(token) = entries.next() {
        if entries.next().is_some() {
            return Err(ambiguous("two subprotocol entries carry a token; send one"));
        }
        return found(AuthWay::Subprotocol, token);
    }
    match token_in_url(head) {
        Some(Ok(token)) => found(AuthWay::Url, &token),
        // What cannot be read is no token.
        Some(Err(_)) => found(AuthWay::Url, ""),
        None => Ok(None),
    }
}

/// The token in the query, where there is one.
pub(super) fn token_in_url<'a>(head: &Head<'a>) -> Option<Result<Cow<'a, str>, BadPercent>> {
    query_value(head.query.unwrap_or_default(), "token")
}

/// RFC 6750 §2.1: `Bearer`, in any case of its letters (RFC 9110 §11.1), a space, and a token.
fn authorization<'a>(head: &Head<'a>) -> Result<Option<&'a str>, Refusal> {
    let mut values = head.values("authorization");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ambiguous(
            "the Authorization header is repeated; send it once",
        ));
    }
    let value = std::str::from_utf8(value).unwrap_or("Bearer");
    let (scheme, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = rest.trim_matches([' ', '\t']);
    // RFC 9110 §11.2, token68: anything else cannot be a token, and is taken for an empty one.
    let is_token68 = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    Ok(Some(if token.bytes().all(is_token68) {
        token
    } else {
        ""
    }))
}

pub(super) fn ambiguous(message: &str) -> Refusal {
    Refusal {
        status: 400,
        headers: &[],
        message: message.to_owned(),
        reason: Reject::Credentials,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HeadLimits, parse_head};

    #[test]
    fn the_first_of_three_places_that_has_a_credential_gives_it() {
        use AuthWay::{Header, Subprotocol, Url};
        let bearer: &[&str] = &["x", "tidewheel.bearer.b.c-d_e", "tidewheel.v1.json"];
        type Found = Result<Option<(AuthWay, &'static str)>, ()>;
        let table: &[(&str, &str, &[&str], Found)] = &[
            ("/ws", "", &[], Ok(None)),
            (
                "/ws",
                "Authorization: Bearer a.b\r\n",
                &[],
                Ok(Some((Header, "a.b"))),
            ),
            (
                "/ws",
                "authorization: bEARER   a=\r\n",
                &[],
                Ok(Some((Header, "a="))),
            ),
            (
                "/ws?token=u",
                "Authorization: Bearer a\r\n",
                bearer,
                Ok(Some((Header, "a"))),
            ),
            (
                "/ws?token=u",
                "",
                bearer,
                Ok(Some((Subprotocol, "b.c-d_e"))),
            ),
            (
                "/ws?token=u%2e",
                "",
                &["tidewheel.v1.json"],
                Ok(Some((Url, "u."))),
            ),
            ("/ws?token=%zz", "", &[], Ok(Some((Url, "")))),
            // Another scheme is for somebody else.
            (
                "/ws",
                "Authorization: Basic YTpi\r\n",
                bearer,
                Ok(Some((Subprotocol, "b.c-d_e"))),
            ),
            ("/ws", "Authorization: Bearertoken\r\n", &[], Ok(None)),
            ("/ws", "Authorization:\r\n", &[], Ok(None)),
            // Ours, but no token: whoever sends it means to be let in, and is told.
            (
                "/ws",
                "Authorization: Bearer\r\n",
                bearer,
                Ok(Some((Header, ""))),
            ),
            (
                "/ws",
                "Authorization: Bearer a b\r\n",
                &[],
                Ok(Some((Header, ""))),
            ),
            (
                "/ws",
                "Authorization: Bearer a,b\r\n",
                &[],
                Ok(Some((Header, ""))),
            ),
            ("/ws", "Authorization: \u{fc}\r\n", &[], Ok(None)),
            (
                "/ws",
                "",
                &["tidewheel.bearer."],
                Ok(Some((Subprotocol, ""))),
            ),
            // Two of a kind: nobody knows which one a proxy in front looked at.
            (
                "/ws",
                "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n",
                &[],
                Err(()),
            ),
            (
                "/ws",
                "Authorization: Basic a\r\nAuthorization: Bearer a\r\n",
                &[],
                Err(()),
            ),
            (
                "/ws",
                "",
                &["tidewheel.bearer.a", "tidewheel.bearer.b"],
                Err(()),
            ),
        ];
        for (target, more, offered, expected) in table {
            let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
            let limits = HeadLimits {
                bytes_max: 8192,
                headers_max: 64,
            };
            let (head, _) = parse_head(text.as_bytes(), &limits).unwrap().unwrap();
            let found = credential(&head, offered);
            let found = found.map(|c| c.map(|c| (c.way, c.token))).map_err(|r| {
                assert_eq!(r.status, 400);
                assert!(!r.message.contains("a b"), "no token is repeated");
            });
            let expected = expected.map(|e| e.map(|(way, token)| (way, token.to_owned())));
            assert_eq!(found, expected, "{target} {more} {offered:?}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let credential = Credential {
            way: AuthWay::Header,
            token: "secret".into(),
        };
        assert!(!format!("{credential:?}").contains("secret"));
    }
}
