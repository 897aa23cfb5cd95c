//! What a request on the public listener leads to.
//!
//! The head says which endpoint is meant, in which dialect, and as whom; [`route`] turns that into
//! one decision, without a connection or a room in sight.

use crate::codec::http::{Head, decode_component, query_value, websocket_upgrade};
use crate::gate::credential::{BEARER_PREFIX, Credential, ambiguous, credential, token_in_url};
use crate::gate::policy::{Authentication, Policy};
use crate::metrics::Reject;
use crate::protocol::SUBPROTOCOL;
use crate::protocol::ids::{is_room_name, is_user_id};

/// The header fields that the operator's backend always sees.
const PASSED: [&str; 2] = ["origin", "user-agent"];

/// Where a request goes.
#[derive(Debug)]
pub enum Route<'a> {
    /// The demo page.
    Page {
        /// Only its head was asked for.
        head_only: bool,
    },
    /// The native protocol over WebSocket.
    Native(Entry<'a>),
    /// `/echo`.
    Echo {
        /// The client's `Sec-WebSocket-Key`.
        key: &'a str,
    },
    /// An HTTP error.
    Refused(Refusal),
}

/// Who enters the native protocol, and where.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The client's `Sec-WebSocket-Key`.
    pub key: &'a str,
    /// The subprotocol to answer with, where the client offered any.
    pub subprotocol: Option<&'static str>,
    /// The room to join without being asked.
    pub room: Option<String>,
    /// The name the user gave, where nobody has to prove it.
    pub user: Option<String>,
    /// The credential the request carries, where one is asked for.
    pub credential: Option<Credential>,
    /// A page of another origin than allowed is behind it: to be closed after the upgrade.
    pub is_foreign: bool,
    /// Header fields that the operator's backend is to see, by name.
    pub passed: Vec<(Box<str>, Box<str>)>,
    /// Among them is one that the operator named, by which the backend may know who this is.
    pub has_fields: bool,
}

/// An HTTP error, as it is answered.
#[derive(Debug)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// Header fields that belong to it.
    pub headers: &'static [(&'static str, &'static str)],
    /// What was wrong, with what value, and what to do.
    pub message: String,
    /// How it is counted.
    pub reason: Reject,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            headers: &[],
            message: message.into(),
            reason: if status == 404 {
                Reject::NotFound
            } else {
                Reject::BadRequest
            },
        }
    }

    fn because(self, reason: Reject) -> Refusal {
        Refusal { reason, ..self }
    }
}

/// Decides about a request. `echo` opens `/echo`.
pub fn route<'a>(head: &Head<'a>, echo: bool, policy: &Policy) -> Route<'a> {
    match try_route(head, echo, policy) {
        Ok(route) => route,
        Err(refusal) => Route::Refused(refusal),
    }
}

fn try_route<'a>(head: &Head<'a>, echo: bool, policy: &Policy) -> Result<Route<'a>, Refusal> {
    match head.path {
        "/ws" => Ok(Route::Native(enter(head, None, policy)?)),
        "/echo" if echo => Ok(Route::Echo {
            key: upgrade(head)?.0,
        }),
        "/" => page(head),
        path => match path.strip_prefix("/ws/") {
            Some(room) => Ok(Route::Native(enter(head, Some(room), policy)?)),
            None => Err(Refusal::new(
                404,
                "nothing is served here; WebSocket clients connect to /ws or /ws/{room}",
            )),
        },
    }
}

fn page<'a>(head: &Head<'a>) -> Result<Route<'a>, Refusal> {
    match head.method {
        "GET" => Ok(Route::Page { head_only: false }),
        "HEAD" => Ok(Route::Page { head_only: true }),
        method => Err(Refusal {
            status: 405,
            headers: &[("Allow", "GET, HEAD")],
            message: format!("method {method} is not allowed here; use GET"),
            reason: Reject::BadRequest,
        }),
    }
}

