//! What a request on the public listener leads to.
//!
//! The head says which endpoint is meant, in which dialect, and as whom; [`route`] turns that into
//! one decision, without a connection or a room in sight.

use crate::codec::http::{Head, decode_component, query_value, websocket_upgrade};
use crate::metrics::Reject;
use crate::protocol::SUBPROTOCOL;
use crate::protocol::ids::{is_room_name, is_user_id};

/// A subprotocol entry that carries a token for browsers; it is never selected.
const BEARER_PREFIX: &str = "tidewheel.bearer.";

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
    /// The name the user gave, without authentication.
    pub user: Option<String>,
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
pub fn route<'a>(head: &Head<'a>, echo: bool) -> Route<'a> {
    match try_route(head, echo) {
        Ok(route) => route,
        Err(refusal) => Route::Refused(refusal),
    }
}

fn try_route<'a>(head: &Head<'a>, echo: bool) -> Result<Route<'a>, Refusal> {
    match head.path {
        "/ws" => Ok(Route::Native(enter(head, None)?)),
        "/echo" if echo => Ok(Route::Echo {
            key: upgrade(head)?.0,
        }),
        "/" => page(head),
        path => match path.strip_prefix("/ws/") {
            Some(room) => Ok(Route::Native(enter(head, Some(room))?)),
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

fn enter<'a>(head: &Head<'a>, room: Option<&str>) -> Result<Entry<'a>, Refusal> {
    let (key, offered) = upgrade(head)?;
    let subprotocol = match offered.as_slice() {
        [] => None,
        names if names.contains(&SUBPROTOCOL) => Some(SUBPROTOCOL),
        names => {
            let names: Vec<_> = names
                .iter()
                .filter(|n| !n.starts_with(BEARER_PREFIX))
                .collect();
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
    let query = head.query.unwrap_or_default();
    if query_value(query, "token").is_some() {
        return Err(Refusal::new(
            400,
            "a token in the URL is refused, because proxies log URLs; \
             send it in the Authorization header or in an auth message",
        )
        .because(Reject::Credentials));
    }
    let room = room.map(room_name).transpose()?;
    let user = query_value(query, "user_id").map(user_name).transpose()?;
    Ok(Entry {
        key,
        subprotocol,
        room,
        user,
    })
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
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        let limits = HeadLimits {
            bytes_max: 8192,
            headers_max: 64,
        };
        let (head, _) = parse_head(text.as_bytes(), &limits).unwrap().unwrap();
        match route(&head, false) {
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
}
