//! A request head, and what makes one ambiguous.

use httparse::Header;

/// A request line and header fields that every parser would read in the same way.
#[derive(Clone, PartialEq, Debug)]
pub struct Head<'a> {
    /// The method, as sent: `GET` is not `get`.
    pub method: &'a str,
    /// The path, with its percent sequences; starts with a slash.
    pub path: &'a str,
    /// What stands behind the question mark.
    pub query: Option<&'a str>,
    /// HTTP/1.1; otherwise it is HTTP/1.0.
    pub is_http_11: bool,
    /// Bytes of body that follow the head.
    pub body_bytes: u64,
    headers: Vec<Header<'a>>,
}

/// Why a request head is refused. The connection closes after the answer.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadFault {
    /// Longer than [`HeadLimits::bytes_max`](super::HeadLimits::bytes_max).
    #[error("request head is too long")]
    TooLong,
    /// More fields than [`HeadLimits::headers_max`](super::HeadLimits::headers_max).
    #[error("request has too many header fields")]
    TooManyHeaders,
    /// Not HTTP, or HTTP that is read in more than one way.
    #[error("request head is malformed")]
    Malformed,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("HTTP version is not supported")]
    UnsupportedVersion,
    /// HTTP/1.1 without `Host`, or one that is repeated or is no host (RFC 9112 §3.2).
    #[error("host field is missing, repeated or bad")]
    BadHost,
    /// `Content-Length` that is no number, differs from another, or stands beside
    /// `Transfer-Encoding` (RFC 9112 §6.3).
    #[error("length of the body is ambiguous")]
    AmbiguousLength,
    /// A body with GET or HEAD, where it has no meaning.
    #[error("request must not have a body")]
    BodyRefused,
    /// A body whose length is not given ahead (RFC 9112 §6.3).
    #[error("body needs a content length")]
    LengthRequired,
}

impl HeadFault {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            HeadFault::TooLong | HeadFault::TooManyHeaders => 431,
            HeadFault::UnsupportedVersion => 505,
            HeadFault::LengthRequired => 411,
            HeadFault::Malformed
            | HeadFault::BadHost
            | HeadFault::AmbiguousLength
            | HeadFault::BodyRefused => 400,
        }
    }
}

impl<'a> Head<'a> {
    /// Judges what a parser found in a head.
    pub(super) fn new(
        method: &'a str,
        target: &'a str,
        is_http_11: bool,
        headers: Vec<Header<'a>>,
    ) -> Result<Head<'a>, HeadFault> {
        let (path, query) = split_target(target).ok_or(HeadFault::Malformed)?;
        let mut head = Head {
            method,
            path,
            query,
            is_http_11,
            body_bytes: 0,
            headers,
        };
        head.check_host()?;
        head.body_bytes = head.body_length()?;
        Ok(head)
    }

    /// The values of all fields called `name`, whatever the case of its letters.
    pub fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.trim_ascii())
    }

    /// The value of the first field called `name`, if it is text.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.values(name)
            .next()
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The value of the field called `name`, if there is exactly one such field and it is text.
    pub fn only_value(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = values.next().filter(|_| values.next().is_none())?;
        std::str::from_utf8(value).ok()
    }

    /// The elements of a comma-separated field, which may be spread over several fields
    /// (RFC 9110 §5.6.1). Values that are not text are left out.
    pub fn list<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a str> + 'h {
        self.values(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(|element| element.trim_matches([' ', '\t']))
            .filter(|element| !element.is_empty())
    }

    /// Whether the peer asks to go on with WebSocket.
    pub fn wants_upgrade(&self) -> bool {
        let lists = |name: &str, wanted: &str| {
            self.list(name)
                .any(|element| element.eq_ignore_ascii_case(wanted))
        };
        // RFC 9110 §7.8: Upgrade in an HTTP/1.0 request is ignored.
        self.is_http_11 && lists("upgrade", "websocket") && lists("connection", "upgrade")
    }

    /// RFC 9112 §3.2: one `Host`, and with HTTP/1.1 no less.
    fn check_host(&self) -> Result<(), HeadFault> {
        let mut hosts = self.values("host");
        let is_good = match (hosts.next(), hosts.next()) {
            (None, _) => !self.is_http_11,
            (Some(host), None) => host
                .iter()
                .all(|octet| octet.is_ascii_graphic() && !b"/?#@,\\\"<>".contains(octet)),
            (Some(_), Some(_)) => false,
        };
        if is_good {
            Ok(())
        } else {
            Err(HeadFault::BadHost)
        }
    }

    /// RFC 9112 §6.3: how many bytes of body follow.
    fn body_length(&self) -> Result<u64, HeadFault> {
        let mut length = None;
        for value in self
            .values("content-length")
            .flat_map(|value| value.split(|b| *b == b','))
        {
            let bytes = parse_decimal(value.trim_ascii()).ok_or(HeadFault::AmbiguousLength)?;
            // RFC 9112 §6.3: the same number again is harmless, another one is an attack.
            if length
                .replace(bytes)
                .is_some_and(|earlier| earlier != bytes)
            {
                return Err(HeadFault::AmbiguousLength);
            }
        }
        let is_encoded = self.values("transfer-encoding").next().is_some();
        // RFC 9112 §6.1: both fields, or the encoding in HTTP/1.0, is how requests are smuggled.
        if is_encoded && (length.is_some() || !self.is_http_11) {
            return Err(HeadFault::AmbiguousLength);
        }
        let has_body = is_encoded || length.is_some_and(|bytes| bytes > 0);
        if has_body && matches!(self.method, "GET" | "HEAD") {
            return Err(HeadFault::BodyRefused);
        }
        if is_encoded {
            return Err(HeadFault::LengthRequired);
        }
        Ok(length.unwrap_or(0))
    }
}