fn upgrade<'a>(head: &Head<'a>) -> Result<(&'a str, Vec<&'a str>), Refusal> {
    let upgrade = websocket_upgrade(head).map_err(|fault| Refusal {
        status: fault.status(),
        headers: fault.headers(),
        message: format!("{fault}; this is a WebSocket endpoint (RFC 6455)"),
        reason: Reject::BadRequest,
    })?;
    Ok((upgrade.key, upgrade.subprotocols.to_vec()))
}

fn enter<'a>(head: &Head<'a>, room: Option<&str>, policy: &Policy) -> Result<Entry<'a>, Refusal> {
    let (key, offered) = upgrade(head)?;
    let subprotocol = match offered.as_slice() {
        [] => None,
        names if names.contains(&SUBPROTOCOL) => Some(SUBPROTOCOL),
        names => {
            let names: Vec<_> = names.iter().filter(|n| !is_bearer(n)).collect();
            return Err(Refusal::new(
                400,
                format!(
                    "none of the offered subprotocols {names:?} is spoken here; offer {SUBPROTOCOL}, \
                     beside which a {BEARER_PREFIX} entry may stand, or none"
                ),
            )
            .because(Reject::Subprotocol));
        }
    };
    if token_in_url(head).is_some() && !policy.token_in_url {
        return Err(ambiguous(
            "a token in the URL is refused, because proxies log URLs; \
             send it in the Authorization header or in an auth message",
        ));
    }
    let room = room.map(room_name).transpose()?;
    let named = query_value(head.query.unwrap_or_default(), "user_id");
    let (user, credential) = match &policy.authentication {
        Authentication::Open => (named.map(user_name).transpose()?, None),
        _ => (None, credential(head, &offered)?),
    };
    let (mut passed, mut has_fields) = (Vec::new(), false);
    if let Authentication::Webhook(webhook) = &policy.authentication {
        passed = fields(head, webhook.headers.iter().map(|name| &**name));
        has_fields = !passed.is_empty();
        passed.extend(fields(head, PASSED.into_iter()));
    }
    Ok(Entry {
        key,
        subprotocol,
        room,
        user,
        credential,
        is_foreign: is_foreign(head, policy),
        passed,
        has_fields,
    })
}

/// Whether a page of another origin than allowed is behind a request. Two origins, or one that is no
/// text, are no browser's.
fn is_foreign(head: &Head<'_>, policy: &Policy) -> bool {
    if head.values("origin").next().is_none() {
        return false;
    }
    let origin = head.only_value("origin");
    let host = head.only_value("host");
    !origin.is_some_and(|origin| policy.origins.allow(origin, host))
}

/// The fields of a request that have one of these names, as far as they are text.
fn fields<'n>(head: &Head<'_>, names: impl Iterator<Item = &'n str>) -> Vec<(Box<str>, Box<str>)> {
    let mut found = Vec::new();
    for name in names {
        let texts = head.values(name).filter_map(|v| str::from_utf8(v).ok());
        found.extend(texts.map(|text| (Box::from(name), Box::from(text))));
    }
    found
}

/// Whether a subprotocol entry carries a token, or was meant to: it is repeated to nobody.
fn is_bearer(entry: &str) -> bool {
    let beginning = entry.get(..BEARER_PREFIX.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(BEARER_PREFIX))
}

fn room_name(component: &str) -> Result<String, Refusal> {
    let name = decode_component(component)
        .map_err(|bad| Refusal::new(400, format!("the room in the path: {bad}")))?;
    if !is_room_name(&name) {
        return Err(Refusal::new(
            400,
            "the room in the path is not a room name: 1 to 255 bytes without control characters",
        ));
    }
    Ok(name.into_owned())
}

