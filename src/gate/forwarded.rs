//! Where a client behind proxies is: `X-Forwarded-For`, as far as it can be believed.

use thiserror::Error;

use crate::address::PeerAddress;
use crate::codec::http::Head;
use crate::gate::limits::Limits;

/// A proxy whose word is taken wrote something that is no address.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "the X-Forwarded-For that a trusted proxy sent ends in something that is no IP address; \
     the proxy has to append the address of its client"
)]
pub struct BadForwarded;

/// Where the client is whose request `peer` brought.
///
/// Each proxy appends who it had the request from, so the list is read from its end, as long as the
/// one who wrote an entry is trusted: the first that is not a proxy of ours is the client. What stands
/// before it the client may have written itself. A peer that is not trusted is itself the client,
/// whatever it says.
///
/// # Errors
/// Where a trusted proxy wrote no address.
pub fn client_address(
    head: &Head<'_>,
    peer: PeerAddress,
    limits: &Limits,
) -> Result<PeerAddress, BadForwarded> {
    let mut client = peer;
    if !limits.trusts(peer) {
        return Ok(client);
    }
    // An empty field names nobody; an empty entry in a list is no address.
    let fields = head.values("x-forwarded-for");
    let fields: Vec<&[u8]> = fields.filter(|field| !field.is_empty()).collect();
    let entries = fields
        .iter()
        .rev()
        .flat_map(|field| field.rsplit(|octet| *octet == b','));
    for entry in entries {
        let entry = entry.trim_ascii();
        let text = str::from_utf8(entry).map_err(|_| BadForwarded)?;
        client = without_port(text).parse().map_err(|_| BadForwarded)?;
        if !limits.trusts(client) {
            break;
        }
    }
    Ok(client)
}

/// The address in `1.2.3.4:80`, `[::1]:80` and `[::1]`, which some proxies write.
fn without_port(text: &str) -> &str {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let ends_well = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return if ends_well { address } else { text };
    }
    match text.split_once(':') {
        Some((address, port)) if !port.contains(':') => address,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{HeadLimits, parse_head};

    fn client(peer: &str, fields: &[&str]) -> Result<String, BadForwarded> {
        let mut text = "GET / HTTP/1.1\r\nHost: x\r\n".to_owned();
        for field in fields {
            text += &format!("X-Forwarded-For: {field}\r\n");
        }
        text += "\r\n";
        let head_limits = HeadLimits {
            bytes_max: 8192,
            headers_max: 64,
        };
        let (head, _) = parse_head(text.as_bytes(), &head_limits).unwrap().unwrap();
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        let limits = Limits {
            trusted_proxies: trusted.into(),
            ..Limits::default()
        };
        client_address(&head, peer.parse().unwrap(), &limits).map(|address| address.to_string())
    }

    #[test]
    fn the_last_one_that_is_no_proxy_of_ours_is_the_client() {
        let table: &[(&str, &[&str], &str)] = &[
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6,1.2.3.4,10.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4", "10.1.1.1"], "1.2.3.4"),
            ("10.0.0.1", &["garbage, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4:4711"], "1.2.3.4"),
            ("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("9.9.9.9", &["1.2.3.4"], "9.9.9.9"),
            ("9.9.9.9", &["10.0.0.1"], "9.9.9.9"),
            ("9.9.9.9", &["garbage"], "9.9.9.9"),
        ];
        for (peer, fields, expected) in table {
            assert_eq!(client(peer, fields).as_deref(), Ok(*expected), "{fields:?}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_wrote_and_is_no_address_is_refused() {
        for field in [
            "unknown",
            "1.2.3.4, ",
            "1.2.3.4, x",
            "1.2.3",
            "[::1]junk",
            "[::1]:x",
            "_hidden",
            "é",
            ",",
        ] {
            assert_eq!(client("10.0.0.1", &[field]), Err(BadForwarded), "{field}");
        }
    }
}