/// `1*DIGIT` of RFC 9110 §8.6; `str::parse` would take a sign.
fn parse_decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_number)?
        .parse()
        .ok()
}

/// Path and query of a request target in origin form, or in absolute form, which a server must
/// accept too (RFC 9112 §3.2.2).
fn split_target(target: &str) -> Option<(&str, Option<&str>)> {
    // RFC 3986: what is not ASCII is percent-encoded. RFC 9112 §3.2: there is no fragment.
    if !target
        .bytes()
        .all(|octet| octet.is_ascii_graphic() && octet != b'#')
    {
        return None;
    }
    let origin = if target.starts_with('/') {
        target
    } else {
        without_authority(target)?
    };
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (origin, None),
    };
    // RFC 9112 §3.2.1: an empty path is a slash.
    Some((if path.is_empty() { "/" } else { path }, query))
}

/// What stands behind `scheme://host` in an absolute URI.
fn without_authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_known = ["http", "https", "ws", "wss"]
        .iter()
        .any(|s| scheme.eq_ignore_ascii_case(s));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    rest.get(end..).filter(|_| is_known && end > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HeadLimits, parse_head};

    const LIMITS: HeadLimits = HeadLimits {
        bytes_max: 8192,
        headers_max: 64,
    };

    /// The fault of `line` and `headers`.
    fn verdict(line: &str, headers: &str) -> Result<u64, HeadFault> {
        let request = format!("{line}\r\n{headers}\r\n");
        parse_head(request.as_bytes(), &LIMITS).map(|head| head.unwrap().0.body_bytes)
    }

    #[test]
    fn requests_that_could_be_smuggled_are_refused() {
        use HeadFault::{AmbiguousLength, BadHost, BodyRefused, LengthRequired, Malformed};
        let post = "POST / HTTP/1.1";
        let get = "GET / HTTP/1.1";
        let chunked = "Host: a\r\nTransfer-Encoding: chunked\r\n";
        let cases = [
            (post, "Host: a\r\nContent-Length: 5\r\n", Ok(5)),
            (
                post,
                "Host: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n",
                Ok(5),
            ),
            (
                post,
                "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
                Err(AmbiguousLength),
            ),
            (
                post,
                "Host: a\r\nContent-Length: 5, 6\r\n",
                Err(AmbiguousLength),
            ),
            (
                post,
                "Host: a\r\nContent-Length: +5\r\n",
                Err(AmbiguousLength),
            ),
            (
                post,
                "Host: a\r\nContent-Length: -5\r\n",
                Err(AmbiguousLength),
            ),
            (
                post,
                "Host: a\r\nContent-Length: 0x5\r\n",
                Err(AmbiguousLength),
            ),
            (post, "Host: a\r\nContent-Length:\r\n", Err(AmbiguousLength)),
            (
                post,
                "Host: a\r\nContent-Length: 18446744073709551616\r\n",
                Err(AmbiguousLength),
            ),
            (
                post,
                "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                Err(AmbiguousLength),
            ),
            ("POST / HTTP/1.0", chunked, Err(AmbiguousLength)),
            (post, chunked, Err(LengthRequired)),
            (get, chunked, Err(BodyRefused)),
            (get, "Host: a\r\nContent-Length: 1\r\n", Err(BodyRefused)),
            (get, "Host: a\r\nContent-Length: 0\r\n", Ok(0)),
            (get, "Host: a\r\nA: b\r\n folded\r\n", Err(Malformed)),
            (get, "Host: a\r\nA: b\r\n\tfolded\r\n", Err(Malformed)),
            (get, " Host: a\r\n", Err(Malformed)),
            (get, "Host : a\r\n", Err(Malformed)),
            (get, "Host\r\n", Err(Malformed)),
            (get, ": a\r\n", Err(Malformed)),
            (get, "", Err(BadHost)),
            (get, "Host: a\r\nhost: a\r\n", Err(BadHost)),
            (get, "Host: a, b\r\n", Err(BadHost)),
            (get, "Host: a b\r\n", Err(BadHost)),
            (get, "Host: a/b\r\n", Err(BadHost)),
            (get, "Host: [::1]:8080\r\n", Ok(0)),
            ("GET / HTTP/1.0", "", Ok(0)),
        ];
        for (line, headers, expected) in cases {
            assert_eq!(verdict(line, headers), expected, "{line} {headers:?}");
        }
    }

    #[test]
    fn request_lines_are_read_strictly() {
        for (line, expected) in [
            ("GET / HTTP/1.1", None),
            ("GET / HTTP/2.0", Some(505)),
            ("PRI * HTTP/2.0", Some(505)),
            ("GET / HTTP/1.2", Some(505)),
            ("GET /", Some(400)),
            ("GET  / HTTP/1.1", Some(400)),
            ("GET / HTTP/1.1 ", Some(400)),
            (" GET / HTTP/1.1", Some(400)),
            ("G@T / HTTP/1.1", Some(400)),
            ("GET /é HTTP/1.1", Some(400)),
            ("GET /#x HTTP/1.1", Some(400)),
            ("GET ws HTTP/1.1", Some(400)),
            ("OPTIONS * HTTP/1.1", Some(400)),
            ("CONNECT a:80 HTTP/1.1", Some(400)),
            ("GET http:///x HTTP/1.1", Some(400)),
            ("GET ftp://a/x HTTP/1.1", Some(400)),
        ] {
            let status = verdict(line, "Host: a\r\n")
                .err()
                .map(|fault| fault.status());
            assert_eq!(status, expected, "{line}");
        }
    }

    #[test]
    fn path_and_query_are_split_in_both_forms() {
        for (target, path, query) in [
            ("/", "/", None),
            ("/ws/a%2Fb?x=1?y", "/ws/a%2Fb", Some("x=1?y")),
            ("/?", "/", Some("")),
            ("http://a:80/ws?q", "/ws", Some("q")),
            ("WS://a", "/", None),
            ("http://a?q", "/", Some("q")),
        ] {
            assert_eq!(split_target(target), Some((path, query)), "{target}");
        }
    }

    #[test]
    fn fields_are_found_whatever_their_case_and_lists_are_joined() {
        let request = b"GET / HTTP/1.1\r\nHOST: a\r\nConnection: keep-alive, ,Upgrade\r\n\
            UPGRADE: WebSocket\r\nX: \xff\r\nx: second \r\nconnection:\tclose\r\n\r\n";
        let (head, _) = parse_head(request, &LIMITS).unwrap().unwrap();
        assert_eq!(head.value("host"), Some("a"));
        assert_eq!(head.value("x"), None);
        assert_eq!(head.only_value("x"), None);
        assert_eq!(
            head.values("x").collect::<Vec<_>>(),
            [&b"\xff"[..], b"second"]
        );
        assert_eq!(
            head.list("Connection").collect::<Vec<_>>(),
            ["keep-alive", "Upgrade", "close"]
        );
        assert!(head.wants_upgrade());
    }
}
