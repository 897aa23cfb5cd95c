//! Values that are lists, with commas between their entries; and URLs.

use axum::http::Uri;
use thiserror::Error;

use crate::gate::{Action, Actions, BadOrigin, Origins};

/// The most header fields that are passed on.
const HEADER_NAMES_MAX: usize = 16;

/// Why a list was not taken. The text goes after the name of the flag and the value itself.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ListError {
    /// An entry is no action.
    #[error("{0:?} is no action; write join, publish, presence, history, direct, or none alone")]
    NotAnAction(String),
    /// An entry is no name of a header field.
    #[error("{0:?} is no header name; write names such as cookie, with commas between them")]
    NotAHeaderName(String),
    /// The token is passed on by itself.
    #[error("authorization is not passed on: what it carries is the question's token")]
    TokenHeader,
    /// Too many.
    #[error("{0} headers are too many; at most 16 are passed on")]
    TooManyHeaders(usize),
    /// An entry is no name of a host.
    #[error(
        "{0:?} is no name of a host; write names such as admin.example, without scheme and port"
    )]
    NotAHostName(String),
    /// An entry is nothing that is told.
    #[error("{0:?} is nothing that is told; write rooms, users, or both with a comma between them")]
    NotAnEvent(String),
    /// Not a name for a node.
    #[error("a node's name has 1 to 255 bytes and no control characters")]
    NotANode,
    /// Not a URL that can be asked.
    #[error("not a URL; write http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")]
    NotAUrl,
    /// A URL without its beginning.
    #[error("the scheme is missing; write http://{0} or https://{0}")]
    NoScheme(String),
}

/// Names of hosts, in lower case.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct HostNames(pub Box<[Box<str>]>);

/// Names of header fields, in lower case.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct HeaderNames(pub Box<[Box<str>]>);

/// Of what the backend is told.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HookEvents {
    /// Rooms that are occupied and vacated.
    pub rooms: bool,
    /// Users that connect and disconnect.
    pub users: bool,
}

impl Default for HookEvents {
    fn default() -> HookEvents {
        HookEvents {
            rooms: true,
            users: true,
        }
    }
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|e| !e.is_empty())
}

/// Reads a list of origins.
pub(super) fn origins(text: &str) -> Result<Origins, BadOrigin> {
    Origins::new(text)
}

/// Reads a list of actions; `none` stands for an empty one.
pub(super) fn actions(text: &str) -> Result<Actions, ListError> {
    if text == "none" {
        return Ok(Actions::NONE);
    }
    let action =
        |name: &str| Action::from_name(name).ok_or_else(|| ListError::NotAnAction(name.to_owned()));
    let found: Actions = entries(text).map(action).collect::<Result<_, _>>()?;
    if found == Actions::NONE {
        return Err(ListError::NotAnAction(String::new()));
    }
    Ok(found)
}

/// Reads a list of names of header fields.
pub(super) fn header_names(text: &str) -> Result<HeaderNames, ListError> {
    // RFC 9110 §5.6.2.
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let name = |name: &str| match name.to_ascii_lowercase() {
        name if name == "authorization" => Err(ListError::TokenHeader),
        name if name.bytes().all(is_token) => Ok(Box::from(name)),
        name => Err(ListError::NotAHeaderName(name)),
    };
    let names: Box<[Box<str>]> = entries(text).map(name).collect::<Result<_, _>>()?;
    if names.len() > HEADER_NAMES_MAX {
        return Err(ListError::TooManyHeaders(names.len()));
    }
    Ok(HeaderNames(names))
}

/// Reads a list of names of hosts.
pub(super) fn host_names(text: &str) -> Result<HostNames, ListError> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let name = |name: &str| match name.to_ascii_lowercase() {
        name if name.bytes().all(is_good) => Ok(Box::from(name)),
        name => Err(ListError::NotAHostName(name)),
    };
    let names = entries(text).map(name).collect::<Result<_, _>>()?;
    Ok(HostNames(names))
}