fn user_name(
    value: Result<std::borrow::Cow<'_, str>, crate::codec::http::BadPercent>,
) -> Result<String, Refusal> {
    let name = value.map_err(|bad| Refusal::new(400, format!("user_id: {bad}")))?;
    if !is_user_id(&name) {
        return Err(Refusal::new(
            400,
            "user_id is not a user name: 1 to 255 bytes without control characters",
        ));
    }
    Ok(name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HeadLimits, parse_head};

    fn routed(target: &str, more: &str) -> String {
        routed_by(target, more, &Policy::default())
    }

    fn routed_by(target: &str, more: &str, policy: &Policy) -> String {
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        let limits = HeadLimits {
            bytes_max: 8192,
            headers_max: 64,
        };
        let (head, _) = parse_head(text.as_bytes(), &limits).unwrap().unwrap();
        match route(&head, false, policy) {
            Route::Native(e) if e.is_foreign => "foreign".into(),
            Route::Native(e) if !matches!(policy.authentication, Authentication::Open) => {
                format!("native {:?} {:?} {:?}", e.room, e.user, e.credential)
            }
            Route::Native(e) => format!("native {:?} {:?} {:?}", e.room, e.user, e.subprotocol),
            Route::Refused(refusal) => format!("{}", refusal.status),
            Route::Page { .. } => "page".into(),
            Route::Echo { .. } => "echo".into(),
        }
    }

    #[test]
    fn requests_lead_where_they_should() {
        let table = [
            ("/ws", "", "native None None None"),
            ("/ws/", "", "400"),
            ("/ws/chat%3A1", "", "native Some(\"chat:1\") None None"),
            ("/ws/a/b", "", "native Some(\"a/b\") None None"),
            (
                "/ws?user_id=J%C3%B6rg",
                "",
                "native None Some(\"Jörg\") None",
            ),
            (
                "/ws",
                "Sec-WebSocket-Protocol: x, tidewheel.v1.json\r\n",
                "native None None Some(\"tidewheel.v1.json\")",
            ),
            ("/ws", "Sec-WebSocket-Protocol: graphql-ws\r\n", "400"),
            (
                "/ws",
                "Sec-WebSocket-Protocol: tidewheel.bearer.abc\r\n",
                "400",
            ),
            (
                "/ws",
                "Sec-WebSocket-Protocol: Tidewheel.Bearer.abc, x\r\n",
                "400",
            ),
            ("/ws/%zz", "", "400"),
            ("/ws/%00", "", "400"),
            ("/ws/%ff", "", "400"),
            ("/ws?user_id=", "", "400"),
            ("/ws?token=secret", "", "400"),
            ("/", "", "page"),
            ("/echo", "", "404"),
            ("/nowhere", "", "404"),
        ];
        for (target, more, expected) in table {
            assert_eq!(routed(target, more), expected, "{target} {more}");
        }
    }

    #[test]
    fn names_are_not_taken_and_credentials_are_where_one_is_asked_for() {
        let policy = Policy {
            authentication: Authentication::Fixed(Default::default()),
            ..Policy::default()
        };
        let bearer = "Authorization: Bearer abc\r\n";
        let table = [
            ("/ws/r?user_id=bob", "", "native Some(\"r\") None None"),
            (
                "/ws?user_id=%zz",
                bearer,
                "native None None Some(Credential(Header))",
            ),
            ("/ws?token=abc", "", "400"),
        ];
        for (target, more, expected) in table {
            assert_eq!(
                routed_by(target, more, &policy),
                expected,
                "{target} {more}"
            );
        }
        let lax = Policy {
            token_in_url: true,
            ..policy
        };
        let by_url = routed_by("/ws?token=abc", "", &lax);
        assert_eq!(by_url, "native None None Some(Credential(Url))");
    }

    #[test]
    fn a_page_of_another_origin_is_foreign_and_no_browser_is_not() {
        let table = [
            ("", false),
            ("Origin: http://x\r\n", false),
            ("Origin: http://y\r\n", true),
            ("Origin: null\r\n", true),
            ("Origin:\r\n", true),
            ("Origin: http://x\r\nOrigin: http://x\r\n", true),
        ];
        for (more, is_foreign) in table {
            assert_eq!(routed("/ws", more) == "foreign", is_foreign, "{more}");
        }
    }
}
