//! The client's side of the opening handshake, RFC 6455 §4.2.1, judged.

use smallvec::SmallVec;

use super::head::Head;

/// What a client asks for that may have its WebSocket connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade<'a> {
    /// `Sec-WebSocket-Key`, for [`encode_upgrade`](crate::codec::websocket::encode_upgrade).
    pub key: &'a str,
    /// `Sec-WebSocket-Protocol`: what the client offers, the one it likes best first.
    pub subprotocols: SmallVec<[&'a str; 4]>,
}

/// Why a request does not become a WebSocket connection.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpgradeFault {
    /// Another method than GET.
    #[error("method is not GET")]
    MethodNotGet,
    /// HTTP/1.0, which knows no upgrade.
    #[error("HTTP/1.1 is required")]
    HttpTooOld,
    /// `Upgrade: websocket` or `Connection: Upgrade` is missing.
    #[error("request does not ask for WebSocket")]
    NotAskedFor,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("WebSocket version is not 13")]
    VersionNot13,
    /// `Sec-WebSocket-Key` is missing, repeated, or not 16 bytes in base64.
    #[error("WebSocket key is missing or bad")]
    BadKey,
    /// `Sec-WebSocket-Protocol` with something that is no token.
    #[error("subprotocol is not a token")]
    BadSubprotocol,
}

impl UpgradeFault {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            UpgradeFault::MethodNotGet => 405,
            UpgradeFault::HttpTooOld => 505,
            UpgradeFault::NotAskedFor | UpgradeFault::VersionNot13 => 426,
            UpgradeFault::BadKey | UpgradeFault::BadSubprotocol => 400,
        }
    }

    /// Fields that the answer must have beside the usual ones.
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            // RFC 9110 §15.5.6.
            UpgradeFault::MethodNotGet => &[("Allow", "GET")],
            // RFC 9110 §15.5.22: 426 names the protocol. RFC 6455 §4.4: and the version we speak.
            UpgradeFault::NotAskedFor | UpgradeFault::VersionNot13 => &[
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Version", "13"),
            ],
            _ => &[],
        }
    }
}

/// Judges a request for a WebSocket connection. `Host` was seen to when the head was read.
pub fn websocket_upgrade<'a>(head: &Head<'a>) -> Result<Upgrade<'a>, UpgradeFault> {
    // RFC 6455 §4.2.1, item 1: an HTTP/1.1 or higher GET request.
    if head.method != "GET" {
        return Err(UpgradeFault::MethodNotGet);
    }
    if !head.is_http_11 {
        return Err(UpgradeFault::HttpTooOld);
    }
    // Items 3 and 4: Upgrade and Connection, in any case and among others.
    if !head.wants_upgrade() {
        return Err(UpgradeFault::NotAskedFor);
    }
    // Item 6, before the key: another version may have another kind of key.
    if head.only_value("sec-websocket-version") != Some("13") {
        return Err(UpgradeFault::VersionNot13);
    }
    // Item 5: 16 bytes in base64.
    let key = head
        .only_value("sec-websocket-key")
        .filter(|key| is_base64_of_16_bytes(key))
        .ok_or(UpgradeFault::BadKey)?;
    // Item 8. RFC 6455 §4.1, item 10: each is a token.
    let subprotocols: SmallVec<[&str; 4]> = head.list("sec-websocket-protocol").collect();
    if !subprotocols.iter().all(|name| is_token(name)) {
        return Err(UpgradeFault::BadSubprotocol);
    }
    Ok(Upgrade { key, subprotocols })
}

/// Whether `key` is 22 characters of base64 and the padding. The last character's spare bits are
/// not looked at: the key only comes back hashed, as it stands.
fn is_base64_of_16_bytes(key: &str) -> bool {
    key.len() == 24
        && key.strip_suffix("==").is_some_and(|digits| {
            digits
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || b"+/".contains(&octet))
        })
}

/// RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    name.bytes()
        .all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HeadLimits, parse_head};

    /// The example of RFC 6455 §1.2, with a field changed or left out.
    fn request(line: &str, change: &str, value: Option<&str>) -> String {
        let fields = [
            ("Host", "server.example.com"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "chat, superchat"),
            ("Sec-WebSocket-Version", "13"),
        ];
        let mut request = format!("{line}\r\n");
        for (name, given) in fields {
            let value = if name == change { value } else { Some(given) };
            if let Some(value) = value {
                request += &format!("{name}: {value}\r\n");
            }
        }
        request + "\r\n"
    }

    fn verdict(request: &str) -> Result<Vec<String>, UpgradeFault> {
        let limits = HeadLimits {
            bytes_max: 8192,
            headers_max: 64,
        };
        let (head, _) = parse_head(request.as_bytes(), &limits).unwrap().unwrap();
        let upgrade = websocket_upgrade(&head)?;
        assert_eq!(upgrade.key, "dGhlIHNhbXBsZSBub25jZQ==");
        Ok(upgrade
            .subprotocols
            .iter()
            .map(|name| (*name).to_owned())
            .collect())
    }

    #[test]
    fn the_request_of_the_rfc_is_accepted() {
        let get = "GET /chat HTTP/1.1";
        assert_eq!(
            verdict(&request(get, "", None)).unwrap(),
            ["chat", "superchat"]
        );
        assert!(
            verdict(&request(get, "Sec-WebSocket-Protocol", None))
                .unwrap()
                .is_empty()
        );
        for (name, value) in [
            ("Upgrade", "h2c, WebSocket"),
            ("Connection", "keep-alive, upgrade"),
            (
                "Sec-WebSocket-Protocol",
                "tidewheel.v1.json,tidewheel.bearer.a-b_c.d",
            ),
        ] {
            assert!(
                verdict(&request(get, name, Some(value))).is_ok(),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn every_departure_has_its_status() {
        let get = "GET /chat HTTP/1.1";
        let key = "Sec-WebSocket-Key";
        let version = "Sec-WebSocket-Version";
        let cases = [
            (
                "POST /chat HTTP/1.1",
                "",
                None,
                UpgradeFault::MethodNotGet,
                405,
            ),
            (
                "GET /chat HTTP/1.0",
                "",
                None,
                UpgradeFault::HttpTooOld,
                505,
            ),
            (get, "Upgrade", None, UpgradeFault::NotAskedFor, 426),
            (get, "Upgrade", Some("h2c"), UpgradeFault::NotAskedFor, 426),
            (get, "Connection", None, UpgradeFault::NotAskedFor, 426),
            (
                get,
                "Connection",
                Some("close"),
                UpgradeFault::NotAskedFor,
                426,
            ),
            (get, version, None, UpgradeFault::VersionNot13, 426),
            (get, version, Some("8"), UpgradeFault::VersionNot13, 426),
            (get, version, Some("13, 8"), UpgradeFault::VersionNot13, 426),
            (get, key, None, UpgradeFault::BadKey, 400),
            (
                get,
                key,
                Some("dGhlIHNhbXBsZQ=="),
                UpgradeFault::BadKey,
                400,
            ),
            (
                get,
                key,
                Some("dGhlIHNhbXBsZSBub25jZQ="),
                UpgradeFault::BadKey,
                400,
            ),
            (
                get,
                key,
                Some("dGhlIHNhbXBsZSBub25!ZQ=="),
                UpgradeFault::BadKey,
                400,
            ),
            (
                get,
                key,
                Some("dGhlIHNhbXBsZSBub25jZQAA"),
                UpgradeFault::BadKey,
                400,
            ),
            (
                get,
                "Sec-WebSocket-Protocol",
                Some("a b"),
                UpgradeFault::BadSubprotocol,
                400,
            ),
        ];
        for (line, name, value, fault, status) in cases {
            assert_eq!(
                verdict(&request(line, name, value)),
                Err(fault),
                "{line} {name} {value:?}"
            );
            assert_eq!(fault.status(), status);
            let names_version = fault.headers().contains(&("Sec-WebSocket-Version", "13"));
            assert_eq!(names_version, status == 426);
        }
    }
}