/// Reads the URL of the webhook.
/// Reads of what the backend is told.
pub(super) fn hook_events(text: &str) -> Result<HookEvents, ListError> {
    let mut events = HookEvents {
        rooms: false,
        users: false,
    };
    for entry in entries(text) {
        match entry {
            "rooms" => events.rooms = true,
            "users" => events.users = true,
            other => return Err(ListError::NotAnEvent(other.to_owned())),
        }
    }
    if !events.rooms && !events.users {
        return Err(ListError::NotAnEvent(String::new()));
    }
    Ok(events)
}

/// Reads the name of a node.
pub(super) fn node_name(text: &str) -> Result<String, ListError> {
    let is_name = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    is_name.then(|| text.to_owned()).ok_or(ListError::NotANode)
}

/// Reads the URL of a webhook.
pub(super) fn webhook_url(text: &str) -> Result<String, ListError> {
    // A path alone is no URL that lacks a beginning, and credentials are not repeated.
    let lacks_scheme = !text.contains("://") && !text.starts_with('/') && !text.contains('@');
    if lacks_scheme && format!("http://{text}").parse::<Uri>().is_ok() {
        return Err(ListError::NoScheme(text.to_owned()));
    }
    let uri: Uri = text.parse().map_err(|_| ListError::NotAUrl)?;
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    // Credentials in a URL would show in the process list.
    let is_open = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
    if is_known && has_host && is_open {
        Ok(text.to_owned())
    } else {
        Err(ListError::NotAUrl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_is_none_is_said() {
        assert_eq!(actions("none"), Ok(Actions::NONE));
        let two: Actions = [Action::Join, Action::History].into_iter().collect();
        assert_eq!(actions("join, history,"), Ok(two));
        assert_eq!(actions("Join"), Err(ListError::NotAnAction("Join".into())));
        assert_eq!(actions(""), Err(ListError::NotAnAction(String::new())));

        let names = header_names("Cookie, x-session").unwrap();
        assert_eq!(*names.0, [Box::from("cookie"), Box::from("x-session")]);
        assert_eq!(header_names("Authorization"), Err(ListError::TokenHeader));
        let bad = Err(ListError::NotAHeaderName("a b".into()));
        assert_eq!(header_names("a b"), bad);
        let many = vec!["a"; 17].join(",");
        assert_eq!(header_names(&many), Err(ListError::TooManyHeaders(17)));
    }

    #[test]
    fn what_is_told_is_rooms_or_users_or_both() {
        let of = |rooms, users| Ok(HookEvents { rooms, users });
        assert_eq!(hook_events("rooms, users"), of(true, true));
        assert_eq!(hook_events("users"), of(false, true));
        assert_eq!(hook_events("rooms,"), of(true, false));
        let bad = Err(ListError::NotAnEvent("messages".into()));
        assert_eq!(hook_events("rooms,messages"), bad);
        assert!(hook_events("").is_err());
        assert_eq!(node_name("edge-1"), Ok("edge-1".into()));
        assert!(node_name("").is_err() && node_name("a\nb").is_err());
    }

    #[test]
    fn the_webhook_is_a_url_of_http() {
        for good in [
            "http://127.0.0.1:9/auth",
            "https://auth.example.com",
            "http://[::1]/a?b=c",
        ] {
            assert_eq!(webhook_url(good), Ok(good.to_owned()));
        }
        for bare in [
            "auth.example.com",
            "auth.example.com/events",
            "localhost:9/a",
        ] {
            let missing = ListError::NoScheme(bare.into());
            assert_eq!(webhook_url(bare), Err(missing), "{bare}");
        }
        for bad in [
            "",
            "/auth",
            "ftp://a/",
            "http://",
            "http://u:p@a/",
            "http://a b/",
        ] {
            assert_eq!(webhook_url(bad), Err(ListError::NotAUrl), "{bad}");
        }
    }
}
